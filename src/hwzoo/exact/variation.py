"""Total variation between shares of samples and the probabilities that they are of."""

import torch
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
    The total variation that the shares of independent samples have on average: half the sum of the mean deviations of
    binomial counts, 2 (k + 1) C(n, k + 1) p^(k + 1) (1 - p)^(n - k) with k = floor(np) (de Moivre), over n.

    Args:
        probabilities: of all states, (states,).
        num: of samples.

    Returns:
        In [0, 1].
    """
    p = probabilities.double()
    p = p[(p > 0) & (p < 1)]
    k, n = (num * p).floor(), torch.tensor(float(num), dtype=torch.float64)
    logs = torch.lgamma(n + 1) - torch.lgamma(k + 1) - torch.lgamma(n - k) + (k + 1) * p.log() + (n - k) * (-p).log1p()
    return logs.exp().sum().item() / num
