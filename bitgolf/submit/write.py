"""A record folder: script, claims, README, logs, requirements, certificates and a manifest of hashes."""

import ast
import datetime
import importlib.metadata
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bitgolf.audit.unwrap import unwrapped
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import sha256_of, write_bytes, write_json
from bitgolf.base.plan import Plan, to_json
from bitgolf.catalog.techniques import techniques
from bitgolf.study.stats import OneSample, one_sample
from bitgolf.submit.gather import Run

PACKAGES = {"sentencepiece": "sentencepiece", "torch": "torch", "numpy": "numpy", "brotli": "Brotli"}


class Words(NamedTuple):
    """What only the author knows."""

    name: str
    author: str
    track: str
    date: str = ""
    against: float | None = None


def write_record(runs: Sequence[Run], folder: Path, words: Words) -> dict[str, Any]:
    """Write the folder; the claims come back. Raises BitgolfError where something is there already."""
    if folder.exists() and any(folder.iterdir()):
        raise BitgolfError("this folder is not empty", where=str(folder), way_out="give another --out")
    claims = claims_of(runs, words)
    write_bytes(folder / "train_gpt.py", runs[0].code)
    write_json(folder / "submission.json", claims)
    for run in runs:
        write_bytes(folder / log_name(run), log_of(run).encode())
        if run.certificate:
            proof = run.folder / "proof" / "certificate.json"
            write_bytes(folder / f"certificate_seed{run.seed}.json", proof.read_bytes())
    write_bytes(folder / "requirements.txt", requirements(runs[0].code).encode())
    write_bytes(folder / "README.md", readme(runs, words, claims).encode())
    files = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    manifest = {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in files}
    write_json(folder / "manifest.json", manifest)
    return claims


def log_name(run: Run) -> str:
    """The log of a seed."""
    return f"train_seed{run.seed}.log"


def comparison(runs: Sequence[Run], words: Words) -> OneSample | None:
    """The runs against a published figure, where there are several."""
    if words.against is None or len({run.bits for run in runs}) < 2:
        return None
    return one_sample([run.bits for run in runs], words.against)


def claims_of(runs: Sequence[Run], words: Words) -> dict[str, Any]:
    """submission.json under its usual keys, each figure computed here; bits by byte, nats by token."""
    bits, nats = [run.bits for run in runs], [run.nats for run in runs]
    totals = [run.result["total_bytes"] for run in runs]
    several = len(runs) > 1
    first = runs[0].result
    claims: dict[str, Any] = {
        "author": words.author,
        "name": words.name,
        "date": words.date or datetime.date.today().isoformat(),
        "track": words.track,
        "val_bpb": round(float(np.mean(bits)), 8),
        "val_loss": round(float(np.mean(nats)), 8),
        **({"val_bpb_std": round(float(np.std(bits, ddof=1)), 8)} if several else {}),
        **({"val_loss_std": round(float(np.std(nats, ddof=1)), 8)} if several else {}),
        "seeds": [run.seed for run in runs],
        "seed_results": {str(run.seed): _seed(run) for run in runs},
        "bytes_total": max(totals),
        "bytes_code": len(runs[0].code),
        "artifact_bytes_max": max(run.result["artifact_bytes"] for run in runs),
        "artifact_bytes_mean": round(float(np.mean([run.result["artifact_bytes"] for run in runs]))),
        "budget_bytes": first["budget_bytes"],
        "model_params": first["parameters"],
        "train_time_seconds": round(max(run.result["train_seconds"] for run in runs), 3),
        "hardware": _hardware(runs[0]),
        "recipe": first["recipe"],
        "recipe_identity": first["recipe_identity"],
        "compliance": compliance(runs),
    }
    if found := comparison(runs, words):
        claims |= {
            "comparison_baseline_bpb": words.against,
            "delta_bpb": round(found.effect, 8),
            "t_statistic": round(found.t, 4),
            "p_value": float(f"{found.p_lower:.4g}"),
            "test": "Student's one-sample t test, one-sided: lower than the baseline",
        }
    return claims


def _seed(run: Run) -> dict[str, Any]:
    result = run.result
    return {
        "val_bpb": round(run.bits, 8),
        "val_loss": round(run.nats, 8),
        "steps": result["steps"],
        "artifact_bytes": result["artifact_bytes"],
        "bytes_total": result["total_bytes"],
        "train_time_s": round(result["train_seconds"], 3),
        "seconds": {name: round(spent, 3) for name, spent in result.get("seconds", {}).items()},
        "model_sha256": sha256_of(run.folder / "model.bin"),
    }


def _hardware(run: Run) -> str:
    machine: Any = run.result.get("environment", {})
    backend = machine.get("backend", {})
    words = (machine.get("processor", "unknown"), backend.get("device", "cpu"), machine.get("torch", "?"))
    return "{}, {}, torch {}".format(*words)


