"""A user's file for tests: a schedule with a constant and a helper, and a recipe that has it."""

TEXT = '''"""A schedule of my own."""

import dataclasses
import math

from bitgolf.base.plan import setting
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.recipe import DataPlan, Recipe
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import OptimPlan
from bitgolf.train.schedule import Progress, Schedule

# As low as it gets.
FLOOR = 0.1


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseRoot(Schedule):
    """Rates fall with the root of the step.

    What: 1 / sqrt(1 + step / `half`), never below FLOOR.
    Source: Vaswani and others 2017, without the warm-up.
    Cost: no bytes, no seconds.
    Not for: short runs, which want a warm-down to zero.
    Neutral: half=0
    """

    half: int = setting(100, at_least=0)

    def lr_scale(self, progress: Progress) -> float:
        return 1.0 if self.half == 0 else max(_root(progress.step / self.half), FLOOR)


def _root(steps: float) -> float:
    return 1.0 / math.sqrt(1.0 + steps)


def unused() -> None:
    import colorsys


def mine() -> Recipe:
    from bitgolf.squeeze.quantize import int6_rows

    return Recipe(
        name="mine",
        data=DataPlan(sequence_length=32),
        model=ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1),
        optim=OptimPlan(schedule=InverseRoot(half=2)),
        train=TrainPlan(steps=4, train_seconds=0, batch_tokens=128, accumulation=1),
        quantize=int6_rows(),
        backend=BackendPlan(dtype="float32", threads=1),
    )


if __name__ == "__main__":
    print(mine())
'''
