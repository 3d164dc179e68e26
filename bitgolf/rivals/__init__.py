"""Comparisons for a score: general compressors and public language models on the same bytes."""
