"""
The forward process q of a diffusion model and its posterior, in closed form (Ho et al., arXiv:2006.11239, section 2).

Timesteps count as in diffusers, from 0 to T - 1: timestep t here is the paper's t + 1, and `clean`, the paper's x_0,
comes before timestep 0. Images are in [-1, 1]; nothing here depends on that.
"""

from typing import Any

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def alphas_cumprod(scheduler: Any) -> Tensor:
    """
    The products of 1 - beta up to each timestep, (T,), float64, from the betas of a scheduler of diffusers.

    Its own `alphas_cumprod` is multiplied up in float32: at the first timesteps 1 minus it has four digits.
    """
    return (1 - scheduler.betas.double()).cumprod(0)


def q_sample(clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """
    A sample of q(x_t | x_0) = N(sqrt(abar_t) x_0, (1 - abar_t) I), equation 4 of arXiv:2006.11239.

    Args:
        clean: x_0, (batch, channels, height, width).
        noise: standard normal, of the same shape.
        timesteps: int64, (batch,), from 0 to T - 1.
        alphas_cumprod: abar, (T,), as of `alphas_cumprod`.

    Returns:
        x_t, of the shape and type of `clean`.
    """
    alpha_bar = _at(timesteps, alphas_cumprod, clean)
    return alpha_bar.sqrt().to(clean) * clean + (1 - alpha_bar).sqrt().to(clean) * noise


def q_posterior(clean: Tensor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor) -> tuple[Tensor, Tensor]:
    """
    Mean and variance of q(x_{t-1} | x_t, x_0), equations 6 and 7 of arXiv:2006.11239.

    Args:
        clean: x_0, (batch, channels, height, width).
        noisy: x_t, of the same shape.
        timesteps: int64, (batch,), from 0 to T - 1. At 0 what comes before is x_0 itself: mean x_0, variance 0.
        alphas_cumprod: abar, (T,).

    Returns:
        mean: of the shape and type of `clean`.
        variance: (batch, 1, 1, 1), of the type of `clean`.
    """
    alpha_bar = _at(timesteps, alphas_cumprod, clean)
    alpha_bar_before = _at(timesteps, _before(alphas_cumprod), clean)
    alpha = alpha_bar / alpha_bar_before
    beta = 1 - alpha
    of_clean = alpha_bar_before.sqrt() * beta / (1 - alpha_bar)
    of_noisy = alpha.sqrt() * (1 - alpha_bar_before) / (1 - alpha_bar)
    variance = (1 - alpha_bar_before) / (1 - alpha_bar) * beta
    return of_clean.to(clean) * clean + of_noisy.to(clean) * noisy, variance.to(clean)


def prediction_target(
    clean: Tensor, noise: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """
    What the network has to predict: the noise (`epsilon`), x_0 (`sample`), or v = sqrt(abar_t) noise - sqrt(1 -
    abar_t) x_0 (`v_prediction`; Salimans and Ho, arXiv:2202.00512, section 4). Shapes as in `q_sample`.

    Args:
        clean: x_0.
        noise: standard normal.
        timesteps: from 0 to T - 1.
        alphas_cumprod: abar, (T,).
        prediction_type: `epsilon`, `sample` or `v_prediction`.

    Returns:
        The target, of the shape and type of `clean`.

    Raises:
        ValueError: for another prediction type.
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    if prediction_type == "v_prediction":
        alpha_bar = _at(timesteps, alphas_cumprod, clean)
        return alpha_bar.sqrt().to(clean) * noise - (1 - alpha_bar).sqrt().to(clean) * clean
    raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(PREDICTION_TYPES)}")


def predicted_clean(
    prediction: Tensor, noisy: Tensor, timesteps: Tensor, alphas_cumprod: Tensor, prediction_type: str
) -> Tensor:
    """
    The x_0 that a prediction stands for, given x_t: equation 15 of arXiv:2006.11239 for `epsilon`, sqrt(abar_t) x_t -
    sqrt(1 - abar_t) v for `v_prediction`. Shapes as in `q_sample`.

    Args:
        prediction: of the network.
        noisy: x_t.
        timesteps: from 0 to T - 1.
        alphas_cumprod: abar, (T,).
        prediction_type: `epsilon`, `sample` or `v_prediction`.

    Returns:
        x_0, of the shape of `noisy`, not clipped to [-1, 1].

    Raises:
        ValueError: for another prediction type.
    """
    if prediction_type == "sample":
        return prediction
    alpha_bar = _at(timesteps, alphas_cumprod, noisy)
    signal, noise_level = alpha_bar.sqrt().to(noisy), (1 - alpha_bar).sqrt().to(noisy)
    if prediction_type == "epsilon":
        return (noisy - noise_level * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * noisy - noise_level * prediction
    raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(PREDICTION_TYPES)}")


def _before(alphas_cumprod: Tensor) -> Tensor:
    """abar one timestep earlier, (T,): 1 before the first."""
    return torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])


def _at(timesteps: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """The values, (T,), at some timesteps, for images `like`: (batch, 1, 1, 1), still of their own type."""
    return values.to(like.device)[timesteps].view(-1, *[1] * (like.ndim - 1))
