"""What a score stands beside: general compressors, and other people's language models, on the same bytes."""
