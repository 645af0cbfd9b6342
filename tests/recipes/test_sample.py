"""What sample.py draws, of which model, and what it refuses."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe

from hwzoo import (
    ContinualConfig,
    ContinualForImageClassification,
    GANConfig,
    GANModel,
    VAEConfig,
    VAEModel,
    diffusion,
    hub,
)

RECIPE = Path(__file__).parents[2] / "recipes" / "sample.py"


@pytest.fixture
def recipe():
    return load_recipe("sample")


def save_pipeline(folder, num_classes=0, size=8, image_size=None):
    torch.manual_seed(0)
    settings = {"block_out_channels": [8, 8], "norm_num_groups": 4, "attention": False, "num_classes": num_classes}
    unet = diffusion.build_unet(size, 1, **settings).eval()
    diffusion.save_pipeline(diffusion.make_pipeline(unet, diffusion.train_scheduler(30), image_size), folder)
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


def save_classifier(folder):
    torch.manual_seed(0)
    config = {"image_size": 28, "num_channels": 1, "backbone": "mlp", "hidden_sizes": [8], "num_labels": 10}
    hub.save(ContinualForImageClassification(ContinualConfig(**config)), folder)
    return str(folder)


@pytest.fixture
def sample(recipe, tmp_path):
    """Draws in a folder of its own; gives (results, the images as uint8)."""

    def run(model, folder="samples", **settings):
        settings = {"num_samples": 6, "num_inference_steps": [4], "output_dir": str(tmp_path / folder), **settings}
        results = recipe.main(recipe.Settings(model_name_or_path=model, **settings))
        files = sorted((tmp_path / folder / "images").rglob("*.png"))
        return results["samplers"], np.stack([np.array(Image.open(file)) for file in files])

    return run


def test_what_it_leaves(sample, tmp_path):
    model = save_pipeline(tmp_path / "model")
    (result,), images = sample(model, seed=3, eval_batch_size=4, scheduler=["unipc"])
    assert json.loads((tmp_path / "samples" / "samples.json").read_text())["samplers"] == [result]
    assert (result["scheduler"], result["steps"], result["evaluations"]) == ("unipc", 4, 4) and result["seconds"] > 0
    assert images.shape == (6, 8, 8)
    assert Image.open(tmp_path / "samples" / "samples.png").size == (6 * 10, 10)
    pipeline = diffusion.load_pipeline(model)
    pipeline.scheduler = diffusion.make_scheduler("unipc", pipeline.scheduler.config)
    generator = torch.Generator().manual_seed(3)
    for part in (images[:4], images[4:]):
        drawn = pipeline(batch_size=len(part), generator=generator, num_inference_steps=4, output_type="np").images
        assert np.abs(drawn[..., 0] * 255 - part).max() < 0.6
    assert not (tmp_path / "samples" / "table.md").exists()

    _, again = sample(model, "again", seed=3, eval_batch_size=4, scheduler=["unipc"])
    _, other = sample(model, "other", seed=4, eval_batch_size=4, scheduler=["unipc"])
    assert np.array_equal(images, again) and not np.array_equal(images, other)


def test_every_sampler_stands_in_the_table(sample, tmp_path):
    model, classifier = save_pipeline(tmp_path / "model", size=28), save_classifier(tmp_path / "classifier")
    results, images = sample(
        model, scheduler=["ddim", "dpm_solver"], num_inference_steps=[2, 3], num_samples=12, num_repeats=2,
        dataset_name="digits", classifier=classifier,
    )  # fmt: skip
    assert [(each["scheduler"], each["steps"]) for each in results] == [
        ("ddim", 2), ("ddim", 3), ("dpm_solver", 2), ("dpm_solver", 3),
    ]  # fmt: skip
    assert len(images) == 4 * 12
    for each in results:
        assert each["test_fid"] > each["test_fid_floor"] > 0 and each["num_seeds"] == 2
        assert each["test_fid_standard_error"] > 0 == each["test_fid_floor_standard_error"]
        assert "digits: 12 samples of" in each["protocol"]
    lines = (tmp_path / "samples" / "table.md").read_text().splitlines()
    assert lines[0] == "| scheduler | steps | evaluations | seconds | FID | floor | precision | recall |"
    assert lines[3].startswith("| ddim | 3 | 3 | ") and lines[3].count("±") == 5
    assert len(lines) == 2 + 4 + 2
    names = {path.name for path in (tmp_path / "samples").glob("samples-*.png")}
    assert names == {f"samples-{kind}-{steps}.png" for kind in ("ddim", "dpm_solver") for steps in (2, 3)}


def test_labels_and_guidance_reach_the_pipeline(sample, tmp_path):
    model = save_pipeline(tmp_path / "model", num_classes=3, image_size=6)
    (result,), images = sample(model, labels=[2, 0], guidance_scale=1.5)
    assert result["evaluations"] == 8 and images.shape == (6, 6, 6)
    pipeline = diffusion.load_pipeline(model)
    pipeline.scheduler = diffusion.make_scheduler("dpm_solver", pipeline.scheduler.config)
    call = {"num_inference_steps": 4, "output_type": "np", "guidance_scale": 1.5}
    expected = pipeline([2, 0, 2, 0, 2, 0], generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected[..., 0] * 255 - images).max() < 0.6
    _, spread = sample(model, "spread", guidance_scale=1.5)
    expected = pipeline([0, 0, 1, 1, 2, 2], generator=torch.Generator().manual_seed(0), **call).images
    assert np.abs(expected[..., 0] * 255 - spread).max() < 0.6


def test_any_other_model_of_the_zoo(sample, tmp_path):
    (result,), images = sample(save_vae(tmp_path / "vae"))
    assert result["scheduler"] == "VAEModel" and images.shape == (6, 28, 28)
    gan = save_gan(tmp_path / "gan")
    _, images = sample(gan, "of_gan", labels=[1])
    model = GANModel.from_pretrained(gan)
    expected = model.sample(6, labels=torch.ones(6, dtype=torch.long), generator=torch.Generator().manual_seed(0))
    assert np.abs(expected.detach()[:, 0].numpy() * 255 - images).max() < 0.6


# name: (status, what the line names, the arguments for a folder of the test's own)
CASES = {
    "no model": (2, "--model_name_or_path is missing", lambda tmp: []),
    "model that is not there": (
        2, "nothere: no such folder, and not a Hub id", lambda tmp: [str(tmp / "nothere")],
    ),
    "Hub id without Hub": (1, "nobody/nothing cannot be loaded", lambda tmp: ["nobody/nothing"]),
    "no pipeline": (
        2, "classifier cannot be loaded", lambda tmp: [save_classifier(tmp / "classifier")],
    ),
    "empty folder": (2, "cannot be loaded", lambda tmp: (tmp / "e").mkdir() or [str(tmp / "e")]),
    "unknown scheduler": (
        2, "--scheduler is pndm; it must be one of ddpm, ddim, dpm_solver, unipc",
        lambda tmp: [save_pipeline(tmp / "m"), "--scheduler", "ddim", "pndm"],
    ),
    "steps above T": (
        2, "--num_inference_steps is 31; ", lambda tmp: [save_pipeline(tmp / "m"), "--num_inference_steps", "31"],
    ),
    "no step": (2, "--num_inference_steps is 0; it must be in [1, inf)", lambda tmp: ["--num_inference_steps=0"]),
    "labels of an unconditional pipeline": (
        2, "--labels is given, but", lambda tmp: [save_pipeline(tmp / "m"), "--labels", "1"],
    ),
    "labels of an unconditional model": (
        2, "is unconditional", lambda tmp: [save_vae(tmp / "v"), "--labels", "1"],
    ),
    "label that is no class": (
        2, "--labels has 3; the classes of",
        lambda tmp: [save_pipeline(tmp / "m", num_classes=3), "--labels", "0", "3"],
    ),
    "negative label": (2, "--labels is -1; it must be in [0, inf)", lambda tmp: ["--labels=-1"]),
    "guidance of an unconditional pipeline": (
        2, "has no guidance, give 1", lambda tmp: [save_pipeline(tmp / "m"), "--guidance_scale=2"],
    ),
    "guidance of a GAN": (2, "has no guidance", lambda tmp: [save_gan(tmp / "g"), "--guidance_scale=2"]),
    "data set without classifier": (
        2, "--classifier is not given", lambda tmp: [save_pipeline(tmp / "m"), "--dataset_name=digits"],
    ),
    "images of another size": (
        2, "its samples are 1 x 8 x 8, the images of digits 1 x 28 x 28",
        lambda tmp: [
            save_pipeline(tmp / "m"), "--dataset_name=digits", f"--classifier={save_classifier(tmp / 'c')}",
        ],
    ),
    "more samples than training images": (
        2, "--num_samples is 1501; to be scored it must be in [4, 1500]",
        lambda tmp: [
            save_pipeline(tmp / "m"), "--dataset_name=digits", f"--classifier={save_classifier(tmp / 'c')}",
            "--num_samples=1501",
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_status(name, recipe, command_line, tmp_path):
    status, named, arguments = CASES[name]
    output, given = tmp_path / "output", arguments(tmp_path)
    defaults = [f"--output_dir={output}"] + ([] if "--num_samples=1501" in given else ["--num_samples=5"])
    got, error = command_line(recipe, *given, *defaults)
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert got == status, error
    assert len(lines) == 1 and named in lines[0] and "Traceback" not in error, error
    assert not (output / "samples.json").exists()


def test_samples_are_not_overwritten_unasked(recipe, command_line, tmp_path):
    arguments = [save_vae(tmp_path / "vae"), f"--output_dir={tmp_path / 'o'}", "--num_samples=5"]
    assert command_line(recipe, *arguments)[0] == 0
    status, error = command_line(recipe, *arguments)
    assert status == 2 and "holds samples.json; give --overwrite_output_dir" in error
    assert command_line(recipe, *arguments, "--overwrite_output_dir", "--seed=1")[0] == 0


def test_images_of_an_earlier_call_do_not_stay(sample, tmp_path):
    vae = save_vae(tmp_path / "vae")
    sample(vae, num_samples=9)
    _, images = sample(vae, num_samples=5, overwrite_output_dir=True)
    assert len(images) == 5
