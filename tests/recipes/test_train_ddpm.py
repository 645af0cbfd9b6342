"""What a run of train_ddpm.py leaves, and that it goes on at any step as if nothing had been."""

import functools
import json
import math
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import recipe_runs
import torch
import yaml
from diffusers import DDPMPipeline
from PIL import Image
from recipe_runs import (
    TORCHRUN,
    as_flags,
    captions_in,
    checkpoint,
    evaluations,
    history,
    last_of_the_bar,
    load_recipe,
    results_but_times,
    run_with,
    same,
    same_run,
    same_weights,
    save_classifier,
    state_of,
    tiles_of,
    wait_for_checkpoint,
)
from safetensors.torch import load_file

from hwzoo import diffusion, training
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.training import NonFiniteLoss, parse_arguments

RECIPE = Path(__file__).parents[2] / "recipes" / "train_ddpm.py"
PRESETS = sorted((RECIPE.parent / "configs" / "ddpm").glob("*.yaml"))
UNET = "unet/diffusion_pytorch_model.safetensors"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {
    "block_out_channels": [8, 8],
    "norm_num_groups": 4,
    "attention": False,
    "num_train_timesteps": 30,
    "num_inference_steps": 3,
    "num_bound_images": 4,
    "num_test_samples": 8,
    "num_bound_timesteps": 2,
    "train_batch_size": 10,
    "max_train_steps": 6,
    "eval_steps": 3,
    "logging_steps": 2,
}
# Everything that a resume has to bring back: dropout's generator, hidden labels, accumulated parts, the schedule.
EVERYTHING = {
    "conditional": True,
    "padded_size": 32,
    "dropout": 0.3,
    "loss_weighting": "min_snr",
    "guidance_scale": 2.0,
    "gradient_accumulation_steps": 2,
    "lr_warmup_steps": 3,
    "ema_decay": 0.9,
    "logging_steps": 4,
}


@pytest.fixture
def no_curves(monkeypatch):
    """Drawing them is much of a small run's time."""
    monkeypatch.setattr(training, "save_curves", lambda *args, **kwargs: None)


@pytest.fixture
def small_images(train_ddpm, no_curves, monkeypatch):
    """The middle 12 x 12 pixels of the digits, for speed."""

    def cut(images):
        return replace(images, images=images.images[:, :, 8:20, 8:20].contiguous())

    def load(*args):
        data = load_images(*args)
        return replace(data, train=cut(data.train), test=cut(data.test), known_as=None)

    monkeypatch.setattr(train_ddpm, "load_images", load)


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Method]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


def flags(**settings) -> list[str]:
    return as_flags(SMALL | settings)


# What a run leaves


