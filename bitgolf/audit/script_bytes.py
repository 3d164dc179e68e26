"""How a script counts the bytes of its tokens, and what it does to texts before they are tokens."""

import ast
import re
from collections.abc import Iterator, Sequence

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.reach import Carried
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    arithmetic,
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
from bitgolf.audit.values import Definition, base_name


def byte_tables(script: Script) -> Iterator[Finding]:
    """B01, B02, B08: the table of bytes by token, where a function builds one, by itself or by others."""
    adds_space = any(map(_adds_flag, ast.walk(script.tree)))
    turned = [node.operand for node in nodes(script.tree, ast.UnaryOp) if isinstance(node.op, ast.Invert)]
    inverted = {base_name(each) for each in turned if isinstance(each, ast.Subscript)}
    for function, *others in _tables(script):
        parts = [function, *others]
        texts = {str(node.value) for part in parts for node in nodes(part, ast.Constant)}
        names = _attributes(parts)
        if not names & {"is_byte", "IsByte"} and not any("<0x" in text for text in texts):
            yield script.finding("B02", function, "byte tokens are not told from pieces")
        plain = next(filter(_counts_space, within(parts)), None) or _keeps_space(parts)
        if plain and adds_space:
            message = "the table counts the space before a word, and the score adds it again"
            yield script.finding("B01", plain, message, sure=FOUND)
        asked = [node for part in parts for node in nodes(part, ast.Attribute) if node.attr in ASKED]
        if not _decides(script, asked):
            yield script.finding("B08", function, "control and unused tokens are not told from pieces")
        elif not _has_edges(function, inverted):
            message = "no token is a boundary: the space behind a control token is counted"
            yield script.finding("B08", function, message)


ASKED = {"is_unused", "is_control", "IsControl", "IsUnused", "is_unknown", "IsUnknown"}


def _tables(script: Script) -> Iterator[list[Definition]]:
    """Where a piece becomes bytes: that function, the one that asks for pieces, and helpers of both."""
    reach = script.reach
    encodes = [
        (node.func.value, scope, function)
        for node, scope, function in reach.scoped
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "encode"
    ]
    pieces: dict[int, list[ast.expr]] = {}  # by function
    for node, _, function in reach.scoped if encodes else ():
        match node:
            case ast.Attribute(attr=attribute) if attribute in PIECES | DECODERS:
                pieces.setdefault(function, []).append(node)
            case ast.Call(func=ast.Attribute(value=text, attr="startswith"), args=[ast.Constant(value)]):
                pieces.setdefault(function, []).extend([text] if value == SPACE else [])
    definitions = {id(each): each for some in reach.functions.values() for each in some}
    told: set[int] = set()
    for function, asked in pieces.items():
        carried = reach.carries(*asked)
        named = {each.id for each in asked if isinstance(each, ast.Name)}
        for text, scope, inside in encodes:
            same = inside == function and not named.isdisjoint(names_in(text))
            if inside and inside not in told and (same or carried.by(text, scope)):
                told.add(inside)
                parts = [definitions[each] for each in {inside: None, function: None} if each]
                called_too = {last_called(node) for part in parts for node in nodes(part, ast.Call)}
                helpers = [each for name in called_too for each in reach.functions.get(name, ())]
                parts += [each for each in helpers if id(each) not in pieces]
                if any(SPACE in str(node.value) for part in parts for node in nodes(part, ast.Constant)):
                    yield parts


PIECES = {"id_to_piece", "IdToPiece"}
SPACE = "\u2581"  # of pieces


def _attributes(parts: Sequence[ast.AST]) -> set[str]:
    return {node.attr for part in parts for node in nodes(part, ast.Attribute)}


def _decides(script: Script, asked: Sequence[ast.Attribute]) -> bool:
    """Whether what is asked of a token decides anything: a test, a filter, a mask."""
    carried = script.reach.carries(*asked)
    for each, scope, _ in script.reach.scoped:
        match each:
            case ast.If(test=test) | ast.IfExp(test=test) | ast.While(test=test) | ast.Match(subject=test):
                tests = [test]
            case ast.comprehension(ifs=ifs):
                tests = ifs
            case ast.Subscript(slice=ast.expr() as index):
                tests = [index]
            case ast.BinOp(op=ast.Mult(), left=left, right=right):
                tests = [left, right]
            case ast.Call(args=[test, *_]) if last_called(each) in ("filter", "where"):
                tests = [test]
            case _:
                continue
        if any(carried.by(test, scope) for test in tests):
            return True
    return False


def _has_edges(function: ast.AST, inverted: set[str]) -> bool:
    """Whether a table that the score inverts is ever true, where the function that makes it names it so."""
    given: list[ast.expr] = []
    for node in nodes(function, ast.Assign):
        for target in node.targets:
            pairs = [(target, node.value)]
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = [*zip(target.elts, node.value.elts)]
            given += [value for each, value in pairs if base_name(each) in inverted]
    for call in calls(function, "append"):
        named = isinstance(call.func, ast.Attribute) and base_name(call.func.value) in inverted
        if named and call.args and ast.unparse(call.args[0]) != "False":
            return True
    words = ("ones", "True", "full", "is_")
    return not given or any(word in ast.unparse(each) for each in given for word in words)


