"""Several frames: worked off by processes, begun again after a stop, audited by a share."""

import errno
import hashlib
import json
import multiprocessing
from pathlib import Path

import pytest

from bitgolf.base.errors import ArtifactError, BitgolfError
from bitgolf.base.events import NOTE, finish
from bitgolf.base.files import write_bytes
from bitgolf.mix.ngram import NgramCache
from bitgolf.net.model import ModelPlan
from bitgolf.proof import crew as crews
from bitgolf.proof import frames
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.crew import Crew, Encoding, coder_of
from bitgolf.proof.file import compress_tokens, decompress, frames_of, read_header
from bitgolf.proof.prove import Text, check, prove
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.squeeze.artifact import pack, unpack
from bitgolf.squeeze.quantize import int6_rows, quantize_weights
from bitgolf.text.encoder import Encoder, train_tokenizer
from tests.cli.test_cli import bitgolf, refused  # noqa: F401
from tests.proof.test_proof import shaken

TEXT = b"Fellow citizens of the Senate and of the House of Representatives.\n" * 12


@pytest.fixture(scope="module")
def artifact():
    """The bytes of a small packed model that has learned nothing."""
    tokenizer = train_tokenizer([TEXT], 280)
    plan = ModelPlan(vocabulary_size=tokenizer.vocabulary_size, layers=2, width=32, heads=2, kv_heads=1)
    tensors, _ = quantize_weights(int6_rows(), dict(shaken(plan).named_parameters()))
    return pack(plan, tensors, tokenizer.to_bytes()).data


@pytest.fixture(scope="module")
def coder(artifact):
    return coder_of(artifact, 16)


@pytest.fixture
def folder(artifact, tmp_path):
    """A folder with that model."""
    write_bytes(tmp_path / "model" / "model.bin", artifact)
    return tmp_path / "model"


@pytest.fixture
def short_frames(monkeypatch):
    """Frames of a few tokens, so that a small text has several."""
    monkeypatch.setattr(frames, "MOST_LANE_TOKENS", 40)


