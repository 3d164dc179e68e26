"""How a script counts the bytes of its tokens, and what it does to texts before they are tokens."""

import ast
from collections.abc import Iterator, Sequence

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    called,
    calls,
    last_called,
    lines_of,
    names_given,
    names_in,
    nodes,
    number,
    stops,
    ways,
)


def byte_tables(script: Script) -> Iterator[Finding]:
    """B01, B02, B04, B08: the table of bytes by token, where a function builds one from pieces."""
    adds_space = any(
        isinstance(node, ast.BinOp | ast.AugAssign) and _adds_flag(node)
        for node in ast.walk(script.inner.tree)
    )
    for function in functions(script):
        texts = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
        names = {last_called(node) for node in nodes(function, ast.Call)}
        for node in ast.walk(function):
            if _is_decoded_length(node):
                yield script.finding(
                    "B04", node, "the bytes of a token are the length of its decoded text", sure=FOUND
                )
        if "\u2581" not in texts or "encode" not in names or "startswith" not in names:
            continue
        if not names & {"is_byte", "IsByte"} and not any("<0x" in str(text) for text in texts):
            yield script.finding("B02", function, "byte tokens are not told from pieces")
        plain = [node for node in ast.walk(function) if _is_length_plus_one(node) or _begins_at_one(node)]
        if plain and adds_space:
            yield script.finding(
                "B01",
                plain[0],
                "the table counts the space before a word, and the score adds it again",
                sure=FOUND,
            )
        if not names & {"is_unused", "is_control", "IsControl", "is_unknown"}:
            yield script.finding("B08", function, "control and unused tokens are not told from pieces")


def _is_length_plus_one(node: ast.AST) -> bool:
    """`len(x.encode()) + 1`."""
    return (
        isinstance(node, ast.BinOp)
        and isinstance(node.op, ast.Add)
        and isinstance(node.right, ast.Constant)
        and node.right.value == 1
        and called(node.left) == "len"
        and ".encode(" in ast.unparse(node.left)
    )


def _begins_at_one(node: ast.AST) -> bool:
    """`if piece.startswith(space): count[i] = 1`, a number that the length is added to."""
    if not (isinstance(node, ast.If) and "startswith" in ast.unparse(node.test)):
        return False
    return any(
        isinstance(each, ast.Assign | ast.AugAssign)
        and isinstance(each.value, ast.Constant)
        and type(each.value.value) is int
        and each.value.value == 1
        for each in node.body
    )


def _adds_flag(node: ast.BinOp | ast.AugAssign) -> bool:
    """A sum with `flag[x] & ~other[y]`: the space that is counted where the score knows the token before."""
    if not isinstance(node.op, ast.Add):
        return False
    side = node.value if isinstance(node, ast.AugAssign) else node.right
    return any(
        isinstance(each, ast.BinOp)
        and isinstance(each.op, ast.BitAnd)
        and isinstance(each.right, ast.UnaryOp)
        and isinstance(each.right.op, ast.Invert)
        for each in ast.walk(side)
    )


def _is_decoded_length(node: ast.AST) -> bool:
    """`len(tokenizer.decode([one]).encode())`."""
    if not (called(node) == "len" and isinstance(node, ast.Call) and len(node.args) == 1):
        return False
    inner = node.args[0]
    if not (isinstance(inner, ast.Call) and called(inner).endswith(".encode")):
        return False
    decoded = inner.func.value if isinstance(inner.func, ast.Attribute) else inner
    return (
        isinstance(decoded, ast.Call)
        and last_called(decoded) in ("decode", "decode_ids", "DecodeIds")
        and bool(decoded.args)
        and isinstance(decoded.args[0], ast.List)
        and len(decoded.args[0].elts) == 1
    )


def lossy_text(script: Script) -> Iterator[Finding]:
    """B09: text that is changed for good before it becomes tokens."""
    for function in functions(script):
        names = [called(node) for node in ast.walk(function)]
        encodes = any(
            name.endswith((".encode_as_ids", ".EncodeAsIds", "sp.encode", "tokenizer.encode"))
            for name in names
        )
        for node in ast.walk(function):
            name = called(node)
            if encodes and (name.endswith(".casefold") or name == "unicodedata.normalize"):
                yield script.finding("B09", node, f"{name} changes the text before it becomes tokens")


def few_documents(script: Script) -> Iterator[Finding]:
    """V13: a data preparation that takes fewer documents for validation than the challenge has."""
    for node in calls(script.inner.tree, "add_argument"):
        if not node.args:
            continue
        name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
        default = next((each.value for each in node.keywords if each.arg == "default"), None)
        taken = number(default)
        if name in ("--val-docs", "--val_docs", "--num-val-docs") and taken is not None and taken < 50_000:
            yield script.finding(
                "V13",
                node,
                f"{taken:,} documents for validation unless told otherwise",
                "50,000: those after them in the challenge's validation split become training text",
            )


