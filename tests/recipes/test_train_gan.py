"""What a run of train_gan.py leaves, and that it goes on at any step as if nothing had been."""

import functools
import io
import json
import math
import os
import signal
from pathlib import Path

import pytest
import recipe_runs
import torch
from forked import by_one_and_by_two
from PIL import Image
from recipe_runs import (
    TORCHRUN,
    as_flags,
    captions_in,
    checkpoint,
    history,
    last_of_the_bar,
    results_but_times,
    run_with,
    same,
    same_run,
    same_weights,
    state_of,
    tiles_of,
    wait_for_checkpoint,
)
from safetensors.torch import load_file
from transformers import AutoModel

from hwzoo import training
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.models.gan.losses_gan import LOSSES
from hwzoo.models.gan.modeling_gan import Discriminator, Generator
from hwzoo.training import Checkpoint, NonFiniteLoss, parse_arguments

RECIPE = Path(__file__).parents[2] / "recipes" / "train_gan.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {
    "latent_size": 4,
    "generator_hidden_size": 12,
    "generator_channels": [8, 4],
    "discriminator_channels": [4, 6],
    "discriminator_hidden_size": 10,
    "train_batch_size": 20,
    "max_train_steps": 6,
    "grid_steps": 2,
    "logging_steps": 2,
    "num_test_samples": 8,
}
# Everything that a resume has to bring back: both schedules, EMA with BatchNorm, singular vectors, the noise of the
# penalty, classes, several discriminator steps of accumulated parts, the pictures so far.
EVERYTHING = {
    "use_ema": True,
    "ema_decay": 0.9,
    "loss": "wasserstein_gp",
    "conditional": True,
    "spectral_norm": True,
    "num_discriminator_steps": 2,
    "gradient_accumulation_steps": 2,
    "discriminator_learning_rate": 2e-3,
    "lr_scheduler": "cosine",
    "lr_warmup_steps": 3,
    "max_grad_norm": 5.0,
    "logging_steps": 4,
}


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Method]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


def flags(**settings) -> list[str]:
    return as_flags(SMALL | settings)


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing them is most of a small run's time."""
    monkeypatch.setattr(training, "save_panels", lambda *args: None)


# What a run leaves


