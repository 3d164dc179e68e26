"""Each fault planted in a script is named; the clean script, and what only looks like a fault, is not."""

import ast
import base64
import lzma
import time
import zlib

import pytest

from bitgolf.audit.audit import audit
from bitgolf.audit.finding import CANNOT_TELL, SUSPECTED
from bitgolf.audit.interpreter import UNKNOWN, Interpreter
from bitgolf.audit.rules import rules_named
from bitgolf.audit.script import follow
from bitgolf.audit.unwrap import parsed, unwrapped
from bitgolf.base.errors import BitgolfError
from tests.audit.planted import SCRIPT, changed, indented
from tests.audit.rows.v import EPOCHS, REHEARSAL, SLOT

RULES = rules_named()
SCORED = indented(
    """
    with torch.no_grad():
        loss = F.cross_entropy(net(before), after, reduction="none")
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

STREAMS = indented(
    """
    class Files:
        def __init__(self, pattern):
            self.files = sorted(glob.glob(pattern))
            self.tokens = torch.from_file(self.files[0], dtype=torch.int16)
            self.place = 0

        def take(self, count):
            if self.place + count > self.tokens.numel():
                self.files.append(self.files.pop(0))
                self.number = (self.place + 1) % len(self.files)
                self.tokens = torch.from_file(self.files[self.number], dtype=torch.int16)
            self.place += count
            return self.tokens[self.place - count : self.place]

    class Batches:
        def __init__(self, pattern):
            self.stream = Files(pattern)

        def take(self, count):
            return self.stream.take(count)

    """,
    0,
)

NEIGHBOURS = {
    "score first, several epochs": [
        ("range(3):\n                learner", "range(9):\n                learner")
    ],
    "a normalised cache": [TABLES, (ADD, NORMALISED + ADD)],
    "a rehearsal on random tokens": [
        (START, REHEARSAL.replace("stream[0:641]", "torch.randint(0, 1024, (641,))") + START)
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
    "a compressor that is missing fails where it is used": [
        ("import glob\n", "import glob\ntry:\n    import brotli\nexcept ImportError:\n    brotli = None\n"),
        ("    packed = lzma.compress(buffer", "    squeeze = brotli\n    packed = squeeze.compress(buffer"),
        ("lzma.decompress(packed)", "brotli.decompress(packed)"),
    ],
    "a compressor under a short name that another function asks for": [
        ("import glob\n", "import glob\ntry:\n    import brotli\nexcept ImportError:\n    brotli = None\n"),
        ("    packed = lzma.compress(buffer", "    c = brotli\n    packed = c.compress(buffer"),
        ("lzma.decompress(packed)", "brotli.decompress(packed)"),
        ("class Block(", "def least(c):\n    if c:\n        return min(c)\n\nclass Block("),
    ],
    "a loop of more turns than a number can hold": [("range(100):", f"range({10**400}):")],
    "sums in place": [(ADD, "            nats.add_(loss.sum().to(torch.float64))\n")],
    "a mean by its tokens": [
        (
            'loss = F.cross_entropy(net(before), after, reduction="none")',
            "loss = 640 * F.cross_entropy(net(before), after)",
        ),
    ],
    "a clock that ends the scoring alone": [
        ("import glob\n", "import glob\nimport time\n"),
        (
            "    for step in range(100):\n",
            '    for step in range(100):\n        optimizer.param_groups[0]["lr"] = 1 - step / 100\n',
        ),
        (
            "        part = stream[start",
            "        if time.monotonic() > 1e9:\n            break\n        part = stream[start",
        ),
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
    "one class of streams for both splits": [
        ("class Block(", STREAMS + "class Block("),
        ("    corpus = load(settings.texts)\n", "    corpus = Batches(settings.texts)\n"),
        ("        ids = corpus[step * 640 : step * 640 + 641].to", "        ids = corpus.take(641).to"),
        ("    buffer = io", "    ranges = net(Batches(settings.held_out).take(641)).amax()\n    buffer = io"),
    ],
    "a setting that has the name of what another class keeps of the text": [
        (
            "class Block(",
            "class Plan:\n    last: int = 1\n\n"
            "    def repeated(self, ids):\n        return ids.repeat(self.last)\n\n\n"
            "class Seen:\n    def keep(self, part):\n        self.last = part\n\n\nclass Block(",
        ),
        ("def main():\n", "def main():\n    plan, seen = Plan(), Seen()\n"),
        (
            "    for step in range(100):\n",
            "    for step in range(100):\n        corpus = plan.repeated(corpus)\n",
        ),
        ("        part = stream[start", "        Seen().keep(stream[start:])\n        part = stream[start"),
    ],
    "additions of an object of its own, which the model asks for": [
        (
            "class Block(",
            "class Additions(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
            "        self.low = nn.ModuleList([nn.Linear(32, 32) for _ in range(4)])\n\n"
            "    def begin(self):\n        for each in self.low:\n"
            "            nn.init.zeros_(each.weight)\n\n\n"
            "class Adapted(nn.Module):\n    def forward(self, x, additions):\n"
            "        return additions.low[0](x)\n\n\nclass Block(",
        ),
        ("def main():\n", "def main():\n    Additions().begin()\n"),
    ],
    "a lambda that has the name of a function inside another": [
        ("def main():\n", "def main():\n    def ask(ids):\n        torch.save(net.state_dict(), ids)\n\n"),
        (
            SCORED,
            "        ask = lambda ids: net(ids)\n" + SCORED.replace("net(before)", "ask(before)"),
        ),
    ],
    "turns of each process, which all of them take": [
        (
            "    for step in range(100):\n",
            "    mine = [*(step or settings.rank == 0 for step in range(99)), False]\n    left = max(mine)\n"
            "    for step in range(100):\n        if left == mine[step]:\n            dist.barrier()\n",
        )
    ],
    "work that is dealt by sizes of documents, and scores that are kept": [
        (
            "class Block(",
            "class Dealt:\n    def parts(self, ids, starts):\n"
            "        return [ids[each:] for each in starts]\n\n\nclass Block(",
        ),
        (
            "    nats = torch.zeros((), dtype=torch.float64)\n",
            "    kept, work, starts = [], [0], (stream == 1).nonzero()\n"
            "    parts = settings.dealt.parts(stream, starts)\n"
            "    work[0] += min(sum(map(len, parts)), max(starts))\n",
        ),
        (ADD, "            kept.append(loss)\n"),
        ("    dist.all_reduce(nats)\n", "    nats = torch.cat(kept).sum()\n    dist.all_reduce(nats)\n"),
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
    assert "V19" in found.untold() and "V05" not in found.untold()  # never a silent pass


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
    planted = changed((SCORED, SLOT + SCORED)) + f"\nopen({str(tmp_path / 'ran')!r}, 'w')\n"
    found = audited(tmp_path, WRAPPERS[wrapper](planted.encode()))
    assert real(found) == ["V05"] and not (tmp_path / "ran").exists()
    assert "(unpacked)" in found.real[0].where


def test_more_layers_than_are_opened_are_said(tmp_path):
    text = SCRIPT
    for _ in range(9):
        text = WRAPPERS["zlib by name"](text.encode())
    assert real(audited(tmp_path, text)) == ["K03"]


def test_text_that_cannot_be_opened_is_said(tmp_path):
    found = audited(tmp_path, "import os\nexec(os.environ['CODE'])\n" + SCRIPT)
    assert [each.code for each in found.real] == ["K03"]


def test_a_fault_that_settings_turn_off_is_suspected_of_a_script_alone(tmp_path):
    text = changed((START, "    if settings.early:\n" + indented(EPOCHS, 8) + START))
    off = text.replace(
        "    rank = int", '    early = bool(int(os.environ.get("EARLY", "0")))\n    rank = int'
    )
    found = audited(tmp_path, off)
    assert [(each.code, each.sure) for each in found.findings] == [("V04", SUSPECTED)]
    (tmp_path / "README.md").write_text("# Mine\n")  # in a folder there would be a log or a command
    assert ("V04", CANNOT_TELL) in [(each.code, each.sure) for each in audit(tmp_path, RULES).findings]
    never = text.replace("if settings.early:", "if False:")
    assert [(each.code, each.sure) for each in audited(tmp_path, never).findings] == [("V04", CANNOT_TELL)]
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


def test_numbers_and_texts_that_grow_without_end_are_not_known():
    interpreter = Interpreter(follow("a.py", unwrapped("a.py", b"x = 1"), []))
    for text, names in (("x * x", {"x": 2**100}), ("x + x", {"x": "a" * 999}), ("x + 1", {"x": UNKNOWN})):
        assert interpreter.value(ast.parse(text, mode="eval").body, names) is UNKNOWN
    assert interpreter.value(ast.parse("2**31 - 1", mode="eval").body, {}) == 2**31 - 1


PACKING = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(1024, 64)
        self.out = nn.Linear(64, 64)


def packed(net):
    kept = {}
    for name, weight in net.state_dict().items():
        scale = weight.abs().amax(1, keepdim=True)
        scale /= 31
        kept[name] = torch.round(weight / scale)
    return kept
"""


def test_a_scale_that_is_divided_in_place_is_read(tmp_path):
    assert real(audited(tmp_path, "import torch\nfrom torch import nn\n" + PACKING)) == []


WORLD = indented(
    """
    class World:
        def sum(self, values):
            dist.all_reduce(values)
            return values

    """,
    0,
)
KEPT = [
    (ADD, "            kept[start : start + len(after)] = loss\n"),
    ("    sums =", "    kept = torch.zeros(stream.numel() - 1)\n    sums ="),
    ("            size += bytes_of.sum()\n", "            weights[start : start + len(after)] = bytes_of\n"),
    ("    nats = torch.zeros(()", "    weights = torch.zeros_like(kept)\n    nats = torch.zeros(()"),
    (
        "    dist.all_reduce(nats)\n    dist.all_reduce(size)\n",
        "    nats, size = world.sum(kept).sum(), world.sum(weights).sum()\n",
    ),
    ("class Block(", WORLD + "class Block("),
    ("luts, length=64", "luts, world, length=64"),
    ("net, stream, luts)\n", "net, stream, luts, World())\n"),
]


def test_a_score_that_is_kept_token_by_token_is_seen(tmp_path):
    found = audited(tmp_path, changed(*KEPT))
    assert real(found) == []
    assert not {"V04", "V05", "V06"} & {each.code for each in found.findings}
    assert "V06" in real(audited(tmp_path, changed(*KEPT, ("    buffer = io", EPOCHS + "    buffer = io"))))
    alone = [("world.sum(kept).sum(), world.sum(weights).sum()", "kept.sum(), weights.sum()")]
    assert "V18" in real(audited(tmp_path, changed(*KEPT, *alone)))


def test_what_a_module_does_as_the_main_program_is_not_done_where_it_is_imported(tmp_path):
    """#1698: its own main adapts at the end; run twice, the second model would be written after it."""
    (tmp_path / "inner.py").write_text(SCRIPT)
    (tmp_path / "train_gpt.py").write_text("from inner import main\n\nmain()\n")
    (tmp_path / "README.md").write_text("# Mine\n")
    found = {each.code for each in audit(tmp_path, RULES).findings}
    assert not found & {"V03", "V04", "V05", "V06"}


def test_a_setting_that_may_name_the_validation_text_is_seen(tmp_path):
    either = '"fineweb_val_*.bin" if os.environ.get("ALL") else "fineweb_train_*.bin"'
    text = changed(('"fineweb_train_*.bin"', either))
    assert "V06" in real(audited(tmp_path, text))


def test_windows_of_a_file_beside_the_script_are_followed(tmp_path):
    (tmp_path / "spans.py").write_text(
        "def spans(n, width):\n    for at in range(0, n, width):\n        yield at\n"
    )
    text = changed(
        ("import glob\n", "import glob\nfrom spans import spans\n"),
        ("range(settings.rank * chunk, stream.numel() - 1, chunk)", "spans(stream.numel() - 1, chunk)"),
    )
    assert "V11" not in real(audited(tmp_path, text))


def test_a_finding_names_the_file_that_it_stands_in(tmp_path):
    """Though the module was followed from the script that imports it."""
    text = changed(("    buffer = io", EPOCHS + "    buffer = io"))
    (tmp_path / "inner.py").write_text(text)
    (tmp_path / "train_gpt.py").write_text("from inner import main\n\nmain()\n")
    (tmp_path / "README.md").write_text("# Mine\n")
    found = [each for each in audit(tmp_path, RULES).findings if each.code == "V06"]
    alone = [each for each in audited(tmp_path, text, "alone.py").findings if each.code == "V06"]
    places = [each.where.replace("inner", "alone") for each in found]
    assert found and places == [each.where for each in alone]
    line = alone[0].found.partition("(")[2].partition(")")[0]
    assert f"({line} of inner.py)" in found[0].found


@pytest.mark.parametrize(
    ("library", "told"),
    [
        ("ctypes.CDLL(None).mallopt(-1, 1 << 30)", False),
        ("memory = ctypes.CDLL(None)\nmemory.mallopt(-3, 1)\nmemory.malloc_trim(0)", False),
        ("ctypes.CDLL('./scorer.so').mallopt(-1, 1)", True),  # a file may call anything so
        ("ctypes.CDLL(None, handle=other).mallopt(-1, 1)", True),
        ("ctypes.CDLL(None).system(b'true')", True),
        ("memory = ctypes.CDLL(None)\nmemory.mallopt(-3, 1)\nmemory.open(b'x', 0)", True),
        ("memory = ctypes.CDLL(None)\ngetattr(memory, 'open')(b'x', 0)", True),
        ("memory = ctypes.CDLL(None)\nmemory = other\nmemory.mallopt(-3, 1)", True),
        ("ctypes.PyDLL('./scorer.so')", True),
        ("torch.ops.load_library('./scorer.so')", True),
    ],
)
def test_compiled_code_cannot_be_told_but_how_memory_is_kept_can(tmp_path, library, told):
    found = audited(tmp_path, changed(("import glob\n", f"import ctypes\nimport glob\n{library}\n")))
    assert [(each.code, each.sure) for each in found.findings] == [("V08", CANNOT_TELL)] * told


DOCUMENTS = """
import sentencepiece as spm


class Shown:
    def __init__(self, text):
        self.text = text.lower()


class Kept:
    def __init__(self, text):
        self.text = text.strip()


def prepared(paths, pieces):
    for path in paths:
        text = open(path).read()
        shown, kept = Shown(text), Kept(text)
        print(shown.text[:40])
        yield pieces.encode(kept.text)


if __name__ == "__main__":
    print(sum(map(len, prepared(["docs.txt"], spm.SentencePieceProcessor(model_file="own.model")))))
"""


@pytest.mark.parametrize(
    ("edits", "lossy"),
    [
        ([], False),  # the other object's text is in small letters
        ([("text.strip()", "text.lower()")], True),
        ([("pieces.encode(kept.text)", "pieces.encode(kept.text + shown.text)")], True),
    ],
)
def test_attributes_of_different_objects_are_different_places(tmp_path, edits, lossy):
    text = DOCUMENTS
    for old, new in edits:
        text = text.replace(old, new)
    assert ("B09" in {each.code for each in audited(tmp_path, text, "prepare.py").findings}) == lossy
    (tmp_path / "train_gpt.py").write_text(SCRIPT)
    (tmp_path / "README.md").write_text("# Mine\n")
    where = [each.where for each in audit(tmp_path, RULES).findings if each.code == "B09"]
    assert [each.partition(":")[0] for each in where] == ["prepare.py"] * lossy


SCORE = '            loss = F.cross_entropy(net(before), after, reduction="none")\n'
CHOICE = """
for i in range(1, len(after)):
    row = seen.get(int(before[i]), {})
    hits = row.get(int(after[i]), 0)
    share = hits / max(1, sum(row.values()))
    if hits > 1:
        loss[i] = -torch.log(0.6 * torch.exp(-loss[i]) + 0.4 * share)
"""
EITHER = CHOICE + "    else:\n        loss[i] = loss[i] - 0.6 * torch.log(share)\n"
PAIR = """
net_says = net(before).softmax(-1)
one = torch.full_like(net_says, 1 / 1024)
trust = torch.sigmoid(4 * {})
loss = -((1 - trust) * net_says + trust * one).gather(1, after[:, None]).log()
"""
OUTCOME = "(one.gather(1, after[:, None]) - net_says.gather(1, after[:, None]))"
WINDOWS = [
    ("for start in range(settings.rank * chunk, stream.numel() - 1, chunk):", "{}"),
    ("part = stream[start : start + chunk + 1]", "part = stream[end - chunk : end + 1]"),
]
ONCE = "    for k in range(3):\n        piece = stream[k * 640 : k * 640 + 641].to(torch.int64)\n"
LEARN = "        F.cross_entropy(net(piece[:-1]), piece[1:]).backward()\n        optimizer.step()\n"
STREAM = "    stream = load(settings.held_out)\n"
HARD = """
    losses = []
    for at in range(0, stream.numel() - 1, 640):
        piece = stream[at : at + 641].to(torch.int64)
        losses.append(F.cross_entropy(net(piece[:-1]), piece[1:]).item())
    for i in sorted(range(len(losses)), key=losses.__getitem__)[-99:]:
        piece = stream[i * 640 : i * 640 + 641].to(torch.int64)
"""
KINDS = {
    "V01": ([(SCORE, SCORE + indented(CHOICE, 12))], [(SCORE, SCORE + indented(EITHER, 12))]),
    "V03": ([(START, HARD + LEARN + START)], []),
    "V07": ([(START, ONCE + LEARN + START)], [(START, ONCE + START)]),
    "V09": (
        [(SCORE, indented(PAIR.format(OUTCOME), 12))],
        [(SCORE, indented(PAIR.format("net_says.amax(1, keepdim=True)"), 12))],
    ),
    "V11": (
        [(STREAM, STREAM + "    stream = stream[: min(stream.numel(), 4096 * 640 + 1)]\n")],
        [(STREAM, STREAM + "    stream = stream[: stream.numel() // 640 * 640 + 1]\n")],
    ),
    "V14": (
        [
            (
                "    corpus = load(settings.texts)\n",
                '    corpus = load(os.path.join(settings.data, "*.bin"))\n',
            )
        ],
        [
            (
                "    corpus = load(settings.texts)\n",
                '    corpus = load(os.path.join(settings.data, "*train*.bin"))\n',
            )
        ],
    ),
    "V17": (
        [(WINDOWS[0][0], "for end in range(chunk, stream.numel(), chunk):"), WINDOWS[1]],
        [
            (WINDOWS[0][0], "for end in [*range(chunk, stream.numel(), chunk), stream.numel() - 1]:"),
            WINDOWS[1],
        ],
    ),
    "V19": (
        [("            nats += loss", "            running = nats + loss")],
        [("            nats += loss", "            nats = nats + loss")],
    ),
}


@pytest.mark.parametrize("code", KINDS)
def test_faults_by_the_way_of_values(tmp_path, code):
    plant, clean = KINDS[code]
    assert code in real(audited(tmp_path, changed(*plant)))
    assert code not in real(audited(tmp_path, changed(*clean)))


def test_texts_without_end_take_bounded_time(tmp_path):
    line = (
        "def f{0}(sp, text):\n    p, q = sp.id_to_piece({0}), text.casefold()\n"
        "    p = p[p.startswith('\u2581') :]\n    n = len(sp.decode([{0}]).encode())\n"
        "    return sp.encode(q), len(p.encode()), n, f{1}(sp, q)\n"
    )
    text = "import sentencepiece\n" + "".join(line.format(i, (i + 1) % 200) for i in range(200))
    began = time.process_time()
    found = audited(tmp_path, text)
    assert "B04" in real(found) and found.unchecked == "too long to be followed"
    assert time.process_time() - began < 30
