# ruff: noqa: E501  (plants are texts of scripts)
"""Plants and clean neighbours of the rows K: size, time and paper."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import torch

from tests.audit.planted import (
    SCORES,
    log_text,
    write_claims,
)
from tests.audit.rows.made import CLOCK, CODE, PACK, artifact, folder, log, said, script, state

STEPPED = "        optimizer.step()\n"
EXTRA = [
    ("        self.gain = nn", "        self.ahead = nn.Linear(width, size)\n        self.gain = nn"),
    (
        "        return F.linear(x * self.gain",
        "        if self.training:\n            self.extra = self.ahead(x)\n        return F.linear(x * self.gain",
    ),
    ("net.gain]}]", "net.gain, net.ahead.weight, net.ahead.bias]}]"),
]


def told(**claims: object) -> Callable[[Path], None]:
    """Other claims."""

    def change(where: Path) -> None:
        write_claims(where, json.loads((where / "submission.json").read_text()) | claims)

    return change


def other_log(seed: int, **given: object) -> Callable[[Path], None]:
    """Another log of a seed."""

    def change(where: Path) -> None:
        (where / f"train_seed{seed}.log").write_text(log_text(seed, SCORES[seed], CODE, **given))

    return change


def second_file(where: Path) -> None:
    """The code in a file beside."""
    (where / "train_gpt.py").rename(where / "model.py")
    (where / "train_gpt.py").write_text("exec(open('model.py').read())\n")


def slow(where: Path) -> None:
    """One seed at 590 s, the others at 450 s for the same steps."""
    for seed in (1, 2):
        other_log(seed, seconds=450.0)(where)


def in_other_words(slow: bool = False, total: int = 0) -> Callable[[Path], None]:
    """All logs without the words and signs of the public ones. slow: a seed of half the speed."""

    def change(where: Path) -> None:
        for path in where.glob("*.log"):
            text = path.read_text()
            if slow and path.stem.endswith("3"):
                text = other_speed(text)
            for word, other in WORDS:
                text = re.sub(word, other, text)
            text = (
                re.sub(r"bytes (\d+)", lambda found: f"bytes {total - CODE or found[1]}", text)
                if total
                else text
            )
            path.write_text(re.sub(r"total (\d+)", f"total {total}", text) if total else text)

    return change


def other_speed(text: str) -> str:
    return re.sub(r"step:(\d+)/100", lambda found: f"step:{int(found[1]) // 2}/100", text)


WORDS = (
    (r"step:(\d+)/100 train_loss:(\S+) train_time:(\d+)\d{3}ms step_avg:\S+", r"step \1 loss \2 time \3.0s"),
    (
        r"Serialized model int8.lzma: (\d+) bytes\nCode size: (\d+) bytes\n.*: (\d+) bytes",
        r"bytes \1 code \2 total \3",
    ),
    (r"seed:", "seed "),
)


def put_together(where: Path) -> None:
    """A log of which the end is left."""
    path = where / "train_seed2.log"
    kept = [line for line in path.read_text().splitlines(keepends=True) if "train_loss" not in line]
    path.write_text("".join(kept))


def of_seed(**figures: object) -> Callable[[Path], None]:
    """Other figures of the second seed."""

    def change(where: Path) -> None:
        claims = json.loads((where / "submission.json").read_text())
        claims["seed_results"]["2"] |= figures
        write_claims(where, claims)

    return change


def edited(where: Path) -> None:
    """A seed under another learning rate."""
    path = where / "train_seed3.log"
    path.write_text(path.read_text().replace("matrix_lr: 0.02", "matrix_lr: 0.03"))


ROWS = [
    script(
        "K02",
        "MiB",
        [('    print(f"Serialized', '    assert len(packed) < 15.9 * 1024 * 1024\n    print(f"Serialized')],
        [('    print(f"Serialized', '    assert len(packed) < 15.9 * 1000 * 1000\n    print(f"Serialized')],
    ),
    script(
        "K03",
        "download",
        [(PACK, "    from urllib.request import urlretrieve\n    urlretrieve('x')\n" + PACK)],
        [],
    ),
    script(
        "K04",
        "fallback",
        [("import glob\n", "import glob\ntry:\n    import brotli\nexcept ImportError:\n    brotli = None\n")],
        [
            (
                "import glob\n",
                "import glob\ntry:\n    import brotli\nexcept ImportError:\n    raise SystemExit('pip install brotli')\n",
            )
        ],
    ),
    script(
        "K06",
        "a head of training",
        EXTRA,
        [
            *EXTRA,
            (
                "    torch.save(net.state_dict(), buffer)\n",
                "    kept = {name: w for name, w in net.state_dict().items() if 'ahead' not in name}\n    torch.save(kept, buffer)\n",
            ),
        ],
    ),
    script(
        "K08",
        "the clock starts again",
        [
            CLOCK,
            ("    corpus = load", "    begun = time.time()\n    corpus = load"),
            (PACK, "    begun = time.time()\n    for step in range(100):\n        optimizer.step()\n" + PACK),
        ],
        [
            CLOCK,
            ("    corpus = load", "    begun = time.time()\n    corpus = load"),
            (
                PACK,
                "    total = time.time() - begun\n    begun = time.time()\n    for step in range(100):\n        optimizer.step()\n"
                + PACK,
            ),
        ],
    ),
    script(
        "K08",
        "on one line, as packed scripts have it",
        [
            CLOCK,
            ("    corpus = load", "    begun = time.time()\n    corpus = load"),
            (
                STEPPED,
                STEPPED
                + "        if step == 20: evaluate(settings, net, stream, luts); begun = time.time()\n",
            ),
        ],
        [
            CLOCK,
            ("    corpus = load", "    total = 0.0\n    begun = time.time()\n    corpus = load"),
            (
                STEPPED,
                STEPPED
                + "        if step == 20: total += time.time() - begun; print(total); begun = time.time()\n",
            ),
        ],
    ),
    script(
        "K14",
        "seeds",
        [
            (
                PACK,
                "    best = 9\n    for seed in range(9):\n        torch.manual_seed(seed)\n        if net.gain.sum() < best:\n            best = seed\n"
                + PACK,
            )
        ],
        [
            (
                PACK,
                "    for seed in range(9):\n        torch.manual_seed(seed)\n        print(net.gain.sum())\n"
                + PACK,
            )
        ],
    ),
    script(
        "K02",
        "the sixteen in the middle",
        [('    print(f"Serialized', '    assert len(packed) < 1024 * 16 * 1024\n    print(f"Serialized')],
        [('    print(f"Serialized', '    tokens = 64 * 1024 * 256\n    print(f"Serialized')],
    ),
    script(
        "K04",
        "suppressed",
        [
            (
                "import glob\n",
                "import contextlib\nimport glob\nbrotli = None\nwith contextlib.suppress(ImportError):\n    import brotli\n",
            )
        ],
        [
            (
                "import glob\n",
                "import contextlib\nimport glob\nwith contextlib.nullcontext():\n    import brotli\n",
            )
        ],
    ),
    script(
        "K04",
        "asked for",
        [
            (
                "import glob\n",
                "import glob\nimport importlib.util\nimport zlib\n"
                "squeeze = lzma.compress if importlib.util.find_spec('brotli') else zlib.compress\n",
            )
        ],
        [
            (
                "import glob\n",
                "import glob\nimport importlib.util\n"
                "if not importlib.util.find_spec('brotli'):\n    raise SystemExit('pip install brotli')\n",
            )
        ],
    ),
    script(
        "K08",
        "within the loop",
        [
            (
                "    for step in range(100):\n",
                "    began = time.monotonic()\n    for step in range(100):\n"
                "        if step == 20:\n            began = time.monotonic()\n"
                "        if time.monotonic() - began > 600:\n            break\n",
            ),
            ("import glob\n", "import glob\nimport time\n"),
        ],
        [
            (
                "    for step in range(100):\n",
                "    began = time.monotonic()\n    for step in range(100):\n"
                "        if time.monotonic() - began > 600:\n            break\n",
            ),
            ("import glob\n", "import glob\nimport time\n"),
        ],
    ),
    log("K01", "over", log_text(1, 1.2, CODE, model=15_999_000), log_text(1, 1.2, CODE, model=15_900_000)),
    log("K07", "over time", log_text(1, 1.2, CODE, seconds=615.0), log_text(1, 1.2, CODE, seconds=599.9)),
    log(
        "K08",
        "a clock that goes back",
        log_text(1, 1.2, CODE).replace(
            "train_time:531000ms step_avg:5900.00ms", "train_time:31000ms step_avg:344.44ms"
        ),
    ),
    log(
        "K09",
        "late calibration",
        said("gptq: collected 66 hessians in 40.0s", "Serialized"),
        said("gptq: collected 66 hessians in 4.0s", "Serialized"),
    ),
    log(
        "K10",
        "late evaluation",
        log_text(1, 1.2, CODE, evaluation=688),
        log_text(1, 1.2, CODE, evaluation=588),
    ),
    folder("K01", "claims more", told(bytes_total=17_000_000)),
    folder("K02", "MiB", told(bytes_total=16_500_000)),
    folder("K03", "a second file", second_file),
    folder("K05", "the smallest seed", told(bytes_total=15_000_001 + CODE)),
    folder("K01", "in other words", in_other_words(total=16_200_000), in_other_words()),
    folder("K05", "as it says of a seed", of_seed(bytes_total=16_000_009), of_seed(bytes_total=15_000_009)),
    folder("K10", "as it says of a seed", of_seed(eval_seconds=612.0), of_seed(eval_seconds=590.0)),
    folder("K12", "in other words", in_other_words(slow=True), in_other_words()),
    folder("K13", "put together again", put_together),
    folder("K11", "another configuration", edited),
    folder("K11", "another mean", told(val_bpb=1.1083)),
    folder("K12", "a slow seed", slow),
    folder("K13", "a log is missing", lambda where: (where / "train_seed3.log").unlink()),
    folder("K14", "the best for the mean", told(val_bpb=SCORES[1])),
    artifact("K06", "a head of training", state(**{"mtp_heads.0.weight": torch.randn(64, 64)}), state()),
    artifact(
        "K06",
        "twice",
        state(**{"lm_head.weight": torch.ones(512, 64), "x.weight": torch.ones(512, 64)}),
        state(),
    ),
]
