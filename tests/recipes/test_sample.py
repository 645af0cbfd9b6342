"""What sample.py draws, of which model, and what it refuses."""

import json
import math
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from recipe_runs import captions_in, load_recipe, save_classifier, tiles_of
from safetensors.torch import load_file, save_file

from hwzoo import (
    FlowConfig,
    FlowModel,
    GANConfig,
    GANModel,
    VAEConfig,
    VAEModel,
    VQVAEConfig,
    VQVAEModel,
    diffusion,
    generators,
    hub,
)
from hwzoo.errors import HwzooError

RECIPE = Path(__file__).parents[2] / "recipes" / "sample.py"


@pytest.fixture
def recipe():
    return load_recipe("sample")


def save_pipeline(folder, num_classes=0, size=8, image_size=None):
    torch.manual_seed(0)
    settings = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention": False, "num_classes": num_classes}
    unet = diffusion.build_unet(size, 1, **settings).eval()
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30), image_size), folder)
    return str(folder)


def save_gan(folder, num_classes=3):
    torch.manual_seed(0)
    sizes = {"generator_hidden_size": 4, "generator_channels": [4, 4], "discriminator_hidden_size": 4}
    hub.save(GANModel(GANConfig(num_classes=num_classes, **sizes)), folder)
    return str(folder)


def save_vae(folder):
    torch.manual_seed(0)
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8], latent_size=2)), folder)
    return str(folder)


def save_vqvae(folder):
    hub.save(VQVAEModel(VQVAEConfig(prior="uniform", hidden_sizes=[4, 4], codebook_size=4, code_size=2)), folder)
    return str(folder)


@pytest.fixture
def sample(recipe, tmp_path):
    """Draws in a folder of its own; gives (results, the images as uint8)."""

    def run(model, folder="samples", **settings):
        steps = {"num_inference_steps": 4} if (Path(model) / "model_index.json").exists() else {}
        settings = {"num_samples": 6, "output_dir": str(tmp_path / folder)} | steps | settings
        results = recipe.main(recipe.Settings(model_name_or_path=model, **settings))
        files = sorted((tmp_path / folder / "images").glob("*.png"))
        return results, np.stack([np.array(Image.open(file)) for file in files])

    return run


def test_what_it_leaves(sample, tmp_path):
    model = save_pipeline(tmp_path / "model")
    settings = {"seed": 3, "eval_batch_size": 4, "scheduler": "unipc", "spacing": "linspace"}
    results, images = sample(model, **settings)
    assert json.loads((tmp_path / "samples" / "samples.json").read_text()) == results
    assert (results["scheduler"], results["num_inference_steps"], results["seed"]) == ("unipc", 4, 3)
    assert results["seconds"] > 0 and images.shape == (6, 8, 8)
    assert np.array_equal(tiles_of(tmp_path / "samples" / "samples.png", columns=6), images)
    sampler = "scheduler unipc, spacing linspace, num inference steps 4, guidance scale 1.0"
    caption = f"model {model}, {sampler}, num samples 6, seed 3; 6 shown"
    assert captions_in(tmp_path / "samples") == {"samples": caption}
    pipeline = diffusion.load_pipeline(model)
    pipeline.scheduler = diffusion.make_scheduler("unipc", pipeline.scheduler.config, "linspace")
    generator = torch.Generator().manual_seed(3)
    for part in (images[:4], images[4:]):
        drawn = pipeline(batch_size=len(part), generator=generator, num_inference_steps=4, output_type="np").images
        assert np.abs(drawn[..., 0] * 255 - part).max() < 0.6

    _, again = sample(model, "again", **settings)
    _, other = sample(model, "other", **settings | {"seed": 4})
    assert np.array_equal(images, again) and not np.array_equal(images, other)


def test_the_picture_of_many_shows_each_class(sample, tmp_path):
    _, images = sample(save_gan(tmp_path / "gan", num_classes=3), num_samples=600)
    shown = tiles_of(tmp_path / "samples" / "samples.png", columns=20)
    assert np.array_equal(shown, images[::3])
    assert captions_in(tmp_path / "samples")["samples"].endswith("num samples 600, seed 0; 200 shown")

    _, images = sample(str(tmp_path / "gan"), "chosen", labels=[0, 2, 1], num_samples=600)  # over and over
    shown = tiles_of(tmp_path / "chosen" / "samples.png", columns=20)
    by_class = sorted(range(600), key=lambda index: ([0, 2, 1][index % 3], index))
    indices = sorted(by_class[::3])
    assert Counter(index % 3 for index in indices) == {0: 67, 2: 67, 1: 66}
    assert np.array_equal(shown, images[indices])


