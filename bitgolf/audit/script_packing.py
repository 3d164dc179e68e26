"""What a script packs, with what, and what it needs that is not counted."""

import ast
import re
from collections.abc import Iterable, Iterator

from bitgolf.audit.finding import CANNOT_TELL, Finding
from bitgolf.audit.interpreter import Interpreter
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    called,
    calls,
    contexts,
    imported,
    last_called,
    named,
    names_given,
    names_in,
    nodes,
    numbers_given,
    own_nodes,
    stops,
    turned_over,
    walked,
    ways,
)
from bitgolf.audit.values import TRAIN, VAL, constant

COMPRESSORS = {"zstandard", "zstd", "brotli", "pyzstd", "brotlicffi"}
LIBRARIES = {"CDLL", "PyDLL", "LoadLibrary", "load_library", "dlopen", "load_inline"}
MEMORY_SETTINGS = {"mallopt", "malloc_trim"}  # of the C library; they see no file and no token
DOWNLOADS = ("urlretrieve", "urlopen", "hf_hub_download", "snapshot_download")


def silent_fallback(script: Script) -> Iterator[Finding]:
    """K04: a compressor that is missing is replaced without a word."""
    for node in nodes(script.tree, ast.Try, ast.With):
        wanted = {name.partition(".")[0] for each in node.body for name in imported(each)}
        if any(calls(node, *BY_NAME)):
            wanted |= _imported_by_name(script, node)
        wanted &= COMPRESSORS
        if not wanted:
            continue
        if isinstance(node, ast.With):
            goes_on = any(last_called(each) == "suppress" for each in contexts(node))
        else:
            quiet = [handler for handler in node.handlers if not stops(handler.body)]
            goes_on = bool(quiet) and not _is_guarded(script, quiet)
        if goes_on:
            yield script.finding("K04", node, f"without {', '.join(sorted(wanted))} the script goes on")


def _imported_by_name(script: Script, block: ast.Try | ast.With) -> set[str]:
    """What `__import__` and `import_module` may be given in a block: texts, also by the turns of a loop."""
    made = [each for part in block.body for each in calls(part, *BY_NAME)]
    turns = turned_over(script.tree, {name for each in made for name in names_in(each)})
    return {str(text.value) for each in (*turns, *made) for text in nodes(each, ast.Constant)}


BY_NAME = ("__import__", "import_module")


def _is_guarded(script: Script, handlers: list[ast.ExceptHandler]) -> bool:
    """Whether a missing module is only noted, and an error is raised where it is needed."""
    notes = [node for handler in handlers for node in handler.body]
    if not all(
        isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant) and not node.value.value
        for node in notes
    ):
        return False
    noted = {name for node in notes if isinstance(node, ast.Assign) for name in names_given(node)}
    own = [(function, _aliases(nodes(function, ast.Assign), noted)) for function in functions(script)]
    places = [(script.tree, noted | _aliases(script.tree.body, noted)), *own]
    tests = [
        test
        for region, names in places
        for test in nodes(region, ast.If, ast.IfExp, ast.BoolOp, ast.Compare)
        if names & names_in(test.test if isinstance(test, ast.If | ast.IfExp) else test)
    ]
    used = any(
        isinstance(each.value, ast.Name) and each.value.id in names
        for region, names in places
        for each in nodes(region, ast.Attribute)
    )
    raises = any(any(nodes(test, ast.Raise)) for test in tests)
    return raises or used and not tests  # where nobody asks, the first use is an error


def _aliases(statements: Iterable[ast.stmt], names: set[str]) -> set[str]:
    """Names that are given one of these."""
    return {
        name
        for each in statements
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name) and each.value.id in names
        for name in names_given(each)
    }


def binary_megabytes(script: Script) -> Iterator[Finding]:
    """K02: a limit in MiB."""
    for node in nodes(script.tree, ast.BinOp):
        parts = [arithmetic(each) or 0 for each in nodes(node, ast.expr)]
        binary = {1024, 2**20} & {*parts} and any(15 < each < 17 for each in parts)
        if isinstance(node.op, ast.Mult) and binary and 15 < (arithmetic(node) or 0) / 2**20 < 17:
            message = f"{ast.unparse(node)} is {arithmetic(node):,.0f} bytes"
            yield script.finding("K02", node, message)
    for function in [*functions(script), script.tree]:
        known = script.numbers | numbers_given(function, script.numbers)
        by_mebibytes = named(function, lambda value: any(map(_in_mebibytes, walked(value))))
        for test in nodes(function, ast.Compare):
            sides = [test.left, *test.comparators]
            limits = [value for each in sides if (value := arithmetic(each, known)) is not None]
            measured = names_in(test) & by_mebibytes or any(map(_in_mebibytes, walked(test)))
            if 16_777_216 in limits or measured and any(15 < each < 17 for each in limits):
                yield script.finding("K02", test, f"`{ast.unparse(test)[:60]}` is a limit of 16 MiB")


