"""A run folder as one page: score, comparison, costs, and where the bits go.

The page needs no network, no script and no other file. Whatever a run left unwritten is said in a sentence.
The numbers are made here, the geometry of the curves in `charts`, the HTML in `report.html.jinja`, which
escapes everything that is put into it.
"""

import functools
import json
import math
import re
import shlex
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import is_number, write_bytes
from bitgolf.base.plan import to_json
from bitgolf.recipe import Recipe
from bitgolf.report.charts import Chart, bars, line_chart, padded, trimmed
from bitgolf.report.folder import MissingError, Piece, Run, View, required
from bitgolf.report.scored import documents, places, tokens
from bitgolf.report.templates import templates
from bitgolf.report.tensors import GAPS, bits_per_byte_of, shown_error
from bitgolf.run.positions import positions_in_words
from bitgolf.run.training import VALIDATED

PROOF = ("text_bytes", "coded_bytes", "bits_per_byte")
METRICS = ("seconds", "nats_per_token", "scale", "step")
SAMPLE_CHARACTERS = 4000

# What a cut, changed or foreign file in the run folder can raise on its way into the page.
UNREADABLE = (
    BitgolfError, ArithmeticError, AttributeError, EOFError, LookupError, OSError, TypeError, ValueError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def write_report(folder: Path, piece: Piece | None = None) -> Path:
    """Write `report.html` from what the run folder holds. `piece`: instead of model.bin's tokenizer."""
    run = Run(folder, piece)
    views = {section.__name__: _view(section, run) for section in SECTIONS}
    page = _environment().get_template("report.html.jinja").render(result=run.result, name=run.name, **views)
    path = folder / "report.html"
    write_bytes(path, page.encode(errors="backslashreplace"))  # names of files may hold half characters
    return path


def _view(section: Callable[[Run], View], run: Run) -> View:
    """A section's content, or the sentence that stands for it. A page about a crash must not crash."""
    try:
        return section(run)
    except MissingError as missing:
        return {"missing": str(missing)}
    except UNREADABLE as error:
        return {"missing": f"Not readable in this run folder ({type(error).__name__}: {error})."}


def budget(run: Run) -> View:
    """The bytes counted, as shares of the bytes allowed."""
    total = required(run.result, "total_bytes", "The run did not get as far as packing.")
    allowed = run.result.get("budget_bytes") or 0
    code, whole = run.result.get("code_bytes") or 0, max(total, allowed)
    return {
        "total": total,
        "allowed": allowed,
        "used": total / allowed if allowed else None,
        "over": bool(allowed) and total > allowed,
        "parts": [(name, n, 100 * n / whole) for name, n in (("model", total - code), ("code", code)) if n],
    }


def against_compressors(run: Run) -> View:
    """This run among the compressors and public models, smallest first."""
    listed = required(run.result, "rivals", "The run was not compared with compressors.")
    rows = [(f"bitgolf {run.name}", run.result.get("bits_per_byte"), "ours")]
    for rival in listed:
        within = rival.get("budget_bits_per_byte")
        rows.append((f"{rival['name']}, with what training text fits the budget", within, "within"))
        primed = rival.get("primed_bits_per_byte")
        rows.append((f"{rival['name']}, with the training text", primed, "primed"))
        rows.append((f"{rival['name']}, alone", rival.get("alone_bits_per_byte"), "alone"))
    for model in run.result.get("public_models") or []:
        size = f"{model['model_bytes'] / 1e6:,.0f} MB" if model.get("model_bytes") else "size not known"
        rows.append((f"{model['name']}, a public model ({size})", model.get("bits_per_byte"), "alone"))
    finite: list[tuple[Any, ...]] = [row for row in rows if is_number(row[1])]
    return {"rows": _shares(sorted(finite, key=lambda row: row[1])), "proof": proof_of(run)}


def proof_of(run: Run) -> View | None:
    """The part of the text that was coded and read back; None if the result has no whole proof."""
    proof = run.result.get("proof")
    if not isinstance(proof, dict) or not all(is_number(proof.get(name)) for name in PROOF):
        return None
    return {name: proof[name] for name in PROOF}


def variants(run: Run) -> View:
    """The weights as trained, as averaged and as packed, each with its step from the one before."""
    rows = []
    before: dict[str, float] = {}  # by windows: scores of different windows cannot be compared
    for row in required(run.result, "variants", "The run did not get as far as scoring."):
        bits, windows = row["bits_per_byte"], row.get("windows", "")
        change = bits - before[windows] if windows in before and is_number(bits) else None
        rows.append({**row, "change": change, "counts": bits == run.result.get("bits_per_byte")})
        if is_number(bits):
            before[windows] = bits
    positions = {"asked": positions_in_words(run.result), "unseen": run.result.get("position_warning")}
    return {"rows": rows, **positions} | {
        key: value for key in GAPS if is_number(value := run.result.get(key))
    }


def training(run: Run) -> View:
    """Loss and schedule over the seconds of training."""
    rows = list(_metrics(run.folder / "metrics.jsonl"))
    if len(rows) < 2:
        raise MissingError("Fewer than two training steps were logged in metrics.jsonl.")
    seconds, loss, lr_scale, steps = (
        np.array([row[key] for row in rows], dtype=np.float64) for key in METRICS
    )
    clock = bool(seconds[-1] > seconds[0])
    x, x_label = (seconds, "seconds of training") if clock else (steps, "steps")
    frame = padded(loss[loss <= np.quantile(loss, 0.96)])  # the first steps would flatten all that follows
    title = f"Loss, from {loss[0]:.2f} to {loss[-1]:.2f} nats per token"
    up_to = 1.05 * max(lr_scale.max(), 1e-9)
    return {
        "loss": line_chart(title, x, loss, y_range=frame),
        "scale": line_chart("Learning-rate scale", x, lr_scale, x_label=x_label, y_range=(0, up_to)),
        "validation": _validation([row for row in rows if is_number(row.get(VALIDATED))]),
        "first": loss[0],
        "last": loss[-max(1, len(loss) // 50) :].mean(),
        "cut": loss.max() if loss.max() > frame[1] else None,
        "steps": int(steps[-1]),
        "tokens": rows[-1].get("tokens"),
    }


def _validation(rows: Sequence[View]) -> Chart | None:
    """Bits per byte of the validation text while the model was trained, where that was asked for."""
    if len(rows) < 2:
        return None
    steps, bits = (np.array([row[key] for row in rows], dtype=np.float64) for key in ("step", VALIDATED))
    title = f"Validation, from {bits[0]:.4f} to {bits[-1]:.4f} bits per byte"
    return line_chart(title, steps, bits, x_label="steps")


def _metrics(path: Path) -> Iterator[View]:
    """Logged steps with finite numbers; a killed run may leave half a line."""
    lines = path.read_bytes().split(b"\n") if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and all(is_number(row.get(key)) for key in METRICS):
            yield row


def ledger(run: Run) -> View:
    """Every byte by its line: tensors of blocks gathered by role, the rest under its own name."""
    lines = required(run.result, "ledger", "The run did not get as far as packing.")
    roles: dict[str, Counter[str]] = defaultdict(Counter)
    for name, num_bytes in lines:
        owner = name.split(" ")[0]  # a tensor's codes and scales are lines of their own
        in_block = re.fullmatch(r"blocks\.(\d+)\.(.+?)(\.weight)?", owner)
        role, part = (in_block[2], f"block {in_block[1]}") if in_block else (owner, name)
        roles[role][part] += num_bytes
    sizes = {role: parts.total() for role, parts in roles.items()}
    largest, total = max(sizes.values()) or 1, sum(sizes.values()) or 1

    def drawn(role: str) -> list[tuple[str, int, float]]:
        thin = sizes[role] < largest / 40
        parts = Counter({role: sizes[role]}) if thin else roles[role]
        return [(name, num_bytes, 100 * num_bytes / largest) for name, num_bytes in parts.items()]

    return {
        "roles": [
            (role, sizes[role], sizes[role] / total, drawn(role))
            for role in sorted(sizes, key=lambda r: -sizes[r])
        ],
        "lines": lines,
        "code": [(name, num_bytes) for name, num_bytes in lines if name.startswith("code ")],
        "total": total,
    }


def tensors(run: Run) -> View:
    """What each quantized tensor costs and loses, by rule, and what the floats take."""
    rows = required(run.result, "quantization", "The run did not get as far as packing.")
    text, count = run.result.get("text_bytes"), run.result.get("tokens")
    rate = text / count if is_number(text) and is_number(count) and count else math.nan
    groups: dict[str, list[View]] = defaultdict(list)
    for row in rows:
        if "levels" in row:
            groups[row["rule"]].append(_tensor(row, rate))
    kept = [row for row in rows if "levels" not in row]
    return {
        "groups": list(groups.items()),
        "kept": len(kept),
        "kept_bytes": sum(row["bytes"] for row in kept),
        "alarms": [(row["name"], row["alarm"]) for row in rows if row.get("alarm")],
        "tokens": next((row["calibration_tokens"] for row in rows if "calibration_tokens" in row), None),
    }


def _tensor(row: View, bytes_per_token: float) -> View:
    levels = row["levels"]
    skipped, counts = trimmed(levels["counts"])
    first = levels["first"] + skipped * levels["width"]
    damages = {
        key: bits_per_byte_of(row[key], bytes_per_token)
        for key in ("damage_nats", "damage_nats_plain")
        if is_number(row.get(key))
    }
    return {
        **row,
        **damages,
        "error": shown_error(row),
        "error_plain": shown_error(row, "_plain"),
        "bars": bars(counts),
        "span": len(counts),
        "codes": f"codes from {first} to {first + (len(counts) - 1) * levels['width']}",
    }


def sample(run: Run) -> View:
    """Text the packed model wrote."""
    text = str(required(run.result, "sample", "The run kept no sample."))
    return {"text": text[:SAMPLE_CHARACTERS], "cut": len(text) > SAMPLE_CHARACTERS}


def stages(run: Run) -> View:
    """Where the time went, in the order it was spent."""
    seconds = required(run.result, "seconds", "The run did not time its stages.")
    return {"rows": _shares(list(seconds.items())), "total": sum(seconds.values())}


def settings(run: Run) -> View:
    """What this recipe changes from the defaults, then all of it."""
    if not run.recipe:
        raise MissingError("recipe.json is not there or cannot be read.")
    return {
        "changes": list(_changes(to_json(Recipe()), run.recipe)),
        "all": json.dumps(run.recipe, indent=2, ensure_ascii=False),
    }


def _changes(default: Any, recorded: Any, path: str = "") -> Iterator[tuple[str, str, str]]:
    """(path, default, found) of recorded plans; another class in a slot is one change."""
    if (
        isinstance(default, dict)
        and isinstance(recorded, dict)
        and default.get("class") == recorded.get("class")
    ):
        for key in recorded:
            yield from _changes(default.get(key), recorded[key], f"{path}.{key}".lstrip("."))
    elif default != recorded:
        yield path, _brief(default), _brief(recorded)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{k}={_brief(v)}" for k, v in value.items() if k != "class")
        return f"{value.get('class', '')}({inside})"
    if isinstance(value, list):
        return f"({', '.join(map(_brief, value))})"
    return json.dumps(value, ensure_ascii=False)


def circumstances(run: Run) -> View:
    """The machine, the data and the code, flattened to `name: value` lines."""
    if not run.environment and not run.result.get("data"):
        raise MissingError("The run recorded neither its environment nor its data.")
    return {"environment": list(_flat(run.environment)), "data": list(_flat(run.result.get("data") or {}))}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(item, f"{path} {key}".strip().replace("_", " "))
    elif isinstance(value, list):
        yield path, f"{len(value):,} of them"
    elif type(value) is int:
        yield path, f"{value:,}"
    else:
        yield path, value if isinstance(value, str) else json.dumps(value)


def again(run: Run) -> View:
    """The commands that repeat this run, and that score its model once more."""
    folder = Path(str(run.result.get("run", ".")))
    repeat = ["bitgolf", "run", str(folder / "recipe.json")]
    for option, key in (("--data", "dataset"), ("--seed", "seed")):
        repeat += [option, str(run.result[key])] if key in run.result else []
    repeat += ["--out", f"{folder}-again" if folder.name else "again"]
    return {"commands": [shlex.join(repeat), shlex.join(["bitgolf", "score", str(folder / "model.bin")])]}


SECTIONS = (
    budget,
    against_compressors,
    variants,
    training,
    ledger,
    tensors,
    tokens,
    places,
    documents,
    sample,
    stages,
    settings,
    circumstances,
    again,
)


def _shares(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows (name, value, ...) with the value as percent of the largest put behind it."""
    largest = max((row[1] for row in rows), default=0) or 1
    return [(name, value, 100 * value / largest, *rest) for name, value, *rest in rows]


def _number(form: str, minus: str = "-") -> Callable[[Any], str]:
    return lambda value: format(value, form).replace("-", minus) if is_number(value) else "–"


@functools.cache
def _environment() -> jinja2.Environment:
    """Those of the report; what an older run does not have is empty."""
    environment = templates("report", jinja2.ChainableUndefined)
    environment.filters |= {
        "whole": _number(",.0f"),
        "seconds": _number(",.1f"),
        "two": _number(".2f"),
        "four": _number(".4f"),
        "signed": _number("+.4f", minus="−"),
        "gap": _number("+.5f", minus="−"),
        "five": _number(".5f"),
        "six": _number(".6f"),
        "share": _number(".1%"),
        "brief": _number(",.3g"),
        "percent": lambda value: f"{100 * value:.3g}%" if is_number(value) else "–",
    }
    return environment
