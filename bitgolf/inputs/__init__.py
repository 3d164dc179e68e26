"""From what a user typed to what it names, read by type."""
