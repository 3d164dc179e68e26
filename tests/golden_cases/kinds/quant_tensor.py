"""One tensor after another, rounded by a public function."""

import math

from tests.golden_cases.case import Case
from tests.golden_cases.compare import same_codes, same_scales, same_weights
from tests.golden_cases.quantizers import quantizer_of


def check(case: Case) -> None:
    case.arguments.get("std")  # how the weights were drawn
    for i, shape in enumerate(case.arguments["shapes"]):
        weight = case.tensors[f"t.{i}"]
        assert list(weight.shape) == shape
        packed = quantizer_of(case, weight.ndim).quantize(weight)
        assert not packed.is_float
        same_scales(case, packed.pieces["scales"], f"out.scale.{i}", f"out.scale.{i}")
        expected = case.tensors[f"out.deq.{i}"]
        if same_codes(packed.pieces["codes"], case.tensors[f"out.q.{i}"]):
            same_weights(packed.dequantize(), expected)
        error = float((packed.dequantize() - weight).square().mean())
        assert math.isclose(error, case.expected["mse"][i], rel_tol=1e-3, abs_tol=1e-12)
