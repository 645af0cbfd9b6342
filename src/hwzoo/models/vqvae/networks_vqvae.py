"""The parts of a VQ-VAE: encoder, codebook, decoder, and the prior over codes."""

import inspect
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache, GPT2Config, GPT2Model
from transformers.utils.generic import maybe_autocast

from .configuration_vqvae import VQVAEConfig

# The name under which GPT2Model takes the keys and values of earlier positions; it changed in transformers 5.24.
CACHE = "cache" if "cache" in inspect.signature(GPT2Model.forward).parameters else "past_key_values"
IN_USE = 1e-5  # average count from which on a code's place is the average of what was assigned to it


class Residual(nn.Sequential):
    """(batch, channels, height, width) -> the same, plus what a 3 x 3 and a 1 x 1 convolution make of it."""

    def __init__(self, channels: int):
        super().__init__(nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
        self.append(nn.Conv2d(channels, channels, 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """The sum."""
        return inputs + super().forward(inputs)


def _kernel(size: int) -> int:
    """Of a convolution of stride 2 and padding 1 that halves such a height, rounded up, and of the way back."""
    return 4 - size % 2


class Encoder(nn.Sequential):
    """(batch, channels, height, width) -> (batch, code_size, grid, grid)"""

    def __init__(self, config: VQVAEConfig):
        channels, layers = [config.num_channels, *config.hidden_sizes], []
        for index, size in enumerate(config.grid_sizes[:-1]):
            layers.append(nn.Conv2d(*channels[index : index + 2], _kernel(size), stride=2, padding=1))
            layers.append(nn.ReLU())
        blocks = [Residual(channels[-1]) for _ in range(config.num_residual_layers)]
        super().__init__(*layers[:-1], *blocks, nn.ReLU(), nn.Conv2d(channels[-1], config.code_size, 1))


class Decoder(nn.Sequential):
    """(batch, code_size, grid, grid) -> (batch, channels, height, width)"""

    def __init__(self, config: VQVAEConfig):
        channels = [config.num_channels, *config.hidden_sizes]
        layers = [nn.Conv2d(config.code_size, channels[-1], 3, padding=1)]
        layers += [Residual(channels[-1]) for _ in range(config.num_residual_layers)]
        for index, size in reversed(list(enumerate(config.grid_sizes[:-1]))):
            layers.append(nn.ReLU())
            layers.append(nn.ConvTranspose2d(channels[index + 1], channels[index], _kernel(size), stride=2, padding=1))
        super().__init__(*layers)


class Codebook(nn.Module):
    """
    K embeddings, and running counts of their uses. Under `codebook_update` `"ema"` the embeddings are buffers: the
    averages of what was assigned to each code.
    """

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.decay, self.averaged = config.codebook_decay, config.codebook_update == "ema"
        embeddings = torch.empty(config.codebook_size, config.code_size)
        if self.averaged:
            self.register_buffer("embeddings", embeddings)
            self.register_buffer("sums", torch.zeros_like(embeddings))
        else:
            self.embeddings = nn.Parameter(embeddings)
        self.register_buffer("counts", torch.zeros(config.codebook_size))

    def reset_parameters(self):
        """Embeddings of a length of about 1, nothing counted yet."""
        nn.init.normal_(self.embeddings, std=self.embeddings.shape[1] ** -0.5)
        nn.init.zeros_(self.counts)
        if self.averaged:
            nn.init.zeros_(self.sums)

    @torch.no_grad()
    def nearest(self, latents: Tensor) -> Tensor:
        """The code nearest to each latent (equation 1): (num, code_size) -> int64, (num,)."""
        return self._distances(latents).argmin(1)

    @torch.no_grad()
    def ranked(self, latents: Tensor, num: int) -> Tensor:
        """
        Args:
            latents: (num_latents, code_size).
            num: of codes for each.

        Returns:
            The nearest codes, the nearest first, int64, (num_latents, num).
        """
        return self._distances(latents).topk(num, largest=False).indices

    def _distances(self, latents: Tensor) -> Tensor:
        """Squared, less the latent's own square, which is the same for all codes: (num, codebook_size)."""
        embeddings = self.embeddings.to(latents.dtype)
        # In float32 also under mixed precision: bfloat16 would lose the difference of the two.
        with maybe_autocast(latents.device.type, enabled=False):
            return torch.addmm(embeddings.square().sum(1), latents, embeddings.T, alpha=-2)

    @torch.no_grad()
    def update(self, latents: Tensor, codes: Tensor):
        """
        Counts the uses of a training batch, those of all processes together, and moves averaged embeddings.

        Args:
            latents: (num, code_size), of this process.
            codes: (num,), the nearest ones.
        """
        ones = latents.new_ones(len(codes), 1)
        new = latents.new_zeros(len(self.counts), 1 + latents.shape[1])
        new.index_add_(0, codes, torch.cat([ones, latents], 1))
        if _several_processes():
            torch.distributed.all_reduce(new)
        self.counts.lerp_(new[:, 0].to(self.counts.dtype), 1 - self.decay)
        if self.averaged:
            self.sums.lerp_(new[:, 1:].to(self.sums.dtype), 1 - self.decay)
            means = self.sums / self.counts[:, None]
            # A code out of use keeps its place: its mean would be 0 / 0.
            self.embeddings.copy_(torch.where(self.counts[:, None] > IN_USE, means, self.embeddings))

    @torch.no_grad()
    def restart(
        self, latents: Tensor, threshold: float, generator: torch.Generator | None, num_parts: int = 1
    ) -> Tensor:
        """
        Moves codes that are hardly used to latents drawn from those given, of all processes together.

        Args:
            latents: (num, code_size), of this process.
            threshold: of the count, as a share of the mean one.
            generator: in the same state in all processes; torch's global one when not given.
            num_parts: equal parts of the batch, each of which the processes share.

        Returns:
            How many were moved, a scalar.
        """
        if _several_processes():
            parts = [torch.empty_like(latents) for _ in range(torch.distributed.get_world_size())]
            torch.distributed.all_gather(parts, latents.contiguous())
            latents = torch.stack(parts).unflatten(1, (num_parts, -1)).transpose(0, 1).flatten(0, 2)
        # Always as many random numbers, whatever is dead.
        given = {} if generator is None else {"generator": generator, "device": generator.device}
        drawn = latents[torch.randint(len(latents), self.counts.shape, **given).to(latents.device)]
        mean = self.counts.mean()
        dead = self.counts < threshold * mean
        self.embeddings.copy_(torch.where(dead[:, None], drawn.to(self.embeddings.dtype), self.embeddings))
        self.counts.copy_(torch.where(dead, mean, self.counts))  # time to come into use
        if self.averaged:
            self.sums.copy_(torch.where(dead[:, None], mean * self.embeddings, self.sums))
        return dead.sum()


class Autoencoder(nn.Module):
    """Encoder, codebook and decoder: all but the prior."""

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.config = config
        self.encoder, self.codebook, self.decoder = Encoder(config), Codebook(config), Decoder(config)

    def forward(self, pixel_values: Tensor, quantize: bool = True) -> tuple[dict[str, Tensor], Tensor]:
        """
        The losses without the prior's. In training mode it counts the uses of the codes and moves averaged ones.

        Args:
            pixel_values: 0 and 1, (batch, channels, height, width).
            quantize: whether the decoder gets the codes' embeddings; else the encoder's outputs, to which then nothing
                is bound.

        Returns:
            Scalars by name, `loss` the sum to minimise, as of `VQVAEOutput`; and the codes, (batch, grid, grid).
        """
        latents = self.latents(pixel_values)
        codes = self.nearest(latents)
        embedded = self.embedded(codes)
        # Straight through: exactly the embeddings forward, the decoder's gradient to the encoder unchanged backward.
        decoded = embedded.detach() + (latents - latents.detach()) if quantize else latents
        distortion = -binary_log_prob(pixel_values, self.logits(decoded)).mean()
        commitment = (latents - embedded.detach()).square().sum((1, 2, 3)).mean()
        codebook = (latents.detach() - embedded).square().sum((1, 2, 3)).mean()
        if self.codebook.averaged:
            codebook = torch.zeros_like(codebook)
        if self.training:
            self.codebook.update(latents.detach().permute(0, 2, 3, 1).flatten(0, 2), codes.flatten())
        loss = distortion + codebook + quantize * self.config.commitment_weight * commitment
        counts = torch.zeros_like(self.codebook.counts, dtype=loss.dtype)
        counts = counts.index_add(0, codes.flatten(), torch.ones_like(codes, dtype=loss.dtype).flatten())
        losses = {"loss": loss, "distortion": distortion, "commitment_loss": commitment, "codebook_loss": codebook}
        return {**losses, "perplexity": perplexity(counts)}, codes

    def latents(self, pixel_values: Tensor) -> Tensor:
        """The encoder's outputs, (batch, code_size, grid, grid), float32 also in half or mixed precision."""
        return _full(self.encoder((2 * pixel_values - 1).to(self.encoder[0].weight.dtype)))

    def nearest(self, latents: Tensor) -> Tensor:
        """(batch, code_size, grid, grid) -> their codes, int64, (batch, grid, grid)."""
        codes = self.codebook.nearest(latents.permute(0, 2, 3, 1).flatten(0, 2))
        return codes.view(len(latents), *latents.shape[2:])

    def embedded(self, codes: Tensor) -> Tensor:
        """(batch, grid, grid) -> the codes' embeddings, (batch, code_size, grid, grid)."""
        return _full(F.embedding(codes, self.codebook.embeddings)).permute(0, 3, 1, 2)

    def logits(self, embedded: Tensor) -> Tensor:
        """Of a 1: (batch, code_size, grid, grid) -> (batch, channels, height, width)."""
        return _full(self.decoder(embedded.to(self.encoder[0].weight.dtype)))


class Prior(nn.Module):
    """
    p(codes) = prod_t p(code_t | codes before it, class): a causal transformer (GPT-2's blocks) over the codes in the
    order of reading, from a first token that is the class.
    """

    def __init__(self, config: VQVAEConfig):
        super().__init__()
        self.codebook_size, self.length = config.codebook_size, config.grid_sizes[-1] ** 2
        self.transformer = GPT2Model(
            GPT2Config(
                vocab_size=config.codebook_size + max(1, config.num_classes),
                n_positions=self.length,
                n_embd=config.prior_hidden_size,
                n_layer=config.prior_num_layers,
                n_head=config.prior_num_heads,
                activation_function="gelu_pytorch_tanh",
                resid_pdrop=config.prior_dropout,
                embd_pdrop=config.prior_dropout,
                attn_pdrop=config.prior_dropout,
                bos_token_id=None,
                eos_token_id=None,
                attn_implementation="eager",  # the fused kind is slower for so few positions
            )
        )
        self.head = nn.Linear(config.prior_hidden_size, config.codebook_size)

    def forward(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """As `log_prob`: what a trainer wraps, in mixed precision."""
        return self.log_prob(codes, labels)

    def log_prob(self, codes: Tensor, labels: Tensor | None) -> Tensor:
        """
        log p(codes), or log p(codes | class).

        Args:
            codes: int64, (batch, length), in the order of reading.
            labels: int64, (batch,), of a conditional prior; else None.

        Returns:
            (batch,), in nats, summed over the codes.
        """
        if not len(codes):  # which GPT-2 refuses
            return self.head.weight.new_zeros(0)
        tokens = torch.cat([self._first(len(codes), labels), codes[:, :-1]], 1)
        hidden = self.transformer(input_ids=tokens, use_cache=False).last_hidden_state
        return self._log_probs(hidden).gather(-1, codes[..., None])[..., 0].sum(1)

    def sample(self, labels: Tensor | None, uniform: Tensor, temperature: float) -> Tensor:
        """
        Codes drawn one after the other; keys and values of earlier positions are kept.

        Args:
            labels: (num,), of a conditional prior.
            uniform: noise in [0, 1), (num, length): one number decides a code.
            temperature: divides the logits.

        Returns:
            int64, (num, length).
        """
        if not len(uniform):
            return torch.zeros(uniform.shape, dtype=torch.long, device=uniform.device)
        tokens, codes, cache = self._first(len(uniform), labels), [], {CACHE: DynamicCache()}
        for place in uniform.unbind(1):
            hidden = self.transformer(input_ids=tokens, use_cache=True, **cache).last_hidden_state
            cumulative = self._log_probs(hidden[:, -1], temperature).exp().cumsum(1)
            # As many as the cumulative probabilities passed; rounding may leave the last of these below 1.
            tokens = (place[:, None] >= cumulative[:, :-1]).sum(1, keepdim=True)
            codes.append(tokens)
        return torch.cat(codes, 1)

    def _first(self, num: int, labels: Tensor | None) -> Tensor:
        device = self.head.weight.device
        first = torch.zeros(num, dtype=torch.long, device=device) if labels is None else labels.to(device)
        return (self.codebook_size + first)[:, None]

    def _log_probs(self, hidden: Tensor, temperature: float = 1.0) -> Tensor:
        logits = _full(self.head(hidden))
        if temperature != 1:  # by the differences to the likeliest: a quotient above the largest float would be NaN
            logits = logits - logits.amax(-1, keepdim=True)
            logits = logits / max(temperature, torch.finfo(logits.dtype).tiny)
        return logits.log_softmax(-1)


def _full(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def binary_log_prob(pixel_values: Tensor, logits: Tensor) -> Tensor:
    """
    log p(x) of independent binary pixels.

    Args:
        pixel_values: 0 and 1, (batch, channels, height, width).
        logits: of a 1, of the same shape.

    Returns:
        (batch,), in nats, summed over an image.
    """
    return -F.binary_cross_entropy_with_logits(logits, pixel_values.to(logits.dtype), reduction="none").sum((1, 2, 3))


def perplexity(counts: Tensor) -> Tensor:
    """exp of the entropy of how often each code is used, from 1 to K: counts, (K,) -> a scalar."""
    shares = counts / counts.sum()
    return torch.special.entr(shares).sum().exp()


def uniform_log_prob(config: VQVAEConfig) -> float:
    """log p of any codes of an image, in nats, where all are as likely."""
    return -(config.grid_sizes[-1] ** 2) * math.log(config.codebook_size)
