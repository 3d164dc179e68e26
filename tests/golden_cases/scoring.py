"""Parity of scoring with the public scripts: which tokens, in which order, with which sums."""

import numpy as np
import pytest

from bitgolf.core.metric import summary, total_nats
from bitgolf.core.score import ScorePlan, score
from bitgolf.core.windows import Chunked, Sliding, Windows
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.model import BOS, isolated, public_model, public_plan

ONCE_FROM = "2026-04-01"  # records whose sliding windows score each token once
PUBLIC_MICRO_BATCHES = 8  # a validation batch is shared out like a training batch


class ByteTables:
    """The byte tables of a case in place of a tokenizer."""

    bos = -1
    lossless = False

    def __init__(self, case: Case) -> None:
        names = ("base_bytes", "has_leading_space", "is_boundary")
        self.base, self.space, self.boundary = (case.tensors[name].numpy() for name in names)

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return self.base[targets].astype(np.int64) + (self.space[targets] & ~self.boundary[previous])


def public_windows(case: Case) -> Windows:
    """The windows of the public function that the case names."""
    length = scored_length(case)
    if case.arguments["function"] == "eval_val_sliding":
        fixed = case.facts["source"]["record"][:10] >= ONCE_FROM
        stride = int(case.arguments.get("stride") or case.settings["eval_stride"])
        return Sliding(length=length, stride=stride, public_tail=not fixed)
    if "bos_at" in case.arguments:  # packed rows of several sequences, whose documents attention keeps apart
        rows = max(1, case.settings["val_batch_tokens"] // PUBLIC_MICRO_BATCHES // length)
        length *= rows
    return Chunked(length=length, tail=False)


def scored_length(case: Case) -> int:
    """Tokens in a window."""
    return int(case.settings.get("eval_seq_len") or case.settings["train_seq_len"])


def scoring(case: Case) -> None:
    windows = public_windows(case)
    tokens = case.tensors["val_tokens"].numpy().astype(np.uint16)
    order = [i + 1 for w in windows.windows(len(tokens)) for i in range(w.first_scored, w.end)]
    assert order == case.tensors["out.scored_order"].tolist()
    times = case.tensors["out.times_scored_per_token_index"]
    assert np.bincount(order, minlength=len(times)).tolist() == times.tolist()

    plan = public_plan(case)
    if "bos_at" in case.arguments:
        plan = isolated(plan, scored_length(case), BOS)
    model = public_model(case, plan).eval()
    scores = score(model, tokens, ByteTables(case), ScorePlan(windows=windows, batch_tokens=128))
    figures, expected = summary(scores), case.expected
    assert figures["tokens"] == expected["token_count"]
    assert figures["text_bytes"] == expected["byte_count"]
    loss_tolerance = case.tolerance["val_loss"]["abs"]
    assert figures["nats_per_token"] == pytest.approx(expected["val_loss"], abs=loss_tolerance)
    assert total_nats(scores) == pytest.approx(expected["loss_sum"], abs=loss_tolerance * len(order))
    assert figures["bits_per_byte"] == pytest.approx(
        expected["val_bpb"], rel=case.tolerance["val_bpb"]["rel"]
    )


def score_first_training(case: Case) -> None:
    raise NotCoveredError("test-time training on scored chunks")


def low_rank_training(case: Case) -> None:
    raise NotCoveredError("low-rank test-time training for each document")


HANDLERS = {
    "scoring": scoring,
    "scoring_ttt": score_first_training,
    "scoring_lora_ttt": low_rank_training,
}
