"""Shorter forms of `bitgolf.net` for a script."""
