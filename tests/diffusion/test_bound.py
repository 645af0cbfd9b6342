"""The variational bound: against closed forms for Gaussian data and for networks that know the image."""

import math

import pytest
import torch

from hwzoo import diffusion
from hwzoo.diffusion import discretized_log_likelihood, gaussian_kl, strata, variational_bound

STD = 0.2


class Exact:
    """The best prediction of the noise for pixels from N(0, STD^2): (1 - abar)^(1/2) x_t / (abar STD^2 + 1 - abar)."""

    def __init__(self, scheduler):
        self.abar = diffusion.alphas_cumprod(scheduler)

    def __call__(self, noisy, timesteps, class_labels=None, return_dict=True):
        abar = self.abar[timesteps].view(-1, 1, 1, 1)
        return ((1 - abar).sqrt() * noisy.double() / (abar * STD**2 + 1 - abar),)


class Knowing:
    """Predicts the very noise that is in an image that it knows."""

    def __init__(self, scheduler, pixel_values):
        self.abar, self.clean = diffusion.alphas_cumprod(scheduler), 2 * pixel_values.double() - 1

    def __call__(self, noisy, timesteps, class_labels=None, return_dict=True):
        abar = self.abar[timesteps].view(-1, 1, 1, 1)
        return ((noisy.double() - abar.sqrt() * self.clean) / (1 - abar).sqrt(),)


def gaussian_images(num, size=16, seed=0):
    """8-bit pixels whose values in [-1, 1] have the standard deviation STD."""
    generator = torch.Generator().manual_seed(seed)
    values = STD * torch.randn(num, 1, size, size, generator=generator, dtype=torch.float64)
    return ((values + 1) / 2 * 255).round().clamp(0, 255) / 255


def scheduler_of(num_timesteps, variance_type="fixed_small", clip_sample=False, **settings):
    scheduler = diffusion.train_scheduler(num_timesteps, **settings)
    scheduler.register_to_config(variance_type=variance_type, clip_sample=clip_sample)
    return scheduler


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_terms_of_gaussian_data_have_their_closed_form(variance_type):
    """With the exact score E[(x_0 - E[x_0 | x_t])^2] is STD^2 (1 - abar) / (abar STD^2 + 1 - abar)."""
    scheduler = scheduler_of(50, variance_type)
    abar = diffusion.alphas_cumprod(scheduler)
    images = gaussian_images(200)
    bound = variational_bound(Exact(scheduler), scheduler, images, generator=torch.Generator().manual_seed(0))
    variance_of_data = STD**2 + (2 / 255) ** 2 / 12  # of the rounded pixels; the score is that of those before
    assert torch.equal(bound.timesteps, torch.arange(1, 50).expand(200, -1))
    for place, t in enumerate(range(1, 50)):
        before, beta = abar[t - 1], 1 - abar[t] / abar[t - 1]
        shrink = abar[t].sqrt() * STD**2 / (abar[t] * STD**2 + 1 - abar[t])
        error = (1 - shrink * abar[t].sqrt()) ** 2 * variance_of_data + shrink**2 * (1 - abar[t])
        of_clean = before.sqrt() * beta / (1 - abar[t])
        small = beta * (1 - before) / (1 - abar[t])
        variance = small if variance_type == "fixed_small" else beta
        expected = 0.5 * (small / variance - 1 - (small / variance).log() + of_clean**2 * error / variance)
        assert bound.terms[:, place].mean().item() == pytest.approx(expected.item() / math.log(2), rel=0.03)


