"""Compressors that only some work needs: one that is not installed is an error where it is used."""

import importlib
from types import ModuleType

from bitgolf.squeeze.codec import MissingCodecError


def is_installed(package: str) -> bool:
    """Whether a package can be imported here."""
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def needed(package: str, why: str) -> ModuleType:
    """A package by its name. Raises MissingCodecError, which says what for and how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError:
        raise MissingCodecError(
            f"{why} needs {package}, which is not installed", way_out=f"pip install {package}"
        ) from None
