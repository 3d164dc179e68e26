# ruff: noqa: E501  (plants are texts of scripts)
"""Plants and clean neighbours of the rows T: training."""

import torch

from tests.audit.planted import (
    RATIO,
    log_text,
)
from tests.audit.rows.made import CLOCK, CODE, MAIN, PACK, START, artifact, log, said, script, state

STEP = "        optimizer.step()\n"


LOADED = "    net.load_state_dict(torch.load(io.BytesIO(lzma.decompress(packed)), weights_only=True))\n"


TERNARY = """def bytes_of(state):
    return {{name: (w / w.abs().mean()).round().clamp({}, 1).to(torch.int8) for name, w in state.detach().items()}}

def table_of(w):
    return (w / w.abs().amax()).round().clamp(-7, 7).to(torch.int8)

def imitated(w):
    return w + ((w / w.abs().mean()).round().clamp(-1, 1) - w).detach()

def main():
"""


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


TIMED = (
    "    for step in range(100):\n",
    "    begun = time.perf_counter()\n    for step in range(100):\n"
    "        past = time.perf_counter() - begun\n        if past > 600:\n            break\n"
    '        for group in optimizer.param_groups:\n            group["lr"] = 0.01 * ({})\n',
)


AVERAGE = (
    "        optimizer.step()\n        print",
    "        optimizer.step()\n        for held, own in zip(mean, net.parameters()):\n            {}\n        print",
)


INTO = (PACK, "    for own, held in zip(net.parameters(), mean):\n        own.data.copy_(held)\n" + PACK)


MEAN = (
    "    for step in range(100):\n",
    "    mean = [each.detach().clone() for each in net.parameters()]\n    for step in range(100):\n",
)


def scored(step_bits: float, line: str = "") -> str:
    """The clean log with a score of the last step before packing, and a line after it."""
    nats = step_bits * RATIO
    return said(f"step:100/100 val_loss:{nats:.4f} val_bpb:{step_bits:.4f}\n{line}", "Serialized model")


CUT = log_text(1, 1.2, CODE).partition("Serialized")[0]


torch.manual_seed(0)


ZERO, LONE = torch.randn(64, 64), torch.randn(64, 128)


ZERO[:10] = 0


LONE[:20] = 0


LONE[:20, 5] = 9.0

NAMED_TYPE = (
    "    kept = {name: w.to(KIND) for name, w in net.state_dict().items()}\n"
    "    for name, w in net.state_dict().items():\n"
    "        kept[name].mul_(0.9).add_(w.detach().to(KIND), alpha=0.1)\n"
)

ROWS = [
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
        "T01",
        "16 bits by a name",
        [(MAIN, "KIND = torch.bfloat16\n\n\n" + MAIN), (PACK, NAMED_TYPE + PACK)],
        [(MAIN, "KIND = torch.float32\n\n\n" + MAIN), (PACK, NAMED_TYPE + PACK)],
    ),
    script(
        "T11",
        "a helper that takes the weight",
        [
            (
                MAIN,
                "def through(layer, x):\n    return F.linear(x, layer.weight)\n\n\n"
                + HOOKED.format("through(self.out, x)"),
            )
        ],
        [(MAIN, "def through(layer, x):\n    return layer(x)\n\n\n" + HOOKED.format("through(self.out, x)"))],
    ),
    script(
        "T02",
        "holds its start",
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 0.003)"))],
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 0.1)")), INTO],
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
                "        wide = 64 + 64 * (step // 10)\n        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64).view(-1, wide)\n",
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
        "T07",
        "two grids, one of them exported from what is detached",
        [(MAIN, TERNARY.format(-2))],
        [(MAIN, TERNARY.format(-1))],
    ),
    script(
        "T08",
        "a high floor",
        [(MAIN, QUANTIZE.format("1 / 31", -31, -31))],
        [(MAIN, QUANTIZE.format("1e-12", -31, -31))],
    ),
    script(
        "T08",
        "a high floor of deviations",
        [(MAIN, QUANTIZE.replace(".abs().amax(", ".std(").format("1 / 31", -31, -31))],
        [(MAIN, QUANTIZE.replace(".abs().amax(", ".std(").format("1e-12", -31, -31))],
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
        [
            (
                "    corpus = load",
                "    rank = dist.get_rank()\n    if rank == 0:\n        dist.barrier()\n    corpus = load",
            )
        ],
        [
            (
                "    corpus = load",
                "    rank = dist.get_rank()\n    if rank == 0:\n        print('ready')\n    dist.barrier()\n    corpus = load",
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
    script(
        "T02",
        "by what it adds",
        [MEAN, (AVERAGE[0], AVERAGE[1].format("held.lerp_(own.detach(), 1 - 0.997)"))],
        [],
    ),
    script(
        "T03",
        "by hand",
        [
            (
                STEP,
                STEP
                + "        rate = 1.0 if step < 0.8 * 100 else (100 - step) / 20\n        if step > 0.4 * 100:\n            kept[step] += net.gain\n        optimizer.param_groups[0]['lr'] = rate\n",
            )
        ],
        [
            (
                STEP,
                STEP
                + "        rate = 1.0 if step < 0.8 * 100 else (100 - step) / 20\n        if step > 0.4 * 100:\n            kept[step] += 1\n        optimizer.param_groups[0]['lr'] = rate\n",
            )
        ],
    ),
    script(
        "T13",
        "packed, and never scored",
        [
            (START + "settings, net, stream, luts)\n", ""),
            (PACK, START + "settings, net, stream, luts)\n" + PACK),
        ],
        [],
    ),
    script(
        "T17",
        "adapted for nothing",
        [
            (
                '    print(f"final_int8',
                '    piece = stream[0:641].to(torch.int64)\n    F.cross_entropy(net(piece[:-1]), piece[1:]).backward()\n    optimizer.step()\n    print(f"final_int8',
            )
        ],
        [],
    ),
    script(
        "T21",
        "a run that may fail",
        [(MAIN, MAIN + "    subprocess.run(['torchrun', 'train.py'])\n")],
        [(MAIN, MAIN + "    subprocess.run(['torchrun', 'train.py'], check=True)\n")],
    ),
    log("T21", "failed", CUT + "train.py: error: unrecognized arguments: --muon_lr\n"),
    artifact("T08", "rows of zeros", state(**{"blocks.0.weight": ZERO}), state()),
    artifact("T09", "outliers", state(**{"blocks.0.weight": LONE}), state()),
    artifact(
        "T10",
        "a coarse table",
        state(**{"tok_emb.weight": torch.randint(-7, 8, (512, 64)).float()}),
        state(),
    ),
]
