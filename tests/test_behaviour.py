"""One suite over all techniques of the network: off is exact, on bites, nothing sees the future or another
document, every parameter is trained, and every two techniques work together."""

import dataclasses
import itertools
from typing import Any, ClassVar

import pytest
import torch

from bitgolf.base.errors import PlanError
from bitgolf.base.plan import Plan, from_json, members, to_json
from bitgolf.catalog.behaviour import PROBED
from bitgolf.catalog.probes import (
    CHUNK,
    PLAIN,
    end_differs,
    perturbed,
    probes,
    results,
    sees_other_documents,
    sees_the_future,
    starts_equal,
    stream,
)
from bitgolf.net.backend import Backend
from bitgolf.net.embed import BigramHash, BigramSum, SmearBias, SmearGate, SmearVector
from bitgolf.net.heads import AttentionOutputGate, BiasedGate, GatedAttention, HeadsPart, SparseGate, Xsa
from bitgolf.net.layers import (
    DtgGate,
    InputScale,
    LanesInTurn,
    LnScale,
    MergedLanes,
    ParallelResidual,
    Serial,
    TwoLanes,
    Unscaled,
)
from bitgolf.net.mlp import Activation, GatedMlp, LeakyReluSquared, ReluSquared
from bitgolf.net.model import ModelPlan, build_model
from bitgolf.net.objective import MultiToken, NextToken, Objective, TokenAfterNext
from bitgolf.net.parts import Part
from bitgolf.net.position import Alibi, AttentionWindow, DocumentAttention, NoPosition, RelativeBuckets, Rope
from bitgolf.net.route import GatedSkips, Huginn, Looped, Once, Plain, Recurrence, Route, USkips
from bitgolf.net.start import Initialisation, OrthogonalStart, UniformStart
from bitgolf.net.values import ValueEmbedding, ValueResidual
from bitgolf.squeeze.clip import CoarseCodes
from bitgolf.squeeze.quantize import QuantRule, int6_rows
from bitgolf.text.batches import CoprimeStride, Curriculum, PublicOrder, ShardsByLength, ShuffledBlocks
from bitgolf.train.average import Ema, LateEma, Latest, NoAverage, Several, Swa, SwaCount, TightSwa
from bitgolf.train.loop import Stage, TrainPlan, train
from bitgolf.train.optim import (
    AdamRule,
    Frozen,
    MuonRule,
    OptimPlan,
    ParameterRow,
    make_optimizers,
    public_rows,
)
from bitgolf.train.qat import FakeQuantize, NoNoise, SigmoidRound, SoftRound
from bitgolf.train.schedule import (
    Constant,
    Cosine,
    Progress,
    WarmdownClock,
    WarmdownFraction,
    WarmdownSteps,
    WarmupThen,
)
from tests.covering import covering_array, pairs_of
from tests.small_training import ShardBatches, Ticking, token_stream

BASE = ModelPlan(vocabulary_size=96, layers=4, width=48, heads=4, kv_heads=2)
BACKENDS = {
    "math": PLAIN,
    "sdpa": Backend(attention="sdpa", fused=True),
    "chunk": CHUNK,
    "bfloat16": Backend(dtype=torch.bfloat16, attention="chunk", fused=True),
}


@dataclasses.dataclass(frozen=True)
class Technique:
    """A member of a slot: what switches it on, what it is off at, and what that must equal."""

    on: dict[str, Any]
    off: dict[str, Any] | None = None
    like: dict[str, Any] = dataclasses.field(default_factory=dict)
    keeps_documents: bool = True


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeforeToo(HeadsPart):
    """Outputs of heads with those of the token before."""

    looks_back: ClassVar[bool] = True

    def heads_out(self, y, values, x, queries, attention):
        return y + torch.nn.functional.pad(y[:, :-1], (0, 0, 0, 0, 1, 0))


