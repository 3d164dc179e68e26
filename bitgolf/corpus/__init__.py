"""Texts from many sources, made into datasets."""
