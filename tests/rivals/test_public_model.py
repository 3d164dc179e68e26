"""A public model is scored on every byte once, whatever its windows; what would flatter it is refused."""

import json
import math
import sys

import pytest
import torch

from bitgolf.base.errors import BitgolfError, DataError
from bitgolf.cli.main import main
from bitgolf.rivals.known import KEPT_SCORES, keep_score, known_scores
from bitgolf.rivals.public_model import read_public_model, score_public

transformers = pytest.importorskip("transformers")
tokenizers = pytest.importorskip("tokenizers")

TEXT = "One na\u00efve day, \u6f22 \n\n  the  same text again. " * 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny random GPT-2 with a byte-level vocabulary, as the hub would have it."""
    out = tmp_path_factory.mktemp("public") / "tiny"
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    fast = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={letter: i for i, letter in enumerate([*alphabet, "<s>"])}, merges=[])
    )
    fast.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = tokenizers.decoders.ByteLevel()
    transformers.PreTrainedTokenizerFast(tokenizer_object=fast, bos_token="<s>").save_pretrained(out)
    torch.manual_seed(0)
    shape = transformers.GPT2Config(
        vocab_size=257, n_positions=16, n_embd=16, n_layer=2, n_head=2, initializer_range=0.3
    )
    transformers.GPT2LMHeadModel(shape).save_pretrained(out)
    return out


def scored(model, text):
    """The score, and the steps on its way."""
    steps, work = [], score_public(model, text.encode())
    while True:
        try:
            steps.append(next(work))
        except StopIteration as end:
            return end.value, steps


def test_each_token_is_scored_once_with_half_a_window_before_it(folder):
    """Against a slow twin: a pass of its own for every token."""
    model = read_public_model(str(folder))
    assert model.window_tokens == 16 and model.parameters > 0 and model.model_bytes > 4 * 257 * 16
    score, steps = scored(model, TEXT)
    ids = [256, *model.tokenizer.encode(TEXT, add_special_tokens=False)]
    assert len(ids) - 1 == len(TEXT.encode()) == score.tokens == score.text_bytes
    nats = 0.0
    for at in range(1, len(ids)):
        start = 0 if at <= 16 else 8 * -(-(at - 16) // 8)
        with torch.inference_mode():
            logits = model.network(input_ids=torch.tensor([ids[start:at]])).logits[0, -1].double()
        nats -= float(logits.log_softmax(0)[ids[at]])
    assert score.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-5)
    assert steps[-1] == (len(ids) - 1, len(ids) - 1)


def test_without_a_start_of_text_the_first_token_is_one_of_all(folder):
    model = read_public_model(str(folder))
    with_start, _ = scored(model, "a")
    model.tokenizer.bos_token = None
    score, _ = scored(model, "a")
    assert score.bits_per_byte == pytest.approx(math.log2(257)) != with_start.bits_per_byte


def test_a_tokenizer_that_changes_the_text_is_refused(folder):
    model = read_public_model(str(folder))
    model.tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Lowercase()
    with pytest.raises(DataError, match="does not give the text back.*'One na"):
        scored(model, TEXT)
    with pytest.raises(DataError, match="UTF-8 text alone.*0xff at 2"):
        list(score_public(model, b"ab\xff"))


@pytest.mark.parametrize("name", ["nothing-here", "hf:", "no.gguf"])
def test_what_is_no_model_is_one_clear_error(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(BitgolfError):
        read_public_model(name)


def test_code_of_a_model_is_not_run(folder, tmp_path):
    """A folder that brings its own classes, as ours do, is refused before they are imported."""
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "own.py").write_text("import pathlib\npathlib.Path(__file__).with_name('ran').touch()\n")
    with pytest.raises(BitgolfError, match="transformers cannot read it"):
        read_public_model(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_scores_are_kept_by_text(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path))
    model = read_public_model(str(folder))
    score, _ = scored(model, TEXT)
    for _ in range(2):
        keep_score(TEXT.encode(), score)
    rows = known_scores(TEXT.encode())
    assert [row["bits_per_byte"] for row in rows] == [score.bits_per_byte] and rows[0]["name"] == "tiny"
    assert known_scores(b"another text") == []
    (tmp_path / KEPT_SCORES).write_text("[1]")
    assert known_scores(TEXT.encode()) == []


def test_score_shows_it_beside_the_own_model(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("BITGOLF_CACHE", str(tmp_path))
    (tmp_path / "mine.txt").write_text(TEXT)

    def said(*more):
        words = ["score", "--text", str(tmp_path / "mine.txt"), "--beside", str(folder), *more]
        monkeypatch.setattr(sys, "argv", ["bitgolf", *words])
        with pytest.raises(SystemExit) as end:
            main()
        assert end.value.code == 0
        return capsys.readouterr().out

    assert "public models" in (shown := said()) and "tiny" in shown
    row = json.loads(said("--json"))["public_models"][0]
    assert row["text_bytes"] == len(TEXT.encode())
    assert known_scores(TEXT.encode())[0]["bits_per_byte"] == row["bits_per_byte"]
