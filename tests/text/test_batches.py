"""Orders: every token in its place, positions saved and restored, ranks and documents kept apart."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import DataError, PlanError
from bitgolf.base.plan import members
from bitgolf.text import batches
from bitgolf.text.batches import (
    BlockOrder,
    BlockPass,
    CoprimeStride,
    Curriculum,
    Order,
    PublicOrder,
    ShardsByLength,
    ShuffledBlocks,
    block_difficulty,
    document_nats,
)
from bitgolf.text.shards import TokenStream, write_shard


def stream_of(folder, tokens, cuts=()):
    paths = []
    for i, part in enumerate(np.split(np.asarray(tokens), cuts)):
        paths.append(folder / f"train_{i:06}.bin")
        write_shard(paths[-1], part)
    return TokenStream(paths)


BOS = 0  # the first token of `stream`, and nothing else in it
EVERY_ORDER = pytest.mark.parametrize(
    "order", [member() for member in members(Order).values()], ids=lambda o: type(o).__name__
)
EVERY_BLOCK_ORDER = pytest.mark.parametrize(
    "order", [member(seed=5) for member in members(BlockOrder).values()], ids=lambda o: type(o).__name__
)


@pytest.fixture
def stream(tmp_path):
    return stream_of(tmp_path, np.arange(1000), (10, 300))


def documents_of(rng, count):
    """Documents that start with 1, each from as many different tokens as chance gives it."""
    return [[1, *rng.integers(2, 3 + rng.integers(1, 200), rng.integers(1, 90))] for _ in range(count)]


@pytest.fixture
def written(tmp_path):
    """200 documents over two shards, in no order."""
    tokens = np.concatenate(documents_of(np.random.default_rng(4), 200))
    return stream_of(tmp_path, tokens, (len(tokens) // 3,))


def starts_of(order, stream, length, number, bos=1):
    """Where the blocks of one pass start, in the order of their visit."""
    per_pass = max(stream.tokens // length - 1, 1)
    return [order.block_start(stream, length, number * per_pass + i, bos) for i in range(per_pass)]


def assert_once_per_pass(stream, length, starts):
    """Neighbours without a gap or an overlap: each block once, in whatever order, all inside the stream."""
    assert sorted(starts) == [min(starts) + i * length for i in range(len(starts))]
    assert min(starts) >= 0 and max(starts) + length + 1 <= stream.tokens


@EVERY_ORDER
def test_targets_follow_inputs_and_a_saved_position_goes_on_the_same(stream, order):
    position = 0
    for _ in range(30):
        batch, position = order.next_batch(stream, position, 3, 16, bos=BOS)
        assert batch.inputs.shape == batch.targets.shape == (3, 16)
        assert batch.inputs.dtype == batch.targets.dtype == torch.int64
        assert batch.document.dtype == batch.position.dtype == torch.int32
        assert torch.equal(batch.targets, (batch.inputs + 1) % 1000)
        again, after = order.next_batch(stream, int(str(position)), 3, 16, bos=BOS)
        next_batch, next_position = order.next_batch(stream, position, 3, 16, bos=BOS)
        assert after == next_position
        assert all(torch.equal(a, b) for a, b in zip(again, next_batch))


@EVERY_ORDER
def test_two_ranks_see_what_one_process_sees_in_two_calls(stream, order):
    for start in (0, 960):
        first, middle = order.next_batch(stream, start, 2, 16, bos=BOS)
        second, end = order.next_batch(stream, middle, 2, 16, bos=BOS)
        for rank, alone in enumerate((first, second)):
            shared, after = order.next_batch(stream, start, 2, 16, world=2, rank=rank, bos=BOS)
            assert torch.equal(shared.inputs, alone.inputs) and torch.equal(shared.targets, alone.targets)
            assert after == end


def test_public_order_is_the_stream_without_one_input_per_call(stream):
    batch, position = PublicOrder().next_batch(stream, 0, 2, 8)
    following, _ = PublicOrder().next_batch(stream, position, 2, 8)
    assert batch.inputs.flatten().tolist() == list(range(16))
    assert following.inputs.flatten().tolist() == list(range(17, 33))


@EVERY_BLOCK_ORDER
def test_blocks_come_once_per_pass_in_a_new_order(written, order):
    length = 16
    passes = [starts_of(order, written, length, number) for number in range(3)]
    for starts in passes:
        assert_once_per_pass(written, length, starts)
        assert sorted(starts) != starts
    assert passes[0] != passes[1] != passes[2]
    assert len({min(starts) for starts in passes}) > 1
    assert passes[0] != starts_of(order.replace(seed=6), written, length, 0)
    batch, _ = order.next_batch(written, 0, len(passes[0]), length, bos=1)
    assert batch.inputs.tolist() == [written.read(start, length).tolist() for start in passes[0]]


@EVERY_BLOCK_ORDER
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 3), st.integers(0, 2**40), st.randoms())
def test_blocks_come_once_per_pass_whatever_the_sizes(
    tmp_path_factory, order, length, documents, number, seed, random
):
    rng = np.random.default_rng(random.randrange(2**32))
    tokens = np.concatenate([*documents_of(rng, documents), [1] * length])
    stream = stream_of(tmp_path_factory.mktemp("stream"), tokens)
    order = order.replace(seed=seed)
    if isinstance(order, Curriculum):
        ramp_tokens, easiest = int(rng.integers(0, 3 * stream.tokens)), float(1 - rng.random())
        order = order.replace(ramp_tokens=ramp_tokens, easiest=easiest, descending=bool(rng.integers(2)))
    assert_once_per_pass(stream, length, starts_of(order, stream, length, number))


def test_a_stride_that_shares_a_divisor_is_caught(written, monkeypatch):
    monkeypatch.setattr(math, "gcd", lambda *numbers: 1)
    batches._stride.cache_clear()
    length = next(n for n in range(8, 99) if (written.tokens // n - 1) % 6 == 0)
    with pytest.raises(AssertionError):
        for number in range(8):
            assert_once_per_pass(written, length, starts_of(CoprimeStride(), written, length, number))
    batches._stride.cache_clear()


@EVERY_BLOCK_ORDER
def test_samples_of_all_ranks_share_no_input(written, order):
    length, rows, world = 16, 5, 4
    taken = Counter()
    for rank in range(world):
        first = rank * rows
        for row in range(rows):
            start = order.block_start(written, length, first + row, 1)
            taken.update(range(start, start + length))
    assert len(taken) == world * rows * length
    together = [order.next_batch(written, 0, rows, length, world, rank, bos=1) for rank in range(world)]
    alone, after = order.next_batch(written, 0, world * rows, length, bos=1)
    assert torch.equal(torch.cat([batch.inputs for batch, _ in together]), alone.inputs)
    assert {position for _, position in together} == {after} == {world * rows * length}


@EVERY_ORDER
def test_a_training_may_change_its_length(written, order):
    """Each stage goes on from any position, and no length gives out the same number of a block twice."""
    stages = [(16, 3), (10, 2), (16, 1), (7, 5), (48, 1), (16, 2)]
    position, seen = 0, Counter()
    for length, rows in stages * 3:
        batch, after = order.next_batch(written, position, rows, length, bos=1)
        again, after_again = order.next_batch(written, int(str(position)), rows, length, bos=1)
        assert after == after_again and all(torch.equal(a, b) for a, b in zip(batch, again))
        assert batch.inputs.shape == (rows, length)
        assert rows * length <= after - position < (rows + 1) * length + 1
        if isinstance(order, BlockOrder):
            blocks = range(after // length - rows, after // length)
            starts = [order.block_start(written, length, block, 1) for block in blocks]
            assert batch.inputs.tolist() == [written.read(start, length).tolist() for start in starts]
            assert blocks[0] * length >= position and after % length == 0
            seen.update((length, block) for block in blocks)
        position = after
    assert all(times == 1 for times in seen.values())


def test_the_order_of_a_seed_never_changes(tmp_path):
    stream = stream_of(tmp_path, [i * i % (3 + i // 50) for i in range(1000)])
    for order, first in FIRST_BLOCKS_OF_1337.items():
        assert [order.block_start(stream, 16, i, BOS) for i in range(6)] == first, order


FIRST_BLOCKS_OF_1337 = {
    ShuffledBlocks(): [145, 257, 289, 337, 401, 913],
    CoprimeStride(): [801, 753, 705, 657, 609, 561],
    Curriculum(): [97, 81, 113, 657, 65, 49],
}


class TestCurriculum:
    LENGTH = 16

    def difficulties(self, order, stream, number=0):
        """Difficulty of the blocks in the order of their visit."""
        starts = starts_of(order, stream, self.LENGTH, number)
        table = block_difficulty(BlockPass(stream, self.LENGTH, 1, number, min(starts)))
        return table[(np.array(starts) - min(starts)) // self.LENGTH]

    def test_difficulty_is_the_unigram_entropy_of_documents(self, tmp_path, monkeypatch):
        monkeypatch.setattr(batches, "COUNT_TOKENS", 7)
        tokens = [9, 9, 8, 1, 5, 5, 5, 5, 1, 6, 7, 8, 9, 1, 1, 5]
        stream = stream_of(tmp_path, tokens, (5, 11))
        nats = [math.log((len(tokens) + 65536) / (tokens.count(token) + 1)) for token in tokens]
        documents = [range(3), range(3, 8), range(8, 13), range(13, 14), range(14, 16)]
        bounds, before = document_nats(stream, 1)
        assert bounds.tolist() == [0, 3, 8, 13, 14, 16]
        assert before == pytest.approx([sum(nats[:bound]) for bound in bounds], abs=1e-3)
        means = [np.mean([nats[i] for i in places]) for places in documents for _ in places]
        expected = [np.mean(means[start : start + 4]) for start in (2, 6, 10)]
        assert block_difficulty(BlockPass(stream, 4, 1, 0, 2)) == pytest.approx(expected, abs=1e-4)

    def test_neutral_is_shuffled_blocks_and_asks_for_no_documents(self, stream, written):
        for seed in (0, 7):
            plain, off = ShuffledBlocks(seed=seed), Curriculum(seed=seed, easiest=1.0, ramp_tokens=900)
            for number in range(3):
                assert starts_of(plain, written, 16, number) == starts_of(off, written, 16, number)
            for position in (0, 500, 5000):
                (a, after), (b, same) = (o.next_batch(stream, position, 9, 16) for o in (plain, off))
                assert after == same and all(torch.equal(x, y) for x, y in zip(a, b))

    def test_easy_blocks_come_first_and_the_others_later(self, written):
        order = Curriculum(easiest=0.1)
        found = self.difficulties(order, written)
        tenths = [part.mean() for part in np.array_split(found, 10)]
        assert all(early < late for early, late in zip(tenths, tenths[1:]))
        shuffled = self.difficulties(ShuffledBlocks(), written)
        assert sorted(found) == sorted(shuffled)
        assert tenths[0] < shuffled.mean() - shuffled.std()
        hardest = self.difficulties(order.replace(descending=True), written)
        tenths = [part.mean() for part in np.array_split(hardest, 10)]
        assert all(early > late for early, late in zip(tenths, tenths[1:]))

    def test_only_the_allowed_share_is_drawn_and_evenly(self, written):
        blocks = written.tokens // self.LENGTH - 1
        ramp = blocks // 2
        order = Curriculum(easiest=0.2, ramp_tokens=ramp * self.LENGTH)
        ranks = []
        for seed in range(60):
            found = self.difficulties(order.replace(seed=seed), written)
            rank = np.searchsorted(np.sort(found), found)  # of equals the first
            allowed = np.ceil(blocks * (0.2 + 0.8 * np.arange(blocks) / ramp) + 1e-9)
            assert (rank < allowed).all()
            ranks.append(rank)
        first = np.array(ranks)[:, : blocks // 50] / (0.2 * blocks)
        assert abs(first.mean() - 0.5) < 0.1 and first.max() > 0.8

    def test_after_the_ramp_it_is_shuffled_blocks(self, written):
        blocks = written.tokens // self.LENGTH - 1
        order, plain = Curriculum(ramp_tokens=blocks // 4 * self.LENGTH), ShuffledBlocks()
        ours, theirs = (starts_of(o, written, self.LENGTH, 0) for o in (order, plain))
        rest = ours[blocks // 4 :]
        assert rest == [start for start in theirs if start in rest] and ours != theirs
        for number in (1, 2):
            assert starts_of(order, written, self.LENGTH, number) == starts_of(
                plain, written, self.LENGTH, number
            )

    def test_a_ramp_over_several_passes_goes_on_in_each(self, written):
        blocks = written.tokens // self.LENGTH - 1
        order = Curriculum(easiest=0.1, ramp_tokens=2 * blocks * self.LENGTH)
        first, second, third = (self.difficulties(order, written, number) for number in range(3))
        early = [found[: blocks // 10].mean() for found in (first, second, third)]
        assert early[0] < early[1] < early[2]
        assert starts_of(order, written, 16, 2) == starts_of(ShuffledBlocks(), written, 16, 2)

    def test_text_without_documents_is_refused(self, stream):
        for bos in (-1, 2000):
            with pytest.raises(DataError, match=f"documents that start with BOS.*BOS {bos}.*data.order"):
                Curriculum().next_batch(stream, 0, 2, 16, bos=bos)

    def test_limits(self):
        for fields in ({"easiest": 0.0}, {"easiest": 1.1}, {"ramp_tokens": -1}):
            with pytest.raises(PlanError, match=next(iter(fields))):
                Curriculum(**fields)


class TestShardsByLength:
    def shards(self):
        """Shards of documents of one length each, in no order; the length is the token after BOS."""
        return [[1, length, *[9] * (length - 2)] * (120 // length) for length in (12, 3, 40, 5, 5)]

    def stream(self, folder, shards):
        return stream_of(folder, np.concatenate(shards), np.cumsum([len(s) for s in shards])[:-1])

    @staticmethod
    def as_published(shards, sample, bos=1):
        """An independent twin: a table of (mean length, place), sorted by its first column alone."""
        table = []
        for place, shard in enumerate(shards):
            head = list(shard)[:sample]
            table.append((len(head) / (head.count(bos) or 1), place))
        table.sort(key=lambda row: row[0])
        return [token for _, place in table for token in shards[place]]

    @pytest.mark.parametrize("sample", [100_000, 40, 2, 1])
    def test_it_is_the_public_order_over_sorted_shards(self, tmp_path, sample):
        shards = self.shards()
        shards.append([7] * 30)  # no document starts here: the whole sample is one
        stream, order = self.stream(tmp_path, shards), ShardsByLength(sample_tokens=sample)
        (tmp_path / "sorted").mkdir()
        by_hand = stream_of(tmp_path / "sorted", self.as_published(shards, sample))
        position = same = 0
        for _ in range(40):  # more than a round
            batch, position = order.next_batch(stream, position, 2, 8, bos=1)
            expected, same = PublicOrder().next_batch(by_hand, same, 2, 8, bos=1)
            assert position == same and all(torch.equal(a, b) for a, b in zip(batch, expected))

    def test_only_the_start_of_a_shard_is_looked_at(self, tmp_path):
        long_then_short = [1, 3, 9, 9, 9, 9] + [1, 2] * 50
        stream = self.stream(tmp_path, [long_then_short, [1, 4, 9] * 20])
        first = [
            ShardsByLength(sample_tokens=n).next_batch(stream, 0, 1, 2, bos=1)[0].inputs[0, 1]
            for n in (6, 999)
        ]
        assert [int(token) for token in first] == [4, 3]

    def test_pieces_and_the_other_direction(self, tmp_path):
        shards = self.shards()
        whole = [np.concatenate(shards)]
        order, stream = ShardsByLength(piece_tokens=120), self.stream(tmp_path, whole)
        pieces = order.next_batch(stream, 0, 1, 599, bos=1)[0]
        (tmp_path / "cut").mkdir()
        cut = self.stream(tmp_path / "cut", [whole[0][at : at + 120] for at in range(0, len(whole[0]), 120)])
        files = ShardsByLength().next_batch(cut, 0, 1, 599, bos=1)[0]
        assert torch.equal(pieces.inputs, files.inputs)
        back = ShardsByLength(descending=True).next_batch(cut, 0, 1, 599, bos=1)[0].inputs[0]
        assert int(back[1]) == 40 and int(files.inputs[0, 1]) == 3

    def test_a_single_shard_is_the_public_order(self, written, tmp_path):
        alone = stream_of(tmp_path, written.all())
        for position in (0, 777):
            orders = ShardsByLength(), PublicOrder()
            pair = [order.next_batch(alone, position, 3, 16, bos=1) for order in orders]
            assert pair[0][1] == pair[1][1] and torch.equal(pair[0][0].inputs, pair[1][0].inputs)

    def test_a_tokenizer_without_bos_is_refused(self, written):
        with pytest.raises(DataError, match="documents that start with BOS.*data.order"):
            ShardsByLength().next_batch(written, 0, 2, 16)


def test_documents_are_counted_at_bos(tmp_path):
    tokens = [5, 1, 6, 7, 1, 8, 1, 9, 9, 9, 1, 2]
    batch, _ = PublicOrder().next_batch(stream_of(tmp_path, tokens), 0, 2, 5, bos=1)
    assert batch.document.tolist() == [[0, 1, 1, 1, 2], [0, 1, 1, 1, 1]]
    assert batch.position.tolist() == [[0, 0, 1, 2, 0], [0, 0, 1, 2, 3]]
    from_bos, _ = PublicOrder().next_batch(stream_of(tmp_path, tokens[1:]), 0, 1, 5, bos=1)
    assert from_bos.document.tolist() == [[0, 0, 0, 1, 1]]
    assert from_bos.position.tolist() == [[0, 1, 2, 0, 1]]
    without, _ = PublicOrder().next_batch(stream_of(tmp_path, tokens), 0, 1, 5)
    assert without.document.tolist() == [[0] * 5] and without.position.tolist() == [[0, 1, 2, 3, 4]]


@EVERY_ORDER
def test_a_sequence_longer_than_the_text_is_refused(tmp_path, order):
    short = stream_of(tmp_path, np.arange(17))
    assert order.next_batch(short, 0, 1, 16, bos=BOS)[0].inputs.tolist() == [list(range(16))]
    with pytest.raises(
        DataError, match=r"a sequence of 17 tokens needs 18 tokens.*found '17 tokens'.*shorten"
    ):
        order.next_batch(short, 0, 1, 17, bos=BOS)


@EVERY_BLOCK_ORDER
def test_a_negative_seed_is_refused(order):
    with pytest.raises(PlanError, match="seed"):
        order.replace(seed=-1)
