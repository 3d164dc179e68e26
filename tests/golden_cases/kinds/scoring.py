"""Scoring: which tokens, in which order, with which sums."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from bitgolf.net.model import Model
from bitgolf.net.position import DocumentAttention
from bitgolf.net.route import Once
from bitgolf.score.metric import summary, total_nats
from bitgolf.score.score import ScorePlan, Scores, score
from bitgolf.score.windows import Chunked, Sliding, Window, Windows
from tests.golden_cases import records
from tests.golden_cases.case import Case, NotCoveredError
from tests.golden_cases.compare import limits
from tests.golden_cases.network import loaded, looping, public_plan, public_weights

ADAPTED = ("eval_val_sliding_ttt", "eval_val_ttt")
SLIDING = ("eval_val_sliding", "eval_val_sliding_window", *ADAPTED)
MICRO_BATCHES = 8  # a validation batch is shared out like a training batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class ShortLeftOut(Sliding):
    """Sliding windows without those that have less than a stride of tokens, as one record has them."""

    def windows(self, tokens: int, documents: Sequence[int] | None = None) -> Iterator[Window]:
        for window in super().windows(tokens, documents):
            if window.end - window.start >= self.stride or window.start == 0:
                yield window


class ByteTables:
    """The byte tables of a case in place of a tokenizer."""

    bos = unknown = -1
    lossless = False

    def __init__(self, case: Case) -> None:
        names = ("base_bytes", "has_leading_space", "is_boundary")
        self.base, self.space, self.boundary = (case.tensors[name].numpy() for name in names)
        assert len(self.base) == case.settings["vocab_size"]

    def token_bytes(self, targets: np.ndarray, previous: np.ndarray) -> np.ndarray:
        return self.base[targets].astype(np.int64) + (self.space[targets] & ~self.boundary[previous])


def check(case: Case) -> None:
    windows, tokens = public_windows(case), case.tensors["val_tokens"].numpy().astype(np.uint16)
    assert len(tokens) == case.arguments["n_tokens"]
    check_order(case, windows, len(tokens))
    how = ScorePlan(windows=windows, batch_tokens=batch_tokens(case))
    check_figures(case, score(scored_model(case, tokens), tokens, ByteTables(case), how))


def scored_model(case: Case, tokens: np.ndarray) -> Model:
    """The model that the script scores with."""
    weights, longest = public_weights(case), window_length(case)
    scope = (DocumentAttention(longest=longest),) if documents_apart(case, tokens) else ()
    if scope and case.arguments["function"] in SLIDING and "smear_gate.weight" in weights:
        raise NotCoveredError("a smear across windows that a batch packs into one row")
    plan = public_plan(case, weights, scope).replace(bos_id=records.BOS)
    if not looping(case):  # what training has before layers are passed again, which ours never scores
        plan = plan.replace(recurrence=Once())
        weights = {k: w[: plan.layers // 2] if k.startswith("skip_") else w for k, w in weights.items()}
    return loaded(plan, weights).eval()


def check_figures(case: Case, scores: Scores) -> None:
    """Sums over all that was scored."""
    figures, expected, allowed = summary(scores), case.expected, limits(case, "val_loss")["abs"]
    assert figures["tokens"] == expected["token_count"]
    assert figures["text_bytes"] == expected["byte_count"]
    assert figures["nats_per_token"] == pytest.approx(expected["val_loss"], abs=allowed)
    assert total_nats(scores) == pytest.approx(expected["loss_sum"], abs=allowed * expected["token_count"])
    assert figures["bits_per_byte"] == pytest.approx(expected["val_bpb"], rel=limits(case, "val_bpb")["rel"])


def check_order(case: Case, windows: Windows, count: int) -> None:
    """Which token was scored when, and how often each."""
    order = [i + 1 for w in windows.windows(count) for i in range(w.first_scored, w.end)]
    assert order == case.tensors["out.scored_order"].tolist()
    times = case.tensors["out.times_scored_per_token_index"]
    found = np.bincount(order, minlength=len(times))
    assert found.tolist() == times.tolist()
    assert (found > 1).sum() == case.expected["tokens_scored_more_than_once"]
    assert (found[1:] == 0).sum() == case.expected["tokens_never_scored_excluding_first"]
    if "truncate_to" in case.arguments:  # the script cuts its tokens so before it scores
        usable = (count - 1) // case.arguments["truncate_to"] * case.arguments["truncate_to"]
        assert len(times) == usable + 1
        assert usable == case.expected.get("usable_tokens_after_truncation", usable)


def window_length(case: Case) -> int:
    """Tokens in a window; early functions take another one than that of training as an argument."""
    arguments, settings = case.arguments, case.settings
    given = arguments.get("eval_seq_len") or arguments.get("seq_len")
    evaluation, training = settings.get("eval_seq_len", 0), settings["train_seq_len"]
    if given or records.date(case) >= "2026-04-01" or "EVAL_SEQ_LEN" in case.knobs:
        return int(given or evaluation or training)
    return int(training)


def public_windows(case: Case) -> Windows:
    """The windows of the public function that the case names."""
    function, length = case.arguments["function"], window_length(case)
    stride = int(case.arguments.get("stride") or case.settings.get("eval_stride") or length)
    if function in SLIDING:
        drops = records.sliding_drops_short_windows(case) or function == "eval_val_sliding_ttt"
        kind = ShortLeftOut if drops else Sliding
        return kind(length=length, stride=stride, public_tail=not records.sliding_counts_once(case))
    if function != "eval_val":
        raise NotCoveredError(f"scoring by {function}")
    if records.attends_by_document(case):  # only whole batches, each one row
        length *= max(1, batch_tokens(case) // length)
    return Chunked(length=length, tail=False)


def batch_tokens(case: Case) -> int:
    """Tokens that one process scores at a time, of which only the document records show anything."""
    arguments, settings = case.arguments, case.settings
    # The case calls one function with its own stride and batch, whatever a whole run of the script does.
    for name in ("sliding_window_enabled", "eval_stride", "eval_batch_seqs", "eval_batch_size"):
        settings.get(name)
    whole = settings.get("val_batch_tokens", settings.get("val_batch_size", 0))
    assert settings.get("val_doc_fraction", 1.0) == 1.0
    if "batch_seqs" in arguments:
        return int(arguments["batch_seqs"]) * window_length(case)
    share = settings.get("world_size", 1) * settings.get("grad_accum_steps", MICRO_BATCHES)
    return max(1, whole // share)


def documents_apart(case: Case, tokens: np.ndarray) -> bool:
    """Whether attention is cut at BOS, which then stands where the case says."""
    apart, places = records.attends_by_document(case), case.arguments.get("bos_at")
    assert places is None or np.flatnonzero(tokens == records.BOS).tolist() == list(places)
    return apart
