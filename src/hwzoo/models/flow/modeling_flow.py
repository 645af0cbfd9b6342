"""Normalising flows of images of 8 bits: their bounds on the likelihood, latents and samples."""

import copy
import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_flow import FlowConfig
from .labels import check_labels, drawn_by, drawn_labels
from .latents import between, checked_latents
from .layers_flow import NETWORKS, ActNorm, Coupling, InvertibleConv1x1, ZeroConv2d, checked_moments
from .pixels import check_floating, check_shape, extremes

LAST_LEVEL = 255  # of pixels of 8 bits, from 0
LOG_LEVELS = math.log(LAST_LEVEL + 1)
LOG_2PI = math.log(2 * math.pi)
TOLERANCE = 1e-3  # of a level, in units of their distance: what 255 / 255 may be off
# Values that the flow takes at once where importance samples are many: 8 MB of float32, 100 MB in hidden layers.
CHUNK = 2_500 * 784


@dataclass
class FlowOutput(ModelOutput):
    """
    What `FlowModel.forward` returns.

    Args:
        loss: scalar, the mean of -log_prob, in nats per image: what training minimises.
        log_prob: lower bound on log P(x) of each image of 8 bits, from one draw of the noise, in nats, (batch,).
    """

    loss: Tensor | None = None
    log_prob: Tensor | None = None


class FlowPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = FlowConfig
    base_model_prefix = "flow"
    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()
        elif isinstance(module, ZeroConv2d):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
        elif isinstance(module, ActNorm):
            nn.init.zeros_(module.shift)
            nn.init.zeros_(module.log_scale)
        elif isinstance(module, InvertibleConv1x1):
            nn.init.orthogonal_(module.weight)
        elif isinstance(module, Coupling) and module.log_bound is not None:
            nn.init.zeros_(module.log_bound)
        elif isinstance(module, FlowModel):
            nn.init.zeros_(module.mean)
            nn.init.zeros_(module.log_std)
            nn.init.zeros_(module.initialized)


