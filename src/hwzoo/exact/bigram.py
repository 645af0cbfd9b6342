"""
Strings of T symbols from a bigram language, P(w_1) and Q(w_t | w_(t-1)) over I symbols: sampling, and estimates of the
gradient of an expected loss by the logits of both tables, beside the exact one over all I^T strings. A string is
one-hot, or relaxed, (..., T, I); what is called a loss is any function of such strings, one number for each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import UsageError

LARGEST_TO_LIST = 1_000_000  # strings
TEMPERATURES = (1.0, 0.5, 0.1)
Loss = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Language:
    """
    Args:
        start: logits of the first symbol, (..., I).
        transition: logits of each symbol (last dimension) after each other, (..., I, I).
    """

    start: Tensor
    transition: Tensor

    def expand(self, num: int) -> "Language":
        """The same tables for each of so many strings, with gradients of their own: (num, I) and (num, I, I)."""
        each = (table.detach().expand(num, *table.shape).clone() for table in (self.start, self.transition))
        return Language(*(table.requires_grad_() for table in each))

    @property
    def tables(self) -> tuple[Tensor, Tensor]:
        """Both, as an optimiser takes them."""
        return self.start, self.transition


def random_language(num_symbols: int, generator: torch.Generator, std: float = 1.0) -> Language:
    """
    Normal logits.

    Args:
        num_symbols: I.
        generator: of the logits.
        std: of the logits; 0 gives uniform strings.

    Returns:
        Tables in float64 that take gradients.
    """
    shapes = (num_symbols,), (num_symbols, num_symbols)
    drawn = (std * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)
    return Language(*(table.requires_grad_() for table in drawn))


def strings(num_symbols: int, length: int) -> Tensor:
    """
    All strings; the row of a string is its symbols read as digits.

    Args:
        num_symbols: I, 2 or more.
        length: T, 2 or more.

    Returns:
        int64, (I^T, T).

    Raises:
        UsageError: for more than a million strings, fewer than 2 symbols, or strings of fewer than 2.
    """
    if min(num_symbols, length) < 2 or num_symbols**length > LARGEST_TO_LIST:
        limits = f"both are 2 or more, and there are at most {LARGEST_TO_LIST:,} strings"
        raise UsageError(f"num_symbols is {num_symbols} and length is {length}; {limits}")
    return torch.cartesian_prod(*[torch.arange(num_symbols)] * length)


def index_of(codes: Tensor, num_symbols: int) -> Tensor:
    """
    Args:
        codes: int64, (..., T).
        num_symbols: I.

    Returns:
        The rows of `strings` that hold them, (...).
    """
    return (codes * num_symbols ** torch.arange(codes.shape[-1] - 1, -1, -1)).sum(-1)


def log_prob(language: Language, codes: Tensor) -> Tensor:
    """
    log P(w_1) + sum_t log Q(w_t | w_(t-1)) in nats.

    Args:
        language: its tables; with (num, ...) ones each string has its own.
        codes: int64, (num, T).

    Returns:
        (num,).
    """
    start, transition = (table.log_softmax(-1) for table in language.tables)
    if start.dim() == 1:
        return start[codes[:, 0]] + transition[codes[:, :-1], codes[:, 1:]].sum(-1)
    rows = torch.arange(len(codes))
    return start[rows, codes[:, 0]] + transition[rows[:, None], codes[:, :-1], codes[:, 1:]].sum(-1)


def inverse_cdf(probabilities: Tensor, noise: Tensor) -> Tensor:
    """
    The smallest index whose cumulative probability is above the noise. Rounding may leave the last cumulative
    probability below 1: what is above it is the last index too. An integer: nothing flows back through it.

    Args:
        probabilities: (..., I).
        noise: in [0, 1), (...).

    Returns:
        int64, (...).
    """
    cumulative = probabilities.detach().cumsum(-1)
    return (cumulative <= noise[..., None]).sum(-1).clamp(max=probabilities.shape[-1] - 1)


def sample(language: Language, noise: Tensor) -> Tensor:
    """
    Strings by `inverse_cdf`.

    Args:
        language: its tables.
        noise: uniform on [0, 1), (num, T).

    Returns:
        int64, (num, T).
    """
    start, transition = (table.detach().softmax(-1) for table in language.tables)
    codes = [inverse_cdf(start.expand(len(noise), -1), noise[:, 0])]
    rows = torch.arange(len(noise))
    for each in noise.unbind(1)[1:]:
        following = transition[codes[-1]] if transition.dim() == 2 else transition[rows, codes[-1]]
        codes.append(inverse_cdf(following, each))
    return torch.stack(codes, dim=1)


def draw(language: Language, num: int, length: int, generator: torch.Generator) -> Tensor:
    """
    Args:
        language: its tables.
        num: of strings.
        length: T.
        generator: of the noise.

    Returns:
        `sample` of uniform noise, int64 (num, T).
    """
    return sample(language, torch.rand(num, length, generator=generator, dtype=torch.float64))


def expected_loss(language: Language, loss: Loss, length: int) -> Tensor:
    """
    sum over all strings of P(w) loss(w), differentiable: its gradient is the exact one.

    Args:
        language: its tables.
        loss: of one-hot strings.
        length: T.

    Returns:
        A scalar.
    """
    num_symbols = len(language.start)
    codes = strings(num_symbols, length)
    return (log_prob(language, codes).exp() * loss(one_hot(codes, num_symbols))).sum()


def one_hot(codes: Tensor, num_symbols: int) -> Tensor:
    """
    Args:
        codes: int64, (..., T).
        num_symbols: I.

    Returns:
        float64, (..., T, I).
    """
    return F.one_hot(codes, num_symbols).double()


def reinforce(
    language: Language, loss: Loss, num: int, length: int, generator: torch.Generator, *, baseline: bool = False
) -> Tensor:
    """
    loss(w) log P(w) for strings w drawn: the mean of its gradient is the exact one.

    Args:
        language: its tables, one for all strings or (num, ...).
        loss: of one-hot strings.
        num: of strings.
        length: T.
        generator: of the strings.
        baseline: whether each loss is less the mean of the others.

    Returns:
        (num,); its value means nothing, its gradient is the estimate.
    """
    codes = draw(language, num, length, generator)
    with torch.no_grad():
        losses = loss(one_hot(codes, language.start.shape[-1]))
        if baseline:
            losses = (losses - losses.mean()) * num / (num - 1)
    return losses * log_prob(language, codes)


def gumbel_softmax(
    language: Language,
    loss: Loss,
    num: int,
    length: int,
    generator: torch.Generator,
    *,
    temperature: float,
    hard: bool,
) -> Tensor:
    """
    The loss of relaxed strings, each symbol softmax((logits + Gumbel noise) / temperature) (Jang et al.,
    arXiv:1611.01144; Maddison et al., arXiv:1611.00712), or, `hard`, of the one-hot strings nearest to them with the
    gradient of the relaxed ones. After a relaxed symbol the logits are the mixture of the rows of log Q.

    Args:
        language: its tables, one for all strings or (num, ...).
        loss: of relaxed strings.
        num: of strings.
        length: T.
        generator: of the noise.
        temperature: above 0; towards 0 bias falls and variance grows.
        hard: whether the strings are one-hot.

    Returns:
        (num,).
    """

    def relax(logits: Tensor) -> Tensor:
        noise = -torch.empty_like(logits).exponential_(generator=generator).log()
        relaxed = ((logits + noise) / temperature).softmax(-1)
        return _hard(relaxed, relaxed.argmax(-1)) if hard else relaxed

    return loss(_rolled_out(language, num, length, relax))


def straight_through(language: Language, loss: Loss, num: int, length: int, generator: torch.Generator) -> Tensor:
    """
    The loss of strings drawn, each symbol with the gradient of its probabilities (Bengio et al., arXiv:1308.3432).

    Args:
        language: its tables, one for all strings or (num, ...).
        loss: of relaxed strings.
        num: of strings.
        length: T.
        generator: of the strings.

    Returns:
        (num,).
    """

    def symbol_of(logits: Tensor) -> Tensor:
        probabilities = logits.softmax(-1)
        noise = torch.rand(num, generator=generator, dtype=torch.float64)
        return _hard(probabilities, inverse_cdf(probabilities, noise))

    return loss(_rolled_out(language, num, length, symbol_of))


def expected_one_hot(language: Language, loss: Loss, num: int, length: int, generator: torch.Generator) -> Tensor:
    """
    The loss of the mean string: each symbol its marginal probabilities, P, P Q, P Q Q. Nothing is drawn.

    Args:
        language: its tables, one for all strings or (num, ...).
        loss: of relaxed strings.
        num: of strings, all alike.
        length: T.
        generator: unused.

    Returns:
        (num,).
    """
    start, transition = (table.softmax(-1) for table in language.tables)
    symbols = [start.expand(num, -1)]
    for _ in range(length - 1):
        symbols.append(_after(symbols[-1], transition))
    return loss(torch.stack(symbols, dim=-2))


def _rolled_out(language: Language, num: int, length: int, symbol_of: Callable[[Tensor], Tensor]) -> Tensor:
    start, transition = (table.log_softmax(-1) for table in language.tables)
    symbols = [symbol_of(start.expand(num, -1))]
    for _ in range(length - 1):
        symbols.append(symbol_of(_after(symbols[-1], transition)))
    return torch.stack(symbols, dim=-2)


def _after(symbols: Tensor, transition: Tensor) -> Tensor:
    """(num, I) -> the mixture of the rows of a table, (num, I)."""
    return (symbols[:, None] @ transition).squeeze(-2)


def _hard(relaxed: Tensor, codes: Tensor) -> Tensor:
    """One-hot symbols with the gradient of the relaxed ones."""
    return F.one_hot(codes, relaxed.shape[-1]) + relaxed - relaxed.detach()


# (language, loss, num, length, generator) -> (num,), whose gradient is the estimate.
ESTIMATORS = {
    "reinforce": reinforce,
    "reinforce, mean baseline": partial(reinforce, baseline=True),
    "straight-through": straight_through,
    **{
        f"Gumbel {kind}, {temperature:g}": partial(gumbel_softmax, temperature=temperature, hard=kind != "softmax")
        for kind in ("straight-through", "softmax")
        for temperature in TEMPERATURES
    },
    "expected one-hot": expected_one_hot,
}


@dataclass(frozen=True)
class Quality:
    """
    An estimate of a gradient beside the exact one, G.

    Args:
        bias: |mean of the estimates - G| / |G|.
        bias_error: what `bias` would be on average, without any bias, from as many samples.
        cosine: between the mean of the estimates and G.
        std: root of E|estimate of one string - mean|^2, over |G|.
    """

    bias: float
    bias_error: float
    cosine: float
    std: float


def quality(
    name: str, language: Language, loss: Loss, length: int, num: int, repeats: int, generator: torch.Generator
) -> Quality:
    """
    Bias and variance of an estimator, from num times repeats strings.

    Args:
        name: of ESTIMATORS.
        language: its tables.
        loss: of relaxed strings.
        length: T.
        num: strings at once; a baseline is the mean over these.
        repeats: of them.
        generator: of the strings.

    Returns:
        Both, by the logits of both tables together.
    """
    exact = _flat(torch.autograd.grad(expected_loss(language, loss, length), language.tables))
    total, squares = torch.zeros_like(exact), 0.0
    for _ in range(repeats):
        each = language.expand(num)
        objective = ESTIMATORS[name](each, loss, num, length, generator)
        # Each string has tables of its own: the gradient of the sum holds that of each.
        found = torch.autograd.grad(objective.sum(), each.tables)
        found = torch.cat([table.flatten(1) for table in found], dim=1)
        total, squares = total + found.sum(0), squares + found.square().sum().item()
    size, number = exact.norm().item(), num * repeats
    mean = total / number
    std = max(squares / number - mean.square().sum().item(), 0.0) ** 0.5
    cosine = F.cosine_similarity(mean, exact, dim=0).item()
    return Quality((mean - exact).norm().item() / size, std / number**0.5 / size, cosine, std / size)


def _flat(tables: Sequence[Tensor]) -> Tensor:
    return torch.cat([table.flatten() for table in tables])


def flipped_share(language: Language, num: int, length: int, step: float, generator: torch.Generator) -> float:
    """
    How many strings change when the logits do, the noise being what it was. The loss of a string is constant but for
    jumps, and where it does not jump its derivative is 0: that share goes to 0 with the step, and what is left of the
    gradient is in the jumps alone.

    Args:
        language: its tables.
        num: of strings.
        length: T.
        step: length of the change, in a random direction.
        generator: of strings and direction.

    Returns:
        The share of strings that change.
    """
    noise = torch.rand(num, length, generator=generator, dtype=torch.float64)
    direction = [torch.randn(table.shape, generator=generator, dtype=torch.float64) for table in language.tables]
    size = _flat(direction).norm()
    moved = Language(*(t.detach() + step * d / size for t, d in zip(language.tables, direction, strict=True)))
    return (sample(language, noise) != sample(moved, noise)).any(-1).double().mean().item()


def probabilities(language: Language, length: int) -> Tensor:
    """
    Of all strings.

    Args:
        language: its tables.
        length: T.

    Returns:
        (I^T,), in the order of `strings`.
    """
    return log_prob(language, strings(len(language.start), length)).exp().detach()


def shares_of(codes: Tensor, num_symbols: int) -> Tensor:
    """
    Args:
        codes: int64, (num, T).
        num_symbols: I.

    Returns:
        The share of each of `strings` among them, float64 (I^T,).
    """
    return torch.bincount(index_of(codes, num_symbols), minlength=num_symbols ** codes.shape[-1]).double() / len(codes)


def counted(codes: Tensor, num_symbols: int) -> Language:
    """
    The language of maximum likelihood: shares of first symbols and of pairs. A symbol never seen before another one is
    followed by all alike.

    Args:
        codes: strings, int64 (num, T).
        num_symbols: I.

    Returns:
        Its tables, with logits of -inf for what was never seen.
    """
    start = torch.bincount(codes[:, 0], minlength=num_symbols).double()
    pairs = codes[:, :-1] * num_symbols + codes[:, 1:]
    transition = torch.bincount(pairs.flatten(), minlength=num_symbols**2).double().view(num_symbols, num_symbols)
    transition[transition.sum(-1) == 0] = 1
    return Language(start.log(), transition.log())
