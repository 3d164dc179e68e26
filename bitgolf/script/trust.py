"""The core without its refusals: a script has one recipe and reads only its own files.

What goes, statement by statement: `assert`, a condition that only raises an error of ours, handlers that only
turn an error into one of ours, then what is left without a use: loops without a body, locals that nobody
reads, calls of functions that have become empty. Lines are cut out of the text, so that comments and layout
of what stays are the package's. Everything a right run computes is computed as before, which the proofs show.
"""

import ast
import functools
from collections.abc import Iterator, Sequence, Set

from bitgolf.script.source import Definition, Module, read_module
from bitgolf.script.syntax import CACHED, SCOPES, first_line, walked, written

FAMILY = "BitgolfError"
OF_NOTHING = " of nothing"  # behind the name of a function that does nothing where its argument is empty
# Calls without a trace: what only they computed may fall away with its last reader.
PURE_CALLS = frozenset(
    "all any bool detach dict double enumerate float get getattr int isinstance items keys len list "
    "log_softmax logits max min range set sorted stat state_dict str sum tuple type values zip".split()
)
# What nobody else can hold.
FRESH = (
    ast.Constant,
    ast.JoinedStr,
    ast.List,
    ast.Dict,
    ast.Set,
    ast.Tuple,
    ast.ListComp,
    ast.SetComp,
    ast.DictComp,
)
Block = Sequence[ast.stmt]


def trusting(modules: Sequence[Module]) -> list[Module]:
    """The same modules without refusals, and without calls of what did nothing else."""
    errors, idle = _errors(modules), set[str]()
    while True:
        modules = [_module(module, errors, idle) for module in modules]
        if (now_idle := _idle_functions(modules) | {name + OF_NOTHING for name in _loops(modules)}) == idle:
            return list(modules)
        idle = now_idle


def _loops(modules: Sequence[Module]) -> set[str]:
    """Names of functions that do nothing but go through the items of their one argument."""
    loops: dict[str, bool] = {}
    for definition in (d for module in modules for d in module.definitions):
        for node in definition.items:
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                given = [arg.arg for arg in node.args.args if arg.arg != "self"]
                loop = body[0] if len(given) == len(body) == 1 else None
                over = written(loop.iter).removesuffix(".items()") if isinstance(loop, ast.For) else ""
                loops[node.name] = loops.get(node.name, True) and [over] == given
    return {name for name, is_loop in loops.items() if is_loop}


def _errors(modules: Sequence[Module]) -> set[str]:
    """The family of errors, and the functions that make one."""
    names = {FAMILY}
    for module in modules:
        for definition in module.definitions:
            node = definition.node
            if isinstance(node, ast.ClassDef) and {written(base) for base in node.bases} & names:
                names.add(node.name)
            if isinstance(node, ast.FunctionDef) and node.returns and written(node.returns) in names:
                names.add(node.name)
    return names


def _idle_functions(modules: Sequence[Module]) -> set[str]:
    """Names of functions and methods, of whatever class, that do nothing."""
    busy: set[str] = set()
    idle: set[str] = set()
    for module in modules:
        for definition in module.definitions:
            for node in definition.items:
                if isinstance(node, ast.FunctionDef):
                    (idle if _is_idle(node) else busy).add(node.name)
    return idle - busy


def _is_idle(node: ast.FunctionDef) -> bool:
    return not node.decorator_list and all(
        isinstance(item, ast.Pass)
        or (isinstance(item, ast.Return) and item.value is None)
        or (isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant))
        for item in node.body
    )


def _module(module: Module, errors: Set[str], idle: Set[str]) -> Module:
    return module.having(_without_refusals(d, errors, idle) for d in module.definitions)


def _without_refusals(definition: Definition, errors: Set[str], idle: Set[str]) -> Definition:
    """It is told only names that stand in it: done again where these change, and not where others do."""
    mentioned = {name for name in idle if name.removesuffix(OF_NOTHING) in definition.mentioned}
    return _definition(definition, frozenset(errors & definition.mentioned), frozenset(mentioned))


