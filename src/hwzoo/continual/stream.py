"""Streams of tasks made from one image data set, and the endless batches that go through them task by task."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError

SCENARIOS = ("task", "domain", "class")


@dataclass
class Stream:
    """
    A sequence of tasks; the three scenarios are those of van de Ven and Tolias (arXiv:1904.07734).

    Args:
        train: the training images of all tasks in their order, an image set of `hwzoo.data` with its `task_ids`.
        test: the same of the test images.
        num_tasks: how many tasks there are.
        scenario: "task" (the task of an image is known, each has a head of its own), "domain" (it is not, all tasks
            share their labels), or "class" (it is not, each task brings new labels).
        permutations: of the pixels, int64 (num_tasks, height * width), for a permuted stream; else None.
    """

    train: Any
    test: Any
    num_tasks: int
    scenario: str
    permutations: Tensor | None = None

    @property
    def num_labels(self) -> int:
        return len(self.train.class_names)

    @property
    def num_heads(self) -> int:
        """Heads of a model for this stream: one a task where the task is known."""
        return self.num_tasks if self.scenario == "task" else 1

    def num_active(self, task: int) -> int:
        """The first so many outputs have been seen after a task; in the class scenario the others do not compete."""
        return self.num_labels // self.num_tasks * (task + 1) if self.scenario == "class" else self.num_labels

    def train_indices(self, first: int, last: int) -> slice:
        """
        Where in `train` the images of the tasks first to last stand.

        Args:
            first: the first task, from 0.
            last: the last task, itself included.

        Returns:
            Indices of images; those of a task stand together.
        """
        return _indices(self.train.task_ids, first, last)

    def test_indices(self, task: int) -> slice:
        """Where in `test` the images of a task stand."""
        return _indices(self.test.task_ids, task, task)

    def seen(self) -> "Stream":
        """The stream with training images, evenly spaced in each task, in place of its test images, as many."""
        parts = []
        for task in range(self.num_tasks):
            train, test = self.train_indices(task, task), self.test_indices(task)
            here, num = train.stop - train.start, min(train.stop - train.start, test.stop - test.start)
            parts.append(train.start + torch.arange(num) * here // max(num, 1))
        return replace(self, test=self.train.select(torch.cat(parts)))

    def to(self, device: torch.device | str) -> "Stream":
        """The stream with its images on a device."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def state_dict(self) -> dict[str, Any]:
        return {"permutations": self.permutations}

    def load_state_dict(self, state: dict[str, Any]):
        """
        Checks that a checkpoint is of this stream; the images themselves are not saved.

        Raises:
            ValueError: for permutations of the pixels other than this stream's.
        """
        # The images were permuted when the stream was made: another permutation would be another run.
        if (state["permutations"] is None) != (self.permutations is None) or (
            self.permutations is not None and not torch.equal(state["permutations"], self.permutations)
        ):
            raise ValueError("its permutations of the pixels are not those of this stream")


def split(train: Any, test: Any, num_tasks: int, scenario: str, held_out: bool = False) -> Stream:
    """
    Divides the classes, in the order of their labels, into tasks of equal size (split MNIST: Zenke et al.,
    arXiv:1703.04200).

    Args:
        train: the training images.
        test: the test images.
        num_tasks: it must divide the number of classes.
        scenario: one of SCENARIOS; in "domain" the k-th class of each task gets the label k.
        held_out: whether the test images are those that --validation_share holds out.

    Returns:
        The stream, with the images in the order of the tasks.

    Raises:
        UsageError: when the classes cannot be divided so, a task would have no images, or one class where its images
            compete with no other's.
    """
    classes = len(train.class_names)
    if num_tasks > classes or classes % num_tasks:
        raise UsageError(f"--num_tasks is {num_tasks}; it must divide the {classes} classes of the data set")
    per_task = classes // num_tasks
    if per_task == 1 and num_tasks > 1 and scenario != "class":
        raise UsageError(
            f"--num_tasks is {num_tasks}; with one class a task there is nothing to tell apart in the {scenario}-"
            "incremental scenario: give fewer tasks, or --scenario class"
        )

    def in_order(data, which):
        task_ids = data.labels // per_task
        for task, num in enumerate(torch.bincount(task_ids, minlength=num_tasks).tolist()):
            if num == 0:
                told = f"--num_tasks is {num_tasks}; task {task + 1} has no {which} images"
                advice = ": give another --validation_share, or 0 to hold none out" if which == "validation" else ""
                raise UsageError(told + advice)
        order = torch.argsort(task_ids, stable=True)
        data = replace(data, task_ids=task_ids).select(order)
        if scenario != "domain":
            return data
        names = tuple("/".join(data.class_names[label::per_task]) for label in range(per_task))
        return replace(data, labels=data.labels % per_task, class_names=names)

    other = "validation" if held_out else "test"
    return Stream(in_order(train, "training"), in_order(test, other), num_tasks, scenario)


