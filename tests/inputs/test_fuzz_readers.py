"""Every reader of JSON and of columns, given changed files: an error of ours in bounded time, or a value."""

import copy
import json
import random
import time

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.plan import to_json
from bitgolf.base.tensors import write_tensors
from bitgolf.inputs.typed import Step, read_lines, read_plan
from bitgolf.recipe import Recipe
from bitgolf.score.score import Scores
from bitgolf.study.cited import cited
from bitgolf.study.compare import compare_runs, read_run_set
from bitgolf.study.design import Study, add_one
from bitgolf.study.findings import measured
from bitgolf.study.report import write_report
from bitgolf.text.shards import read_passport
from bitgolf.train.loop import State
from tests.fake_study import fake_study
from tests.study.test_verdicts import write_scores

ODD = [
    None,
    True,
    -1,
    0,
    10**30,
    10**400,
    -(2**63),
    [0] * 20_000,
    "x" * 10_000,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "../x",
    [],
    {},
    [[]],
    {"a": []},
    "\ud800",
]


def changed(data, draw):
    """The data with one value, somewhere in it, put away or replaced."""
    data = copy.deepcopy(data)
    place = data
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            return draw.choice(ODD)
        key = draw.choice(keys)
        inner = place[key]
        if isinstance(inner, (dict, list)) and inner and draw.random() < 0.85:
            place = inner
        elif draw.random() < 0.2:
            del place[key]
            return data
        else:
            place[key] = draw.choice(ODD)
            return data


def garbled(text, draw):
    """The text with a few bytes changed, cut short, or nested without end."""
    data = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw.choice((1, 2, 5))):
        data[draw.randrange(len(data))] = draw.randrange(256)
    return bytes(draw.choice((data, data[: draw.randrange(len(data))], b"[" * 50_000 + data)))


def tried(path, good, draw, tries, read):
    """Read changed files; whatever else than a BitgolfError comes out of it fails the test."""
    for turn in range(tries):
        odd = json.dumps(changed(good, draw))
        path.write_bytes(odd.encode() if turn % 4 else garbled(json.dumps(good), draw))
        started = time.process_time()
        try:
            read()
        except BitgolfError as error:
            assert len(str(error)) < 20_000
        assert time.process_time() - started < 10
    path.write_text(json.dumps(good))


@pytest.fixture
def study(tmp_path, recipe):
    """The folder of a study and its runs by arm."""
    made = Study(name="c", baseline=recipe, arms=add_one(recipe, {"deeper": {"model.layers": 3}}))
    folder = fake_study(tmp_path, made, {"baseline": [2.0, 2.1, 2.2], "deeper": [1.9, 1.8, 1.7]})
    return folder, {arm: [tmp_path / "runs" / f"c-{arm}-{seed}" for seed in (1, 2, 3)] for arm in made.names}


def test_recipes(tmp_path, recipe):
    path = tmp_path / "recipe.json"
    tried(path, to_json(recipe), random.Random(1), 150, lambda: read_plan(path, Recipe))


def test_results(study):
    folder, runs = study
    path = runs["deeper"][1] / "result.json"
    words = [",".join(map(str, each)) for each in runs.values()]

    def read():
        write_report(folder)  # never dies of one run
        compare_runs([read_run_set(word) for word in words])

    tried(path, json.loads(path.read_text()), random.Random(2), 40, read)


def test_plans(study):
    folder, _ = study
    path = folder / "plan.json"
    tried(path, json.loads(path.read_text()), random.Random(3), 40, lambda: write_report(folder))


def test_ledgers(study, tmp_path):
    folder, _ = study
    write_report(folder)
    path = folder / "study.json"
    tried(path, json.loads(path.read_text()), random.Random(4), 60, lambda: measured(folder))
    table = tmp_path / "cited.json"
    good = [{"source": "a", "technique": "b", "metric": "c", "value": 1.0, "reference": 2.0}]
    tried(table, good, random.Random(5), 60, lambda: cited(table))


def test_passports(dataset, tmp_path):
    path = tmp_path / "passport.json"
    tried(path, dataset.passport, random.Random(6), 150, lambda: read_passport(tmp_path))


def test_states(tmp_path):
    import torch

    path, draw = tmp_path / "state.safetensors", random.Random(7)
    facts = {"identity": "a", "step": 3, "seconds": 1.0, "position": 4, "tokens": 5}
    for _ in range(100):
        write_tensors(path, {"weights/a": torch.zeros(2)}, changed(facts, draw))
        if draw.random() < 0.5:
            data = bytearray(path.read_bytes())
            data[draw.randrange(len(data))] = draw.randrange(256)
            path.write_bytes(data)
        try:
            State.load(path, "a")
        except BitgolfError:
            continue


def test_lines_of_metrics(tmp_path):
    path = tmp_path / "metrics.jsonl"
    good = {"progress": 0.5, "nats_per_token": 3.0}
    tried(path, good, random.Random(8), 60, lambda: [*read_lines(path, Step)])


def test_columns_of_scores(tmp_path):
    import numpy as np

    path, draw = tmp_path / "scores.npz", random.Random(9)
    write_scores(path, np.random.default_rng(0).uniform(3, 5, 1000))
    good = path.read_bytes()
    for _ in range(150):
        data = bytearray(good)
        for _ in range(draw.choice((1, 2, 5))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        path.write_bytes(data[: draw.choice((len(data), draw.randrange(len(data))))])
        try:
            Scores.load(path)
        except BitgolfError:
            continue
