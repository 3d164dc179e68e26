"""A vocabulary of a few pieces, for mixers that ask what tokens stand for."""


class Pieces:
    """Two ids without bytes, letters, and pieces that begin alike; one of them stands for two ids."""

    pieces = [
        b"",
        b"",
        *(bytes([letter]) for letter in b"abcdn "),
        b"an",
        b"and",
        b" an",
        b"ana",
        b"a",
        b"cab",
    ]
    bos = 1
    lossless = True


VOCABULARY = len(Pieces.pieces) + 1  # the model has one more id than the tokenizer
