"""
Invertible layers and their log-determinants. Each gives (outputs, log_det) from pixels towards latents, log_det the
logarithm of the absolute determinant of its Jacobian for each example, (batch,); `inverse` goes back.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast

from .configuration_flow import FlowConfig


class ZeroConv2d(nn.Module):
    """A 3 x 3 convolution that begins at zero: what it feeds, a coupling or a split, begins as the identity."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels_out, channels_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(channels_out))

    def forward(self, inputs: Tensor) -> Tensor:
        return F.conv2d(inputs, self.weight, self.bias, padding=1)


def convolutions(channels_in: int, channels_out: int, config: FlowConfig) -> nn.Sequential:
    """
    3 x 3, then 1 x 1 convolutions with ReLU, and a last 3 x 3 one (arXiv:1807.03039, section B).

    Args:
        channels_in: of the input.
        channels_out: of the output.
        config: of the flow; its `hidden_size` and `num_hidden_layers`.

    Returns:
        The network, (batch, channels_in, height, width) to (batch, channels_out, height, width).
    """
    layers = [nn.Conv2d(channels_in, config.hidden_size, 3, padding=1), nn.ReLU()]
    for _ in range(config.num_hidden_layers - 1):
        layers += [nn.Conv2d(config.hidden_size, config.hidden_size, 1), nn.ReLU()]
    return nn.Sequential(*layers, ZeroConv2d(config.hidden_size, channels_out))


