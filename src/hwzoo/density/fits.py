"""Flows of the plane fitted to targets by either Kullback-Leibler divergence, and how far the fits are from them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..errors import HwzooError, UsageError
from .line import check_direction
from .plane import BISECTIONS, FLOWS, Planar, PlaneFlow
from .targets import Target


def fit_flows(
    kind: str,
    direction: Literal["forward", "reverse"],
    targets: Sequence[Target],
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
    annealed: bool = False,
) -> PlaneFlow:
    """
    A flow for each target, all at once.

    `forward`, from samples: the smallest E_P[-log q(x)], so the smallest KL(P || Q). `reverse`, from the density: the
    smallest E_Q[log q(x) - log p(x)], KL(Q || P), by samples x = f(z) through which the gradient goes (Rezende and
    Mohamed, arXiv:1505.05770, equation 15).

    Args:
        kind: of `FLOWS`.
        direction: of the divergence, named after the fixed P.
        targets: one for each flow.
        steps: of Adam, whose rate falls to 0 over the second half of them.
        batch_size: points of each flow a step.
        learning_rate: at first.
        generator: of all samples; the initial weights are drawn by torch's global one.
        annealed: of a reverse fit, weigh log p by a number that rises from 0.01 to 1 over the first half of the steps
            (equation 20 there): what begins as wide as the entropy wants finds more of the modes.

    Returns:
        The fitted flows, one for each target, without gradients.

    Raises:
        UsageError: for another direction, or kind.
        HwzooError: for a loss or weights that are not finite.
    """
    check_direction(direction)
    if kind not in FLOWS:
        raise UsageError(f"kind is {kind!r}; it must be one of {', '.join(FLOWS)}")
    flow = PlaneFlow(FLOWS[kind](len(targets)), "base" if direction == "forward" else "data")
    optimizer = torch.optim.Adam(flow.parameters(), lr=learning_rate, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, 2 * (1 - step / steps)))
    for step in range(steps):
        if direction == "forward":
            loss = -flow.log_prob(torch.stack([target.draw(batch_size, generator) for target in targets]))
        else:
            latents = torch.randn(len(targets), batch_size, 2, generator=generator)
            points, log_q = flow.transform(latents)
            weight = min(1.0, 0.01 + 2 * step / steps) if annealed else 1.0
            loss = log_q - weight * log_densities(targets, points)
        loss = loss.mean(1).sum()  # of independent flows: each has the gradient of its own, up to the clip of all
        if step % 100 == 0 and not loss.isfinite():
            raise HwzooError(
                f"the {direction} loss of {kind} is {loss.item()} at step {step}; a smaller rate may help"
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 100.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    if not all(parameter.isfinite().all() for parameter in flow.parameters()):
        raise HwzooError(f"the {direction} fit of {kind} is not finite after {steps} steps; a smaller rate may help")
    return flow.requires_grad_(False)


def log_densities(targets: Sequence[Target], points: Tensor) -> Tensor:
    """
    log p of each target at its own points.

    Args:
        targets: known densities.
        points: (targets, num, 2).

    Returns:
        (targets, num) in nats.
    """
    return torch.stack([target.log_density(each) for target, each in zip(targets, points, strict=True)])


@dataclass(frozen=True)
class Scores:
    """
    How far a fitted Q is from its P, both known: from samples of each.

    Args:
        forward_kl: KL(P || Q) in nats, with its standard error.
        reverse_kl: KL(Q || P) in nats, with its standard error.
        negative_log_prob: E_P[-log q] in nats: forward_kl and the entropy of P.
        effective_sample_size: (sum w)^2 / (num sum w^2) of the weights w = p / q of samples of Q, in (0, 1].
        missed: share of P's samples at which Q has less than a hundredth of P's density: what it does not cover.
    """

    forward_kl: tuple[float, float]
    reverse_kl: tuple[float, float]
    negative_log_prob: float
    effective_sample_size: float
    missed: float


@torch.no_grad()
def score_flows(
    flow: PlaneFlow, targets: Sequence[Target], num_samples: int, generator: torch.Generator
) -> list[Scores]:
    """
    How far fitted flows are from their targets.

    Args:
        flow: as of `fit_flows`.
        targets: one for each of its flows.
        num_samples: of each P and of each Q.
        generator: of them.

    Returns:
        The scores of each flow, in the order of the targets.
    """
    of_p = torch.stack([target.draw(num_samples, generator) for target in targets])
    of_q, log_q = flow.transform(torch.randn(len(targets), num_samples, 2, generator=generator))
    log_q_of_p = flow.log_prob(of_p)
    forward = log_densities(targets, of_p) - log_q_of_p
    reverse = log_q - log_densities(targets, of_q)
    weights = (-reverse).double().softmax(1)
    scores = []
    for index in range(len(targets)):
        pairs = [
            (terms[index].double().mean().item(), terms[index].double().std().item() / num_samples**0.5)
            for terms in (forward, reverse)
        ]
        scores.append(
            Scores(
                *pairs,
                -log_q_of_p[index].double().mean().item(),
                1 / (num_samples * weights[index].square().sum().item()),
                (~(forward[index] <= 4.605)).double().mean().item(),
            )
        )
    return scores


@torch.no_grad()
def inverse_cost(layers: torch.nn.Module, generator: torch.Generator, num_points: int = 10_000) -> dict[str, float]:
    """
    What it costs to go back.

    Args:
        layers: of one of `FLOWS`.
        generator: of the points, standard normal.
        num_points: of all its flows together, at most.

    Returns:
        `seconds_forward` and `seconds_inverse` for the points, the best of three; `evaluations`, of the function of a
        layer, in an inverse, for each point and layer; `largest_error` of a latent after there and back.
    """
    num_flows = next(layers.parameters()).shape[-3]
    latents = torch.randn(num_flows, max(1, num_points // num_flows), 2, generator=generator)
    forward, (points, _) = _timed(lambda: layers(latents))
    inverse, (back, _) = _timed(lambda: layers.inverse(points))
    evaluations = BISECTIONS if isinstance(layers, Planar) else 1
    error = (back - latents).abs().max().item()
    return {
        "seconds_forward": forward,
        "seconds_inverse": inverse,
        "evaluations": evaluations,
        "largest_error": error,
    }


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """The seconds of the fastest of three calls, and what the last one gave."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - started)
    return min(times), result
