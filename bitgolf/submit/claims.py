"""submission.json: the public keys, each figure computed from the runs, with what was checked and how."""

import datetime
import hashlib
import math
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf import READING_ORDER
from bitgolf.base.files import sha256_of
from bitgolf.catalog.techniques import card_of, techniques, value_at
from bitgolf.recipe import Recipe
from bitgolf.score.adapter import NoAdapter
from bitgolf.score.score import names_apart
from bitgolf.score.windows import Sliding
from bitgolf.script.own import plans_in
from bitgolf.study.runs import code_of
from bitgolf.study.stats import OneSample, one_sample
from bitgolf.study.values import CHALLENGE_NATS, bytes_per_token, challenge_margin
from bitgolf.submit.gather import Run, beside

CHALLENGE_BYTES, CHALLENGE_SECONDS = 16_000_000, 600  # of the public rules, for training and for evaluation
PLACES = 8  # of scores, as the public logs print them


class Metadata(NamedTuple):
    """What only the author knows. against: a published score, in bits per byte."""

    name: str
    author: str
    track: str
    date: str = ""
    against: float | None = None
    github: str = ""
    blurb: str = ""


class Entry(NamedTuple):
    """What a record is made of. script: its train_gpt.py. studies: results of studies, for the README.

    declared: the seeds that were announced; none where nobody did.
    """

    runs: Sequence[Run]
    metadata: Metadata
    script: bytes
    studies: Sequence[Path] = ()
    declared: Sequence[int] = ()


def comparison(entry: Entry) -> OneSample | None:
    """The runs against a published figure, where there are several."""
    bits = [run.bits for run in entry.runs]
    if entry.metadata.against is None or len({*bits}) < 2:
        return None
    return one_sample(bits, entry.metadata.against)


def claims_of(entry: Entry) -> dict[str, Any]:
    """Every public key that the runs can fill: bits by byte, nats by token, sizes in bytes, times in s."""
    runs, metadata = entry.runs, entry.metadata
    first, recipe = runs[0].result, runs[0].recipe
    claims: dict[str, Any] = {
        "author": metadata.author,
        **({"github_id": metadata.github} if metadata.github else {}),
        "name": metadata.name,
        "blurb": metadata.blurb or in_a_sentence(recipe, first["parameters"]),
        "date": metadata.date or datetime.date.today().isoformat(),
        "track": metadata.track,
        **_scores(runs),
        "n_seeds": len(runs),
        "seeds": [run.seed for run in runs],
        "seed_results": {str(run.seed): seed_row(run, entry.script) for run in runs},
        **_sizes(entry),
        **_times(runs),
        **_machine(runs[0]),
        **_shape(runs[0]),
        "recipe": first["recipe"],
        "recipe_identity": first["recipe_identity"],
        "code_sha256": sha256_of_bytes(entry.script),
        "technique_summary": ", ".join(credits(recipe)),
        "attribution": credits(recipe),
        "compliance": compliance(entry),
    }
    return claims | _against(entry)


def _scores(runs: Sequence[Run]) -> dict[str, Any]:
    """Mean and deviation of the score, and of the same model on other weights and windows."""
    claims = {
        **_mean_and_std("val_bpb", [run.bits for run in runs]),
        **_mean_and_std("val_loss", [run.nats for run in runs]),
    }
    before = [run.variant("averaged", "live") for run in runs]
    packed = [run.variant("quantized") for run in runs]
    if all(before) and all(packed):
        floats, rounded = ([row["bits_per_byte"] for row in rows] for rows in (before, packed))
        claims["pre_quant_val_bpb"] = _mean(floats)
        if all("nats_per_token" in row for row in before):
            claims["pre_quant_val_loss"] = _mean([row["nats_per_token"] for row in before])
        claims["val_bpb_roundtrip"] = _mean(rounded)
        claims["quantization_gap_bpb"] = _mean(np.subtract(rounded, floats))
    if runs[0].recipe.score.adapter != NoAdapter() and all(packed):
        fixed = [[row for row in run.result["variants"] if row["name"] == "quantized"][-1] for run in runs]
        gains = [row["bits_per_byte"] - run.bits for row, run in zip(fixed, runs)]
        claims["ttt_gain_mean_bpb"] = _mean(gains)
    return claims


def _mean_and_std(name: str, values: Sequence[float]) -> dict[str, float]:
    spread = {f"{name}_std": round(float(np.std(values, ddof=1)), PLACES)} if len(values) > 1 else {}
    return {name: _mean(values), **spread}


def _mean(values: Any) -> float:
    """Of the figures as each seed is written, so that anyone comes to the same mean."""
    return round(float(np.mean(np.round(values, PLACES))), PLACES)


