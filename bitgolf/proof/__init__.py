"""Scores proven by coding: a packed model writes a text as bits and reads the same bytes back from them."""
