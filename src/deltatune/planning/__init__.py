"""What a training step takes, known before a weight is loaded; and which method to take."""
