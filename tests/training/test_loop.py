"""The loop with a model of its own: it knows none of the zoo's."""

import gc
import json
import math
import shutil
import signal
import sys
import time
import weakref
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import yaml
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from hwzoo import VAEConfig, VAEModel, hub
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import MADE, read_jsonl, record_made, sha256
from hwzoo.training import (
    Checkpoint,
    Ending,
    FitResult,
    GlobalNoise,
    NonFiniteLoss,
    RunArguments,
    TestMeans,
    TrainState,
    averaged_model,
    fit,
    mean_over,
    read_history,
    save_curves,
    start,
)
from hwzoo.training.ending import peak_memory
from hwzoo.training.loop import signal_of
from hwzoo.training.resume import cut_back_to


class Examples:
    """Values by name, a test set."""

    device = torch.device("cpu")

    def __init__(self, **values):
        self.values = values

    def __len__(self):
        return min(map(len, self.values.values()))

    def batch(self, indices):
        return {name: value[indices] for name, value in self.values.items()}


class Numbers:
    """Endless batches: the count of the batch, and its state."""

    global_batch_size = 4

    def __init__(self):
        self.count = 0

    def __len__(self):
        return 10

    def __next__(self):
        self.count += 1
        return {"x": torch.full((4, 2), float(self.count))}

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def train(
    folder,
    bad_step: int | None = None,
    evaluate=None,
    after_step=None,
    total_steps=None,
    more=None,
    accelerator=None,
    **settings,
):
    """Trains a linear layer with dropout, whose random state has to come back too."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Dropout(0.5))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)

    def train_step(batch):
        loss = model(batch["x"] / 10).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if batch["x"][0, 0] == bad_step:
            loss = loss * math.nan
        return {"loss": loss.detach(), "count": batch["x"][0, 0]}

    run = RunArguments(output_dir=str(folder), **{"max_train_steps": 20, "report_to": ["none"], **settings})
    state = {"model": model, "optimizer": optimizer, **(more or {})}
    hooks = {"evaluate": evaluate, "after_step": after_step, "total_steps": total_steps}
    accelerator = accelerator or Accelerator(cpu=True)
    result = fit(run, accelerator, Numbers(), train_step, state=state, identity={}, **hooks)
    return model, result


def test_steps_history_and_results(tmp_path):
    evaluations = []
    evaluate = lambda: evaluations.append(0) or {"score": len(evaluations)}  # noqa: E731 (a counter)
    _, result = train(tmp_path, logging_steps=6, eval_steps=10, evaluate=evaluate)
    assert result.results["train_steps"] == 20 and result.results["train_runtime"] >= 0
    logged = [(record["step"], record["count"]) for record in result.history if "count" in record]
    assert logged == [(6, 3.5), (12, 9.5), (18, 15.5), (20, 19.5)]  # each the mean over its steps
    assert [(r["step"], r["eval_score"]) for r in result.history if "eval_score" in r] == [(10, 1), (20, 2)]


def test_metrics_may_differ_from_step_to_step(tmp_path):
    model = torch.nn.Linear(1, 1)

    def train_step(batch):
        count = batch["x"][0, 0]
        return {"d": count} if count % 2 else {"d": count, "g": -count}

    run = RunArguments(output_dir=str(tmp_path), max_train_steps=5, logging_steps=4)
    result = fit(run, Accelerator(cpu=True), Numbers(), train_step, state={"model": model}, identity={})
    assert result.history == [{"step": 4, "d": 2.5, "g": -3.0}, {"step": 5, "d": 5.0}]


def test_epochs_are_of_the_batches(tmp_path):
    assert train(tmp_path, max_train_steps=None, num_train_epochs=1.5)[1].results["train_steps"] == 15


def test_the_steps_of_a_run_may_be_given(tmp_path):
    _, result = train(tmp_path, max_train_steps=None, num_train_epochs=1.5, total_steps=8, logging_steps=3)
    assert result.results["train_steps"] == 8
    assert [record["step"] for record in result.history] == [3, 6, 8]
    assert train(tmp_path / "b", total_steps=0)[1].results["train_steps"] == 0


class Calls:
    """Notes the steps after which it was called; part of a run's state."""

    def __init__(self):
        self.steps = []

    def __call__(self, step):
        self.steps.append(step)
        return None if step % 4 else lambda: {"seen": len(self.steps)}

    def state_dict(self):
        return {"steps": list(self.steps)}

    def load_state_dict(self, state):
        self.steps = list(state["steps"])


