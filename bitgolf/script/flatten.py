"""From the slim core and one recipe to one script, and its self-decompressing form.

The recipe is frozen as a literal; what `main` and the recipe use is kept, in reading order. A technique the
recipe does not name is used by nobody and is therefore absent, without any list of techniques.
"""

import ast
import builtins
import dataclasses
import functools
import hashlib
import itertools
import lzma
import re
import symtable
import sys
import textwrap
import typing
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any, NamedTuple

from bitgolf.base.plan import Plan
from bitgolf.public.names import KINDS
from bitgolf.public.optional import needed
from bitgolf.public.variables import names_by_path
from bitgolf.recipe import Recipe
from bitgolf.script.calls import fewer_parameters
from bitgolf.script.core import core
from bitgolf.script.decided import decided
from bitgolf.script.inline import inlined
from bitgolf.script.leftovers import without_leftovers
from bitgolf.script.own import carried, plans_in
from bitgolf.script.reach import reach
from bitgolf.script.shrink import minify
from bitgolf.script.single import single, without_uncalled
from bitgolf.script.slim import added, plain_settings, slim_core
from bitgolf.script.source import Definition, Import, Module, SourceError
from bitgolf.script.syntax import nodes_in, without_collector
from bitgolf.script.tidy import about, double_quoted, tidied, words_of
from bitgolf.script.trust import trusting
from bitgolf.script.unread import spelled_out, without_unread
from bitgolf.script.written import without_defaults

LINE_LENGTH = 100
ONE_LINE = -1_000_000  # an indent at which nothing is too long
ENV, ENV_LIST = "env", "env_list"  # the functions by which a script reads a variable
ON_THE_COMMAND_LINE = ("DATA_PATH", "TOKENIZER_PATH", "SEED", "RUN_ID")
# In every script, also where the recipe has them off.
ALWAYS_READ = ("ITERATIONS", "MAX_WALLCLOCK_SECONDS", "TRAIN_LOG_EVERY", "VAL_LOSS_EVERY")
Fields = Set[tuple[str, str]]  # by class and name


@without_collector
def flatten(
    recipe: Plan, main: str = "main", *, full: bool = False, modules: Sequence[Module] | None = None
) -> str:
    """One readable script that runs the recipe without the package. Raises SourceError if core forbids it.

    full: write every setting of the recipe, not only those that differ from their defaults.
    """
    written = recipe
    if isinstance(recipe, Recipe):
        recipe = recipe.replace({"train": recipe.train.in_steps()})
    core_modules = [*core(), *added(core())] if modules is None else modules
    own = carried({type(plan) for plan in plans_in(recipe)}, core_modules)
    if modules is None:
        named = read_by_name(recipe)
        modules, wording = specialised(plain_settings([*slim_core(), *own]), recipe, main, full, named)
    else:
        modules, wording = [*modules, *own], Wording(full)
    definitions, imports = reach(modules, [main, *wording.classes(recipe), *wording.helpers()])
    body = "\n".join(
        [
            *_decided_settings(written, recipe, wording),
            *import_lines([*imports, Import("sys", None, None)]),
            "\n",
            f'def settings() -> "{type(recipe).__name__}":',
            '    """What to change first. A setting not written here has the default of its class.',
            "",
            "    env: taken from the environment, if it has a variable of that name.",
            '    """',
            f"    return {literal(recipe, indent=4, wording=wording)}",
            *sections(modules, definitions),
            "\n",
            "RECIPE = settings()",
            "",
            'if __name__ == "__main__":',
            f"    sys.exit({main}(RECIPE))",
            "",
        ]
    )
    body = double_quoted(body)
    if own and (missing := undefined_names(body)):
        raise SourceError((f"{name}: read and not defined" for name in missing), "the script is not whole:")
    return _header(written, wording, body) + body


def read_by_name(recipe: Plan) -> dict[str, str]:
    """The public variables that a script reads, by the paths of the settings that they stand for.

    Numbers and lists of them only, and beside a few none that is off: what is off is not in the script.
    """
    if not isinstance(recipe, Recipe):
        return {}
    named = {path: name for path, name in names_by_path(recipe).items() if name not in ON_THE_COMMAND_LINE}
    values = {path: functools.reduce(_inside, path.split("."), recipe) for path in named}
    numbers = {path for path, value in values.items() if value and _is_number_or_list(value)}
    return {path: name for path, name in named.items() if path in numbers or name in ALWAYS_READ}


