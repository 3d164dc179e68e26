"""A file is read as its ending says; what its content or its kind contradicts is one error."""

import bz2
import gzip
import io
import json
import lzma
import os
import socket

import pyarrow
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import DataError
from bitgolf.corpus import textfile
from bitgolf.corpus.sources import Files, source_from
from bitgolf.corpus.textfile import named, text_to_score
from bitgolf.corpus.texts import read_documents

TEXT = b"".join(b"line %d of a text\n\n" % place for place in range(3000))
PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


def write(path, content: bytes):
    path.write_bytes(content)
    return path


def whole(path) -> bytes:
    return b"".join(read_documents(path))


@pytest.mark.parametrize("packing", ["", *PACK])
@pytest.mark.parametrize("ending", [".txt", ".TXT", ".text", ".md", ".Markdown"])
def test_endings_decide_for_single_files_whatever_their_case(tmp_path, ending, packing):
    content = PACK[packing](TEXT) if packing else TEXT
    path = write(tmp_path / f"a.b{ending}{packing.upper()}", content)
    parts = list(source_from(str(path)).documents())
    assert b"".join(parts) == TEXT and len(parts) > 5
    assert text_to_score(path) == TEXT


@pytest.mark.parametrize("packing", ["", *PACK])
def test_rows_are_read_in_every_packing(tmp_path, packing):
    rows = [{"text": "one"}, {"text": None}, {"text": "two\ud800", "n": 1}]
    lines = "\n".join(map(json.dumps, rows)).encode()
    expected = [b"one", b"", "two\ud800".encode("utf-8", "surrogatepass")]
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": ["one", None, "two"]}), table)
    pack = PACK.get(packing, bytes)
    for ending, content in (
        (".jsonl", lines),
        (".JSONL", b"\xef\xbb\xbf" + lines.replace(b"\n", b"\r\n\r\n")),
        (".ndjson", lines),
        (".json", lines),
        (".json", json.dumps(rows).encode()),
        (".json", b"\xef\xbb\xbf" + json.dumps(rows, indent=1).encode()),
        (".json", json.dumps(["one", *rows[1:]]).encode()),
    ):
        assert list(read_documents(write(tmp_path / f"a{ending}{packing}", pack(content)))) == expected
    path = write(tmp_path / f"a.parquet{packing}", pack(table.getvalue()))
    assert list(read_documents(path)) == [b"one", b"", b"two"]
    one = write(tmp_path / f"one.json{packing}", pack(b'{"text":\n "alone"}\n'))
    assert list(read_documents(one)) == [b"alone"]