def _in_mebibytes(node: ast.AST) -> bool:
    """A division by 2 to the 20th, in one step or in two."""
    match node:
        case ast.BinOp(op=ast.RShift(), right=ast.Constant(20)):
            return True
        case ast.BinOp(op=ast.Div() | ast.FloorDiv(), left=left, right=right):
            by = arithmetic(right) or 0
            inner = (
                arithmetic(left.right) if isinstance(left, ast.BinOp) and isinstance(left.op, ast.Div) else 1
            )
            return 2**20 in (by, by * (inner or 0))
    return False


def asked_for(script: Script) -> Iterator[Finding]:
    """K04: the same by asking whether a compressor is there."""
    for node in nodes(script.tree, ast.If, ast.IfExp):
        if not any(calls(node.test, "find_spec")):
            continue
        turns = turned_over(script.tree, names_in(node.test))
        asked = (each for part in (node.test, *turns) for each in nodes(part, ast.Constant))
        wanted = {str(each.value) for each in asked} & COMPRESSORS
        there, missing = ways(node)
        goes_on = missing or isinstance(there[-1], ast.Return)
        if wanted and goes_on and not stops([*there, *missing]):
            yield script.finding("K04", node, f"without {min(wanted)} another compressor is taken")


def outside_code(script: Script) -> Iterator[Finding]:
    """K03: downloads; programs and compiled code from outside are told as what cannot be read."""
    harmless = _memory_settings(script.tree)
    for node in nodes(script.tree, ast.Call):
        name, last = called(node), last_called(node)
        if last in ("run_path", "spec_from_file_location"):
            yield script.finding("K03", node, f"{name} runs another file, whose bytes are not counted")
        elif last in DOWNLOADS or name in ("requests.get", "wget.download", "httpx.get"):
            yield script.finding("K03", node, f"{name} reads from the network")
        elif last in LIBRARIES and id(node) not in harmless:
            message = "compiled code is called; what it does with tokens is not read here"
            yield script.finding("V08", node, message, sure=CANNOT_TELL)


def uncounted_files(script: Script) -> Iterator[Finding]:
    """K03: a file beside the script is read, neither of texts nor written by it, and in no sum of sizes."""
    known = Interpreter(script)
    if not script.of("fit") or not script.of("score", VAL):
        return
    written = [each.value for each in nodes(script.tree, ast.Constant) if isinstance(each.value, str)]
    named: dict[str, list[tuple[str, ast.Call]]] = {}
    for scope in functions(script):
        names, known.steps = known.given(scope), 0
        for node in (each for each in own_nodes(scope) if isinstance(each, ast.Call)):
            for part in node.args:
                file = known.value(part, names)
                if isinstance(file, str) and BESIDE.fullmatch(file):
                    mode = [
                        each for each in map(known.value, node.args[1:], [names] * 9) if isinstance(each, str)
                    ]
                    named.setdefault(file, []).append((last_called(node) + "".join(mode), node))
    for file, uses in named.items():
        reads = [node for how, node in uses if how in READS]
        others = [how for how, _ in uses if how not in READS and how != "Path"]
        others += texts[len(uses) :] if (texts := [each for each in written if each == file]) else []
        if reads and not others and not constant(file).has(VAL) and not constant(file).has(TRAIN):
            yield script.finding("K03", reads[0], f"{file} is read, and its bytes are in no size")


READS = {"load", "fromfile", "memmap", "open", "openr", "openrb", "loadtxt", "load_file", "from_file"}
BESIDE = re.compile(
    r"(?!.*(?:token|vocab|fineweb|doc|stdout))(?:\./)?[\w-]+\.(?:npy|npz|bin|pt|pth|pkl|json|txt|gz|xz)"
)


def _memory_settings(tree: ast.Module) -> set[int]:
    """The calls `CDLL(None)`, of the C library that runs anyway, of which nothing but functions that set how
    memory is kept is ever asked: directly, or under a name that stands for nothing else.
    """
    harmless = set()
    for library in calls(tree, "CDLL"):
        given = [each for each in nodes(tree, ast.Assign) if each.value is library]
        names = {name for each in given for name in names_given(each)}
        named = [each for each in nodes(tree, ast.Name) if each.id in names]
        asked = [each for each in nodes(tree, ast.Attribute) if each.value is library or each.value in named]
        only = len(named) == len(given) + sum(each.value in named for each in asked)
        of_memory = asked and all(each.attr in MEMORY_SETTINGS for each in asked)
        if [*map(ast.unparse, library.args)] == ["None"] and not library.keywords and only and of_memory:
            harmless.add(id(library))
    return harmless


CHECKS = (silent_fallback, asked_for, binary_megabytes, outside_code, uncounted_files)
COVERED = frozenset("K02 K03 K04".split())