def _is_number_or_list(value: object) -> bool:
    items = value if isinstance(value, tuple) else (value,)
    return all(type(item) in (int, float) for item in items)


def _inside(value: Any, key: str) -> Any:
    return value[int(key)] if isinstance(value, tuple) else getattr(value, key, None)


def specialised(
    modules: Sequence[Module], recipe: Plan, main: str, full: bool, named: Mapping[str, str]
) -> tuple[list[Module], "Wording"]:
    """The modules without branches that the recipe never takes, and without what only those used.

    Then without settings that nothing reads, but not where every setting is to be written (full).
    named: the variables that a setting may come from.
    """
    wording = Wording(full, bare_fields(modules), named=named)
    roots = {main, ENV, ENV_LIST}
    owners = {path: functools.reduce(_inside, path.split(".")[:-1], recipe) for path in named}
    open_fields = {(type(owner).__name__, path.rpartition(".")[2]) for path, owner in owners.items()}
    spelled = set(spelled_out(recipe, open_fields))
    while True:
        definitions, _ = reach(modules, [main, *wording.classes(recipe), *wording.helpers()])
        kept = [m.having(d for d in definitions if d.module == m.name) for m in modules]
        changed = decided(without_defaults(kept, plans_in(recipe)), plans_in(recipe), open_fields)
        changed = trusting(fewer_parameters(changed, roots))
        if not full:
            changed = single(without_uncalled(changed, roots), set(wording.classes(recipe)))
            changed = without_leftovers(inlined(changed, roots))
        if _text_of(changed) == _text_of(modules) and not full:
            changed, unread = without_unread(changed, spelled)
            wording = wording._replace(unread=wording.unread | unread)
        if _text_of(changed) == _text_of(modules):
            return tidied(changed), wording
        modules = changed


def _text_of(modules: Sequence[Module]) -> list[str]:
    return [definition.text for module in modules for definition in module.definitions]


def body_hash(script: str) -> str:
    """SHA-256 of everything after the header, as the header states it."""
    return hashlib.sha256(script.partition('"""\n')[2].encode()).hexdigest()


def _header(recipe: Plan, wording: "Wording", body: str) -> str:
    name = ascii(getattr(recipe, "name", type(recipe).__name__)).replace('"', "'")
    names = ", ".join(sorted({*ON_THE_COMMAND_LINE, "MAX_EVAL_SECONDS", *wording.named.values()}))
    variables = textwrap.fill(
        f"Variables: {names}; or --data, --tokenizer, --seed, --out FOLDER", LINE_LENGTH
    )
    return f'''"""bitgolf recipe {name} as one script, generated: change the recipe, not this file.

Recipe identity: {recipe.identity()}
SHA-256 of the text below: {hashlib.sha256(body.encode()).hexdigest()}
Usage: torchrun --standalone --nproc_per_node=N train_gpt.py, or python train_gpt.py
{variables}
Contents: settings first, then what main() and the recipe use, in the package's reading order.
"""
'''


def _decided_settings(written: Plan, recipe: Plan, wording: "Wording") -> Iterator[str]:
    """As comments, the settings that differ from their defaults and that nothing in the script reads."""
    texts = [f"{path}={literal(value, indent=ONE_LINE)}" for path, value in wording.left_out(written, recipe)]
    if texts:
        text = f"Settings that decided what stands here: {', '.join(texts)}"
        yield from textwrap.wrap(text, LINE_LENGTH, initial_indent="# ", subsequent_indent="#     ")


def sections(modules: Sequence[Module], definitions: Sequence[Definition]) -> Iterator[str]:
    """The definitions as text, under the names of their modules."""
    words = words_of(modules)
    for module in modules:
        own = [d for d in definitions if d.module == module.name]
        if not own:
            continue
        yield f"\n\n# {f' {module.name} '.center(LINE_LENGTH, '=')}"
        yield from (
            f"# {line}".rstrip() for line in about(dataclasses.replace(module, definitions=tuple(own)), words)
        )
        previous_is_constant = False
        for definition in own:
            is_constant = "\n" not in definition.text
            yield ("" if previous_is_constant and is_constant else "\n\n") + definition.text
            previous_is_constant = is_constant


