"""What a run of train_continual.py leaves, and that it goes on in the middle of any task as if nothing had been."""

import functools
import json
import math
import re
import signal
from pathlib import Path

import pytest
import recipe_runs
import torch
from forked import TwoProcesses
from huggingface_hub import ModelCard
from PIL import Image
from recipe_runs import (
    CLOCKS,
    checkpoint,
    evaluations,
    history,
    last_of_the_bar,
    results_but_times,
    run_with,
    same,
    same_weights,
    standardisation_is_compared,
    stopped_at,
    wait_for_checkpoint,
)
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

from hwzoo import continual, hub, training
from hwzoo.continual import ewc
from hwzoo.continual import settings as stream_settings
from hwzoo.data import ImageOptions, load_images
from hwzoo.errors import UsageError
from hwzoo.training import parse_arguments

RECIPE = Path(__file__).parents[2] / "recipes" / "train_continual.py"
# Those of compare_continual.py have flags of their own.
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {"max_train_steps": 4, "train_batch_size": 20, "num_tasks": 2, "hidden_sizes": [16], "dropout": 0.25}
SMALL |= {"scenario": "class", "strategy": "naive"}
STRATEGIES = {
    "naive": {"strategy": "naive"},
    "joint": {"strategy": "joint"},
    "rehearsal": {"strategy": "rehearsal"},
    "reservoir": {"strategy": "replay", "memory_policy": "reservoir", "memory_size": 30},
    "balanced": {"strategy": "replay", "memory_policy": "balanced", "memory_size": 30},
    "ewc": {"strategy": "ewc", "fisher_estimator": "sampled", "fisher_samples": 50},
    "online ewc": {"strategy": "ewc", "ewc_online": True, "ewc_decay": 0.5, "fisher_samples": 50},
    "si": {"strategy": "si"},
    "lwf": {"strategy": "lwf"},
}


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Tasks, recipe.Model, recipe.Optimizer, recipe.Method]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


@pytest.fixture
def no_pictures(monkeypatch):
    """Drawing them is half of a small run's time."""
    for name in ("save_accuracy_matrix", "save_task_curves"):
        monkeypatch.setattr(training, name, lambda *args: None)


@pytest.mark.parametrize("share", [0, 0.25])
def test_the_images_of_a_stream_are_in_memory_once_where_none_are_held_out(
    share, train_continual, tmp_path, monkeypatch
):
    made, permuted, curves = [], stream_settings.permuted, []
    monkeypatch.setattr(training, "save_task_curves", lambda *args: curves.append(args))
    monkeypatch.setattr(stream_settings, "permuted", lambda *args: made.append(args) or permuted(*args))
    run(train_continual, tmp_path, stream="permuted", scenario="domain", validation_share=share, eval_steps=2)
    (train, *_), *more = made
    assert not more if share == 0 else len(more[0][1]) < len(train) and len(more) == 1
    assert curves[-1][-1] == bool(share)


def test_held_out_images_of_a_stream_come_with_its_training_images():
    asked = continual.StreamSettings(stream="permuted", num_tasks=2, scenario="domain")
    data = load_images("digits", options=ImageOptions(validation_share=0.25))
    stream, watched = continual.make_streams(asked, data, "cpu")
    assert watched.train is stream.train and len(watched.test) == 2 * len(data.validation) != len(stream.test)


def state_of(path: Path) -> dict:
    """What a checkpoint holds besides weights, without times."""
    state = torch.load(path / "state.pt", weights_only=True)
    for times in (state["objects"]["scores"], state["progress"]):
        for name in ("seconds", "elapsed", *CLOCKS):
            times.pop(name, None)
    return state


# What a run leaves


