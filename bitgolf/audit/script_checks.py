"""What a script would do, read from its syntax tree and the flow of its values; never run."""

import ast
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED, Finding
from bitgolf.audit.flow import BEFORE, GOLD, HASH, RANK, STREAM, VAL, Event, Flow, Frame, common, kinds
from bitgolf.audit.unwrap import Layer

FLOW_CODES = frozenset("V01 V02 V03 V04 V05 V06 V07 V09 V10 V11 V18".split())


class Script(NamedTuple):
    """A script that was opened and followed. events: of what it does, in order. printed: whether a log shows
    that lines of a branch ran which the script's own settings do not take.
    """

    name: str
    layers: list[Layer]
    events: list[Event]
    flow: Flow
    printed: Callable[[tuple[int, int]], bool] = lambda lines: False

    @property
    def inner(self) -> Layer:
        """What really runs."""
        return self.layers[-1]

    def at(self, place: int | ast.AST) -> str:
        """A line, or that of a node, for people."""
        line = place if isinstance(place, int) else getattr(place, "lineno", 0)
        return f"{self.inner.name}:{line}"


# A module or a tensor of one's own.
MADE = re.compile(r"^(?:torch\.)?(?:nn\.)?(?:[A-Z]\w*|zeros|randn|empty)\(")


def follow(name: str, layers: list[Layer], beside: list[ast.Module]) -> Script:
    """Follow an opened script and its own modules."""
    flow = Flow([*beside, layers[-1].tree])
    events = flow.run()
    return Script(name, layers, events, flow)


def check_script(script: Script) -> Iterator[Finding]:
    """All findings of a script."""
    for layer in script.layers:
        for line in layer.hidden:
            yield Finding(
                "K03",
                SUSPECTED,
                f"{layer.name}:{line}",
                "text is executed that is not in the script, or is packed in a way that is not known",
                "a script whose text can be read",
                "pack it as a literal with lzma, zlib or brotli",
            )
    if not any(event.kind == "score" for event in script.events) or not script.flow.whole:
        said = (
            "no score of validation tokens was found in the flow"
            if script.flow.whole
            else "too long to be followed"
        )
        for code in ("V04", "V05", "V06"):
            yield Finding(code, CANNOT_TELL, script.name, said, way_out="look by hand, or run the scorer")
    seen = set()
    for finding in (each for check in FLOW_CHECKS for each in check(script)):
        if (finding.code, finding.where) not in seen:
            seen.add((finding.code, finding.where))
            yield finding
    for pattern in TREE_CHECKS:
        yield from pattern(script)


def verdict(
    script: Script, event: Event, code: str, sure: str, found: str, expected: str, way: str
) -> Finding:
    """A finding at an event; what the script's settings turn off cannot be told, unless a log shows it."""
    if event.off and not script.printed(event.off):
        found = f"off by the script's own settings: {found}"
        sure = CANNOT_TELL
    return Finding(code, sure, script.at(event.line), found, expected, way)


# By the flow of values.


def learned_first(script: Script) -> Iterator[Finding]:
    """V04, V05, V06, V07: training on validation tokens, by what was scored and written before it."""
    events = script.events
    scores = [*kinds(events, "score")]
    writes = [event for event in kinds(events, "write") if not event.off]
    for train in kinds(events, "train"):
        if not train.value.has(VAL):
            continue
        roots = {root for root in train.value.roots if root != STREAM and not root.startswith(BEFORE)}
        beside = [event for event in scores if common(event, train)]
        before = [
            event for event in beside if event.value.born < train.time and not _is_loss_of(event, train)
        ]
        after = [event for event in beside if event.value.born > train.time]
        written = [event for event in writes if event.time > train.time]
        if train.value.roots and not roots and STREAM not in train.value.roots:
            continue  # an earlier turn of the loop has left these tokens, scored
        fresh = _is_fresh(script, train)
        if written and fresh and not after:
            continue  # something of its own is fitted; the model that is written does not have it
        said = "an optimizer steps on validation tokens"
        if written:
            yield verdict(
                script,
                train,
                "V06",
                FOUND,
                f"{said}, and the model is written after it (line {written[0].line})",
                "no validation token is read before the model is written",
                "adapt after packing, and only to what was scored",
            )
        elif not before and after:
            same = [event for event in after if roots & event.value.roots]
            yield verdict(
                script,
                train,
                "V05" if same else "V04",
                FOUND if same else SUSPECTED,
                f"{said} that are scored after it (line {(same or after)[0].line})",
                "a token is scored before anything is fitted to it",
                "score a chunk, then train on it",
            )
        elif not beside and any(event.value.born > train.time for event in scores):
            first = next(event for event in scores if event.value.born > train.time)
            code = "V07" if fresh else "V04"
            yield verdict(
                script,
                train,
                code,
                FOUND,
                f"{said}{', in a rehearsal,' if fresh else ''} before any is scored (line {first.line})",
                "synthetic tokens in a rehearsal" if fresh else "a token is scored before it is learned",
                "rehearse on random tokens" if fresh else "score a chunk, then train on it",
            )


