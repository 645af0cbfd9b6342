"""Which codes of a codebook images use, over a whole data set: what a batch uses says little."""

from typing import Any

import torch
from torch import Tensor


def code_counts(model: Any, images: Any, batch_size: int) -> Tensor:
    """
    How often images hold each code.

    Args:
        model: with `encode`, which gives the codes of pixel values, `config.codebook_size` and `device`.
        images: `len`, and `pixel_values(indices)`; indices and pixels on the model's device.
        batch_size: images at once.

    Returns:
        int64, (codebook_size,), on the CPU.
    """
    counts = torch.zeros(model.config.codebook_size, dtype=torch.long)
    for part in torch.arange(len(images)).split(batch_size):
        codes = model.encode(images.pixel_values(part.to(model.device)))
        counts += codes.flatten().cpu().bincount(minlength=len(counts))
    return counts


def code_scores(counts: Tensor) -> dict[str, float]:
    """
    Args:
        counts: of `code_counts`.

    Returns:
        `test_codes_used`: how many codes some image holds; `test_perplexity`: exp of the entropy of their shares, the
        number of codes that would be as spread if all were as likely.
    """
    entropy = torch.special.entr(counts / counts.sum()).sum()
    return {"test_codes_used": int((counts > 0).sum()), "test_perplexity": entropy.exp().item()}
