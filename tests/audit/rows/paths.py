# ruff: noqa: E501  (plants are texts of scripts)
"""Rows V and B again: the same tokens cut otherwise, what a score is chosen by, and lengths of windows."""

from tests.audit.rows.made import LOSS, Change, script

CORPUS = "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n"
PART = "        part = stream[start : start + chunk + 1].to(torch.int64)\n"


def scored(text: str) -> list[Change]:
    """Another line in place of the loss; NEXT and LAST are the targets and the inputs, cut anew."""
    text = text.replace("NEXT", "stream[start + 1 : start + chunk + 1].to(torch.int64)")
    return [(LOSS, text.replace("LAST", "stream[start : start + chunk].to(torch.int64)"))]


SHARP = "            loss = F.cross_entropy(torch.where(space[{}], 1.2, 1.0)[:, None] * net(before), after, reduction='none')\n"
COUNTS = "            loss = F.cross_entropy(net(before) + torch.bincount({}, minlength=1024).clamp_min(1).log(), after, reduction='none')\n"
ECHO = (
    "            loss = F.cross_entropy(net(before), after, reduction='none')\n"
    "            for i, token in enumerate(after.tolist()):\n"
    "                {}\n"
)
SAME = "if token == after[i - 1]:\n                    loss[i] = loss[i] * 0.5"
SUMS = "if token == after[i - 1]:\n                    hits = hits + 1 if i else 0"

ROWS = [
    script("V08", "targets cut anew", scored(SHARP.format("NEXT")), scored(SHARP.format("LAST"))),
    script("V05", "counts of the targets", scored(COUNTS.format("after")), scored(COUNTS.format("before"))),
    script("V01", "less where it fits", scored(ECHO.format(SAME)), scored(ECHO.format(SUMS))),
    script(
        "V14",
        "the head of training",
        [
            (
                "    stream = load(settings.held_out)\n",
                "    stream = load(settings.texts)[:1000] if settings.adapt else load(settings.held_out)\n",
            )
        ],
        [
            (
                "    stream = load(settings.held_out)\n",
                "    stream = load(settings.held_out)\n    print(load(settings.texts)[:8])\n",
            )
        ],
    ),
    script(
        "V16",
        "longer parts",
        [(PART, PART.replace("chunk + 1", "1280 + 1"))],
        [(PART, PART.replace("chunk + 1", "640 + 1"))],
    ),
    script(
        "B10",
        "the ln 2 of another figure",
        [
            (" / 0.6931471805599453", ""),
            ("    groups = [", "    print(-64 / 0.6931471805599453)\n    groups = ["),
        ],
        [(" / 0.6931471805599453", " * 1.4426950408889634")],
    ),
]
