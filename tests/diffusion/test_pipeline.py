"""The class-conditional pipeline, the schedulers, and that what is saved loads everywhere."""

import inspect
import itertools
import json
import os
import re
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
import warm
from diffusers import DDPMPipeline, DiffusionPipeline
from loopback_hub import LoopbackHub
from PIL import Image

from hwzoo import diffusion, generators, hub
from hwzoo.diffusion.pipeline_class_conditional import ClassConditionalPipeline, most_steps
from hwzoo.errors import HwzooError, UsageError
from hwzoo.models import family_of

INDEX = "model_index.json"


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def conditional(tiny_unet):
    return diffusion.make_pipeline(tiny_unet(num_classes=3), diffusion.train_scheduler(30))


@pytest.fixture
def unconditional(tiny_unet):
    return diffusion.make_pipeline(tiny_unet(), diffusion.train_scheduler(30))


def draw(pipeline, labels=None, seed=0, **settings):
    settings = {"num_inference_steps": 5, "output_type": "pt", **settings}
    return pipeline(labels, generator=seeded(seed), **settings).images


# What the pipeline draws


def test_the_same_seed_draws_the_same_images(conditional):
    first, second, other = (draw(conditional, [0, 1, 2, 1], seed) for seed in (0, 0, 1))
    assert first.shape == (4, 1, 8, 8) and first.dtype == torch.float32 and 0 <= first.min() < first.max() <= 1
    assert torch.equal(first, second) and not torch.equal(first, other)
    state = torch.get_rng_state()
    draw(conditional, [0])
    assert torch.equal(state, torch.get_rng_state())


def test_labels_decide(conditional):
    first, second = draw(conditional, [0, 0]), draw(conditional, torch.tensor([0, 2]))
    assert torch.allclose(first[0], second[0], atol=1e-6) and not torch.allclose(first[1], second[1], atol=1e-3)


def test_guidance_is_its_formula(conditional):
    """s * conditional + (1 - s) * unconditional: the schedulers get what this gives, for every s."""
    plain = draw(conditional, [0, 1, 2])
    unet, seen = conditional.unet, []

    def reference(scale):
        scheduler = diffusion.train_scheduler(30)
        scheduler.set_timesteps(5)
        generator = seeded()
        x = torch.randn(3, 1, 8, 8, generator=generator)
        with torch.no_grad():
            for t in scheduler.timesteps:
                of_class = unet(x, t, class_labels=torch.tensor([0, 1, 2])).sample
                of_none = unet(x, t, class_labels=torch.tensor([3, 3, 3])).sample
                x = scheduler.step(scale * of_class + (1 - scale) * of_none, t, x, generator=generator).prev_sample
        return (x / 2 + 0.5).clamp(0, 1)

    for scale in (0.0, 1.0, 1.3, 4.0):
        images = draw(conditional, [0, 1, 2], guidance_scale=scale)
        seen.append(images)
        assert torch.allclose(images, reference(scale), atol=1e-4)
    assert torch.equal(seen[1], plain)
    assert not torch.allclose(seen[3], plain, atol=1e-3)


def test_guidance_zero_and_no_labels_draw_of_no_class(conditional):
    images = draw(conditional, batch_size=3)
    assert torch.allclose(images, draw(conditional, [0, 1, 2], guidance_scale=0.0), atol=1e-5)
    assert not torch.allclose(images, draw(conditional, [0, 1, 2]), atol=1e-3)


def test_without_guidance_the_network_is_asked_once_a_step(conditional):
    batches = []
    conditional.unet.register_forward_pre_hook(lambda module, args: batches.append(len(args[0])))
    draw(conditional, [0, 1])
    assert batches == [2] * 5
    batches.clear()
    draw(conditional, [0, 1], guidance_scale=2.0)
    assert batches == [4] * 5


def test_it_draws_what_diffusers_pipeline_draws(unconditional):
    theirs = DDPMPipeline(unconditional.unet, unconditional.scheduler)
    theirs.set_progress_bar_config(disable=True)
    expected = theirs(batch_size=2, generator=seeded(), num_inference_steps=7, output_type="np").images
    images = unconditional(batch_size=2, generator=seeded(), num_inference_steps=7, output_type="np").images
    assert images.shape == (2, 8, 8, 1) and np.array_equal(images, expected)


def test_output_types(unconditional):
    tensor = draw(unconditional, batch_size=2)
    array = draw(unconditional, batch_size=2, output_type="np")
    pictures = draw(unconditional, batch_size=2, output_type="pil")
    assert np.array_equal(array, tensor.permute(0, 2, 3, 1).numpy())
    assert isinstance(pictures[0], Image.Image) and pictures[0].size == (8, 8) and pictures[0].mode == "L"
    assert np.array_equal(np.array(pictures[1]), (array[1, :, :, 0] * 255).round().astype(np.uint8))
    (plain,) = unconditional(
        batch_size=2, generator=seeded(), num_inference_steps=5, output_type="pt", return_dict=False
    )
    assert torch.equal(plain, tensor)


