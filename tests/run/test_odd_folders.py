"""Run folders that were changed by hand, and numbers no machine takes: one line each, exit code 2."""

import json
import os

import pytest

from bitgolf.base.files import write_json
from tests.cli.test_cli import bitgolf, finished, recipe_file, refused  # noqa: F401


def test_weights_of_another_recipe(bitgolf, finished):  # noqa: F811
    folder, _ = finished
    write_json(folder / "recipe.json", {})
    refused(bitgolf("pack", folder), "the weights are not of this recipe")


@pytest.mark.parametrize("variants", [None, [None], [{"name": 3}], "none"])
def test_a_result_of_another_shape_is_named(bitgolf, finished, recipe_file, dataset, variants):  # noqa: F811
    folder, result = finished
    write_json(
        folder / "result.json", json.loads((folder / "result.json").read_text()) | {"variants": variants}
    )
    words = ("run", recipe_file, "--data", dataset.folder, "--out", folder, "--resume")
    refused(bitgolf(*words), "result.json", "variants")


@pytest.mark.parametrize("name", ["environment.json", "result.json", "metrics.jsonl"])
def test_a_pipe_in_a_run_folder_is_refused(bitgolf, finished, recipe_file, dataset, name):  # noqa: F811
    folder, _ = finished
    (folder / name).unlink()
    os.mkfifo(folder / name)
    words = ("run", recipe_file, "--data", dataset.folder, "--out", folder, "--resume")
    refused(bitgolf(*words), name, "not a regular file")


@pytest.mark.parametrize("seed", ["-1", "1" * 40])
def test_seeds_that_no_generator_takes(bitgolf, recipe_file, dataset, seed):  # noqa: F811
    code, out, err = bitgolf("run", recipe_file, "--data", dataset.folder, "--seed", seed)
    assert code == 2 and out == "" and "--seed" in err


def test_more_threads_than_a_machine_has(bitgolf, recipe_file, dataset):  # noqa: F811
    words = ("run", recipe_file, "--data", dataset.folder, "--set", f"backend.threads={2**63 - 1}")
    refused(bitgolf(*words), "threads: must be at most")
