"""Densities on the plane that are known: evaluated, drawn from, and their entropy."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError

WALL = 4.0  # where the potentials that go on without end along x are brought to one
EIGHT_RADIUS, EIGHT_STD = 4.0, 0.5
MOONS_STD = 0.1
EXTENT, CELL = 8.0, 0.04  # of the grid of squares for what has no closed form: half its side, and of a square


@dataclass(frozen=True)
class Target:
    """
    Args:
        name: of `TARGETS`.
        unnormalised: log-density up to a constant at points (..., 2), differentiable.
        log_normaliser: the constant, by summation over squares of 0.04.
        draw: gives (num, 2) samples from a number and a generator.
        entropy: in nats, by the same summation.
        extent: half the side of a square that holds what there is to see.
    """

    name: str
    unnormalised: Callable[[Tensor], Tensor]
    log_normaliser: float
    draw: Callable[[int, torch.Generator], Tensor]
    entropy: float
    extent: float

    def log_density(self, points: Tensor) -> Tensor:
        """log p in nats: (..., 2) -> (...)."""
        return self.unnormalised(points) - self.log_normaliser


def wave(points: Tensor) -> Tensor:
    """sin(pi x / 2), w_1 of arXiv:1505.05770, table 1: (..., 2) -> (...)."""
    return torch.sin(math.pi * points[..., 0] / 2)


def log_gaussians(*residuals: Tensor) -> Tensor:
    """log sum_i exp(-r_i^2 / 2)"""
    return torch.logsumexp(torch.stack([-residual.square() / 2 for residual in residuals]), dim=0)


def wall(points: Tensor) -> Tensor:
    """-((|x| - 4) / 0.4)^2 / 2 beyond |x| = 4, else 0: (..., 2) -> (...)."""
    return -((points[..., 0].abs() - WALL).clamp(min=0) / 0.4).square() / 2


def potential_1(points: Tensor) -> Tensor:
    """Two halves of a ring of radius 2, as a log-density up to a constant: (..., 2) -> (...)."""
    x = points[..., 0]
    return -((points.norm(dim=-1) - 2) / 0.4).square() / 2 + log_gaussians((x - 2) / 0.6, (x + 2) / 0.6)


def potential_2(points: Tensor) -> Tensor:
    """A band along `wave`, walled, as a log-density up to a constant: (..., 2) -> (...)."""
    return -((points[..., 1] - wave(points)) / 0.4).square() / 2 + wall(points)


def potential_3(points: Tensor) -> Tensor:
    """Two such bands, the lower one dented near x = 1, as a log-density up to a constant: (..., 2) -> (...)."""
    above = points[..., 1] - wave(points)
    dent = 3 * (-((points[..., 0] - 1) / 0.6).square() / 2).exp()
    return log_gaussians(above / 0.35, (above + dent) / 0.35) + wall(points)


def potential_4(points: Tensor) -> Tensor:
    """Two such bands that part at x = 1, as a log-density up to a constant: (..., 2) -> (...)."""
    above = points[..., 1] - wave(points)
    step = 3 * ((points[..., 0] - 1) / 0.3).sigmoid()
    return log_gaussians(above / 0.4, (above + step) / 0.35) + wall(points)


def eight(points: Tensor) -> Tensor:
    """Eight Gaussians on a ring, as a log-density up to a constant: (..., 2) -> (...)."""
    angles = torch.arange(8) * math.pi / 4
    means = EIGHT_RADIUS * torch.stack([angles.cos(), angles.sin()], -1).to(points)
    return torch.logsumexp(-((points[..., None, :] - means) / EIGHT_STD).square().sum(-1) / 2, dim=-1)


def arcs(angles: Tensor) -> Tensor:
    """The two arcs of scikit-learn's moons at angles from 0 to pi: (2, num, 2)."""
    upper = torch.stack([angles.cos(), angles.sin()], -1)
    return torch.stack([upper, torch.tensor([1.0, 0.5]).to(upper) - upper])