@settings(max_examples=40, deadline=None)
@given(st.binary(), st.sampled_from(sorted(PACK)), st.integers(1, 3), st.integers(1, 4000))
def test_any_bytes_unpack_to_themselves_in_any_number_of_members(tmp_path_factory, data, packing, members, n):
    path = tmp_path_factory.mktemp("packed") / f"a.txt{packing}"
    data = data * n
    padding = b"\0" * 64 if packing in (".gz", ".xz") else b""
    path.write_bytes((PACK[packing](data) + padding) * members)
    with io.BufferedReader(textfile.TextFile(path, packing)) as file:
        assert file.read() == data * members
    if data:
        path.write_bytes(PACK[packing](data)[:-1])
        with pytest.raises(DataError, match="cut short|cannot read"):
            io.BufferedReader(textfile.TextFile(path, packing)).read()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", gzip.compress(TEXT, mtime=0), "not what the ending says .found 'gzip data'"),
        ("a.jsonl", zstandard.ZstdCompressor().compress(TEXT), "zstandard data"),
        ("a.txt", bz2.compress(TEXT), "bzip2 data"),
        ("a.txt", lzma.compress(TEXT), "xz data"),
        ("a.txt.gz", gzip.compress(gzip.compress(TEXT, mtime=0), mtime=0), "gzip data"),
        ("a.txt.gz", TEXT, "cannot read: not gzip data"),
        ("a.txt.zst", gzip.compress(TEXT, mtime=0), "cannot read: not zstandard data"),
        ("a.txt.xz", lzma.compress(TEXT)[:-20], "cut short inside its xz data"),
        ("a.md", b"PK\x03\x04 zip", "a zip archive"),
        ("a.txt", "words".encode("utf-16"), "UTF-16"),
        ("a.jsonl", '{"text": "x"}'.encode("utf-16"), "UTF-16"),
        ("a.txt", "words".encode("utf-16-be"), "a NUL at byte 0"),
        ("a.txt", b"abc\0def", "a NUL at byte 3"),
        ("a.txt", bytes(range(1, 256)), "binary data"),
        ("a.docx", b"PK\x03\x04", "not a text file by its ending; it takes .txt"),
        ("a.csv", b"text\nx\n", "name plain text .txt"),
        ("a", b"no ending", "not a text file by its ending"),
        ("a.tar.gz", gzip.compress(b"x", mtime=0), "not a text file by its ending"),
        ("a.jsonl", b'{"text": "x"}\n' + b"[" * 100_000, "line 2: not readable as JSON: nested too deep"),
        ("a.json", b'{"a":' * 100_000, "not readable as JSON: nested too deep"),
        ("a.jsonl", b'{"text": 1}', "line 1: \"text\" is not a string .found 'float'"),
        ("a.jsonl", b'{"text": ["x"]}', "\"text\" is not a string .found 'list'"),
        ("a.jsonl", b'{"text": "x", "text": "y"}', 'line 1: .*"text" stands twice'),
        ("a.jsonl", b'{"Text": "x"}', r"no string under \"text\" .found \['Text'\]"),
        ("a.json", b'[{"text": "x"}, 7]', "item 2: no string under"),
        ("a.json", b'{"texts": ["x"]}', r"found \['texts'\]"),
        ("a.json", b'[{"text": "x"},\n{"text"]', "not readable as JSON: .*line 2"),
    ],
)
def test_what_is_not_what_its_name_says_is_refused(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as caught:
        whole(write(tmp_path / name, content))
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600 and name in str(caught.value)


def test_numbers_of_any_length_do_not_matter(tmp_path):
    row = b'{"n": ' + b"9" * 10_000 + b', "x": 1e99999, "y": NaN, "text": "x"}'
    assert whole(write(tmp_path / "a.jsonl", row)) == b"x"


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(st.binary(), st.text().map(lambda text: json.dumps([text]).encode()), st.text().map(str.encode))
)
@example(b'{"text": "\\ud800"}')
@example(b'{"text": null}')
@example(b"BZh is a word")
def test_any_content_is_read_or_refused_in_one_line(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("any")
    for name in ("a.txt", "a.jsonl", "a.json", "a.parquet", "a.txt.gz", "a.json.zst", "a.md.xz", "a.txt.bz2"):
        try:
            documents = list(read_documents(write(folder / name, content), alone=True))
        except DataError as error:
            assert "\n" not in str(error).replace(repr(content), "")
        else:
            assert all(isinstance(document, bytes) for document in documents)
            assert name != "a.txt" or b"".join(documents) == content


def test_what_unpacks_without_end_is_refused_early(tmp_path, monkeypatch):
    monkeypatch.setattr(textfile, "FREE_BYTES", 1 << 20)
    for packing in PACK:
        path = write(tmp_path / f"bomb.txt{packing}", PACK[packing](b"a" * (1 << 24)))
        with pytest.raises(DataError, match="more than 250 times its size"):
            whole(path)
        path = write(tmp_path / f"fine.txt{packing}", PACK[packing](b"a" * (1 << 20)))
        assert len(whole(path)) == 1 << 20


def test_parquet_takes_strings_and_says_what_else_it_found(tmp_path):
    strings = pyarrow.array(["a", "b", None])
    for column in (strings, strings.cast("large_string"), strings.dictionary_encode()):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
        assert list(read_documents(tmp_path / "a.parquet")) == [b"a", b"b", b""]
    for column, message in (
        (pyarrow.array([b"a"]), 'column "text" holds binary, not strings'),
        (pyarrow.array([1]), 'column "text" holds int64, not strings'),
        (pyarrow.array([["a"]]), 'column "text" holds list'),
    ):
        pyarrow.parquet.write_table(pyarrow.table({"text": column}), tmp_path / "a.parquet")
        with pytest.raises(DataError, match=message):
            whole(tmp_path / "a.parquet")
    twice = pyarrow.Table.from_arrays([strings, strings], names=["text", "text"])
    pyarrow.parquet.write_table(twice, tmp_path / "a.parquet")
    with pytest.raises(DataError, match='more than one column "text"'):
        whole(tmp_path / "a.parquet")
    broken = pyarrow.StringArray.from_buffers(
        1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xff")
    )
    pyarrow.parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="not readable as parquet"):
        whole(tmp_path / "a.parquet")


