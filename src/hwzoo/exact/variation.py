"""Total variation between shares of samples and the probabilities that they are of."""

import math

from torch import Tensor


def total_variation(first: Tensor, second: Tensor) -> float:
    """
    Half the sum of |p - q|.

    Args:
        first: probabilities or shares of all states, (states,).
        second: others.

    Returns:
        In [0, 1].
    """
    return ((first - second).abs().sum() / 2).item()


def variation_by_chance(probabilities: Tensor, num: int) -> float:
    """
    The total variation that the shares of independent samples have on average, each share taken as normal.

    Args:
        probabilities: of all states, (states,).
        num: of samples.

    Returns:
        In [0, 1].
    """
    return (2 * probabilities * (1 - probabilities) / (math.pi * num)).sqrt().sum().item() / 2
