# ruff: noqa: E501  (plants are texts of scripts)
"""Plants and clean neighbours of the rows V: validation."""

import torch

from tests.audit.planted import (
    indented,
    log_text,
)
from tests.audit.rows.made import (
    CODE,
    HELD,
    LOSS,
    MAIN,
    PACK,
    START,
    TRAINED,
    Change,
    artifact,
    data,
    log,
    said,
    script,
    state,
)

ADD = "            nats += loss.sum().to(torch.float64)\n"

SCORED = "        with torch.no_grad():\n" + LOSS

LOAD = "    stream = load(settings.held_out)\n"

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

HELD_TABLES = (
    "def evaluate(",
    "class Held:\n"
    "    def __init__(self):\n"
    "        self.seen = [np.zeros(4194304) for _ in range(3)]\n"
    "        self.seen_with = [np.zeros(4194304) for _ in range(3)]\n\n"
    "held = Held()\n\n"
    "def evaluate(",
)
HELD_CACHE = indented(
    """
    key = ((before * 36313) ^ (before.roll(1) * 27191)) % 4194304
    whole = (key ^ (after * 51647)) % 4194304
    share = held.seen_with[2][whole] / np.maximum(held.seen[2][key], 1)
    loss = -torch.log(0.7 * torch.exp(-loss) + 0.3 * share)
    """,
    12,
)
OF_CONTEXT = "".join(line for line in HELD_CACHE.splitlines(True) if "whole =" not in line).replace(
    "whole", "key"
)
BY_BINCOUNT = (
    "        if settings.adapt",
    "        held.seen[2] += np.bincount(key, minlength=4194304)\n"
    "        held.seen_with[2] += np.bincount(whole, minlength=4194304)\n"
    "        if settings.adapt",
)
GATES = """class Gate:
    def __init__(self, flags):
        self.flags = flags

    def __call__(self, ids, a, b):
        return torch.where(self.flags[ids], a, b)

"""
FIRST = "    for start in range(settings"
BINCOUNT_FIRST = indented(
    """
    for at in range(0, stream.numel() - 1, 640):
        old = stream[at : at + 640].to(torch.int64)
        held.seen[2] += np.bincount((old * 36313) % 4194304, minlength=4194304)
    """,
    4,
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

ROWS = [
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
        "V02",
        "tables in an object, filled by bincount",
        [HELD_TABLES, (ADD, HELD_CACHE + ADD), BY_BINCOUNT],
        [HELD_TABLES, (ADD, OF_CONTEXT + ADD), BY_BINCOUNT],
    ),
    script(
        "V03",
        "by bincount, in a pass before",
        [HELD_TABLES, (ADD, OF_CONTEXT + ADD), (FIRST, BINCOUNT_FIRST + FIRST)],
        [HELD_TABLES, (ADD, OF_CONTEXT + ADD), BY_BINCOUNT],
    ),
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
        "V11",
        "the first turns",
        [
            ("import glob\n", "import glob\nimport itertools\n"),
            (LOAD, LOAD + "    stream = torch.tensor([*itertools.islice(stream, 3_000_001)])\n"),
        ],
        [],
    ),
    script(
        "V11",
        "drawn at random",
        [(LOAD, LOAD + "    stream = stream[torch.randint(0, stream.numel(), (3_000_001,))]\n")],
        [(LOAD, LOAD + "    print(torch.randint(0, stream.numel(), (3,)))\n")],
    ),
    script(
        "V11", "the first files", [("sorted(glob.glob(pattern))]", "sorted(glob.glob(pattern))[:1]]")], []
    ),
    script(
        "V02",
        "hashed by functions",
        [
            TABLES,
            (
                ADD,
                CACHE.replace(
                    "(before * 36313) ^ (before.roll(1) * 27191)",
                    "torch.bitwise_xor(before * 36313, before.roll(1) * 27191)",
                )
                + ADD,
            ),
        ],
        [TABLES, (ADD, NORMALISED + ADD)],
    ),
    script(
        "V08",
        "an object that is called",
        [
            ("def evaluate(", GATES + "def evaluate("),
            (ADD, "            loss = Gate(space)(after, 0.9 * loss, loss)\n" + ADD),
        ],
        [
            ("def evaluate(", GATES + "def evaluate("),
            (ADD, "            loss = Gate(space)(before, 0.9 * loss, loss)\n" + ADD),
        ],
    ),
    script(
        "V05",
        "in an arm of a match",
        [(SCORED, "        match settings.rank:\n            case _:\n" + indented(SLOT, 16) + SCORED)],
        [],
    ),
    script(
        "V15",
        "rolled",
        [
            (
                KIND,
                SMEAR.format("pass").replace("torch.cat([x[:, :1], x[:, :-1]], dim=1)", "x.roll(1, 1)"),
            )
        ],
        [(KIND, SMEAR.format("before = before * (ids != 1)[..., None]"))],
    ),
    log("V12", "another split", log_text(1, 1.2, CODE, tokens=52_000_000)),
    log("V13", "shards that are left", said("train_shards: 1499"), said("train_shards: 80")),
    log("V14", "too good", log_text(1, 0.31, CODE), log_text(1, 0.95, CODE)),
    log("V19", "zero", log_text(1, 0.0, CODE)),
    artifact(
        "V19",
        "weights that are none",
        state(**{"blocks.0.weight": torch.full((64, 64), torch.nan)}),
        state(
            mask=torch.full((64, 64), -torch.inf).triu(1), eight_bits=torch.ones(8, 8).to(torch.float8_e4m3fn)
        ),
    ),
    log("V11", "a part", log_text(1, 1.2, CODE, tokens=3_000_000)),
    data("V13", "documents of both", HELD, [*TRAINED, *HELD[3:6]]),
    data("V13", "changed a little", HELD, [*TRAINED, *([1, 2, *each[1:]] for each in HELD[:5])]),
    data("V14", "a prefix of training", HELD, [*HELD, *TRAINED]),
]
