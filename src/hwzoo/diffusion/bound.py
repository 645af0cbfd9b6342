"""The variational bound on a diffusion model's log-likelihood, in bits/dim, term by term."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .process import alphas_cumprod, predicted_clean, q_posterior, q_sample

VARIANCE_TYPES = ("fixed_small", "fixed_large")
HALF_BIN = 1 / 255  # 8-bit pixels in [-1, 1] are 2 / 255 apart


@dataclass
class VariationalBound:
    """
    Upper bounds on -log2 p(x_0) per dimension (pixel and channel), one for each image, and their terms.

    Args:
        bits_per_dim: (batch,), the sum of the three below.
        prior: (batch,), L_T, the KL divergence of q(x_T | x_0) from the standard normal.
        denoising: (batch,), the sum of all L_{t-1}, the KL divergences of the posteriors from the model's transitions.
        reconstruction: (batch,), L_0, -log2 of the probability of the 8-bit pixels.
        timesteps: int64, (batch, num_timesteps), those whose terms of `denoising` were evaluated, ascending.
        terms: (batch, num_timesteps), their L_{t-1} in bits/dim.
    """

    bits_per_dim: Tensor
    prior: Tensor
    denoising: Tensor
    reconstruction: Tensor
    timesteps: Tensor
    terms: Tensor


@torch.no_grad()
def variational_bound(
    unet: Callable[..., Any],
    scheduler: Any,
    pixel_values: Tensor,
    *,
    labels: Tensor | None = None,
    num_timesteps: int | None = None,
    generator: torch.Generator | None = None,
) -> VariationalBound:
    """
    The bound of Ho et al., arXiv:2006.11239, equation 5, on -log2 p(x_0) of the reverse process that the scheduler
    samples from, with the discretised decoder of equation 13. One sample of x_t a term.

    The scheduler's config decides what p is: the type of prediction, the variance of a step (`fixed_small` or
    `fixed_large`) and whether predicted images are clipped. The last step's variance, of which `fixed_small` says 0,
    is that of the step before it, as Nichol and Dhariwal have it (arXiv:2102.09672).

    Args:
        unet: a `UNet2DModel` of diffusers in eval mode, or what is called like one.
        scheduler: the `DDPMScheduler` that it was trained with.
        pixel_values: 8-bit images as float in [0, 1], (batch, channels, height, width).
        labels: int64, (batch,), for a conditional network: the bound is on p(x_0 | label) then.
        num_timesteps: how many of the T - 1 terms L_{t-1} are evaluated for each image: one at a random timestep in
            each of so many parts (see `strata`), without bias; all of them, exactly, when not given.
        generator: of the noise and the timesteps.

    Returns:
        The bound and its terms, in bits for each dimension of an image, by the fields of `VariationalBound`; float64,
        on the CPU for a device that has none.

    Raises:
        ValueError: for fewer than 1 or more than T - 1 timesteps, or another type of variance.
    """
    config, device = scheduler.config, pixel_values.device
    alpha_bars = alphas_cumprod(scheduler, device)
    exact = alpha_bars.device  # where all but the network is computed
    last = len(alpha_bars) - 1
    num_timesteps = last if num_timesteps is None else num_timesteps
    if not 1 <= num_timesteps <= last:
        raise ValueError(f"num_timesteps is {num_timesteps}; it must be from 1 to T - 1 = {last}")
    if config.variance_type not in VARIANCE_TYPES:
        raise ValueError(f"variance_type is {config.variance_type!r}; it must be {' or '.join(VARIANCE_TYPES)}")
    clean = 2 * pixel_values.to(exact).double() - 1
    batch, draw = len(clean), {"generator": generator, "device": device}
    to_bits = 1 / (math.log(2) * clean[0].numel())  # per image, from sums in nats

    def transition(timesteps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Means and variances of q(x_{t-1} | x_t, x_0) and p(x_{t-1} | x_t) at a sample of x_t."""
        noise = torch.randn(clean.shape, **draw).to(exact).double()  # drawn as float32
        noisy = q_sample(clean, noise, timesteps, alpha_bars)
        inputs = noisy.float().to(device), timesteps.to(device)
        prediction = unet(*inputs, class_labels=labels, return_dict=False)[0].to(exact).double()
        guess = predicted_clean(prediction, noisy, timesteps, alpha_bars, config.prediction_type)
        if config.clip_sample:
            guess = guess.clamp(-config.clip_sample_range, config.clip_sample_range)
        mean, variance = q_posterior(clean, noisy, timesteps, alpha_bars)
        model_mean, _ = q_posterior(guess, noisy, timesteps, alpha_bars)
        return mean, variance, model_mean, model_variances[timesteps].view(-1, 1, 1, 1)

    befores = torch.cat([alpha_bars.new_ones(1), alpha_bars[:-1]])
    betas = 1 - alpha_bars / befores
    model_variances = betas * (1 - befores) / (1 - alpha_bars) if config.variance_type == "fixed_small" else betas
    model_variances[0] = betas[1] * (1 - alpha_bars[0]) / (1 - alpha_bars[1])

    # L_T
    variance = 1 - alpha_bars[-1]
    prior = gaussian_kl(alpha_bars[-1].sqrt() * clean, variance, clean.new_zeros(()), clean.new_ones(()))
    prior = prior.flatten(1).sum(1) * to_bits

    # L_{t-1}: one timestep in each part of 1 ... T - 1
    edges = strata(last, num_timesteps)
    drawn, terms = [], []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        drawn.append(torch.randint(low, high, (batch,), **draw).to(exact))
        terms.append(gaussian_kl(*transition(drawn[-1])).flatten(1).sum(1) * to_bits)
    terms = torch.stack(terms, 1)
    denoising = (terms * torch.tensor(edges).diff().to(terms)).sum(1)

    # L_0
    _, _, mean, variance = transition(clean.new_zeros(batch, dtype=torch.long))
    reconstruction = -discretized_log_likelihood(clean, mean, variance).flatten(1).sum(1) * to_bits
    total = prior + denoising + reconstruction
    return VariationalBound(total, prior, denoising, reconstruction, torch.stack(drawn, 1), terms)


