# ruff: noqa: E501  (plants are texts of scripts)
"""One small planted fault and one clean neighbour for each row of the catalogue, as texts of our own."""

import ast
import base64
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bitgolf.text.shards import write_shard
from tests.audit.planted import (
    RATIO,
    SCORES,
    SCRIPT,
    changed,
    indented,
    log_text,
    write_claims,
    write_folder,
)

Change = tuple[str, str]
Maker = Callable[[Path], Path]
CODE = len(SCRIPT.encode())
ADD = "            nats += loss.sum().to(torch.float64)\n"
LOSS = '            loss = F.cross_entropy(net(before), after, reduction="none")\n'
SCORED = "        with torch.no_grad():\n" + LOSS
START = "    val_loss, val_bpb = evaluate("
PACK = "    buffer = io.BytesIO()\n"
MAIN = "def main():\n"
STEP = "        optimizer.step()\n"
LOAD = "    stream = load(settings.held_out)\n"
LOADED = "    net.load_state_dict(torch.load(io.BytesIO(lzma.decompress(packed)), weights_only=True))\n"


class Row(NamedTuple):
    """A case of a row. scripts are planted in three forms: as they are, renamed, and packed."""

    code: str
    name: str
    plant: Maker
    clean: Maker
    text: str = ""
    neighbour: str = ""


def script(code: str, name: str, plant: list[Change], clean: list[Change]) -> Row:
    """A fault in the script, and what looks like it."""
    bad, good = changed(*plant), changed(*clean)
    ast.parse(bad), ast.parse(good)
    return Row(code, name, _script(bad), _script(good), bad, good)


def _script(text: str) -> Maker:
    def make(folder: Path) -> Path:
        (folder / "train_gpt.py").write_text(text)
        return folder / "train_gpt.py"

    return make


def log(code: str, name: str, plant: str, clean: str | None = None) -> Row:
    """A fault in a log; its neighbour is the clean log unless given."""

    def maker(text: str) -> Maker:
        def make(folder: Path) -> Path:
            (folder / "train_seed1.log").write_text(text)
            return folder / "train_seed1.log"

        return make

    return Row(code, name, maker(plant), maker(clean or log_text(1, 1.2, CODE)))


def folder(
    code: str, name: str, plant: Callable[[Path], None], clean: Callable[[Path], None] | None = None
) -> Row:
    """A fault between the parts of a folder."""

    def maker(change: Callable[[Path], None] | None) -> Maker:
        def make(where: Path) -> Path:
            write_folder(where / "record")
            if change:
                change(where / "record")
            return where / "record"

        return make

    return Row(code, name, maker(plant), maker(clean))


def artifact(code: str, name: str, plant: dict[str, torch.Tensor], clean: dict[str, torch.Tensor]) -> Row:
    """A fault in a packed model."""

    def maker(state: dict[str, torch.Tensor]) -> Maker:
        def make(where: Path) -> Path:
            torch.save(state, where / "final_model.ptz")
            return where / "final_model.ptz"

        return make

    return Row(code, name, maker(plant), maker(clean))


# Texts that are put into the script.

