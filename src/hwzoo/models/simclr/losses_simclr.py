"""The losses of two views, and what sees the batches of all processes as one."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils.generic import maybe_autocast


def nt_xent(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """
    SimCLR's loss (arXiv:2002.05709, equation 1): each view must find the other one of its image among all views of
    the batch but itself, by the cosine similarity divided by the temperature. Several processes compare their views
    with those of all; the mean of their losses is that of the whole batch.

    Args:
        first: projections of one view of each image, (batch, size).
        second: of the other, in the same order.
        temperature: tau, above 0; infinite: all are as likely, and the loss is ln(2 batch - 1).

    Returns:
        The mean over both views, a scalar in nats, float32 or float64.
    """
    with maybe_autocast(first.device.type, enabled=False):  # differences of similarities are lost in half precision
        own = F.normalize(wide(torch.cat([first, second])), dim=1)
        everyone, place = gathered(own)
        logits = own @ everyone.T / temperature
        rows = torch.arange(len(own), device=own.device)
        logits = logits.masked_fill(F.one_hot(rows + place, len(everyone)).bool(), -torch.inf)
        return F.cross_entropy(logits, (rows + len(first)) % len(own) + place)


def negative_cosine(predictions: tuple[Tensor, Tensor], projections: tuple[Tensor, Tensor], stop: bool) -> Tensor:
    """
    SimSiam's loss (arXiv:2011.10566, equations 1 to 4): the negative cosine similarity of what is predicted from each
    view with the projection of the other, in [-1, 1].

    Args:
        predictions: of the two views, (batch, size) each.
        projections: of the two views, alike.
        stop: whether the projections are held fixed.

    Returns:
        The mean over both views, a scalar, float32 or float64.
    """
    (first, second), (other, one) = predictions, [wide(each.detach() if stop else each) for each in projections]
    with maybe_autocast(first.device.type, enabled=False):
        similarities = [F.cosine_similarity(wide(p), z, dim=1) for p, z in ((first, one), (second, other))]
        return -torch.cat(similarities).mean()


def relative_std(outputs: Tensor) -> Tensor:
    """
    The standard deviation of normalised outputs over a batch, the mean over their dimensions (arXiv:2011.10566,
    section 4.1), times the square root of the dimensions: 0 where all are one point, 1 where they are spread alike in
    all directions: (batch, size) -> a scalar.
    """
    with maybe_autocast(outputs.device.type, enabled=False):
        normalised = F.normalize(wide(outputs.detach()), dim=1)
        return normalised.std(0, correction=0).mean() * outputs.shape[1] ** 0.5


def gathered(rows: Tensor) -> tuple[Tensor, int]:
    """
    The rows of all processes, with gradients to each.

    Args:
        rows: of this process, as many in each.

    Returns:
        The rows of all, in the order of the processes, and the index of this one's first.
    """
    if not several_processes():
        return rows, 0
    num, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    blocks = [rows if process == rank else torch.zeros_like(rows) for process in range(num)]
    return summed(torch.cat(blocks)), rank * len(rows)


def summed(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes; its gradient is the sum of theirs."""
    from torch.distributed.nn.functional import all_reduce  # not in every build of torch

    return all_reduce(tensor)


def several_processes() -> bool:
    """Whether there are others to see the batch with."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def wide(output: Tensor) -> Tensor:
    """As float32, or float64 where the weights are, also in bfloat16 or mixed precision."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


class BatchNorm(nn.BatchNorm2d):
    """
    Batch normalisation, (batch, channels) or (batch, channels, height, width), whose statistics in training are those
    of the batches of all processes together, on any device: with their own each could tell its images from the others'
    (arXiv:2002.05709, section 2.2).
    """

    def _check_input_dim(self, input: Tensor):
        pass  # of any shape with channels second

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised: of the same shape."""
        if not (self.training and several_processes()):
            return super().forward(inputs)
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        shape = [-1 if dim == 1 else 1 for dim in range(inputs.dim())]
        with maybe_autocast(inputs.device.type, enabled=False):
            values = wide(inputs)
            num = values.numel() // values.shape[1] * torch.distributed.get_world_size()
            mean = summed(values.sum(dims)) / num
            centred = values - mean.view(shape)
            variance = summed(centred.square().sum(dims)) / num
            with torch.no_grad():
                self.num_batches_tracked.add_(1)
                share = 1 / self.num_batches_tracked if self.momentum is None else self.momentum
                for running, new in ((self.running_mean, mean), (self.running_var, variance * num / (num - 1))):
                    running.lerp_(new.to(running.dtype), share)
            scale = wide(self.weight) * (variance + self.eps).rsqrt()
            return (centred * scale.view(shape) + wide(self.bias).view(shape)).to(inputs.dtype)