def test_what_a_run_leaves(train_ddpm, tmp_path, capsys):
    results = run(train_ddpm, tmp_path)
    printed = capsys.readouterr()
    losses = [f"{record['eval_loss']:.4g}" for record in history(tmp_path) if "eval_loss" in record]
    assert evaluations(printed.out) == [
        f"{step}: loss {loss} (mean squared error)" for step, loss in zip((3, 6), losses, strict=True)
    ]
    assert f", loss={history(tmp_path)[-2]['loss']:.4g}, gradient_norm=" in last_of_the_bar(printed.err)
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    assert results["train_steps"] == 6 and results["train_runtime"] > 0
    for words in (
        "digits: 8 samples of this model by", "against all 297 test images",
        "the variational bound on 4 test images", "2 of the 29 terms", "decay 0.995",
        "the last step",
    ):  # fmt: skip
        assert words in results["protocol"]
    parts = [results[f"test_{name}"] for name in ("prior", "denoising", "reconstruction")]
    assert results["test_bits_per_dim"] == pytest.approx(sum(parts)) and 0 < min(parts)
    assert 0 < results["test_bits_per_dim_standard_error"] < results["test_bits_per_dim"]

    names = ("samples", "denoising", "forward_process", "samples_0003", "samples_0006", "denoising_0003")
    captions = captions_in(tmp_path)
    assert captions.keys() == {*names, "denoising_0006"}
    assert captions["forward_process"] == "Forward process; ddpm on digits, seed 0"
    assert captions["denoising_0003"] == "Denoising; ddpm on digits, seed 0\nstep 3"
    shown = {name: tiles_of(tmp_path / f"{name}.png", columns)
             for name, columns in zip(names, (20, 3, 10, 10, 10, 3), strict=True)}  # fmt: skip
    assert [len(tiles) for tiles in shown.values()] == [200, 10 * 3, 10 * 10, 100, 100, 10 * 3]
    assert torch.equal(shown["forward_process"][::10], load_images("digits").test.images[:10, 0])
    assert torch.equal(shown["denoising"][2::3], shown["samples"][::20])  # both end in the same images
    assert Image.open(tmp_path / "curves.png").width > 300
    with Image.open(tmp_path / "reverse.gif") as animation:
        assert animation.n_frames >= 3
    with Image.open(tmp_path / "training_samples.gif") as animation:
        assert animation.n_frames == 2
    records = history(tmp_path)
    assert [record["step"] for record in records] == [2, 3, 4, 6, 6]
    assert [name for record in records for name in record if name.startswith("eval")] == ["eval_loss"] * 2
    assert all(math.isfinite(value) for record in records for value in record.values())

    # diffusers alone loads it, and the same seed gives the picture that was saved.
    pipeline = DDPMPipeline.from_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.py")) == []
    assert pipeline.scheduler.config.num_train_timesteps == 30 and pipeline.unet.config.sample_size == 28
    images = pipeline(batch_size=2, num_inference_steps=3, output_type="np").images
    assert images.shape == (2, 28, 28, 1) and np.isfinite(images).all()
    loaded = diffusion.load_pipeline(str(tmp_path))
    loaded.scheduler = diffusion.make_scheduler("sde_dpm_solver", loaded.scheduler.config)
    expected = loaded(
        batch_size=100, num_inference_steps=3, output_type="pt", generator=torch.Generator().manual_seed(0)
    ).images
    shown = tiles_of(tmp_path / "samples_0006.png", 10)[:, None]
    assert (shown / 255 - expected).abs().max() < 0.51 / 255

    card = (tmp_path / "README.md").read_text()
    for words in ("library_name: diffusers", "DDPMPipeline.from_pretrained", "unconditional", "test_bits_per_dim"):
        assert words in card
    assert "trust_remote_code" not in card
    again = parse_arguments(types_of(train_ddpm), [f"--config={tmp_path / 'preset.yaml'}"])
    assert again[0].max_train_steps == 6 and again[1].block_out_channels == [8, 8]
    assert not again[1].attention and again[2].num_train_timesteps == 30
    assert not list(tmp_path.glob(".unfinished*"))


@pytest.mark.long
def test_a_conditional_padded_model_is_cut_and_scored(train_ddpm, small_images, tmp_path):
    classifier = save_classifier(tmp_path / "classifier", image_size=12)
    scoring = {"classifier": classifier, "num_test_samples": 25, "eval_batch_size": 10}
    results = run(train_ddpm, tmp_path / "run", **EVERYTHING | {"padded_size": 16}, **scoring)
    for words in ("25 samples of this model by sde_dpm_solver, 3 steps, seed 0", "classes drawn uniformly",
                  "guidance scale 2.0", "each given its class"):  # fmt: skip
        assert words in results["protocol"]
    assert results["test_fid"] > results["test_fid_floor"] > 0 and results["classifier"] == "classifier"
    pipeline = diffusion.load_pipeline(str(tmp_path / "run"))
    assert pipeline.num_classes == 10 and pipeline.unet.config.sample_size == 16
    images = pipeline([3, 4], num_inference_steps=2, guidance_scale=1.5, output_type="pt").images
    assert images.shape == (2, 1, 12, 12)
    assert (tmp_path / "run" / "pipeline_class_conditional.py").exists()
    card = (tmp_path / "run" / "README.md").read_text()
    for words in ("trust_remote_code=True", "conditional on one of 10 classes", "padded to 16 x 16", "guidance_scale"):
        assert words in card
    assert card.count("= pipeline([0, 1, 2], guidance_scale=2.0, num_inference_steps=") == 2  # all steps and few


@pytest.mark.long
def test_patches_as_large_as_the_images_are_not_taken_for_pixels(train_ddpm, small_images, tmp_path):
    """12 x 12 of them, of images of 12 x 12 that are padded to 24 x 24: no pipeline of diffusers."""
    run(train_ddpm, tmp_path, padded_size=24, patch_size=2)
    assert diffusion.load_pipeline(str(tmp_path)).unet.config.sample_size == 12
    card = (tmp_path / "README.md").read_text()
    assert "trust_remote_code=True" in card and "DDPMPipeline.from_pretrained" not in card