def seed_row(run: Run, script: bytes) -> dict[str, Any]:
    """What one seed came to."""
    result = run.result
    row = {
        "val_bpb": round(run.bits, PLACES),
        "val_loss": round(run.nats, PLACES),
        "steps": result["steps"],
        "artifact_bytes": result["artifact_bytes"],
        "bytes_total": run.total_bytes(script),
        "train_time_s": round(result["train_seconds"], 3),
        "step_avg_ms": round(_step_ms(run), 3),
        "seconds": {name: round(spent, 3) for name, spent in result.get("seconds", {}).items()},
        "model_sha256": sha256_of(run.folder / "model.bin"),
    }
    if "evaluation_seconds" in result:
        row["eval_time_s"] = round(result["evaluation_seconds"], 3)
    if before := run.variant("averaged", "live"):
        row["pre_quant_val_bpb"] = round(before["bits_per_byte"], PLACES)
    if run.certificate:
        names = ("bits_per_byte", "text_bytes", "coded_bytes", "coded_sha256")
        row["proof"] = {name: run.certificate[name] for name in names}  # type: ignore[literal-required]
    return row


def _step_ms(run: Run) -> float:
    return 1000 * run.result["train_seconds"] / max(run.result["steps"], 1)


def _sizes(entry: Entry) -> dict[str, Any]:
    """Bytes; over several seeds the largest, and the mean where the name says so."""
    models = [run.result["artifact_bytes"] for run in entry.runs]
    return {
        "bytes_total": max(run.total_bytes(entry.script) for run in entry.runs),
        "bytes_code": len(entry.script),
        "bytes_model_compressed": max(models),
        "artifact_bytes_max": max(models),
        "artifact_bytes_mean": round(float(np.mean(models))),
        "budget_bytes": entry.runs[0].result["budget_bytes"],
        "model_params": entry.runs[0].result["parameters"],
    }


def _times(runs: Sequence[Run]) -> dict[str, Any]:
    spent = [run.result["train_seconds"] for run in runs]
    scored = [run.result["evaluation_seconds"] for run in runs if "evaluation_seconds" in run.result]
    claims = {
        "train_time_seconds": round(max(spent), 3),
        "train_time_s_mean": round(float(np.mean(spent)), 3),
        "train_steps_mean": round(float(np.mean([run.result["steps"] for run in runs])), 1),
        "step_avg_ms_mean": round(float(np.mean([_step_ms(run) for run in runs])), 3),
    }
    if len(scored) == len(runs):
        claims["eval_time_seconds"] = round(max(scored), 3)
        claims["eval_time_s_mean"] = round(float(np.mean(scored)), 3)
    return claims


def _machine(run: Run) -> dict[str, Any]:
    machine: Any = run.result.get("environment", {})
    device = machine.get("backend", {}).get("device", "cpu")
    parts = (machine.get("processor", "unknown"), device, machine.get("torch", "?"))
    return {
        "hardware": "{}, {}, torch {}".format(*parts),
        "pytorch_version": str(machine.get("torch", "?")),
        "python_version": str(machine.get("python", platform.python_version())),
        "platform": str(machine.get("system", "unknown")),
    }


def _shape(run: Run) -> dict[str, Any]:
    """The settings that reviewers look at first."""
    model, windows = run.recipe.model, run.recipe.score.windows
    tokenizer = run.result.get("data", {}).get("tokenizer_identity")
    return {
        "num_layers": model.layers,
        "model_dim": model.width,
        "num_heads": model.heads,
        "num_kv_heads": model.kv_heads,
        "vocab_size": model.vocabulary_size,
        "train_seq_len": run.recipe.data.sequence_length,
        "train_batch_tokens": run.recipe.train.batch_tokens,
        "val_bpb_method": run.recipe.score.label(),
        **({"eval_stride": windows.stride} if isinstance(windows, Sliding) else {}),
        **({"tokenizer": tokenizer} if tokenizer else {}),
    }


def _against(entry: Entry) -> dict[str, Any]:
    """The test against a published figure; the difference in each unit in which the public bar is read."""
    test = comparison(entry)
    if test is None:
        return {}
    result: Any = entry.runs[0].result
    bits = [run.bits for run in entry.runs]
    margins = challenge_margin([result])
    constant = entry.metadata.against or 0.0
    return {
        "comparison_baseline_bpb": entry.metadata.against,
        "delta_bpb": round(test.effect, PLACES),
        "delta_nats_per_byte": round(test.effect * math.log(2), PLACES),
        "delta_nats_per_token": round(test.effect * math.log(2) * bytes_per_token(result), PLACES),
        "t_statistic": round(test.t, 4),
        "degrees_of_freedom": test.freedom,
        "p_value": _short(test.p_lower),
        "test": "Student's one-sample t test, one-sided: lower than the baseline",
        "margin_nats": CHALLENGE_NATS,
        "p_beyond_margin_if_it_is_in": {
            unit: _short(one_sample(bits, constant - margin).p_lower) for unit, margin in margins.items()
        },
    }


def _short(p: float) -> float:
    return float(f"{p:.4g}")


def sha256_of_bytes(data: bytes) -> str:
    """Hex SHA-256."""
    return hashlib.sha256(data).hexdigest()


def compliance(entry: Entry) -> dict[str, dict[str, Any]]:
    """What was checked here, and how. What was not is not claimed."""
    runs = entry.runs
    return {
        name: {"holds": holds, "how": how}
        for name, (holds, how) in {
            **_of_bytes(entry),
            **_of_time(runs),
            **_of_seeds(entry),
            **_of_score(runs),
        }.items()
    }