def test_after_step_comes_after_each_step_and_is_logged(tmp_path):
    calls = Calls()
    _, result = train(tmp_path, max_train_steps=9, logging_steps=4, after_step=calls)
    assert calls.steps == list(range(1, 10))
    order = [(record["step"], "seen" if "seen" in record else "loss") for record in result.history]
    assert order == [(4, "loss"), (4, "seen"), (8, "loss"), (8, "seen"), (9, "loss")]
    assert [record["seen"] for record in result.history if "seen" in record] == [4, 8]


@pytest.mark.parametrize("stop", [3, 4])
def test_what_after_step_changes_is_in_the_checkpoint_of_its_step(stop, tmp_path):
    straight, resumed = Calls(), Calls()
    _, expected = train(
        tmp_path / "a", max_train_steps=9, logging_steps=1, after_step=straight, more={"calls": straight}
    )
    first = Calls()
    train(tmp_path / "b", max_train_steps=stop, logging_steps=1, after_step=first, more={"calls": first})
    settings = {"max_train_steps": 9, "logging_steps": 1, "resume_from_checkpoint": "latest"}
    _, result = train(tmp_path / "b", after_step=resumed, more={"calls": resumed}, **settings)
    assert resumed.steps == straight.steps == list(range(1, 10))
    assert result.history == expected.history


@pytest.mark.parametrize("stop", [1, 7, 13, 20])
def test_resumed_equals_straight_with_its_history(stop, tmp_path):
    model, straight = train(tmp_path / "a", logging_steps=6)
    train(tmp_path / "b", logging_steps=6, max_train_steps=stop)
    # The run that ended at `stop` logged there; a run that is cut off there has not yet.
    resumed_model, resumed = train(tmp_path / "b", logging_steps=6, resume_from_checkpoint="latest")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed_model.parameters(), strict=True))
    whole = stop + -stop % 6  # up to here a line of the one spans what are two lines of the other
    after = [[record for record in each.history if record["step"] > whole] for each in (straight, resumed)]
    assert after[0] == after[1] and len(after[0]) == len(range(whole + 6, 21, 6)) + (whole < 20)


def test_a_log_line_begun_before_a_stop_is_finished_after_it(tmp_path):
    _, straight = train(tmp_path / "a", logging_steps=6)
    with pytest.raises(KeyboardInterrupt):  # at the evaluation after step 9, with a checkpoint at 8
        train(tmp_path / "b", logging_steps=6, checkpointing_steps=8, eval_steps=9, evaluate=interrupt)
    _, resumed = train(tmp_path / "b", logging_steps=6, resume_from_checkpoint="latest")
    assert resumed.history == straight.history


def interrupt():
    raise KeyboardInterrupt


