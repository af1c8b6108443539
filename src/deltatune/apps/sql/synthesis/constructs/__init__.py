"""The constructs of the grammar, by kind; each is a function that draws one question with its SQL."""
