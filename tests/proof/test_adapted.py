"""What learns from the text, or mixes it in, is coded as it is scored, and read back."""

import json
import subprocess
import sys
from contextlib import nullcontext

import numpy as np
import pytest

from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import ArtifactError, BitgolfError, CheckpointError
from bitgolf.base.events import finish
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.mix.ngram import NgramCache
from bitgolf.proof.adapted import AdaptedPlan
from bitgolf.proof.crew import Crew
from bitgolf.proof.file import compress_adapted, decompress, read_header
from bitgolf.proof.prove import Text, check, prove
from bitgolf.score.adapter import Adaptation, Adapter
from bitgolf.score.exam import RuleError
from bitgolf.score.metric import total_nats
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.train.optim import SgdRule
from tests.cli.test_cli import bitgolf, finished, recipe_file, refused  # noqa: F401
from tests.proof.test_proof import ODD_TEXTS, coder, encoded  # noqa: F401

SLIDING = Sliding(length=12, stride=5)
LEARNS = ScoreFirst(chunk_tokens=30, epochs=2, rule=SgdRule(lr=0.05), batch_sequences=2)
PLANS = {
    "mixes": ScorePlan(windows=SLIDING, mixers=(NgramCache(order=3, weight=0.3),)),
    "learns": ScorePlan(windows=SLIDING, adapter=LEARNS),
    "both": ScorePlan(windows=SLIDING, adapter=LEARNS, mixers=(NgramCache(order=2, weight=0.2),)),
    "both, in chunks": ScorePlan(windows=Chunked(length=12), adapter=LEARNS, mixers=(NgramCache(),)),
}
TEXT = ODD_TEXTS["text"][:300]
LONGER = ODD_TEXTS["text"][:600]


@pytest.mark.parametrize("name", PLANS)
def test_what_adapts_is_scored_coded_and_read_back_alike(coder, name):  # noqa: F811
    plan, tokens = PLANS[name], encoded(coder, TEXT)
    packed = finish(compress_adapted(coder, AdaptedPlan.of(plan), tokens, TEXT))
    assert finish(decompress(coder, packed.data)) == TEXT
    stream = np.concatenate(([coder.first], tokens)).astype(np.uint16)
    nats = total_nats(score(coder.model, stream, coder.tokenizer, plan))
    fixed = total_nats(score(coder.model, stream, coder.tokenizer, plan.fixed()))
    assert packed.nats == pytest.approx(nats, rel=1e-4)
    assert abs(nats - fixed) > 0.1, "what adapts changes the score"
    head = read_header(packed.data).body
    assert len(packed.data) - head == pytest.approx(nats / np.log(2) / 8, abs=20)


