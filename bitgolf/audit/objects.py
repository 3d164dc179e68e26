"""What objects of Python, torch and files can do by themselves."""

import io
from pathlib import Path

import torch

# Methods of Python's, torch's and files' own objects: of an object that is not known they are no script's.
OTHERS_OWN = frozenset(
    name
    for kind in (str, bytes, dict, list, set, io.BytesIO, Path, torch.Tensor)
    for name in dir(kind)
    if not name.startswith("__") and callable(getattr(kind, name))
)