def test_a_generator_for_each_image(unconditional):
    generators = [seeded(1), seeded(2)]
    both = unconditional(batch_size=2, generator=generators, num_inference_steps=5, output_type="pt").images
    alone = draw(unconditional, batch_size=1, seed=2)
    assert torch.allclose(both[1:], alone, atol=1e-5)
    one = unconditional(batch_size=2, generator=[seeded()], num_inference_steps=5, output_type="pt").images
    assert torch.equal(one, draw(unconditional, batch_size=2))


def test_labels_that_are_not_given_are_drawn_by_the_generators_of_the_images(conditional):
    family = family_of(conditional)
    call = {"num_inference_steps": 5}
    both = family.sample(conditional, 2, None, [seeded(1), seeded(2)], **call)
    for index in (0, 1):
        alone = family.sample(conditional, 1, None, seeded(index + 1), **call)
        torch.testing.assert_close(both[index : index + 1], alone, rtol=0, atol=1e-5)
    one = family.sample(conditional, 4, None, seeded(3), **call)
    generator = seeded(3)
    labels = torch.randint(3, (4,), generator=generator)
    assert torch.equal(one, family.sample(conditional, 4, labels, generator, **call))
    assert torch.equal(one, family.sample(conditional, 4, None, [seeded(3)], **call))
    for several in ([seeded(), seeded()], []):
        with pytest.raises(ValueError, match=f"generator is a list of {len(several)}; it must be"):
            family.sample(conditional, 3, None, several, **call)


def test_padded_images_are_cut_in_the_middle(tiny_unet):
    unet = tiny_unet()
    whole, cut = (diffusion.make_pipeline(unet, diffusion.train_scheduler(30), size) for size in (8, 5))
    assert whole.config.image_size is None
    images = draw(cut, batch_size=2)
    assert images.shape == (2, 1, 5, 5) and torch.equal(images, draw(whole, batch_size=2)[:, :, 1:6, 1:6])


def test_all_steps_are_taken_when_their_number_is_not_given(unconditional):
    calls = []
    unconditional.unet.register_forward_pre_hook(lambda module, args: calls.append(0))
    unconditional(generator=seeded())
    assert len(calls) == 30


@pytest.mark.parametrize("spacing", ["linspace", "leading"])
@pytest.mark.parametrize("name", ["DPMSolverMultistepScheduler", "SASolverScheduler", "UniPCMultistepScheduler"])
def test_no_step_without_width_is_taken(name, spacing, tiny_unet):
    scheduler = getattr(diffusers, name)(num_train_timesteps=30, timestep_spacing=spacing)
    pipeline = diffusion.make_pipeline(tiny_unet(), scheduler)
    images = draw(pipeline, batch_size=2, num_inference_steps=None)
    assert len(pipeline.scheduler.timesteps) == 29 == len(set(pipeline.scheduler.timesteps.tolist()))
    assert images.isfinite().all() and images.std() > 0.01
    with pytest.raises(ValueError, match="num_inference_steps is 30; it must be from 1 to 29"):
        draw(pipeline, num_inference_steps=30)


@pytest.mark.parametrize("kind", [diffusers.LCMScheduler, diffusers.TCDScheduler])
def test_a_distilled_scheduler_has_the_steps_of_its_distillation(kind, unconditional):
    trained = diffusion.train_scheduler(1000)
    unconditional.scheduler = scheduler = kind.from_config(trained.config)
    assert most_steps(scheduler) == 50
    assert most_steps(kind.from_config(trained.config, original_inference_steps=20)) == 20
    assert most_steps(diffusion.make_scheduler("ddim", scheduler.config)) == 1000  # keeps the number unused
    images = draw(unconditional, batch_size=2, num_inference_steps=None)
    assert len(scheduler.timesteps) == 50 and images.isfinite().all() and images.std() > 0.01
    with pytest.raises(UsageError, match=f"^Steps is 60; the {kind.__name__} of mine takes at most 50$"):
        generators.check_steps(60, scheduler, "mine", "Steps")
    generators.check_steps(50, scheduler, "mine")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"labels": [0, 3]}, "labels are from 0 to 3; there are 0 to 2"),
        ({"labels": [-1]}, "labels are from -1 to -1; there are 0 to 2"),
        ({"labels": [0.5]}, "labels must be one integer for each image"),
        ({"labels": []}, "labels must be one integer for each image"),
        ({"labels": [0, 1], "batch_size": 3}, "batch_size is 3, but there are 2 labels"),
        ({"guidance_scale": 2.0}, "guidance_scale is 2.0; without labels there is no guidance"),
        ({"labels": [0], "num_inference_steps": 31}, "num_inference_steps is 31; it must be from 1 to 30"),
        ({"labels": [0], "num_inference_steps": 0}, "num_inference_steps is 0; it must be from 1 to 30"),
        ({"labels": [0], "output_type": "latent"}, "output_type is 'latent'; it must be pil, np or pt"),
        ({"labels": [True, False]}, "labels must be one integer for each image, not \\[True, False\\]"),
        ({"labels": [0, 1, 2], "generator": [seeded()] * 2}, "generator is a list of 2; it must be of one"),
        ({"labels": [0, 1], "generator": [seeded()] * 3}, "generator is a list of 3; .* one for each of 2 images"),
        ({"batch_size": 2, "generator": []}, "generator is a list of 0; .* one for each of 2 images"),
        ({"batch_size": 0}, "batch_size is 0; it must be at least 1"),
        ({"batch_size": -1}, "batch_size is -1; it must be at least 1"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments, named, conditional):
    with pytest.raises(ValueError, match=named):
        conditional(**arguments)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_labels_of_any_integers_draw_the_same(dtype, conditional):
    assert torch.equal(draw(conditional, torch.tensor([1, 2], dtype=dtype)), draw(conditional, [1, 2]))