@functools.lru_cache(maxsize=CACHED)
def _definition(definition: Definition, errors: frozenset[str], idle: frozenset[str]) -> Definition:
    while isinstance(definition.node, ast.FunctionDef | ast.ClassDef):
        lines = definition.text.splitlines()
        functions = [item for item in walked(definition.tree) if isinstance(item, ast.FunctionDef)]
        cuts = [cut for function in functions for cut in _Cutter(function, lines, errors, idle).cuts]
        if not cuts:
            break
        start = len(lines)
        for first, last, instead in sorted(cuts, key=lambda cut: (cut[0], -cut[1]), reverse=True):
            if last <= start:  # one around another waits for the next round
                lines[first:last] = instead
                start = first
        (definition,) = read_module("\n".join(lines), definition.module).definitions
    return definition


class _Cutter:
    """The lines to cut from one function: from, to, and what stands there instead."""

    def __init__(self, function: ast.FunctionDef, lines: list[str], errors: Set[str], idle: Set[str]) -> None:
        self.lines, self.errors, self.idle = lines, errors, idle
        self.cuts: list[tuple[int, int, list[str]]] = []
        self.loaded = _loads(function)
        changed = [item for item in walked(function) if isinstance(item, ast.AugAssign)]
        self.shared = set(_bound_to_others(function))
        inner = (item for item in walked(function) if isinstance(item, SCOPES) and item is not function)
        self.inner = {name for item in inner for name in _loads(item)}
        kept = [item.target for item in changed if self._targets(item) is None]
        self.read = {*self.loaded, *(target.id for target in kept if isinstance(target, ast.Name))}
        for item in walked(function):
            if isinstance(item, ast.Nonlocal | ast.Global):
                self.read |= set(item.names)
        self._block(function.body)

    def _block(self, body: Block) -> None:
        gone = [item for item in body if self._is_refusal(item) or self._is_unread(item)]
        gone += [item for item, after in zip(body, body[1:]) if self._is_overwritten(item, after)]
        if len(body) > 1 and self._hands_back(*body[-2:]):
            pad, value = " " * body[-1].col_offset, self.lines[body[-2].lineno - 1 : body[-2].end_lineno]
            value[0] = f"{pad}return {value[0].partition(' = ')[2]}"
            self.cuts.append((body[-2].lineno - 1, body[-1].end_lineno or 0, value))
            body = body[:-2]
        for item in body:
            if item in gone:
                self._cut(item, ["pass"] if len(gone) == len(body) and item is body[0] else [])
            elif left := self._read_part(item):
                self._cut(item, [left])
            elif isinstance(item, ast.Try) and self._only_translates(item):
                inside = self.lines[first_line(item.body[0], self.lines) : item.body[-1].end_lineno]
                self._cut(item, [line.removeprefix("    ") for line in inside], ready=True)
            elif not isinstance(item, ast.FunctionDef | ast.ClassDef):
                for part in _blocks(item):
                    self._block(part)

    def _hands_back(self, item: ast.stmt, after: ast.stmt) -> bool:
        """Whether a local is set only to be returned at once."""
        if not isinstance(item, ast.Assign) or not isinstance(after, ast.Return) or len(item.targets) > 1:
            return False
        name = after.value.id if isinstance(after.value, ast.Name) else "nothing"
        is_set = self.lines[item.lineno - 1].strip().startswith(f"{name} = ")
        return is_set and name not in self.inner

    def _is_overwritten(self, item: ast.stmt, after: ast.stmt) -> bool:
        """Whether a local is set by a value made without a trace, and at once to another one."""
        if not isinstance(item, ast.Assign) or not isinstance(after, ast.Assign):
            return False
        names = _traceless_targets(item)
        return names == set(map(written, after.targets)) and not names & set(_loads(after.value))

    def _cut(self, item: ast.stmt, instead: list[str], *, ready: bool = False) -> None:
        pad = "" if ready else " " * item.col_offset
        self.cuts.append((first_line(item, self.lines), item.end_lineno or 0, [pad + i for i in instead]))

    def _is_refusal(self, item: ast.stmt) -> bool:
        """Whether nothing happens here in a run that goes well."""
        if isinstance(item, ast.Assert):
            return True
        if isinstance(item, ast.Expr) and isinstance(item.value, ast.Call):
            called = item.value.func
            name = called.id if isinstance(called, ast.Name) else getattr(called, "attr", "")
            is_empty = [written(arg) for arg in item.value.args] in (["{}"], ["()"])
            return name in self.idle or (is_empty and name + OF_NOTHING in self.idle)
        if isinstance(item, ast.If) and not item.orelse:
            kept = {n.target.id for n in walked(item.test) if isinstance(n, ast.NamedExpr)}
            inside = _loads(item)
            used_later = any(self.loaded.count(name) > inside.count(name) for name in kept)
            return not used_later and self._ends_in_refusal(item.body)
        if isinstance(item, ast.For):
            return not item.orelse and self._ends_in_refusal(item.body)
        return False

    def _ends_in_refusal(self, body: Block) -> bool:
        """Locals for a message, then the refusal."""
        locals_only = all(
            isinstance(item, ast.Assign) and all(isinstance(target, ast.Name) for target in item.targets)
            for item in body[:-1]
            if not self._is_refusal(item)
        )
        return locals_only and (self._raises_ours(body[-1]) or self._is_refusal(body[-1]))

    def _raises_ours(self, item: ast.stmt) -> bool:
        if not isinstance(item, ast.Raise):
            return False
        if item.exc is None:
            return True
        called = item.exc.func if isinstance(item.exc, ast.Call) else item.exc
        return isinstance(called, ast.Name) and called.id in self.errors

    def _only_translates(self, item: ast.Try) -> bool:
        ends = [handler.body[-1] for handler in item.handlers]
        return bool(ends) and not item.orelse and not item.finalbody and all(map(self._raises_ours, ends))

    def _read_part(self, item: ast.stmt) -> str:
        """What is left of `a, b = x, y` where somebody reads only one of them; empty where nothing goes."""
        if not isinstance(item, ast.Assign) or not isinstance(item.value, ast.Tuple):
            return ""
        target = item.targets[0]
        if not isinstance(target, ast.Tuple) or len(item.targets) > 1:
            return ""
        pairs = list(zip(target.elts, item.value.elts))
        if any(isinstance(each, ast.Starred) for pair in pairs for each in pair):
            return ""
        left = [pair for pair in pairs if not self._is_unread(ast.Assign([pair[0]], pair[1], lineno=0))]
        return " = ".join(", ".join(map(written, side)) for side in zip(*left)) if left != pairs else ""

    def _is_unread(self, item: ast.stmt) -> bool:
        """A function that nobody calls, or locals that nobody reads, of a value made without a trace."""
        if isinstance(item, ast.FunctionDef):
            return item.name not in self.loaded and not item.decorator_list
        if isinstance(item, ast.Assign) and list(map(written, item.targets)) == [written(item.value)]:
            return True  # what it is already
        targets = self._targets(item)
        return targets is not None and not targets & self.read

    def _targets(self, item: ast.stmt) -> set[str] | None:
        """See `_traceless_targets`; `a += 1` changes what others may hold too, an array."""
        targets = _traceless_targets(item)
        return None if isinstance(item, ast.AugAssign) and targets and targets & self.shared else targets


