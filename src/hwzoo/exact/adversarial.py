"""A bigram language learned against a discriminator that could know it, by any estimator of the gradient."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import HwzooError
from .bigram import (
    ESTIMATORS,
    Language,
    counted,
    draw,
    expected_loss,
    one_hot,
    probabilities,
    random_language,
    shares_of,
    strings,
)
from .variation import total_variation

BETAS = (0.5, 0.99)  # of both Adams


@dataclass(frozen=True)
class Bilinear:
    """
    A discriminator whose logit of a string is b w_1 + sum_t w_t A w_(t+1). The logarithm of the ratio of two bigram
    languages is such a logit.

    Args:
        first: b, (I,).
        pair: A, (I, I).
    """

    first: Tensor
    pair: Tensor

    def __call__(self, strings: Tensor) -> Tensor:
        """Logits of strings, one-hot or relaxed: (num, T, I) -> (num,)."""
        pairs = (strings[:, :-1] @ self.pair * strings[:, 1:]).sum((-2, -1))
        return strings[:, 0] @ self.first + pairs

    def generator_loss(self, strings: Tensor) -> Tensor:
        """-log D(w), the non-saturating loss (arXiv:1406.2661): (num, T, I) -> (num,)."""
        return F.softplus(-self(strings))


def random_discriminator(num_symbols: int, generator: torch.Generator, std: float = 1.0) -> Bilinear:
    """
    Normal weights.

    Args:
        num_symbols: I.
        generator: of the weights.
        std: of them; 0 gives one that knows nothing.

    Returns:
        Its tables in float64, which take gradients.
    """
    shapes = (num_symbols,), (num_symbols, num_symbols)
    drawn = (std * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return Bilinear(*(table.requires_grad_() for table in drawn))


def learn_against_discriminator(
    name: str,
    shares: Tensor,
    num_symbols: int,
    length: int,
    *,
    steps: int,
    batch_size: int,
    learning_rate: float,
    generator: torch.Generator,
) -> Language:
    """
    Trains a language and a discriminator in turn, from uniform strings and a discriminator that knows nothing. The
    discriminator is shown hard strings, as it would tell relaxed ones from the data by their entropy alone; the
    language gets the gradient of an estimator. The rates fall to 0 over the second half.

    Args:
        name: of ESTIMATORS, or `exact`.
        shares: of all strings in the data, (I^T,).
        num_symbols: I.
        length: T.
        steps: of each.
        batch_size: strings a step of the language, for each of the two.
        learning_rate: of the language's Adam; the discriminator's is 5 times as large.
        generator: of the strings.

    Returns:
        The language.

    Raises:
        HwzooError: where its logits are not finite at the end.
    """
    every = one_hot(strings(num_symbols, length), num_symbols)
    language = Language(*(torch.zeros(num_symbols, *more, dtype=torch.float64) for more in ((), (num_symbols,))))
    language = Language(*(table.requires_grad_() for table in language.tables))
    discriminator = random_discriminator(num_symbols, generator, std=0.0)
    theirs = [discriminator.first, discriminator.pair]
    ours = torch.optim.Adam(language.tables, learning_rate, betas=BETAS)
    other = torch.optim.Adam(theirs, 5 * learning_rate, betas=BETAS)
    falls = [
        torch.optim.lr_scheduler.LambdaLR(each, lambda step: min(1.0, 2 - 2 * step / steps)) for each in (ours, other)
    ]
    for _ in range(steps):
        fakes = one_hot(draw(language, batch_size, length, generator), num_symbols)
        loss = (shares * F.softplus(-discriminator(every))).sum() + F.softplus(discriminator(fakes)).mean()
        _step(other, theirs, loss)
        if name == "exact":
            loss = expected_loss(language, discriminator.generator_loss, length)
        else:
            loss = ESTIMATORS[name](language, discriminator.generator_loss, batch_size, length, generator).mean()
        _step(ours, language.tables, loss)
        for each in falls:
            each.step()
    if not all(table.isfinite().all() for table in language.tables):
        raise HwzooError(f"the language learned by {name} is not finite; a smaller rate may help")
    return language


def learn_a_language(
    seed: int,
    num_symbols: int,
    length: int,
    *,
    num_train_samples: int,
    steps: int,
    batch_size: int,
    learning_rate: float,
) -> dict[str, float]:
    """
    Draws a language and strings of it, and learns it from these: by counting, which is maximum likelihood, and against
    a discriminator.

    Args:
        seed: of the language and all strings.
        num_symbols: I.
        length: T.
        num_train_samples: strings to learn from.
        steps: as for `learn_against_discriminator`, and so the rest.
        batch_size: the same.
        learning_rate: the same.

    Returns:
        The total variation to the language over all strings, by `counting`, the `exact` gradient and ESTIMATORS.
    """
    generator = torch.Generator().manual_seed(seed)
    language = random_language(num_symbols, generator)
    codes = draw(language, num_train_samples, length, generator)
    state = generator.get_state()
    learned = {"counting": counted(codes, num_symbols)}
    for name in ("exact", *ESTIMATORS):
        generator.set_state(state)  # the same noise for all
        learned[name] = learn_against_discriminator(
            name, shares_of(codes, num_symbols), num_symbols, length, steps=steps, batch_size=batch_size,
            learning_rate=learning_rate, generator=generator,
        )  # fmt: skip
    truth = probabilities(language, length)
    return {name: total_variation(probabilities(each, length), truth) for name, each in learned.items()}


def _step(optimizer: torch.optim.Optimizer, tables: list[Tensor], loss: Tensor):
    for table, gradient in zip(tables, torch.autograd.grad(loss, tables), strict=True):
        table.grad = gradient
    optimizer.step()