def strata(last: int, num: int) -> list[int]:
    """
    The edges of `num` parts of the timesteps 1 to `last`, the i-th from edges[i] to edges[i + 1] - 1. Their widths
    grow with t, as the terms fall with it: equal parts would leave nearly all of the variance in the first.

    Args:
        last: the largest timestep.
        num: of parts, from 1 to `last`.

    Returns:
        num + 1 edges, ascending, from 1 to last + 1.
    """
    edges = [1]
    for index in range(1, num + 1):
        # At least one timestep in this part, and one left for each that follows.
        square = 1 + round(last * (index / num) ** 2)
        edges.append(min(max(square, edges[-1] + 1), last + 1 - (num - index)))
    return edges


def gaussian_kl(mean: Tensor, variance: Tensor, other_mean: Tensor, other_variance: Tensor) -> Tensor:
    """
    KL(N(mean, variance) || N(other_mean, other_variance)) in nats, element by element.

    Args:
        mean: of the first Gaussian.
        variance: of the first, above 0.
        other_mean: of the second.
        other_variance: of the second, above 0.

    Returns:
        The divergences, of the shape to which the four are broadcast.
    """
    ratio = variance / other_variance
    return 0.5 * (ratio - 1 - ratio.log() + (mean - other_mean).square() / other_variance)


def discretized_log_likelihood(clean: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """
    The log-probability in nats of 8-bit pixels in [-1, 1] under a Gaussian, element by element: its mass within half
    a bin of the pixel, all of its tail at the ends (arXiv:2006.11239, equation 13).

    Args:
        clean: the pixels, k / 127.5 - 1 for k from 0 to 255.
        mean: of the Gaussian.
        variance: of it, above 0.

    Returns:
        The log-probabilities, of the shape to which the three are broadcast.
    """
    scale = variance.sqrt()
    above, below = (clean + HALF_BIN - mean) / scale, (clean - HALF_BIN - mean) / scale
    # ln(Phi(a) - Phi(b)) in the tail where both are small: Phi(a) - Phi(b) = Phi(-b) - Phi(-a).
    low, high = torch.where(below > 0, -above, below), torch.where(below > 0, -below, above)
    log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
    inside = log_high + torch.log1p(-(log_low - log_high).exp())
    at_bottom, at_top = clean < -1 + HALF_BIN, clean > 1 - HALF_BIN
    tail = torch.where(at_bottom, torch.special.log_ndtr(above), torch.special.log_ndtr(-below))
    return torch.where(at_bottom | at_top, tail, inside)