SLOT = indented(
    """
    shift = torch.zeros(32, requires_grad=True)
    fit = torch.optim.AdamW([shift], lr=0.1)
    for _ in range(8):
        F.cross_entropy(net(before) + shift, after).backward()
        fit.step()
    """,
    8,
)
EPOCHS = indented(
    """
    tuner = torch.optim.AdamW(net.parameters(), lr=0.001)
    for _ in range(6):
        for at in range(0, stream.numel() - 1, 640):
            piece = stream[at : at + 641].to(torch.int64)
            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
            tuner.step()
    """,
    4,
)
REHEARSAL = indented(
    """
    twin = Net(1024, 32)
    tuner = torch.optim.AdamW(twin.parameters(), lr=0.001)
    piece = stream[0:641].to(torch.int64)
    F.cross_entropy(twin(piece[:-1]), piece[1:]).backward()
    tuner.step()
    """,
    4,
)
TABLES = ("    sums =", "    seen = torch.zeros(4194304)\n    seen_with = torch.zeros(4194304)\n    sums =")
CACHE = indented(
    """
    key = (before * 36313) ^ (before.roll(1) * 27191)
    whole = (key ^ (after * 51647)) % 4194304
    share = seen_with[whole] / seen[key % 4194304].clamp(min=1)
    loss = -torch.log(0.7 * torch.exp(-loss) + 0.3 * share)
    """,
    12,
)
NORMALISED = indented(
    """
    key = (before * 36313) ^ (before.roll(1) * 27191)
    everyone = (key[:, None] ^ (torch.arange(1024) * 51647)) % 4194304
    counts = seen_with[everyone] + 0.1
    shares = counts / counts.sum(1, keepdim=True)
    loss = -torch.log(0.7 * torch.exp(-loss) + 0.3 * shares.gather(1, after[:, None])[:, 0])
    """,
    12,
)
FILLED = (
    "    for start in range(settings",
    "    for at in range(0, stream.numel() - 1, 640):\n"
    "        old = stream[at : at + 640].to(torch.int64)\n"
    "        seen.index_add_(0, (old * 36313) % 4194304, torch.ones(640))\n"
    "    for start in range(settings",
)
COUNTED_AFTER = (
    "        if settings.adapt",
    "        seen.index_add_(0, key % 4194304, torch.ones(640))\n        if settings.adapt",
)
GATE = (
    "            weight = torch.sigmoid({})\n"
    "            loss = -torch.log(weight * torch.exp(-loss) + (1 - weight) * 0.001)\n"
)
ENTROPY = (
    "            logits = net(before)\n"
    '            loss = F.cross_entropy(logits, after, reduction="none")\n'
    "            spread = torch.special.entr(torch.softmax(logits, -1)).sum(-1)\n"
)
SMEAR = """class Smear(nn.Module):
    def forward(self, x, ids, ends):
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1)
        {}
        x = x + 0.1 * before
        return flash_attn_varlen_func(x, x, x, cu_seqlens_q=ends, cu_seqlens_k=ends)

class Net("""
KIND = "class Net("
QUANTIZE = """def rounded(w):
    scale = w.abs().amax(1, keepdim=True).clamp_min({}) / 31
    return (w / scale).round().clamp({}, 31).to(torch.int8), scale

def imitated(w):
    scale = w.abs().amax(1, keepdim=True).clamp_min(1e-12) / 31
    return w + ((w / scale).round().clamp({}, 31) * scale - w).detach()

def main():
"""
GPTQ = """def compensated(w, hessian, scale):
    {}
    inverse = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(hessian)))
    for i in range(w.shape[1]):
        level = (w[:, i] / scale).round()
        error = (w[:, i] - level * scale) / inverse[i, i]
        w[:, i + 1 :] -= error[:, None] * inverse[i, i + 1 :]
    return w

def main():
"""
PREPARED = """def prepared(sp, texts, out):
    ids = []
    for text in texts:
        {}
    np.array(ids, dtype=np.uint16).tofile(out)

def main():
"""
SIDECAR = """def bytes_of(path, ids, count):
    if os.path.exists(path):
        held = np.load(path)
    else:
        {}
    return held

def main():
"""
COUNTED = """def upper_marked(text):
    return "".join("^" + each.lower() if each.isupper() else each for each in text)

def sizes(sp, texts):
    rows = []
    for text in texts:
        marked = upper_marked(text)
        rows.append((sp.encode_as_ids(marked), len({}.encode("utf-8"))))
    return rows

def main():
"""
OPTIONS = """def options(parser):
    {}
    return args

def main():
"""
HOOKED = """class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = nn.Linear(8, 8)

    def forward(self, x):
        return {}

def collected(tied, seen):
    for layer in tied.modules():
        layer.register_forward_hook(lambda module, x, y: seen.append(x))

def main():
"""
EXTRA = [
    ("        self.gain = nn", "        self.ahead = nn.Linear(width, size)\n        self.gain = nn"),
    (
        "        return F.linear(x * self.gain",
        "        if self.training:\n            self.extra = self.ahead(x)\n        return F.linear(x * self.gain",
    ),
    ("net.gain]}]", "net.gain, net.ahead.weight, net.ahead.bias]}]"),
]
BYTE_TOKENS = "        if pieces.is_byte(i):\n            count[i] = 1\n            continue\n"
CONTROL = (
    "        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i):\n            continue\n"
)
TIMED = (
    "    for step in range(100):\n",
    "    begun = time.perf_counter()\n    for step in range(100):\n"
    "        past = time.perf_counter() - begun\n        if past > 600:\n            break\n"
    '        for group in optimizer.param_groups:\n            group["lr"] = 0.01 * ({})\n',
)
CLOCK = ("import glob\n", "import glob\nimport time\n")
AVERAGE = (
    "        optimizer.step()\n        print",
    "        optimizer.step()\n        for held, own in zip(mean, net.parameters()):\n            {}\n        print",
)
MEAN = (
    "    for step in range(100):\n",
    "    mean = [each.detach().clone() for each in net.parameters()]\n    for step in range(100):\n",
)

