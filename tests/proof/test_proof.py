"""Texts coded by a model and read back: the same bytes, the size that the score says, every fault named."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.base.events import finish
from bitgolf.net.backend import Backend
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.proof import frames
from bitgolf.proof.arithmetic import NATIVE, PLAIN
from bitgolf.proof.coder import TokenDecoder, TokenEncoder
from bitgolf.proof.crew import Coder, identity_of
from bitgolf.proof.file import compress, compress_tokens, decompress, read_header
from bitgolf.proof.frames import Layout, decode_frame, encode_frame, parallel_nats
from bitgolf.proof.frequencies import BIT_STEPS, FREQUENCY_BITS, frequencies_of, frequency_table
from bitgolf.proof.lanes import Lanes
from bitgolf.proof.prove import RAREST_BITS, alarms_in, share_of
from bitgolf.text.encoder import Encoder, train_tokenizer
from tests.cli.test_cli import bitgolf, finished, recipe_file, refused  # noqa: F401
from tests.test_behaviour import FACTORS, ROWS, BeforeToo, model_of

LANES, WINDOW, STRIDE = 3, 12, 5
ODD_TEXTS = {
    "nothing": b"",
    "one byte": b"\xff",
    "text": b"The people of this nation shall keep peace with all.\n" * 30,
    "invalid UTF-8": bytes(range(256)) * 3,
    "random": np.random.default_rng(3).bytes(1500),
    "zeros": bytes(2_000),
}


@pytest.fixture(scope="module")
def coder():
    text = ODD_TEXTS["text"] + ODD_TEXTS["invalid UTF-8"]
    tokenizer = train_tokenizer([text], 300)
    plan = ModelPlan(vocabulary_size=tokenizer.vocabulary_size, layers=2, width=32, heads=2, kv_heads=1)
    return Coder(shaken(plan), tokenizer, b"8 bytes.", WINDOW)


def encoded(coder, text):
    return Encoder(coder.tokenizer).encode(text)


def shaken(plan):
    """A model whose every tensor has moved from where it starts."""
    model, draw = build_model(plan, 1).use(Backend()).eval(), torch.Generator().manual_seed(7)
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.add_(0.1 * torch.randn(tensor.shape, generator=draw))
    return model


@pytest.mark.parametrize("arithmetic", [PLAIN, NATIVE])
@pytest.mark.parametrize("number", range(len(ROWS)))
def test_steps_expect_what_a_parallel_pass_does(number, arithmetic):
    """In lanes with a window that slides, for every two techniques of the network together."""
    plan = model_of({name: FACTORS[name][i] for name, i in ROWS[number].items()}, 64)
    model, layout = shaken(plan), Layout(100, LANES, 34, WINDOW, STRIDE, 1)
    tokens = np.random.default_rng(1).integers(0, plan.vocabulary_size, layout.tokens)
    coded = finish(encode_frame(model, tokens, layout, arithmetic))
    assert coded.nats == pytest.approx(parallel_nats(model, tokens, layout).sum(), abs=1e-3)
    assert np.array_equal(finish(decode_frame(model, coded, 100, layout, "here", arithmetic)), tokens)


def test_every_lane_length_and_window_gives_the_tokens_back(coder):
    rng = np.random.default_rng(2)
    for tokens, lanes, window, stride in (
        (1, 1, 1, 1),
        (7, 5, 4, 4),
        (40, 1, 16, 1),
        (41, 4, 6, 6),
        (9, 9, 5, 2),
    ):
        layout = Layout(tokens, lanes, math.ceil(tokens / lanes), window, stride, 1)
        text = rng.integers(0, 300, tokens)
        coded = finish(encode_frame(coder.model, text, layout))
        assert np.array_equal(finish(decode_frame(coder.model, coded, tokens, layout, "")), text)
        assert coded.nats == pytest.approx(parallel_nats(coder.model, text, layout).sum(), abs=1e-3)


@pytest.mark.parametrize("name", ODD_TEXTS)
def test_any_bytes_come_back_and_never_cost_much_more(coder, name):
    text = ODD_TEXTS[name]
    packed = finish(compress(coder, text)).data
    assert finish(decompress(coder, packed)) == text
    assert len(packed) <= 1.01 * len(text) + 15
    tokens = encoded(coder, text)
    if len(tokens):
        assert finish(decompress(coder, finish(compress_tokens(coder, tokens, text, lanes=2)).data)) == text


def test_the_coded_size_is_the_score(coder):
    """Within 0.05% of the nats, whatever the vocabulary, and however sure or unsure the model is."""
    rng = np.random.default_rng(5)
    for size, sharpness in ((2, 1.0), (300, 0.1), (300, 6.0), (4096, 3.0), (20_000, 3.0)):
        encoder, nats = TokenEncoder(), 0.0
        for _ in range(20):
            logits = torch.from_numpy(sharpness * rng.standard_normal((20, size))).float()
            shares, chosen = logits.double().softmax(1), torch.multinomial(logits.double().softmax(1), 1)
            encoder.write(chosen[:, 0].numpy(), frequencies_of(logits))
            nats -= float(shares.gather(1, chosen).log().sum())
        assert 8 * len(encoder.finish()) == pytest.approx(nats / math.log(2), rel=5e-4, abs=64), (
            size,
            sharpness,
        )


def test_shares_are_whole_numbers_of_an_exact_table():
    table = frequency_table()
    assert table.dtype == np.int64 and table.min() == 1 and (np.diff(table) <= 0).all()
    exact = 2.0 ** (FREQUENCY_BITS - np.arange(len(table)) / BIT_STEPS)
    assert np.abs(table - exact).max() <= 2
    shares = frequencies_of(torch.tensor([[0.0, -math.log(2), -1e9, -40.0]]))
    assert shares[0, 0] - 1 == 2 * (shares[0, 1] - 1) and (shares > 0).all()


def test_tokens_that_hardly_ever_come_can_be_coded():
    shares = frequencies_of(torch.tensor([[50.0] + 4095 * [-50.0]]))
    encoder = TokenEncoder()
    for token in (0, 4095, 1, 0):
        encoder.write(np.array([token]), shares)
    decoder = TokenDecoder(encoder.finish())
    assert [int(decoder.read(shares)[0]) for _ in range(4)] == [0, 4095, 1, 0]


def test_a_model_that_looks_at_the_token_it_codes_is_caught(coder, monkeypatch):
    """The planted fault: scored so, a text would cost nothing; there is no way to read it back."""
    tokens = np.random.default_rng(4).integers(0, 300, 60)
    layout = Layout(60, 2, 30, WINDOW, STRIDE, 1)
    honest, coming = Lanes.logits, iter(frames.in_lanes(tokens, 2).T)

    def peeking(lanes):
        logits = honest(lanes)
        return logits.scatter_add(1, torch.from_numpy(next(coming).copy())[:, None], torch.full((2, 1), 9.0))

    fair = finish(encode_frame(coder.model, tokens, layout))
    with monkeypatch.context() as patch:
        patch.setattr(Lanes, "logits", peeking)
        cheap = finish(encode_frame(coder.model, tokens, layout))
    assert len(cheap.data) < 0.7 * len(fair.data)
    with pytest.raises(ArtifactError, match="other tokens than were coded"):
        finish(decode_frame(coder.model, cheap, 60, layout, "frame 1"))


def test_damage_is_found_and_located(coder):
    text = ODD_TEXTS["text"]
    whole = finish(compress_tokens(coder, encoded(coder, text), text)).data
    rng = np.random.default_rng(6)
    for place in (*range(60), *rng.integers(0, len(whole), 40).tolist()):
        changed = bytearray(whole)
        changed[place % len(whole)] ^= 1 << int(rng.integers(8))
        with pytest.raises(BitgolfError):
            finish(decompress(coder, bytes(changed), "a.golf"))
    for length in range(len(whole)):
        with pytest.raises(ArtifactError):
            finish(decompress(coder, whole[:length], "a.golf"))
    with pytest.raises(ArtifactError, match="bytes follow"):
        finish(decompress(coder, whole + b"x", "a.golf"))
    changed = whole[:-1] + bytes([whole[-1] ^ 1])
    with pytest.raises(ArtifactError, match="frame 1 of 1 at byte .* damaged|damaged"):
        finish(decompress(coder, changed, "a.golf"))


def test_several_frames_are_read_each_alone(coder, monkeypatch):
    monkeypatch.setattr(frames, "MOST_LANE_TOKENS", 40)
    text = ODD_TEXTS["text"]
    tokens = encoded(coder, text)
    packed = finish(compress_tokens(coder, tokens, text, lanes=2))
    assert packed.layout is not None and len(packed.layout.frames()) > 2
    assert finish(decompress(coder, packed.data)) == text
    assert read_header(packed.data).layout == packed.layout


def test_the_bits_do_not_depend_on_threads(coder):
    text = ODD_TEXTS["text"]
    coded = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        coded.append(finish(compress_tokens(coder, encoded(coder, text), text)).data)
    assert coded[0] == coded[1]


def test_a_share_of_frames_is_read_as_people_write_it():
    assert share_of("1%") == 0.01 and share_of("0.5") == 0.5 and share_of("100%") == 1.0
    for wrong in ("0", "101%", "-1", "a", "", "nan"):
        with pytest.raises(BitgolfError, match="not a share"):
            share_of(wrong)


def test_prove_and_check(bitgolf, finished, tmp_path):  # noqa: F811
    folder, _ = finished
    code, out, _ = bitgolf("prove", folder, "--bytes", 900, "--json")
    assert code == 0
    found = json.loads(out)
    coded = folder / "proof" / "coded.bin"
    assert found["bits_per_byte"] == 8 * coded.stat().st_size / found["text_bytes"]
    assert 800 < found["text_bytes"] <= 900
    assert found["stepwise_bits_per_byte"] == pytest.approx(found["parallel_bits_per_byte"], abs=1e-4)
    certificate = folder / "proof" / "certificate.json"
    code, out, _ = bitgolf("prove", folder, "--check", certificate, "--audit", "1%", "--json")
    assert code == 0 and json.loads(out)["holds"]
    refused(bitgolf("prove", folder, "--audit", "1%"), "--audit", "no use here", "--check")
    for words in (
        ("--bytes", 5),
        ("--text", "a.txt"),
        ("--set", "score.mixers=(NgramCache(),)"),
        ("--portable",),
    ):
        refused(bitgolf("prove", folder, "--check", certificate, *words), words[0], "no use here")
    stated = json.loads(certificate.read_text())
    for change in ({"bits_per_byte": 0.9}, {"text_sha256": "0" * 64}, {"artifact_bytes": 5}):
        certificate.write_text(json.dumps({**stated, **change}))
        refused(bitgolf("prove", folder, "--check", certificate), "error:")
    certificate.write_text(json.dumps({**stated, "coded_sha256": 5}))
    refused(bitgolf("prove", folder, "--check", certificate), "coded_sha256")


@pytest.fixture
def without_lzma(monkeypatch):
    """A text that repeats is smaller by LZMA than by a model of four steps, which is to be tried here."""

    def lzma(text):
        yield 0, 1
        return bytes(10**6)

    monkeypatch.setattr("bitgolf.proof.file._lzma", lzma)


def test_files_are_compressed_as_other_tools_do_it(
    bitgolf,  # noqa: F811
    finished,  # noqa: F811
    tmp_path,
    monkeypatch,
    without_lzma,
):
    folder, _ = finished
    (tmp_path / "a.txt").write_bytes(ODD_TEXTS["text"])
    code, _, err = bitgolf("compress", "a.txt", "-o", "by-the-shipped.golf")
    assert code == 0 and "the model that ships" in err
    assert bitgolf("decompress", "by-the-shipped.golf", "-o", "again.txt")[0] == 0
    assert (tmp_path / "again.txt").read_bytes() == ODD_TEXTS["text"]
    code, out, _ = bitgolf("compress", "a.txt", "-m", folder, "--json")
    facts = json.loads(out)
    assert (
        code == 0
        and facts["way"] == "model"
        and facts["file_bytes"] == (tmp_path / "a.txt.golf").stat().st_size
    )
    refused(bitgolf("compress", "a.txt", "-m", folder), "there already", "--force")
    code, out, _ = bitgolf("compress", "a.txt.golf", "--list", "--json")
    assert code == 0 and json.loads(out)["text_bytes"] == len(ODD_TEXTS["text"])
    refused(bitgolf("decompress", "a.txt.golf", "-m", folder), "there already")
    assert bitgolf("decompress", "a.txt.golf", "-m", folder, "-o", "b.txt")[0] == 0
    assert (tmp_path / "b.txt").read_bytes() == ODD_TEXTS["text"]
    refused(bitgolf("decompress", "a.txt", "-m", folder), "not a file that bitgolf compressed")
    refused(bitgolf("compress", "none.txt", "-m", folder), "none.txt")
    monkeypatch.setenv("BITGOLF_MODEL", str(folder))
    code, out, _ = bitgolf("compress", "a.txt", "--window", 8, "--force", "--json")
    assert code == 0 and json.loads(out)["window"] == 8 != facts["window"]
    assert bitgolf("decompress", "a.txt.golf", "-f", "--json")[0] == 0
    assert (tmp_path / "a.txt").read_bytes() == ODD_TEXTS["text"]


def test_a_process_of_its_own_reads_it_from_the_pipe(bitgolf, finished, tmp_path, without_lzma):  # noqa: F811
    folder, _ = finished
    text = ODD_TEXTS["text"]
    (tmp_path / "a.txt").write_bytes(text)
    assert bitgolf("compress", "a.txt", "-m", folder)[0] == 0
    words = [sys.executable, "-m", "bitgolf", "decompress", "-", "-m", str(folder)]
    data = (tmp_path / "a.txt.golf").read_bytes()
    assert read_header(data).layout is not None, "the model wrote it"
    root = os.path.dirname(os.path.dirname(os.path.abspath(frames.__file__)))  # noqa: PTH100, PTH120
    child = subprocess.run(words, input=data, capture_output=True, cwd=os.path.dirname(root), check=False)  # noqa: PTH120
    assert child.stdout == text and child.returncode == 0


def test_a_part_that_looks_back_cannot_be_stepped():
    with pytest.raises(BitgolfError, match="cannot be coded"):
        Lanes(
            shaken(ModelPlan(layers=1, width=16, heads=2, kv_heads=1, heads_out=(BeforeToo(),))), 2, 8, 4, 1
        )


def test_another_model_is_refused_by_name(coder):
    text = ODD_TEXTS["text"]
    data = finish(compress_tokens(coder, encoded(coder, text), text)).data
    other = coder._replace(identity=identity_of(b"another"))
    with pytest.raises(BitgolfError, match="another model"):
        finish(decompress(other, data))


@pytest.mark.parametrize("rare", [2, 40])
def test_what_rare_tokens_cost_less_is_no_alarm_and_anything_else_is(rare):
    """The coder's smallest probability is larger than that of tokens which a model nearly excludes."""
    logits = torch.zeros(200, 300)
    logits[:, 7] -= rare * np.log(2)
    writer, bits = TokenEncoder(), -logits.double().log_softmax(1)[:, 7].numpy() / np.log(2)
    writer.write(np.full(200, 7), frequencies_of(logits))
    size, beyond = len(writer.finish()), float(np.maximum(bits - RAREST_BITS, 0).sum())
    assert (8 * size < bits.sum() - 100) == (rare == 40)
    scores = dict.fromkeys(("stepwise_bits_per_byte", "parallel_bits_per_byte"), bits.sum() / 400)
    counts = {"container_bytes": 40, "text_bytes": 400, "frames": 1, "tokens": 200}

    def alarms(rare_bits, more=0):
        figures = scores | counts | {"coded_bytes": size + 40 + more, "rare_bits": rare_bits}
        return list(alarms_in(figures))

    assert alarms(beyond) == [] and bool(alarms(0)) == (rare == 40)
    assert "coded bits" in alarms(beyond, more=int(bits.sum() / 8))[0]
    assert rare == 40 or "coded bits" in alarms(beyond, more=-30)[0]