def compliance(runs: Sequence[Run]) -> dict[str, dict[str, Any]]:
    """What was checked here, and how. What was not is not claimed."""
    budget = runs[0].result["budget_bytes"]
    limit = runs[0].recipe.train.train_seconds
    found: dict[str, dict[str, Any]] = {
        "artifact_under_budget": {
            "holds": all(run.result["total_bytes"] <= budget for run in runs),
            "how": f"bytes of train_gpt.py and model.bin on the disk, in every seed, against {budget:,}",
        },
        "scores_add_up": {"holds": True, "how": "the rows of scores.npz were added up again, in every seed"},
        "one_configuration": {"holds": True, "how": "recipe identity and script equal in every seed"},
    }
    if limit:
        found["train_under_limit"] = {
            "holds": all(run.result["train_seconds"] <= limit + _step_seconds(run) for run in runs),
            "how": f"seconds of the training loop in result.json, against {limit:g} and one step more",
        }
    if len(runs) > 2:
        found["three_seeds"] = {"holds": True, "how": f"{len(runs)} runs with different seeds and scores"}
    if all(run.certificate for run in runs):
        found["proven"] = {"holds": True, "how": "certificates of decoding, for the artifacts of these runs"}
    return found


def _step_seconds(run: Run) -> float:
    """A mean step: a clock that has run out ends the training after the step that is under way."""
    return run.result["train_seconds"] / max(run.result["steps"], 1)


def log_of(run: Run) -> str:
    """A run in the public log lines, from metrics.jsonl and result.json."""
    result = run.result
    lines = [
        f"bitgolf: written from the run's metrics.jsonl and result.json, recipe {result['recipe_identity']}",
        f"model_params:{result['parameters']} seed:{run.seed}",
        f"seed:{run.seed}",
    ]
    for row in run.metrics:
        if row["nats_per_token"] is None:
            continue
        clock = 1000 * row["seconds"]
        lines.append(
            f"step:{row['step']}/{row['steps']} train_loss:{row['nats_per_token']:.4f} "
            f"train_time:{clock:.0f}ms step_avg:{clock / max(row['step'], 1):.2f}ms"
        )
    lines += [
        f"Code size: {len(run.code)} bytes",
        f"Serialized model quantized: {result['total_bytes'] - len(run.code)} bytes",
        f"Total submission size quantized: {result['total_bytes']} bytes",
        f"final_quantized_roundtrip_exact val_loss:{run.nats:.8f} val_bpb:{run.bits:.8f}",
    ]
    return "\n".join(lines) + "\n"


def requirements(code: bytes) -> str:
    """The packages that the script imports, with the versions of this machine."""
    names = {
        module.partition(".")[0]
        for layer in unwrapped("train_gpt.py", code)
        for node in ast.walk(layer.tree)
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    foreign = sorted(name for name in names if name and name not in sys.stdlib_module_names)
    lines = []
    for name in foreign:
        package = PACKAGES.get(name, name)
        try:
            lines.append(f"{package}=={importlib.metadata.version(package).partition('+')[0]}")
        except importlib.metadata.PackageNotFoundError:
            lines.append(package)
    return "".join(f"{line}\n" for line in lines)


def readme(runs: Sequence[Run], words: Words, claims: dict[str, Any]) -> str:
    """What a reviewer reads first, every figure from the claims."""
    std = f", standard deviation {claims['val_bpb_std']:.6f}" if "val_bpb_std" in claims else ""
    lines = [
        f"# {words.name}",
        "",
        f"val_bpb: {claims['val_bpb']:.6f} ({_over(len(runs))}{std}), {claims['bytes_total']:,} of "
        f"{claims['budget_bytes']:,} bytes.",
        "",
        "| seed | val_bpb | val_loss | steps | model bytes | all bytes | training seconds |",
        "|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        row = claims["seed_results"][str(run.seed)]
        lines.append(
            f"| {run.seed} | {row['val_bpb']:.6f} | {row['val_loss']:.6f} | {row['steps']:,} "
            f"| {row['artifact_bytes']:,} | {row['bytes_total']:,} | {row['train_time_s']:.1f} |"
        )
    if found := comparison(runs, words):
        lines += [
            "",
            f"Against {words.against:g}: {found.effect:+.6f} bits per byte (95% {found.low:+.6f} to "
            f"{found.high:+.6f}), t {found.t:.2f}, one-sided p {found.p_lower:.3g}, {found.n} seeds.",
        ]
    lines += ["", "## Run it", "", "    pip install -r requirements.txt"]
    lines += [
        "    DATA_PATH=shards TOKENIZER_PATH=sp.model SEED=" + str(runs[0].seed) + " python train_gpt.py"
    ]
    lines += ["    torchrun --standalone --nproc_per_node=8 train_gpt.py      # the same on several devices"]
    lines += ["", f"Hardware: {claims['hardware']}.", "", "## Checked", ""]
    lines += [
        f"- {name.replace('_', ' ')}: {'yes' if each['holds'] else 'no'} ({each['how']})"
        for name, each in claims["compliance"].items()
    ]
    lines += ["", "## Techniques and where they come from", ""]
    lines += [f"- {name}: {source}" for name, source in credits(runs[0].recipe).items()]
    lines += ["", "`manifest.json` has the size and SHA-256 of every file here."]
    return "\n".join(lines) + "\n"


def _over(count: int) -> str:
    return "one seed" if count == 1 else f"mean of {count} seeds"


def credits(recipe: Plan) -> dict[str, str]:
    """The source of every technique that a recipe uses, from its card."""
    used = {*_classes(to_json(recipe))}
    return {
        each.name: " ".join(each.card.source.split())
        for each in techniques()
        if each.kind is not None and each.kind.__name__ in used
    }


def _classes(data: Any) -> list[str]:
    if isinstance(data, dict):
        own = [data["class"]] if isinstance(data.get("class"), str) else []
        return own + [name for value in data.values() for name in _classes(value)]
    return [name for value in data for name in _classes(value)] if isinstance(data, list) else []
