"""Classes that are given or drawn. The file is the same in each folder, as each is copied to the Hub alone."""

from typing import Any

import torch
from torch import Tensor

from .pixels import extremes


def drawn_by(generator: torch.Generator | None, device: torch.device) -> dict[str, Any]:
    """
    What torch's functions that draw are given: a generator draws on its own device only, so that the same generator of
    the CPU gives the same noise wherever the model is.

    Args:
        generator: None for torch's global one.
        device: of that one's noise.

    Returns:
        Keyword arguments.
    """
    # Left out where there is none: torch traces no `generator=None` of a dynamic shape.
    return {"device": device} if generator is None else {"generator": generator, "device": generator.device}


def check_labels(labels: Tensor | None, num: int, num_classes: int):
    """
    Args:
        labels: of a user.
        num: images that they are of.
        num_classes: of the model; 0 for an unconditional one.

    Raises:
        ValueError: for labels to an unconditional model, or none, or wrong ones, to a conditional one. Their values
            are not looked at where there are none, as in a traced graph.
    """
    if not num_classes:
        if labels is not None:
            raise ValueError("labels were given, but this model is unconditional: leave labels at None")
        return
    if labels is None:
        raise ValueError(f"labels is None, but this model is conditional: give {_allowed(num, num_classes)}")
    if torch.compiler.is_compiling():
        return
    if labels.shape != (num,):
        raise ValueError(f"labels has shape {tuple(labels.shape)}; it must be {_allowed(num, num_classes)}")
    if labels.dtype not in (torch.int64, torch.int32):  # torch takes bool and uint8 for masks
        raise ValueError(f"labels is {str(labels.dtype).removeprefix('torch.')}; it must be int64")
    if (seen := extremes(labels, training=False)) is None:
        return
    low, high = seen
    if low < 0 or high >= num_classes:
        raise ValueError(f"labels holds {low if low < 0 else high}; it must be {_allowed(num, num_classes)}")


def _allowed(num: int, num_classes: int) -> str:  # in a traced graph, where `num` may be any, it must not be called
    return f"one of 0 to {num_classes - 1} for each of the {num} images"


def drawn_labels(
    labels: Tensor | None, num: int, num_classes: int, generator: torch.Generator | None, device: torch.device
) -> Tensor | None:
    """
    Args:
        labels: of a user, or None.
        num: images that they are of.
        num_classes: of the model; 0 for an unconditional one.
        generator: of what is drawn; torch's global one when None.
        device: of the model.

    Returns:
        Labels on that device: the given ones, or where they are wanted and not given, drawn, each class as likely;
        None for an unconditional model.

    Raises:
        ValueError: as of `check_labels`.
    """
    if labels is None and num_classes:
        labels = torch.randint(num_classes, (num,), **drawn_by(generator, device))
    check_labels(labels, num, num_classes)
    return None if labels is None else labels.to(device)
