"""The artifact: nothing lost, every byte accounted for, its format kept."""

import dataclasses
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bitgolf.base.errors import ArtifactError
from bitgolf.base.plan import from_json, members, setting
from bitgolf.net.model import ModelPlan
from bitgolf.net.position import Rope
from bitgolf.net.route import Plain
from bitgolf.squeeze.artifact import (
    Artifact,
    ByName,
    ByRole,
    Layout,
    PackPlan,
    ShapeMismatchError,
    ValueRangeError,
    apportion,
    join_planes,
    pack,
    sparse_json,
    unpack,
)
from bitgolf.squeeze.codec import (
    Brotli,
    Deflate,
    Histogram,
    Lzma,
    Raw,
    RowColumn,
    Smallest,
    Zstd,
)
from bitgolf.squeeze.form import Form, QuantizedTensor, join_wide, split_wide
from bitgolf.squeeze.grid import Grid
from bitgolf.squeeze.quantize import (
    AbsMax,
    Keep,
    QuantizePlan,
    QuantRule,
    int6_rows,
    public_int8,
    quantize_weights,
)
from bitgolf.squeeze.sections import UnknownFormError, read_sections
from tests.forgery import (
    Taken,
    weights_of,
)
from tests.squeeze.packing import ALL_RANGE, GOOD, MODEL, RANGE, ROOT, TOKENIZER, packed

