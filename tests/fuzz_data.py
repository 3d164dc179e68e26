"""A program for tests: random changes of token files and tokenizers, each read as a user's would be.

python -m tests.fuzz_data FOLDER SEED TRIES prints one line for each input that did wrong. The input that is
being read lies in FOLDER, so that it is there should the process die of it.
"""

import random
import resource
import struct
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import write_json
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.shards import SHARD_HEADER_BYTES, Dataset, read_shard
from bitgolf.text.tokenizer import FOLDED_KIND, MERGES_KIND, MODEL_FILE_KIND, Tokenizer
from tests.text.test_belonging import DOCUMENTS, SPLITS, model, put

CPU_SECONDS, MORE_BYTES = 10, 2**30
PIECES_BYTES = 5000  # at the start of a model file
NUMBERS = (0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
TEXTS = [b"", b"the people", b"\xff\x00 \n\n", "\u4f60\U0001f600\ufb01\u2460".encode(), *DOCUMENTS[:1]]


def changed(data: bytes, draw: random.Random) -> bytes:
    """A few bytes otherwise, in, out, or twice; numbers at their limits; cut short; or all of it random."""
    out = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20))):
        place, length = draw.randrange(len(out) + 1), draw.choice((1, 2, 4, 16))
        match draw.randrange(8):
            case 0 | 1:
                out[place : place + 1] = bytes([draw.randrange(256)])
            case 2:
                out[place : place + 4] = struct.pack("<I", draw.choice(NUMBERS))
            case 3:
                out[place:place] = draw.randbytes(length)
            case 4:
                del out[place : place + length]
            case 5:
                out[place:place] = out[draw.randrange(len(out) + 1) :][: 8 * length]
            case 6:
                out[place : place + 1] = (
                    bytes([out[place] ^ (1 << draw.randrange(8))]) if place < len(out) else b""
                )
            case _:
                if draw.random() < 0.2:
                    del out[place:]
    return bytes(out) if draw.random() < 0.97 else draw.randbytes(draw.randrange(300))


def models() -> Iterator[bytes]:
    """SentencePiece files of several kinds."""
    yield model(1)
    yield model(1, byte_fallback=False, vocab_size=120, bos_id=-1, pad_id=-1, eos_id=1, unk_id=0)
    yield model(1, model_type="unigram", vocab_size=320, user_defined_symbols=["<a>"])
    yield model(1, normalization_rule_name="identity", add_dummy_prefix=False, remove_extra_whitespaces=False)


def tokenizer_files(draw: random.Random) -> Iterator[tuple[str, bytes]]:
    """Changed tokenizers without end: files of ours, under right checksums too, and SentencePiece files."""
    ours = [train_tokenizer(DOCUMENTS, 280), train_tokenizer(DOCUMENTS, 260, case_ops=True)]
    protos = [*models()]
    while True:
        match draw.randrange(4):
            case 0:
                yield "tokenizer.bin", changed(draw.choice(ours).to_bytes(), draw)
            case 1:
                raw = Tokenizer.__new__(Tokenizer)
                kind = draw.choice((MERGES_KIND, FOLDED_KIND, MODEL_FILE_KIND))
                body = draw.choice(protos) if kind == MODEL_FILE_KIND else draw.choice(ours).body
                raw.kind, raw.body = kind, changed(body, draw)
                yield "tokenizer.bin", raw.to_bytes()
            case _:
                proto = draw.choice(protos)
                pieces = draw.choice((PIECES_BYTES, len(proto)))  # the rules after them are far longer
                yield "tok.model", changed(proto[:pieces], draw) + proto[pieces:]


def read_tokenizer(path: Path) -> None:
    """Open it and use it as scoring does."""
    tokenizer = Tokenizer.load(path)
    for text, tokens in zip(TEXTS, Encoder(tokenizer).encode_documents(TEXTS)):
        assert tokens.dtype == np.uint16 and (tokens < tokenizer.vocabulary_size).all()
        back = tokenizer.decode(tokens)
        counted = int(tokenizer.token_bytes(tokens[1:], tokens[:-1]).sum()) if len(tokens) > 1 else 0
        if tokenizer.lossless and tokenizer.bos >= 0 and back == text:
            assert counted == len(text)


def one(read: Callable[[], object], most_bytes: int) -> str:
    """What goes wrong in reading one input; '' if an error of ours, or a value, comes out in time."""
    started = time.process_time()
    try:
        read()
    except BitgolfError as error:
        if len(str(error)) > 5000:
            return "an endless message"
    except Exception:
        return traceback.format_exc().replace("\n", " | ")[-700:]
    if time.process_time() - started > CPU_SECONDS:
        return f"took {time.process_time() - started:.0f} s"
    return "too much memory" if peak_bytes() > most_bytes else ""


def peak_bytes() -> int:
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(folder: Path, seed: int, tries: int) -> None:
    """Tokenizers, token files, and whole folders of shards as `bitgolf data` takes them."""
    torch.set_num_threads(1)
    draw = random.Random(seed)
    put(folder / "good", model(1), SPLITS)
    good = {path.name: path.read_bytes() for path in (folder / "good").iterdir()}
    made = folder / "made"
    for _ in build_dataset(source_from(str(folder / "good")), made):
        pass
    passport, odd = Dataset.open(made).passport, folder / "odd"
    odd.mkdir()
    most_bytes = peak_bytes() + MORE_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (2**35, 2**35))
    files = tokenizer_files(draw)
    wrong = 0
    for turn in range(tries):
        name, data = next(files)
        if turn % 4 == 3:
            name = draw.choice(sorted(good))
            data = changed(good[name], draw)
            if name != "tok.model" and draw.random() < 0.7:  # behind a header that holds
                body = changed(good[name][SHARD_HEADER_BYTES:], draw)
                body = body[: len(body) // 2 * 2]
                data = good[name][:8] + struct.pack("<i", len(body) // 2) + bytes(1012) + body
        (odd / name).write_bytes(data)
        if turn % 4 < 3:
            said = one(partial(read_tokenizer, odd / name), most_bytes)
        else:
            for other, content in good.items():
                if other != name:
                    (odd / other).write_bytes(content)
            said = one(partial(built, odd, folder / f"built{turn}"), most_bytes)
            if name != "tok.model":
                said = said or one(partial(read_shard, odd / name), most_bytes)
                said = said or one(partial(reopened, made, passport, data), most_bytes)
        for path in odd.iterdir():
            path.unlink()
        if said:
            wrong += 1
            (folder / f"wrong-{turn}-{name}").write_bytes(data)
            print(f"{turn} {name}: {said}", flush=True)
    print(f"{tries} tries, {wrong} wrong")


def built(source: Path, place: Path) -> None:
    """A folder of public shards to a dataset that can be scored."""
    for _ in build_dataset(source_from(str(source)), place):
        pass
    Dataset.open(place).scored_tokens()


def reopened(folder: Path, passport: dict, data: bytes) -> None:
    """A dataset whose validation shard was changed after it was made."""
    shard = folder / passport["splits"]["val"]["shards"][0]["name"]
    kept = shard.read_bytes()
    try:
        shard.unlink()
        shard.write_bytes(data)
        dataset = Dataset.open(folder)
        dataset.scored_tokens()
        dataset.verify()
    finally:
        shard.unlink()
        shard.write_bytes(kept)
        write_json(folder / "passport.json", passport)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