def _is_loss_of(score: Event, train: Event) -> bool:
    """Whether a sum is no more than the loss of the training itself, kept for a log."""
    return score.loops == train.loops and score.time > train.time


def _is_fresh(script: Script, train: Event) -> bool:
    """Whether what is optimized is made where it is optimized, and is neither written nor scored."""
    scoring = {event.inside for event in kinds(script.events, "score")}
    for function in functions(script):
        if not function.lineno <= train.line <= (function.end_lineno or 0):
            continue
        nodes = [*ast.walk(function)]
        made = [
            node
            for node in nodes
            if isinstance(node, ast.Assign) and MADE.search(ast.unparse(node.value))
            if any(isinstance(target, ast.Name) and target.id == train.owner for target in node.targets)
        ]
        given = [
            node
            for node in nodes
            if isinstance(node, ast.Call)
            if called(node) == f"{train.owner}.state_dict"
            or called(node) in scoring
            and any(isinstance(each, ast.Name) and each.id == train.owner for each in node.args)
        ]
        if made and not given:
            return True
    return False


def hashed_ratio(script: Script) -> Iterator[Finding]:
    """V01, V02: counts at a hash of context and target by counts at a hash of the context."""
    for ratio in kinds(script.events, "ratio"):
        if not any(score.value.born and score.time > ratio.time for score in kinds(script.events, "score")):
            continue
        keys = ", ".join(sorted(ratio.value.keys))
        yield verdict(
            script,
            ratio,
            "V02",
            FOUND,
            f"a count is looked up under a hash of {keys}: the realised token is in the key",
            "a distribution over all tokens, fixed before the token is looked at",
            "count every token of the vocabulary in the context, and normalise",
        )
        yield verdict(
            script,
            ratio,
            "V01",
            FOUND,
            "the ratio of two hashed counts stands for a probability, for the realised token alone",
            "probabilities that sum to one",
            "normalise over the vocabulary, then mix",
        )


def counted_first(script: Script) -> Iterator[Finding]:
    """V03: counts of validation tokens that are complete before the tokens are scored."""
    counts = [event for event in kinds(script.events, "count") if event.value.has(VAL)]
    for look in kinds(script.events, "look"):
        filled = [event for event in counts if event.owner == look.owner and event.time < look.time]
        again = [event for event in filled if common(event, look)]
        if filled and not again and look.value.has(HASH):
            yield verdict(
                script,
                look,
                "V03",
                SUSPECTED,
                f"the table was filled with validation tokens by an earlier pass, at line {filled[0].line}",
                "one pass from left to right: a table holds only what was scored before",
                "look up, score, then count, chunk by chunk",
            )


def gate_by_outcome(script: Script) -> Iterator[Finding]:
    """V09."""
    for mix in kinds(script.events, "mix"):
        if mix.value.has(GOLD) and mix.value.has(VAL):
            yield verdict(
                script,
                mix,
                "V09",
                SUSPECTED,
                "the weight of a mixture is computed from the probability of the realised token",
                "a weight that is known before the token is",
                "take it from the whole distribution, or from tokens before",
            )


def spread_over_bytes(script: Script) -> Iterator[Finding]:
    """V10."""
    for share in kinds(script.events, "share"):
        yield verdict(
            script,
            share,
            "V10",
            SUSPECTED,
            "a token's log-probability is divided by its bytes and put together with another predictor's",
            "a distribution over tokens that sums to one",
            "sum the probabilities of all tokens that begin with a byte",
        )


