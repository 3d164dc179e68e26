"""What the scripts of a record do that no hyperparameter and no tensor says."""

from bitgolf.net.mlp import Activation, LeakyReluSquared, ReluSquared
from tests.golden_cases.case import Case

BOS = 1  # of the public tokenizers, and written into the later scripts
NTK_FROM_1024 = ("WarmdownQuantization", "11L_", "2026-03-23", "2026-03-25", "2026-03-29", "2026-03-31")


def date(case: Case) -> str:
    """Year, month and day of the record; for the baseline a word that sorts before every date."""
    return case.record[:10]


def activation(case: Case, slope: float = 0.5) -> Activation:
    """What stands between the matrices of the MLP: leaky from 2026-03-23 on."""
    leaky = date(case) >= "2026-03-23" and "Ternary" not in case.record
    return LeakyReluSquared(slope=slope) if leaky else ReluSquared()


def reference_length(case: Case, train_length: int, yarn: bool) -> int:
    """The length beyond which RoPE is rescaled; 0 for never."""
    if date(case) >= "2026-04-10":
        return train_length if yarn else 0
    if date(case) >= "2026-04-01" or "OvertoneInit" in case.record:
        return train_length
    return 1024 if any(name in case.record for name in NTK_FROM_1024) else 0


def smear_keeps_documents_apart(case: Case) -> bool:
    """Whether the gated smear adds nothing to a BOS."""
    return date(case) >= "2026-04-27"


def sliding_counts_once(case: Case) -> bool:
    """Whether sliding windows score each token once; before, the last ones several times."""
    return date(case) >= "2026-04-01"


def sliding_drops_short_windows(case: Case) -> bool:
    """Whether windows with less than a stride of tokens are left out, but for the first."""
    return "10L_Int5MLP" in case.record


def attends_by_document(case: Case) -> bool:
    """Whether scoring packs several sequences into one row and cuts attention at documents."""
    return date(case) >= "2026-04-10"
