"""What a model learns from the text that it has scored: test-time training."""
