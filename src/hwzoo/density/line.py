"""Densities on the line, their Kullback-Leibler divergences by quadrature, and Gaussians that make these smallest."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from ..errors import UsageError

LogDensity = Callable[[Tensor], Tensor]
# The line in shells |x| <= 10, 100 ... 1e8, each by the trapezoid rule in t where x = sinh(t): close together near 0.
DECADES = 8
POINTS_A_DECADE = 10_001
NODES = torch.linspace(-10, 10, 4001, dtype=torch.float64)  # of a standard normal, for what is averaged over it
NEWTON_STEPS = 100


def normal(mean: float = 0.0, std: float = 1.0) -> LogDensity:
    """
    A Gaussian on the line.

    Args:
        mean: of it.
        std: of it, above 0.

    Returns:
        The log-density of N(mean, std^2), in nats, at points of any shape, in float64.
    """
    return mixture([1.0], [mean], [std])


def mixture(weights: Sequence[float], means: Sequence[float], stds: Sequence[float]) -> LogDensity:
    """
    A mixture of Gaussians on the line.

    Args:
        weights: of the components, summing to 1.
        means: of each.
        stds: of each, above 0.

    Returns:
        The log-density of sum_i weights_i N(means_i, stds_i^2), in nats, at points of any shape, in float64.
    """
    weights, means, stds = (torch.tensor(each, dtype=torch.float64) for each in (weights, means, stds))
    constants = weights.log() - stds.log() - math.log(2 * math.pi) / 2

    def log_density(points: Tensor) -> Tensor:
        return torch.logsumexp(constants - ((points.double()[..., None] - means) / stds).square() / 2, dim=-1)

    return log_density


def mixture_samples(
    weights: Sequence[float], means: Sequence[float], stds: Sequence[float]
) -> Callable[[int, torch.Generator], Tensor]:
    """
    Samples of a `mixture`.

    Args:
        weights: of the components, summing to 1.
        means: of each.
        stds: of each, above 0.

    Returns:
        What draws (num,) float64 samples from a number and a generator.
    """
    weights, means, stds = (torch.tensor(each, dtype=torch.float64) for each in (weights, means, stds))

    def draw(num: int, generator: torch.Generator) -> Tensor:
        component = torch.multinomial(weights, num, replacement=True, generator=generator)
        noise = torch.randn(num, generator=generator, dtype=torch.float64)
        return means[component] + stds[component] * noise

    return draw


def uniform(low: float, high: float) -> LogDensity:
    """
    The uniform distribution on an interval.

    Args:
        low: its lower end.
        high: its upper end, above `low`.

    Returns:
        The log-density, in nats, at points of any shape, -inf outside [low, high], in float64.
    """

    def log_density(points: Tensor) -> Tensor:
        inside = (points >= low) & (points <= high)
        return torch.where(inside, points.new_tensor(-math.log(high - low), dtype=torch.float64), -math.inf)

    return log_density


def cauchy(location: float = 0.0, scale: float = 1.0) -> LogDensity:
    """
    A Cauchy distribution.

    Args:
        location: its median.
        scale: half its interquartile range, above 0.

    Returns:
        The log-density, in nats, at points of any shape, in float64.
    """

    def log_density(points: Tensor) -> Tensor:
        return -math.log(math.pi * scale) - torch.log1p(((points.double() - location) / scale).square())

    return log_density


def kl_divergence(log_p: LogDensity, log_q: LogDensity) -> float:
    """
    KL(P || Q) = E_P[log p - log q] in nats, of two densities on the line: by quadrature on |x| <= 10 and shells up to
    10^8, each ten times as wide as the one before.

    It is infinite where P has mass and Q none; and where Q's tails are so light that the shells do not add less and
    less: the integral over any window is finite, and says nothing. That is told from the last two shells, so by
    numbers and not by proof.

    Args:
        log_p: the log-density of P, at float64 points of any shape; -inf is allowed. Densities vary on scales of 0.001
            and more near 0, and are smooth, or jump at few points.
        log_q: the same of Q.

    Returns:
        The divergence, `math.inf` where it is infinite.

    Raises:
        UsageError: when P's density does not integrate to 1, to 1e-3; when the sum is negative, as where P goes beyond
            an end of Q's by less than the distance of two points (3e-4 near 0, about 2.5e-4 |x| further out).
    """
    shells = [_shell(log_p, log_q, decade) for decade in range(DECADES)]
    mass = sum(shell[0] for shell in shells)
    _check_mass(mass)
    terms = [shell[1] for shell in shells]
    if math.inf in terms or _grows(terms):
        return math.inf
    if (divergence := sum(terms)) < -1e-6:  # no divergence is negative
        raise UsageError(
            f"the divergence is {divergence:.1e} by quadrature: where the points are far apart one of the densities "
            "jumps, or is narrow; it may be infinite"
        )
    return divergence


def _check_mass(mass: float):
    if not abs(mass - 1) < 1e-3:
        raise UsageError(
            f"the density of P integrates to {mass:.4f} by quadrature, not to 1: it is no density, or it jumps or is "
            "narrow where the points are far apart"
        )


def _grows(terms: Sequence[float]) -> bool:
    """Whether the shells do not add less and less."""
    return terms[-1] > 1e-6 and terms[-1] >= 0.5 * terms[-2]


def window_kl(log_p: LogDensity, log_q: LogDensity, width: float) -> float:
    """
    The part of KL(P || Q) within a window, by the trapezoid rule: what a grid that ends there says.

    Args:
        log_p: the log-density of P.
        log_q: the log-density of Q.
        width: of the window, |x| <= width.

    Returns:
        That part, in nats.
    """
    points = torch.linspace(-width, width, 240_001, dtype=torch.float64)
    return torch.trapezoid(_integrand(log_p(points), log_q(points)), points).item()


def _shell(log_p: LogDensity, log_q: LogDensity, decade: int) -> tuple[float, float]:
    """The mass of P, and its part of the divergence, in a shell."""
    return tuple(
        _integral(each, decade)
        for each in (lambda points: log_p(points).exp(), lambda points: _integrand(log_p(points), log_q(points)))
    )


def _integral(function: Callable[[Tensor], Tensor], decade: int) -> float:
    """Of a function of points, over a shell."""
    inner = 0.0 if decade == 0 else math.asinh(10.0**decade)
    t = torch.linspace(inner, math.asinh(10.0 ** (decade + 1)), POINTS_A_DECADE, dtype=torch.float64)
    return sum(torch.trapezoid(function(points) * t.cosh(), t).item() for points in (t.sinh(), -t.sinh()))


def _integrand(log_p: Tensor, log_q: Tensor) -> Tensor:
    """
    p (log p - log q) at a row of points: 0 where p is 0, whatever q is, and not the NaN of 0 * inf; and 0 where it is
    infinite at a single point, which has no mass.
    """
    p = log_p.exp()
    terms = torch.where(p == 0, 0.0, p * (log_p - log_q))
    infinite = terms.isinf()
    alone = infinite.clone()
    alone[1:] &= ~infinite[:-1]
    alone[:-1] &= ~infinite[1:]
    return torch.where(alone, 0.0, terms)


def monte_carlo_kl(log_p: LogDensity, log_q: LogDensity, samples: Tensor) -> tuple[float, float]:
    """
    KL(P || Q) from samples of P, in nats, and the standard error of that.

    Args:
        log_p: the log-density of P, from whose samples the mean is.
        log_q: the log-density of Q.
        samples: of P, (num,).

    Returns:
        The mean and its standard error, in nats.
    """
    terms = log_p(samples) - log_q(samples)
    return terms.mean().item(), terms.std().item() / len(terms) ** 0.5


@dataclass(frozen=True)
class GaussianFit:
    """
    Q = N(mean, std^2) for a P on the line.

    Args:
        mean: of Q.
        std: of Q.
        forward_kl: KL(P || Q), in nats.
        reverse_kl: KL(Q || P), in nats.
        is_minimum: of the divergence that was fitted: False at a saddle.
        monte_carlo: both divergences again, with their standard errors, from samples; None before `with_monte_carlo`.
    """

    mean: float
    std: float
    forward_kl: float
    reverse_kl: float
    is_minimum: bool
    monte_carlo: dict[str, tuple[float, float]] | None = None

    def with_monte_carlo(self, log_p: LogDensity, samples: Tensor, generator: torch.Generator) -> "GaussianFit":
        """
        The same with both divergences from samples too.

        Args:
            log_p: the log-density of P.
            samples: of P, (num,); as many are drawn of Q.
            generator: of those.

        Returns:
            A copy of the fit, with `monte_carlo`.
        """
        log_q = normal(self.mean, self.std)
        of_q = self.mean + self.std * torch.randn(len(samples), generator=generator, dtype=torch.float64)
        both = {"forward": monte_carlo_kl(log_p, log_q, samples), "reverse": monte_carlo_kl(log_q, log_p, of_q)}
        return replace(self, monte_carlo=both)


def fit_gaussian(
    log_p: LogDensity, direction: Literal["forward", "reverse"], start: tuple[float, float] = (0.0, 1.0)
) -> GaussianFit:
    """
    The Gaussian Q that makes KL(P || Q), `forward`, or KL(Q || P), `reverse`, smallest. Both are named after the fixed
    P; the forward one covers P, the reverse one seeks a mode of it.

    Forward: the moments of P, by the quadrature of `kl_divergence`, wherever one starts. Reverse: by Newton's method
    in (mean, log std) from the start to the nearest stationary point, of which there may be several, a saddle among
    them. E_Q is a quadrature over the noise of a reparameterised sample.

    Args:
        log_p: the log-density of P, differentiable, at float64 points of any shape.
        direction: which divergence.
        start: mean and standard deviation, above 0, to begin with; no more than about 20 of these from the fit.

    Returns:
        The fit, with both divergences by quadrature.

    Raises:
        UsageError: for another direction, or a standard deviation of 0 or less; forward, as of `kl_divergence`, and
            for a P without a variance; reverse, when Newton's method does not come to rest or has nowhere to go, as
            in a uniform density.
    """
    check_direction(direction)
    if not start[1] > 0:
        raise UsageError(f"start is {start}; its standard deviation must be above 0")
    if direction == "forward":
        mean, std, minimum = *_moments(log_p), True
    else:
        mean, std, minimum = _newton(log_p, start)
    log_q = normal(mean, std)
    return GaussianFit(mean, std, kl_divergence(log_p, log_q), kl_divergence(log_q, log_p), minimum)


def check_direction(direction: str):
    """
    Args:
        direction: of a divergence, named after the fixed P.

    Raises:
        UsageError: for what is neither `forward` nor `reverse`.
    """
    if direction not in ("forward", "reverse"):
        raise UsageError(f"direction is {direction!r}; it must be 'forward' or 'reverse'")


def _moments(log_p: LogDensity) -> tuple[float, float]:
    """Mean and standard deviation of P."""

    def integrals(of: Callable[[Tensor], Tensor]) -> list[float]:
        return [_integral(lambda points: of(points) * log_p(points).exp(), decade) for decade in range(DECADES)]

    _check_mass(sum(integrals(torch.ones_like)))
    mean = sum(integrals(lambda points: points))
    squares = integrals(lambda points: (points - mean).square())
    if _grows(squares):
        raise UsageError(
            "P has no variance, by which KL(P || Q) would be infinite for every Gaussian Q, or tails too heavy to tell"
        )
    return mean, math.sqrt(sum(squares))


def reverse_kl_of(log_p: LogDensity, parameters: Tensor) -> Tensor:
    """
    KL(N(mean, std^2) || P), differentiable in mean and log std.

    Args:
        log_p: the log-density of P, differentiable.
        parameters: mean and log std, (2,), float64.

    Returns:
        The divergence in nats, a scalar.
    """
    mean, log_std = parameters
    weights = (-NODES.square() / 2).exp()
    weights = weights / weights.sum()
    entropy = log_std + math.log(2 * math.pi * math.e) / 2
    return -(weights * log_p(mean + log_std.exp() * NODES)).sum() - entropy


def fit_to_mixture(
    parameters: tuple[Sequence[float], Sequence[float], Sequence[float]],
    starts: Sequence[float],
    num_samples: int,
    generator: torch.Generator,
) -> dict[str, GaussianFit]:
    """
    The Gaussian of the forward divergence from a mixture and, by where they begin, those of the reverse one.

    Args:
        parameters: weights, means and standard deviations, as of `mixture`.
        starts: means at which the reverse fits begin, with a standard deviation of 1.
        num_samples: of P and of each Q, for the divergences by Monte Carlo.
        generator: of them.

    Returns:
        The fits by `forward` and `reverse from <start>`.
    """
    log_p = mixture(*parameters)
    about = {"log_p": log_p, "samples": mixture_samples(*parameters)(num_samples, generator), "generator": generator}
    fits = {"forward": fit_gaussian(log_p, "forward").with_monte_carlo(**about)}
    for start in starts:
        fit = fit_gaussian(log_p, "reverse", (start, 1.0))
        fits[f"reverse from {start:g}"] = fit.with_monte_carlo(**about)
    return fits


def _newton(log_p: LogDensity, start: tuple[float, float]) -> tuple[float, float, bool]:
    parameters = torch.tensor([start[0], math.log(start[1])], dtype=torch.float64)
    for _ in range(NEWTON_STEPS):
        gradient = torch.autograd.functional.jacobian(lambda each: reverse_kl_of(log_p, each), parameters)
        hessian = torch.autograd.functional.hessian(lambda each: reverse_kl_of(log_p, each), parameters)
        step, singular = torch.linalg.solve_ex(hessian, gradient)
        if singular:
            raise UsageError(f"the reverse fit from {start} has nowhere to go: log P is flat or straight there")
        # Not further than the quadratic model may hold: a fifth of a standard deviation or of its logarithm.
        limit = torch.stack([0.2 * parameters[1].exp(), torch.tensor(0.2, dtype=torch.float64)])
        parameters = parameters - step.clamp(-limit, limit)
        if gradient.abs().max() < 1e-10:
            return parameters[0].item(), parameters[1].exp().item(), bool((torch.linalg.eigvalsh(hessian) > 0).all())
    raise UsageError(f"the reverse fit from {start} came to no rest in {NEWTON_STEPS} steps: start nearer, or wider")
