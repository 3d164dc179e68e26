"""Packed scripts opened as data: what a script would execute is computed from its literals, never run."""

import ast
import base64
import bz2
import gzip
import io
import itertools
import lzma
import re
import tokenize
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from bitgolf.audit.aliases import spell_out
from bitgolf.audit.bounded import start_of
from bitgolf.audit.own_names import set_apart
from bitgolf.audit.settings import as_classes
from bitgolf.audit.tree import Definition, last_called
from bitgolf.base.errors import BitgolfError
from bitgolf.public.streams import unbrotli

MOST_SCRIPT_BYTES = 2**20  # five times the largest that is known
MOST_NODES = 250_000  # of a syntax tree, eight times the most that is known
MOST_MADE_BYTES = 2**26  # of all texts that are made of its literals
MOST_LAYERS = 6
# The start of a string, or a whole comment.
LITERAL = re.compile(
    r"""\#[^\n]*|(?P<prefix>\b(?:[rRbBuU]|[fF][rR]?|[rR][fF]|[rR][bB]|[bB][rR]))?(?P<quote>\"{3}|'{3}|["'])"""
)
LZMA_BYTES = 2**28  # of memory for a dictionary

# Wrong literals, values out of range, damaged streams: whatever it is, the literal is not opened.
UNREADABLE = (
    ValueError,
    TypeError,
    LookupError,
    EOFError,
    OSError,
    OverflowError,
    zlib.error,
    lzma.LZMAError,
)


class Layer(NamedTuple):
    """A script as it lies there or as it was found inside another. bytes: of its file, 0 inside one.

    hidden: lines that execute text which is not in the script; files: names of files that it executes.
    """

    name: str
    text: str
    tree: ast.Module
    hidden: list[int]
    files: list[tuple[int, str]]


class _UnknownError(Exception):
    """Not made of literals."""


def opened(path: Path) -> list[Layer]:
    """A file's script and the scripts inside it. Raises BitgolfError for what is no Python."""
    return unwrapped(path.name, start_of(path, MOST_SCRIPT_BYTES + 1))


def unwrapped(name: str, data: bytes) -> list[Layer]:
    """A script and the scripts inside it, outermost first. Raises BitgolfError for what is no Python."""
    if len(data) > MOST_SCRIPT_BYTES:
        raise BitgolfError(f"more than {MOST_SCRIPT_BYTES:,} bytes of script", where=name)
    layer, waiting = _layer(name, text_of(data))
    layers = [layer]
    while waiting and len(layers) < MOST_LAYERS:
        try:
            layer, inner = _layer(f"{name} (unpacked)", waiting.pop(0))
        except BitgolfError:
            layers[-1].hidden.append(1)
            continue
        layers.append(layer)
        waiting += inner
    if waiting:
        layers[-1].hidden.append(1)  # more layers than anybody packs: what is in them was not looked at
    return layers


def text_of(data: bytes) -> str:
    """A script's text, in the encoding that it names."""
    try:
        encoding, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
        return data.decode(encoding, errors="replace")
    except (SyntaxError, LookupError, UnicodeError):
        return data.decode("utf-8", errors="replace")


def parsed(text: str) -> ast.Module:
    """The syntax tree. Methods call their object `self`, whatever a packer has made of that name, and other
    names of a packer are told apart by their functions.

    What a library has goes by its own name: `get` of `get = os.environ.get`.

    Since Python 3.12 an f-string may hold its own quotes, which older readers refuse.
    """
    try:
        tree = ast.parse(text)
    except SyntaxError:
        tree = ast.parse(widened(text))
    for owner in [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]:
        for node in owner.body:
            if isinstance(node, Definition) and (name := _object_of(node)) not in ("", "self", "cls"):
                _call_self(node, name)
    set_apart(tree)
    spell_out(tree)
    as_classes(tree)
    return tree


def _object_of(method: Definition) -> str:
    """The name of a method's object; empty for a function that has none."""
    arguments = [*method.args.posonlyargs, *method.args.args]
    static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in method.decorator_list)
    return "" if static or not arguments else arguments[0].arg


def _call_self(function: ast.AST, name: str) -> None:
    """Call a name `self` in a function, but not where a function inside it has the name for its own."""
    for node in ast.iter_child_nodes(function):
        if isinstance(node, ast.Lambda | Definition) and any(
            each.arg == name for each in ast.walk(node.args) if isinstance(each, ast.arg)
        ):
            continue
        if isinstance(node, ast.Name) and node.id == name:
            node.id = "self"
        elif isinstance(node, ast.arg) and node.arg == name:
            node.arg = "self"
        _call_self(node, name)