class FlowModel(FlowPreTrainedModel):
    """
    A normalising flow: x = f(z) with f invertible and the latents z independent, so that log p(x) = log p(z) +
    log |det dz/dx| (arXiv:1410.8516, equation 2).

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size), each on one of the 256 levels.
    The flow is of y = (level + u) / 256 with u uniform on [0, 1). What is told of an image is no density: it is a
    bound on the logarithm of its probability among all images of 8 bits, in nats. Latents are (batch, dimensions), one
    for each value of an image, standard normal (or logistic) under the model; the last ones are of the last scale.
    """

    def __init__(self, config: FlowConfig):
        super().__init__(config)
        self.network = NETWORKS[config.network](config)
        size = config.num_channels * config.image_size**2
        if config.network != "nice":
            size = math.prod(self.network.shapes[-1])
        # Of the latents of the last scale, for each class: a diagonal scaling as of arXiv:1410.8516, section 3.3.
        self.mean = nn.Parameter(torch.zeros(max(1, config.num_classes), size))
        self.log_std = nn.Parameter(torch.zeros(max(1, config.num_classes), size))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_loss: bool = True,
        *,
        noise: Tensor | None = None,
    ) -> FlowOutput:
        """
        The training loss.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            return_loss: as in transformers; its Trainer evaluates without a column of labels by `label_names=[]`.
            noise: uniform on [0, 1), shaped like `pixel_values`; drawn when not given.

        Raises:
            ValueError: for pixels that are not on the levels or images of another size; noise of another shape or
                outside [0, 1); none or wrong labels to a conditional model.
        """
        log_prob = self._bound(pixel_values, labels, self._noise(pixel_values, noise, None))
        return FlowOutput(-log_prob.mean() if return_loss else None, log_prob)

    @torch.no_grad()
    def initialize(self, pixel_values: Tensor, *, noise: Tensor | None = None):
        """
        Sets each ActNorm so that what it gives of these images has mean 0 and variance 1 in each channel
        (arXiv:1807.03039, section 3.1), and in `nice`, which has none, the means and standard deviations of the
        latents to those of these images: by steps of Adam alone its scales are thousands of steps away. Once, before
        training: that it is done is a part of the state, and later calls, also of a model that was saved and loaded,
        do nothing.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels; of several processes each has to
                give the same.
            noise: uniform on [0, 1), shaped like `pixel_values`; drawn when not given.

        Raises:
            ValueError: for images of which something has no variance, as none at all and, in `nice`, one; for pixels
                that are not on the levels, images of another size, and noise of another shape or outside [0, 1).
        """
        if self.initialized:
            return
        network = copy.deepcopy(self.network)  # nothing is written to the model until all is known
        layers = [layer for layer in network.modules() if isinstance(layer, ActNorm)]
        for layer in layers:
            layer.register_forward_pre_hook(lambda layer, args: layer.initialize(args[0]))
        latents, _ = network(self._inputs(pixel_values, self._noise(pixel_values, noise, None))[0])
        if not layers:
            std, mean = checked_moments(latents, 0)
            own_std = 1 if self.config.prior == "normal" else math.pi / math.sqrt(3)  # of a standard logistic variable
            self.mean.copy_(mean.expand_as(self.mean))
            self.log_std.copy_((std / own_std + 1e-6).log().expand_as(self.log_std))
        self.network.load_state_dict(network.state_dict())
        self.initialized.fill_(True)

    def log_prob(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_importance_samples: int = 1,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """
        A lower bound, on average over the noise, on log P(x) of images of 8 bits: log 1/K sum_k p(y_k) / 256^D with
        y_k = (level + u_k) / 256 and u_k uniform on [0, 1)^D. P(x) is the integral of the flow's density over the cell
        of x, whose volume is 256^-D (Theis et al., arXiv:1511.01844, section 3.1; for K draws Burda et al.,
        arXiv:1509.00519, equation 8).

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model (log P(x | label)); an unconditional one ignores them.
            num_importance_samples: K, draws of the noise for each image; more tighten the bound.
            generator: of the noise; torch's global one when not given.
            noise: in place of drawn noise, uniform on [0, 1), (K, *pixel_values.shape).

        Returns:
            (batch,) in nats per image.

        Raises:
            ValueError: for fewer than 1 sample; pixels that are not on the levels or images of another size; noise of
                another shape or outside [0, 1); none or wrong labels to a conditional model.
        """
        if num_importance_samples < 1:
            raise ValueError(f"num_importance_samples is {num_importance_samples}; it must be at least 1")
        shape = (num_importance_samples, *pixel_values.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be {shape}")
        if self.config.num_classes:  # before they are repeated
            check_labels(labels, pixel_values.shape[0], self.config.num_classes)
        log_total = None
        for start in range(0, num_importance_samples, size := max(1, CHUNK // max(1, pixel_values.numel()))):
            num = min(size, num_importance_samples - start)
            # Drawn a sample at a time: how they are put into chunks does not matter.
            draws = torch.stack([
                self._noise(pixel_values, None if noise is None else noise[start + index], generator)
                for index in range(num)
            ])  # fmt: skip
            images = pixel_values.expand_as(draws).flatten(0, 1)
            repeated = None if labels is None else labels.repeat(num)
            bounds = self._bound(images, repeated, draws.flatten(0, 1)).unflatten(0, (num, pixel_values.shape[0]))
            # Over the samples of each image, not over the batch: the average stands inside the logarithm.
            part = bounds.logsumexp(0)
            log_total = part if log_total is None else torch.logaddexp(log_total, part)
        return log_total - math.log(num_importance_samples)

    def bits_per_dim(self, pixel_values: Tensor, labels: Tensor | None = None, **kwargs) -> Tensor:
        """
        -`log_prob` for each value of an image, in bits: an upper bound on what it takes to tell a value, 8 bits
        without any model.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            kwargs: the others of `log_prob`, whose errors are raised here too.

        Returns:
            (batch,) in bits for each value.
        """
        dimensions = pixel_values[0].numel() if len(pixel_values) else 1
        return self.log_prob(pixel_values, labels, **kwargs) / (-math.log(2) * dimensions)

    def to_latents(
        self, pixel_values: Tensor, labels: Tensor | None = None, *, noise: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """
        The latents z of images and log |det dz/dy|, with y = (level + noise) / 256.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1], on the levels.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            noise: in [0, 1), shaped like `pixel_values`; 1/2, the middle of a level's cell, when not given.

        Returns:
            (batch, dimensions), and (batch,) in nats: the density of y is p(z) times the exponential of it.

        Raises:
            ValueError: for pixels that are not on the levels or images of another size; noise of another shape or
                outside [0, 1); none or wrong labels to a conditional model.
        """
        noise = torch.full_like(pixel_values, 0.5) if noise is None else self._noise(pixel_values, noise, None)
        inputs, log_det = self._inputs(pixel_values, noise)
        latents, change = self.network(inputs)
        mean, log_std = self._moments(labels, latents)
        rest, last = latents[:, : -mean.shape[1]], latents[:, -mean.shape[1] :]
        standard = torch.cat([rest, (last - mean) * (-log_std).exp()], dim=1)
        return standard, log_det + change - log_std.sum(1)

    def to_pixels(self, latents: Tensor, labels: Tensor | None = None, *, quantize: bool = True) -> Tensor:
        """
        The images of latents, where `to_latents` came from; with NICE's weights in half precision, whose networks
        round what they are given, some levels are others.

        Args:
            latents: (batch, dimensions), as of `to_latents`.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            quantize: give the level in whose cell y lies, as pixels are at every border of the model; else y itself.

        Returns:
            (batch, channels, height, width) in [0, 1].

        Raises:
            ValueError: for latents of another size, and for none or wrong labels to a conditional model.
        """
        size = self.config.num_channels * self.config.image_size**2
        latents = checked_latents(latents, latents.shape[0], size).to(torch.promote_types(self.dtype, torch.float32))
        mean, log_std = self._moments(labels, latents)
        rest, last = latents[:, : -mean.shape[1]], latents[:, -mean.shape[1] :]
        outputs = self.network.inverse(torch.cat([rest, mean + log_std.exp() * last], dim=1))
        alpha = self.config.logit_alpha
        dequantized = (outputs.sigmoid() - alpha) / (1 - 2 * alpha) if alpha else outputs
        if not quantize:
            return dequantized.clamp(0, 1)
        return (dequantized * (LAST_LEVEL + 1)).floor().clamp(0, LAST_LEVEL) / LAST_LEVEL

    def prior_log_prob(self, latents: Tensor) -> Tensor:
        """log p(z) in nats, of independent standard normal or logistic latents: (batch, dimensions) -> (batch,)."""
        if self.config.prior == "normal":
            return -0.5 * (latents.square() + LOG_2PI).sum(1)
        return (-latents - 2 * F.softplus(-latents)).sum(1)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
        latents: Tensor | None = None,
    ) -> Tensor:
        """
        Images drawn from the model.

        Args:
            num_samples: how many.
            labels: int64, (num_samples,), for a conditional model only; each class is as likely when not given.
            generator: of labels and latents; torch's global one when not given.
            temperature: factor on the latents: 1 draws from the model, less keeps to its likely images.
            latents: (num_samples, dimensions), as of `to_latents`, in place of what is drawn.

        Returns:
            (num_samples, channels, height, width), on the levels in [0, 1].

        Raises:
            ValueError: for a temperature that is not above 0 or not finite; labels to an unconditional model, or wrong
                ones to a conditional one; latents of another shape.
        """
        if not 0 < temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be above 0 and finite")
        labels = drawn_labels(labels, num_samples, self.config.num_classes, generator, self.device)
        if latents is None:
            latents = self.sample_latents(num_samples, generator=generator)
        latents = checked_latents(latents, num_samples, self.config.num_channels * self.config.image_size**2)
        return self.to_pixels(temperature * latents.to(self.device), labels)

    @torch.no_grad()
    def sample_latents(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """
        What `sample` takes to images: latents drawn from the prior, as of `to_latents`.

        Args:
            num_samples: how many.
            generator: of the latents; torch's global one when not given.

        Returns:
            (num_samples, dimensions), on the device of the model.
        """
        shape = num_samples, self.config.num_channels * self.config.image_size**2
        drawn = drawn_by(generator, self.device)
        if self.config.prior == "normal":
            return torch.randn(shape, **drawn).to(self.device)
        return torch.logit(torch.rand(shape, **drawn), eps=1e-7).to(self.device)

    @torch.no_grad()
    def interpolate(
        self, start: Tensor, end: Tensor, num_steps: int, *, labels: Tensor | None = None, mode: str | None = None
    ) -> Tensor:
        """
        Images on paths from one batch of latents to another.

        Args:
            start: latents, (batch, dimensions), or images in [0, 1], on the levels, (batch, channels, height, width).
            end: as many, of either kind.
            num_steps: pictures of a path, both ends counted, at least 2.
            labels: int64, (batch,), of a conditional model: of both ends.
            mode: `linear`, a straight line, or `spherical`, on which latents keep the length that the prior gives them
                (arXiv:1609.04468); spherical for a normal prior, linear for a logistic one, when not given.

        Returns:
            (batch, num_steps, channels, height, width) in [0, 1]; the first and last pictures are the images,
                as exactly as `to_pixels` gives them back.

        Raises:
            ValueError: for fewer than 2 steps, another mode, ends of different numbers or latents of another size; for
                labels to an unconditional model, or none, or wrong ones, to a conditional one; and as of `to_latents`.
        """
        check_labels(labels, len(start), self.config.num_classes)
        labels = None if labels is None else labels.to(self.device)
        first, last = (
            each.to(self.device) if each.ndim == 2 else self.to_latents(each, labels)[0] for each in (start, end)
        )
        paths = between(first, last, num_steps, mode or ("spherical" if self.config.prior == "normal" else "linear"))
        repeated = None if labels is None else labels.repeat_interleave(num_steps)
        return self.to_pixels(paths.flatten(0, 1), repeated).unflatten(0, (len(first), num_steps))

    def _bound(self, pixel_values: Tensor, labels: Tensor | None, noise: Tensor) -> Tensor:
        # Not through `forward`: under mixed precision that runs in bfloat16, tests do not.
        latents, log_det = self.to_latents(pixel_values, labels, noise=noise)
        return self.prior_log_prob(latents) + log_det - LOG_LEVELS * latents.shape[1]

    def _noise(self, pixel_values: Tensor, noise: Tensor | None, generator: torch.Generator | None) -> Tensor:
        if noise is not None:
            if noise.shape != pixel_values.shape:
                raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be {tuple(pixel_values.shape)}")
            # 1, the upper border of a cell, is what rounding to a lower precision makes of what lies close below it.
            found = extremes(noise, self.training)
            if found is not None and not (0 <= found[0] and found[1] <= 1):
                raise ValueError(f"noise goes from {found[0]:g} to {found[1]:g}; it must be in [0, 1)")
            return noise
        return torch.rand(pixel_values.shape, **drawn_by(generator, self.mean.device)).to(pixel_values.device)

    def _inputs(self, pixel_values: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """What the network takes of dequantised pixels y, and the log-determinant of that."""
        levels = self._check_levels(pixel_values)
        # Not `self.dtype` or `.device`, here and of the noise: a replica of nn.DataParallel has no parameters.
        levels = levels.to(torch.promote_types(self.mean.dtype, torch.float32))
        dequantized = (levels + noise) / (LAST_LEVEL + 1)
        alpha = self.config.logit_alpha
        if not alpha:
            return dequantized, dequantized.new_zeros(dequantized.shape[0])
        # 1 - y from its own terms: near 1 the difference would lose the digits that the logit shows.
        complement = (LAST_LEVEL - levels + (1 - noise)) / (LAST_LEVEL + 1)
        log_y, log_complement = (torch.log(alpha + (1 - 2 * alpha) * each) for each in (dequantized, complement))
        return log_y - log_complement, (math.log(1 - 2 * alpha) - log_y - log_complement).sum((1, 2, 3))

    def _check_levels(self, pixel_values: Tensor) -> Tensor:
        """The levels of pixels, whole numbers from 0 to 255."""
        check_floating(pixel_values)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        scaled = pixel_values * LAST_LEVEL
        levels = scaled.round()
        if extremes(pixel_values, self.training) is not None:  # else values are not looked at
            right = ((scaled - levels).abs() <= TOLERANCE) & (levels >= 0) & (levels <= LAST_LEVEL)  # NaN is not
            if not right.all():
                raise ValueError(
                    f"pixel_values holds {pixel_values[~right][0].item():.4g}; this model takes the levels "
                    f"0, 1/{LAST_LEVEL}, 2/{LAST_LEVEL} ... 1"
                )
        return levels

    def _moments(self, labels: Tensor | None, like: Tensor) -> tuple[Tensor, Tensor]:
        """Means and logarithms of the standard deviations of the last latents, (batch or 1, size) each."""
        mean, log_std = self.mean.to(like.dtype), self.log_std.to(like.dtype)
        if not self.config.num_classes:
            return mean, log_std
        check_labels(labels, like.shape[0], self.config.num_classes)
        return mean[labels], log_std[labels]


__all__ = ["FlowModel", "FlowPreTrainedModel"]
