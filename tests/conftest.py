"""What many tests need: a tiny dataset of generated text and a tiny recipe that trains in seconds."""

import gc
import os
import random
from pathlib import Path

import pytest
import torch

import bitgolf
from bitgolf.corpus.build import build_dataset
from bitgolf.corpus.sources import source_from
from bitgolf.net.backend import BackendPlan
from bitgolf.net.model import ModelPlan
from bitgolf.recipe import BudgetPlan, DataPlan, Recipe
from bitgolf.score.score import ScorePlan
from bitgolf.score.windows import Sliding
from bitgolf.script import ahead, counted
from bitgolf.squeeze.quantize import int6_rows
from bitgolf.text.batches import ShuffledBlocks
from bitgolf.text.shards import Dataset
from bitgolf.train.average import Ema
from bitgolf.train.loop import TrainPlan
from bitgolf.train.optim import OptimPlan
from bitgolf.train.schedule import WarmdownFraction
from tests.any_source import ANY_SOURCE

bitgolf.import_core()

WORDS = (
    "the people of this nation and their government shall keep peace with all for many years to come".split()
)


def generated_text(seed: int, sentences: int) -> str:
    """English-looking sentences, the same for the same seed."""
    draw = random.Random(seed)
    lines = (
        " ".join(draw.choices(WORDS, k=draw.randint(5, 15))).capitalize() + "." for _ in range(sentences)
    )
    return "\n".join(lines) + "\n"


def pytest_collection_finish():
    """Modules and tests stay to the end: no search for garbage goes through them again, and few are made."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory) -> Dataset:
    """Forty generated documents, tokenized with 320 pieces."""
    texts = tmp_path_factory.mktemp("texts")
    for number in range(40):
        (texts / f"{number:02}.txt").write_text(generated_text(number, 40))
    folder = tmp_path_factory.mktemp("data") / "dataset"
    for _ in build_dataset(source_from(str(texts)), folder, vocabulary_size=320):
        pass
    return Dataset.open(folder)


@pytest.fixture
def recipe() -> Recipe:
    """The tiny recipe."""
    return tiny_recipe()


def tiny_recipe() -> Recipe:
    """Two layers of width 32, four steps, every stage in use."""
    return Recipe(
        name="tiny",
        data=DataPlan(sequence_length=32, order=ShuffledBlocks()),
        model=ModelPlan(vocabulary_size=320, layers=2, width=32, heads=2, kv_heads=1),
        optim=OptimPlan(schedule=WarmdownFraction(fraction=0.5)),
        train=TrainPlan(steps=4, train_seconds=0, batch_tokens=128, accumulation=1),
        average=Ema(decay=0.5),
        quantize=int6_rows(),
        score=ScorePlan(windows=Sliding(length=32, stride=16)),
        budget=BudgetPlan(budget_bytes=1_000_000, count_tokenizer=True),
        backend=BackendPlan(dtype="float32", threads=1),
    )


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory):
    """A cache of this session's own, which its processes share."""
    folder = tmp_path_factory.getbasetemp()
    shared = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BITGOLF_CACHE", str(shared / "cache"))
        yield


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """A cache of this test's own, with the scripts of the session in it: to make one takes seconds."""
    scripts = Path(os.environ["BITGOLF_CACHE"]) / "scripts"
    scripts.mkdir(parents=True, exist_ok=True)
    folder = tmp_path / "cache"
    folder.mkdir()
    (folder / "scripts").symlink_to(scripts)
    monkeypatch.setenv("BITGOLF_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def any_script():
    """Runs of which nobody looks at the script get one of the usual size: to make one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counted, "minified", lambda _: ANY_SOURCE)
        patch.setattr(ahead.Ahead, "beside", lambda _, event: event)
        yield


@pytest.fixture
def any_script_here(monkeypatch):
    """The same for one test of a module that looks at scripts elsewhere."""
    monkeypatch.setattr(counted, "minified", lambda _: ANY_SOURCE)


@pytest.fixture(scope="session")
def kept(tmp_path_factory):
    """A folder for what several tests read and none changes."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(autouse=True)
def one_thread():
    """Tests must not fight over cores, nor leave a thread count behind."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