def test_an_unconditional_model_has_no_labels(unconditional):
    with pytest.raises(ValueError, match="labels are given, but this model is unconditional"):
        unconditional([0])


# Schedulers


PAIRS = [(name, spacing) for name, spacings in diffusion.SPACINGS.items() for spacing in spacings]


def test_a_scheduler_has_its_steps_whatever_it_was_made_from():
    """The other's settings stay in its configuration, also those that it does not know."""
    base = diffusion.train_scheduler(60).config
    own = {pair: most_steps(diffusion.make_scheduler(pair[0], base, pair[1])) for pair in PAIRS}
    assert set(own.values()) == {59, 60}
    for name, spacing in PAIRS:
        first = diffusion.make_scheduler(name, base, spacing).config
        found = {pair: most_steps(diffusion.make_scheduler(pair[0], first, pair[1])) for pair in PAIRS}
        assert found == own, (name, spacing)


def test_unipc_after_lu_draws_with_its_default_steps(unconditional):
    """A setting that the first knows and the second does not once let a step without width pass: NaN."""
    first = diffusion.make_scheduler("dpm_solver", unconditional.scheduler.config, "lu")
    unconditional.scheduler = diffusion.make_scheduler("unipc", first.config, "leading")
    images = draw(unconditional, batch_size=2, num_inference_steps=None)
    assert images.isfinite().all() and images.std() > 0.05


class Gaussian(torch.nn.Module):
    """The exact prediction of the noise for pixels from N(0, std^2), called as a UNet."""

    dtype = torch.float32

    def __init__(self, scheduler, std):
        super().__init__()
        self.abar, self.std = diffusion.alphas_cumprod(scheduler), std

    def forward(self, noisy, timestep):
        abar = self.abar[timestep]
        return ((1 - abar).sqrt() * noisy / (abar * self.std**2 + 1 - abar)).float()


def drawn_std(name, schedule):
    """As `std_of`, of a sampler of ours; the fast ones in 20 steps."""
    trained = diffusion.train_scheduler(1000, schedule)
    made = diffusion.make_scheduler(name, trained.config)
    return std_of(made, trained, 1000 if name == "ddpm" else 20, noisy=name in ("ddpm", "sde_dpm_solver"))


def std_of(made, trained, steps, noisy=False):
    """The standard deviation of what a scheduler draws by the exact score of one of 0.2."""
    network, generator = Gaussian(trained, std=0.2), seeded()
    made.set_timesteps(steps)
    x = torch.randn(5, 1, 64, 64, generator=generator)
    for t in made.timesteps:
        x = made.step(network(x, t), t, x, **({"generator": generator} if noisy else {})).prev_sample
    return x.std().item()


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_the_schedulers_keep_the_variance(name):
    allowed = {"ddpm": 0.005, "ddim": 0.06, "sde_dpm_solver": 0.02}.get(name, 0.013)
    assert drawn_std(name, "linear") == pytest.approx(0.2, abs=allowed)


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_which_samplers_add_noise(name):
    scheduler = diffusion.train_scheduler(1000)
    network, ends = Gaussian(scheduler, std=0.2), []
    for seed in (0, 1):
        made, x = diffusion.make_scheduler(name, scheduler.config), torch.randn(1, 1, 8, 8, generator=seeded())
        made.set_timesteps(10)
        torch.manual_seed(seed)
        for t in made.timesteps:
            x = made.step(network(x, t), t, x).prev_sample
        ends.append(x)
    assert torch.equal(*ends) == (name not in ("ddpm", "sde_dpm_solver"))


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_the_predicted_image_is_clipped_where_the_config_says_so(name, clip):
    """One step ends in it."""
    trained = diffusion.train_scheduler(1000, prediction_type="sample").config
    config = diffusers.DDPMScheduler.from_config(trained, clip_sample=clip).config
    made, x = diffusion.make_scheduler(name, config, "trailing"), torch.zeros(1, 1, 4, 4)
    made.set_timesteps(1)
    last = made.step(torch.full_like(x, 7.0), made.timesteps[0], x).prev_sample
    torch.testing.assert_close(last, torch.full_like(x, 1.0 if clip else 7.0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("T", "steps"), [(1000, 20), (1000, 300), (40, 25), (100, 60)])
@pytest.mark.parametrize("spacing", diffusion.SPACINGS["ddim"])
def test_ddim_steps_from_each_timestep_to_the_next(T, steps, spacing):
    """Equation 12 of the paper without noise, also where the steps do not divide the timesteps of training."""
    scheduler = diffusion.train_scheduler(T)
    network, abar = Gaussian(scheduler, std=0.2), scheduler.alphas_cumprod.double()
    made = diffusion.make_scheduler("ddim", scheduler.config, spacing)
    made.set_timesteps(steps)
    expected = x = torch.randn(2, 1, 8, 8, generator=seeded())
    timesteps = [*made.timesteps.tolist(), None]
    for t, following in itertools.pairwise(timesteps):
        eps = network(expected, t)
        clean = ((expected - (1 - abar[t]).sqrt() * eps) / abar[t].sqrt()).clamp(-1, 1)
        eps = (expected - abar[t].sqrt() * clean) / (1 - abar[t]).sqrt()
        after = 1.0 if following is None else abar[following]
        expected = (after**0.5 * clean + (1 - after) ** 0.5 * eps).float()
        x = made.step(network(x, t), t, x).prev_sample
    assert len(made.timesteps) == steps
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("spacing", "drawn", "first"), [("leading", 0.2, 897), ("trailing", 0.23, 999), ("linspace", 0.23, 999)]
)
def test_the_ddim_of_diffusers_leaves_noise_where_its_timesteps_lie_further_apart(spacing, drawn, first):
    """Than T / steps, rounded down: the numbers of docs/diffusion.md, and the timestep that its default begins at."""
    trained = diffusion.train_scheduler(1000)
    made = diffusers.DDIMScheduler.from_config(trained.config, timestep_spacing=spacing)
    assert std_of(made, trained, 300) == pytest.approx(drawn, abs=0.005) and made.timesteps[0] == first
    assert diffusers.DDIMScheduler.from_config(trained.config).config.timestep_spacing == "leading"


