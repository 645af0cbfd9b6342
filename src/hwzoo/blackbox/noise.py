"""How far single estimates of a gradient are from the exact one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .estimators import Network, Parameters, Reward, enumerated


def gradient_noise(
    estimate: Callable[..., tuple[Tensor, ...]],
    network: Network,
    parameters: Parameters,
    reward: Reward,
    generators: Sequence[torch.Generator],
    num_estimates: int = 50,
) -> Tensor:
    """
    The square root of E|g - G|^2 / |G|^2, with G the gradient of `enumerated` and g an estimate of it.

    Args:
        estimate: of ESTIMATORS.
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network.
        num_estimates: that the expectation is the mean of.

    Returns:
        Of each network, (networks,); 0 is exact, at 1 the noise is as large as the gradient.
    """
    exact = _flat(enumerated(network, parameters, reward, generators))
    total = exact.new_zeros(len(exact))
    for _ in range(num_estimates):
        found = _flat(estimate(network, parameters, reward, generators))
        total += (found - exact).square().sum(-1) / num_estimates
    return (total / exact.square().sum(-1)).sqrt()


def _flat(gradient: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([each.flatten(1) for each in gradient], dim=1)
