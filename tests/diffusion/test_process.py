"""The forward process and its posterior: against the paper's formulas, diffusers' scheduler and a chain of steps."""

import math

import pytest
import torch
from diffusers import DDPMScheduler

from hwzoo import diffusion

T = 1000
SCHEDULES = tuple(diffusion.BETA_SCHEDULES)


def formulas(betas):
    """beta_t, alpha_t and abar_t of the paper as Python floats, t from 1 to T; abar_0 = 1."""
    beta = [None, *betas.double().tolist()]
    alpha = [None] + [1 - b for b in beta[1:]]
    abar = [1.0]
    for a in alpha[1:]:
        abar.append(abar[-1] * a)
    return beta, alpha, abar


@pytest.fixture(params=SCHEDULES)
def scheduler(request):
    return diffusion.train_scheduler(T, request.param)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(T, 1, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2)]


def test_closed_form_is_the_papers(scheduler, images):
    x_0, eps = images
    _, _, abar = formulas(scheduler.betas)
    x_t = diffusion.q_sample(x_0, eps, torch.arange(T), diffusion.alphas_cumprod(scheduler))
    for t in range(1, T + 1):
        expected = math.sqrt(abar[t]) * x_0[t - 1] + math.sqrt(1 - abar[t]) * eps[t - 1]
        assert (x_t[t - 1] - expected).abs().max() < 1e-10


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_images_of_half_precision_get_noise_at_every_step(dtype, scheduler):
    """findings/bfloat16_steps_without_noise.sh: that of diffusers is lost where abar_t is rounded first."""
    zeros, ones = torch.zeros(T, 1, 1, 1, dtype=dtype), torch.ones(T, 1, 1, 1, dtype=dtype)
    noise = diffusion.q_sample(zeros, ones, torch.arange(T), diffusion.alphas_cumprod(scheduler))
    expected = torch.tensor(formulas(scheduler.betas)[2][1:], dtype=torch.float64)
    assert noise.dtype == dtype
    torch.testing.assert_close(noise.double().flatten(), (1 - expected).sqrt(), rtol=torch.finfo(dtype).eps, atol=0)


def test_posterior_is_the_papers(scheduler, images):
    x_0, x_t = images
    beta, alpha, abar = formulas(scheduler.betas)
    mean, variance = diffusion.q_posterior(x_0, x_t, torch.arange(T), diffusion.alphas_cumprod(scheduler))
    assert variance.shape == (T, 1, 1, 1)
    for t in range(1, T + 1):
        of_clean = math.sqrt(abar[t - 1]) * beta[t] / (1 - abar[t])
        of_noisy = math.sqrt(alpha[t]) * (1 - abar[t - 1]) / (1 - abar[t])
        assert (mean[t - 1] - of_clean * x_0[t - 1] - of_noisy * x_t[t - 1]).abs().max() < 1e-10
        assert abs(variance[t - 1].item() - (1 - abar[t - 1]) / (1 - abar[t]) * beta[t]) < 1e-10
    assert torch.equal(mean[0], x_0[0]) and variance[0] == 0  # x_0 itself comes before the first


def test_posterior_is_bayes_rule(scheduler):
    """q(x_{t-1} | x_t, x_0) is proportional to q(x_t | x_{t-1}) q(x_{t-1} | x_0), computed on a grid."""
    beta, alpha, abar = formulas(scheduler.betas)
    x_0, x_t, grid = 0.3, -0.4, torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    for t in (2, 50, 500, 900):
        log = -((x_t - math.sqrt(alpha[t]) * grid) ** 2) / (2 * beta[t])
        log = log - (grid - math.sqrt(abar[t - 1]) * x_0) ** 2 / (2 * (1 - abar[t - 1]))
        weights = log.softmax(0)
        expected = (weights * grid).sum()
        one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
        mean, variance = diffusion.q_posterior(
            x_0 * one, x_t * one, torch.tensor([t - 1]), diffusion.alphas_cumprod(scheduler)
        )
        assert mean.item() == pytest.approx(expected.item(), abs=1e-7)
        assert variance.item() == pytest.approx((weights * (grid - expected) ** 2).sum().item(), rel=1e-5)


