"""A script runs in the sandbox: what is wrong shows, what is clean passes, what cannot run is said."""

import json

import pytest

from bitgolf.audit.finding import CANNOT_TELL, FOUND, SUSPECTED
from bitgolf.audit.sandbox.box import Limits, way
from bitgolf.audit.sandbox.findings import COVERED, findings
from bitgolf.audit.sandbox.lines import SHARED, SIZES, TINY, parsed
from bitgolf.audit.sandbox.run import Run, run
from bitgolf.base.errors import BitgolfError

SCRIPT = """
import glob, io, math, os
import numpy as np
import sentencepiece
import torch
import torch.distributed as dist
import torch.nn.functional as F
from flash_attn_interface import flash_attn_func

VOCABULARY = int(os.environ.get("VOCAB_SIZE", 512))
RANK, WORLD = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))

def tokens_of(name):
    files = sorted(glob.glob(os.path.join(os.environ["DATA_PATH"], f"fineweb_{name}_*.bin")))
    shards = [np.fromfile(each, np.uint16)[512:] for each in files]
    return torch.from_numpy(np.concatenate(shards).astype(np.int64))

class Net(torch.nn.Module):
    def __init__(self, width):
        super().__init__()
        self.table = torch.nn.Embedding(VOCABULARY, width)
        self.layers = torch.nn.ModuleList([torch.nn.Linear(width, 3 * width) for _ in range(2)])

    def forward(self, ids):
        x = self.table(ids)
        for layer in self.layers:
            q, k, v = layer(x).unflatten(-1, (3, 4, -1)).unbind(-3)
            x = x + flash_attn_func(q, k, v, causal=True).flatten(-2)
        return 0.05 * F.linear(x, self.table.weight)

def evaluate(net, stream, count, space, edge):
    nats, size, first = 0.0, 0.0, 1
    with torch.no_grad(), torch.autocast("cuda", dtype=torch.bfloat16, enabled=False):
        for start in range(0, len(stream) - 1, 16):
            window = stream[max(0, start - 16) : start + 17].to("cuda")
            logits = net(window[None, :-1])[0]
            new = min(16, len(stream) - 1 - start)
            before, after = window[:-1][-new:], window[1:][-new:]
            loss = F.cross_entropy(logits[-new:], after, reduction="none")
            nats += loss.double().sum().item()
            size += (count[after] + (space[after] & ~edge[before])).sum().item()
    mean = nats / (len(stream) - 1)
    return mean, nats / math.log(2) / size

def main():
    if "RANK" in os.environ:
        dist.init_process_group("nccl", device_id=torch.device("cuda", RANK))
    torch.manual_seed(1)
    pieces = sentencepiece.SentencePieceProcessor(model_file=os.environ["TOKENIZER_PATH"])
    words = [pieces.id_to_piece(each) for each in range(VOCABULARY)]
    edge = torch.tensor([pieces.is_control(each) or pieces.is_unknown(each) for each in range(VOCABULARY)])
    count = torch.tensor([0 if edge[i] else 1 if pieces.is_byte(i) else len(word.lstrip("\\u2581").encode())
                          for i, word in enumerate(words)])
    space = torch.tensor([word[:1] == "\\u2581" for word in words])
    net = Net(int(os.environ.get("MODEL_DIM", 256))).cuda()
    corpus, stream = tokens_of("train"), tokens_of("val").cuda()
    tables = count, space, edge
    first = torch.compile(evaluate)(net, stream, *tables)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, fused=True)
    for step in range(3):
        ids = corpus[step * 256 : step * 256 + 257].cuda()
        F.cross_entropy(net(ids[None, :-1])[0], ids[1:]).backward()
        optimizer.step()
        optimizer.zero_grad()
    if RANK == 0:
        torch.save(net.state_dict(), "model.pt")
    if dist.is_initialized():
        dist.barrier()
    net.load_state_dict(torch.load("model.pt"))
    print(evaluate(net, stream, *tables))

if __name__ == "__main__":
    main()
"""
LEAK = ("causal=True", "causal=False")
UNNORMALISED = (
    "            nats +=",
    "            loss = -torch.log(0.5 * torch.exp(-loss) + 0.5)\n            nats +=",
)
GATE = ("F.cross_entropy(logits[-new:],", "F.cross_entropy(logits[-new:] * (1 + after % 2)[:, None],")
DISTILLED = (
    "    if RANK == 0:\n",
    "    ids = stream[None, :64]\n"
    "    (net(ids.flip(1)) - net(ids)).square().mean().backward()\n"
    "    optimizer.step()\n"
    "    if RANK == 0:\n",
)
ON_VALIDATION = ("ids = corpus[", "ids = stream[")
NOT_RELOADED = ('    net.load_state_dict(torch.load("model.pt"))\n', "")
SHARE = ("range(0, len(stream) - 1, 16)", "range(16 * RANK, len(stream) - 1, 16 * WORLD)")
BYTES = ("space[after] & ~edge[before]", "2 * space[after]")
LEARN = (
    "            logits = net",
    "            with torch.enable_grad():\n"
    "                F.cross_entropy(net(window[None, :-1])[0], window[1:]).backward()\n"
    "                for each in net.parameters():\n"
    "                    each.data -= 0.02 * each.grad\n"
    "                    each.grad = None\n"
    "            logits = net",
)


