"""Whole jobs: a run with its report, a run packed again, a score of any text."""
