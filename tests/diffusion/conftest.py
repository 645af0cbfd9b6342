"""A UNet of a few thousand weights, and networks that know the answer."""

import pytest
import torch

from hwzoo import diffusion


@pytest.fixture
def tiny_unet():
    """Builds a small network; its seed and what differs from the smallest one are given."""

    def build(seed=0, sample_size=8, num_channels=1, **changes):
        torch.manual_seed(seed)
        settings = {"block_out_channels": (8, 8), "norm_num_groups": 4, **changes}
        return diffusion.build_unet(sample_size, num_channels, **settings).eval()

    return build