def widened(text: str) -> str:
    """The same program with every f-string on one line in triple quotes; line numbers stay."""
    parts, start = [], 0
    while match := LITERAL.search(text, start):
        parts.append(text[start : match.start()])
        prefix, quote = match["prefix"] or "", match["quote"] or ""
        if not quote:  # a comment
            end = match.end()
        elif "f" in prefix.lower() and len(quote) == 1:
            end = _end_of_f_string(text, match.end(), quote)
            body = text[match.end() : end - 1]
            wide = 3 * quote if 3 * quote not in body and not body.endswith(quote) else quote
            parts.append(f"{prefix}{wide}{body}{wide}")
            start = end
            continue
        else:
            end = _end_of_string(text, match.end(), quote)
        parts.append(text[match.start() : end])
        start = end
    return "".join([*parts, text[start:]])


def _end_of_string(text: str, start: int, quote: str) -> int:
    while start < len(text) and not text.startswith(quote, start):
        start += 2 if text[start] == "\\" else 1
    return start + len(quote)


def _end_of_f_string(text: str, start: int, quote: str) -> int:
    """Behind the closing quote: one that stands in no braces."""
    depth = 0
    while start < len(text) and (depth or text[start] != quote) and text[start] != "\n":
        if text[start] == "\\" or not depth and text[start : start + 2] in ("{{", "}}"):
            start += 1
        elif text[start] in "{}":
            depth += 1 if text[start] == "{" else -1
        start += 1
    return start + 1


