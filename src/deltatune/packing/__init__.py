"""Batches without padding, in which what texts share runs once."""