def cut_validation(script: Script) -> Iterator[Finding]:
    """V11."""
    for cut in kinds(script.events, "cut"):
        number = cut.value.number or 0
        sure = SUSPECTED if cut.value.set or not _is_final(script, cut) else FOUND
        yield verdict(
            script,
            cut,
            "V11",
            sure,
            f"validation tokens are cut at {number:,.0f}",
            "all of them are scored",
            "score the whole split, or name the part beside the score",
        )


def _is_final(script: Script, cut: Event) -> bool:
    return any(score.time > cut.time for score in kinds(script.events, "score"))


def one_process(script: Script) -> Iterator[Finding]:
    """V18: scores by rank that nobody adds up."""
    scores = [event for event in kinds(script.events, "score") if event.value.has(RANK)]
    if not scores:
        return
    last = max(scores, key=lambda event: event.time)
    sums = [event for event in kinds(script.events, "gather") if event.time > last.time]
    if not sums:
        yield verdict(
            script,
            last,
            "V18",
            SUSPECTED,
            "each process scores its share, and no sum over processes follows",
            "an all_reduce of the sums",
            "add up losses, tokens and bytes of all processes",
        )


FLOW_CHECKS = (
    learned_first,
    hashed_ratio,
    counted_first,
    gate_by_outcome,
    spread_over_bytes,
    cut_validation,
    one_process,
)

# By patterns of the tree.


def called(node: ast.AST) -> str:
    """The dotted name of what a node calls; empty for another node."""
    return ast.unparse(node.func) if isinstance(node, ast.Call) else ""


def functions(script: Script) -> Iterator[ast.FunctionDef]:
    """All functions of what runs."""
    return (node for node in ast.walk(script.inner.tree) if isinstance(node, ast.FunctionDef))


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
        plain = [node for node in ast.walk(function) if _is_length_plus_one(node)]
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
    return any(
        isinstance(node, ast.If)
        and any(isinstance(each, ast.Name) and each.id in names for each in ast.walk(node.test))
        and any(isinstance(each, ast.Raise) for each in ast.walk(node))
        for node in ast.walk(script.inner.tree)
    )


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


def narrow_average(script: Script) -> Iterator[Finding]:
    """T01: sums of weights in a 16-bit type."""
    for function in functions(script):
        kept = {
            target.id
            for node in ast.walk(function)
            if isinstance(node, ast.Assign) and _is_narrow_copy(node.value)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(function):
            held: ast.expr | None = None
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                held = node.target
            elif isinstance(node, ast.Call) and called(node).rpartition(".")[2] in ("add_", "lerp_"):
                held = node.func
            if held is not None and any(
                isinstance(each, ast.Name) and each.id in kept for each in ast.walk(held)
            ):
                yield Finding(
                    "T01",
                    FOUND,
                    script.at(node),
                    "weights are summed in a 16-bit type",
                    "float32 sums",
                    "keep averages in float32",
                )


def _is_narrow_copy(node: ast.expr) -> bool:
    text = ast.unparse(node)
    narrow = any(word in text for word in (".bfloat16()", ".half()", "torch.bfloat16", "torch.float16"))
    return isinstance(node, ast.DictComp) and narrow and (".items()" in text or "parameters()" in text)


def folded_flag(script: Script) -> Iterator[Finding]:
    """T04: a class attribute that is off when the model is compiled, and set later."""
    tree = script.inner.tree
    defaults: dict[tuple[str, str], int] = {}
    read: set[str] = set()
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for item in kind.body:
            targets = (
                item.targets
                if isinstance(item, ast.Assign)
                else ([item.target] if isinstance(item, ast.AnnAssign) and item.value else [])
            )
            value = item.value if isinstance(item, ast.Assign | ast.AnnAssign) else None
            if isinstance(value, ast.Constant) and value.value is False:
                names = [each.id for each in targets if isinstance(each, ast.Name)]
                defaults |= {(kind.name, name): item.lineno for name in names}
        for forward in (
            each for each in kind.body if isinstance(each, ast.FunctionDef) and each.name == "forward"
        ):
            tests = [node.test for node in ast.walk(forward) if isinstance(node, ast.If | ast.IfExp)]
            read |= {
                each.attr for test in tests for each in ast.walk(test) if isinstance(each, ast.Attribute)
            }
    compiles = [node for node in ast.walk(tree) if called(node) == "torch.compile"]
    resets = [
        node for node in ast.walk(tree) if called(node) in ("torch._dynamo.reset", "torch.compiler.reset")
    ]
    whole = [
        node for node in compiles if isinstance(node, ast.Call) and node.args and _is_model(node.args[0])
    ]
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute) and whole):
            continue
        target = node.targets[0]
        owner = target.value.id if isinstance(target.value, ast.Name) else ""
        is_on = isinstance(node.value, ast.Constant) and node.value.value is True
        if is_on and (owner, target.attr) in defaults and target.attr in read:
            again = [each for each in resets if abs(each.lineno - node.lineno) < 20]  # type: ignore[attr-defined]
            if not again:
                yield Finding(
                    "T04",
                    SUSPECTED,
                    script.at(node),
                    f"{owner}.{target.attr} is set after torch.compile has read it as False",
                    "a graph that sees the flag: the compiler takes class attributes for constants",
                    "compile again after setting it, or keep the flag in a tensor",
                )
                return