def fully_connected(size_in: int, size_out: int, config: FlowConfig) -> nn.Sequential:
    """
    Linear layers with ReLU (arXiv:1410.8516, section 5.1).

    Args:
        size_in: of the input.
        size_out: of the output.
        config: of the flow; its `hidden_size` and `num_hidden_layers`.

    Returns:
        The network, (batch, size_in) to (batch, size_out).
    """
    sizes = [size_in, *[config.hidden_size] * config.num_hidden_layers, size_out]
    layers = []
    for each_in, each_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(each_in, each_out), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def checked_moments(values: Tensor, dim: int | tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """
    The standard deviations and means that a flow is initialised by.

    Args:
        values: of images, the first dimension of any size.
        dim: over which they are taken.

    Returns:
        Both, shaped like the other dimensions.

    Raises:
        ValueError: for a deviation that is 0 or not finite.
    """
    wrong = [math.nan]  # of no images, of which torch warns
    if values.shape[0]:
        std, mean = torch.std_mean(values, dim, correction=0)
        wrong = std[~((std > 0) & std.isfinite())].tolist()
        if not wrong:
            return std, mean
    raise ValueError(
        f"of {values.shape[0]} images a standard deviation is {wrong[0]:.4g}; those that a flow is initialised by "
        "must be above 0 and finite: give more images, or others"
    )


class ActNorm(nn.Module):
    """x -> exp(log_scale) (x + shift) for each channel (arXiv:1807.03039, section 3.1)."""

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        log_scale = self.log_scale.to(inputs.dtype)
        outputs = (inputs + self.shift.to(inputs.dtype)) * log_scale.exp()
        return outputs, (log_scale.sum() * inputs.shape[2:].numel()).expand(inputs.shape[0])

    def inverse(self, outputs: Tensor) -> Tensor:
        """The inputs of outputs, in their shape."""
        return outputs * (-self.log_scale.to(outputs.dtype)).exp() - self.shift.to(outputs.dtype)

    @torch.no_grad()
    def initialize(self, inputs: Tensor):
        """Makes the outputs of these inputs have mean 0 and variance 1 in each channel."""
        std, mean = checked_moments(inputs, (0, 2, 3))
        self.shift.copy_(-mean[:, None, None])
        self.log_scale.copy_(-(std + 1e-6).log()[:, None, None])


class InvertibleConv1x1(nn.Module):
    """
    A 1 x 1 convolution by a square matrix, at first a random rotation (arXiv:1807.03039, section 3.2); never in less
    than float32: its determinant and its inverse are those of what it does.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(channels))

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        weight = self.weight.to(inputs.dtype)
        # The backward pass of slogdet is missing on MPS.
        square = weight.cpu() if weight.device.type == "mps" else weight
        log_det = torch.linalg.slogdet(square).logabsdet.to(weight.device) * inputs.shape[2:].numel()
        return self._apply_matrix(inputs, weight), log_det.expand(inputs.shape[0])

    def inverse(self, outputs: Tensor) -> Tensor:
        """The inputs of outputs, in their shape."""
        # In float64, on the CPU as not every device has it: its error is not to add to that of the product.
        weight = torch.linalg.inv(self.weight.cpu().double()).to(outputs)
        return self._apply_matrix(outputs, weight)

    @staticmethod
    def _apply_matrix(inputs: Tensor, weight: Tensor) -> Tensor:
        with maybe_autocast(inputs.device.type, enabled=False):
            return F.conv2d(inputs, weight[:, :, None, None])


class Coupling(nn.Module):
    """
    x2 -> exp(s) x2 + t with s and t from the other half, x1, which stays (arXiv:1605.08803, equations 4 to 6), or
    x2 -> x2 + t (arXiv:1410.8516, equation 3). s is bounded, softly and by a learned number: |s| < exp(log_bound).

    Args:
        config: of the flow; its `coupling`.
        make_network: gives the network of s and t from the number of channels, or units, of its output: as many for
            each of them.
        size: channels, or units, of x2.
    """

    def __init__(self, config: FlowConfig, make_network, size: int):
        super().__init__()
        affine = config.coupling == "affine"
        self.network = make_network(size * (1 + affine))
        self.log_bound = nn.Parameter(torch.zeros(size)) if affine else None

    def scale_and_shift(self, given: Tensor) -> tuple[Tensor | None, Tensor]:
        """(s, t), s None of an additive coupling, as float32 or float64 whatever the network is."""
        # Trained by `forward` in mixed precision the network may run in bfloat16; what it gives is used in float32.
        dtype = self.network[0].weight.dtype
        output = self.network(given.to(dtype)).to(given.dtype)
        if self.log_bound is None:
            return None, output
        raw, shift = output.chunk(2, dim=1)
        bound = self.log_bound.to(given.dtype).exp().view(-1, *[1] * (given.ndim - 2))
        return bound * torch.tanh(raw / bound), shift


class HalfCoupling(Coupling):
    """
    A coupling of the halves of the second dimension: of channels (arXiv:1605.08803, section 3.4), or of every second
    unit, the first, third ... and the second, fourth ... (arXiv:1410.8516, section 5.1).

    Args:
        config: of the flow.
        size: channels of images, or units of vectors.
        swap: whether the first half is changed, given the second, and not the second given the first.
        vectors: of vectors, not of images.
    """

    def __init__(self, config: FlowConfig, size: int, *, swap: bool = False, vectors: bool = False):
        first = (size + 1) // 2 if vectors else size // 2
        given, changed = (size - first, first) if swap else (first, size - first)
        make = fully_connected if vectors else convolutions
        super().__init__(config, lambda channels_out: make(given, channels_out, config), changed)
        self.swap, self.vectors = swap, vectors

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        given, changed = self._split(inputs)
        scale, shift = self.scale_and_shift(given)
        if scale is None:
            return self._join(given, changed + shift), inputs.new_zeros(inputs.shape[0])
        return self._join(given, changed * scale.exp() + shift), scale.flatten(1).sum(1)

    def inverse(self, outputs: Tensor) -> Tensor:
        """The inputs of outputs, in their shape."""
        given, changed = self._split(outputs)
        scale, shift = self.scale_and_shift(given)
        changed = changed - shift
        return self._join(given, changed if scale is None else changed * (-scale).exp())

    def _split(self, whole: Tensor) -> tuple[Tensor, Tensor]:
        halves = (whole[:, ::2], whole[:, 1::2]) if self.vectors else whole.chunk(2, dim=1)
        return halves[::-1] if self.swap else halves

    def _join(self, given: Tensor, changed: Tensor) -> Tensor:
        first, second = (changed, given) if self.swap else (given, changed)
        if not self.vectors:
            return torch.cat([first, second], dim=1)
        whole = first.new_empty(first.shape[0], first.shape[1] + second.shape[1])
        whole[:, ::2], whole[:, 1::2] = first, second
        return whole


class CheckerboardCoupling(Coupling):
    """
    A coupling of the pixels of one colour of a checkerboard given those of the other (arXiv:1605.08803, section 3.4).

    Args:
        config: of the flow.
        channels: of the images.
        swap: whether the pixel in the corner is given, and not changed.
    """

    def __init__(self, config: FlowConfig, channels: int, *, swap: bool = False):
        # The network is told which pixels are missing: a zero may be one that is there.
        super().__init__(config, lambda channels_out: convolutions(channels + 1, channels_out, config), channels)
        self.swap = swap

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        changed = self._changed(inputs)
        scale, shift = self._masked(inputs, changed)
        if scale is None:
            return inputs + shift, inputs.new_zeros(inputs.shape[0])
        return inputs * scale.exp() + shift, scale.flatten(1).sum(1)

    def inverse(self, outputs: Tensor) -> Tensor:
        """The inputs of outputs, in their shape."""
        scale, shift = self._masked(outputs, self._changed(outputs))
        return outputs - shift if scale is None else (outputs - shift) * (-scale).exp()

    def _changed(self, images: Tensor) -> Tensor:
        """1 where a pixel is changed, else 0: (height, width)."""
        rows, columns = (torch.arange(size, device=images.device) for size in images.shape[2:])
        return ((rows[:, None] + columns + self.swap + 1) % 2).to(images.dtype)

    def _masked(self, images: Tensor, changed: Tensor) -> tuple[Tensor | None, Tensor]:
        mask = changed.expand(images.shape[0], 1, -1, -1)
        scale, shift = self.scale_and_shift(torch.cat([images * (1 - changed), mask], dim=1))
        return None if scale is None else scale * changed, shift * changed


class Squeeze(nn.Module):
    """Squares of 2 x 2 pixels to four channels (arXiv:1605.08803, section 3.6)."""

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        num, channels, height, width = inputs.shape
        # torch leaves the shape of no images as it is.
        outputs = F.pixel_unshuffle(inputs, 2) if num else inputs.view(0, 4 * channels, height // 2, width // 2)
        return outputs, inputs.new_zeros(num)

    def inverse(self, outputs: Tensor) -> Tensor:
        """Four channels to squares of 2 x 2 pixels."""
        return F.pixel_shuffle(outputs, 2)


class Split(nn.Module):
    """
    Half of the channels become latents: standardised by means and standard deviations that the other half, which goes
    on, gives: a Gaussian for one half given the other (arXiv:1605.08803, section 3.6).
    """

    def __init__(self, channels: int):
        super().__init__()
        self.network = ZeroConv2d(channels // 2, channels)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(the half that goes on, the latents, log_det)."""
        rest, half = inputs.chunk(2, dim=1)
        mean, log_std = self._moments(rest)
        return rest, (half - mean) * (-log_std).exp(), -log_std.flatten(1).sum(1)

    def inverse(self, rest: Tensor, latents: Tensor) -> Tensor:
        """
        Both halves again.

        Args:
            rest: the half that went on, (batch, channels / 2, height, width).
            latents: as of `forward`, shaped like it.

        Returns:
            (batch, channels, height, width).
        """
        mean, log_std = self._moments(rest)
        return torch.cat([rest, mean + log_std.exp() * latents], dim=1)

    def _moments(self, rest: Tensor) -> tuple[Tensor, Tensor]:
        return self.network(rest.to(self.network.weight.dtype)).to(rest.dtype).chunk(2, dim=1)


class MultiScale(nn.Module):
    """Images to flat latents through layers of several scales, (batch, c, h, w) to (batch, c h w), and back."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        channels, size = config.num_channels, config.image_size
        self.scales, self.splits, self.shapes = nn.ModuleList(), nn.ModuleList(), []
        for index in range(config.num_scales):
            last = index == config.num_scales - 1
            layers, channels, size = SCALES[config.network](config, channels, size, last)
            self.scales.append(nn.ModuleList(layers))
            if not last:
                self.splits.append(Split(channels))
                channels //= 2
            self.shapes.append((channels, size, size))  # of the latents of this scale

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        log_det, latents = inputs.new_zeros(inputs.shape[0]), []
        for index, scale in enumerate(self.scales):
            for layer in scale:
                inputs, change = layer(inputs)
                log_det = log_det + change
            if index < len(self.splits):
                inputs, part, change = self.splits[index](inputs)
                log_det = log_det + change
                latents.append(part.flatten(1))
        return torch.cat([*latents, inputs.flatten(1)], dim=1), log_det

    def inverse(self, latents: Tensor) -> Tensor:
        """Images of flat latents: (batch, c h w) -> (batch, c, h, w)."""
        sizes = [channels * height * width for channels, height, width in self.shapes]
        parts = [
            part.unflatten(1, shape) for part, shape in zip(latents.split(sizes, dim=1), self.shapes, strict=True)
        ]
        outputs = parts.pop()
        for index in reversed(range(len(self.scales))):
            if index < len(self.splits):
                outputs = self.splits[index].inverse(outputs, parts.pop())
            for layer in reversed(self.scales[index]):
                outputs = layer.inverse(outputs)
        return outputs


def realnvp_scale(config: FlowConfig, channels: int, size: int, last: bool) -> tuple[list[nn.Module], int, int]:
    """
    The layers of one scale of RealNVP (arXiv:1605.08803, equation 14).

    Args:
        config: of the flow.
        channels: that come in.
        size: height and width of what comes in.
        last: whether no scale follows.

    Returns:
        The layers, and the channels and the size that they leave.
    """
    layers = []
    for step in range(config.num_steps + last):  # one more at the last scale: four where the paper has three
        layers += [ActNorm(channels), CheckerboardCoupling(config, channels, swap=step % 2 == 1)]
    if last:
        return layers, channels, size
    channels, size = 4 * channels, size // 2
    layers.append(Squeeze())
    for step in range(config.num_steps):
        layers += [ActNorm(channels), HalfCoupling(config, channels, swap=step % 2 == 1)]
    return layers, channels, size


def glow_scale(config: FlowConfig, channels: int, size: int, last: bool) -> tuple[list[nn.Module], int, int]:
    """
    The layers of one scale of Glow (arXiv:1807.03039, figure 2).

    Args:
        config: of the flow.
        channels: that come in.
        size: height and width of what comes in.
        last: whether no scale follows.

    Returns:
        The layers, and the channels and the size that they leave.
    """
    channels, size = 4 * channels, size // 2
    layers: list[nn.Module] = [Squeeze()]
    for _ in range(config.num_steps):
        layers += [ActNorm(channels), InvertibleConv1x1(channels), HalfCoupling(config, channels)]
    return layers, channels, size


SCALES = {"realnvp": realnvp_scale, "glow": glow_scale}


class Nice(nn.Module):
    """Images to flat latents through couplings of every second value (arXiv:1410.8516), and back."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        self.shape = (config.num_channels, config.image_size, config.image_size)
        size = config.num_channels * config.image_size**2
        self.couplings = nn.ModuleList(
            HalfCoupling(config, size, swap=step % 2 == 1, vectors=True) for step in range(config.num_steps)
        )

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        outputs, log_det = inputs.flatten(1), inputs.new_zeros(inputs.shape[0])
        for coupling in self.couplings:
            outputs, change = coupling(outputs)
            log_det = log_det + change
        return outputs, log_det

    def inverse(self, latents: Tensor) -> Tensor:
        """Images of flat latents: (batch, c h w) -> (batch, c, h, w)."""
        for coupling in reversed(self.couplings):
            latents = coupling.inverse(latents)
        return latents.unflatten(1, self.shape)


NETWORKS = {"nice": Nice, "realnvp": MultiScale, "glow": MultiScale}

__all__ = ["NETWORKS", "ActNorm", "Coupling", "InvertibleConv1x1", "ZeroConv2d"]
