"""What a run of train_vae.py leaves, and that it can be stopped, killed and shared among processes without a trace."""

import contextlib
import functools
import io
import json
import math
import os
import signal
import sqlite3
import sys
import time
from pathlib import Path

import pytest
import recipe_runs
import torch
from forked import TwoProcesses
from PIL import Image
from recipe_runs import (
    captions_in,
    evaluations,
    history,
    last_of_the_bar,
    load_recipe,
    results_but_times,
    same_weights,
    tiles_of,
    wait_for_checkpoint,
)
from safetensors.torch import load_file
from transformers import AutoModel

from hwzoo import VAEModel
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.training import (
    Checkpoint,
    Checkpoints,
    NonFiniteLoss,
    SweepArguments,
    parse_arguments,
    read_history,
    save_curves,
    sweep,
)

RECIPE = Path(__file__).parents[2] / "recipes" / "train_vae.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {"encoder_hidden_sizes": [16], "decoder_hidden_sizes": [16], "latent_size": 3, "num_mixture_components": 5}
# Everything that a resume has to bring back: EMA, schedules, warm-ups, noise, a mixture, accumulated parts, clipping.
EVERYTHING = """
    --use_ema --lr_scheduler cosine --lr_warmup_steps 5 --kl_warmup_steps 30 --prior mixture --max_grad_norm 50
    --gradient_accumulation_steps 2 --train_batch_size 25 --logging_steps 7 --eval_steps 10 --num_importance_samples 2
    --encoder_hidden_sizes 16 --decoder_hidden_sizes 16 --num_mixture_components 5 --latent_size 3
    --num_test_samples 8
""".split()


TAGS = ("train/loss", "eval/negative_elbo", "test/negative_elbo", "test/samples")


def run(recipe, folder: Path, arguments: dict | None = None, protocol: dict | None = None, **settings) -> dict:
    settings = {"max_train_steps": 20, "output_dir": str(folder), "report_to": ["none"], **settings}
    protocol = {"num_importance_samples": 2, "num_test_samples": 8, **(protocol or {})}
    return recipe.main(recipe.Run(**settings), recipe.Model(**SMALL | (arguments or {})), recipe.Protocol(**protocol))


def test_what_a_run_leaves(train_vae, tmp_path):
    results = run(train_vae, tmp_path)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    names = "negative_elbo reconstruction_loss kl_divergence iwae_2".split()
    numbers = ["train_runtime", "train_steps", "train_samples_per_second", "active_units", "course100_iwae_10"]
    for name in [*numbers, *(f"test_{name}" for name in names), *(f"course100_{name}" for name in names[:3])]:
        assert math.isfinite(results[name]), name
    assert results["train_steps"] == 20
    assert results["test_negative_elbo"] == pytest.approx(
        results["test_reconstruction_loss"] + results["test_kl_divergence"], abs=1e-3
    )
    assert results["protocol"].startswith("digits: all 297 test images; binarisation dynamic")
    assert "the classifier digits of hwzoo" in results["protocol"] and results["classifier"] == "digits"
    assert captions_in(tmp_path) == {
        "samples": "200 samples; vae on digits, seed 0", "reconstructions": "Test images; vae on digits, seed 0",
    }  # fmt: skip
    assert Image.open(tmp_path / "curves.png").width > 500
    model = VAEModel.from_pretrained(tmp_path)
    assert torch.isfinite(AutoModel.from_pretrained(tmp_path).sample(2)).all()
    assert model.config.latent_size == 3
    assert not list(tmp_path.glob(".unfinished*"))


def test_its_samples_are_scored_as_evaluate_generator_does(train_vae, tmp_path):
    results = run(train_vae, tmp_path / "vae", protocol={"num_test_samples": 30}, eval_batch_size=20, seed=3)
    recipe = load_recipe("evaluate_generator")
    settings = {"dataset_name": "digits", "num_samples": 30, "eval_batch_size": 20, "output_dir": str(tmp_path / "s")}
    settings["seed"] = 3
    scores = recipe.main(recipe.Settings(model_name_or_path=str(tmp_path / "vae"), **settings))
    for name in ("test_fid", "test_fid_floor", "test_precision", "test_recall", "test_class_histogram"):
        assert results[name] == scores[name], name