def _is_model(node: ast.expr) -> bool:
    """A thing that is compiled whole, not one function of the module's top."""
    return isinstance(node, ast.Name | ast.Attribute) and "newton" not in ast.unparse(node).lower()


def late_environment(script: Script) -> Iterator[Finding]:
    """T06."""
    imported = 0
    for node in script.inner.tree.body:
        if isinstance(node, ast.Import) and any(alias.name == "torch" for alias in node.names):
            imported = imported or node.lineno
        if not (imported and isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript)):
            continue
        text = ast.unparse(node.targets[0])
        if text.startswith("os.environ[") and any(
            word in text for word in ("PYTORCH_", "CUDA_VISIBLE", "CUDA_LAUNCH", "OMP_NUM")
        ):
            yield Finding(
                "T06",
                SUSPECTED,
                script.at(node),
                f"{text} is set after torch was imported at line {imported}",
                "before the import, which reads it",
                "set it at the top",
            )


def one_process_collective(script: Script) -> Iterator[Finding]:
    """T18: a collective call that one process alone makes."""
    names = ("all_reduce", "all_gather", "barrier", "broadcast", "reduce_scatter_tensor")
    for node in ast.walk(script.inner.tree):
        if not (isinstance(node, ast.If) and isinstance(node.test, ast.Compare) and not node.orelse):
            continue
        test = ast.unparse(node.test)
        if test not in (
            "rank == 0",
            "dist.get_rank() == 0",
            "self.rank == 0",
            "local_rank == 0",
            "h.rank == 0",
        ):
            continue
        for each in (inner for statement in node.body for inner in ast.walk(statement)):
            if called(each).startswith(("dist.", "torch.distributed.")) and called(each).endswith(names):
                yield Finding(
                    "T18",
                    FOUND,
                    script.at(each),
                    f"{called(each)} stands under `if {test}`",
                    "every process makes every collective call",
                    "take it out of the branch",
                )


def forgotten_parameters(script: Script) -> Iterator[Finding]:
    """T14: parts of the model that no optimizer is given, where the parts are named one by one."""
    tree = script.inner.tree
    kinds_of = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    holders = {name for name, node in kinds_of.items() if _holds_parameters(node, kinds_of, 0)}
    model = max(
        (node for name, node in kinds_of.items() if name in holders and _has_blocks(node)),
        key=lambda node: (node.end_lineno or 0) - node.lineno,
        default=None,
    )
    if model is None:
        return
    parts: dict[str, int] = {}
    off = [
        range(node.body[0].lineno, (node.body[-1].end_lineno or 0) + 1)
        for node in ast.walk(model)
        if isinstance(node, ast.If) and script.flow.truth(node.test, Frame(model.name)) is False
    ]
    for node in ast.walk(model):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).startswith("self."):
            kind = called(node.value).rpartition(".")[2]
            if any(node.lineno in lines for lines in off):
                continue
            if kind in ("Parameter", "Embedding", "Linear") or kind in holders:
                parts.setdefault(ast.unparse(node.targets[0])[5:], node.lineno)
    adapting = {event.inside for event in kinds(script.events, "train")}
    inside = range(model.lineno, (model.end_lineno or model.lineno) + 1)
    builders = [
        function
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.ClassDef)
        and function is not model
        and function.lineno not in inside
        and _builds_optimizers(function)
        and function.name not in adapting
    ]
    if not builders:
        return
    used = {
        each.attr for function in builders for each in ast.walk(function) if isinstance(each, ast.Attribute)
    }
    texts = {
        each.value
        for function in builders
        for each in ast.walk(function)
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    }
    if not used & {"blocks"} or any(_takes_all(function) for function in builders):
        return  # all of them at once, or in a way that is not read here
    for name, line in parts.items():
        if name not in used and not any(name in text for text in texts):
            yield Finding(
                "T14",
                SUSPECTED,
                script.at(line),
                f"`{name}` has parameters, and no optimizer is given them",
                "every parameter in one group",
                "add it to a group, or say that it stays as it starts",
            )


