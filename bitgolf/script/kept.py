"""A cache of generated scripts, because making one takes seconds."""

import functools
import hashlib
import json
import sys
import zlib
from contextlib import suppress
from pathlib import Path

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import write_bytes
from bitgolf.base.plan import to_json
from bitgolf.recipe import Recipe
from bitgolf.run.cache import cache_folder
from bitgolf.script.flatten import flatten
from bitgolf.script.own import plans_in
from bitgolf.script.shrink import minify
from bitgolf.script.source import PACKAGE, PACKAGE_FOLDER

MOST_KEPT = 200  # sources of some 60 kB, compressed to a quarter


def minified(recipe: Recipe) -> bytes:
    """The recipe's script as it is packed: made once for a recipe as it is written and the package's code."""
    return _minified(recipe, json.dumps(to_json(recipe)))


@functools.lru_cache(maxsize=32)
def _minified(recipe: Recipe, written: str) -> bytes:
    """written: recipes that are equal may be written differently, as 1 and 1.0 are."""
    if any(type(plan).__module__.split(".")[0] != PACKAGE for plan in plans_in(recipe)):
        return minify(flatten(recipe)).encode()  # what a user's file holds by now is not looked up again
    name = hashlib.sha256(f"{sys.version}{_code_hash()}{written}".encode()).hexdigest()
    path = cache_folder() / "scripts" / f"{name}.zlib"
    with suppress(OSError, zlib.error):  # not there, or damaged: zlib has a checksum
        return zlib.decompress(path.read_bytes())
    source = minify(flatten(recipe)).encode()
    with suppress(OSError, BitgolfError):  # a disk that is full or read-only costs time alone
        write_bytes(path, zlib.compress(source))
        _forget_oldest(path.parent)
    return source


@functools.cache
def _code_hash() -> str:
    """A name for every source file of the package."""
    texts = (path.read_bytes() for path in sorted(PACKAGE_FOLDER.rglob("*.py")))
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


def _forget_oldest(folder: Path) -> None:
    paths = sorted(folder.glob("*.zlib"), key=lambda path: path.stat().st_mtime)
    for path in paths[:-MOST_KEPT]:
        path.unlink(missing_ok=True)