MODELS = {
    "plain": MODEL,
    "one layer, no skips": MODEL.replace(layers=1, route=Plain()),
    "untied, odd sizes": MODEL.replace(tied=False, layers=3, mlp_hidden=37, logit_softcap=17.5),
}
RULES = {
    "int6": int6_rows(),
    "public int8": public_int8(),
    "all kept": QuantizePlan(),
    "all quantized": QuantizePlan(rules=(QuantRule(quantizer=AbsMax(grid=Grid(bits=3))),)),
    "mixed floats": QuantizePlan(
        rules=(
            QuantRule(patterns=("*q_gain",), quantizer=Keep(dtype="float32")),
            QuantRule(patterns=("*scale",), quantizer=Keep(dtype="bfloat16")),
            QuantRule(patterns=("*resid_mix",), quantizer=Keep(dtype="float8_e4m3fn")),
            QuantRule(axes=2, quantizer=AbsMax(grid=Grid(bits=8, symmetric=False, scale_dtype="float32"))),
            QuantRule(may_be_idle=True),
        )
    ),
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize("order", ["rows", "columns", "smallest"])
@pytest.mark.parametrize("layout", members(Layout).values(), ids=lambda member: member.__name__)
def test_what_is_packed_comes_back_bit_for_bit(model, rules, order, layout):
    tensors, _ = quantize_weights(rules, weights_of(model))
    plan = PackPlan(codec=Zstd(level=3), layout=layout(), order=order)
    artifact = pack(model, tensors, TOKENIZER, plan)
    opened = unpack(artifact.data)
    assert opened.model == model and opened.tokenizer.to_bytes() == TOKENIZER
    assert list(opened.weights) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(opened.weights[name], tensor.dequantize())
        assert opened.weights[name].dtype == torch.float32
    again = pack(opened.model, opened.tensors, opened.tokenizer.to_bytes(), plan)
    assert again.data == artifact.data


@pytest.mark.parametrize(
    "codec", [Raw(), Deflate(), Zstd(), Lzma(), Brotli(), Histogram(), RowColumn(), Smallest()]
)
def test_every_codec_and_a_ledger_that_adds_up(codec):
    artifact = packed(plan=PackPlan(codec=codec))
    assert torch.equal(
        unpack(artifact.data).weights["skip_weights"], unpack(GOOD.data).weights["skip_weights"]
    )
    assert sum(size for _, size in artifact.ledger) == len(artifact.data)
    names = [name for name, _ in artifact.ledger]
    assert len(set(names)) == len(names)
    for name in weights_of(MODEL):
        assert f"{name} values" in names or {f"{name} codes", f"{name} scales"} <= set(names)
    assert names[:5] == ["header", "checksums", "plan", "tensors", "tokenizer"]
    assert Artifact.of(artifact.data) == artifact


def test_a_ledger_that_does_not_add_up_is_refused():
    with pytest.raises(ArtifactError, match="adds up to 3 bytes of 4"):
        Artifact(b"abcd", (("a", 3),))


@given(total=st.integers(0, 10**7), sizes=st.lists(st.integers(0, 10**6), min_size=1).filter(any))
def test_shares_add_up(total, sizes):
    shares = apportion(total, sizes)
    assert sum(shares) == total and min(shares) >= 0 and len(shares) == len(sizes)


def test_the_smallest_codec_and_order_win():
    sizes = {
        (type(codec).__name__, order): len(packed(plan=PackPlan(codec=codec, order=order)).data)
        for codec in (Raw(), Deflate(), Zstd(), Lzma(), Brotli())
        for order in ("rows", "columns")
    }
    smallest = packed(plan=PackPlan(codec=Smallest()))
    assert len(smallest.data) <= min(sizes.values()) < max(sizes.values())
    by_name = packed(plan=PackPlan(layout=ByName()))
    assert len(read_sections(by_name.data)) > len(read_sections(packed(plan=PackPlan(layout=ByRole())).data))


def test_an_entropy_coder_wins_on_codes():
    kinds = {section.codec for section in read_sections(RANGE.data)[3:-2]}
    assert kinds & {"histogram", "row_column"} and len(RANGE.data) < len(GOOD.data)


# Made by the first version of the format, before it knew entropy coders and forms; it stays readable.
VERSION_1 = Path(__file__).parents[1] / "artifacts" / "version_1.bin"
VERSION_1_WEIGHTS = "07f469f131bf834f767fdc1018d0a0144cba810708013108eb0729ba0c525de4"


def test_an_artifact_of_the_first_version_is_read():
    opened = unpack(VERSION_1.read_bytes())
    assert opened.model == MODEL
    found = hashlib.sha256()
    for name, weight in opened.weights.items():
        found.update(name.encode() + weight.numpy().tobytes())
    assert found.hexdigest() == VERSION_1_WEIGHTS
    assert sum(size for _, size in Artifact.of(VERSION_1.read_bytes()).ledger) == VERSION_1.stat().st_size


# A form with everything that a grid has not: wide codes, steps of rows and columns, low rank, flags.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Everything(Form):
    rank: int = setting(1, at_least=0)

    def pieces(self, shape):
        rows, columns = shape
        return {
            "codes": (torch.int8, shape),
            "carries": (torch.int8, shape),
            "row_steps": (torch.float16, (rows,)),
            "column_steps": (torch.float16, (columns,)),
            "left": (torch.float32, (rows, self.rank)),
            "right": (torch.float32, (self.rank, columns)),
            "flags": (torch.uint8, (rows,)),
        }

    def check_pieces(self, pieces):
        if int(pieces["flags"].max()) > 1:
            raise ValueRangeError("flags beyond 1", where="flags")

    def weights(self, pieces):
        codes = join_wide(pieces["codes"], pieces["carries"]).float()
        steps = pieces["row_steps"].float()[:, None] * pieces["column_steps"].float()
        return (codes * steps + pieces["left"] @ pieces["right"]) * (1 - pieces["flags"].float())[:, None]


def everything(shape: tuple[int, int], rank: int, seed: int) -> QuantizedTensor:
    draw = torch.Generator().manual_seed(seed)
    rows, columns = shape
    codes, carries = split_wide((90 * torch.randn(shape, generator=draw)).round().short())
    pieces = {
        "codes": codes,
        "carries": carries,
        "row_steps": torch.rand(rows, generator=draw).half(),
        "column_steps": torch.rand(columns, generator=draw).half(),
        "left": torch.randn(rows, rank, generator=draw),
        "right": torch.randn(rank, columns, generator=draw),
        "flags": torch.randint(2, (rows,), generator=draw, dtype=torch.uint8),
    }
    return QuantizedTensor(Everything(rank=rank), pieces, shape)


def formed(codec=None, ranks=(3, 0)) -> tuple[dict, Artifact]:
    tensors, _ = quantize_weights(int6_rows(), weights_of(MODEL))
    for layer, rank in enumerate(ranks):
        for part in ("fc", "proj"):
            name = f"blocks.{layer}.mlp.{part}.weight"
            tensors[name] = everything(tensors[name].shape, rank, seed=layer)
    return tensors, pack(MODEL, tensors, TOKENIZER, PackPlan(codec=codec or Deflate()))


@given(st.lists(st.integers(-32_640, 32_639), min_size=1))
def test_wide_codes_come_back_and_small_ones_stay_as_they_are(codes):
    wide = torch.tensor(codes, dtype=torch.int16)
    rest, carries = split_wide(wide)
    assert torch.equal(join_wide(rest, carries), wide)
    small = (wide >= -128) & (wide < 128)
    assert torch.equal(rest[small].short(), wide[small]) and not carries[small].any()


@pytest.mark.parametrize("codec", [Deflate(), RowColumn(), Smallest(among=(Raw(), Histogram()))])
def test_tensors_of_a_form_of_their_own_come_back(codec):
    tensors, artifact = formed(codec)
    opened = unpack(artifact.data)
    for name, tensor in tensors.items():
        assert torch.equal(opened.weights[name], tensor.dequantize()), name
    assert opened.tensors["blocks.0.mlp.fc.weight"].form == Everything(rank=3)
    again = pack(opened.model, opened.tensors, opened.tokenizer.to_bytes(), PackPlan(codec=codec))
    assert again.data == artifact.data
    lines = {name for name, _ in artifact.ledger}
    assert {"blocks.1.mlp.proj.weight carries", "blocks.0.mlp.fc.weight left"} <= lines


def test_forms_that_cannot_be_are_refused():
    _, artifact = formed(ranks=(3, 2))
    taken = Taken(artifact.data)
    forms = taken.text(1)["forms"]
    number = next(i for i, form in enumerate(forms) if form == {"class": "Everything", "rank": 3})
    for changed, error in {
        '{"class": "Everything", "rank": 4}': ShapeMismatchError,
        '{"class": "Everything", "rank": 1000000000000}': ShapeMismatchError,
        '{"class": "Everything", "rank": -1}': UnknownFormError,
        '{"class": "Everything", "rnk": 3}': UnknownFormError,
        '{"class": "Form"}': UnknownFormError,
        '{"class": "Nothing"}': UnknownFormError,
        '{"class": "Grid"}': ShapeMismatchError,
        '{"class": []}': UnknownFormError,
    }.items():
        taken = Taken(artifact.data)
        taken.edit(1, forms=[*forms[:number], json.loads(changed), *forms[number + 1 :]])
        with pytest.raises(ArtifactError) as caught:
            unpack(taken.bytes())
        assert type(caught.value) is error, (changed, caught.value)
    taken = Taken(artifact.data)
    left = next(i for i, row in enumerate(taken.rows) if i > 2 and row[1] == 4 * (32 + 16) * 5)
    taken.replace(left, b"\x7e" * taken.rows[left][1])  # finite, but not when multiplied
    with pytest.raises(ValueRangeError, match="not finite"):
        unpack(taken.bytes())
    taken = Taken(artifact.data)
    flags = next(i for i, row in enumerate(taken.rows) if i > 2 and row[1] == 2 * (32 + 16))
    taken.replace(flags, b"\2" * taken.rows[flags][1])
    with pytest.raises(ValueRangeError, match="flags"):
        unpack(taken.bytes())


def test_floats_are_split_into_planes():
    halves = torch.tensor([1.0, 2.0]).half()
    single = torch.tensor([1.0])
    data = halves.numpy().tobytes() + single.numpy().tobytes()
    expected = bytes(data[i] for i in (0, 2, 4, 1, 3, 5, 6, 7))
    assert join_planes([halves, single]) == expected


# The bytes of this artifact never change: old files stay readable, and defaults stay what they were.
FROZEN_DEFAULTS = {
    "vocabulary_size": 1024,
    "layers": 9,
    "width": 512,
    "heads": 8,
    "kv_heads": 4,
    "mlp_multiplier": 2.0,
    "mlp_hidden": 0,
    "tied": True,
    "logit_softcap": 30.0,
    "qk_gain": 1.5,
    "embed_std": 0.005,
}
FROZEN_SHA256 = "3db9975268c7d687f6f146c6502ba6b5653cdd13fe02babb0a9529be3b14eb68"


def test_defaults_are_part_of_the_format():
    plan = ModelPlan()
    assert {name: getattr(plan, name) for name in FROZEN_DEFAULTS} == FROZEN_DEFAULTS
    assert type(plan.route).__name__ == "USkips"
    assert plan.position == Rope(dims=0, base=10000.0, reference_length=0, frequencies="float32")
    assert (plan.scope, plan.embed, plan.values, plan.heads_out) == ((), (), (), ())
    kinds = [plan.activation, plan.input_scale, plan.residual, plan.recurrence, plan.objective, plan.start]
    names = [type(kind).__name__ for kind in kinds]
    assert names == ["ReluSquared", "Unscaled", "Serial", "Once", "NextToken", "UniformStart"]
    grid = Grid()
    assert (grid.bits, grid.symmetric, grid.scale_dtype) == (8, True, "float16")
    assert type(grid.granularity).__name__ == "PerRow"


def test_the_bytes_of_a_small_artifact_never_change():
    codes = {name: torch.arange(t.numel()).reshape(t.shape) % 7 - 3 for name, t in weights_of(MODEL).items()}
    tensors, _ = quantize_weights(int6_rows(), {name: code / 4 for name, code in codes.items()})
    data = pack(MODEL, tensors, b"", PackPlan(codec=Raw(), order="rows")).data
    assert hashlib.sha256(data).hexdigest() == FROZEN_SHA256


@settings(max_examples=20, deadline=None)
@given(
    width=st.sampled_from([16, 32]), softcap=st.floats(1, 100), tied=st.booleans(), layers=st.integers(1, 4)
)
def test_a_plan_without_its_defaults_reads_back(width, softcap, tied, layers):
    plan = ModelPlan(width=width, logit_softcap=softcap, tied=tied, layers=layers, route=Plain())
    assert from_json(ModelPlan, json.loads(json.dumps(sparse_json(plan)))) == plan
    assert "position" not in sparse_json(plan)


CHILD = """
import hashlib, sys
from tests.squeeze.packing import ALL_RANGE, packed
print(hashlib.sha256(packed().data + ALL_RANGE.data).hexdigest())
"""


def test_threads_and_earlier_streams_change_no_byte(monkeypatch):
    """Also where two streams have the same numbers."""
    alike = {name: torch.ones_like(weight) for name, weight in weights_of(MODEL).items()}
    for weights in (weights_of(MODEL), alike):
        tensors, _ = quantize_weights(int6_rows(), weights)
        alone, kept = pack(MODEL, tensors, TOKENIZER).data, {}
        monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
        assert pack(MODEL, tensors, TOKENIZER, encoded_before=kept).data == alone
        assert kept and pack(MODEL, tensors, TOKENIZER, encoded_before=kept).data == alone
        monkeypatch.undo()


def test_every_process_packs_the_same_bytes():
    hashes = {hashlib.sha256(packed().data + ALL_RANGE.data).hexdigest()}
    for seed in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", CHILD],
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
            cwd=ROOT,
            timeout=120,
        )
        hashes.add(done.stdout.strip() or done.stderr)
    assert len(hashes) == 1


def test_only_the_tensors_of_the_plan_are_packed():
    tensors, _ = quantize_weights(int6_rows(), weights_of(MODEL))
    name = "blocks.0.mlp.fc.weight"
    for changed, found in (
        ({**tensors, "lm_head.weight": tensors["tok_emb.weight"]}, "lm_head.weight.*no such tensor"),
        ({key: tensor for key, tensor in tensors.items() if key != name}, f"{name}.*nothing"),
        ({**tensors, name: tensors["blocks.0.mlp.proj.weight"]}, f"{name}.*asks for shape"),
    ):
        with pytest.raises(ShapeMismatchError, match=found):
            pack(MODEL, changed, TOKENIZER)