def test_what_a_trained_model_keeps_stands_in_the_preset(train_vae, tmp_path):
    """Also a flag that gives a default changes the loss; the preset of such a run does the same run again."""
    run(train_vae, tmp_path / "a", {"beta": 4.0}, max_train_steps=1)

    def from_it(name, *flags):
        flags = [f"--output_dir={tmp_path / name}", "--max_train_steps=3", "--num_importance_samples=2", *flags]
        own = parse_arguments([train_vae.Run, train_vae.Model, train_vae.Protocol], flags)
        train_vae.main(*own)
        return VAEModel.from_pretrained(tmp_path / name).config, load_file(tmp_path / name / "model.safetensors")

    given = [f"--model_name_or_path={tmp_path / 'a'}", "--report_to=none", "--num_test_samples=8"]
    kept, weights = from_it("b", *given)
    card = " ".join((tmp_path / "b" / "README.md").read_text().split())
    assert "Trained further from `a` on digits for 3 steps" in card
    assert "Trained on digits for 1 steps" in " ".join((tmp_path / "a" / "README.md").read_text().split())
    changed, others = from_it("c", *given, "--beta=1")
    assert (kept.beta, kept.latent_size, changed.beta, changed.latent_size) == (4.0, 3, 1.0, 3)
    assert any(not torch.equal(weights[name], others[name]) for name in weights)
    for name, expected in (("b", weights), ("c", others)):
        _, again = from_it(f"{name}-again", f"--config={tmp_path / name / 'preset.yaml'}")
        assert all(torch.equal(again[each], expected[each]) for each in expected)


def test_a_run_goes_on_from_the_model_that_it_began_from(train_vae, tmp_path):
    """Else its protocol, card and preset would tell another beginning."""
    run(train_vae, tmp_path / "a", max_train_steps=1)
    steps = {"max_train_steps": 2, "checkpointing_steps": 1}
    base = {"model_name_or_path": str(tmp_path / "a")}
    for place, given, other, told in (
        ("from a", base, {}, "model_name_or_path 'a', this one has None"),
        ("from nothing", {}, base, "model_name_or_path None, this one has 'a'"),
    ):
        results = run(train_vae, tmp_path / place, **steps, **given)
        again = {"max_train_steps": 3, "resume_from_checkpoint": "latest"}
        with pytest.raises(UsageError, match=f"is of a run with {told}"):
            run(train_vae, tmp_path / place, **steps | again, **other)
        protocol = run(train_vae, tmp_path / place, **steps | again, **given)["protocol"]
        assert ("trained further from a" in protocol) == (place == "from a") and protocol == results["protocol"]


def test_a_sweep_from_a_trained_model_is_not_done_twice(train_vae, tmp_path):
    run(train_vae, tmp_path / "a", {"beta": 4.0}, max_train_steps=1)
    one = f"model_name_or_path={tmp_path / 'a'} max_train_steps=2 num_importance_samples=2 num_test_samples=8"
    asked = SweepArguments(runs=[one], seeds=[0], output_dir=str(tmp_path / "out"))
    types, calls = [train_vae.Run, train_vae.Model, train_vae.Protocol], []

    def main(*arguments):
        calls.append(arguments)
        return train_vae.main(*arguments)

    first, again = (sweep.run_all(main, types, asked, lambda results: ["test_negative_elbo"]) for _ in range(2))
    assert first == again and len(calls) == 1


def test_a_model_of_grey_pixels_is_not_tested_on_binary_ones(train_vae, tmp_path):
    run(train_vae, tmp_path / "grey", {"likelihood": "gaussian"}, {"binarization": "none"}, max_train_steps=1)
    for steps in (0, 2):
        with pytest.raises(UsageError, match="^--likelihood gaussian is of grey pixels: give --binarization none"):
            run(train_vae, tmp_path / "b", model_name_or_path=str(tmp_path / "grey"), max_train_steps=steps)


def test_a_test_takes_no_batch(train_vae, tmp_path):
    """However few images there are, and whatever a step would take."""
    first = run(train_vae, tmp_path / "a", max_train_steps=1)
    flags = {"model_name_or_path": str(tmp_path / "a"), "max_train_steps": 0, "train_batch_size": 2000}
    assert run(train_vae, tmp_path / "b", **flags)["test_negative_elbo"] == first["test_negative_elbo"]


def test_training_learns(train_vae, tmp_path):
    before = run(train_vae, tmp_path / "a", max_train_steps=1)["test_negative_elbo"]
    after = run(train_vae, tmp_path / "b", max_train_steps=300)["test_negative_elbo"]
    assert after < before - 100


