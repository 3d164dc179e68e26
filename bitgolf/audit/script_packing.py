"""What a script packs, with what, and what it needs that is not counted."""

import ast
from collections.abc import Iterator

from bitgolf.audit.finding import CANNOT_TELL, SUSPECTED, Finding
from bitgolf.audit.script import Script, called


def silent_fallback(script: Script) -> Iterator[Finding]:
    """K04: a compressor that is missing is replaced without a word."""
    for node in ast.walk(script.inner.tree):
        if not isinstance(node, ast.Try):
            continue
        wanted = {
            alias.name.partition(".")[0]
            for each in node.body
            if isinstance(each, ast.Import | ast.ImportFrom)
            for alias in each.names
        } & {"zstandard", "zstd", "brotli", "pyzstd", "brotlicffi"}
        quiet = [
            handler
            for handler in node.handlers
            if not any(
                isinstance(each, ast.Raise) or called(each).endswith("exit") for each in ast.walk(handler)
            )
        ]
        if wanted and quiet and not _is_guarded(script, quiet):
            yield Finding(
                "K04",
                SUSPECTED,
                script.at(node),
                f"without {', '.join(sorted(wanted))} the script goes on",
                "an error: another compressor gives another size",
                "import it without a fallback, and name it in requirements.txt",
            )


def _is_guarded(script: Script, handlers: list[ast.ExceptHandler]) -> bool:
    """Whether a missing module is only noted, and an error is raised where it is needed."""
    names = set()
    for node in (each for handler in handlers for each in handler.body):
        value = node.value if isinstance(node, ast.Assign) else None
        if not (isinstance(value, ast.Constant) and not value.value):
            return False
        names |= {ast.unparse(target) for target in node.targets}  # type: ignore[attr-defined]
    nodes = [*ast.walk(script.inner.tree)]
    for each in nodes:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name) and each.value.id in names:
            names |= {ast.unparse(target) for target in each.targets}
    tests = [
        node
        for node in nodes
        if isinstance(node, ast.If | ast.IfExp | ast.BoolOp | ast.Compare)
        and any(isinstance(each, ast.Name) and each.id in names for each in ast.walk(_asked(node)))
    ]
    used = any(
        isinstance(each, ast.Attribute) and isinstance(each.value, ast.Name) and each.value.id in names
        for each in nodes
    )
    raises = any(isinstance(each, ast.Raise) for test in tests for each in ast.walk(test))
    return raises or used and not tests  # where nobody asks, the first use is an error


def _asked(node: ast.If | ast.IfExp | ast.BoolOp | ast.Compare) -> ast.expr:
    return node.test if isinstance(node, ast.If | ast.IfExp) else node


def binary_megabytes(script: Script) -> Iterator[Finding]:
    """K02: a limit in MiB."""
    for node in ast.walk(script.inner.tree):
        if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult)):
            continue
        text = ast.unparse(node).replace("(", "").replace(")", "")
        factors = text.replace("2 ** 20", "1048576").replace("1024 * 1024", "1048576").split(" * ")
        numbers = [float(each) for each in factors if each.replace(".", "", 1).isdigit()]
        if 1048576 in numbers and any(15 < each < 17 for each in numbers):
            yield Finding(
                "K02",
                SUSPECTED,
                script.at(node),
                f"{text} is {int(round(max(numbers) * min(numbers))):,} bytes",
                "16,000,000 decimal bytes",
                "count in decimal bytes",
            )


def asked_for(script: Script) -> Iterator[Finding]:
    """K04: the same by asking whether a compressor is there."""
    for node in ast.walk(script.inner.tree):
        if not isinstance(node, ast.If | ast.IfExp) or not any(
            called(each).rpartition(".")[2] == "find_spec" for each in ast.walk(node.test)
        ):
            continue
        wanted = {
            each.value
            for each in ast.walk(node.test)
            if isinstance(each, ast.Constant) and each.value in ("zstandard", "zstd", "brotli", "pyzstd")
        }
        other = node.orelse if isinstance(node.orelse, list) else [node.orelse]
        body = node.body if isinstance(node.body, list) else [node.body]
        stops = any(
            isinstance(each, ast.Raise) or called(each).endswith("exit")
            for part in (*other, *body)
            for each in ast.walk(part)
        )
        if wanted and other and not stops:
            yield Finding(
                "K04",
                SUSPECTED,
                script.at(node),
                f"without {min(wanted)} another compressor is taken",
                "an error: another compressor gives another size",
                "raise where it is missing",
            )


def outside_code(script: Script) -> Iterator[Finding]:
    """K03: downloads; programs and compiled code from outside are told as what cannot be read."""
    for node in ast.walk(script.inner.tree):
        name = called(node)
        if name.rpartition(".")[2] in ("urlretrieve", "urlopen", "hf_hub_download", "snapshot_download") or (
            name in ("requests.get", "wget.download", "httpx.get")
        ):
            yield Finding(
                "K03",
                SUSPECTED,
                script.at(node),
                f"{name} reads from the network",
                "nothing is read that is not counted",
                "ship what the script needs, and count it",
            )
        elif name.rpartition(".")[2] in ("CDLL", "LoadLibrary", "load_inline"):
            yield Finding(
                "V08",
                CANNOT_TELL,
                script.at(node),
                "compiled code is called; what it does with tokens is not read here",
            )


CHECKS = (
    silent_fallback,
    asked_for,
    binary_megabytes,
    outside_code,
)
COVERED = frozenset("K02 K03 K04".split())