def import_lines(imports: Iterable[Import]) -> Iterator[str]:
    """Merged imports: standard library first, plain imports before from-imports, sorted."""
    unique = sorted(set(imports), key=lambda item: (item.module, item.name or ""))
    for is_standard in (True, False):
        group = [i for i in unique if (i.module.partition(".")[0] in sys.stdlib_module_names) == is_standard]
        if group:
            yield ""
        for item in group:
            if item.name is None:
                yield f"import {item.module}" + (f" as {item.alias}" if item.alias else "")
        for module, items in itertools.groupby((i for i in group if i.name), key=lambda item: item.module):
            names = ", ".join(f"{i.name} as {i.alias}" if i.alias else str(i.name) for i in items)
            yield f"from {module} import {names}"


def bare_fields(modules: Sequence[Module]) -> Fields:
    """Fields of settings that have no default in a script, by the names of their classes."""
    classes = [d.node for module in modules for d in module.definitions if isinstance(d.node, ast.ClassDef)]
    fields = [(node, item) for node in classes for item in node.body if isinstance(item, ast.AnnAssign)]
    return {
        (node.name, item.target.id)
        for node, item in fields
        if isinstance(item.target, ast.Name) and item.value is None
    }


class Wording(NamedTuple):
    """What a recipe writes out. full: all settings. bare: fields without a default. unread: those that go.

    named: settings that an environment variable may set, by path, which are written whatever they are.
    """

    full: bool = False
    bare: Fields = frozenset()
    unread: Fields = frozenset()
    named: Mapping[str, str] = {}

    def helpers(self) -> list[str]:
        """The functions that the settings call."""
        return sorted({_reader(name) for name in self.named.values()})

    def fields(self, plan: Plan, path: str = "") -> Iterator[tuple[str, Any]]:
        """The settings that are written, with their values; path: where this plan stands."""
        for field in dataclasses.fields(plan):
            value, is_default = getattr(plan, field.name), _is_default(plan, field)
            places = {(kind.__name__, field.name) for kind in type(plan).__mro__}
            own = f"{path}.{field.name}".lstrip(".")
            holds_named = any(name == own or name.startswith(f"{own}.") for name in self.named)
            if not places & self.unread and (
                self.full or places & self.bare or not is_default or holds_named
            ):
                yield field.name, value

    def left_out(self, value: Any, computed: Any, path: str = "") -> Iterator[tuple[str, Any]]:
        """The settings that differ from their defaults and are not written, by path; computed: what is."""
        items: list[tuple[Any, Any, Any]] = []
        if isinstance(value, tuple):
            items = [(index, *pair) for index, pair in enumerate(zip(value, computed))]
        elif isinstance(value, Plan):
            shown = dict(self.fields(computed, path))
            items = [(name, getattr(value, name), item) for name, item in shown.items()]
            for field in dataclasses.fields(value):
                if field.name not in shown and not _is_default(value, field):
                    yield f"{path}.{field.name}".lstrip("."), getattr(value, field.name)
        for key, own, item in items:
            yield from self.left_out(own, item, f"{path}.{key}".lstrip("."))

    def classes(self, recipe: Plan) -> list[str]:
        """The classes that are written."""
        return sorted({type(recipe).__name__, *self._inside(recipe, "")})

    def _inside(self, value: Any, path: str) -> Iterator[str]:
        if isinstance(value, Plan | tuple):
            items = self.fields(value, path) if isinstance(value, Plan) else enumerate(value)
            for key, item in items:
                if isinstance(item, Plan):
                    yield type(item).__name__
                yield from self._inside(item, f"{path}.{key}".lstrip("."))


def _is_default(plan: Plan, field: "dataclasses.Field[Any]") -> bool:
    default = field.default
    if default is dataclasses.MISSING and field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return default is not dataclasses.MISSING and repr(getattr(plan, field.name)) == repr(default)


def _reader(variable: str) -> str:
    return ENV_LIST if typing.get_origin(KINDS[variable]) is tuple else ENV


