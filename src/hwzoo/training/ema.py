"""The exponential moving average of a network's weights."""

import weakref

import torch
from torch.optim.swa_utils import AveragedModel


def averaged_model(model: torch.nn.Module, decay: float) -> AveragedModel:
    """
    An average of `model` and its buffers (BatchNorm's too), in `.module`; call `update_parameters(model)` after each
    step.

    At the n-th update the decay is min(decay, (1 + n) / (10 + n)), so that the random weights of the start are soon
    forgotten. For the first 9 / (1 - decay) updates or so this is the power-law average of arXiv 2312.02696, section
    3.1, with gamma = 8: the weights of the step s of n count as (s / n)^8, a window that grows with the run.

    Args:
        model: what is averaged; it stays as it is.
        decay: of the average, in [0, 1); what it tends to after many updates.

    Returns:
        The average, at first equal to the model; it has a `state_dict`.
    """

    @torch.no_grad()
    def update(averages, currents, _):
        if not averages[0].is_floating_point():  # BatchNorm's count of batches
            torch._foreach_copy_(averages, currents)
            return
        # The module's own count is on the CPU, unlike the one that is passed in: no waiting for the device.
        num = int(reference().n_averaged)
        torch._foreach_lerp_(averages, currents, 1 - min(decay, (1 + num) / (10 + num)))

    average = AveragedModel(model, multi_avg_fn=update, use_buffers=True)
    reference = weakref.ref(average)  # else it would hold itself, through a later run of a sweep too
    return average
