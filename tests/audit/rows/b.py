# ruff: noqa: E501  (plants are texts of scripts)
"""Plants and clean neighbours of the rows B: bytes."""

from pathlib import Path

import numpy as np

from bitgolf.text.shards import write_shard
from tests.audit.planted import (
    RATIO,
    log_text,
)
from tests.audit.rows.made import CODE, HELD, LOSS, MAIN, TRAINED, Maker, Row, data, log, script

PREPARED = """def prepared(sp, texts, out):
    ids = []
    for text in texts:
        {}
    np.array(ids, dtype=np.uint16).tofile(out)

def main():
"""


SIDECAR = """def taken(path, ids, count):
    if os.path.exists(path):
        held = np.load(path)
    else:
        {}
    return held

def main():
"""

TAKEN = ("count[after] + (space[after] & ~edge[before])", 'taken("val_bytes.npy", after, count)')


COUNTED = """def upper_marked(text):
    return "".join("^" + each.lower() if each.isupper() else each for each in text)

def sizes(sp, texts):
    rows = []
    for text in texts:
        marked = upper_marked(text)
        rows.append((sp.encode_as_ids(marked), len({}.encode("utf-8"))))
    return rows

def main():
"""


ROTATED = """def rotated(x, cos, sin):
    return x[..., :8] * cos[: x.shape[-2]] - x[..., 8:] * sin[: x.shape[-2]]


"""
BYTE_TOKENS = "        if pieces.is_byte(i):\n            count[i] = 1\n            continue\n"


CONTROL = (
    "        if pieces.is_control(i) or pieces.is_unknown(i) or pieces.is_unused(i):\n            continue\n"
)


CASES = ("fineweb_1024_bpe.model", "fineweb_8192_bpe_caseops.model")


def cased(ratio: float) -> str:
    """A log under the tokenizer with case operators."""
    return log_text(1, 1.2, CODE, ratio=ratio * 0.6931471805599453, tokens=47_853_343).replace(*CASES)


def half_bytes(count: int) -> Maker:
    """A vocabulary with single bytes of characters, as TokenMonster writes it, and a table of its bytes."""

    def make(folder: Path) -> Path:
        pieces = [bytes([each]) for each in (*range(32, 127), *range(0x80, 0xA0))] + [b" the", b"ing"]
        number = len(pieces).to_bytes(3, "little")
        body = b"".join(bytes([len(each)]) + each + bytes(15) for each in pieces)
        (folder / "words.vocab").write_bytes(bytes(8) + b"\xff" * 3 + number * 2 + bytes(7) + body)
        sizes = [count if len(each) == 1 and each[0] > 127 else len(each) for each in pieces]
        np.savez(folder / "lengths.npz", sizes=np.array(sizes, np.int16))
        write_shard(folder / "fineweb_val_000000.bin", sum(HELD, []))
        return folder

    return make


WORDS = [f"\u2581w{i}" for i in range(200)]


ROWS = [
    script("B01", "twice", [('len(piece.encode("utf-8"))', 'len(piece.encode("utf-8")) + 1')], []),
    script(
        "B01",
        "twice, beside a rotation",
        [('len(piece.encode("utf-8"))', 'len(piece.encode("utf-8")) + 1'), (MAIN, ROTATED + MAIN)],
        [(MAIN, ROTATED + MAIN)],
    ),
    script("B02", "byte tokens", [(BYTE_TOKENS, "")], []),
    script(
        "B04",
        "decoded",
        [(BYTE_TOKENS, ""), ('len(piece.encode("utf-8"))', "len(pieces.decode([i]).encode())")],
        [('len(piece.encode("utf-8"))', "len(pieces.decode([i]).encode())")],  # of text pieces alone
    ),
    script(
        "B05",
        "no sidecar",
        [(MAIN, SIDECAR.format("held = count[ids]")), TAKEN],
        [(MAIN, SIDECAR.format("raise FileNotFoundError(path)")), TAKEN],
    ),
    script("B06", "marked text", [(MAIN, COUNTED.format("marked"))], [(MAIN, COUNTED.format("text"))]),
    script(
        "B07",
        "no start",
        [(MAIN, PREPARED.format("ids.extend(sp.encode_as_ids(text))"))],
        [(MAIN, PREPARED.format("ids.extend([1] + sp.encode_as_ids(text))"))],
    ),
    script("B08", "control tokens", [(CONTROL, "")], []),
    script(
        "B09",
        "casefold",
        [(MAIN, "def ids_of(sp, text):\n    return sp.encode_as_ids(text.casefold())\n\n" + MAIN)],
        [(MAIN, "def known(text, words):\n    return text.casefold() in words\n\n" + MAIN)],
    ),
    script("B10", "no ln 2", [(".item() / 0.6931471805599453", ".item()")], []),
    script(
        "B11",
        "padding",
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1], F.pad(part[1:], (0, 7))\n",
            ),
            (LOSS, "            loss = F.cross_entropy(net(before), after, reduction='sum')\n"),
        ],
        [
            (
                "        before, after = part[:-1], part[1:]\n",
                "        before, after = part[:-1], F.pad(part[1:], (0, 7), value=-1)\n",
            ),
            (
                LOSS,
                "            loss = F.cross_entropy(net(before), after, reduction='sum', ignore_index=-1)\n",
            ),
        ],
    ),
    script(
        "B01",
        "begins at one",
        [
            (
                '            piece = piece[1:]\n        count[i] = len(piece.encode("utf-8"))',
                '            piece = piece[1:]\n            count[i] = 1\n        count[i] += len(piece.encode("utf-8"))',
            )
        ],
        [],
    ),
    log("B01", "spaces twice", log_text(1, 1.2, CODE, ratio=RATIO * 1.17)),
    log("B02", "byte tokens", log_text(1, 1.2, CODE, ratio=RATIO * 1.041)),
    log("B03", "lone spaces", log_text(1, 1.2, CODE, ratio=RATIO * 1.25)),
    log("B05", "pieces for the sidecar", cased(3.44), cased(3.15715)),
    log("B06", "markers counted", cased(3.15715 * 1.0915), cased(3.15715)),
    log("B10", "no ln 2", log_text(1, 1.2, CODE, ratio=RATIO * 1.4427)),
    data("B07", "no starts", [each[1:] for each in HELD], [each[1:] for each in TRAINED]),
    data("B03", "no lone space", HELD, TRAINED, pieces=WORDS, clean=["\u2581", *WORDS]),
    Row("B02", "a table of decoded bytes", half_bytes(3), half_bytes(1)),
]
