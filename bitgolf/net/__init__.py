"""The network, and the arithmetic under it."""
