"""The metrics of a run in other programs."""
