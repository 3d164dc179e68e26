"""Shorter forms of `bitgolf.squeeze` for a script."""
