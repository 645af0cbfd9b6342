"""Measures of latent-variable models."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

ACTIVE_VARIANCE = 0.01  # Burda et al., arXiv:1509.00519, section 5.1
PAIRS = 4_000_000  # of a sample and an example that are compared at once
# The protocol of the courses: repeats of the bound, and samples of the importance-weighted ones.
COURSE_REPEATS, COURSE_SAMPLES = 100, (1, 10, 100, 1000)
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
def aggregate_posterior_scores(
    mean: Tensor, variance: Tensor, *, num_samples: int = 10, seed: int = 0
) -> dict[str, float]:
    """
    What the rate of N examples consists of: E KL(q(z|x) || p(z)) = I(x, z) + KL(q(z) || p(z)), where q(z) = 1/N sum_i
    q(z|x_i) is the aggregate posterior and p(z) = N(0, I) (Hoffman and Johnson, "ELBO surgery", 2016). I is at most ln
    N, however much z tells.

    Args:
        mean: of q(z|x) for each example x, (num, latent_size).
        variance: the same.
        num_samples: of z for each example; the scores are Monte Carlo estimates.
        seed: of the samples.

    Returns:
        `mutual_information`, `marginal_divergence` and `mutual_information_ceiling`, in nats, by name.
    """
    mean, variance = mean.cpu().double(), variance.cpu().double()
    generator, num = torch.Generator().manual_seed(seed), len(mean)
    constant = (mean.square() / variance + variance.log()).sum(1)
    information = marginal = 0.0
    for indices in torch.arange(num).repeat(num_samples).split(max(1, PAIRS // num)):
        noise = torch.randn((len(indices), mean.shape[1]), generator=generator, dtype=torch.double)
        latents = mean[indices] + variance[indices].sqrt() * noise
        # log q(z|x_i) + d/2 log 2 pi for all i, and log p(z) with the same constant.
        each = -0.5 * (latents.square() @ (1 / variance).T - 2 * latents @ (mean / variance).T + constant)
        aggregate = each.logsumexp(1) - math.log(num)
        own = -0.5 * (noise.square() + variance[indices].log()).sum(1)
        information += (own - aggregate).sum().item()
        marginal += (aggregate + 0.5 * latents.square().sum(1)).sum().item()
    draws = num * num_samples
    results = {"mutual_information": information / draws, "marginal_divergence": marginal / draws}
    return results | {"mutual_information_ceiling": math.log(num)}


@torch.inference_mode()
def latent_scores(
    model: Any, inputs: Tensor, batch_size: int, *, num_modes: int = 1000, seed: int = 0
) -> dict[str, float]:
    """
    What the latent of a model of texts holds and does.

    Args:
        model: with `encode` and `sample`.
        inputs: what it encodes, (num, ...).
        batch_size: of them at once.
        num_modes: latents of the prior whose most likely texts are counted.
        seed: of latents.

    Returns:
        The scores of `aggregate_posterior_scores`, `active_units`, and `distinct_modes`: how many different texts the
        most likely tokens at so many latents of the prior are; 1 where the latent changes nothing.
    """
    posteriors = [model.encode(part) for part in inputs.split(batch_size)]
    mean, variance = (torch.cat(parts) for parts in zip(*posteriors, strict=True))
    scores = aggregate_posterior_scores(mean, variance, seed=seed)
    scores["active_units"] = active_units(mean) if mean.shape[1] else 0  # of a language model
    modes = model.sample(num_modes, generator=torch.Generator().manual_seed(seed), temperature=0.0)
    return scores | {"distinct_modes": len(modes.unique(dim=0))}


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
    means = torch.cat([model.encode(images.pixel_values(part), images.labels[part])[0] for part in indices])
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
    images, ten of each class, and of max(1, 100 / K) repeats of the importance-weighted bound with K samples. They
    are not the courses' own images; the first ten of each class of MNIST have worse bounds than its whole test set.

    Args:
        model: with `negative_elbo_bound` and `negative_iwae_bound`.
        pixel_values: gives the test images, binarised once, at some indices, (indices, channels, height, width).
        labels: of the test images, (num,), which a conditional model is given; the first ten of each class are taken.
        seed: of the posterior samples.

    Returns:
        `course100_negative_elbo`, `course100_reconstruction_loss`, `course100_kl_divergence` and `course100_iwae_<K>`
        for K = 1, 10, 100, 1000, in nats per image; nothing for a data set without 100 such images.
    """
    indices = first_of_each_class(labels, 10)
    if len(indices) != 100 or len(labels.unique()) != 10:
        return {}
    images, labels = pixel_values(indices), labels[indices]
    generator = torch.Generator(images.device).manual_seed(seed)
    bounds = [
        torch.stack(model.negative_elbo_bound(images, labels, generator=generator)) for _ in range(COURSE_REPEATS)
    ]
    results = dict(zip(COURSE_BOUNDS, torch.stack(bounds).cpu().double().mean(0).tolist(), strict=True))
    for num_samples in COURSE_SAMPLES:
        repeats = max(1, COURSE_REPEATS // num_samples)
        bounds = [model.negative_iwae_bound(images, num_samples, labels, generator=generator) for _ in range(repeats)]
        results[f"course100_iwae_{num_samples}"] = torch.stack(bounds).cpu().double().mean().item()
    return results