def test_what_a_run_leaves(train_continual, tmp_path, capsys):
    settings = {"strategy": "ewc", "stream": "permuted", "scenario": "domain", "num_tasks": 3, "eval_steps": 3}
    results = run(train_continual, tmp_path, **settings)
    printed, records = capsys.readouterr(), history(tmp_path)
    (*_, accuracy) = (record["accuracy"] for record in records if "loss" in record)
    bar = last_of_the_bar(printed.err)
    assert bar.startswith("task 3 of 3: 100%") and f", accuracy={accuracy:.4g}" in bar and ", loss=" in bar
    rows = [results["accuracy_matrix"][task][: task + 1] for task in range(3)]
    told = {int(line.split(":")[0]): line for line in evaluations(printed.out)}
    assert sorted(told) == [3, 4, 6, 8, 9, 12]
    for step, row in zip((4, 8, 12), rows, strict=True):
        each = ", ".join(f"accuracy on task {task} {value:.4g}" for task, value in enumerate(row, 1))
        assert told[step] == f"{step}: {each} (fraction)"
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    matrix = torch.tensor(results["accuracy_matrix"])
    assert matrix.shape == (3, 3) and (matrix >= 0).all() and (matrix <= 1).all()
    assert results["average_accuracy"] == pytest.approx(matrix[-1].mean().item())
    assert -1 <= results["average_forgetting"] <= 1 and -1 <= results["forward_transfer"] <= 1
    assert results["backward_transfer"] == pytest.approx((matrix[2, :2] - matrix.diagonal()[:2]).mean().item())
    assert len(results["untrained_accuracy"]) == len(results["seconds_per_phase"]) == 3
    assert all(seconds > 0 for seconds in [*results["seconds_per_phase"], results["train_runtime"]])
    assert sum(results["seconds_per_phase"]) == pytest.approx(results["train_runtime"], abs=0.5)
    assert 0 <= results["train_accuracy"] <= 1 and "train_accuracy: of training" in results["protocol"]
    assert results["train_steps"] == 12
    assert results["memory_held"] == 2 * 4 * (784 * 16 + 16 + 16 * 10 + 10)
    orders = torch.tensor(results["permutations"])
    assert torch.equal(orders[0], torch.arange(784)) and (orders.sort().values == orders[0]).all()
    for words in ("digits", "3 tasks", "permuted", "domain-incremental", "all 891 test images"):
        assert words in results["protocol"]

    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert model.config.hidden_sizes == [16] and model.config.num_labels == 10
    mean, std = load_images("digits").train.mean_and_std()
    assert (model.config.image_mean, model.config.image_std) == (mean, std)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["size"] == {"height": 28, "width": 28}
    assert (tmp_path / "modeling_classifier.py").exists() and (tmp_path / "README.md").exists()
    assert Image.open(tmp_path / "accuracy_matrix.png").width > 100
    assert Image.open(tmp_path / "curves.png").width > 500
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.model_name, card.data.tags) == ("continual-digits-ewc", ["hwzoo", "continual"])
    assert "other\nscenarios of continual learning are not comparable." in card.text
    again = parse_arguments(types_of(train_continual), [f"--config={tmp_path / 'preset.yaml'}"])
    assert again[0].max_train_steps == 4 and again[0].num_train_epochs is None
    assert again[1] == train_continual.Tasks(stream="permuted", scenario="domain", num_tasks=3)
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.parametrize("scenario", ["task", "class"])
def test_the_saved_model_has_the_accuracies_of_the_last_row(scenario, train_continual, no_pictures, tmp_path):
    results = run(train_continual, tmp_path, scenario=scenario, max_train_steps=10)
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    test = load_images("digits").test
    with torch.inference_mode():
        logits = model(test.pixel_values(), task_ids=test.labels // 5 if scenario == "task" else None).logits
    correct = logits.argmax(-1) == test.labels
    expected = [correct[test.labels // 5 == task].double().mean().item() for task in range(2)]
    assert results["accuracy_matrix"][-1] == pytest.approx(expected, abs=1e-6)
    card = " ".join((tmp_path / "README.md").read_text().split())
    told = "minus the last, below 0 where the last task has helped; `backward_transfer` of the last minus that right "
    told += "after the task was learned" + ("." if scenario == "class" else "; `forward_transfer`, over the later ")
    assert told in card


def test_a_plain_classifier(train_continual, tmp_path):
    settings = {"strategy": "joint", "num_tasks": 1, "backbone": "wide_cnn", "max_train_steps": 2}
    results = run(train_continual, tmp_path, **settings)
    assert results["accuracy_matrix"] == [[results["average_accuracy"]]]
    assert not {"average_forgetting", "backward_transfer", "forward_transfer", "permutations"} & set(results)
    assert AutoModelForImageClassification.from_pretrained(tmp_path).config.backbone == "wide_cnn"
    assert Image.open(tmp_path / "accuracy_matrix.png").height > 50
    card = ModelCard.load(tmp_path / "README.md")
    assert (card.data.model_name, card.data.tags) == ("digits classifier", ["hwzoo", "classifier"])
    assert "\n# digits classifier\n" in card.text and "continual learning" not in card.text


def test_joint_training_has_one_row_and_all_curves(train_continual, no_pictures, tmp_path):
    results = run(train_continual, tmp_path, strategy="joint", num_tasks=5, logging_steps=1, eval_steps=None)
    assert len(results["accuracy_matrix"]) == len(results["seconds_per_phase"]) == 1
    assert len(results["accuracy_matrix"][0]) == 5 and results["train_steps"] == 4
    last = history(tmp_path)[-1]
    assert [last[f"eval_accuracy_task_{task}"] for task in range(1, 6)] == results["accuracy_matrix"][0]


@pytest.mark.long
@pytest.mark.parametrize("stream", ["split", "permuted"])
@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_every_scenario_of_both_streams(scenario, stream, train_continual, no_pictures, tmp_path):
    for name in ("ewc", "lwf", "balanced"):
        results = run(train_continual, tmp_path / name, stream=stream, scenario=scenario, **STRATEGIES[name])
        assert results["average_accuracy"] > 0
        assert stream in results["protocol"] and f"{scenario}-incremental" in results["protocol"]
        assert ("permutations" in results) == (stream == "permuted")
        assert AutoModelForImageClassification.from_pretrained(tmp_path / name).config.num_heads == (
            2 if scenario == "task" else 1
        )
        if scenario == "class":  # a task that is not learned yet has no output of its own
            assert results["accuracy_matrix"][0][1] == 0


def test_strategies_do_what_they_are_for(train_continual, no_pictures, tmp_path):
    """After two tasks of five classes each: all learned, and all forgotten or not."""
    accuracy = {}
    for name in ("naive", "rehearsal", "joint", "balanced"):
        settings = {**STRATEGIES[name], "max_train_steps": 60, "memory_size": 200}
        accuracy[name] = run(train_continual, tmp_path / name, **settings)
    assert [accuracy["naive"]["accuracy_matrix"][task][task] > 0.8 for task in range(2)] == [True, True]
    assert accuracy["naive"]["accuracy_matrix"][1][0] < 0.2 and accuracy["naive"]["average_forgetting"] > 0.6
    for name in ("rehearsal", "joint", "balanced"):
        assert accuracy[name]["average_accuracy"] > 0.7, name


def test_permutations_are_those_of_the_stream_whatever_the_seed(train_continual, no_pictures, tmp_path):
    def permutations(name, **settings):
        return run(train_continual, tmp_path / name, stream="permuted", scenario="domain", **settings)["permutations"]

    first = permutations("a", seed=1)
    assert first == permutations("b", seed=2)
    assert first != permutations("c", seed=1, stream_seed=1)
    weights = [load_file(tmp_path / name / "model.safetensors")["classifier.weight"] for name in "ab"]
    assert not torch.equal(*weights)


# Flags of the run


def test_the_average_is_what_is_tested_and_saved(train_continual, no_pictures, tmp_path):
    run(train_continual, tmp_path, use_ema=True)
    last = checkpoint(tmp_path, 8)
    saved, averaged = load_file(tmp_path / "model.safetensors"), load_file(last / "ema.safetensors")
    assert all(torch.equal(saved[name], averaged[f"module.{name}"]) for name in saved)
    trained = load_file(last / "model.safetensors")
    assert not any(torch.equal(saved[name], trained[name]) for name in saved)


@pytest.mark.parametrize("name", ["naive", "balanced", "lwf"])
def test_accumulated_batches_equal_one_batch(name, train_continual, no_pictures, tmp_path):
    settings = {**STRATEGIES[name], "optimizer": "sgd", "learning_rate": 0.05, "logging_steps": 1}
    run(train_continual, tmp_path / "a", train_batch_size=60, **settings)
    run(train_continual, tmp_path / "b", train_batch_size=20, gradient_accumulation_steps=3, **settings)
    whole, parts = (history(tmp_path / name) for name in "ab")
    losses = [record["loss"] for record in whole if "loss" in record]
    assert len(losses) == 8
    assert [record["loss"] for record in parts if "loss" in record] == pytest.approx(losses, rel=1e-4)


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_the_optimiser_is_reset_at_each_task_when_asked_for(optimizer, train_continual, no_pictures, tmp_path):
    states, weights = {}, {}
    for reset in (False, True):
        folder = tmp_path / str(reset)
        settings = {"optimizer": optimizer, "momentum": 0.5, "reset_optimizer": reset, "checkpointing_steps": 4}
        run(train_continual, folder, **settings)
        states[reset] = state_of(checkpoint(folder, 4))["objects"]["optimizer"]["state"]
        weights[reset] = load_file(folder / "model.safetensors")["classifier.weight"]
    buffer = {"sgd": "momentum_buffer", "adam": "exp_avg"}[optimizer]
    assert not states[True] and states[False][0][buffer].any()
    assert not torch.equal(weights[False], weights[True])


@pytest.mark.parametrize("strategy", ["ewc", "si"])
@pytest.mark.parametrize("warmup", [0, 6])
def test_sgd_holds_at_any_strength(warmup, strategy, train_continual, no_pictures, tmp_path):
    """Where an explicit step would end in NaN; also while the rate still rises."""
    settings = {"optimizer": "sgd", "learning_rate": 0.1, "ewc_lambda": 1e12, "si_lambda": 1e12, "strategy": strategy}
    settings |= {"lr_scheduler": "constant_with_warmup", "lr_warmup_steps": warmup, "scenario": "domain"}
    settings |= {"checkpointing_steps": 4, "max_grad_norm": 1.0}
    results = run(train_continual, tmp_path, **settings)
    assert math.isfinite(results["average_accuracy"])
    # The bias, which matters to all tasks, hardly moves in the second.
    steps = (load_file(checkpoint(tmp_path, step) / "model.safetensors")["classifier.bias"] for step in (4, 8))
    torch.testing.assert_close(*steps, atol=1e-5, rtol=0)


@pytest.mark.parametrize("estimator", continual.ESTIMATORS)
def test_a_loss_that_is_not_finite_stops_the_run_before_the_end_of_its_task(
    estimator, train_continual, no_pictures, tmp_path, monkeypatch
):
    monkeypatch.setattr(ewc, "fisher_diagonal", None)  # no Fisher information is computed
    with pytest.raises(training.NonFiniteLoss, match="^loss is nan at step 2;"):
        run(train_continual, tmp_path, strategy="ewc", fisher_estimator=estimator, learning_rate=1e30)


@pytest.mark.parametrize("backbone", ["mlp", "cnn"])
def test_mixed_precision_trains(backbone, train_continual, no_pictures, tmp_path):
    settings = {"strategy": "ewc", "backbone": backbone, "max_train_steps": 8, "mixed_precision": "bf16"}
    results = run(train_continual, tmp_path / "bf16", **settings, fisher_samples=40)
    assert results["average_accuracy"] > 0


def test_tests_are_in_float32_after_training_in_bfloat16(train_continual, no_pictures, tmp_path, monkeypatch):
    accuracy, tested = continual.Strategy.accuracy, []

    def watched(strategy, model, batch):
        tested.append((batch, model(batch["pixel_values"], task_ids=batch["task_ids"]).logits))
        return accuracy(strategy, model, batch)

    monkeypatch.setattr(continual.Strategy, "accuracy", watched)
    run(train_continual, tmp_path, mixed_precision="bf16", max_train_steps=8)
    batch, logits = tested[-1]
    with torch.inference_mode():
        model = hub.load(AutoModelForImageClassification, str(tmp_path)).eval()
        expected = model(batch["pixel_values"], task_ids=batch["task_ids"]).logits
    torch.testing.assert_close(logits, expected, atol=1e-6, rtol=0)


def test_no_steps_only_test_a_model(train_continual, no_pictures, tmp_path):
    trained = run(train_continual, tmp_path / "trained", max_train_steps=10)
    for strategy in ("naive", "ewc", "replay"):
        settings = {"max_train_steps": 0, "model_name_or_path": str(tmp_path / "trained"), "strategy": strategy}
        tested = run(train_continual, tmp_path / strategy, **settings)
        assert tested["train_steps"] == 0
        assert tested["accuracy_matrix"] == [trained["accuracy_matrix"][-1]]
        assert "average_forgetting" not in tested
        same_weights(tmp_path / "trained", tmp_path / strategy)


def test_a_trained_model_goes_on(train_continual, no_pictures, tmp_path):
    run(train_continual, tmp_path / "a", max_train_steps=30, scenario="domain")
    run(train_continual, tmp_path / "b", max_train_steps=1, scenario="domain", learning_rate=1e-6)
    name = str(tmp_path / "a")
    settings = {"max_train_steps": 1, "scenario": "domain", "learning_rate": 1e-6, "model_name_or_path": name}
    results = run(train_continual, tmp_path / "c", hidden_sizes=[9], **settings)  # it brings its own architecture
    before, after, fresh = (load_file(tmp_path / each / "model.safetensors") for each in "acb")
    for each in before:
        torch.testing.assert_close(before[each], after[each], atol=1e-5, rtol=0)
        assert not torch.allclose(before[each], fresh[each], atol=1e-3)
    assert results["untrained_accuracy"][1] > 0.5


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"scenario": "task"}, "num_heads 1, the data 2"), ({"scenario": "domain"}, "num_labels 10, the data 5")],
)
def test_a_model_for_another_stream_is_refused(changed, named, train_continual, no_pictures, tmp_path):
    run(train_continual, tmp_path / "trained", max_train_steps=1)
    with pytest.raises(UsageError, match=rf"^--model_name_or_path \S+: it has {named}$"):
        settings = {"max_train_steps": 0, "model_name_or_path": str(tmp_path / "trained"), **changed}
        run(train_continual, tmp_path / "tested", **settings)


