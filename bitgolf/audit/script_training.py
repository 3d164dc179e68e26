"""What goes wrong in a script's training without an error: flags, gradients, processes, seeds, cards."""

import ast
import re
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, SUSPECTED, Finding
from bitgolf.audit.library import COLLECTIVES
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    base_of,
    called,
    calls,
    calls_of,
    decorated,
    imported,
    last_called,
    lines_of,
    methods,
    names_in,
    nodes,
    own_nodes,
    stops,
    turned_over,
    walked,
)
from bitgolf.audit.values import FROZEN, GRAD, RANK, TRAIN, WEIGHTS, common


def folded_flag(script: Script) -> Iterator[Finding]:
    """T04: a switch outside the module's objects that is off when the model is compiled, and set later."""
    compiled = [
        node
        for node in calls(script.tree, "compile", "trace")
        if script.flow.library(node) in ("", "torch")  # no `re.compile`
    ]
    whole = any(_is_model(node.args[:1]) for node in compiled)
    if not whole and not decorated(script.tree, "torch.compile"):
        return
    flags = _shared_flags(script.tree)
    read = {
        ast.unparse(each)
        for function in [
            *(each for kind in nodes(script.tree, ast.ClassDef) for each in methods(kind)),
            *script.within_reach(*(part for node in compiled for part in node.args[:1])),
        ]
        for node in nodes(function, ast.If, ast.IfExp)
        for each in nodes(node.test, ast.Attribute, ast.Subscript, ast.Name)
    }
    read |= {
        f"{kind}.{flag}"
        for kind, flag in (each.split(".") for each in flags if each.count(".") == 1)
        if {f"self.{flag}", f"cls.{flag}", f"type(self).{flag}", f"{kind}.{flag}"} & read
    }
    resets = [node.lineno for node in nodes(script.tree, ast.Call) if called(node) in RESETS]
    for function in functions(script):
        shared = {name for node in nodes(function, ast.Global) for name in node.names}
        outside = function is script.flow.outside
        turned = {id(each) for loop in nodes(function, ast.For, ast.While) for each in walked(loop)}
        for node, flag, value in _flags_given(function):
            own = not flag.isidentifier() or flag in shared or outside
            again = any(abs(line - node.lineno) < 20 for line in resets)
            later = not _is_constant(value, False) if id(node) in turned else _is_constant(value, True)
            if own and flag in flags & read and not again and later:
                yield script.finding("T04", node, f"{flag} is set after torch.compile has read it as False")
                return


RESETS = ("torch._dynamo.reset", "torch.compiler.reset")


def _flags_given(function: ast.AST) -> Iterator[tuple[ast.Assign | ast.Call, str, ast.expr]]:
    """What is set to what: by an assignment, setattr, or update of a dictionary."""
    for node in nodes(function, ast.Assign, ast.Call):
        match node:
            case ast.Assign():
                yield node, ast.unparse(node.targets[0]), node.value
            case ast.Call(func=ast.Name("setattr"), args=[held, ast.Constant(str() as name), value]):
                yield node, f"{ast.unparse(held)}.{name}", value
            case ast.Call(func=ast.Attribute(value=held, attr="update"), keywords=words):
                yield from ((node, f"{ast.unparse(held)}[{each.arg!r}]", each.value) for each in words)


def _shared_flags(tree: ast.Module) -> set[str]:
    """Class attributes, names of the whole script and entries of its dictionaries that begin as False."""
    flags: set[str] = set()
    scopes: list[ast.Module | ast.ClassDef] = [tree, *nodes(tree, ast.ClassDef)]
    for kind in scopes:
        prefix = f"{kind.name}." if isinstance(kind, ast.ClassDef) else ""
        for item in kind.body:
            if not isinstance(item, ast.Assign | ast.AnnAssign):
                continue
            targets = item.targets if isinstance(item, ast.Assign) else [item.target]
            names = [prefix + ast.unparse(each) for each in targets]
            if _is_constant(item.value, False):
                flags |= {*names}
            elif isinstance(item.value, ast.List):
                places = [i for i, each in enumerate(item.value.elts) if _is_constant(each, False)]
                flags |= {f"{name}[{i}]" for name in names for i in places}
            elif isinstance(item.value, ast.Dict):
                flags |= {
                    f"{name}[{ast.unparse(key)}]"
                    for name in names
                    for key, value in zip(item.value.keys, item.value.values)
                    if key is not None and _is_constant(value, False)
                }
    return flags


