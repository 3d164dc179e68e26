"""Settings that a script keeps in a dict are spelled as those of a class: `cfg["rate"]` as `cfg.rate`."""

import ast

from bitgolf.audit.tree import replace
from bitgolf.audit.values import TRAIN, VAL, constant

LEAST = 4  # entries, of all dicts that are in it


def as_classes(tree: ast.Module) -> None:
    """Put a class in place of each dict of settings of the whole script, its attributes for the entries."""
    keys: set[str] = set()
    names: set[str] = set()
    for place, node in enumerate(tree.body):
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=value) if _is_settings(value):
                tree.body[place] = _class(name, value, node)
                keys |= {each for each, _ in _all_entries(value)}
                names.add(name)
    if names:
        _spell(tree, keys, _carriers(tree, names))


def _entries(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """What a dict that is written out has under each name; nothing of another."""
    match node:
        case ast.Dict(keys=keys, values=values):
            pairs = [
                (each.value if isinstance(each, ast.Constant) else None, value)
                for each, value in zip(keys, values)
            ]
        case ast.Call(func=ast.Name("dict"), args=[], keywords=words):
            pairs = [(word.arg, word.value) for word in words]
        case _:
            return []
    named = [(name, value) for name, value in pairs if isinstance(name, str) and name.isidentifier()]
    return named if len(named) == len(pairs) else []


def _all_entries(node: ast.expr) -> list[tuple[str, ast.expr]]:
    """The same with those of the dicts in it."""
    own = _entries(node)
    return own + [each for _, value in own for each in _entries(value)]


def _is_settings(node: ast.expr) -> bool:
    """Whether a dict has numbers under names, and no pattern of files, which a loop may go through."""
    written = [each.value for each in ast.walk(node) if isinstance(each, ast.Constant)]
    patterns = any(constant(each).marks & {TRAIN, VAL} for each in written)
    numbers = any(isinstance(each, int | float) for each in written)
    return len(_all_entries(node)) >= LEAST and numbers and not patterns


def _class(name: str, node: ast.expr, where: ast.stmt) -> ast.ClassDef:
    """The class of a dict's entries; of a dict in it a class in it."""
    body: list[ast.stmt] = []
    for key, value in _entries(node):
        inner = ast.Assign([ast.Name(key, ast.Store())], value)
        body.append(
            _class(f"{name}.{key}", value, where) if _entries(value) else ast.copy_location(inner, value)
        )
    made = ast.parse("class _: ...").body[0]
    assert isinstance(made, ast.ClassDef)
    made.name, made.body = name, body
    return ast.fix_missing_locations(ast.copy_location(made, where))


def _carriers(tree: ast.Module, names: set[str]) -> set[str]:
    """Names of the settings, of what is made of them, and of parameters that they are given to."""
    functions = {each.name: each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)}
    for _ in range(3):  # from the script to a function, to an attribute of an object
        for node in ast.walk(tree):
            match node:
                case ast.Assign(targets=[ast.Name(name) | ast.Attribute(attr=name)], value=value):
                    names |= {name} if _as_whole(value, names) else set()
                case ast.FunctionDef() if any(
                    _as_whole(each, names) for each in ast.walk(node) if isinstance(each, ast.Return)
                ):
                    names.add(node.name)
                case ast.Call(func=ast.Name(name), args=args) if (own := functions.get(name)) is not None:
                    names |= {each.arg for each, part in zip(own.args.args, args) if _as_whole(part, names)}
    return names


def _as_whole(node: ast.AST, names: set[str]) -> bool:
    """Whether something is one of these, a call of one, or made of all entries of one."""
    match node:
        case ast.Name(name) | ast.Attribute(attr=name):
            return name in names
        case ast.Return(value=ast.expr() as inner) | ast.Call(func=ast.Name("dict"), args=[inner]):
            return _as_whole(inner, names)
        case ast.Call(func=func):
            return _as_whole(func, names) or any(
                _as_whole(word.value, names) for word in node.keywords if not word.arg
            )
        case ast.DictComp(generators=[each]):
            return any(isinstance(part, ast.Name) and part.id in names for part in ast.walk(each.iter))
    return False


def _spell(tree: ast.Module, keys: set[str], carriers: set[str]) -> None:
    def of(node: ast.AST) -> ast.AST:
        match node:
            case (
                ast.Subscript(value=held, slice=ast.Constant(str(key)))
                | ast.Call(func=ast.Attribute(value=held, attr="get"), args=[ast.Constant(str(key)), *_])
            ) if key in keys:
                inner = of(held)
                others = keys if isinstance(inner, ast.Attribute) else set()
                if isinstance(inner, ast.Name | ast.Attribute) and _as_whole(inner, carriers | others):
                    made = ast.Attribute(inner, key, getattr(node, "ctx", ast.Load()))
                    return ast.copy_location(made, node)
        return node

    replace(tree, of)
