"""Public variables: each bites where it says and nowhere else, and off is off."""

import pytest
import torch

from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.plan import diff
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import AttentionOutputGate, BiasedGate, GatedAttention, SparseGate, Xsa
from bitgolf.net.layers import DtgGate, LnScale, ParallelResidual, TwoLanes
from bitgolf.net.mlp import GatedMlp, LeakyReluSquared
from bitgolf.net.model import parameter_shapes
from bitgolf.net.objective import MultiToken
from bitgolf.net.position import AttentionWindow, NoPosition
from bitgolf.net.route import GatedSkips, Looped, Plain
from bitgolf.net.start import OrthogonalStart
from bitgolf.net.values import ValueEmbedding, ValueResidual
from bitgolf.public.names import (
    IGNORED,
    KINDS,
    OTHER_NAMES,
    WHY_IGNORED,
    parse_variables,
)
from bitgolf.public.variables import (
    variable_rows,
)
from bitgolf.recipes.baseline import baseline
from bitgolf.score.windows import Growing, PerDocument, Sliding
from bitgolf.squeeze.codec import Brotli, Lzma, Zstd
from bitgolf.text.batches import ShardsByLength
from bitgolf.train.average import Ema, LateEma, Latest, Swa, SwaCount
from bitgolf.train.loop import Stage
from bitgolf.train.optim import (
    AdamRule,
    MuonRule,
    SgdRule,
    assign_parameters,
    public_rows,
)
from bitgolf.train.qat import FakeQuantize, SoftRound
from bitgolf.train.schedule import WarmdownFraction
from tests.public.given import given

RATES = public_rows(
    embedding=AdamRule(lr=0.05), matrices=MuonRule(lr=0.04), rest=AdamRule(lr=0.04), head=AdamRule(lr=0.008)
)


UNTIED = public_rows(
    embedding=AdamRule(lr=0.6), matrices=MuonRule(lr=0.04), rest=AdamRule(lr=0.04), head=AdamRule(lr=0.008)
)


NEW_ROWS = {"optim.rows": RATES}


def adam(field: str, value: float) -> dict[str, object]:
    return {f"optim.rows.{row}.rule.{field}": value for row in (0, 2)}


def muon(field: str, value: object) -> dict[str, object]:
    return {f"optim.rows.1.rule.{field}": value}


def heads_out(part: object, **more: object) -> dict[str, object]:
    return {"model.heads_out": (part,), **more}


LORA_RATE = AdamRule(lr=0.01, beta1=0.9, beta2=0.95, eps=1e-10)


