"""A study as a page, a Markdown file and JSON, with the same numbers.

The numbers come from `verdicts`, their words from `formatting`, their pictures from `plots`.
"""

import functools
from pathlib import Path

import jinja2

from bitgolf.base.files import write_bytes, write_json
from bitgolf.report.templates import templates
from bitgolf.study.formatting import (
    View,
    amendments,
    challenge,
    comparison_table,
    facts,
    failures,
    in_words,
    metric_table,
    original_table,
    paragraphs,
    tally,
)
from bitgolf.study.markdown import markdown
from bitgolf.study.plots import Curves, dots, forest, interactions, learning, scatter
from bitgolf.study.terms import METRICS
from bitgolf.study.verdicts import SIDE_METRICS, analyse, curves


def write_report(folder: Path, reading: str = "") -> View:
    """Write study.json, study.md and study.html from the runs as they stand; returns the first.

    reading: in plain words what the numbers say, if it is newer than the plan's.
    """
    study = analyse(folder)
    study["reading"] = reading or study["reading"]
    write_json(folder / "study.json", study)
    write_bytes(folder / "study.md", markdown(study).encode())
    write_bytes(folder / "study.html", page(study, curves(folder)).encode())
    return study


def page(study: View, curves: Curves) -> str:
    """The HTML page. curves: `verdicts.curves`."""
    return _template().render(
        study=study,
        facts=facts(study),
        tally=tally(study),
        paragraphs=paragraphs(study["reading"]),
        original=original_table(study),
        table=comparison_table(study),
        forest=forest(study),
        dots=dots(study),
        learning=learning(study, curves),
        scatters=[(metric, scatter(study, metric)) for metric in SIDE_METRICS if metric != study["metric"]],
        interactions=interactions(study) if study["factors"] else None,
        metrics=metric_table(study, METRICS),
        changed=[arm for arm in study["arms"] if arm["changes"] or arm["bundle"]],
        failures=failures(study),
        challenge=challenge(study),
        amendments=amendments(study),
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = templates("study")
    environment.filters |= {"in_words": in_words, "word": lambda verdict: verdict.replace(" ", "-")}
    return environment.get_template("study.html.jinja")
