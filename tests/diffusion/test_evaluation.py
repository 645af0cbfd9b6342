"""What a model is tested and shown by, and where it comes from: padded, conditional or not."""

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMScheduler

from hwzoo import diffusion, hub
from hwzoo.diffusion import comparison
from hwzoo.errors import UsageError

SETTINGS = {"scheduler": "ddpm", "num_inference_steps": 5, "guidance_scale": 2.0, "num_bound_timesteps": 3}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def evaluation_of(unet, image_size=8, batch_size=4, patch_size=1, **settings):
    settings = SimpleNamespace(**SETTINGS | settings)
    return diffusion.Evaluation(unet, diffusion.train_scheduler(30), image_size, settings, 7, batch_size, patch_size)


def test_images_are_padded_with_black_on_all_sides():
    images = torch.tensor([[0.0, 0.25], [0.5, 1.0]]).view(1, 1, 2, 2)
    assert diffusion.clean_images(images, 2).flatten().tolist() == [-1, -0.5, 0, 1]
    padded = diffusion.clean_images(images, 5)[0, 0]
    assert torch.equal(padded[1:3, 1:3], torch.tensor([[-1, -0.5], [0, 1]]))  # one before, two after
    assert padded.sum().item() == -0.5 - (25 - 4)


def test_patches_are_channels_and_become_pixels_again():
    """As in torch.nn.PixelUnshuffle: the place of the four pixels of a patch is their channel."""
    images = torch.arange(2 * 3 * 4 * 4).view(2, 3, 4, 4) / 96
    clean = diffusion.clean_images(images, 6, 2)
    assert clean.shape == (2, 12, 3, 3) and torch.equal(clean[0, :4, 1, 1], 2 * images[0, 0, 1:3, 1:3].flatten() - 1)
    unet = diffusion.build_unet(4, 3, block_out_channels=[8], norm_num_groups=4, padded_size=6, patch_size=2)
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.out_channels) == (3, 12, 12)
    pipeline = diffusion.make_pipeline(unet, diffusion.train_scheduler(30), 4, 2)
    assert pipeline.image_shape == (3, 4, 4)
    torch.testing.assert_close(pipeline.to_pixel_values(clean), images)
    assert pipeline(batch_size=2, num_inference_steps=2, output_type="pt").images.shape == (2, 3, 4, 4)


def test_a_network_of_patches_has_the_bound_of_the_whole_image(tiny_unet):
    """Where it predicts no noise, the terms are those of a network of pixels that does the same: in bits a pixel."""
    terms = {}
    for patch in (1, 2):
        unet = tiny_unet(sample_size=8, patch_size=patch)
        unet.forward = lambda x, *args, **kwargs: (torch.zeros_like(x),)
        evaluation = evaluation_of(unet, num_bound_timesteps=29, patch_size=patch)
        batch = {"pixel_values": torch.rand(64, 1, 8, 8, generator=seeded()), "labels": None}
        terms[patch] = {name: value.mean() for name, value in evaluation.bound(batch, seeded(1)).items()}
        (versions,) = list(evaluation.forward_process(batch["pixel_values"][:2], 2).values())[1:]
        assert versions.shape == (2, 1, 8, 8)
    torch.testing.assert_close(terms[2], terms[1], rtol=0.02, atol=1e-3)  # of other noise


def test_frames_are_of_each_class(tiny_unet):
    evaluation = evaluation_of(tiny_unet(num_classes=3), batch_size=6)
    frames = evaluation.frames(6, 5)
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    expected = evaluation.pipeline(
        labels, guidance_scale=2.0, num_inference_steps=5, generator=seeded(7), output_type="pt"
    ).images
    assert len(frames) == 5 and torch.equal(frames["step 5"], expected)
    assert torch.equal(evaluation.frames(6)["step 5"], expected)
    evaluation.batch_size = 4  # no more are drawn at once
    parts, generator = [], seeded(7)
    for part in labels.split(4):
        call = {"guidance_scale": 2.0, "num_inference_steps": 5, "generator": generator, "output_type": "pt"}
        parts.append(evaluation.pipeline(part, **call).images)
    assert torch.equal(evaluation.frames(6)["step 5"], torch.cat(parts))
    evaluation.batch_size = 20
    pictures = evaluation.pictures(20, 4)
    assert torch.equal(pictures["samples"], evaluation.frames(20)["step 5"])
    assert list(pictures["denoising"]) == ["step 1", "step 2", "step 3", "step 5"]
    assert torch.equal(pictures["denoising"]["step 5"], pictures["samples"][::2])  # each ends in the image itself


