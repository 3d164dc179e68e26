"""Public scripts and ours, given the same text, batches and seconds one after another on the same machine.

python -m bench.peers --data DATASET [--public train_gpt.py] [--nanogpt model.py] [--seconds N] [--threads N]
Each script is a file of yours, which this runs: fetch it yourself, and read it first. Its model and
optimizers are taken as they are, eager, under autocast to the number type that is best here, with rates as
its own training sets them; batches, clock and shape are those of our recipe. modded-nanogpt is not among
them: its attention and its kernels need CUDA. Scored are chunks of the validation text with the last weights.
"""

import argparse
import json
import math
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.machine import Watch, show
from bitgolf.base.errors import BitgolfError
from bitgolf.inputs.resolve import find_recipe
from bitgolf.net.backend import choose_backend
from bitgolf.net.model import build_model
from bitgolf.recipe import Recipe
from bitgolf.text.shards import Dataset
from bitgolf.train.loop import ShardBatches
from bitgolf.train.optim import make_optimizers
from bitgolf.train.schedule import Cosine, Progress, Schedule, WarmdownClock, WarmupThen
from bitgolf.train.world import World

BASE_RATE = "peer_rate"  # of a group of an optimizer, before its schedule


class Peer(NamedTuple):
    """A model that gives the mean nats of a batch, and what makes a step of its gradients."""

    nats: Callable[[Tensor, Tensor], Tensor]
    step: Callable[[Progress], None]


def ours(recipe: Recipe, path: Path | None) -> Peer:
    """The recipe's own model and optimizers."""
    model = build_model(recipe.network()).use(choose_backend(recipe.backend))
    optimizers = make_optimizers(recipe.optim, model, World(), model.backend.dtype)

    def step(at: Progress) -> None:
        optimizers.step(recipe.optim.schedule.lr_scale(at), at)
        optimizers.zero()

    return Peer(model, step)


def public(recipe: Recipe, path: Path | None) -> Peer:
    """A script of the public challenge: its GPT, its Muon and its rates, by the names of its baseline."""
    names = functions_of(path)
    given, plan = names["Hyperparameters"], recipe.model
    model = names["GPT"](
        vocab_size=plan.vocabulary_size,
        num_layers=plan.layers,
        model_dim=plan.width,
        num_heads=plan.heads,
        num_kv_heads=plan.kv_heads,
        mlp_mult=plan.hidden_width() // plan.width,
        tie_embeddings=True,
        tied_embed_init_std=given.tied_embed_init_std,
        logit_softcap=given.logit_softcap,
        rope_base=given.rope_base,
        qk_gain_init=given.qk_gain_init,
    )
    controls = names["CONTROL_TENSOR_NAME_PATTERNS"]
    named = dict(model.named_parameters())
    matrices = [
        parameter
        for name, parameter in named.items()
        if name.startswith("blocks.") and parameter.ndim == 2 and not any(part in name for part in controls)
    ]
    taken = {id(each) for each in (*matrices, model.tok_emb.weight)}
    others = [parameter for parameter in named.values() if id(parameter) not in taken]
    muon = names["Muon"](
        matrices, lr=given.matrix_lr, momentum=given.muon_momentum, backend_steps=given.muon_backend_steps
    )
    groups = [
        {"params": [model.tok_emb.weight], "lr": given.tied_embed_lr},
        {"params": others, "lr": given.scalar_lr},
    ]
    adam = torch.optim.Adam(groups, betas=(given.beta1, given.beta2), eps=given.adam_eps, fused=True)
    schedule = WarmdownClock(warmdown_steps=given.warmdown_iters)

    def momentum(at: Progress) -> None:
        share = min(at.step / max(given.muon_momentum_warmup_steps, 1), 1.0)
        start = given.muon_momentum_warmup_start
        for group in muon.param_groups:
            group["momentum"] = (1 - share) * start + share * given.muon_momentum

    return Peer(under_autocast(model, recipe), stepping(model, [muon, adam], schedule, momentum))


def nanogpt(recipe: Recipe, path: Path | None) -> Peer:
    """nanoGPT's model with its own AdamW, and the rates that it gives small models."""
    names, plan = functions_of(path), recipe.model
    config = names["GPTConfig"](
        block_size=recipe.data.sequence_length,
        vocab_size=plan.vocabulary_size,
        n_layer=plan.layers,
        n_head=plan.heads,
        n_embd=plan.width,
        dropout=0.0,
        bias=False,
    )
    model = names["GPT"](config)
    adam = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), "cpu")
    schedule = WarmupThen(fraction=0.02, then=Cosine(minimum=0.1))
    nats = under_autocast(model, recipe)
    return Peer(lambda *pair: nats(*pair)[1], stepping(model, [adam], schedule))


PEERS: dict[str, Callable[[Recipe, Path | None], Peer]] = {
    "ours": ours,
    "public": public,
    "nanogpt": nanogpt,
}


