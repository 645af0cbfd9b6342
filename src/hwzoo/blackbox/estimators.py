"""
Estimates of the gradient of J(w) = E_x E_y[R(x, y)] with y drawn from p_w(y | x), where R can be asked and not
differentiated. All have one signature, work on several networks at once and leave R as it was given: a reward, not a
loss, so that an optimiser that descends takes the negative.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

Parameters = Sequence[Tensor]
Network = Callable[[Parameters], Tensor]  # parameters -> logits of the answers, (networks, points, classes)
Reward = Callable[[Tensor], Tensor]  # answers (networks, points), int64 -> float of the same shape

STD = 0.02  # of the perturbations of evolution strategies
NUM_PAIRS = 4  # of perturbations a step


def argmax_feedback(
    network: Network, parameters: Parameters, reward: Reward, generators: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    """
    The gradient of mean R(x, y) log p_w(y | x) at y = argmax p_w(y | x). The answer is not drawn, so that this is no
    estimate of the gradient of J: it confirms or discourages what the network says anyway.

    Args:
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network; unused.

    Returns:
        One tensor for each of `parameters`.
    """
    log_probs = network(parameters).log_softmax(-1)
    return _gradient(_weighted(log_probs, log_probs.argmax(-1), reward), parameters)


def reinforce(
    network: Network, parameters: Parameters, reward: Reward, generators: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    """
    The mean of R(x, y) grad log p_w(y | x) with one y drawn for each x (Williams 1992, doi:10.1007/BF00992696): its
    expectation is the gradient of J.

    Args:
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network, of its answers.

    Returns:
        One tensor for each of `parameters`.
    """
    log_probs = network(parameters).log_softmax(-1)
    return _gradient(_weighted(log_probs, _drawn(log_probs, generators), reward), parameters)


def reinforce_with_baseline(
    network: Network, parameters: Parameters, reward: Reward, generators: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    """
    `reinforce` with each reward less the mean of those of the other points. As that mean does not depend on the
    answer to this point, the expectation stays the gradient of J.

    Args:
        network: gives the logits of its answers to the points of a batch, of two points or more.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network, of its answers.

    Returns:
        One tensor for each of `parameters`.
    """

    def advantage(answers: Tensor) -> Tensor:
        rewards = reward(answers)
        num = rewards.shape[-1]
        return (rewards - rewards.mean(-1, keepdim=True)) * num / (num - 1)  # r - (sum of the others) / (num - 1)

    return reinforce(network, parameters, advantage, generators)


def enumerated(
    network: Network, parameters: Parameters, reward: Reward, generators: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    """
    The gradient of the mean of sum_y p_w(y | x) R(x, y): exact, at the price of asking for the reward of every answer.

    Args:
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network; unused.

    Returns:
        One tensor for each of `parameters`.
    """
    probabilities = network(parameters).softmax(-1)
    return _gradient((probabilities * _of_all_answers(probabilities, reward)).sum(-1).mean(-1), parameters)


def supervised(
    network: Network, parameters: Parameters, reward: Reward, generators: Sequence[torch.Generator]
) -> tuple[Tensor, ...]:
    """
    The gradient of the mean of log p_w(y* | x), minus the cross-entropy, with y* the answer of the highest reward:
    what one does who knows the labels.

    Args:
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network; unused.

    Returns:
        One tensor for each of `parameters`.
    """
    logits = network(parameters)
    labels = _of_all_answers(logits, reward).argmax(-1)
    losses = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape)
    return _gradient(-losses.mean(-1), parameters)


def evolution_strategies(
    network: Network,
    parameters: Parameters,
    reward: Reward,
    generators: Sequence[torch.Generator],
    std: float = STD,
    num_pairs: int = NUM_PAIRS,
) -> tuple[Tensor, ...]:
    """
    The mean of (A(w + std e) - A(w - std e)) e / (2 std) over normal e (Salimans et al., arXiv:1703.03864, with
    antithetic pairs), where A is the mean reward of the most probable answers: an estimate of the gradient of
    E_e[A(w + std e)] that needs neither probabilities nor a backward pass.

    Args:
        network: gives the logits of its answers to the points of a batch.
        parameters: of the networks, stacked: (networks, ...) each.
        reward: of the answers.
        generators: one for each network, of its perturbations.
        std: of the perturbations.
        num_pairs: of them; each costs two passes over the points.

    Returns:
        One tensor for each of `parameters`.
    """
    totals = [torch.zeros_like(each) for each in parameters]
    with torch.no_grad():
        for _ in range(num_pairs):
            noise = [
                torch.stack([torch.randn(each.shape[1:], generator=generator) for generator in generators])
                for each in parameters
            ]
            better, worse = (
                reward(network([p + sign * std * e for p, e in zip(parameters, noise, strict=True)]).argmax(-1))
                for sign in (1, -1)
            )
            gain = (better - worse).mean(-1) / (2 * std * num_pairs)
            for total, each in zip(totals, noise, strict=True):
                total += gain.view(-1, *[1] * (each.dim() - 1)) * each
    return tuple(totals)


def _weighted(log_probs: Tensor, answers: Tensor, reward: Reward) -> Tensor:
    """mean R log p of each network, (networks,); neither the answers nor their rewards have a gradient."""
    return (reward(answers) * log_probs.gather(-1, answers[..., None]).squeeze(-1)).mean(-1)


def _drawn(log_probs: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    each = zip(log_probs.detach().exp(), generators, strict=True)
    return torch.stack([torch.multinomial(probs, 1, generator=generator).squeeze(-1) for probs, generator in each])


def _of_all_answers(logits: Tensor, reward: Reward) -> Tensor:
    """The rewards of all answers, of the shape of the logits."""
    answers = [torch.full(logits.shape[:-1], each) for each in range(logits.shape[-1])]
    return torch.stack([reward(each) for each in answers], dim=-1)


def _gradient(objectives: Tensor, parameters: Parameters) -> tuple[Tensor, ...]:
    # The networks share nothing: the gradient of the sum holds that of each.
    return torch.autograd.grad(objectives.sum(), list(parameters))


ESTIMATORS = {
    "supervised": supervised,
    "argmax": argmax_feedback,
    "reinforce": reinforce,
    "reinforce_baseline": reinforce_with_baseline,
    "exact": enumerated,
    "evolution": evolution_strategies,
}
