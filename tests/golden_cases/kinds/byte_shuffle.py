"""The bytes of a file in another order, and back."""

from bitgolf.public.streams import byte_shuffle, byte_unshuffle
from tests.golden_cases.case import Case


def check(case: Case) -> None:
    stride, lengths = case.arguments["stride"], case.expected["lengths"]
    assert [length for length, _ in lengths] == case.arguments["lengths"]
    for i, (length, shuffled_length) in enumerate(lengths):
        data, expected = (bytes(case.tensors[f"{name}.{i}"].tolist()) for name in ("data", "out.shuffled"))
        assert (len(data), len(expected)) == (length, shuffled_length)
        assert byte_shuffle(data, stride) == expected
        assert byte_unshuffle(expected) == data