def functions_of(path: Path | None) -> dict[str, Any]:
    """What a script defines. It runs, but not as a program."""
    try:
        return runpy.run_path(str(path), run_name="peer")
    except (OSError, ImportError, SyntaxError) as error:
        raise BitgolfError(
            f"not a script that runs here: {error}", where=str(path), way_out="fetch it, and what it imports"
        ) from None


def under_autocast(model: nn.Module, recipe: Recipe) -> Callable[[Tensor, Tensor], Any]:
    """The model in bfloat16 where this machine is faster in it, as our own chooses it."""
    backend = choose_backend(recipe.backend)
    mixed = backend.dtype is torch.bfloat16

    def run(inputs: Tensor, targets: Tensor) -> Any:
        with torch.autocast(backend.device.type, torch.bfloat16, enabled=mixed):
            return model(inputs, targets)

    return run


def stepping(
    model: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    schedule: Schedule,
    before: Callable[[Progress], None] = lambda at: None,
) -> Callable[[Progress], None]:
    """A step of torch's optimizers at rates scaled by a schedule."""
    for group in (group for each in optimizers for group in each.param_groups):
        group[BASE_RATE] = group["lr"]

    def step(at: Progress) -> None:
        before(at)
        for each in optimizers:
            for group in each.param_groups:
                group["lr"] = group[BASE_RATE] * schedule.lr_scale(at)
            each.step()
        model.zero_grad(set_to_none=True)

    return step


def trained(peer: Peer, recipe: Recipe, batches: ShardBatches, seconds: float) -> dict[str, float]:
    """Train by the wall clock, or by the process's own where it has one thread."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    rows, position, step, started = recipe.train.rows(batches.length, 1), 0, 0, clock()
    while (spent := clock() - started) < seconds:
        inputs, targets, position = batches.next_batch(position, rows, World(), batches.length)
        peer.nats(inputs, targets).backward()
        peer.step(Progress(step, recipe.train.steps, spent, seconds))
        step += 1
    return {"steps": step, "tokens_per_second": step * recipe.train.batch_tokens / spent, "seconds": spent}


@torch.no_grad()
def bits_per_byte(peer: Peer, dataset: Dataset, length: int, most: int) -> float:
    """Of the first so many tokens of the validation text, in chunks of a sequence."""
    ids = dataset.val.read(0, min(most, dataset.val.tokens - 1) + 1).astype(np.int64)
    count = (len(ids) - 1) // length
    inputs = torch.from_numpy(ids[: count * length]).view(count, length)
    targets = torch.from_numpy(ids[1 : count * length + 1]).view(count, length)
    nats = sum(
        float(peer.nats(x, y)) * x.numel() for x, y in zip(inputs.split(32), targets.split(32), strict=True)
    )
    previous, following = inputs.flatten().numpy(), targets.flatten().numpy()
    return nats / math.log(2) / int(dataset.tokenizer.token_bytes(following, previous).sum())


def bench_peers(
    dataset: Dataset, recipe: Recipe, scripts: dict[str, Path | None], seconds: float, most: int
) -> Iterator[dict[str, Any]]:
    """Each peer from its own start, one after another."""
    for name, path in scripts.items():
        torch.manual_seed(1337)
        peer, watch = PEERS[name](recipe, path), Watch()
        batches = ShardBatches(
            stream=dataset.train,
            order=recipe.data.order,
            length=recipe.data.sequence_length,
            vocabulary_size=recipe.model.vocabulary_size,
            bos=dataset.tokenizer.bos,
        )
        found: dict[str, Any] = {"bench": f"peer {name}", **trained(peer, recipe, batches, seconds)}
        found["bits_per_byte"] = bits_per_byte(peer, dataset, batches.length, most)
        yield watch.facts() | found


def main() -> None:
    """Train and score whoever is given, ours first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a dataset with a vocabulary of 4,096")
    parser.add_argument("--public", type=Path, help="train_gpt.py of the public challenge")
    parser.add_argument("--nanogpt", type=Path, help="model.py of nanoGPT")
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--tokens", type=int, default=150_000, help="scored, at most")
    parser.add_argument("--recipe", default="demo", help="whose model, batches and optimizers ours has")
    parser.add_argument("--threads", type=int, default=0, help="1 counts processor time, not wall time")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    given = {"ours": None, "public": options.public, "nanogpt": options.nanogpt}
    scripts = {name: path for name, path in given.items() if path or name == "ours"}
    dataset = Dataset.open(options.data)
    changes = [
        f"model.vocabulary_size={dataset.tokenizer.vocabulary_size}",
        f"backend.threads={options.threads}",
    ]
    recipe = find_recipe(options.recipe, changes)
    results = bench_peers(dataset, recipe, scripts, options.seconds, options.tokens)
    if options.json:
        json.dump(list(results), sys.stdout, indent=2)
        print()
    else:
        for result in results:
            show(result)


if __name__ == "__main__":
    main()
