"""Public variables: each bites where it says and nowhere else, off is off, order is nothing."""

import random

import pytest
import torch

from bitgolf.adapt.documents import LoraDocuments, PhasedLora
from bitgolf.adapt.score_first import ScoreFirst
from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.base.plan import diff
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import AttentionOutputGate, BiasedGate, GatedAttention, SparseGate, Xsa
from bitgolf.net.layers import DtgGate, GatedMlp, LeakyReluSquared, LnScale, ParallelResidual, TwoLanes
from bitgolf.net.model import parameter_shapes
from bitgolf.net.objective import MultiToken
from bitgolf.net.position import AttentionWindow, NoPosition, Rope
from bitgolf.net.route import GatedSkips, Looped, Plain
from bitgolf.net.start import OrthogonalStart
from bitgolf.net.values import ValueEmbedding, ValueResidual
from bitgolf.public.names import (
    IGNORED,
    KINDS,
    LATER,
    OTHER_NAMES,
    WHY_IGNORED,
    later,
    parse_variables,
    seed_of,
)
from bitgolf.public.variables import (
    apply_variables,
    targets,
    variable_rows,
    variables_at,
    variables_of,
)
from bitgolf.recipe import Recipe
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.demo import demo
from bitgolf.recipes.pr682 import STEP_SECONDS, pr682
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.windows import Chunked, Growing, PerDocument, Sliding
from bitgolf.squeeze.codec import Brotli, Lzma, Zstd
from bitgolf.text.batches import PublicOrder, ShardsByLength
from bitgolf.train.average import Ema, LateEma, Latest, NoAverage, Swa, SwaCount, TightSwa
from bitgolf.train.loop import Stage
from bitgolf.train.optim import (
    AdamRule,
    MuonRule,
    OptimPlan,
    ParameterRow,
    SgdRule,
    assign_parameters,
    public_rows,
)
from bitgolf.train.qat import FakeQuantize, NoNoise, SoftRound
from bitgolf.train.schedule import WarmdownClock, WarmdownFraction

