"""Muon: momentum, then an approximately orthogonal update for every matrix."""

from collections.abc import Callable, Iterable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitgolf.train.world import World

Coefficients = tuple[float, float, float]
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
FIVE_STEPS = (NEWTON_SCHULZ,) * 5
POLAR_EXPRESS = (  # one triple per step; there is no sixth
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
SMALLEST_NORM = 1e-7
CACHE_ELEMENTS = 1 << 20  # of one batch on a CPU; the iteration needs about four times as many


def orthogonalise(batch: Tensor, coefficients: Sequence[Coefficients] = FIVE_STEPS) -> Tensor:
    """Newton-Schulz iteration on a batch (n, rows, cols): singular values move to about 1.

    One step for each triple of coefficients, in the dtype of the batch (the public scripts use bfloat16).
    Batched products of equal shapes keep all cores busy, unlike a loop over small matrices, which
    `orthogonalise_reference` is.
    """
    tall = batch.shape[-2] > batch.shape[-1]
    X = batch.mT if tall else batch
    X = X / (X.flatten(1).norm(dim=1).view(-1, 1, 1) + SMALLEST_NORM)
    for a, b, c in coefficients:
        A = torch.bmm(X, X.mT)
        B = torch.baddbmm(A, A, A, beta=b, alpha=c)
        X = torch.baddbmm(X, B, X, beta=a)
    return X.mT if tall else X


def orthogonalise_reference(matrix: Tensor, coefficients: Sequence[Coefficients] = FIVE_STEPS) -> Tensor:
    """The definition, for one matrix and term by term: the slow reference of `orthogonalise`."""
    X = matrix / (matrix.norm() + SMALLEST_NORM)
    if matrix.shape[0] > matrix.shape[1]:
        X = X.T
    for a, b, c in coefficients:
        A = X @ X.T
        X = a * X + (b * A + c * (A @ A)) @ X
    return X.T if matrix.shape[0] > matrix.shape[1] else X


def orthogonal_updates(
    directions: list[Tensor], coefficients: Sequence[Coefficients], dtype: torch.dtype
) -> list[Tensor]:
    """Each direction orthogonalised and scaled by sqrt(max(1, rows / cols)), equal shapes together.

    A tall matrix is batched with the transposed shape, so one network needs very few batches.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, direction in enumerate(directions):
        rows, cols = direction.shape
        groups.setdefault((min(rows, cols), max(rows, cols)), []).append(index)
    updates: dict[int, Tensor] = {}
    for shape, indices in groups.items():
        batch = torch.empty(len(indices), *shape, dtype=dtype, device=directions[0].device)
        for slot, index in zip(batch, indices):
            direction = directions[index].to(
                dtype
            )  # first the cast, then the transposed copy: 3 times faster
            slot.copy_(direction.T if direction.shape[0] > direction.shape[1] else direction)
        results = [
            result
            for part in batch.split(matrices_at_once(shape, batch))
            for result in orthogonalise(part, coefficients)
        ]
        for result, index in zip(results, indices):
            rows, cols = directions[index].shape
            updates[index] = result.T.contiguous().mul_((rows / cols) ** 0.5) if rows > cols else result
    return [updates[index] for index in range(len(directions))]


def matrices_at_once(shape: tuple[int, int], batch: Tensor) -> int:
    """The number of matrices to iterate together: all on a GPU, as many as fit the cache on a CPU."""
    return len(batch) if batch.is_cuda else max(1, CACHE_ELEMENTS // (shape[0] * shape[1]))


def equal_rows(direction: Tensor) -> Tensor:
    """The direction with every row (one output) scaled to length 1; a row of zeros stays zero."""
    return F.normalize(direction.float(), dim=1, eps=SMALLEST_NORM)


class Muon(torch.optim.Optimizer):
    """Exactly the public update: plain-sum momentum, Nesterov, orthogonalisation, decay before the step.

    row_normalize: scale every row of a direction to length 1 before it is orthogonalised.

    With several processes each orthogonalises every size-th matrix and contributes zeros for the others; the
    results are summed. Every process keeps the momentum of every matrix, so any of them can save it.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.0,
        row_normalize: bool = False,
        coefficients: Sequence[Coefficients] = FIVE_STEPS,
        iteration_dtype: torch.dtype = torch.bfloat16,
        world: World | None = None,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        self.nesterov = nesterov
        self.row_normalize = row_normalize
        self.coefficients, self.iteration_dtype, self.world = coefficients, iteration_dtype, world or World()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not parameters:
                continue
            gradients = [parameter.grad for parameter in parameters]
            buffers = [self._momentum_buffer(parameter) for parameter in parameters]
            torch._foreach_mul_(buffers, group["momentum"])
            torch._foreach_add_(buffers, gradients)
            directions = buffers
            if self.nesterov:
                directions = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
            updates = self._shared_updates(directions)
            if group["weight_decay"]:
                torch._foreach_mul_(parameters, 1.0 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(parameters, updates, alpha=-group["lr"])

    def _momentum_buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(parameter)
        return state["momentum"]

    def _shared_updates(self, directions: list[Tensor]) -> list[Tensor]:
        rank, world_size = self.world.rank, self.world.size
        mine = directions[rank::world_size]
        if self.row_normalize:
            mine = [equal_rows(direction) for direction in mine]
        mine = orthogonal_updates(mine, self.coefficients, self.iteration_dtype)
        if world_size == 1:
            return mine
        lengths = [direction.numel() for direction in directions]
        flat = torch.zeros(sum(lengths), dtype=self.iteration_dtype, device=directions[0].device)
        parts = [part.view_as(direction) for part, direction in zip(flat.split(lengths), directions)]
        for part, update in zip(parts[rank::world_size], mine):
            part.copy_(update)
        self.world.sum(flat)
        return parts
