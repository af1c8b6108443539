"""Training a delta: records, encoding, batches and the loop."""
