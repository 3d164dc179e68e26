"""Shorter forms of `bitgolf.score` for a script."""
