"""From a model and a text to bits per byte."""
