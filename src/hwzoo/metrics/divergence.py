"""Divergences that are known: what the estimates of a trained discriminator are compared with."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import UsageError

BISECTIONS = 60  # halve an interval of length 8/3 to less than the spacing of float64 around 1


def jensen_shannon_divergence(log_density: Tensor, other: Tensor, points: Tensor) -> float:
    """
    KL(p || m) / 2 + KL(q || m) / 2 with m = (p + q) / 2 in nats, in [0, ln 2], of two densities on the line, by the
    trapezoid rule; computed in float64.

    Args:
        log_density, other: ln p and ln q at the points, (num,) each; -inf is allowed.
        points: in ascending order, (num,): from where both densities begin to where they end, close enough together
            for them to be smooth.

    Returns:
        The divergence, a float.

    Raises:
        UsageError: when a density does not integrate to 1 on these points, to 1e-3.
    """
    log_p, log_q, points = log_density.double(), other.double(), points.double()
    for log_each in (log_p, log_q):
        mass = torch.trapezoid(log_each.exp(), points).item()
        if not abs(mass - 1) < 1e-3:
            raise UsageError(f"a density integrates to {mass:.4f} over these {len(points)} points, not to 1")
    log_mean = torch.logaddexp(log_p, log_q) - math.log(2)
    terms = [
        # Where p is 0, p ln(p / m) is 0, and not the NaN of 0 * -inf.
        torch.where(log_each.isneginf(), 0.0, log_each.exp() * (log_each - log_mean))
        for log_each in (log_p, log_q)
    ]
    return torch.trapezoid((terms[0] + terms[1]) / 2, points).item()


def penalised_wasserstein(shift: float, weight: float) -> float:
    """
    |shift| + shift^2 / (2 weight): what a critic f estimates, E[f(x)] - E[f(y)], that is the best for this estimate
    minus weight * E[(|grad f| - 1)^2] (Gulrajani et al., arXiv:1704.00028, equation 3), of points x and the same
    points shifted, y. Its slope s makes s |shift| - weight (s - 1)^2 largest: s = 1 + |shift| / (2 weight).

    Args:
        shift: of the points, of either sign.
        weight: of the penalty, above 0.

    Returns:
        The estimate, at least the Wasserstein-1 distance |shift|.

    Raises:
        UsageError: for a weight that is not positive: there is no best slope.
    """
    if not weight > 0:
        raise UsageError(f"weight is {weight}; it must be in (0, inf)")
    return abs(shift) + shift**2 / (2 * weight)


def warp(latents: Tensor) -> Tensor:
    """tanh(2 z + 1) + 0.75 z, which grows with z: a normal z becomes a number with two humps. Any shape."""
    return torch.tanh(2 * latents + 1) + 0.75 * latents


def unwarp(points: Tensor) -> Tensor:
    """The z of which `warp` makes these points, by bisection in float64. Any shape."""
    points = points.double()
    low, high = (points - 1) / 0.75, (points + 1) / 0.75  # as tanh is between -1 and 1
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        below = warp(middle) < points
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


def warped_normal_log_density(points: Tensor) -> Tensor:
    """
    The log-density, in float64, of `warp(z)` with z ~ N(0, 1) at points of any shape: that of z minus the logarithm of
    the slope there, ln(2 sech^2(2 z + 1) + 0.75), by the change of variables.
    """
    latents = unwarp(points)
    slope = 2 * (1 - torch.tanh(2 * latents + 1).square()) + 0.75
    return normal_log_density(latents) - slope.log()


def normal_log_density(points: Tensor) -> Tensor:
    """The log-density of N(0, 1) at points of any shape."""
    return -points.square() / 2 - math.log(2 * math.pi) / 2


def segments(shifts: Sequence[float], num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    (0, u), once a shift, and (shift, u), u uniform on [0, 1) and drawn anew: (shifts, num_samples, 2) each.

    Args:
        shifts: of the second segment, in the direction of the first coordinate.
        num_samples: points of each segment.
        generator: of the heights u.

    Returns:
        The points of the first segments and of the second, float32.
    """
    x = torch.tensor(shifts)[:, None].expand(-1, num_samples)
    heights = torch.rand(2, *x.shape, generator=generator)
    return torch.stack([torch.zeros_like(x), heights[0]], -1), torch.stack([x, heights[1]], -1)


def warped_and_normal(num_samples: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """
    `warp(z)` and, of other draws, z ~ N(0, 1): (1, num_samples, 1) each.

    Args:
        num_samples: of each distribution.
        generator: of both.

    Returns:
        The samples of both, float32.
    """
    latents = torch.randn(2, 1, num_samples, 1, generator=generator)
    return warp(latents[0]), latents[1]


def warped_normal_log_ratio(points: Tensor) -> Tensor:
    """
    ln f1 - ln f0 of the densities of `warp(z)` and z, z ~ N(0, 1), float64 (...) at points (..., 1): the logits of the
    best discriminator of the two (arXiv:1406.2661, proposition 1).
    """
    return (warped_normal_log_density(points) - normal_log_density(points)).squeeze(-1)
