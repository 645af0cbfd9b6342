"""Networks that learn from rewards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from ..errors import HwzooError
from .estimators import ESTIMATORS
from .networks import answers_of, logits_of, stacked_mlps
from .noise import gradient_noise
from .tasks import Task, reward_of

# Added to a network's seed: for its batches, so that all estimators see the same ones, and for the noise, so that
# measuring it changes nothing.
BATCH_SEED, NOISE_SEED = 1_000_003, 2_000_006


@dataclass(frozen=True)
class Learned:
    """
    What the networks of several seeds have learned, and when.

    Args:
        steps: after which the accuracies are.
        train_accuracy: share of the training points whose most probable answer is right, (steps, seeds).
        test_accuracy: the same of the test points.
        noise: by step and estimator, `gradient_noise` there, (seeds,) each.
        classes_answered: those with at least 1 % of the most probable answers to the test points at the end, (seeds,).
    """

    steps: list[int]
    train_accuracy: Tensor
    test_accuracy: Tensor
    noise: dict[int, dict[str, Tensor]]
    classes_answered: Tensor


def learn(
    name: str,
    task: Task,
    rewards: tuple[float, float],
    seeds: Sequence[int],
    *,
    hidden_sizes: Sequence[int],
    steps: int,
    learning_rate: float,
    batch_size: int | None,
    eval_at: Collection[int],
    noise_at: Collection[int] = (),
) -> Learned:
    """
    Trains a network for each seed, all at once, with Adam, on the gradients of one estimator.

    Args:
        name: of ESTIMATORS.
        task: the points and what is right.
        rewards: of a right and of a wrong answer.
        seeds: of the initial weights, the batches and the draws of the estimator.
        hidden_sizes: units of the hidden layers.
        steps: of the optimiser.
        learning_rate: of Adam.
        batch_size: points a step, drawn with replacement; None for all.
        eval_at: steps after which the accuracies are taken.
        noise_at: steps after which the noise of `reinforce` without and with baseline is, of the last batch.

    Returns:
        Accuracies and noise.

    Raises:
        HwzooError: where weights are not finite at one of `eval_at`, or no answer can be drawn.
    """
    estimate = ESTIMATORS[name]
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    orders = [torch.Generator().manual_seed(seed + BATCH_SEED) for seed in seeds]
    apart = [torch.Generator().manual_seed(seed + NOISE_SEED) for seed in seeds]
    parameters = stacked_mlps([task.train.shape[-1], *hidden_sizes, task.num_classes], generators)
    optimizer = torch.optim.Adam(parameters, learning_rate, maximize=True, fused=True)
    points, labels = task.train.expand(len(seeds), -1, -1), task.train_labels
    taken, train_accuracy, test_accuracy, noise = [], [], [], {}
    for step in range(1, steps + 1):
        if batch_size is not None:
            chosen = torch.stack([torch.randint(len(task.train), (batch_size,), generator=each) for each in orders])
            points, labels = task.train[chosen], task.train_labels[chosen]
        asked = partial(logits_of, points=points), parameters, reward_of(labels, *rewards)
        try:
            gradients = estimate(*asked, generators)
        except RuntimeError as error:
            if logits_of(parameters, points).isfinite().all():
                raise
            # There is nothing to draw from.
            raise HwzooError(f"the logits by {name} are not finite at step {step}; a smaller rate may help") from error
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if step in eval_at or step in noise_at:
            if not all(each.isfinite().all() for each in parameters):
                raise HwzooError(f"the weights by {name} are not finite at step {step}; a smaller rate may help")
        if step in eval_at:
            taken.append(step)
            train_accuracy.append((answers_of(parameters, task.train) == task.train_labels).float().mean(-1))
            test_accuracy.append((answers_of(parameters, task.test) == task.test_labels).float().mean(-1))
        if step in noise_at:
            both = ("reinforce", "reinforce_baseline")
            noise[step] = {each: gradient_noise(ESTIMATORS[each], *asked, apart) for each in both}
    shares = F.one_hot(answers_of(parameters, task.test)).float().mean(1)
    answered = (shares >= 0.01).sum(-1)
    return Learned(taken, torch.stack(train_accuracy), torch.stack(test_accuracy), noise, answered)
