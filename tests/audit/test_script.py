"""Each fault planted in a script is named; the clean script, and what only looks like a fault, is not."""

import ast
import base64
import lzma
import time
import zlib

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.rules import rules_named
from bitgolf.audit.unwrap import parsed, unwrapped
from bitgolf.base.errors import BitgolfError
from tests.audit.planted import SCRIPT, changed, indented

RULES = rules_named()
SCORED = indented(
    """
    with torch.no_grad():
        loss = F.cross_entropy(net(before), after, reduction="none")
    """,
    8,
)
TRAIN_FIRST = indented(
    """
    shift = torch.zeros(32, requires_grad=True)
    fit = torch.optim.AdamW([shift], lr=0.1)
    for _ in range(8):
        F.cross_entropy(net(before) + shift, after).backward()
        fit.step()
    """,
    8,
)
BY_HELPER = (
    "def evaluate(",
    "def fitted(net, asked, answers, shift):\n"
    "    fit = torch.optim.AdamW([shift], lr=0.1)\n"
    "    F.cross_entropy(net(asked) + shift, answers).backward()\n"
    "    fit.step()\n"
    "    return shift\n\n"
    "def evaluate(",
)
EPOCHS_FIRST = indented(
    """
    tuner = torch.optim.AdamW(net.parameters(), lr=0.001)
    for _ in range(6):
        for at in range(0, stream.numel() - 641, 640):
            piece = stream[at : at + 641].to(torch.int64)
            F.cross_entropy(net(piece[:-1]), piece[1:]).backward()
            tuner.step()
    """,
    4,
)
REHEARSAL = indented(
    """
    for width in (64, 128):
        twin = Net(1024, 32)
        tuner = torch.optim.AdamW(twin.parameters(), lr=0.001)
        piece = stream[width : width + 641].to(torch.int64)
        F.cross_entropy(twin(piece[:-1]), piece[1:]).backward()
        tuner.step()
    """,
    4,
)
CACHE = indented(
    """
    key = (before * 36313) ^ (before.roll(1) * 27191)
    whole = (key ^ (after * 51647)) % 4194304
    share = seen_with[whole] / seen[key % 4194304].clamp(min=1)
    loss = -torch.log(0.7 * torch.exp(-loss) + 0.3 * share)
    """,
    12,
)
CACHE_UPDATE = indented(
    """
    seen.index_add_(0, key % 4194304, torch.ones(640))
    seen_with.index_add_(0, whole, torch.ones(640))
    """,
    8,
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
TABLES = ("    sums =", "    seen = torch.zeros(4194304)\n    seen_with = torch.zeros(4194304)\n    sums =")
ADD = "            nats += loss.sum().to(torch.float64)\n"
START = "    val_loss, val_bpb = evaluate("
GATED = (
    "            weight = torch.sigmoid(4 * {})\n"
    "            loss = -torch.log(weight * torch.exp(-loss) + (1 - weight) * 0.001)\n"
)

PLANTS = {
    "V05 slot": ("V05", FOUND, [(SCORED, TRAIN_FIRST + SCORED)]),
    "V05 in a helper, renamed": (
        "V05",
        FOUND,
        [
            BY_HELPER,
            (SCORED, "        fitted(net, before, after, torch.zeros(32, requires_grad=True))\n" + SCORED),
        ],
    ),
    "V05 learned, then scored": (
        "V05",
        FOUND,
        [
            (
                '            loss = F.cross_entropy(net(before), after, reduction="none")\n',
                "            pass\n",
            ),
            (ADD, ""),
            (
                "    dist.all_reduce(nats)",
                "        with torch.no_grad():\n"
                "            nats += F.cross_entropy(net(before), after, reduction='sum')\n"
                "    dist.all_reduce(nats)",
            ),
        ],
    ),
    "V06 before packing": ("V06", FOUND, [("    buffer = io", EPOCHS_FIRST + "    buffer = io")]),
    "V04 after packing, all of it first": ("V04", FOUND, [(START, EPOCHS_FIRST + START)]),
    "V07 rehearsal": ("V07", FOUND, [(START, REHEARSAL + START)]),
    "V01 hashed cache": (
        "V01",
        FOUND,
        [
            TABLES,
            (ADD, CACHE + ADD),
            ("        if settings.adapt", CACHE_UPDATE + "        if settings.adapt"),
        ],
    ),
    "V02 target in the key": ("V02", FOUND, [TABLES, (ADD, CACHE + ADD)]),
    "V03 counted in a pass before": (
        "V03",
        SUSPECTED,
        [
            TABLES,
            (ADD, CACHE + ADD),
            (
                "    for start in range(settings",
                "    for at in range(0, stream.numel() - 641, 640):\n"
                "        old = stream[at : at + 640].to(torch.int64)\n"
                "        seen.index_add_(0, (old * 36313) % 4194304, torch.ones(640))\n"
                "    for start in range(settings",
            ),
        ],
    ),
    "V09 a gate that knows": ("V09", SUSPECTED, [(ADD, GATED.format("torch.exp(-loss)") + ADD)]),
    "V10 spread over bytes": (
        "V10",
        SUSPECTED,
        [
            (
                ADD,
                (
                    "            other = torch.rand(640)\n"
                    "            loss = torch.logaddexp(-loss / count[after] + other, other)\n"
                )
                + ADD,
            )
        ],
    ),
    "V11 cut": (
        "V11",
        FOUND,
        [("    stream = load(settings.held_out)\n", "    stream = load(settings.held_out)[:3000000]\n")],
    ),
    "V18 one share": ("V18", SUSPECTED, [("    dist.all_reduce(nats)\n    dist.all_reduce(size)\n", "")]),
    "B01 twice": ("B01", FOUND, [('len(piece.encode("utf-8"))', 'len(piece.encode("utf-8")) + 1')]),
    "B02 byte tokens": (
        "B02",
        SUSPECTED,
        [("        if pieces.is_byte(i):\n            count[i] = 1\n            continue\n", "")],
    ),
    "B04 decoded": ("B04", FOUND, [('len(piece.encode("utf-8"))', "len(pieces.decode([i]).encode())")]),
    "B08 control tokens": (
        "B08",
        SUSPECTED,
        [
            (
                (
                    "        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i):\n"
                    "            continue\n"
                ),
                "",
            )
        ],
    ),
    "K02 MiB": (
        "K02",
        SUSPECTED,
        [('    print(f"Serialized', '    assert len(packed) < 15.9 * 1024 * 1024\n    print(f"Serialized')],
    ),
    "K03 download": (
        "K03",
        SUSPECTED,
        [
            (
                "    buffer = io",
                "    from urllib.request import urlretrieve\n    urlretrieve('x')\n    buffer = io",
            )
        ],
    ),
    "K04 fallback": (
        "K04",
        SUSPECTED,
        [("import glob\n", "import glob\ntry:\n    import brotli\nexcept ImportError:\n    brotli = None\n")],
    ),
    "K14 seeds": (
        "K14",
        SUSPECTED,
        [
            (
                "    buffer = io",
                (
                    "    best = 9\n    for seed in range(9):\n        torch.manual_seed(seed)\n"
                    "        if net.gain.sum() < best:\n            best = seed\n    buffer = io"
                ),
            )
        ],
    ),
    "T01 16 bits": (
        "T01",
        FOUND,
        [
            (
                "    buffer = io",
                (
                    "    kept = {name: w.bfloat16() for name, w in net.state_dict().items()}\n"
                    "    kept['a'] += net.gain\n    buffer = io"
                ),
            )
        ],
    ),
    "T04 folded flag": (
        "T04",
        SUSPECTED,
        [
            ("class Block(nn.Module):\n", "class Block(nn.Module):\n    noisy = False\n\n"),
            (
                "        return x + self.inner(x)",
                "        if self.noisy:\n            x = x.round()\n        return x + self.inner(x)",
            ),
            ("    corpus = load", "    net = torch.compile(net)\n    corpus = load"),
            (
                "        optimizer.step()\n",
                "        optimizer.step()\n        if step == 90:\n            Block.noisy = True\n",
            ),
        ],
    ),
    "T06 late": (
        "T06",
        SUSPECTED,
        [("from torch import nn\n", "from torch import nn\nos.environ['PYTORCH_ALLOC_CONF'] = 'x'\n")],
    ),
    "T14 forgotten": ("T14", SUSPECTED, [(" + [net.table.weight, net.gain]", " + [net.table.weight]")]),
    "T18 one process": (
        "T18",
        FOUND,
        [("    corpus = load", "    rank = 0\n    if rank == 0:\n        dist.barrier()\n    corpus = load")],
    ),
    "V13 few documents": (
        "V13",
        SUSPECTED,
        [
            (
                "def main():\n",
                (
                    "def options(parser):\n    parser.add_argument('--val-docs', type=int, default=10000)\n"
                    "\ndef main():\n"
                ),
            )
        ],
    ),
    "B09 casefold": (
        "B09",
        SUSPECTED,
        [("def main():\n", "def ids(sp, text):\n    return sp.encode(text.casefold())\n\ndef main():\n")],
    ),
}

NEIGHBOURS = {
    "score first, several epochs": [
        ("range(3):\n                learner", "range(9):\n                learner")
    ],
    "a normalised cache": [TABLES, (ADD, NORMALISED + ADD)],
    "a rehearsal on random tokens": [
        (START, REHEARSAL.replace("stream[width : width + 641]", "torch.randint(0, 1024, (641,))") + START)
    ],
    "the chunk before is learned first": [
        ("    for start in range(settings", "    last = None\n    for start in range(settings"),
        (
            SCORED,
            (
                "        if last is not None:\n"
                "            F.cross_entropy(net(last[:-1]), last[1:]).backward()\n"
                "            learner.step()\n"
            )
            + SCORED,
        ),
        ("    dist.all_reduce(nats)", "        last = part\n    dist.all_reduce(nats)"),
    ],
    "a gate by the entropy": [
        (
            '            loss = F.cross_entropy(net(before), after, reduction="none")\n',
            "            logits = net(before)\n"
            '            loss = F.cross_entropy(logits, after, reduction="none")\n'
            "            spread = torch.special.entr(torch.softmax(logits, -1)).sum(-1)\n"
            + GATED.format("spread"),
        ),
    ],
    "names and comments that say ngram, slot, closing": [
        (
            "def evaluate(",
            (
                "def ngram_slot_hash_cache(closing):\n    # target ^ prime, exec, two passes over val\n"
                "    return closing\n\ndef evaluate("
            ),
        ),
    ],
    "whole windows": [
        ("    luts = tables", "    stream = stream[: (stream.numel() - 1) // 64 * 64 + 1]\n    luts = tables")
    ],
    "an error without the compressor": [
        (
            "import glob\n",
            (
                "import glob\ntry:\n"
                "    import brotli\nexcept ImportError:\n    raise SystemExit('pip install brotli')\n"
            ),
        )
    ],
    "averages in float32": [
        (
            "    buffer = io",
            (
                "    kept = {name: w.float() for name, w in net.state_dict().items()}\n"
                "    kept['a'] += net.gain\n    buffer = io"
            ),
        )
    ],
    "all parameters at once": [
        (
            'groups = [{"params": list(net.blocks.parameters()) + [net.table.weight, net.gain]}]',
            "groups = net.parameters()",
        )
    ],
    "a probe of its own": [
        (
            "    buffer = io",
            (
                "    probe = nn.Linear(32, 1024)\n"
                "    judge = torch.optim.Adam(probe.parameters(), lr=0.1)\n"
                "    piece = stream[0:641].to(torch.int64)\n"
                "    F.cross_entropy(probe(net.table(piece[:-1])), piece[1:]).backward()\n"
                "    judge.step()\n    buffer = io"
            ),
        )
    ],
    "decimal megabytes": [
        ('    print(f"Serialized', '    assert len(packed) < 15.9 * 1000 * 1000\n    print(f"Serialized')
    ],
}


def audited(tmp_path, text, name="train_gpt.py"):
    path = tmp_path / name
    path.write_text(text)
    return audit(path, RULES)


def real(found):
    return sorted({each.code for each in found.findings if each.sure != CANNOT_TELL})


def test_the_clean_script_has_no_finding(tmp_path):
    found = audited(tmp_path, SCRIPT)
    assert found.findings == [] and found.verdict == "clean"
    assert "V08" in found.untold() and "V05" not in found.untold()  # never a silent pass


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_fault_is_named_with_its_line(tmp_path, name):
    code, sure, changes = PLANTS[name]
    text = changed(*changes)
    ast.parse(text)
    found = audited(tmp_path, text)
    hits = [each for each in found.findings if each.code == code]
    assert [each.sure for each in hits][:1] == [sure], found.findings
    line = hits[0].where.rpartition(":")[2]
    assert text.splitlines()[int(line) - 1].strip()


@pytest.mark.parametrize("name", NEIGHBOURS)
def test_what_only_looks_like_a_fault_is_clean(tmp_path, name):
    text = changed(*NEIGHBOURS[name])
    ast.parse(text)
    assert audited(tmp_path, text).findings == []


WRAPPERS = {
    "lzma and base85": lambda data: (
        "import lzma as L,base64 as B\n"
        f"exec(L.decompress(B.b85decode({base64.b85encode(lzma.compress(data)).decode()!r})))"
    ),
    "zlib by name": lambda data: (
        f"blob = {zlib.compress(data)!r}\nexec(__import__('zlib').decompress(blob).decode())"
    ),
    "compiled": lambda data: (
        f"import zlib\nexec(compile(zlib.decompress({zlib.compress(data)!r}), 'x', 'exec'))"
    ),
    "twice": lambda data: WRAPPERS["zlib by name"](WRAPPERS["lzma and base85"](data).encode()),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_packed_scripts_are_opened_and_not_run(tmp_path, wrapper):
    planted = changed(*PLANTS["V05 slot"][2]) + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n"
    found = audited(tmp_path, WRAPPERS[wrapper](planted.encode()))
    assert real(found) == ["V05"] and not (tmp_path / "ran").exists()
    assert "(unpacked)" in found.real[0].where


def test_text_that_cannot_be_opened_is_said(tmp_path):
    found = audited(tmp_path, "import os\nexec(os.environ['CODE'])\n" + SCRIPT)
    assert [each.code for each in found.real] == ["K03"]


def test_a_fault_that_settings_turn_off_cannot_be_told(tmp_path):
    text = changed((START, "    if settings.early:\n" + indented(EPOCHS_FIRST, 8) + START))
    off = text.replace(
        "    rank = int", '    early = bool(int(os.environ.get("EARLY", "0")))\n    rank = int'
    )
    found = audited(tmp_path, off)
    assert [(each.code, each.sure) for each in found.findings] == [("V04", CANNOT_TELL)]
    on = off.replace('"EARLY", "0"', '"EARLY", "1"')
    assert real(audited(tmp_path, on)) == ["V04"]


def test_f_strings_that_hold_their_own_quotes_are_read():
    assert parsed('x = f"{a["k"]} {b}"  # "\ny = "f\\"{" + f\'{c[\'d\']}\'')
    layers = unwrapped("x.py", b'z = f"{a["k"]}: {v:.2f} {{}}"\n')
    assert isinstance(layers[0].tree.body[0], ast.Assign)


@pytest.mark.parametrize(
    "data",
    [
        b"\0\1\2" * 50,
        b"def f(:",
        b"(" * 100_000,
        b"x = " + b"-" * 200_000 + b"1",
        b"a" * (2**22 + 1),
        b"\xff\xfe" * 30,
    ],
)
def test_what_is_no_script_is_refused_in_one_line(tmp_path, data):
    (tmp_path / "train_gpt.py").write_bytes(data)
    with pytest.raises(BitgolfError) as caught:
        audit(tmp_path / "train_gpt.py", RULES)
    assert "\n" not in str(caught.value)


def test_bombs_and_long_lines_are_bounded(tmp_path):
    bomb = zlib.compress(bytes(2**26))
    started = time.process_time()
    audited(tmp_path, f"import zlib\nexec(zlib.decompress({bomb!r}))\n" + SCRIPT)
    audited(tmp_path, "x = [" + "1, " * 200_000 + "]\n" + SCRIPT)
    assert time.process_time() - started < 30
