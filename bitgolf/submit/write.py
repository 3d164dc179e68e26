"""A record folder: script, claims, README, logs, requirements, certificates and a manifest of hashes."""

import ast
import importlib.metadata
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bitgolf.audit.tree import imported
from bitgolf.audit.unwrap import unwrapped
from bitgolf.base.errors import BitgolfError
from bitgolf.base.files import sha256_of, write_bytes, write_json
from bitgolf.inputs.typed import Split
from bitgolf.study.findings import OWN_NAME
from bitgolf.submit.claims import Entry, Metadata, claims_of, sha256_of_bytes
from bitgolf.submit.gather import Run, script_for, studies_of
from bitgolf.submit.readme import readme

__all__ = ["Metadata", "requirements", "write_record"]

PACKAGES = {"sentencepiece": "sentencepiece", "torch": "torch", "numpy": "numpy", "brotli": "Brotli"}


def write_record(
    runs: Sequence[Run],
    folder: Path,
    metadata: Metadata,
    *,
    readable: bool = False,
    studies: Sequence[Path] = (),
    declared: Sequence[int] = (),
) -> dict[str, Any]:
    """Write the folder, whole or not at all; the claims come back.

    readable: ship the script as text, counted as such, in place of the packed bytes that the runs counted.
    studies: folders or results of studies for the README, beside those that the runs are of. declared: the
    seeds that were announced. Raises BitgolfError where something is there already.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise BitgolfError("this folder is not empty", where=str(folder), way_out="give another --out")
    entry = Entry(runs, metadata, script_for(runs, readable), results_of(runs, studies), declared)
    claims = claims_of(entry)
    files = {
        "train_gpt.py": entry.script,
        "submission.json": (json.dumps(claims, indent=2, allow_nan=False) + "\n").encode(),
        "README.md": readme(entry, claims).encode(errors="backslashreplace"),
        "requirements.txt": requirements(entry.script).encode(),
        **{log_name(run): log_of(run, entry.script).encode() for run in runs},
        **{
            f"certificate_seed{run.seed}.json": (run.folder / "proof" / "certificate.json").read_bytes()
            for run in runs
            if run.certificate
        },
    }
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        for name in sorted(files):
            write_bytes(partial / name, files[name])
        manifest = {
            name: {"bytes": (partial / name).stat().st_size, "sha256": sha256_of(partial / name)}
            for name in sorted(files)
        }
        write_json(partial / "manifest.json", manifest)
        if folder.exists():
            folder.rmdir()
        partial.rename(folder)
    except OSError as error:
        raise BitgolfError(f"cannot write: {error.strerror}", where=str(folder)) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return claims


def results_of(runs: Sequence[Run], studies: Sequence[Path]) -> list[Path]:
    """The results of the studies that were named, then of those that planned the runs."""
    named = [path / OWN_NAME if path.is_dir() else path for path in studies]
    for path in named:
        if not path.is_file():
            way_out = "name the folder of a study, or its study.json"
            raise BitgolfError("no result of a study", where=str(path), way_out=way_out)
    own = [each.folder / OWN_NAME for run in runs for each in studies_of(run)]
    return [*dict.fromkeys(path.resolve() for path in (*named, *own) if path.is_file())]


def log_name(run: Run) -> str:
    """The log of a seed."""
    return f"train_seed{run.seed}.log"


def log_of(run: Run, script: bytes) -> str:
    """A run in the public log lines, from metrics.jsonl and result.json."""
    result = run.result
    lines = [
        f"bitgolf: written from the run's metrics.jsonl and result.json, recipe {result['recipe_identity']}",
        f"train_gpt.py sha256:{sha256_of_bytes(script)}",
        f"model_params:{result['parameters']} seed:{run.seed}",
        f"seed:{run.seed}",
        *data_lines(run),
    ]
    for row in run.metrics:
        clock = 1000 * row["seconds"]
        at = f"step:{row['step']}/{row['steps']}"
        times = f"train_time:{clock:.0f}ms step_avg:{clock / max(row['step'], 1):.2f}ms"
        if row["nats_per_token"] is not None:
            lines.append(f"{at} train_loss:{row['nats_per_token']:.4f} {times}")
        if (validated := row.get("val_bits_per_byte")) is not None:
            lines.append(f"{at} val_bpb:{validated:.4f} {times}")
    last = run.metrics[-1]
    if last["step"] < last["steps"]:
        clock = 1000 * last["seconds"]
        lines.append(
            f"stopping_early: wallclock_cap train_time:{clock:.0f}ms step:{last['step']}/{last['steps']}"
        )
    if before := run.variant("averaged", "live"):
        lines.append(
            f"pre_quant val_loss:{before['nats_per_token']:.8f} val_bpb:{before['bits_per_byte']:.8f}"
            if "nats_per_token" in before
            else f"pre_quant val_bpb:{before['bits_per_byte']:.8f}"
        )
    total, spent = run.total_bytes(script), 1000 * result.get("evaluation_seconds", 0.0)
    timed = f" eval_time:{spent:.0f}ms" if "evaluation_seconds" in result else ""
    lines += [
        f"Code size: {len(script)} bytes",
        f"Serialized model quantized: {total - len(script)} bytes",
        f"Total submission size quantized: {total} bytes",
        f"final_quantized_roundtrip val_loss:{run.nats:.4f} val_bpb:{run.bits:.4f}{timed}",
        f"final_quantized_roundtrip_exact val_loss:{run.nats:.8f} val_bpb:{run.bits:.8f}",
    ]
    return "\n".join(lines) + "\n"


def data_lines(run: Run) -> list[str]:
    """What tells reviewers how bytes were counted: the tokenizer, and the text that was scored, as the
    passport of the data has it; of data without a passport nothing is known.
    """
    data = run.result.get("data", {})
    text: Split = data["splits"]["val"] if "splits" in data else {}
    lines = []
    if identity := data.get("tokenizer_identity"):
        named = f"tokenizer_kind=bitgolf tokenizer_path=tokenizer.bin sha256:{identity}"
        lines.append(f"val_bpb:enabled {named} pieces:{run.recipe.model.vocabulary_size}")
    if whole := text.get("text_bytes"):
        scored = min(run.result["text_bytes"], whole)
        part = "" if scored == whole else f" of:{whole}"  # score.limit_tokens scores a part
        counted = f"tokens:{run.tokens} text_bytes:{scored}{part} text_sha256:{text.get('text_sha256')}"
        lines.append(f"val_loader:dataset:{data.get('name', '')} {counted}")
    return lines


def requirements(code: bytes) -> str:
    """The packages that the script imports, with the versions of this machine."""
    names = {
        module.partition(".")[0]
        for layer in unwrapped("train_gpt.py", code)
        for node in ast.walk(layer.tree)
        for module in imported(node)
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
