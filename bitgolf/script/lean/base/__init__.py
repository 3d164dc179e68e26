"""Shorter forms of `bitgolf.base` for a script."""
