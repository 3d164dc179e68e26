"""Tidies the text of a finished script: removes mentions of removed parts, and traces of editing.

Nothing here changes what a script does. Of the card of a technique it keeps what it is and where it is from;
of all other text it drops parameters, settings and errors that the script does not have. Brackets around what
stands alone go, blank lines where something was cut out, and comments for checkers.
"""

import ast
import builtins
import dataclasses
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence, Set

from bitgolf.script.edits import LINE_LENGTH
from bitgolf.script.source import Definition, Module, read_module
from bitgolf.script.syntax import nodes_in

NOT_IN_SCRIPTS = ("Cost: ", "Not for: ", "Neutral: ")  # lines of a card: they help to choose
CARD_LINE = re.compile(r"[A-Z][a-z]*(?: for)?: ")
# What is said of one name or several, as in this line: `level, size (in bytes): what they are.`
NAMED = re.compile(r"(?P<names>[a-z]\w*(?:, [a-z]\w*)*)(?: \([^)]*\))?: ")
NEXT_NAMED = re.compile(r"(?<=[.;]) (?=[a-z]\w*(?:, [a-z]\w*)*(?: \([^)]*\))?: )")
NEXT_SENTENCE = re.compile(r"(?<=\.) (?=[A-Z`])")
NAME_IN_TEXT = re.compile(r"`(\w+)`|\b([a-z]\w*_\w+)\b|\b([A-Z]\w+Error)\b")
FOR_CHECKERS = re.compile(r" *# (?:type: ignore|noqa)[^\n]*")
BEFORE_BRACKETS = {"return", "=", "(", "[", ",", ":", "if", "elif", "in"}
AFTER_BRACKETS = {")", "]", ",", ":", "\n", ""}


def tidied(modules: Sequence[Module]) -> list[Module]:
    """The modules with the text of their definitions tidied."""
    words = words_of(modules)
    return [
        dataclasses.replace(m, definitions=tuple(_tidied(d, words) for d in m.definitions)) for m in modules
    ]


def words_of(modules: Sequence[Module]) -> frozenset[str]:
    """Every name and text of a script, and Python's own names."""
    trees = [d.node for module in modules for d in module.definitions]
    return frozenset(dir(builtins)).union(*map(_words, trees))


def about(module: Module, words: Set[str]) -> list[str]:
    """What a script says of a module: its docstring, or the first line of it above mere constants."""
    first, *blocks = module.docstring.split("\n\n")
    if not any(isinstance(d.node, ast.ClassDef | ast.FunctionDef) for d in module.definitions):
        blocks = []
    kept = [_left(block.split("\n"), words, words, LINE_LENGTH - 2) for block in blocks]
    return "\n\n".join([first, *filter(None, kept)]).splitlines()


def _words(tree: ast.AST) -> set[str]:
    nodes = nodes_in(tree)
    documentation = {id(_docstring(item)) for item in nodes}
    words = [getattr(item, name, None) for item in nodes for name in ("id", "attr", "arg", "name")]
    found = {word for word in words if isinstance(word, str)}
    for item in nodes:
        if isinstance(item, ast.Constant) and isinstance(item.value, str) and id(item) not in documentation:
            found |= set(re.findall(r"\w+", item.value))
    return found


def _docstring(node: ast.AST) -> ast.Constant | None:
    first = node.body[0] if isinstance(node, ast.ClassDef | ast.FunctionDef) else None
    text = first.value if isinstance(first, ast.Expr) else None
    return text if isinstance(text, ast.Constant) and isinstance(text.value, str) else None


def _tidied(definition: Definition, words: Set[str]) -> Definition:
    lines = definition.text.splitlines()
    documented = [(text, item) for item in nodes_in(definition.tree) if (text := _docstring(item))]
    for text, item in sorted(documented, key=lambda pair: -pair[0].lineno):
        first, last = text.lineno - 1, text.end_lineno or 0
        lines[first:last] = _documentation(lines[first:last], words, _words(item))
    plain = re.sub(r"\n{3,}", "\n\n", FOR_CHECKERS.sub("", "\n".join(lines)))
    changed = without_brackets(joined(plain))
    return (
        definition if changed == definition.text else read_module(changed, definition.module).definitions[0]
    )


def _documentation(lines: list[str], words: Set[str], own: Set[str]) -> list[str]:
    """The lines of a docstring without what is gone; own: the words of the definition that it describes."""
    pad = lines[0][: -len(lines[0].lstrip())]
    text = "\n".join(line.removeprefix(pad) for line in lines).removeprefix('"""').removesuffix('"""')
    first, *blocks = text.rstrip().split("\n\n")
    width = LINE_LENGTH - len(pad)
    texts = [_left(first.split("\n"), words, words, width - len('"""'))]
    for block in blocks:
        kept = [_left(group, words, own, width) for group in _groups(block.split("\n"))]
        texts.append("\n".join(filter(None, kept)))
    left = "\n\n".join(filter(None, texts))
    if left == text.rstrip():
        return lines
    end = "" if "\n" not in left and len(f'{pad}"""{left}"""') <= LINE_LENGTH else "\n"
    return [f"{pad}{line}".rstrip() for line in f'"""{left}{end}"""'.split("\n")]


