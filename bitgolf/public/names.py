"""The environment variables of the public scripts, each with what it sets in a recipe.

Most name one setting. Some together make one technique, and those say so in one place. 0 or nothing is off.
"""

import dataclasses
import fnmatch
import typing
from collections.abc import Mapping
from typing import Any, NamedTuple

from bitgolf import load
from bitgolf.base.errors import PlanError
from bitgolf.base.plan import Plan, field_types, members, parse_changes
from bitgolf.net.position import Rope
from bitgolf.recipe import Recipe
from bitgolf.score.windows import Chunked, Sliding
from bitgolf.squeeze.codec import Brotli, Deflate, Lzma, Zstd
from bitgolf.train.optim import AdamRule, MuonRule

Given = Mapping[str, Any]  # values that were read, under the first name of their variable

OTHER_NAMES = {
    "ADAM_WEIGHT_DECAY": "ADAM_WD",
    "ATTN_OUT_GATE_ENABLED": "GATE_ATTN_OUT",
    "ATTN_OUT_GATE_SRC": "GATE_ATTN_SRC",
    "BIGRAM_HASH_BUCKETS": "BIGRAM_VOCAB_SIZE",
    "BIGRAM_HASH_DIM": "BIGRAM_DIM",
    "GRAD_CLIP": "GRAD_CLIP_NORM",
    "MUON_WEIGHT_DECAY": "MUON_WD",
    "PARTIAL_ROPE_DIMS": "ROPE_DIMS",
    "QAT": "QAT_ENABLED",
    "QAT_LATE_THRESHOLD": "LATE_QAT_THRESHOLD",
    "SMEAR_GATE_ENABLED": "SMEAR_GATE",
    "SWA": "SWA_ENABLED",
    "SWA_THRESHOLD": "SWA_START_FRAC",
    "WEIGHT_DECAY": "MUON_WD",
}

# Paths that a variable sets; the first is shown with it, PATH=VALUE goes with it.
SETTINGS = {
    "CASEOPS_ENABLED": "data.case_ops",
    "GRAD_CLIP_NORM": "train.grad_clip_norm",
    "ITERATIONS": "train.steps",
    "LOGIT_SOFTCAP": "model.logit_softcap",
    "MAX_WALLCLOCK_SECONDS": "train.train_seconds",
    "MODEL_DIM": "model.width",
    "NUM_HEADS": "model.heads",
    "NUM_KV_HEADS": "model.kv_heads",
    "NUM_LAYERS": "model.layers",
    "QK_GAIN_INIT": "model.qk_gain",
    "TIED_EMBED_INIT_STD": "model.embed_std",
    "TIE_EMBEDDINGS": "model.tied",
    "TRAIN_BATCH_TOKENS": "train.batch_tokens",
    "TRAIN_LOG_EVERY": "train.log_steps",
    "VAL_LOSS_EVERY": "train.validate_steps",
    "VAL_MAX_TOKENS": "score.limit_tokens",
    "VOCAB_SIZE": "model.vocabulary_size",
    "WARMUP_STEPS": "train.priming_steps",
}


class Further(NamedTuple):
    """A variable that depends on other settings: its type, what it sets, the techniques it belongs to."""

    kind: type
    paths: tuple[str, ...]
    techniques: tuple[type[Plan], ...] = ()


FURTHER = {
    "COMPRESSOR": Further(str, ("pack.codec",)),
    "EMBEDDING_DIM": Further(int, ("model.embedding_width",)),
    "EVAL_SEQ_LEN": Further(int, ("score.windows.length",), (Chunked, Sliding)),
    "EVAL_STRIDE": Further(int, ("score.windows.stride",), (Sliding,)),
    "MAX_VAL_SEQS": Further(int, ("score.limit_tokens",)),
    "MLP_HIDDEN": Further(int, ("model.mlp_hidden",)),
    "MLP_MULT": Further(float, ("model.mlp_multiplier", "model.mlp_hidden")),
    "NO_COMPILE": Further(bool, ("backend.compile",)),
    "ROPE_TRAIN_SEQ_LEN": Further(int, ("model.position.reference_length",), (Rope,)),
    "ROPE_YARN": Further(bool, ("model.position.reference_length",), (Rope,)),
    "SEED": Further(int, ()),
    "SLIDING_WINDOW_ENABLED": Further(bool, ("score.windows",), (Sliding,)),
    "TORCH_COMPILE": Further(bool, ("backend.compile",)),
    "TRAIN_SEQ_LEN": Further(int, ("data.sequence_length", "score.windows.length")),
    "USE_ZSTD": Further(bool, ("pack.codec",)),
}

