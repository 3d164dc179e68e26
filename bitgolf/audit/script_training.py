"""What goes wrong in a script's training without an error: averages, flags, parameters, processes, seeds."""

import ast
import re
from collections.abc import Iterator

from bitgolf.audit.finding import FOUND, Finding
from bitgolf.audit.script import Script, functions
from bitgolf.audit.tree import (
    called,
    calls,
    last_called,
    lines_of,
    methods,
    names_given,
    names_in,
    nodes,
    within,
)
from bitgolf.audit.values import Frame


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
    defaults: set[tuple[str, str]] = set()
    read: set[str] = set()
    for kind in nodes(script.tree, ast.ClassDef):
        for item in kind.body:
            if isinstance(item, ast.Assign | ast.AnnAssign) and _is_constant(item.value, False):
                targets = item.targets if isinstance(item, ast.Assign) else [item.target]
                defaults |= {(kind.name, each.id) for each in targets if isinstance(each, ast.Name)}
        for forward in (each for each in methods(kind) if each.name == "forward"):
            tests = [node.test for node in nodes(forward, ast.If, ast.IfExp)]
            read |= {each.attr for test in tests for each in nodes(test, ast.Attribute)}
    names = [(called(node), node) for node in nodes(script.tree, ast.Call)]
    resets = [node.lineno for name, node in names if name in ("torch._dynamo.reset", "torch.compiler.reset")]
    if not any(name == "torch.compile" and _is_model(node.args[:1]) for name, node in names):
        return
    for node in nodes(script.tree, ast.Assign):
        match node.targets[0]:
            case ast.Attribute(value=ast.Name(owner), attr=flag):
                again = any(abs(line - node.lineno) < 20 for line in resets)
                is_flag = (owner, flag) in defaults and flag in read
                if is_flag and not again and _is_constant(node.value, True):
                    message = f"{owner}.{flag} is set after torch.compile has read it as False"
                    yield script.finding("T04", node, message)
                    return


def _is_constant(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def _is_model(given: list[ast.expr]) -> bool:
    """A thing that is compiled whole, not one function of the module's top."""
    return any(
        isinstance(node, ast.Name | ast.Attribute) and "newton" not in ast.unparse(node).lower()
        for node in given
    )


def late_environment(script: Script) -> Iterator[Finding]:
    """T06."""
    imported = 0
    for node in script.tree.body:
        if isinstance(node, ast.Import) and any(alias.name == "torch" for alias in node.names):
            imported = imported or node.lineno
        if imported and isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Subscript):
            text = ast.unparse(node.targets[0])
            if re.match(r"os\.environ\[.*(?:PYTORCH_|CUDA_VISIBLE|CUDA_LAUNCH|OMP_NUM)", text):
                message = f"{text} is set after torch was imported at line {imported}"
                yield script.finding("T06", node, message)


COLLECTIVE = re.compile(
    r"(?:torch\.distributed|dist)\..*(?:all_reduce|all_gather|barrier|broadcast|reduce_scatter_tensor)$"
)
ONE_PROCESS = re.compile(r"(?:(?:self\.|h\.|local_)?rank|dist\.get_rank\(\)) == 0")


def one_process_collective(script: Script) -> Iterator[Finding]:
    """T18: a collective call that one process alone makes."""
    for node in nodes(script.tree, ast.If):
        if ONE_PROCESS.fullmatch(test := ast.unparse(node.test)) and not node.orelse:
            for each in within(node.body):
                if COLLECTIVE.match(called(each)):
                    message = f"{called(each)} stands under `if {test}`"
                    yield script.finding("T18", each, message, sure=FOUND)


def forgotten_parameters(script: Script) -> Iterator[Finding]:
    """T14: parts of the model that no optimizer is given, where the parts are named one by one."""
    kinds_of = {node.name: node for node in nodes(script.tree, ast.ClassDef)}
    holders = {name for name, node in kinds_of.items() if _holds_parameters(node, kinds_of, 0)}
    models = [node for name, node in kinds_of.items() if name in holders and _has_blocks(node)]
    if not models:
        return
    model = max(models, key=lambda node: len(lines_of(node)))
    adapting = {event.inside for event in script.of("train")}
    builders = [
        function
        for function in nodes(script.tree, ast.FunctionDef, ast.ClassDef)
        if function.lineno not in lines_of(model)
        and any(map(_makes_optimizer, ast.walk(function)))
        and function.name not in adapting
    ]
    used = {each.attr for each in within(builders) if isinstance(each, ast.Attribute)}
    texts = [each.value for each in within(builders) if isinstance(each, ast.Constant)]
    if "blocks" not in used or any(map(_takes_all, builders)):
        return  # all of them at once, or in a way that is not read here
    for name, line in _parts(script, model, holders).items():
        if name not in used and not any(isinstance(text, str) and name in text for text in texts):
            message = f"`{name}` has parameters, and no optimizer is given them"
            yield script.finding("T14", line, message)


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


def _has_blocks(node: ast.ClassDef) -> bool:
    return any(
        each.attr == "blocks" and isinstance(each.ctx, ast.Store) for each in nodes(node, ast.Attribute)
    )


def _makes_optimizer(node: ast.AST) -> bool:
    return called(node).startswith("torch.optim.") or called(node) == "Muon"


def _takes_all(builder: ast.AST) -> bool:
    """Whether the whole model's parameters are asked for where groups are made."""
    return any(
        ALL_PARAMETERS.fullmatch(called(each))
        for node in nodes(builder, ast.For, ast.Call)
        if _makes_optimizer(node)
        or isinstance(node, ast.For)
        and any(called(each).endswith(".append") for each in ast.walk(node))
        for each in ast.walk(node)
    )


ALL_PARAMETERS = re.compile(r"(?:(?:raw_|base_|compiled_)?model|self|net)\.(?:named_)?parameters")


def seed_search(script: Script) -> Iterator[Finding]:
    """K14: a loop over seeds that keeps the best."""
    for node in nodes(script.tree, ast.For):
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
