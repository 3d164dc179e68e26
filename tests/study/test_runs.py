"""Running a study: each run once, the same everywhere, whatever is killed or fails on the way."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bitgolf.base.errors import BitgolfError
from bitgolf.base.events import Event
from bitgolf.base.files import read_json
from bitgolf.base.tensors import read_tensors
from bitgolf.net import backend as backend_module
from bitgolf.report.screen import follow
from bitgolf.score.windows import Chunked
from bitgolf.script import counted
from bitgolf.script.kept import minified
from bitgolf.study import executors, runs
from bitgolf.study import runner as conducting
from bitgolf.study.design import DropLosers, Study, add_one
from bitgolf.study.executors import in_processes, in_this_process, on_ray, on_slurm
from bitgolf.study.live import Board
from bitgolf.study.power import FIXED_SECONDS, UNCOUNTED_SECONDS, seconds_of
from bitgolf.study.receipt import receipt_of
from bitgolf.study.runner import find_study, keep_plan, prepare, run_study, study_of, tasks
from bitgolf.study.runs import Task, finish_task, tasks_of
from bitgolf.study.status import RunStatus, run_status
from tests.fake_study import fake_result

pytestmark = pytest.mark.usefixtures("any_script")
LONG = {"data.sequence_length": 10**5, "train.batch_tokens": 10**5, "train.forward_tokens": 10**5}
SAME = ("status", "bits_per_byte", "artifact_bytes", "total_bytes", "steps", "ledger", "rules")


def nothing() -> None:
    pass


@pytest.fixture
def study(recipe, dataset) -> Study:
    """Two trainings and one arm that only scores otherwise, two seeds: six runs."""
    arms = add_one(recipe, {"longer": {"train.steps": 6}, "chunks": {"score.windows": Chunked(length=32)}})
    return Study(name="tiny-study", baseline=recipe, arms=arms, seeds=(1, 2), data=str(dataset.folder))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Runs of the study in this process, made once."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def finished(study, store):
    prepared = follow(prepare(study, store))
    run_study(prepared, in_this_process, nothing)
    return prepared


def scores(prepared) -> dict:
    """What must be equal wherever a run has run."""
    found = {cell: run_status(job.folder).result for cell, job in prepared.jobs.items()}
    return {cell: [result[name] for name in SAME] for cell, result in found.items()}


def test_every_run_is_done_once(finished):
    before = {job.folder: (job.folder / "result.json").stat().st_mtime_ns for job in finished.jobs.values()}
    assert len(before) == 6
    assert [*tasks(finished)] == []
    run_study(finished, in_this_process, nothing)
    assert all((folder / "result.json").stat().st_mtime_ns == at for folder, at in before.items())


def test_other_code_or_text_are_other_runs(finished, study, tmp_path, monkeypatch, dataset):
    job = finished.jobs["baseline", 1]
    assert runs.make_job(job.recipe, 1, dataset, job.folder.parent).folder == job.folder
    monkeypatch.setattr(runs, "code_of", lambda recipe: b"other code")
    assert runs.make_job(job.recipe, 1, dataset, job.folder.parent).folder != job.folder


def test_another_kind_of_device_is_another_run_and_is_not_tried_here(study, tmp_path, monkeypatch):
    here = follow(prepare(study, tmp_path))
    monkeypatch.setattr(conducting, "preflight", lambda *rest: 1 / 0)
    there = follow(prepare(study, tmp_path, device="cuda"))
    assert not {job.folder for job in here.jobs.values()} & {job.folder for job in there.jobs.values()}
    with pytest.raises(ZeroDivisionError):
        follow(prepare(study, tmp_path))


def test_a_plan_makes_no_script_and_tries_nothing(study, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "code_of", lambda recipe: 1 / 0)
    monkeypatch.setattr(conducting, "preflight", lambda *rest: 1 / 0)
    planned = follow(prepare(study, tmp_path, only_planned=True))
    assert len({job.folder for job in planned.jobs.values()}) == 6
    with pytest.raises(ZeroDivisionError):
        follow(prepare(study, tmp_path))
    long = study.replace(
        baseline=study.baseline.replace(LONG),
        arms=add_one(study.baseline.replace(LONG), {"longer": {"train.steps": 6}}),
    )
    with pytest.raises(BitgolfError, match="arm 'baseline'.*text is shorter than one sequence"):
        follow(prepare(long, tmp_path, only_planned=True))


def test_a_plan_knows_the_runs_of_the_store(finished, study, store):
    planned = follow(prepare(study, store, only_planned=True))
    assert planned.jobs.keys() == finished.jobs.keys()
    assert [job.folder for job in planned.jobs.values()] == [job.folder for job in finished.jobs.values()]


def test_arms_that_train_differently_share_a_try(study, tmp_path, monkeypatch):
    tried = []

    def preflight(recipe, *rest):
        tried.append(recipe.score.windows)
        yield Event("preflight", 1, 1, {})

    monkeypatch.setattr(conducting, "preflight", preflight)
    follow(prepare(study, tmp_path))
    assert len(tried) == 2 and Chunked(length=32) in tried  # "longer" is tried with the baseline


def test_what_is_left_to_do_counts_more_than_the_stages(finished):
    done = {job.folder: run_status(job.folder) for job in finished.jobs.values()}
    for spent in seconds_of(finished.jobs, done).values():
        assert spent > UNCOUNTED_SECONDS
    never = {folder: RunStatus("waiting") for folder in done}
    assert min(seconds_of(finished.jobs, never).values()) > FIXED_SECONDS


def test_arms_that_differ_after_training_share_it(finished):
    one, other = (finished.jobs[arm, 1] for arm in ("baseline", "chunks"))
    states = [read_tensors(job.folder / runs.CHECKPOINT) for job in (one, other)]
    assert states[0][1] == states[1][1]
    assert one.folder != other.folder
    task = tasks_of([one, other])
    assert len(task) == 1
    assert len(tasks_of([one, finished.jobs["longer", 1]])) == 2


def test_a_shared_training_gives_what_an_own_one_gives(finished, tmp_path):
    job = finished.jobs["chunks", 1]
    alone = job._replace(folder=tmp_path / "alone")
    finish_task(Task((alone,)))
    left, right = (json.loads((each.folder / "result.json").read_text()) for each in (job, alone))
    assert [left[name] for name in SAME] == [right[name] for name in SAME]
    assert (job.folder / "model.bin").read_bytes() == (alone.folder / "model.bin").read_bytes()


@pytest.mark.parametrize(
    "kind", ["two processes", "slurm's local twin", pytest.param("ray", marks=pytest.mark.slow)]
)
def test_every_executor_gives_the_same(finished, study, tmp_path, kind):
    pytest.importorskip({"ray": "ray", "slurm's local twin": "submitit"}.get(kind, "torch"))
    make = {
        "two processes": lambda: in_processes(1 if os.cpu_count() == 1 else 2, 1),
        "slurm's local twin": lambda: on_slurm(tmp_path / "slurm", {}, cluster="local", at_once=2),
        "ray": lambda: on_ray("local", 1, 0),
    }[kind]
    prepared = follow(prepare(study, tmp_path))
    run_study(prepared, make(), nothing)
    assert scores(prepared) == scores(finished)


def test_without_slurm_and_with_odd_options_it_is_one_clear_error(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    with pytest.raises(BitgolfError, match="cannot be used so.*no_such_option"):
        on_slurm(tmp_path / "slurm", {"no_such_option": 1}, cluster="local")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BitgolfError, match="cannot be used so.*srun"):
        on_slurm(tmp_path / "slurm", {})


def test_more_threads_than_cores_are_refused():
    with pytest.raises(BitgolfError, match="cores"):
        in_processes(1000, 1)
    with pytest.raises(BitgolfError, match="all threads a run"):
        in_processes(2, 0)


@pytest.mark.parametrize(
    "visible, count, gpus, shares",
    [
        ("", 2, 1, ["", ""]),
        ("0", 2, 1, ["0", "0"]),
        ("3, 5", 2, 1, ["3", "5"]),
        ("3,5", 3, 1, ["3", "5", "3"]),
        ("0,1,2,3", 2, 2, ["0,1", "2,3"]),
        ("0,1", 2, 4, ["0,1", "0,1"]),
    ],
)
def test_processes_share_out_the_gpus(monkeypatch, visible, count, gpus, shares):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert executors.shares_of_gpus(count, gpus) == shares


def test_without_a_word_all_gpus_are_shared_out(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    assert executors.shares_of_gpus(4, 1) == ["0", "1", "2", "0"]


def test_each_process_sees_its_own_gpus_only():
    for gpus in ("4", "7,8"):
        pool = executors.Process(gpus).pool
        assert pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result() == gpus
        pool.shutdown()


def test_a_crash_is_a_row_and_comes_again_only_when_asked(study, tmp_path, monkeypatch):
    prepared = follow(prepare(study, tmp_path))
    real, calls = runs.run, []

    def failing(recipe, *rest, **named):
        calls.append(recipe.train.steps)
        if recipe.train.steps == 6:
            raise RuntimeError("no luck")
        return real(recipe, *rest, **named)

    monkeypatch.setattr(runs, "run", failing)
    run_study(prepared, in_this_process, nothing)
    states = {cell: run_status(job.folder).state for cell, job in prepared.jobs.items()}
    assert {arm for (arm, _), state in states.items() if state == "failed"} == {"longer"}
    assert "no luck" in run_status(prepared.jobs["longer", 1].folder).result["error"]
    assert Board(prepared, 0.0).errors() == [
        "longer, seed 1: RuntimeError: no luck", "longer, seed 2: RuntimeError: no luck",
    ]  # fmt: skip
    calls.clear()
    run_study(prepared, in_this_process, nothing)
    assert calls == []
    monkeypatch.setattr(runs, "run", real)
    run_study(prepared, in_this_process, nothing, retry=True)
    assert {run_status(job.folder).state for job in prepared.jobs.values()} == {"done"}


def die_at_six_steps(task):
    """In a process of an executor."""
    for job in task.unfinished():
        if job.recipe.train.steps == 6:
            os._exit(1)
        finish_task(Task((job,)))


def test_a_process_that_dies_costs_its_own_run_only(study, tmp_path, monkeypatch):
    prepared = follow(prepare(study, tmp_path))
    monkeypatch.setattr(executors, "finish_task", die_at_six_steps)
    run_study(prepared, in_processes(1, 1), nothing)
    states = {cell: run_status(job.folder) for cell, job in prepared.jobs.items()}
    assert {arm for (arm, _), found in states.items() if found.state == "failed"} == {"longer"}
    assert {found.state for (arm, _), found in states.items() if arm != "longer"} == {"done"}
    assert "too little memory" in states["longer", 2].result["error"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["slurm's local twin", "ray"])
def test_a_cluster_that_loses_a_worker_loses_that_run_only(study, tmp_path, monkeypatch, kind):
    pytest.importorskip({"ray": "ray"}.get(kind, "submitit"))
    prepared = follow(prepare(study, tmp_path))
    monkeypatch.setattr(executors, "finish_task", die_at_six_steps)
    made = {
        "slurm's local twin": lambda: on_slurm(tmp_path / "slurm", {}, cluster="local", at_once=1),
        "ray": lambda: on_ray("local", 1, 0),
    }[kind]()
    run_study(prepared, made, nothing)
    states = {cell: run_status(job.folder).state for cell, job in prepared.jobs.items()}
    assert {arm for (arm, _), state in states.items() if state == "failed"} == {"longer"}
    assert {state for (arm, _), state in states.items() if arm != "longer"} == {"done"}


def test_an_executor_that_loses_a_task_gives_up_its_run_and_does_the_rest(study, tmp_path):
    prepared = follow(prepare(study, tmp_path))
    lost = prepared.jobs["baseline", 1].folder

    class Done:
        def __init__(self, task):
            self.task = task

        def done(self):
            return True

        def result(self):
            if self.task.unfinished() and self.task.unfinished()[0].folder == lost:
                raise OSError("the node is gone")
            finish_task(self.task)

    run_study(prepared, lambda each, look: executors.on_seats(each, [Done, Done], look), nothing)
    states = {cell: run_status(job.folder).state for cell, job in prepared.jobs.items()}
    assert [cell for cell, state in states.items() if state != "done"] == [("baseline", 1)]
    assert "the node is gone" in run_status(lost).result["error"]


def test_a_study_that_is_killed_goes_on_to_the_same_table(finished, study, tmp_path):
    check_killed(finished, study, tmp_path, kills=2)


@pytest.mark.slow
def test_a_study_that_is_killed_twenty_times(study, tmp_path):
    """Forty-eight runs with a checkpoint after every step, so that half-finished ones resume."""
    base = study.baseline.replace({"train.steps": 40, "train.checkpoint_seconds": 0.0})
    arms = add_one(base, {"longer": {"train.steps": 60}, "chunks": {"score.windows": Chunked(length=32)}})
    many = study.replace(baseline=base, arms=arms, seeds=tuple(range(1, 17)))
    whole = follow(prepare(many, tmp_path / "whole"))
    run_study(whole, in_this_process, nothing)
    assert check_killed(whole, many, tmp_path / "killed", kills=20) >= 15


def test_processes_end_with_the_one_that_started_them(recipe, dataset, tmp_path):
    endless = recipe.replace({"train.steps": 1_000_000})
    arms = add_one(endless, {"deeper": {"model.layers": 3}})
    study = Study(name="endless", baseline=endless, arms=arms, data=str(dataset.folder))
    keep_plan(follow(prepare(study, tmp_path)))
    command = [sys.executable, "-m", "tests.go_on", str(tmp_path / study.name), str(tmp_path), "1"]
    child = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
    wait_for_work(tmp_path, 0.0, child)
    child.kill()  # alone: nothing tells the others
    child.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(child.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(child.pid, signal.SIGKILL)
    raise AssertionError("a process is still at work for a study that is gone")


def check_killed(finished, study, folder, kills: int) -> int:
    """SIGKILL after some while at work, again and again; then to the end. No finished run is touched again.

    Returns how many kills met a study at work.
    """
    keep_plan(follow(prepare(study, folder)))
    command = [sys.executable, "-m", "tests.go_on", str(folder / study.name), str(folder)]
    kept: dict[Path, int] = {}
    at_work = 0
    for number in range(kills):
        started = time.time()
        child = subprocess.Popen(command, cwd=Path(__file__).parents[2], start_new_session=True)
        wait_for_work(folder, started, child)
        time.sleep((number * 0.37) % 1.1)
        at_work += child.poll() is None
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        for path in folder.glob("runs/*/result.json"):
            assert kept.get(path, path.stat().st_mtime_ns) == path.stat().st_mtime_ns
            kept[path] = path.stat().st_mtime_ns
            json.loads(path.read_text())
    assert subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode == 0
    assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
    assert scores(follow(prepare(study, folder))) == scores(finished)
    return at_work


def wait_for_work(folder: Path, started: float, child: subprocess.Popen) -> None:
    """Until a run says something after this time, or the child is through."""
    deadline = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < deadline:
        said = [*folder.glob("runs/*/progress.json"), *folder.glob("runs/*/result.json")]
        if any(path.is_file() and path.stat().st_mtime > started for path in said):
            return
        time.sleep(0.02)


def test_several_processes_make_one_run(recipe, dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(counted, "minified", minified)  # it is the script that they run
    pair = {"train.accumulation": 1, "train.batch_tokens": 128}
    arms = add_one(recipe.replace(pair), {"longer": {"train.steps": 5}})
    study = Study(
        name="pair",
        baseline=recipe.replace(pair),
        arms=arms,
        seeds=(1, 2),
        data=str(dataset.folder),
        processes=2,
    )
    prepared = follow(prepare(study, tmp_path))
    job = prepared.jobs["baseline", 1]
    finish_task(Task((job,)))
    found = run_status(job.folder)
    assert found.state == "done", found.result
    assert found.result["code_bytes"] == len(job.code)


def test_a_bad_arm_is_refused_before_anything_runs(recipe, dataset, tmp_path):
    arms = add_one(recipe, {"longer": {"train.steps": 6}, "small words": {"model.vocabulary_size": 300}})
    study = Study(name="bad", baseline=recipe, arms=arms, data=str(dataset.folder))
    with pytest.raises(BitgolfError, match="arm 'small words': cannot run: .*pieces"):
        follow(prepare(study, tmp_path))
    assert not [*tmp_path.iterdir()]


def test_the_receipt_keeps_what_was_changed_after_the_first_run(study, tmp_path):
    keep_plan(follow(prepare(study, tmp_path)))
    keep_plan(follow(prepare(study.replace(reading="words"), tmp_path)))
    assert receipt_of(tmp_path / study.name)["amendments"] == []
    more = study.replace(seeds=(1, 2, 3))
    keep_plan(follow(prepare(more, tmp_path)))
    (found,) = receipt_of(tmp_path / study.name)["amendments"]
    assert found["changes"] == [{"path": "seeds", "before": [1, 2], "after": [1, 2, 3]}]
    assert study_of(tmp_path / study.name) == more == find_study(str(tmp_path / study.name))


def test_clear_losers_get_no_more_seeds(study, tmp_path):
    stopping = study.replace(stop=DropLosers(after_seeds=3), seeds=(1, 2, 3, 4))
    prepared = follow(prepare(stopping, tmp_path))
    for (arm, seed), job in prepared.jobs.items():
        if seed < 4:
            value = 2 + 0.001 * seed + (0.5 if arm == "longer" else 0.0)
            (job.folder).mkdir(parents=True, exist_ok=True)
            (job.folder / "result.json").write_text(json.dumps(fake_result(job.recipe, seed, value)))
    left = {job.folder for task in tasks(prepared) for job in task.jobs}
    assert left == {prepared.jobs[arm, 4].folder for arm in ("baseline", "chunks")}


def test_standing_is_read_from_the_folder_alone(tmp_path):
    assert run_status(tmp_path).state == "waiting"
    (tmp_path / "recipe.json").write_text("{}")
    assert run_status(tmp_path).state == "stopped"
    (tmp_path / "progress.json").write_text(json.dumps({"time": time.time(), "stage": "train", "share": 0.5}))
    assert run_status(tmp_path) == RunStatus("running", "train", 0.5)
    (tmp_path / "progress.json").write_text(
        json.dumps({"time": time.time() - 60, "stage": "train", "share": 0.5})
    )
    assert run_status(tmp_path).state == "stopped"
    with runs.FileLock(tmp_path / ".lock"):
        assert run_status(tmp_path).state == "running"


def test_the_board_fills(finished, study, tmp_path):
    fresh = follow(prepare(study, tmp_path))
    board = Board(fresh, 100.0)
    assert str(board.cell("baseline", 1)) == "·" and board.done() == (0.0, 6)
    assert board.left() == "2 min left by the forecast" and board.best() is None
    source = finished.jobs["longer", 1].folder
    shutil.copytree(source, fresh.jobs["longer", 1].folder)
    board.read()
    value = run_status(source).result["bits_per_byte"]
    assert str(board.cell("longer", 1)) == f"{value:.4f}"
    assert board.best() == ("longer", value) and board.done() == (1.0, 6)


def test_the_time_left_is_by_what_was_done_since_the_start(study, tmp_path, monkeypatch):
    prepared = follow(prepare(study, tmp_path))
    folder = prepared.jobs["longer", 1].folder
    folder.mkdir(parents=True)
    (folder / "recipe.json").write_text("{}")

    def stands(share, seconds_ago):
        progress = {"time": time.time() - seconds_ago, "stage": "train", "share": share}
        (folder / "progress.json").write_text(json.dumps(progress))

    stands(0.5, 60)  # a run that was stopped goes on
    clock = iter([0.0, 32.0])
    monkeypatch.setattr("bitgolf.study.live.time.monotonic", lambda: next(clock))
    board = Board(prepared, 100.0)
    assert board.done() == (0.4, 6) and board.left() == "2 min left by the forecast"
    stands(0.75, 0)
    board.read()
    assert board.left() == "14 min left"  # 5.4 runs, at 0.2 in 32 s


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nowhere.py", "no such study"),
        ("def study():\n    return 3\n", "does not return a Study"),
        ("def study():\n    return 1 / 0\n", "ZeroDivisionError"),
        ("x = 3\n", "no attribute 'study'"),
    ],
)
def test_a_study_file_that_is_none_says_why(tmp_path, text, said):
    path = tmp_path / "file.py"
    if text.endswith("\n"):
        path.write_text(text)
    with pytest.raises(BitgolfError, match=said):
        find_study(str(path))


def test_all_runs_of_a_store_have_one_number_type(study, recipe, tmp_path, monkeypatch):
    """Whatever each start would measure; a store keeps what was measured for its first run."""
    auto = recipe.replace({"backend.dtype": "auto"})
    study = dataclasses.replace(study, baseline=auto, arms=add_one(auto, {"longer": {"train.steps": 6}}))
    gains = iter([9.0, 0.1])
    monkeypatch.setattr(backend_module, "bfloat16_gain", lambda device: next(gains))
    first, again = (follow(prepare(study, tmp_path)).jobs for _ in range(2))
    assert first == again
    assert {job.recipe.backend.dtype for job in first.values()} == {"bfloat16"}
    assert read_json(tmp_path / "runs" / runs.NUMBER_TYPES) == {"cpu": "bfloat16"}
    other = follow(prepare(study, tmp_path / "other")).jobs
    assert {job.recipe.backend.dtype for job in other.values()} == {"float32"}
    assert not {job.folder.name for job in first.values()} & {job.folder.name for job in other.values()}
    (tmp_path / "runs" / runs.NUMBER_TYPES).write_text('{"cpu": 16}')
    with pytest.raises(BitgolfError, match=r"number-types\.json: cpu: "):
        follow(prepare(study, tmp_path))


def test_a_progress_that_cannot_be_written_is_not_missed(tmp_path):
    (tmp_path / "progress.json").mkdir()
    runs.write_progress(tmp_path, Event("train", 1, 2, {}))
    (tmp_path / "progress.tmp").unlink()
    (tmp_path / "progress.tmp").mkdir()
    runs.write_progress(tmp_path, Event("train", 1, 2, {}))
    assert run_status(tmp_path).state == "waiting"
