"""How a script counts the bytes of its tokens, and what it does to texts before they are tokens."""

import ast
import itertools
import math
import re
from collections.abc import Iterator

from bitgolf.audit.byte_table import SPACE, WITHOUT_TEXT, tables, without_lone_space
from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.reach import Carried
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
    called,
    calls,
    calls_of,
    last_called,
    lines_of,
    named,
    names_in,
    nodes,
    number,
    own,
    values_given,
    walked,
    within,
)
from bitgolf.audit.values import EITHER, GOLD, PIECE, STORED, TRAIN, VAL, Frame, common


def byte_tables(script: Script) -> Iterator[Finding]:
    """B01, B02, B08: the table of bytes by token, as it is for a few pieces that stand in."""
    everything = [node for tree in script.flow.trees for node in walked(tree)]
    adds_space, takes_space = any(map(_adds_flag, everything)), any(map(_takes_flag, everything))
    for line, table in {each.line: each for each in tables(script)}.items():
        for piece, size in [("<0x41>", 1), ("<0xE2>", 1), ("\u00e9", 2)]:
            if (counted := table.of(piece)) != size:
                yield script.finding("B02", line, f"`{piece}` counts {counted} bytes", f"{size}")
                break
        if table.spaces and table.of(f"{SPACE}the") > 3 and not takes_space:
            message = "the table counts the space before a word, and the score adds it again"
            yield script.finding("B01", line, message, sure=FOUND if adds_space else SUSPECTED)
        named = [piece for piece in WITHOUT_TEXT if table.of(piece) > 0]
        if named:
            message = f"`{named[0]}` counts {table.of(named[0])} bytes, those of its name"
            yield script.finding("B08", line, message, "0: control and unused tokens stand for no text")
        elif table.spaces and table.without_edges:
            message = "no token is a boundary: the space behind a control token is counted"
            yield script.finding("B08", line, message)


def dropped_space(script: Script) -> Iterator[Finding]:
    """B03: a tokenizer that is cut down to some of its pieces, without the lone space."""
    if any(calls(script.tree, "SerializeToString")):
        for line in without_lone_space(script)[:1]:
            message = "of the pieces that are kept the lone space is left out: it becomes three byte tokens"
            yield script.finding("B03", line, message)


def _adds_flag(node: ast.AST) -> bool:
    """A sum with `flag[x] & ~other[y]`: the space that is counted where the score knows the token before."""
    return any(
        isinstance(each.op, ast.BitAnd)
        and isinstance(each.right, ast.UnaryOp)
        and isinstance(each.right.op, ast.Invert)
        for each in _operated(node, ast.Add)
    )


def _takes_flag(node: ast.AST) -> bool:
    """A difference with `flag[x] & other[y]`: the space is taken off again."""
    return any(
        isinstance(each.op, ast.BitAnd | ast.Mult) and _looks_up(each.left) and _looks_up(each.right)
        for each in _operated(node, ast.Sub)
    )


def _looks_up(node: ast.expr) -> bool:
    """Whether something is taken from a table by what is not written out; no slice of a rotation."""
    written = ast.Slice | ast.Tuple | ast.Constant
    return any(not isinstance(each.slice, written) for each in nodes(node, ast.Subscript))


def _operated(node: ast.AST, kind: type[ast.operator]) -> Iterator[ast.BinOp]:
    """The operations in what is added, or taken off."""
    if isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, kind):
        yield from nodes(node.right if isinstance(node, ast.BinOp) else node.value, ast.BinOp)


def decoded_lengths(script: Script) -> Iterator[Finding]:
    """B04: the bytes of a token taken from the text that it is decoded to, alone."""
    found = []
    for node, scope in script.reach.all(ast.Call):
        asked = (node.func, *node.args)
        alone = any(len(each.elts) == 1 for part in node.args for each in nodes(part, ast.List))
        if not alone or not any(isinstance(each, ast.Attribute) and each.attr in DECODERS for each in asked):
            continue
        lengths = dict(reversed([*_byte_lengths(script, script.reach.carries(node))]))
        if lengths:
            here = lengths.get(scope)  # ways through other functions may be those of other texts
            message = "the bytes of a token are the length of its decoded text"
            where, sure = (here, FOUND) if here else (next(iter(lengths.values())), SUSPECTED)
            found.append(script.finding("B04", where, message, sure=sure))
    # Where byte tokens are counted by themselves, a piece of text is decoded to its own.
    if found and not any(each.of("<0xE2>") == 1 for each in tables(script)):
        yield from found


DECODERS = {"decode", "decode_ids", "DecodeIds", "batch_decode"}


def _byte_lengths(script: Script, carried: Carried) -> Iterator[tuple[int, ast.Call]]:
    """`len(text.encode())` or `len(bytes(text, "utf-8"))` of what something has got to, and its scope."""
    for node, scope in script.reach.all(ast.Call):
        if called(node) == "len" and any(carried.by(each, scope) for each in calls(node, "encode", "bytes")):
            yield scope, node


