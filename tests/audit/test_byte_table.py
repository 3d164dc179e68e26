"""The bytes that a script counts by token, computed for a vocabulary that stands in."""

import ast

import pytest

from bitgolf.audit.byte_table import SIZE, VOCABULARY, tables, without_lone_space
from bitgolf.audit.script import follow
from bitgolf.audit.unwrap import unwrapped

SIZES = [0, 0, 0, 0, 1, 1, 0, 3, 3, 2, 5, 3, 1]  # the space of a piece is told apart

LOOP = """
import numpy as np
def table(sp):
    sizes = np.zeros(sp.get_piece_size(), np.int64)
    for i in range(sp.get_piece_size()):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
            continue
        sizes[i] = 1 if sp.is_byte(i) else len(sp.id_to_piece(i).lstrip("\\u2581").encode())
    return sizes
"""
HELPER = """
def width(pieces, i):
    match pieces.IdToPiece(i):
        case _ if pieces.IsControl(i) or pieces.IsUnused(i) or pieces.IsUnknown(i):
            return 0
        case name if pieces.IsByte(i):
            return len(bytes.fromhex(name[3:5]))
        case name:
            return len(name.replace("\\u2581", "").encode("utf-8"))

def table(pieces):
    return [width(pieces, i) for i in range(pieces.GetPieceSize())]
"""
MODEL = """
def table(path):
    model = ModelProto.FromString(open(path, "rb").read())
    found = {}
    for i, each in enumerate(model.pieces):
        if each.type in (model.SentencePiece.CONTROL, model.SentencePiece.UNKNOWN, 5):
            found[i] = 0
        elif each.type == 6:
            found[i] = 1
        else:
            text = each.piece
            if text[:1] == "\\u2581":
                text = text[1:]
            found[i] = sum(1 for _ in text.encode())
    return [found[i] for i in range(len(model.pieces))]
"""
CLASS = """
class Bytes:
    def __init__(self, sp):
        n, self.sizes, i = sp.vocab_size(), [], 0
        silent = (sp.is_control, sp.is_unknown, sp.is_unused)
        while i < n:
            name = sp.id_to_piece(i)
            whole = any(ask(i) for ask in silent)
            self.sizes.append(0 if whole else 1 if name.startswith("<0x") else self.of(name))
            i += 1

    def of(self, name):
        return len((name[1:] if name[0] == "\\u2581" else name).encode())

class Other:
    def of(self, name):
        return len(name)
"""


def counted(text: str) -> list[list[int]]:
    script = follow("train_gpt.py", unwrapped("train_gpt.py", text.encode()), [])
    return [list(each.counts) for each in tables(script)]


@pytest.mark.parametrize("text", [LOOP, HELPER, MODEL, CLASS], ids=["loop", "helper", "model", "class"])
def test_however_it_is_written(text):
    assert SIZES in counted(text)


CHANGES = {
    "a byte token by its name": (LOOP, "1 if sp.is_byte(i) else ", "", "<0x41>", 6),
    "the space too": (LOOP, '.lstrip("\\u2581")', '.replace("\\u2581", " ")', "\u2581the", 4),
    "letters": (HELPER, '.encode("utf-8")', "", "\u00e9", 1),
    "a control token": (MODEL, "model.SentencePiece.CONTROL, ", "", "<s>", 3),
    "unused ones": (CLASS, ", sp.is_unused)", ")", "<unused0>", 9),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_changed_shows(change):
    text, old, new, piece, size = CHANGES[change]
    assert old in text
    place = next(i for i, each in enumerate(VOCABULARY) if each.piece == piece)
    assert size in [each[place] for each in counted(text.replace(old, new))]


def test_what_hangs_on_the_unknown_is_not_told():
    """A branch that nobody can decide: whatever it does, no column is known."""
    assert counted(LOOP.replace("if sp.is_control(i)", "if secret() or sp.is_control(i)")) == []
    assert counted(LOOP.replace("sizes[i] = 1", "sizes[i] = secret()")) == []


@pytest.mark.parametrize(
    "text",
    [
        LOOP.replace("np.zeros(sp.get_piece_size(), np.int64)", "[0] * 10**12"),
        "def table(sp):\n    while True:\n        sp.id_to_piece(0)\n",
        "def table(sp):\n    return table(sp.id_to_piece(0))\n",
        LOOP.replace("return sizes", "sizes[99] = sizes[[1, 10**9]] = 0\n    return bytes(10**11)"),
        LOOP.replace("return sizes", "found = {}\n    found[[1]] = 2\n    return range(-(10**12), 5)"),
        LOOP.replace("return sizes", "return [sp.pieces[0].__class__() for i in range(3)]"),
    ],
)
def test_it_comes_to_an_end(text):
    ast.parse(text)
    assert all(len(each) <= SIZE for each in counted(text))


CUT = """
def cut(path, out, wanted):
    model = ModelProto()
    model.ParseFromString(open(path, "rb").read())
    BODY
    del model.pieces[:]
    model.pieces.extend(kept)
    open(out, "wb").write(model.SerializeToString())
"""
KEPT = """kept = []
    for each in model.pieces:
        if each.type == 1 and TEST:
            continue
        kept.append(each)"""


@pytest.mark.parametrize(
    ("body", "dropped"),
    [
        ("kept = [p for p in model.pieces if p.type != 1 or p.piece.strip('\u2581')]", True),
        ("kept = [p for p in model.pieces if p.type != 1 or p.piece.replace('\u2581', ' ').strip()]", True),
        ("kept = [p for p in model.pieces if p.piece not in ('\u2581', '\u2581\u2581')]", True),
        (KEPT.replace("TEST", "len(each.piece.lstrip('\u2581')) == 0"), True),
        ("kept = [p for p in model.pieces if p.type != 5]", False),
        ("kept = [p for p in model.pieces if p.piece.strip('\u2581') or p.piece == '\u2581']", False),
        ("kept = [p for p in model.pieces if p.type != 1 or p.piece in wanted]", False),
        (KEPT.replace("TEST", "len(each.piece) == 0"), False),
    ],
)
def test_a_vocabulary_without_its_lone_space(body, dropped):
    layers = unwrapped("cut.py", CUT.replace("BODY", body).encode())
    assert bool(without_lone_space(follow("cut.py", layers, []))) == dropped
