"""What a script writes out: its constants, attributes of its classes, defaults of its options, its calls."""

import ast
from collections.abc import Sequence

from bitgolf.audit.tree import last_called, nodes, own


class Written:
    """By name: constants of the whole script, attributes of classes and options. called: the first call of a
    function.
    """

    def __init__(self, trees: Sequence[ast.Module]) -> None:
        self.called: dict[int, ast.Call] = {}
        self.constants: dict[str, list[ast.expr]] = {}
        self.attributes: dict[str, list[ast.expr]] = {}
        for tree in trees:
            for call in nodes(tree, ast.Call):
                for function in own(call):
                    self.called.setdefault(id(function), call)
                if last_called(call) == "add_argument":
                    self._option(call)
            self._assigned(tree.body, self.constants)
            for kind in nodes(tree, ast.ClassDef):
                self._assigned(kind.body, self.attributes)

    def _option(self, call: ast.Call) -> None:
        default = next((each.value for each in call.keywords if each.arg == "default"), None)
        for word in nodes(call, ast.Constant):
            if default is not None and isinstance(word.value, str) and word.value.startswith("--"):
                self.attributes.setdefault(word.value[2:].replace("-", "_"), []).append(default)

    def _assigned(self, body: Sequence[ast.stmt], table: dict[str, list[ast.expr]]) -> None:
        for node in body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                for each in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    if isinstance(each, ast.Name):
                        table.setdefault(each.id, []).append(node.value)
