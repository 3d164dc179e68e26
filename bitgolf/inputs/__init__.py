"""From a user's input to recipes, datasets, runs and artifacts."""
