"""Public byte accounting and the public token order."""

import tempfile
from pathlib import Path

import numpy as np
import torch

from bitgolf.core.batches import PublicOrder
from bitgolf.core.shards import TokenStream, write_shard
from bitgolf.core.tokenizer import Tokenizer
from tests.golden_cases.case import Case, NotCoveredError


def byte_accounting(case: Case) -> None:
    stored = case.facts["tokenizer_file"]
    path = case.path.parent / stored["name"]
    if not path.exists():
        path = case.path.parent.parent / "data" / "tokenizers" / stored["name"]
    if not path.exists():
        raise NotCoveredError(f"{stored['name']} is not beside the case")
    tokenizer = Tokenizer.load(path)
    size = case.expected["table_size"]
    assert tokenizer.vocabulary_size == case.expected["vocab_size"]
    assert tokenizer.lossless is False
    assert (tokenizer.base_bytes[:size] == case.tensors["out.base_bytes"].numpy()).all()
    assert (tokenizer.leading_space[:size] == case.tensors["out.has_leading_space"].numpy()).all()
    assert (tokenizer.boundary[:size] == case.tensors["out.is_boundary"].numpy()).all()
    assert tokenizer.boundary[size:].all() and not tokenizer.base_bytes[size:].any()
    ids = case.tensors["token_ids"].numpy()
    counted = tokenizer.token_bytes(ids[1:], ids[:-1])
    assert (counted == case.tensors["out.token_bytes"].numpy()).all()
    assert counted.sum() == case.expected["total_bytes"]
    again = Tokenizer.from_bytes(tokenizer.to_bytes())
    assert (again.token_bytes(ids[1:], ids[:-1]) == counted).all()


def data_loader(case: Case) -> None:
    settings = case.arguments
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"shard_{i}.bin" for i in range(len(settings["shard_tokens"]))]
        for i, path in enumerate(paths):
            write_shard(path, case.tensors[f"shard.{i}"].numpy())
        stream = TokenStream(paths)
        world, length = settings["world_size"], settings["seq_len"]
        rows = settings["global_tokens"] // (world * settings["grad_accum_steps"] * length)
        for rank in range(world):
            position = 0
            for call in range(settings["calls"]):
                batch, after = PublicOrder().take(stream, position, rows, length, world, rank)
                assert torch.equal(batch.inputs.int(), case.tensors[f"out.rank{rank}.call{call}.x"])
                assert torch.equal(batch.targets.int(), case.tensors[f"out.rank{rank}.call{call}.y"])
                assert after - position == case.expected["tokens_consumed_per_call"]
                position = after
        assert stream.tokens == np.sum(settings["shard_tokens"])


HANDLERS = {"byte_accounting": byte_accounting, "data_loader": data_loader}