def test_checkpoints_are_taken_rotated_and_one_at_the_end(tmp_path):
    train(tmp_path, checkpointing_steps=3, checkpoints_total_limit=2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000018", "step-00000020"]
    train(tmp_path / "b", checkpointing_steps=None)
    assert [path.name for path in (tmp_path / "b" / "checkpoints").iterdir()] == ["step-00000020"]


@pytest.mark.parametrize(("logging_steps", "checkpointing_steps"), [(50, 5), (3, 1000), (1, 1)])
def test_the_first_bad_step_is_told_and_enters_no_checkpoint(logging_steps, checkpointing_steps, tmp_path):
    with pytest.raises(NonFiniteLoss, match="loss is nan at step 11;"):
        train(tmp_path, bad_step=11, logging_steps=logging_steps, checkpointing_steps=checkpointing_steps)
    steps = [Checkpoint(path).step for path in (tmp_path / "checkpoints").glob("step-*")]
    assert max(steps, default=0) <= 10


def test_a_step_that_is_not_finite_is_not_evaluated(tmp_path):
    evaluated = []
    evaluate = lambda: evaluated.append(0) or {"x": 1}  # noqa: E731 (a counter)
    with pytest.raises(NonFiniteLoss, match="loss is nan at step 3;"):
        train(tmp_path, bad_step=3, eval_steps=5, logging_steps=1000, evaluate=evaluate)
    assert evaluated == [] and not (tmp_path / "history.jsonl").exists()
    with pytest.raises(NonFiniteLoss, match="loss is nan at step 3;"):
        train(tmp_path, bad_step=3, logging_steps=1000, after_step=lambda step: evaluate if step == 5 else None)
    assert evaluated == [] and not (tmp_path / "history.jsonl").exists()


def test_an_evaluation_that_is_not_finite_leaves_the_history_json(tmp_path):
    def refused(constant):
        raise AssertionError(f"{constant} is no JSON")

    values = {5: math.nan, 10: -math.inf, 15: 0.5, 20: math.inf}
    evaluated = iter(values.values())
    _, result = train(tmp_path, eval_steps=5, evaluate=lambda: {"loss": next(evaluated), "score": 2})
    lines = (tmp_path / "history.jsonl").read_text().splitlines()
    lines = [json.loads(line, parse_constant=refused) for line in lines]
    words = {each["step"]: each["eval_loss"] for each in lines if "eval_loss" in each}
    assert words == {5: "nan", 10: "-inf", 15: 0.5, 20: "inf"}
    # Whoever reads it has numbers, as `evaluate` gave them.
    for history in (result.history, read_history(tmp_path)):
        told = {each["step"]: each["eval_loss"] for each in history if "eval_loss" in each}
        assert told == pytest.approx(values, nan_ok=True) and {type(each) for each in told.values()} == {float}
    save_curves(result.history, tmp_path / "curves.png", ["loss"], unit="1")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_an_evaluation_changes_no_log_line(tmp_path):
    _, plain = train(tmp_path / "a", logging_steps=6)
    _, evaluated = train(tmp_path / "b", logging_steps=6, eval_steps=4, evaluate=lambda: {"x": 1})
    assert [record for record in evaluated.history if "loss" in record] == plain.history
    assert len(evaluated.history) == len(plain.history) + 5


def test_tensorboard_shows_what_the_history_holds(tmp_path):
    """Also after a kill and a resume, and of the later of two runs in a folder."""

    def run(**settings):
        accelerator = Accelerator(cpu=True, log_with="tensorboard", project_dir=tmp_path / "logs")
        accelerator.init_trackers("run")
        try:
            train(tmp_path, accelerator=accelerator, logging_steps=3, checkpointing_steps=8, **settings)
        finally:
            accelerator.end_training()
            time.sleep(1)  # the names of its files begin with the second; they are read in the order of names

    def both():
        events = EventAccumulator(str(tmp_path / "logs" / "run")).Reload().Scalars("train/loss")
        logged = [each for each in read_jsonl(tmp_path / "history.jsonl") if "loss" in each]
        told = [(event.step, event.value) for event in events]
        return told, [(each["step"], pytest.approx(each["loss"])) for each in logged]

    with pytest.raises(KeyboardInterrupt):  # at step 16, with a checkpoint at 8
        run(eval_steps=16, evaluate=interrupt)
    told, logged = both()
    assert told == logged and [step for step, _ in told] == [3, 6, 9, 12, 15]
    run(resume_from_checkpoint="latest")
    told, logged = both()
    assert told == logged and [step for step, _ in told] == [3, 6, 9, 12, 15, 18, 20]
    run(max_train_steps=7, overwrite_output_dir=True)
    told, logged = both()
    assert told == logged and [step for step, _ in told] == [3, 6, 7]
    assert len(list((tmp_path / "logs" / "run").glob("events.*"))) == 1  # no reader shows the earlier run


def test_tensorboard_is_left_the_settings_of_the_last_run(tmp_path):
    """And of the parts of it: a resumed run gives them again."""
    logs = tmp_path / "logs" / tmp_path.name
    (logs / "mine").mkdir(parents=True)
    (logs / "mine" / "hparams.yml").touch()
    again, on = {"overwrite_output_dir": True}, {"resume_from_checkpoint": "latest"}
    for rate, steps, more in ((1e-3, 2, again), (5e-3, 2, again), (5e-3, 4, on)):
        settings = {"learning_rate": rate, "max_train_steps": steps, "report_to": ["tensorboard"], **more}
        with start(RunArguments(output_dir=str(tmp_path), **settings)) as accelerator:
            train(tmp_path, accelerator=accelerator, **settings)
        parts = 2 if more is on else 1
        told = [yaml.safe_load(path.read_text())["learning_rate"] for path in logs.glob("*.*/hparams.yml")]
        assert told == [rate] * parts and len(list(logs.glob("*.*/events.*"))) == parts
        assert len(list(logs.glob("*.*/"))) == 2 * parts and (logs / "mine" / "hparams.yml").exists()


@pytest.mark.parametrize("logging_steps", [1, 1_000_000])
def test_a_checkpoint_does_not_grow_with_the_run(logging_steps, tmp_path):
    sizes = []
    for steps in (10, 120):
        train(tmp_path / str(steps), max_train_steps=steps, logging_steps=logging_steps, checkpointing_steps=None)
        (path,) = (tmp_path / str(steps) / "checkpoints").iterdir()
        sizes.append(sum(file.stat().st_size for file in path.iterdir()))
    assert sizes[1] == pytest.approx(sizes[0], rel=0.05)


def test_history_is_cut_back_to_the_checkpoint(tmp_path):
    _, straight = train(tmp_path / "a", logging_steps=3)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "b", logging_steps=3, checkpointing_steps=8, eval_steps=16, evaluate=interrupt)
    path = tmp_path / "b" / "history.jsonl"
    assert [record["step"] for record in read_jsonl(path)] == [3, 6, 9, 12, 15]
    with open(path, "a") as file:
        file.write('{"step": 16, "lo')  # the kill came while it was written
    _, resumed = train(tmp_path / "b", logging_steps=3, resume_from_checkpoint="latest")
    assert resumed.history == read_jsonl(path) == straight.history