# Every variable that the catalogue of techniques names.
CATALOGUE = """
ADAM_WD ADAM_WEIGHT_DECAY APPEND_EOS ATTN_OUT_GATE_ENABLED BATCH_SCHEDULE_FRACTION BATCH_TOKENS_START
BETA2 BIGRAM_DIM BIGRAM_VOCAB_SIZE COMPRESSOR CONTROL_TENSOR_NAME_PATTERNS DISABLE_LAYER0_ATTN DTG_ENABLED
EMA_DECAY EMA_START_FRAC EMBEDDING_DIM EMBED_BITS EMBED_CLIP_SIGMAS EMBED_LR EMBED_WD ENABLE_LOOPING_AT
ETLB_CLIP ETLB_LR ETLB_STEPS EVAL_SEQ_LEN EVAL_STRIDE GATED_ATTENTION GATED_ATTN_ENABLED
GATED_ATTN_INIT_STD GATED_ATTN_QUANT_GATE GATE_ATTN_OUT GATE_ATTN_SRC GATE_WIDTH GATE_WINDOW GLOBAL_TTT_LR
GPTQ_CALIBRATION_BATCHES GPTQ_RESERVE_MS GPTQ_RESERVE_SECONDS GRAD_CLIP GRAD_CLIP_NORM HEAD_LR INT4_LAYERS
INT4_STEP INT6_SCALE_GROUP_ROWS INT6_SCALE_MODE ITERATIONS LATE_QAT_THRESHOLD LAWA_ENABLED LAWA_FREQ
LN_SCALE LOGIT_SOFTCAP LOOP_END LOOP_PHASE2_AT LOOP_START LQER_ASYM_ENABLED LQER_FACTOR_BITS LQER_RANK
LQER_TOP_K MATRIX_BITS MATRIX_CLIP_SIGMAS MATRIX_LR MAX_VAL_SEQS MAX_WALLCLOCK_SECONDS MIN_LR
MIXED_KEEP_FLOAT_PATTERNS MLP_CLIP_SIGMAS MLP_HIDDEN MLP_MULT MODEL_DIM MTP_LOSS_WEIGHT MTP_NUM_HEADS
MUON_BACKEND_STEPS MUON_MOMENTUM MUON_MOMENTUM_WARMUP_START MUON_MOMENTUM_WARMUP_STEPS MUON_ROW_NORMALIZE
MUON_WD MUON_WEIGHT_DECAY NOPE NO_COMPILE NUM_HEADS NUM_KV_HEADS NUM_LAYERS NUM_LOOPS N_INT6_LAYERS
PARALLEL_FINAL_LANE PARALLEL_RESIDUAL_START PARALLEL_START_LAYER PHASED_TTT_NUM_PHASES
PHASED_TTT_PREFIX_DOCS QAT_START_FRAC QK_GAIN_INIT RECUR_LAYERS RECUR_START_STEP REPEAT_UNTIE_MLP
ROPE_BASE ROPE_DIMS ROPE_TRAIN_SEQ_LEN ROPE_TYPE ROPE_YARN SCALAR_LR SEED SKIP_GATES_ENABLED SMEAR_GATE
SMEAR_GATE_ENABLED SMEAR_GATE_WIDTH SPARSE_ATTN_GATE_ENABLED SPARSE_ATTN_GATE_SCALE SWA_CHECKPOINTS
SWA_EVERY SWA_START_FRAC SWA_WINDOW_SIZE TARGET_MB TIED_EMBED_INIT_STD TIED_EMBED_LR TIE_EMBEDDINGS
TRAIN_BATCH_TOKENS TRAIN_LOG_EVERY TRAIN_SEQ_LEN TTT_BATCH_SEQS TTT_CHUNK_SIZE TTT_CHUNK_TOKENS
TTT_ENABLED TTT_EPOCHS TTT_FREEZE_BLOCKS TTT_GRAD_CLIP TTT_LORA_ALPHA TTT_LR TTT_MOMENTUM TTT_WARM_START_A
VALUE_RESIDUAL VAL_BATCH_SIZE VAL_LOSS_EVERY VE_DIM VE_ENABLED VE_LAYERS VOCAB_SIZE WARMDOWN_FRAC
WARMDOWN_ITERS WARMUP_STEPS WD_TAPER_FINAL_MULT WD_TAPER_START_FRAC WEIGHT_DECAY XSA_LAST_N YARN_MAX_LEN
BETA1 ADAM_EPS SWA_ENABLED QAT QAT_ENABLED
""".split()

