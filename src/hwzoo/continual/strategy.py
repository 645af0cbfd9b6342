"""What every strategy of continual learning has in common."""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .stream import Stream


class Strategy:
    """
    What a method does against forgetting: which images a phase of training uses, what a step sees and minimises, what
    happens after the step, and what is kept of a task that is done. This base does nothing against it.

    Args:
        model: the classifier, not wrapped for several processes; `model(pixel_values, task_ids=...)` gives `logits`.
        stream: the tasks.
        settings: the recipe's flags, read by name; each strategy says which.
        noise: a `GlobalNoise`, alike on all processes, for what a strategy draws.

    Attributes:
        strength: the setting of a penalty's weight; None for a strategy without one.
    """

    strength: ClassVar[str | None] = None

    def __init__(self, model: torch.nn.Module, stream: Stream, settings: Any, noise: Any):
        self.model = model
        self.stream = stream
        self.settings = settings
        self.noise = noise
        self.task = 0  # the one that is being learned; of several together the last

    def phases(self) -> list[tuple[int, int]]:
        """The first and last task that each phase of training uses the images of."""
        return [(task, task) for task in range(self.stream.num_tasks)]

    def place(self) -> str:
        """Where training is, for its progress bar: "task 2 of 5"."""
        return f"task {self.task + 1} of {self.stream.num_tasks}"

    def extend(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """What a step sees: the batch of the phase, and whatever the strategy adds to it."""
        return batch

    def losses(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """
        Scalars of a batch: `loss`, which the step minimises, and whatever else is to be logged.

        Args:
            model: as it is wrapped for several processes.
            batch: `pixel_values` in [0, 1], (batch, channels, height, width), `labels` and `task_ids`, int64,
                (batch,).

        Returns:
            Scalar tensors by name.
        """
        logits = model(batch["pixel_values"], task_ids=batch["task_ids"]).logits
        return self.cross_entropy(logits, batch["labels"])

    def cross_entropy(self, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """
        `loss` and `accuracy` (a fraction) among the outputs seen so far.

        Args:
            logits: (batch, num_labels), of all outputs.
            labels: int64, (batch,).

        Returns:
            Scalar tensors by name; the loss in nats, with a gradient, the mean over the batch.
        """
        logits = self.seen(logits)
        accuracy = (logits.detach().argmax(-1) == labels).mean(dtype=torch.float32)
        return {"loss": F.cross_entropy(logits, labels), "accuracy": accuracy}

    def accuracy(self, model: torch.nn.Module, batch: dict[str, Tensor]) -> Tensor:
        """
        The share of a batch whose most probable output, among those seen so far, is its label.

        Args:
            model: the classifier.
            batch: as in `losses`.

        Returns:
            A scalar tensor in [0, 1].
        """
        logits = self.seen(model(batch["pixel_values"], task_ids=batch["task_ids"]).logits)
        return (logits.argmax(-1) == batch["labels"]).float().mean()

    def seen(self, logits: Tensor) -> Tensor:
        """The outputs that compete: in the class scenario those of the tasks up to now."""
        num_active = self.stream.num_active(self.task)
        return logits if num_active == logits.shape[1] else logits[:, :num_active]

    def after_step(self, optimizer: torch.optim.Optimizer, clip: Tensor | None = None):
        """
        After an optimiser step, with the gradients of `loss` still there.

        Args:
            optimizer: that has stepped.
            clip: what clipping has multiplied the gradients by; None where there was none.
        """

    def end_task(self):
        """After the last step of `self.task`."""

    def advice(self) -> str:
        """What helps where this strategy ends at the lower bound of its scenario; a sentence for the user."""
        if self.strength is None:
            return "Nothing was done against forgetting; --strategy replay shows some old images again."
        if self.stream.scenario == "class":
            return (
                "Regularisation alone does no better in this scenario, as nothing compares new classes with old ones "
                "that are seen no more; --strategy replay shows some old images again."
            )
        value = getattr(self.settings, self.strength)
        told = f"Another --{self.strength} than {value:g}, larger or smaller, may hold more"
        return f"{told}; --strategy replay shows some old images again."

    def memory_held(self) -> int:
        """Bytes that the strategy keeps besides the model: past images, anchors, importances, copies of networks."""
        return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(self.state_dict()))

    def state_dict(self) -> dict[str, Any]:
        return {"task": self.task}

    def load_state_dict(self, state: dict[str, Any]):
        self.task = state["task"]


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [tensor for item in values for tensor in _tensors(item)]