# Variables as typed, and all that they change in the baseline.
BITES: list[tuple[str, dict[str, object]]] = [
    ("ADAM_EPS=1e-10", adam("eps", 1e-10)),
    ("ADAM_WD=0.04", adam("weight_decay", 0.04)),
    (
        "ADAM_WD=0.02 EMBED_WD=0.085",
        {"optim.rows.0.rule.weight_decay": 0.085, "optim.rows.2.rule.weight_decay": 0.02},
    ),
    ("BETA1=0.8", adam("beta1", 0.8)),
    ("BETA2=0.99", adam("beta2", 0.99)),
    ("EMBED_WD=0.085", {"optim.rows.0.rule.weight_decay": 0.085}),
    ("MATRIX_LR=0.02", muon("lr", 0.02)),
    ("MUON_BACKEND_STEPS=3", muon("backend_steps", 3)),
    ("MUON_MOMENTUM=0.97", muon("momentum", 0.97)),
    ("MUON_MOMENTUM_WARMUP_START=0.92", muon("warmup_start", 0.92)),
    ("MUON_MOMENTUM_WARMUP_STEPS=1500", muon("warmup_steps", 1500)),
    ("MUON_ROW_NORMALIZE=1", muon("row_normalize", True)),
    ("MUON_WD=0.04", muon("weight_decay", 0.04)),
    ("WEIGHT_DECAY=0.04", muon("weight_decay", 0.04)),
    ("MUON_WEIGHT_DECAY=0.04", muon("weight_decay", 0.04)),
    ("SCALAR_LR=0.02", {"optim.rows.2.rule.lr": 0.02}),
    ("TIED_EMBED_LR=0.03", {"optim.rows.0.rule.lr": 0.03}),
    ("WD_TAPER_START_FRAC=0.7", muon("taper_start", 0.7)),
    ("WD_TAPER_FINAL_MULT=0.5", muon("taper_final", 0.5)),
    ("TIE_EMBEDDINGS=0", {"model.tied": False, "optim.rows": UNTIED}),
    (
        "TIE_EMBEDDINGS=0 EMBED_LR=0.5 HEAD_LR=0.01",
        {
            "model.tied": False,
            "optim.rows": public_rows(
                embedding=AdamRule(lr=0.5),
                matrices=MuonRule(),
                rest=AdamRule(lr=0.04),
                head=AdamRule(lr=0.01),
            ),
        },
    ),
    ("CASEOPS_ENABLED=1", {"data.case_ops": True}),
    ("GRAD_CLIP_NORM=0.3", {"train.grad_clip_norm": 0.3}),
    ("ITERATIONS=300", {"train.steps": 300}),
    ("LOGIT_SOFTCAP=15", {"model.logit_softcap": 15.0}),
    ("MAX_VAL_SEQS=256", {"score.limit_tokens": 256 * 1024}),
    (
        "TRAIN_SEQ_LEN=512 MAX_VAL_SEQS=3 EVAL_SEQ_LEN=1024",
        {"data.sequence_length": 512, "score.limit_tokens": 3 * 512},
    ),
    ("MAX_WALLCLOCK_SECONDS=0", {"train.train_seconds": 0.0}),
    ("MODEL_DIM=256", {"model.width": 256}),
    ("NUM_HEADS=4", {"model.heads": 4}),
    ("NUM_KV_HEADS=2", {"model.kv_heads": 2}),
    ("NUM_LAYERS=11", {"model.layers": 11}),
    ("QK_GAIN_INIT=5.25", {"model.qk_gain": 5.25}),
    ("TIED_EMBED_INIT_STD=0.02", {"model.embed_std": 0.02}),
    ("TRAIN_BATCH_TOKENS=786432", {"train.batch_tokens": 786432}),
    ("TRAIN_LOG_EVERY=200", {"train.log_steps": 200}),
    ("VAL_LOSS_EVERY=500", {"train.validate_steps": 500}),
    ("VOCAB_SIZE=8192", {"model.vocabulary_size": 8192}),
    ("WARMUP_STEPS=20", {"train.priming_steps": 20}),
    ("EMBEDDING_DIM=256", {"model.embedding_width": 256, **NEW_ROWS}),
    ("MLP_HIDDEN=1408", {"model.mlp_hidden": 1408}),
    ("MLP_MULT=3.0", {"model.mlp_multiplier": 3.0}),
    ("TRAIN_SEQ_LEN=2048", {"data.sequence_length": 2048, "score.windows.length": 2048}),
    ("TRAIN_SEQ_LEN=2048 EVAL_SEQ_LEN=1024", {"data.sequence_length": 2048}),
    ("EVAL_SEQ_LEN=2048", {"score.windows.length": 2048}),
    ("EVAL_STRIDE=64", {"score.windows": Sliding(length=1024, stride=64)}),
    ("EVAL_STRIDE=64 EVAL_SEQ_LEN=1408", {"score.windows": Sliding(length=1408, stride=64)}),
    ("ROPE_BASE=5000", {"model.position.base": 5000.0}),
    ("ROPE_DIMS=16", {"model.position.dims": 16}),
    ("PARTIAL_ROPE_DIMS=16", {"model.position.dims": 16}),
    ("ROPE_YARN=1", {"model.position.reference_length": 1024}),
    ("ROPE_YARN=1 ROPE_TRAIN_SEQ_LEN=512", {"model.position.reference_length": 512}),
    ("NOPE=1", {"model.position": NoPosition()}),
    ("NOPE=1 ROPE_DIMS=16 ROPE_YARN=1", {"model.position": NoPosition()}),
    ("LN_SCALE=1", {"model.input_scale": LnScale()}),
    ("NEGATIVE_SLOPE=0.5", {"model.activation": LeakyReluSquared(slope=0.5)}),
    ("SKIP_GATES_ENABLED=1", {"model.route": GatedSkips()}),
    ("PARALLEL_RESIDUAL_START=7", {"model.residual": ParallelResidual(first=7)}),
    ("PARALLEL_RESIDUAL_START=0", {"model.residual": ParallelResidual(first=0)}),
    ("PARALLEL_START_LAYER=6 PARALLEL_FINAL_LANE=attn", {"model.residual": TwoLanes(first=6, leaves="attn")}),
    ("NUM_LOOPS=2", {"model.recurrence": Looped(enable_at=0.35)}),
    (
        "NUM_LOOPS=1 LOOP_START=2 LOOP_END=4 ENABLE_LOOPING_AT=0.5 LOOP_PHASE2_AT=0.65",
        {"model.recurrence": Looped(first=2, last=4, loops=1, enable_at=0.5, more_at=0.65)},
    ),
    ("MTP_NUM_HEADS=1 MTP_LOSS_WEIGHT=0.1", {"model.objective": MultiToken(heads=1, weight=0.1), **NEW_ROWS}),
    ("SWA_WINDOW_SIZE=1024", {"model.scope": (AttentionWindow(tokens=1024),)}),
    ("XSA_LAST_N=4", heads_out(Xsa(last=4))),
    ("GATE_ATTN_OUT=1", heads_out(AttentionOutputGate(), **NEW_ROWS)),
    (
        "ATTN_OUT_GATE_ENABLED=1 GATE_WIDTH=8 ATTN_OUT_GATE_SRC=q",
        heads_out(AttentionOutputGate(channels=8, source="queries"), **NEW_ROWS),
    ),
    ("GATED_ATTN_ENABLED=1 GATED_ATTN_INIT_STD=0.005", heads_out(GatedAttention(std=0.005))),
    ("GATED_ATTENTION=1", heads_out(BiasedGate(), **NEW_ROWS)),
    ("DTG_ENABLED=1", {"model.residual": DtgGate(), **NEW_ROWS}),
    (
        "SPARSE_ATTN_GATE_ENABLED=1 SPARSE_ATTN_GATE_SCALE=0.5 SPARSE_ATTN_GATE_INIT_STD=0.1 GATE_WINDOW=16",
        heads_out(SparseGate(channels=16, scale=0.5, std=0.1)),
    ),
    (
        "BIGRAM_VOCAB_SIZE=4096 BIGRAM_DIM=64",
        {"model.embed": (BigramHash(buckets=4096, dimension=64),), **NEW_ROWS},
    ),
    ("SMEAR_GATE=1", {"model.embed": (SmearGate(),)}),
    ("SMEAR_GATE_ENABLED=1 SMEAR_GATE_WIDTH=8", {"model.embed": (SmearGate(channels=8),)}),
    (
        "VE_ENABLED=1 VE_DIM=64 VE_LAYERS=7,8",
        {"model.values": (ValueEmbedding(dimension=64, layers=(7, 8)),), **NEW_ROWS},
    ),
    ("VALUE_RESIDUAL=1", {"model.values": (ValueResidual(),)}),
    ("WARMDOWN_ITERS=3600", {"optim.schedule.warmdown_steps": 3600}),
    ("WARMDOWN_FRAC=0.85 MIN_LR=0.1", {"optim.schedule": WarmdownFraction(fraction=0.85, minimum=0.1)}),
    (
        "BATCH_TOKENS_START=262144 BATCH_SCHEDULE_FRACTION=0.2",
        {"train.stages": (Stage(until=0.2, batch_tokens=262144),)},
    ),
    ("EMA_DECAY=0.97", {"average": Ema(decay=0.97)}),
    ("EMA_ENABLED=1", {"average": Ema()}),
    ("EMA_DECAY=0.97 EMA_START_FRAC=0.85", {"average": LateEma(decay=0.97, start_fraction=0.85)}),
    ("SWA_ENABLED=1 SWA_EVERY=120 SWA_START_FRAC=0.4", {"average": Swa(every=120, start_scale=0.4)}),
    ("SWA_ENABLED=1 SWA_CHECKPOINTS=5", {"average": SwaCount(checkpoints=5)}),
    ("LAWA_ENABLED=1 LAWA_FREQ=50 LAWA_K=4", {"average": Latest(snapshots=4, every=50)}),
    ("QAT_ENABLED=1", {"noise": FakeQuantize()}),
    ("QAT=1", {"noise": FakeQuantize()}),
    ("QAT_LATE_THRESHOLD=0.1", {"noise": FakeQuantize(under_scale=0.1)}),
    ("SWA=1 SWA_THRESHOLD=0.2", {"average": Swa(start_scale=0.2)}),
    ("BIGRAM_HASH=1", {"model.embed": (BigramHash(),), **NEW_ROWS}),
    (
        "BIGRAM_HASH=1 BIGRAM_HASH_BUCKETS=4096 BIGRAM_HASH_DIM=64",
        {"model.embed": (BigramHash(buckets=4096, dimension=64),), **NEW_ROWS},
    ),
    ("ORTHO_INIT=1", {"model.start": OrthogonalStart()}),
    ("UNET_SKIPS=0", {"model.route": Plain()}),
    ("SLIDING_WINDOW_ENABLED=1 EVAL_STRIDE=64", {"score.windows": Sliding(length=1024, stride=64)}),
    ("TORCH_COMPILE=1", {"backend.compile": True}),
    ("COMPRESSOR=brotli", {"pack.codec": Brotli()}),
    ("COMPRESSOR=lzma", {"pack.codec": Lzma()}),
    ("USE_ZSTD=1", {"pack.codec": Zstd()}),
    ("USE_ZSTD=1 COMPRESSOR=zstd", {"pack.codec": Zstd()}),
    ("VAL_MAX_TOKENS=4096", {"score.limit_tokens": 4096}),
    ("QAT_START_FRAC=0.85", {"noise": FakeQuantize(from_progress=0.85)}),
    ("LATE_QAT_THRESHOLD=0.1 QAT_ENABLED=0", {"noise": FakeQuantize(under_scale=0.1)}),
    ("SOFT_ROUND_QAT=1", {"noise": SoftRound(under_scale=0.5)}),
    ("SOFT_ROUND_QAT=1 LATE_QAT_THRESHOLD=0.15", {"noise": SoftRound(under_scale=0.15)}),
    (
        "SOFT_ROUND_QAT=1 QAT_START_FRAC=0.7",
        {"noise": SoftRound(under_scale=0.5, from_progress=0.7)},
    ),
    ("SOFT_ROUND_QAT=0 LATE_QAT_THRESHOLD=0.15", {"noise": FakeQuantize(under_scale=0.15)}),
    (
        "TTT_ENABLED=1 TTT_LR=0.005 TTT_EPOCHS=4 TTT_CHUNK_TOKENS=4096 TTT_MOMENTUM=0.8 TTT_BATCH_SEQS=16 "
        "TTT_GRAD_CLIP=0.5 TTT_FREEZE_BLOCKS=2",
        {
            "score.adapter": ScoreFirst(
                chunk_tokens=4096,
                epochs=4,
                rule=SgdRule(lr=0.005, momentum=0.8),
                frozen=("blocks.0.*", "blocks.1.*"),
                batch_sequences=16,
                clip=0.5,
            )
        },
    ),
    (
        "TTT_LORA_RANK=4 TTT_LORA_LR=0.02 TTT_CHUNK_SIZE=128 TTT_EVAL_SEQ_LEN=512 TTT_BATCH_SIZE=32",
        {
            "score.adapter": LoraDocuments(rank=4, batch_documents=32, rule=LORA_RATE.replace(lr=0.02)),
            "score.windows": PerDocument(within=Growing(length=512, stride=128)),
        },
    ),
    (
        "ENABLE_TTT_EVAL=1 TTT_LORA_ALPHA=144 TTT_WARM_START_A=1 TTT_GRAD_STEPS=2 TTT_WEIGHT_DECAY=0.5 "
        "TTT_BETA1=0 TTT_BETA2=0.99 TTT_K_LORA=1 TTT_O_LORA=0 TTT_MLP_LORA=1",
        {
            "score.adapter": LoraDocuments(
                alpha=144.0,
                warm=True,
                steps=2,
                rule=LORA_RATE.replace(weight_decay=0.5, beta1=0.0, beta2=0.99),
                targets=("q", "k", "v", "mlp", "head"),
            ),
            "score.windows": PerDocument(within=Growing()),
        },
    ),
    (
        "TTT_ENABLED=1 TTT_LORA_RANK=96 PHASED_TTT_ENABLED=1 PHASED_TTT_PREFIX_DOCS=2500 "
        "PHASED_TTT_NUM_PHASES=3 GLOBAL_TTT_LR=0.002 GLOBAL_TTT_MOMENTUM=0.8 GLOBAL_TTT_EPOCHS=2 "
        "GLOBAL_TTT_CHUNK_TOKENS=4096 "
        "GLOBAL_TTT_BATCH_SEQS=8 GLOBAL_TTT_GRAD_CLIP=2",
        {
            "score.adapter": PhasedLora(
                rank=96,
                prefix_documents=2500,
                phases=3,
                globally=ScoreFirst(
                    epochs=2,
                    rule=SgdRule(lr=0.002, momentum=0.8),
                    chunk_tokens=4096,
                    batch_sequences=8,
                    clip=2.0,
                ),
            ),
            "score.windows": PerDocument(within=Growing()),
        },
    ),
    ("CURRICULUM=1", {"data.order": ShardsByLength()}),
    ("GATE_MLP_OUT=1", {"model.activation": GatedMlp(), **NEW_ROWS}),
    (
        "GATE_MLP_OUT=1 GATE_WIDTH=24 NEGATIVE_SLOPE=0.3",
        {"model.activation": GatedMlp(inner=LeakyReluSquared(slope=0.3), channels=24), **NEW_ROWS},
    ),
]