def test_history_of_another_folder_comes_along(tmp_path):
    _, straight = train(tmp_path / "a", logging_steps=3, checkpointing_steps=8)
    where = tmp_path / "a" / "checkpoints" / "step-00000016"
    before = (tmp_path / "a" / "history.jsonl").read_bytes()
    _, resumed = train(tmp_path / "b", logging_steps=3, resume_from_checkpoint=str(where))
    assert resumed.history == straight.history
    assert (tmp_path / "a" / "history.jsonl").read_bytes() == before


def test_a_copied_checkpoint_takes_nothing_of_its_neighbours(tmp_path, caplog):
    """The folder above it may be of any other run."""
    train(tmp_path / "a", logging_steps=3, checkpointing_steps=8)
    shutil.copytree(tmp_path / "a" / "checkpoints" / "step-00000016", tmp_path / "copies" / "step-00000016")
    (tmp_path / "history.jsonl").write_bytes(100 * (tmp_path / "a" / "history.jsonl").read_bytes())
    _, resumed = train(tmp_path / "b", logging_steps=3, resume_from_checkpoint=str(tmp_path / "copies/step-00000016"))
    assert [record["step"] for record in resumed.history] == [18, 20]
    assert "history.jsonl is shorter than at the checkpoint" in caplog.text


def test_a_picture_that_was_changed_does_not_come_along(tmp_path):
    (old := tmp_path / "a").mkdir()
    (new := tmp_path / "b").mkdir()
    for name in ("kept.png", "changed.png"):
        (old / name).write_bytes(name.encode())
    record_made(old, {name: sha256((old / name).read_bytes()) for name in ("kept.png", "changed.png")})
    progress = {"history.jsonl": 0, MADE: (old / MADE).stat().st_size}
    (old / "changed.png").write_bytes(b"mine")
    cut_back_to(progress, old / "checkpoints" / "step-00000001", new)
    assert (new / "kept.png").read_bytes() == b"kept.png" and not (new / "changed.png").exists()


@pytest.mark.parametrize("schedule", ["constant", "constant_with_warmup", "linear", "cosine", "polynomial"])
def test_more_steps_are_another_run_where_the_schedule_knows_its_end(schedule, tmp_path):
    train(tmp_path, max_train_steps=6, lr_scheduler=schedule)
    more = {"max_train_steps": 9, "lr_scheduler": schedule, "resume_from_checkpoint": "latest"}
    if schedule.startswith("constant"):
        assert train(tmp_path, **more)[1].results["train_steps"] == 9
    else:
        with pytest.raises(UsageError, match="total_steps 6, this one has 9"):
            train(tmp_path, **more)