def _is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_model(given: list[ast.expr]) -> bool:
    """A thing that is compiled whole, not one function of the module's top."""
    return any(
        isinstance(node, ast.Name | ast.Attribute) and "newton" not in ast.unparse(node).lower()
        for node in given
    )


def late_environment(script: Script) -> Iterator[Finding]:
    """T06: settings that torch reads while it is imported, given after that."""
    imports = [node.lineno for node in script.tree.body if "torch" in imported(node)]
    for node in nodes(script.tree, ast.Assign, ast.Call) if imports else ():
        given: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            given = [
                each for each in node.targets if ast.unparse(each).startswith(("os.environ[", "environ["))
            ]
        elif called(node).endswith(("environ.setdefault", "environ.update", "os.putenv")):
            given = [*node.args, *(word.value for word in node.keywords)]
            given += [ast.Constant(word.arg) for word in node.keywords if word.arg]
        for each in given if node.lineno > min(imports) else ():
            turns = turned_over(script.tree, names_in(each))
            if named := IMPORT_TIME.search(" ".join(map(ast.unparse, [each, *turns]))):
                message = f"{named[0]} is set after torch was imported at line {min(imports)}"
                yield script.finding("T06", node, message)
                break


IMPORT_TIME = re.compile(r"\b(?:PYTORCH_|CUDA_VISIBLE|CUDA_LAUNCH|OMP_NUM|TORCHINDUCTOR_)\w*")


def one_process_collective(script: Script) -> Iterator[Finding]:
    """T18: a collective call that some processes alone make, before they have parted."""
    parted = [(event, function) for event in script.of("parted") for function in functions(script)]
    for event in script.of("alone"):
        left = int(event.way)
        if any(
            each.time < event.time and each.line < left and {each.line, left} <= {*lines_of(function)}
            for each, function in parted
        ):
            continue
        message = f"a collective call that not all processes come to ({script.line(left)})"
        yield script.finding("T18", event, message)


def seed_search(script: Script) -> Iterator[Finding]:
    """K14: a loop over seeds that keeps the best."""
    if not any(calls(script.tree, *SEEDS)):
        return
    seeding = [each for each in functions(script) if any(calls(each, *SEEDS)) and each.args.args]
    for function in [*functions(script), script.tree]:
        for node in nodes(function, ast.For):
            given = [part for each in (*calls(node, *SEEDS), *calls_of(node, *seeding)) for part in each.args]
            if not any(names_in(node.target) & names_in(part) for part in given):
                continue
            tests = [test for each in nodes(node, ast.If) for test in nodes(each.test, ast.Compare)]
            compares = any(isinstance(test.ops[0], ast.Lt | ast.Gt) for test in tests)
            kept = {base_of(each.func)[: -len(".append")] for each in calls(node, "append")}
            kept |= {base_of(each) for each in nodes(node, ast.Subscript) if isinstance(each.ctx, ast.Store)}
            asks = [each for each in own_nodes(function) if last_called(each) in PICKS]
            if compares or any(kept & names_in(each) for each in asks):
                yield script.finding("K14", node, "seeds are tried, and the best is kept")
                return


PICKS = ("min", "sorted", "argmin", "nsmallest")
SEEDS = ("manual_seed", "seed", "manual_seed_all", "seed_all", "set_seed")


RUNS = ("subprocess.run", "subprocess.call", "os.system")
KERNELS = {"flash_attn", "flash_attn_interface", "flash_attn_3", "xformers", "transformer_engine"}
KERNELS |= {"cut_cross_entropy"}


def frozen_training(script: Script) -> Iterator[Finding]:
    """T16: training where no gradient is kept, or through a tensor of which not even a version is."""
    for each in script.of("frozen"):
        message = "a tensor of inference_mode is taken where gradients are needed"
        if each.value.has(FROZEN):
            message = "a backward pass where no gradients are kept"
        yield script.finding("T16", each, message, sure=FOUND if each.way == "here" else SUSPECTED)