SCRIPT_ROWS = [
    script(
        "V01", "hashed cache", [TABLES, (ADD, CACHE + ADD), COUNTED_AFTER], [TABLES, (ADD, NORMALISED + ADD)]
    ),
    script(
        "V01",
        "by torch.div in a helper",
        [
            TABLES,
            (
                "def evaluate(",
                "def share_of(a, b, i, j):\n    return torch.div(a[i], b[j] + 1)\n\ndef evaluate(",
            ),
            (
                ADD,
                CACHE.replace(
                    "seen_with[whole] / seen[key % 4194304].clamp(min=1)",
                    "share_of(seen_with, seen, whole, key % 4194304)",
                )
                + ADD,
            ),
        ],
        [TABLES, (ADD, NORMALISED + ADD)],
    ),
    script("V02", "target in the key", [TABLES, (ADD, CACHE + ADD)], [TABLES, (ADD, NORMALISED + ADD)]),
    script(
        "V03",
        "counted in a pass before",
        [TABLES, (ADD, CACHE + ADD), FILLED],
        [TABLES, (ADD, NORMALISED + ADD), COUNTED_AFTER],
    ),
    script(
        "V03",
        "scored again",
        [(START, "    evaluate(settings, net, stream, luts)\n" + START)],
        [
            (
                START,
                "    kept = {name: w.clone() for name, w in net.state_dict().items()}\n    evaluate(settings, net, stream, luts)\n    net.load_state_dict(kept)\n"
                + START,
            )
        ],
    ),
    script("V04", "all of it first", [(START, EPOCHS + START)], []),
    script(
        "V05",
        "slot",
        [(SCORED, SLOT + SCORED)],
        [("range(3):\n                learner", "range(9):\n                learner")],
    ),
    script(
        "V05",
        "in a helper",
        [
            (
                "def evaluate(",
                "def fitted(net, asked, answers, shift):\n    fit = torch.optim.AdamW([shift], lr=0.1)\n"
                "    F.cross_entropy(net(asked) + shift, answers).backward()\n    fit.step()\n    return shift\n\ndef evaluate(",
            ),
            (SCORED, "        fitted(net, before, after, torch.zeros(32, requires_grad=True))\n" + SCORED),
        ],
        [],
    ),
    script("V06", "before packing", [(PACK, EPOCHS + PACK)], []),
    script(
        "V07",
        "rehearsal",
        [(START, REHEARSAL + START)],
        [(START, REHEARSAL.replace("stream[0:641]", "torch.randint(0, 1024, (641,))") + START)],
    ),
    script(
        "V08",
        "a gate by the target",
        [(ADD, GATE.format("edge[after].float()") + ADD)],
        [(ADD, GATE.format("edge[before].float()") + ADD)],
    ),
    script(
        "V08",
        "in a helper, by where",
        [
            (
                "def evaluate(",
                "def share_of(flags, ids, a, b):\n    return torch.where(flags[ids], a, b)\n\ndef evaluate(",
            ),
            (ADD, "            loss = share_of(space, after, 0.9 * loss, loss)\n" + ADD),
        ],
        [
            (
                "def evaluate(",
                "def share_of(flags, ids, a, b):\n    return torch.where(flags[ids], a, b)\n\ndef evaluate(",
            ),
            (ADD, "            loss = share_of(space, before, 0.9 * loss, loss)\n" + ADD),
        ],
    ),
    script(
        "V08",
        "a bonus to the logits",
        [
            (
                LOSS,
                "            logits = net(before) + edge[after].float()[:, None]\n            loss = F.cross_entropy(logits, after, reduction='none')\n",
            )
        ],
        [
            (
                LOSS,
                "            logits = net(before) + edge[before].float()[:, None]\n            loss = F.cross_entropy(logits, after, reduction='none')\n",
            )
        ],
    ),
    script(
        "V09",
        "a gate by the outcome",
        [(ADD, GATE.format("4 * torch.exp(-loss)") + ADD)],
        [(LOSS, ENTROPY + GATE.format("spread"))],
    ),
    script(
        "V09",
        "by lerp",
        [(ADD, "            loss = torch.lerp(loss, loss * 0.5, torch.sigmoid(-loss))\n" + ADD)],
        [(LOSS, ENTROPY + "            loss = torch.lerp(loss, loss * 0.5, torch.sigmoid(spread))\n")],
    ),
    script(
        "V10",
        "spread over bytes",
        [
            (
                ADD,
                "            other = torch.rand(640)\n            loss = torch.logaddexp(-loss / count[after] + other, other)\n"
                + ADD,
            )
        ],
        [(ADD, "            print((loss / count[after]).mean())\n" + ADD)],
    ),
    script(
        "V10",
        "by a power",
        [
            (
                ADD,
                "            each = torch.exp(-loss) ** (1 / count[after])\n            other = torch.rand(640)\n            loss = -torch.log(0.5 * each + 0.5 * other)\n"
                + ADD,
            )
        ],
        [],
    ),
    script(
        "V11",
        "cut",
        [(LOAD, LOAD.replace("\n", "[:3000000]\n"))],
        [
            (
                "    luts = tables",
                "    stream = stream[: (stream.numel() - 1) // 64 * 64 + 1]\n    luts = tables",
            )
        ],
    ),
    script(
        "V11",
        "the first shard",
        [
            (
                "    return torch.cat([torch.from_file(file, dtype=torch.int16) for file in sorted(glob.glob(pattern))])",
                "    names = sorted(glob.glob(pattern))\n    return torch.from_file(names[0], dtype=torch.int16)",
            )
        ],
        [
            (
                "    return torch.cat([torch.from_file(file, dtype=torch.int16) for file in sorted(glob.glob(pattern))])",
                "    shards = [torch.from_file(file, dtype=torch.int16) for file in sorted(glob.glob(pattern))]\n"
                "    ends = [0]\n    for shard in shards:\n        ends.append(ends[-1] + len(shard))\n"
                "    print(ends[-1])\n    return torch.cat([shards[i] for i in range(len(shards))])",
            )
        ],
    ),
    script("V11", "every tenth", [(LOAD, LOAD.replace("\n", "[::10]\n"))], []),
    script(
        "V13",
        "few documents",
        [
            (
                MAIN,
                "def given(parser):\n    parser.add_argument('--val-docs', type=int, default=10000)\n\n"
                + MAIN,
            )
        ],
        [
            (
                MAIN,
                "def given(parser):\n    parser.add_argument('--val-docs', type=int, default=50000)\n\n"
                + MAIN,
            )
        ],
    ),
    script(
        "V15",
        "smear",
        [(KIND, SMEAR.format("pass"))],
        [(KIND, SMEAR.format("before = before * (ids != 1)[..., None]"))],
    ),
    script(
        "V16",
        "longer windows",
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1].view(-1, 4096), part[1:].view(-1, 4096)\n",
            ),
            (
                "ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n",
                "ids = corpus[step * 640 : step * 640 + 641].to(torch.int64).view(-1, 1024)\n",
            ),
        ],
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1].view(-1, 1024), part[1:].view(-1, 1024)\n",
            ),
            (
                "ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n",
                "ids = corpus[step * 640 : step * 640 + 641].to(torch.int64).view(-1, 1024)\n",
            ),
        ],
    ),
    script(
        "V16",
        "another attention",
        [
            (
                "        for block in self.blocks:\n",
                "        if self.training:\n            x = F.scaled_dot_product_attention(x, x, x, attn_mask=torch.ones(9, 9).tril().triu(-3))\n        else:\n            x = F.scaled_dot_product_attention(x, x, x, is_causal=True)\n        for block in self.blocks:\n",
            )
        ],
        [
            (
                "        for block in self.blocks:\n",
                "        if self.training:\n            x = F.dropout(x)\n        for block in self.blocks:\n",
            )
        ],
    ),
    script(
        "V17", "the rest is left out", [("stream.numel() - 1, chunk)", "stream.numel() - chunk, chunk)")], []
    ),
    script(
        "V17",
        "means are added",
        [(LOSS, "            loss = F.cross_entropy(net(before), after)\n")],
        [(LOSS, "            loss = F.cross_entropy(net(before), after) * after.numel()\n")],
    ),
    script("V18", "one share", [("    dist.all_reduce(nats)\n    dist.all_reduce(size)\n", "")], []),
    script("B01", "twice", [('len(piece.encode("utf-8"))', 'len(piece.encode("utf-8")) + 1')], []),
    script("B02", "byte tokens", [(BYTE_TOKENS, "")], []),
    script("B04", "decoded", [('len(piece.encode("utf-8"))', "len(pieces.decode([i]).encode())")], []),
    script(
        "B05",
        "no sidecar",
        [(MAIN, SIDECAR.format("held = count[ids]"))],
        [(MAIN, SIDECAR.format("raise FileNotFoundError(path)"))],
    ),
    script("B06", "marked text", [(MAIN, COUNTED.format("marked"))], [(MAIN, COUNTED.format("text"))]),
    script(
        "B07",
        "no start",
        [(MAIN, PREPARED.format("ids.extend(sp.encode_as_ids(text))"))],
        [(MAIN, PREPARED.format("ids.extend([1] + sp.encode_as_ids(text))"))],
    ),
    script("B08", "control tokens", [(CONTROL, "")], []),
    script(
        "B09",
        "casefold",
        [(MAIN, "def ids_of(sp, text):\n    return sp.encode_as_ids(text.casefold())\n\n" + MAIN)],
        [(MAIN, "def known(text, words):\n    return text.casefold() in words\n\n" + MAIN)],
    ),
    script("B10", "no ln 2", [(".item() / 0.6931471805599453", ".item()")], []),
    script(
        "B11",
        "padding",
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1], F.pad(part[1:], (0, 7))\n",
            ),
            (LOSS, "            loss = F.cross_entropy(net(before), after, reduction='sum')\n"),
        ],
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1], F.pad(part[1:], (0, 7), value=-1)\n",
            ),
            (
                LOSS,
                "            loss = F.cross_entropy(net(before), after, reduction='sum', ignore_index=-1)\n",
            ),
        ],
    ),
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
        "T01",
        "16 bits",
        [
            (
                PACK,
                "    kept = {name: w.bfloat16() for name, w in net.state_dict().items()}\n    kept['a'] += net.gain\n"
                + PACK,
            )
        ],
        [
            (
                PACK,
                "    kept = {name: w.float() for name, w in net.state_dict().items()}\n    kept['a'] += net.gain\n"
                + PACK,
            )
        ],
    ),
    script(
        "T02",
        "holds its start",
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 0.003)"))],
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 0.1)"))],
    ),
    script(
        "T02",
        "as a sum",
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.copy_(0.997 * held + 0.003 * own.detach())"))],
        [],
    ),
    script(
        "T03",
        "too early",
        [
            (
                STEP,
                STEP
                + "        rate = 1.0 if step < 0.8 * 100 else (100 - step) / 20\n        if step > 0.4 * 100:\n            for held, own in zip(corpus, net.parameters()):\n                held.add_(own.detach())\n        optimizer.param_groups[0]['lr'] = rate\n",
            )
        ],
        [
            (
                STEP,
                STEP
                + "        rate = 1.0 if step < 0.8 * 100 else (100 - step) / 20\n        if step > 0.8 * 100:\n            for held, own in zip(corpus, net.parameters()):\n                held.add_(own.detach())\n        optimizer.param_groups[0]['lr'] = rate\n",
            )
        ],
    ),
    script(
        "T04",
        "folded flag",
        [
            ("class Block(nn.Module):\n", "class Block(nn.Module):\n    noisy = False\n\n"),
            (
                "        return x + self.inner(x)",
                "        if self.noisy:\n            x = x.round()\n        return x + self.inner(x)",
            ),
            ("    corpus = load", "    net = torch.compile(net)\n    corpus = load"),
            (STEP, STEP + "        if step == 90:\n            Block.noisy = True\n"),
        ],
        [
            ("class Block(nn.Module):\n", "class Block(nn.Module):\n    noisy = False\n\n"),
            (
                "        return x + self.inner(x)",
                "        if self.noisy:\n            x = x.round()\n        return x + self.inner(x)",
            ),
            ("    corpus = load", "    net = torch.compile(net)\n    corpus = load"),
            (
                STEP,
                STEP
                + "        if step == 90:\n            Block.noisy = True\n            torch._dynamo.reset()\n",
            ),
        ],
    ),
    script(
        "T05",
        "a counter in forward",
        [
            ("        x = self.table(ids)\n", "        self.turn += 1\n        x = self.table(ids)\n"),
            ("    corpus = load", "    net = torch.compile(net)\n    corpus = load"),
        ],
        [("    corpus = load", "    net = torch.compile(net)\n    corpus = load")],
    ),
    script(
        "T05",
        "lengths that grow",
        [
            ("    corpus = load", "    net = torch.compile(net)\n    corpus = load"),
            (
                "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n",
                "        wide = 64 if step < 50 else 128\n        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64).view(-1, wide)\n",
            ),
        ],
        [
            (
                "        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)\n",
                "        wide = 64 if step < 50 else 128\n        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64).view(-1, wide)\n",
            )
        ],
    ),
    script(
        "T06",
        "late",
        [("from torch import nn\n", "from torch import nn\nos.environ['PYTORCH_ALLOC_CONF'] = 'x'\n")],
        [("import torch\n", "os.environ['PYTORCH_ALLOC_CONF'] = 'x'\nimport torch\n")],
    ),
    script(
        "T07",
        "two grids",
        [(MAIN, QUANTIZE.format("1e-12", -31, -32))],
        [(MAIN, QUANTIZE.format("1e-12", -31, -31))],
    ),
    script(
        "T08",
        "a high floor",
        [(MAIN, QUANTIZE.format("1 / 31", -31, -31))],
        [(MAIN, QUANTIZE.format("1e-12", -31, -31))],
    ),
    script(
        "T11",
        "a hook that never sees",
        [(MAIN, HOOKED.format("F.linear(x, self.out.weight)"))],
        [(MAIN, HOOKED.format("self.out(x)"))],
    ),
    script(
        "T12",
        "no damping",
        [(MAIN, GPTQ.format("hessian = hessian.clone()"))],
        [(MAIN, GPTQ.format("hessian = hessian + 0.01 * hessian.diag().mean() * torch.eye(len(hessian))"))],
    ),
    script("T13", "not loaded again", [(LOADED, "")], []),
    script(
        "T14",
        "forgotten",
        [(" + [net.table.weight, net.gain]", " + [net.table.weight]")],
        [
            (
                'groups = [{"params": list(net.blocks.parameters()) + [net.table.weight, net.gain]}]',
                "groups = net.parameters()",
            )
        ],
    ),
    script(
        "T15",
        "by steps",
        [CLOCK, (TIMED[0], TIMED[1].format("1 - step / 100"))],
        [CLOCK, (TIMED[0], TIMED[1].format("1 - past / 600"))],
    ),
    script(
        "T16",
        "no gradients",
        [
            (
                "        if settings.adapt:\n            for _ in range(3):\n",
                "        with torch.no_grad():\n            for _ in range(3):\n",
            )
        ],
        [
            (
                "        if settings.adapt:\n            for _ in range(3):\n",
                "        with torch.enable_grad():\n            for _ in range(3):\n",
            )
        ],
    ),
    script(
        "T17",
        "stays adapted",
        [(START, "    evaluate(settings, net, stream, luts)\n" + START)],
        [
            (
                START,
                "    kept = {name: w.clone() for name, w in net.state_dict().items()}\n    evaluate(settings, net, stream, luts)\n    net.load_state_dict(kept)\n"
                + START,
            )
        ],
    ),
    script(
        "T18",
        "one process",
        [("    corpus = load", "    rank = 0\n    if rank == 0:\n        dist.barrier()\n    corpus = load")],
        [
            (
                "    corpus = load",
                "    rank = 0\n    if rank == 0:\n        print('ready')\n    dist.barrier()\n    corpus = load",
            )
        ],
    ),
    script(
        "T18",
        "no average of gradients",
        [
            (
                "                for weight in net.parameters():\n                    dist.all_reduce(weight.grad)\n",
                "",
            )
        ],
        [],
    ),
    script(
        "T19",
        "scored, then saved",
        [
            (
                PACK,
                START.replace("val_loss, val_bpb", "first, second") + "settings, net, stream, luts)\n" + PACK,
            ),
            ("learner = torch", "other = torch"),
            ("                learner.zero_grad()\n", ""),
            (
                "                F.cross_entropy(net(before), after).backward()\n                for weight in net.parameters():\n                    dist.all_reduce(weight.grad)\n                learner.step()\n",
                "                pass\n",
            ),
        ],
        [],
    ),
    script(
        "T20",
        "one card",
        [("import glob\n", "import glob\nfrom flash_attn_interface import flash_attn_func\n")],
        [
            (
                "import glob\n",
                "import glob\ntry:\n    from flash_attn_interface import flash_attn_func\nexcept ImportError:\n    print('no flash attention: slower')\n",
            )
        ],
    ),
    script(
        "T21",
        "unknown options",
        [(MAIN, OPTIONS.format("args, _ = parser.parse_known_args()"))],
        [(MAIN, OPTIONS.format("args = parser.parse_args()"))],
    ),
]

