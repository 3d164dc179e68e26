"""One small planted fault and one clean neighbour for each row of the catalogue, as texts of our own."""

from tests.audit.rows import b, k, paths, t, v, ways_k, ways_t

ROWS = [*v.ROWS, *b.ROWS, *k.ROWS, *t.ROWS, *ways_k.ROWS, *ways_t.ROWS, *paths.ROWS]
SCRIPT_ROWS = [row for row in ROWS if row.text]
