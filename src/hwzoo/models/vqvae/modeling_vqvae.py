"""The vector-quantised variational autoencoder of van den Oord et al. (arXiv:1711.00937), with its prior."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_vqvae import VQVAEConfig
from .labels import check_labels, drawn_by, drawn_labels
from .networks_vqvae import Autoencoder, Codebook, Prior, binary_log_prob, uniform_log_prob
from .pixels import check_pixels, check_shape, extremes

SEARCH_CHUNK = 2048  # codes that the search decodes at once
TOLERANCE = 1e-3  # what 255 / 255 or bfloat16 of 0 and 1 may be off


@dataclass
class VQVAEOutput(ModelOutput):
    """
    What `VQVAEModel.forward` returns: scalars, averaged over the batch.

    Args:
        loss: distortion + commitment_weight * commitment_loss + codebook_loss + rate: what training minimises. Without
            quantizing there is no commitment in it.
        distortion: -log p(x | codes), nats per image.
        rate: -log p(codes), nats per image; codes carry no gradient, so that it trains the prior alone.
        commitment_loss: squared distance of the encoder's outputs to their codes, which are held fixed, summed over an
            image.
        codebook_loss: the same with the outputs held fixed, which moves the codes; 0 where they are averages.
        perplexity: of the codes of the batch, from 1 to K.
    """

    loss: Tensor | None = None
    distortion: Tensor | None = None
    rate: Tensor | None = None
    commitment_loss: Tensor | None = None
    codebook_loss: Tensor | None = None
    perplexity: Tensor | None = None


class VQVAEPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = VQVAEConfig
    base_model_prefix = "vqvae"
    main_input_name = "pixel_values"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        # The transformer inside has GPT-2's, by its own class.
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d, Codebook)):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.02)


class VQVAEModel(VQVAEPreTrainedModel):
    """
    Binary images through a grid of discrete codes: an encoder whose outputs are replaced by the nearest embeddings of
    a codebook, a decoder p(x | codes) of independent pixels, and a prior p(codes).

    Pixels are float32, 0 or 1, shape (batch, num_channels, image_size, image_size). Likelihoods are nats per image.
    """

    def __init__(self, config: VQVAEConfig):
        super().__init__(config)
        self.autoencoder = Autoencoder(config)
        self.prior = Prior(config) if config.prior == "transformer" else None
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        return_loss: bool = True,
        *,
        quantize: bool = True,
    ) -> VQVAEOutput:
        """
        The training loss (equation 3), with that of the prior on the codes as they are. In training mode it counts
        the uses of the codes and, under `codebook_update` `"ema"`, moves them, those of all processes together.

        Args:
            pixel_values: 0 and 1, (batch, channels, height, width).
            labels: int64, (batch,), of a conditional model; an unconditional one ignores them.
            return_loss: as in transformers; its Trainer evaluates without a column of labels by `label_names=[]`.
            quantize: whether the decoder gets the codes; else the encoder's outputs, and nothing binds these to codes
                (a start that keeps codes from collapsing).

        Raises:
            ValueError: for pixels other than 0 and 1 or images of another size; none or wrong labels to a conditional
                model.
        """
        self._check_pixels(pixel_values)
        losses, codes = self.autoencoder(pixel_values, quantize)
        rate = -self.prior_log_prob(codes, labels).mean()
        return VQVAEOutput(**losses | {"loss": losses["loss"] + rate if return_loss else None, "rate": rate})

    def negative_bound(self, pixel_values: Tensor, labels: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """
        An upper bound on -log p(x): -log p(codes) - log p(x | codes) at the codes of the encoder, one term of the sum
        over all codes. It is exact: nothing is sampled.

        Args:
            pixel_values: 0 and 1, (batch, channels, height, width).
            labels: int64, (batch,), of a conditional model (a bound on -log p(x | label)); else ignored.

        Returns:
            Bound, rate (-log p(codes)) and distortion (-log p(x | codes)), nats per image, (batch,) each; the first is
            the sum of the others.

        Raises:
            ValueError: as of `forward`.
        """
        rate, distortion = self._terms(self.encode(pixel_values), pixel_values, labels)
        return rate + distortion, rate, distortion

    @torch.no_grad()
    def search(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        *,
        num_nearest: int | None = None,
        num_rounds: int = 8,
    ) -> tuple[Tensor, Tensor]:
        """
        Codes by which images are likelier than by those of the encoder, which thinks of the distortion alone, and a
        tighter upper bound on -log p(x). The neighbours of codes differ in one place, which holds one of the others
        among the codes nearest to the encoder's output there. A round goes to the neighbour with the lowest sum of
        rate and distortion, if that is lower than the present one. The bound is -log of the sum of p(codes) p(x |
        codes) over the codes that the last round began with and all their neighbours: exact as that of
        `negative_bound`, over more terms.

        Args:
            pixel_values: as of `negative_bound`.
            labels: as of `negative_bound`.
            num_nearest: other codes that a place may hold, from 1 to codebook_size - 1: each image is decoded so often
                for each of its codes in each round. 2 when not given, or the one that there is.
            num_rounds: at least 1; it ends before where no image finds a better neighbour.

        Returns:
            Codes with the lowest sum of rate and distortion that was found, int64, (batch, grid, grid); the bound in
            nats per image, (batch,).

        Raises:
            ValueError: as of `forward`; for a number out of its range.
        """
        most = self.config.codebook_size - 1
        num_nearest = min(2, most) if num_nearest is None else num_nearest
        if not 1 <= num_nearest <= most:
            raise ValueError(f"num_nearest is {num_nearest}; it must be one of 1 to {most}")
        if num_rounds < 1:
            raise ValueError(f"num_rounds is {num_rounds}; it must be at least 1")
        self._check_pixels(pixel_values)
        latents = self.autoencoder.latents(pixel_values).permute(0, 2, 3, 1)  # (batch, grid, grid, code_size)
        ranked = self.autoencoder.codebook.ranked(latents.flatten(0, 2), num_nearest + 1)
        ranked = ranked.view(*latents.shape[:3], num_nearest + 1)
        codes = ranked[..., 0]  # the encoder's
        if not len(codes):
            return codes, pixel_values.new_zeros(0)
        ranked = ranked.flatten(1, 2)  # (batch, places, codes)
        lowest = sum(self._terms(codes, pixel_values, labels))
        places = torch.arange(ranked.shape[1], device=codes.device)
        for _ in range(num_rounds):
            present = codes.flatten(1)
            others = ranked[ranked != present[..., None]].view(len(codes), -1, num_nearest)
            neighbours = present[:, None, None].repeat(1, len(places), num_nearest, 1)
            neighbours[:, places, :, places] = others.transpose(0, 1)  # (batch, places, num_nearest, places)
            neighbours = neighbours.flatten(1, 2).unflatten(2, codes.shape[1:])
            values = self._values(neighbours, pixel_values, labels)
            bound = -torch.cat([-lowest[:, None], -values], 1).logsumexp(1)
            best = values.min(1)
            better = best.values < lowest
            codes = torch.where(better[:, None, None], neighbours[range(len(codes)), best.indices], codes)
            lowest = torch.where(better, best.values, lowest)
            if not better.any():
                break
        return codes, bound

    def _values(self, codes: Tensor, pixel_values: Tensor, labels: Tensor | None) -> Tensor:
        """Rate + distortion of several codes of each image, (batch, num, grid, grid): (batch, num), in chunks."""
        num, values = codes.shape[1], []
        for part in torch.arange(len(codes), device=codes.device).split(max(1, SEARCH_CHUNK // num)):
            repeated = part.repeat_interleave(num)
            own = None if labels is None else labels[repeated]
            values.append(sum(self._terms(codes[part].flatten(0, 1), pixel_values[repeated], own)).view(-1, num))
        return torch.cat(values)

    def _terms(self, codes: Tensor, pixel_values: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Rate and distortion of images by some codes of them."""
        return -self.prior_log_prob(codes, labels), -binary_log_prob(pixel_values, self._logits(codes))

    @torch.no_grad()
    def encode(self, pixel_values: Tensor) -> Tensor:
        """Codes of images of 0 and 1: (batch, channels, height, width) -> int64, (batch, grid, grid)."""
        self._check_pixels(pixel_values)
        return self.autoencoder.nearest(self.autoencoder.latents(pixel_values))

    def decode(self, codes: Tensor) -> Tensor:
        """
        Probabilities of a 1.

        Args:
            codes: int64, (batch, grid, grid), from 0 to codebook_size - 1.

        Returns:
            Means of p(x | codes) in [0, 1], (batch, channels, height, width).

        Raises:
            ValueError: for codes of another shape or not in the codebook.
        """
        self._check_codes(codes)
        return self._logits(codes).sigmoid()

    def reconstruct(self, pixel_values: Tensor) -> Tensor:
        """Means of p(x | codes) at the codes of images of 0 and 1: in [0, 1], of the same shape."""
        return self.decode(self.encode(pixel_values))

    def prior_log_prob(self, codes: Tensor, labels: Tensor | None = None) -> Tensor:
        """
        log p(codes).

        Args:
            codes: int64, (batch, grid, grid), from 0 to codebook_size - 1.
            labels: as of `negative_bound`.

        Returns:
            (batch,), in nats, summed over the codes of an image.

        Raises:
            ValueError: for codes of another shape or not in the codebook; none or wrong labels to a conditional model.
        """
        self._check_codes(codes)
        if self.prior is None:
            like = self.autoencoder.codebook.embeddings
            dtype = torch.promote_types(like.dtype, torch.float32)
            return torch.full((len(codes),), uniform_log_prob(self.config), dtype=dtype, device=like.device)
        if self.config.num_classes:
            check_labels(labels, codes.shape[0], self.config.num_classes)
        return self.prior.log_prob(codes.flatten(1), labels if self.config.num_classes else None)

    @torch.no_grad()
    def sample_codes(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """
        Codes drawn from the prior, one after the other. In training mode its dropout, `prior_dropout`, acts here too,
        by torch's global state: draw in eval mode.

        Args:
            num_samples: how many images.
            labels: int64, (num_samples,), for a conditional model only; each class is as likely when not given.
            generator: of labels and codes; torch's global one when not given.
            temperature: divides the prior's logits: 1 draws from it, less prefers its likely codes.

        Returns:
            int64, (num_samples, grid, grid).

        Raises:
            ValueError: for a temperature that is not above 0; labels to an unconditional model, or wrong ones to a
                conditional one.
        """
        if not temperature > 0:
            raise ValueError(f"temperature is {temperature}; it must be above 0")
        labels = drawn_labels(labels, num_samples, self.config.num_classes, generator, self.device)
        size = self.config.grid_sizes[-1]
        given = drawn_by(generator, self.device)
        if self.prior is None:
            codes = torch.randint(self.config.codebook_size, (num_samples, size, size), **given)
            return codes.to(self.device)
        uniform = torch.rand((num_samples, size**2), **given).to(self.device)
        return self.prior.sample(labels, uniform, temperature).unflatten(1, (size, size))

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """
        Means of p(x | codes) for codes drawn from the prior.

        Args:
            num_samples: how many.
            labels: as of `sample_codes`.
            generator: as of `sample_codes`.
            temperature: as of `sample_codes`.

        Returns:
            (num_samples, channels, height, width) in [0, 1].

        Raises:
            ValueError: as of `sample_codes`.
        """
        given = {"labels": labels, "generator": generator, "temperature": temperature}
        return self.decode(self.sample_codes(num_samples, **given))

    @torch.no_grad()
    def restart_dead_codes(
        self,
        pixel_values: Tensor,
        *,
        threshold: float = 0.05,
        generator: torch.Generator | None = None,
        num_parts: int = 1,
    ) -> Tensor:
        """
        Moves codes that the training batches hardly use to outputs of the encoder, which are drawn at random (as in
        Jukebox, arXiv:2005.00341, section 3.1). Several processes draw from the images of all; each calls it.

        Args:
            pixel_values: of a training batch, 0 and 1, (batch, channels, height, width).
            threshold: a code is dead that is used less often than this share of the mean use.
            generator: of the draws, in the same state in all processes; torch's global one when not given.
            num_parts: parts in which the batch is accumulated, each of which the processes share.

        Returns:
            How many codes were moved, a scalar.

        Raises:
            ValueError: as of `forward`.
        """
        self._check_pixels(pixel_values)
        latents = self.autoencoder.latents(pixel_values).permute(0, 2, 3, 1).flatten(0, 2)
        return self.autoencoder.codebook.restart(latents, threshold, generator, num_parts)

    def _logits(self, codes: Tensor) -> Tensor:
        return self.autoencoder.logits(self.autoencoder.embedded(codes))

    def _check_pixels(self, pixel_values: Tensor):
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        check_pixels(pixel_values, self.training)
        if extremes(pixel_values, self.training) is not None:  # else values are not looked at
            wrong = torch.minimum(pixel_values.abs(), (pixel_values - 1).abs()) > TOLERANCE
            if wrong.any():
                value = pixel_values[wrong][0].item()
                raise ValueError(f"pixel_values holds {value:.4g}; this model takes 0 and 1: binarise them")

    def _check_codes(self, codes: Tensor):
        size, num = self.config.grid_sizes[-1], self.config.codebook_size
        if codes.shape[1:] != (size, size):
            raise ValueError(f"codes has shape {tuple(codes.shape)}; this model takes (batch, {size}, {size})")
        # Those of the encoder are never wrong: on an accelerator it would wait for them.
        if (seen := extremes(codes, training=True)) is None:
            return
        low, high = seen
        if low < 0 or high >= num:
            raise ValueError(f"codes holds {low if low < 0 else high}; it must be one of 0 to {num - 1} everywhere")


__all__ = ["VQVAEModel", "VQVAEPreTrainedModel"]
