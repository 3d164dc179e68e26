"""A second implementation of what the golden cases check, in plain double precision and without bitgolf.

`python -m tests.golden_twin` writes its cases, all of odd sizes, into tests/golden as own_*; a test computes
them again. Nothing here may import bitgolf: what both get right, they got right twice.
"""
