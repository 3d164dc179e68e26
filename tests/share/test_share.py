"""The page gives the probabilities of the packed model and the ids of its tokenizer."""

import html
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import sentencepiece
import torch

from bitgolf import share
from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import finish
from bitgolf.catalog.probes import perturbed
from bitgolf.export.exported import read_exported
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import Xsa
from bitgolf.net.layers import LnScale
from bitgolf.net.mlp import LeakyReluSquared
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import AttentionWindow, DocumentAttention, Rope
from bitgolf.net.values import ValueEmbedding
from bitgolf.report.sample import logits_of
from bitgolf.share.page import in_page, write_page
from bitgolf.share.step import KNOWN, operation
from bitgolf.squeeze.artifact import pack
from bitgolf.squeeze.presets import rate_aware
from bitgolf.squeeze.quantize import QuantizePlan, quantize_weights
from bitgolf.text.encoder import Encoder, train_tokenizer
from bitgolf.text.tokenizer import MODEL_FILE_KIND, Tokenizer

PLAN = ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1)
RICH = PLAN.replace(
    layers=3,
    embed=(BigramHash(buckets=64, dimension=8), SmearGate()),
    values=(ValueEmbedding(dimension=8, layers=(1, 2)),),
    heads_out=(Xsa(last=2),),
    position=Rope(dims=8),
    input_scale=LnScale(),
    activation=LeakyReluSquared(),
    scope=(AttentionWindow(tokens=16), DocumentAttention()),
    tied=False,
)
TEXT = "My na\u00efve NASA iPhone, \u6f22\u5b57 \U0001f600\n\n\n  <b>&amp; a\u2581b\0c "
TEXTS = [TEXT, "", "A" * 70 + "bCd", "\n\n", "the people of this nation"]
NODE, CHROMIUM = shutil.which("node"), shutil.which("chromium") or shutil.which("google-chrome")
needs_node = pytest.mark.skipif(not NODE, reason="no node to run the page's scripts with")


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    return shared(PLAN, dataset, tmp_path_factory.mktemp("plain"))


def shared(plan, dataset, folder, quantize=None):
    weights = {name: tensor.detach() for name, tensor in perturbed(plan).named_parameters()}
    tensors, _ = quantize_weights(quantize or QuantizePlan(), weights)
    path = folder / "model.bin"
    path.write_bytes(pack(plan, tensors, dataset.tokenizer.to_bytes()).data)
    finish(write_page(str(path), folder / "page.html", ""))
    return path, folder / "page.html"


def asked(page, texts=(TEXT,), ids=()):
    driver = Path(__file__).with_name("driver.js")
    question = json.dumps({"texts": list(texts), "ids": list(ids)})
    return json.loads(said_by([NODE, driver, page], question))


def said_by(words, given=""):
    return subprocess.run(words, input=given, text=True, capture_output=True, check=True).stdout


def largest_difference(path, ids, logits):
    """Of a probability, between the page's and the model's own, which passes the window whole."""
    model = read_exported(str(path)).model()
    model.window = 1024
    with torch.inference_mode():
        own = model.logits(torch.tensor([ids]))[0].softmax(-1)
    return float((torch.tensor(logits).softmax(-1) - own).abs().max())