def test_the_averaged_weights_are_saved(train_ddpm, small_images, tmp_path):
    run(train_ddpm, tmp_path)
    saved = load_file(tmp_path / UNET)
    averaged = load_file(checkpoint(tmp_path, 6) / "ema.safetensors")
    trained = load_file(checkpoint(tmp_path, 6) / "model.safetensors")
    assert all(torch.equal(saved[name], averaged[f"module.{name}"]) for name in saved)
    assert all(not torch.equal(saved[name], trained[name]) for name in saved)
    assert averaged["n_averaged"] == 6


def test_without_averages_the_last_weights_are(train_ddpm, small_images, tmp_path):
    results = run(train_ddpm, tmp_path, use_ema=False, dropout=0.5)
    assert "last weights" in results["protocol"]
    saved, trained = load_file(tmp_path / UNET), load_file(checkpoint(tmp_path, 6) / "model.safetensors")
    assert all(torch.equal(saved[name], trained[name]) for name in saved)


def test_it_learns(train_ddpm, small_images, tmp_path):
    settings = {"prediction_type": "epsilon", "num_train_timesteps": 1000, "block_out_channels": [8, 16]}
    run(train_ddpm, tmp_path, max_train_steps=40, eval_steps=40, logging_steps=10, lr_warmup_steps=5, **settings)
    records = history(tmp_path)
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[0] > 0.3 and losses[-1] < 0.25
    assert records[-1]["eval_loss"] < 0.5


# Flags of the run


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_every_prediction_trains(prediction_type, train_ddpm, small_images, tmp_path):
    settings = {"max_train_steps": 2, "eval_steps": None, "loss_weighting": "min_snr", "beta_schedule": "cosine"}
    results = run(train_ddpm, tmp_path, prediction_type=prediction_type, **settings)
    config = diffusion.load_pipeline(str(tmp_path)).scheduler.config
    assert config.prediction_type == prediction_type and config.beta_schedule == "squaredcos_cap_v2"
    assert math.isfinite(results["test_bits_per_dim"])
    assert not list(tmp_path.glob("*_0*.png")) and not (tmp_path / "training_samples.gif").exists()


def test_flow_matching_is_kept_in_the_pipeline(train_ddpm, small_images, tmp_path):
    settings = {"beta_schedule": "flow_matching", "loss_weighting": "flow_matching", "eval_steps": None}
    results = run(train_ddpm, tmp_path, max_train_steps=2, **settings)
    betas = json.loads((tmp_path / "scheduler" / "scheduler_config.json").read_text())["trained_betas"]
    assert betas == diffusion.train_scheduler(len(betas), "flow_matching").config.trained_betas
    assert math.isfinite(results["test_bits_per_dim"])
    assert "timesteps of the flow matching schedule" in " ".join((tmp_path / "README.md").read_text().split())
    on = run(train_ddpm, tmp_path / "on", max_train_steps=1, model_name_or_path=str(tmp_path), **settings)
    assert math.isfinite(on["test_bits_per_dim"])
    assert diffusion.load_pipeline(str(tmp_path / "on")).scheduler.config.trained_betas == betas


def test_watching_leaves_the_training_alone(train_ddpm, small_images, tmp_path):
    """Also where the network that is tested is the one that is trained, with dropout."""
    settings = {"use_ema": False, "dropout": 0.3, "max_train_steps": 4}
    run(train_ddpm, tmp_path / "a", **settings, eval_steps=None)
    run(train_ddpm, tmp_path / "b", **settings, eval_steps=1, logging_steps=1, checkpointing_steps=2)
    same_weights(tmp_path / "a", tmp_path / "b", UNET)


@pytest.mark.slow  # for the seconds that capturing takes
@pytest.mark.parametrize("mixed_precision", ["no", "bf16"])
def test_compiled_training_is_the_same_training(mixed_precision, train_ddpm, small_images, monkeypatch, tmp_path):
    settings = {"max_train_steps": 3, "eval_steps": None, "mixed_precision": mixed_precision}
    run(train_ddpm, tmp_path / "a", **settings)
    compiled = []

    def compile(module):  # captured and run by torch.compile, without a C++ compiler
        compiled.append(torch._dynamo.optimize("eager")(module))
        return compiled[-1]

    monkeypatch.setattr(torch, "compile", compile)
    run(train_ddpm, tmp_path / "b", **settings, compile=True)
    assert len(compiled) == 1
    first, second = load_file(tmp_path / "a" / UNET), load_file(tmp_path / "b" / UNET)
    assert first.keys() == second.keys()
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)