# Every variable that a script of #682, #212, #374, #543, #488, #1716, #1718 or the baseline reads.
SCRIPTS = """
ADAM_EPS ADAM_WD ADAM_WEIGHT_DECAY AUTO_RESCUE_BYTES AUTO_RESCUE_CALIB_BATCHES AUTO_RESCUE_CANDIDATES
AUTO_RESCUE_MODE AUTO_RESCUE_TOPK BETA1 BETA2 BIGRAM_DIM BIGRAM_HASH BIGRAM_HASH_BUCKETS BIGRAM_HASH_DIM
BIGRAM_VOCAB_SIZE COMPRESSOR CONTROL_TENSOR_NAME_PATTERNS CURRICULUM DATA_DIR DATA_PATH DEVICE
DOC_ISOLATED_EVAL DTG_ENABLED EMA_DECAY EMA_ENABLED EMA_START_FRAC EMBEDDING_DIM EMBED_BITS
EMBED_CLIP_SIGMAS EMBED_LR EMBED_WD ENABLE_LOOPING_AT ENABLE_TTT_EVAL ETLB_CLIP ETLB_ENABLED ETLB_LR
ETLB_STEPS EVAL_BATCH_SEQS EVAL_SEQ_LEN EVAL_STRIDE FP16_EMBED_EXPORT GATE_ATTN_OUT GATE_ATTN_SRC GATE_WIDTH
GPTQ_CALIBRATION_BATCHES GPTQ_LITE GPTQ_RESERVE_SECONDS GRAD_CLIP_NORM HEAD_LR INT6_SCALE_GROUP_ROWS
INT6_SCALE_MODE INT8_KEEP_FLOAT_FP32_NAME_PATTERNS ITERATIONS LATE_K_FP16 LATE_QAT_THRESHOLD LN_SCALE
LOCAL_RANK LOGIT_SOFTCAP LOOP_END LOOP_START LORA_LR LORA_RANK MATRIX_BITS MATRIX_CLIP_SIGMAS MATRIX_LR
MAX_WALLCLOCK_SECONDS MIN_LR MIXED_KEEP_FLOAT_PATTERNS MLP_HIDDEN MLP_MULT MODEL_DIM MTP_LOSS_WEIGHT
MTP_NUM_HEADS MUON_BACKEND_STEPS MUON_BETA2 MUON_MOMENTUM MUON_MOMENTUM_WARMUP_START
MUON_MOMENTUM_WARMUP_STEPS MUON_ROW_NORMALIZE MUON_WD MUON_WEIGHT_DECAY NUM_HEADS NUM_KV_HEADS NUM_LAYERS
NUM_LOOPS ORTHO_INIT OUTLIER_LOG_EVERY OUTLIER_PENALTY_COEF OUTLIER_PENALTY_START_FRAC OUTLIER_PROBE_LAYERS
OUTLIER_TARGET_KURTOSIS PARALLEL_RESIDUAL_START PRUNE_PCT QAT QAT_BITS QAT_ENABLED QAT_LATE_THRESHOLD
QAT_MATRIX_BITS QAT_MATRIX_CLIP QAT_MIN_SECONDS QAT_START_FRAC QAT_WARMUP_STEPS QK_GAIN_INIT QUANT_BITS RANK
READOUT_GROUPS READOUT_SCALE ROPE_BASE ROPE_DIMS ROPE_TRAIN_SEQ_LEN RUN_ID SCALAR_LR SEED SKIP_GATES_ENABLED
SLIDING_WINDOW_ENABLED SMEAR_GATE SMEAR_GATE_WIDTH SWA SWA_CHECKPOINTS SWA_ENABLED SWA_EVERY SWA_START_FRAC
SWA_THRESHOLD SWA_WINDOW_SIZE TEMP_CAL_BATCHES TEMP_CAL_ENABLED TIED_EMBED_INIT_STD TIED_EMBED_LR TIER2_MODE
TIE_EMBEDDINGS TOKENIZER_PATH TORCH_COMPILE TRAIN_BATCH_TOKENS TRAIN_FILES TRAIN_LOG_EVERY TRAIN_SEQ_LEN
TTT_BATCH_SIZE TTT_CHUNK_SIZE TTT_CHUNK_TOKENS TTT_ENABLED TTT_EPOCHS TTT_EVAL_SEQ_LEN TTT_FREEZE_BLOCKS
TTT_LORA_LR TTT_LORA_RANK TTT_LR TTT_MAX_STEPS TTT_MOMENTUM UNET_SKIPS USE_FA3 USE_PASS_READOUT USE_ZSTD
VAL_BATCH_SIZE VAL_BATCH_TOKENS VAL_FILES VAL_LOSS_EVERY VAL_MAX_TOKENS VE_DIM VE_ENABLED VE_LAYERS
VOCAB_SIZE WARMDOWN_FRAC WARMDOWN_ITERS WARMUP_STEPS WEIGHT_DECAY WORLD_SIZE XSA_LAST_N
""".split()

RATES = public_rows(
    embedding=AdamRule(lr=0.05), matrices=MuonRule(lr=0.04), rest=AdamRule(lr=0.04), head=AdamRule(lr=0.008)
)
UNTIED = public_rows(
    embedding=AdamRule(lr=0.6), matrices=MuonRule(lr=0.04), rest=AdamRule(lr=0.04), head=AdamRule(lr=0.008)
)
NEW_ROWS = {"optim.rows": RATES}
TAPERED = ("WD_TAPER_FINAL_MULT", "WD_TAPER_START_FRAC")


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


def given(text: str, recipe: Recipe | None = None) -> Recipe:
    """A recipe, the baseline if none is named, with variables as one would type them."""
    return apply_variables(recipe or baseline(), parse_variables(text.split()))


def refused(text: str, *words: str, recipe: Recipe | None = None) -> None:
    """One PlanError, with these words in it."""
    with pytest.raises(PlanError) as caught:
        given(text, recipe)
    for word in words:
        assert word in str(caught.value)


