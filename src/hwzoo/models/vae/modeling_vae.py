"""The variational autoencoder of Kingma and Welling (arXiv:1312.6114), its bounds and its priors."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple
from transformers.utils.generic import maybe_autocast

from .configuration_vae import VAEConfig
from .labels import check_labels, drawn_by, drawn_labels
from .latents import between, checked_latents
from .pixels import check_pixels, check_shape

ACTIVATIONS = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
LOG_2PI = math.log(2 * math.pi)
# Pixels that the importance-weighted bound decodes at once: 100 MB of float32, 32,768 pairs of image and sample at
# 784.
IWAE_CHUNK = 32_768 * 784


@dataclass
class VAEOutput(ModelOutput):
    """
    What `VAEModel.forward` returns; all but the hidden states are scalars, in nats per image, averaged over
    the batch.

    Args:
        loss: reconstruction_loss + beta * kl_weight * kl_divergence, what training minimises; with
            `train_importance_samples` more than 1 the negative importance-weighted bound, and the other three are
            averages over its samples, the KL an estimate.
        negative_elbo: reconstruction_loss + kl_divergence, the one-sample negative evidence lower bound.
        reconstruction_loss: -log p(x|z) at one sample z of q(z|x), summed over pixels.
        kl_divergence: KL(q(z|x) || p(z)).
        hidden_states: the input and what each layer of the encoder makes of it, when asked for.
    """

    loss: Tensor | None = None
    negative_elbo: Tensor | None = None
    reconstruction_loss: Tensor | None = None
    kl_divergence: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None


def sample_gaussian(mean: Tensor, variance: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """
    A reparameterised sample of N(mean, diag(variance)): mean + sqrt(variance) * noise; shaped like `mean`.

    Args:
        mean: (..., size).
        variance: above 0, of a shape that broadcasts to that of `mean`.
        generator: of the noise; torch's global one when not given.

    Returns:
        The sample, with gradients to mean and variance.
    """
    return mean + variance.sqrt() * _standard_normal(mean.shape, mean, generator)


def gaussian_log_density(value: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """
    log N(value; mean, diag(variance)) in nats, summed over the last dimension.

    Args:
        value: (..., size).
        mean: (..., size).
        variance: above 0, (..., size).

    Returns:
        The log-densities, (...).
    """
    return -0.5 * ((value - mean).square() / variance + variance.log() + LOG_2PI).sum(-1)


def gaussian_kl(mean: Tensor, variance: Tensor, prior_variance: float = 1.0) -> Tensor:
    """
    KL(N(mean, diag(variance)) || N(0, prior_variance I)) in nats, summed over the last dimension (appendix B).

    Args:
        mean: (..., size).
        variance: above 0, (..., size).
        prior_variance: above 0.

    Returns:
        The divergences, (...), at least 0.
    """
    ratio = variance / prior_variance
    return 0.5 * (ratio + mean.square() / prior_variance - 1.0 - ratio.log()).sum(-1)


def _as_precise_as_can_be(values: Tensor) -> Tensor:
    try:
        return values.double()
    except (TypeError, RuntimeError):  # of a Mac's device, which has no float64
        return values


def _standard_normal(shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(shape, dtype=like.dtype, **drawn_by(generator, like.device)).to(like.device)


def _mlp(sizes: list[int], activation: str) -> list[nn.Module]:
    """Hidden layers of the given widths with their activation, and a last linear layer without one."""
    layers = []
    for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
        layers += [nn.Linear(size_in, size_out), ACTIVATIONS[activation]()]
    return layers[:-1]


class MLPEncoder(nn.Sequential):
    """(batch, pixels and one-hot class) -> (batch, 2 * latent_size); also of images that are not flattened."""

    def __init__(self, config: VAEConfig):
        inputs = config.num_channels * config.image_size**2 + config.num_classes
        sizes = [inputs, *config.encoder_hidden_sizes, 2 * config.latent_size]
        super().__init__(nn.Flatten(), *_mlp(sizes, config.activation))


class MLPDecoder(nn.Sequential):
    """(batch, latents and one-hot class) -> (batch, channels, height, width)"""

    def __init__(self, config: VAEConfig):
        shape = (config.num_channels, config.image_size, config.image_size)
        sizes = [config.latent_size + config.num_classes, *config.decoder_hidden_sizes, math.prod(shape)]
        super().__init__(*_mlp(sizes, config.activation), nn.Unflatten(-1, shape))


class ConvEncoder(nn.Sequential):
    """(batch, channels and classes, height, width) -> (batch, 2 * latent_size); each convolution halves the image."""

    def __init__(self, config: VAEConfig):
        channels = [config.num_channels + config.num_classes, *config.encoder_hidden_sizes]
        layers = []
        for size_in, size_out in zip(channels[:-1], channels[1:], strict=True):
            layers += [
                nn.Conv2d(size_in, size_out, kernel_size=4, stride=2, padding=1),
                ACTIVATIONS[config.activation](),
            ]
        smallest = config.image_size // 2 ** len(config.encoder_hidden_sizes)
        super().__init__(*layers, nn.Flatten(), nn.Linear(channels[-1] * smallest**2, 2 * config.latent_size))


class ConvDecoder(nn.Sequential):
    """(batch, latents and one-hot class) -> (batch, channels, height, width); each convolution doubles the image."""

    def __init__(self, config: VAEConfig):
        channels = [*config.decoder_hidden_sizes, config.num_channels]
        smallest = config.image_size // 2 ** len(config.decoder_hidden_sizes)
        shape = (channels[0], smallest, smallest)
        layers = [nn.Linear(config.latent_size + config.num_classes, math.prod(shape)), nn.Unflatten(-1, shape)]
        for size_in, size_out in zip(channels[:-1], channels[1:], strict=True):
            layers += [ACTIVATIONS[config.activation]()]
            layers += [nn.ConvTranspose2d(size_in, size_out, kernel_size=4, stride=2, padding=1)]
        super().__init__(*layers)


class MixturePrior(nn.Module):
    """p(z) = 1/k sum_i N(z; mean_i, diag(variance_i)) with learned means and variances, k = num_mixture_components."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        shape = (config.num_mixture_components, config.latent_size)
        self.mean = nn.Parameter(torch.empty(shape))
        self.unconstrained_variance = nn.Parameter(torch.empty(shape))
        self.prior_std = config.prior_std

    def log_prob(self, latents: Tensor) -> Tensor:
        """log p(z) in nats: (..., latent_size) -> (...)."""
        # Means that are large beside their variances leave little of the terms' difference in float32, and nothing in
        # bfloat16.
        points = _as_precise_as_can_be(latents)
        mean, variance = self.mean.to(points.dtype), self.variance().to(points.dtype)
        precision = variance.reciprocal()
        constant = (mean.square() * precision + variance.log() + LOG_2PI).sum(-1)
        # The quadratic forms of all pairs (sample, component) as two matrix products: no (..., k, latent_size) tensor.
        with maybe_autocast(latents.device.type, enabled=False):
            quadratic = points.square() @ precision.T - 2 * points @ (mean * precision).T
        log_components = -0.5 * (quadratic + constant).to(latents.dtype)  # (..., k)
        return log_components.logsumexp(-1) - math.log(len(self.mean))

    def variance(self) -> Tensor:
        """Variances of the components, (k, latent_size)."""
        return F.softplus(self.unconstrained_variance) + 1e-8

    def sample(self, num_samples: int, generator: torch.Generator | None = None) -> Tensor:
        """
        Latents drawn from the mixture, every component as likely.

        Args:
            num_samples: how many.
            generator: of components and noise; torch's global one when not given.

        Returns:
            (num_samples, latent_size), on the device of the prior.
        """
        given = drawn_by(generator, self.mean.device)
        component = torch.randint(self.mean.shape[0], (num_samples,), **given).to(self.mean.device)
        return sample_gaussian(self.mean[component], self.variance()[component], generator)


class VAEPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = VAEConfig
    base_model_prefix = "vae"
    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()
        elif isinstance(module, MixturePrior):
            nn.init.normal_(module.mean, std=module.prior_std)
            nn.init.zeros_(module.unconstrained_variance)
        elif isinstance(module, VAEModel) and module.log_std is not None:
            nn.init.zeros_(module.log_std)


class VAEModel(VAEPreTrainedModel):
    """
    A variational autoencoder: encoder q(z|x), decoder p(x|z) and prior p(z) as the config says; with classes y
    q(z|x, y) and p(x|z, y), whose bounds are of -log p(x|y).

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size). Bounds are in nats per image,
    summed over pixels (for the `gaussian` likelihood: of the density of pixel values in [0, 1]).
    """

    accepts_loss_kwargs = False  # transformers' Trainer: the loss is a mean over the batch, whatever the keywords

    def __init__(self, config: VAEConfig):
        super().__init__(config)
        conv = config.network == "conv"
        self.encoder = ConvEncoder(config) if conv else MLPEncoder(config)
        self.decoder = ConvDecoder(config) if conv else MLPDecoder(config)
        self.mixture_prior = MixturePrior(config) if config.prior == "mixture" else None
        self.log_std = nn.Parameter(torch.zeros(())) if config.likelihood == "gaussian" else None
        self.post_init()

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Of the noise of an image in `forward`: (latent_size,), or (train_importance_samples, latent_size)."""
        num = self.config.train_importance_samples
        return (self.config.latent_size,) if num == 1 else (num, self.config.latent_size)

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        *,
        kl_weight: float = 1.0,
        noise: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> VAEOutput:
        """
        The training loss and its terms.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            kl_weight: factor on the KL divergence besides `config.beta`, for a warm-up.
            noise: standard normal, (batch, *noise_shape), of the samples of q(z|x); drawn when not given.
            output_hidden_states: also what each layer of the encoder gives; as the config says when not given.
            return_loss: as in transformers, whose Trainer takes from it that there is a loss without labels.
            kwargs: `labels`, int64, (batch,), of a conditional model, an unconditional one ignores them (named in the
                signature they would be what the Trainer needs for a loss), and `return_dict`: False gives a tuple.

        Raises:
            TypeError: for another keyword.
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size; for none or
                wrong labels to a conditional model.
        """
        if unknown := [name for name in kwargs if name != "labels"]:
            raise TypeError(f"VAEModel.forward takes no {', '.join(sorted(unknown))}")
        labels, weight, num = kwargs.get("labels"), self.config.beta * kl_weight, self.config.train_importance_samples
        if num == 1:
            bounds = self.negative_elbo_bound(pixel_values, labels, noise=noise)
            negative_elbo, reconstruction_loss, kl_divergence = bounds
            loss = reconstruction_loss + weight * kl_divergence
        else:
            mean, variance = self.encode(pixel_values, labels)
            shape = (mean.shape[0], *self.noise_shape)  # `len` would be a constant for torch.export
            if noise is None:
                noise = _standard_normal(shape, mean, None)
            elif noise.shape != shape:
                raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be {shape}")
            latents = mean + variance.sqrt() * noise.transpose(0, 1)
            log_likelihood, log_prior, log_posterior = self._log_terms(pixel_values, labels, mean, variance, latents)
            reconstruction_loss, kl_divergence = -log_likelihood.mean(), (log_posterior - log_prior).mean()
            negative_elbo = reconstruction_loss + kl_divergence
            loss = math.log(num) - (log_likelihood + weight * (log_prior - log_posterior)).logsumexp(0).mean()
        loss = loss if return_loss else None
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        hidden_states = self._hidden_states(pixel_values, labels) if output_hidden_states else None
        return VAEOutput(loss, negative_elbo, reconstruction_loss, kl_divergence, hidden_states)

    def _hidden_states(self, pixel_values: Tensor, labels: Tensor | None) -> tuple[Tensor, ...]:
        dtype = _dtype_of(self.encoder)
        states = [self._with_classes(pixel_values, labels).to(dtype)]
        for layer in self.encoder:
            states.append(layer(states[-1]))
        return pixel_values.to(dtype), *states[1:]

    def negative_elbo_bound(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        (negative_elbo, reconstruction_loss, kl_divergence): batch averages in nats per image, from one sample of
        q(z|x) (arXiv:1312.6114, equations 7 and 10). The KL divergence is analytic for the `normal` prior.

        Args:
            pixel_values: in [0, 1], (batch, channels, height, width).
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            generator: of the noise; torch's global one when not given.
            noise: standard normal, (batch, latent_size), in place of what is drawn.

        Returns:
            The three scalars, the first the sum of the others.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size; for none or
                wrong labels to a conditional model.
        """
        mean, variance = self.encode(pixel_values, labels)
        if noise is None:
            noise = _standard_normal(mean.shape, mean, generator)
        elif noise.shape != mean.shape:
            raise ValueError(f"noise has shape {tuple(noise.shape)}; it must be {tuple(mean.shape)}")
        latents = mean + variance.sqrt() * noise
        reconstruction_loss = -self._log_likelihood(pixel_values, self._decoder_output(latents, labels)).mean()
        if self.mixture_prior is None:
            kl_divergence = gaussian_kl(mean, variance, self.config.prior_std**2).mean()
        else:
            log_posterior = gaussian_log_density(latents, mean, variance)
            kl_divergence = (log_posterior - self.prior_log_prob(latents)).mean()
        return reconstruction_loss + kl_divergence, reconstruction_loss, kl_divergence

    def negative_iwae_bound(
        self,
        pixel_values: Tensor,
        num_importance_samples: int,
        labels: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """
        -log 1/K sum_k p(x, z_k) / q(z_k|x) with K = num_importance_samples samples z_k of q(z|x), in nats per image
        (Burda et al., arXiv:1509.00519, equation 8). The samples are decoded in chunks, so that without gradients the
        memory needed does not grow with K.

        Args:
            pixel_values: in [0, 1], (batch, channels, height, width).
            num_importance_samples: K, at least 1.
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            generator: of the noise; torch's global one when not given.
            reduction: `"mean"` for the batch average, `"none"` for one value per image, (batch,).

        Returns:
            A scalar, or (batch,).

        Raises:
            ValueError: for fewer than 1 sample, an unknown reduction, or pixels that are no floating-point numbers in
                [0, 1]; for none or wrong labels to a conditional model.
        """
        if num_importance_samples < 1:
            raise ValueError(f"num_importance_samples is {num_importance_samples}; it must be at least 1")
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction is {reduction!r}; it must be 'mean' or 'none'")
        mean, variance = self.encode(pixel_values, labels)
        log_total = mean.new_full((len(mean),), -torch.inf)
        remaining = num_importance_samples
        while remaining:
            chunk = min(remaining, max(1, IWAE_CHUNK // max(1, pixel_values.numel())))
            remaining -= chunk
            latents = sample_gaussian(mean.expand(chunk, -1, -1), variance, generator)  # (chunk, batch, latent)
            terms = self._log_terms(pixel_values, labels, mean, variance, latents)
            log_weight = terms[0] + terms[1] - terms[2]  # (chunk, batch)
            # Over the samples of each image, not over the batch: the average stands inside the logarithm.
            log_total = torch.logaddexp(log_total, log_weight.logsumexp(0))
        bound = math.log(num_importance_samples) - log_total
        return bound.mean() if reduction == "mean" else bound

    def _log_terms(
        self, pixel_values: Tensor, labels: Tensor | None, mean: Tensor, variance: Tensor, latents: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """log p(x|z), log p(z) and log q(z|x) of latents, (samples, batch, latent_size): (samples, batch) each."""
        num = latents.shape[0]
        repeated = None if labels is None else labels.repeat(num)
        output = self._decoder_output(latents.flatten(0, 1), repeated).unflatten(0, (num, mean.shape[0]))
        log_likelihood = self._log_likelihood(pixel_values.expand_as(output), output)
        return log_likelihood, self.prior_log_prob(latents), gaussian_log_density(latents, mean, variance)

    def encode(self, pixel_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Mean and variance of q(z|x).

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.

        Returns:
            (batch, latent_size) each.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size; for none or
                wrong labels to a conditional model.
        """
        check_pixels(pixel_values, self.training)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        mean, hidden = self._run(self.encoder, self._with_classes(pixel_values, labels)).chunk(2, dim=-1)
        if self.config.variance_parametrization == "exp":
            return mean, hidden.exp()
        return mean, F.softplus(hidden) + 1e-8

    def decode(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        Mean of p(x|z).

        Args:
            latents: z, (batch, latent_size).
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.

        Returns:
            (batch, channels, height, width) in [0, 1].

        Raises:
            ValueError: for none or wrong labels to a conditional model.
        """
        output = self._decoder_output(latents, labels)
        return output.sigmoid() if self.config.likelihood == "bernoulli" else output.clamp(0, 1)

    def prior_log_prob(self, latents: Tensor) -> Tensor:
        """log p(z) in nats: (..., latent_size) -> (...)."""
        if self.mixture_prior is not None:
            return self.mixture_prior.log_prob(latents)
        variance = self.config.prior_std**2
        return -0.5 * (latents.square() / variance + math.log(variance) + LOG_2PI).sum(-1)

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
        Means of p(x|z) for z drawn from the prior: (num_samples, channels, height, width) in [0, 1].

        Args:
            num_samples: how many.
            labels: int64, (num_samples,), for a conditional model only; each class is as likely when not given.
            generator: of the labels and latents; torch's global one when not given.
            latents: z, (num_samples, latent_size), in place of what is drawn.

        Returns:
            The images, on the device of the model.

        Raises:
            ValueError: for labels to an unconditional model, or wrong ones to a conditional one; for latents of
                another shape.
        """
        if latents is None:
            latents = self.sample_latents(num_samples, generator=generator)
        latents = checked_latents(latents, num_samples, self.config.latent_size).to(self.device)
        return self.decode(latents, drawn_labels(labels, num_samples, self.config.num_classes, generator, self.device))

    @torch.no_grad()
    def sample_latents(self, num_samples: int, *, generator: torch.Generator | None = None) -> Tensor:
        """
        What `sample` decodes: latents z drawn from the prior.

        Args:
            num_samples: how many.
            generator: of the latents; torch's global one when not given.

        Returns:
            (num_samples, latent_size), on the device of the model.
        """
        if self.mixture_prior is not None:
            return self.mixture_prior.sample(num_samples, generator)
        like = next(self.parameters())
        return self.config.prior_std * _standard_normal((num_samples, self.config.latent_size), like, generator)

    @torch.no_grad()
    def reconstruct(
        self, pixel_values: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """
        Means of p(x|z) at z = the mean of q(z|x), or at a sample of q(z|x) when a generator is given.

        Args:
            pixel_values: in [0, 1], (batch, channels, height, width).
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            generator: of the sample of q(z|x).

        Returns:
            In [0, 1], of the same shape.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size; for none or
                wrong labels to a conditional model.
        """
        mean, variance = self.encode(pixel_values, labels)
        return self.decode(mean if generator is None else sample_gaussian(mean, variance, generator), labels)

    @torch.no_grad()
    def interpolate(
        self, start: Tensor, end: Tensor, num_steps: int, *, labels: Tensor | None = None, mode: str | None = None
    ) -> Tensor:
        """
        Decoded paths from one batch of latents to another.

        Args:
            start: latents z, (batch, latent_size), or images in [0, 1], (batch, channels, height, width), whose
                latents are the means of q(z|x).
            end: as many, of either kind.
            num_steps: pictures of a path, both ends counted, at least 2.
            labels: int64, (batch,), for a conditional model only: the class of all pictures of a path.
            mode: `linear`, a straight line, or `spherical`, on which latents keep the length that the prior gives them
                (arXiv:1609.04468); spherical for a normal prior, linear for a mixture, when not given.

        Returns:
            (batch, num_steps, channels, height, width) in [0, 1]; the first and last pictures of images are their
            reconstructions.

        Raises:
            ValueError: for fewer than 2 steps, another mode, ends of different numbers, latents of another size,
                pixels that are no floating-point numbers in [0, 1], labels to an unconditional model, or none or wrong
                ones to a conditional one.
        """
        check_labels(labels, len(start), self.config.num_classes)
        labels = None if labels is None else labels.to(self.device)
        first, last = (
            checked_latents(each, len(each), self.config.latent_size).to(self.device)
            if each.ndim == 2
            else self.encode(each, labels)[0]
            for each in (start, end)
        )
        paths = between(first, last, num_steps, mode or ("spherical" if self.mixture_prior is None else "linear"))
        repeated = None if labels is None else labels.repeat_interleave(num_steps)
        return self.decode(paths.flatten(0, 1), repeated).unflatten(0, (len(first), num_steps))

    def _decoder_output(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Logits of the Bernoulli, or means of the Gaussian."""
        if self.config.num_classes:
            latents = torch.cat([latents, self._one_hot(labels, latents)], -1)
        return self._run(self.decoder, latents)

    def _with_classes(self, pixel_values: Tensor, labels: Tensor | None) -> Tensor:
        """What the encoder is given of images, and their classes, if any."""
        if not self.config.num_classes:
            return pixel_values
        one_hot = self._one_hot(labels, pixel_values)
        if self.config.network == "mlp":
            return torch.cat([pixel_values.flatten(1), one_hot], 1)
        planes = one_hot[:, :, None, None].expand(-1, -1, *pixel_values.shape[2:])
        return torch.cat([pixel_values, planes], 1)

    def _one_hot(self, labels: Tensor | None, like: Tensor) -> Tensor:
        check_labels(labels, like.shape[0], self.config.num_classes)
        # Not F.one_hot, which looks at values, and so is nothing for vmap.
        return (labels[:, None] == torch.arange(self.config.num_classes, device=labels.device)).to(like.dtype)

    def _run(self, network: nn.Module, inputs: Tensor) -> Tensor:
        """A network's output as float32, or float64 where the weights are, also in bfloat16 or mixed precision."""
        output = network(inputs.to(_dtype_of(self.encoder)))  # both networks are of one
        return output.to(torch.promote_types(output.dtype, torch.float32))

    def _log_likelihood(self, pixel_values: Tensor, output: Tensor) -> Tensor:
        """log p(x|z) in nats, summed over channels, height and width: (..., c, h, w) -> (...)."""
        pixel_values = pixel_values.to(
            torch.promote_types(pixel_values.dtype, output.dtype)
        )  # half precision: float32
        if self.config.likelihood == "bernoulli":
            return -F.binary_cross_entropy_with_logits(output, pixel_values, reduction="none").sum((-3, -2, -1))
        log_density = -0.5 * ((pixel_values - output) / self.log_std.exp()).square() - self.log_std - 0.5 * LOG_2PI
        return log_density.sum((-3, -2, -1))


def _dtype_of(network: nn.Sequential) -> torch.dtype:
    """
    Of the weights of its first layer that has some in floating point, float32 without. Not `self.dtype`: a replica of
    nn.DataParallel has no parameters. Layers that torch quantises have a method for a weight.
    """
    for layer in network:
        weight = getattr(layer, "weight", None)
        if isinstance(weight, Tensor) and weight.is_floating_point():
            return weight.dtype
    return torch.float32


__all__ = ["VAEModel", "VAEPreTrainedModel"]