@pytest.mark.parametrize(("T", "steps"), [(1000, 61), (1000, 103), (300, 7), (100, 29)])
@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_as_many_steps_are_taken_as_are_asked_for(name, T, steps, tiny_unet):
    """Of these diffusers' trailing spacing makes one more, at timestep -1: DDPM's would end in noise."""
    trained = diffusion.train_scheduler(T)
    scheduler = diffusion.make_scheduler(name, trained.config, "trailing")
    scheduler.set_timesteps(steps)
    assert scheduler.timesteps[-1] == -1 and len(scheduler.timesteps) == steps + 1
    pipeline, network, seen = diffusion.make_pipeline(tiny_unet(), scheduler), Gaussian(trained, std=0.2), []

    def exact(inputs, timestep, **kwargs):
        seen.append(int(timestep))
        return (network(inputs, timestep),)

    pipeline.unet.forward, drawn = exact, []
    for num in (steps, steps + 1):  # of which it makes as many as are asked for
        seen.clear()
        call = {"num_inference_steps": num, "output_type": "pt", "generator": seeded()}
        drawn.append(pipeline(batch_size=200, **call).images)
        assert seen == sorted(set(seen), reverse=True) and len(seen) == num and seen[-1] >= 0
    assert drawn[0].mean().item() == pytest.approx(0.5, abs=0.005)
    assert drawn[0].std().item() == pytest.approx(drawn[1].std().item(), rel=0.2 if steps == 7 else 0.05)


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_of_flow_matching_even_steps_keep_it(name):
    assert drawn_std(name, "flow_matching") == pytest.approx(0.2, abs=0.025 if name == "ddim" else 0.005)


@pytest.mark.parametrize("schedule", ["cosine", "flow_matching"])
@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_every_scheduler_takes_every_prediction(name, prediction_type, schedule, conditional):
    scheduler = diffusion.train_scheduler(30, schedule, prediction_type)
    conditional.scheduler = diffusion.make_scheduler(name, scheduler.config)
    assert conditional.scheduler.config.prediction_type == prediction_type
    assert torch.equal(conditional.scheduler.betas, scheduler.betas)
    images = draw(conditional, [0, 1], guidance_scale=1.5)
    assert images.isfinite().all() and torch.equal(images, draw(conditional, [0, 1], guidance_scale=1.5))


def test_a_fresh_and_a_reloaded_config_give_the_same_timesteps(unconditional, tmp_path):
    hub.save(unconditional, tmp_path)
    reloaded = diffusion.load_pipeline(str(tmp_path))
    for name in diffusion.SCHEDULERS:
        timesteps = []
        for pipeline in (unconditional, reloaded):
            scheduler = diffusion.make_scheduler(name, pipeline.scheduler.config)
            scheduler.set_timesteps(7)
            timesteps.append(scheduler.timesteps)
        assert torch.equal(*timesteps)
        # A scheduler made of another one, too.
        again = diffusion.make_scheduler(name, diffusion.make_scheduler("unipc", reloaded.scheduler.config).config)
        again.set_timesteps(7)
        assert torch.equal(again.timesteps, timesteps[0])


def test_an_unknown_scheduler_is_told_the_known_ones(unconditional):
    with pytest.raises(
        UsageError, match="--scheduler is pndm; it must be one of ddpm, ddim, dpm_solver, sde_dpm_solver, unipc"
    ):
        diffusion.make_scheduler("pndm", unconditional.scheduler.config)


