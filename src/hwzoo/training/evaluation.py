"""Averages over a data set that count each example once, whatever the batch size and the number of processes."""

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor


@torch.inference_mode()
def mean_over(
    accelerator: Accelerator,
    num_examples: int,
    batch_size: int,
    metrics_of: Callable[[slice, torch.Generator], dict[str, Tensor]],
    *,
    seed: int = 0,
) -> dict[str, float]:
    """
    The mean of metrics over the examples 0 to num_examples - 1.

    Args:
        accelerator: the processes to share the batches among; all get the result.
        num_examples: how many there are.
        batch_size: examples a batch.
        metrics_of: gives scalar averages over the examples of a slice; what it draws it draws from the generator
            given, which depends on the seed and the batch alone.
        seed: of the generators.

    Returns:
        The mean of each metric by name, the same in every process.
    """
    names: list[str] = []
    total = torch.zeros(0, dtype=torch.double)
    for index, start in enumerate(range(0, num_examples, batch_size)):
        part = slice(start, min(start + batch_size, num_examples))
        own = index % accelerator.num_processes == accelerator.process_index
        # Each process needs the names, also one that gets no batch: all do the first.
        if own or index == 0:
            generator = torch.Generator(accelerator.device).manual_seed(seed + index)
            metrics = metrics_of(part, generator)
            if index == 0:
                names, total = list(metrics), torch.zeros(len(metrics), dtype=torch.double)
            if own:
                means = torch.stack([metrics[name] for name in names])
                total += means.cpu().double() * (part.stop - part.start)  # not every device has float64
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total.to(accelerator.device), reduction="sum")
    return dict(zip(names, (total / num_examples).tolist(), strict=True))


class TestMeans:
    """
    Means over the images, or other examples, of a test set, or over some of them, evenly spaced.

    Args:
        accelerator: of the processes that share the batches.
        images: the test set on its `device`: `len`, and `batch(indices)` that gives tensors by name.
        batch_size: images a batch.
        seed: of what is drawn, with the batch.
    """

    __test__ = False  # pytest shall not take it for a test

    def __init__(self, accelerator: Accelerator, images: Any, batch_size: int, seed: int = 0):
        self.accelerator, self.images, self.batch_size, self.seed = accelerator, images, batch_size, seed

    def indices(self, limit: int | None = None) -> Tensor:
        """Evenly spaced indices of at most `limit` images; of all when None."""
        num = len(self.images) if limit is None else min(limit, len(self.images))
        return torch.arange(num) * len(self.images) // num

    def __call__(
        self,
        metrics_of: Callable[[dict[str, Tensor], torch.Generator], dict[str, Tensor]],
        limit: int | None = None,
        *,
        batch_size: int | None = None,
        with_error: Collection[str] = (),
    ) -> dict[str, float]:
        """
        Args:
            metrics_of: gives numbers by name, averaged over the images of a batch or (batch,) each; what it draws it
                draws from the generator given.
            limit: images at most.
            batch_size: in place of the usual one.
            with_error: names of numbers, given as (batch,), to which `<name>_standard_error` over the images is added,
                unless there is one image only.
        """
        indices = self.indices(limit)

        def means_of(part: slice, generator: torch.Generator) -> dict[str, Tensor]:
            metrics = metrics_of(self.images.batch(indices[part].to(self.images.device)), generator)
            if with_error:  # a difference of squares needs float64, which not every device has
                metrics = {name: value.cpu().double() for name, value in metrics.items()}
            squares = {f"{name}_standard_error": metrics[name].square() for name in with_error}
            return {name: value.mean() for name, value in {**metrics, **squares}.items()}

        size = batch_size or self.batch_size
        means = mean_over(self.accelerator, len(indices), size, means_of, seed=self.seed)
        for name in with_error:
            variance = max(0.0, means.pop(f"{name}_standard_error") - means[name] ** 2)
            if len(indices) > 1:
                means[f"{name}_standard_error"] = (variance / (len(indices) - 1)) ** 0.5
        return means


def likelihood_results(means: Mapping[str, float], num_values: int, *protocol: str) -> dict[str, Any]:
    """
    What a test of a model's likelihood gives, in both units.

    Args:
        means: by name, in nats per image, as of `TestMeans`: `negative_log_prob`, and what begins or goes on with it.
        num_values: of an image: its channels times its pixels.
        protocol: how they were computed, part by part.

    Returns:
        The means as `test_<name>`; the same as `test_bits_per_dim...` in bits for each value; `protocol`.
    """
    results = {f"test_{name}": value for name, value in means.items()}
    bits = math.log(2) * num_values
    results |= {name.replace("negative_log_prob", "bits_per_dim"): value / bits for name, value in results.items()}
    units = "nats per image; bits for each value of a pixel; standard errors over the images"
    return results | {"protocol": "; ".join((*protocol, units))}