def test_closed_form_agrees_with_the_scheduler(scheduler, images):
    x_0, eps = (each.float() for each in images)
    ours = diffusion.q_sample(x_0, eps, torch.arange(T), diffusion.alphas_cumprod(scheduler))
    theirs = scheduler.add_noise(x_0, eps, torch.arange(T))
    assert ours.dtype == torch.float32 and (ours - theirs).abs().max() < 2e-4


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_posterior_agrees_with_a_step_of_the_scheduler(schedule, prediction_type):
    """Its step is in float32 and loses digits at small t: up to 2e-4, from t = 20 on 1e-5 (the others, from 60 on)."""
    exact_from = 20 if schedule == "linear" else 60
    scheduler = diffusion.train_scheduler(T, schedule, prediction_type)
    scheduler.register_to_config(clip_sample=False)
    abar = diffusion.alphas_cumprod(scheduler)
    generator = torch.Generator().manual_seed(0)
    x_0, eps = (torch.rand(1, 1, 4, 4, generator=generator) * 2 - 1, torch.randn(1, 1, 4, 4, generator=generator))
    for t in [*range(0, 40), *range(40, T, 37), T - 1]:
        # The cosine schedule ends in pure noise, from which no float32 gives x_0 back.
        if prediction_type == "epsilon" and abar[t] < 1e-4:
            continue
        timestep = torch.tensor([t])
        x_t = diffusion.q_sample(x_0, eps, timestep, abar)
        target = diffusion.prediction_target(x_0, eps, timestep, abar, prediction_type)
        step = torch.Generator().manual_seed(t)
        theirs = scheduler.step(target, t, x_t, generator=step).prev_sample
        mean, variance = diffusion.q_posterior(x_0, x_t, timestep, abar)
        noise = torch.randn(x_t.shape, generator=torch.Generator().manual_seed(t)) if t else 0
        assert (mean + variance.sqrt() * noise - theirs).abs().max() < (2e-4 if t < exact_from else 1e-5), t


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_chain_of_single_steps_has_the_closed_forms_moments(schedule):
    """q(x_t | x_{t-1}) again and again: mean sqrt(abar_t) x_0 and variance 1 - abar_t, as q_sample has them."""
    steps, num = 30, 200_000
    scheduler = diffusion.train_scheduler(steps, schedule)
    abar = diffusion.alphas_cumprod(scheduler)
    generator = torch.Generator().manual_seed(0)
    x_0 = 0.7
    chain = torch.full((num,), x_0, dtype=torch.float64)
    for t, beta in enumerate(scheduler.betas.double()):
        noise = torch.randn(num, generator=generator, dtype=torch.float64)
        chain = (1 - beta).sqrt() * chain + beta.sqrt() * noise
        noise = torch.randn(num, 1, 1, 1, generator=generator, dtype=torch.float64)
        closed = diffusion.q_sample(torch.full_like(noise, x_0), noise, torch.full((num,), t), abar).flatten()
        mean, variance = math.sqrt(abar[t]) * x_0, 1 - abar[t].item()
        for sample in (chain, closed):  # within five standard errors
            assert abs(sample.mean().item() - mean) < 5 * math.sqrt(variance / num)
            assert abs(sample.var().item() / variance - 1) < 5 * math.sqrt(2 / num)


@pytest.mark.parametrize("prediction_type", diffusion.PREDICTION_TYPES)
def test_a_right_prediction_gives_the_clean_image_back(prediction_type, scheduler, images):
    x_0, eps = images
    timesteps = torch.arange(0, T - 1)  # the cosine schedule leaves 1e-9 of the image at its last
    abar, x_0, eps = diffusion.alphas_cumprod(scheduler), x_0[:-1], eps[:-1]
    x_t = diffusion.q_sample(x_0, eps, timesteps, abar)
    target = diffusion.prediction_target(x_0, eps, timesteps, abar, prediction_type)
    assert (diffusion.predicted_clean(target, x_t, timesteps, abar, prediction_type) - x_0).abs().max() < 1e-8


def test_v_is_diffusers(scheduler, images):
    x_0, eps = (each.float() for each in images)
    ours = diffusion.prediction_target(x_0, eps, torch.arange(T), diffusion.alphas_cumprod(scheduler), "v_prediction")
    assert (ours - scheduler.get_velocity(x_0, eps, torch.arange(T))).abs().max() < 2e-4


@pytest.mark.parametrize("function", [diffusion.prediction_target, diffusion.predicted_clean])
def test_unknown_prediction_types_are_refused(function):
    image = torch.zeros(1, 1, 2, 2)
    with pytest.raises(
        ValueError, match="prediction_type is 'noise'; it must be one of epsilon, v_prediction, sample"
    ):
        function(image, image, torch.tensor([0]), torch.tensor([0.5]), "noise")


def test_the_linear_schedule_is_the_papers_and_is_scaled():
    standard = diffusion.train_scheduler(1000)
    assert standard.betas[[0, -1]].tolist() == pytest.approx([1e-4, 0.02])
    assert torch.equal(standard.betas, DDPMScheduler().betas)
    left = [diffusion.alphas_cumprod(diffusion.train_scheduler(num))[-1].item() for num in (1000, 100)]
    assert left[0] == pytest.approx(4.04e-5, rel=0.01) and 0.3 < left[1] / left[0] < 1


def test_the_cosine_schedule_is_the_papers():
    """abar_t = f(t) / f(0), f(t) = cos((t / T + 0.008) / 1.008 pi / 2)^2: equation 17 of arXiv:2102.09672."""
    abar = diffusion.alphas_cumprod(diffusion.train_scheduler(T, "cosine"))
    f = [math.cos((t / T + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(T + 1)]
    expected = torch.tensor(f[1:], dtype=torch.float64) / f[0]
    assert (abar - expected)[:-1].abs().max() < 1e-6


def test_the_images_of_flow_matching_lie_on_the_straight_path(images):
    """(1 - s) x_0 + s noise for s = 1 / (T + 1), ..., T / (T + 1), but for its scale, the root of (1 - s)^2 + s^2."""
    abar = diffusion.alphas_cumprod(diffusion.train_scheduler(T, "flow_matching"))
    s = (torch.arange(1, T + 1, dtype=torch.float64) / (T + 1)).view(-1, 1, 1, 1)
    x_0, eps = images
    expected = ((1 - s) * x_0 + s * eps) / ((1 - s).square() + s.square()).sqrt()
    torch.testing.assert_close(diffusion.q_sample(x_0, eps, torch.arange(T), abar), expected, rtol=1e-6, atol=1e-6)
