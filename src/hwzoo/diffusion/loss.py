"""The training loss of a diffusion model."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .process import at, prediction_target, q_sample

WEIGHTINGS = ("uniform", "min_snr", "flow_matching")


def diffusion_loss(
    unet: Callable[..., Any],
    clean: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    alphas_cumprod: Tensor,
    *,
    labels: Tensor | None = None,
    prediction_type: str = "epsilon",
    weighting: str = "uniform",
    snr_gamma: float = 5.0,
) -> Tensor:
    """
    The mean squared error of a network's prediction of what `prediction_type` names; with `epsilon` and `uniform` the
    L_simple of Ho et al., arXiv:2006.11239, equation 14.

    Args:
        unet: a `UNet2DModel` of diffusers, or what is called like one.
        clean: images in [-1, 1], (batch, channels, height, width).
        noise: standard normal, of the same shape.
        timesteps: int64, (batch,), from 0 to T - 1.
        alphas_cumprod: (T,), of `hwzoo.diffusion.alphas_cumprod`.
        labels: int64, (batch,), classes for a conditional network.
        prediction_type: `epsilon`, `v_prediction` or `sample`; see `prediction_target`.
        weighting: of the timesteps. `uniform`: all alike, in the units of the prediction. `min_snr`: the error of x_0
            is weighted with min(SNR, snr_gamma) (Hang et al., arXiv:2303.09556, equation 9), which is min(SNR,
            snr_gamma) / SNR of the error of the noise, and / (SNR + 1) of that of v. `flow_matching`: the error of the
            velocity noise - x_0 of the straight path from x_0 to the noise, at the timestep's SNR (Lipman et al.,
            arXiv:2210.02747, equation 23 with sigma_min 0); that is 1 to 2 times the error of v.
        snr_gamma: the most weight that min_snr gives to the error of x_0.

    Returns:
        A scalar.

    Raises:
        ValueError: for a prediction type or weighting that is none of these.
    """
    noisy = q_sample(clean, noise, timesteps, alphas_cumprod)
    target = prediction_target(clean, noise, timesteps, alphas_cumprod, prediction_type)
    prediction = unet(noisy, timesteps, class_labels=labels, return_dict=False)[0]
    if weighting == "uniform":
        return F.mse_loss(prediction.float(), target)
    snr = alphas_cumprod / (1 - alphas_cumprod)
    snr = snr.clamp(min=torch.finfo(snr.dtype).tiny)  # a last timestep may be noise alone
    if weighting == "min_snr":
        wanted = snr.clamp(max=snr_gamma)
    elif weighting == "flow_matching":
        wanted = (snr + 1) * (alphas_cumprod.sqrt() + (1 - alphas_cumprod).sqrt()).square()
    else:
        raise ValueError(f"weighting is {weighting!r}; it must be one of {', '.join(WEIGHTINGS)}")
    of_clean = {"epsilon": snr, "v_prediction": snr + 1, "sample": 1}[prediction_type]
    errors = (prediction.float() - target).square().flatten(1).mean(1)
    return (at(timesteps, wanted / of_clean, errors) * errors).mean()
