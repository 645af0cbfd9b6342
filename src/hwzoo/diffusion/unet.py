"""The network of a diffusion model: diffusers' `UNet2DModel`, built for small images."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError


@dataclass
class UNetArchitecture:
    """
    The layers of a `UNet2DModel`.

    Args:
        block_out_channels (`list[int]`): channels at each resolution of the UNet, each half the one before.
        layers_per_block (`int`): residual blocks a resolution, on the way up one more.
        attention (`bool`): attention, of one head, at the lowest resolution.
        norm_num_groups (`int`): groups of each GroupNorm.
        dropout (`float`): in each residual block.
        padded_size (`int`, *optional*): size to which images are padded with black, for more resolutions.
        patch_size (`int`): side of the patches whose pixels become the channels of one place, by which the UNet's maps
            are smaller and its steps faster.
    """

    block_out_channels: list[int] | tuple[int, ...] = field(default=(16, 32, 64), metadata={"range": "[1, inf)"})
    layers_per_block: int = field(default=1, metadata={"range": "[1, inf)"})
    attention: bool = True
    norm_num_groups: int = field(default=8, metadata={"range": "[1, inf)"})
    dropout: float = field(default=0.0, metadata={"range": "[0, 1)"})
    padded_size: int | None = field(default=None, metadata={"range": "[1, inf)"})
    patch_size: int = field(default=1, metadata={"range": "[1, inf)"})


def build_unet(image_size: int, num_channels: int, *, num_classes: int = 0, **architecture: Any) -> Any:
    """
    A new `UNet2DModel` for square images.

    Args:
        image_size: height and width of the images, before they are padded.
        num_channels: of the images.
        num_classes: 0, or those of a conditional network, which has an embedding more: the last is that of no class.
        architecture: fields of `UNetArchitecture`; a `padded_size` is at least `image_size`.

    Returns:
        The network, with the weights that torch's global random state gives it.

    Raises:
        UsageError: when the size cannot be cut into patches or halved so often, or the groups do not divide the
            channels.
    """
    from diffusers import UNet2DModel

    config = UNetArchitecture(**architecture)
    pixels, patch = config.padded_size or image_size, config.patch_size
    if pixels % patch:
        raise UsageError(f"--patch_size is {patch}; it must divide the {pixels} pixels of a side (see --padded_size)")
    size, num_channels = pixels // patch, num_channels * patch**2
    halvings = len(config.block_out_channels) - 1
    if size % 2**halvings:
        fitting = -(-size // 2**halvings) * 2**halvings * patch
        cut = f" in patches of {patch}" if patch > 1 else ""
        raise UsageError(
            f"--block_out_channels has {halvings + 1} resolutions: images of {pixels} pixels{cut} cannot be halved "
            f"{halvings} times; give fewer, or --padded_size {fitting}"
        )
    if any(channels % config.norm_num_groups for channels in config.block_out_channels):
        raise UsageError(
            f"--norm_num_groups is {config.norm_num_groups}; it must divide each of --block_out_channels "
            f"{' '.join(map(str, config.block_out_channels))}"
        )
    lowest = "Attn" if config.attention else ""
    return UNet2DModel(
        sample_size=size,
        in_channels=num_channels,
        out_channels=num_channels,
        block_out_channels=tuple(config.block_out_channels),
        layers_per_block=config.layers_per_block,
        down_block_types=("DownBlock2D",) * halvings + (f"{lowest}DownBlock2D",),
        up_block_types=(f"{lowest}UpBlock2D",) + ("UpBlock2D",) * halvings,
        add_attention=config.attention,
        attention_head_dim=None,
        norm_num_groups=config.norm_num_groups,
        dropout=config.dropout,
        num_class_embeds=num_classes + 1 if num_classes else None,
    )


def clean_images(pixel_values: Tensor, padded_size: int, patch_size: int = 1) -> Tensor:
    """
    Images in [0, 1], (batch, channels, size, size), as x_0 of a UNet: in [-1, 1], with as much black on all sides as
    makes them `padded_size` wide, cut into patches.

    Args:
        pixel_values: square images.
        padded_size: at least their size, in pixels.
        patch_size: it divides `padded_size`.

    Returns:
        x_0, (batch, channels patch_size^2, padded_size / patch_size, padded_size / patch_size), for an odd difference
        with one row more below and one column more to the right.
    """
    missing = padded_size - pixel_values.shape[-1]
    before = missing // 2
    return F.pixel_unshuffle(F.pad(pixel_values, (before, missing - before) * 2) * 2 - 1, patch_size)
