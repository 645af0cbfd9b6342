"""Generative adversarial networks (arXiv:1406.2661), unconditional or conditional on a class."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import spectral_norm
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_gan import GANConfig
from .labels import check_labels, drawn_by, drawn_labels
from .latents import between, checked_latents
from .losses_gan import cross_entropy, non_saturating
from .pixels import check_floating, check_pixels, check_shape

ACTIVATIONS = {"leaky_relu": (nn.LeakyReLU, 0.1), "relu": (nn.ReLU,)}
# Inside of the networks a pixel is scale * p + shift, where p in [0, 1] is the pixel outside of them.
PIXEL_RANGES = {"symmetric": (2.0, -1.0), "unit": (1.0, 0.0)}
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
POWER_ITERATIONS = 15  # for the first estimate of a largest singular value, as torch does at its own initialisation


@dataclass
class GANOutput(ModelOutput):
    """
    What `GANModel.forward` returns. There is no `loss`: the two are for the parameters of one network each.

    Args:
        discriminator_loss: scalar, in nats: -E[log D(x)] - E[log(1 - D(G(z)))]; no gradient flows into the generator.
        generator_loss: scalar, in nats: the non-saturating -E[log D(G(z))]; its gradient also reaches the
            discriminator's parameters, which are not to follow it.
        logits_real: (batch,), of the given images.
        logits_fake: (batch,), of as many generated ones.
        hidden_states: the given images and what each layer of the discriminator makes of them, when asked for.
    """

    discriminator_loss: Tensor | None = None
    generator_loss: Tensor | None = None
    logits_real: Tensor | None = None
    logits_fake: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


class Generator(nn.Module):
    """
    From latents to images: two fully connected layers, then twice a sub-pixel convolution (PixelShuffle,
    arXiv:1609.05158), with ReLU and, unless the config says otherwise, BatchNorm; the last layer is unbounded.
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        self.num_classes = config.num_classes
        self.scale, self.shift = PIXEL_RANGES[config.pixel_range]
        hidden, (quarter, half), smallest = (
            config.generator_hidden_size,
            config.generator_channels,
            config.image_size // 4,
        )
        flat, maps = BATCH_NORMS if config.generator_norm == "batch" else (nn.Identity, nn.Identity)
        self.network = nn.Sequential(
            nn.Linear(config.latent_size + config.num_classes, hidden),
            flat(hidden),
            nn.ReLU(),
            nn.Linear(hidden, quarter * smallest**2),
            flat(quarter * smallest**2),
            nn.ReLU(),
            nn.Unflatten(-1, (quarter, smallest, smallest)),
            nn.PixelShuffle(2),
            nn.Conv2d(quarter // 4, half, kernel_size=3, padding=1),
            maps(half),
            nn.ReLU(),
            nn.PixelShuffle(2),
            nn.Conv2d(half // 4, config.num_channels, kernel_size=3, padding=1),
        )

    def forward(self, latents: Tensor, labels: Tensor | None = None, *, running_statistics: bool = False) -> Tensor:
        """
        (batch, latent_size) -> (batch, channels, height, width), float32; 0 is black and 1 white, but values may lie
        beyond: clamped they would have no gradient.

        Args:
            latents: standard normal.
            labels: int64, (batch,), joined to the latents as one-hot vectors; an unconditional generator ignores them.
            running_statistics: BatchNorm takes its running statistics in training mode too.
        """
        if self.num_classes:
            # Not F.one_hot, which looks at values, and so is nothing for vmap.
            one_hot = labels[:, None] == torch.arange(self.num_classes, device=labels.device)
            latents = torch.cat([latents, one_hot.to(latents.dtype)], dim=1)
        output = _run(self.network, latents, self.network[-1].weight.dtype, running_statistics)
        return (output - self.shift) / self.scale


class Discriminator(nn.Module):
    """
    From images to logits, above 0 for images taken for the data's: two strided 4 x 4 convolutions, a fully connected
    layer and a linear one. A conditional one adds the inner product of the features with a learned vector of the class
    (projection, Miyato and Koyama, arXiv:1802.05637, equation 3).
    """

    def __init__(self, config: GANConfig):
        super().__init__()
        self.scale, self.shift = PIXEL_RANGES[config.pixel_range]
        activation, *slope = ACTIVATIONS[config.discriminator_activation]
        (half, quarter), hidden = config.discriminator_channels, config.discriminator_hidden_size
        self.network = nn.Sequential(
            nn.Conv2d(config.num_channels, half, kernel_size=4, stride=2, padding=1),
            activation(*slope),
            nn.Conv2d(half, quarter, kernel_size=4, stride=2, padding=1),
            activation(*slope),
            nn.Flatten(),
            nn.Linear(quarter * (config.image_size // 4) ** 2, hidden),
            activation(*slope),
        )
        self.output = nn.Linear(hidden, 1)
        self.projection = nn.Embedding(config.num_classes, hidden) if config.num_classes else None
        if config.spectral_norm:
            for layer in self.modules():
                if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
                    spectral_norm(layer)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        (batch, channels, height, width) in [0, 1] -> logits, (batch,), float32.

        Args:
            pixel_values: images.
            labels: int64, (batch,); an unconditional discriminator ignores them.

        Raises:
            ValueError: for integers; generated images, which are not clamped, may lie beyond [0, 1].
        """
        check_floating(pixel_values)
        dtype = self.output.bias.dtype
        features = _run(self.network, self.scale * pixel_values + self.shift, dtype)
        logits = _run(self.output, features, dtype).squeeze(1)
        if self.projection is None:
            return logits
        return logits + (self.projection(labels) * features).sum(1)

    def hidden_states(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The images in the range of the network and what each layer gives; the last are the features."""
        states = [(self.scale * pixel_values + self.shift).to(self.output.bias.dtype)]
        for layer in self.network:
            states.append(layer(states[-1]))
        return tuple(states)


class GANPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = GANConfig
    base_model_prefix = "gan"
    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02). This is torch's own initialisation of Linear and Conv2d;
        # an Embedding holds rows of a linear layer here. `nn.init` leaves alone what was loaded.
        if isinstance(module, parametrize.ParametrizationList):
            # A weight under a spectral norm. It belongs to this module, not to the layer: transformers takes a layer
            # without parameters of its own (Embedding) for loaded, and does not come by.
            if not getattr(module.original, "_is_hf_initialized", False):
                bound = module.original[0].numel() ** -0.5
                nn.init.uniform_(module.original, -bound, bound)
                norm = module[0].train()
                for singular_vector in norm.buffers():
                    nn.init.normal_(singular_vector)
                for _ in range(POWER_ITERATIONS):
                    norm(module.original)
        elif isinstance(module, (nn.Linear, nn.Conv2d, nn.Embedding)):
            normalised = parametrize.is_parametrized(module)
            weight = module.parametrizations.weight.original if normalised else module.weight
            bound = weight[0].numel() ** -0.5
            if not normalised:
                nn.init.uniform_(weight, -bound, bound)
            if getattr(module, "bias", None) is not None:
                nn.init.uniform_(module.bias, -bound, bound)
        else:
            super()._init_weights(module)  # BatchNorm: scale 1, shift 0, the statistics of standardised inputs


class GANModel(GANPreTrainedModel):
    """
    A generator and a discriminator that were trained against each other.

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size).

    Attributes:
        generator: `Generator`, (latents, labels) -> images that are not clamped to [0, 1].
        discriminator: `Discriminator`, (pixel_values, labels) -> logits.
    """

    def __init__(self, config: GANConfig):
        super().__init__(config)
        self.generator = Generator(config)
        self.discriminator = Discriminator(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        noise: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> GANOutput:
        """
        Both losses on the given images and as many generated ones; other losses are in `LOSSES`. In training mode
        BatchNorm takes the statistics of the generated batch, of at least 2 images, and keeps their average.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            labels: int64, (batch,), of the images and of the generated ones; for a conditional model only.
            noise: standard normal latents, (batch, latent_size); drawn when not given.
            output_hidden_states: also what each layer of the discriminator gives for the images; as the config says
                when not given.

        Raises:
            ValueError: for labels to an unconditional model, or none, or wrong ones, to a conditional one; for pixels
                that are no floating-point numbers in [0, 1], or images of another size; for noise of another shape.
        """
        check_labels(labels, pixel_values.shape[0], self.config.num_classes)
        check_pixels(pixel_values, self.training)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        if noise is None:
            noise = self.sample_latents(pixel_values.shape[0])
        elif noise.shape != (shape := (pixel_values.shape[0], self.config.latent_size)):
            raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be {shape}")
        fake = self.generator(noise, labels)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self.discriminator.hidden_states(pixel_values) if output_hidden_states else None
        logits_real = self.discriminator(pixel_values, labels)
        logits_fake = self.discriminator(fake, labels)
        discriminator_loss = cross_entropy(logits_real, self.discriminator(fake.detach(), labels))
        generator_loss = non_saturating(logits_fake)
        return GANOutput(discriminator_loss, generator_loss, logits_real, logits_fake, hidden_states)

    def discriminate(self, pixel_values: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        Logits of the images' being of the data, (batch,): sigmoid gives the probability where a cross-entropy loss
        trained the model.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            labels: int64, (batch,); for a conditional model only.

        Returns:
            The logits, (batch,).

        Raises:
            ValueError: for labels to an unconditional model, or none, or wrong ones, to a conditional one; for pixels
                that are no floating-point numbers in [0, 1], or images of another size.
        """
        check_labels(labels, pixel_values.shape[0], self.config.num_classes)
        check_pixels(pixel_values, self.training)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        return self.discriminator(pixel_values, labels)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """
        Images of the generator, (num_samples, channels, height, width), clamped to [0, 1].

        BatchNorm always takes its running statistics, in training mode too: an image depends on its own latents
        alone, not on the others of its batch.

        Args:
            num_samples: how many.
            labels: int64, (num_samples,), for a conditional model only; each class is as likely when not given.
            generator: of the latents and labels; torch's global one when not given.
            latents: (num_samples, latent_size), standard normal, in place of what is drawn.

        Returns:
            The images, on the device of the model.

        Raises:
            ValueError: for labels to an unconditional model, or wrong ones to a conditional one; for latents of
                another shape.
        """
        if latents is None:
            latents = self.sample_latents(num_samples, generator=generator)
        else:
            latents = checked_latents(latents, num_samples, self.config.latent_size).to(self.device)
        labels = drawn_labels(labels, num_samples, self.config.num_classes, generator, self.device)
        return self._images(latents, labels)

    @torch.no_grad()
    def interpolate(
        self, start: Tensor, end: Tensor, num_steps: int, *, labels: Tensor | None = None, mode: str | None = None
    ) -> Tensor:
        """
        Images on paths from one batch of latents to another; a GAN tells no latents of images.

        Args:
            start: latents, (batch, latent_size).
            end: the same of the other ends.
            num_steps: pictures of a path, both ends counted, at least 2.
            labels: int64, (batch,), of a conditional model: the class of all pictures of a path.
            mode: `linear`, a straight line, or `spherical`, on which latents keep the length that those of the
                training had (arXiv:1609.04468); spherical when not given.

        Returns:
            (batch, num_steps, channels, height, width) in [0, 1]; the first and last pictures are those of `sample`
            for `start` and `end`.

        Raises:
            ValueError: for fewer than 2 steps, another mode, or ends that are no latents or of different numbers; for
                labels to an unconditional model, or none, or wrong ones, to a conditional one.
        """
        first, last = (
            checked_latents(each, len(each), self.config.latent_size).to(self.device) for each in (start, end)
        )
        check_labels(labels, len(first), self.config.num_classes)
        paths = between(first, last, num_steps, mode or "spherical")
        repeated = None if labels is None else labels.repeat_interleave(num_steps)
        return self._images(paths.flatten(0, 1), repeated).unflatten(0, (len(first), num_steps))

    def _images(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        labels = None if labels is None else labels.to(self.device)
        return self.generator(latents, labels, running_statistics=True).clamp(0, 1)

    @torch.no_grad()
    def sample_latents(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """
        What `sample` makes images of: standard normal latents.

        Args:
            num_samples: how many.
            generator: of the latents; torch's global one when not given.

        Returns:
            (num_samples, latent_size), on the device of the model.
        """
        device = self.generator.network[-1].weight.device  # a replica of nn.DataParallel has no parameters
        return torch.randn(num_samples, self.config.latent_size, **drawn_by(generator, device)).to(device)


def _run(network: nn.Module, inputs: Tensor, dtype: torch.dtype, running_statistics: bool = False) -> Tensor:
    """
    The output of a network of some dtype as float32, or float64 where that is, also in bfloat16 or mixed precision.
    """
    output = inputs.to(dtype)
    if running_statistics:  # a call of `eval()` is nothing that every torch can trace
        for layer in network:
            output = _normalise(layer, output) if isinstance(layer, BATCH_NORMS) else layer(output)
    else:
        output = network(output)
    return output.to(torch.promote_types(output.dtype, torch.float32))


def _normalise(norm: nn.BatchNorm1d | nn.BatchNorm2d, inputs: Tensor) -> Tensor:
    """A BatchNorm in eval mode, whichever it is in."""
    return F.batch_norm(inputs, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)


__all__ = ["GANModel", "GANPreTrainedModel"]
