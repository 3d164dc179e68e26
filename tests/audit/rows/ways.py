# ruff: noqa: E501  (plants are texts of scripts)
"""Rows K and T again: other ways to make the same fault, each with a neighbour that does nothing wrong."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.audit.planted import SCORES, write_claims
from tests.audit.rows.k import other_log, told
from tests.audit.rows.made import CLOCK, CODE, MAIN, PACK, START, Change, Row, folder, script
from tests.audit.rows.t import AVERAGE, GPTQ, MEAN

Edit = Callable[[Path], None]
LARGEST = 15_000_003 + CODE


def words(text: str, **claims: object) -> Edit:
    """A line more in the README, and other claims."""

    def change(where: Path) -> None:
        with (where / "README.md").open("a") as file:
            file.write(f"\n{text}\n")
        told(**claims)(where)

    return change


def sizes(*models: int, **claims: object) -> Edit:
    """Other sizes of the three models."""

    def change(where: Path) -> None:
        for seed, model in zip(SCORES, models):
            other_log(seed, model=model)(where)
        told(**{"bytes_total": max(models) + CODE, **claims})(where)

    return change


def both(*edits: Edit) -> Edit:
    """One after the other."""

    def change(where: Path) -> None:
        for each in edits:
            each(where)

    return change


def weights(name: str, size: int) -> Edit:
    """A file of weights in the folder."""

    def change(where: Path) -> None:
        path = where / name
        path.parent.mkdir(exist_ok=True)
        with path.open("wb") as file:  # with holes: no room is taken
            file.write(b"\x28\xb5\x2f\xfd\0")
            file.truncate(size)

    return change


def seeds(*numbers: int) -> Edit:
    """The three seeds under other numbers."""

    def change(where: Path) -> None:
        claims = json.loads((where / "submission.json").read_text())
        results = claims["seed_results"]
        claims["seeds"] = [*numbers]
        claims["seed_results"] = {str(new): results[str(old)] for old, new in zip(SCORES, numbers)}
        for old, new in zip(SCORES, numbers):
            text = (where / f"train_seed{old}.log").read_text()
            (where / f"train_seed{old}.log").unlink()
            (where / f"train_seed{new}.log").write_text(text.replace(f"seed:{old}\n", f"seed:{new}\n"))
        write_claims(where, claims)

    return change


def without(seed: int, first: int, last: int, header: bool = False) -> Edit:
    """A log without its lines of these steps."""

    def change(where: Path) -> None:
        path = where / f"train_seed{seed}.log"
        lines = path.read_text().splitlines(keepends=True)
        gone = tuple(f"step:{step}/" for step in range(first, last + 1))
        kept = [line for line in lines if not line.startswith(gone)]
        path.write_text("".join(kept[3:] if header else kept))

    return change


K01 = [
    folder("K01", f"the file itself, {name}", weights(name, 16_000_001), weights(name, 15_000_003))
    for name in ("final_model.int8.ptz", "best.pkl.z", "weights/model.int6.lzma", "model.bin.br", "blob")
]
BINARY = 15_500_000
K02 = [
    folder(
        "K02",
        "as a claim",
        sizes(*[BINARY] * 3, bytes_total=round((BINARY + CODE) / 1.024**2)),
        sizes(*[BINARY] * 3),
    ),
    folder(
        "K02",
        "KiB",
        sizes(*[BINARY] * 3, bytes_total=round((BINARY + CODE) / 1.024)),
        sizes(*[BINARY] * 3),
    ),
    folder(
        "K02",
        "rounded",
        sizes(*[BINARY] * 3, bytes_total=round((BINARY + CODE) / 1.024**2, -4)),
        sizes(*[BINARY] * 3),
    ),
    folder(
        "K02",
        "in words",
        words(f"Artifact: {LARGEST / 2**20:.2f} MB, so it fits."),
        words(f"Artifact: {LARGEST / 10**6:.2f} MB ({LARGEST / 2**20:.2f} MiB)."),
    ),
    folder(
        "K02",
        "in a table",
        words(f"| bytes | size |\n|---|---|\n| x | {LARGEST / 2**20:.3f} MB |"),
        words(f"| bytes | size |\n|---|---|\n| x | {LARGEST / 2**20:.3f} MiB |"),
    ),
]
APART = (15_900_000, 15_930_000, 15_960_000)
K05 = [
    folder("K05", name, sizes(*APART, bytes_total=size), sizes(*APART))
    for name, size in (
        ("the mean", 15_930_000 + CODE),
        ("another seed's", 15_900_000 + CODE),
        ("the one in the middle", 15_930_000 + CODE),
        ("another seed's model with the code as it is", 15_900_000 + CODE),
    )
] + [
    folder(
        "K05",
        "one over",
        sizes(15_900_000, 15_930_000, 15_999_990, bytes_total=15_930_000 + CODE),
        sizes(*APART),
    )
]
K13 = [
    folder("K13", name, without(seed, first, last, header), clean)
    for name, seed, first, last, header, clean in (
        ("no beginning", 3, 1, 40, True, without(3, 1, 10)),
        ("no middle", 2, 30, 60, False, without(2, 30, 40)),
        ("no beginning but a header", 1, 1, 50, False, None),
        ("a stretch before the end", 3, 60, 90, False, None),
        ("a short stretch", 1, 50, 70, False, None),
    )
]
K14 = [
    folder("K14", name, both(seeds(7, 19, 23), words(text)), both(seeds(7, 19, 23), words(clean)))
    for name, text, clean in (
        (
            "the best three",
            "Seeds 7, 19 and 23 are the best three of thirty that I ran (0 to 29).",
            "The three seeds were fixed before the first run. Thirty learning rates were tried on seed 1.",
        ),
        ("of many runs", "I ran 50 seeds. The lowest are reported.", "I ran 3 seeds. The lowest is 19."),
        (
            "picked",
            "These three were picked from 24 random seeds.",
            "These three are all seeds that were run.",
        ),
        (
            "a range",
            "We tried seeds 0-40 and kept the winners.",
            "We tried three learning rates and kept the best; seeds were not looked at.",
        ),
        ("a dozen", "Lucky seeds out of a dozen seeds.", "A dozen layers; the best seed is 7."),
    )
]

STEP = "        optimizer.step()\n"
LOOP = "    for step in range(100):\n"
IDS = "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n"
PASS = "        F.cross_entropy(net(ids[:-1]), ids[1:]).backward()\n"
SAVE = "    torch.save(net.state_dict(), buffer)\n"
SIZE = '    print(f"Serialized model'


def each(code: str, shared: list[Change], *ways: tuple[str, list[Change], list[Change]]) -> list[Row]:
    """Several ways of a fault in the script, and their neighbours."""
    return [script(code, name, [*shared, *plant], [*shared, *clean]) for name, plant, clean in ways]


def before(place: str, *lines: str) -> Change:
    """Lines before a place of the script."""
    return place, "".join(f"{line}\n" for line in lines) + place


def after(place: str, *lines: str) -> Change:
    """Lines after a place of the script."""
    return place, place + "".join(f"{line}\n" for line in lines)


K03 = each(
    "K03",
    [],
    (
        "a table of numpy",
        [before(START, "    table = np.load('bigrams.npy')", "    net.gain.data *= table")],
        [
            before(
                START,
                "    table = np.load('bigrams.npy')",
                "    print(len(packed) + os.path.getsize('bigrams.npy'))",
            )
        ],
    ),
    (
        "read as bytes",
        [
            before(
                START,
                "    with open('prior.bin', 'rb') as file:",
                "        net.gain.data += len(file.read())",
            )
        ],
        [before(START, "    with open('log.txt', 'w') as file:", "        file.write('packed')")],
    ),
    (
        "by a name",
        [
            (MAIN, "BESIDE = './words.json'\n\n" + MAIN),
            before(START, "    words = json.load(open(BESIDE))", "    net.gain.data += len(words)"),
        ],
        [
            (MAIN, "BESIDE = './tokenizer.json'\n\n" + MAIN),
            before(START, "    words = json.load(open(BESIDE))"),
        ],
    ),
    (
        "where it is scored",
        [
            after(
                "    count, space, edge = luts\n",
                "    more = torch.load('ngrams.pt')",
                "    net.gain.data += more",
            )
        ],
        [after("    count, space, edge = luts\n", "    more = torch.load('fineweb_table.pt')")],
    ),
    (
        "from settings",
        [
            ("    adapt = bool", "    extra = 'priors.npy'\n    adapt = bool"),
            before(START, "    prior = np.fromfile(settings.extra)", "    net.gain.data += prior"),
        ],
        [
            ("    adapt = bool", "    extra = 'priors.npy'\n    adapt = bool"),
            before(
                START,
                "    prior = np.fromfile(settings.extra)",
                "    print(os.path.getsize(settings.extra) + len(packed))",
            ),
        ],
    ),
)
K06 = each(
    "K06",
    [(STEP, STEP + "        optimizer.zero_grad()\n")],
    (
        "beside the model",
        [(SAVE, "    torch.save({'m': net.state_dict(), 'o': optimizer.state_dict()}, buffer)\n")],
        [
            (
                SAVE,
                "    torch.save({'m': net.state_dict(), 'o': optimizer.state_dict()}, 'resume.pt')\n" + SAVE,
            )
        ],
    ),
    (
        "one by one",
        [
            (
                SAVE,
                "    kept = {**net.state_dict(), **{f'a.{i}': s['exp_avg_sq'] for i, s in enumerate(optimizer.state.values())}}\n    torch.save(kept, buffer)\n",
            )
        ],
        [(SAVE, "    print(len(optimizer.state))\n" + SAVE)],
    ),
    (
        "put in later",
        [
            (
                SAVE,
                "    kept = net.state_dict()\n    kept['more'] = optimizer.state_dict()\n    torch.save(kept, buffer)\n",
            )
        ],
        [
            (
                SAVE,
                "    kept = net.state_dict()\n    torch.save(kept, buffer)\n    torch.save(optimizer.state_dict(), 'more.pt')\n",
            )
        ],
    ),
    (
        "by a name",
        [
            (
                SAVE,
                "    moments = [each['exp_avg'] for each in optimizer.state.values()]\n    torch.save([net.state_dict(), moments], buffer)\n",
            )
        ],
        [
            (
                SAVE,
                "    moments = [each['exp_avg'] for each in optimizer.state.values()]\n    torch.save(moments, 'moments.pt')\n"
                + SAVE,
            )
        ],
    ),
    (
        "pickled",
        [
            (
                "    packed = lzma.compress(buffer.getvalue())\n",
                "    packed = lzma.compress(pickle.dumps((buffer.getvalue(), optimizer.state_dict())))\n",
            )
        ],
        [
            (
                "    packed = lzma.compress(buffer.getvalue())\n",
                "    packed = lzma.compress(buffer.getvalue())\n    more = pickle.dumps(optimizer.state_dict())\n",
            )
        ],
    ),
)
BEGUN = (
    "    corpus = load(settings.texts)\n",
    "    corpus = load(settings.texts)\n    begun = time.monotonic()\n",
)
LAST = "    for step in range(100):\n"
ENDS = "        if time.monotonic() - begun > 600:\n            break\n"
K07 = each(
    "K07",
    [CLOCK, BEGUN],
    (
        "only printed",
        [(STEP, STEP + "        print(time.monotonic() - begun, 'of', 600)\n")],
        [(LOOP, LOOP + ENDS)],
    ),
    (
        "a setting nobody asks",
        [
            ("    adapt = bool", "    seconds = 600.0\n    adapt = bool"),
            (STEP, STEP + "        print(time.monotonic() - begun)\n"),
        ],
        [
            ("    adapt = bool", "    seconds = 600.0\n    adapt = bool"),
            (LOOP, LOOP + "        if time.monotonic() - begun >= settings.seconds:\n            break\n"),
        ],
    ),
    (
        "warned of",
        [(STEP, STEP + "        if time.monotonic() - begun > 600:\n            print('late')\n")],
        [
            (
                STEP,
                STEP
                + "        if time.monotonic() - begun > 600:\n            print('late')\n            break\n",
            )
        ],
    ),
    (
        "for the rate alone",
        [
            (
                STEP,
                STEP
                + "        for group in optimizer.param_groups:\n            group['lr'] = 0.01 * (1 - (time.monotonic() - begun) / 600)\n",
            )
        ],
        [
            (LOOP, LOOP + ENDS),
            (
                STEP,
                STEP
                + "        for group in optimizer.param_groups:\n            group['lr'] = 0.01 * (1 - (time.monotonic() - begun) / 600)\n",
            ),
        ],
    ),
    (
        "milliseconds",
        [
            ("    adapt = bool", "    limit_ms = 600_000\n    adapt = bool"),
            (STEP, STEP + "        took = 1000 * (time.monotonic() - begun)\n        print(took)\n"),
        ],
        [
            ("    adapt = bool", "    limit_ms = 600_000\n    adapt = bool"),
            (
                STEP,
                STEP
                + "        took = 1000 * (time.monotonic() - begun)\n        if took > settings.limit_ms:\n            break\n",
            ),
        ],
    ),
)
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
        before(LAST, "    sums = {}"),
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
        [before(LAST, MADE + "    net.gain = nn.Parameter(table)")],
        [before(LAST, MADE + "    net.gain = nn.Parameter(table.clone())")],
    ),
    (
        "in the loss",
        [before(LAST, MADE.rstrip()), (PASS, TRAINS.format("table"))],
        [before(LAST, MADE.rstrip()), (PASS, TRAINS.format("table.clone()"))],
    ),
    (
        "by another name",
        [before(LAST, MADE + "    weights = 2 * table"), (PASS, TRAINS.format("weights"))],
        [before(LAST, MADE + "    weights = table.clone()"), (PASS, TRAINS.format("weights"))],
    ),
    (
        "in a loss of its own",
        [
            before(LAST, MADE.rstrip()),
            (
                PASS,
                "        loss = F.cross_entropy(net(ids[:-1]) * table, ids[1:])\n        loss.backward()\n",
            ),
        ],
        [
            before(LAST, MADE + "    table = torch.ones(1024)"),
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
            before(LAST, "    net.gain = nn.Parameter(made(32))"),
        ],
        [
            (MAIN, "def made(size):\n    return torch.linspace(0.9, 1.1, size)\n\n" + MAIN),
            before(LAST, "    net.gain = nn.Parameter(made(32))"),
        ],
    ),
)
ROWS: list[Row] = [*K01, *K02, *K03, *K05, *K06, *K07, *K13, *K14, *T02, *T03, *T04, *T05, *T12, *T16]
