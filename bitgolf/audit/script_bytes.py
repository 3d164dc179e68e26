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
    within,
)


def byte_tables(script: Script) -> Iterator[Finding]:
    """B01, B02, B04, B08: the table of bytes by token, where a function builds one from pieces."""
    adds_space = any(map(_adds_flag, ast.walk(script.tree)))
    for function in functions(script):
        texts = {node.value for node in nodes(function, ast.Constant)}
        names = {last_called(node) for node in nodes(function, ast.Call)}
        for node in filter(_is_decoded_length, nodes(function, ast.Call)):
            message = "the bytes of a token are the length of its decoded text"
            yield script.finding("B04", node, message, sure=FOUND)
        if "\u2581" not in texts or not {"encode", "startswith"} <= names:
            continue
        if not names & {"is_byte", "IsByte"} and not any("<0x" in str(text) for text in texts):
            yield script.finding("B02", function, "byte tokens are not told from pieces")
        plain = next(filter(_counts_space, ast.walk(function)), None)
        if plain and adds_space:
            message = "the table counts the space before a word, and the score adds it again"
            yield script.finding("B01", plain, message, sure=FOUND)
        if not names & {"is_unused", "is_control", "IsControl", "is_unknown"}:
            yield script.finding("B08", function, "control and unused tokens are not told from pieces")


def _counts_space(node: ast.AST) -> bool:
    """`len(x.encode()) + 1`, or `if piece.startswith(space): count[i] = 1`, which the length is added to."""
    match node:
        case ast.BinOp(op=ast.Add(), left=length, right=ast.Constant(1)):
            return called(length) == "len" and ".encode(" in ast.unparse(length)
        case ast.If() if "startswith" in ast.unparse(node.test):
            given = [each for each in node.body if isinstance(each, ast.Assign | ast.AugAssign)]
            return any(number(each.value) == 1 for each in given)
    return False


def _adds_flag(node: ast.AST) -> bool:
    """A sum with `flag[x] & ~other[y]`: the space that is counted where the score knows the token before."""
    match node:
        case ast.BinOp(op=ast.Add(), right=side) | ast.AugAssign(op=ast.Add(), value=side):
            return any(
                isinstance(each.op, ast.BitAnd)
                and isinstance(each.right, ast.UnaryOp)
                and isinstance(each.right.op, ast.Invert)
                for each in nodes(side, ast.BinOp)
            )
    return False


def _is_decoded_length(node: ast.Call) -> bool:
    """`len(tokenizer.decode([one]).encode())`."""
    match node:
        case ast.Call(
            ast.Name("len"), [ast.Call(ast.Attribute(ast.Call(_, [ast.List([_]), *_]) as text, "encode"))]
        ):
            return last_called(text) in ("decode", "decode_ids", "DecodeIds")
    return False


def lossy_text(script: Script) -> Iterator[Finding]:
    """B09: text that is changed for good before it becomes tokens."""
    encoders = (".encode_as_ids", ".EncodeAsIds", "sp.encode", "tokenizer.encode")
    for function in functions(script):
        names = [(called(node), node) for node in nodes(function, ast.Call)]
        if any(name.endswith(encoders) for name, _ in names):
            for name, node in names:
                if name.endswith(".casefold") or name == "unicodedata.normalize":
                    message = f"{name} changes the text before it becomes tokens"
                    yield script.finding("B09", node, message)


def few_documents(script: Script) -> Iterator[Finding]:
    """V13: a data preparation that takes fewer documents for validation than the challenge has."""
    for node in calls(script.tree, "add_argument"):
        name = ast.unparse(node.args[0]).strip("'\"") if node.args else ""
        taken = number(next((each.value for each in node.keywords if each.arg == "default"), None))
        if name in ("--val-docs", "--val_docs", "--num-val-docs") and taken is not None and taken < 50_000:
            message = f"{taken:,} documents for validation unless told otherwise"
            those = "50,000: those after them in the challenge's validation split become training text"
            yield script.finding("V13", node, message, those)


