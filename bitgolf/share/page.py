"""The HTML page: its contents, and a check that it contains the model."""

import base64
import importlib.resources
import json
from collections.abc import Generator
from pathlib import Path
from typing import Any

from markupsafe import Markup

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.base.files import read_json, write_bytes
from bitgolf.export.exported import exported_of
from bitgolf.inputs.resolve import beside, find_artifact
from bitgolf.inputs.writable import refuse_page
from bitgolf.net.backend import Backend
from bitgolf.net.model import model_with
from bitgolf.report.templates import templates
from bitgolf.share.step import graphs_of
from bitgolf.share.weights import written
from bitgolf.text.encoder import Encoder
from bitgolf.text.tokenizer import FOLDED_KIND, MERGES_KIND, Tokenizer

MADE = "made"  # the recipe of `bitgolf make`: its folder says more
SCRIPTS = ("engine.js", "tokenizer.js", "page.js")
LARGEST_WINDOW = 1024  # tokens; a page keeps keys and values of all
KINDS = {MERGES_KIND: "bytes", FOLDED_KIND: "folded"}


def write_page(run: str, out: Path | None, prompt: str) -> Generator[Event, None, dict[str, Any]]:
    """Write the page of a run folder or model.bin; yields progress, returns the page's facts.

    Raises BitgolfError for a model that it cannot run.
    """
    path, unpacked = find_artifact(run)
    exported = exported_of(path, unpacked)
    name = path.resolve().parent.name if exported.name == MADE else exported.name
    target = out or beside(path) / "share.html"
    refuse_page(target)
    tokenizer = in_page(unpacked.tokenizer)
    window = min(exported.window, LARGEST_WINDOW)
    model = model_with(unpacked.model, unpacked.weights, Backend().plain()).eval()
    graphs, constants = yield from graphs_of(model, window)
    needed = {name for graph in graphs for name in graph.takes}
    kept = {name: weight for name, weight in unpacked.weights.items() if name in needed}
    rows, packed = written(unpacked.tensors, kept, constants)
    plan = unpacked.model
    held = {
        "graphs": [graph._asdict() for graph in graphs],
        "rows": rows,
        "window": graphs[-1].last,
        "kept": [[plan.kv_heads, plan.width // plan.heads]] * (2 * len(model.scoring_calls)),
        "tokenizer": tokenizer,
    }
    parameters = sum(weight.numel() for weight in unpacked.weights.values())
    page = templates("share").get_template("page.html.jinja").render(
        name=name,
        artifact_bytes=f"{path.stat().st_size:,}",
        parameters=f"{parameters:,}",
        vocabulary=plan.vocabulary_size,
        window=f"{graphs[-1].last:,}",
        prompt=prompt,
        facts=facts_of(path.parent / "result.json"),
        model=in_script(held),
        weights=Markup(packed),
        scripts=[Markup(_asset(name)) for name in SCRIPTS],
    )  # fmt: skip
    write_bytes(target, page.encode())
    return {"model": str(path), "out": str(target), "bytes": len(page.encode()), "window": graphs[-1].last}


def in_page(tokenizer: Tokenizer) -> dict[str, Any]:
    """A tokenizer for tokenizer.js. Raises BitgolfError for one whose rules it does not have."""
    count = tokenizer.vocabulary_size
    special = {tokenizer.bos, tokenizer.unknown}
    data: dict[str, Any] = {"bos": tokenizer.bos, "byteIds": []}
    data["pieces"] = [base64.b64encode(piece).decode() for piece in tokenizer.pieces]
    data["ranks"] = [
        None if token in special or not piece else token for token, piece in enumerate(tokenizer.pieces)
    ]
    if tokenizer.kind in KINDS:
        return data | {"kind": KINDS[tokenizer.kind]}
    encoder = Encoder(tokenizer)
    names = encoder.names()
    bytes_at = {name: token for token, name in enumerate(names) if len(name) == 6 and name.startswith("<0x")}
    scores = encoder.scores()
    merges = [t for t in range(count) if data["ranks"][t] is not None and names[t] not in bytes_at]
    falling = all(scores[a] > scores[b] for a, b in zip(merges, merges[1:]))
    whole = all(float(scores[t]).is_integer() for t in merges)
    if not (tokenizer.lossless and falling and whole):
        raise BitgolfError(
            "the page has no rules for this tokenizer",
            value="a SentencePiece model that is not byte-pair merges, or changes the text",
            way_out="use `bitgolf sample`",
        )
    data["byteIds"] = [bytes_at[f"<0x{byte:02X}>"] for byte in range(256)]
    for token in bytes_at.values():
        data["ranks"][token] = None
    return data | {"kind": "characters"}


def facts_of(result_file: Path) -> list[tuple[str, str]]:
    """What is told of the model: a label and its value each, of what the result of its run has."""
    result = read_json(result_file) if result_file.is_file() else {}
    facts = (
        ("Recipe", "recipe", "{}"),
        ("Bits per byte on its validation text", "bits_per_byte", "{:.4f}"),
        ("Bytes with the code", "total_bytes", "{:,}"),
        ("Trained on tokens", "train_tokens", "{:,}"),
    )
    return [(label, form.format(result[key])) for label, key, form in facts if result.get(key) is not None]


def in_script(value: object) -> Markup:
    """JSON that no script element ends within."""
    return Markup(json.dumps(value, separators=(",", ":")).replace("<", "\\u003c"))


def _asset(name: str) -> str:
    return (importlib.resources.files("bitgolf.share") / name).read_text(encoding="utf-8")
