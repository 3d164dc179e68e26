"""Shorter forms of `bitgolf.text` for a script."""
