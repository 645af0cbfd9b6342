"""Latents that are given, and paths between them. The file is the same in each folder, as each is copied alone."""

import torch
from torch import Tensor
from torch.nn import functional as F

MODES = ("spherical", "linear")
SMALLEST_SINE = 1e-4  # of the angle between two latents; below, in float32, the formula of the sphere loses its digits


def checked_latents(latents: Tensor, num_samples: int, size: int) -> Tensor:
    """
    Args:
        latents: of a user.
        num_samples: how many there must be.
        size: of one.

    Returns:
        The latents.

    Raises:
        ValueError: for another shape.
    """
    if latents.shape != (num_samples, size):
        raise ValueError(f"latents has shape {tuple(latents.shape)}; it must be {(num_samples, size)}")
    return latents


def between(start: Tensor, end: Tensor, num_steps: int, mode: str) -> Tensor:
    """
    Latents on the way from one to another: along a straight line, or along the great circle on which their angle grows
    evenly and which keeps the length of normal latents of many dimensions (White, arXiv:1609.04468, section 2.1). Of
    latents of the same or the opposite direction, which have no one such circle, the second is a straight line too.

    Args:
        start: (batch, size).
        end: the same.
        num_steps: latents of a path, both ends counted, at least 2.
        mode: `spherical` or `linear`.

    Returns:
        (batch, num_steps, size), float32, or float64 where an end is.

    Raises:
        ValueError: for fewer than 2 steps, another mode, or ends of different shapes.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; it must be at least 2")
    if mode not in MODES:
        raise ValueError(f"mode is {mode!r}; it must be one of {', '.join(MODES)}")
    if start.shape != end.shape:
        raise ValueError(f"start and end are of the shapes {tuple(start.shape)} and {tuple(end.shape)}; give as many")
    # A latent of a user and the encoding of an image may differ; in half precision the angle would lose its digits.
    dtype = torch.promote_types(torch.promote_types(start.dtype, end.dtype), torch.float32)
    start, end = start[:, None].to(dtype), end[:, None].to(dtype)
    weight = torch.linspace(0, 1, num_steps, device=start.device, dtype=start.dtype)[:, None]
    straight = torch.lerp(start, end, weight)
    if mode == "linear":
        return straight
    angle = F.cosine_similarity(start, end, dim=-1)[..., None].clamp(-1, 1).acos()
    sine = angle.sin()
    curved = (((1 - weight) * angle).sin() * start + (weight * angle).sin() * end) / sine
    return torch.where(sine > SMALLEST_SINE, curved, straight)
