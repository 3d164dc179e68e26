# ruff: noqa: PTH118, PTH207
"""A small script of the public kind: what a participant has. `bitgolf run baseline --like` only reads it."""

import glob
import io
import math
import os
import time
import zlib

import sentencepiece as spm
import torch
import torch.nn.functional as F
from torch import nn


class Hyperparameters:
    data_path = os.environ.get("DATA_PATH", "./data")
    tokenizer_path = os.environ.get("TOKENIZER_PATH", "./data/sp512.model")
    seed = int(os.environ.get("SEED", 1337))
    iterations = int(os.environ.get("ITERATIONS", 60))
    warmdown_iters = int(os.environ.get("WARMDOWN_ITERS", 20))
    warmup_steps = int(os.environ.get("WARMUP_STEPS", 0))
    max_wallclock_seconds = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 0))
    train_batch_tokens = int(os.environ.get("TRAIN_BATCH_TOKENS", 1024))
    train_seq_len = int(os.environ.get("TRAIN_SEQ_LEN", 64))
    vocab_size = int(os.environ.get("VOCAB_SIZE", 512))
    num_layers = int(os.environ.get("NUM_LAYERS", 2))
    model_dim = int(os.environ.get("MODEL_DIM", 64))
    num_heads = int(os.environ.get("NUM_HEADS", 2))
    num_kv_heads = int(os.environ.get("NUM_KV_HEADS", 1))
    mlp_mult = int(os.environ.get("MLP_MULT", 2))
    matrix_lr = float(os.environ.get("MATRIX_LR", 0.04))
    my_gate = float(os.environ.get("MY_GATE", 0.5))


def shards(pattern):
    return torch.cat([torch.from_file(name, dtype=torch.int16) for name in sorted(glob.glob(pattern))])


def byte_counts(pieces, size):
    """Bytes of each token, whether it begins with a space, and whether a space before it has no text."""
    count, space, edge = (
        torch.zeros(size),
        torch.zeros(size, dtype=torch.bool),
        torch.ones(size, dtype=torch.bool),
    )
    for i in range(size):
        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i):
            continue
        edge[i] = False
        if pieces.is_byte(i):
            count[i] = 1
            continue
        piece = pieces.id_to_piece(i)
        if piece.startswith("\u2581"):
            space[i] = True
            piece = piece[1:]
        count[i] = len(piece.encode("utf-8"))
    return count, space, edge


class Block(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.heads, self.groups = args.num_heads, args.num_kv_heads
        self.size = args.model_dim // args.num_heads
        self.q = nn.Linear(args.model_dim, args.model_dim, bias=False)
        self.kv = nn.Linear(args.model_dim, 2 * self.groups * self.size, bias=False)
        self.out = nn.Linear(args.model_dim, args.model_dim, bias=False)
        self.up = nn.Linear(args.model_dim, args.mlp_mult * args.model_dim, bias=False)
        self.down = nn.Linear(args.mlp_mult * args.model_dim, args.model_dim, bias=False)
        self.gate = args.my_gate

    def forward(self, x):
        b, t, width = x.shape
        normed = F.rms_norm(x, (width,))
        q = self.q(normed).view(b, t, self.heads, self.size).transpose(1, 2)
        k, v = self.kv(normed).view(b, t, 2 * self.groups, self.size).transpose(1, 2).chunk(2, dim=1)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        x = x + self.gate * self.out(y.transpose(1, 2).reshape(b, t, width))
        return x + self.down(F.relu(self.up(F.rms_norm(x, (width,)))).square())


class GPT(nn.Module):
    def __init__(self, args):
        super().__init__()
        self.embedding = nn.Embedding(args.vocab_size, args.model_dim)
        self.blocks = nn.ModuleList([Block(args) for _ in range(args.num_layers)])

    def forward(self, ids):
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return F.linear(F.rms_norm(x, (x.size(-1),)), self.embedding.weight)


def evaluate(args, model, tokens, tables):
    count, space, edge = tables
    nats = torch.zeros((), dtype=torch.float64)
    size = torch.zeros((), dtype=torch.float64)
    scored = 0
    with torch.no_grad():
        for start in range(0, tokens.numel() - 1, args.train_seq_len):
            part = tokens[start : start + args.train_seq_len + 1].to(torch.int64)
            before, after = part[:-1], part[1:]
            nats += F.cross_entropy(model(before[None])[0], after, reduction="sum").to(torch.float64)
            size += (count[after] + (space[after] & ~edge[before])).sum()
            scored += after.numel()
    return nats.item() / scored, (nats / size).item() / math.log(2)


def main():
    args = Hyperparameters()
    torch.manual_seed(args.seed)
    model = GPT(args)
    optimizer = torch.optim.Adam(model.parameters(), lr=args.matrix_lr / 10)
    pieces = spm.SentencePieceProcessor(model_file=args.tokenizer_path)
    train = shards(os.path.join(args.data_path, "*_train_*.bin"))
    held_out = shards(os.path.join(args.data_path, "*_val_*.bin"))
    began = time.perf_counter()
    for step in range(args.iterations):
        starts = torch.randint(
            train.numel() - args.train_seq_len, (args.train_batch_tokens // args.train_seq_len,)
        )
        rows = torch.stack([train[s : s + args.train_seq_len + 1] for s in starts]).to(torch.int64)
        logits = model(rows[:, :-1])
        loss = F.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        for group in optimizer.param_groups:
            group["lr"] = (
                args.matrix_lr / 10 * min(1.0, (args.iterations - step) / max(args.warmdown_iters, 1))
            )
        optimizer.step()
        milliseconds = 1000 * (time.perf_counter() - began)
        print(
            f"step:{step + 1}/{args.iterations} train_loss:{loss.item():.4f} train_time:{milliseconds:.0f}ms"
        )
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    packed = zlib.compress(buffer.getvalue())
    print(f"Serialized model zlib: {len(packed)} bytes")
    model.load_state_dict(torch.load(io.BytesIO(zlib.decompress(packed)), weights_only=True))
    val_loss, val_bpb = evaluate(args, model, held_out, byte_counts(pieces, args.vocab_size))
    print(f"final_zlib_roundtrip_exact val_loss:{val_loss:.8f} val_bpb:{val_bpb:.8f}")


if __name__ == "__main__":
    main()
