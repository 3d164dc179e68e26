"""Renamed methods of slots: a user's class with an old name is refused."""

from collections.abc import Iterable

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan

# The slots that had each, by the name of the slot, and what it is called now.
RENAMED: dict[str, dict[str, str]] = {
    **dict.fromkeys(
        ("Activation", "Noise", "Part", "Rate", "Recurrence"),
        {"misfits": "validate_for", "problems_in": "validate_for"},
    ),
    "Plan": {"problems": "validate"},
    "Adapter": {"problems_with": "validate_for"},
    "Schedule": {"scale": "lr_scale"},
    "Order": {"take": "next_batch"},
    "BlockOrder": {"visit": "block_at"},
    "Quantizer": {"asks": "needs_hessian", "asks_outputs": "needs_output_grads"},
    "Residual": {"read": "ended"},
    "Route": {"visits": "layer_calls"},
    "Windows": {"reader": "states"},
}
RENAMED["Recurrence"] = RENAMED["Recurrence"] | {"changes": "varies"}
RENAMED["Noise"] = RENAMED["Noise"] | {"replaced": "fake_quantized"}
RENAMED["Rate"] = RENAMED["Rate"] | {"settle": "allocate"}


def refuse_old_names(kinds: Iterable[type[Plan]]) -> None:
    """Raises BitgolfError for a class with a method that a slot called by this name once, and calls no more.

    Not where it has the method of today too: then the other is its own affair.
    """
    for kind in kinds:
        bases = [base for base in kind.__mro__ if not base.__module__.startswith("bitgolf.")]
        own = {name for base in bases for name in vars(base)}
        for base in kind.__mro__:
            for old, new in RENAMED.get(base.__name__, {}).items():
                if old in own and new not in own:
                    problem = f"{kind.__name__} defines {old}, which nothing calls any more"
                    raise BitgolfError(problem, way_out=f"call it {new}")
