"""Score-first test-time training: what each chunk scores, and the weights at the end."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import pytest
from torch import Tensor

from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.net.model import Model
from bitgolf.score.adapter import Adaptation, Adapter, NoAdapter
from bitgolf.score.score import ScorePlan, score
from bitgolf.score.windows import Window
from bitgolf.train.optim import SgdRule
from tests.golden_cases.case import Case
from tests.golden_cases.compare import limits
from tests.golden_cases.kinds.scoring import (
    ByteTables,
    batch_tokens,
    check_figures,
    check_order,
    public_windows,
    scored_model,
    window_length,
)
from tests.golden_cases.kinds.training_steps import check_weights
from tests.golden_cases.network import bank_members, public_weights

AFTER: dict[str, Tensor] = {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(ScoreFirst):
    """It leaves a copy of the weights that it ends with."""

    @contextmanager
    def adapting(self, model: Model, windows: Sequence[Window], starts: np.ndarray) -> Iterator[Adaptation]:
        with super().adapting(model, windows, starts) as adaptation:
            yield adaptation
            AFTER.update({name: tensor.detach().clone() for name, tensor in model.named_parameters()})


def check(case: Case) -> None:
    windows, tokens = public_windows(case), case.tensors["val_tokens"].numpy().astype(np.uint16)
    assert len(tokens) == case.arguments["n_tokens"]
    check_order(case, windows, len(tokens))
    model, adapter = scored_model(case, tokens), public_adapter(case, len(tokens) - 1)
    AFTER.update({name: tensor.detach().clone() for name, tensor in model.named_parameters()})
    how = ScorePlan(windows=windows, batch_tokens=batch_tokens(case), adapter=adapter)
    scores = score(model, tokens, ByteTables(case), how)
    check_figures(case, scores)
    allowed = limits(case, "val_loss")["abs"]
    chunks, first = [[0.0, 0, 0] for _ in range(-(-(len(tokens) - 1) // chunk_tokens(case)))], 0
    for window in windows.windows(len(tokens)):
        row = slice(first, first := first + window.end - window.first_scored)
        sums = scores.nats[row].sum(dtype=np.float64), row.stop - row.start, scores.bytes[row].sum()
        into = chunks[window.first_scored // chunk_tokens(case)]
        into[:] = [old + new for old, new in zip(into, sums)]
    chunks = [sums for sums in chunks if sums[1]]
    expected = case.expected["chunks_loss_sum_tokens_bytes"]
    assert [sums[1:] for sums in chunks] == [sums[1:] for sums in expected]
    means = [nats / count for nats, count, _ in chunks]
    assert means == pytest.approx([sums[0] / sums[1] for sums in expected], abs=allowed)
    if "chunk_mean_losses" in case.expected:
        assert means == pytest.approx(case.expected["chunk_mean_losses"], abs=allowed)
    check_weights(
        case, public_weights(case), AFTER, limits(case, "out.after.*")["rel_frobenius_of_total_change"]
    )


def chunk_tokens(case: Case) -> int:
    return int(case.arguments.get("chunk_tokens", case.settings["ttt_chunk_tokens"]))


def public_adapter(case: Case, targets: int) -> Adapter:
    """The adapter as the case sets it; none where the script would not come to train."""
    settings, length = case.settings, window_length(case)
    settings.get("ttt_enabled")  # of a whole run; the case calls one function
    frozen = [*itertools.chain(*(members(case, name) for name in frozen_names(case)))]
    adapter = Watched(
        chunk_tokens=max(chunk_tokens(case), length),
        epochs=settings["ttt_epochs"],
        rule=SgdRule(lr=settings["ttt_lr"], momentum=settings.get("ttt_momentum", 0.9)),
        frozen=tuple(frozen),
        sequence_length=length,
        batch_sequences=settings.get("ttt_batch_seqs", case.arguments.get("batch_seqs", 32)),
        clip=settings.get("ttt_grad_clip", 1.0),
    )
    return adapter if length <= chunk_tokens(case) < targets else NoAdapter()


def frozen_names(case: Case) -> Iterator[str]:
    """The public names of what belongs to the first blocks alone; a bank belongs to none."""
    count = case.settings.get("ttt_freeze_blocks", 0)
    for name in case.tensors:
        if any(f"blocks.{layer}." in name for layer in range(count)) and name.startswith("weights."):
            yield name.removeprefix("weights.")


def members(case: Case, name: str) -> list[str]:
    """Our names of a public tensor that the model has."""
    weights = public_weights(case)
    return [member for member in [name, *bank_members(case, name)] if member in weights]
