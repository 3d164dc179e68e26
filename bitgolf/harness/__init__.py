"""Packed models in lm-evaluation-harness: `python -m bitgolf.harness run --model bitgolf ...`."""