def test_fewer_steps_than_are_done_are_refused(tmp_path):
    train(tmp_path, max_train_steps=6)
    with pytest.raises(UsageError, match="would end after step 5, .* is at step 6"):
        train(tmp_path, max_train_steps=5, resume_from_checkpoint="latest")


def test_overwriting_forgets_the_checkpoints_of_before(tmp_path):
    train(tmp_path, max_train_steps=30)
    train(tmp_path, max_train_steps=20, overwrite_output_dir=True)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000020"]


@pytest.mark.parametrize("max_grad_norm", [None, 0.01])
def test_accumulated_parts_are_one_step(max_grad_norm, tmp_path):
    x, seen = torch.arange(12.0).unflatten(0, (6, 2)), []
    after = {}
    for parts in (1, 3):
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        given = {"gradient_accumulation_steps": parts, "max_grad_norm": max_grad_norm, "use_ema": True}
        run = RunArguments(output_dir=str(tmp_path), lr_scheduler="linear", max_train_steps=4, **given)
        state = TrainState(run, Accelerator(cpu=True), model, optimizer, total_steps=4, norm_name="norm")

        def loss_of(rows):
            seen.append(len(rows))
            return {"loss": model(rows).square().mean(), "rows": rows.mean()}  # noqa: B023 (called in this turn)

        logged = [state.step(loss_of, x) for _ in range(2)]
        assert state.steps_done == 2 and optimizer.param_groups[0]["lr"] == pytest.approx(0.005)
        assert logged[0].keys() == {"loss", "rows", "norm"} and logged[0]["rows"] == x.mean()
        assert all(each.grad is None for each in model.parameters())
        after[parts] = [logged[1]["loss"], logged[1]["norm"], *model.parameters(), *state.eval_model.parameters()]
    assert seen == [6, 6, *[2] * 6]
    for one, several in zip(after[1], after[3], strict=True):
        torch.testing.assert_close(one, several)


def test_the_gradient_is_scaled_down_to_the_norm(tmp_path):
    model = torch.nn.Linear(2, 1, bias=False)
    before = model.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    run = RunArguments(output_dir=str(tmp_path), max_grad_norm=0.1)
    state = TrainState(run, Accelerator(cpu=True), model, optimizer, 10)
    assert state.eval_model is model
    state.step(lambda rows: {"loss": (rows @ model.weight.T).mean()}, torch.tensor([[3.0, 4.0]]))
    torch.testing.assert_close(before - model.weight, torch.tensor([[0.06, 0.08]]))


def test_a_test_is_in_float32_and_training_then_goes_on_in_bfloat16(tmp_path):
    run = RunArguments(output_dir=str(tmp_path), mixed_precision="bf16")
    model = torch.nn.Linear(2, 1)
    rows = torch.tensor([[0.1, 0.3]])
    exact = model(rows).detach()
    with start(run) as accelerator:
        state = TrainState(run, accelerator, model, torch.optim.SGD(model.parameters(), lr=1.0), 10)
        half = state.wrapped(rows)
        with pytest.raises(ZeroDivisionError), state.testing() as tested:
            assert torch.equal(tested(rows), exact) and not model.training
            1 / 0  # noqa: B018
        assert torch.equal(state.wrapped(rows), half) and not torch.equal(half, exact) and model.training


@pytest.mark.parametrize(("steps", "warmup", "rate"), [(6, 6, 0.1), (6, 2, 0.1), (6, 2, 1e-8), (0, 0, 0.1)])
def test_the_polynomial_schedule_takes_every_length_and_rate(steps, warmup, rate, tmp_path):
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    run = RunArguments(output_dir=str(tmp_path), lr_scheduler="polynomial", lr_warmup_steps=warmup, learning_rate=rate)
    state, rates = TrainState(run, Accelerator(cpu=True), model, optimizer, steps), []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        state.step(lambda rows: {"loss": model(rows).mean()}, torch.ones(1, 2))
    rising = [rate * step / warmup for step in range(warmup)]
    falling = [rate * (1 - step / max(1, steps - warmup)) for step in range(steps - warmup)]
    assert rates == pytest.approx(rising + falling, abs=1.01e-7 if rate > 1e-7 else rate / 9)