def moons(points: Tensor) -> Tensor:
    """Two half circles under noise, as a log-density up to a constant: (..., 2) -> (...)."""
    # Arcs of evenly spread points under noise: 64 a half circle are 0.05 apart, half of the noise, so that the sum is
    # the integral to far below what float32 tells.
    angles = (torch.arange(64) + 0.5) * math.pi / 64
    means = arcs(angles).flatten(0, 1).to(points)
    return torch.logsumexp(-((points[..., None, :] - means) / MOONS_STD).square().sum(-1) / 2, dim=-1)


def draw_eight(num: int, generator: torch.Generator) -> Tensor:
    """
    Samples of `eight`.

    Args:
        num: how many.
        generator: of them.

    Returns:
        (num, 2).
    """
    angles = torch.randint(8, (num,), generator=generator) * math.pi / 4
    noise = EIGHT_STD * torch.randn(num, 2, generator=generator)
    return EIGHT_RADIUS * torch.stack([angles.cos(), angles.sin()], -1) + noise


def draw_moons(num: int, generator: torch.Generator) -> Tensor:
    """
    Samples of `moons`.

    Args:
        num: how many.
        generator: of them.

    Returns:
        (num, 2).
    """
    both = arcs(math.pi * torch.rand(num, generator=generator))
    which = torch.randint(2, (num,), generator=generator)
    return both[which, torch.arange(num)] + MOONS_STD * torch.randn(num, 2, generator=generator)


TARGETS = {
    "potential_1": (potential_1, None, 4.0),
    "potential_2": (potential_2, None, 5.0),
    "potential_3": (potential_3, None, 5.0),
    "potential_4": (potential_4, None, 5.0),
    "eight": (eight, draw_eight, 6.0),
    "moons": (moons, draw_moons, 2.5),
}


def squares() -> Tensor:
    """Centres of the squares of the grid, float64, (num, 2)."""
    line = torch.arange(-EXTENT + CELL / 2, EXTENT, CELL, dtype=torch.float64)
    return torch.cartesian_prod(line, line)


def targets(names: list[str]) -> list[Target]:
    """
    The four potentials of Rezende and Mohamed (arXiv:1505.05770, table 1), `potential_1` to `potential_4`, the last
    three with a wall, -((|x| - 4) / 0.4)^2 / 2 beyond |x| = 4, as they have no end along x; a ring of eight Gaussians
    of standard deviation 0.5 at radius 4, `eight`; and scikit-learn's `moons` with noise 0.1.

    Samples of the potentials are from the squares of the grid, and uniform within one: their density is that of the
    formula to the square's size, 0.04.

    Raises:
        UsageError: for another name.
    """
    found = []
    centres = squares()
    for name in names:
        if name not in TARGETS:
            raise UsageError(f"names has {name!r}; it must be some of {', '.join(TARGETS)}")
        function, draw, extent = TARGETS[name]
        parts = [function(part) for part in centres.split(50_000)]
        log_density = torch.cat(parts)
        total = torch.logsumexp(log_density, 0)
        log_normaliser = total + 2 * math.log(CELL)
        probabilities = (log_density - total).exp()
        entropy = -(probabilities * (log_density - log_normaliser)).sum().item()
        draw = draw or _from_squares(centres.float(), probabilities.cumsum(0))
        found.append(Target(name, function, log_normaliser.item(), draw, entropy, extent))
    return found


def _from_squares(centres: Tensor, cumulative: Tensor) -> Callable[[int, torch.Generator], Tensor]:
    def draw(num: int, generator: torch.Generator) -> Tensor:
        uniform = torch.rand(num, generator=generator, dtype=torch.float64) * cumulative[-1]
        places = torch.searchsorted(cumulative, uniform).clamp(max=len(centres) - 1)
        return centres[places] + CELL * (torch.rand(num, 2, generator=generator) - 0.5)

    return draw