AVERAGING = {"DistributedDataParallel", "DDP", "fully_shard", "FSDP", "FullyShardedDataParallel"}
AVERAGING |= {"register_hook", "register_comm_hook", "register_post_accumulate_grad_hook"}


def unaveraged_gradients(script: Script) -> Iterator[Finding]:
    """T18: each process learns from its own share, and nobody averages."""
    if any(calls(script.tree, *AVERAGING)):
        return
    for train in script.of("train", RANK):
        averaged = any(common(each, train) for each in script.of("gather"))
        # A copy for each document is no shared model.
        restored = any(each.time < train.time and common(each, train) for each in script.of("load"))
        if not averaged and not restored:
            message = "each process adapts its own copy of the model to its own share"
            yield script.finding("T18", train, message)
            return
    kinds = [node for node in nodes(script.tree, ast.ClassDef) if any(calls(node, *COLLECTIVES))]
    optimizers = [node for node in kinds if any("Optimizer" in ast.unparse(base) for base in node.bases)]
    fits = script.of("fit", RANK, TRAIN)
    for fit in fits:
        averaged = any(
            common(each, fit) and each.value.marks & {GRAD, WEIGHTS} for each in script.of("gather")
        )
        # A warm-up whose weights are put back does no harm.
        undone = any(each.time > fit.time for each in script.of("load")) and fit is not fits[-1]
        if not optimizers and fit.loops and not averaged and not undone:
            yield script.finding("T18", fit, "each process learns from its own share, and nobody averages")
            return


def unchecked_runs(script: Script) -> Iterator[Finding]:
    """T21: options that nobody knows are swallowed; a program that fails is not noticed."""
    tests = [*nodes(script.tree, ast.If, ast.Raise, ast.Assert)]
    for node in calls(script.tree, "parse_known_args"):
        others = {
            ast.unparse(each.targets[0].elts[-1])
            for each in nodes(script.tree, ast.Assign)
            if each.value is node and isinstance(each.targets[0], ast.Tuple)
        } - {"_"}
        if not any(others & names_in(each) for each in tests):
            yield script.finding("T21", node, "options that nobody knows are passed over")
    for loop in nodes(script.tree, ast.For):
        asked = [test for test in nodes(loop, ast.Compare) if isinstance(test.ops[0], ast.In | ast.NotIn)]
        if asked and "sys.argv" in ast.unparse(loop.iter) and not stops(loop.body):
            yield script.finding("T21", asked[0], "arguments that nobody knows are passed over")
    for each in nodes(script.tree, ast.Expr):  # what it gives back is not kept
        text = ast.unparse(each) if called(each.value) in RUNS else "check=True"
        starts = any(word in text for word in ("torchrun", "train", "sys.executable", ".py"))
        if starts and "check=True" not in text:
            message = f"{called(each.value)} starts a run, and nobody looks whether it failed"
            yield script.finding("T21", each, message)


def own_card_only(script: Script) -> Iterator[Finding]:
    """T20: kernels that a card or a version may not have, without another way."""
    branches = [*nodes(script.tree, ast.If, ast.IfExp)]
    guarded = {id(inner) for node in (*branches, *nodes(script.tree, ast.Try)) for inner in walked(node)}
    tests = [node.test for node in (*branches, *nodes(script.tree, ast.Assert))]
    asks_version = any("version" in ast.unparse(test) for test in tests)
    for node in nodes(script.tree, ast.Import, ast.ImportFrom):
        needed = [name for name in imported(node) if name.partition(".")[0] in KERNELS]
        if needed and id(node) not in guarded:
            message = f"{needed[0]} is needed, and nothing stands in where it is missing"
            yield script.finding("T20", node, message)
    for word in nodes(script.tree, ast.keyword):
        needs_card = word.arg == "enable_gqa" and ast.unparse(word.value) != "False"
        if needs_card and id(word) not in guarded and not asks_version:
            yield script.finding("T20", word.value, "enable_gqa is not there before torch 2.5")


CHECKS = (
    folded_flag,
    late_environment,
    one_process_collective,
    seed_search,
    frozen_training,
    unaveraged_gradients,
    unchecked_runs,
    own_card_only,
)
COVERED = frozenset("K14 T04 T06 T16 T18 T20 T21".split())
