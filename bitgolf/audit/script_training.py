"""What goes wrong in a script's training without an error: averages, flags, parameters, processes, seeds."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.flow import OPTIMIZERS
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    called,
    calls,
    imported,
    last_called,
    lines_of,
    methods,
    names_given,
    names_in,
    nodes,
    within,
)
from bitgolf.audit.values import TRAIN, VAL, Frame, constant


def narrow_average(script: Script) -> Iterator[Finding]:
    """T01: sums of weights in a 16-bit type."""
    for part in [*nodes(script.tree, ast.ClassDef), *functions(script)]:
        weights = {
            name
            for loop in nodes(part, ast.For, ast.comprehension)
            if any(word in ast.unparse(loop.iter) for word in WEIGHTS)
            for name in names_in(loop.target)
        }
        given = [*nodes(part, ast.Assign)]
        kept: set[str] = set()
        for _ in range(3):  # from a copy to what is made of it
            kept |= {
                base
                for node in given
                if _is_narrow(node.value, weights, kept)
                for target in node.targets
                if (base := _base(target)).partition(".")[0] not in weights
            }
        for node in ast.walk(part):
            held: ast.expr | None = None
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                held = node.target
            elif isinstance(node, ast.Call) and last_called(node) in ("add_", "lerp_"):
                held = node.func
            elif last_called(node) in ("_foreach_add_", "_foreach_lerp_") and isinstance(node, ast.Call):
                held = node.args[0]
            elif isinstance(node, ast.Assign) and len(node.targets) == 1:
                sums = [each for each in nodes(node.value, ast.BinOp) if isinstance(each.op, ast.Add)]
                own = _base(node.targets[0])
                if any(own in (_base(each.left), _base(each.right)) for each in sums):
                    held = node.targets[0]
            if held is not None and _base(held) in kept:
                yield script.finding("T01", node, "weights are summed in a 16-bit type", sure=FOUND)
                return


WEIGHTS = ("state_dict()", "parameters()")
NARROW = (".bfloat16()", ".half()", "bfloat16", "float16")
WIDE = (".float()", ".double()", "float32", "float64")


def _is_narrow(node: ast.expr, weights: set[str], kept: set[str]) -> bool:
    """Whether weights become 16-bit numbers here, or copies of such are kept as they are."""
    text = ast.unparse(node)
    if any(word in text for word in WIDE):
        return False
    over = weights & names_in(node) or any(word in text for word in WEIGHTS)
    copies = {_base(each) for each in nodes(node, ast.Name, ast.Attribute)} & kept
    return bool(
        over and any(word in text for word in NARROW) or copies and ("clone" in text or "copy" in text)
    )


def _base(node: ast.expr) -> str:
    """What an expression hangs on, without places and calls: `self.sums` of `self.sums[n].add_`."""
    while isinstance(node, ast.Subscript | ast.Call) or (
        isinstance(node, ast.Attribute) and isinstance(node.value, ast.Subscript | ast.Call)
    ):
        node = node.func if isinstance(node, ast.Call) else node.value
    if isinstance(node, ast.Attribute) and node.attr.endswith("_"):
        node = node.value
    return ast.unparse(node)


def folded_flag(script: Script) -> Iterator[Finding]:
    """T04: a switch outside the module's objects that is off when the model is compiled, and set later."""
    compiled = [node for node in nodes(script.tree, ast.Call) if called(node).endswith("compile")]
    decorated = [
        node
        for node in nodes(script.tree, ast.FunctionDef, ast.ClassDef)
        if any(ast.unparse(each).startswith("torch.compile") for each in node.decorator_list)
    ]
    if not decorated and not any(_is_model(node.args[:1]) for node in compiled):
        return
    flags = _shared_flags(script.tree)
    read = {
        ast.unparse(each)
        for kind in nodes(script.tree, ast.ClassDef)
        for method in methods(kind)
        for node in nodes(method, ast.If, ast.IfExp)
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
        for node in nodes(function, ast.Assign):
            flag = ast.unparse(node.targets[0])
            own = not isinstance(node.targets[0], ast.Name) or flag in shared
            again = any(abs(line - node.lineno) < 20 for line in resets)
            if any(node is each for loop in nodes(function, ast.For, ast.While) for each in ast.walk(loop)):
                later = not _is_constant(node.value, False)
            else:
                later = _is_constant(node.value, True)
            if own and flag in flags & read and not again and later:
                yield script.finding("T04", node, f"{flag} is set after torch.compile has read it as False")
                return


RESETS = ("torch._dynamo.reset", "torch.compiler.reset")


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
            names = [prefix + each.id for each in targets if isinstance(each, ast.Name)]
            if _is_constant(item.value, False):
                flags |= {*names}
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
            turns = [
                loop.iter for loop in nodes(script.tree, ast.For) if names_in(loop.target) & names_in(each)
            ]
            listed = {name for turn in turns for name in names_in(turn)}
            made = [node for node in nodes(script.tree, ast.Assign) if names_given(node) & listed]
            if named := IMPORT_TIME.search(" ".join(map(ast.unparse, [each, *turns, *made]))):
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


def forgotten_parameters(script: Script) -> Iterator[Finding]:
    """T14: parts of the model that no optimizer is given, where the parts are named one by one."""
    kinds_of = {node.name: node for node in nodes(script.tree, ast.ClassDef)}
    holders = {name for name, node in kinds_of.items() if _holds_parameters(node, kinds_of, 0)}
    adapting = {event.inside for event in script.of("train")}
    builders = [
        function
        for function in nodes(script.tree, ast.FunctionDef)
        if any(_makes_optimizer(script, node) for node in ast.walk(function))
        and function.name not in adapting
    ]
    used = {each.attr for each in within(builders) if isinstance(each, ast.Attribute)}
    texts = [each.value for each in within(builders) if isinstance(each, ast.Constant)]
    asked = {name for builder in builders for name in _asked(builder)}
    for model in (kinds_of[name] for name in holders):
        parts = _parts(script, model, holders)
        set_here = {each.attr for each in nodes(model, ast.Attribute) if isinstance(each.ctx, ast.Store)}
        if not set_here & asked or any(_takes_all(script, each) for each in builders):
            continue  # not named one by one, or in a way that is not read here
        for name, line in parts.items():
            if name not in used and not any(isinstance(text, str) and name in text for text in texts):
                message = f"`{name}` has parameters, and no optimizer is given them"
                yield script.finding("T14", line, message)


def _asked(builder: ast.AST) -> Iterator[str]:
    """The parts of a model whose parameters are asked for."""
    for node in calls(builder, "parameters", "named_parameters"):
        match node.func:
            case ast.Attribute(value=ast.Attribute(attr=part)):
                yield part


def _parts(script: Script, model: ast.ClassDef, holders: set[str]) -> dict[str, int]:
    """What a model holds parameters in, by name, and the line where; not what its settings leave out."""
    off = {
        line
        for node in nodes(model, ast.If)
        if script.flow.truth(node.test, Frame(model.name)) is False
        for each in node.body
        for line in lines_of(each)
    }
    parts: dict[str, int] = {}
    for node in nodes(model, ast.Assign):
        held = ast.unparse(node.targets[0])
        if (
            held.startswith("self.")
            and last_called(node.value) in LAYERS | holders
            and node.lineno not in off
        ):
            parts.setdefault(held[5:], node.lineno)
    return parts


LAYERS = {"Parameter", "Embedding", "Linear"}


def _holds_parameters(node: ast.ClassDef, kinds_of: dict[str, ast.ClassDef], depth: int) -> bool:
    for each in nodes(node, ast.Call):
        kind = last_called(each)
        inner = kinds_of.get(kind) if kind != node.name and depth < 3 else None
        if kind in LAYERS or inner and _holds_parameters(inner, kinds_of, depth + 1):
            return True
    return any(ast.unparse(base).endswith(("Linear", "Embedding")) for base in node.bases)


def _makes_optimizer(script: Script, node: ast.AST) -> bool:
    """A call of one of torch's optimizers, or of one's own."""
    own = script.flow.classes.get(called(node))
    return last_called(node) in OPTIMIZERS or bool(
        own and any("Optimizer" in ast.unparse(base) for base in own.bases)
    )


def _takes_all(script: Script, builder: ast.AST) -> bool:
    """Whether the parameters of something whole are asked for where groups are made, not to count them."""
    return any(
        isinstance(each, ast.Call)
        and isinstance(each.func, ast.Attribute)
        and isinstance(each.func.value, ast.Name)
        and each.func.attr in ("parameters", "named_parameters")
        for node in nodes(builder, ast.For, ast.Call, ast.Assign, ast.AugAssign)
        if _makes_optimizer(script, node)
        or isinstance(node, ast.Assign | ast.AugAssign)
        and any(nodes(node.value, ast.ListComp))
        and "numel" not in ast.unparse(node.value)
        or isinstance(node, ast.For)
        and any(called(each).endswith(".append") for each in ast.walk(node))
        for each in ast.walk(node)
    )


def seed_search(script: Script) -> Iterator[Finding]:
    """K14: a loop over seeds that keeps the best."""
    if not any(calls(script.tree, *SEEDS)):
        return
    seeding = [each.name for each in functions(script) if any(calls(each, *SEEDS)) and each.args.args]
    for function in [*functions(script), script.tree]:
        for node in nodes(function, ast.For):
            if not names_in(node.target) & within_calls(node, *SEEDS, *seeding):
                continue
            compares = any(
                isinstance(each.test, ast.Compare) and isinstance(each.test.ops[0], ast.Lt | ast.Gt)
                for each in nodes(node, ast.If)
            )
            kept = {_base(each.func)[: -len(".append")] for each in calls(node, "append")}
            kept |= {_base(each) for each in nodes(node, ast.Subscript) if isinstance(each.ctx, ast.Store)}
            if compares or kept & within_calls(function, "min", "sorted", "argmin", "nsmallest"):
                yield script.finding("K14", node, "seeds are tried, and the best is kept")
                return


SEEDS = ("manual_seed", "seed", "manual_seed_all", "seed_all", "set_seed")


def within_calls(tree: ast.AST, *names: str) -> set[str]:
    """The plain names in what these calls are given."""
    return {name for each in calls(tree, *names) for part in each.args for name in names_in(part)}


def validation_in_training(script: Script) -> Iterator[Finding]:
    """V14: a pattern of files to train on that the validation shards fit too."""
    if script.of("fit", TRAIN) or not script.of("fit"):
        return
    constants = nodes(script.tree, ast.Constant)
    texts = [(each, each.value) for each in constants if isinstance(each.value, str) and "*" in each.value]
    shards = [Path(text).name for _, text in texts if constant(text).has(VAL) and " " not in text]
    chosen = {
        id(node) for each in nodes(script.tree, ast.comprehension) if each.ifs for node in ast.walk(each)
    }
    globs = [(node, scope) for node, scope in script.reach.all(ast.Call) if last_called(node) in GLOBS]
    for node, text in texts if shards else ():
        pattern = Path(text).name
        fits = [each for each in shards if fnmatch(each.replace("*", "0"), pattern)]
        if not fits or constant(text).has(VAL) or Path(fits[0]).suffix != Path(pattern).suffix:
            continue
        carried = script.reach.carries(node)
        for call, scope in globs:
            if id(call) not in chosen and any(carried.by(part, scope) for part in call.args):
                yield script.finding("V14", call, f"{pattern} is trained on, and {fits[0]} is among it")


GLOBS = {"glob", "rglob", "iglob"}


CHECKS = (
    validation_in_training,
    narrow_average,
    folded_flag,
    late_environment,
    one_process_collective,
    forgotten_parameters,
    seed_search,
)
COVERED = frozenset("K14 T01 T04 T06 T14 T18".split())