@pytest.mark.parametrize("name", PLANS)
def test_what_was_killed_goes_on_at_its_frames_to_the_same_bytes(coder, name, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bitgolf.proof.file.ADAPTED_TOKENS", 20)
    adapted, tokens, part = AdaptedPlan.of(PLANS[name]), encoded(coder, LONGER), tmp_path / "proof.part"
    crew = Crew(part=part)
    whole = finish(compress_adapted(coder, adapted, tokens, LONGER))
    assert whole.layout is not None and len(whole.layout.frames()) > 3

    def way(what):
        return (
            compress_adapted(coder, adapted, tokens, LONGER, crew)
            if what
            else decompress(coder, whole.data, "", crew)
        )

    for encodes in (True, False):
        steps = way(encodes)
        for _ in range(45):  # into the third frame, after an update
            next(steps)
        steps.close()
        done = []
        found = finish(way(encodes), done.append)
        assert found == (whole if encodes else LONGER)
        assert done[0][0] == 41 and len(done) == len(tokens) - 40, "nothing is done twice"
        assert finish(way(encodes), done.append) == found and len(done) == len(tokens) - 40
        assert len(read_tensors(part)[1]) == 1 + (not encodes), "what was coded stays while it is decoded"


def test_what_is_kept_of_another_coding_is_not_used(coder, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.setattr("bitgolf.proof.file.ADAPTED_TOKENS", 20)
    adapted, tokens, part = AdaptedPlan.of(PLANS["both"]), encoded(coder, LONGER), tmp_path / "proof.part"

    def begun(content):
        steps = compress_adapted(coder, adapted, content, LONGER, Crew(part=part))
        seen = [done for (done, _), _ in zip(steps, range(30))]
        steps.close()
        return seen[0]

    assert [begun(tokens), begun(tokens), begun(tokens[::-1].copy())] == [1, 21, 1]
    begun(tokens)
    tensors, facts = read_tensors(part)
    name = next(name for name in tensors if name.startswith("encode/learnt/learner/weight/"))
    write_tensors(part, {**tensors, name: tensors[name][:1]}, facts)
    with pytest.raises(CheckpointError, match="proof.part: does not fit.*delete it"):
        begun(tokens)
    part.write_bytes(part.read_bytes()[:-9])
    assert begun(tokens) == 1


def test_the_model_is_as_before(coder):  # noqa: F811
    before = {name: tensor.clone() for name, tensor in coder.model.state_dict().items()}
    finish(compress_adapted(coder, AdaptedPlan.of(PLANS["learns"]), encoded(coder, TEXT), TEXT))
    assert all((tensor == before[name]).all() for name, tensor in coder.model.state_dict().items())


class Early(Adaptation):
    def learn(self, exam, part):
        exam.released(0, len(exam._tokens) - 1)


class LearnsEarly(Adapter):
    """Wants tokens that have not come."""

    def parts(self, windows, starts):
        yield from ([index] for index in range(len(windows)))

    def adapting(self, model, windows, starts):
        return nullcontext(Early(model))


def test_nothing_is_learnt_from_what_has_not_come(coder):  # noqa: F811
    adapted = AdaptedPlan.of(ScorePlan(windows=SLIDING, adapter=LearnsEarly()))
    with pytest.raises(RuleError, match="not released"):
        finish(compress_adapted(coder, adapted, encoded(coder, TEXT), TEXT))


def test_windows_of_documents_are_refused_in_a_sentence():
    plan = ScorePlan(windows=PerDocument(within=SLIDING), mixers=(NgramCache(),))
    with pytest.raises(BitgolfError, match="over one stream"):
        AdaptedPlan.of(plan)


def test_a_certificate_of_what_adapts_holds_and_a_flipped_bit_does_not(coder, tmp_path):  # noqa: F811
    plan, tokens = PLANS["both"], encoded(coder, TEXT)
    text = Text(np.concatenate(([coder.first], tokens)), TEXT, "a text")
    certificate = finish(prove(coder, text, tmp_path, adapted=AdaptedPlan.of(plan)))
    assert certificate["adapted"]["mixers"][0]["class"] == "NgramCache"
    assert certificate["stepwise_bits_per_byte"] == pytest.approx(
        certificate["parallel_bits_per_byte"], abs=1e-4
    )
    coded = (tmp_path / "coded.bin").read_bytes()
    assert finish(check(coder, coded, certificate))["tokens_decoded"] == len(tokens)
    damaged = bytearray(coded)
    damaged[-3] ^= 4
    with pytest.raises(ArtifactError, match="damaged"):
        finish(decompress(coder, bytes(damaged)))


def test_a_head_that_adapts_in_no_known_way_is_refused(coder):  # noqa: F811
    packed = finish(compress_adapted(coder, AdaptedPlan.of(PLANS["mixes"]), encoded(coder, TEXT), TEXT))
    for place in range(read_header(packed.data).body):
        damaged = bytearray(packed.data)
        damaged[place] ^= 1 << place % 8
        with pytest.raises(ArtifactError):
            read_header(bytes(damaged))


def test_a_proof_heeds_what_is_set_or_refuses_it(bitgolf, finished):  # noqa: F811
    folder, _ = finished
    for change in ("score.windows=Sliding(length=16, stride=4)", "model.qk_gain=2.0"):
        refused(bitgolf("prove", folder, "--bytes", 200, "--set", change), "--set", "score.adapter")
    mixers = "score.mixers=(NgramCache(weight=0.3),)"
    refused(bitgolf("prove", folder, "--set", mixers, "--set", "score.limit_tokens=9"), "--set", "--bytes")
    code, out, err = bitgolf("prove", folder, "--bytes", 200, "--set", mixers, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["adapted"]["mixers"][0]["weight"] == 0.3
    # In a process of its own, which has not met these mixers before.
    command = [
        sys.executable,
        "-m",
        "bitgolf",
        "prove",
        str(folder),
        "--check",
        found["certificate"],
        "--json",
    ]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["holds"] is True
