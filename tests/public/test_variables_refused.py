"""Public variables that do not fit are refused by name, all at once."""

import pytest

from bitgolf.base.errors import BitgolfError, PlanError
from bitgolf.public.names import (
    parse_variables,
    seed_of,
)
from bitgolf.train.average import Ema, NoAverage
from bitgolf.train.schedule import WarmdownClock
from tests.public.given import given, refused


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
        ("BETA2=1", ("AdamRule.beta2: must be below 1.0, found 1.0 (BETA2)",)),
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
