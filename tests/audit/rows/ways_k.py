# ruff: noqa: E501  (plants are texts of scripts)
"""Rows K again: other ways to make the same fault, each with a neighbour that does nothing wrong."""

import json
from collections.abc import Callable
from pathlib import Path

from tests.audit.planted import SCORES, write_claims
from tests.audit.rows.k import other_log, told
from tests.audit.rows.made import CLOCK, CODE, LOOP, MAIN, SAVE, START, STEP, Row, after, before, each, folder

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
        for edit in edits:
            edit(where)

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
ROWS: list[Row] = [*K01, *K02, *K03, *K05, *K06, *K07, *K13, *K14]
