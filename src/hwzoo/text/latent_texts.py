"""What is told of a model that has texts in a latent: its numbers in words, and what it writes."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files import write_bytes

# Words and unit of its numbers, by name without `test_`.
LATENT_WORDS = {
    "negative_elbo": ("bound on the negative log-likelihood", "nats a text"),
    "rate": ("of it what the latent costs", "nats a text"),
    "distortion": ("of it the text, given the latent", "nats a text"),
    "iwae_100": ("importance-weighted bound of 100 samples", "nats a text"),
    "mutual_information": ("of the rate what the latent tells of a text", "nats a text"),
    "marginal_divergence": ("the rest: of all latents together from the prior", "nats"),
    "mutual_information_ceiling": ("the most that so many texts can show", "nats a text"),
    "active_units": ("latent units in use", ""),
    "distinct_modes": ("most likely texts at 1,000 latents that differ", ""),
}


def texts_of(model: Any, tokenizer: Any, test_set: Any, seed: int, num: int) -> dict[str, list]:
    """
    What a text VAE writes.

    Args:
        model: a `TextVAEModel`.
        tokenizer: of its tokens.
        test_set: a `TokenSet`.
        seed: of what is drawn.
        num: samples of each kind, and texts that are reconstructed, at most.

    Returns:
        `samples, temperature 1` and `samples, most likely tokens`: texts of latents of the prior, the same of both;
        where there is a latent, `reconstructions`, pairs of a test text and the most likely one at its latent, and
        `paths`, most likely texts on the way from one test text to another.
    """

    def decoded(ids):
        return tokenizer.batch_decode(ids.tolist(), skip_special_tokens=True)

    drawn = {"temperature 1": 1.0, "most likely tokens": 0.0}
    texts = {
        f"samples, {name}": decoded(
            model.sample(num, generator=torch.Generator().manual_seed(seed), temperature=temperature)
        )
        for name, temperature in drawn.items()
    }
    if model.config.latent_size:
        some = test_set.batch(torch.arange(min(num, len(test_set)), device=test_set.device))["input_ids"]
        pairs = zip(decoded(some), decoded(model.reconstruct(some)), strict=True)
        texts["reconstructions"] = [list(pair) for pair in pairs]
        start, end = some[: len(some) // 2][:10], some[len(some) // 2 :][:10]
        texts["paths"] = [decoded(path) for path in model.interpolate(start, end[: len(start)], 7)]
    return texts


def save_texts(path: Path, tokens: Tensor, tokenizer: Any) -> list[str]:
    """
    Writes texts, one a line.

    Args:
        path: of the file, UTF-8.
        tokens: (num, max_tokens).
        tokenizer: of them.

    Returns:
        The lines, in which white space is one space.
    """
    lines = [" ".join(each.split()) for each in tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True)]
    write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
    return lines
