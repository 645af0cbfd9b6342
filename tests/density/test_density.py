"""Divergences, Gaussians and flows against closed forms, quadrature and autograd."""

import math

import pytest
import torch
from torch.distributions import Categorical, Cauchy, MixtureSameFamily, MultivariateNormal, Normal
from torch.optim.optimizer import register_optimizer_step_pre_hook

from hwzoo import density
from hwzoo.density.targets import TARGETS
from hwzoo.errors import HwzooError, UsageError

EVEN = density.mixture([0.5, 0.5], [-2.0, 2.0], [0.5, 0.5])
UNEVEN = density.mixture([0.7, 0.3], [-2.0, 2.0], [0.5, 0.5])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


# The line


def test_a_mixture_is_that_of_torch():
    weights, means, stds = [0.2, 0.5, 0.3], [-1.0, 0.0, 4.0], [0.3, 1.0, 2.0]
    components = Normal(torch.tensor(means), torch.tensor(stds))
    expected = MixtureSameFamily(Categorical(torch.tensor(weights)), components)
    points = torch.linspace(-5, 9, 100)
    log_density = density.mixture(weights, means, stds)(points)
    torch.testing.assert_close(log_density.float(), expected.log_prob(points))
    samples = density.mixture_samples(weights, means, stds)(100_000, seeded())
    assert samples.mean().item() == pytest.approx(expected.mean.item(), abs=0.03)
    assert samples.var().item() == pytest.approx(expected.variance.item(), rel=0.02)


@pytest.mark.parametrize("other", [(0.0, 1.0), (1.0, 1.0), (-3.0, 0.2), (0.5, 6.0)])
def test_the_divergence_of_gaussians_is_the_closed_form(other):
    mean, std = other
    expected = torch.distributions.kl_divergence(Normal(0.3, 1.5), Normal(mean, std)).item()
    assert density.kl_divergence(density.normal(0.3, 1.5), density.normal(mean, std)) == pytest.approx(expected, 1e-4)


def test_a_point_without_mass_makes_no_divergence_infinite():
    """Where Q's density is 0, or has a pole: at 0, which the quadrature looks at."""
    exponential = lambda x: torch.where(x >= 0, -x, -math.inf)  # noqa: E731
    gamma = lambda k: lambda x: torch.where(x >= 0, (k - 1) * x.log() - x - math.lgamma(k), -math.inf)  # noqa: E731
    for k in (2, 0.5):  # E log x is minus Euler's constant
        expected = math.lgamma(k) + (k - 1) * 0.577216
        assert density.kl_divergence(exponential, gamma(k)) == pytest.approx(expected, abs=5e-3)
    twice = lambda x: density.normal()(x) + 2 * x.abs().log()  # noqa: E731
    expected = 0.577216 + math.log(2)  # minus the mean of log x^2
    assert density.kl_divergence(density.normal(), twice) == pytest.approx(expected, abs=5e-3)
    assert density.window_kl(density.normal(), twice, 10) == pytest.approx(expected, abs=5e-3)


def test_what_is_infinite_is_told_as_infinite():
    narrow, wide = density.uniform(0, 1), density.uniform(0, 2)
    assert density.uniform(0, 3)(torch.tensor(1.0)).item() == -math.log(3)
    assert density.kl_divergence(narrow, wide) == pytest.approx(math.log(2), abs=1e-3)
    assert density.kl_divergence(wide, narrow) == math.inf
    normal, cauchy = density.normal(), density.cauchy()
    points = torch.linspace(-5, 5, 11, dtype=torch.double)
    torch.testing.assert_close(density.cauchy(2.0, 0.5)(points), Cauchy(2.0, 0.5).log_prob(points))
    assert density.kl_divergence(normal, cauchy) == pytest.approx(0.25924, abs=1e-4)
    assert density.kl_divergence(cauchy, normal) == math.inf
    # A grid that ends makes it finite, and any number one likes.
    windows = [density.window_kl(cauchy, normal, width) for width in (10, 100, 400)]
    assert windows == pytest.approx([1.5, 29.8, 125.2], abs=0.1)
    # Heavy tails on both sides: finite, log((1 + 2)^2 / (4 * 2)) (Chyzak and Nielsen, arXiv:1905.10965).
    expected = math.log(3**2 / 8)
    assert density.kl_divergence(cauchy, density.cauchy(0, 2)) == pytest.approx(expected, abs=1e-5)
    # Tails of exp(-|x|) under a Cauchy: the shells add the same again and again, the sum grows without end.
    laplace = lambda points: -points.abs() - math.log(2)  # noqa: E731
    assert density.kl_divergence(cauchy, laplace) == math.inf
    assert math.isfinite(density.kl_divergence(laplace, cauchy))


