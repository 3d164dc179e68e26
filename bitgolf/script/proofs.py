"""Proofs that scripts equal the package: both train, pack and score, and every bit is compared."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import Plan, to_json
from bitgolf.score.score import SCORE_COLUMNS
from bitgolf.script.flatten import undefined_names
from bitgolf.script.own import own_files, plans_in
from bitgolf.script.source import PACKAGE_FOLDER

COMPARED_FILES = ("weights.safetensors", "model.bin", "scores.npz")
COMPARED_COLUMNS = tuple(SCORE_COLUMNS)

# Runs a script with the package out of reach, even where it is installed.
_ALONE = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "bitgolf":
            raise ModuleNotFoundError("the package is not available here: " + name)
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
_PACKAGE = """
import json, sys
from pathlib import Path
sys.path.insert(0, sys.argv.pop(1))
import bitgolf, bitgolf.recipe, bitgolf.run.command
from bitgolf.base.plan import from_json
from bitgolf.script.own import load_own
bitgolf.import_core()
for own in sorted(Path(sys.argv[1]).parent.glob("own*.py")):
    load_own(own)
recipe = from_json(bitgolf.recipe.Recipe, json.loads(Path(sys.argv[1]).read_text()))
sys.argv = sys.argv[1:]
sys.exit(bitgolf.run.command.main(recipe))
"""


class ScriptError(BitgolfError):
    """A generated script does not do what the package does."""


def run_alone(
    script: str | bytes, arguments: Sequence[str] = ("--help",), *, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """Run the script as a user would, in an empty folder, with `import bitgolf` refused."""
    with tempfile.TemporaryDirectory() as empty:
        path = Path(empty) / "train_gpt.py"
        path.write_bytes(script.encode() if isinstance(script, str) else script)
        return _python(_ALONE, [str(path), *arguments], Path(empty), seconds)


def run_packaged(
    recipe: Plan, arguments: Sequence[str], *, seconds: float = 600
) -> subprocess.CompletedProcess[str]:
    """The same command line, run from the installed package."""
    with tempfile.TemporaryDirectory() as empty:
        path = Path(empty) / "recipe.json"
        path.write_text(json.dumps(to_json(recipe)))
        for number, file in enumerate(own_files({type(plan) for plan in plans_in(recipe)}).values()):
            (Path(empty) / f"own{number}.py").write_text(file.text, encoding="utf-8")
        return _python(_PACKAGE, [str(PACKAGE_FOLDER.parent), str(path), *arguments], Path(empty), seconds)


def _python(
    program: str, arguments: Sequence[str], folder: Path, seconds: float
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-c", program, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds, check=False)


def prove_scripts(
    recipe: Plan, data: Path, scripts: Mapping[str, str | bytes], *, seed: int = 1337, seconds: float = 600
) -> dict[str, int]:
    """Train, pack and score with the package, then with each script alone; every bit must agree.

    The recipe should be short (20 steps), without a clock and with a fixed dtype: what is measured on the
    machine may differ between two runs of anything. Returns the sizes of the files compared. Raises
    ScriptError naming the script and the first difference.
    """
    options = ["--data", str(data.resolve()), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "package"
        process = run_packaged(recipe, [*options, "--out", str(package)], seconds=seconds)
        _expect_scores(process, package)
        for name, script in scripts.items():
            if isinstance(script, str) and (missing := undefined_names(script)):
                raise ScriptError("reads names it does not define", where=name, value=missing)
            out = Path(folder) / name
            process = run_alone(script, [*options, "--out", str(out)], seconds=seconds)
            _expect_scores(process, out)
            compare_runs(out, package)
        return {file: (package / file).stat().st_size for file in COMPARED_FILES}


def _expect_scores(process: subprocess.CompletedProcess[str], out: Path) -> None:
    if not (out / "scores.npz").is_file():
        raise ScriptError("came to no score", where=out.name, value=process.stderr[-2000:])


def compare_runs(out: Path, package: Path) -> None:
    """Raise ScriptError unless weights, packed model and per-token scores are the same bits."""
    for file in COMPARED_FILES:
        if _contents(out / file) != _contents(package / file):
            raise ScriptError(f"its {file} is not the package's", where=out.name)


def _contents(path: Path) -> Any:
    if path.suffix == ".safetensors":
        tensors = safetensors.torch.load(path.read_bytes())  # whatever facts stand in its header
        return {name: (tensor.dtype, tensor.numpy().tobytes()) for name, tensor in tensors.items()}
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as columns:
            return [(columns[name].dtype, columns[name].tobytes()) for name in COMPARED_COLUMNS]
    return path.read_bytes()
