# ruff: noqa: E501  (plants are texts of scripts)
"""Rows T again: other ways to make the same fault, each with a neighbour that does nothing wrong."""

from tests.audit.rows.made import IDS, LOOP, MAIN, PACK, PASS, START, STEP, Change, Row, before, each
from tests.audit.rows.t import AVERAGE, GPTQ, MEAN

KEPT = "    kept = {name: w.clone() for name, w in net.state_dict().items()}\n"
HELD = (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 0.1)"))
INTO = "    for own, held in zip(net.parameters(), mean):\n        own.data.copy_(held)\n"
T02 = each(
    "T02",
    [MEAN, HELD],
    (
        "loaded, and another over it",
        [
            before(
                PACK, KEPT + "    net.load_state_dict(dict(zip(kept, mean)))", "    net.load_state_dict(kept)"
            )
        ],
        [before(PACK, "    net.load_state_dict(dict(zip(net.state_dict(), mean)))")],
    ),
    (
        "copied, and another over it",
        [
            before(
                PACK,
                KEPT
                + INTO
                + "    for own, name in zip(net.parameters(), kept):\n        own.data.copy_(kept[name])",
            )
        ],
        [before(PACK, INTO)],
    ),
    (
        "copied, and the best loaded",
        [before(PACK, KEPT + INTO + "    net.load_state_dict(kept)")],
        [before(PACK, KEPT + INTO), before(START, "    other = kept")],
    ),
    ("never read", [], [before(PACK, INTO)]),
    (
        "put in after it was packed",
        [before(START, "    pass")],
        [before(PACK, "    net.load_state_dict(dict(zip(net.state_dict(), mean)))")],
    ),
)
RATE = "        rate = 1.0 if step < 0.8 * 100 else (100 - step) / 20\n        optimizer.param_groups[0]['lr'] = rate\n"
COOL = "        rate = min(1.0, (1 - step / 100) / 0.2)\n        optimizer.param_groups[0]['lr'] = rate\n"


def begins(rate: str, test: str, add: str, *more: Change) -> list[Change]:
    """An average that begins at a test."""
    return [
        before(LOOP, "    sums = {}"),
        (
            STEP,
            STEP
            + rate
            + f"        {test}\n            for name, w in net.state_dict().items():\n                {add}\n",
        ),
        before(PACK, "    net.load_state_dict(sums)"),
        *more,
    ]