def _counts_space(node: ast.AST) -> bool:
    """`len(x.encode()) + 1`, or `if piece.startswith(space): count[i] = 1`, which the length is added to."""
    match node:
        case (
            ast.BinOp(op=ast.Add(), left=length, right=ast.Constant(1))
            | ast.BinOp(op=ast.Add(), left=ast.Constant(1), right=length)
        ):
            return called(length) == "len" and ".encode(" in ast.unparse(length)
        case ast.If() if "startswith(" in ast.unparse(node.test) and "<0x" not in ast.unparse(node.test):
            given = [each for each in node.body if isinstance(each, ast.Assign | ast.AugAssign)]
            return any(number(each.value) == 1 for each in given)
    return False


def _keeps_space(parts: Sequence[ast.AST]) -> ast.Call | None:
    """`len(piece.encode())` of a text whose space became a plain one, and that nothing takes off."""
    turned, taken = False, False
    for node in within(parts):
        if isinstance(node, ast.Call) and last_called(node) == "replace" and len(node.args) == 2:
            turned |= ast.unparse(node.args[1]) in ("' '", "b' '")
            taken |= ast.unparse(node.args[1]) == "''"
        taken |= isinstance(node, ast.Slice) and node.upper is None and number(node.lower) in (1, 3)
        taken |= isinstance(node, ast.Call) and last_called(node) in ("lstrip", "strip", "removeprefix")
        taken |= isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub) and "len(" in ast.unparse(node)
    lengths = (node for part in parts for node in calls(part, "len") if "encode(" in ast.unparse(node))
    return next(lengths, None) if turned and not taken else None


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


def decoded_lengths(script: Script) -> Iterator[Finding]:
    """B04: the bytes of a token taken from the text that it is decoded to, alone."""
    for node, scope in script.reach.all(ast.Call):
        asked = (node.func, *node.args)
        alone = any(len(each.elts) == 1 for part in node.args for each in nodes(part, ast.List))
        if not alone or not any(isinstance(each, ast.Attribute) and each.attr in DECODERS for each in asked):
            continue
        lengths = dict(reversed([*_byte_lengths(script, script.reach.carries(node))]))
        if lengths:
            own = lengths.get(scope)  # ways through other functions may be those of other texts
            message = "the bytes of a token are the length of its decoded text"
            where, sure = (own, FOUND) if own else (next(iter(lengths.values())), SUSPECTED)
            yield script.finding("B04", where, message, sure=sure)


DECODERS = {"decode", "decode_ids", "DecodeIds", "batch_decode"}


def _byte_lengths(script: Script, carried: Carried) -> Iterator[tuple[int, ast.Call]]:
    """`len(text.encode())` or `len(bytes(text, "utf-8"))` of what something has got to, and its scope."""
    for node, scope in script.reach.all(ast.Call):
        if called(node) == "len" and any(carried.by(each, scope) for each in calls(node, "encode", "bytes")):
            yield scope, node


def lossy_text(script: Script) -> Iterator[Finding]:
    """B09: text that is changed for good before it becomes tokens."""
    encodes = [*_tokenized(script)]
    kept = {id(node) for each, _ in script.reach.all(ast.AST) for node in _kept_apart(each)}
    for node, _ in script.reach.all(ast.Attribute) if encodes else ():
        normal = node.attr == "normalize" and ast.unparse(node) == "unicodedata.normalize"
        lossy = normal or node.attr == "casefold"
        if lossy or node.attr in ("lower", "upper") and id(node) not in kept:
            carried = script.reach.carries(node)
            if any(carried.by(part, scope) for each, scope in encodes for part in each.args):
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


def _tokenized(script: Script) -> Iterator[tuple[ast.Call, int]]:
    """The calls that make tokens of a text; `text.encode("utf-8")` makes none."""
    for node, scope in script.reach.all(ast.Call):
        if last_called(node) in ENCODERS and node.args and not isinstance(node.args[0], ast.Constant):
            yield node, scope


def few_documents(script: Script) -> Iterator[Finding]:
    """V13: a data preparation that takes fewer documents for validation than the challenge has."""
    if not any(calls(script.tree, *ENCODERS)):
        return
    given: list[tuple[str, ast.expr | None]] = []
    for node in nodes(script.tree, ast.Assign, ast.AnnAssign, ast.Call, ast.FunctionDef):
        if (
            isinstance(node, ast.Call)
            and node.args
            and last_called(node) in ("add_argument", "option", "get")
        ):
            named = {word.arg: word.value for word in node.keywords}
            given.append((ast.unparse(node.args[0]), named.get("default", (*node.args, None)[1])))
        elif isinstance(node, ast.Assign):
            given += [(ast.unparse(target), node.value) for target in node.targets]
        elif isinstance(node, ast.AnnAssign):
            given.append((ast.unparse(node.target), node.value))
        elif isinstance(node, ast.FunctionDef):
            given += zip((each.arg for each in reversed(node.args.args)), reversed(node.args.defaults))
    for name, value in given:
        inner = (
            value.args[0] if isinstance(value, ast.Call) and called(value) == "int" and value.args else value
        )
        taken = arithmetic(inner)
        if isinstance(inner, ast.Constant) and isinstance(inner.value, str) and inner.value.isdigit():
            taken = float(inner.value[:15])
        if value is not None and HELD_OUT.search(name) and taken is not None and 100 <= taken < 50_000:
            message = f"{taken:,.0f} documents for validation unless told otherwise"
            those = "50,000: those after them in the challenge's validation split become training text"
            yield script.finding("V13", value, message, those)