def test_trackers_get_the_pictures_on_the_way_and_the_last_ones(train_gan, no_curves, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    results = run(train_gan, tmp_path, report_to=["tensorboard"])
    logs = [EventAccumulator(str(events)).Reload() for events in (tmp_path / "logs").rglob("events*")]
    (log,) = [log for log in logs if log.Tags()["images"]]
    assert sorted(log.Tags()["images"]) == ["eval/fake", "test/samples"]
    for tag, files in (
        ("eval/fake", {step: f"fake_{step:04}.png" for step in (2, 4, 6)}),
        ("test/samples", {6: "samples.png"}),
    ):
        shown = {each.step: Image.open(io.BytesIO(each.encoded_image_string)).convert("L") for each in log.Images(tag)}
        expected = {step: Image.open(tmp_path / name).tobytes() for step, name in files.items()}
        assert {step: image.tobytes() for step, image in shown.items()} == expected
    assert log.Scalars("test/fid")[0].value == pytest.approx(results["test_fid"])
    assert [each.step for each in log.Scalars("train/generator_loss")] == [2, 4, 6]


def test_what_a_run_leaves(train_gan, tmp_path, capsys):
    results = run(train_gan, tmp_path)
    losses = [history(tmp_path)[-1][f"{network}_loss"] for network in ("discriminator", "generator")]
    shown = ", loss_D={:.4g}, loss_G={:.4g}]".format(*losses)
    assert shown in last_of_the_bar(capsys.readouterr().err)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    assert results["train_steps"] == 6 and results["train_runtime"] > 0
    for words in ("digits", "running statistics of BatchNorm", "unconditional", "last weights", "the last step"):
        assert words in results["protocol"]
    assert Image.open(tmp_path / "curves.png").width > 500
    grids = sorted(path.name for path in tmp_path.glob("fake_*"))
    assert grids == ["fake_0002.png", "fake_0004.png", "fake_0006.png"]
    captions = {f"fake_{step:04}": f"The same latents; gan on digits, seed 0\nstep {step}" for step in (2, 4, 6)}
    assert captions_in(tmp_path) == captions | {"samples": "Samples; gan on digits, seed 0"}
    assert len(tiles_of(tmp_path / "samples.png", 20)) == 200 and len(tiles_of(tmp_path / "fake_0002.png", 10)) == 100
    with Image.open(tmp_path / "training.gif") as animation:
        size = Image.open(tmp_path / "fake_0002.png").size
        assert (animation.n_frames, animation.size, animation.info["loop"]) == (3, size, 0)
    names = {"discriminator_loss", "generator_loss", "accuracy_real", "accuracy_fake"}
    names |= {"discriminator_gradient_norm", "generator_gradient_norm"}
    records = history(tmp_path)
    assert [record.keys() for record in records] == [names | {"step"}] * 3
    assert all(
        math.isfinite(value) and value > 0
        for name in names - {"accuracy_real", "accuracy_fake"}
        for value in [records[0][name]]
    )
    assert all(0 <= record[name] <= 1 for record in records for name in ("accuracy_real", "accuracy_fake"))

    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.latent_size == 4 and model.config.num_classes == 0
    assert model.sample(3).shape == (3, 1, 28, 28)
    assert model.generator.network[1].num_batches_tracked == 2 * 6  # both networks' steps
    card = (tmp_path / "README.md").read_text()
    assert "unconditional" in card and "training.gif" in card and "in 3 pictures, from step 2 to step 6" in card
    again = parse_arguments(types_of(train_gan), [f"--config={tmp_path / 'preset.yaml'}"])
    assert again[0].max_train_steps == 6 and again[1].generator_channels == [8, 4] and again[2].grid_steps == 2
    assert not list(tmp_path.glob(".unfinished*"))


def test_the_grids_show_the_same_latents_and_the_saved_model(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path, conditional=True, seed=3)
    model = AutoModel.from_pretrained(tmp_path)
    expected = model.sample(
        100, labels=torch.arange(10).repeat_interleave(10), generator=torch.Generator().manual_seed(3)
    )
    images = {step: tiles_of(tmp_path / f"fake_{step:04d}.png", 10) for step in (2, 4, 6)}
    assert len(list(tmp_path.glob("fake_*"))) == 3
    assert (images[6] / 255 - expected[:, 0]).abs().max() < 0.51 / 255
    assert not torch.equal(images[4], images[6])


def test_steps_between_evaluations_are_not_read_and_that_is_told(train_gan, no_curves, tmp_path, caplog):
    told = "--eval_steps is not read: this recipe has no evaluations during training"
    run(train_gan, tmp_path / "a", max_train_steps=1)
    assert told not in caplog.messages
    run(train_gan, tmp_path / "b", max_train_steps=1, eval_steps=2)
    assert told in caplog.messages


def test_without_grids_there_is_no_animation(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path, grid_steps=2)
    assert len(list(tmp_path.glob("fake_*"))) == 3 and (tmp_path / "training.gif").exists()
    (tmp_path / "fake_0004.png").write_bytes(b"changed by its owner")
    (tmp_path / "fake_0950.png").write_bytes(b"of its owner")
    run(train_gan, tmp_path, grid_steps=None, overwrite_output_dir=True)
    assert {path.name for path in tmp_path.glob("fake_*")} == {"fake_0004.png", "fake_0950.png"}
    assert not (tmp_path / "training.gif").exists()
    assert "training.gif" not in (tmp_path / "README.md").read_text()


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_the_card_says_what_a_logit_of_0_is(loss, train_gan, no_curves, tmp_path):
    """A constant added to all logits changes neither a Wasserstein nor a relativistic loss."""
    run(train_gan, tmp_path, loss=loss, max_train_steps=1)
    real, fake = torch.tensor([1.0, 3.0]), torch.tensor([-1.0, 2.0])
    moved = LOSSES[loss].discriminator(real - 5, fake - 5)
    zero_counts = not torch.allclose(LOSSES[loss].discriminator(real, fake), moved, atol=1e-5)
    card = (tmp_path / "README.md").read_text()
    assert ("above 0: taken for an image" in card) == zero_counts == ("the more like the data" not in card)


@pytest.mark.long
@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains(loss, conditional, train_gan, no_curves, tmp_path):
    settings = {"loss": loss, "conditional": conditional, "num_discriminator_steps": 2}
    results = run(train_gan, tmp_path, **settings)
    assert ("classes drawn uniformly" if conditional else "unconditional") in results["protocol"]
    record = history(tmp_path)[-1]
    if loss == "wasserstein_gp":
        assert not {"accuracy_real", "accuracy_fake"} & set(record)
        expected = -record["wasserstein_estimate"] + 10 * record["gradient_penalty"]
        assert record["discriminator_loss"] == pytest.approx(expected, rel=1e-4)
        assert 0.5 < record["gradient_penalty"] < 1.5  # of an untrained critic: its slope is near 0
    if loss == "relativistic":
        assert 0 <= record["accuracy_pairs"] <= 1 and 0 <= record["gradient_penalty"] < record["discriminator_loss"]
    assert (record["generator_loss"] > 0) == (loss != "minimax") or loss == "wasserstein_gp"
    model = AutoModel.from_pretrained(tmp_path)
    assert model.config.num_classes == (10 if conditional else 0)
    assert model.sample(3).isfinite().all()


def test_checkpoints_of_earlier_versions_agree_with_the_defaults(train_gan, no_curves, tmp_path):
    """They hold this weight for every loss; another default would refuse to go on with them."""
    run(train_gan, tmp_path)
    (path,) = (tmp_path / "checkpoints").glob("step-*6")
    assert Checkpoint(path).identity["gradient_penalty_weight"] == 10.0


def test_networks_are_built_as_asked(train_gan, no_curves, tmp_path):
    settings = {"spectral_norm": True, "pixel_range": "unit", "discriminator_activation": "relu"}
    run(train_gan, tmp_path, **settings)
    config = AutoModel.from_pretrained(tmp_path).config
    expected = settings | {name: SMALL[name] for name in ("generator_channels", "discriminator_channels")}
    assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.long
def test_a_game_between_the_two_is_played(train_gan, no_curves, tmp_path):
    """The discriminator learns, and the generator against it: its samples are dark and light where digits are."""
    sizes = {"generator_hidden_size": 64, "generator_channels": [16, 16], "discriminator_hidden_size": 32}
    run(train_gan, tmp_path, max_train_steps=150, grid_steps=75, train_batch_size=50, **sizes)
    assert max(record["accuracy_real"] + record["accuracy_fake"] for record in history(tmp_path)) > 1.8
    samples = tiles_of(tmp_path / "fake_0150.png", 10)
    real = load_images("digits").train.pixel_values()
    assert samples.float().mean() / 255 == pytest.approx(real.mean().item(), abs=0.1)
    assert torch.corrcoef(torch.stack([real.mean(0).flatten(), samples.float().mean(0).flatten()]))[0, 1] > 0.8


# Flags of the run


def test_the_averaged_generator_is_tested_and_saved_with_its_statistics(train_gan, no_curves, tmp_path):
    results = run(train_gan, tmp_path, use_ema=True)
    assert "weights averaged with decay 0.999" in results["protocol"]
    last = checkpoint(tmp_path, 6)
    saved, averaged = load_file(tmp_path / "model.safetensors"), load_file(last / "ema.safetensors")
    trained = load_file(last / "model.safetensors")
    assert any("running_var" in name for name in saved)
    for name in saved:
        network, rest = name.split(".", 1)
        assert torch.equal(saved[name], averaged[f"module.{rest}"] if network == "generator" else trained[name]), name
    changed = {name for name in saved if not torch.equal(saved[name], trained[name])}
    floats = {name for name in saved if name.startswith("generator") and "num_batches" not in name}
    assert changed == floats


def test_mixed_precision_trains_and_tests_in_float32(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path / "a", loss="wasserstein_gp")
    run(train_gan, tmp_path / "b", loss="wasserstein_gp", mixed_precision="bf16")
    first, second = history(tmp_path / "a")[-1], history(tmp_path / "b")[-1]
    assert first != second and first == pytest.approx(second, rel=0.1, abs=0.05)
    model = AutoModel.from_pretrained(tmp_path / "b")
    images = tiles_of(tmp_path / "b" / "fake_0006.png", 10)
    expected = model.sample(100, generator=torch.Generator().manual_seed(0))[:, 0]
    assert (images / 255 - expected).abs().max() < 0.51 / 255  # bfloat16 has 256 steps in [0.5, 1] at best


def test_the_discriminator_has_a_learning_rate_of_its_own(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path, learning_rate=1e-3, discriminator_learning_rate=4e-3, adam_beta1=0.1, adam_beta2=0.9)
    objects = state_of(tmp_path, 6)["objects"]
    for name, rate in (("generator", 1e-3), ("discriminator", 4e-3)):
        (group,) = objects[f"{name}_optimizer"]["param_groups"]
        assert group["lr"] == rate and tuple(group["betas"]) == (0.1, 0.9)


def test_several_discriminator_steps_are_counted(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path, num_discriminator_steps=3)
    objects = state_of(tmp_path, 6)["objects"]
    steps = {name: objects[f"{name}_optimizer"]["state"][0]["step"].item() for name in ("generator", "discriminator")}
    assert steps == {"generator": 6, "discriminator": 18}
    for name in steps:  # of the run's steps, however often the discriminator is trained in one
        assert objects[f"{name}_lr_scheduler"]["last_epoch"] == 6
    assert objects["batches"]["epoch"] * 25 + objects["batches"]["batch"] == 6  # of 60 images each


def test_the_limit_of_the_gradient_norm_holds(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path / "a", max_train_steps=1, logging_steps=1)
    run(train_gan, tmp_path / "b", max_train_steps=1, logging_steps=1, max_grad_norm=1e-9, adam_beta1=0.0)
    norms = [history(tmp_path / name)[0]["discriminator_gradient_norm"] for name in ("a", "b")]
    assert norms[0] == norms[1] > 1e-3  # logged as it was
    averages = state_of(tmp_path / "b", 1)["objects"]["discriminator_optimizer"]["state"]
    assert sum(each["exp_avg"].square().sum() for each in averages.values()).sqrt() <= 1.01e-9


def test_watching_leaves_the_training_alone(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path / "a", grid_steps=None)
    run(train_gan, tmp_path / "b", grid_steps=1, logging_steps=1, checkpointing_steps=2)
    same_weights(tmp_path / "a", tmp_path / "b")


@pytest.mark.long
def test_the_seed_decides(train_gan, no_curves, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(train_gan, tmp_path / name, seed=seed)
    same_run(tmp_path / "a", tmp_path / "b", 6)
    assert not same(state_of(tmp_path / "a", 6)["objects"], state_of(tmp_path / "c", 6)["objects"])


def test_a_loss_that_is_not_finite_stops_the_run(train_gan, no_curves, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"is (nan|inf) at step \d+"):
        run(train_gan, tmp_path, learning_rate=1e30, max_train_steps=20)
    assert not (tmp_path / "model.safetensors").exists()


@pytest.mark.long
def test_a_trained_model_goes_on_and_is_tested(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path / "a", conditional=True)
    results = run(train_gan, tmp_path / "b", model_name_or_path=str(tmp_path / "a"), max_train_steps=0)
    same_weights(tmp_path / "a", tmp_path / "b")
    assert "classes drawn uniformly" in results["protocol"]
    assert "Tested on digits without further training" in (tmp_path / "b" / "README.md").read_text()
    run(train_gan, tmp_path / "c", model_name_or_path=str(tmp_path / "a"))
    model = AutoModel.from_pretrained(tmp_path / "c")
    assert model.generator.network[1].num_batches_tracked == 4 * 6  # in training mode again
    run(train_gan, tmp_path / "d")
    with pytest.raises(UsageError, match="it has num_classes 0, the data 10; leave out --conditional$"):
        run(train_gan, tmp_path / "e", conditional=True, model_name_or_path=str(tmp_path / "d"))


# Resume


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_interrupted_and_resumed_equals_uninterrupted(settings, train_gan, no_curves, tmp_path):
    settings = settings | {"max_train_steps": 9}
    run(train_gan, tmp_path / "straight", **settings)
    with recipe_interrupted(train_gan, after=5):
        run(train_gan, tmp_path / "resumed", **settings, checkpointing_steps=3)
    run(train_gan, tmp_path / "resumed", **settings, checkpointing_steps=100, resume_from_checkpoint="latest")
    same_run(tmp_path / "straight", tmp_path / "resumed", 9)


class recipe_interrupted:
    """Within it a run raises after some steps, between two checkpoints."""

    def __init__(self, recipe, after: int):
        self.recipe, self.after = recipe, after

    def __enter__(self):
        self.noise = self.recipe.training.GlobalNoise
        calls = []

        class Noise(self.noise):
            def uniform(noise, *shape, **turns):  # called once a step
                calls.append(shape)
                if len(calls) > self.after:
                    raise KeyboardInterrupt
                return super().uniform(*shape, **turns)

        self.recipe.training.GlobalNoise = Noise

    def __exit__(self, kind, *rest):
        self.recipe.training.GlobalNoise = self.noise
        return kind is KeyboardInterrupt


@pytest.mark.long
def test_a_run_resumed_elsewhere_has_all_pictures(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path / "a", checkpointing_steps=4)
    resumed = {"resume_from_checkpoint": str(checkpoint(tmp_path / "a", 4))}
    run(train_gan, tmp_path / "b", **resumed)
    same_run(tmp_path / "a", tmp_path / "b", 6)
    run(train_gan, tmp_path / "c", **resumed, grid_steps=5)  # they may come at other steps: training goes on alike
    same_weights(tmp_path / "a", tmp_path / "c")
    assert [int(path.stem[5:]) for path in sorted((tmp_path / "c").glob("fake_*.png"))] == [2, 4, 5]


@pytest.mark.slow  # tests/reliability kills each recipe
def test_killed_and_resumed_equals_uninterrupted(train_gan, no_curves, tmp_path):
    """SIGKILL, wherever the run happens to be, against one run straight: bit for bit."""
    settings = EVERYTHING | {"max_train_steps": 60, "checkpointing_steps": 7, "grid_steps": 20}
    arguments = flags(**settings)
    straight = launch(tmp_path / "straight", *arguments)
    killed = launch(tmp_path / "killed", *arguments)
    wait_for_checkpoint(tmp_path / "killed", killed, after=7)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / "model.safetensors").exists()
    resumed = launch(tmp_path / "killed", *arguments, "--resume_from_checkpoint=latest")
    for process in (resumed, straight):
        out, error = recipe_runs.finish(process)
        assert process.returncode == 0, error
    same_run(tmp_path / "straight", tmp_path / "killed", 60)


# Several processes


# A run of which each process leaves the weights that it ended with.
RANKED = """
import os, torch
from recipe_runs import load_recipe
recipe = load_recipe("train_gan")
fit = recipe.training.fit

def watched_fit(run, *arguments, state, **keywords):
    fitted = fit(run, *arguments, state=state, **keywords)
    torch.save(state["model"].state_dict(), f"{run.output_dir}/weights_{os.environ.get('RANK', 0)}.pt")
    return fitted

recipe.training.fit = watched_fit
recipe.training.launch(recipe.main, recipe.Run, recipe.Model, recipe.Method)
"""


@pytest.mark.long
def test_two_processes_equal_one_without_normalisation(train_gan, no_curves, tmp_path):
    """Each turn of the discriminator, and each part of it, is of the same images, classes and noise."""
    settings = SMALL | {"train_batch_size": 40, "max_train_steps": 4, "logging_steps": 1, "generator_norm": "none"}
    settings |= {"num_discriminator_steps": 2, "gradient_accumulation_steps": 2, "conditional": True}
    settings |= {"spectral_norm": True, "use_ema": True}
    one, two = by_one_and_by_two(train_gan, types_of(train_gan), tmp_path, settings)
    for first, second in zip(history(one), history(two), strict=True):
        assert first == pytest.approx(second, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_two_processes_train_one_model(train_gan, settings, tmp_path):
    """Noise and images are those of one batch, gradients are exchanged; only BatchNorm sees its own rows."""
    program, tests = tmp_path / "ranked.py", Path(recipe_runs.__file__).parent
    program.write_text(RANKED)
    path = os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1", "PYTHONPATH": path}
    settings = {**settings, "max_train_steps": 4, "logging_steps": 1}
    arguments = [f"--output_dir={tmp_path / 'two'}", *flags(**settings, train_batch_size=20)]
    process = recipe_runs.start([*TORCHRUN, str(program), *arguments], env=environment)
    run(train_gan, tmp_path / "one", **settings, train_batch_size=40)
    _, error = recipe_runs.finish(process)
    assert process.returncode == 0, error[-3000:]
    first, second = (torch.load(tmp_path / "two" / f"weights_{rank}.pt") for rank in (0, 1))
    own = {name for name in first if not torch.equal(first[name], second[name])}
    assert own == {name for name in first if "running" in name}
    one, two = (results_but_times(tmp_path / name) for name in ("one", "two"))
    assert one.pop("test_fid") == pytest.approx(two.pop("test_fid"), rel=1e-2)  # by statistics of half the images
    assert one == two
    assert same(*(state_of(tmp_path / name, 4)["objects"]["noise"] for name in ("one", "two")))
    records = [history(tmp_path / name)[0] for name in ("one", "two")]
    assert records[0] == pytest.approx(records[1], rel=0.1, abs=0.1)
    assert Image.open(tmp_path / "two" / "training.gif").n_frames == 2


def test_generated_images_are_made_and_judged_with_the_classes_of_the_real_ones(
    train_gan, no_curves, tmp_path, monkeypatch
):
    judged, made, judge, make = [], [], Discriminator.forward, Generator.forward

    def noted(self, latents, labels=None, **more):
        made.extend([] if more else [labels])  # not those of `sample`
        return make(self, latents, labels, **more)

    monkeypatch.setattr(
        Discriminator,
        "forward",
        lambda self, images, labels=None: judged.append(labels) or judge(self, images, labels),
    )
    monkeypatch.setattr(Generator, "forward", noted)
    run(train_gan, tmp_path, conditional=True, max_train_steps=1)
    real, fake = judged[0].chunk(2)
    assert torch.equal(real, fake) and torch.equal(fake, made[0]) and len(real.unique()) > 1
    assert torch.equal(judged[1], made[1])


def test_the_penalty_has_the_weight_asked_for(train_gan, no_curves, tmp_path):
    run(train_gan, tmp_path, loss="wasserstein_gp", gradient_penalty_weight=3.0, max_train_steps=1, logging_steps=1)
    record = history(tmp_path)[0]
    expected = -record["wasserstein_estimate"] + 3 * record["gradient_penalty"]
    assert record["discriminator_loss"] == pytest.approx(expected, rel=1e-4)
