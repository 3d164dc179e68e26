"""Parity of the forward pass and its parts with the public scripts."""

from collections.abc import Callable

import torch

from bitgolf.core.backend import Backend
from bitgolf.core.kernels import PlainKernels, rotate
from bitgolf.core.model import Model, ModelPlan, build_model
from bitgolf.core.parts import SquaredReluMlp, rotation_tables
from tests.golden_cases.case import Case, NotCoveredError

CPU = torch.device("cpu")
PATHS = {
    "VOCAB_SIZE": "vocabulary_size",
    "NUM_LAYERS": "layers",
    "MODEL_DIM": "width",
    "NUM_HEADS": "heads",
    "NUM_KV_HEADS": "kv_heads",
    "MLP_MULT": "mlp_multiplier",
    "TIE_EMBEDDINGS": "tied",
    "LOGIT_SOFTCAP": "logit_softcap",
    "QK_GAIN_INIT": "qk_gain",
    "ROPE_BASE": "rope_base",
}
# Training settings that do not touch the forward pass.
ELSEWHERE = {"ITERATIONS", "WARMDOWN_ITERS", "MAX_WALLCLOCK_SECONDS", "MUON_MOMENTUM_WARMUP_STEPS"}


def public_plan(knobs: dict[str, str]) -> ModelPlan:
    """The model of these public settings. Raises NotCoveredError for a technique that is not here yet."""
    unknown = sorted(set(knobs) - set(PATHS) - ELSEWHERE)
    if unknown:
        raise NotCoveredError(", ".join(unknown))
    kinds: dict[str, Callable[[str], object]] = {"tied": lambda text: text == "1"}
    kinds |= dict.fromkeys(("mlp_multiplier", "logit_softcap", "qk_gain", "rope_base"), float)
    return ModelPlan(**{PATHS[k]: kinds.get(PATHS[k], int)(v) for k, v in knobs.items() if k in PATHS})


def close(case: Case, name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """Within the case's own tolerance, which has its reason beside it."""
    limits = case.tolerance.get(name, case.tolerance.get("out.*", {}))
    absolute, relative = limits.get("abs", 0.0), limits.get("rel", 0.0)
    torch.testing.assert_close(found, expected, atol=absolute, rtol=relative, msg=lambda m: f"{name}: {m}")


def model_forward(case: Case) -> None:
    plan = public_plan(case.knobs)
    for backend in (Backend(), Backend(attention="chunk", fused=True)):
        model = build_model(plan).use(backend)
        model.load_state_dict(case.weights())
        check_forward(case, model)


def check_forward(case: Case, model: Model) -> None:
    inputs, targets = (case.tensors[name].long() for name in ("input_ids", "target_ids"))
    close(case, "out.logits", model.logits(inputs), case.tensors["out.logits"])
    close(case, "out.nll", model.nats(inputs, targets), case.tensors["out.nll"])
    loss = model.loss(inputs, targets)
    assert abs(loss.item() - case.expected["mean_loss"]) <= case.tolerance["mean_loss"]["abs"]
    loss.backward()
    limits = case.tolerance["grad_l2_norms"]
    for name, tensor in model.named_parameters():
        norm = case.expected["grad_l2_norms"][name]
        assert abs(tensor.grad.norm().item() - norm) <= limits["rel"] * norm + limits["abs"], name
        if (key := f"out.grad.{name}") in case.tensors:
            close(case, key, tensor.grad, case.tensors[key])


def component(case: Case) -> None:
    arguments = case.arguments
    name = arguments["component"]
    if name == "mlp" and "leaky" not in case.facts["what"].lower():
        mlp = SquaredReluMlp(arguments["model_dim"], int(arguments["mlp_mult"] * arguments["model_dim"]))
        mlp.load_state_dict(case.weights())
        close(case, "out.y", mlp(case.tensors["x"], PlainKernels()), case.tensors["out.y"])
    elif name == "rotary" and arguments["rope_dims"] in (0, arguments["head_dim"]):
        if arguments["seq"] > arguments["train_seq_len"]:
            raise NotCoveredError("rescaled RoPE base")
        tables = rotation_tables(
            arguments["seq"], arguments["head_dim"], arguments["rope_base"], torch.float32, CPU
        )
        close(case, "out.cos", tables[0], case.tensors["out.cos"])
        turned = rotate(case.tensors["x"].transpose(1, 2), *tables).transpose(1, 2)
        close(case, "out.y", turned, case.tensors["out.y"])
    else:
        raise NotCoveredError(f"{name}: {case.facts['what']}")


HANDLERS = {"model_forward": model_forward, "component": component}
