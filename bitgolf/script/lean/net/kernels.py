"""The few operations a step spends its time in: in plain torch, and again by hand, faster.

PlainKernels is the reference; FusedKernels computes the same with fewer passes over memory and hand-written
backward passes. Heads travel as (heads, batch, time, dimension), queries first, then keys, then values: each
of the three is then one contiguous block, and rotation tables repeat over contiguous memory.
"""

from typing import Any

Saved = Any  # torch's own object, which keeps what the backward pass needs