ADAM = ("embedding", "head", "rest")
RATES = {
    "ADAM_EPS": ("eps", ADAM),
    "ADAM_WD": ("weight_decay", ("embedding", "rest")),
    "BETA1": ("beta1", ADAM),
    "BETA2": ("beta2", ADAM),
    "EMBED_LR": ("lr", ("embedding",)),
    "EMBED_WD": ("weight_decay", ("embedding",)),
    "HEAD_LR": ("lr", ("head",)),
    "MATRIX_LR": ("lr", ("matrices",)),
    "MUON_BACKEND_STEPS": ("backend_steps", ("matrices",)),
    "MUON_MOMENTUM": ("momentum", ("matrices",)),
    "MUON_MOMENTUM_WARMUP_START": ("warmup_start", ("matrices",)),
    "MUON_MOMENTUM_WARMUP_STEPS": ("warmup_steps", ("matrices",)),
    "MUON_ROW_NORMALIZE": ("row_normalize", ("matrices",)),
    "MUON_WD": ("weight_decay", ("matrices",)),
    "SCALAR_LR": ("lr", ("rest",)),
    "TIED_EMBED_LR": ("lr", ("embedding",)),
    "WD_TAPER_FINAL_MULT": ("taper_final", ("matrices",)),
    "WD_TAPER_START_FRAC": ("taper_start", ("matrices",)),
}

# Values that mean something else than they say.
MEANINGS: dict[str, dict[Any, Any]] = {
    "COMPRESSOR": {"brotli": Brotli(), "lzma": Lzma(), "zlib": Deflate(), "zstd": Zstd()},
    "GATE_ATTN_SRC": {"proj": "input", "q": "queries"},
    "USE_ZSTD": {False: Deflate(), True: Zstd()},
    "WD_TAPER_START_FRAC": {0.0: 1.0},
}
FIRST_LAYER_IS_0 = ("PARALLEL_RESIDUAL_START",)  # where -1 is off and 0 is not


@dataclasses.dataclass(frozen=True)
class Switched:
    """A technique that variables put into its slot.

    path: the slot. made: the technique as the public scripts make it. without: what the slot holds when it
    is off; a slot that is a tuple holds nothing then.
    on: variables that put it there, unless one of them or of `also` is off. fields: what variables set in it.
    replaced_by: a variable that makes another technique of all this.
    """

    path: str
    made: Plan
    on: tuple[str, ...]
    also: tuple[str, ...]
    fields: Mapping[str, str]
    without: Plan | None
    replaced_by: str

    @property
    def kind(self) -> type[Plan]:
        """The class of the technique."""
        return type(self.made)

    def names(self) -> tuple[str, ...]:
        """All its variables."""
        return tuple(dict.fromkeys((*self.on, *self.also, *self.fields)))

    def state(self, given: Given) -> bool | None:
        """Whether it is on or off; None where nothing was said."""
        if self.replaced_by in given and is_on(self.replaced_by, given[self.replaced_by]):
            return None
        said = {name: is_on(name, given[name]) for name in (*self.on, *self.also) if name in given}
        if not all(said.values()):
            return False
        return True if any(name in said for name in self.on) else None

    def takes_out(self, part: Plan, given: Given) -> bool:
        """Whether a variable that is off takes out the technique as it stands in a recipe."""
        off = (name for name in (*self.on, *self.also) if name in given and not is_on(name, given[name]))
        return any(name not in self.fields or is_on(name, getattr(part, self.fields[name])) for name in off)

    def given_fields(self, given: Given) -> dict[str, Any]:
        """The fields that variables set. Raises PlanError where two of them disagree."""
        said: dict[str, str] = {}
        for name, field in self.fields.items():
            if name in given and given[said.setdefault(field, name)] != given[name]:
                raise PlanError([f"{said[field]} and {name} give {self.kind.__name__}.{field} two values"])
        return {field: given[name] for field, name in said.items()}


