"""Covering arrays: few rows in which every two levels of different factors stand together somewhere."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

Pair = tuple[tuple[str, int], tuple[str, int]]


def pairs_of(row: Mapping[str, int]) -> set[Pair]:
    """The pairs of levels in a row."""
    return set(combinations(sorted(row.items()), 2))


def covering_array(factors: Mapping[str, Sequence[object]]) -> Iterator[dict[str, int]]:
    """Rows of level numbers, greedily: each is built round a pair still missing, a factor at a time."""
    names = sorted(factors, key=lambda name: (-len(factors[name]), name))
    missing = {
        pair
        for a, b in combinations(sorted(names), 2)
        for i in range(len(factors[a]))
        for j in range(len(factors[b]))
        for pair in [((a, i), (b, j))]
    }
    while missing:
        row = dict(min(missing))
        for name in names:
            if name not in row:
                gains = [
                    sum(tuple(sorted([(name, level), other])) in missing for other in row.items())
                    for level in range(len(factors[name]))
                ]
                row[name] = max(range(len(gains)), key=lambda level: (gains[level], -level))
        missing -= pairs_of(row)
        yield row
