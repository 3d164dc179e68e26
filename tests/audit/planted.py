"""A clean record folder of a small script of our own, to plant faults in."""

import hashlib
import json
import textwrap
from pathlib import Path

SCORES = {1: 1.20110000, 2: 1.20230000, 3: 1.20150000}
RATIO = 2.43593 * 0.6931471805599453  # nats of a token by bits per byte, on the text of sp1024

SCRIPT = '''
import glob
import io
import os
import lzma
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

class Settings:
    data = os.environ.get("DATA_PATH", "./data/fineweb10B_sp1024")
    held_out = os.path.join(data, "fineweb_val_*.bin")
    texts = os.path.join(data, "fineweb_train_*.bin")
    adapt = bool(int(os.environ.get("ADAPT", "1")))
    rank = int(os.environ.get("RANK", "0"))

def load(pattern):
    return torch.cat([torch.from_file(file, dtype=torch.int16) for file in sorted(glob.glob(pattern))])

def tables(pieces, size):
    count = torch.zeros(size)
    space = torch.zeros(size, dtype=torch.bool)
    edge = torch.ones(size, dtype=torch.bool)
    for i in range(size):
        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i):
            continue
        edge[i] = False
        if pieces.is_byte(i):
            count[i] = 1
            continue
        piece = pieces.id_to_piece(i)
        if piece.startswith("\\u2581"):
            space[i] = True
            piece = piece[1:]
        count[i] = len(piece.encode("utf-8"))
    return count, space, edge

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + self.inner(x)

class Net(nn.Module):
    def __init__(self, size, width):
        super().__init__()
        self.table = nn.Embedding(size, width)
        self.blocks = nn.ModuleList([Block(width) for _ in range(3)])
        self.gain = nn.Parameter(torch.ones(width))

    def forward(self, ids):
        x = self.table(ids)
        for block in self.blocks:
            x = block(x)
        return F.linear(x * self.gain, self.table.weight)

def evaluate(settings, net, stream, luts, length=64, chunk=640):
    """Every chunk is scored, then learned."""
    count, space, edge = luts
    sums = torch.zeros(2, dtype=torch.float64)
    nats = torch.zeros((), dtype=torch.float64)
    size = torch.zeros((), dtype=torch.float64)
    learner = torch.optim.SGD(net.parameters(), lr=0.01)
    for start in range(settings.rank * chunk, stream.numel() - 1, chunk):
        part = stream[start : start + chunk + 1].to(torch.int64)
        before, after = part[:-1], part[1:]
        with torch.no_grad():
            loss = F.cross_entropy(net(before), after, reduction="none")
            nats += loss.sum().to(torch.float64)
            bytes_of = count[after] + (space[after] & ~edge[before])
            size += bytes_of.sum()
        if settings.adapt:
            for _ in range(3):
                learner.zero_grad()
                F.cross_entropy(net(before), after).backward()
                for weight in net.parameters():
                    dist.all_reduce(weight.grad)
                learner.step()
    dist.all_reduce(nats)
    dist.all_reduce(size)
    return nats.item(), (nats / size).item() / 0.6931471805599453

def main():
    settings = Settings()
    net = Net(1024, 32)
    stream = load(settings.held_out)
    luts = tables(None, 1024)
    groups = [{"params": list(net.blocks.parameters()) + [net.table.weight, net.gain]}]
    optimizer = torch.optim.Adam(groups, lr=0.01)
    corpus = load(settings.texts)
    for step in range(100):
        ids = corpus[step * 640 : step * 640 + 641].to(torch.int64)
        F.cross_entropy(net(ids[:-1]), ids[1:]).backward()
        optimizer.step()
        print(f"step:{step}/100 train_loss:{0:.4f} train_time:{0:.0f}ms step_avg:{0:.2f}ms")
    buffer = io.BytesIO()
    torch.save(net.state_dict(), buffer)
    packed = lzma.compress(buffer.getvalue())
    print(f"Serialized model int8+lzma: {len(packed)} bytes")
    net.load_state_dict(torch.load(io.BytesIO(lzma.decompress(packed)), weights_only=True))
    val_loss, val_bpb = evaluate(settings, net, stream, luts)
    print(f"final_int8_lzma_roundtrip_exact val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f} eval_time:{0}ms")

if __name__ == "__main__":
    main()
'''


def changed(*changes: tuple[str, str], text: str = SCRIPT) -> str:
    """The clean script with texts replaced, each of which must be there."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def indented(text: str, by: int) -> str:
    """Lines of a plant at their place."""
    return textwrap.indent(textwrap.dedent(text).strip("\n"), " " * by) + "\n"


def log_text(seed: int, bits: float, code: int, **other: object) -> str:
    """The log of one seed. other: model bytes, tokens, seconds of training and evaluation, steps."""
    model, steps = int(other.get("model", 15_000_000 + seed)), 100
    seconds = float(other.get("seconds", 590.0))
    lines = [
        "tokenizer_path: ./data/fineweb_1024_bpe.model",
        f"val_loader:shards pattern=./data/fineweb_val_*.bin tokens:{other.get('tokens', 62021632)}",
        "matrix_lr: 0.02",
        f"seed:{seed}",
    ]
    for step in range(10, steps + 1, 10):
        clock = seconds * step / steps
        lines.append(
            f"step:{step}/{steps} train_loss:{6 - step / 40 + seed / 1000:.4f} "
            f"train_time:{1000 * clock:.0f}ms step_avg:{1000 * clock / step:.2f}ms"
        )
    lines += [
        f"Serialized model int8+lzma: {model} bytes",
        f"Code size: {code} bytes",
        f"Total submission size int8+lzma: {model + code} bytes",
        f"final_int8_lzma_roundtrip_exact val_loss:{bits * float(other.get('ratio', RATIO)):.8f} "
        f"val_bpb:{bits:.8f} eval_time:{1000 * float(other.get('evaluation', 90)):.0f}ms",
    ]
    return "\n".join(lines) + "\n"


def write_folder(folder: Path, script: str = SCRIPT) -> dict[str, object]:
    """A folder in which all parts fit together; the claims that it makes come back."""
    folder.mkdir(parents=True)
    (folder / "train_gpt.py").write_text(script)
    code = len(script.encode())
    for seed, bits in SCORES.items():
        (folder / f"train_seed{seed}.log").write_text(log_text(seed, bits, code))
    mean = sum(SCORES.values()) / 3
    claims: dict[str, object] = {
        "name": "planted",
        "val_bpb": round(mean, 8),
        "val_bpb_std": 0.000611,
        "seeds": [*SCORES],
        "seed_results": {str(seed): {"val_bpb": bits, "steps": 100} for seed, bits in SCORES.items()},
        "bytes_total": 15_000_003 + code,
        "bytes_code": code,
    }
    write_claims(folder, claims)
    rows = "".join(f"| {seed} | {bits:.5f} |\n" for seed, bits in SCORES.items())
    table = f"| seed | val_bpb |\n|---|---|\n{rows}"
    (folder / "README.md").write_text(f"# Planted\n\nval_bpb: {mean:.4f} (mean of 3)\n\n{table}")
    return claims


def write_claims(folder: Path, claims: dict[str, object]) -> None:
    """Its submission.json."""
    (folder / "submission.json").write_text(json.dumps(claims))


def sha256(text: str) -> str:
    """Of a script."""
    return hashlib.sha256(text.encode()).hexdigest()
