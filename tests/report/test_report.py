"""The report page: whole, light, inert, and there for broken runs too."""

import html.parser
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bitgolf.base.plan import to_json
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.recipe import Recipe
from bitgolf.report.charts import decades, line_chart, round_numbers, short
from bitgolf.report.folder import Run
from bitgolf.report.report import against_compressors, ledger, training, variants, write_report
from bitgolf.report.scored import places, tokens
from bitgolf.report.screen import UNSHOWN
from bitgolf.squeeze.artifact import pack
from bitgolf.squeeze.quantize import int6_rows, quantize_weights
from bitgolf.text.encoder import Encoder, train_tokenizer

HOSTILE = "<script>alert(1)</script>"
PIECES = [b"", b" the", b"\n", HOSTILE.encode(), b"\xe2", b"\x80", b"\x94", b"\"'&<"]
VOID = {"meta", "path", "br"}


class Page(html.parser.HTMLParser):
    """Checks nesting; gathers tags, attributes and the text that a reader sees."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += "" if "style" in self.open else data


def piece(token: int) -> bytes:
    return PIECES[token]


def plant(folder: Path) -> Path:
    """A run folder of a finished run, with hostile text wherever text can stand."""
    random = np.random.default_rng(0)
    rows = 4000
    position = np.tile(np.arange(1, 501), rows // 500)
    target = random.integers(1, len(PIECES), rows)
    np.savez(
        folder / "scores.npz",
        target=target.astype(np.uint16),
        nats=(random.exponential(1, rows) + 3 / position).astype(np.float32),
        bytes=np.array([len(piece(t)) for t in target]),
        document=np.repeat(np.arange(rows // 500), 500),
        position=position,
        context=np.minimum(position, 256),
    )
    steps = [
        {"step": n, "seconds": n / 10, "nats_per_token": 2 + 5 / n, "scale": 1 - n / 400, "tokens": 4096 * n}
        for n in range(1, 401)
    ]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, steps)) + '\n{"step": 401, "sec')
    (folder / "recipe.json").write_text(json.dumps({**to_json(Recipe()), "name": HOSTILE}))
    (folder / "environment.json").write_text(json.dumps({"torch": "2.13.0", "backend": {"dtype": HOSTILE}}))
    (folder / "result.json").write_text(json.dumps(result()))
    return folder


def result(**changes: Any) -> dict[str, Any]:
    variant = {"windows": "chunked 256", "nats_per_token": 2.2, "tokens": 4000, "seconds": 1.5}
    return {
        "status": "ok", "recipe": "demo", "seed": 7, "bits_per_byte": 1.4021, "windows": "sliding 256/64",
        "text_bytes": 9000, "artifact_bytes": 900_000, "code_bytes": 30_000, "total_bytes": 930_000,
        "budget_bytes": 1_000_000, "parameters": 1_234_567, "train_seconds": 40.0, "steps": 400,
        "tokens_per_second": 41_000.0, "tokens": 4000,
        "gap": 0.01, "gap_error": 0.00042, "predicted_gap": 0.0081,
        "variants": [
            {**variant, "name": "live", "bits_per_byte": 1.45},
            {**variant, "name": "averaged", "bits_per_byte": 1.43},
            {**variant, "name": "quantized", "bits_per_byte": 1.44},
            {**variant, "name": "quantized", "windows": "sliding 256/64", "bits_per_byte": 1.4021},
        ],
        "ledger": [
            ["code with plain packing", 27_000], ["code for quantizers and codecs", 3_000],
            ["tokenizer", 5_000], ["tok_emb.weight", 195_000],
            ["blocks.0.mlp.fc.weight codes", 349_000], ["blocks.0.mlp.fc.weight scales", 1_000],
            ["blocks.1.mlp.fc.weight codes", 349_000],
            ["blocks.0.resid_mix", 1_000],
        ],
        "quantization": [
            {"name": "blocks.0.mlp.fc.weight", "rule": HOSTILE, "bits": 6, "elements": 500_000,
             "bytes": 350_000, "coded_bits": 5.6, "relative_error": 0.03, "relative_error_plain": 0.0312,
             "damage_nats": 0.0004, "damage_nats_plain": 0.0009, "calibration_tokens": 32_768,
             "inputs_seen": 1.0, "outputs_seen": 0.975, "seconds": 0.1, "alarm": "collapsed: 1 row",
             "levels": {"first": -2, "width": 1, "counts": [1, 900, 5000, 900, 1]}},
            {"name": "blocks.0.resid_mix", "rule": "1: Keep", "bytes": 1_000, "alarm": ""},
        ],
        "seconds": {"train": 40.0, "score": 3.0},
        "rivals": [
            {"name": "xz -9e", "alone_bits_per_byte": 2.186, "primed_bits_per_byte": 1.772, "seconds": 4.0},
            {"name": "zstd", "alone_bits_per_byte": None, "primed_bits_per_byte": None, "seconds": 0.0},
        ],
        "sample": f"We the people {HOSTILE} of the\nUnion",
        "run": "my runs/demo", "dataset": "sets/text",
        "data": {"name": "text", "splits": {"val": {"shards": [{"sha256": "ab"}], "tokens": 4001}}},
        **changes,
    }  # fmt: skip


def test_the_page_tells_the_run(tmp_path: Path) -> None:
    path = write_report(plant(tmp_path), piece)
    page = Page(path.read_text())
    assert path == tmp_path / "report.html"
    for text in (
        "1.4021", "bits per byte", "930,000 bytes of 1,000,000 (93.0%)", "41,000 tokens/s", "1,234,567",
        "9,000 bytes, sliding 256/64", "xz -9e, with the training text", "1.7720", "−0.0200", "+0.0100",
        "mlp.fc", "699,000",
        "collapsed: 1 row", "27,000 with plain packing, 3,000 for quantizers and codecs", "5.60", "3.12%",
        "0.000256", "0.000577", "100% 97.5%", "1 tensor stays in floats: 1,000 bytes",
        "+0.01000 ± 0.00042 bits per byte; +0.00810 was to be expected",
        "␣the", "⏎", "\\xe2", "We the people",
        "bitgolf run 'my runs/demo/recipe.json' --data sets/text --seed 7 --out 'my runs/demo-again'",
        "splits val tokens", "4,001", "1 of them",
    ):  # fmt: skip
        assert text in page.text, text
    assert "Not readable" not in page.text and "did not" not in page.text
    pictures = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(pictures) == 6 and all(picture["aria-label"] for picture in pictures)


def test_the_page_is_light_inert_and_the_same_each_time(tmp_path: Path) -> None:
    text = write_report(plant(tmp_path), piece).read_text()
    assert len(text.encode()) < 100_000
    page = Page(text)
    assert HOSTILE in page.text  # shown, as text
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "img", "iframe", "object", "base")]
    attributes = [(name, value) for _, pairs in page.tags for name, value in pairs.items()]
    assert not [name for name, _ in attributes if name in ("src", "href", "srcdoc") or name.startswith("on")]
    assert not re.search(r"https?:|//|url\(|@import", text.replace("</", ""))
    assert write_report(tmp_path, piece).read_text() == text


def test_text_of_others_moves_hides_and_turns_nothing(tmp_path: Path) -> None:
    evil = "a\x1b[2J\u202eb\u2066c\u00ad\udce9"
    plant(tmp_path)
    crash = result(sample=evil, dataset=evil, run=evil, recipe=evil, error=evil, status="crash")
    for odd in (crash, result(sample=evil, ledger=[[evil, 5]])):
        (tmp_path / "result.json").write_text(json.dumps(odd))
        text = write_report(tmp_path, piece).read_text()
        assert {char for char in text if unicodedata.category(char) in UNSHOWN} <= {"\n", "\t"}
        assert "\\u202eb\\u2066c\\xad\\udce9" in text


def test_an_empty_run_and_a_crash_are_told(tmp_path: Path) -> None:
    empty = Page(write_report(tmp_path).read_text())
    assert "not finished" in empty.text and "The run has not been scored" in empty.text
    (tmp_path / "result.json").write_text(
        json.dumps({"status": "crash", "seed": 0, "error": f"Oops {HOSTILE}"})
    )
    crash = Page(write_report(tmp_path).read_text())
    assert "crash" in crash.text and f"Oops {HOSTILE}" in crash.text and "--seed 0" in crash.text


@pytest.mark.parametrize(
    "name", ["scores.npz", "metrics.jsonl", "recipe.json", "environment.json", "result.json"]
)
def test_a_missing_or_damaged_file_costs_its_section_only(tmp_path: Path, name: str) -> None:
    path = plant(tmp_path) / name
    whole = path.read_bytes()
    for damage in (b"", b"\x00[]{", b"[1]", whole[: len(whole) // 2]):
        path.write_bytes(damage)
        Page(write_report(tmp_path, piece).read_text())
    path.unlink()
    assert 'class="missing"' in write_report(tmp_path, piece).read_text() or name == "environment.json"


@pytest.mark.parametrize("value", [None, [], "text", -1, {"a": 1}])
@pytest.mark.parametrize("key", sorted(result()))
def test_no_field_of_the_result_can_stop_the_page(tmp_path: Path, key: str, value: Any) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result(**{key: value})))
    Page(write_report(tmp_path, piece).read_text())


@pytest.mark.parametrize("levels", [3, {}, {"first": 0, "width": 1, "counts": []}, {"counts": [HOSTILE]}])
def test_no_row_of_a_tensor_can_stop_the_page(tmp_path: Path, levels: Any) -> None:
    row = {"name": 3, "rule": None, "bytes": 1, "alarm": "", "inputs_seen": "x", "levels": levels}
    (tmp_path / "result.json").write_text(json.dumps(result(quantization=[row])))
    assert "Not readable" in Page(write_report(tmp_path, piece).read_text()).text
    whole = {**row, "levels": {"first": 0, "width": 1, "counts": [0]}, "coded_bits": HOSTILE}
    (tmp_path / "result.json").write_text(json.dumps(result(quantization=[whole], tokens="x")))
    Page(write_report(tmp_path, piece).read_text())


def test_without_a_model_tokens_are_numbers(tmp_path: Path) -> None:
    page = Page(write_report(plant(tmp_path)).read_text())
    assert "token 3" in page.text and "token by token" not in page.text


def test_the_packed_model_tells_what_tokens_say(tmp_path: Path) -> None:
    tokenizer = train_tokenizer([b"the people of the union " * 20], 270)
    plan = ModelPlan(vocabulary_size=tokenizer.vocabulary_size, layers=1, width=8, heads=2, kv_heads=1)
    weights = {name: tensor.detach() for name, tensor in build_model(plan).state_dict().items()}
    packed = pack(plan, quantize_weights(int6_rows(), weights)[0], tokenizer.to_bytes())
    (plant(tmp_path) / "model.bin").write_bytes(packed.data)
    run = Run(tmp_path)
    assert [run.piece(int(token)) for token in Encoder(tokenizer).encode(b"the union")] == [
        tokenizer.piece(int(token)) for token in Encoder(tokenizer).encode(b"the union")
    ]
    assert "token by token" in write_report(tmp_path).read_text()


@pytest.mark.parametrize(
    "odd", [{}, {"proof": 3}, {"proof": {"text_bytes": "<b>", "coded_bytes": 1, "bits_per_byte": 1}}]
)
def test_a_proof_is_told_where_it_is_whole(tmp_path: Path, odd: dict[str, Any]) -> None:
    plant(tmp_path)
    path = tmp_path / "result.json"
    proof = {"text_bytes": 99_999, "coded_bytes": 15_360, "bits_per_byte": 1.2288}
    for added, told in ({"proof": proof}, True), (odd, False):
        path.write_text(json.dumps(result(**added)))
        page = write_report(tmp_path).read_text()
        assert ("99,999 bytes of this text were coded into 15,360 bytes, 1.2288" in page) == told
        assert told == ("Proven" in page)


def test_over_budget_is_marked(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(result(status="over budget", total_bytes=1_200_000)))
    assert 'class="budget over"' in write_report(tmp_path).read_text()


def test_sections_compute_what_they_show(tmp_path: Path) -> None:
    run = Run(plant(tmp_path), piece)
    assert [row[0] for row in against_compressors(run)["rows"]] == [
        "bitgolf demo",
        "xz -9e, with the training text",
        "xz -9e, alone",
    ]
    assert [row["counts"] for row in variants(run)["rows"]] == [False, False, False, True]
    assert sum(size for _, size, _, _ in ledger(run)["roles"]) == ledger(run)["total"] == 930_000
    role, size, _, parts = ledger(run)["roles"][0]
    assert (role, size, [part[:2] for part in parts]) == (
        "mlp.fc", 699_000, [("block 0", 350_000), ("block 1", 349_000)]
    )  # fmt: skip
    shares = [row[2] for row in tokens(run)["rows"]]
    assert sum(shares) == pytest.approx(1) and shares == sorted(shares, reverse=True)
    assert training(run)["steps"] == 400  # the half-written line is left out
    assert places(run)["by_position"].level is not None


def test_a_chart_spans_its_square() -> None:
    x = np.linspace(5, 100, 1000)
    chart = line_chart("falling", x, 1 / x, points=10)
    points = [tuple(map(float, pair.split())) for pair in chart.line[1:].split("L")]
    assert len(points) == 10 and all(0 <= left <= 1000 and 0 <= down <= 1000 for left, down in points)
    assert points == sorted(points) and points[0][1] < points[-1][1]
    assert chart.band.endswith("Z") and chart.x_ticks[0] == (0, "0") and chart.x_ticks[-1] == (100, "100")


def test_ticks() -> None:
    assert round_numbers(0, 180) == [0, 50, 100, 150]
    assert round_numbers(2.2, 3.4, about=4) == pytest.approx([2.5, 3.0])
    assert decades(1, 30_000) == [1, 10, 100, 1_000, 10_000] and decades(2, 200)[0] == 2
    assert [short(n) for n in (0.25, 40, 1500, 12_000, 3e6)] == ["0.25", "40", "1,500", "12k", "3M"]