def literal(
    value: Any, *, full: bool = False, indent: int = 0, wording: Wording | None = None, path: str = ""
) -> str:
    """A Python expression that evaluates to the value, wrapped like code; path: where it stands."""
    wording = wording or Wording(full)
    if path in wording.named:
        name = wording.named[path]
        return f'{_reader(name)}("{name}", {value!r})'
    if not isinstance(value, Plan | tuple):
        return repr(value)
    if isinstance(value, Plan):
        opening, closing = f"{type(value).__name__}(", ")"
        items = [(name, f"{name}=", item) for name, item in wording.fields(value, path)]
    else:
        opening, closing = "(", ",)" if len(value) == 1 else ")"
        items = [(str(index), "", item) for index, item in enumerate(value)]
    texts = [
        name + literal(item, indent=indent + 4, wording=wording, path=f"{path}.{key}".lstrip("."))
        for key, name, item in items
    ]
    flat = ", ".join(texts)
    if indent + len(opening + flat + closing) <= LINE_LENGTH and "\n" not in flat:
        return opening + flat + closing
    pad = "\n" + " " * (indent + 4)
    return opening + "".join(f"{pad}{text}," for text in texts) + "\n" + " " * indent + ")"


def pack_script(script: str, codec: str = "standard") -> bytes:
    """The self-decompressing form of a readable script; see `packed_source`."""
    return packed_source(minify(script).encode(), codec)


def packed_source(source: bytes, codec: str = "standard") -> bytes:
    """One Python file that runs a minified source as it is. Its length is the code's cost.

    codec: of the standard library, which alone is sure to be there, or "brotli" too, if that is shorter.
    """
    forms = [_stub("zlib", f"{source_of(_deflate(source))})")]
    if codec == "brotli":
        brotli = needed("brotli", "budget.code_codec=brotli")
        windows = (brotli.compress(source, quality=11, lgwin=bits) for bits in (16, 18, 20))
        forms += [_stub("brotli", f"{source_of(data)})") for data in windows]
    for literal_bits in (2, 3, 4):  # how many bits of the previous byte predict the next; text has no pb
        settings = {"lc": literal_bits, "pb": 0}
        extra = "".join(f",'{name}':{value}" for name, value in settings.items())
        filters: list[dict[str, Any]] = [
            {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "nice_len": 273, **settings}
        ]
        data = lzma.compress(source, lzma.FORMAT_RAW, filters=filters)
        forms.append(_stub("lzma", f"{source_of(data)},3,None,[{{'id':2**62+1{extra}}}])"))
    return min(forms, key=len)


def _deflate(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, 15, 9)
    return coder.compress(data) + coder.flush()


def _stub(module: str, arguments: str) -> bytes:
    text = f"#coding:L1\nimport {module}\nSOURCE={module}.decompress({arguments}\nexec(SOURCE)\n"
    return text.encode("latin-1")


def source_of(data: bytes) -> str:
    """Bytes as a string literal with one character per byte, in a latin-1 source file: 2% longer than the
    bytes, where base85 is 25% longer.

    Escaped: NUL (Python refuses it) and carriage return (Python reads it as a newline, which also keeps the
    literal whole when a checkout turns newlines into CRLF).
    """
    text = data.decode("latin-1").replace("\\", "\\\\").replace("\r", "\\r")
    text = re.sub("\0(?=[0-7])", r"\\x00", text).replace("\0", "\\0")
    return '"""' + re.sub('"(?="")|"$', '\\"', text) + '""".encode("L1")'


def undefined_names(script: str) -> list[str]:
    """Names some function of the script reads that nothing defines: a crash waiting on an untried path."""
    top = symtable.symtable(script, "script", "exec")
    defined = {s.get_name() for s in top.get_symbols() if s.is_assigned() or s.is_imported()}
    defined |= set(dir(builtins)) | {"__name__"}
    scopes, missing = [top], set()
    while scopes:
        scope = scopes.pop()
        scopes += scope.get_children()
        missing |= {s.get_name() for s in scope.get_symbols() if s.is_global() and s.is_referenced()}
    return sorted(missing - defined)


def code_lines(script: str) -> int:
    """Lines that hold code: no blank ones, comments or docstrings."""
    tree = ast.parse(script)
    documented: set[int] = set()
    for node in nodes_in(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            documented |= set(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    lines = enumerate(map(str.strip, script.splitlines()), start=1)
    return sum(1 for number, line in lines if line and line[0] != "#" and number not in documented)
