"""What acts at decoding: the output of a model steered by smaller ones, its weights untouched or out of reach."""