def _bound_to_others(function: ast.FunctionDef) -> Iterator[str]:
    """Names that are set to anything but what was just made: others may hold the same thing."""
    own = {id(item.target) for item in walked(function) if isinstance(item, ast.AugAssign)}
    for item in walked(function):
        if isinstance(item, ast.Assign) and isinstance(item.value, FRESH):
            own |= {id(target) for target in item.targets}
    for item in walked(function):
        if isinstance(item, ast.arg):
            yield item.arg
        elif isinstance(item, ast.Name) and not isinstance(item.ctx, ast.Load) and id(item) not in own:
            yield item.id


def _traceless_targets(item: ast.stmt) -> set[str] | None:
    """The locals that a statement sets by a value made without a trace; None for others."""
    if not isinstance(item, ast.Assign | ast.AugAssign | ast.AnnAssign) or item.value is None:
        return None
    targets = item.targets if isinstance(item, ast.Assign) else [item.target]
    messages = [
        part for text in walked(item.value) if isinstance(text, ast.JoinedStr) for part in walked(text)
    ]
    calls = [n.func for n in walked(item.value) if isinstance(n, ast.Call) and n not in messages]
    names = {target.id for target in targets if isinstance(target, ast.Name)}
    is_pure = all(getattr(call, "id", getattr(call, "attr", "")) in PURE_CALLS for call in calls)
    return names if is_pure and all(isinstance(target, ast.Name) for target in targets) else None


def _loads(node: ast.AST) -> list[str]:
    names = (item for item in walked(node) if isinstance(item, ast.Name))
    return [name.id for name in names if isinstance(name.ctx, ast.Load)]


def _blocks(item: ast.stmt) -> Iterator[Block]:
    for name in ("body", "orelse", "finalbody"):
        if block := getattr(item, name, None):
            yield block
    for handler in getattr(item, "handlers", ()):
        yield handler.body