@pytest.mark.parametrize("end", [3, 5, 9, 50, 100, 1000])
def test_what_lies_beyond_an_end_between_two_points_is_no_divergence_below_zero(end):
    """The truth is infinite: the sum of what the points see is below 0, and a number that cannot be."""
    with pytest.raises(UsageError, match="the divergence is -.* by quadrature: .* it may be infinite"):
        density.kl_divergence(density.uniform(0, end * (1 + 2e-4)), density.uniform(0, end))
    assert density.kl_divergence(density.uniform(0, end * 1.1), density.uniform(0, end)) == math.inf


def test_what_is_not_there_to_be_fitted_is_told():
    with pytest.raises(UsageError, match="^names has 'moon'; it must be some of potential_1, .*, moons$"):
        density.targets(["moons", "moon"])
    with pytest.raises(UsageError, match="^kind is 'glow'; it must be one of "):
        density.fit_flows(
            "glow",
            "forward",
            density.targets(["moons"]),
            steps=1,
            batch_size=2,
            learning_rate=1e-3,
            generator=seeded(),
        )
    for std in (0.0, -1.0, math.nan):
        with pytest.raises(UsageError, match="its standard deviation must be above 0"):
            density.fit_gaussian(EVEN, "reverse", (0.0, std))
    with pytest.raises(UsageError, match="no rest in .* steps: start nearer, or wider$"):
        density.fit_gaussian(density.normal(40.0, 1.0), "reverse")
    assert density.fit_gaussian(density.normal(40.0, 1.0), "reverse", (38.0, 1.0)).mean == pytest.approx(40, abs=1e-6)


def test_a_density_that_is_none_is_refused():
    with pytest.raises(UsageError, match="integrates to 2.0000 by quadrature, not to 1"):
        density.kl_divergence(lambda points: density.normal()(points) + math.log(2), density.normal())


@pytest.mark.parametrize(("mean", "std"), [(99.0, 5.0), (0.0, 100.0), (-200.0, 1.0), (1e4, 300.0)])
def test_the_forward_fit_of_a_gaussian_is_itself_wherever_it_lies(mean, std):
    fit = density.fit_gaussian(density.normal(mean, std), "forward")
    assert (fit.mean, fit.std) == pytest.approx((mean, std), abs=1e-3, rel=1e-6)
    assert fit.forward_kl == pytest.approx(0, abs=1e-6) and fit.reverse_kl == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("log_p", "direction", "told"),
    [
        (density.cauchy(), "forward", "P has no variance"),
        (density.uniform(0, 1), "reverse", "has nowhere to go"),
        (lambda points: -points.abs() - math.log(2), "reverse", "log P is flat or straight there"),
        (density.uniform(2, 2.01), "forward", "it jumps or is narrow where the points are far apart"),
        (EVEN, "Forward", "direction is 'Forward'; it must be 'forward' or 'reverse'"),
    ],
)
def test_a_gaussian_that_cannot_be_fitted_is_told(log_p, direction, told):
    with pytest.raises(UsageError, match=told):
        density.fit_gaussian(log_p, direction)


# The table of the course's question: P, direction, start -> mean, std, divergence of that direction, the other one.
TABLE = [
    (EVEN, "forward", 0.0, 0.0, 2.0616, 0.7236, 2.0976, True),
    (EVEN, "reverse", -2.0, -1.9998, 0.5004, 0.6931, 15.28, True),
    (EVEN, "reverse", 2.0, 1.9998, 0.5004, 0.6931, 15.28, True),
    (EVEN, "reverse", 0.0, 0.0, 1.7364, 1.8712, 0.757, True),  # a third minimum, as wide as both modes
    (UNEVEN, "forward", 0.0, -0.8, 1.9000, 0.7242, 2.096, True),
    (UNEVEN, "reverse", -2.0, -1.9999, 0.5003, 0.3566, 8.979, True),
    (UNEVEN, "reverse", 2.0, 1.9997, 0.5006, 1.2038, 21.73, True),
]


