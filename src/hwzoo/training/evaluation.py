"""Averages over a data set that count each example once, whatever the batch size and the number of processes."""

from collections.abc import Callable

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
