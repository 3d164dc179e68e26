"""Any texts as one source: a part of the bytes is validation, however few the files, and no byte is lost."""

import pytest

from bitgolf.base.errors import DataError
from bitgolf.corpus.gathered import Gathered, text_sources
from tests.conftest import generated_text


def gathered(*texts, fraction=0.1):
    return Gathered(text_sources([str(text) for text in texts]), fraction)


@pytest.fixture
def book(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text("\n\n".join(generated_text(i, 5) for i in range(600)))
    return path


@pytest.mark.parametrize("fraction", [0.05, 0.1])
def test_one_book_is_cut_so_that_a_part_of_it_is_kept(book, fraction):
    source = gathered(book, fraction=fraction)
    documents = list(source.documents())
    split = source.split(documents, 0.5)  # the source's own fraction counts
    size = book.stat().st_size
    assert sum(map(len, split.train)) + sum(map(len, split.val)) == size
    assert 0.6 * fraction * size <= sum(map(len, split.val)) <= fraction * size
    assert not set(split.train) & set(split.val)


def test_two_files_of_which_one_is_long(book, tmp_path):
    (tmp_path / "note.txt").write_text(generated_text(9, 3))
    source = gathered(book, tmp_path / "note.txt")
    split = source.split(list(source.documents()), 0.1)
    assert len(split.val) > 1
    assert sum(map(len, split.val)) < 0.2 * book.stat().st_size
    assert source.name == "book.txt and note.txt"


def test_equal_documents_stay_on_one_side():
    source = gathered("sotu", fraction=0.5)
    documents = [b"one" * 3000, b"two" * 3000, b"one" * 3000]
    split = source.split(documents, 0.5)
    assert len(split.train) + len(split.val) == 3
    assert not set(split.train) & set(split.val)


def test_the_key_follows_files_and_fraction(book, tmp_path):
    keys = {gathered(book).key, gathered(book, fraction=0.2).key, gathered(book, book).key}
    assert len(keys) == 3


def test_too_little_text(tmp_path):
    (tmp_path / "a.txt").write_text("a few words")
    source = gathered(tmp_path / "a.txt")
    with pytest.raises(DataError, match="too little text"):
        source.split(list(source.documents()), 0.1)


def test_shards_are_no_text(tmp_path):
    (tmp_path / "x_train_0.bin").write_bytes(b"")
    with pytest.raises(DataError, match="token shards, not text"):
        text_sources([str(tmp_path)])