def test_the_forward_process_adds_more_and_more_of_one_noise(tiny_unet):
    evaluation = evaluation_of(tiny_unet(), image_size=5)
    images = torch.randint(256, (4, 1, 5, 5), generator=seeded()) / 255
    versions = evaluation.forward_process(images, 4)
    assert list(versions) == ["x_0", "t = 9", "t = 19", "t = 29"] and torch.equal(versions["x_0"], images)
    noise = torch.randn(4, 1, 8, 8, generator=seeded(7))[:, :, 1:6, 1:6]  # of the padded images
    products = (1 - diffusion.train_scheduler(30).betas).cumprod(0)
    for timestep in (9, 19, 29):
        product = products[timestep]
        noisy = product.sqrt() * (2 * images - 1) + (1 - product).sqrt() * noise
        assert torch.allclose(versions[f"t = {timestep}"], (noisy / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_samples_are_of_classes_drawn_uniformly(tiny_unet):
    evaluation, generator, parts = evaluation_of(tiny_unet(num_classes=3)), seeded(7), []
    for num in (4, 4, 2):
        labels = torch.randint(3, (num,), generator=generator)
        call = {"guidance_scale": 2.0, "num_inference_steps": 5, "generator": generator}
        parts.append(evaluation.pipeline(labels, output_type="pt", **call).images)
    assert torch.equal(evaluation.samples(10), torch.cat(parts))
    assert str(evaluation) == "ddpm, 5 steps, seed 7, classes drawn uniformly, guidance scale 2.0"


def test_without_classes_there_are_no_labels(tiny_unet):
    evaluation = evaluation_of(tiny_unet(), image_size=5, guidance_scale=1.0)
    assert evaluation.samples(6).shape == (6, 1, 5, 5) and [*evaluation.frames(3, 2).values()][0].shape == (3, 1, 5, 5)
    assert str(evaluation) == "ddpm, 5 steps, seed 7"
    batch = {"pixel_values": torch.zeros(2, 1, 5, 5), "labels": torch.tensor([8, 9])}
    assert evaluation.bound(batch, seeded())["prior"].shape == (2,)


def test_the_bound_is_of_the_images_before_padding(tiny_unet):
    unet = tiny_unet(num_classes=3)
    pixel_values, labels = torch.randint(256, (2, 1, 4, 4), generator=seeded()) / 255, torch.tensor([0, 2])
    bound = evaluation_of(unet, image_size=4).bound({"pixel_values": pixel_values, "labels": labels}, seeded(1))
    padded = torch.zeros(2, 1, 8, 8)
    padded[:, :, 2:6, 2:6] = pixel_values
    whole = diffusion.variational_bound(
        unet, diffusion.train_scheduler(30), padded, labels=labels, num_timesteps=3, generator=seeded(1)
    )
    assert list(bound) == ["bits_per_dim", "prior", "denoising", "reconstruction"]
    for name, value in bound.items():  # 64 pixels' bits for each of 16
        assert torch.allclose(value, 4 * getattr(whole, name), rtol=1e-5)
    told = evaluation_of(unet).protocol(40)
    assert "on 40 test images" in told and "3 of the 29 terms" in told and told.endswith("each given its class")


# New or trained


def data_of(size, num_channels=1, name="pictures"):
    def check(flag):
        raise UsageError(f"{flag}: {name} has one class")

    return SimpleNamespace(
        name=name, train=SimpleNamespace(image_size=size, num_channels=num_channels), check_classes=check
    )


SMALL = diffusion.UNetArchitecture(block_out_channels=[8, 8], norm_num_groups=4)


def test_new_networks_have_the_size_that_is_asked_for():
    scheduler = diffusion.train_scheduler(30)
    unet, same, architecture = diffusion.load_or_build(None, data_of(6, num_channels=3), SMALL, scheduler)
    assert same is scheduler and architecture is SMALL
    assert (unet.config.sample_size, unet.config.in_channels, unet.config.num_class_embeds) == (6, 3, None)
    padded = diffusion.UNetArchitecture(block_out_channels=[8, 8], norm_num_groups=4, padded_size=12)
    assert diffusion.load_or_build(None, data_of(6), padded, scheduler)[0].config.sample_size == 12
    with pytest.raises(UsageError, match="--padded_size is 12; the images of pictures have 16 pixels"):
        diffusion.load_or_build(None, data_of(16), padded, scheduler)
    with pytest.raises(UsageError, match="--conditional: pictures has one class"):
        diffusion.load_or_build(None, data_of(6), SMALL, scheduler, num_classes=1)


def test_a_trained_network_comes_with_its_scheduler(tiny_unet, tmp_path, caplog):
    unet = tiny_unet(layers_per_block=2)
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(40, "cosine")), tmp_path)
    new, name = diffusion.train_scheduler(30), str(tmp_path)
    # Also where a new one of what is asked for could not be: it would take patches of 3 of 8 pixels.
    asked = replace(SMALL, patch_size=3)
    trained, scheduler, architecture = diffusion.load_or_build(name, data_of(8), asked, new)
    assert architecture == replace(SMALL, layers_per_block=2)
    assert scheduler.config.num_train_timesteps == 40
    kept = "beta_schedule squaredcos_cap_v2 (not linear), layers_per_block 2 (not 1), num_train_timesteps 40 (not 30)"
    kept += ", patch_size 1 (not 3)"
    assert [record.message for record in caplog.records] == [f"{name} keeps its own {kept}"]
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in unet.state_dict().items())
    for data, named in ((data_of(16), "1 x 16 x 16"), (data_of(8, 3), "3 x 8 x 8")):
        told = f"--model_name_or_path {name}: its images are 1 x 8 x 8, those of pictures {named}"
        with pytest.raises(UsageError, match=told):
            diffusion.load_or_build(name, data, SMALL, new)


