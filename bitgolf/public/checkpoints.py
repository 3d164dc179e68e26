"""The public challenge's files: checkpoints and artifacts read, artifacts written, nothing executed.

`final_model.pt` is a state dict written by torch.save; `final_model.int8.ptz` and `final_model.int6.ptz` are
a pickled table of codes, scales and small tensors (public_tables) in a packed stream (public_streams). All
are loaded with weights_only, their size bounded first.
"""

import io
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitgolf.net.embed import BigramHash, BigramSum, EmbedPart, SmearBias, SmearGate, SmearVector
from bitgolf.net.heads import AttentionOutputGate, BiasedGate, GatedAttention, HeadsPart, SparseGate
from bitgolf.net.layers import DtgGate, Serial
from bitgolf.net.mlp import GatedMlp, ReluSquared
from bitgolf.net.model import ModelPlan, parameter_shapes
from bitgolf.net.objective import MultiToken, NextToken
from bitgolf.net.position import Rope
from bitgolf.net.route import GatedSkips, Looped, Once, Plain, USkips
from bitgolf.net.values import ValueEmbedding, ValuePart, ValueResidual
from bitgolf.public.streams import MAX_FILE_BYTES, PublicFileError, expand, pack_stream
from bitgolf.public.tables import (
    int6_state,
    int8_state,
    public_int6_table,
    public_int8_table,
    state_of_table,
)
from bitgolf.public.torchfile import (
    as_floats,
    is_safetensors,
    is_torch_file,
    load_safetensors,
    load_tensors,
    refuse_codes,
    state_in,
)

# Axes of the tensors from which a plan is read, by how their names end.
AXES = {
    **dict.fromkeys((".weight", ".attn_gate_w", "skip_weights", "skip_gates"), 2),
    **dict.fromkeys((".q_gain", "smear.gate"), 1),
}
BANKS = {  # the matrices of all layers, then the second one of all layers
    "qo_bank": ("attn.c_q", "attn.proj"),
    "kv_bank": ("attn.c_k", "attn.c_v"),
    "mlp_up_bank": ("mlp.fc", ""),
    "mlp_down_bank": ("mlp.proj", ""),
}
# What other scripts call a tensor, and what it is called here: #543, #212.
OTHER_NAMES = {"smear_gate.gate_weight": "smear.gate", "smear_gate.gate": "smear.gate"}
OTHER_STARTS = {
    "ve.": "ve_shared.",
    "smear_gate.gate.": "smear_gate.",
    "bigram_hash.table.": "bigram.embed.",
    "bigram_hash.": "bigram.",
}
# MLPs of their own in layers passed again, by number. No weight says which layers these are.
REPEATED = re.compile(r"^repeat_mlp\.(\d{1,4})\.")
PASSED_AGAIN = (4, 5)  # in all records that have such layers
LANE_TENSORS = ("parallel_resid_lambdas", "parallel_post_lambdas")  # a row for each layer
ATTENTION = ("attn.c_q", "attn.c_k", "attn.c_v", "attn.proj")
MATRICES = (*ATTENTION, "mlp.fc", "mlp.proj")
OWN_MLP = re.compile(r"blocks\.(\d{1,9})\.mlp\.again\.(\d{1,4})\.(fc|proj)\.weight")


