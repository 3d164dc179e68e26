"""Definitions that stand in place of those of core."""