def test_evaluating_and_logging_leave_the_training_alone(train_continual, no_pictures, tmp_path):
    settings = {"backbone": "cnn", "max_train_steps": 3, "strategy": "lwf"}
    run(train_continual, tmp_path / "a", eval_steps=None, **settings)
    run(train_continual, tmp_path / "b", eval_steps=2, logging_steps=1, checkpointing_steps=1, **settings)
    same_weights(tmp_path / "a", tmp_path / "b")


# Stopped, killed, shared


@pytest.mark.parametrize("name", STRATEGIES)
def test_resumed_equals_straight(name, train_continual, no_pictures, tmp_path):
    """In the middle of the third of five tasks and right at the end of the second, with all that has a state."""
    settings = {
        "num_tasks": 5, "use_ema": True, "gradient_accumulation_steps": 2, "lr_scheduler": "cosine",
        "lr_warmup_steps": 3, "max_grad_norm": 1.0, "logging_steps": 3, "eval_steps": 5,
    }  # fmt: skip
    settings = {**settings, **STRATEGIES[name]}
    straight = tmp_path / "straight"
    run(train_continual, straight, checkpointing_steps=2, checkpoints_total_limit=None, **settings)
    total = 4 if name == "joint" else 20  # all tasks at once are one phase
    for step in (2, 4) if name == "joint" else (10, 8):
        resumed = stopped_at(straight, step, tmp_path / f"from {step}")
        run(train_continual, resumed, resume_from_checkpoint="latest", **settings)
        assert results_but_times(straight) == results_but_times(resumed)
        same_weights(straight, resumed)
        ends = [checkpoint(folder, total) for folder in (straight, resumed)]
        for file in ("model.safetensors", "ema.safetensors"):
            same_weights(*ends, file)
        assert same(*map(state_of, ends))


