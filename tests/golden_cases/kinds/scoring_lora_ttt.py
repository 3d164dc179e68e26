"""Low-rank test-time training for each document: every event, and the factors at the end."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from bitgolf.adapt.documents import DocumentLearner, LoraDocuments
from bitgolf.adapt.lora import Lora
from bitgolf.score.metric import summary
from bitgolf.score.score import ScorePlan, document_starts, score
from bitgolf.score.windows import Growing, PerDocument, Window
from bitgolf.train.optim import AdamRule
from tests.golden_cases import records
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import limits
from tests.golden_cases.kinds.scoring import ByteTables
from tests.golden_cases.network import loaded, public_plan, public_weights

PUBLIC = {"q_loras": "q", "k_loras": "k", "v_loras": "v", "o_loras": "o", "mlp_loras": "mlp"}
LEARNERS: list[DocumentLearner] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class FromGiven(LoraDocuments):
    """It starts from the factors of a case and keeps those that each batch ends with."""

    def adaptation(
        self, lora: Lora, windows: Sequence[Window], batches: list[list[list[int]]]
    ) -> DocumentLearner:
        LEARNERS.append(learner := Recorded(self, lora, windows, batches))
        lora.drawn = lambda name, rows, inputs: learner.given(name)
        return learner


class Recorded(DocumentLearner):
    """Documents whose factors a case gives and compares."""

    ended: dict[int, dict[str, tuple[Tensor, Tensor]]]

    def begin(self, number: int, warm: bool) -> None:
        self.ended = getattr(self, "ended", {})
        super().begin(number, warm)
        self.ended[number] = dict(self.lora.factors)

    def given(self, name: str) -> Tensor:
        """The factor `down` of the batch that begins, as the case has it."""
        return in_case(CASES[-1], f"{public_name(name)}.A", "lora.", self.batch, self.batches).clone()


CASES: list[Case] = []


class Bos(ByteTables):
    bos = records.BOS


def check(case: Case) -> None:
    CASES[:], LEARNERS[:] = [case], []
    arguments, settings, expected = case.arguments, case.settings, case.expected
    stream = case.tensors["val_tokens"].numpy().astype(np.uint16)
    opened = np.flatnonzero(stream == records.BOS)
    assert len(stream) == arguments["n_tokens"] and len(opened) == arguments.get("n_docs", len(opened))
    assert opened.tolist() == arguments.get("bos_at", opened.tolist())
    tokens = stream[opened[0] :]  # what stands before the first document is left out
    weights = public_weights(case)
    model = loaded(public_plan(case, weights).replace(bos_id=records.BOS), weights).eval()
    for name in ("train_seq_len", "eval_seq_len", "eval_stride", "val_batch_size"):
        settings.get(name)  # of other evaluations in the same script
    within = Growing(length=settings["ttt_eval_seq_len"], stride=settings["ttt_chunk_size"])
    adapter = public_adapter(case)
    how = ScorePlan(windows=PerDocument(within=within), batch_tokens=1 << 20, adapter=adapter)
    scores, allowed = score(model, tokens, Bos(case), how), limits(case, "val_loss")["abs"]
    figures = summary(scores)
    assert figures["nats_per_token"] == pytest.approx(expected["val_loss"], abs=allowed)
    near = limits(case, "val_bpb").get("rel", allowed)
    assert figures["bits_per_byte"] == pytest.approx(expected["val_bpb"], rel=near)
    starts = document_starts(tokens, records.BOS)
    ends = [*(starts[1:] + 1), len(tokens)]
    if "documents_start_length" in expected:
        found = [[int(s + opened[0]), int(e - s)] for s, e in zip(starts, ends)]
        assert found == expected["documents_start_length"]
    windows = list(how.windows.windows(len(tokens), starts.tolist()))
    places = np.cumsum([0, *(window.end - window.first_scored for window in windows)])
    (learner,) = LEARNERS
    events = [
        (
            learner.row_of[i],
            scores.nats[places[i] : places[i + 1]].sum(dtype=np.float64),
            places[i + 1] - places[i],
        )
        for part in adapter.parts(windows, starts)
        for i in part
    ]
    wanted = expected["events_batchrow_losssum_tokens_in_order"]
    assert [(row, count) for row, _, count in events] == [(row, count) for row, _, count in wanted]
    sums = [each[1] for each in wanted]
    assert [each[1] for each in events] == pytest.approx(sums, abs=limits(case, "loss sums of events")["abs"])
    check_factors(case, learner)


def public_adapter(case: Case) -> FromGiven:
    """The adapter as the first LoRA record sets it."""
    settings = case.settings
    if not case.record.startswith("2026-03-17"):
        raise NotCoveredError(f"low-rank test-time training of {case.record}")
    rank = settings["ttt_lora_rank"]
    rule = AdamRule(lr=settings["ttt_lora_lr"], beta1=settings["beta1"], beta2=settings["beta2"], eps=1e-10)
    return FromGiven(rank=rank, alpha=float(rank), rule=rule, batch_documents=settings["ttt_batch_size"])


def public_name(name: str) -> str:
    """What the script calls the factors of a place."""
    if name == "head/0":
        return "lm_head_lora"
    layer, target = name.removesuffix("/0").split(".")
    return f"{next(public for public, own in PUBLIC.items() if own == target)}.{layer}"


def in_case(case: Case, name: str, prefix: str, batch: int, batches: list[Any]) -> Tensor:
    """A factor of a batch: under the number of the batch, or its rows among those of all documents."""
    rows, before = len(batches[batch]), sum(map(len, batches[:batch]))
    for key in case.tensors:
        number = re.fullmatch(rf"{re.escape(prefix)}(?:batch_?)?(\d+)\.{re.escape(name)}", key)
        if number and int(number[1]) == batch:
            return case.tensors[key]
    whole = case.tensors[f"{prefix}{name}"]
    return whole[before : before + rows] if len(whole) == sum(map(len, batches)) else whole[:rows]


def check_factors(case: Case, learner: DocumentLearner) -> None:
    """The factors that every batch ends with, or the last one where the case has no more."""
    assert isinstance(learner, Recorded)
    numbered = any(re.match(r"out\.lora\.(batch_?)?\d", key) for key in case.tensors)
    whole = {len(case.tensors[key]) for key in case.tensors if key.startswith("out.lora.")}
    last = len(learner.batches) - 1
    every = numbered or whole == {sum(map(len, learner.batches))}
    for batch in range(last + 1) if every else [last]:
        for name, pair in learner.ended[batch].items():
            for letter, factor in zip("AB", pair):
                key = f"{public_name(name)}.{letter}"
                expected = in_case(case, key, "out.lora.", batch, learner.batches)
                assert (factor.detach() - expected).abs().max() <= limits(case, "out.lora.*")["abs"], key