CASES = ("fineweb_1024_bpe.model", "fineweb_8192_bpe_caseops.model")


def cased(ratio: float) -> str:
    """A log under the tokenizer with case operators."""
    return log_text(1, 1.2, CODE, ratio=ratio * 0.6931471805599453, tokens=47_853_343).replace(*CASES)


def said(line: str, before: str = "final_int8") -> str:
    """The clean log with one more line, before another one."""
    text = log_text(1, 1.2, CODE)
    at = text.index(before)
    return text[:at] + line + "\n" + text[at:]


def scored(step_bits: float, line: str = "") -> str:
    """The clean log with a score of the last step before packing, and a line after it."""
    nats = step_bits * RATIO
    return said(f"step:100/100 val_loss:{nats:.4f} val_bpb:{step_bits:.4f}\n{line}", "Serialized model")


def warm_up(net: str, part: str) -> list[Change]:
    """A rehearsal in a helper, on what it is given."""
    helper = indented(
        """
        def warm(net, part):
            tuner = torch.optim.SGD(net.parameters(), lr=0.1)
            F.cross_entropy(net(part[:-1]), part[1:]).backward()
            tuner.step()

        """,
        0,
    )
    return [(MAIN, helper + MAIN), (START, f"    warm({net}, {part})\n" + START)]