def read_public(path: Path, notes: list[str] | None = None, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict in a public checkpoint or artifact, in the number types it was trained with.

    notes: gets a sentence for whatever was taken off on the way to its tensors. limit: bytes that
    it may unpack to.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise PublicFileError(f"cannot read: {error.strerror}", where=str(path)) from None
    try:
        state, taken = state_in(_loaded(data, limit))
    except PublicFileError as error:
        where = f"{path}: {error.where}" if error.where else str(path)
        raise PublicFileError(error.what, where=where, value=error.value, way_out=error.way_out) from None
    if notes is not None:
        notes += taken
    return state


def _loaded(data: bytes, limit: int) -> dict[str, Any]:
    if is_safetensors(data):
        return load_safetensors(data)
    return load_tensors(data) if is_torch_file(data) else unpack_public(data, limit)


def as_weights(
    state: Mapping[str, Tensor], again: Sequence[int] = PASSED_AGAIN, first_attention: bool = True
) -> dict[str, Tensor]:
    """A public state dict as weights of our model: our names, float32, no banks, no empty tensors.

    again: the layers that are passed once more (RECUR_LAYERS), whose own MLPs a state only numbers. Where
    passes have scales of their own (record 2026-03-31), each becomes a layer with the matrices of the first.
    first_attention: whether the first layer has attention; where it is left out it is scaled by zero.
    """
    plain = plain_state(state)
    if not first_attention or first_attention_at_rest(plain):
        scale_name = "blocks.0.attn_scale"
        if scale_name not in plain:
            raise PublicFileError(
                "no scale of the first attention, which is to be left out", where=scale_name
            )
        plain[scale_name] = torch.zeros_like(plain[scale_name])
    if passes_apart(plain):
        order = pass_order(plain, again)
        whole = {name: plain[source] for name, source in pass_sources(plain, order).items()}
        rest = {name: t for name, t in plain.items() if not matrix_of(name) and not REPEATED.match(name)}
        lanes = {name: t[list(order)] for name, t in rest.items() if name in LANE_TENSORS}
        named = rest | whole | lanes
    else:
        named = {
            REPEATED.sub(lambda match: f"blocks.{_layer_again(match, again)}.mlp.again.0.", name): tensor
            for name, tensor in plain.items()
        }
    return {name: as_floats(name, tensor) for name, tensor in named.items() if tensor.numel()}


def passes_again(state: Mapping[str, Tensor]) -> bool:
    """Whether a state has layers that are passed again and does not say which."""
    return any(map(REPEATED.match, state)) or passes_apart(plain_state(state))


def plain_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A public state dict without banks, by our names; a first attention that it leaves out is of zeros."""
    plain = renamed(unbanked(state))
    if lacks_first_attention(plain):
        of_next = {name: plain.get(f"blocks.1.{name}.weight") for name in ATTENTION}
        plain |= {f"blocks.0.{n}.weight": torch.zeros_like(t) for n, t in of_next.items() if t is not None}
    return plain


def lacks_first_attention(plain: Collection[str]) -> bool:
    """Whether the first layer alone has no matrices of attention (packed under DISABLE_LAYER0_ATTN)."""
    present = [f"blocks.0.{name}.weight" in plain for name in ATTENTION]
    return "blocks.0.attn.q_gain" in plain and "blocks.1.attn.c_q.weight" in plain and not any(present)


def first_attention_at_rest(state: Mapping[str, Tensor]) -> bool:
    """Whether the first attention took no part in a training: its scale alone is alike in all channels."""
    scales = {name: t for name, t in renamed(unbanked(state)).items() if name.endswith(".attn_scale")}
    alike = [name for name, scale in scales.items() if bool((scale == scale.flatten()[:1]).all())]
    return alike == ["blocks.0.attn_scale"] and len(scales) > 1


def passes_apart(names: Collection[str]) -> bool:
    """Whether there are scales of more passes than matrices of layers."""
    return _blocks(names, "attn_scale") > _blocks(names, "attn.c_q.weight") > 0


def pass_order(names: Collection[str], again: Sequence[int]) -> tuple[int, ...]:
    """The layer of every pass. Raises PublicFileError where `again` does not fit the names."""
    layers, passes = _blocks(names, "attn.c_q.weight"), _blocks(names, "attn_scale")
    again, end = sorted({*again}), max(again, default=-1) + 1
    if layers + len(again) != passes or end > layers:
        raise PublicFileError(
            f"{passes} passes through {layers} layers do not fit layers passed again",
            value=again,
            way_out=f"name {passes - layers} of its layers, as its RECUR_LAYERS does",
        )
    return (*range(end), *again, *range(end, layers))


def pass_sources(names: Collection[str], order: Sequence[int]) -> dict[str, str]:
    """Which matrix of a state each matrix of the passes is, by our name.

    The script counts further MLPs from the middle of all passes, whichever layers are there.
    """
    sources = {}
    for index, layer in enumerate(order):
        for matrix in MATRICES:
            further = f"repeat_mlp.{index - len(order) // 2}.{matrix.removeprefix('mlp.')}.weight"
            own = further if further in names else f"blocks.{layer}.{matrix}.weight"
            sources[f"blocks.{index}.{matrix}.weight"] = own
    return sources


def matrix_of(name: str) -> bool:
    """Whether a name is that of a matrix that passes share."""
    return name.startswith("blocks.") and name.split(".", 2)[2].removesuffix(".weight") in MATRICES


def _blocks(names: Collection[str], ending: str) -> int:
    return sum(name.startswith("blocks.") and name.split(".", 2)[-1] == ending for name in names)


def _layer_again(match: re.Match[str], again: Sequence[int]) -> int:
    number, layers = int(match[1]), sorted({*again})
    if number >= len(layers):
        raise PublicFileError(
            "more MLPs of layers passed again than layers that are named",
            where=match[0].rstrip("."),
            value=layers,
            way_out="name all its RECUR_LAYERS",
        )
    return layers[number]


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that scripts call differently, each under one name; a gate of a vector has no further axes."""
    tensors = {}
    for name, tensor in state.items():
        start = next((start for start in OTHER_STARTS if name.startswith(start)), "")
        own = OTHER_NAMES.get(name, OTHER_STARTS.get(start, "") + name.removeprefix(start))
        if own != name and own in state:
            raise PublicFileError("two tensors of one meaning", value=[name, own])
        tensors[own] = tensor.reshape(-1) if name in OTHER_NAMES else tensor
    return tensors


def unbanked(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Matrices that records from 2026-03-23 on stack by shape, each under its own name."""
    for name in BANKS:
        if name in state and state[name].ndim != 3:
            raise PublicFileError("is no bank of matrices", where=name, value=[*state[name].shape])
    layers = len(state.get("mlp_up_bank", ()))
    alone = {name: tensor for name, tensor in state.items() if name not in BANKS}
    for bank, (first, second) in BANKS.items():
        count = layers * (2 if second else 1)
        if bank in state and len(state[bank]) != count:
            raise PublicFileError(f"{count} matrices are expected", where=bank, value=[*state[bank].shape])
        for i, matrix in enumerate(state.get(bank, ())):
            alone[f"blocks.{i % layers}.{first if i < layers else second}.weight"] = matrix
    return alone


def unpack_public(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict in a packed file of any public kind."""
    return state_of_table(load_tensors(expand(data, limit)))


def unpack_public_int6(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict in a mixed int6 and int8 file of the records from 2026-03-20 on."""
    return int6_state(load_tensors(expand(data, limit)))


def unpack_public_int8(data: bytes, limit: int = MAX_FILE_BYTES) -> dict[str, Tensor]:
    """The state dict that the baseline loads from its packed file."""
    return int8_state(load_tensors(expand(data, limit)))


def pack_public_int8(
    state: Mapping[str, Tensor], compressor: str = "zlib", shuffle_header_bytes: int = 0
) -> bytes:
    """`final_model.int8.ptz` as the baseline writes it, zlib level 9 around torch.save, or otherwise."""
    return _packed(public_int8_table(state), compressor, shuffle_header_bytes)


def pack_public_int6(
    state: Mapping[str, Tensor], compressor: str = "zstd", shuffle_header_bytes: int = 0
) -> bytes:
    """`final_model.int6.ptz` as record 2026-03-22 writes it, zstd level 22 around torch.save, or otherwise.

    The file does not say what float16 was before, see `int6_state`.
    """
    return _packed(public_int6_table(state), compressor, shuffle_header_bytes)


def _packed(table: Mapping[str, Any], compressor: str, shuffle_header_bytes: int) -> bytes:
    buffer = io.BytesIO()
    torch.save(table, buffer)
    return pack_stream(buffer.getvalue(), compressor, shuffle_header_bytes)


def infer_parts(shapes: Mapping[str, tuple[int, ...]], width: int) -> dict[str, Any]:
    """The seams of a model plan, as far as the shapes of the tensors show them."""
    embed: list[EmbedPart] = []
    values: list[ValuePart] = []
    heads_out: list[HeadsPart] = []
    layers = len({name for name in shapes if name.endswith(".attn.q_gain")})
    if shape := shapes.get("bigram.embed.weight"):
        kind = BigramHash if "bigram.scale" in shapes else BigramSum
        embed.append(kind(buckets=shape[0], dimension=shape[1]))
    if "smear.gate" in shapes:
        embed.append(SmearVector())
    if gate := shapes.get("smear_gate.weight"):
        biased = "smear_gate.bias" in shapes
        smear = SmearBias(channels=gate[1]) if biased else SmearGate(channels=gate[1], boundary=False)
        embed.append(smear)
    if shape := shapes.get("ve_shared.embed.weight"):
        count = sum(name.startswith("ve_layer_scales.") for name in shapes)
        shared = "ve_shared.scale" in shapes
        used = count if shared else min(2, layers)  # a scale for each layer does not show which are used
        values.append(
            ValueEmbedding(
                dimension=shape[1], layers=tuple(range(layers - used, layers)), shared_scale=shared
            )
        )
    if any(name.endswith("vr_lambda") for name in shapes):
        values.append(ValueResidual())
    if gate := shapes.get("blocks.0.attn.attn_gate_proj.weight"):
        heads_out.append(AttentionOutputGate(channels=gate[1]))
    if gate := shapes.get("blocks.0.attn.attn_gate_w"):
        heads_out.append(GatedAttention() if gate[1] == width else SparseGate(channels=gate[1]))
    if "blocks.0.attn.attn_gate.weight" in shapes:
        heads_out.append(BiasedGate())
    gate = shapes.get("blocks.0.mlp.mlp_gate_proj.weight")
    own = [match.groups() for match in map(OWN_MLP.fullmatch, shapes) if match]
    indices, whole = {int(layer) for layer, *_ in own}, any(matrix == "fc" for *_, matrix in own)
    route = GatedSkips() if "skip_gates" in shapes else USkips() if "skip_weights" in shapes else Plain()
    further = sum(name.startswith("mtp_heads.") for name in shapes)
    return {
        "embed": tuple(embed),
        "values": tuple(values),
        "heads_out": tuple(heads_out),
        "activation": GatedMlp(channels=gate[1]) if gate else ReluSquared(),
        "residual": DtgGate() if "blocks.0.dtg_gate.weight" in shapes else Serial(),
        "route": route,
        "recurrence": Looped(
            first=min(indices),
            last=max(indices),
            loops=1 + max(int(number) for _, number, _ in own),
            untied=whole,
            untied_down=not whole,
        )
        if own
        else Once(),
        "objective": MultiToken(heads=further) if further else NextToken(),
    }


def infer_model_plan(weights: Mapping[str, Tensor], **settings: Any) -> ModelPlan:
    """The model plan behind a public state dict; what shapes do not show is given by its setting.

    They do not show logit_softcap, position, values' layers, heads_out without tensors (XSA), input_scale,
    activation, recurrence, and where two lanes begin.

    Raises PublicFileError when a tensor is missing, or belongs to a technique that the plan cannot express.
    """
    refuse_codes(weights)
    shapes = {name: tuple(tensor.shape) for name, tensor in weights.items() if tensor.numel()}
    needed = (
        "tok_emb.weight",
        *(f"blocks.0.{part}" for part in ("attn.q_gain", "attn.c_k.weight", "mlp.fc.weight")),
    )
    missing = [name for name in needed if name not in shapes]
    if missing:
        raise PublicFileError("not a model of the baseline's kind: tensors are missing", value=missing)
    for name, shape in shapes.items():
        axes = next((count for end, count in AXES.items() if name.endswith(end)), len(shape))
        if len(shape) != axes:
            raise PublicFileError(f"{axes} axes are expected", where=name, value=[*shape])
    vocabulary_size, embedding_width = shapes["tok_emb.weight"]
    width = shapes["blocks.0.attn.c_k.weight"][1]
    heads = shapes["blocks.0.attn.q_gain"][0]
    hidden = shapes["blocks.0.mlp.fc.weight"][0]
    layers = {int(match.group(1)) for match in map(re.compile(r"blocks\.(\d{1,9})\.").match, shapes) if match}
    if max(layers) >= len(layers):
        absent = min({*range(len(layers))} - layers)
        raise PublicFileError(f"block {absent} is missing", value=f"blocks.{max(layers)}")
    if width < 1 or width % heads:
        raise PublicFileError("the width is no multiple of the heads", value=[width, heads])
    mlp = {"mlp_hidden": hidden} if hidden % width else {"mlp_multiplier": hidden / width}
    plan = ModelPlan(
        vocabulary_size=vocabulary_size,
        width=width,
        embedding_width=embedding_width if embedding_width != width else 0,
        layers=1 + max(layers),
        heads=heads,
        kv_heads=shapes["blocks.0.attn.c_k.weight"][0] * heads // width,
        tied="lm_head.weight" not in shapes,
        **infer_parts(shapes, width),
        position=Rope(frequencies="bfloat16"),  # what the public script's .bfloat16() leaves of them
    ).replace(**{**mlp, **settings})
    expected = parameter_shapes(plan)
    wrong = [name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name)]
    if wrong:
        raise PublicFileError(
            f"{len(wrong)} tensors do not fit the plan that the others show",
            where=wrong[0],
            value=shapes.get(wrong[0], "nothing"),
            way_out="the checkpoint uses a technique that this model does not have, or name its setting",
        )
    return plan
