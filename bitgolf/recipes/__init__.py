"""Recipes that ship with bitgolf: each a function that returns one value."""
