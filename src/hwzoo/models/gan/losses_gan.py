"""
The losses of generative adversarial networks, as functions of the discriminator's logits on images of the data and on
images of the generator. The probability that an image is of the data is D = sigmoid(logit).
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def cross_entropy(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """
    The discriminator's -E[log D(x)] - E[log(1 - D(G(z)))] in nats (arXiv:1406.2661, equation 1): 2 ln 2 where it
    cannot tell, and at its optimum 2 ln 2 - 2 JSD of the two distributions. Any shapes; a scalar.

    Args:
        logits_real: of images of the data.
        logits_fake: of images of the generator.

    Returns:
        The loss, at least 0.
    """
    return F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()


def minimax(logits_fake: Tensor) -> Tensor:
    """
    The generator's E[log(1 - D(G(z)))] in nats (arXiv:1406.2661, equation 1). Its gradient by a logit is -D: it
    vanishes where the discriminator is sure.
    """
    return -F.softplus(logits_fake).mean()


def non_saturating(logits_fake: Tensor) -> Tensor:
    """
    The generator's -E[log D(G(z))] in nats (arXiv:1406.2661, section 3). Its gradient by a logit is D - 1: it is
    largest where the discriminator is sure; ln 2 where it cannot tell.
    """
    return F.softplus(-logits_fake).mean()


def wasserstein(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """
    The critic's E[f(G(z))] - E[f(x)], minus its estimate of the Wasserstein distance as long as f is 1-Lipschitz
    (arXiv:1701.07875, equation 2).

    Args:
        logits_real: f of images of the data, any shape.
        logits_fake: f of images of the generator, any shape.

    Returns:
        The loss, a scalar of either sign.
    """
    return logits_fake.mean() - logits_real.mean()


def wasserstein_generator(logits_fake: Tensor) -> Tensor:
    """The generator's -E[f(G(z))] (arXiv:1701.07875, equation 2)."""
    return -logits_fake.mean()


def relativistic(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """
    The discriminator's -E[log sigmoid(f(x) - f(G(z)))] in nats, over pairs (arXiv:2501.05441, equation 2, with
    arXiv:1807.00734): ln 2 where it cannot tell.

    Args:
        logits_real: f of images of the data, (batch,).
        logits_fake: f of as many of the generator.

    Returns:
        The loss, at least 0.
    """
    return F.softplus(logits_fake - logits_real).mean()


def relativistic_generator(logits_fake: Tensor, logits_real: Tensor) -> Tensor:
    """
    The generator's -E[log sigmoid(f(G(z)) - f(x))] in nats (arXiv:2501.05441, equation 2): an image of the generator
    shall look more real than one of the data, so it has a gradient wherever that does not hold yet.

    Args:
        logits_fake: f of images of the generator, (batch,).
        logits_real: f of as many of the data.

    Returns:
        The loss, at least 0.
    """
    return F.softplus(logits_real - logits_fake).mean()


def zero_centred_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mixing: Tensor, lipschitz_constant: float = 1.0
) -> Tensor:
    """
    (R1 + R2) / 2 = (E[|grad f(x)|^2] + E[|grad f(G(z))|^2]) / (2 K^2) (arXiv:1801.04406, equations 9 and 10;
    arXiv:2501.05441, section 2.2), in float32 also under autocast.

    Args:
        critic: f, (batch, ...) -> (batch,).
        real: images of the data, (batch, ...).
        fake: as many of the generator; no gradient flows into it.
        mixing: of `gradient_penalty`; there is none here.
        lipschitz_constant: K, of f in the units of `real` where it is 1-Lipschitz in its own.

    Returns:
        The penalty, a scalar of at least 0, with gradients to the critic's weights.
    """
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        dtype, squares = torch.promote_types(real.dtype, torch.float32), []
        for images in (real, fake):
            images = images.detach().to(dtype).requires_grad_()
            (gradient,) = torch.autograd.grad(critic(images).sum(), images, create_graph=True)
            squares.append(gradient.flatten(1).square().sum(1).mean())
        return sum(squares) / (2 * lipschitz_constant**2)