def lossy_text(script: Script) -> Iterator[Finding]:
    """B09: text that is changed for good before it becomes tokens."""
    encodes = [each for each in script.reach.handed(*ENCODERS) if not isinstance(each[0], ast.Constant)]
    kept = {id(node) for each, _ in script.reach.all(ast.AST) for node in _kept_apart(each)}
    for node, _ in script.reach.all(ast.Attribute) if encodes else ():
        normal = node.attr == "normalize" and ast.unparse(node) == "unicodedata.normalize"
        lossy = normal or node.attr == "casefold"
        if not own(node) and (lossy or node.attr in ("lower", "upper") and id(node) not in kept):
            carried = script.reach.carries(node)
            if any(carried.by(part, scope) for part, scope in encodes):
                message = f"{ast.unparse(node)} changes the text before it becomes tokens"
                yield script.finding("B09", node, message)


def _kept_apart(node: ast.AST) -> list[ast.expr]:
    """What `"^" + char.lower()` calls, which says what it was, and what a test asks."""
    match node:
        case ast.BinOp(op=ast.Add(), left=ast.Constant() | ast.Name(), right=ast.Call(func=func)):
            return [func]
        case ast.Compare() | ast.BoolOp():
            return [*nodes(node, ast.Attribute)]
    return []


def few_documents(script: Script) -> Iterator[Finding]:
    """V13: a data preparation that takes fewer documents for validation than the challenge has."""
    if not any(calls(script.tree, *ENCODERS)):
        return
    for name, value in values_given(script.tree):
        inner = (
            value.args[0] if isinstance(value, ast.Call) and called(value) == "int" and value.args else value
        )
        taken = arithmetic(inner)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isdigit():
            taken = float(inner.value[:15])
        if HELD_OUT.search(name) and taken is not None and 100 <= taken < 50_000:
            message = f"{taken:,.0f} documents for validation unless told otherwise"
            those = "50,000: those after them in the challenge's validation split become training text"
            yield script.finding("V13", value, message, those)


HELD_OUT = re.compile(
    r"(?:\b|_)(?:val(?:idation)?|eval|held|hold)[-_]?(?:\w+_)?(?:docs?|documents|out)\b"
    r"|(?:\b|_)(?:docs?|documents)_?(?:for_)?(?:val|held)|\bnum_(?:val|held)\b",
    re.IGNORECASE,
)


def without_ln2(script: Script) -> Iterator[Finding]:
    """B10: what is printed as bits per byte has got no ln 2 on its way."""
    turned = script.reach.carries(*(node for node, _ in script.reach.all(ast.expr) if _is_ln2(node)))
    asked = [*script.reach.all(ast.AST)] if script.of("score") else []
    printed = [(value, scope, node) for node, scope in asked for value in _as_bits(node)]
    # Where one of them has, the others may have got it from a function that is handed on.
    if printed and not any(turned.by(value, scope) for value, scope, _ in printed):
        message = "bits per byte are printed, and nothing divides by ln 2"
        sure = FOUND if any(isinstance(node, ast.JoinedStr) for *_, node in printed) else SUSPECTED
        yield script.finding("B10", printed[0][0], message, sure=sure)


BITS = re.compile(r"(?:val_bpb|bits per byte)[\s:=]*$")


def _as_bits(node: ast.AST) -> Iterator[ast.expr]:
    """What is printed as bits per byte: in a text, behind one with places, or by its name."""
    match node:
        case ast.JoinedStr(values=parts):
            for text, value in itertools.pairwise(parts):
                if isinstance(text, ast.Constant) and BITS.search(str(text.value).lower()):
                    yield value
        case (
            ast.Call(args=[ast.Constant(str(text)), *given])
            | ast.BinOp(left=ast.Constant(str(text)), op=ast.Mod(), right=ast.Tuple(elts=given))
        ):
            before = PLACES.split(text.lower())
            yield from (value for each, value in zip(before, given) if BITS.search(each))
        case ast.keyword(arg="val_bpb", value=value):
            yield value
        case ast.Dict(keys=keys, values=values):
            named = zip(keys, values)
            yield from (
                each for key, each in named if isinstance(key, ast.Constant) and key.value == "val_bpb"
            )


PLACES = re.compile(r"%[-+.\d]*[a-z]|\{[^}]*\}")


def _is_ln2(node: ast.expr) -> bool:
    """`math.log(2)`, `log2`, or one of these as a number."""
    if isinstance(node, ast.Call):
        return last_called(node) == "log2" or last_called(node) == "log" and 2 in map(number, node.args)
    value = number(node)
    return isinstance(value, float) and any(
        abs(value - each) < 1e-4 for each in (math.log(2), 1 / math.log(2))
    )


def silent_sidecar(script: Script) -> Iterator[Finding]:
    """B05: where the file with the bytes of the text is missing, something else stands in."""
    weighed = [each for each in script.of("weighed") if not each.value.has(GOLD)]
    tables_of = [each for each in weighed if each.value.has(PIECE)]
    fits = {each.loops for each in script.of("fit")}  # what is summed there is a loss
    for each in (one for one in weighed if one.value.has(STORED) and one.loops not in fits):
        beside = each in tables_of or any(common(each, table) for table in tables_of)
        if beside or each.value.has(EITHER):
            message = "where the file of byte counts is missing, a table of pieces stands in without a word"
            yield script.finding("B05", each, message)
            return


