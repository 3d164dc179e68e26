"""From bytes to tokens to batches."""