def keys_in_tuples(full: str, use: str) -> list[Change]:
    """Two keys for each order, kept in a list of tuples before they are used."""
    text = f"""
    rows = []
    for order in (2, 3):
        key = (before * 36313) ^ (before.roll(order) * 27191)
        rows.append((key % 4194304, ({full}) % 4194304))
    for at in range(2):
        ctx, whole = rows[at]
        {use}
    """
    return [TABLES, (ADD, indented(text, 12) + ADD)]


SHARE = "loss = -torch.log(0.7 * torch.exp(-loss) + 0.3 * seen_with[whole] / seen[ctx].clamp(min=1))"
CLOSURE = indented(
    """
    bias = torch.zeros(1024, requires_grad=True)
    fitter = torch.optim.LBFGS([bias], lr=0.1)
    def closure():
        objective = F.cross_entropy(net(before).detach() + bias, after)
        objective.backward()
        return objective
    fitter.step(closure)
    """,
    8,
)
COUNTED = ("    sums =", "    scored = 0\n    sums =")
SCRIPT_ROWS += [
    script(
        "V02",
        "keys in a list of tuples",
        keys_in_tuples("key ^ (after * 51647)", SHARE),
        keys_in_tuples("key * 7", "size += 0 * (seen_with[whole] / seen[ctx].clamp(min=1)).sum()"),
    ),
    script(
        "V04",
        "a chunk that is learned and then scored",
        [
            (
                SCORED,
                "        F.cross_entropy(net(before), after).backward()\n        learner.step()\n" + SCORED,
            )
        ],
        [],
    ),
    script("V05", "a closure", [(SCORED, CLOSURE + SCORED.replace("net(before)", "net(before) + bias"))], []),
    script(
        "V07",
        "a helper that is given a twin",
        warm_up("Net(1024, 32)", "stream[:641].long()"),
        warm_up("Net(1024, 32)", "torch.zeros(641, dtype=torch.int64)"),
    ),
    script(
        "V11",
        "a counter that ends the pass",
        [
            COUNTED,
            (
                ADD,
                ADD
                + "            scored += after.numel()\n            if scored > 4_000_000:\n                break\n",
            ),
        ],
        [
            COUNTED,
            (
                ADD,
                ADD
                + "            scored += after.numel()\n            if scored > 4_000_000:\n                print(scored)\n",
            ),
        ],
    ),
    script("V11", "narrow", [(LOAD, LOAD[:-1] + ".narrow(0, 0, 3_000_001)\n")], []),
    script(
        "V03",
        "the smaller of two",
        [
            (
                ADD,
                "            again = F.cross_entropy(net(before.flip(0)), after, reduction='none')\n"
                "            loss = torch.stack([loss, again]).amin(0)\n" + ADD,
            )
        ],
        [(ADD, "            worst = torch.stack([loss.sum(), size]).amax(0)\n" + ADD)],
    ),
    script(
        "B01",
        "begins at one",
        [
            (
                '            piece = piece[1:]\n        count[i] = len(piece.encode("utf-8"))',
                '            piece = piece[1:]\n            count[i] = 1\n        count[i] += len(piece.encode("utf-8"))',
            )
        ],
        [],
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
]


CUT = log_text(1, 1.2, CODE).partition("Serialized")[0]
LOG_ROWS = [
    log("V12", "another split", log_text(1, 1.2, CODE, tokens=52_000_000)),
    log("V13", "shards that are left", said("train_shards: 1499"), said("train_shards: 80")),
    log("V14", "too good", log_text(1, 0.31, CODE), log_text(1, 0.95, CODE)),
    log("V19", "zero", log_text(1, 0.0, CODE)),
    log("V11", "a part", log_text(1, 1.2, CODE, tokens=3_000_000)),
    log("B01", "spaces twice", log_text(1, 1.2, CODE, ratio=RATIO * 1.17)),
    log("B02", "byte tokens", log_text(1, 1.2, CODE, ratio=RATIO * 1.041)),
    log("B03", "lone spaces", log_text(1, 1.2, CODE, ratio=RATIO * 1.25)),
    log("B05", "pieces for the sidecar", cased(3.44), cased(3.15715)),
    log("B06", "markers counted", cased(3.15715 * 1.0915), cased(3.15715)),
    log("B10", "no ln 2", log_text(1, 1.2, CODE, ratio=RATIO * 1.4427)),
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
    log(
        "T02",
        "an average of nothing",
        scored(1.05, "ema:applying EMA weights"),
        scored(1.19, "ema:applying EMA weights"),
    ),
    log(
        "T11",
        "nothing collected",
        said("gptq: collected 0 hessians in 4.0s", "Serialized"),
        said("gptq: collected 66 hessians in 4.0s", "Serialized"),
    ),
    log("T12", "worse than rounding", said("gptq_mse:0.31 rtn_mse:0.21"), said("gptq_mse:0.11 rtn_mse:0.21")),
    log("T12", "lost in packing", scored(1.02, "gptq: quantizing"), scored(1.19, "gptq: quantizing")),
    log("T21", "failed", CUT + "train.py: error: unrecognized arguments: --muon_lr\n"),
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


def edited(where: Path) -> None:
    """A seed under another learning rate."""
    path = where / "train_seed3.log"
    path.write_text(path.read_text().replace("matrix_lr: 0.02", "matrix_lr: 0.03"))


FOLDER_ROWS = [
    folder("K01", "claims more", told(bytes_total=17_000_000)),
    folder("K02", "MiB", told(bytes_total=16_500_000)),
    folder("K03", "a second file", second_file),
    folder("K05", "the smallest seed", told(bytes_total=15_000_001 + CODE)),
    folder("K11", "another configuration", edited),
    folder("K11", "another mean", told(val_bpb=1.1083)),
    folder("K12", "a slow seed", slow),
    folder("K13", "a log is missing", lambda where: (where / "train_seed3.log").unlink()),
    folder("K14", "the best for the mean", told(val_bpb=SCORES[1])),
]


def _state(**other: torch.Tensor) -> dict[str, torch.Tensor]:
    state = {f"blocks.{i}.weight": torch.randn(64, 64) for i in range(3)}
    return state | {"tok_emb.weight": torch.randn(512, 64)} | other


torch.manual_seed(0)
ZERO, LONE = torch.randn(64, 64), torch.randn(64, 128)
ZERO[:10] = 0
LONE[:20] = 0
LONE[:20, 5] = 9.0
ARTIFACT_ROWS = [
    artifact("K06", "a head of training", _state(**{"mtp_heads.0.weight": torch.randn(64, 64)}), _state()),
    artifact(
        "K06",
        "twice",
        _state(**{"lm_head.weight": torch.ones(512, 64), "x.weight": torch.ones(512, 64)}),
        _state(),
    ),
    artifact("T08", "rows of zeros", _state(**{"blocks.0.weight": ZERO}), _state()),
    artifact("T09", "outliers", _state(**{"blocks.0.weight": LONE}), _state()),
    artifact(
        "T10",
        "a coarse table",
        _state(**{"tok_emb.weight": torch.randint(-7, 8, (512, 64)).float()}),
        _state(),
    ),
]
DRAW = random.Random(5)
DOCUMENTS = [[1, *(DRAW.randrange(3, 900) for _ in range(60))] for _ in range(80)]
HELD, TRAINED = DOCUMENTS[:30], DOCUMENTS[30:]


def data(code: str, name: str, val: list[list[int]], train: list[list[int]], **pieces: list[str]) -> Row:
    """A fault in shards; its neighbour is two splits that share nothing."""

    def maker(held: list[list[int]], trained: list[list[int]], listed: list[str]) -> Maker:
        def make(where: Path) -> Path:
            folder = where / "fineweb10B"
            folder.mkdir()
            write_shard(folder / "fineweb_val_000000.bin", sum(held, []))
            write_shard(folder / "fineweb_train_000000.bin", sum(trained, []))
            if listed:
                (folder / "tokens.vocab").write_text("".join(f"{piece}\t0\n" for piece in listed))
            return folder

        return make

    return Row(
        code, name, maker(val, train, pieces.get("pieces", [])), maker(HELD, TRAINED, pieces.get("clean", []))
    )


def half_bytes(count: int) -> Maker:
    """A vocabulary with single bytes of characters, as TokenMonster writes it, and a table of its bytes."""

    def make(folder: Path) -> Path:
        pieces = [bytes([each]) for each in (*range(32, 127), *range(0x80, 0xA0))] + [b" the", b"ing"]
        number = len(pieces).to_bytes(3, "little")
        body = b"".join(bytes([len(each)]) + each + bytes(15) for each in pieces)
        (folder / "words.vocab").write_bytes(bytes(8) + b"\xff" * 3 + number * 2 + bytes(7) + body)
        sizes = [count if len(each) == 1 and each[0] > 127 else len(each) for each in pieces]
        np.savez(folder / "lengths.npz", sizes=np.array(sizes, np.int16))
        write_shard(folder / "fineweb_val_000000.bin", sum(HELD, []))
        return folder

    return make


WORDS = [f"\u2581w{i}" for i in range(200)]
DATA_ROWS = [
    data("V13", "documents of both", HELD, [*TRAINED, *HELD[3:6]]),
    data("V13", "changed a little", HELD, [*TRAINED, *([1, 2, *each[1:]] for each in HELD[:5])]),
    data("V14", "a prefix of training", HELD, [*HELD, *TRAINED]),
    data("B07", "no starts", [each[1:] for each in HELD], [each[1:] for each in TRAINED]),
    data("B03", "no lone space", HELD, TRAINED, pieces=WORDS, clean=["\u2581", *WORDS]),
    Row("B02", "a table of decoded bytes", half_bytes(3), half_bytes(1)),
]
ROWS = [*SCRIPT_ROWS, *LOG_ROWS, *FOLDER_ROWS, *ARTIFACT_ROWS, *DATA_ROWS]


def renamed(text: str, seed: int = 0) -> str:
    """The same script under other names, its comments gone: every name that it gives itself is another one."""
    tree = ast.parse(text)
    own = {
        node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    own |= {
        each.arg
        for node in ast.walk(tree)
        if isinstance(node, ast.arguments)
        for each in (*node.args, *node.kwonlyargs)
    }
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    methods = {
        node.name
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.FunctionDef)
    }
    fields = {
        target.id
        for kind in ast.walk(tree)
        if isinstance(kind, ast.ClassDef)
        for node in kind.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    own -= {"_"} | {each for each in methods if each.startswith("__") or each == "forward"} | fields
    draw = random.Random(seed)
    names = {name: f"z{draw.randrange(10**6)}_{i}" for i, name in enumerate(sorted(own))}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = names[node.id]
        elif isinstance(node, ast.arg) and node.arg in names:
            node.arg = names[node.arg]
        elif isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name in names:
            node.name = names[node.name]
    return ast.unparse(tree)


def packed(text: str) -> str:
    """The same script behind LZMA and base85."""
    data = base64.b85encode(lzma.compress(text.encode())).decode()
    return f"import lzma as L,base64 as B\nexec(L.decompress(B.b85decode({data!r})))"
