"""Where long work stands, and which process says so."""

import os
from typing import Any, NamedTuple


class Event(NamedTuple):
    """Where a long piece of work stands: its stage, how much is done of how much, and facts to show."""

    stage: str
    done: float
    total: float
    facts: dict[str, Any]


def is_first_process() -> bool:
    """Whether this process is the one that writes and speaks; known before the world is joined."""
    return os.environ.get("RANK", "0") == "0"
