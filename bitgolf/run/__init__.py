"""A run: the stages of a recipe in order, and the folder with their results."""