def _holds_parameters(node: ast.ClassDef, kinds_of: dict[str, ast.ClassDef], depth: int) -> bool:
    for each in ast.walk(node):
        kind = called(each).rpartition(".")[2]
        if kind in ("Parameter", "Embedding", "Linear"):
            return True
        inner = kinds_of.get(kind) if kind != node.name and depth < 3 else None
        if inner and _holds_parameters(inner, kinds_of, depth + 1):
            return True
    return any(ast.unparse(base).endswith(("Linear", "Embedding")) for base in node.bases)


def _has_blocks(node: ast.ClassDef) -> bool:
    return any(
        isinstance(each, ast.Attribute) and each.attr == "blocks" and isinstance(each.ctx, ast.Store)
        for each in ast.walk(node)
    )


def _builds_optimizers(node: ast.AST) -> bool:
    return any(called(each).startswith("torch.optim.") or called(each) == "Muon" for each in ast.walk(node))


def _takes_all(node: ast.AST) -> bool:
    """Whether the whole model's parameters are asked for where groups are made."""
    for each in ast.walk(node):
        name = called(each)
        if name.endswith((".named_parameters", ".parameters")):
            owner = name.rpartition(".")[0]
            if owner in ("model", "base_model", "self", "net", "raw_model", "compiled_model"):
                inside = [
                    loop
                    for loop in ast.walk(node)
                    if isinstance(loop, ast.For | ast.comprehension | ast.Call) and _has(loop, each)
                ]
                if any(_fills_groups(loop) for loop in inside):
                    return True
    return False


def _has(outer: ast.AST, node: ast.AST) -> bool:
    return any(each is node for each in ast.walk(outer))


def _fills_groups(node: ast.AST) -> bool:
    """A loop that appends parameters, or an optimizer that is given them."""
    if isinstance(node, ast.Call):
        return called(node).startswith("torch.optim.") or called(node) == "Muon"
    return isinstance(node, ast.For) and any(called(each).endswith(".append") for each in ast.walk(node))


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


def seed_search(script: Script) -> Iterator[Finding]:
    """K14: a loop over seeds that keeps the best."""
    for node in ast.walk(script.inner.tree):
        if not isinstance(node, ast.For):
            continue
        seeded = any(called(each).endswith("manual_seed") for each in ast.walk(node))
        compares = [
            each
            for each in ast.walk(node)
            if isinstance(each, ast.If)
            and isinstance(each.test, ast.Compare)
            and isinstance(each.test.ops[0], ast.Lt)
        ]
        varies = isinstance(node.target, ast.Name) and any(
            called(each).endswith("manual_seed")
            and isinstance(each, ast.Call)
            and any(isinstance(part, ast.Name) and part.id == node.target.id for part in ast.walk(each))
            for each in ast.walk(node)
        )
        if seeded and varies and compares:
            yield Finding(
                "K14",
                SUSPECTED,
                script.at(node),
                "a loop tries seeds and keeps the better",
                "seeds named in advance, all of them reported",
                "report the mean over all seeds",
            )


TREE_CHECKS = (
    byte_tables,
    silent_fallback,
    binary_megabytes,
    outside_code,
    narrow_average,
    folded_flag,
    late_environment,
    one_process_collective,
    forgotten_parameters,
    lossy_text,
    few_documents,
    seed_search,
)
COVERED = FLOW_CODES | frozenset("B01 B02 B04 B08 B09 K02 K03 K04 K14 T01 T04 T06 T14 T18 V13".split())
