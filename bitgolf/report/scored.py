"""The scored tokens in a report: where bits are spent, by token, position and document."""

import codecs
import math

import numpy as np

from bitgolf.report.charts import Chart, line_chart
from bitgolf.report.folder import MissingError, Run, View

TOP_TOKENS = 20
DOCUMENTS_SHOWN = 4  # this many of the hardest, and of the easiest
OPENING_TOKENS, PASSAGE_TOKENS = 40, 240
SHADES = 6  # steps of the marker in the passage, of SHADE_NATS each
SHADE_NATS = 1.5
DISTANCE_BUCKETS = 24
BUCKET_TOKENS = 200  # a point of the curve stands for at least so many


def tokens(run: Run) -> View:
    """The tokens on which most nats are spent."""
    target, nats = run.scores["target"], run.scores["nats"]
    spent, times = np.bincount(target, weights=nats), np.bincount(target)
    kinds = int(np.count_nonzero(times))
    top = np.argsort(-spent, kind="stable")[: min(TOP_TOKENS, kinds)]
    share = spent / (nats.sum() or 1)
    return {
        "rows": [
            (
                _shown(run, int(t)),
                100 * spent[t] / (spent.max() or 1),
                share[t],
                int(times[t]),
                spent[t] / times[t],
            )
            for t in top
        ],
        "share": share[top].sum(),
        "kinds": kinds,
        "nats": nats.sum(),
    }


def _shown(run: Run, token: int) -> str:
    """A piece with its white space visible, or its number."""
    try:
        data = run.piece(token)
    except MissingError:
        return f"token {token}"
    text = data.decode("utf-8", "backslashreplace").translate({32: "␣", 10: "⏎", 13: "␍", 9: "⇥"})
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text) or f"token {token}, no text"


def places(run: Run) -> View:
    """Bits per byte by how far into its document, and after how much context, a token was predicted."""
    scores = run.scores
    charts = {
        "by_position": _by_place(scores, "position", "tokens into the document"),
        "by_context": _by_place(scores, "context", "tokens of context"),
    }
    if not any(charts.values()):
        raise MissingError("All tokens were scored at the same position with the same context.")
    return charts


def _by_place(scores: dict[str, np.ndarray], column: str, label: str) -> Chart | None:
    distance = np.maximum(scores[column].astype(np.int64), 1)
    bucket = _buckets(distance)
    nats, num_bytes, count, total = (
        np.bincount(bucket, weights=weights)
        for weights in (scores["nats"], scores["bytes"], np.ones(len(distance)), distance)
    )
    if len(num_bytes) < 2 or not num_bytes.all():
        return None
    bits = nats / math.log(2) / num_bytes
    whole = bits_per_byte(scores["nats"].sum(), scores["bytes"].sum())
    title = f"Bits per byte by {label}, {bits[0]:.2f} at first, {bits[-1]:.2f} at last"
    return line_chart(title, total / count, bits, x_label=label, log_x=True, level=whole)


def _buckets(distance: np.ndarray) -> np.ndarray:
    """A bucket for each distance, even on a logarithmic scale, none with so few tokens that it is noise."""
    edges = np.unique(np.geomspace(1, distance.max() + 1, DISTANCE_BUCKETS + 1).astype(np.int64))
    fine = np.searchsorted(edges, distance, side="right") - 1
    least = min(BUCKET_TOKENS, len(distance) // DISTANCE_BUCKETS)
    merged, held, current = np.zeros(len(edges), dtype=np.int64), 0, 0
    for index, tokens_here in enumerate(np.bincount(fine)):
        merged[index] = current
        held += tokens_here
        if held >= max(1, least):
            current, held = current + 1, 0
    return np.minimum(merged[fine], max(0, current - 1))  # what is left at the end joins the last full one


def documents(run: Run) -> View:
    """The hardest and the easiest documents, and a passage of the middle one with its nats as a marker."""
    scores = run.scores
    names, row_of = np.unique(scores["document"], return_inverse=True)
    nats, num_bytes = (np.bincount(row_of, weights=scores[column]) for column in ("nats", "bytes"))
    bits = np.array([bits_per_byte(*pair) for pair in zip(nats, num_bytes)])
    order = np.argsort(-bits, kind="stable")
    ends = np.r_[order[:DOCUMENTS_SHOWN], order[-DOCUMENTS_SHOWN:]]
    shown = ends if len(ends) < len(order) else order
    middle = order[len(order) // 2]

    def row(index: int) -> View:
        return {
            "document": int(names[index]),
            "bits": bits[index],
            "bytes": int(num_bytes[index]),
            "share": nats[index] / nats.sum(),
            "opening": _text(run, scores["target"][row_of == index][:OPENING_TOKENS]),
        }

    return {
        "rows": [row(index) for index in shown],
        "left_out": len(order) - len(shown),
        "passage": _passage(run, np.flatnonzero(row_of == middle)),
        "shades": [(shade, shade * SHADE_NATS) for shade in range(SHADES + 1)],
        "passage_document": int(names[middle]),
    }


def _text(run: Run, targets: np.ndarray) -> str:
    try:
        return " ".join(b"".join(run.piece(int(t)) for t in targets).decode("utf-8", "replace").split())
    except MissingError:
        return ""


def _passage(run: Run, rows: np.ndarray) -> list[tuple[str, int, float]]:
    """(text, shade, nats) from a third of the way in; a character of several tokens has all their nats."""
    start = min(len(rows) // 3, max(0, len(rows) - PASSAGE_TOKENS))
    decode = codecs.getincrementaldecoder("utf-8")("replace").decode
    parts, carried = [], 0.0
    for row in rows[start : start + PASSAGE_TOKENS]:
        try:
            text = decode(run.piece(int(run.scores["target"][row])))
        except MissingError:
            return []
        carried += float(run.scores["nats"][row])
        if text:
            parts.append((text, min(SHADES, int(carried / SHADE_NATS)), carried))
            carried = 0.0
    return parts


def bits_per_byte(nats: float, num_bytes: float) -> float:
    return float(nats / math.log(2) / num_bytes) if num_bytes else math.nan
