"""Studies of many runs: comparisons, execution anywhere, and what may be claimed."""