def test_every_variable_of_the_catalogue_and_of_the_scripts_is_known():
    known = (KINDS, IGNORED)
    first = {name: OTHER_NAMES.get(name, name) for name in (*CATALOGUE, *SCRIPTS)}
    assert [n for n in first if not any(first[n] in each for each in known) and later(n) is None] == []


def test_what_describes_the_machine_is_ignored_and_said_once():
    text = "DATA_PATH=./data RANK=0 LOCAL_RANK=0 WORLD_SIZE=8 RUN_ID=x USE_FA3=1"
    assert given(text) == baseline()
    rows = variable_rows(
        baseline(), given(text + " LN_SCALE=1"), parse_variables((text + " LN_SCALE=1").split())
    )
    assert [row[2] for row in rows] == ["model.input_scale: LnScale", WHY_IGNORED]
    assert rows[1][0] == "DATA_PATH, RANK, LOCAL_RANK, WORLD_SIZE, RUN_ID, USE_FA3"
    assert not set(IGNORED) & {*KINDS, *OTHER_NAMES}


def test_nothing_that_is_built_is_called_missing():
    missing = " ".join(what for what in LATER.values() if "not built" in what)
    assert "not here yet" not in " ".join(LATER.values())
    for word in ("GPTQ", "LowRank", "grid", "SDClip", "int6"):
        assert word not in missing


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


def test_off_takes_out_what_a_recipe_has():
    with_all = baseline().replace(
        {
            "model.heads_out": (Xsa(), SparseGate()),
            "model.embed": (BigramHash(), SmearGate()),
            "model.position": NoPosition(),
            "model.recurrence": Looped(),
            "average": Ema(),
            "noise": FakeQuantize(),
            "backend.compile": True,
        }
    )
    off = "XSA_LAST_N=0 BIGRAM_VOCAB_SIZE=0 NOPE=0 NUM_LOOPS=0 EMA_DECAY=0 QAT_ENABLED=0 NO_COMPILE=1"
    after = given(off, with_all)
    assert after.model.heads_out == (SparseGate(),)
    assert after.model.embed == (SmearGate(),)
    assert after.model.position == Rope()
    assert (after.average, after.backend.compile) == (NoAverage(), False)
    assert given("SPARSE_ATTN_GATE_ENABLED=0 SMEAR_GATE=0", after) == baseline()


def test_a_recipe_keeps_what_the_variables_do_not_say():
    held = baseline().replace(
        {
            "model.heads_out": (SparseGate(scale=0.5),),
            "average": Ema(start_fraction=0.2),
            "model.position": Rope(dims=32),
        }
    )
    after = given("SPARSE_ATTN_GATE_ENABLED=1 GATE_WINDOW=8 EMA_DECAY=0.9 ROPE_BASE=500 XSA_LAST_N=3", held)
    assert after.model.heads_out == (Xsa(last=3), SparseGate(channels=8, scale=0.5))
    assert after.average == Ema(decay=0.9, start_fraction=0.2)
    assert after.model.position == Rope(dims=32, base=500.0)


def test_what_two_techniques_share_does_not_replace_the_one_that_is_there():
    for average in (SwaCount(checkpoints=5), TightSwa(every=20)):
        held = baseline().replace({"average": average})
        assert given("SWA_ENABLED=1", held) == held
        assert given("SWA_ENABLED=0", held).average == NoAverage()
        assert given("SWA_ENABLED=1 SWA_START_FRAC=0.4", held).average == Swa(start_scale=0.4)
    assert given("SWA_ENABLED=1 SWA_EVERY=9", held).average == TightSwa(every=9)
    late = baseline().replace({"average": LateEma(start_fraction=0.6)})
    assert given("EMA_DECAY=0.9", late).average == LateEma(decay=0.9, start_fraction=0.6)


def test_late_and_early_noise_are_switched_apart():
    late = baseline().replace({"noise": FakeQuantize(under_scale=0.1, patterns=("blocks.*.weight",))})
    clock = baseline().replace({"noise": FakeQuantize(from_progress=0.85)})
    assert given("LATE_QAT_THRESHOLD=0", late) == given("QAT_ENABLED=0", late) == baseline()
    assert given("LATE_QAT_THRESHOLD=0", clock) == clock
    assert given("QAT_START_FRAC=0", late) == late
    assert given("QAT_START_FRAC=0", clock) == baseline()
    assert given("LATE_QAT_THRESHOLD=0.2", late) == late.replace({"noise.under_scale": 0.2})