def test_mixed_precision_trains_and_tests_in_float32(train_ddpm, small_images, tmp_path):
    settings = {"max_train_steps": 3, "eval_steps": 3, "logging_steps": 1}
    run(train_ddpm, tmp_path / "a", **settings)
    run(train_ddpm, tmp_path / "b", **settings, mixed_precision="bf16", use_ema=False)
    first, second = history(tmp_path / "a")[0], history(tmp_path / "b")[0]
    assert first != second and first == pytest.approx(second, rel=0.05)
    pipeline = diffusion.load_pipeline(str(tmp_path / "b"))
    pipeline.scheduler = diffusion.make_scheduler("sde_dpm_solver", pipeline.scheduler.config)
    call = {"batch_size": 100, "num_inference_steps": 3, "output_type": "pt"}
    expected = pipeline(**call, generator=torch.Generator().manual_seed(0)).images
    shown = tiles_of(tmp_path / "b" / "samples_0003.png", 10)[:, None]
    assert (shown / 255 - expected).abs().max() < 0.51 / 255  # bfloat16 has 256 steps in [0.5, 1] at best


def test_a_loss_that_is_not_finite_stops_the_run(train_ddpm, small_images, tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"is (nan|inf) at step \d+"):
        run(train_ddpm, tmp_path, learning_rate=1e30, max_grad_norm=None, lr_warmup_steps=0, max_train_steps=20)
    assert not (tmp_path / UNET).exists()


def test_a_trained_model_goes_on_and_is_tested(train_ddpm, small_images, tmp_path, caplog):
    results = run(train_ddpm, tmp_path / "a", conditional=True, prediction_type="sample")
    given = {"model_name_or_path": str(tmp_path / "a")}
    tested = run(train_ddpm, tmp_path / "b", **given, conditional=True, max_train_steps=0)
    same_weights(tmp_path / "a", tmp_path / "b", UNET)
    assert tested["test_bits_per_dim"] == results["test_bits_per_dim"]  # by its own kind of prediction
    assert "Tested on digits without further training" in (tmp_path / "b" / "README.md").read_text()
    with pytest.raises(UsageError, match="its UNet has num_class_embeds 11, this run's None"):
        run(train_ddpm, tmp_path / "c", **given)
    # What is asked for and differs is told; the preset has what was asked, as a sweep looks for it.
    other = {"patch_size": 2, "padded_size": 16, "prediction_type": "epsilon"}
    run(train_ddpm, tmp_path / "d", **given, conditional=True, **other, max_train_steps=0)
    preset = yaml.safe_load((tmp_path / "d" / "preset.yaml").read_text())
    assert other.items() <= preset.items()
    told = "padded_size None (not 16), patch_size 1 (not 2), prediction_type sample (not epsilon)"
    assert f"{tmp_path / 'a'} keeps its own {told}" in caplog.messages


def test_a_run_from_a_trained_model_is_not_resumed_under_another_schedule(train_ddpm, small_images, tmp_path):
    """Which its flags would build where they do not name the model, whose weights are in the checkpoint."""
    run(train_ddpm, tmp_path / "a", beta_schedule="cosine", prediction_type="epsilon")
    settings = {"checkpointing_steps": 1, "max_train_steps": 2}
    run(train_ddpm, tmp_path / "b", model_name_or_path=str(tmp_path / "a"), **settings)
    with pytest.raises(UsageError, match="is of a run with trained_as .*squaredcos_cap_v2.*, this one has .*linear"):
        run(train_ddpm, tmp_path / "b", resume_from_checkpoint="latest", **settings | {"max_train_steps": 3})


# Resume


