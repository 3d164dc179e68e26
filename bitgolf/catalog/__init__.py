"""Lists of all techniques and packages, made from the code."""