def test_soft_rounding_is_switched_apart_from_the_straight_one():
    soft = baseline().replace({"noise": SoftRound(under_scale=0.3, hardest=8.0)})
    assert given("LATE_QAT_THRESHOLD=0.2", soft) == soft.replace({"noise.under_scale": 0.2})
    assert given("SOFT_ROUND_QAT=0", soft).noise == given("LATE_QAT_THRESHOLD=0", soft).noise == NoNoise()
    assert given("SOFT_ROUND_QAT=1 LATE_QAT_THRESHOLD=0") == baseline()  # never under a scale of zero
    hard = baseline().replace({"noise": FakeQuantize(under_scale=0.1)})
    assert given("SOFT_ROUND_QAT=1 LATE_QAT_THRESHOLD=0.1", hard).noise == SoftRound(under_scale=0.1)


def test_the_gate_of_the_mlp_keeps_what_is_inside_it():
    gated = baseline().replace({"model.activation": GatedMlp(channels=5)})
    slope = given("NEGATIVE_SLOPE=0.7", gated).model.activation
    assert slope == GatedMlp(inner=LeakyReluSquared(slope=0.7), channels=5)
    assert given("GATE_WIDTH=9", gated).model.activation == GatedMlp(channels=9)
    assert given("GATE_MLP_OUT=0", gated).model.activation == LeakyReluSquared()
    both = given("GATE_MLP_OUT=1 GATE_ATTN_OUT=1 GATE_WIDTH=6")
    assert both.model.activation == GatedMlp(channels=6)
    assert both.model.heads_out == (AttentionOutputGate(channels=6),)


def test_what_learns_while_it_scores_is_switched_off_and_kept_apart():
    lora = given("TTT_LORA_RANK=4")
    assert given("TTT_ENABLED=1", lora) == lora
    assert given("TTT_ENABLED=0", lora).score.adapter == NoAdapter()
    phased = lora.replace({"score.adapter": PhasedLora(targets=("q", "k"))})
    assert given("TTT_LORA_RANK=2 TTT_O_LORA=1", phased).score.adapter == PhasedLora(
        rank=2, targets=("q", "k", "o")
    )
    assert given("TTT_ENABLED=1 TTT_FREEZE_BLOCKS=999999999999").score.adapter.frozen[-1] == "blocks.8.*"
    windows = PerDocument(within=Chunked(length=64))
    own = baseline().replace({"score.windows": windows})
    assert given("TTT_LORA_RANK=4", own).score.windows == windows


def test_the_order_of_short_documents_is_switched_off():
    assert (
        given("CURRICULUM=0", baseline().replace({"data.order": ShardsByLength()})).data.order
        == PublicOrder()
    )


def test_a_public_command_line_is_the_recipe_of_its_pull_request():
    text = (
        "EMA_DECAY=0.97 ROPE_DIMS=16 LN_SCALE=1 ITERATIONS=200 WARMUP_STEPS=10 TRAIN_BATCH_TOKENS=4096 "
        "TRAIN_SEQ_LEN=512 MAX_VAL_SEQS=256"
    )
    of_its_card = {"name": "pr682", "train.step_seconds": STEP_SECONDS}
    assert given(text).replace(of_its_card) == pr682()


def test_order_is_nothing():
    texts = (
        "XSA_LAST_N=4 GATE_ATTN_OUT=1 BIGRAM_VOCAB_SIZE=2048 SMEAR_GATE=1 VE_ENABLED=1 VE_LAYERS=7,8 "
        "NUM_LAYERS=11 MATRIX_LR=0.02 ADAM_WD=0.02 EMBED_WD=0.05 TIE_EMBEDDINGS=0 EMBED_LR=0.3 "
        "TRAIN_SEQ_LEN=2048 EVAL_STRIDE=64 ROPE_YARN=1 ROPE_DIMS=16 EMA_DECAY=0.997 MLP_MULT=3.0 SEED=1 "
        "EMBEDDING_DIM=256 MODEL_DIM=512 TRAIN_BATCH_TOKENS=786432 PARALLEL_START_LAYER=7 NUM_LOOPS=2 "
        "WARMDOWN_FRAC=0.5"
    ).split()
    first = given(" ".join(texts))
    draw = random.Random(0)
    for _ in range(5):
        draw.shuffle(texts)
        assert given(" ".join(texts)) == first


