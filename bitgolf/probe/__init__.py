"""Probes: whether a scorer, ours or anyone's program, keeps the rules, tested from outside."""
