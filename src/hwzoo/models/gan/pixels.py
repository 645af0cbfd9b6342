"""What every family asks of pixels. The file is the same in each folder, as each is copied to the Hub alone."""

import torch
from torch import Tensor

ROUNDING = 1e-3  # what pixels that were normalised and back may be off


def check_floating(pixel_values: Tensor):
    """
    Raises:
        ValueError: for images of integers or booleans.
    """
    if not pixel_values.is_floating_point():
        raise ValueError(
            f"pixel_values is {pixel_values.dtype}; it must be floating-point in [0, 1] (0 to 255 divided by 255)"
        )


def extremes(values: Tensor, training: bool) -> tuple[float, float] | None:
    """
    Args:
        values: of any shape.
        training: whether they are for a step of training.

    Returns:
        The lowest and the highest; None where values are not looked at: there are none, as in a traced graph, or it is
        training on an accelerator, where each look would wait for the device.
    """
    unseen = torch.compiler.is_compiling() or (training and values.device.type != "cpu")
    if unseen or not values.numel():
        return None
    try:
        low, high = (bound.item() for bound in values.aminmax())
    except (RuntimeError, NotImplementedError):  # of vmap, of the meta device: there is no value to look at
        return None
    return low, high


def check_pixels(pixel_values: Tensor, training: bool):
    """
    Refuses what is no batch of images as the models take them; values where `extremes` looks at them.

    Args:
        pixel_values: images of any shape.
        training: whether they are for a step of training.

    Raises:
        ValueError: for integers or booleans, and for values outside of [0, 1].
    """
    check_floating(pixel_values)
    if (seen := extremes(pixel_values, training)) is None:
        return
    low, high = seen
    if not (low >= -ROUNDING and high <= 1 + ROUNDING):  # so that NaN is refused too
        raise ValueError(f"pixel_values goes from {low:.4g} to {high:.4g}; it must be in [0, 1]")


def check_shape(pixel_values: Tensor, num_channels: int, image_size: int):
    """
    Refuses images of another shape, as those with their channels last: some layers would take them, as what they are
    not.

    Args:
        pixel_values: a batch of images.
        num_channels: of the model.
        image_size: height and width of the model's.

    Raises:
        ValueError: for all that is not (batch, num_channels, image_size, image_size).
    """
    if pixel_values.shape[1:] != (num_channels, image_size, image_size):
        raise ValueError(
            f"pixel_values has shape {tuple(pixel_values.shape)}; this model takes (batch, {num_channels}, "
            f"{image_size}, {image_size})"
        )
