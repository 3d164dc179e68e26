"""Write the cases of the twin: python -m tests.golden_twin [folder]."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from tests.golden_twin.cases import CASES, LARGE
from tests.golden_twin.kinds import KINDS

FOLDER = Path(__file__).parent.parent / "golden"


def write(folder: Path, name: str) -> None:
    """One case: two files of the format of all golden cases."""
    made = (CASES | LARGE)[name]
    facts, given = made()
    settings = facts.get("settings", {})
    expected, outputs = KINDS[facts["kind"]](facts | {"effective_hyperparameters": settings}, given)
    tensors = {k: t.contiguous().clone() for k, t in {**given, **outputs}.items()}
    exact = facts["kind"] == "schedule"
    tensors = {k: t.float() if t.dtype == torch.float64 and not exact else t for k, t in tensors.items()}
    save_file(tensors, folder / f"{name}.safetensors")
    case = {
        "format": "bitgolf-golden-1",
        "case": name,
        "kind": facts["kind"],
        "what": (made.__doc__ or "").strip(),
        "notes": [],
        "source": {
            "record": facts["record"],
            "file": "tests/golden_twin",
            "code": "a second implementation of what the record does, in float64",
            "twin": facts["twin"],
        },
        "knobs": {},
        "arguments": facts["arguments"],
        "effective_hyperparameters": settings,
        "expected": expected,
        "tolerance": facts.get("tolerance", {}),
        "tensors": {k: {"dtype": str(t.dtype)[6:], "shape": list(t.shape)} for k, t in tensors.items()},
        "seed": 0,
        "computed_with": "tests.golden_twin, float64 on CPU",
    }
    (folder / f"{name}.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER
    for each in CASES:
        write(target, each)
