"""What is to be answered, and the rewards of answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import UsageError
from .estimators import Reward

COURSE_SEED = 73
NUM_POINTS, NUM_FEATURES = 1_000, 8
RANGE = 2.2
LARGEST_REWARD = 1e6
LARGEST = 2.5  # squared distance for each feature within which a point is near


@dataclass(frozen=True)
class Task:
    """
    Args:
        train: points to learn from, float32 (num, features).
        train_labels: int64, (num,).
        test: points to be tested on, as `train`.
        test_labels: theirs.
        num_classes: answers that can be given.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    num_classes: int


def course_task() -> Task:
    """
    The data of CS 182 (Berkeley, spring 2025, homework 11): 1,000 training and 1,000 test points, uniform on
    [-2.2, 2.2]^8, seed 73; a point is near (1, ..., 1) or (-1, ..., -1) where the squared distance is 20 at most, and
    its class is 0 for near both, 1 for near the first alone, 2 for near the second alone, 3 for near none.
    """
    generator = torch.Generator().manual_seed(COURSE_SEED)
    points = [torch.rand(NUM_POINTS, NUM_FEATURES, generator=generator) * 2 * RANGE - RANGE for _ in range(2)]
    labels = []
    for each in points:
        near_ones, near_minus_ones = ((each - sign).square().sum(-1) <= LARGEST * NUM_FEATURES for sign in (1, -1))
        labels.append(2 * (~near_ones).long() + (~near_minus_ones).long())
    return Task(points[0], labels[0], points[1], labels[1], 4)


def image_task(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], num_classes: int) -> Task:
    """
    Images whose class is to be guessed, with their pixels about 0.

    Args:
        train: pixels in [0, 1], (num, channels, height, width), and classes, (num,).
        test: the same of the test images.
        num_classes: of them.

    Returns:
        The task, of flat images with values in [-0.5, 0.5].
    """
    return Task(train[0].flatten(1) - 0.5, train[1], test[0].flatten(1) - 0.5, test[1], num_classes)


def reward_of(labels: Tensor, right: float, wrong: float) -> Reward:
    """
    Who judges answers and keeps the labels to itself.

    Args:
        labels: int64, of the points, (num,) or (networks, num).
        right: reward of a right answer.
        wrong: reward of any other.

    Returns:
        What gives the rewards of answers, (networks, num).
    """
    return lambda answers: torch.where(answers == labels, right, wrong)


def pair_of(words: str) -> tuple[float, float]:
    """
    The rewards of a right and of a wrong answer, written "right/wrong" as `--rewards` takes them.

    Raises:
        UsageError: for other words, or a right one that is not the larger.
    """
    try:
        right, wrong = map(float, words.split("/"))
    except ValueError:
        right = wrong = 0.0
    if not -LARGEST_REWARD <= wrong < right <= LARGEST_REWARD:
        raise UsageError(f"--rewards has {words}; it must be right/wrong, two numbers, the first the larger: 3/-1")
    return right, wrong
