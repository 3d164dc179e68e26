"""Texts from anywhere, made into datasets."""