def without_ln2(script: Script) -> Iterator[Finding]:
    """B10: bits per byte that are printed in a script that never divides by ln 2."""
    text = script.inner.text
    if any(word in text for word in ("log(2", "log2", "0.693", "1.442", "LN2", "ln2")):
        return
    for node in nodes(script.tree, ast.JoinedStr):
        fixed = "".join(str(each.value) for each in node.values if isinstance(each, ast.Constant))
        if "val_bpb:" in fixed.replace(" ", "") and script.of("score"):
            message = "bits per byte are printed, and nothing divides by ln 2"
            yield script.finding("B10", node, message, sure=FOUND)
            return


def silent_sidecar(script: Script) -> Iterator[Finding]:
    """B05: where the file with the bytes of the text is missing, a table stands in."""
    reads = ("load", "fromfile", "from_file", "memmap", "frombuffer", "read_bytes")
    for node in nodes(script.tree, ast.If, ast.IfExp):
        if not any(calls(node.test, "exists", "is_file", "isfile")):
            continue
        there, missing = ways(node) if not isinstance(node.test, ast.UnaryOp) else reversed(ways(node))
        counts = any(last_called(each) in reads for each in within(there))
        if missing and counts and not stops(missing) and _table_in(script, missing):
            message = "where the file of byte counts is missing, a table of pieces stands in without a word"
            yield script.finding("B05", node, message)


def _table_in(script: Script, part: Sequence[ast.AST]) -> bool:
    """Whether a table is looked up by tokens, or built from pieces, in some statements."""
    lines = {line for one in part for line in lines_of(one)}
    return any(event.line in lines for event in script.of("look")) or any(
        isinstance(each, ast.Subscript) or called(each) in script.flow.functions for each in within(part)
    )


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
                message = "bytes are counted of the text that was changed before it became tokens"
                yield script.finding("B06", node, message)


ENCODERS = {"encode_as_ids", "EncodeAsIds", "encode_ordinary", "encode_batch", "Encode", "encode"}


def _encoded(function: ast.FunctionDef, names: set[str]) -> list[ast.Call]:
    """The calls that make tokens of something with one of these names."""
    return [call for call in calls(function, *ENCODERS) if any(names & names_in(part) for part in call.args)]


def _changes_text(script: Script, node: ast.expr) -> bool:
    """A call of one's own on a text, or a method that writes it anew."""
    if last_called(node) in ("lower", "casefold", "upper", "replace", "sub", "translate", "normalize"):
        return True
    own = script.flow.functions.get(called(node))
    return own is not None and any(calls(own, "join", "sub", "replace", "lower", "translate"))


def no_document_starts(script: Script) -> Iterator[Finding]:
    """B07: documents become shards without a token that says where each begins."""
    for function in functions(script):
        loops = nodes(function, ast.For, ast.comprehension)
        encodes = _encoded(function, {name for loop in loops for name in names_in(loop.target)})
        writes = any(calls(function, "tofile", "save", "write_shard", "write", "write_datafile"))
        if encodes and writes and not any(_marks_start(node, function) for node in ast.walk(function)):
            message = "documents are written one behind the other, and no token says where one begins"
            yield script.finding("B07", encodes[0], message)


def _marks_start(node: ast.AST, function: ast.FunctionDef) -> bool:
    """`[bos]`, `[bos, *ids]`, `add_bos=True`, or `ids.append(eos)`."""
    match node:
        case ast.List([one]):
            return not isinstance(one, ast.Starred | ast.List)
        case ast.List([_, ast.Starred()]):
            return True
        case ast.keyword(arg="add_bos" | "add_special_tokens", value=ast.Constant(True)):
            return True
        case ast.Call(args=[*_, ast.Constant() | ast.Name() | ast.Attribute() as last]):
            return last_called(node) in ("append", "insert") and not _is_ids(last, function)
    return False


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
