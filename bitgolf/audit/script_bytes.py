"""How a script counts the bytes of its tokens, and what it does to texts before they are tokens."""

import ast
from collections.abc import Iterator, Sequence

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.script import Script, called, functions


def byte_tables(script: Script) -> Iterator[Finding]:
    """B01, B02, B04, B08: the table of bytes by token, where a function builds one from pieces."""
    adds_space = any(
        isinstance(node, ast.BinOp | ast.AugAssign) and _adds_flag(node)
        for node in ast.walk(script.inner.tree)
    )
    for function in functions(script):
        texts = {node.value for node in ast.walk(function) if isinstance(node, ast.Constant)}
        names = {called(node).rpartition(".")[2] for node in ast.walk(function)}
        for node in ast.walk(function):
            if _is_decoded_length(node):
                yield Finding(
                    "B04",
                    FOUND,
                    script.at(node),
                    "the bytes of a token are the length of its decoded text",
                    "the bytes of the piece: half of a character decodes to another one of three bytes",
                    "take them from the tokenizer's pieces",
                )
        if "\u2581" not in texts or "encode" not in names or "startswith" not in names:
            continue
        if not names & {"is_byte", "IsByte"} and not any("<0x" in str(text) for text in texts):
            yield Finding(
                "B02",
                SUSPECTED,
                script.at(function),
                "byte tokens are not told from pieces",
                "one byte for each <0xNN>",
                "ask the tokenizer with is_byte",
            )
        plain = [node for node in ast.walk(function) if _is_length_plus_one(node) or _begins_at_one(node)]
        if plain and adds_space:
            yield Finding(
                "B01",
                FOUND,
                script.at(plain[0]),
                "the table counts the space before a word, and the score adds it again",
                "once",
                "leave the + 1 to the place that knows the token before",
            )
        if not names & {"is_unused", "is_control", "IsControl", "is_unknown"}:
            yield Finding(
                "B08",
                SUSPECTED,
                script.at(function),
                "control and unused tokens are not told from pieces",
                "no byte for them",
                "ask the tokenizer with is_control, is_unknown and is_unused",
            )


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
        and called(decoded).rpartition(".")[2] in ("decode", "decode_ids", "DecodeIds")
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
                yield Finding(
                    "B09",
                    SUSPECTED,
                    script.at(node),
                    f"{name} changes the text before it becomes tokens",
                    "tokens that decode to the text",
                    "use a transformation that can be undone, and show that it was",
                )


