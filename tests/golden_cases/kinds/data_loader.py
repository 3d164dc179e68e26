"""The order of tokens in the batches of several processes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from bitgolf.text.batches import Batch, PublicOrder
from bitgolf.text.shards import TokenStream, write_shard
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.loaders import (
    MixedShards,
    PackedDocuments,
    ShuffledSequences,
    document_bounds,
    path_seed,
)
from tests.golden_cases.records import BOS, date


def check(case: Case) -> None:
    arguments = case.arguments
    world, length = arguments["world_size"], arguments["seq_len"]
    rows = arguments["global_tokens"] // (world * arguments["grad_accum_steps"]) // length
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"shard_{i:06}.bin" for i in range(len(arguments["shard_tokens"]))]
        for i, path in enumerate(paths):
            write_shard(path, case.tensors[f"shard.{i}"].numpy())
        assert TokenStream(paths).tokens == sum(arguments["shard_tokens"])
        for rank in range(world):
            take = batches(case, paths, rows, length, rank, world)
            for call in range(arguments["calls"]):
                check_batch(case, take(), f"out.rank{rank}.call{call}")


def check_batch(case: Case, batch: Batch, name: str) -> None:
    """What one process got from one call, and where attention is cut where the case has that."""
    for key, tokens in (("x", batch.inputs), ("y", batch.targets)):
        expected = case.tensors[f"{name}.{key}"]
        assert torch.equal(tokens.int().view_as(expected), expected)
    longest = 0
    for key in ("cu_seqlens", "cu"):
        if f"{name}.{key}" in case.tensors:
            row = batch.inputs.flatten().numpy()
            bounds = document_bounds(row, BOS, case.arguments["seq_len"])
            assert case.tensors[f"{name}.{key}"].tolist() == bounds
            longest = max(end - start for start, end in zip(bounds, bounds[1:]))
    if f"{name}.max_seqlen" in case.tensors:
        assert int(case.tensors[f"{name}.max_seqlen"]) == longest


def batches(
    case: Case, paths: list[Path], rows: int, length: int, rank: int, world: int
) -> Callable[[], Batch]:
    """What gives the next batch of a process, as the loader of the case's record does."""
    of_record, consumed = date(case), case.expected.get("tokens_consumed_per_call")
    if "Packing" in case.facts["source"].get("code", ""):
        tokens = case.arguments["global_tokens"] // (world * case.arguments["grad_accum_steps"])
        packed = PackedDocuments(paths, rank, world, BOS)
        assert consumed in (None, world * (tokens + 1))
        return lambda: packed.take(tokens)
    if of_record[:2] == "20" and of_record > "2026-03-25":
        dealt: ShuffledSequences | MixedShards = ShuffledSequences(paths, length, rank, world)
        if of_record < "2026-04-05":
            dealt = MixedShards(paths, length, rank, world, stated_seed(case))
        assert consumed in (None, rows * length, world * rows * length)
        return lambda: dealt.take(rows)
    stream, place = TokenStream(paths), [0]

    def take() -> Batch:
        batch, after = PublicOrder().next_batch(stream, place[0], rows, length, world, rank)
        assert after - place[0] == consumed
        place[0] = after
        return batch

    return take


def stated_seed(case: Case) -> int:
    """The seed of a loader that hashes paths: the case has it, or where its shards were."""
    arguments = case.arguments
    for name in arguments:
        value = arguments.held[name]
        if "seed" in name and isinstance(value, int):
            return int(arguments[name])
        if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
            assert len(value) == len(arguments["shard_tokens"])
            return path_seed(sorted(arguments[name]))
    raise NotCoveredError("strides whose seed is the hash of where the script found its shards")