def test_processes_wait_for_one_that_draws_and_scores_for_hours(tmp_path, monkeypatch):
    """torch itself gives them half an hour."""
    given = {}

    def accelerator(**kwargs):
        given.update(kwargs)
        return Accelerator(cpu=True)

    monkeypatch.setattr(sys.modules["hwzoo.training.launch"], "Accelerator", accelerator)
    with start(RunArguments(output_dir=str(tmp_path))):
        pass
    (handler,) = given["kwargs_handlers"]
    assert handler.to_kwargs() == {"timeout": timedelta(days=7)}


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts it for all of a process")
def test_the_peak_of_memory_is_that_of_the_run(tmp_path):
    """And not of one before it in the same process."""
    torch.ones(100_000_000)  # 400 MB, freed at once
    before = peak_memory()["peak_memory"]
    with start(RunArguments(output_dir=str(tmp_path))):
        assert peak_memory()["peak_memory"] < before - 300
        torch.ones(50_000_000)
        assert peak_memory()["peak_memory"] > before - 300


def test_a_run_whose_numbers_are_not_finite_keeps_its_model(tmp_path, capsys):
    model = torch.nn.Linear(1, 1)

    def save(folder, results, history, limit):
        (folder / "model").write_bytes(b"")
        hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[2], decoder_hidden_sizes=[2])), folder, results)

    published = []
    ending = Ending(lambda limit: {"test_x": math.inf, "test_y": 1.0}, save, [model], published.append)
    run = RunArguments(output_dir=str(tmp_path))
    ending.rehearse(run, Accelerator(cpu=True))
    with pytest.raises(HwzooError, match=r"^test_x is not finite; model, card and pictures are in .*[^/]$"):
        ending.conclude(run, Accelerator(cpu=True), FitResult({"train_steps": 3}, []))
    assert {"model", "model.safetensors"} <= {path.name for path in tmp_path.iterdir()} and not published
    results = json.loads((tmp_path / "all_results.json").read_text())
    assert (results["test_x"], results["test_y"], results["train_steps"]) == ("inf", 1.0, 3)
    assert "test_x" in capsys.readouterr().out


def test_noise_of_another_kind_of_device_is_refused_in_words():
    state = {"generator": torch.zeros(16, dtype=torch.uint8)}  # as of CUDA
    with pytest.raises(ValueError, match="it was drawn on another kind of device than cpu: go on there"):
        GlobalNoise(3).load_state_dict(state)


def test_processes_share_the_noise_of_one():
    one = GlobalNoise(3)
    two = [GlobalNoise(3, process_index=index, num_processes=2) for index in range(2)]
    for draw in ("normal", "uniform", "normal"):
        shared = torch.cat([getattr(noise, draw)(4, 2, 3) for noise in two])
        assert torch.equal(getattr(one, draw)(8, 2, 3), shared)
    integers = one.integers(7, 8)
    assert torch.equal(integers, torch.cat([noise.integers(7, 4) for noise in two]))
    assert integers.shape == (8,) and integers.min() >= 0 and integers.max() < 7
    state = one.state_dict()
    first = one.normal(5)
    one.load_state_dict(state)
    assert torch.equal(one.normal(5), first)


def test_processes_share_the_noise_of_each_part_in_each_turn():
    one = GlobalNoise(3).normal(12, 2)
    two = [GlobalNoise(3, process_index=index, num_processes=2, num_parts=3) for index in range(2)]
    shares = [noise.normal(6, 2, turns=2).chunk(6) for noise in two]
    assert torch.equal(one, torch.cat([torch.cat(rows) for rows in zip(*shares, strict=True)]))


def test_an_average_follows_the_weights_and_holds_buffers():
    model = torch.nn.BatchNorm1d(2)
    average = averaged_model(model, decay=0.9)
    expected = None
    for step in range(200):
        with torch.no_grad():
            model.weight.fill_(step)
            model.running_mean.fill_(-step)
            model.num_batches_tracked.fill_(step)
        average.update_parameters(model)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = step if expected is None else decay * expected + (1 - decay) * step
    assert torch.allclose(average.module.weight, torch.full((2,), expected))
    assert torch.allclose(average.module.running_mean, torch.full((2,), -expected))
    assert average.module.num_batches_tracked == 199
    assert torch.equal(model.weight, torch.full((2,), 199.0))


def test_an_average_goes_with_its_last_name():
    """Not when the collector finds it: those of earlier runs would fill a sweep's memory."""
    gc.disable()
    try:
        reference = weakref.ref(averaged_model(torch.nn.Linear(1, 1), decay=0.9))
        assert reference() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("power", [1, 2, 3])
