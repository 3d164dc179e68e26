"""The order of tokens in the batches of several processes."""

import tempfile
from pathlib import Path

import torch

from bitgolf.text.batches import PublicOrder
from bitgolf.text.shards import TokenStream, write_shard
from tests.golden_cases.case import Case, NotCoveredError


def check(case: Case) -> None:
    arguments = case.arguments
    if case.record[:2] == "20" and case.record[:10] > "2026-03-25":
        raise NotCoveredError(f"the order of tokens in {case.record}, which follows numpy's random numbers")
    world, length = arguments["world_size"], arguments["seq_len"]
    rows = arguments["global_tokens"] // (world * arguments["grad_accum_steps"]) // length
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"shard_{i}.bin" for i in range(len(arguments["shard_tokens"]))]
        for i, path in enumerate(paths):
            write_shard(path, case.tensors[f"shard.{i}"].numpy())
        stream = TokenStream(paths)
        assert stream.tokens == sum(arguments["shard_tokens"])
        for rank in range(world):
            position = 0
            for call in range(arguments["calls"]):
                batch, after = PublicOrder().next_batch(stream, position, rows, length, world, rank)
                assert torch.equal(batch.inputs.int(), case.tensors[f"out.rank{rank}.call{call}.x"])
                assert torch.equal(batch.targets.int(), case.tensors[f"out.rank{rank}.call{call}.y"])
                assert after - position == case.expected["tokens_consumed_per_call"]
                position = after
