"""The geometry of a line chart. Paths live on a 1000 x 1000 square that the page stretches to any width;
ticks are placed in percent and set as text by the page, so that type keeps its size on a phone."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

Ticks = list[tuple[float, str]]
THIN_END = 0.001  # of all counts, at either side of a histogram, may be left out
SPARKS, BLOCKS = 15, " ▁▂▃▄▅▆▇█"  # of a histogram in a line of text


@dataclasses.dataclass(frozen=True)
class Chart:
    """One line, optionally with the band it was averaged from and a level to compare with."""

    title: str
    x_label: str
    x_ticks: Ticks
    y_ticks: Ticks
    line: str
    band: str = ""
    level: float | None = None


def line_chart(
    title: str,
    x: np.ndarray,
    y: np.ndarray,
    *,
    x_label: str = "",
    log_x: bool = False,
    y_range: tuple[float, float] | None = None,
    level: float | None = None,
    points: int = 160,
) -> Chart:
    """A chart of finite pairs, x rising; beyond `points` they are averaged, over a band of their range."""
    low, high = y_range or padded(y if level is None else np.append(y, level))
    groups = np.array_split(np.arange(len(x)), min(points, len(x)))
    mean_x = [float(x[group].mean()) for group in groups]
    first, last = float(x[0] if log_x else min(0.0, x[0])), float(x[-1])
    scale_x: Callable[[float], float] = math.log if log_x else float
    across = _onto(scale_x(first), scale_x(last))
    up = _onto(low, high)

    def path(reduce: Callable[[np.ndarray], float], order: slice = slice(None)) -> str:
        pairs = [(across(scale_x(at)), up(reduce(y[group]))) for at, group in zip(mean_x, groups)]
        return "L".join(f"{10 * left:.0f} {1000 - 10 * height:.0f}" for left, height in pairs[order])

    ticks = decades(first, last) if log_x else round_numbers(first, last)
    return Chart(
        title=title,
        x_label=x_label,
        x_ticks=[(across(scale_x(tick)), short(tick)) for tick in ticks],
        y_ticks=[(up(tick), short(tick)) for tick in round_numbers(low, high, about=4)],
        line="M" + path(np.mean),
        band=f"M{path(np.max)}L{path(np.min, slice(None, None, -1))}Z" if len(x) > points else "",
        level=None if level is None else up(level),
    )


def trimmed(counts: Sequence[int]) -> tuple[int, list[int]]:
    """A histogram without its thin ends, and how many counts were left out before it."""
    reached = np.cumsum(counts) / max(1, sum(counts))
    first = int(np.argmax(reached > THIN_END))
    last = int(np.argmax(reached >= 1 - THIN_END))
    return first, list(counts[first : last + 1])


def bars(counts: Sequence[int]) -> str:
    """The path of a histogram: as wide as there are counts, 100 high."""
    largest = max(counts) or 1
    return "M0 100" + "".join(f"V{100 - 100 * count / largest:.0f}h1" for count in counts) + "V100Z"


def sparkline(counts: Sequence[int]) -> str:
    """A histogram in one line of text."""
    means = [float(np.mean(part)) for part in np.array_split(counts, min(SPARKS, len(counts)))]
    return "".join(BLOCKS[math.ceil(mean / (max(means) or 1) * (len(BLOCKS) - 1))] for mean in means)


def _onto(low: float, high: float) -> Callable[[float], float]:
    """The map of [low, high] onto percent; a single value sits in the middle."""
    return lambda value: round(100 * (float(value) - low) / (high - low), 2) if high > low else 50.0


def padded(values: np.ndarray) -> tuple[float, float]:
    """The range of some values with a little air."""
    low, high = float(values.min()), float(values.max())
    air = 0.06 * (high - low) or 0.5
    return low - air, high + air


def round_numbers(low: float, high: float, about: int = 5) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten within [low, high]."""
    if not high > low:
        return [low]
    rough = (high - low) / about
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 5, 10) if factor * unit >= rough)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def decades(low: float, high: float) -> Sequence[float]:
    """Powers of ten within [low, high], or of two where they would be fewer than three."""
    for base in (10, 2):
        first, last = math.ceil(math.log(low, base) - 1e-9), math.floor(math.log(high, base) + 1e-9)
        ticks = [float(base) ** n for n in range(first, last + 1)]
        if len(ticks) >= 3:
            break
    return ticks[:: -(-len(ticks) // 6)] if ticks else [low]


def short(number: float) -> str:
    """A tick's text: 0.25, 40, 1,500, 12k, 3M."""
    for divisor, letter in ((1e6, "M"), (1e3, "k")):
        if abs(number) >= 10 * divisor or (letter == "M" and abs(number) >= divisor):
            return f"{number / divisor:.4g}{letter}"
    return f"{number:,.4g}" if abs(number) < 1000 else f"{number:,.0f}"