# What each variable is at when it is off, or as the baseline has it.
NEUTRAL = """
ADAM_EPS=1e-8 ADAM_WD=0 BATCH_SCHEDULE_FRACTION=0 BATCH_TOKENS_START=0 BETA1=0.9 BETA2=0.95
BIGRAM_VOCAB_SIZE=0 CASEOPS_ENABLED=0 EMA_DECAY=0 EMA_ENABLED=0 EMBEDDING_DIM=512 EMBED_WD=0
ENABLE_LOOPING_AT=0 EVAL_SEQ_LEN=0 EVAL_STRIDE=0 GATED_ATTN_ENABLED=0 GATE_ATTN_OUT= GRAD_CLIP_NORM=0
ITERATIONS=20000 LATE_QAT_THRESHOLD=0 LAWA_ENABLED=0 LN_SCALE=0 LOGIT_SOFTCAP=30 LOOP_PHASE2_AT=0
MATRIX_LR=0.04 MAX_VAL_SEQS=0 MAX_WALLCLOCK_SECONDS=600 MIN_LR=0 MLP_HIDDEN=0 MLP_MULT=2 MODEL_DIM=512
MTP_LOSS_WEIGHT=0 MTP_NUM_HEADS=0 MUON_BACKEND_STEPS=5 MUON_MOMENTUM=0.95 MUON_MOMENTUM_WARMUP_START=0.85
MUON_MOMENTUM_WARMUP_STEPS=500 MUON_ROW_NORMALIZE=0 MUON_WD=0 NEGATIVE_SLOPE=0 NOPE=0 NO_COMPILE=0
NUM_HEADS=8 NUM_KV_HEADS=4 NUM_LAYERS=9 NUM_LOOPS=0 PARALLEL_RESIDUAL_START=-1 PARALLEL_START_LAYER=0
QAT_ENABLED=0 QAT_START_FRAC=0 QK_GAIN_INIT=1.5 ROPE_BASE=10000 ROPE_DIMS=0 ROPE_YARN=0 SCALAR_LR=0.04
SKIP_GATES_ENABLED=0 SMEAR_GATE=0 SPARSE_ATTN_GATE_ENABLED=0 SWA_CHECKPOINTS=0 SWA_ENABLED=0
SWA_WINDOW_SIZE=0 TIED_EMBED_INIT_STD=0.005 TIED_EMBED_LR=0.05 TIE_EMBEDDINGS=1 TRAIN_BATCH_TOKENS=524288
TRAIN_LOG_EVERY=1 TRAIN_SEQ_LEN=1024 VALUE_RESIDUAL=0 VE_ENABLED=0 VE_LAYERS= VOCAB_SIZE=1024
WARMDOWN_FRAC=0 WARMDOWN_ITERS=1200 WARMUP_STEPS=0 WD_TAPER_FINAL_MULT=1 WD_TAPER_START_FRAC=0
XSA_LAST_N=0 SEED=42 BIGRAM_HASH=0 ORTHO_INIT=0 UNET_SKIPS=1 SLIDING_WINDOW_ENABLED=0
USE_ZSTD=0 COMPRESSOR=zlib VAL_MAX_TOKENS=0 SOFT_ROUND_QAT=0 CURRICULUM=0 GATE_MLP_OUT=0
TORCH_COMPILE=0 AUTO_RESCUE_MODE=off PRUNE_PCT=0.0 TTT_ENABLED=0 LQER_ENABLED=0 DTG_ENABLED=
""".split()


