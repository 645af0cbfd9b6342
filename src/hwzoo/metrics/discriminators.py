"""Discriminators trained to tell pairs of distributions apart: estimates of divergences from samples alone."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from tqdm.auto import tqdm

from ..errors import HwzooError

HIDDEN_SIZES = [64, 64, 64]
CHUNK = 5000  # samples whose activations are held at once when estimating

Loss = Callable[[Tensor, Tensor], Tensor]
Logits = Callable[[Tensor], Tensor]


def discriminator_mlp(size: int) -> nn.Sequential:
    """An MLP from points (..., size) over three hidden layers of 64 with ReLU to logits (..., 1)."""
    sizes = [size, *HIDDEN_SIZES]
    hidden = [(nn.Linear(*pair), nn.ReLU()) for pair in zip(sizes, sizes[1:], strict=False)]
    return nn.Sequential(*(layer for pair in hidden for layer in pair), nn.Linear(sizes[-1], 1))


def train_discriminators(
    loss: Loss,
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]],
    *,
    batch_size: int,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    name: str,
    penalty: Callable[..., Tensor] | None = None,
    penalty_weight: float = 0.0,
) -> tuple[Logits, Tensor]:
    """
    One `discriminator_mlp` for each pair of distributions, all at once: weights are stacked, each sees its own
    samples. Adam, whose rate falls to 0.

    Args:
        loss: of the logits on real and on fake points, a mean over all.
        draw: (num_samples, generator) -> real and fake points, (pairs, num_samples, size) each.
        batch_size: samples of each distribution a step.
        steps: of Adam.
        learning_rate: of the first step.
        generator: of the samples and of the mixing of the penalty; the weights begin with torch's global one.
        name: for the progress bar and the error.
        penalty: of (critic, real, fake, mixing), with (num, size) points, a mean over all (arXiv:1704.00028).
        penalty_weight: of `penalty`, from half of the steps on; it rises from 0 until then.

    Returns:
        logits: (pairs, num_samples, size) -> (pairs, num_samples).
        trace: the logit of one fake point at each step, before it, (steps, pairs).

    Raises:
        HwzooError: with the first step whose loss is not finite, or the last where the weights are not.
    """
    num_pairs, _, size = draw(1, generator)[0].shape
    networks, trace = [discriminator_mlp(size) for _ in range(num_pairs)], []
    parameters, _ = stack_module_state(networks)
    optimizer = torch.optim.Adam(parameters.values(), lr=learning_rate, fused=True)
    lr_scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)

    def logits(points):
        return vmap(lambda own, x: functional_call(networks[0], own, x))(parameters, points).squeeze(-1)

    def critic(points):  # those of all pairs in one row
        return logits(points.unflatten(0, (num_pairs, -1))).flatten()

    for step in tqdm(range(1, steps + 1), desc=f"{name}, {num_pairs} pairs", unit="step", disable=None):
        real, fake = draw(batch_size, generator)
        on_real, on_fake = logits(real), logits(fake)
        objective = loss(on_real, on_fake)
        if penalty is not None:
            mixing = torch.rand(num_pairs * batch_size, generator=generator)
            gap = penalty(critic, real.flatten(0, 1), fake.flatten(0, 1), mixing)
            objective = objective + penalty_weight * min(1, 2 * step / steps) * gap
        if not objective.isfinite():
            raise HwzooError(
                f"the loss of {name} is {objective.item()} at step {step}; a smaller --learning_rate may help"
            )
        (objective * num_pairs).backward()  # the sum, not the mean, over the pairs: each learns as if it were alone
        optimizer.step()
        optimizer.zero_grad()
        lr_scheduler.step()
        trace.append(on_fake[:, 0].detach())
    if not all(each.isfinite().all() for each in parameters.values()):
        raise HwzooError(
            f"the weights of {name} are not finite after step {steps}; a smaller --learning_rate may help"
        )
    return logits, torch.stack(trace)


@torch.no_grad()
def discriminator_values(loss: Loss, logits: Logits, real: Tensor, fake: Tensor) -> tuple[list[float], Tensor]:
    """
    What each discriminator maximises, minus its loss without penalty, on points (pairs, num_samples, size).

    Args:
        loss: as in `train_discriminators`.
        logits: of `train_discriminators`.
        real: points of the first distribution of each pair.
        fake: points of the second.

    Returns:
        One value a pair, and the logits on `fake`, float64 (pairs, num_samples).
    """
    on_real, on_fake = (torch.cat([logits(part) for part in x.split(CHUNK, 1)], 1).double() for x in (real, fake))
    return [-loss(*pair).item() for pair in zip(on_real, on_fake, strict=True)], on_fake


def logit_gradient(loss: Logits, logits: Tensor) -> Tensor:
    """
    |d loss / d logit| of each sample's own loss by autograd, (num_samples,); `loss` is their mean.

    Args:
        loss: takes the logits and gives the mean of their losses, a scalar.
        logits: (num_samples,).

    Returns:
        (num_samples,), at least 0.
    """
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(logits) * len(logits), logits)
    return gradient.abs()


def separation(higher: Tensor, lower: Tensor) -> dict[str, float]:
    """
    How well scores tell two sets apart: the probability that one of the first is above one of the second, a tie
    counted half, which is the area under the ROC curve.

    Args:
        higher: scores of those that should have the larger ones, (num,).
        lower: of the others, (other num,).

    Returns:
        `auroc` in [0, 1], 0.5 by chance; `standard_error` (Hanley and McNeil 1982).
    """
    from sklearn.metrics import roc_auc_score

    num, other = len(higher), len(lower)
    # Not torchmetrics': it takes the sigmoid of what is no probability, and large logits become ties.
    area = float(roc_auc_score([1] * num + [0] * other, torch.cat([higher, lower]).double().tolist()))
    above, below = area / (2 - area), 2 * area**2 / (1 + area)
    variance = area * (1 - area) + (num - 1) * (above - area**2) + (other - 1) * (below - area**2)
    return {"auroc": area, "standard_error": (max(0.0, variance) / (num * other)) ** 0.5}