@pytest.mark.parametrize(("scheduler", "steps"), [("ddpm", 30), ("sde_dpm_solver", 25), ("unipc", 25)])
def test_steps_that_are_not_given(scheduler, steps, sample, tmp_path):
    """DDPM is only good with all of its timesteps."""
    results, _ = sample(
        save_pipeline(tmp_path / "model"), scheduler=scheduler, num_inference_steps=None, num_samples=1
    )
    assert results["num_inference_steps"] == steps


def save_foreign(folder, scheduler, channels=1, size=8):
    """As somebody else saves a pipeline with diffusers alone."""
    torch.manual_seed(0)
    unet = diffusers.UNet2DModel(
        sample_size=size, in_channels=channels, out_channels=channels, layers_per_block=1, block_out_channels=(4, 4),
        down_block_types=["DownBlock2D"] * 2, up_block_types=["UpBlock2D"] * 2, norm_num_groups=2,
        attention_head_dim=2,
    )  # fmt: skip
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return str(folder)


def test_a_pipeline_samples_as_it_was_saved_unless_a_flag_says_otherwise(sample, tmp_path):
    scheduler = diffusers.EulerDiscreteScheduler(num_train_timesteps=100)
    model = save_foreign(tmp_path / "euler", scheduler, channels=3)
    results, images = sample(model)
    assert results["scheduler"] == "EulerDiscreteScheduler" and images.shape == (6, 8, 8, 3)
    pipeline = diffusion.load_pipeline(model)
    call = {"batch_size": 6, "num_inference_steps": 4, "output_type": "np"}
    expected = pipeline(generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected * 255 - images).max() < 0.6
    results, other = sample(model, "asked", scheduler="ddim")
    assert results["scheduler"] == "ddim" and not np.array_equal(images, other)


def test_a_trained_pipeline_takes_all_steps_of_its_own_ddpm_and_says_how_to_be_quick(sample, tmp_path, capsys):
    model = save_pipeline(tmp_path / "ddpm")
    results, images = sample(model, num_inference_steps=None)
    assert (results["scheduler"], results["num_inference_steps"]) == ("DDPMScheduler", 30)
    told = "sampler: DDPMScheduler, as it was saved, 30 steps; --scheduler sde_dpm_solver takes 25\n"
    assert told in capsys.readouterr().out
    pipeline = diffusion.load_pipeline(model)
    call = {"batch_size": 6, "num_inference_steps": 30, "output_type": "np"}
    expected = pipeline(generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected[..., 0] * 255 - images).max() < 0.6
    results, _ = sample(model, "quick", scheduler="sde_dpm_solver", num_inference_steps=None)
    assert (results["scheduler"], results["num_inference_steps"]) == ("sde_dpm_solver", 25)
    assert "sampler: sde_dpm_solver, 25 steps\n" in capsys.readouterr().out


def test_labels_and_guidance_reach_the_pipeline(sample, tmp_path):
    model = save_pipeline(tmp_path / "model", num_classes=3, image_size=6)
    fast = {"guidance_scale": 1.5, "scheduler": "sde_dpm_solver"}
    results, images = sample(model, labels=[2, 0], **fast)
    assert results["guidance_scale"] == 1.5 and results["labels"] == [2, 0] and images.shape == (6, 6, 6)
    pipeline = diffusion.load_pipeline(model)
    pipeline.scheduler = diffusion.make_scheduler("sde_dpm_solver", pipeline.scheduler.config)
    call = {"num_inference_steps": 4, "output_type": "np", "guidance_scale": 1.5}
    expected = pipeline([2, 0, 2, 0, 2, 0], generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected[..., 0] * 255 - images).max() < 0.6
    _, spread = sample(model, "spread", **fast)
    expected = pipeline([0, 0, 1, 1, 2, 2], generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected[..., 0] * 255 - spread).max() < 0.6
    for number, known in enumerate(("0.1", "[0]", "none", "{")):  # the others are no preset of ours
        Path(model, "preset.yaml").write_text(f"label_dropout: {known}\n")
        sample(model, f"known-{number}", **fast)
    Path(model, "preset.yaml").write_text("label_dropout: 0.0\n")
    with pytest.raises(
        HwzooError, match=r"^--guidance_scale is 1\.5; .*model was trained with --label_dropout 0, give 1$"
    ):
        sample(model, "unknown", **fast)


