"""Pages that are made with the site, from the code and its data: command line, Python API, what helped."""

import inspect
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.core import TyperGroup

import bitgolf
from bitgolf.base.plan import Plan, describe, field_types
from bitgolf.cli.main import VERBS, app
from bitgolf.cli.options import LARGEST_SEED
from bitgolf.study import design
from bitgolf.study.cited import Cited, cited
from bitgolf.study.findings import MEASURED, Finding, measured

STUDY_API = (design.Study, design.Margin, design.changed, design.add_one, design.leave_one_out, design.ladder)
KINDS = {"str": "TEXT", "int": "N", "float": "X", "Path": "PATH", "list": "TEXT"}
VERDICTS = {
    "better": "Better here",
    "worse": "Worse here",
    "equivalent": "Equivalent here",
    "no evidence": "No evidence here at this number of seeds",
    "invalid": "Invalid",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """What mkdocs calls once it has the files of the site: the made ones are added."""
    for path, page in PAGES.items():
        files.append(File.generated(config, path, content=page()))
    return files


def table(header: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; cells are one line each."""
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in [header, *rows]]
    cells.insert(1, ["---"] * len(header))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def command_line() -> str:
    """Every verb with its arguments, options and defaults, read from the parser."""
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = group.make_context("bitgolf", ["data"])
    parts = ["# Command line", "Every verb, from the parser itself. `bitgolf VERB --help` prints the same."]
    parts += [table(["verb", "what it does"], [[f"[{verb}](#{verb})", line] for verb, line in VERBS.items()])]
    for verb in VERBS:
        command = group.get_command(context, verb)
        parts += [f"## {verb}", *_prose_and_examples(inspect.cleandoc(command.help or ""))]
        rows = [_option(each) for each in command.params if each.name != "help"]
        parts.append(table(["argument or option", "default", "meaning"], rows))
    return "\n\n".join(parts) + "\n"


def _prose_and_examples(text: str) -> Iterator[str]:
    """The paragraphs of a docstring; its examples as code."""
    examples = re.findall(r"^Example: (.+)$", text, flags=re.MULTILINE)
    for paragraph in re.sub(r"^Example: .+$", "", text, flags=re.MULTILINE).split("\n\n"):
        if words := " ".join(paragraph.replace("\b", "").split()):
            yield words
    if examples:
        yield "\n".join(f"    {each}" for each in examples)


def _option(parameter: Any) -> list[str]:  # typer has no public name for what an argument and an option share
    """The row of one argument or option."""
    names = ", ".join(parameter.opts) + "".join(f" / {name}" for name in parameter.secondary_opts)
    if parameter.param_type_name == "argument":
        names = parameter.metavar or parameter.name.upper()
    elif not parameter.is_flag:
        kind = parameter.metavar or getattr(parameter.type_descriptor.annotation, "__name__", "text")
        names += f" {KINDS.get(kind, kind)}"
    ends = ((parameter.min, "At least"), (parameter.max, "At most"))
    limits = "".join(f" {words} {end:,}." for end, words in ends if end is not None and end < LARGEST_SEED)
    default = "required" if parameter.required else f"`{parameter.default}`"
    empty = parameter.default in (None, "", False) and not parameter.required
    return [f"`{names}`", "" if empty else default, (parameter.help or "") + limits]


def python_api() -> str:
    """What `import bitgolf` gives, and what a file with a study needs: signatures and docstrings."""
    parts = ["# Python API", "What `import bitgolf` gives, from the code itself. Everything else may change."]
    for name in bitgolf.__all__:
        parts += _described(f"bitgolf.{name}", getattr(bitgolf, name))
    parts += ["## Studies", "What a file with a study imports, from `bitgolf.study.design`."]
    for item in STUDY_API:
        parts += _described(item.__name__, item, level="###")
    return "\n\n".join(parts) + "\n"


def _described(name: str, item: Any, level: str = "##") -> Iterator[str]:
    """A class or a function: signature, docstring; of a class its settings and its methods."""
    yield f"{level} {name}"
    if not inspect.isclass(item):
        yield f"    {name.rpartition('.')[2]}{inspect.signature(item)}"
        yield inspect.getdoc(item) or ""
        return
    yield inspect.getdoc(item) or ""
    if issubclass(item, Plan):
        rows = [
            [
                f"`{field}`",
                describe(kind),
                f"`{getattr(item, field)}`" if _is_short(getattr(item, field)) else "",
            ]
            for field, kind in field_types(item).items()
        ]
        yield table(["setting", "type", "default"], rows)
        return
    for method, function in vars(item).items():
        if inspect.isfunction(function) and method[0] != "_" and function.__doc__:
            yield f"    {method}{inspect.signature(function)}"
            yield inspect.getdoc(function) or ""


def _is_short(value: object) -> bool:
    return len(str(value)) <= 40


def gallery() -> str:
    """Changes by what came of them: measured in the project's studies, then published by others."""
    found, _ = measured(MEASURED)
    parts = [
        "# What helped",
        "Every change measured in the [studies](studies/README.md) of this project, the largest gain first. "
        "Below: what others published, with their conditions. Effects are in bits per byte; a negative one "
        "is a gain. Models are small, with some hundred steps. [Techniques](techniques.md) says what "
        "each one does.",
    ]
    for verdict, title in VERDICTS.items():
        rows = sorted((each for each in found if each.verdict == verdict), key=lambda each: each.effect or 0)
        if rows:
            header = ["change", "against", "study", "effect [95%]", "n", "scale"]
            parts += [f"## {title}", table(header, [_measured_row(each) for each in rows])]
    told = sorted((row for row in cited() if row.effect is not None and "bits" in row.metric), key=_gain)
    header = ["change", "against", "source", "effect", "metric", "their verdict", "conditions"]
    parts += ["## Published by others", table(header, [_cited_row(each) for each in told])]
    return "\n\n".join(parts) + "\n"


def _gain(row: Cited) -> float:
    return row.effect or 0.0


def _measured_row(each: Finding) -> list[str]:
    ends = [each.low, each.high]
    interval = f" [{', '.join('?' if end is None else f'{end:+.4f}' for end in ends)}]"
    effect = "-" if each.effect is None else f"{each.effect:+.4f}{interval}"
    effect += "" if each.metric == "bits_per_byte" else f", {each.metric.replace('_', ' ')}"
    study = f"[{each.study}](studies/{each.study}.md)"
    return [each.technique, each.against, study, effect, str(each.n), each.scale]


def _cited_row(row: Cited) -> list[str]:
    effect = f"{row.effect:+.4f}"
    return [row.technique, row.against, row.source, effect, row.metric, row.verdict, row.conditions]


def notebook() -> str:
    """The cells of notebook.ipynb with what they printed."""
    parts = []
    for cell in json.loads(Path(__file__).with_name("notebook.ipynb").read_text())["cells"]:
        text = "".join(cell["source"])
        parts.append(text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```")
        parts += ["```text\n" + "".join(output["text"]) + "```" for output in cell.get("outputs", ())]
    parts.append("[The same as a notebook to run](notebook.ipynb)")
    return "\n\n".join(parts) + "\n"


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": command_line,
    "api.md": python_api,
    "gallery.md": gallery,
    "notebook.md": notebook,
}
