"""The forms, names and rules of the public scripts."""