def few_documents(script: Script) -> Iterator[Finding]:
    """V13: a data preparation that takes fewer documents for validation than the challenge has."""
    for node in ast.walk(script.inner.tree):
        if not called(node).endswith("add_argument") or not isinstance(node, ast.Call) or not node.args:
            continue
        name = node.args[0].value if isinstance(node.args[0], ast.Constant) else ""
        default = next((each.value for each in node.keywords if each.arg == "default"), None)
        number = default.value if isinstance(default, ast.Constant) else None
        if (
            name in ("--val-docs", "--val_docs", "--num-val-docs")
            and isinstance(number, int)
            and number < 50_000
        ):
            yield Finding(
                "V13",
                SUSPECTED,
                script.at(node),
                f"{number:,} documents for validation unless told otherwise",
                "50,000: those after them in the challenge's validation split become training text",
                "use 50,000, and hash the documents of both splits",
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
                yield Finding(
                    "B10",
                    FOUND,
                    script.at(node),
                    "bits per byte are printed, and nothing divides by ln 2",
                    "nats / ln 2 / bytes: a uniform guess of a byte is 8.000",
                    "divide by math.log(2)",
                )
                return


def silent_sidecar(script: Script) -> Iterator[Finding]:
    """B05: where the file with the bytes of the text is missing, a table stands in."""
    for node in ast.walk(script.inner.tree):
        if not isinstance(node, ast.If | ast.IfExp) or not _asks_file(node.test):
            continue
        body = node.body if isinstance(node.body, list) else [node.body]
        other = node.orelse if isinstance(node.orelse, list) else [node.orelse]
        reads, builds = (_reads_counts(part) for part in (body, other))
        negated = isinstance(node.test, ast.UnaryOp)
        first, second = (other, body) if negated else (body, other)
        stops = any(
            isinstance(each, ast.Raise) or called(each).endswith("exit")
            for part in second
            for each in ast.walk(part)
        )
        if (reads or builds) and second and not stops and _table_in(script, second) and _reads_counts(first):
            yield Finding(
                "B05",
                SUSPECTED,
                script.at(node),
                "where the file of byte counts is missing, a table of pieces stands in without a word",
                "an error: the table counts other bytes",
                "raise, and name the file",
            )


def _asks_file(test: ast.expr) -> bool:
    return any(called(each).rpartition(".")[2] in ("exists", "is_file", "isfile") for each in ast.walk(test))


def _reads_counts(part: Sequence[ast.AST]) -> bool:
    names = ("load", "fromfile", "from_file", "memmap", "frombuffer", "read_bytes")
    return any(called(each).rpartition(".")[2] in names for one in part for each in ast.walk(one))


def _table_in(script: Script, part: Sequence[ast.AST]) -> bool:
    """Whether a table is looked up by tokens, or built from pieces, in some statements."""
    lines = {
        line
        for one in part
        for line in range(getattr(one, "lineno", 0), (getattr(one, "end_lineno", 0) or 0) + 1)
    }
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
            target.id: node
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and _changes_text(script, node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        tokens = [
            node
            for node in ast.walk(function)
            if called(node).rpartition(".")[2] in ENCODERS
            and isinstance(node, ast.Call)
            and any(
                isinstance(each, ast.Name) and each.id in changed
                for part in node.args
                for each in ast.walk(part)
            )
        ]
        if not tokens:
            continue
        for node in ast.walk(function):
            if not (called(node) == "len" and isinstance(node, ast.Call) and ".encode(" in ast.unparse(node)):
                continue
            names = {each.id for each in ast.walk(node) if isinstance(each, ast.Name)}
            if names & changed.keys():
                yield Finding(
                    "B06",
                    SUSPECTED,
                    script.at(node),
                    "bytes are counted of the text that was changed before it became tokens",
                    "bytes of the original text",
                    "count before the change",
                )


ENCODERS = {"encode_as_ids", "EncodeAsIds", "encode_ordinary", "encode_batch", "Encode", "encode"}


def _changes_text(script: Script, node: ast.expr) -> bool:
    """A call of one's own on a text, or a method that writes it anew."""
    if not isinstance(node, ast.Call):
        return False
    name = called(node)
    if name.rpartition(".")[2] in ("lower", "casefold", "upper", "replace", "sub", "translate", "normalize"):
        return True
    own = script.flow.functions.get(name)
    return own is not None and any(
        isinstance(each, ast.Call)
        and called(each).rpartition(".")[2] in ("join", "sub", "replace", "lower", "translate")
        for each in ast.walk(own)
    )


def no_document_starts(script: Script) -> Iterator[Finding]:
    """B07: documents become shards without a token that says where each begins."""
    for function in functions(script):
        nodes = [*ast.walk(function)]
        writes = any(
            called(node).rpartition(".")[2] in ("tofile", "save", "write_shard", "write", "write_datafile")
            for node in nodes
        )
        taken = {
            each.id
            for node in nodes
            if isinstance(node, ast.For | ast.comprehension)
            for each in ast.walk(node.target)
            if isinstance(each, ast.Name)
        }
        encodes = [
            node
            for node in nodes
            if called(node).rpartition(".")[2] in ENCODERS
            and isinstance(node, ast.Call)
            and any(
                isinstance(each, ast.Name) and each.id in taken
                for part in node.args
                for each in ast.walk(part)
            )
        ]
        loops = [node for node in nodes if isinstance(node, ast.For | ast.ListComp | ast.GeneratorExp)]
        if not writes or not encodes or not loops:
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
                called(node).rpartition(".")[2] in ("append", "insert")
                and isinstance(node, ast.Call)
                and isinstance(node.args[-1], ast.Constant | ast.Name | ast.Attribute)
                and not _is_ids(node.args[-1], function)
            )
            for node in nodes
        )
        if not marked:
            yield Finding(
                "B07",
                SUSPECTED,
                script.at(encodes[0]),
                "documents are written one behind the other, and no token says where one begins",
                "a start token before each document",
                "put it in front of the tokens of each document",
            )


def _is_ids(node: ast.expr, function: ast.FunctionDef) -> bool:
    """Whether a name holds the tokens of a whole document."""
    return isinstance(node, ast.Name) and any(
        isinstance(each, ast.Assign)
        and any(isinstance(target, ast.Name) and target.id == node.id for target in each.targets)
        and any(
            called(inner).rpartition(".")[2] in ENCODERS | {"array", "asarray"}
            for inner in ast.walk(each.value)
        )
        for each in ast.walk(function)
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
