"""The sizes that a script is given in the sandbox, under the names that public scripts read."""

import os
from collections.abc import Iterable

from bitgolf.audit.sandbox.text import VOCABULARY

TINY = {
    "VOCAB_SIZE": VOCABULARY,
    "MODEL_DIM": 128,
    "EMBEDDING_DIM": 128,
    "NUM_HEADS": 4,
    "NUM_KV_HEADS": 2,
    "BIGRAM_VOCAB_SIZE": 128,
    "BIGRAM_DIM": 16,
    "VE_DIM": 16,
    "TRAIN_SEQ_LEN": 32,
    "EVAL_SEQ_LEN": 32,
    "ROPE_TRAIN_SEQ_LEN": 32,
    "EVAL_STRIDE": 16,
    "EVAL_BATCH_SEQS": 4,
    "TRAIN_BATCH_TOKENS": 512,
    "VAL_BATCH_SIZE": 512,
    "VAL_BATCH_TOKENS": 512,
    "ITERATIONS": 2,
    "MAX_WALLCLOCK_SECONDS": 10**6,  # a rate that falls by the clock would make every run another one
    "WARMUP_STEPS": 1,
    "TRAIN_LOG_EVERY": 1,
    "GPTQ_CALIBRATION_BATCHES": 2,
    "TTT_CHUNK_TOKENS": 64,
    "TTT_CHUNK_SIZE": 16,
    "TTT_EVAL_SEQ_LEN": 32,
    "TTT_BATCH_SIZE": 4,
    "TTT_BATCH_SEQS": 2,
    "GLOBAL_TTT_CHUNK_TOKENS": 64,
    "GLOBAL_TTT_BATCH_SEQS": 2,
    "PHASED_TTT_PREFIX_DOCS": 2,
    "CASEOPS_ENABLED": 0,
    "FUSED_CE_ENABLED": 0,
    "COMPILE_ENABLED": 0,
}


def small_settings(classes: Iterable[type]) -> None:
    """Settings that a script writes down instead of asking its environment for them."""
    for each in classes:
        for name, value in TINY.items():
            own = each.__dict__.get(name.lower())
            if isinstance(own, int | float) and name not in os.environ:
                setattr(each, name.lower(), type(own)(value))
