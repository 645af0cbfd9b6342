"""Small networks, several at once: the same architecture from different seeds, stacked."""

from collections.abc import Sequence

import torch
from torch import Tensor


def stacked_mlps(sizes: Sequence[int], generators: Sequence[torch.Generator]) -> list[Tensor]:
    """
    Multilayer perceptrons with the initial weights of `torch.nn.Linear`, in the order in which it draws them.

    Args:
        sizes: of the input, the hidden layers and the output.
        generators: one for each network; `manual_seed(n)` gives the network that torch makes after that seed.

    Returns:
        weight, (networks, inputs, outputs), and bias, (networks, 1, outputs), of each layer in turn.
    """
    parameters = []
    for inputs, outputs in zip(sizes[:-1], sizes[1:], strict=True):
        bound = inputs**-0.5
        # nn.Linear draws (outputs, inputs).
        weights = [torch.empty(outputs, inputs).uniform_(-bound, bound, generator=each).T for each in generators]
        biases = [torch.empty(1, outputs).uniform_(-bound, bound, generator=each) for each in generators]
        parameters += [torch.stack(weights).contiguous(), torch.stack(biases)]
    return [each.requires_grad_() for each in parameters]


def logits_of(parameters: Sequence[Tensor], points: Tensor) -> Tensor:
    """
    What the networks of `stacked_mlps` say, with ReLU after each layer but the last.

    Args:
        parameters: of them.
        points: (networks, num, inputs).

    Returns:
        (networks, num, outputs).
    """
    hidden = points
    for index in range(0, len(parameters), 2):
        if index:
            hidden = hidden.relu()
        hidden = torch.baddbmm(parameters[index + 1], hidden, parameters[index])
    return hidden


@torch.no_grad()
def answers_of(parameters: Sequence[Tensor], points: Tensor) -> Tensor:
    """
    Args:
        parameters: of `stacked_mlps`.
        points: (num, inputs), the same for all networks.

    Returns:
        The most probable answers, int64, (networks, num).
    """
    networks = len(parameters[0])
    parts = [logits_of(parameters, part.expand(networks, -1, -1)).argmax(-1) for part in points.split(5_000)]
    return torch.cat(parts, dim=-1)