def test_a_run_shorter_than_the_decay_has_the_power_law_average(power):
    """Of weights (s / n)^power it is the integral of 9 t^8 t^power over [0, 1]."""
    model = torch.nn.Linear(1, 1, bias=False, dtype=torch.float64)
    average = averaged_model(model, decay=0.9999)
    for step in range(1, 1001):
        with torch.no_grad():
            model.weight.fill_((step / 1000) ** power)
        average.update_parameters(model)
    assert average.module.weight.item() == pytest.approx(9 / (9 + power), rel=1e-3)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 100])
def test_a_mean_counts_each_example_once(batch_size):
    values = torch.arange(10.0) ** 2
    means = mean_over(Accelerator(cpu=True), 10, batch_size, lambda part, generator: {"x": values[part].mean()})
    assert means == {"x": pytest.approx(values.mean().item())}


def test_after_step_gives_no_record_but_what_makes_it(tmp_path):
    with pytest.raises(TypeError, match="after_step gave a dict; it must give a function"):
        train(tmp_path, max_train_steps=3, after_step=lambda step: {"score": 1.0})


@pytest.mark.parametrize("mean, deviation", [(0.0, 1.0), (5000.0, 1.0), (20_000.0, 3.0)])
def test_a_standard_error_of_large_numbers_that_hardly_differ(mean, deviation):
    generator = torch.Generator().manual_seed(0)
    values = mean + deviation * torch.randn(1000, generator=generator)
    images = Examples(x=values)
    means = TestMeans(Accelerator(cpu=True), images, 100)(lambda batch, _: batch, with_error=["x"])
    exact = values.double()
    assert means["x"] == pytest.approx(exact.mean().item())
    assert means["x_standard_error"] == pytest.approx(exact.std().item() / 1000**0.5, rel=1e-6)


def test_one_example_has_no_standard_error():
    means = TestMeans(Accelerator(cpu=True), Examples(x=torch.tensor([3.0, 5.0])), 100)
    assert means(lambda batch, _: batch, 1, with_error=["x"]) == {"x": 3.0}
    assert means(lambda batch, _: batch, 2, with_error=["x"]) == {"x": 4.0, "x_standard_error": pytest.approx(1.0)}


def test_the_noise_of_a_mean_is_seeded():
    draw = lambda part, generator: {"x": torch.randn(1, generator=generator)[0]}  # noqa: E731 (short, used twice)
    means = [mean_over(Accelerator(cpu=True), 10, 3, draw, seed=seed)["x"] for seed in (0, 0, 1)]
    assert means[0] == means[1] != means[2]


def test_imports_are_not_searched_for_garbage_while_it_trains(unfrozen, tmp_path):
    seen = []
    count = lambda: seen.append(gc.get_freeze_count()) or {"score": 0.0}  # noqa: E731
    train(tmp_path / "a", eval_steps=10, evaluate=count)
    assert min(seen) > 1000 and len(seen) == 2 and gc.get_freeze_count() == 0
    with pytest.raises(NonFiniteLoss):
        train(tmp_path / "b", bad_step=3)
    assert gc.get_freeze_count() == 0
    gc.freeze()  # a program's own, which stays
    train(tmp_path / "c")
    assert gc.get_freeze_count() > 1000


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (KeyboardInterrupt(), signal.SIGINT), (SystemExit(128 + signal.SIGTERM), signal.SIGTERM), (SystemExit(2), 0),
        (SystemExit(), 0), (SystemExit("words"), 0), (SystemExit(255), 0),
    ],
)  # fmt: skip
def test_of_an_exit_only_signals_have_a_number(error, number):
    """255 is no signal, though it lies above 128."""
    assert signal_of(error) == number


def test_times_are_summed_over_resumes_and_speed_is_of_examples(tmp_path):
    def wait():
        time.sleep(0.5)
        return {"score": 0.0}

    train(tmp_path, max_train_steps=5, eval_steps=5, evaluate=wait)
    _, result = train(tmp_path, max_train_steps=6, resume_from_checkpoint="latest")
    runtime = result.results["train_runtime"]
    assert runtime >= 0.5
    assert result.results["train_samples_per_second"] == pytest.approx(6 * 4 / runtime, rel=0.05)
