"""Measurements beside others' code and our own slow twins, side by side in one run."""

from bitgolf import yield_cores

yield_cores()  # before a module here imports torch