def test_a_variance_without_a_bound_is_refused(tiny_unet, tmp_path):
    scheduler = DDPMScheduler(num_train_timesteps=40, variance_type="fixed_small_log")
    hub.save(diffusion.make_pipeline(tiny_unet(), scheduler), tmp_path)
    told = (
        f"--model_name_or_path {tmp_path}: its scheduler has variance_type fixed_small_log; it must be fixed_small or"
    )
    with pytest.raises(UsageError, match=re.escape(told)):
        diffusion.load_or_build(str(tmp_path), data_of(8), SMALL, diffusion.train_scheduler(30))


@pytest.mark.parametrize(("changed", "told"), [({"num_inference_steps": 31}, 30), ({"num_bound_timesteps": 30}, 29)])
def test_steps_that_the_training_had_not_are_refused(tiny_unet, changed, told):
    ((name, value),) = changed.items()
    told = f"--{name} is {value}; with 30 timesteps of training it must be in [1, {told}]"
    with pytest.raises(UsageError, match=re.escape(told)):
        evaluation_of(tiny_unet(), **changed)


def test_a_row_of_a_sampler_and_its_point():
    row = {
        "scheduler": "ddim", "spacing": "s", "num_inference_steps": 1, "network_evaluations": 2, "seconds": 3,
        "test_fid": 4, "test_fid_standard_error": 5, "test_fid_floor": 1, "test_precision": 0.6, "test_recall": 0.7,
    }  # fmt: skip
    line = comparison.sampler_table([row]).splitlines()[2]
    assert line == "| ddim | s | 1 | 2 | 3.0 | - | 4.00 ± 5.00 | 3.00 | - | 0.600 | 0.700 |"
    assert comparison.sampler_curves([row], None)["curves"] == {"ddim, s": [(2, 4, 5)]}
    reference = row | {"scheduler": "ddpm", "num_inference_steps": 30, "test_fid": 3, "test_fid_standard_error": 6}
    drawn = comparison.sampler_curves([reference, row], reference)
    assert drawn["curves"] == {"ddim, s": [(2, 4, 5)]}
    assert drawn["levels"] == {"floor": (1, 0.0), "ddpm, 30 steps, ± 2 standard errors": (3, 6)}