# A technique a line: its slot, as the public scripts make it, and behind `on` the variables that put it there
# unless one of them, or of `also`, is off; behind `sets` those that only set a field; what the slot holds
# `without` it; `unless` a variable makes another technique of all this. In a slot that is a tuple, techniques
# stand in the order of this list, which is that of the public code.
TECHNIQUES = """
model.embed BigramHash on BIGRAM_VOCAB_SIZE=buckets BIGRAM_HASH sets BIGRAM_DIM=dimension
model.embed SmearGate on SMEAR_GATE sets SMEAR_GATE_WIDTH=channels GATE_WINDOW=channels
model.values ValueEmbedding on VE_ENABLED sets VE_DIM=dimension VE_LAYERS=layers
model.values ValueResidual on VALUE_RESIDUAL
model.heads_out Xsa on XSA_LAST_N=last
model.heads_out AttentionOutputGate on GATE_ATTN_OUT
    sets GATE_WIDTH=channels GATE_WINDOW=channels GATE_ATTN_SRC=source
model.heads_out GatedAttention on GATED_ATTN_ENABLED sets GATED_ATTN_INIT_STD=std
model.heads_out BiasedGate on GATED_ATTENTION
model.heads_out SparseGate on SPARSE_ATTN_GATE_ENABLED
    sets GATE_WINDOW=channels SPARSE_ATTN_GATE_SCALE=scale SPARSE_ATTN_GATE_INIT_STD=std
model.scope AttentionWindow on SWA_WINDOW_SIZE=tokens
model.position NoPosition on NOPE without Rope
model.position Rope sets ROPE_BASE=base ROPE_DIMS=dims unless NOPE
model.input_scale LnScale on LN_SCALE without Unscaled
model.activation LeakyReluSquared on NEGATIVE_SLOPE=slope without ReluSquared unless GATE_MLP_OUT
model.activation GatedMlp on GATE_MLP_OUT sets GATE_WIDTH=channels NEGATIVE_SLOPE=inner.slope
    without LeakyReluSquared
model.residual DtgGate on DTG_ENABLED without Serial
model.residual ParallelResidual on PARALLEL_RESIDUAL_START=first without Serial
model.residual TwoLanes on PARALLEL_START_LAYER=first sets PARALLEL_FINAL_LANE=leaves without Serial
model.recurrence Looped(enable_at=0.35) on NUM_LOOPS=loops without Once
    sets LOOP_START=first LOOP_END=last ENABLE_LOOPING_AT=enable_at LOOP_PHASE2_AT=more_at
model.start OrthogonalStart on ORTHO_INIT without UniformStart
model.route USkips on UNET_SKIPS without Plain
model.route GatedSkips on SKIP_GATES_ENABLED without USkips
model.objective MultiToken on MTP_NUM_HEADS=heads sets MTP_LOSS_WEIGHT=weight without NextToken
optim.schedule WarmdownClock on WARMDOWN_ITERS=warmdown_steps without Constant
optim.schedule WarmdownFraction on WARMDOWN_FRAC=fraction sets MIN_LR=minimum without Constant
train.stages Stage(until=0.33) on BATCH_TOKENS_START=batch_tokens sets BATCH_SCHEDULE_FRACTION=until
average Ema on EMA_DECAY=decay EMA_ENABLED without NoAverage unless EMA_START_FRAC
average LateEma on EMA_START_FRAC=start_fraction also EMA_DECAY=decay EMA_ENABLED without NoAverage
average Swa on SWA_ENABLED sets SWA_EVERY=every SWA_START_FRAC=start_scale without NoAverage
    unless SWA_CHECKPOINTS
average TightSwa also SWA_ENABLED sets SWA_EVERY=every without NoAverage
average SwaCount on SWA_CHECKPOINTS=checkpoints also SWA_ENABLED without NoAverage
average Latest on LAWA_ENABLED sets LAWA_FREQ=every LAWA_K=snapshots without NoAverage
noise FakeQuantize on QAT_ENABLED QAT_START_FRAC=from_progress without NoNoise unless SOFT_ROUND_QAT
noise FakeQuantize on LATE_QAT_THRESHOLD=under_scale without NoNoise unless SOFT_ROUND_QAT
noise SoftRound(under_scale=0.5) on SOFT_ROUND_QAT also LATE_QAT_THRESHOLD=under_scale
    sets QAT_START_FRAC=from_progress without NoNoise
data.order ShardsByLength on CURRICULUM without PublicOrder
"""


