"""Bytes to fewer bytes and back. Decoding never produces more than the size it was promised.

Compressors see bytes; entropy coders (Histogram, RowColumn) also see which matrices of codes the bytes are.
"""

from bitgolf.squeeze.codec import Codec
from bitgolf.squeeze.symbol_model import Shapes


def decompress(codec: str, data: bytes, num_bytes: int, shapes: Shapes = ()) -> bytes:
    """The `num_bytes` bytes behind `data`, by the codec of this name."""
    kind = next(kind for kind in Codec.__subclasses__() if kind.name == codec)
    return kind.decode(data, num_bytes, shapes)[0]