GET = "sums[name] = sums.get(name, 0) + w.detach()"
T03 = each(
    "T03",
    [],
    ("with get", begins(RATE, "if step > 0.3 * 100:", GET), begins(RATE, "if step > 0.9 * 100:", GET)),
    (
        "a share by name",
        begins(COOL, "share = step / 100\n        if share > 0.3 and step % 5 == 0:", GET),
        begins(COOL, "share = step / 100\n        if share > 0.9 and step % 5 == 0:", GET),
    ),
    (
        "a setting",
        begins(
            COOL,
            "if step >= settings.begin * 100:",
            GET,
            ("    adapt = bool", "    begin = 0.25\n    adapt = bool"),
        ),
        begins(
            COOL,
            "if step >= settings.begin * 100:",
            GET,
            ("    adapt = bool", "    begin = 0.85\n    adapt = bool"),
        ),
    ),
    (
        "whole numbers",
        begins(COOL, "if step >= int(0.4 * 100):", GET),
        begins(COOL, "if step >= int(0.8 * 100):", GET),
    ),
    (
        "the other way round",
        begins(RATE, "if 0.5 * 100 < step:", GET),
        begins(RATE, "if 0.8 * 100 < step:", GET),
    ),
)
ROUNDED = "        if {}:\n            x = x.round()\n        return x + self.inner(x)"
PLAIN = "        return x + self.inner(x)"
COMPILED = ("    corpus = load", "    net = torch.compile(net)\n    corpus = load")
FLAG = ("class Block(nn.Module):\n", "class Block(nn.Module):\n    noisy = False\n\n")
SWITCH = ("class Block(nn.Module):\n", "SWITCH = {'noisy': False}\n\nclass Block(nn.Module):\n")
RESET = "            torch._dynamo.reset()\n"
T04 = each(
    "T04",
    [],
    *(
        (
            name,
            [
                begin,
                (PLAIN, ROUNDED.format(asked)),
                compiled,
                (STEP, STEP + f"        if step == 90:\n            {done}\n"),
            ],
            [
                begin,
                (PLAIN, ROUNDED.format(asked)),
                compiled,
                (STEP, STEP + f"        if step == 90:\n            {done}\n{RESET}"),
            ],
        )
        for name, begin, asked, done, compiled in (
            (
                "traced",
                FLAG,
                "self.noisy",
                "Block.noisy = True",
                ("    corpus = load", "    net = torch.jit.trace(net, stream[:9])\n    corpus = load"),
            ),
            ("in a dictionary", SWITCH, "SWITCH['noisy']", "SWITCH['noisy'] = True", COMPILED),
            ("by setattr", FLAG, "self.noisy", "setattr(Block, 'noisy', True)", COMPILED),
            (
                "in a list",
                ("class Block(nn.Module):\n", "SWITCH = [False]\n\nclass Block(nn.Module):\n"),
                "SWITCH[0]",
                "SWITCH[0] = True",
                COMPILED,
            ),
            ("by update", SWITCH, "SWITCH['noisy']", "SWITCH.update(noisy=True)", COMPILED),
        )
    ),
)
T05 = each(
    "T05",
    [COMPILED],
    (
        "a slice",
        [
            (
                PASS,
                "        F.cross_entropy(net(ids[: 64 * (1 + step // 8)]), ids[1 : 1 + 64 * (1 + step // 8)]).backward()\n",
            )
        ],
        [(PASS, "        F.cross_entropy(net(ids[: 64 if step < 50 else 640]), ids[1:65]).backward()\n")],
    ),
    (
        "a number",
        [
            ("    def forward(self, ids):", "    def forward(self, ids, depth=3):"),
            ("in self.blocks:", "in self.blocks[:depth]:"),
            (PASS, PASS.replace("net(ids[:-1])", "net(ids[:-1], 1 + step // 40)")),
        ],
        [
            ("    def forward(self, ids):", "    def forward(self, ids, depth=3):"),
            ("in self.blocks:", "in self.blocks[:depth]:"),
            (PASS, PASS.replace("net(ids[:-1])", "net(ids[:-1], 3)")),
        ],
    ),
    (
        "by a name",
        [(IDS, IDS + "        wide = min(64 + 16 * step, 640)\n        ids = ids[:wide]\n")],
        [(IDS, IDS + "        wide = min(64 + 16 * len(ids), 640)\n        ids = ids[:wide]\n")],
    ),
    (
        "by a keyword",
        [
            ("    def forward(self, ids):", "    def forward(self, ids, window=3):"),
            (PASS, PASS.replace("net(ids[:-1])", "net(ids[:-1], window=128 + 4 * step)")),
        ],
        [
            ("    def forward(self, ids):", "    def forward(self, ids, window=3):"),
            (PASS, PASS.replace("net(ids[:-1])", "net(ids[:-1], window=128)")),
        ],
    ),
    (
        "rows that grow",
        [(IDS, IDS.replace(".to(torch.int64)", ".to(torch.int64)[:640].reshape(-1, 8 + step // 10)"))],
        [(IDS, IDS.replace(".to(torch.int64)", ".to(torch.int64)[:640].reshape(-1, 8)"))],
    ),
)
GOOD = "hessian = hessian + 0.01 * hessian.diag().mean() * torch.eye(len(hessian))"
HANDED = "w[:, i + 1 :] -= error[:, None] * inverse[i, i + 1 :]"


