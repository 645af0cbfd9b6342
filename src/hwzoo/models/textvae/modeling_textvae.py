"""The variational autoencoder of texts of Bowman et al. (arXiv:1511.06349), and its decoder alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_textvae import TextVAEConfig
from .latents import between, checked_latents

LOG_2PI = math.log(2 * math.pi)
# Numbers that the decoder gives at once for the importance-weighted bound: 100 MB of float32.
IWAE_CHUNK = 25_000_000


@dataclass
class TextVAEOutput(ModelOutput):
    """
    What `TextVAEModel.forward` returns: scalars, in nats per text, averaged over the batch.

    Args:
        loss: distortion + beta * kl_weight * rate, what training minimises; of each dimension of the latent at least
            `free_bits` are counted.
        negative_elbo: rate + distortion.
        rate: KL(q(z|x) || p(z)), summed over the dimensions of the latent.
        distortion: -log p(x|z) at one sample z of q(z|x), summed over the tokens. In training mode the decoder's
            inputs are masked as `word_dropout` says.
    """

    loss: Tensor | None = None
    negative_elbo: Tensor | None = None
    rate: Tensor | None = None
    distortion: Tensor | None = None


def gaussian_kl(mean: Tensor, variance: Tensor) -> Tensor:
    """
    KL(N(mean, variance) || N(0, 1)) of each dimension, in nats (arXiv:1312.6114, appendix B).

    Args:
        mean: of any shape.
        variance: above 0, of the same shape.

    Returns:
        The divergences, of the same shape.
    """
    return 0.5 * (mean.square() + variance - 1 - variance.log())


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


def with_free_bits(rates: Tensor, free_bits: float) -> Tensor:
    """
    The sum over the dimensions of max(free_bits, mean over the batch of the dimension's rate). The batch is that of
    all processes; the value and gradient here are of this one's part, and their means over the processes the whole's.

    Args:
        rates: nats, (batch, latent_size).
        free_bits: nats of a dimension.

    Returns:
        A scalar.
    """
    means = rates.mean(0)
    over_all = means.detach().clone()
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(over_all)
        over_all /= torch.distributed.get_world_size()
    return torch.where(over_all > free_bits, means, free_bits).sum()


class Encoder(nn.Module):
    """Tokens -> mean and log-variance of q(z|x): a GRU reads the text forwards, another backwards."""

    def __init__(self, config: TextVAEConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.forwards = nn.GRU(config.embedding_size, config.hidden_size, batch_first=True)
        self.backwards = nn.GRU(config.embedding_size, config.hidden_size, batch_first=True)
        self.head = nn.Linear(2 * config.hidden_size, 2 * config.latent_size)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """(batch, length) and (batch,) -> (batch, 2 * latent_size)"""
        # Backwards from the last token that is one: padding is read by neither before it has ended.
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        reverse = (lengths[:, None] - 1 - places).clamp(min=0)
        embedded = self.embeddings(input_ids)
        turned = embedded.gather(1, reverse[..., None].expand_as(embedded))
        first = _first_state(embedded, self.forwards)
        states = torch.cat([self.forwards(embedded, first)[0], self.backwards(turned, first)[0]], -1)
        last = (lengths - 1)[:, None, None].expand(-1, 1, states.shape[-1])
        return self.head(states.gather(1, last)[:, 0])


class Decoder(nn.Module):
    """p(x|z): a GRU that is given the latent beside each token and as its first state."""

    def __init__(self, config: TextVAEConfig):
        super().__init__()
        self.embeddings = nn.Embedding(config.vocab_size, config.embedding_size)
        self.first_state = nn.Linear(config.latent_size, config.hidden_size) if config.latent_size else None
        self.network = nn.GRU(config.embedding_size + config.latent_size, config.hidden_size, batch_first=True)
        self.head = nn.Linear(config.hidden_size, config.vocab_size)

    def forward(self, inputs: Tensor, latents: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Args:
            inputs: tokens, the first that of the start, (batch, length).
            latents: (batch, latent_size).
            state: after the tokens before these; None at the start.

        Returns:
            Logits, (batch, length, vocab_size), and the state after the last token.
        """
        latents, embedded = latents.to(self.head.weight.dtype), self.embeddings(inputs)
        if self.first_state is not None:
            embedded = torch.cat([embedded, latents[:, None].expand(-1, inputs.shape[1], -1)], -1)
            state = self.first_state(latents).tanh()[None] if state is None else state
        elif state is None:
            state = _first_state(embedded, self.network)
        hidden, state = self.network(embedded, state)
        return self.head(hidden), state


class TextVAEPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = TextVAEConfig
    base_model_prefix = "textvae"
    main_input_name = "input_ids"

    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation.
        if isinstance(module, (nn.Linear, nn.GRU, nn.Embedding)):
            module.reset_parameters()


class TextVAEModel(TextVAEPreTrainedModel):
    """
    A variational autoencoder of texts, or with `latent_size` 0 its decoder alone, a language model.

    A text is a row of tokens that ends with the end token and is filled up with padding; the tokenizer beside a saved
    model makes them. p(x|z) is a distribution over all texts of at most `max_tokens` tokens. Likelihoods are nats per
    text, summed over its tokens, the end token among them, the padding not.
    """

    accepts_loss_kwargs = False  # transformers' Trainer: the loss is a mean over the batch, whatever the keywords

    def __init__(self, config: TextVAEConfig):
        super().__init__(config)
        self.encoder = Encoder(config) if config.latent_size else None
        self.decoder = Decoder(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        kl_weight: float = 1.0,
        noise: Tensor | None = None,
        dropout_noise: Tensor | None = None,
        return_loss: bool = True,
        **kwargs: Any,
    ) -> TextVAEOutput:
        """
        The training loss and its terms.

        Args:
            input_ids: tokens, (batch, length), at most `max_tokens` of them.
            attention_mask: 1 for tokens and 0 for the padding after them, (batch, length); all but padding tokens when
                not given.
            kl_weight: factor on the rate besides `config.beta`, for annealing.
            noise: (batch, latent_size) standard normal noise of the sample of q(z|x); drawn when not given.
            dropout_noise: in [0, 1), (batch, length): where it is below `word_dropout` the decoder's input is masked,
                in training mode; drawn when not given.
            return_loss: as in transformers, whose Trainer takes from it that there is a loss without labels.
            kwargs: `labels`, ignored (named in the signature they would be what the Trainer needs for a loss), and
                `return_dict`: False gives a tuple.

        Raises:
            TypeError: for another keyword.
            ValueError: for tokens that are none, or texts that do not end or are too long; for noise of another shape.
        """
        if unknown := [name for name in kwargs if name != "labels"]:
            raise TypeError(f"TextVAEModel.forward takes no {', '.join(sorted(unknown))}")
        real = self._checked(input_ids, attention_mask)
        mean, variance = self._posterior(input_ids, real)
        inputs = self._shifted(input_ids)
        if self.training and self.config.word_dropout:
            if dropout_noise is None:
                dropout_noise = torch.rand(inputs.shape, device=inputs.device)
            masked = _of_shape(dropout_noise, inputs.shape, "dropout_noise") < self.config.word_dropout
            inputs[:, 1:] = inputs[:, 1:].masked_fill(masked[:, 1:], self.config.unk_token_id)
        noise = _standard_normal(mean.shape, mean, None) if noise is None else _of_shape(noise, mean.shape)
        latents = mean + variance.sqrt() * noise
        distortion = self._distortion(input_ids, real, inputs, latents).mean()
        rates = gaussian_kl(mean, variance)
        rate = rates.sum(-1).mean()
        counted = with_free_bits(rates, self.config.free_bits) if self.config.free_bits else rate
        loss = distortion + self.config.beta * kl_weight * counted if return_loss else None
        return TextVAEOutput(loss, rate + distortion, rate, distortion)

    def negative_bound(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        noise: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """
        The negative evidence lower bound of each text from one sample of q(z|x) (arXiv:1511.06349, equation 1): an
        upper bound on -log p(x) in expectation, and -log p(x) itself for a language model.

        Args:
            input_ids: tokens, (batch, length).
            attention_mask: as of `forward`.
            generator: of the noise; torch's global one when not given.
            noise: standard normal, (batch, latent_size), in place of what is drawn.

        Returns:
            Bound, rate KL(q(z|x) || p(z)) and distortion -log p(x|z), nats per text, (batch,) each; the first is the
            sum of the others.

        Raises:
            ValueError: as of `forward`.
        """
        real = self._checked(input_ids, attention_mask)
        mean, variance = self._posterior(input_ids, real)
        noise = _standard_normal(mean.shape, mean, generator) if noise is None else _of_shape(noise, mean.shape)
        latents = mean + variance.sqrt() * noise
        distortion = self._distortion(input_ids, real, self._shifted(input_ids), latents)
        rate = gaussian_kl(mean, variance).sum(-1)
        return rate + distortion, rate, distortion

    def negative_iwae_bound(
        self,
        input_ids: Tensor,
        num_importance_samples: int,
        attention_mask: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        reduction: str = "mean",
    ) -> Tensor:
        """
        -log 1/K sum_k p(x, z_k) / q(z_k|x) with K = num_importance_samples samples z_k of q(z|x), in nats per text
        (Burda et al., arXiv:1509.00519, equation 8). The samples are decoded in chunks, so that without gradients the
        memory needed does not grow with K.

        Args:
            input_ids: tokens, (batch, length).
            num_importance_samples: K, at least 1.
            attention_mask: as of `forward`.
            generator: of the noise; torch's global one when not given.
            reduction: `"mean"` for the batch average, `"none"` for one value per text, (batch,).

        Returns:
            A scalar, or (batch,).

        Raises:
            ValueError: for fewer than 1 sample, an unknown reduction, or as of `forward`.
        """
        if num_importance_samples < 1:
            raise ValueError(f"num_importance_samples is {num_importance_samples}; it must be at least 1")
        if reduction not in ("mean", "none"):
            raise ValueError(f"reduction is {reduction!r}; it must be 'mean' or 'none'")
        real = self._checked(input_ids, attention_mask)
        mean, variance = self._posterior(input_ids, real)
        inputs = self._shifted(input_ids)
        log_total = mean.new_full((len(mean),), -torch.inf)
        remaining = num_importance_samples
        while remaining:
            chunk = min(remaining, max(1, IWAE_CHUNK // max(1, input_ids.numel() * self.config.vocab_size)))
            remaining -= chunk
            shape = (chunk, *mean.shape)
            latents = mean + variance.sqrt() * _standard_normal(shape, mean, generator)  # (chunk, batch, latent)
            repeated = [each.repeat(chunk, 1) for each in (input_ids, real, inputs)]
            distortion = self._distortion(*repeated, latents.flatten(0, 1)).unflatten(0, (chunk, len(mean)))
            log_prior = gaussian_log_density(latents, torch.zeros_like(mean), torch.ones_like(mean))
            log_weight = log_prior - distortion - gaussian_log_density(latents, mean, variance)  # (chunk, batch)
            # Over the samples of each text, not over the batch: the average stands inside the logarithm.
            log_total = torch.logaddexp(log_total, log_weight.logsumexp(0))
        bound = math.log(num_importance_samples) - log_total
        return bound.mean() if reduction == "mean" else bound

    def encode(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """
        Mean and variance of q(z|x).

        Args:
            input_ids: tokens, (batch, length).
            attention_mask: as of `forward`.

        Returns:
            (batch, latent_size) each.

        Raises:
            ValueError: as of `forward`.
        """
        return self._posterior(input_ids, self._checked(input_ids, attention_mask))

    def log_prob(self, input_ids: Tensor, latents: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """
        log p(x|z).

        Args:
            input_ids: tokens, (batch, length).
            latents: z, (batch, latent_size).
            attention_mask: as of `forward`.

        Returns:
            Nats, summed over the tokens of a text, (batch,).

        Raises:
            ValueError: as of `forward`, and for latents of another shape.
        """
        real = self._checked(input_ids, attention_mask)
        latents = checked_latents(latents, len(input_ids), self.config.latent_size)
        return -self._distortion(input_ids, real, self._shifted(input_ids), latents)

    @torch.no_grad()
    def sample(
        self,
        num_samples: int,
        *,
        labels: Tensor | None = None,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        temperature: float = 1.0,
    ) -> Tensor:
        """
        Texts drawn from p(x|z), one token after the other, for z drawn from the prior.

        Args:
            num_samples: how many.
            labels: None; an argument for the sake of the zoo's signature.
            generator: of latents and tokens; torch's global one when not given.
            latents: z, (num_samples, latent_size), in place of what is drawn.
            temperature: divides the logits of the tokens: 1 draws from p(x|z), 0 takes the most likely token each
                time, and nothing but the latents is drawn.

        Returns:
            Tokens, int64, (num_samples, max_tokens), each row with its end token and then padding, on the device of
            the model.

        Raises:
            ValueError: when labels are given, as the model is unconditional; for latents of another shape, or a
                temperature below 0 or infinite.
        """
        if labels is not None:
            raise ValueError("labels were given, but this model is unconditional: leave labels at None")
        if not 0 <= temperature < math.inf:
            raise ValueError(f"temperature is {temperature}; it must be at least 0 and finite")
        like = self.decoder.head.weight
        if latents is None:
            latents = _standard_normal((num_samples, self.config.latent_size), like, generator)
        latents = checked_latents(latents, num_samples, self.config.latent_size).to(self.device)
        uniform = None
        if temperature:
            given = {"device": self.device if generator is None else generator.device}
            given |= {} if generator is None else {"generator": generator}
            uniform = torch.rand((num_samples, self.config.max_tokens), **given).to(self.device)
        return self._generate(latents, uniform, temperature)

    @torch.no_grad()
    def reconstruct(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        """
        The texts of the most likely tokens at the mean of q(z|x).

        Args:
            input_ids: tokens, (batch, length).
            attention_mask: as of `forward`.

        Returns:
            Tokens, int64, (batch, max_tokens), as of `sample`.

        Raises:
            ValueError: as of `forward`.
        """
        return self._generate(self.encode(input_ids, attention_mask)[0], None, 0.0)

    @torch.no_grad()
    def interpolate(
        self, start: Tensor, end: Tensor, num_steps: int, *, labels: Tensor | None = None, mode: str | None = None
    ) -> Tensor:
        """
        The texts of the most likely tokens on paths from one batch of latents to another.

        Args:
            start: latents z, (batch, latent_size), or tokens, int64, (batch, length), whose latents are the means of
                q(z|x).
            end: as many, of either kind.
            num_steps: texts of a path, both ends counted, at least 2.
            labels: None; an argument for the sake of the zoo's signature.
            mode: `linear`, a straight line, or `spherical`, on which latents keep the length that the prior gives them
                (arXiv:1609.04468); spherical when not given.

        Returns:
            Tokens, int64, (batch, num_steps, max_tokens); the first and last texts of texts are their reconstructions.

        Raises:
            ValueError: for fewer than 2 steps, another mode, ends of different numbers, latents of another size,
                labels, or as of `forward`.
        """
        if labels is not None:
            raise ValueError("labels were given, but this model is unconditional: leave labels at None")
        first, last = (
            checked_latents(each, len(each), self.config.latent_size)
            if each.is_floating_point()
            else self.encode(each)[0]
            for each in (start.to(self.device), end.to(self.device))
        )
        paths = between(first, last, num_steps, mode or "spherical")
        return self._generate(paths.flatten(0, 1), None, 0.0).unflatten(0, (len(first), num_steps))

    def _posterior(self, input_ids: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
        if self.encoder is None:
            empty = _full(self.decoder.head.weight.new_zeros((len(input_ids), 0)))
            return empty, empty
        mean, log_variance = _full(self.encoder(input_ids, real.sum(1))).chunk(2, dim=-1)
        return mean, log_variance.exp()

    def _shifted(self, input_ids: Tensor) -> Tensor:
        """What the decoder is given: the start, then each token but the last."""
        start = torch.full_like(input_ids[:, :1], self.config.pad_token_id)
        return torch.cat([start, input_ids[:, :-1]], 1)

    def _distortion(self, input_ids: Tensor, real: Tensor, inputs: Tensor, latents: Tensor) -> Tensor:
        """-log p(x|z) with some inputs of the decoder, in nats, (batch,)."""
        log_probs = self._log_probs(self.decoder(inputs, latents)[0], 0)
        of_tokens = log_probs.gather(-1, input_ids[..., None])[..., 0]
        return -of_tokens.where(real, 0.0).sum(1)  # not a product: that of padding is -inf

    def _log_probs(self, logits: Tensor, first: int) -> Tensor:
        """
        Log-probabilities of tokens from the place `first` of a text on: padding is never one, and what is at the last
        place of all is the end.
        """
        logits = _full(logits).index_fill(-1, self._index(self.config.pad_token_id), -torch.inf)
        if first + logits.shape[1] == self.config.max_tokens:
            others = torch.arange(self.config.vocab_size, device=logits.device) != self.config.eos_token_id
            last = logits[:, -1].masked_fill(others, -torch.inf)
            logits = torch.cat([logits[:, :-1], last[:, None]], 1)
        return logits.log_softmax(-1)

    def _index(self, token: int) -> Tensor:
        return torch.tensor([token], device=self.decoder.head.weight.device)

    def _generate(self, latents: Tensor, uniform: Tensor | None, temperature: float) -> Tensor:
        """Tokens one after the other: the most likely ones, or one for each number of `uniform`, (num, max_tokens)."""
        pad, end = self.config.pad_token_id, self.config.eos_token_id
        tokens = torch.full((latents.shape[0], 1), pad, device=self.device)
        ended, state, rows = torch.zeros_like(tokens, dtype=torch.bool), None, []
        for place in range(self.config.max_tokens):
            logits, state = self.decoder(tokens, latents, state)
            log_probs = self._log_probs(logits, place)[:, 0]
            if uniform is None:
                tokens = log_probs.argmax(-1, keepdim=True)
            else:
                # A quotient above the largest float would be NaN.
                log_probs = log_probs - log_probs.amax(-1, keepdim=True)
                log_probs = log_probs / max(temperature, torch.finfo(log_probs.dtype).tiny)
                cumulative = log_probs.softmax(-1).cumsum(-1)
                # As many as the cumulative probabilities passed; rounding may leave the last of these below 1.
                passed = uniform[:, place, None] * cumulative[:, -1:] >= cumulative[:, :-1]
                tokens = passed.sum(1, keepdim=True)
            tokens = tokens.masked_fill(ended, pad)
            rows.append(tokens)
            ended = ended | (tokens == end)
            if not torch.compiler.is_compiling() and ended.all():  # a graph goes through all places
                break
        return F.pad(torch.cat(rows, 1), (0, self.config.max_tokens - len(rows)), value=pad)

    def _checked(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Where tokens are: boolean, (batch, length). Values are looked at on a CPU alone: elsewhere it would wait."""
        if input_ids.is_floating_point() or input_ids.ndim != 2:
            raise ValueError(
                f"input_ids is {input_ids.dtype} of shape {tuple(input_ids.shape)}; it must be int64, (batch, length)"
            )
        if not 1 <= input_ids.shape[1] <= self.config.max_tokens:
            raise ValueError(
                f"input_ids has {input_ids.shape[1]} tokens a text; it must be 1 to {self.config.max_tokens}"
            )
        if attention_mask is not None and attention_mask.shape != input_ids.shape:
            raise ValueError(
                f"attention_mask has shape {tuple(attention_mask.shape)}; it must be {tuple(input_ids.shape)}"
            )
        real = input_ids != self.config.pad_token_id if attention_mask is None else attention_mask.bool()
        if input_ids.device.type != "cpu" or torch.compiler.is_compiling() or not len(input_ids):
            return real
        try:
            low, high = (bound.item() for bound in input_ids.aminmax())
        except RuntimeError:  # of vmap: there is no value to look at
            return real
        if low < 0 or high >= self.config.vocab_size:
            wrong = low if low < 0 else high
            raise ValueError(f"input_ids holds {wrong}; it must be one of 0 to {self.config.vocab_size - 1}")
        last = input_ids.gather(1, (real.sum(1, keepdim=True) - 1).clamp(min=0))
        one_end = ((input_ids == self.config.eos_token_id) & real).sum(1) == 1
        inside = (input_ids == self.config.pad_token_id) & real  # by a mask that does not know it
        in_order = (
            real[:, 0].all() and (real[:, 1:] <= real[:, :-1]).all() and (last == self.config.eos_token_id).all()
        )
        if not (in_order and one_end.all()) or inside.any():
            raise ValueError(
                f"input_ids has a row that is no text: each must be tokens, then the end token once, "
                f"{self.config.eos_token_id}, then padding alone"
            )
        return real


def _standard_normal(shape, like: Tensor, generator: torch.Generator | None) -> Tensor:
    # A generator draws on its own device only: the same CPU generator gives the same noise wherever the model is.
    if generator is None:
        return torch.randn(shape, device=like.device, dtype=like.dtype)
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


def _first_state(inputs: Tensor, network: nn.GRU) -> Tensor:
    """What torch begins with when it is given nothing; under vmap each example's own, which torch's is not."""
    return inputs.new_zeros(1, inputs.shape[0], network.hidden_size)


def _of_shape(given: Tensor, shape: torch.Size, name: str = "noise") -> Tensor:
    """Noise that was given; of another shape it would be broadcast."""
    if given.shape != shape:
        raise ValueError(f"{name} has shape {tuple(given.shape)}; it must be {tuple(shape)}")
    return given


def _full(tensor: Tensor) -> Tensor:
    """In float32, or float64 where it is."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


__all__ = ["TextVAEModel", "TextVAEPreTrainedModel"]
