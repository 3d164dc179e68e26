"""The loop: what is timed, when it ends, what a state holds, and that many processes are one."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch

from bitgolf.base.errors import CheckpointError, DataError, PlanError
from bitgolf.base.tensors import read_tensors, write_tensors
from bitgolf.net.model import build_model
from bitgolf.net.route import Looped
from bitgolf.squeeze.quantize import absmax_rows
from bitgolf.text.batches import CoprimeStride, PublicOrder, ShuffledBlocks
from bitgolf.train.average import NoAverage, Swa
from bitgolf.train.loop import Stage, State, TrainPlan, train
from bitgolf.train.optim import OptimPlan, make_optimizers
from bitgolf.train.qat import FakeQuantize
from bitgolf.train.schedule import Constant, WarmdownClock, WarmdownFraction, WarmdownSteps
from bitgolf.train.world import World
from tests.small_training import LENGTH, MODEL, PLAN, Ticking, batches, start, tensors_of


def assert_same(left, right):
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


def largest_gap(left, right):
    return max(float((left[name] - right[name]).abs().max()) for name in left)


def trained(folder, plan=PLAN, **settings):
    model, optimizers, reports = start(folder, plan, **settings)
    return model, optimizers, list(reports)


class TestReports:
    def test_learns_and_counts(self, tmp_path):
        _, _, reports = trained(tmp_path, PLAN.replace(steps=60), schedule=Constant())
        assert [report.step for report in reports] == list(range(1, 61))
        assert reports[0].nats_per_token == pytest.approx(math.log(64), abs=0.01)
        assert reports[-1].nats_per_token < 2.0  # three equally likely next tokens: 1.1 at best
        assert reports[-1].tokens == 60 * PLAN.batch_tokens
        assert [report.status for report in reports] == ["running"] * 59 + ["finished"]
        assert reports[29].progress == 0.5
        assert reports[0].momentum == 0.85

    def test_row_is_what_metrics_hold(self, tmp_path):
        row = trained(tmp_path, PLAN.replace(steps=1))[2][0].row()
        expected = "step steps seconds progress nats_per_token scale momentum gradient_norm tokens"
        assert list(row) == [*expected.split(), "tokens_per_second", "status"]

    def test_time_of_the_caller_is_not_counted(self, tmp_path):
        clock = Ticking()
        _, _, reports = start(tmp_path, PLAN.replace(steps=5), clock=clock)
        seconds = []
        for report in reports:
            clock.now += 1000.0
            seconds.append(report.seconds)
        assert seconds == [0.25, 0.5, 0.75, 1.0, 1.25]
        assert report.tokens_per_second == PLAN.batch_tokens / 0.25

    def test_the_clock_ends_it(self, tmp_path):
        _, _, reports = trained(tmp_path, PLAN.replace(steps=1000, train_seconds=2.0))
        assert len(reports) == 8
        assert reports[-1].status == "finished"
        assert reports[-1].progress == 1.0

    def test_schedule_follows_the_clock_or_the_steps(self, tmp_path):
        schedule = WarmdownFraction(fraction=0.5)
        by_clock = trained(tmp_path, PLAN.replace(steps=1000, train_seconds=2.0), schedule=schedule)[2]
        by_steps = trained(tmp_path, PLAN.replace(steps=8), schedule=schedule)[2]
        assert [r.scale for r in by_clock] == [r.scale for r in by_steps]
        assert by_steps[-1].scale == 0.25

    def test_steps_counted_in_seconds_of_another_machine_need_no_clock(self, tmp_path):
        schedule = WarmdownClock(warmdown_steps=6)
        counted = trained(
            tmp_path, PLAN.replace(steps=1000, train_seconds=2.0, step_seconds=0.25), schedule=schedule
        )
        ticking = trained(tmp_path, PLAN.replace(steps=1000, train_seconds=2.0), schedule=schedule)
        assert [r.scale for r in counted[2]] == [r.scale for r in ticking[2]]
        slow = trained(
            tmp_path, PLAN.replace(steps=1000, train_seconds=2.0, step_seconds=0.5), schedule=schedule
        )
        assert (len(counted[2]), len(slow[2])) == (8, 4)
        assert slow[2][-1].seconds == 1.0  # what is reported is what the steps took

    def test_tokens_end_it_as_the_steps_that_see_them(self, tmp_path):
        for schedule in (WarmdownFraction(fraction=0.5), WarmdownSteps(warmdown_steps=4)):
            by_steps = trained(tmp_path, PLAN.replace(steps=8), schedule=schedule)
            by_tokens = trained(tmp_path, PLAN.replace(tokens=8 * 256 - 3), schedule=schedule)
            assert_same(tensors_of(by_tokens[0]), tensors_of(by_steps[0]))
            assert [r.row() for r in by_tokens[2]] == [r.row() for r in by_steps[2]]
        assert by_tokens[2][-1].tokens == 8 * 256 and by_tokens[2][-1].status == "finished"

    def test_whichever_of_tokens_and_clock_is_nearer_ends_it(self, tmp_path):
        both = PLAN.replace(steps=1000, tokens=6 * 256, train_seconds=2.0)
        assert len(trained(tmp_path, both)[2]) == 6
        assert len(trained(tmp_path, both.replace(tokens=600 * 256))[2]) == 8

    def test_a_training_to_a_number_of_tokens_goes_on(self, tmp_path):
        plan = PLAN.replace(tokens=6 * 256)
        whole = trained(tmp_path, plan)[0]
        reports = start(tmp_path, plan)[2]
        states = [next(reports).state.copy() for _ in range(3)]
        assert (states[-1].step, states[-1].tokens) == (3, 3 * 256)
        rest = trained(tmp_path, plan, state=states[-1])
        assert len(rest[2]) == 3
        assert_same(tensors_of(rest[0]), tensors_of(whole))

    def test_zero_rates_change_nothing(self, tmp_path):
        model, _, _ = trained(
            tmp_path, PLAN.replace(steps=3), schedule=WarmdownFraction(fraction=1.0, minimum=0.0)
        )
        assert largest_gap(tensors_of(model), tensors_of(build_model(MODEL, seed=1))) > 0
        optim = OptimPlan()
        frozen = optim.replace({f"rows.{i}.rule.lr": 0.0 for i in range(3)})
        model, _, _ = trained(tmp_path, PLAN.replace(steps=3), optim=frozen)
        assert_same(tensors_of(model), tensors_of(build_model(MODEL, seed=1)))


class TestPlan:
    def test_public_accumulation_is_eight_over_all(self):
        assert [TrainPlan().micro_batches(size) for size in (1, 2, 8)] == [8, 4, 1]
        assert TrainPlan().rows(1024, 8) == 64
        with pytest.raises(PlanError, match="divides 8, found 3"):
            TrainPlan().micro_batches(3)

    def test_the_fewest_steps_that_see_the_tokens(self):
        assert PLAN.replace(tokens=1000).in_steps() == PLAN.replace(steps=4)
        assert PLAN.replace(tokens=1024).in_steps().steps == 4
        assert PLAN.replace(tokens=1025).in_steps().steps == 5
        assert PLAN.in_steps() is PLAN
        for until, tokens in ((0.3, 64), (0.55, 1024), (1.0, 512)):
            plan = PLAN.replace(steps=200, tokens=5000, stages=(Stage(until=until, batch_tokens=tokens),))
            found = plan.in_steps()
            for steps, enough in ((found.steps, True), (found.steps - 1, False)):
                seen = sum(found.staged(step / steps, LENGTH)[0] for step in range(steps))
                assert seen == found.seen_tokens(steps) and (seen >= 5000) is enough
        assert PLAN.replace(steps=100).seen_tokens(100) == 25_600

    def test_arms_of_other_batches_see_as_many_tokens(self):
        plan = PLAN.replace(steps=1000, tokens=100 * 256)
        arms = [plan.replace(batch_tokens=tokens) for tokens in (128, 256, 512)]
        assert [arm.in_steps().steps for arm in arms] == [200, 100, 50]
        assert {arm.seen_tokens(arm.in_steps().steps) for arm in arms} == {25_600}

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"tokens": 255}, "tokens: one step sees 256, found 255"),
            ({"tokens": 20 * 256 + 1}, "tokens: 20 steps see 5,120, found 5,121; raise train.steps"),
            ({"tokens": -1}, "tokens: must be at least 0"),
            (
                {"tokens": 512, "train_seconds": 9.0, "stages": (Stage(until=0.5, batch_tokens=512),)},
                "set train.train_seconds=0",
            ),
        ],
    )
    def test_tokens_that_cannot_end_it_are_refused(self, changes, words):
        with pytest.raises(PlanError, match=words):
            PLAN.replace(changes)

    def test_batch_must_divide(self):
        with pytest.raises(PlanError, match="multiple of 8192"):
            TrainPlan(batch_tokens=8191).rows(1024, 1)


def test_cutting_a_micro_batch_changes_memory_and_not_the_gradient(tmp_path):
    """Three sequences at a time out of eight leave an uneven last piece, which must weigh less."""
    settings = {"iteration_dtype": torch.float32}
    rows = []
    for tokens in (0, 3 * LENGTH):
        plan = PLAN.replace(steps=8, accumulation=1, forward_tokens=tokens, batch_tokens=8 * LENGTH)
        rows.append(trained(tmp_path, plan, **settings))
    (whole, _, first), (parts, _, second) = rows
    assert [a.nats_per_token for a in first] == pytest.approx([b.nats_per_token for b in second], rel=1e-5)
    assert largest_gap(tensors_of(whole), tensors_of(parts)) < 1e-3
    calls = []
    model = build_model(MODEL)
    model.register_forward_pre_hook(lambda _, given: calls.append(len(given[0])))
    plan = PLAN.replace(steps=1, accumulation=1, forward_tokens=3 * LENGTH, batch_tokens=8 * LENGTH)
    optimizers = make_optimizers(OptimPlan(), model)
    list(train(model, plan, optimizers, NoAverage(), batches(tmp_path)))
    assert calls == [3, 3, 2]


@pytest.mark.parametrize("order", [ShuffledBlocks(), PublicOrder()])
def test_accumulation_is_one_batch(tmp_path, order):
    settings = {"order": order, "iteration_dtype": torch.float32}
    whole, _, first = trained(tmp_path, PLAN.replace(steps=8, accumulation=1), **settings)
    parts, _, second = trained(tmp_path, PLAN.replace(steps=8, accumulation=4), **settings)
    gap = max(abs(a.nats_per_token - b.nats_per_token) for a, b in zip(first, second))
    if isinstance(order, ShuffledBlocks):
        assert gap < 1e-4
        assert largest_gap(tensors_of(whole), tensors_of(parts)) < 1e-3
    else:  # the public loader drops one token more for every micro-batch
        assert gap > 1e-4


@pytest.mark.parametrize("order", [ShuffledBlocks(), PublicOrder()])
def test_micro_batches_and_processes_see_the_same_rows(tmp_path, order):
    source = batches(tmp_path, order)
    alone, position = [], 0
    for _ in range(4):
        inputs, _, position = source.next_batch(position, 2, World(), LENGTH)
        alone.append(inputs)
    together, shared = [], 0
    for _ in range(2):
        taken = [source.next_batch(shared, 2, World(rank=rank, size=2), LENGTH) for rank in range(2)]
        together += [inputs for inputs, _, _ in taken]
        shared = taken[0][2]
        assert taken[1][2] == shared
    assert shared == position
    assert torch.equal(torch.cat(alone), torch.cat(together))


class TestClipping:
    def test_neutral_is_exact_and_on_bites(self, tmp_path):
        plan = PLAN.replace(steps=5)
        off, _, reports = trained(tmp_path, plan)
        never, _, _ = trained(tmp_path, plan.replace(grad_clip_norm=1e9))
        clipped, _, _ = trained(tmp_path, plan.replace(grad_clip_norm=1e-3))
        assert_same(tensors_of(off), tensors_of(never))
        assert largest_gap(tensors_of(off), tensors_of(clipped)) > 0
        assert reports[0].gradient_norm > 1e-3

    def test_clips_the_norm_over_all_parameters(self, tmp_path):
        model, optimizers, reports = start(tmp_path, PLAN.replace(steps=1, grad_clip_norm=0.01))
        report = next(iter(reports))
        norm = torch.cat([g.flatten() for g in optimizers.gradients()]).norm()
        assert norm == pytest.approx(0.01, rel=1e-4)
        assert report.gradient_norm > 0.01


class Poisoned(torch.nn.Module):
    """A model whose loss is not a number from some step on."""

    def __init__(self, model, bad_call, in_gradient):
        super().__init__()
        self.model, self.bad_call, self.in_gradient, self.calls = model, bad_call, in_gradient, 0

    def named_parameters(self, *args, **settings):
        return self.model.named_parameters(*args, **settings)

    def state_dict(self, *args, **settings):
        return self.model.state_dict(*args, **settings)

    def at(self, progress):
        self.model.at(progress)

    def forward(self, inputs, targets):
        self.calls += 1
        loss = self.model(inputs, targets)
        if self.calls < self.bad_call:
            return loss
        if self.in_gradient:
            loss.register_hook(lambda gradient: gradient * math.inf)
            return loss
        return loss * math.nan


@pytest.mark.parametrize("in_gradient", [False, True])
def test_divergence_keeps_the_weights_before_it(tmp_path, in_gradient):
    good, _, _ = trained(tmp_path, PLAN.replace(steps=4), schedule=Constant(), average=NoAverage())
    model = Poisoned(build_model(MODEL, seed=1), bad_call=5, in_gradient=in_gradient)
    _, _, reports = trained(tmp_path, schedule=Constant(), average=NoAverage(), model=model)
    assert [report.status for report in reports] == ["running"] * 4 + ["diverged"]
    assert reports[-1].step == 4
    assert_same(tensors_of(model), tensors_of(good))
    assert math.isfinite(reports[-1].nats_per_token) == in_gradient


class TestPriming:
    def test_changes_nothing(self, tmp_path):
        torch.manual_seed(5)
        plain, plain_optimizers, first = trained(tmp_path, PLAN.replace(steps=6))
        drawn = torch.rand(3)
        torch.manual_seed(5)
        primed, primed_optimizers, second = trained(tmp_path, PLAN.replace(steps=6, priming_steps=3))
        assert torch.equal(drawn, torch.rand(3))
        assert_same(tensors_of(plain), tensors_of(primed))
        assert_same(plain_optimizers.state(), primed_optimizers.state())
        assert_same(first[-1].state.averaged, second[-1].state.averaged)
        assert [report.row() for report in first] == [report.row() for report in second]

    def test_takes_real_steps_on_no_data(self, tmp_path):
        model = Poisoned(build_model(MODEL, seed=1), bad_call=10**9, in_gradient=False)
        plan = PLAN.replace(steps=2, priming_steps=3, accumulation=2)
        _, _, reports = start(tmp_path, plan, model=model)
        assert next(reports).state.position == PLAN.batch_tokens
        assert model.calls == 3 * 2 + 2
        inputs, targets = batches(tmp_path).synthetic(4)
        assert inputs.shape == targets.shape == (4, LENGTH)


class TestState:
    PLAN = PLAN.replace(steps=20, train_seconds=6.0, priming_steps=1)

    def test_ten_and_ten_are_twenty_with_everything_that_changes_on_the_way(self, tmp_path):
        """Stages, late noise, loops and an average that begin at some progress, before and after the stop."""
        plan = self.PLAN.replace(
            stages=(Stage(until=0.3, sequence_length=8, batch_tokens=128), Stage(until=0.7, batch_tokens=512))
        )
        shape = MODEL.replace(
            layers=3, recurrence=Looped(first=1, last=1, loops=2, enable_at=0.4, more_at=0.6)
        )
        settings = {
            "average": Swa(every=2, start_scale=0.7),
            "noise": FakeQuantize(from_progress=0.45),
            "quantize": absmax_rows(matrix_bits=4, embedding_bits=6),
            "order": CoprimeStride(),
        }
        whole, _, all_reports = trained(tmp_path, plan, model=build_model(shape, seed=1), **settings)
        _, _, reports = start(tmp_path, plan, model=build_model(shape, seed=1), **settings)
        for stop in (5, 13):
            for report in reports:
                if report.step == stop:
                    report.state.save(tmp_path / "state")
                    break
            loaded = State.load(tmp_path / "state", "small")
            _, _, reports = start(
                tmp_path, plan, model=(model := build_model(shape, seed=9)), state=loaded, **settings
            )
        rest = list(reports)
        assert [r.row() for r in rest] == [r.row() for r in all_reports[13:]]
        assert_same(tensors_of(whole), tensors_of(model))
        assert_same(all_reports[-1].state.averaged, rest[-1].state.averaged)
        assert len({report.tokens_per_second for report in all_reports}) > 2  # batches of three sizes

    def test_ten_and_ten_are_twenty(self, tmp_path):
        schedule = WarmdownClock(warmdown_steps=12)  # depends on steps, seconds and the mean step time
        whole, whole_optimizers, all_reports = trained(tmp_path, self.PLAN, schedule=schedule)
        _, _, reports = start(tmp_path, self.PLAN, schedule=schedule)
        for report in reports:
            if report.step == 10:
                report.state.save(tmp_path / "state")
                break
        torch.rand(100)  # another process has drawn other random numbers
        loaded = State.load(tmp_path / "state", "small")
        assert (loaded.step, loaded.seconds) == (10, 2.5)
        resumed, optimizers, rest = trained(
            tmp_path, self.PLAN, schedule=schedule, state=loaded, model=build_model(MODEL, seed=77)
        )
        assert [r.row() for r in rest] == [r.row() for r in all_reports[10:]]
        assert_same(tensors_of(whole), tensors_of(resumed))
        assert_same(whole_optimizers.state(), optimizers.state())
        assert_same(all_reports[-1].state.averaged, rest[-1].state.averaged)
        assert_same(all_reports[-1].state.random, rest[-1].state.random)
        assert all_reports[-1].state.position == rest[-1].state.position

    @pytest.mark.parametrize("part", ["weights", "optimizer", "averaged", "position", "step", "seconds"])
    def test_every_part_is_needed(self, tmp_path, part):
        """Planted bugs: a state that forgets one part does not continue the same training."""
        schedule = WarmdownClock(warmdown_steps=12)
        _, _, all_reports = trained(tmp_path, self.PLAN, schedule=schedule)
        _, _, reports = start(tmp_path, self.PLAN, schedule=schedule)
        fresh = None
        for report in reports:
            fresh = fresh or report.state.copy()
            if report.step == 10:
                break
        state = report.state.copy()
        setattr(state, part, getattr(fresh, part))
        last = trained(tmp_path, self.PLAN, schedule=schedule, state=state)[2][-1]
        same = last.row() == all_reports[-1].row() and all(
            torch.equal(tensor, last.state.averaged[name])
            for name, tensor in all_reports[-1].state.averaged.items()
        )
        assert not same

    def test_finished_state_has_nothing_left(self, tmp_path):
        model, _, reports = trained(tmp_path, PLAN.replace(steps=3))
        again, _, none = trained(tmp_path, PLAN.replace(steps=3), state=reports[-1].state)
        assert none == []
        assert_same(tensors_of(model), tensors_of(again))

    def test_a_copy_stays(self, tmp_path):
        _, _, reports = start(tmp_path, PLAN.replace(steps=3))
        kept = next(reports).state.copy()
        before = kept.copy()
        list(reports)
        assert_same(kept.weights, before.weights)
        assert_same(kept.averaged, before.averaged)
        assert kept.step == 1

    def test_refuses_another_recipe(self, tmp_path):
        trained(tmp_path, PLAN.replace(steps=1))[2][0].state.save(tmp_path / "state")
        with pytest.raises(CheckpointError, match="another recipe.*found 'small'"):
            State.load(tmp_path / "state", "other")

    def test_refuses_another_model(self, tmp_path):
        state = trained(tmp_path, PLAN.replace(steps=1))[2][0].state
        for changes, match in (({"layers": 3}, "another model"), ({"mlp_multiplier": 3.0}, "shapes differ")):
            model = build_model(MODEL.replace(**changes))
            with pytest.raises(CheckpointError, match=match):
                state.restore(model, make_optimizers(OptimPlan(), model))

    def test_refuses_damage_and_other_files(self, tmp_path):
        path = tmp_path / "state"
        trained(tmp_path, PLAN.replace(steps=1))[2][0].state.save(path)
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match="checksum"):
            State.load(path, "small")
        write_tensors(path, {"a": torch.zeros(1)}, {"b": 1})
        with pytest.raises(CheckpointError, match="not a training state"):
            State.load(path, "small")
        with pytest.raises(CheckpointError, match="cannot read"):
            State.load(tmp_path / "absent", "small")


def process(*arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def test_killed_at_any_moment_and_resumed(tmp_path):
    plan = PLAN.replace(steps=150, train_seconds=30.0)
    model, optimizers, all_reports = trained(tmp_path, plan)
    for last_step in (23, 61, None):
        child = process("tests.small_training", "resume", tmp_path)
        for line in child.stdout:
            if int(line) == last_step:
                child.kill()
                break
        child.stdout.close()
        assert (child.wait() == 0) == (last_step is None)
    state = State.load(tmp_path / "state.safetensors", "small")
    assert (state.step, state.seconds) == (all_reports[-1].step, all_reports[-1].seconds)
    assert_same(state.weights, tensors_of(model))
    assert_same(state.optimizer, optimizers.state())
    assert_same(state.averaged, all_reports[-1].state.averaged)
    assert state.position == all_reports[-1].state.position


def test_two_processes_are_one(tmp_path):
    model, optimizers, reports = trained(
        tmp_path, PLAN.replace(accumulation=2), iteration_dtype=torch.float32
    )
    torchrun = ("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m")
    child = process(*torchrun, "tests.small_training", "together", tmp_path)
    child.communicate(timeout=120)
    assert child.returncode == 0
    (first, facts), (second, _) = (read_tensors(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert facts["size"] == 2
    assert_same(first, second)
    assert facts["losses"] == pytest.approx([report.nats_per_token for report in reports], abs=1e-4)
    momenta = {k: v for k, v in first.items() if k.endswith("/momentum")}
    assert len(momenta) == 12
    assert all(tensor.any() for tensor in momenta.values())
    alone = tensors_of(model) | {f"state/{k}": v for k, v in optimizers.state().items()}
    assert first.keys() == alone.keys()
    assert largest_gap(tensors_of(model), first) < 1e-3
    assert PLAN.batch_tokens == LENGTH * 16


class TestStages:
    def test_batches_and_lengths_follow_the_progress(self, tmp_path):
        plan = PLAN.replace(
            steps=10,
            stages=(Stage(until=0.3, sequence_length=8, batch_tokens=64), Stage(until=0.6, batch_tokens=128)),
        )
        seen = []
        source = batches(tmp_path)

        class Watched:
            length, synthetic = LENGTH, source.synthetic

            def next_batch(self, position, rows, world, length):
                seen.append((rows, length))
                return source.next_batch(position, rows, world, length)

        model = build_model(MODEL, seed=1)
        optimizers = make_optimizers(OptimPlan(), model)
        reports = list(train(model, plan, optimizers, NoAverage(), Watched(), clock=Ticking()))
        assert seen == [(8, 8)] * 3 + [(8, 16)] * 3 + [(16, 16)] * 4
        assert reports[-1].tokens == 3 * 64 + 3 * 128 + 4 * 256

    def test_no_stage_and_stages_like_the_recipe_are_one_training(self, tmp_path):
        plain, _, _ = trained(tmp_path)
        staged, _, _ = trained(tmp_path, PLAN.replace(stages=(Stage(until=0.5), Stage(until=0.9))))
        assert_same(tensors_of(plain), tensors_of(staged))

    def test_what_cannot_be_is_refused_before_the_first_step(self, tmp_path):
        with pytest.raises(PlanError, match="each must end later"):
            PLAN.replace(stages=(Stage(until=0.5), Stage(until=0.5)))
        with pytest.raises(PlanError, match="multiple of 16"):
            trained(tmp_path, PLAN.replace(stages=(Stage(until=0.5, batch_tokens=100),)))


def test_a_training_token_past_the_vocabulary_is_an_error_of_the_data(tmp_path):
    source = dataclasses.replace(batches(tmp_path), vocabulary_size=3)
    with pytest.raises(DataError, match="a training token is past the vocabulary of 3"):
        source.next_batch(0, 4, World(), source.length)
