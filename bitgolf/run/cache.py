"""The user's cache: datasets made from texts, users' files as they were run, sources of scripts."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """BITGOLF_CACHE, else the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("BITGOLF_CACHE") or Path(home) / "bitgolf")
