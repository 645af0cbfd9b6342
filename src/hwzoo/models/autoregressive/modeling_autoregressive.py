"""Autoregressive models of images: exact likelihoods, and samples drawn value by value."""

import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_autoregressive import AutoregressiveConfig
from .labels import check_labels, drawn_by, drawn_labels
from .networks_autoregressive import NETWORKS, MaskedLinear
from .pixels import check_floating, check_pixels, extremes

TOLERANCE = 1e-3  # of a level, in units of their distance: what 255 / 255 or bfloat16 of 0 and 1 may be off


@dataclass
class AutoregressiveOutput(ModelOutput):
    """
    What `AutoregressiveModel.forward` returns.

    Args:
        loss: scalar, the mean of -log_prob, in nats per image: what training minimises.
        log_prob: log p(x) of each image, in nats, (batch,).
    """

    loss: Tensor | None = None
    log_prob: Tensor | None = None


class AutoregressivePreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = AutoregressiveConfig
    base_model_prefix = "autoregressive"
    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        # The transformer inside has GPT-2's, by its own class.
        if isinstance(module, (nn.Linear, nn.Conv2d, MaskedLinear)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class AutoregressiveModel(AutoregressivePreTrainedModel):
    """
    p(x) = prod_i p(x_i | x_1 ... x_(i-1)) over the values of an image in a fixed order (arXiv:1601.06759, equation 1):
    pixel by pixel in the order of reading, or patch by patch and so within each; the channels of a pixel follow each
    other.

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size), each on one of the `num_levels`
    levels. Likelihoods are exact, in nats per image.
    """

    def __init__(self, config: AutoregressiveConfig):
        super().__init__(config)
        self.network = NETWORKS[config.network](config)
        self.post_init()

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, labels: Tensor | None = None, return_loss: bool = True
    ) -> AutoregressiveOutput:
        """
        The training loss.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            return_loss: as in transformers; its Trainer evaluates without a column of labels by `label_names=[]`.

        Raises:
            ValueError: for pixels that are not on the levels or images of another size; none or wrong labels to a
                conditional model.
        """
        log_prob = self._log_prob(pixel_values, labels)
        return AutoregressiveOutput(-log_prob.mean() if return_loss else None, log_prob)

    def log_prob(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        log p(x) of each image.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model (log p(x | label)); an unconditional one ignores them.

        Returns:
            (batch,), exact, in nats, summed over the values of an image.

        Raises:
            ValueError: as of `forward`.
        """
        return self._log_prob(pixel_values, labels)

    def bits_per_dim(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        -log2 p(x) for each value of an image.

        Args:
            pixel_values: as of `log_prob`.
            labels: as of `log_prob`.

        Returns:
            (batch,), in bits, averaged over the values of an image.
        """
        dimensions = pixel_values[0].numel() if len(pixel_values) else 1
        return self.log_prob(pixel_values, labels) / (-math.log(2) * dimensions)

    def logits(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        What the model says of each value, given those before it.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on any values.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.

        Returns:
            (batch, channels, height, width, num_levels) unnormalised log-probabilities of the levels; for 2 levels
            (batch, channels, height, width, 1), the logit of a 1.

        Raises:
            ValueError: for images of another size; pixels that are no floating-point numbers in [0, 1]; none or wrong
                labels to a conditional model.
        """
        self._check_shape(pixel_values)
        check_pixels(pixel_values, self.training)
        if self.config.num_classes:
            check_labels(labels, pixel_values.shape[0], self.config.num_classes)
        else:
            labels = None
        # Of a layer: a replica of nn.DataParallel has no parameters, and so no `self.dtype`.
        dtype = self.network.reads_pixels().weight.dtype
        logits = self.network((2 * pixel_values - 1).to(dtype), labels)
        # float32, or float64 where the weights are, also in bfloat16 or mixed precision.
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        use_cache: bool = True,
    ) -> Tensor:
        """
        Images drawn from the model, value by value.

        Args:
            num_samples: how many.
            labels: int64, (num_samples,), for a conditional model only; each class is as likely when not given.
            generator: of labels and values; torch's global one when not given.
            temperature: divides the logits: 1 draws from the model, less prefers its likely values.
            use_cache: keep what the network computed for earlier pixels; without, it runs anew on the whole images for
                each value: the same samples of the same generator, but for rounding, much later.

        Returns:
            (num_samples, channels, height, width), on the levels in [0, 1].

        Raises:
            ValueError: for a temperature that is not above 0; labels to an unconditional model, or wrong ones to a
                conditional one.
        """
        labels = drawn_labels(labels, num_samples, self.config.num_classes, generator, self.device)
        shape = (num_samples, self.config.num_channels, self.config.image_size, self.config.image_size)
        nothing = torch.zeros(shape, device=self.device)
        return self._fill(nothing, nothing.bool(), labels, generator, temperature, use_cache)

    @torch.no_grad()
    def complete(
        self,
        pixel_values: Tensor,
        mask: Tensor,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        use_cache: bool = True,
    ) -> Tensor:
        """
        Images of which some pixels are given and the others drawn. A value is drawn given all before it in the order;
        of known pixels after it it knows nothing: for a sample of p(unknown | known) let the known ones come first.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels where known.
            mask: bool, (height, width), or of any shape that broadcasts to that of `pixel_values`: True where known.
            labels: as of `sample`.
            generator: as of `sample`.
            temperature: as of `sample`.
            use_cache: as of `sample`.

        Returns:
            (batch, channels, height, width) in [0, 1], float32 or as precise as `pixel_values`.

        Raises:
            ValueError: as of `sample`, and for known pixels that are not on the levels, images of another size, or a
                mask that is not bool or does not broadcast to the images.
        """
        self._check_shape(pixel_values)
        check_floating(pixel_values)
        labels = drawn_labels(labels, len(pixel_values), self.config.num_classes, generator, self.device)
        try:
            if mask.dtype != torch.bool:
                raise RuntimeError
            mask = mask.to(pixel_values.device).expand_as(pixel_values)
        except RuntimeError:
            raise ValueError(
                f"mask is {str(mask.dtype).removeprefix('torch.')} of shape {tuple(mask.shape)}; it must be bool of a "
                f"shape that broadcasts to {tuple(pixel_values.shape)}"
            ) from None
        pixel_values = torch.where(mask, pixel_values, 0.0)
        levels = self._check_levels(pixel_values)
        if pixel_values.dtype != (exact := torch.promote_types(pixel_values.dtype, torch.float32)):
            pixel_values = levels.to(exact) / (self.config.num_levels - 1)  # beside its level in half precision
        return self._fill(pixel_values, mask, labels, generator, temperature, use_cache)

    def receptive_field(self, row: int, column: int, channel: int = 0) -> Tensor:
        """
        The values of an image on which what the model says of one of them depends, by the network's masks.

        Args:
            row: of the pixel, from 0.
            column: of the pixel, from 0.
            channel: of the pixel, from 0.

        Returns:
            bool, (channels, height, width).

        Raises:
            ValueError: for a pixel outside of the image.
        """
        channels, size = self.config.num_channels, self.config.image_size
        if not (0 <= row < size and 0 <= column < size and 0 <= channel < channels):
            raise ValueError(
                f"row, column and channel are {row}, {column}, {channel}; the image is {size} x {size} with {channels}"
            )
        outputs = torch.zeros(channels, size, size, dtype=torch.bool, device=self.device)
        outputs[channel, row, column] = True
        return self.network.needed(outputs)

    def _log_prob(self, pixel_values: Tensor, labels: Tensor | None) -> Tensor:
        # Not through `forward`: under mixed precision that runs in bfloat16, tests do not.
        levels = self._check_levels(pixel_values)
        logits = self.logits(pixel_values, labels)
        if self.config.num_levels == 2:
            targets = pixel_values.to(logits.dtype)
            return -F.binary_cross_entropy_with_logits(logits[..., 0], targets, reduction="none").sum((1, 2, 3))
        return logits.log_softmax(-1).gather(-1, levels[..., None])[..., 0].sum((1, 2, 3))

    def _check_shape(self, pixel_values: Tensor):
        shape = (self.config.num_channels, self.config.image_size, self.config.image_size)
        if pixel_values.shape[1:] != shape:
            raise ValueError(
                f"pixel_values has shape {tuple(pixel_values.shape)}; this model has positions for (batch, "
                f"{', '.join(map(str, shape))})"
            )

    def _check_levels(self, pixel_values: Tensor) -> Tensor:
        """The levels of pixels, int64."""
        check_floating(pixel_values)
        last = self.config.num_levels - 1
        scaled = pixel_values * last
        levels = scaled.round()
        if extremes(pixel_values, self.training) is not None:  # else values are not looked at
            right = ((scaled - levels).abs() <= TOLERANCE) & (levels >= 0) & (levels <= last)  # NaN is not
            if not right.all():
                what = "0 and 1: binarise them" if last == 1 else f"0, 1/{last}, 2/{last} ... 1"
                raise ValueError(
                    f"pixel_values holds {pixel_values[~right][0].item():.4g}; this model takes the levels {what}"
                )
        return levels.long()

    def _fill(
        self,
        pixel_values: Tensor,
        known: Tensor,
        labels: Tensor | None,
        generator: torch.Generator | None,
        temperature: float,
        use_cache: bool,
    ) -> Tensor:
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        # One uniform number a value decides it: whatever way the probabilities are computed, the draws are the same.
        uniform = torch.rand(pixel_values.shape, **drawn_by(generator, self.device)).to(self.device)
        pixel_values, known = pixel_values.to(self.device, copy=True), known.to(self.device)
        last = self.config.num_levels - 1
        # In the precision of the logits a lower one would be 0.
        temperature = max(temperature, torch.finfo(torch.promote_types(self.dtype, torch.float32)).tiny)
        pixels = (2 * pixel_values - 1).to(self.dtype)  # as the network takes them

        def draw(logits: Tensor, channel: int, row: int, column: int) -> Tensor:
            place = (slice(None), channel, row, column)
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
            if last == 1:
                levels = uniform[place] < (logits[:, 0] / temperature).sigmoid()
            else:  # as many as the cumulative probabilities passed; rounding may leave the last of these below 1
                logits = (logits - logits.amax(1, keepdim=True)) / temperature  # below it they may become -inf
                levels = (uniform[place][:, None] >= logits.softmax(1).cumsum(1)[:, :-1]).sum(1)
            pixel_values[place] = torch.where(known[place], pixel_values[place], levels.to(pixel_values.dtype) / last)
            return 2 * pixel_values[place] - 1

        if use_cache:
            with _one_thread():
                self.network.fill(pixels, labels, draw)
        else:
            width = self.config.image_size
            for place in self.network.order().flatten().argsort().tolist():
                channel, row, column = place // width**2, place // width % width, place % width
                logits = self.network(pixels, labels)[:, channel, row, column]
                pixels[:, channel, row, column] = draw(logits, channel, row, column).to(pixels.dtype)
        return pixel_values


_one_thread_lock, _one_thread_calls = threading.Lock(), []  # the number before each call that goes on


@contextmanager
def _one_thread() -> Iterator[None]:
    """
    What is computed for one value is too little for several threads: they would mostly wait for each other. Their
    number is that of the calling thread, and of all threads that begin later: each call gives it back, as it was
    before the first of several at once.
    """
    with _one_thread_lock:
        own = torch.get_num_threads()  # asked before it is set, or a new thread would take the process's later
        before = _one_thread_calls[0] if _one_thread_calls else own
        _one_thread_calls.append(before)
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _one_thread_lock:
            _one_thread_calls.pop()
            torch.set_num_threads(before)


__all__ = ["AutoregressiveModel", "AutoregressivePreTrainedModel"]
