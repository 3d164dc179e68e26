"""Documents whose starts a case gives by place, as attention of variable length takes them."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from bitgolf.net.kernels import AttentionMask
from bitgolf.net.position import Scope, hide_others
from tests.golden_cases.case import Case


@dataclasses.dataclass(frozen=True, kw_only=True)
class GivenDocuments(Scope):
    """Attention that stays between these places of every row."""

    starts: tuple[int, ...] = ()

    def limit(self, mask: AttentionMask, inputs: Tensor, bos_id: int, training: bool) -> AttentionMask:
        opens = torch.zeros(inputs.shape[:2], dtype=torch.long)
        opens[:, list(self.starts)] = 1
        return mask._replace(score_mods=(*mask.score_mods, partial(hide_others, opens.cumsum(1))))


def given_documents(case: Case, time: int) -> tuple[GivenDocuments, ...]:
    """The documents of rows of so many tokens; none where the case gives no places."""
    places: Sequence[int] | None = None
    for name in ("cu_seqlens", "doc_starts", "document_starts", "bos_at"):
        places = case.arguments.get(name, places)
        places = case.tensors[name].tolist() if name in case.tensors else places
    if places is None:
        return ()
    ends = sorted({0, *places, time})
    longest = max(end - start for start, end in zip(ends, ends[1:]))
    # The length may be what the kernel is told to expect at most.
    assert case.arguments.get("max_seqlen", longest) >= longest and ends[-1] == time
    return (GivenDocuments(starts=tuple(ends[:-1])),)