TECHNIQUES = {
    Rope: Technique({"position": Rope(dims=8)}, {"position": Rope(dims=12)}),
    NoPosition: Technique({"position": NoPosition()}),
    Alibi: Technique(
        {"position": Alibi()}, {"position": Alibi(steepness=0.0)}, like={"position": NoPosition()}
    ),
    RelativeBuckets: Technique({"position": RelativeBuckets(buckets=4, longest=6)}),
    AttentionWindow: Technique(
        {"scope": (AttentionWindow(tokens=7),)}, {"scope": (AttentionWindow(tokens=0),)}
    ),
    DocumentAttention: Technique(
        {"scope": (DocumentAttention(),)}, {"scope": (DocumentAttention(),), "bos_id": 95}
    ),
    BigramHash: Technique(
        {"embed": (BigramHash(buckets=50, dimension=8),)},
        {"embed": (BigramHash(buckets=50, dimension=8, scale=0.0),)},
        keeps_documents=False,
    ),
    BigramSum: Technique(
        {"embed": (BigramSum(buckets=50, dimension=8),)},
        {"embed": (BigramSum(buckets=50, dimension=8),)},
        keeps_documents=False,
    ),
    SmearBias: Technique(
        {"embed": (SmearBias(),)}, {"embed": (SmearBias(factor=0.0),)}, keeps_documents=False
    ),
    SmearVector: Technique(
        {"embed": (SmearVector(),)}, {"embed": (SmearVector(start=-200.0),)}, keeps_documents=False
    ),
    SmearGate: Technique({"embed": (SmearGate(),)}, {"embed": (SmearGate(),)}),
    ValueEmbedding: Technique(
        {"values": (ValueEmbedding(dimension=8, layers=(1, 3)),)},
        {"values": (ValueEmbedding(dimension=8, layers=()),)},
    ),
    ValueResidual: Technique({"values": (ValueResidual(),)}, {"values": (ValueResidual(start=0.0),)}),
    Xsa: Technique({"heads_out": (Xsa(last=2),)}, {"heads_out": (Xsa(last=0),)}),
    AttentionOutputGate: Technique(
        {"heads_out": (AttentionOutputGate(),)}, {"heads_out": (AttentionOutputGate(),)}
    ),
    GatedAttention: Technique({"heads_out": (GatedAttention(),)}),
    BiasedGate: Technique({"heads_out": (BiasedGate(),)}, {"heads_out": (BiasedGate(start=200.0),)}),
    SparseGate: Technique({"heads_out": (SparseGate(),)}),
    ReluSquared: Technique({"activation": ReluSquared()}, {}),
    LeakyReluSquared: Technique(
        {"activation": LeakyReluSquared()}, {"activation": LeakyReluSquared(slope=0.0)}
    ),
    GatedMlp: Technique(
        {"activation": GatedMlp()}, {"activation": GatedMlp()}, like={"activation": LeakyReluSquared()}
    ),
    Unscaled: Technique({"input_scale": Unscaled()}, {}),
    LnScale: Technique(
        {"input_scale": LnScale()}, {"input_scale": LnScale(), "layers": 1}, like={"layers": 1}
    ),
    Serial: Technique({"residual": Serial()}, {}),
    ParallelResidual: Technique(
        {"residual": ParallelResidual(first=2)}, {"residual": ParallelResidual(first=4)}
    ),
    DtgGate: Technique({"residual": DtgGate()}, {"residual": DtgGate(start=200.0)}),
    LanesInTurn: Technique({"residual": LanesInTurn(first=2)}, {"residual": LanesInTurn(first=4)}),
    MergedLanes: Technique({"residual": MergedLanes(first=2)}, {"residual": MergedLanes(first=4)}),
    TwoLanes: Technique({"residual": TwoLanes(first=2)}, {"residual": TwoLanes(first=4)}),
    Plain: Technique({"route": Plain()}, {"route": Plain(), "layers": 1}, like={"layers": 1}),
    USkips: Technique({"route": USkips()}, {}),
    GatedSkips: Technique({"route": GatedSkips()}, {"route": GatedSkips(), "layers": 1}, like={"layers": 1}),
    Once: Technique({"recurrence": Once()}, {}),
    Looped: Technique(
        {"recurrence": Looped(first=1, last=2, loops=1)},
        {"recurrence": Looped(first=1, last=2, loops=0)},
    ),
    Huginn: Technique(
        {"recurrence": Huginn(first=1, last=2, loops=2, evaluation_loops=2)},
        {"recurrence": Huginn(first=1, last=2, loops=1, evaluation_loops=1)},
    ),
    NextToken: Technique({"objective": NextToken()}, {}),
    MultiToken: Technique({"objective": MultiToken(heads=2)}, {"objective": MultiToken(weight=0.0)}),
    TokenAfterNext: Technique({"objective": TokenAfterNext()}, {"objective": TokenAfterNext(weight=0.0)}),
    UniformStart: Technique({"start": UniformStart()}, {}),
    OrthogonalStart: Technique(
        {"start": OrthogonalStart(smallest=16)}, {"start": OrthogonalStart(smallest=1000)}
    ),
}
SLOTS: tuple[type[Plan], ...] = (Part, Activation, InputScale, Route, Recurrence, Objective, Initialisation)
NEUTRAL_MEMBERS = {ReluSquared, Unscaled, Serial, USkips, Once, NextToken, UniformStart}
IDS = [kind.__name__ for kind in TECHNIQUES]


