"""A run: the stages of a recipe in order, and what they leave in one folder."""