@pytest.mark.long
@pytest.mark.parametrize(
    ("arguments", "protocol"),
    [
        ({"network": "conv", "encoder_hidden_sizes": [4, 8], "decoder_hidden_sizes": [8, 4]}, {"conditional": True}),
        ({"likelihood": "gaussian"}, {"binarization": "none"}),
        ({"variance_parametrization": "exp", "train_importance_samples": 3}, {"binarization": "static"}),
        ({"prior_std": 2.0, "beta": 4.0}, {"num_iwae_images": 50, "binarization": "threshold"}),
    ],
)
def test_every_kind_of_model_trains_and_loads(arguments, protocol, train_vae, tmp_path):
    results = run(train_vae, tmp_path, arguments, protocol)
    model = AutoModel.from_pretrained(tmp_path)
    assert all(getattr(model.config, name) == value for name, value in arguments.items())
    assert model.config.num_classes == 10 * protocol.get("conditional", False)
    assert ("given its class" in results["protocol"]) == protocol.get("conditional", False)
    assert f"binarisation {protocol.get('binarization', 'dynamic')}" in results["protocol"]
    assert f"{protocol.get('num_iwae_images', 297)} of these images" in results["protocol"]


@pytest.mark.parametrize("num_test_images", [3, 30])
def test_few_test_images_are_enough(num_test_images, train_vae, tmp_path):
    for split, num in (("train", 100), ("test", num_test_images)):
        for index in range(num):
            picture = tmp_path / "pictures" / split / f"{index % 2}" / f"{index}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), index % 256).save(picture)
    results = run(train_vae, tmp_path / "run", dataset_name=str(tmp_path / "pictures"))
    assert f"all {num_test_images} test images" in results["protocol"] and "course100" not in results["protocol"]
    assert not any(name.startswith("course100") for name in results)
    assert len(tiles_of(tmp_path / "run" / "reconstructions.png", min(20, num_test_images))) == 3 * num_test_images


def test_evaluations_in_training_are_on_the_images_held_out(train_vae, tmp_path):
    """They see no test image: other test images change the test numbers alone."""
    for name, shade in (("a", 0), ("b", 255)):
        for split, num in (("train", 60), ("test", 10)):
            for index in range(num):
                picture = tmp_path / name / split / f"{index % 2}" / f"{index}.png"
                picture.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (8, 8), index * 4 if split == "train" else shade).save(picture)
    flags = {"validation_share": 0.25, "eval_steps": 10, "train_batch_size": 20}
    a, b = (run(train_vae, tmp_path / f"run_{name}", dataset_name=str(tmp_path / name), **flags) for name in "ab")
    assert a["test_negative_elbo"] != b["test_negative_elbo"]
    watched = [[each for each in history(tmp_path / f"run_{name}") if "eval_negative_elbo" in each] for name in "ab"]
    assert watched[0] and watched[0] == watched[1]
    assert "a (0.25 of its training images, by class with seed 0, held out" in a["protocol"]


@pytest.mark.long
def test_mixed_precision_trains(train_vae, tmp_path):
    in_float = run(train_vae, tmp_path / "a")
    in_bfloat = run(train_vae, tmp_path / "b", mixed_precision="bf16")
    assert in_float["test_negative_elbo"] != in_bfloat["test_negative_elbo"]
    assert in_float["test_negative_elbo"] == pytest.approx(in_bfloat["test_negative_elbo"], rel=0.02)


@pytest.mark.long
def test_accumulated_batches_equal_one_batch(train_vae, tmp_path):
    whole = run(train_vae, tmp_path / "a", train_batch_size=60)
    parts = run(train_vae, tmp_path / "b", train_batch_size=20, gradient_accumulation_steps=3)
    assert whole["test_negative_elbo"] == pytest.approx(parts["test_negative_elbo"], rel=1e-5)


def test_the_average_is_what_is_tested_and_saved(train_vae, tmp_path):
    run(train_vae, tmp_path, use_ema=True)
    checkpoint = tmp_path / "checkpoints" / "step-00000020"
    saved, averaged = load_file(tmp_path / "model.safetensors"), load_file(checkpoint / "ema.safetensors")
    last = load_file(checkpoint / "model.safetensors")
    assert all(torch.equal(saved[name], averaged[f"module.{name}"]) for name in saved)
    assert not any(torch.equal(saved[name], last[name]) for name in saved)


