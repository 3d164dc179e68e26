"""Large files in pieces: the same bytes back, memory that does not grow with them, every fault named."""

import io
import json
import lzma
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.base.events import finish
from bitgolf.pipeline.coding import decompress_file
from bitgolf.proof import file, frames, pieces
from bitgolf.proof.crew import Crew, Decoding, Encoding
from bitgolf.proof.file import compress, decompress, read_header
from bitgolf.proof.pieces import UNKNOWN, compress_stream, decompress_stream, parts_of
from bitgolf.text.encoder import train_tokenizer
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.proof.test_crew import artifact, folder  # noqa: F401
from tests.proof.test_proof import ODD_TEXTS, coder  # noqa: F401

WORDS = b"The people of this nation shall keep peace with all.\n"
NOISE = np.random.default_rng(8).bytes(900)
# Pieces of the coder's own vocabulary in no order, which LZMA does not know; noise; and lines that repeat.
TOKENIZER = train_tokenizer([ODD_TEXTS["text"] + ODD_TEXTS["invalid UTF-8"]], 300)
MIXED = TOKENIZER.decode(np.random.default_rng(9).integers(285, 300, 60))
TEXT = MIXED[:800] + NOISE + WORDS * 15
PIECE = 400


@pytest.fixture
def short_pieces(monkeypatch):
    """Pieces of some words, and frames that are shorter still."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(frames, "LANE_TOKENS", 30)
    monkeypatch.setattr(frames, "MOST_LANES", 2)
    monkeypatch.setattr(frames, "MOST_LANE_TOKENS", 30)


def packed(coder, text, crew=None, text_bytes=UNKNOWN, heed=lambda step: None):  # noqa: F811
    out = io.BytesIO()
    steps = compress_stream(coder, io.BytesIO(text), text_bytes, out.write, crew or Crew())
    parts = finish(steps, heed)
    return out.getvalue(), parts


def unpacked(coder, data, crew=None, heed=lambda step: None):  # noqa: F811
    out, opened = io.BytesIO(), []

    def coder_for(window, portable):
        opened.append((window, portable))
        return coder

    finish(
        decompress_stream(coder_for, io.BytesIO(data), len(data), "a.golf", out.write, crew or Crew()), heed
    )
    return out.getvalue()


def test_pieces_come_back_whatever_each_is_kept_by(coder, short_pieces):  # noqa: F811
    data, parts = packed(coder, TEXT)
    assert unpacked(coder, data) == TEXT and pieces.file_bytes_of(parts) == len(data)
    assert len(parts) == -(-len(TEXT) // PIECE) > 4
    assert {file.METHODS[part.header.method] for part in parts} == {"stored", "model", "lzma"}
    assert [part.file_bytes for part in parts_of(io.BytesIO(data), "a.golf")] == [
        part.file_bytes for part in parts
    ]
    with pytest.raises(
        ArtifactError, match="method that is not known"
    ):  # what reads one piece, as older versions do
        read_header(data)


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE])
def test_what_fits_into_one_piece_is_the_file_that_it_ever_was(coder, short_pieces, length):  # noqa: F811
    data, parts = packed(coder, TEXT[:length])
    assert data == finish(compress(coder, TEXT[:length])).data and len(parts) == 1
    assert unpacked(coder, data) == TEXT[:length]


@pytest.mark.parametrize("length", [PIECE + 1, 2 * PIECE, 2 * PIECE + 1])
def test_texts_around_the_end_of_a_piece_come_back(coder, short_pieces, length):  # noqa: F811
    data, parts = packed(coder, TEXT[:length])
    assert len(parts) == -(-length // PIECE) and unpacked(coder, data) == TEXT[:length]


def test_progress_counts_bytes_of_the_whole_and_never_goes_back(coder, short_pieces):  # noqa: F811
    steps = []
    data, _ = packed(coder, TEXT, text_bytes=len(TEXT), heed=steps.append)
    assert {total for _, total in steps} == {len(TEXT)}
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert 0.9 * len(TEXT) < steps[-1][0] <= len(TEXT)
    read = []
    unpacked(coder, data, heed=read.append)
    assert [done for done, _ in read] == sorted(done for done, _ in read)
    assert {total for _, total in read} == {len(data)}


def test_pieces_that_were_finished_are_not_coded_again(coder, short_pieces, tmp_path, monkeypatch):  # noqa: F811
    whole, part = packed(coder, TEXT)[0], tmp_path / "a.golf.part"
    begun = compress_stream(coder, io.BytesIO(TEXT), UNKNOWN, io.BytesIO().write, Crew(part=part))
    assert any(done > 2.2 * PIECE for done, _ in begun)
    begun.close()
    asked, real = [], Encoding.result
    monkeypatch.setattr(Encoding, "result", lambda job, by: asked.append(job) or real(job, by))
    assert packed(coder, TEXT, Crew(part=part))[0] == whole
    again = len(asked)
    assert packed(coder, TEXT)[0] == whole and 0 < again < len(asked) - again


def test_what_was_written_before_a_stop_is_not_decoded_again(
    bitgolf,  # noqa: F811
    folder,  # noqa: F811
    short_pieces,
    monkeypatch,
):
    text = (MIXED * 99)[: 4 * PIECE]
    Path("a.txt").write_bytes(text)
    monkeypatch.setattr(file, "_lzma", worthless)
    monkeypatch.setattr(file, "_stored", lambda text: bytes(10**6))
    assert bitgolf("compress", "a.txt", "-m", folder, "--processes", 1)[0] == 0
    asked, real = [], Decoding.result
    monkeypatch.setattr(Decoding, "result", lambda job, by: asked.append(job) or real(job, by))
    begun = decompress_file(str(folder), "a.txt.golf", Path("b.txt"), False, 1)
    size = Path("a.txt.golf").stat().st_size
    assert any(event.done > 0.6 * size for event in begun)
    with pytest.raises(KeyboardInterrupt) as stop:
        begun.throw(KeyboardInterrupt())
    assert stop.value.__notes__ == ["the same command goes on from here"]
    before, made = len(asked), Path("b.txt.made")
    assert made.read_bytes() == text[: 2 * PIECE], (len(text), size, made.stat().st_size)
    assert not Path("b.txt").exists()
    # Frames of what is text by now take no room.
    assert Path("b.txt.part").stat().st_size < 1.5 * 4 * PIECE
    assert bitgolf("decompress", "a.txt.golf", "-m", folder, "-o", "b.txt", "--processes", 1)[0] == 0
    assert Path("b.txt").read_bytes() == text
    again = len(asked) - before
    assert not [*Path().glob("b.txt.*")]
    asked.clear()
    made.write_bytes(b"of another text" * 999)
    Path("b.txt").unlink()
    assert bitgolf("decompress", "a.txt.golf", "-m", folder, "-o", "b.txt", "--processes", 1)[0] == 0
    assert Path("b.txt").read_bytes() == text and 0 < again <= len(asked) / 2
    data = Path("a.txt.golf").read_bytes()
    Path("a.txt.golf").write_bytes(data[:-60] + bytes(20) + data[-40:])
    refused(bitgolf("decompress", "a.txt.golf", "-m", folder, "-o", "d.txt", "--processes", 1), "a.txt.golf")
    assert not Path("d.txt.made").exists() and not Path("d.txt").exists()


def worthless(text):
    """LZMA that needs so many bytes that the model is taken."""
    yield 0, 1
    return bytes(10**6)


def test_a_model_that_can_no_longer_win_is_stopped_and_nothing_else_changes(
    coder,  # noqa: F811
    short_pieces,
    monkeypatch,
):
    asked, real, real_encoded = [], Encoding.result, file.encoded
    monkeypatch.setattr(Encoding, "result", lambda job, by: asked.append(job) or real(job, by))
    for text in (TEXT[:PIECE], NOISE[:PIECE], WORDS * 60):
        asked.clear()
        found, stopped = finish(compress(coder, text)).data, len(asked)
        with monkeypatch.context() as never:
            never.setattr(file, "encoded", lambda *given: real_encoded(*given[:3]))
            assert finish(compress(coder, text)).data == found
        assert (len(asked) > 2 * stopped) == (text == WORDS * 60), "LZMA is far better where lines repeat"


def test_cut_and_changed_pieces_are_refused_by_name(coder, short_pieces):  # noqa: F811
    data, parts = packed(coder, TEXT)
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            list(parts_of(io.BytesIO(data[:length]), "a.golf"))
            unpacked(coder, data[:length])
    rng = np.random.default_rng(4)
    for place in (*range(12), *rng.integers(0, len(data), 60).tolist(), *range(len(data) - 8, len(data))):
        changed = bytearray(data)
        changed[place] ^= 1 << int(rng.integers(8))
        with pytest.raises(BitgolfError, match="a.golf"):
            unpacked(coder, bytes(changed))
    with pytest.raises(ArtifactError, match="bytes follow the last piece"):
        unpacked(coder, data + b"x")
    start = len(pieces.START)
    first, second = (len(file.number_as_bytes(p.file_bytes)) + p.file_bytes for p in parts[:2])
    swapped = data[:start] + data[start + first : start + first + second] + data[start : start + first]
    with pytest.raises(ArtifactError, match="not the one that was compressed"):
        unpacked(coder, swapped + data[start + first + second :])
    flipped = bytearray(data)
    flipped[start + 20] ^= 1
    with pytest.raises(ArtifactError, match="a.golf, piece 1 at byte [67]:"):
        unpacked(coder, bytes(flipped))


class Zeros(io.RawIOBase):
    """A sparse file of so many bytes."""

    def __init__(self, size):
        self.left = size

    def read(self, size=-1):
        count = self.left if size < 0 else min(size, self.left)
        self.left -= count
        return bytes(count)


def peak_of(coder, size):  # noqa: F811
    """Most bytes that Python and numpy hold at a time while zeros are compressed and read back."""
    out = io.BytesIO()
    tracemalloc.start()
    finish(compress_stream(coder, Zeros(size), size, out.write, Crew()))
    out.seek(0)
    counted = []
    finish(
        decompress_stream(
            lambda *_: coder, out, UNKNOWN, "a.golf", lambda text: counted.append(len(text)), Crew()
        )
    )
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(counted) == size
    return peak


def test_memory_does_not_grow_with_the_text(coder, monkeypatch):  # noqa: F811
    monkeypatch.setattr(file, "LZMA_FILTERS", [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**16}])
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2**18)
    few, many = peak_of(coder, 3 * 2**18), peak_of(coder, 40 * 2**18)
    assert many < 1.5 * few
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2**24)  # planted: the text as a whole
    assert peak_of(coder, 40 * 2**18) > 4 * few


@pytest.mark.parametrize("size", [0, 1, 300, 2048])
def test_a_short_text_that_nothing_makes_smaller_takes_three_bytes_more(coder, size):  # noqa: F811
    text = np.random.default_rng(2).bytes(size)
    data = finish(compress(coder, text)).data
    assert len(data) == size + 3 and finish(decompress(coder, data)) == text
    longer = finish(compress(coder, np.random.default_rng(2).bytes(2049))).data
    assert len(longer) <= 1.01 * 2049
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ArtifactError, match="damaged|not a file"):
            finish(decompress(coder, bytes(changed), "a.golf"))
    for length in range(len(data)):
        with pytest.raises(ArtifactError):
            finish(decompress(coder, data[:length], "a.golf"))
    zeros = finish(compress(coder, bytes(9))).data  # a sum that did not count the size would miss a cut here
    with pytest.raises(ArtifactError, match="damaged"):
        read_header(zeros[:-1])


def test_short_texts_of_older_versions_are_read(coder):  # noqa: F811
    assert finish(decompress(None, file._head(file.STORED, b"abc") + b"abc")) == b"abc"


def test_files_go_there_and_back_in_pieces_by_the_command_line(bitgolf, folder, short_pieces):  # noqa: F811
    Path("a.txt").write_bytes(TEXT)
    code, out, err = bitgolf("compress", "a.txt", "-m", folder, "--processes", 1, "--json")
    assert code == 0 and json.loads(out)["pieces"] > 4, err
    assert bitgolf("decompress", "a.txt.golf", "-m", folder, "--processes", 1, "-o", "b.txt")[0] == 0
    assert Path("b.txt").read_bytes() == TEXT
    names = {path.name for path in Path().iterdir() if path.is_file()}
    assert names == {"a.txt", "a.txt.golf", "b.txt"}
    Path("one").write_bytes(NOISE[:200])
    for verb, words, said in (
        ("compress", ("one", "-f", "-o", "./one"), "replace what it is made of"),
        ("decompress", ("a.txt.golf", "-f", "-o", "a.txt.golf"), "replace what it is made of"),
        ("compress", ("one", "-c", "-o", "two"), "a file and the pipe"),
        ("decompress", ("a.txt.golf", "-c", "-o", "two"), "a file and the pipe"),
    ):
        refused(bitgolf(verb, *words, "-m", folder), said)
    assert bitgolf("compress", "one", "-m", folder)[0] == 0
    code, out, _ = bitgolf("compress", "a.txt.golf", "one.golf", "--list")
    assert code == 0 and "2 files" in out and f"{len(TEXT) + 200:,}" in out and "lzma; stored" in out
    code, out, _ = bitgolf("decompress", "--list", "a.txt.golf", "one.golf", "--json")
    found = json.loads(out)
    assert [each["file"] for each in found["files"]] == ["a.txt.golf", "one.golf"]
    assert (
        found["text_bytes"] == len(TEXT) + 200
        and found["file_bytes"] == 203 + found["files"][0]["file_bytes"]
    )
    for verb in ("compress", "decompress"):
        refused(bitgolf(verb, "a.txt.golf", "one.golf"), "several files", "--list")
    refused(
        bitgolf("compress", "--list", "a.txt.golf", "a.txt"), "a.txt", "not a file that bitgolf compressed"
    )
