"""
Labels y_n in {-1, 0, 1} on a ring, P(y) = exp(J sum_n y_n y_(n+1)) / Z: partition function, likelihood,
pseudo-likelihood (Besag 1975, doi:10.2307/2987782), Gibbs sampling, and J from samples. Everything is float64 and in
nats. Rings have three labels or more: on two, one pair would count twice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError

VALUES = (-1, 0, 1)
SMALLEST, LARGEST_TO_LIST = 3, 12  # labels of a ring; 3^12 = 531,441 rings
NEWTON_STEPS = 100
LARGEST = 15.0  # J beyond which Newton's steps only go on until the slope is lost to rounding


def rings(num_labels: int) -> Tensor:
    """
    All rings of so many labels, 3 to 12, int64 (3^num_labels, num_labels); `index_of` gives their rows.

    Raises:
        UsageError: for more or fewer.
    """
    if not SMALLEST <= num_labels <= LARGEST_TO_LIST:
        raise UsageError(f"num_labels is {num_labels}; rings are listed for {SMALLEST} to {LARGEST_TO_LIST}")
    return torch.cartesian_prod(*[torch.tensor(VALUES)] * num_labels)


def index_of(labels: Tensor) -> Tensor:
    """The rows of `rings` that hold given rings: (..., num_labels) -> (...)."""
    powers = 3 ** torch.arange(labels.shape[-1] - 1, -1, -1)
    return ((labels + 1) * powers).sum(-1)


def score(labels: Tensor) -> Tensor:
    """s(y) = sum_n y_n y_(n+1), the last label beside the first: int64 (..., num_labels) -> float64 (...)."""
    return (labels * labels.roll(-1, -1)).sum(-1).double()


def log_partition(num_labels: int, coupling: Tensor | float = 1.0) -> Tensor:
    """
    log Z = log trace T^N with the transfer matrix T[a, b] = exp(J a b).

    Args:
        num_labels: N.
        coupling: J, a number or a tensor of them, of which it is a differentiable function.

    Returns:
        Of the shape of `coupling`.

    Raises:
        UsageError: for fewer than 3 labels.
    """
    if num_labels < SMALLEST:
        raise UsageError(f"num_labels is {num_labels}; it must be in [{SMALLEST}, inf)")
    coupling = torch.as_tensor(coupling, dtype=torch.float64)
    values = torch.tensor(VALUES, dtype=torch.float64)
    # Halves of the way, each brought to a largest entry of 1: no power overflows.
    power, log_scale = _scaled(coupling[..., None, None] * values[:, None] * values)
    total, log_total = None, 0.0
    while num_labels:
        if num_labels % 2:
            total, log_total = (power, log_scale) if total is None else _product(total, log_total, power, log_scale)
        num_labels //= 2
        if num_labels:
            power, log_scale = _product(power, log_scale, power, log_scale)
    return total.diagonal(dim1=-2, dim2=-1).sum(-1).log() + log_total


def _scaled(logs: Tensor) -> tuple[Tensor, Tensor]:
    largest = logs.amax((-2, -1))
    return (logs - largest[..., None, None]).exp(), largest


def _product(first: Tensor, log_first: Tensor, second: Tensor, log_second: Tensor) -> tuple[Tensor, Tensor]:
    product = first @ second
    largest = product.amax((-2, -1))
    return product / largest[..., None, None], log_first + log_second + largest.log()


def log_prob(labels: Tensor, coupling: Tensor | float = 1.0) -> Tensor:
    """
    log P(y).

    Args:
        labels: int64, (..., num_labels).
        coupling: J.

    Returns:
        (...).
    """
    return coupling * score(labels) - log_partition(labels.shape[-1], coupling)


def conditional(labels: Tensor, coupling: Tensor | float = 1.0) -> Tensor:
    """
    P(y_n | the other labels): it depends on the two neighbours alone.

    Args:
        labels: int64, (..., num_labels).
        coupling: J.

    Returns:
        The probabilities of -1, 0 and 1 for each label, (..., num_labels, 3).
    """
    neighbours = (labels.roll(1, -1) + labels.roll(-1, -1)).double()
    return (coupling * neighbours[..., None] * torch.tensor(VALUES, dtype=torch.float64)).softmax(-1)


def log_pseudo_likelihood(labels: Tensor, coupling: Tensor | float = 1.0) -> Tensor:
    """
    sum_n log P(y_n | the other labels). It is no bound of log P(y) and no logarithm of a distribution; it needs no Z.

    Args:
        labels: int64, (..., num_labels).
        coupling: J.

    Returns:
        (...).
    """
    probabilities = conditional(labels, coupling).gather(-1, labels[..., None] + 1)
    return probabilities.squeeze(-1).log().sum(-1)


@dataclass(frozen=True)
class Numbers:
    """
    What is exact of a ring, in nats.

    Args:
        partition: Z.
        log_partition_error: |log Z by the transfer matrix - log Z by listing all rings|.
        negative_log_prob: -log P of the ring of zeros, and of the ring of ones.
        negative_log_pseudo_likelihood: the same of the pseudo-likelihood.
        entropy: of P.
    """

    partition: float
    log_partition_error: float
    negative_log_prob: list[float]
    negative_log_pseudo_likelihood: list[float]
    entropy: float


def numbers_of(num_labels: int, coupling: float = 1.0) -> Numbers:
    """
    Args:
        num_labels: of the ring, 3 to 12.
        coupling: J.

    Returns:
        What is exact of it.
    """
    log_z = log_partition(num_labels, coupling)
    error = (log_z - (coupling * score(rings(num_labels))).logsumexp(0)).abs().item()
    both = torch.tensor([[0], [1]]).expand(2, num_labels)
    each = ((-function(both, coupling)).tolist() for function in (log_prob, log_pseudo_likelihood))
    return Numbers(log_z.exp().item(), error, *each, entropy(num_labels, coupling))


def entropy(num_labels: int, coupling: float = 1.0) -> float:
    """
    -sum_y P(y) log P(y) = log Z - J d log Z / dJ.

    Args:
        num_labels: of the ring, 3 or more.
        coupling: J.

    Returns:
        In nats.
    """
    point = torch.tensor(coupling, dtype=torch.float64, requires_grad=True)
    log_z = log_partition(num_labels, point)
    return (log_z - coupling * torch.autograd.grad(log_z, point)[0]).item()


def gibbs(num_rings: int, num_labels: int, coupling: float, sweeps: int, generator: torch.Generator) -> Tensor:
    """
    Samples by Gibbs sampling: one label after the other is drawn given the others, by the conditionals of the
    pseudo-likelihood, from uniform rings on.

    Args:
        num_rings: independent chains.
        num_labels: of each.
        coupling: J.
        sweeps: over all labels.
        generator: of the draws.

    Returns:
        Their last states, int64 (num_rings, num_labels).
    """
    labels = torch.randint(-1, 2, (num_rings, num_labels), generator=generator)
    values = torch.tensor(VALUES, dtype=torch.float64)
    for place in [*range(num_labels)] * sweeps:
        neighbours = labels[:, place - 1] + labels[:, (place + 1) % num_labels]
        cumulative = (coupling * neighbours[:, None] * values).softmax(-1).cumsum(-1)
        noise = torch.rand(num_rings, 1, generator=generator, dtype=torch.float64)
        labels[:, place] = (cumulative[:, :2] <= noise).sum(-1) - 1
    return labels


def samples(num_rings: int, num_labels: int, coupling: float, generator: torch.Generator) -> Tensor:
    """
    Independent exact samples, from the list of all rings.

    Args:
        num_rings: how many.
        num_labels: of each, 3 to 12.
        coupling: J.
        generator: of the draws.

    Returns:
        int64, (num_rings, num_labels).
    """
    every = rings(num_labels)
    return every[torch.multinomial(log_prob(every, coupling).exp(), num_rings, replacement=True, generator=generator)]


def maximum_likelihood(labels: Tensor) -> Tensor:
    """
    The J of the largest likelihood, sets of rings at once.

    Args:
        labels: int64, (..., num_rings, num_labels).

    Returns:
        (...); infinite where the rings allow no finite one, as where the labels of each agree and none is 0.
    """
    mean_score = score(labels).mean(-1)
    num_labels = labels.shape[-1]
    return _maximum(lambda coupling: coupling * mean_score - log_partition(num_labels, coupling), mean_score)


def maximum_pseudo_likelihood(labels: Tensor) -> Tensor:
    """
    The J of the largest pseudo-likelihood, sets of rings at once.

    Args:
        labels: int64, (..., num_rings, num_labels).

    Returns:
        (...); infinite where the rings allow no finite one, as where the labels of each agree and some are not 0; 0
        where all labels are 0, as any J is a maximum.
    """
    # A label's conditional knows the size of its neighbours' sum alone: counts of 0, 1 and 2 hold all that is needed.
    sizes = (labels.roll(1, -1) + labels.roll(-1, -1)).abs()
    shares = torch.stack([(sizes == size).double().sum(-1).mean(-1) for size in (1, 2)], dim=-1)
    mean_score = score(labels).mean(-1)

    def objective(coupling: Tensor) -> Tensor:  # but for log 3 of each label whose neighbours' sum is 0
        logs = [(1 + 2 * torch.cosh(size * coupling)).log() for size in (1, 2)]
        return 2 * coupling * mean_score - (shares * torch.stack(logs, dim=-1)).sum(-1)

    return _maximum(objective, mean_score)


def likelihood_std(num_labels: int, coupling: float, num_rings: int) -> float:
    """
    The standard deviation of `maximum_likelihood` for many rings, by the Fisher information, d^2 log Z / dJ^2 a ring.

    Args:
        num_labels: of each ring, 3 or more.
        coupling: J.
        num_rings: that J is found from.

    Returns:
        In units of J.
    """
    point = torch.tensor(coupling, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(log_partition(num_labels, point), point, create_graph=True)
    return (num_rings * torch.autograd.grad(slope, point)[0].item()) ** -0.5


def _maximum(objective: Callable[[Tensor], Tensor], like: Tensor) -> Tensor:
    """Of concave functions of one number each, by Newton's steps, none longer than 1."""
    point = torch.zeros_like(like)
    for _ in range(NEWTON_STEPS):
        point.requires_grad_()
        (slope,) = torch.autograd.grad(objective(point).sum(), point, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), point)
        step = (-slope / bend).detach().nan_to_num(0).clamp(-1, 1)  # flat: it stays
        point = point.detach() + step
        if step.abs().max() < 1e-10:
            break
    point = point.detach()
    return point.where(point.abs() < LARGEST, point.sign() * torch.inf)


def shares_of(labels: Tensor) -> Tensor:
    """The share of each of `rings` among samples: int64 (num, num_labels) -> float64 (3^num_labels,)."""
    return torch.bincount(index_of(labels), minlength=len(VALUES) ** labels.shape[-1]).double() / len(labels)