def test_the_command_line_of_a_public_ablation():
    after = given("EMA_DECAY=0.997 ROPE_DIMS=16 MLP_MULT=3.0")
    expected = {"average": Ema(decay=0.997), "model.position.dims": 16, "model.mlp_multiplier": 3.0}
    assert after == baseline().replace(expected)


def test_new_parameters_are_trained_in_their_public_groups():
    text = "BIGRAM_VOCAB_SIZE=2048 GATE_ATTN_OUT=1 VE_ENABLED=1 VE_LAYERS=1 MATRIX_LR=0.01 TIED_EMBED_LR=0.03"
    for recipe in (baseline(), demo()):
        after = given(text, recipe)
        shapes = parameter_shapes(after.model)
        taken = assign_parameters(after.optim, {n: torch.empty(s, device="meta") for n, s in shapes.items()})
        rules = {name: row.rule for row, names in zip(after.optim.rows, taken) for name in names}
        for name in ("tok_emb.weight", "bigram.embed.weight", "ve_shared.embed.weight"):
            assert rules[name].lr == 0.03
        for name in ("bigram.proj.weight", "blocks.1.mlp.fc.weight"):
            assert isinstance(rules[name], MuonRule)
            assert rules[name].lr == 0.01
        for name in ("blocks.1.attn.attn_gate_proj.weight", "bigram.scale", "blocks.1.attn.q_gain"):
            assert rules[name] == recipe.optim.rows[-1].rule


def test_a_table_of_ones_own_is_kept_or_refused():
    apart = ParameterRow(pattern="*q_gain", rule=AdamRule(lr=0.1))
    own = baseline().replace({"optim.rows": (apart, *baseline().optim.rows)})
    assert given("MATRIX_LR=0.02 XSA_LAST_N=4", own).optim.rows[0] == apart
    refused("BIGRAM_VOCAB_SIZE=2048", "optim.rows", "bigram.embed.weight", "q_gain", recipe=own)
    one = baseline().replace({"optim": OptimPlan(rows=(ParameterRow(rule=AdamRule(lr=0.01)),))})
    refused("SCALAR_LR=0.02", "SCALAR_LR", "embedding and matrices too", recipe=one)
    refused("MUON_MOMENTUM=0.9", "MUON_MOMENTUM", "matrices", "'momentum'", recipe=one)


def test_a_tied_table_again_takes_the_row_of_the_head_with_it():
    untied = given("TIE_EMBEDDINGS=0")
    tied = given("TIE_EMBEDDINGS=1", untied)
    assert tied.optim.rows[0].rule.lr == 0.05
    assign_parameters(tied.optim, {n: torch.empty(s) for n, s in parameter_shapes(tied.model).items()})


def test_windows_follow_the_training_length_only_where_they_did():
    assert given("TRAIN_SEQ_LEN=512", demo()).score.windows == Sliding(length=512, stride=64)
    other = demo().replace({"score.windows": PerDocument(within=Chunked(length=64))})
    assert given("TRAIN_SEQ_LEN=512", other).score == other.score
    assert given("EVAL_STRIDE=32", other).score.windows == PerDocument(within=Sliding(length=64, stride=32))
    assert given("EVAL_STRIDE=0", demo()).score.windows == Chunked(length=256)
    refused("TRAIN_SEQ_LEN=32", "TRAIN_SEQ_LEN", "stride", "at most the length, 32", recipe=demo())


def test_warmdown_by_steps_or_by_fraction_but_not_both():
    refused("WARMDOWN_ITERS=300 WARMDOWN_FRAC=0.5", "WARMDOWN_ITERS, WARMDOWN_FRAC", "only one of")
    assert given("WARMDOWN_ITERS=300 WARMDOWN_FRAC=0").optim.schedule == WarmdownClock(warmdown_steps=300)


