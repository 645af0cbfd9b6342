"""Measures of latent-variable models."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # Burda et al., arXiv:1509.00519, section 5.1
COURSE_BOUNDS = ("course100_negative_elbo", "course100_reconstruction_loss", "course100_kl_divergence")


def active_units(posterior_means: Tensor) -> int:
    """
    Latent dimensions that the model uses: those whose posterior mean varies over the data by more than 0.01 (Burda et
    al., arXiv:1509.00519, section 5.1).

    Args:
        posterior_means: the mean of q(z|x) for each image x, (num, latent_size).
    """
    return int((posterior_means.cpu().double().var(0) > ACTIVE_VARIANCE).sum())


@torch.inference_mode()
def latent_variable_scores(model: Any, images: Any, batch_size: int, seed: int = 0) -> dict[str, float]:
    """
    `course100` and the number of `active_units` of a variational autoencoder.

    Args:
        model: with `encode` and what `course100` needs.
        images: a test set: `len`, `labels`, and `pixel_values(indices)`.
        batch_size: images that are encoded at once.
        seed: of the posterior samples.

    Returns:
        The scores of `course100`, and `active_units`, an integer, by name.
    """
    results = course100(model, images.pixel_values, images.labels, seed=seed)
    indices = torch.arange(len(images)).split(batch_size)
    means = torch.cat([model.encode(images.pixel_values(part))[0] for part in indices])
    return results | {"active_units": active_units(means)}


def first_of_each_class(labels: Tensor, num: int) -> Tensor:
    """
    The indices of the first `num` examples of each class (fewer where a class has fewer), by class: (indices,).

    Args:
        labels: int64, (num_examples,).
        num: of each class.

    Returns:
        Indices, int64, ascending within a class.
    """
    return torch.cat([(labels == label).nonzero()[:num, 0] for label in labels.unique()])


@torch.inference_mode()
def course100(
    model: Any, pixel_values: Callable[[Tensor], Tensor], labels: Tensor, *, seed: int = 0
) -> dict[str, float]:
    """
    The protocol by which courses grade a VAE: the average of 100 repeats of the one-sample bound on the same 100
    images, ten of each class, and of max(1, 100 / K) repeats of the importance-weighted bound with K samples.

    Args:
        model: with `negative_elbo_bound` and `negative_iwae_bound`.
        pixel_values: gives the test images, binarised once, at some indices, (indices, channels, height, width).
        labels: of the test images, (num,); the first ten of each class are taken.
        seed: of the posterior samples.

    Returns:
        `course100_negative_elbo`, `course100_reconstruction_loss`, `course100_kl_divergence` and `course100_iwae_<K>`
        for K = 1, 10, 100, 1000, in nats per image; nothing for a data set without 100 such images.
    """
    indices = first_of_each_class(labels, 10)
    if len(indices) != 100 or len(labels.unique()) != 10:
        return {}
    images = pixel_values(indices)
    generator = torch.Generator(images.device).manual_seed(seed)
    bounds = [torch.stack(model.negative_elbo_bound(images, generator=generator)) for _ in range(100)]
    results = dict(zip(COURSE_BOUNDS, torch.stack(bounds).cpu().double().mean(0).tolist(), strict=True))
    for num_samples in (1, 10, 100, 1000):
        repeats = max(1, 100 // num_samples)
        bounds = [model.negative_iwae_bound(images, num_samples, generator=generator) for _ in range(repeats)]
        results[f"course100_iwae_{num_samples}"] = torch.stack(bounds).cpu().double().mean().item()
    return results