@pytest.fixture(scope="module")
def proven(coder, tmp_path_factory):
    """A coder, what it coded in several frames, and the certificate."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "MOST_LANE_TOKENS", 40)
        out = tmp_path_factory.mktemp("proof")
        certificate = finish(prove(coder, Text(Encoder(coder.tokenizer).encode(TEXT), TEXT, "text"), out))
    return coder, (out / "coded.bin").read_bytes(), certificate


def coded(coder, crew=crews.ALONE):
    return finish(compress_tokens(coder, Encoder(coder.tokenizer).encode(TEXT), TEXT, 2, crew))


def test_processes_write_and_read_the_same_file(coder, short_frames, monkeypatch):
    monkeypatch.setattr(crews, "LOOK_SECONDS", 0.001)
    alone, before = coded(coder), set(multiprocessing.active_children())
    assert alone.layout is not None and len(alone.layout.frames()) > 2
    steps = []
    tokens = Encoder(coder.tokenizer).encode(TEXT)
    assert finish(compress_tokens(coder, tokens, TEXT, 2, Crew(processes=2)), steps.append) == alone
    done = [each for each, _ in steps]
    assert done == sorted({*done}) and done[-1] == len(tokens), "no line twice"
    assert len({*done}) > 1 + len(alone.layout.frames()), "within frames too, not at their ends alone"
    assert finish(decompress(coder, alone.data, "", Crew(processes=2))) == TEXT
    assert set(multiprocessing.active_children()) <= before
    other = bytearray(alone.data)
    place = len(alone.data) - 1
    other[place] ^= 1
    with pytest.raises(ArtifactError, match="damaged"):
        finish(decompress(coder, bytes(other), "", Crew(processes=2)))


def test_what_was_finished_is_not_done_again(coder, short_frames, tmp_path, monkeypatch):
    part, whole = tmp_path / "a.golf.part", coded(coder)
    count = len(whole.layout.frames())
    begun = compress_tokens(coder, Encoder(coder.tokenizer).encode(TEXT), TEXT, 2, Crew(part=part))
    for _ in range(90):  # into the third frame, whose lanes have 40 steps
        next(begun)
    begun.close()
    with part.open("ab") as file:
        file.write(b"a record that was cut")
    asked = []
    real = Encoding.result
    monkeypatch.setattr(Encoding, "result", lambda job, by: asked.append(job) or real(job, by))
    assert coded(coder, Crew(part=part)) == whole
    assert 0 < len(asked) == count - 2
    assert coded(coder, Crew(part=part)) == whole and len(asked) == count - 2
    changed = bytearray(part.read_bytes())
    changed[len(changed) // 2] ^= 1
    part.write_bytes(changed)
    assert coded(coder, Crew(part=part)) == whole and len(asked) > count - 2
    assert coded(coder._replace(identity=b"another."), Crew(part=part)) != whole, (
        "another model's are not taken"
    )
    Crew(part=part).disband()
    assert not part.exists()


@pytest.mark.parametrize("other", ["another version's", "bytes of none"])
@pytest.mark.parametrize("mixers", [(), (NgramCache(),)], ids=["alone", "with a mixer"])
def test_a_kept_file_of_another_coding_is_told_in_one_line(
    coder, short_frames, tmp_path, monkeypatch, other, mixers
):
    part, tokens = tmp_path / "proof.part", Encoder(coder.tokenizer).encode(TEXT)
    adapted = AdaptedPlan.of(ScorePlan(windows=Sliding(length=16, stride=8), mixers=mixers))

    def proof(content):
        return prove(coder, Text(content, TEXT, "text"), tmp_path, adapted=adapted if mixers else None)

    def notes():
        told = []
        finish(proof(tokens), told.append)
        return [event.facts[NOTE] for event in told if event.stage == NOTE]

    def killed_in(stage):
        steps = proof(tokens)
        assert any(event.stage == stage and event.done > 100 for event in steps)
        steps.close()

    monkeypatch.setattr("bitgolf.proof.file.ADAPTED_TOKENS", 40)
    assert notes() == [] and not part.exists()
    killed_in("encode")
    assert part.exists() and notes() == [], "what fits needs no line"
    killed_in("decode")
    assert part.exists() and notes() == []
    with monkeypatch.context() as before:
        if other == "bytes of none":
            part.write_bytes(b"no part of a proof" * 9)
        else:
            before.setattr("bitgolf.proof.adapted.KEPT_VERSION", -1)
            before.setattr("bitgolf.proof.crew.arithmetic_here", lambda _: "of another torch")
            killed_in("encode")
    assert [line.split(":")[0] for line in notes()] == ["proof.part"]
    assert not part.exists()


def test_a_full_disk_is_one_line(coder, short_frames, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bitgolf.proof.finished.os.fsync", full)
    with pytest.raises(BitgolfError, match="No space left.*same command again"):
        coded(coder, Crew(part=tmp_path / "a.part"))


def test_an_audit_reads_its_share_and_no_more(coder, short_frames, tmp_path):
    tokens = Encoder(coder.tokenizer).encode(TEXT)
    certificate = finish(prove(coder, Text(tokens, TEXT, "text"), tmp_path))
    data = (tmp_path / "coded.bin").read_bytes()
    jobs, count = frames_of(data, read_header(data), ""), certificate["frames"]
    assert count == len(jobs) > 3
    assert not (tmp_path / "proof.part").exists()
    assert finish(check(coder, data, certificate))["frames_decoded"] == count
    read = [finish(check(coder, data, certificate, 0.5, seed)) for seed in range(3)]
    assert {each["frames_decoded"] for each in read} == {round(0.5 * count)}
    assert finish(check(coder, data, certificate, 0.01))["frames_decoded"] == 1
    # A frame that gives other tokens is found by those audits that read it, and by no other.
    wrong = jobs[1].frame.tokens_crc.to_bytes(4, "little")
    forged = data.replace(wrong, bytes(4), 1)
    stated = {**certificate, "coded_sha256": hashlib.sha256(forged).hexdigest()}
    found = []
    for seed in range(12):
        try:
            finish(check(coder, forged, stated, 0.3, seed))
            found.append(False)
        except ArtifactError as error:
            assert "frame 2 of" in str(error)
            found.append(True)
    assert True in found and False in found
    with pytest.raises(ArtifactError, match="frame 2 of"):
        finish(check(coder, forged, stated))


@pytest.mark.parametrize(
    "claim",
    [
        {"format": "bitgolf proof 2"},
        {"bits_per_byte": 0.9},
        {"stepwise_bits_per_byte": 0.9},
        {"parallel_bits_per_byte": 0.9},
        {"text_bytes": 7},
        {"tokens": 7},
        {"frames": 1},
        {"windows": "sliding 1024/64"},
        {"container_bytes": 0},
        {"artifact_bytes": 7},
        {"adapted": {"mixers": []}},
        {"certified_on": "any processor: portable arithmetic"},
    ],
    ids=lambda claim: next(iter(claim)),
)
def test_a_certificate_says_nothing_that_its_files_do_not(proven, claim):
    coder, data, certificate = proven
    with pytest.raises(ArtifactError, match="certificate|coded so"):
        next(check(coder, data, {**certificate, **claim}))


def test_a_forged_score_that_its_files_do_not_tell_is_found_by_scoring(proven):
    """Steps and parallel pass twice as high, and rare tokens that would explain it: no file tells."""
    coder, data, certificate = proven
    higher = 2 * certificate["stepwise_bits_per_byte"]
    scores = {"stepwise_bits_per_byte": higher, "parallel_bits_per_byte": higher}
    hidden = higher * certificate["text_bytes"]
    with pytest.raises(ArtifactError, match="parallel_bits_per_byte.*another score than its text has"):
        finish(check(coder, data, {**certificate, **scores, "rare_bits": hidden}))
    with pytest.raises(ArtifactError, match="rare_bits.*another score than its text has.*it is 0"):
        finish(check(coder, data, {**certificate, "rare_bits": 50.0}))
    with pytest.raises(ArtifactError, match="rare_bits.*leave --audit out"):
        finish(check(coder, data, {**certificate, **scores, "rare_bits": hidden}, 0.3))
    older = {name: each for name, each in certificate.items() if name != "rare_bits"}
    assert finish(check(coder, data, older))["tokens_decoded"] == certificate["tokens"]


def test_one_lane_is_said_so_and_as_older_certificates_said_it(coder, tmp_path):
    text = Text(Encoder(coder.tokenizer).encode(TEXT[:80]), TEXT[:80], "text")
    certificate = finish(prove(coder, text, tmp_path))
    assert "in 1 lane of" in certificate["windows"]
    data, older = (tmp_path / "coded.bin").read_bytes(), certificate["windows"].replace("1 lane", "1 lanes")
    assert finish(check(coder, data, {**certificate, "windows": older}))["frames"] == 1


def test_damage_is_named_with_its_frame_before_the_hash_is(proven):
    coder, data, certificate = proven
    flipped = bytearray(data)
    flipped[-40] ^= 8
    last = certificate["frames"]
    for wrong, said in ((bytes(flipped), "bits are damaged"), (data[:-9], "ends too early.*9 bytes missing")):
        with pytest.raises(
            ArtifactError, match=rf"proof/coded\.bin, frame {last} of {last} at byte .*{said}"
        ):
            next(check(coder, wrong, certificate, where="proof/coded.bin"))


def test_the_whole_file_costs_what_the_steps_say(coder, short_frames, tmp_path):
    """Coded bits within 0.05% of the nats and what the container takes; the parallel score beside."""
    tokens = Encoder(coder.tokenizer).encode(TEXT * 8)
    found = finish(prove(coder, Text(tokens, TEXT * 8, "text"), tmp_path))
    bits = 8 * (found["coded_bytes"] - found["container_bytes"]) / found["text_bytes"]
    slack = 8 * 4 * found["frames"] / found["text_bytes"]  # a range coder ends on whole words of 32 bits
    assert abs(bits - found["stepwise_bits_per_byte"]) < 5e-4 * bits + slack
    assert abs(found["parallel_bits_per_byte"] - found["stepwise_bits_per_byte"]) < 1e-4
    assert found["certified_on"].startswith("class ") and len(found["code_sha256"]) == 64


def test_a_portable_proof_says_so(bitgolf, folder):  # noqa: F811
    Path("a.txt").write_bytes(TEXT[:100])
    code, out, _ = bitgolf("prove", folder, "--text", "a.txt", "--portable", "--json")
    found = json.loads(out)
    assert code == 0 and found["certified_on"].startswith("any processor")
    coded_file = folder / "proof" / "coded.bin"
    assert read_header(coded_file.read_bytes()).portable
    code, out, _ = bitgolf("prove", folder, "--check", folder / "proof" / "certificate.json", "--json")
    assert code == 0 and json.loads(out)["holds"]


def test_texts_that_cannot_be_proven_are_refused_in_a_line(bitgolf, folder, monkeypatch):  # noqa: F811
    Path("empty.txt").write_bytes(b"")
    refused(bitgolf("prove", folder, "--text", "empty.txt"), "empty")
    Path("short.txt").write_bytes(b"a")
    code, out, _ = bitgolf("prove", folder, "--text", "short.txt", "--out", "short", "--json")
    assert code in (0, 1) and json.loads(out)["tokens"] == 1
    refused(bitgolf("prove", folder, "--text", "none.txt"), "none.txt")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    Path("a.txt").write_bytes(TEXT)
    with monkeypatch.context() as on_a_full_disk:
        on_a_full_disk.setattr("pathlib.Path.replace", full)
        said = refused(bitgolf("compress", "a.txt", "-m", folder), "no space left", "same command again")
    assert not Path("a.txt.golf").exists()
    assert bitgolf("compress", "a.txt", "-m", folder)[0] == 0
    assert not [*Path().glob("*.part"), *Path().glob("*.made")]
    assert "--resume" not in said


def test_another_tokenizer_or_model_is_refused(bitgolf, folder, dataset, tmp_path):  # noqa: F811
    refused(bitgolf("prove", folder, "--data", dataset.folder), "another tokenizer", "--text")
    Path("a.txt").write_bytes(TEXT[:100])
    assert bitgolf("prove", folder, "--text", "a.txt", "--out", "p")[0] == 0
    write_bytes(tmp_path / "other.bin", repacked((folder / "model.bin").read_bytes()))
    refused(bitgolf("prove", "other.bin", "--check", "p/certificate.json"), "another")
    data = Path("p/coded.bin").read_bytes()
    Path("p/coded.bin").write_bytes(data[:-3])
    refused(bitgolf("prove", folder, "--check", "p/certificate.json"), "coded")


def repacked(artifact):
    """Another model of the same shape."""
    found = unpack(artifact)
    weights = {name: weight + 0.01 for name, weight in found.weights.items()}
    return pack(found.model, quantize_weights(int6_rows(), weights)[0], found.tokenizer.to_bytes()).data


def test_files_go_through_the_pipe_and_stay(bitgolf, folder, monkeypatch):  # noqa: F811
    Path("a.txt").write_bytes(TEXT)
    assert bitgolf("compress", "a.txt", "-m", folder)[0] == 0
    code, out, _ = bitgolf("decompress", "a.txt.golf", "-m", folder, "-c")
    assert code == 0 and out.encode() == TEXT
    assert Path("a.txt").is_file() and Path("a.txt.golf").is_file()
    code, out, _ = bitgolf("compress", "a.txt.golf", "--list")
    assert code == 0 and f"{len(TEXT):,}" in out and "bits_per_byte" in out
    assert bitgolf("decompress", "a.txt.golf", "--list")[:2] == (0, out)
    refused(bitgolf("compress", "a.txt", "--list"), "not a file that bitgolf compressed")
    assert not list(Path().glob("*.part"))