@pytest.mark.parametrize("name", diffusion.SCHEDULERS)
def test_every_spacing_is_diffusers(name):
    """Each gives other steps, the first is the default, and the config of one does not leave its own in another."""
    config, seen = diffusion.train_scheduler(1000).config, []
    for spacing in diffusion.SPACINGS[name]:
        scheduler = diffusion.make_scheduler(name, config, spacing)
        scheduler.set_timesteps(5)
        seen.append(scheduler.timesteps.tolist())
        config = scheduler.config
    assert len({tuple(timesteps) for timesteps in seen}) == len(seen)
    default = diffusion.make_scheduler(name, config)
    default.set_timesteps(5)
    assert default.timesteps.tolist() == seen[0]
    assert [999, 799, 599, 399, 199] in seen  # trailing


@pytest.mark.parametrize("schedule", ["cosine", "flow_matching"])
def test_where_a_schedule_ends_in_noise_few_steps_are_spent_on_it(schedule):
    """The last timestep has a noise of 20,000 or 1,000: the levels of Karras would begin there."""
    configs = [diffusion.train_scheduler(1000, each).config for each in ("linear", schedule)]
    for name in diffusion.SCHEDULERS:
        first = [diffusion.spacings_of(name, config)[0] for config in configs]
        assert first == (["trailing"] * 2 if name in ("ddpm", "ddim") else ["karras", "trailing"])
        assert {*diffusion.spacings_of(name, configs[1])} == {*diffusion.SPACINGS[name]}
    scheduler = diffusion.make_scheduler("sde_dpm_solver", configs[1])
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]
    asked = diffusion.make_scheduler("sde_dpm_solver", configs[1], "karras")
    asked.set_timesteps(10)
    assert (asked.timesteps > (990 if schedule == "cosine" else 950)).sum() >= 5


def test_an_unknown_spacing_is_told_the_known_ones():
    config = diffusion.train_scheduler(30).config
    with pytest.raises(
        UsageError, match="--spacing is lu; for unipc it must be one of karras, trailing, leading, lin"
    ):
        diffusion.make_scheduler("unipc", config, "lu")


def test_too_few_timesteps_are_refused():
    with pytest.raises(ValueError, match="num_train_timesteps is 20; it must be 25 or more"):
        diffusion.train_scheduler(20)


# The network


def test_networks_are_built_as_asked():
    unet = diffusion.build_unet(
        28, 3, block_out_channels=[8, 16, 24], layers_per_block=2, attention=True, norm_num_groups=4, dropout=0.1,
        num_classes=10,
    )  # fmt: skip
    config = unet.config
    assert (config.sample_size, config.in_channels, config.out_channels, config.num_class_embeds) == (28, 3, 3, 11)
    assert config.down_block_types == ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    assert unet(torch.zeros(2, 3, 28, 28), 5, class_labels=torch.tensor([0, 10])).sample.shape == (2, 3, 28, 28)
    blocks = [each for each in unet.modules() if type(each).__name__ == "ResnetBlock2D"]
    assert blocks and {each.dropout.p for each in blocks} == {0.1}
    plain = diffusion.build_unet(28, 1, block_out_channels=[8, 8], norm_num_groups=4, attention=False)
    assert not [name for name, _ in plain.named_parameters() if "to_q" in name]


@pytest.mark.parametrize(
    ("channels", "groups", "named"),
    [
        (
            [8, 8, 8, 8],
            4,
            "--block_out_channels has 4 resolutions: images of 28 pixels cannot be halved 3 times; .* 32",
        ),
        ([8, 12], 8, "--norm_num_groups is 8; it must divide each of --block_out_channels 8 12"),
    ],
)
def test_networks_that_cannot_be_are_refused(channels, groups, named):
    with pytest.raises(UsageError, match=named):
        diffusion.build_unet(28, 1, block_out_channels=channels, norm_num_groups=groups)


# Frames


def test_the_reverse_process_ends_in_the_images(conditional):
    call = {"labels": [0, 1, 2], "guidance_scale": 2.0, "num_inference_steps": 6}
    frames = diffusion.reverse_process(conditional, 4, generator=seeded(), **call)
    assert list(frames) == ["step 1", "step 3", "step 4", "step 6"]
    assert all(each.shape == (3, 1, 8, 8) and 0 <= each.min() and each.max() <= 1 for each in frames.values())
    assert torch.equal(frames["step 6"], conditional(generator=seeded(), output_type="pt", **call).images)
    every = diffusion.reverse_process(conditional, 100, generator=seeded(), **call)
    assert len(every) == 6 and all(torch.equal(frames[step], every[step]) for step in frames)


def test_strips_show_some_images_from_noise_to_the_end():
    frames = {f"step {step}": torch.arange(6) + 10 * step for step in range(1, 13)}
    strips = diffusion.denoising_strips(frames, rows=3, columns=4)
    assert {step: images.tolist() for step, images in strips.items()} == {
        f"step {step}": [10 * step, 10 * step + 2, 10 * step + 4] for step in (3, 6, 9, 12)
    }
    few = diffusion.denoising_strips({step: frames[step] for step in ("step 1", "step 2")}, rows=10, columns=4)
    assert {step: images.tolist() for step, images in few.items()} == {
        "step 1": [*range(10, 16)], "step 2": [*range(20, 26)]
    }  # fmt: skip


