"""
The forward process q of a diffusion model and its posterior, in closed form (Ho et al., arXiv:2006.11239, section 2).

Timesteps count as in diffusers, from 0 to T - 1: timestep t here is the paper's t + 1, and `clean`, the paper's x_0,
comes before timestep 0. Images are in [-1, 1]; nothing here depends on that.
"""

from typing import Any

import torch
from torch import Tensor

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")


def alphas_cumprod(scheduler: Any, device: torch.device | str = "cpu") -> Tensor:
    """
    The products of 1 - beta up to each timestep, (T,), float64, from the betas of a scheduler of diffusers.

    Its own `alphas_cumprod` is multiplied up in float32: at the first timesteps 1 minus it has four digits.

    Args:
        scheduler: with `betas`, (T,).
        device: where the images will be.

    Returns:
        The products, on the device if it has float64, else on the CPU.
    """
    return (1 - scheduler.betas.double()).cumprod(0).to(float64_device(device))


def float64_device(device: torch.device | str) -> torch.device:
    """The device itself if it has float64, else the CPU: Apple's MPS has none."""
    try:
        return torch.empty(0, dtype=torch.float64, device=device).device
    except (TypeError, RuntimeError):  # which of them, depends on the device
        return torch.device("cpu")


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
    signal, noise_level = _signal_and_noise(timesteps, alphas_cumprod, clean)
    return signal * clean + noise_level * noise


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
    alpha_bar = alphas_cumprod
    alpha_bar_before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])  # one timestep earlier: 1 before the first
    alpha = alpha_bar / alpha_bar_before
    beta = 1 - alpha
    of_clean = at(timesteps, alpha_bar_before.sqrt() * beta / (1 - alpha_bar), clean)
    of_noisy = at(timesteps, alpha.sqrt() * (1 - alpha_bar_before) / (1 - alpha_bar), clean)
    variance = at(timesteps, (1 - alpha_bar_before) / (1 - alpha_bar) * beta, clean)
    return of_clean * clean + of_noisy * noisy, variance


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
        signal, noise_level = _signal_and_noise(timesteps, alphas_cumprod, clean)
        return signal * noise - noise_level * clean
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
    signal, noise_level = _signal_and_noise(timesteps, alphas_cumprod, noisy)
    if prediction_type == "epsilon":
        return (noisy - noise_level * prediction) / signal
    if prediction_type == "v_prediction":
        return signal * noisy - noise_level * prediction
    raise ValueError(f"prediction_type is {prediction_type!r}; it must be one of {', '.join(PREDICTION_TYPES)}")


def at(timesteps: Tensor, values: Tensor, like: Tensor) -> Tensor:
    """
    A table's values at some timesteps. It is computed as a whole where float64 is, then rounded and moved.

    Args:
        timesteps: int64, (batch,), from 0 to T - 1.
        values: (T,), on any device.
        like: what they are for, of which the first dimension is the batch.

    Returns:
        (batch, 1, ..., 1), with the dimensions, type and device of `like`.
    """
    return values.to(like.dtype).to(like.device)[timesteps].view(-1, *[1] * (like.ndim - 1))


def _signal_and_noise(timesteps: Tensor, alphas_cumprod: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(abar_t) and sqrt(1 - abar_t), (batch, 1, 1, 1)."""
    return at(timesteps, alphas_cumprod.sqrt(), like), at(timesteps, (1 - alphas_cumprod).sqrt(), like)