def test_every_technique_has_a_case():
    found = {kind for slot in SLOTS for kind in members(slot).values() if "bitgolf" in kind.__module__}
    assert found == set(TECHNIQUES)


@pytest.mark.parametrize("backend", [PLAIN, CHUNK], ids=["plain", "fused"])
@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_off_is_exact(kind, backend):
    case = TECHNIQUES[kind]
    if case.off is None:
        pytest.skip("this technique has no neutral setting, as its card says")
    plan = BASE.replace(case.off)
    # Weights at their starts: some are off only there.
    off, base = build_model(plan).use(backend), build_model(BASE.replace(case.like)).use(backend)
    starts_equal(off, base)
    ids = stream(plan)
    for found, expected in zip(results(off, ids), results(base, ids)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_on_bites(kind):
    plan = BASE.replace(TECHNIQUES[kind].on)
    ids = stream(plan)
    ids[:, 20] = 1
    changed = results(perturbed(plan).use(PLAIN), ids)[0]
    neutral = results(perturbed(BASE).use(PLAIN), ids)[0]
    assert torch.equal(changed, neutral) == (kind in NEUTRAL_MEMBERS)


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_json_says_everything_and_equal_plans_make_equal_models(kind):
    plan = BASE.replace(TECHNIQUES[kind].on)
    again = from_json(ModelPlan, to_json(plan))
    assert again == plan and again.identity() == plan.identity()
    ids = stream(plan)
    for found, expected in zip(results(perturbed(again), ids), results(perturbed(plan), ids)):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_every_attention_computes_the_same(kind, backend):
    plan = BASE.replace(TECHNIQUES[kind].on)
    ids = stream(plan, time=150)
    ids[:, 33] = ids[0, 90] = 1
    expected = results(perturbed(plan).use(PLAIN), ids)
    found = results(perturbed(plan).use(backend), ids)
    close = 0.1 if backend.dtype == torch.bfloat16 else 1e-4
    for one, other in zip(found, expected):
        assert (one - other).norm() <= close * other.norm()


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_nothing_sees_the_future(kind):
    plan = BASE.replace(TECHNIQUES[kind].on)
    for (_, model), place in itertools.product(probes(plan), PROBED):
        assert not sees_the_future(model, stream(plan), place)


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_documents_stay_apart_where_that_is_claimed(kind):
    case = TECHNIQUES[kind]
    plan = BASE.replace(case.on).replace(scope=(*BASE.replace(case.on).scope, DocumentAttention()))
    if kind is DocumentAttention:
        plan = BASE.replace(case.on)
    for _, model in probes(plan):
        assert sees_other_documents(model, stream(plan), 17) != case.keeps_documents


@pytest.mark.parametrize(
    "part",
    [
        BigramHash(buckets=50, dimension=8, boundary=True),
        SmearVector(boundary=True),
        SmearVector(boundary=True, before_norm=True),
        SmearGate(boundary=True, after_norm=True),
        SmearBias(boundary=True, factor=0.5),
        BigramSum(buckets=50, dimension=8, boundary=True),
    ],
)
def test_boundaries_are_kept_by_parts_that_look_back(part):
    plan = BASE.replace(embed=(part,), scope=(DocumentAttention(),))
    assert not sees_other_documents(perturbed(plan).eval(), stream(plan), 17)
    assert sees_other_documents(perturbed(BASE.replace(embed=(part,))).eval(), stream(plan), 17)
    if isinstance(part, SmearGate):
        open_gate = plan.replace(embed=(part.replace(boundary=False),))
        assert sees_other_documents(perturbed(open_gate).eval(), stream(plan), 17)


def test_the_probes_catch_planted_bugs(monkeypatch):
    plan = BASE.replace(heads_out=(Xsa(last=2),))
    # A mean over the sequence in place of the own value: the leak of PR #1608.
    monkeypatch.setattr("bitgolf.net.heads.without_own_value", lambda y, values: y - y.mean(1, keepdim=True))
    assert sees_the_future(perturbed(plan).eval(), stream(plan), 19)


def test_a_part_that_looks_back_passes_all_positions_through_the_last_layer():
    plan = BASE.replace(heads_out=(BeforeToo(),))
    assert not end_differs(perturbed(plan).eval(), stream(plan))
    BeforeToo.looks_back = False
    try:
        assert end_differs(perturbed(plan).eval(), stream(plan))
    finally:
        BeforeToo.looks_back = True


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_the_last_positions_alone_are_as_in_a_whole_pass(kind):
    plan = BASE.replace(TECHNIQUES[kind].on)
    ids = stream(plan, time=90)
    ids[:, 70] = 1
    for backend in BACKENDS.values():
        model = perturbed(plan).use(backend).eval()
        if backend.dtype == torch.float32:
            assert not end_differs(model, ids)
        with torch.inference_mode():
            assert model.hidden(ids, 5).shape == (2, 5, 48)


def optim(changes: dict[str, Any] | None = None, schedule: Any = None, frozen: str = "") -> OptimPlan:
    """The public groups at rates that move a small model, behind a row for what is frozen."""
    muon = MuonRule(lr=0.02, warmup_steps=0, **(changes or {}))
    rows = public_rows(embedding=AdamRule(lr=0.02), matrices=muon, rest=AdamRule(lr=0.02))
    first = (ParameterRow(pattern=frozen, rule=Frozen()),) if frozen else ()
    return OptimPlan(rows=(*first, *rows), schedule=schedule or Constant())


@pytest.mark.parametrize("kind", TECHNIQUES, ids=IDS)
def test_every_parameter_has_one_optimizer_and_moves(kind):
    model = build_model(BASE.replace(TECHNIQUES[kind].on), seed=2)
    before = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    optimizers = make_optimizers(optim(), model)
    taken = [name for names in optimizers.names for name in names]
    assert sorted(taken) == sorted(before)
    for step in range(20):
        ids = stream(model.plan).roll(step, 1)
        optimizers.zero()
        model.loss(ids[:, :-1], ids[:, 1:]).backward()
        optimizers.step(1.0, Progress(step, 20))
    still = [name for name, tensor in model.named_parameters() if torch.equal(tensor, before[name])]
    assert still == []


FACTORS: dict[str, tuple[Any, ...]] = {
    "position": (
        Rope(),
        Rope(dims=6, reference_length=8),
        NoPosition(),
        Alibi(),
        RelativeBuckets(buckets=4, longest=6),
    ),
    "window": ((), (AttentionWindow(tokens=5, evaluation_tokens=9),)),
    "documents": ((), (DocumentAttention(longest=11),)),
    "bigram": (
        (),
        (BigramHash(buckets=40, dimension=8, boundary=True),),
        (BigramSum(buckets=40, dimension=8, boundary=True),),
    ),
    "smear": ((), (SmearVector(boundary=True),), (SmearGate(),), (SmearBias(boundary=True),)),
    "table": (
        (),
        (ValueEmbedding(dimension=8, layers=(0, 2)),),
        (ValueEmbedding(dimension=8, layers=(1,), shared_scale=False, zero_projection=False),),
    ),
    "frozen": ("", "blocks.0.attn.*", "blocks.1.mlp.*"),
    "first": ((), (ValueResidual(),)),
    "xsa": ((), (Xsa(last=3),)),
    "gate": (
        (),
        (AttentionOutputGate(source="queries"),),
        (GatedAttention(),),
        (BiasedGate(),),
        (SparseGate(),),
    ),
    "activation": (ReluSquared(), LeakyReluSquared(), GatedMlp(inner=ReluSquared(), channels=5)),
    "input_scale": (Unscaled(), LnScale()),
    "residual": (
        Serial(),
        DtgGate(),
        ParallelResidual(first=1),
        TwoLanes(first=3),
        LanesInTurn(first=3),
        MergedLanes(first=3),
    ),
    "recurrence": (
        Once(),
        Looped(first=1, last=2, loops=2, enable_at=0.4, more_at=0.7),
        Looped(first=1, last=2, loops=1, enable_at=0.4, untied=True),
        Looped(first=1, last=2, loops=1, enable_at=0.4, untied_down=True),
        Huginn(first=0, last=1, loops=2, evaluation_loops=3),
    ),
    "route": (USkips(), GatedSkips(), GatedSkips(rows=1), GatedSkips(rows=1, later="none"), Plain()),
    "objective": (NextToken(), MultiToken(heads=2), TokenAfterNext()),
    "start": (UniformStart(), OrthogonalStart(smallest=8)),
    "tied": (True, False),
    "embedding_width": (0, 32),
    "kv_heads": (2, 1, 4),
    "muon": ({}, {"row_normalize": True}, {"polar_express": True, "weight_decay": 0.1, "taper_start": 0.5}),
    "schedule": (
        Constant(),
        WarmdownSteps(warmdown_steps=2),
        WarmdownClock(warmdown_steps=2),
        WarmdownFraction(fraction=0.7, minimum=0.1),
        Cosine(),
        WarmupThen(fraction=0.4, then=Cosine()),
    ),
    "average": (
        NoAverage(),
        Ema(decay=0.5),
        LateEma(decay=0.5, start_fraction=0.3),
        Swa(every=1),
        TightSwa(every=1),
        SwaCount(checkpoints=2, guard=0.0),
        Latest(snapshots=2, every=1),
        Several(averages=(Ema(decay=0.5), Latest(snapshots=2, every=1)), shipped=1),
    ),
    "noise": (
        NoNoise(),
        FakeQuantize(from_progress=0.4),
        FakeQuantize(under_scale=0.9, patterns=("*",)),
        FakeQuantize(rules=(QuantRule(quantizer=CoarseCodes()),)),
        SoftRound(from_progress=0.2),
        SigmoidRound(from_progress=0.2),
    ),
    "order": (
        PublicOrder(),
        ShuffledBlocks(),
        CoprimeStride(),
        Curriculum(ramp_tokens=200),
        ShardsByLength(piece_tokens=90),
    ),
    "stages": ((), (Stage(until=0.5, sequence_length=8, batch_tokens=64),)),
    "grad_clip_norm": (0.0, 0.3),
    "backend": (PLAIN, CHUNK, BACKENDS["bfloat16"]),
}
ROWS = list(covering_array(FACTORS))


def test_every_two_levels_stand_together_somewhere():
    covered = set().union(*(pairs_of(row) for row in ROWS))
    sizes = [len(levels) for levels in FACTORS.values()]
    assert len(covered) == sum(a * b for a, b in itertools.combinations(sizes, 2))
    assert len(ROWS) < 100


def model_of(level: dict[str, Any], vocabulary_size: int) -> ModelPlan:
    """The model with these levels of the factors."""
    names = ("position", "activation", "input_scale", "residual", "recurrence", "route", "objective")
    names += ("start", "tied", "embedding_width", "kv_heads")
    return ModelPlan(
        vocabulary_size=vocabulary_size,
        layers=4,
        width=48,
        heads=4,
        scope=level["window"] + level["documents"],
        embed=level["bigram"] + level["smear"],
        values=level["table"] + level["first"],
        heads_out=level["xsa"] + level["gate"],
        **{name: level[name] for name in names},
    )


@pytest.mark.parametrize("number", range(len(ROWS)))
def test_techniques_work_together(number, tmp_path):
    level = {name: FACTORS[name][i] for name, i in ROWS[number].items()}
    plan = model_of(level, 64)
    model = build_model(plan, seed=1).use(level["backend"])
    optimizers = make_optimizers(optim(level["muon"], level["schedule"], level["frozen"]), model)
    batches = ShardBatches(
        stream=token_stream(tmp_path), order=level["order"], length=16, vocabulary_size=64, bos=1
    )
    training = TrainPlan(
        steps=3,
        train_seconds=0,
        batch_tokens=128,
        accumulation=1,
        stages=level["stages"],
        grad_clip_norm=level["grad_clip_norm"],
    )
    reports = list(
        train(
            model,
            training,
            optimizers,
            level["average"],
            batches,
            clock=Ticking(),
            noise=level["noise"],
            quantize=int6_rows(),
        )
    )
    assert [report.status for report in reports] == ["running", "running", "finished"]
    live = {name: tensor.detach().float() for name, tensor in model.state_dict().items()}
    averaged = level["average"].weights(reports[-1].state.averaged, live)
    assert averaged.keys() >= live.keys() and all(tensor.isfinite().all() for tensor in averaged.values())
    ids = stream(plan)
    model.use(PLAIN).eval()
    assert not sees_the_future(model, ids, 19)
    assert not end_differs(model, ids) and not end_differs(model.use(CHUNK), ids)
    if level["documents"]:
        assert not sees_other_documents(model, ids, 17)


def test_parts_that_do_not_fit_are_refused_by_name():
    cases = {
        "a head has 12 dimensions": {"position": Rope(dims=14)},
        "turn in pairs": {"position": Rope(dims=3)},
        "layers: 7 is none of": {"values": (ValueEmbedding(layers=(7,)),)},
        "at most the width 48": {"heads_out": (SparseGate(channels=60),)},
        "activation: channels: at most the width 48": {"activation": GatedMlp(channels=49)},
        "two parts have a tensor": {"embed": (SmearVector(), SmearVector(start=1.0))},
        "comes before the first": {"recurrence": Looped(first=3, last=1)},
        "the layers are 0 to 3": {"recurrence": Huginn(first=0, last=4)},
        "no token opens": {"scope": (DocumentAttention(),), "bos_id": -1},
    }
    for message, changes in cases.items():
        with pytest.raises(PlanError, match=message):
            BASE.replace(changes)