# Saving and loading


def test_an_unconditional_model_is_a_plain_pipeline_of_diffusers(unconditional, tmp_path):
    hub.save(unconditional, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [INDEX, "scheduler", "unet"]
    theirs = DDPMPipeline.from_pretrained(tmp_path)
    theirs.set_progress_bar_config(disable=True)
    images = theirs(batch_size=2, generator=seeded(), num_inference_steps=5, output_type="np").images
    assert np.array_equal(images, draw(unconditional, batch_size=2, output_type="np"))


@pytest.mark.parametrize("name", ["ddpm", "leading", "ddim", "unipc", "PNDMScheduler", "EulerDiscreteScheduler"])
def test_what_is_saved_draws_the_same_with_any_scheduler(name, unconditional, tmp_path):
    if name in diffusion.SCHEDULERS:
        unconditional.scheduler = diffusion.make_scheduler(name, unconditional.scheduler.config)
    elif name == "leading":
        unconditional.scheduler = diffusion.make_scheduler("ddpm", unconditional.scheduler.config, "leading")
    else:
        unconditional.scheduler = getattr(diffusers, name)(num_train_timesteps=30)
    expected = draw(unconditional, batch_size=2)
    hub.save(unconditional, tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    assert isinstance(loaded, DDPMPipeline) == (name == "leading")
    loaded.set_progress_bar_config(disable=True)
    images = loaded(batch_size=2, generator=seeded(), num_inference_steps=5, output_type="np").images
    np.testing.assert_allclose(images.transpose(0, 3, 1, 2), expected.numpy(), atol=1e-5)


@pytest.mark.parametrize(
    ("schedule", "num_timesteps", "name", "spacing", "steps"),
    [("cosine", 1000, "sde_dpm_solver", "karras", 25), ("linear", 100, "ddpm", "trailing", 29)],
)
def test_steps_that_a_plain_pipeline_does_not_take_are_drawn_as_before(
    unconditional, tmp_path, schedule, num_timesteps, name, spacing, steps
):
    config = diffusion.train_scheduler(num_timesteps, schedule, "v_prediction").config
    unconditional.scheduler = diffusion.make_scheduler(name, config, spacing)
    call = {"batch_size": 2, "num_inference_steps": steps, "output_type": "np"}
    expected = unconditional(generator=seeded(), **call).images
    hub.save(unconditional, tmp_path)
    loaded = DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_allclose(loaded(generator=seeded(), **call).images, expected, atol=1e-5)


@pytest.mark.parametrize("name", ["DPMSolverSinglestepScheduler", "IPNDMScheduler", "CMStochasticIterativeScheduler"])
def test_a_scheduler_without_spacings_is_saved(name, unconditional, tmp_path):
    unconditional.scheduler = getattr(diffusers, name)(num_train_timesteps=30)
    hub.save(unconditional, tmp_path)
    assert type(diffusion.load_pipeline(str(tmp_path)).scheduler) is getattr(diffusers, name)


def test_a_conditional_model_comes_back(conditional, tmp_path):
    hub.save(conditional, tmp_path)
    assert json.loads((tmp_path / INDEX).read_text())["_class_name"] == [
        "pipeline_class_conditional", "ClassConditionalPipeline",
    ]  # fmt: skip
    loaded = diffusion.load_pipeline(str(tmp_path))
    assert type(loaded) is ClassConditionalPipeline and not loaded.unet.training
    assert torch.equal(draw(loaded, [0, 2], guidance_scale=3.0), draw(conditional, [0, 2], guidance_scale=3.0))


WITHOUT_HWZOO = """
import sys
sys.modules["hwzoo"] = None  # importing it fails
import torch
from diffusers import DiffusionPipeline

folder, again = sys.argv[1:]
pipeline = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
images = []
for turn in range(2):
    pipeline.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    call = {"guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "pt"}
    images.append(pipeline([0, 2], generator=generator, **call).images)
    pipeline.save_pretrained(again)  # what was loaded can be saved and loaded again
    pipeline = DiffusionPipeline.from_pretrained(again, trust_remote_code=True)
torch.save(images, again + "/images.pt")
"""


@pytest.mark.long
def test_it_loads_where_hwzoo_is_not_installed(tiny_unet, tmp_path):
    pipeline = diffusion.make_pipeline(tiny_unet(num_classes=3), diffusion.train_scheduler(30), image_size=6)
    hub.save(pipeline, tmp_path / "model")
    program = tmp_path / "program.py"
    program.write_text(WITHOUT_HWZOO)
    done = warm.run([program, tmp_path / "model", tmp_path / "again"])
    assert done.returncode == 0, done.stderr
    expected = draw(pipeline, [0, 2], guidance_scale=3.0)
    assert expected.shape == (2, 1, 6, 6)
    for images in torch.load(tmp_path / "again" / "images.pt"):
        assert torch.equal(images, expected)


def test_a_strangers_code_is_not_run(conditional, tmp_path):
    hub.save(conditional, tmp_path)
    (tmp_path / "pipeline_class_conditional.py").write_text("raise SystemExit('run')")
    assert torch.equal(draw(diffusion.load_pipeline(str(tmp_path)), [1, 2]), draw(conditional, [1, 2]))
    with pytest.raises(ValueError, match="trust_remote_code"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_the_library_saves_it_as_well(conditional, tmp_path):
    """diffusers' own `save_pretrained`, which `push_to_hub` calls, leaves the same files."""
    hub.save(conditional, tmp_path / "ours")
    conditional.save_pretrained(tmp_path / "theirs")
    contents = [
        {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        for folder in (tmp_path / "ours", tmp_path / "theirs")
    ]
    assert contents[0] == contents[1] and "pipeline_class_conditional.py" in contents[0]


PUSH = """
import sys
from hwzoo import diffusion, hub

hub.push(sys.argv[1], "me/ours")
diffusion.load_pipeline(sys.argv[1]).push_to_hub("me/theirs")
"""
LOAD = """
import sys
sys.modules["hwzoo"] = None  # importing it fails
import torch
from diffusers import DiffusionPipeline

for name in ("me/ours", "me/theirs"):
    pipeline = DiffusionPipeline.from_pretrained(name, trust_remote_code=True)
    call = {"guidance_scale": 3.0, "num_inference_steps": 5, "output_type": "pt"}
    images = pipeline([0, 2], generator=torch.Generator().manual_seed(0), **call).images
    torch.save(images, f"{sys.argv[1]}/{name[3:]}.pt")
"""


@pytest.mark.slow
def test_it_is_pushed_and_loads_by_its_id(tiny_unet, tmp_path):
    """By our push and by diffusers' own; where it is loaded hwzoo is not installed."""
    pipeline = diffusion.make_pipeline(tiny_unet(num_classes=3), diffusion.train_scheduler(30), image_size=6)
    hub.save(pipeline, tmp_path / "model")
    card = 'DiffusionPipeline.from_pretrained("model"); diffusion.load_pipeline("model")'
    (tmp_path / "model" / "README.md").write_text(card)
    with LoopbackHub(token="hf_right", users=("me",)) as server:
        environment = os.environ | server.environment(tmp_path / "cache") | {"HF_TOKEN": "hf_right"}
        for program, folder in ((PUSH, tmp_path / "model"), (LOAD, tmp_path)):
            done = warm.run(["-c", program, folder], env=environment)
            assert done.returncode == 0, done.stderr
        assert server.repos["me/ours"].files["README.md"].decode() == card.replace('"model"', '"me/ours"')
    for name in ("ours", "theirs"):
        assert torch.equal(torch.load(tmp_path / f"{name}.pt"), draw(pipeline, [0, 2], guidance_scale=3.0))


def missing_weight(folder):
    from safetensors.torch import load_file, save_file

    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    del weights["conv_in.bias"]
    save_file(weights, path)


def truncated(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    path.write_bytes(path.read_bytes()[:200])


def no_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def pickled_weights(folder):
    no_weights(folder)
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'false'\ntR.")


def other_pipeline(folder):
    (folder / INDEX).write_text(json.dumps({"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "VQ"]}))


@pytest.mark.parametrize(
    ("damage", "kind", "named"),
    [
        (lambda folder: (folder / INDEX).unlink(), UsageError, "is no pipeline of diffusers"),
        (lambda folder: (folder / INDEX).write_text("{"), HwzooError, f"{INDEX} is not valid JSON"),
        (other_pipeline, UsageError, "is a StableDiffusionPipeline; it must be a pipeline of a UNet2DModel"),
        (missing_weight, HwzooError, "missing weights: conv_in.bias"),
        (truncated, HwzooError, "diffusion_pytorch_model.safetensors is no whole file of safetensors"),
        (no_weights, HwzooError, "cannot be loaded"),
        (pickled_weights, HwzooError, "cannot be loaded"),
    ],
)
def test_what_is_no_pipeline_is_refused(damage, kind, named, unconditional, tmp_path):
    hub.save(unconditional, tmp_path)
    damage(tmp_path)
    with pytest.raises(kind, match=named) as error:
        diffusion.load_pipeline(str(tmp_path))
    assert str(tmp_path) in str(error.value) and type(error.value) is kind


# Pipelines of others: their own schedulers, channels and sizes

SAMPLERS = [
    "DDIMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", "PNDMScheduler",
    "UniPCMultistepScheduler",
]  # fmt: skip


def save_foreign(folder, scheduler, **network):
    """As diffusers saves a pipeline of its own."""
    torch.manual_seed(0)
    settings = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "norm_num_groups": 2}
    settings |= {"block_out_channels": (4, 4), "attention_head_dim": 2}
    settings |= {"down_block_types": ["DownBlock2D"] * 2, "up_block_types": ["UpBlock2D"] * 2}
    DDPMPipeline(diffusers.UNet2DModel(**settings | network), scheduler).save_pretrained(folder)
    return str(folder)


def by_hand(folder, scheduler, steps, shape):
    """The loop of diffusers' documentation."""
    unet = diffusers.UNet2DModel.from_pretrained(folder, subfolder="unet")
    generator = seeded()
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)
    images = torch.randn(shape, generator=generator) * scheduler.init_noise_sigma
    more = {"generator": generator} if "generator" in inspect.signature(scheduler.step).parameters else {}
    for timestep in scheduler.timesteps:
        with torch.no_grad():
            prediction = unet(scheduler.scale_model_input(images, timestep), timestep).sample
        images = scheduler.step(prediction, timestep, images, **more).prev_sample
    return (images / 2 + 0.5).clamp(0, 1)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_pipeline_samples_with_the_scheduler_that_it_was_saved_with(name, tmp_path):
    scheduler = getattr(diffusers, name)(num_train_timesteps=100)
    folder = save_foreign(tmp_path, scheduler)
    pipeline = diffusion.load_pipeline(folder)
    assert type(pipeline.scheduler).__name__ == name
    given = draw(pipeline, batch_size=2, num_inference_steps=6)
    loaded = type(scheduler).from_pretrained(folder, subfolder="scheduler")
    torch.testing.assert_close(given, by_hand(folder, loaded, 6, (2, 1, 8, 8)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("channels, size", [(3, 8), (1, (8, 12)), (3, 16)])
def test_other_channels_and_sizes_are_sampled(channels, size, tmp_path):
    scheduler = diffusers.EulerDiscreteScheduler(num_train_timesteps=100)
    network = {"in_channels": channels, "out_channels": channels, "sample_size": size}
    folder = save_foreign(tmp_path, scheduler, **network)
    shape = (2, channels, *((size, size) if isinstance(size, int) else size))
    pipeline = diffusion.load_pipeline(folder)
    given = draw(pipeline, batch_size=2, num_inference_steps=4)
    assert given.shape == shape and pipeline.image_shape == shape[1:]
    torch.testing.assert_close(given, by_hand(folder, scheduler, 4, shape), rtol=1e-4, atol=1e-5)


def test_a_pair_of_equal_sizes_is_their_number(tmp_path):
    """Of the configuration that diffusers allows too all that is done with a pipeline is what it is with a number."""
    scheduler, found = diffusion.train_scheduler(30), []
    for size in (8, (8, 8)):
        pipeline = diffusion.load_pipeline(save_foreign(tmp_path / str(size), scheduler, sample_size=size))
        assert pipeline.image_shape == (1, 8, 8) and pipeline.unet.config.sample_size == 8
        settings = {"scheduler": "ddpm", "num_inference_steps": 2, "guidance_scale": 1.0, "num_bound_timesteps": 3}
        evaluation = diffusion.Evaluation(pipeline.unet, scheduler, 8, SimpleNamespace(**settings), 7, 4)
        batch = {"pixel_values": torch.rand(2, 1, 8, 8, generator=seeded())}
        with torch.no_grad():
            found.append([evaluation.samples(2), evaluation.bound(batch, seeded(1))["bits_per_dim"]])
        hub.save(pipeline, tmp_path / "again")
        assert json.loads((tmp_path / "again" / "unet" / "config.json").read_text())["sample_size"] == 8
    assert all(map(torch.equal, *found))


def test_a_network_that_does_not_say_how_large_its_images_are_is_refused(tmp_path):
    folder = save_foreign(tmp_path, diffusion.train_scheduler(30), sample_size=None)
    told = f"{folder}: its UNet has sample_size None; it must be the size of its images"
    with pytest.raises(UsageError, match=f"^{re.escape(told)}$"):
        diffusion.load_pipeline(folder)


def test_a_scheduler_that_does_not_fit_is_refused(tmp_path):
    folder = save_foreign(tmp_path, diffusers.FlowMatchEulerDiscreteScheduler())
    with pytest.raises(UsageError, match="with a FlowMatchEulerDiscreteScheduler; it must have one of diffusers'"):
        diffusion.load_pipeline(folder)


def test_a_pipeline_of_latents_is_refused(unconditional, tmp_path):
    """Its UNet makes no images."""
    hub.save(unconditional, tmp_path)
    index = json.loads((tmp_path / INDEX).read_text()) | {"_class_name": "LDMPipeline"}
    (tmp_path / INDEX).write_text(json.dumps(index | {"vqvae": ["diffusers", "VQModel"]}))
    with pytest.raises(UsageError, match="is a LDMPipeline; it must be a pipeline of a UNet2DModel"):
        diffusion.load_pipeline(str(tmp_path))


@pytest.mark.parametrize("schedule", ["cosine", "flow_matching"])
def test_training_goes_on_as_ddpm_whatever_the_pipeline_samples_with(schedule, tmp_path):
    trained = diffusion.train_scheduler(50, schedule)
    folder = save_foreign(tmp_path, diffusers.EulerDiscreteScheduler.from_config(trained.config))
    scheduler = diffusion.train_scheduler_of(diffusion.load_pipeline(folder).scheduler)
    assert type(scheduler).__name__ == "DDPMScheduler" and scheduler.config.num_train_timesteps == 50
    torch.testing.assert_close(scheduler.alphas_cumprod, trained.alphas_cumprod)