def test_a_run_goes_on_whatever_the_family_is_called(train_continual, no_pictures, tmp_path):
    """Neither class nor model type is in a checkpoint: those of earlier versions, when they were others, resume."""
    run(train_continual, tmp_path, max_train_steps=1, strategy="si", checkpointing_steps=1)
    path = tmp_path / "checkpoints" / "step-00000001"
    assert {file.name for file in path.iterdir()} == {"manifest.json", "model.safetensors", "state.pt"}
    layers = {name.rpartition(".")[0] for name in load_file(path / "model.safetensors")}
    assert layers == {"backbone.1", "classifier"}
    state = torch.load(path / "state.pt", weights_only=True)
    assert not re.search("hwzoo|Classifier|Continual", (path / "manifest.json").read_text() + repr(state))


@pytest.mark.slow  # tests/reliability kills each recipe
def test_killed_and_resumed_equals_uninterrupted(train_continual, no_pictures, tmp_path):
    """SIGKILL, wherever the run happens to be, with dropout in training and in the Fisher information."""
    settings = {
        "strategy": "ewc", "backbone": "cnn", "num_tasks": 5, "max_train_steps": 60, "checkpointing_steps": 7,
        "fisher_mode": "train", "fisher_estimator": "sampled", "fisher_samples": 40, "eval_steps": 50,
    }  # fmt: skip
    flags = [f"--{name}={value}" for name, value in (SMALL | settings).items() if name != "hidden_sizes"]
    run(train_continual, tmp_path / "straight", **settings, hidden_sizes=[400, 400])
    killed = launch(tmp_path / "killed", *flags)
    wait_for_checkpoint(tmp_path / "killed", killed, after=70)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "model.safetensors").exists()
    settings |= {"hidden_sizes": [400, 400], "resume_from_checkpoint": "latest"}
    run(train_continual, tmp_path / "killed", **settings)
    assert results_but_times(tmp_path / "straight") == results_but_times(tmp_path / "killed")
    same_weights(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.long
def test_two_processes_equal_one(train_continual, no_pictures, tmp_path):
    common = {
        "stream": "permuted", "scenario": "class", "hidden_sizes": [16], "logging_steps": 1, "eval_batch_size": 40,
        "max_train_steps": 10, "num_tasks": 2, "learning_rate": 0.05, "optimizer": "sgd",
    }  # fmt: skip
    strategies = ("balanced", "ewc", "si", "lwf")
    twos = []
    for name in strategies:
        settings = {**common, **STRATEGIES[name], "hidden_sizes": 16, "train_batch_size": 30}
        flags = [f"--{flag}={value}" for flag, value in settings.items()]
        twos.append(TwoProcesses("train_continual", tmp_path / "two" / name, *flags))
    ones = {
        name: run(train_continual, tmp_path / "one" / name, train_batch_size=60, **{**common, **STRATEGIES[name]})
        for name in strategies
    }
    for two in twos:
        two.finish()
    for name, one in ones.items():
        histories = [history(tmp_path / folder / name) for folder in ("one", "two")]
        assert len(histories[0]) == len(histories[1]) == 22
        for first, second in zip(*histories, strict=True):
            assert first == pytest.approx(second, rel=1e-3, abs=0.01), name
            if "loss" in first:
                assert first["loss"] == pytest.approx(second["loss"], rel=1e-4), name
        other = results_but_times(tmp_path / "two" / name)
        for result in ("permutations", "memory_held", "train_steps"):
            assert one[result] == other[result]
        assert one["average_accuracy"] == pytest.approx(other["average_accuracy"], abs=0.01)


def test_a_run_from_a_trained_model_is_not_resumed_under_another_standardisation(
    train_continual, no_pictures, tmp_path
):
    standardisation_is_compared(functools.partial(run, train_continual), tmp_path)


def test_the_schedule_goes_over_all_tasks(train_continual, no_pictures, tmp_path):
    run(train_continual, tmp_path, lr_scheduler="linear", learning_rate=1e-3, checkpointing_steps=4)
    for step, rate in ((4, 5e-4), (8, 0.0)):
        (group,) = state_of(checkpoint(tmp_path, step))["objects"]["optimizer"]["param_groups"]
        assert group["lr"] == pytest.approx(rate)


def test_the_momentum_is_the_one_asked_for(train_continual, no_pictures, tmp_path):
    run(train_continual, tmp_path, optimizer="sgd", momentum=0.5)
    (group,) = state_of(checkpoint(tmp_path, 8))["objects"]["optimizer"]["param_groups"]
    assert group["momentum"] == 0.5
