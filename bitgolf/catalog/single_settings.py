"""Cards of techniques that are one setting, not a class: name, path, value for measurements, card."""

from typing import Any

from bitgolf.train.loop import Stage

SINGLE_SETTINGS: tuple[tuple[str, str, Any, str], ...] = (
    (
        "GroupedQueryAttention",
        "model.kv_heads",
        2,
        """Fewer key and value heads than query heads (GQA).

        What: query head h reads key and value head h * kv_heads / heads, rounded down.
        Source: Ainslie et al. 2023; the public baseline and all later records have 4 for 8.
        Cost: 2 * head width * width weights a layer for each key and value head.
        Not for: a gain in itself; PR #631 and #1249 compare 4 with 8 and disagree.
        Neutral: kv_heads equal to heads.
        """,
    ),
    (
        "QkGain",
        "model.qk_gain",
        5.0,
        """A learned gain of the queries after their norm, by its start.

        What: a head's scores are its gain times sqrt(head width) times the cosine of query and key.
        Source: the public baseline (1.5); 4.0 in record 2026-04-01, 5.0 on 04-06, 5.25 on 04-09.
        Cost: no bytes beyond the baseline's one number a head.
        Not for: every stack alike: PR #1236 finds 4.0 slightly worse at width 576.
        Neutral: 1.5, the baseline's.
        """,
    ),
    (
        "MlpWidth",
        "model.mlp_hidden",
        1408,
        """The hidden width of the MLP, by itself or as a multiple of the width.

        What: mlp_hidden units; 0 takes mlp_multiplier times the width, which need not be whole.
        Source: PR #212 (3 times, paid for by 6 bits: -0.022 bpb), PR #543 (1408); 4 times in record
            2026-04-01, paid for by weight decay.
        Cost: 2 * width weights a layer for each unit, and their products.
        Not for: budgets that 8 bits fill already.
        Neutral: mlp_hidden=0 and mlp_multiplier=2, the baseline's.
        """,
    ),
    (
        "LogitSoftcap",
        "model.logit_softcap",
        20.0,
        """Logits bent towards a bound.

        What: c * tanh(logit / c), in training and scoring alike.
        Source: Gemma Team 2024; the public baseline (30).
        Cost: no bytes; a pass over the logits.
        Not for: a gain that anyone isolated.
        Neutral: a bound far above every logit.
        """,
    ),
    (
        "UntiedHead",
        "model.tied",
        False,
        """An output matrix of its own instead of the token table.

        What: logits come from lm_head, which starts at zero; the table then starts at size 1.
        Source: a switch of the public baseline (TIE_EMBEDDINGS=0), with rates 0.6 and 0.008.
        Cost: vocabulary * width weights.
        Not for: small budgets, in which the table is counted twice.
        Neutral: tied=True
        """,
    ),
    (
        "FactoredEmbedding",
        "model.embedding_width",
        256,
        """A token table narrower than the model.

        What: rows of embedding_width are projected to the width, and final states back, before the logits.
        Source: 254 wide for 8192 tokens in record 2026-03-24 (catalogue B16).
        Cost: embedding_width * (vocabulary + 2 * width) weights instead of width * vocabulary.
        Not for: vocabularies of 1024, where the two projections weigh as much as they save.
        Neutral: embedding_width=0
        """,
    ),
    (
        "GradientClipping",
        "train.grad_clip_norm",
        0.3,
        """Gradients no longer than a bound.

        What: all gradients of a step, of all parameters together, are scaled down to this length.
        Source: 0.3 in nearly all later records, 1.0 in some (catalogue C13).
        Cost: no bytes; a pass over the gradients.
        Not for: Muon alone, whose updates do not depend on the size of a gradient.
        Neutral: grad_clip_norm=0
        """,
    ),
    (
        "Stages",
        "train.stages",
        (Stage(until=0.33, batch_tokens=262144),),
        """Other batches or sequences in a first part of the training.

        What: until a progress of `until`, steps take batch_tokens and sequences of sequence_length.
        Source: BATCH_TOKENS_START in record 2026-03-24, where it is off; PR #362 lists short sequences first.
        Cost: no bytes, no seconds beyond those of the steps.
        Not for: gains that anyone isolated.
        Neutral: no stages
        """,
    ),
    (
        "Priming",
        "train.priming_steps",
        20,
        """Steps before the clock starts, then undone.

        What: real steps on synthetic batches, so that compilation and first allocations are over.
        Source: the public baseline (WARMUP_STEPS=20).
        Cost: no bytes; seconds that no clock counts.
        Not for: a gain in itself: training goes on from the same weights and the same data.
        Neutral: priming_steps=0
        """,
    ),
    (
        "CaseOps",
        "data.case_ops",
        True,
        """Capitals as operators before lower-case letters.

        What: a tokenizer made for the recipe sees words in lower case, with a mark for a first capital, for
            all capitals, or for one inside a word; nothing of the text is lost.
        Source: records from 2026-04-18 on: 0.005 to 0.006 nats a token claimed.
        Cost: no bytes; more tokens for the same text.
        Not for: finished datasets, which have a tokenizer already.
        Neutral: case_ops=False
        """,
    ),
)