@pytest.fixture(scope="module")
def sandbox():
    """What makes a sandbox here."""
    try:
        return way()
    except BitgolfError:
        pytest.skip("no sandbox can be made here")


def seen_of(folder, sandbox, *changes, stages=(TINY,), seconds=300, script=SCRIPT) -> Run:
    """A run of the script with changes."""
    for old, new in changes:
        assert old in script
        script = script.replace(old, new)
    (folder / "train_gpt.py").write_text(script)
    return run(folder / "train_gpt.py", sandbox, Limits(seconds=seconds), stages)


def codes(seen: Run, *sure: str) -> set[str]:
    """The codes of findings."""
    return {each.code for each in findings(seen)[0] if each.sure in sure}


@pytest.mark.slow
def test_a_clean_script_passes_all(tmp_path, sandbox):
    seen = seen_of(tmp_path, sandbox, stages=(SIZES, TINY, SHARED))
    assert not seen.stopped
    assert {each["stage"]: each["ended"] for each in seen.of("ran")} == {
        SIZES: "passed",
        TINY: "passed",
        SHARED: "passed",
    }
    assert not codes(seen, FOUND, SUSPECTED)
    new, looked = findings(seen)
    assert looked | {each.code for each in new} == COVERED
    assert looked == COVERED, new
    said = "\n".join(seen.summary())
    assert "as written: 525,824 parameters, 2 layers, width 256, vocabulary 512" in said


def test_a_clean_script_passes(tmp_path, sandbox):
    seen = seen_of(tmp_path, sandbox)
    assert not codes(seen, FOUND, SUSPECTED)
    assert findings(seen)[1] == COVERED - {"V18", "T18"}


def test_faults_show(tmp_path, sandbox):
    seen = seen_of(tmp_path, sandbox, LEAK, ON_VALIDATION, NOT_RELOADED)
    assert codes(seen, FOUND, SUSPECTED) == {"V05", "V06", "T13"}
    assert {"V18", "T18"} <= codes(seen, CANNOT_TELL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (UNNORMALISED, "V01"),
        (GATE, "V08"),
        (BYTES, "B01"),
        (LEARN, "V04"),
        (SHARE, "V18"),
        (DISTILLED, "V06"),
    ],
)
def test_each_fault_shows(tmp_path, sandbox, change, code):
    seen = seen_of(tmp_path, sandbox, change, stages=(TINY, SHARED))
    assert code in codes(seen, FOUND, SUSPECTED)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "why"),
    [
        ("import urllib.request\nurllib.request.urlopen('http://192.0.2.1')", "Network is unreachable"),
        ("open('/usr/lib/mine', 'w')", "Read-only file system"),
        ("import os\nos._exit(0)", "no function took a model"),
        ("while True: pass", "no end in its time"),
        ("import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", "end"),
        ("x = [bytes(10**8) + b'1' for _ in range(99)]", "emory"),
        ("import missing_module", "ModuleNotFoundError"),
        (
            "import os\nfor fd in range(3, 20):\n try: os.write(fd, b'{}' * 10**6)\n except OSError: pass",
            "",
        ),
    ],
)
def test_what_cannot_run_is_said(tmp_path, sandbox, first, why):
    seen = seen_of(tmp_path, sandbox, script=f"{first}\n", seconds=60)
    found, looked = findings(seen)
    assert not looked
    assert {each.code for each in found} == COVERED
    assert all(each.sure == CANNOT_TELL for each in found)
    assert any(why in each.found for each in found), found[0].found


@pytest.mark.slow
def test_a_gigabyte_of_words_is_no_matter(tmp_path, sandbox):
    seen = seen_of(
        tmp_path, sandbox, ("def main():\n", "def main():\n    for _ in range(1000): print('x' * 10**6)\n")
    )
    assert not seen.stopped and not codes(seen, FOUND, SUSPECTED)


def test_lines_of_another_form_are_dropped():
    good = {"stage": TINY, "rank": 0, "event": "evaluated", "name": "f", "loss": 1.5}
    bad = [
        good | {"loss": "1.5"},
        good | {"rank": 7},
        good | {"stage": "other"},
        good | {"loss": float("nan")},
        [good],
        "x",
    ]
    text = "\n".join(json.dumps(each) for each in [*bad, good]).encode() + b"\n\xff{" + b"[" * 100_000
    assert [each["loss"] for each in parsed(text)] == [1.5]
    hostile = [
        {
            "stage": TINY,
            "rank": 0,
            "event": "probe",
            "probe": "causal",
            "ended": "failed",
            "why": "\x1b[2J" * 9999,
        }
    ]
    seen = Run("a.py", 1, "unshare", 1.0, "", [*parsed(json.dumps(hostile[0]).encode())])
    assert all(
        "\x1b" not in line and len(line) < 500
        for line in [*seen.summary(), *(f.found for f in findings(seen)[0])]
    )


@pytest.mark.parametrize(("steps", "found"), [(0, {"V18"}), (2, set())])
def test_only_the_same_model_must_have_the_same_score(steps, found):
    lines = [
        {"stage": stage, "rank": rank, "event": "evaluated", "name": "f", "loss": loss, "steps": steps}
        for stage, rank, loss in ((TINY, 0, 5.3), (SHARED, 0, 5.8), (SHARED, 1, 5.8))
    ]
    text = "\n".join(map(json.dumps, lines)).encode()
    assert codes(Run("a.py", 1, "unshare", 1.0, "", [*parsed(text)]), SUSPECTED) == found