def compensated(*changes: Change) -> list[Change]:
    """A rounding with feedback, changed."""
    text = GPTQ.format(GOOD)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return [(MAIN, text)]


T12 = each(
    "T12",
    [],
    ("by the matrix itself", compensated((HANDED, HANDED.replace("inverse", "hessian"))), compensated()),
    (
        "added with another sign",
        compensated((HANDED, "w[:, i + 1 :].add_(error[:, None] * inverse[i, i + 1 :], alpha=1.0)")),
        compensated((HANDED, "w[:, i + 1 :].add_(error[:, None] * inverse[i, i + 1 :], alpha=-1.0)")),
    ),
    (
        "rounded down",
        compensated((".round()", ".floor()")),
        compensated((" / scale).round()", " / scale + 0.5).floor()")),
    ),
    (
        "a block by the matrix",
        compensated((HANDED, "w[:, i + 1 :] -= error[:, None] @ hessian[i : i + 1, i + 1 :]")),
        compensated((HANDED, "w[:, i + 1 :] -= error[:, None] @ inverse[i : i + 1, i + 1 :]")),
    ),
    (
        "in place",
        compensated((HANDED, "w[:, i + 1 :].sub_(error[:, None] * hessian[i, i + 1 :])")),
        compensated((HANDED, "w[:, i + 1 :].sub_(error[:, None] * inverse[i, i + 1 :])")),
    ),
    (
        "an outer product",
        compensated((HANDED, "w[:, i + 1 :] -= torch.outer(error, hessian[i, i + 1 :])")),
        compensated(
            ("    for i in range", "    row = inverse.clone()\n    for i in range"),
            (HANDED, "w[:, i + 1 :] -= torch.outer(error, row[i, i + 1 :])"),
        ),
    ),
)
MADE = "    with torch.inference_mode():\n        table = torch.linspace(0.9, 1.1, 32)\n"
TUNED = "    F.cross_entropy(net(stream[:9].to(torch.int64)) * {}, stream[1:10].to(torch.int64)).backward()\n"
TRAINS = "        F.cross_entropy(net(ids[:-1]) * {}, ids[1:]).backward()\n"
T16 = each(
    "T16",
    [],
    (
        "a parameter",
        [before(LOOP, MADE + "    net.gain = nn.Parameter(table)")],
        [before(LOOP, MADE + "    net.gain = nn.Parameter(table.clone())")],
    ),
    (
        "in the loss",
        [before(LOOP, MADE.rstrip()), (PASS, TRAINS.format("table"))],
        [before(LOOP, MADE.rstrip()), (PASS, TRAINS.format("table.clone()"))],
    ),
    (
        "by another name",
        [before(LOOP, MADE + "    weights = 2 * table"), (PASS, TRAINS.format("weights"))],
        [before(LOOP, MADE + "    weights = table.clone()"), (PASS, TRAINS.format("weights"))],
    ),
    (
        "in a loss of its own",
        [
            before(LOOP, MADE.rstrip()),
            (
                PASS,
                "        loss = F.cross_entropy(net(ids[:-1]) * table, ids[1:])\n        loss.backward()\n",
            ),
        ],
        [
            before(LOOP, MADE + "    table = torch.ones(1024)"),
            (
                PASS,
                "        loss = F.cross_entropy(net(ids[:-1]) * table, ids[1:])\n        loss.backward()\n",
            ),
        ],
    ),
    (
        "a function's",
        [
            (
                MAIN,
                "@torch.inference_mode()\ndef made(size):\n    return torch.linspace(0.9, 1.1, size)\n\n"
                + MAIN,
            ),
            before(LOOP, "    net.gain = nn.Parameter(made(32))"),
        ],
        [
            (MAIN, "def made(size):\n    return torch.linspace(0.9, 1.1, size)\n\n" + MAIN),
            before(LOOP, "    net.gain = nn.Parameter(made(32))"),
        ],
    ),
)
ROWS: list[Row] = [*T02, *T03, *T04, *T05, *T12, *T16]
