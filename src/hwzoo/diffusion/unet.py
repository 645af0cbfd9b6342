"""The network of a diffusion model: diffusers' `UNet2DModel`, built for small images."""

from collections.abc import Sequence
from typing import Any

from ..errors import UsageError


def build_unet(
    sample_size: int,
    num_channels: int,
    *,
    block_out_channels: Sequence[int],
    layers_per_block: int = 1,
    attention: bool = True,
    norm_num_groups: int = 8,
    dropout: float = 0.0,
    num_classes: int = 0,
) -> Any:
    """
    A new `UNet2DModel` for square images.

    Args:
        sample_size: height and width of its images.
        num_channels: of its images.
        block_out_channels: at each resolution, of which each is half the one before.
        layers_per_block: residual blocks a resolution on the way down, one more on the way up.
        attention: at the lowest resolution, one head.
        norm_num_groups: groups of each GroupNorm.
        dropout: in each residual block.
        num_classes: 0, or those of a conditional network, which has an embedding more: the last is that of no class.

    Raises:
        UsageError: when the size cannot be halved so often, or the groups do not divide the channels.
    """
    from diffusers import UNet2DModel

    halvings = len(block_out_channels) - 1
    if sample_size % 2**halvings:
        fitting = -(-sample_size // 2**halvings) * 2**halvings
        raise UsageError(
            f"--block_out_channels has {halvings + 1} resolutions: images of {sample_size} pixels cannot be halved "
            f"{halvings} times; give fewer, or --padded_size {fitting}"
        )
    if any(channels % norm_num_groups for channels in block_out_channels):
        raise UsageError(
            f"--norm_num_groups is {norm_num_groups}; it must divide each of --block_out_channels "
            f"{' '.join(map(str, block_out_channels))}"
        )
    lowest = "Attn" if attention else ""
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=num_channels,
        out_channels=num_channels,
        block_out_channels=tuple(block_out_channels),
        layers_per_block=layers_per_block,
        down_block_types=("DownBlock2D",) * halvings + (f"{lowest}DownBlock2D",),
        up_block_types=(f"{lowest}UpBlock2D",) + ("UpBlock2D",) * halvings,
        add_attention=attention,
        attention_head_dim=None,
        norm_num_groups=norm_num_groups,
        dropout=dropout,
        num_class_embeds=num_classes + 1 if num_classes else None,
    )