@pytest.mark.parametrize(("log_p", "direction", "start", "mean", "std", "own", "other", "minimum"), TABLE)
def test_the_gaussians_of_both_directions(log_p, direction, start, mean, std, own, other, minimum):
    fit = density.fit_gaussian(log_p, direction, (start, 1.0))
    assert (fit.mean, fit.std) == pytest.approx((mean, std), abs=1e-3)
    both = (fit.forward_kl, fit.reverse_kl) if direction == "forward" else (fit.reverse_kl, fit.forward_kl)
    assert both[0] == pytest.approx(own, abs=1e-3)
    assert both[1] == pytest.approx(other, rel=1e-3, abs=1e-3)
    assert fit.is_minimum is minimum
    # No neighbour is better, but at the saddle.
    if direction == "reverse":
        here = density.reverse_kl_of(log_p, torch.tensor([fit.mean, math.log(fit.std)], dtype=torch.float64))
        assert here.item() == pytest.approx(own, abs=1e-3)
        around = [(0.05, 0.0), (-0.05, 0.0), (0.0, 0.05), (0.0, -0.05)]
        near = [
            density.reverse_kl_of(log_p, torch.tensor([fit.mean + a, math.log(fit.std) + b], dtype=torch.float64))
            for a, b in around
        ]
        assert all(each > here for each in near) is minimum


def test_between_two_minima_lies_a_saddle_and_it_is_told():
    fit = density.fit_gaussian(EVEN, "reverse", (0.9, 1.3))
    assert (fit.mean, fit.std) == pytest.approx((0.889, 1.5037), abs=1e-3)
    assert not fit.is_minimum and fit.reverse_kl > 1.8712
    # By the mean it bends up, as at every stationary point: E_Q[-(log p)''] = 1 / std^2 there. The way down leads
    # aside: to the minimum in the middle, and to the mode.
    curvature = torch.autograd.functional.hessian(
        lambda each: density.reverse_kl_of(EVEN, each),
        torch.tensor([fit.mean, math.log(fit.std)], dtype=torch.float64),
    )
    assert curvature[0, 0].item() == pytest.approx(fit.std**-2, rel=1e-3)
    assert torch.linalg.eigvalsh(curvature)[0] < 0


def test_at_the_symmetric_start_the_mean_has_no_gradient():
    for log_std in (-1.0, 0.0, 0.5):
        parameters = torch.tensor([0.0, log_std], dtype=torch.float64, requires_grad=True)
        density.reverse_kl_of(EVEN, parameters).backward()
        assert abs(parameters.grad[0]) < 1e-12


def test_samples_give_the_divergences_of_the_quadrature():
    samples = density.mixture_samples([0.5, 0.5], [-2.0, 2.0], [0.5, 0.5])(10_000, seeded())
    for start, direction in ((0.0, "forward"), (2.0, "reverse")):
        fit = density.fit_gaussian(EVEN, direction, (start, 1.0)).with_monte_carlo(EVEN, samples, seeded(1))
        exact = {"forward": fit.forward_kl, "reverse": fit.reverse_kl}
        for name, (value, error) in fit.monte_carlo.items():
            assert abs(value - exact[name]) < 4 * error
        assert fit.monte_carlo[direction][0] == pytest.approx(exact[direction], abs=0.02)


# Flows of the plane


def moved(layers, by=0.5):
    with torch.no_grad():
        for index, parameter in enumerate(layers.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=seeded(index)), alpha=by)
    return layers


KINDS = {
    "planar": lambda: density.Planar(3, 4),
    "affine": lambda: density.Couplings(3, 4, "affine", 8),
    "spline": lambda: density.Couplings(3, 3, "spline", 8),
}
kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)


