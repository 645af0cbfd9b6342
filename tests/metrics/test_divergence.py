"""Densities and divergences against closed forms, histograms and quadrature of their own."""

import math

import pytest
import torch
from scipy.integrate import quad
from scipy.optimize import minimize_scalar

from hwzoo.errors import UsageError
from hwzoo.metrics import (
    jensen_shannon_divergence,
    normal_log_density,
    penalised_wasserstein,
    unwarp,
    warp,
    warped_normal_log_density,
)

LINE = torch.linspace(-10, 10, 4001, dtype=torch.float64)


def normal(mean):
    return normal_log_density(LINE - mean)


# Densities


def test_the_normal_density_is_that_of_torch():
    assert torch.equal(normal_log_density(LINE), normal_log_density(-LINE))
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(LINE)
    assert torch.allclose(normal_log_density(LINE), expected, rtol=0, atol=1e-12)


def test_warping_is_undone():
    latents = torch.linspace(-9, 9, 1001, dtype=torch.float64).reshape(7, 143)
    assert torch.allclose(unwarp(warp(latents)), latents, rtol=0, atol=1e-12)
    points = torch.tensor([-1e6, -3.0, 0.0, 0.5, 1e6])
    assert torch.allclose(warp(unwarp(points)), points.double(), rtol=1e-14, atol=1e-14)
    assert warp(torch.tensor(-0.5)) == -0.375  # tanh(0) - 0.375


def test_the_warped_density_is_one():
    density = warped_normal_log_density(LINE).exp()
    assert torch.trapezoid(density, LINE).item() == pytest.approx(1, abs=1e-9)


def test_the_warped_density_follows_the_slope_that_autograd_gives():
    latents = torch.linspace(-4, 4, 101, dtype=torch.float64, requires_grad=True)
    points = warp(latents)
    (slope,) = torch.autograd.grad(points.sum(), latents)
    expected = torch.distributions.Normal(0.0, 1.0).log_prob(latents) - slope.log()
    assert torch.allclose(warped_normal_log_density(points.detach()), expected.detach(), rtol=0, atol=1e-9)


def test_the_warped_density_is_that_of_samples():
    num, edges = 400_000, torch.linspace(-4, 4, 41, dtype=torch.float64)
    samples = warp(torch.randn(num, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    counts = torch.histogram(samples, edges).hist
    cells = torch.stack([torch.linspace(low, high, 21) for low, high in zip(edges, edges[1:], strict=False)]).double()
    expected = num * torch.trapezoid(warped_normal_log_density(cells).exp(), cells)
    assert ((counts - expected) / expected.sqrt()).abs().max() < 4.5
    assert (counts - expected).square().div(expected).mean().item() == pytest.approx(1, abs=0.8)


# Divergences


def test_the_divergence_of_the_course_pair():
    """0.0875 nats, once by this function and once by scipy's adaptive quadrature of other formulas."""
    value = jensen_shannon_divergence(warped_normal_log_density(LINE), normal(0), LINE)
    assert value == pytest.approx(0.0875, abs=1e-4)

    def integrand(latent):
        # Over z instead of x = g(z): f1 dx = phi(z) dz, and ln of ratios only.
        slope = 2 / math.cosh(2 * latent + 1) ** 2 + 0.75
        f1 = math.exp(-(latent**2) / 2) / math.sqrt(2 * math.pi)
        f0 = math.exp(-((math.tanh(2 * latent + 1) + 0.75 * latent) ** 2) / 2) / math.sqrt(2 * math.pi) * slope
        return (f1 * math.log(2 * f1 / (f0 + f1)) + f0 * math.log(2 * f0 / (f0 + f1))) / 2

    assert value == pytest.approx(quad(integrand, -11, 11, epsabs=1e-10, limit=200)[0], abs=1e-8)


def test_the_value_of_the_game_at_the_best_discriminator():
    """V(G, D*) = E_p[ln D*] + E_q[ln(1 - D*)] = 2 JSD - ln 4, equation 1 and theorem 1 of arXiv:1406.2661."""
    for log_p, log_q in ((warped_normal_log_density(LINE), normal(0)), (normal(-1), normal(0.5))):
        best = (log_p - log_q).sigmoid()
        value = torch.trapezoid(log_p.exp() * best.log() + log_q.exp() * (1 - best).log(), LINE).item()
        assert value == pytest.approx(2 * jensen_shannon_divergence(log_p, log_q, LINE) - math.log(4), abs=1e-9)


def test_divergences_between_their_ends():
    assert jensen_shannon_divergence(normal(1), normal(1), LINE) == pytest.approx(0, abs=1e-12)
    assert jensen_shannon_divergence(normal(-6), normal(6), LINE) == pytest.approx(math.log(2), abs=1e-4)
    near, far = (jensen_shannon_divergence(normal(0), normal(shift), LINE) for shift in (0.1, 0.2))
    # To second order in the shift it is shift^2 / 8, an eighth of the Fisher information.
    assert near == pytest.approx(0.1**2 / 8, rel=0.01) and far == pytest.approx(0.2**2 / 8, rel=0.03)
    forth, back = (jensen_shannon_divergence(normal(a), normal(b), LINE) for a, b in ((0, 2), (2, 0)))
    assert forth == pytest.approx(back, rel=1e-12)


def test_where_densities_are_zero():
    points = torch.linspace(0, 2, 20_001, dtype=torch.float64)
    first = torch.where(points <= 1, 0.0, -math.inf)
    second = torch.where(points >= 1, 0.0, -math.inf)
    assert jensen_shannon_divergence(first, second, points) == pytest.approx(math.log(2), abs=1e-3)
    # Uniform on [0, 1] and on [0, 2]: by hand, 1/2 ln(4/3) + 1/4 ln(2/3) + 1/4 ln 2.
    wide = torch.full_like(points, -math.log(2))
    expected = math.log(4 / 3) / 2 + math.log(2 / 3) / 4 + math.log(2) / 4
    assert jensen_shannon_divergence(first, wide, points) == pytest.approx(expected, abs=1e-3)


def test_points_that_miss_a_density_are_refused():
    with pytest.raises(UsageError, match=r"a density integrates to 0\.5000 over these 2001 points"):
        jensen_shannon_divergence(normal(0)[2000:], normal(5)[2000:], LINE[2000:])
    with pytest.raises(UsageError, match="integrates to nan"):
        jensen_shannon_divergence(normal(0), torch.full_like(LINE, math.nan), LINE)


# The critic with a penalty


@pytest.mark.parametrize("shift", [-1.0, -0.3, 0.0, 0.7])
@pytest.mark.parametrize("weight", [1.0, 10.0, 50.0])
def test_the_best_penalised_critic(shift, weight):
    best = minimize_scalar(
        lambda slope: weight * (slope - 1) ** 2 - slope * abs(shift), bounds=(0, 3), method="bounded"
    )
    assert penalised_wasserstein(shift, weight) == pytest.approx(best.x * abs(shift), abs=1e-4)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
def test_a_penalty_without_weight_has_no_best_critic(weight):
    with pytest.raises(UsageError, match=rf"weight is {weight}; it must be in \(0, inf\)"):
        penalised_wasserstein(0.5, weight)
