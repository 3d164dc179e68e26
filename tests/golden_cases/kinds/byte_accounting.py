"""How many bytes each token stands for."""

import hashlib

import sentencepiece

from bitgolf.text.tokenizer import Tokenizer
from tests.golden_cases.case import Case, NotCoveredError

SPACE_MARK = "\u2581"


def check(case: Case) -> None:
    stored = case.facts["tokenizer_file"]
    assert stored["name"] == case.arguments["tokenizer"]
    places = (case.beside(stored["name"]), case.path.parent.parent / "data" / "tokenizers" / stored["name"])
    path = next((place for place in places if place.exists()), None)
    if path is None:
        raise NotCoveredError(f"{stored['name']} is neither beside the case nor in {stored['where']}")
    tokenizer, expected = Tokenizer.load(path), case.expected
    check_tables(case, tokenizer)
    ids = case.tensors["token_ids"].numpy()
    counted = tokenizer.token_bytes(ids[1:], ids[:-1])
    assert (counted == case.tensors["out.token_bytes"].numpy()).all()
    assert counted.sum() == expected["total_bytes"] and len(counted) == expected["scored_tokens"]
    again = Tokenizer.from_bytes(tokenizer.to_bytes())
    assert (again.token_bytes(ids[1:], ids[:-1]) == counted).all()
    check_file(case, path.read_bytes(), ids.tolist())


def check_tables(case: Case, tokenizer: Tokenizer) -> None:
    size, expected = case.expected["table_size"], case.expected
    assert tokenizer.vocabulary_size == expected["vocab_size"]
    assert tokenizer.lossless is False
    assert (tokenizer.base_bytes[:size] == case.tensors["out.base_bytes"].numpy()).all()
    assert (tokenizer.leading_space[:size] == case.tensors["out.has_leading_space"].numpy()).all()
    assert (tokenizer.boundary[:size] == case.tensors["out.is_boundary"].numpy()).all()
    assert tokenizer.boundary[size:].all() and not tokenizer.base_bytes[size:].any()
    without_bytes = [*expected["control_ids"], *expected["unknown_ids"], *expected["unused_ids"]]
    assert tokenizer.boundary[without_bytes].all() and not tokenizer.base_bytes[without_bytes].any()


def check_file(case: Case, data: bytes, ids: list[int]) -> None:
    """The case is of this tokenizer file, and its stream samples the pieces and has the texts."""
    expected, arguments = case.expected, case.arguments
    model = sentencepiece.SentencePieceProcessor(model_proto=data)
    pieces = range(model.get_piece_size())
    assert hashlib.sha256(data).hexdigest() == expected["sentencepiece_sha256"]
    assert sum(model.is_byte(piece) for piece in pieces) == expected["n_byte_tokens"]
    inner = [piece for piece in pieces if SPACE_MARK in model.id_to_piece(piece)[1:]]
    assert expected["pieces_with_inner_space_mark"] == inner
    assert set(pieces[:: arguments["sample_every"]]) <= set(ids)
    assert arguments["lead_every"] > 0  # how the rest of the stream was drawn
    assert [len(text.encode()) for text in arguments["texts"]] == expected["utf8_bytes_of_each_text"]
    stream = f" {' '.join(map(str, ids))} "
    for text in filter(None, arguments["texts"]):
        assert f" {' '.join(map(str, model.encode(text)))} " in stream, text