@pytest.mark.parametrize(("kind", "size"), [("spline", 23), ("spline", 32), ("affine", 2)])
def test_couplings_begin_close_to_the_identity_by_their_last_layer_alone(kind, size):
    torch.manual_seed(0)
    first, *_, last = density.Couplings(3, 4, kind, size).weights
    assert first.abs().max() > 0.3 and last.abs().max() < 0.01


@kinds
def test_flows_have_the_log_determinant_of_autograd_and_an_inverse(make):
    torch.manual_seed(0)
    spline = make is KINDS["spline"]
    layers = moved(make(), by=0.1 if spline else 0.5).double()  # steep splines lose digits on the way back
    points = 2.5 * torch.randn(3, 5, 2, generator=seeded(1), dtype=torch.float64)
    images, log_det = layers(points)
    back, inverse_log_det = layers.inverse(images)
    torch.testing.assert_close(back, points, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(inverse_log_det, -log_det, rtol=1e-6, atol=1e-6)
    for flow in range(3):
        for index in range(5):

            def alone(point, flow=flow, index=index):
                whole = points.clone()
                whole[flow, index] = point
                return layers(whole)[0]

            jacobian = torch.autograd.functional.jacobian(alone, points[flow, index])
            own = jacobian[flow, index]
            expected = torch.linalg.slogdet(own).logabsdet
            torch.testing.assert_close(log_det[flow, index], expected, rtol=1e-8, atol=1e-8)
            jacobian[flow, index] = 0
            assert not jacobian.any()  # no flow and no point sees another
    assert (images - points).abs().max() > 0.3


@pytest.mark.parametrize("kind", ["affine", "spline"])
def test_couplings_change_one_coordinate_after_the_other(kind):
    torch.manual_seed(0)
    point = torch.tensor([[[0.3, -0.8]]], dtype=torch.float64)
    for num_layers, dependent in ((1, [[True, False], [True, True]]), (2, [[True, True], [True, True]])):
        layers = moved(density.Couplings(1, num_layers, kind, 8), by=0.1).double()
        jacobian = torch.autograd.functional.jacobian(lambda each, layers=layers: layers(each)[0], point).view(2, 2)
        assert (jacobian != 0).tolist() == dependent


def test_planar_layers_are_invertible_whatever_their_parameters():
    layers = density.Planar(1, 1)
    for scale in (0.1, 1.0, 30.0):
        with torch.no_grad():
            layers.w.copy_(torch.tensor([2.0, -1.0]) * scale)
            layers.u.copy_(torch.tensor([-3.0, 1.5]) * scale)  # w u far below -1
        ((w, u, b),) = layers._layers(torch.float64)
        product = (w * u).sum().item()
        raw = (layers.w * layers.u).sum().double()
        assert product == pytest.approx(
            (torch.nn.functional.softplus(raw) - 1 + 1e-4).item(), abs=1e-9
        )  # |w|^2, not |w|
        assert product > -1
        a = torch.linspace(-10, 10, 2001).double()
        assert (a + product * torch.tanh(a + b.squeeze())).diff().min() > 0
        assert layers(torch.randn(1, 1000, 2, generator=seeded()))[1].isfinite().all()
        across = u.flatten() - layers.u.flatten().double()
        assert abs(across @ torch.tensor([1.0, 2.0]).double()) < 1e-6 * scale  # changed along w only


@kinds
def test_planes_are_densities_in_both_directions(make):
    torch.manual_seed(0)
    for towards in ("data", "base"):
        by = 0.05 if make is KINDS["spline"] else 0.2
        flow = density.PlaneFlow(moved(make(), by=by), towards).requires_grad_(False)
        axis = torch.arange(-10, 10, 0.08)
        grid = torch.cartesian_prod(axis, axis).expand(3, -1, -1)
        mass = flow.log_prob(grid).exp().sum(1) * 0.08**2
        torch.testing.assert_close(mass, torch.ones(3), rtol=0, atol=5e-3)
        points, log_q = flow.transform(torch.randn(3, 200, 2, generator=seeded()))
        torch.testing.assert_close(flow.log_prob(points), log_q, rtol=1e-3, atol=1e-3)


def test_a_spline_is_monotone_and_the_identity_beyond():
    raw = 3 * torch.randn(1, 1, 23, generator=seeded(), dtype=torch.float64)
    values = torch.linspace(-8, 8, 4001, dtype=torch.float64).view(1, -1, 1)
    images, log_slope = density.spline(values, raw.expand(1, 4001, -1))
    assert (images.diff(dim=1) > 0).all()
    outside = values.abs() >= 6
    assert torch.equal(images[outside], values[outside]) and not log_slope[outside].any()
    slopes = images.diff(dim=1) / values.diff(dim=1)
    between = (log_slope[:, 1:].exp() + log_slope[:, :-1].exp()) / 2
    assert ((slopes - between).abs() / between).median() < 1e-3
    back, back_log_slope = density.spline(images, raw.expand(1, 4001, -1), inverse=True)
    torch.testing.assert_close(back, values, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(back_log_slope, -log_slope, rtol=1e-5, atol=1e-5)


# Targets


@pytest.fixture(scope="module")
def all_targets():
    return density.targets(list(TARGETS))


def test_targets_are_densities_and_samples_are_theirs(all_targets):
    axis = torch.arange(-9, 9, 0.06)
    grid = torch.cartesian_prod(axis, axis)
    for target in all_targets:
        log_density = target.log_density(grid)
        assert log_density.exp().sum().item() * 0.06**2 == pytest.approx(1, abs=1e-3), target.name
        samples = target.draw(20_000, seeded())
        own = -target.log_density(samples)
        assert abs(own.mean() - target.entropy) < 4 * own.std() / 20_000**0.5, target.name
        probabilities = log_density.exp() * 0.06**2
        mean, square = probabilities @ grid, probabilities @ grid.square()
        error = (square - mean.square()).sqrt() / 20_000**0.5
        assert ((samples.mean(0) - mean).abs() < 4 * error + 1e-3).all(), target.name


def test_known_entropies(all_targets):
    entropy = {target.name: target.entropy for target in all_targets}
    # Eight Gaussians three standard deviations apart and more: ln 8 and that of one, but for a little overlap.
    assert entropy["eight"] == pytest.approx(math.log(8) + math.log(2 * math.pi * math.e * 0.25), abs=0.01)
    assert entropy["moons"] == pytest.approx(1.007, abs=0.002)
    # One Gaussian across, uniform along but for the walls: a trapezoid of length 8 and two Gaussian ends.
    ends = 0.4 * math.sqrt(2 * math.pi)
    along = math.log(8 + ends) + 0.5 * ends / (8 + ends)
    assert entropy["potential_2"] == pytest.approx(math.log(0.4 * math.sqrt(2 * math.pi * math.e)) + along, abs=1e-3)


def test_the_moons_are_those_of_scikit_learn(all_targets):
    from sklearn.datasets import make_moons

    theirs = torch.from_numpy(make_moons(20_000, noise=0.1, random_state=0)[0])
    (moons,) = [target for target in all_targets if target.name == "moons"]
    own = -moons.log_density(theirs)
    assert abs(own.mean() - moons.entropy) < 4 * own.std() / 20_000**0.5
    ours = moons.draw(20_000, seeded()).double()
    torch.testing.assert_close(ours.mean(0), theirs.mean(0), rtol=0, atol=0.03)
    torch.testing.assert_close(ours.T.cov(), theirs.T.cov(), rtol=0, atol=0.02)


# Fits


def gaussian_target():
    """One that flows can fit exactly."""
    exact = MultivariateNormal(torch.tensor([1.0, -0.5]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]), validate_args=False)

    def draw(num, generator):
        return exact.mean + torch.randn(num, 2, generator=generator) @ torch.linalg.cholesky(exact.covariance_matrix).T

    return density.Target("gaussian", exact.log_prob, 0.0, draw, exact.entropy().item(), 4.0)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_both_directions_find_a_gaussian(direction, monkeypatch):
    monkeypatch.setitem(density.FLOWS, "small", lambda num: density.Couplings(num, 2, hidden_size=8))
    targets = [gaussian_target()] * 2
    torch.manual_seed(0)
    settings = {"batch_size": 128, "learning_rate": 1e-2, "generator": seeded()}
    flow = density.fit_flows("small", direction, targets, steps=250, **settings)
    for scores in density.score_flows(flow, targets, 5_000, seeded(1)):
        assert scores.forward_kl[0] < 0.02 and scores.reverse_kl[0] < 0.02
        assert scores.negative_log_prob == pytest.approx(targets[0].entropy, abs=0.05)
        assert scores.effective_sample_size > 0.95 and scores.missed == 0


def test_the_rate_falls_over_the_second_half(monkeypatch):
    monkeypatch.setitem(density.FLOWS, "small", lambda num: density.Couplings(num, 2, hidden_size=8))
    rates, settings = [], {"batch_size": 4, "learning_rate": 1e-2, "generator": seeded()}
    hook = register_optimizer_step_pre_hook(lambda adam, *_: rates.append(adam.param_groups[0]["lr"]))
    try:
        density.fit_flows("small", "forward", [gaussian_target()], steps=10, **settings)
    finally:
        hook.remove()
    assert rates == pytest.approx([1e-2] * 6 + [8e-3, 6e-3, 4e-3, 2e-3])


def test_scores_are_those_of_two_gaussians():
    """Q of a flow that only shifts and scales: its divergences from a Gaussian P are known."""
    layers = density.Couplings(1, 2, hidden_size=4)
    with torch.no_grad():
        for parameter in [*layers.weights, *layers.biases]:
            parameter.zero_()
        layers.shift.copy_(torch.tensor([0.7, -0.2]))
        layers.log_scale.copy_(torch.tensor([0.3, -0.2]))
    q = MultivariateNormal(torch.tensor([0.7, -0.2]), (2 * torch.tensor([0.3, -0.2])).exp().diag())
    p = MultivariateNormal(torch.tensor([1.0, -0.5]), torch.tensor([[1.0, 0.3], [0.3, 0.5]]))
    (scores,) = density.score_flows(density.PlaneFlow(layers), [gaussian_target()], 40_000, seeded())
    for (value, error), exact in (
        (scores.forward_kl, torch.distributions.kl_divergence(p, q)),
        (scores.reverse_kl, torch.distributions.kl_divergence(q, p)),
    ):
        assert exact > 0.05 and abs(value - exact) < 4 * error
    samples = q.sample((40_000,))
    weights = (p.log_prob(samples) - q.log_prob(samples)).exp()
    expected = weights.sum().square() / (40_000 * weights.square().sum())
    assert scores.effective_sample_size == pytest.approx(expected.item(), abs=0.03)


def test_a_loss_that_is_not_finite_is_told():
    with pytest.raises(HwzooError, match="the reverse loss of realnvp is nan at step 100"):
        density.fit_flows("realnvp", "reverse", [gaussian_target()], steps=101, batch_size=4, learning_rate=1e20,
                          generator=seeded())  # fmt: skip
    with pytest.raises(HwzooError, match="the reverse fit of realnvp is not finite after 90 steps"):
        density.fit_flows("realnvp", "reverse", [gaussian_target()], steps=90, batch_size=4, learning_rate=1e20,
                          generator=seeded())  # fmt: skip
    with pytest.raises(UsageError, match="direction is 'backward'"):
        density.fit_flows("realnvp", "backward", [gaussian_target()], steps=1, batch_size=4, learning_rate=0.1,
                          generator=seeded())  # fmt: skip


def test_what_is_not_finite_counts_as_missed():
    layers = density.Couplings(1, 2, hidden_size=4)
    with torch.no_grad():
        layers.shift.fill_(math.nan)
    (scores,) = density.score_flows(density.PlaneFlow(layers), [gaussian_target()], 100, seeded())
    assert scores.missed == 1


def test_the_inverse_of_a_planar_flow_is_found_and_costs_more():
    torch.manual_seed(0)
    planar = density.inverse_cost(moved(density.Planar(2, 8)), seeded(), num_points=4_000)
    coupling = density.inverse_cost(density.Couplings(2, 8), seeded(), num_points=4_000)
    assert planar["evaluations"] == 60 and coupling["evaluations"] == 1
    assert planar["largest_error"] < 1e-4 and coupling["largest_error"] < 1e-4
    assert planar["seconds_inverse"] > 5 * planar["seconds_forward"]


def test_standard_errors_and_what_is_missed_by_closed_forms():
    num, std = 10_000, 0.3
    samples = torch.randn(num, generator=seeded(), dtype=torch.double)
    error = density.monte_carlo_kl(density.normal(), density.normal(1.0, 1.0), samples)[1]
    assert error == pytest.approx(0.01, rel=0.03)
    layers = density.Couplings(1, 2, hidden_size=4)
    with torch.no_grad():
        for parameter in [*layers.weights, *layers.biases]:
            parameter.zero_()
        layers.log_scale.fill_(math.log(std))
    exact = MultivariateNormal(torch.zeros(2), torch.eye(2), validate_args=False)

    def draw(num, generator):
        return torch.randn(num, 2, generator=generator)

    target = density.Target("normal", exact.log_prob, 0.0, draw, exact.entropy().item(), 4.0)
    (scores,) = density.score_flows(density.PlaneFlow(layers), [target], num, seeded())
    slope = (1 / std**2 - 1) / 2  # log p - log q = 2 ln std + slope |x|^2; of P |x|^2 has the variance 4
    assert scores.forward_kl[1] == pytest.approx(2 * slope / num**0.5, rel=0.05)
    assert scores.reverse_kl[1] == pytest.approx(2 * slope * std**2 / num**0.5, rel=0.05)
    square = (math.log(100) - 2 * math.log(std)) / slope  # of the radius outside of which Q has too little
    assert scores.missed == pytest.approx(math.exp(-square / 2), abs=0.02)
    assert scores.negative_log_prob == pytest.approx(math.log(2 * math.pi * std**2) + 1 / std**2, rel=0.03)


@pytest.mark.parametrize("place", [(0.3, -0.8), (1.2, 1.9), (-2.1, 0.4), (1.0, -2.2), (3.5, 0.6)])
def test_the_potentials_are_those_of_the_paper(place):
    """Rezende and Mohamed, arXiv:1505.05770, table 1; |x| < 4: no wall."""

    def bell(distance):
        return math.exp(-(distance**2) / 2)

    x, y = place
    w1, w2 = math.sin(2 * math.pi * x / 4), 3 * math.exp(-(((x - 1) / 0.6) ** 2) / 2)
    w3 = 3 / (1 + math.exp(-(x - 1) / 0.3))
    energies = {
        "potential_1": ((math.hypot(x, y) - 2) / 0.4) ** 2 / 2 - math.log(bell((x - 2) / 0.6) + bell((x + 2) / 0.6)),
        "potential_2": ((y - w1) / 0.4) ** 2 / 2,
        "potential_3": -math.log(bell((y - w1) / 0.35) + bell((y - w1 + w2) / 0.35)),
        "potential_4": -math.log(bell((y - w1) / 0.4) + bell((y - w1 + w3) / 0.35)),
    }
    for name, energy in energies.items():
        found = TARGETS[name][0](torch.tensor(place, dtype=torch.double)).item()
        assert found == pytest.approx(-energy), name


@pytest.mark.parametrize("annealed", [False, True])
def test_annealing_weighs_the_density_more_and_more(annealed, monkeypatch):
    """The weight of log p is what its gradient says: -1 / 64 of it for each of the 64 points."""
    monkeypatch.setitem(density.FLOWS, "small", lambda num: density.Couplings(num, 2, hidden_size=8))
    weights = []

    def watched(targets, points, log_densities=density.fits.log_densities):
        values = log_densities(targets, points)
        values.register_hook(lambda gradient: weights.append(-64 * gradient[0, 0].item()))
        return values

    monkeypatch.setattr(density.fits, "log_densities", watched)
    asked = {"steps": 20, "batch_size": 64, "learning_rate": 1e-2, "annealed": annealed}
    density.fit_flows("small", "reverse", density.targets(["moons"]), **asked, generator=seeded())
    rising = [0.01 + 0.1 * step for step in range(10)] + [1.0] * 10
    assert weights == pytest.approx(rising if annealed else [1.0] * 20)