def test_two_averages_do_not_stack():
    refused("EMA_DECAY=0.997 SWA_ENABLED=1", "EMA_DECAY, SWA_ENABLED", "Ema and Swa", "give one")
    assert given("EMA_DECAY=0.997 SWA_ENABLED=0").average == Ema()
    assert given("EMA_DECAY=0.997 EMA_ENABLED=0").average == NoAverage()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("EMA_DECY=0.9", ("EMA_DECY: unknown variable", "did you mean 'EMA_DECAY'?")),
        ("ema_decay=0.9", ("did you mean 'EMA_DECAY'?",)),
        ("ZZZ=1", ("ZZZ: unknown variable", "bitgolf techniques")),
        ("TTT_LR=0.01", ("TTT_LR: the recipe has no ScoreFirst; give TTT_ENABLED too",)),
        ("TTT_LORA_ALPHA=9", ("no LoraDocuments and PhasedLora; give TTT_LORA_RANK or PHASED_TTT",)),
        ("TTT_OPTIMIZER=sgd", ("TTT_OPTIMIZER: known, but not a variable here: score.adapter has",)),
        ("TTT_ENABLED=1 TTT_CHUNK_TOKENS=9", ("chunk_tokens", "9 are fewer than a window of 1024")),
        ("GPTQ_RESERVE_MS=9", ("GPTQ_RESERVE_MS: known, but set in quantize", "Gptq")),
        ("LQER_RANK=4", ("LowRank",)),
        ("COMPRESSOR=pergroup", ("COMPRESSOR: unknown value 'pergroup'", "brotli")),
        ("SLIDING_WINDOW_ENABLED=1", ("give EVAL_STRIDE too",)),
        ("COMPRESSOR=brotli USE_ZSTD=1", ("COMPRESSOR and USE_ZSTD",)),
        ("ITERATIONS=many", ("ITERATIONS: expected int, found 'many'",)),
        ("MATRIX_LR=", ("MATRIX_LR: expected float, found ''",)),
        ("EMA_DECAY=nan", ("EMA_DECAY: expected a finite number, found 'nan'",)),
        ("MATRIX_LR=-inf", ("MATRIX_LR: expected a finite number, found '-inf'",)),
        ("MUON_WEIGHT_DECAY=1e999", ("MUON_WEIGHT_DECAY: expected a finite number, found '1e999'",)),
        (
            "ITERATIONS=" + "9" * 30,
            ("a finite number below 2**63, found 999", "ITERATIONS"),
        ),
        ("LN_SCALE=yes", ("LN_SCALE: expected 0 or 1, found 'yes'",)),
        ("VE_ENABLED=1 VE_LAYERS=7,x", ("VE_LAYERS: expected a list of int",)),
        ("VE_ENABLED=1", ("ValueEmbedding.layers: 9 is none of layers 0 to 8", "(VE_ENABLED)")),
        ("GATE_ATTN_OUT=1 GATE_ATTN_SRC=k", ("GATE_ATTN_SRC: unknown value 'k'", "proj, q")),
        ("NUM_LAYERS=0", ("ModelPlan.layers: must be at least 1, found 0 (NUM_LAYERS)",)),
        ("NUM_HEADS=7", ("7 must divide the width 512 (NUM_HEADS)",)),
        ("EMA_DECAY=2", ("Ema.decay: must be below 1.0, found 2.0 (EMA_DECAY)",)),
        ("MATRIX_LR=nan", ("MATRIX_LR", "finite")),
        ("BETA2=1", ("BETA2: AdamRule.beta2: must be below 1.0",)),
        ("BIGRAM_DIM=64", ("BIGRAM_DIM: the recipe has no BigramHash; give BIGRAM_VOCAB_SIZE too",)),
        ("MIN_LR=0.1", ("MIN_LR", "give WARMDOWN_FRAC too")),
        ("ROPE_TRAIN_SEQ_LEN=512", ("give ROPE_YARN too",)),
        ("HEAD_LR=0.01", ("HEAD_LR", "give TIE_EMBEDDINGS too")),
        ("TIE_EMBEDDINGS=0 MUON_WD=0.1 WEIGHT_DECAY=0.2", ("WEIGHT_DECAY: MUON_WD is the same variable",)),
        ("GATE_ATTN_OUT=1 GATE_WIDTH=8 GATE_WINDOW=9", ("GATE_WIDTH and GATE_WINDOW", "two values")),
        ("TRAIN_BATCH_TOKENS=1000", ("must be a multiple of data.sequence_length", "(TRAIN_BATCH_TOKENS)")),
        ("PARALLEL_RESIDUAL_START=3 PARALLEL_START_LAYER=3", ("ParallelResidual and TwoLanes",)),
    ],
)
def test_what_does_not_fit_is_refused_by_name(text, words):
    refused(text, *words)