@pytest.mark.long
@pytest.mark.parametrize("settings", [{}, EVERYTHING], ids=["plain", "everything"])
def test_interrupted_and_resumed_equals_uninterrupted(settings, train_ddpm, small_images, monkeypatch, tmp_path):
    settings = settings | {"max_train_steps": 7}
    settings |= {"padded_size": 16, "patch_size": 2} if "padded_size" in settings else {}
    run(train_ddpm, tmp_path / "straight", **settings)
    noise, calls = training.GlobalNoise, []

    class Noise(noise):
        def integers(noise, *shape):  # called once a step
            calls.append(shape)
            if len(calls) > 5:
                raise KeyboardInterrupt
            return super().integers(*shape)

    monkeypatch.setattr(training, "GlobalNoise", Noise)
    with pytest.raises(KeyboardInterrupt):
        run(train_ddpm, tmp_path / "resumed", **settings, checkpointing_steps=2)
    monkeypatch.setattr(training, "GlobalNoise", noise)
    assert checkpoint(tmp_path / "resumed", 4).exists() and not (tmp_path / "resumed" / UNET).exists()
    run(train_ddpm, tmp_path / "resumed", **settings, checkpointing_steps=100, resume_from_checkpoint="latest")
    same_run(tmp_path / "straight", tmp_path / "resumed", 7, UNET)


@pytest.mark.slow
def test_killed_and_resumed_equals_uninterrupted(tmp_path):
    """SIGKILL, wherever the run happens to be, against one run straight: bit for bit."""
    arguments = flags(**EVERYTHING, max_train_steps=40, checkpointing_steps=7, eval_steps=20)
    straight = launch(tmp_path / "straight", *arguments)
    killed = launch(tmp_path / "killed", *arguments)
    wait_for_checkpoint(tmp_path / "killed", killed, after=7)
    killed.kill()
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL and not (tmp_path / "killed" / UNET).exists()
    resumed = launch(tmp_path / "killed", *arguments, "--resume_from_checkpoint=latest")
    for process in (resumed, straight):
        _, error = recipe_runs.finish(process, 400)
        assert process.returncode == 0, error
    same_run(tmp_path / "straight", tmp_path / "killed", 40, UNET)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, EVERYTHING | {"dropout": 0.0}], ids=["plain", "everything"])
def test_two_processes_train_as_one(settings, tmp_path):
    """Timesteps, noise and hidden labels are those of one batch: the losses differ by rounding, enlarged by Adam."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "1"}
    settings = {**settings, "max_train_steps": 4, "logging_steps": 1}
    for name, size, command in (("two", 6, TORCHRUN), ("one", 12, [sys.executable])):
        arguments = flags(**settings, train_batch_size=size)
        process = launch(tmp_path / name, *arguments, command=command, env=environment)
        _, error = recipe_runs.finish(process, 400)
        assert process.returncode == 0, error[-3000:]
    assert same(*(state_of(tmp_path / name, 4)["objects"]["noise"] for name in ("one", "two")))
    for first, second in zip(*(history(tmp_path / name) for name in ("one", "two")), strict=True):
        assert first == pytest.approx(second, rel=2e-3)
    first, second = (results_but_times(tmp_path / name) for name in ("one", "two"))
    assert first["test_bits_per_dim"] == pytest.approx(second["test_bits_per_dim"], rel=1e-2)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"prediction_type": "epsilon"}, "prediction_type 'v_prediction', this one has 'epsilon'"),
        ({"beta_schedule": "cosine"}, "beta_schedule 'linear', this one has 'cosine'"),
        ({"ema_decay": 0.5}, "ema_decay 0.995, this one has 0.5"),
        ({"block_out_channels": [8, 16]}, r"block_out_channels \[8, 8\], this one has \[8, 16\]"),
    ],
)
def test_resume_from_another_run_is_refused(changed, named, first_run, train_ddpm, tmp_path):
    where = checkpoint(first_run, 1)
    with pytest.raises(UsageError, match=f"--resume_from_checkpoint {where}: it is of a run with {named}"):
        run(train_ddpm, tmp_path, max_train_steps=1, resume_from_checkpoint=str(where), **changed)


@pytest.fixture(scope="module")
def first_run(tmp_path_factory):
    """What a run of one step left."""
    folder = tmp_path_factory.mktemp("ddpm") / "run"
    run(load_recipe("train_ddpm"), folder, max_train_steps=1)
    return folder


# Presets


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_every_preset_parses(path, train_ddpm):
    settings = parse_arguments(types_of(train_ddpm), [f"--config={path}"])
    assert settings[0].output_dir == f"outputs/ddpm-{path.stem.replace('_', '-')}"
    assert f"--config recipes/configs/ddpm/{path.name}" in path.read_text().replace("\n# ", " ")


def test_the_presets_are_the_ones_that_are_told_of():
    assert [path.stem for path in PRESETS] == ["conditional", "digits", "fashion_cpu", "ift6135", "mnist_cpu"]