HELD_OUT = re.compile(
    r"(?:\b|_)(?:val(?:idation)?|eval|held|hold)[-_]?(?:\w+_)?(?:docs?|documents|out)\b"
    r"|(?:\b|_)(?:docs?|documents)_?(?:for_)?(?:val|held)|\bnum_(?:val|held)\b",
    re.IGNORECASE,
)


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
    """B05: where the file with the bytes of the text is missing, something else stands in."""
    reads = ("load", "fromfile", "from_file", "memmap", "frombuffer", "read_bytes")
    message = "where the file of byte counts is missing, a table of pieces stands in without a word"
    branches: list[ast.If | ast.IfExp | ast.Try] = [*nodes(script.tree, ast.If, ast.IfExp)]
    for node in [*branches, *nodes(script.tree, ast.Try)]:
        if isinstance(node, ast.Try):
            there: Sequence[ast.AST] = node.body
            missing: Sequence[ast.AST] = [part for each in node.handlers for part in each.body]
        else:
            there, missing = ways(node) if not isinstance(node.test, ast.UnaryOp) else reversed(ways(node))
        sizes = {
            name
            for each in within(there)
            if isinstance(each, ast.Assign)
            and any(not called(read).startswith("torch.") for read in calls(each, *reads))
            for name in names_given(each)
        }
        both = [
            {name for each in within(part) if isinstance(each, ast.Assign) for name in names_given(each)}
            for part in (there, missing)
        ]
        asks = isinstance(node, ast.If | ast.IfExp) and any(calls(node.test, "exists", "is_file", "isfile"))
        counts = any(last_called(each) in reads for each in within(there))
        if not missing or not counts or stops(missing):
            continue
        if (
            asks
            and _table_in(script, missing)
            or sizes
            and both[0] & both[1]
            and _counts_bytes(script, both[0] & both[1])
        ):
            yield script.finding("B05", node, message)


def _counts_bytes(script: Script, names: set[str]) -> bool:
    """Whether one of these is called, or handed to a function of the script, in one that scores."""
    if not script.of("score"):
        return False
    own = [node for node in nodes(script.tree, ast.Call) if last_called(node) in script.flow.functions]
    return bool(names & {name for node in own for part in node.args for name in names_in(part)})


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
        scores = any(names_in(part) and "log(2" in ast.unparse(part) for part in nodes(function, ast.BinOp))
        if not scores and not _encoded(function, changed):
            continue
        for node in calls(function, "len"):
            inner = ast.unparse(node)
            within_it = any(
                _changes_text(script, each) and scores for each in nodes(node, ast.Call) if each is not node
            )
            if ".encode(" in inner and (names_in(node) & changed or within_it):
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
    writes = any(calls(script.tree, "tofile", "save", "write")) or any(
        any(calls(node, "tobytes")) for node in calls(script.tree, "write_bytes")
    )
    for function in functions(script) if writes else ():
        loops = [*nodes(function, ast.For, ast.comprehension)]
        texts = {name for loop in loops for name in names_in(loop.target)}
        handed = {each.arg for each in function.args.args}
        given_back = {line for node in nodes(function, ast.Return) for line in lines_of(node)}
        # What gives tokens back leaves their start to who asked for them.
        asked = not any(map(_has_start, functions(script)))
        encodes = [each for each in _encoded(function, texts) if asked or each.lineno not in given_back]
        if not encodes and asked and _called_in_loop(script, function.name):
            encodes = _encoded(function, handed)
        if encodes and not _has_start(function):
            message = "documents are written one behind the other, and no token says where one begins"
            yield script.finding("B07", encodes[0], message)


def _has_start(function: ast.FunctionDef) -> bool:
    return any(_marks_start(node, function) for node in ast.walk(function))


def _called_in_loop(script: Script, name: str) -> bool:
    """Whether a function is called for one text after the other."""
    return any(any(calls(loop, name)) for loop in nodes(script.tree, ast.For, ast.GeneratorExp, ast.ListComp))


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
    decoded_lengths,
    lossy_text,
    few_documents,
    without_ln2,
    silent_sidecar,
    transformed_bytes,
    no_document_starts,
)
COVERED = frozenset("B01 B02 B04 B05 B06 B07 B08 B09 B10 V13".split())