def drawn_ids(count):
    ids = torch.randint(2, 320, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    return [1, *ids[1:-8], 1, *ids[-7:]]


@needs_node
def test_the_page_gives_the_probabilities_and_ids_of_the_model(plain, dataset, tmp_path):
    (path, written), page = plain, tmp_path / "page.html"
    page.write_text(written.read_text())
    found = asked(page, TEXTS, ids := drawn_ids(40))
    assert largest_difference(path, ids, found["logits"]) < 1e-5
    assert found["texts"] == [Encoder(dataset.tokenizer).encode(text.encode()).tolist() for text in TEXTS]
    assert found["back"] == TEXTS
    assert "".join(piece["text"] for piece in found["pieces"]) == TEXT
    assert sum(piece["bits"] for piece in found["pieces"]) == len(found["texts"][0])
    assert set(found["operations"]) == KNOWN
    assert found["greedy"] == 1 and found["drawn"] == [2, 2, 1]
    # A fault in the engine is seen.
    text = page.read_text()
    page.write_text(text.replace("cos: one(Math.cos)", "cos: one(Math.sin)"))
    assert largest_difference(path, ids, asked(page, ids=ids)["logits"]) > 1e-3
    own = re.sub(r"<script type=[^>]*>.*", "", text)  # without what the page holds
    assert not re.search(r"(src|href)=|https?://|import\(|fetch\(", own)


@needs_node
@pytest.mark.slow
def test_whatever_parts_it_has_and_however_it_is_packed(dataset, tmp_path):
    path, page = shared(RICH, dataset, tmp_path, rate_aware())
    ids = drawn_ids(60)
    assert largest_difference(path, ids, asked(page, ids=ids)["logits"]) < 1e-4


@needs_node
def test_tokenizers_encode_and_decode_alike(dataset, tmp_path):
    documents = [b"The people of this Nation, and the NASA, keep peace with all for many years.\n" * 40]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(documents[0].decode().splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        hard_vocab_limit=False,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        minloglevel=3,
    )
    for tokenizer in (
        train_tokenizer(documents, 280),
        train_tokenizer(documents, 260, case_ops=True),
        Tokenizer(MODEL_FILE_KIND, model.getvalue()),
    ):
        source = (Path(share.__file__).parent / "tokenizer.js").read_text()
        code = f"""{source}
            const t = new BitgolfTokenizer({json.dumps(in_page(tokenizer))});
            const back = (ids) => new TextDecoder().decode(t.decode(ids));
            const found = {json.dumps(TEXTS)}.map((text) => [t.encode(text), back(t.encode(text))]);
            console.log(JSON.stringify(found));"""
        said = json.loads(said_by([NODE, "-"], code))
        own = [Encoder(tokenizer).encode(text.encode()).tolist() for text in TEXTS]
        assert said == [[ids, text] for ids, text in zip(own, TEXTS)]


@needs_node
def test_a_full_window_begins_again_as_sampling_does(plain, dataset, tmp_path):
    (path, written), page = plain, tmp_path / "page.html"
    page.write_text(written.read_text())
    text = page.read_text()
    window = json.loads(re.search('id="model">(.*?)</script>', text)[1])["window"]
    assert window == 1023
    page.write_text(text.replace(f'"window":{window}', '"window":8'))
    ids = drawn_ids(30)
    found, own = asked(page, ids=ids)["logits"], []
    model = read_exported(str(path)).model()
    given = ids[:1]
    for logits, following in zip(logits_of(model, given, 8), [*ids[1:], 0]):
        own.append(logits.tolist())
        given.append(following)
        if len(own) == len(ids):
            break
    assert torch.allclose(torch.tensor(found), torch.tensor(own), atol=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="no Chromium to open the page with")
def test_it_writes_in_chromium(plain, dataset, tmp_path):
    (path, written), page = plain, tmp_path / "page.html"
    page.write_text(written.read_text())
    ids = drawn_ids(20)
    hand = Path(__file__).with_name("hand.js").read_text().replace("IDS", json.dumps(ids))
    page.write_text(page.read_text().replace("</body>", f"<script>{hand}</script></body>"))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=60000"]
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    dom = said_by([CHROMIUM, *options, profile, "--dump-dom", page.as_uri()])
    said = json.loads(html.unescape(re.search('<pre id="said">(.*?)</pre>', dom, re.S)[1]))
    assert largest_difference(path, ids, said["logits"]) < 1e-5
    assert said["quick"]
    assert said["text"].startswith("the people") and said["own"] > 0 and float(said["bpb"]) > 0


def test_the_page_of_the_model_that_ships_is_not_written_into_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "share.html").mkdir()
    with pytest.raises(BitgolfError, match="^share.html: .*a folder is there"):
        finish(write_page("demo", None, ""))


def test_what_a_page_cannot_run_is_refused_in_one_line(dataset, tmp_path):
    with pytest.raises(BitgolfError, match="no operation of this model"):
        operation(torch.ops.aten.linalg_qr.default)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the people of this nation"] * 9),
        model_writer=model,
        vocab_size=40,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    with pytest.raises(BitgolfError, match="no rules for this tokenizer"):
        in_page(Tokenizer(MODEL_FILE_KIND, model.getvalue()))
    path = tmp_path / "model.bin"
    path.write_bytes(b"no model")
    with pytest.raises(BitgolfError):
        finish(write_page(str(path), None, ""))