def _groups(lines: Sequence[str]) -> Iterator[list[str]]:
    """Lines of which each begins something, with those that go on from it."""
    group = [lines[0]]
    for line in lines[1:]:
        if NAMED.match(line) or CARD_LINE.match(line):
            yield group
            group = []
        group.append(line)
    yield group


def _left(lines: Sequence[str], words: Set[str], own: Set[str], width: int) -> str:
    """What is left of some lines: as they were, or wrapped anew where something went."""
    text = " ".join(line.strip() for line in lines)
    parts = []
    for part in [] if text.startswith(NOT_IN_SCRIPTS) else NEXT_NAMED.split(text):
        named = NAMED.match(part)
        if named is None or own & set(named["names"].split(", ")):
            sentences = NEXT_SENTENCE.split(part)
            opening = [] if part.startswith("Raises ") else sentences[:1]
            parts += opening + [each for each in sentences[len(opening) :] if _names_in(each) <= words]
    if (left := " ".join(parts)) == text:
        return "\n".join(lines)
    hanging = "    " if len(lines) > 1 and lines[1].startswith("    ") else ""
    return "\n".join(textwrap.wrap(left, width, subsequent_indent=hanging))


def _names_in(text: str) -> set[str]:
    return {name for match in NAME_IN_TEXT.findall(text) for name in match if name}


def without_brackets(text: str) -> str:
    """Code without the brackets that mean nothing around what stands alone."""
    tree = ast.dump(ast.parse(text))
    for start, end in reversed(list(_brackets(text))):
        changed = text[:start] + text[start + 1 : end] + text[end + 1 :]
        try:
            text = changed if ast.dump(ast.parse(changed)) == tree else text
        except SyntaxError:
            continue
    return text


def double_quoted(text: str) -> str:
    """Code with its texts in the same quotes; those that hold a quote or a backslash stay."""
    lines = text.splitlines(keepends=True)
    for token in _tokens(text):
        if token.type == tokenize.STRING and re.fullmatch(r"""'[^'"\\\n]*'""", token.string):
            (row, start), (_, end) = token.start, token.end
            lines[row - 1] = f'{lines[row - 1][:start]}"{token.string[1:-1]}"{lines[row - 1][end:]}'
    return "".join(lines)


def joined(text: str) -> str:
    """Code with brackets on one line where all of the line fits, as a formatter has it."""
    while (changed := next(_joined(text), text)) != text:
        text = changed
    return text


def _joined(text: str) -> Iterator[str]:
    """The code with one bracket more on one line; not where a comma before its end keeps rows apart."""
    lines, tokens = text.splitlines(), _tokens(text)
    for opening, closing in _pairs(tokens):
        (row, _), (last, _) = tokens[opening].start, tokens[closing].start
        inside = tokens[opening + 1 : closing]
        is_free = all(token.type != tokenize.COMMENT and token.start[0] == token.end[0] for token in inside)
        if row == last or not is_free or [t for t in inside if t.type != tokenize.NL][-1:][0].string == ",":
            continue
        parts = [lines[row - 1].rstrip(), *(line.strip() for line in lines[row:last])]
        whole = parts[0]
        for part in parts[1:]:
            whole += part if whole[-1] in "([{" or part[0] in ")]}" else f" {part}"
        if len(whole) <= LINE_LENGTH:
            yield "\n".join([*lines[: row - 1], whole, *lines[last:]])


def _tokens(text: str) -> list[tokenize.TokenInfo]:
    return list(tokenize.generate_tokens(io.StringIO(text).readline))


def _pairs(tokens: Sequence[tokenize.TokenInfo]) -> list[tuple[int, int]]:
    """Which brackets open and close together, in the order of opening."""
    waiting, pairs = [], []
    for index, token in enumerate(tokens):
        if token.type == tokenize.OP and token.string in "([{":
            waiting.append(index)
        elif token.type == tokenize.OP and token.string in ")]}":
            pairs.append((waiting.pop(), index))
    return sorted(pairs)


def _brackets(text: str) -> Iterator[tuple[int, int]]:
    """Where brackets that may mean nothing open and close, on one line each, in the order of opening."""
    lines, tokens = text.splitlines(keepends=True), _tokens(text)
    starts = [sum(map(len, lines[:number])) for number in range(len(lines) + 1)]
    for opening, closing in _pairs(tokens):
        if tokens[opening].string != "(":
            continue
        (row, column), (last, end) = tokens[opening].start, tokens[closing].start
        before, inside, after = lines[row - 1][:column], lines[row - 1][column + 1 : end], tokens[closing + 1]
        if row != last or tokens[opening - 1].string not in BEFORE_BRACKETS:
            continue
        in_rows = "," in inside and not re.fullmatch(r" *\w+(, \w+)+ = ", before)
        if re.fullmatch(r"[\w.]+", inside) or (after.string in AFTER_BRACKETS and not in_rows):
            yield starts[row - 1] + column, starts[last - 1] + end
