"""What goes wrong in a script's training without an error: averages, flags, parameters, processes, seeds."""

import ast
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import called, calls, holds, last_called, methods, names_given, names_in, nodes
from bitgolf.audit.values import Frame, kinds


def narrow_average(script: Script) -> Iterator[Finding]:
    """T01: sums of weights in a 16-bit type."""
    for function in functions(script):
        kept = {
            name
            for node in nodes(function, ast.Assign)
            if _is_narrow_copy(node.value)
            for name in names_given(node)
        }
        for node in ast.walk(function):
            held: ast.expr | None = None
            if isinstance(node, ast.AugAssign) and isinstance(node.op, ast.Add):
                held = node.target
            elif isinstance(node, ast.Call) and last_called(node) in ("add_", "lerp_"):
                held = node.func
            if held is not None and kept & names_in(held):
                yield script.finding("T01", node, "weights are summed in a 16-bit type", sure=FOUND)


def _is_narrow_copy(node: ast.expr) -> bool:
    text = ast.unparse(node)
    narrow = any(word in text for word in (".bfloat16()", ".half()", "torch.bfloat16", "torch.float16"))
    return isinstance(node, ast.DictComp) and narrow and (".items()" in text or "parameters()" in text)


def folded_flag(script: Script) -> Iterator[Finding]:
    """T04: a class attribute that is off when the model is compiled, and set later."""
    tree = script.inner.tree
    defaults: set[tuple[str, str]] = set()
    read: set[str] = set()
    for kind in nodes(tree, ast.ClassDef):
        for item in kind.body:
            if isinstance(item, ast.Assign | ast.AnnAssign) and _is_off(item.value):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                defaults |= {(kind.name, each.id) for each in targets if isinstance(each, ast.Name)}
        for forward in (each for each in methods(kind) if each.name == "forward"):
            tests = [node.test for node in nodes(forward, ast.If, ast.IfExp)]
            read |= {each.attr for test in tests for each in nodes(test, ast.Attribute)}
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
                yield script.finding(
                    "T04", node, f"{owner}.{target.attr} is set after torch.compile has read it as False"
                )
                return


def _is_off(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


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
            yield script.finding("T06", node, f"{text} is set after torch was imported at line {imported}")


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
                yield script.finding("T18", each, f"{called(each)} stands under `if {test}`", sure=FOUND)


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
            kind = last_called(node.value)
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
            yield script.finding("T14", line, f"`{name}` has parameters, and no optimizer is given them")


def _holds_parameters(node: ast.ClassDef, kinds_of: dict[str, ast.ClassDef], depth: int) -> bool:
    for each in ast.walk(node):
        kind = last_called(each)
        if kind in ("Parameter", "Embedding", "Linear"):
            return True
        inner = kinds_of.get(kind) if kind != node.name and depth < 3 else None
        if inner and _holds_parameters(inner, kinds_of, depth + 1):
            return True
    return any(ast.unparse(base).endswith(("Linear", "Embedding")) for base in node.bases)


def _has_blocks(node: ast.ClassDef) -> bool:
    return any(
        each.attr == "blocks" and isinstance(each.ctx, ast.Store) for each in nodes(node, ast.Attribute)
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
                    if isinstance(loop, ast.For | ast.comprehension | ast.Call) and holds(loop, each)
                ]
                if any(_fills_groups(loop) for loop in inside):
                    return True
    return False


def _fills_groups(node: ast.AST) -> bool:
    """A loop that appends parameters, or an optimizer that is given them."""
    if isinstance(node, ast.Call):
        return called(node).startswith("torch.optim.") or called(node) == "Muon"
    return isinstance(node, ast.For) and any(called(each).endswith(".append") for each in ast.walk(node))


def seed_search(script: Script) -> Iterator[Finding]:
    """K14: a loop over seeds that keeps the best."""
    for node in nodes(script.inner.tree, ast.For):
        compares = any(
            isinstance(each.test, ast.Compare) and isinstance(each.test.ops[0], ast.Lt)
            for each in nodes(node, ast.If)
        )
        varies = isinstance(node.target, ast.Name) and any(
            node.target.id in names_in(each) for each in calls(node, "manual_seed")
        )
        if varies and compares:
            yield script.finding("K14", node, "a loop tries seeds and keeps the better")


CHECKS = (
    narrow_average,
    folded_flag,
    late_environment,
    one_process_collective,
    forgotten_parameters,
    seed_search,
)
COVERED = frozenset("K14 T01 T04 T06 T14 T18".split())