def transformed_bytes(script: Script) -> Iterator[Finding]:
    """B06: the bytes of a text that was changed, where the score is to be by those of the original."""
    tests = [node for node, _ in script.reach.all(ast.Compare)]
    keys = [node.slice for node, _ in script.reach.all(ast.Subscript)]
    asked = {id(each) for each in within([*tests, *keys])}
    changes = [node for node, _ in script.reach.all(ast.Call) if last_called(node) in CHANGES]
    changed = script.reach.carries(*(node for node in changes if id(node) not in asked))
    for _, node in _byte_lengths(script, changed):
        message = "bytes are counted of the text that was changed before it became tokens"
        yield script.finding("B06", node, message)


CHANGES = ("lower", "upper", "casefold")
ENCODERS = {"encode_as_ids", "EncodeAsIds", "encode_ordinary", "encode_batch", "Encode", "encode"}


def _encoded(function: ast.FunctionDef, names: set[str]) -> list[ast.Call]:
    """The calls that make tokens of something with one of these names."""
    return [call for call in calls(function, *ENCODERS) if any(names & names_in(part) for part in call.args)]


def no_document_starts(script: Script) -> Iterator[Finding]:
    """B07: documents become shards without a token that says where each begins."""
    writes = any(calls(script.tree, "tofile", "save", "write")) or any(
        any(calls(node, "tobytes")) for node in calls(script.tree, "write_bytes")
    )
    turns = [*nodes(script.tree, ast.For, ast.GeneratorExp, ast.ListComp)]
    for function in functions(script) if writes else ():
        loops = [*nodes(function, ast.For, ast.comprehension)]
        texts = {name for loop in loops for name in names_in(loop.target)}
        handed = {each.arg for each in function.args.args}
        given_back = {line for node in nodes(function, ast.Return) for line in lines_of(node)}
        # What gives tokens back leaves their start to who asked for them.
        asked = not any(map(_has_start, functions(script)))
        encodes = [each for each in _encoded(function, texts) if asked or each.lineno not in given_back]
        if not encodes and asked and any(any(calls_of(each, function)) for each in turns):
            encodes = _encoded(function, handed)
        if encodes and not _has_start(function):
            message = "documents are written one behind the other, and no token says where one begins"
            yield script.finding("B07", encodes[0], message)


def _has_start(function: ast.FunctionDef) -> bool:
    return any(_marks_start(node, function) for node in walked(function))


def _marks_start(node: ast.AST, function: ast.FunctionDef) -> bool:
    """`[bos]`, `[bos, *ids]`, `[bos] + ids`, `ids[0] = bos`, `add_bos=True`, or `ids.append(eos)`."""
    match node:
        case ast.Assign(targets=[ast.Subscript(slice=ast.Constant(0 | -1))]):
            return True
        case ast.List([one]):
            return not isinstance(one, ast.Starred | ast.List)
        case ast.List([_, ast.Starred()]) | ast.List([ast.Starred(), _]) | ast.Tuple([_, ast.Starred()]):
            return True
        case ast.keyword(arg="add_bos" | "add_special_tokens" | "add_eos", value=ast.Constant(True)):
            return True
        case ast.Yield(value=ast.Name() | ast.Attribute() | ast.Constant()):
            return True
        case ast.Call(args=[*_, ast.Constant() | ast.Name() | ast.Attribute() | ast.Call(args=[]) as last]):
            return last_called(node) in ("append", "insert") and not _is_ids(last, function)
    return False


def _is_ids(node: ast.expr, function: ast.FunctionDef) -> bool:
    """Whether a name holds the tokens of a whole document."""
    made = named(function, lambda value: any(calls(value, *ENCODERS, "array", "asarray")))
    return isinstance(node, ast.Name) and node.id in made


def split_by_workers(script: Script) -> Iterator[Finding]:
    """V12: each of many workers writes a part of both splits, so that validation has its first documents."""
    for call in calls(script.tree, *HANDS_OUT):
        handed = [each for node in nodes(call, ast.Name) for each in own(node)]
        for part in script.within_reach(*handed):
            texts = nodes(part, ast.JoinedStr, ast.Constant)
            marks = [script.flow.value(each, Frame("")).marks for each in texts]
            if any(VAL in each for each in marks) and any(TRAIN in each for each in marks):
                message = (
                    "each worker writes its own part of both splits: validation is the start of each part"
                )
                yield script.finding("V12", part, message)
                return


HANDS_OUT = ("map", "imap", "imap_unordered", "starmap", "submit", "apply_async", "Process")
PREPARES = (lossy_text, few_documents, no_document_starts, split_by_workers)
CHECKS = (
    byte_tables,
    dropped_space,
    decoded_lengths,
    without_ln2,
    silent_sidecar,
    transformed_bytes,
    *PREPARES,
)
COVERED = frozenset("B01 B02 B04 B05 B06 B07 B08 B09 B10 V12 V13".split())