Checks = dict[str, tuple[bool, str]]


def _of_bytes(entry: Entry) -> Checks:
    runs, budget = entry.runs, entry.runs[0].result["budget_bytes"]
    totals = [run.total_bytes(entry.script) for run in runs]
    counted = "bytes of train_gpt.py and of the model on the disk, in every seed, against"
    checks = {
        "artifact_under_budget": (max(totals) <= budget, f"{counted} {budget:,}"),
        "artifact_under_16mb": (max(totals) <= CHALLENGE_BYTES, f"{counted} {CHALLENGE_BYTES:,}"),
        "one_configuration": (True, "recipe identity and script equal in every seed"),
    }
    if all("sha256" in run.result for run in runs):
        how = "recipe, script, metrics, model and scores have the SHA-256 that the run wrote, in every seed"
        checks["files_as_written"] = (True, how)
    made = code_of(runs[0].recipe) == runs[0].code
    how = (
        "made again from recipe.json, byte for byte"
        if made
        else "another version of bitgolf made it, or it was changed"
    )
    checks["script_is_the_recipes"] = (made, how)
    return checks


def _of_time(runs: Sequence[Run]) -> Checks:
    limit = runs[0].recipe.train.train_seconds
    spent = [run.result["train_seconds"] for run in runs]
    loop = "seconds of the training loop in result.json, in every seed, against"
    checks = {"train_under_600s": (max(spent) <= CHALLENGE_SECONDS, f"{loop} {CHALLENGE_SECONDS}")}
    if limit:
        # A clock that has run out ends the training after the step that is under way.
        held = all(each <= limit + _step_ms(run) / 1000 for each, run in zip(spent, runs))
        checks["train_under_limit"] = (held, f"{loop} {limit:g} and one step more")
    scored = [run.result.get("evaluation_seconds") for run in runs]
    measured = [each for each in scored if each is not None]
    if len(measured) == len(runs):
        how = (
            f"seconds of scoring the packed model in result.json, in every seed, against {CHALLENGE_SECONDS}"
        )
        checks["eval_under_600s"] = (max(measured) <= CHALLENGE_SECONDS, how)
    return checks


def _of_seeds(entry: Entry) -> Checks:
    runs, checks = entry.runs, {}
    if len(runs) > 2:
        checks["three_seeds"] = (True, f"{len(runs)} runs with different seeds and scores")
    if entry.declared:
        checks["seeds_as_declared"] = (True, "those of --seeds, and no other")
    others = beside(runs)
    names = ", ".join(path.name for path in others[:3]) + (" and more" if len(others) > 3 else "")
    how = (
        f"of the same recipe, beside these, and not told of: {names}"
        if others
        else "no run beside these has this recipe"
    )
    checks["every_seed_told"] = (not others, how)
    return checks


def _of_score(runs: Sequence[Run]) -> Checks:
    score = runs[0].recipe.score
    checks = {
        "scores_add_up": (True, "the rows of scores.npz were added up again, in every seed"),
        "every_token_once": (
            not score.windows.counts_again,
            f"windows of recipe.json: {score.windows.label()}",
        ),
    }
    if score.adapter == NoAdapter():
        checks["no_ttt"] = (True, "score.adapter of recipe.json is NoAdapter: nothing learns while it scores")
    else:
        how = f"{type(score.adapter).__name__} is given tokens by an exam, after their score was written down"
        checks["score_first_ttt"] = (True, how)
    how = f"score.mixers of recipe.json: {', '.join(names_apart(score.mixers)) or 'none'}"
    checks["no_ngram_cache"] = (not score.mixers, how)
    if all(run.certificate for run in runs):
        checks["proven"] = (True, "certificates of decoding, for the artifacts of these runs")
    return checks


def in_a_sentence(recipe: Recipe, parameters: int) -> str:
    """What a recipe is, for whoever has not read it."""
    model = recipe.model
    return (
        f"{recipe.name}: {model.layers} layers of width {model.width}, {model.heads} heads "
        f"({model.kv_heads} for keys and values), a vocabulary of {model.vocabulary_size:,}, "
        f"{parameters:,} parameters; "
        f"scored by {recipe.score.label()}"
    )


def credits(recipe: Recipe) -> dict[str, str]:
    """The source of every technique that a recipe uses, from its card.

    A plain setting is used where it is changed; classes of the author's own files have their own cards.
    """
    used, plain = {type(plan) for plan in plans_in(recipe)}, Recipe()
    own = {kind.__name__: card_of(kind.__doc__ or "") for kind in used if not _is_ours(kind)}
    return {
        each.name: each.card.source
        for each in techniques()
        if each.kind in used
        or (each.kind is None and value_at(recipe, each.path) != value_at(plain, each.path))
    } | {name: card.source or "its author" for name, card in sorted(own.items())}


def _is_ours(kind: type) -> bool:
    return kind.__module__.removeprefix("bitgolf.") in READING_ORDER