def test_the_bound_of_gaussian_data_lies_above_their_entropy():
    """-log2 of a density of standard deviation STD in bins of 2 / 255; more and smaller steps bring it nearer."""
    entropy = 0.5 * math.log2(2 * math.pi * math.e * STD**2) - math.log2(2 / 255)
    images = gaussian_images(100)
    excess = []
    for num in (50, 200, 1000):
        scheduler = scheduler_of(num)
        generator = torch.Generator().manual_seed(0)
        bound = variational_bound(Exact(scheduler), scheduler, images, num_timesteps=49, generator=generator)
        excess.append(bound.bits_per_dim.mean().item() - entropy)
        assert torch.allclose(bound.bits_per_dim, bound.prior + bound.denoising + bound.reconstruction)
    assert 0 < excess[2] < excess[1] < excess[0] < 2.1 and excess[2] < 0.9


def test_the_prior_is_the_divergence_of_the_end_from_noise():
    scheduler = scheduler_of(100)
    images = gaussian_images(4)
    abar = diffusion.alphas_cumprod(scheduler)[-1]
    clean = 2 * images - 1
    end = torch.distributions.Normal(abar.sqrt() * clean, (1 - abar).sqrt())
    normal = torch.distributions.Normal(torch.zeros_like(clean), torch.ones_like(clean))
    expected = torch.distributions.kl_divergence(end, normal).flatten(1).mean(1) / math.log(2)
    bound = variational_bound(Exact(scheduler), scheduler, images, num_timesteps=1)
    assert torch.allclose(bound.prior, expected)


def test_one_who_knows_the_image_pays_for_the_variance_alone():
    images = gaussian_images(5)
    scheduler = scheduler_of(30)
    bound = variational_bound(Knowing(scheduler, images), scheduler, images)
    assert bound.terms.abs().max() < 1e-6
    large = scheduler_of(30, "fixed_large")
    abar = diffusion.alphas_cumprod(large)
    small = (1 - abar[:-1]) / (1 - abar[1:])  # of beta
    expected = 0.5 * (small - 1 - small.log()) / math.log(2)
    bound = variational_bound(Knowing(large, images), large, images)
    assert torch.allclose(bound.terms, expected.expand(5, -1), atol=1e-6)


def test_drawn_timesteps_give_the_exact_sum_on_average():
    """One timestep in each part, and the mean over many images lies within its standard error of the exact one."""
    scheduler = scheduler_of(60)
    images = gaussian_images(400, size=8)
    network = Exact(scheduler)
    exact = variational_bound(network, scheduler, images, generator=torch.Generator().manual_seed(1))
    drawn = variational_bound(network, scheduler, images, num_timesteps=7, generator=torch.Generator().manual_seed(2))
    assert drawn.timesteps.shape == drawn.terms.shape == (400, 7)
    edges = strata(59, 7)
    for place in range(7):
        column = drawn.timesteps[:, place]
        assert column.min() == edges[place] and column.max() == edges[place + 1] - 1
    difference = drawn.denoising - exact.denoising
    assert abs(difference.mean()) < 4 * difference.std() / 20
    assert difference.std() > 0


@pytest.mark.parametrize(("last", "num"), [(999, 1), (999, 50), (999, 998), (999, 999), (24, 7), (1, 1)])
def test_strata_hold_each_timestep_once(last, num):
    edges = strata(last, num)
    assert edges[0] == 1 and edges[-1] == last + 1 and len(edges) == num + 1
    widths = [after - before for before, after in zip(edges[:-1], edges[1:], strict=True)]
    assert min(widths) >= 1 and (num == last) == (max(widths) == 1)


