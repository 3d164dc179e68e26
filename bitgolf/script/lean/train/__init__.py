"""Shorter forms of `bitgolf.train` for a script."""
