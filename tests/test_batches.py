"""Orders: every token in its place, positions saved and restored, ranks and documents kept apart."""

import numpy as np
import pytest
import torch

from bitgolf.core.batches import Order, PublicOrder, ShuffledBlocks
from bitgolf.core.errors import DataError, PlanError
from bitgolf.core.plan import members
from bitgolf.core.shards import TokenStream, write_shard


def stream_of(folder, tokens, cuts=()):
    paths = []
    for i, part in enumerate(np.split(np.asarray(tokens), cuts)):
        paths.append(folder / f"train_{i:06}.bin")
        write_shard(paths[-1], part)
    return TokenStream(paths)


@pytest.fixture
def stream(tmp_path):
    return stream_of(tmp_path, np.arange(1000), (300, 310))


@pytest.mark.parametrize(
    "order", [member() for member in members(Order).values()], ids=lambda o: type(o).__name__
)
def test_targets_follow_inputs_and_a_saved_position_goes_on_the_same(stream, order):
    position = 0
    for _ in range(30):
        batch, position = order.take(stream, position, 3, 16)
        assert batch.inputs.shape == batch.targets.shape == (3, 16)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.document.dtype == batch.position.dtype == torch.int32
        assert torch.equal(batch.targets, (batch.inputs + 1) % 1000)
        again, after = order.take(stream, int(str(position)), 3, 16)
        next_batch, next_position = order.take(stream, position, 3, 16)
        assert after == next_position
        assert all(torch.equal(a, b) for a, b in zip(again, next_batch))


@pytest.mark.parametrize("order", [PublicOrder(), ShuffledBlocks(seed=3)])
def test_two_ranks_see_what_one_process_sees_in_two_calls(stream, order):
    for start in (0, 960):
        first, middle = order.take(stream, start, 2, 16)
        second, end = order.take(stream, middle, 2, 16)
        for rank, alone in enumerate((first, second)):
            shared, after = order.take(stream, start, 2, 16, world=2, rank=rank)
            assert torch.equal(shared.inputs, alone.inputs) and torch.equal(shared.targets, alone.targets)
            assert after == end


def test_public_order_is_the_stream_without_one_input_per_call(stream):
    batch, position = PublicOrder().take(stream, 0, 2, 8)
    following, _ = PublicOrder().take(stream, position, 2, 8)
    assert batch.inputs.flatten().tolist() == list(range(16))
    assert following.inputs.flatten().tolist() == list(range(17, 33))


def test_shuffled_blocks_come_once_per_pass_in_a_new_order(stream):
    order, length, per_pass = ShuffledBlocks(seed=5), 16, 1000 // 16 - 1
    passes = []
    for number in range(3):
        starts = [order.block_start(1000, length, number * per_pass + i) for i in range(per_pass)]
        phase = min(starts)
        assert sorted(starts) == [phase + i * length for i in range(per_pass)]
        assert max(starts) + length + 1 <= 1000
        passes.append(starts)
    assert sorted(passes[0]) != passes[0] and passes[0] != passes[1] != passes[2]
    assert len({min(starts) for starts in passes}) > 1
    assert passes[0] != [ShuffledBlocks(seed=6).block_start(1000, length, i) for i in range(per_pass)]
    rows, _ = order.take(stream, 0, per_pass, length)
    assert sorted(rows.inputs[:, 0].tolist()) == sorted(passes[0])


def test_the_order_of_a_seed_never_changes():
    starts = [ShuffledBlocks(seed=1337).block_start(1000, 16, i) for i in range(6)]
    assert starts == FIRST_BLOCKS_OF_1337


FIRST_BLOCKS_OF_1337 = [145, 257, 289, 337, 401, 913]


def test_documents_are_counted_at_bos(tmp_path):
    tokens = [5, 1, 6, 7, 1, 8, 1, 9, 9, 9, 1, 2]
    batch, _ = PublicOrder().take(stream_of(tmp_path, tokens), 0, 2, 5, bos=1)
    assert batch.document.tolist() == [[0, 1, 1, 1, 2], [0, 1, 1, 1, 1]]
    assert batch.position.tolist() == [[0, 0, 1, 2, 0], [0, 0, 1, 2, 3]]
    from_bos, _ = PublicOrder().take(stream_of(tmp_path, tokens[1:]), 0, 1, 5, bos=1)
    assert from_bos.document.tolist() == [[0, 0, 0, 1, 1]]
    assert from_bos.position.tolist() == [[0, 1, 2, 0, 1]]
    without, _ = PublicOrder().take(stream_of(tmp_path, tokens), 0, 1, 5)
    assert without.document.tolist() == [[0] * 5] and without.position.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("order", [PublicOrder(), ShuffledBlocks()])
def test_a_sequence_longer_than_the_text_is_refused(tmp_path, order):
    short = stream_of(tmp_path, np.arange(17))
    assert order.take(short, 0, 1, 16)[0].inputs.tolist() == [list(range(16))]
    with pytest.raises(
        DataError, match=r"a sequence of 17 tokens needs 18 tokens.*found '17 tokens'.*shorten"
    ):
        order.take(short, 0, 1, 17)


def test_a_negative_seed_is_refused():
    with pytest.raises(PlanError, match="seed"):
        ShuffledBlocks(seed=-1)
