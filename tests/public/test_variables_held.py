"""Public variables and what a recipe has already: kept, switched off, or in its place; order is nothing."""

import random

import torch

from bitgolf.adapt.documents import PhasedLora
from bitgolf.net.embed import BigramHash, SmearGate
from bitgolf.net.heads import AttentionOutputGate, SparseGate, Xsa
from bitgolf.net.mlp import GatedMlp, LeakyReluSquared
from bitgolf.net.model import parameter_shapes
from bitgolf.net.position import NoPosition, Rope
from bitgolf.net.route import Looped
from bitgolf.recipes.baseline import baseline
from bitgolf.recipes.demo import demo
from bitgolf.recipes.pr682 import STEP_SECONDS, pr682
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.windows import Chunked, PerDocument, Sliding
from bitgolf.text.batches import PublicOrder, ShardsByLength
from bitgolf.train.average import Ema, LateEma, NoAverage, Swa, SwaCount, TightSwa
from bitgolf.train.optim import (
    AdamRule,
    MuonRule,
    OptimPlan,
    ParameterRow,
    assign_parameters,
)
from bitgolf.train.qat import FakeQuantize, NoNoise, SoftRound
from tests.public.given import given, refused


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
    refused("MATRIX_LR=0.01", "MATRIX_LR", "rest too; give them a row", recipe=demo())
    for recipe in (baseline(), demo().replace({"model.embed": (), "model.heads_out": ()})):
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