def test_the_same_generator_gives_the_same_bound(tiny_unet):
    scheduler, unet, images = scheduler_of(30, clip_sample=True), tiny_unet(), gaussian_images(3, size=8).float()
    first, second, other = (
        variational_bound(unet, scheduler, images, num_timesteps=3, generator=torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    )
    assert torch.equal(first.bits_per_dim, second.bits_per_dim)
    assert not torch.equal(first.bits_per_dim, other.bits_per_dim)
    state = torch.get_rng_state()
    variational_bound(unet, scheduler, images, num_timesteps=3, generator=torch.Generator())
    assert torch.equal(state, torch.get_rng_state())


def test_predictions_are_clipped_as_the_scheduler_clips_them():
    class Wild:
        def __call__(self, noisy, timesteps, class_labels=None, return_dict=True):
            return (torch.full_like(noisy, 7.0),)

    images = torch.ones(2, 1, 4, 4)  # the brightest
    scheduler = scheduler_of(30, prediction_type="sample", clip_sample=True)
    assert variational_bound(Wild(), scheduler, images).denoising.abs().max() < 1e-6
    scheduler.register_to_config(clip_sample=False)
    assert variational_bound(Wild(), scheduler, images).denoising.min() > 1


def test_labels_reach_a_conditional_network(tiny_unet):
    scheduler, unet, images = scheduler_of(30), tiny_unet(num_classes=2), gaussian_images(2, size=8).float()
    bounds = [
        variational_bound(
            unet, scheduler, images, labels=torch.full((2,), label), generator=torch.Generator().manual_seed(0)
        ).bits_per_dim
        for label in (0, 1)
    ]
    assert not torch.equal(*bounds)


@pytest.mark.parametrize("scale", [0.005, 0.1, 2.0])
def test_the_decoder_is_a_distribution_over_256_values(scale):
    values = torch.arange(256, dtype=torch.float64) / 255 * 2 - 1
    mean = torch.tensor([-1.3, -1.0, -0.2, 0.0, 0.51, 1.0], dtype=torch.float64)[:, None]
    log = discretized_log_likelihood(values, mean, torch.tensor(scale**2, dtype=torch.float64))
    assert torch.allclose(log.exp().sum(1), torch.ones(6, dtype=torch.float64))
    # By the differences of the distribution function, where these are not lost in rounding.
    normal = torch.distributions.Normal(mean, scale)
    plain = normal.cdf(values + 1 / 255) - normal.cdf(values - 1 / 255)
    kept = (plain > 1e-6) & (values > -1) & (values < 1)
    assert kept.any() and torch.allclose(log[kept], plain[kept].log(), atol=1e-5)


def test_pixels_far_from_the_mean_stay_finite():
    values = torch.tensor([-1.0, -0.5, 0.5, 1.0], dtype=torch.float64)
    log = discretized_log_likelihood(values, -values, torch.tensor(1e-6, dtype=torch.float64))
    assert log.isfinite().all() and (log < -1e4).all()


def test_divergence_of_gaussians():
    first, second = torch.distributions.Normal(0.3, 0.5), torch.distributions.Normal(-0.2, 1.5)
    got = gaussian_kl(first.mean, first.variance, second.mean, second.variance)
    assert got.item() == pytest.approx(torch.distributions.kl_divergence(first, second).item())


@pytest.mark.parametrize("num", [0, 30])
def test_impossible_numbers_of_timesteps_are_refused(num):
    scheduler = scheduler_of(30)
    with pytest.raises(ValueError, match=rf"num_timesteps is {num}; it must be from 1 to T - 1"):
        variational_bound(Exact(scheduler), scheduler, gaussian_images(1), num_timesteps=num)


def test_learned_variances_are_refused():
    scheduler = scheduler_of(25, "learned")
    with pytest.raises(ValueError, match="variance_type is 'learned'"):
        variational_bound(Exact(scheduler), scheduler, gaussian_images(1))


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_who_knows_the_image_pays_for_the_last_step_by_its_variance(kind):
    images, scheduler = gaussian_images(5), scheduler_of(30, kind)
    bound = variational_bound(Knowing(scheduler, images), scheduler, images, num_timesteps=1)
    abar = diffusion.alphas_cumprod(scheduler)
    std = ((1 - abar[1] / abar[0]) * (1 - abar[0]) / (1 - abar[1])).sqrt().item()
    expected = torch.full((5,), -math.log2(math.erf(1 / 255 / std / math.sqrt(2))), dtype=torch.double)
    torch.testing.assert_close(bound.reconstruction, expected, rtol=1e-5, atol=1e-5)
