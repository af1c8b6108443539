"""Applications: whole tasks built on the library, each with an extra of its own."""