def gradient_penalty(
    critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor, mixing: Tensor, lipschitz_constant: float = 1.0
) -> Tensor:
    """
    E[(|grad f(x)| / K - 1)^2] at x = mixing * real + (1 - mixing) * fake (arXiv:1704.00028, equation 3, without its
    weight), in float32 also under autocast: the norm of a gradient overflows half precision.

    Args:
        critic: f, (batch, ...) -> (batch,).
        real: images of the data, (batch, ...).
        fake: as many of the generator; no gradient flows into it.
        mixing: weights in [0, 1], one a pair: (batch,) or (batch, 1, ...).
        lipschitz_constant: K, the norm that is asked for, when f is 1-Lipschitz in other units than those of `real`.

    Returns:
        The penalty, a scalar of at least 0, with gradients to the critic's weights.

    Raises:
        ValueError: when there is not one weight a pair.
    """
    if mixing.numel() != len(real):
        raise ValueError(
            f"mixing has shape {tuple(mixing.shape)}; it must be one weight for each of {len(real)} pairs"
        )
    with torch.autocast(real.device.type, enabled=False), torch.enable_grad():
        dtype = torch.promote_types(real.dtype, torch.float32)
        weight = mixing.to(dtype).view(-1, *[1] * (real.dim() - 1))
        mixed = torch.lerp(fake.detach().to(dtype), real.detach().to(dtype), weight).requires_grad_()
        (gradient,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        norm = gradient.flatten(1).norm(dim=1)
        return (norm / lipschitz_constant - 1).square().mean()


def judged_right(logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """
    How often the discriminator is right, where its logits are log-odds. What is logged beside a loss, as the next two.

    Args:
        logits_real: of images of the data, any shape.
        logits_fake: of images of the generator, any shape.

    Returns:
        `accuracy_real` and `accuracy_fake`, scalars in [0, 1].
    """
    return {"accuracy_real": (logits_real > 0).float().mean(), "accuracy_fake": (logits_fake < 0).float().mean()}


def estimated_distance(logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """
    A critic's estimate of the Wasserstein distance.

    Args:
        logits_real: f of images of the data, any shape.
        logits_fake: f of images of the generator, any shape.

    Returns:
        `wasserstein_estimate`, E[f(x)] - E[f(G(z))], a scalar of either sign.
    """
    return {"wasserstein_estimate": -wasserstein(logits_real, logits_fake)}


def ordered_right(logits_real: Tensor, logits_fake: Tensor) -> dict[str, Tensor]:
    """
    How often the discriminator tells the images of a pair apart.

    Args:
        logits_real: of images of the data, (batch,).
        logits_fake: of as many images of the generator.

    Returns:
        `accuracy_pairs`, a scalar in [0, 1].
    """
    return {"accuracy_pairs": (logits_real > logits_fake).float().mean()}


class Losses(NamedTuple):
    """
    Args:
        discriminator: of (logits_real, logits_fake).
        generator: of (logits_fake,), or of (logits_fake, logits_real) where images are judged in pairs.
        told: of (logits_real, logits_fake), numbers by name that are logged beside the loss.
        penalty: of the critic's gradients, as `gradient_penalty`; the logits are no log-odds then.
        paired: whether images are judged in pairs, one of the data and one of the generator.
    """

    discriminator: Callable[[Tensor, Tensor], Tensor]
    generator: Callable[..., Tensor]
    told: Callable[[Tensor, Tensor], dict[str, Tensor]] = judged_right
    penalty: Callable[..., Tensor] | None = None
    paired: bool = False


LOSSES = {
    "minimax": Losses(cross_entropy, minimax),
    "non_saturating": Losses(cross_entropy, non_saturating),
    "wasserstein_gp": Losses(wasserstein, wasserstein_generator, estimated_distance, gradient_penalty),
    "relativistic": Losses(relativistic, relativistic_generator, ordered_right, zero_centred_penalty, paired=True),
}

__all__ = ["LOSSES", "Losses", "gradient_penalty", "zero_centred_penalty"]
