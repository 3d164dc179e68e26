"""Mixers: predictors that grow with the text that has been scored."""