def test_what_describes_the_machine_is_ignored_and_said_once():
    text = "DATA_PATH=./data RANK=0 LOCAL_RANK=0 WORLD_SIZE=8 RUN_ID=x USE_FA3=1"
    assert given(text) == baseline()
    rows = variable_rows(
        baseline(), given(text + " LN_SCALE=1"), parse_variables((text + " LN_SCALE=1").split())
    )
    assert [row[2] for row in rows] == ["model.input_scale: LnScale", WHY_IGNORED]
    assert rows[1][0] == "DATA_PATH, RANK, LOCAL_RANK, WORLD_SIZE, RUN_ID, USE_FA3"
    assert not set(IGNORED) & {*KINDS, *OTHER_NAMES}


@pytest.mark.parametrize(("text", "expected"), BITES, ids=[text for text, _ in BITES])
def test_a_variable_changes_what_it_says_and_nothing_else(text, expected):
    before, after = baseline(), given(text)
    assert {path: right for path, _, right in diff(before, after)} == expected
    shapes = {n: torch.empty(s, device="meta") for n, s in parameter_shapes(after.model).items()}
    assign_parameters(after.optim, shapes)
    after.quantize.assign(shapes)
    shown = variable_rows(before, after, parse_variables(text.split()))
    assert {name for name, *_ in shown if name} == {pair.partition("=")[0] for pair in text.split()}
    assert "off here too" not in [words for _, _, words, *_ in shown]


def test_every_variable_is_tried():
    tried = {pair.partition("=")[0] for text, _ in BITES for pair in text.split()}
    assert set(KINDS) - {OTHER_NAMES.get(name, name) for name in tried} == {"SEED", "NO_COMPILE"}
    assert set(OTHER_NAMES) - tried == {"ADAM_WEIGHT_DECAY", "GRAD_CLIP"}
    assert given("ADAM_WEIGHT_DECAY=0.1 GRAD_CLIP=1") == given("ADAM_WD=0.1 GRAD_CLIP_NORM=1")


@pytest.mark.parametrize("text", NEUTRAL)
def test_off_is_the_recipe_as_it_was(text):
    assert given(text) == baseline()


def test_all_that_is_off_together_is_the_recipe_as_it_was():
    assert given(" ".join(NEUTRAL)) == baseline()