def without_ln2(script: Script) -> Iterator[Finding]:
    """B10: bits per byte that are printed in a script that never divides by ln 2."""
    tree = script.inner.tree
    text = script.inner.text
    if any(word in text for word in ("log(2", "log2", "0.693", "1.442", "LN2", "ln2")):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            fixed = "".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
            if "val_bpb:" in fixed.replace(" ", "") and any(event.kind == "score" for event in script.events):
                yield script.finding(
                    "B10", node, "bits per byte are printed, and nothing divides by ln 2", sure=FOUND
                )
                return


def silent_sidecar(script: Script) -> Iterator[Finding]:
    """B05: where the file with the bytes of the text is missing, a table stands in."""
    for node in nodes(script.inner.tree, ast.If, ast.IfExp):
        if not any(calls(node.test, "exists", "is_file", "isfile")):
            continue
        first, second = ways(node)
        if isinstance(node.test, ast.UnaryOp):
            first, second = second, first
        if second and not stops(second) and _table_in(script, second) and _reads_counts(first):
            yield script.finding(
                "B05",
                node,
                "where the file of byte counts is missing, a table of pieces stands in without a word",
            )


def _reads_counts(part: Sequence[ast.AST]) -> bool:
    names = ("load", "fromfile", "from_file", "memmap", "frombuffer", "read_bytes")
    return any(call for one in part for call in calls(one, *names))


def _table_in(script: Script, part: Sequence[ast.AST]) -> bool:
    """Whether a table is looked up by tokens, or built from pieces, in some statements."""
    lines = {line for one in part for line in lines_of(one)}
    looked = any(event.kind == "look" and event.line in lines for event in script.events)
    pieces = any(
        isinstance(each, ast.Subscript)
        or isinstance(each, ast.Call)
        and called(each) in script.flow.functions
        for one in part
        for each in ast.walk(one)
    )
    return looked or pieces


def transformed_bytes(script: Script) -> Iterator[Finding]:
    """B06: the bytes of a text that was changed, where the score is to be by those of the original."""
    for function in functions(script):
        changed = {
            name
            for node in nodes(function, ast.Assign)
            if _changes_text(script, node.value)
            for name in names_given(node)
        }
        if not _encoded(function, changed):
            continue
        for node in calls(function, "len"):
            if ".encode(" in ast.unparse(node) and names_in(node) & changed:
                yield script.finding(
                    "B06", node, "bytes are counted of the text that was changed before it became tokens"
                )


ENCODERS = {"encode_as_ids", "EncodeAsIds", "encode_ordinary", "encode_batch", "Encode", "encode"}


def _encoded(function: ast.FunctionDef, names: set[str]) -> list[ast.Call]:
    """The calls that make tokens of something with one of these names."""
    return [call for call in calls(function, *ENCODERS) if any(names & names_in(part) for part in call.args)]


def _changes_text(script: Script, node: ast.expr) -> bool:
    """A call of one's own on a text, or a method that writes it anew."""
    if not isinstance(node, ast.Call):
        return False
    if last_called(node) in ("lower", "casefold", "upper", "replace", "sub", "translate", "normalize"):
        return True
    own = script.flow.functions.get(called(node))
    return own is not None and any(calls(own, "join", "sub", "replace", "lower", "translate"))


def no_document_starts(script: Script) -> Iterator[Finding]:
    """B07: documents become shards without a token that says where each begins."""
    for function in functions(script):
        loops = nodes(function, ast.For, ast.comprehension)
        encodes = _encoded(function, {name for loop in loops for name in names_in(loop.target)})
        if not encodes or not any(
            calls(function, "tofile", "save", "write_shard", "write", "write_datafile")
        ):
            continue
        marked = any(
            (
                isinstance(node, ast.List)
                and len(node.elts) == 1
                and not isinstance(node.elts[0], ast.Starred | ast.List)
            )
            or (isinstance(node, ast.List) and len(node.elts) == 2 and isinstance(node.elts[1], ast.Starred))
            or (
                isinstance(node, ast.keyword)
                and node.arg in ("add_bos", "add_special_tokens")
                and ast.unparse(node.value) == "True"
            )
            or (
                last_called(node) in ("append", "insert")
                and isinstance(node, ast.Call)
                and isinstance(node.args[-1], ast.Constant | ast.Name | ast.Attribute)
                and not _is_ids(node.args[-1], function)
            )
            for node in ast.walk(function)
        )
        if not marked:
            yield script.finding(
                "B07",
                encodes[0],
                "documents are written one behind the other, and no token says where one begins",
            )


def _is_ids(node: ast.expr, function: ast.FunctionDef) -> bool:
    """Whether a name holds the tokens of a whole document."""
    return isinstance(node, ast.Name) and any(
        node.id in names_given(each) and any(calls(each.value, *ENCODERS, "array", "asarray"))
        for each in nodes(function, ast.Assign)
    )


CHECKS = (
    byte_tables,
    lossy_text,
    few_documents,
    without_ln2,
    silent_sidecar,
    transformed_bytes,
    no_document_starts,
)
COVERED = frozenset("B01 B02 B04 B05 B06 B07 B08 B09 B10 V13".split())