def _kind_at(path: str) -> Any:
    kind: Any = Recipe
    for key in path.split("."):
        kind = field_types(kind)[key]
    return kind


def _made(path: str, text: str) -> Plan:
    """One of ours for the slot at a path, as `Name` or `Name(field=value)`."""
    slot = _kind_at(path)
    name, _, change = text.removesuffix(")").partition("(")
    known = members(typing.get_args(slot)[0] if typing.get_origin(slot) is tuple else slot)
    return parse_changes(known[name](), [change] if change else [])


def _technique(line: str) -> Switched:
    path, made, *words = line.split()
    parts: dict[str, list[str]] = {"on": [], "also": [], "sets": [], "without": [], "unless": []}
    for word in words:
        if word in parts:
            part = parts[word]
        else:
            part.append(word)
    fields = (word.split("=") for part in ("on", "also", "sets") for word in parts[part] if "=" in word)
    on, also = (tuple(word.partition("=")[0] for word in parts[part]) for part in ("on", "also"))
    without = next((_made(path, text) for text in parts["without"]), None)
    return Switched(path, _made(path, made), on, also, dict(fields), without, "".join(parts["unless"]))


def _lines(table: str) -> list[str]:
    """The lines of a table; one that begins with blanks goes on with the line before."""
    return table.replace("\n    ", " ").strip().splitlines()


load()
SWITCHED = tuple(map(_technique, _lines(TECHNIQUES)))