def permuted(train: Any, test: Any, num_tasks: int, scenario: str, seed: int) -> Stream:
    """
    Each task has all images with their pixels in another order (permuted MNIST: Goodfellow et al., arXiv:1312.6211):
    the first as they are, task t > 0 by the permutation of the generator seeded with seed + t.

    Args:
        train: the training images.
        test: the test images.
        num_tasks: how many tasks.
        scenario: one of SCENARIOS; in "domain" all tasks share their labels, else each has labels of its own.
        seed: of the permutations; not that of the run, so that runs with several seeds see the same tasks.

    Returns:
        The stream, `num_tasks` times as large as the data.
    """
    height, width = train.images.shape[-2:]
    orders = [torch.arange(height * width)]
    for task in range(1, num_tasks):
        orders.append(torch.randperm(height * width, generator=torch.Generator().manual_seed(seed + task)))

    def all_tasks(data):
        images = torch.cat([data.images.flatten(2)[..., order].view_as(data.images) for order in orders])
        task_ids = torch.arange(num_tasks).repeat_interleave(len(data))
        labels, names = data.labels.repeat(num_tasks), data.class_names
        if scenario != "domain":
            labels = labels + task_ids * len(names)
            if num_tasks > 1:
                names = tuple(f"{name} (task {task + 1})" for task in range(num_tasks) for name in names)
        return replace(data, images=images, labels=labels, class_names=names, task_ids=task_ids)

    return Stream(all_tasks(train), all_tasks(test), num_tasks, scenario, torch.stack(orders))


class StreamBatches:
    """
    The batches of one phase of training (a task, as a rule) after the other. The state is the phase, the step in it
    and the place in its epoch.

    Args:
        make_batches: gives the endless batches of a phase, with `global_batch_size` and `state_dict`.
        steps: optimiser steps of each phase.
    """

    def __init__(self, make_batches: Callable[[int], Any], steps: list[int]):
        self.make_batches = make_batches
        self.steps = steps
        self._begin(0, 0)

    @property
    def global_batch_size(self) -> int:
        return self._batches.global_batch_size

    @property
    def ends(self) -> list[int]:
        """The last step of each phase."""
        return list(accumulate(self.steps))

    @property
    def phase_done(self) -> bool:
        """Whether the last batch given was the last of its phase."""
        return self.step == self.steps[self.phase]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self.phase_done:
            self._begin(self.phase + 1, 0)
        self.step += 1
        return next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        return {"phase": self.phase, "step": self.step, "batches": self._batches.state_dict()}

    def load_state_dict(self, state: dict[str, Any]):
        self._begin(state["phase"], state["step"])
        self._batches.load_state_dict(state["batches"])

    def _begin(self, phase: int, step: int):
        self.phase, self.step, self._batches = phase, step, self.make_batches(phase)


def _indices(task_ids: Tensor, first: int, last: int) -> slice:
    # Images stand in the order of their tasks.
    bounds = torch.searchsorted(task_ids, torch.tensor([first, last + 1], device=task_ids.device)).tolist()
    return slice(*bounds)
