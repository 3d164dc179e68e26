"""The order of tokens in the batches of several processes."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from bitgolf.text.batches import Batch, PublicOrder
from bitgolf.text.shards import TokenStream, write_shard
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.loaders import ShuffledSequences
from tests.golden_cases.records import date


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
                batch = take()
                assert torch.equal(batch.inputs.int(), case.tensors[f"out.rank{rank}.call{call}.x"])
                assert torch.equal(batch.targets.int(), case.tensors[f"out.rank{rank}.call{call}.y"])


def batches(
    case: Case, paths: list[Path], rows: int, length: int, rank: int, world: int
) -> Callable[[], Batch]:
    """What gives the next batch of a process, as the loader of the case's record does."""
    of_record, consumed = date(case), case.expected.get("tokens_consumed_per_call")
    if of_record[:2] == "20" and of_record >= "2026-04-05":
        loader = ShuffledSequences(paths, length, rank, world)
        if "Packing" in case.facts["source"].get("code", ""):
            raise NotCoveredError("rows of whole documents (DocumentPackingLoader)")
        assert consumed in (None, rows * length, world * rows * length)
        return lambda: loader.take(rows)
    if of_record[:2] == "20" and of_record > "2026-03-25":
        raise NotCoveredError("strides whose seed is the hash of where the script found its shards")
    stream, place = TokenStream(paths), [0]

    def take() -> Batch:
        batch, after = PublicOrder().next_batch(stream, place[0], rows, length, world, rank)
        assert after - place[0] == consumed
        place[0] = after
        return batch

    return take