def test_endless_names_and_values_are_shown_by_their_start():
    refused("ITERATIONS=" + "9" * 9999, "ITERATIONS: expected int, found '999", "9...")
    refused("N" * 99999 + "=1", "NNN...: unknown variable; ")
    with pytest.raises(PlanError) as error:
        parse_variables([f"SEED={'9' * 9999}", f"SEED={'8' * 9999}", "x" * 99999])
    assert len(str(error.value)) < 2000


def test_all_problems_come_at_once():
    refused(
        "EMA_DECY=1 TTT_LR=1 MATRIX_LR=x BIGRAM_DIM=9 NUM_LAYERS=0",
        "EMA_DECY",
        "TTT_LR",
        "MATRIX_LR",
        "BIGRAM_DIM",
        "NUM_LAYERS",
    )


def test_texts_become_names_and_values():
    assert parse_variables(["A=1", "B=", "C=x=y", "A=1"]) == {"A": "1", "B": "", "C": "x=y"}
    for texts in (["EMA_DECAY"], ["=1"], ["A=1", "A=2"]):
        with pytest.raises(PlanError):
            parse_variables(texts)


def test_the_seed_is_given_once():
    assert seed_of({}, None) == 1337
    assert seed_of({}, 5) == seed_of({"SEED": "5"}, None) == seed_of({"SEED": "5"}, 5) == 5
    with pytest.raises(BitgolfError, match="two seeds"):
        seed_of({"SEED": "5"}, 6)


def test_the_table_says_what_was_and_what_is():
    texts = "MATRIX_LR=0.02 XSA_LAST_N=4 VE_ENABLED=1 VE_LAYERS=7,8 SEED=3 LQER_ENABLED=0 ADAM_WD=0.1"
    variables = parse_variables(texts.split())
    before = baseline()
    after = apply_variables(before, variables)
    assert variable_rows(before, after, variables) == [
        ("MATRIX_LR", "0.02", "optim.rows, matrices: lr", 0.04, 0.02),
        ("XSA_LAST_N", "4", "model.heads_out: Xsa.last", None, 4),
        ("VE_ENABLED", "1", "model.values: ValueEmbedding", False, True),
        ("VE_LAYERS", "7,8", "model.values: ValueEmbedding.layers", None, (7, 8)),
        ("SEED", "3", "the seed of the run", None, None),
        ("LQER_ENABLED", "0", "off here too", None, None),
        ("ADAM_WD", "0.1", "optim.rows, embedding: weight_decay", 0.0, 0.1),
        ("ADAM_WD", "0.1", "optim.rows, rest: weight_decay", 0.0, 0.1),
        ("", "", "optim.rows, for new parameters", "3 rows", "6 rows"),
    ]


def test_techniques_know_their_variables():
    assert variables_of(Xsa) == ("XSA_LAST_N",)
    assert variables_of(SmearGate) == ("SMEAR_GATE", "SMEAR_GATE_WIDTH", "GATE_WINDOW", "SMEAR_GATE_ENABLED")
    assert {"ROPE_DIMS", "ROPE_YARN"} < set(variables_of(Rope))
    assert {"MATRIX_LR", "WEIGHT_DECAY", *TAPERED} < set(variables_of(MuonRule))
    assert "MATRIX_LR" not in variables_of(AdamRule)
    assert variables_at("model.mlp_hidden") == ("MLP_HIDDEN", "MLP_MULT")
    assert all(targets(name) for name in KINDS)
    assert not set(LATER) & set(KINDS)