def test_any_other_model_of_the_zoo(sample, tmp_path):
    results, images = sample(save_vae(tmp_path / "vae"))
    assert "scheduler" not in results and images.shape == (6, 28, 28)
    gan = save_gan(tmp_path / "gan")
    results, images = sample(gan, "of_gan", labels=[1])
    assert results["labels"] == [1]
    assert "labels [1], num samples 6" in captions_in(tmp_path / "of_gan")["samples"]
    model = GANModel.from_pretrained(gan)
    expected = model.sample(6, labels=torch.ones(6, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert np.abs(expected.detach()[:, 0].numpy() * 255 - images).max() < 0.6


def test_the_temperature_is_the_models(sample, tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 4, "num_steps": 1, "num_hidden_layers": 1}
    hub.save(FlowModel(FlowConfig(image_size=8, **sizes)), tmp_path / "flow")
    model = FlowModel.from_pretrained(tmp_path / "flow").eval()
    for temperature in (0.5, None):
        results, images = sample(str(tmp_path / "flow"), str(temperature), temperature=temperature)
        given = {} if temperature is None else {"temperature": temperature}
        expected = model.sample(6, generator=torch.Generator().manual_seed(0), **given)
        assert np.abs(expected.detach()[:, 0].numpy() * 255 - images).max() < 0.6
        assert {name: results[name] for name in results if name == "temperature"} == given


# name: (status, what the line names, the arguments for a folder of the test's own)
CASES = {
    "no name of a model": (2, "--model_name_or_path is ''; it must", lambda tmp: ["--model_name_or_path="]),
    "no model": (2, "--model_name_or_path is missing", lambda tmp: []),
    "model that is not there": (
        2, "nothere: no such folder, and not a Hub id", lambda tmp: [str(tmp / "nothere")],
    ),
    "run without its end": (
        2, "run: a run that was stopped has no model yet; its command with --resume_from_checkpoint latest",
        lambda tmp: (tmp / "run" / "checkpoints").mkdir(parents=True) or [str(tmp / "run")],
    ),
    "Hub id without Hub": (1, "nobody/nothing cannot be loaded", lambda tmp: ["nobody/nothing"]),
    "no pipeline": (
        2, "ForImageClassification has no `sample`", lambda tmp: [save_classifier(tmp / "classifier")],
    ),
    "empty folder": (2, "cannot be loaded", lambda tmp: (tmp / "e").mkdir() or [str(tmp / "e")]),
    "unknown scheduler": (
        2, "--scheduler: invalid choice: 'pndm' (choose from", lambda tmp: ["--scheduler=pndm"],
    ),
    "spacing that the scheduler does not know": (
        2, "--spacing is lu; for unipc it must be one of karras, trailing, leading, linspace",
        lambda tmp: [save_pipeline(tmp / "m"), "--scheduler=unipc", "--spacing=lu"],
    ),
    "spacing without a scheduler": (
        2, "--spacing is lu without --scheduler", lambda tmp: [save_pipeline(tmp / "m"), "--spacing=lu"],
    ),
    "steps above T": (
        2, "--num_inference_steps is 31; ", lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps", "31"],
    ),
    "steps of no width": (
        2, "--num_inference_steps is 30; by leading spacing",
        lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps=30", "--scheduler=unipc", "--spacing=leading"],
    ),
    "sampler of a VAE": (
        2, "v is no pipeline of diffusers, leave it out", lambda tmp: [save_vae(tmp / "v"), "--scheduler=ddim"],
    ),
    "spacing of a VAE": (2, "--spacing is lu; ", lambda tmp: [save_vae(tmp / "v"), "--spacing=lu"]),
    "steps of a VAE": (2, "--num_inference_steps is 7;", lambda tmp: [save_vae(tmp / "v"), "--num_inference_steps=7"]),
    "no step": (2, "--num_inference_steps is 0; it must be in [1, inf)", lambda tmp: ["--num_inference_steps=0"]),
    "more steps than LCM takes": (
        2, "--num_inference_steps is 6; the LCMScheduler of",
        lambda tmp: [
            save_foreign(tmp / "m", diffusers.LCMScheduler(25, original_inference_steps=5)), "--num_inference_steps=6",
        ],
    ),
    "fewer steps than PNDM takes": (
        2, "m takes at least 4",
        lambda tmp: [save_foreign(tmp / "m", diffusers.PNDMScheduler(25)), "--num_inference_steps=3"],
    ),
    "network that does not say how large its images are": (
        2, "m: its UNet has sample_size None; it must be",
        lambda tmp: [save_foreign(tmp / "m", diffusers.DDPMScheduler(25), size=None)],
    ),
    "labels of an unconditional pipeline": (
        2, "m has no classes", lambda tmp: [save_pipeline(tmp / "m"), "--labels", "1"],
    ),
    "labels of an unconditional model": (
        2, "--labels has 1; ", lambda tmp: [save_vae(tmp / "v"), "--labels", "1"],
    ),
    "label that is no class": (
        2, "--labels has 3; the classes of",
        lambda tmp: [save_pipeline(tmp / "m", num_classes=3), "--labels", "0", "3"],
    ),
    "negative label": (2, "--labels is -1; it must be in [0, inf)", lambda tmp: ["--labels=-1"]),
    "guidance of an unconditional pipeline": (
        2, "m is no conditional pipeline, give 1", lambda tmp: [save_pipeline(tmp / "m"), "--guidance_scale=2"],
    ),
    "temperature of a GAN": (
        2, "--temperature is 0.7; ", lambda tmp: [save_gan(tmp / "g"), "--temperature=0.7"],
    ),
    "temperature of a pipeline": (
        2, "m has none, leave it out", lambda tmp: [save_pipeline(tmp / "m"), "--temperature=0.7"],
    ),
    "temperature of a uniform prior": (
        2, "v has none, leave it out", lambda tmp: [save_vqvae(tmp / "v"), "--temperature=0.7"],
    ),
    "temperature 0": (2, "--temperature is 0.0; it must be in (0, inf)", lambda tmp: ["--temperature=0"]),
    "guidance of a GAN": (2, "g is no conditional pipeline", lambda tmp: [save_gan(tmp / "g"), "--guidance_scale=2"]),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status(name, recipe, command_line, tmp_path):
    status, named, arguments = CASES[name]
    output, given = tmp_path / "output", arguments(tmp_path)
    got, error = command_line(recipe, *given, f"--output_dir={output}", "--num_samples=5")
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert got == status, error
    assert len(lines) == 1 and named in lines[0] and "Traceback" not in error, error
    assert not (output / "samples.json").exists()


def test_samples_that_are_not_finite_are_told():
    def sample(model, num, labels, generator):
        return torch.tensor([0.5, math.nan])[torch.arange(num) % 2].view(num, 1, 1, 1)

    with pytest.raises(HwzooError, match="2 of the 5 samples are not finite"):
        generators.draw(SimpleNamespace(sample=sample), None, 5, None, seed=0, batch_size=5)


def test_samples_are_not_overwritten_unasked(recipe, command_line, tmp_path):
    arguments = [save_vae(tmp_path / "vae"), f"--output_dir={tmp_path / 'o'}", "--num_samples=5"]
    assert command_line(recipe, *arguments)[0] == 0
    status, error = command_line(recipe, *arguments)
    assert status == 2 and "is not empty; give --overwrite_output_dir" in error
    assert command_line(recipe, *arguments, "--overwrite_output_dir", "--seed=1")[0] == 0
    # A model is no file of an earlier call.
    beside = arguments[0], f"--output_dir={tmp_path / 'vae'}", "--num_samples=5", "--overwrite_output_dir"
    status, error = command_line(recipe, *beside)
    assert status == 2 and "vae holds a trained model or checkpoints, which stay; give another folder" in error


def test_images_of_an_earlier_call_do_not_stay(sample, tmp_path):
    vae = save_vae(tmp_path / "vae")
    sample(vae, num_samples=9)
    _, images = sample(vae, num_samples=5, overwrite_output_dir=True)
    assert len(images) == 5


@pytest.mark.parametrize(("save", "weights"), [(save_vae, "model"), (save_pipeline, "unet/diffusion_pytorch_model")])
@pytest.mark.parametrize("name", ["sample", "evaluate_generator"])
def test_weights_that_are_not_finite_are_refused(name, save, weights, command_line, tmp_path):
    path = Path(save(tmp_path / "model")) / f"{weights}.safetensors"
    tensors = load_file(path)
    first = sorted(tensors)[0]
    tensors[first].view(-1)[0] = float("nan")
    save_file(tensors, path, {"format": "pt"})
    more = ["--dataset_name=digits", f"--classifier={save_classifier(tmp_path / 'classifier')}"]
    arguments = [f"--model_name_or_path={tmp_path / 'model'}", f"--output_dir={tmp_path / 'run'}"]
    told = command_line(load_recipe(name), *arguments, *(more if name == "evaluate_generator" else []))
    assert told == (1, f"error: {path}: the weights {first} are not finite\n")
    assert not (tmp_path / "run").exists()