def _layer(name: str, text: str) -> tuple[Layer, list[str]]:
    try:
        tree = parsed(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        line = getattr(error, "lineno", 0) or 0
        message = f"not readable as Python: {type(error).__name__}"
        raise BitgolfError(message, where=f"{name}:{line}" if line else name) from None
    walked = [*itertools.islice(ast.walk(tree), MOST_NODES + 1)]
    if len(walked) > MOST_NODES:
        raise BitgolfError(f"more than {MOST_NODES:,} statements and expressions", where=name)
    literals, inner, hidden, files = _Literals(), [], [], []
    for statement in tree.body[:2000]:
        literals.note(statement)
    for node in walked:
        if not (isinstance(node, ast.Call) and node.args and ast.unparse(node.func) in RUN):
            continue
        if file := _file_read(node):
            files.append((node.lineno, file))
            continue
        try:
            value = literals.value(node.args[0])
        except (_UnknownError, *UNREADABLE, BitgolfError):
            if last_called(node) == "exec" and last_called(node.args[0]) != "compile":  # a call of its own
                hidden.append(node.lineno)
            continue
        program = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        if isinstance(program, str) and len(program) > 40:
            inner.append(program)
    return Layer(name, text, tree, hidden, files), inner


# The functions themselves, not methods of these names.
RUN = {f"{module}{name}" for module in ("", "builtins.") for name in ("exec", "eval", "compile")}


def _file_read(node: ast.Call) -> str:
    """What names a file whose text is executed: `exec(open(...).read())`; empty where nothing is read."""
    for inner in ast.walk(node.args[0]):
        if isinstance(inner, ast.Call) and last_called(inner) in ("open", "read_text", "read_bytes", "Path"):
            texts = [each.value for each in ast.walk(inner) if isinstance(each, ast.Constant)]
            names = [each for each in texts if isinstance(each, str) and each.endswith(".py")]
            return names[-1] if names else "a file"
    return ""


class _Literals:
    """Values of expressions that are made of literals and of the usual decoders."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {}
        self.modules: dict[str, str] = {}
        self.made = 0

    def note(self, node: ast.stmt) -> None:
        """Remember what a statement at the top names."""
        if isinstance(node, ast.Import):
            self.modules |= {each.asname or each.name: each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            self.modules |= {each.asname or each.name: f"{node.module}.{each.name}" for each in node.names}
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value):
                try:
                    self.names[name] = self.value(value)
                except (_UnknownError, *UNREADABLE, BitgolfError):
                    self.names.pop(name, None)

    def value(self, node: ast.expr) -> Any:
        """Raises _UnknownError for anything that is not a literal, or a decoder over one."""
        match node:
            case ast.Constant():
                return node.value
            case ast.Name() if node.id in self.names:
                return self.names[node.id]
            case ast.List() | ast.Tuple():
                return [self.value(each) for each in node.elts]
            case ast.Dict():
                keys = [self.value(each) if each else None for each in node.keys]
                return dict(zip(keys, map(self.value, node.values)))
            case ast.BinOp(op=ast.Add()):
                left, right = self.value(node.left), self.value(node.right)
                if not isinstance(left, int):
                    self.makes(len(left) + len(right))
                return left + right
            case ast.BinOp(op=ast.Pow()):
                base, power = self.value(node.left), self.value(node.right)
                if isinstance(base, int) and isinstance(power, int) and abs(base) < 100 and 0 <= power < 200:
                    return base**power
            case ast.BinOp(op=ast.BitOr()):
                return self.value(node.left) | self.value(node.right)
            case ast.Attribute():
                path = self.path(node)
                if path.startswith("lzma.") and isinstance(number := getattr(lzma, node.attr, None), int):
                    return number
            case ast.Call():
                return self.call(node)
        raise _UnknownError

    def makes(self, length: int) -> None:
        """Count what is made of texts and bytes. Raises _UnknownError where it is too much."""
        self.made += length
        if length > MOST_SCRIPT_BYTES or self.made > MOST_MADE_BYTES:
            raise _UnknownError

    def path(self, node: ast.expr) -> str:
        """A dotted name as the imports spell it."""
        match node:
            case ast.Name():
                return self.modules.get(node.id, node.id)
            case ast.Attribute():
                return f"{self.path(node.value)}.{node.attr}"
            case ast.Call() if last_called(node) == "__import__" and isinstance(node.args[0], ast.Constant):
                return str(node.args[0].value)
        return ""

    def call(self, node: ast.Call) -> Any:
        """A decoder or a method of texts and bytes, applied within bounds."""
        name = self.path(node.func)
        last = name.rpartition(".")[2] or (node.func.attr if isinstance(node.func, ast.Attribute) else "")
        given = [self.value(each) for each in node.args]
        named = {each.arg: self.value(each.value) for each in node.keywords if each.arg}
        if decoder := DECODERS.get(name):
            value = decoder(*given, **named)
            self.makes(len(value))
            return value
        if name == "compile":
            return given[0]
        if isinstance(node.func, ast.Attribute) and last in METHODS:
            held = self.value(node.func.value)
            if isinstance(held, METHODS[last]) and all(
                isinstance(each, (str, bytes, list)) for each in given
            ):
                self.makes(_length(held, last, given))
                return getattr(held, last)(*given)
        raise _UnknownError


METHODS: dict[str, tuple[type, ...]] = {
    "decode": (bytes,),
    "encode": (str,),
    "strip": (str, bytes),
    "replace": (str, bytes),
    "join": (str, bytes),
}


def _length(held: Any, method: str, given: list[Any]) -> int:
    """The most that a method makes: texts that are put into texts grow without end."""
    if method == "join":
        return len(held) * len(given[0]) + sum(map(len, given[0]))
    return len(held) + (held.count(given[0]) * len(given[1]) if method == "replace" else 0)


def _xz(data: bytes, format: int = lzma.FORMAT_AUTO, memlimit: Any = None, filters: Any = None) -> bytes:
    limit = {} if format == lzma.FORMAT_RAW else {"memlimit": LZMA_BYTES}
    if filters and any(int(each.get("dict_size", 0)) > LZMA_BYTES for each in filters):
        raise ValueError("a dictionary out of all proportion")
    return lzma.LZMADecompressor(format, filters=filters, **limit).decompress(data, MOST_SCRIPT_BYTES)


def _zlib(data: bytes, wbits: int = zlib.MAX_WBITS, bufsize: int = 0) -> bytes:
    return zlib.decompressobj(wbits).decompress(data, MOST_SCRIPT_BYTES)


def _file(kind: Callable[..., Any]) -> Callable[[bytes], bytes]:
    return lambda data: kind(io.BytesIO(data)).read(MOST_SCRIPT_BYTES)


DECODERS: dict[str, Callable[..., Any]] = {
    "lzma.decompress": _xz,
    "zlib.decompress": _zlib,
    "gzip.decompress": _file(lambda file: gzip.GzipFile(fileobj=file)),
    "bz2.decompress": _file(bz2.BZ2File),
    "brotli.decompress": lambda data: unbrotli(data, MOST_SCRIPT_BYTES),
    "base64.b85decode": base64.b85decode,
    "base64.a85decode": base64.a85decode,
    "base64.b64decode": base64.b64decode,
    "base64.b32decode": base64.b32decode,
    "bytes.fromhex": bytes.fromhex,
}
