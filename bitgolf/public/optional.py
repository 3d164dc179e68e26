"""Optional packages: a missing one is an error only where it is used."""

import importlib
import importlib.util
from types import ModuleType

from bitgolf.base.errors import BitgolfError
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


def needs(extra: str, *packages: str) -> None:
    """Raise BitgolfError unless the packages of an extra can be imported."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise BitgolfError(
            f"this needs {' and '.join(missing)}, which {'is' if len(missing) == 1 else 'are'} not installed",
            way_out=f"pip install 'bitgolf[{extra}]'",
        )