def test_the_seed_decides(train_vae, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(train_vae, tmp_path / name, seed=seed)
    same_weights(tmp_path / "a", tmp_path / "b")
    assert results_but_times(tmp_path / "a") == results_but_times(tmp_path / "b")
    assert results_but_times(tmp_path / "a") != results_but_times(tmp_path / "c")


def test_evaluating_and_logging_leave_the_training_alone(train_vae, tmp_path):
    run(train_vae, tmp_path / "a")
    run(train_vae, tmp_path / "b", eval_steps=3, logging_steps=2, checkpointing_steps=4)
    same_weights(tmp_path / "a", tmp_path / "b")


def test_a_loss_that_is_not_finite_stops_the_run_and_stays_out_of_checkpoints(train_vae, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"is (nan|inf) at step \d+"):
        overflowing = {"variance_parametrization": "exp"}
        run(train_vae, tmp_path, overflowing, learning_rate=100.0, checkpointing_steps=1, max_train_steps=200)
    for path in (tmp_path / "checkpoints").glob("step-*"):
        assert all(tensor.isfinite().all() for tensor in load_file(path / "model.safetensors").values())
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.long
def test_trackers_get_the_log(train_vae, tmp_path, monkeypatch):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    trackers = ["tensorboard", "trackio", "wandb"]
    results = run(train_vae, tmp_path, report_to=trackers, logging_steps=5, eval_steps=10)
    logs = [EventAccumulator(str(events)).Reload() for events in (tmp_path / "logs").rglob("events*")]
    (log,) = [log for log in logs if "train/loss" in log.Tags()["scalars"]]
    records = history(tmp_path)
    for name, tag in (("loss", "train/loss"), ("eval_negative_elbo", "eval/negative_elbo")):
        events = [(event.step, event.value) for event in log.Scalars(tag)]
        assert events == [(each["step"], pytest.approx(each[name])) for each in records if name in each]
        assert [step for step, _ in events] == ([5, 10, 15, 20] if name == "loss" else [10, 20])
    for name, value in results.items():
        if name.startswith("test_") and isinstance(value, int | float):
            (event,) = log.Scalars(f"test/{name.removeprefix('test_')}")
            assert (event.step, event.value) == (20, pytest.approx(value)), name
    assert sorted(log.Tags()["images"]) == ["test/reconstructions", "test/samples"]
    (picture,) = log.Images("test/samples")
    shown = Image.open(io.BytesIO(picture.encoded_image_string)).convert("L")
    assert picture.step == 20 and shown.tobytes() == Image.open(tmp_path / "samples.png").tobytes()
    (rows,) = (tmp_path / "logs").glob("*.db")
    with contextlib.closing(sqlite3.connect(rows)) as database:
        logged = database.execute("select step, metrics from metrics order by id").fetchall()
    steps = {tag: [step for step, metrics in logged if tag in str(metrics)] for tag in TAGS}
    assert list(steps.values()) == [[5, 10, 15, 20], [10, 20], [20], [20]]
    pictures = [Image.open(path).convert("L").tobytes() for path in (tmp_path / "logs").rglob("*.png")]
    assert Image.open(tmp_path / "samples.png").tobytes() in pictures
    (run_file,) = (tmp_path / "logs").rglob("*.wandb")
    deadline = time.monotonic() + 60  # a process of its own writes it
    while not all(tag.encode() in run_file.read_bytes() for tag in TAGS):
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_the_bar_shows_rate_and_distortion_and_evaluations_are_a_line_each(train_vae, tmp_path, capsys):
    run(train_vae, tmp_path, eval_steps=10)
    printed = capsys.readouterr()
    values = [[f"{each[f'eval_{name}']:.4g}" for name in train_vae.BOUNDS] for each in history(tmp_path)
              if "eval_negative_elbo" in each]  # fmt: skip
    assert evaluations(printed.out) == [
        f"{step}: negative evidence lower bound {elbo}, its reconstruction loss {rate}, its KL divergence {kl} "
        "(nats an image)"
        for step, (elbo, rate, kl) in zip((10, 20), values, strict=True)
    ]
    (*_, last) = (record for record in history(tmp_path) if "loss" in record)
    shown = ", loss={loss:.4g}, recon={reconstruction_loss:.4g}, KL={kl_divergence:.4g}]".format(**last)
    assert shown in last_of_the_bar(printed.err)


@pytest.mark.long
def test_the_curves_are_drawn_again_from_the_history(train_vae, tmp_path):
    run(train_vae, tmp_path, logging_steps=5, eval_steps=10)
    again = tmp_path / "again.png"
    save_curves(read_history(tmp_path), again, train_vae.BOUNDS, unit="nats per image")
    assert again.read_bytes() == (tmp_path / "curves.png").read_bytes()
    save_curves(read_history(tmp_path)[:-1], again, train_vae.BOUNDS, unit="nats per image")
    assert again.read_bytes() != (tmp_path / "curves.png").read_bytes()


def test_a_resumed_finished_run_only_tests_and_saves_again(train_vae, tmp_path):
    run(train_vae, tmp_path)
    before = results_but_times(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    run(train_vae, tmp_path, resume_from_checkpoint="latest")
    assert results_but_times(tmp_path) == before
    assert (tmp_path / "model.safetensors").exists()


def test_resume_without_a_checkpoint_starts_anew_and_says_so(train_vae, tmp_path, capsys):
    run(train_vae, tmp_path, resume_from_checkpoint="latest")
    assert "starting from step 0" in capsys.readouterr().out
    assert (tmp_path / "model.safetensors").exists()


@pytest.mark.slow  # tests/reliability kills each recipe
def test_killed_and_resumed_equals_uninterrupted(train_vae, tmp_path):
    """SIGKILL twice, wherever the run happens to be, against one run straight: bit for bit."""
    arguments = [*EVERYTHING, "--max_train_steps=600", "--checkpointing_steps=20"]
    straight = launch(tmp_path / "straight", *arguments)
    assert recipe_runs.finish(straight) and straight.returncode == 0
    step = 0
    for _ in range(2):
        killed = launch(tmp_path / "killed", *arguments, "--resume_from_checkpoint=latest")
        step = int(wait_for_checkpoint(tmp_path / "killed", killed, after=step).name[5:])
        killed.kill()
        killed.communicate()
        assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = launch(tmp_path / "killed", *arguments, "--resume_from_checkpoint=latest")
    out, _ = recipe_runs.finish(resumed)
    assert resumed.returncode == 0 and "resumed from" in out
    same_weights(tmp_path / "straight", tmp_path / "killed")
    assert results_but_times(tmp_path / "straight") == results_but_times(tmp_path / "killed")
    assert (tmp_path / "straight" / "samples.png").read_bytes() == (tmp_path / "killed" / "samples.png").read_bytes()
    last = "checkpoints/step-00000600"
    histories = [Checkpoint(tmp_path / name / last) for name in ("straight", "killed")]
    same_weights(histories[0].path, histories[1].path)


@pytest.mark.slow  # tests/reliability kills each recipe
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_leaves_with_its_status(number, tmp_path):
    process = launch(tmp_path, *EVERYTHING, "--max_train_steps=1000000", "--checkpointing_steps=50")
    saved = int(wait_for_checkpoint(tmp_path, process).name[5:])
    process.send_signal(number)
    _, error = recipe_runs.finish(process)
    assert process.returncode == 128 + number
    assert error.splitlines()[-1].startswith(f"error: stopped by {signal.Signals(number).name} after step")
    assert "Traceback" not in error
    (last,) = sorted((tmp_path / "checkpoints").iterdir())[-1:]
    assert Checkpoint(last).step >= saved


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "group"),
    [
        (signal.SIGTERM, False),
        pytest.param(signal.SIGTERM, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, True, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, False, marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_the_launcher_reaches_the_run(number, group, tmp_path):
    launcher = [str(Path(sys.executable).parent / "accelerate"), "launch"]
    rarely = ["--max_train_steps=1000000", "--checkpointing_steps=1000000", "--eval_steps=1000000"]
    # Steps of about two seconds: the launcher's end must not count as the second signal before the run has saved.
    slow = ["--network=conv", "--encoder_hidden_sizes", "96", "128", "--decoder_hidden_sizes", "128", "96"]
    slow += ["--train_batch_size=1400"]
    process = launch(tmp_path, *rarely, *(slow if group else EVERYTHING), command=launcher)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and "step/s" not in process.stderr.readline():
        pass
    os.killpg(process.pid, number) if group else process.send_signal(number)
    process.wait(timeout=60)
    # Without the frame's help the run would be an orphan now that trains on for a million steps.
    with_nobody_left(process.pid)
    (saved,) = (tmp_path / "checkpoints").iterdir()
    assert Checkpoint(saved).step > 0


def with_nobody_left(group: int):
    """Waits until no process of a group is alive."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise TimeoutError("a process of the run outlived it")


@pytest.mark.long
def test_two_processes_equal_one(train_vae, tmp_path):
    arguments = [
        "--max_train_steps=50", "--logging_steps=1", "--encoder_hidden_sizes=16", "--decoder_hidden_sizes=16",
        "--latent_size=3", "--num_importance_samples=2", "--eval_batch_size=40", "--report_to=tensorboard",
        "--seed=4294967295",
    ]  # fmt: skip
    two = TwoProcesses("train_vae", tmp_path / "two", *arguments, "--train_batch_size=50")
    types = [train_vae.Run, train_vae.Model, train_vae.Protocol]
    train_vae.main(*parse_arguments(types, [f"--output_dir={tmp_path / 'one'}", *arguments]))
    two.finish()
    histories = [history(tmp_path / name) for name in ("one", "two")]
    assert len(histories[0]) == len(histories[1]) == 50
    for first, second in zip(*histories, strict=True):
        assert first["loss"] == pytest.approx(second["loss"], rel=1e-4)
    first, second = results_but_times(tmp_path / "one"), results_but_times(tmp_path / "two")
    for name in ("test_negative_elbo", "test_iwae_2", "active_units", "train_steps"):
        assert first[name] == pytest.approx(second[name], rel=1e-4), name


@pytest.mark.long
def test_processes_that_do_not_know_of_each_other_are_refused(tmp_path):
    error = TwoProcesses("train_vae", tmp_path / "run", on_cpu=False).finish(status=2)
    assert "error: 2 processes were started" in error and "ACCELERATE_USE_CPU=1 torchrun" in error
    assert not (tmp_path / "run").exists()


@pytest.mark.long
def test_a_checkpoint_of_the_first_version_resumes(train_vae, tmp_path):
    """It named fewer of the flags that must agree, and no number of images."""
    run(train_vae, tmp_path / "straight", max_train_steps=20)
    run(train_vae, tmp_path / "old", max_train_steps=10)
    (path,) = (tmp_path / "old" / "checkpoints").glob("step-00000010")
    checkpoint = Checkpoint(path)
    state = torch.load(path / "state.pt", weights_only=True)
    del state["objects"]["batches"]["images"]
    for name in ("learning_rate", "lr_scheduler", "max_grad_norm", "mixed_precision"):
        del checkpoint.identity[name]
    weights = {file.stem: load_file(file) for file in path.glob("*.safetensors")}

    class Saved(dict):
        def state_dict(self):
            return dict(self)

    class Weights(torch.nn.Module):
        def __init__(self, tensors):
            super().__init__()
            self.tensors = tensors

        def state_dict(self):
            return self.tensors

    state["progress"] = {"runtime": 1.0, "history": history(tmp_path / "old"), "window": []}
    (tmp_path / "old" / "history.jsonl").unlink()
    (tmp_path / "old" / ".made.jsonl").unlink()
    objects = {name: Saved(item) for name, item in state["objects"].items()}
    objects |= {name: Weights(tensors) for name, tensors in weights.items()}
    Checkpoints(path.parent).save(10, objects, state["progress"], checkpoint.identity, state["rng"])
    run(train_vae, tmp_path / "old", max_train_steps=20, resume_from_checkpoint="latest")
    same_weights(tmp_path / "straight", tmp_path / "old")
    assert [record["step"] for record in history(tmp_path / "old")] == [10, 20]


def test_the_weight_of_the_divergence_rises_to_beta(train_vae, tmp_path):
    run(train_vae, tmp_path, {"beta": 2.0}, {"kl_warmup_steps": 4}, max_train_steps=6, logging_steps=1)
    records = [record for record in history(tmp_path) if "loss" in record]
    assert len(records) == 6
    for record in records:
        weight = 2 * min(1, record["step"] / 4)
        expected = record["reconstruction_loss"] + weight * record["kl_divergence"]
        assert record["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_importance_weighted_bound_is_of_the_samples_and_images_asked_for(train_vae, tmp_path):
    results = run(train_vae, tmp_path, protocol={"num_importance_samples": 20, "num_iwae_images": 50})
    images = load_images("digits").test.binarized(0).pixel_values(torch.arange(50) * 297 // 50)
    with torch.no_grad():
        model = VAEModel.from_pretrained(tmp_path)
        bound = model.negative_iwae_bound(images, 20, generator=torch.Generator().manual_seed(0))
    assert results["test_iwae_20"] == pytest.approx(bound.item(), rel=1e-5)