def test_pipes_devices_sockets_and_loops_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / "loop.txt").symlink_to(tmp_path / "loop.txt")
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere.txt")
    (tmp_path / "zero.txt").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s.txt"))
        for name, kind in (
            ("pipe.txt", "a pipe"),
            ("loop.txt", "not readable: Too many levels"),
            ("gone.txt", "not readable: No such file"),
            ("zero.txt", "a device"),
            ("s.txt", "a socket"),
        ):
            for read in (source_from, lambda path: text_to_score(tmp_path / path)):
                with pytest.raises(DataError, match=rf"{name}: (not a regular file .found '{kind}|{kind})"):
                    read(str(tmp_path / name))
        with pytest.raises(DataError, match="no text files in this folder .*5 of the files"):
            list(source_from(str(tmp_path)).documents())
    with pytest.raises(DataError, match="a folder"):
        text_to_score(tmp_path)
    for typed in ("", "x" * 5000, "~nobodyhere/x", "a\0b"):
        with pytest.raises(DataError, match="no such text source or path"):
            source_from(typed)


def test_files_left_out_are_named_and_counted(tmp_path):
    for name in ("a.txt", "b.TXT", "c.text", "d.jsonl.zst", "e.docx", "f", ".DS_Store", ".g.txt", "h.csv"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "sub.txt").mkdir()
    (tmp_path / "deep.md").mkdir()
    (tmp_path / "deep.md" / "i.md").write_bytes(b"")
    (tmp_path / "linked").symlink_to(tmp_path, target_is_directory=True)
    source = Files(tmp_path)
    assert [path.name for path in source.paths()] == ["a.txt", "b.TXT", "c.text", "d.jsonl.zst", "i.md"]
    assert source.notes() == [
        f"6 of the files in {tmp_path.name} are left out: .g.txt (hidden), e.docx (unknown ending), "
        "f (unknown ending) and 3 more"
    ]
    (tmp_path / os.fsdecode(b"\xe9\n[b].doc")).write_bytes(b"")
    for name in (".g.txt", "e.docx", "f", "h.csv", "linked"):
        (tmp_path / name).unlink()
    (tmp_path / "sub.txt").rmdir()
    assert source.notes()[0].endswith(r"left out: \udce9\x0a[b].doc (unknown ending)")


def test_blank_lines_of_every_system_cut_a_text(tmp_path):
    for line in (b"\n", b"\r\n"):
        path = write(tmp_path / "a.txt", (b"word " * 200 + line + b"word " * 200 + line * 2) * 20)
        parts = list(read_documents(path, alone=True))
        assert len(parts) == 7 and all(part.endswith(line * 2) for part in parts)


def test_names(tmp_path):
    assert named("a.b.JSONL.Zst") == ("JSON lines", ".zst")
    assert named("txt") is named(".gz") is named("a.gz") is named("a.zip") is None
