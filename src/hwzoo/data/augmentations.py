"""Random views of images, a whole batch at once on its device, from noise that is given."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

NUM_NOISE = 10  # random numbers that a view of an image takes


@dataclass
class Augmentations:
    """
    How views of an image differ from it; each is drawn uniformly.

    Args:
        min_scale (`float`): least part of the image's side that a view shows.
        max_scale (`float`): largest; above 1 the image is in a black frame.
        stretch (`float`): the logarithm of a view's ratio of width to height is up to this, either way.
        rotation (`float`): degrees, up to so many either way.
        shear (`float`): a column's shift relative to its height, up to this either way.
        shift (`float`): of the view, up to this share of half the image's side, either way, in both directions.
        mirror (`bool`): whether half of the views have left and right exchanged.
        blur (`float`): share of the views that are blurred, by the binomial filter of 3 x 3 pixels.
        contrast (`float`): of the differences to the image's mean, which are scaled by up to this more or less.
        brightness (`float`): of all pixels, which are scaled by up to this more or less.
    """

    min_scale: float = field(default=0.6, metadata={"range": "(0, inf)"})
    max_scale: float = field(default=1.1, metadata={"range": "(0, inf)"})
    stretch: float = field(default=0.2, metadata={"range": "[0, inf)"})
    rotation: float = field(default=20.0, metadata={"range": "[0, 180]"})
    shear: float = field(default=0.2, metadata={"range": "[0, inf)"})
    shift: float = field(default=0.2, metadata={"range": "[0, inf)"})
    mirror: bool = False
    blur: float = field(default=0.5, metadata={"range": "[0, 1]"})
    contrast: float = field(default=0.4, metadata={"range": "[0, 1]"})
    brightness: float = field(default=0.4, metadata={"range": "[0, 1]"})


def augment(pixel_values: Tensor, uniform: Tensor, settings: Augmentations) -> Tensor:
    """
    A view of each image of a batch, which the noise alone decides: a part of it, turned, sheared and stretched
    (one bilinear interpolation, black outside of the image), mirrored, blurred, of other contrast and brightness.

    Args:
        pixel_values: in [0, 1], (batch, channels, height, width).
        uniform: noise in [0, 1), (batch, NUM_NOISE), on the same device.
        settings: how strong; anything with the fields of `Augmentations`.

    Returns:
        In [0, 1], of the same shape.
    """
    either_way = (2 * uniform - 1).T
    grid = F.affine_grid(_affine(uniform, settings), list(pixel_values.shape), align_corners=False)
    views = F.grid_sample(pixel_values, grid, padding_mode="zeros", align_corners=False)
    blurred = (uniform[:, 7] < settings.blur).view(-1, 1, 1, 1)
    views = torch.where(blurred, _blur(views), views)
    contrast, brightness = (
        (1 + strength * each).view(-1, 1, 1, 1)
        for strength, each in zip((settings.contrast, settings.brightness), either_way[8:], strict=True)
    )
    mean = views.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, views, contrast).mul_(brightness).clamp_(0, 1)


def two_views(pixel_values: Tensor, uniform: Callable[..., Tensor], settings: Augmentations) -> list[Tensor]:
    """
    Two views of each image of a batch.

    Args:
        pixel_values: in [0, 1], (batch, channels, height, width).
        uniform: called as `uniform(batch, 2, NUM_NOISE)`, gives noise in [0, 1) of that shape on the same device.
        settings: as of `augment`.

    Returns:
        Two batches in [0, 1], each of the same shape.
    """
    noise = uniform(len(pixel_values), 2, NUM_NOISE)
    return [augment(pixel_values, noise[:, index], settings) for index in (0, 1)]


def _affine(uniform: Tensor, settings: Augmentations) -> Tensor:
    """(batch, 2, 3): from places in a view to places in its image, both from -1 to 1."""
    scale = settings.min_scale + uniform[:, 0] * (settings.max_scale - settings.min_scale)
    stretch, angle, shear, x, y = (2 * uniform[:, 1:6] - 1).T
    stretch = (0.5 * settings.stretch * stretch).exp()
    angle, shear = math.radians(settings.rotation) * angle, settings.shear * shear
    width, height = scale * stretch, scale / stretch
    if settings.mirror:
        width = torch.where(uniform[:, 6] < 0.5, -width, width)
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * width, (cos * shear - sin) * height, settings.shift * x], 1),
        torch.stack([sin * width, (sin * shear + cos) * height, settings.shift * y], 1),
    ]
    return torch.stack(rows, 1)


def _blur(pixel_values: Tensor) -> Tensor:
    """By the weights 1 2 1 in both directions, the border repeated."""
    padded = F.pad(pixel_values, (1, 1, 1, 1), mode="replicate")
    rows = (padded[..., :-2, :] + padded[..., 2:, :]).mul_(0.25).add_(padded[..., 1:-1, :], alpha=0.5)
    return (rows[..., :-2] + rows[..., 2:]).mul_(0.25).add_(rows[..., 1:-1], alpha=0.5)