# Known variables that change nothing here: what to give in their place, or that it is not built.
LATER_TABLE = """
*_CLIP_SIGMAS: set in quantize.rules: SdClip and Gptq have sigmas, each rule its own
APPEND_EOS: not a setting here: documents open with BOS and have no EOS
AUTO_RESCUE_*: not built: floats beside the codes of some rows; Keep in quantize.rules keeps tensors
CONTROL_TENSOR_NAME_PATTERNS: set in optim.rows and quantize.rules, which have patterns
DISABLE_LAYER0_ATTN: not built: a first layer without attention
DOC_ISOLATED_EVAL: set by --set: score.windows=PerDocument(within=Sliding(length=2048, stride=64))
EMBED_BITS MATRIX_BITS QUANT_BITS: set in quantize.rules: each rule has a grid of its own
ENABLE_TTT_EVAL TTT_*: set by --set: score.adapter=ScoreFirst(), or LoraDocuments() by documents
ETLB_*: not built: a logit bias fitted while scoring, which is disputed
FP16_EMBED_EXPORT: set in quantize.rules: Keep(dtype=float16) for tok_emb.weight
FP_STORAGE: set in quantize.rules: Keep(dtype=float8_e4m3fn) for FP8, AbsMax(grid=Grid(bits=4)) for FP4
GATED_ATTN_QUANT_GATE: set in quantize.rules: a rule for *.attn_gate_w with a grid of 8 bits
GLOBAL_TTT_*: set by --set: score.adapter=PhasedLora(), whose globally trains all weights
GPTQ_*: set in quantize: Gptq and ClipSearch are quantizers of its rules, it has the calibration
INT4_LAYERS: set in quantize.rules: CoarseCodes for the patterns of some layers
INT4_STEP: set in quantize.rules: CoarseCodes has the step
INT6_SCALE_*: set in quantize.rules: Grid(per=RowGroups(rows=8))
INT8_KEEP_FLOAT_FP32_NAME_PATTERNS: set in quantize.rules: Keep(dtype=float32) for patterns
LATE_K_FP16: set in quantize.rules: Keep(dtype=float16) for the keys of the last layer
LORA_*: not built: low-rank weights of each pass through shared layers
LQER_*: set in quantize.rules: LowRank(quantizer=..., rank=4) for the patterns that it should correct
MIXED_KEEP_FLOAT_PATTERNS: set in quantize.rules, which say what stays floats
N_INT6_LAYERS: set in quantize.rules: a grid for the patterns of some layers; the packer chooses by
    sensitivity
OUTLIER_*: not built: a penalty on the kurtosis of activations
PHASED_TTT_*: set by --set: score.adapter=PhasedLora() has prefix_documents and phases
PRUNE_PCT: not built: the smallest weights set to zero; RateAware rounds by what a code costs
QAT_BITS: set by --set: noise.rules has the grid of the noise
QAT_MATRIX_*: set by --set: noise.rules has the grid and the clipping of the noise
QAT_MIN_SECONDS QAT_WARMUP_STEPS: set by --set: noise.from_progress says when the noise begins
READOUT_* USE_PASS_READOUT: not built: a readout of every pass
RECUR_*: not a variable here: model.recurrence repeats layers, as NUM_LOOPS does; `bitgolf score` reads files
    that have them (--recur-layers)
REPEAT_UNTIE_MLP*: set by --set: model.recurrence=Looped(untied=True), or untied_down=True, gives each
    further pass its MLP or its second matrix
ROPE_TYPE: not built: the ramp of YaRN; ROPE_YARN rescales the base
SEQ_LEN_START: set by --set: train.stages has a sequence length
SEQ_SCHEDULE_FRACTION: set by --set: train.stages has a sequence length and an end
TARGET_MB: not a variable here: bitgolf fit fills a budget of bytes
TEMP_CAL_*: not built: a temperature fitted on validation text, which is disputed
TIER2_MODE: not a variable here: give the settings of the short run themselves
YARN_MAX_LEN: not built: the ramp of YaRN
"""
LATER = {
    name: what
    for names, _, what in (line.partition(": ") for line in _lines(LATER_TABLE))
    for name in names.split()
}
OFF = ("", "0", "0.0", "none", "off")  # at which such a variable asks for nothing

# Where files are, how the machine is used, what is logged; MUON_BETA2 is read by the scripts and never used.
IGNORED = (
    "DATA_DIR", "DATA_PATH", "DEVICE", "EVAL_BATCH_SEQS", "LOCAL_RANK", "MUON_BETA2", "OUTLIER_LOG_EVERY",
    "OUTLIER_PROBE_LAYERS", "RANK", "RUN_ID", "TOKENIZER_PATH", "TRAIN_FILES", "USE_FA3", "VAL_BATCH_SIZE",
    "VAL_BATCH_TOKENS", "VAL_FILES", "WORLD_SIZE",
)  # fmt: skip
WHY_IGNORED = "describes the machine, its files or the log: ignored (--data names the text, --out the run)"


def is_on(name: str, value: Any) -> bool:
    """Whether a value switches its variable on."""
    return value >= 0 if name in FIRST_LAYER_IS_0 else bool(value) and value > type(value)()


def _kinds() -> dict[str, Any]:
    """The type of every variable that is known: of its setting, or of a switch."""
    kinds: dict[str, Any] = {name: _kind_at(path) for name, path in SETTINGS.items()}
    kinds |= {name: further.kind for name, further in FURTHER.items()}
    for name, (field, groups) in RATES.items():
        kinds[name] = field_types(MuonRule if groups == ("matrices",) else AdamRule)[field]
    for one in SWITCHED:
        own = field_types(one.kind)  # a field of a part inside it is that of another technique as well
        kinds |= {name: own[field] for name, field in one.fields.items() if field in own}
    return kinds | {name: bool for one in SWITCHED for name in one.on if name not in kinds}


KINDS = _kinds()
SWITCHES = {name for one in SWITCHED for name in one.on}


def later(name: str) -> str | None:
    """What to give in place of a known variable that changes nothing here; None for any other name."""
    return next((what for pattern, what in LATER.items() if fnmatch.fnmatchcase(name, pattern)), None)
