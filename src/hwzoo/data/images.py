"""A data set as one uint8 tensor, and its endless batches: one gather a batch, no worker processes."""

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import UsageError


@dataclass(frozen=True)
class ImageSet:
    """
    Images of one size in memory.

    Args:
        images: uint8, (num, channels, height, width).
        labels: int64, (num,), from 0 to len(class_names) - 1.
        class_names: of the labels.
        task_ids: int64, (num,), the task of each image in a stream of tasks; None outside of continual learning.
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    task_ids: Tensor | None = None

    unit: ClassVar[str] = "images"

    def __len__(self) -> int:
        return len(self.images)

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.images.device

    @property
    def num_channels(self) -> int:
        return self.images.shape[1]

    @property
    def image_size(self) -> int:
        """Height and width in pixels; UsageError when they differ."""
        height, width = self.images.shape[2:]
        if height != width:
            raise UsageError(
                f"--dataset_name: its images are {height} x {width} pixels; they must be square: give --image_size N "
                "and --resize crop, pad or stretch"
            )
        return height

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same images on a device."""
        task_ids = None if self.task_ids is None else self.task_ids.to(device)
        return replace(self, images=self.images.to(device), labels=self.labels.to(device), task_ids=task_ids)

    def select(self, indices: Tensor | slice) -> "ImageSet":
        """The images at the given indices; of a slice, without a copy."""
        task_ids = None if self.task_ids is None else self.task_ids[indices]
        return replace(self, images=self.images[indices], labels=self.labels[indices], task_ids=task_ids)

    def spread(self, num: int) -> "ImageSet":
        """At most `num` of the images, evenly spaced."""
        num = min(num, len(self))
        return self.select(torch.arange(num, device=self.images.device) * len(self) // max(num, 1))

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """{"pixel_values": float32 in [0, 1], "labels": int64} of the images at some indices; `task_ids` if any."""
        images = self.images.index_select(0, indices)
        batch = {"pixel_values": images.float().div_(255), "labels": self.labels.index_select(0, indices)}
        if self.task_ids is not None:
            batch["task_ids"] = self.task_ids.index_select(0, indices)
        return batch

    def pixel_values(self, indices: Tensor | slice = slice(None)) -> Tensor:
        """The images at the given indices as float32 in [0, 1], (num, channels, height, width)."""
        return self.images[indices].float().div_(255)

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of the pixels in [0, 1], one for each channel; 1 of one without any contrast."""
        counts = torch.stack(
            [torch.bincount(self.images[:, c].flatten(), minlength=256) for c in range(self.num_channels)]
        )
        values, weights = torch.arange(256).double() / 255, counts.double() / counts.sum(1, keepdim=True)
        mean = (weights * values).sum(1)
        variance = (weights * (values - mean[:, None]).square()).sum(1)
        return [round(x, 4) for x in mean.tolist()], [round(x, 4) or 1.0 for x in variance.sqrt().tolist()]

    def binarized(self, seed: int) -> "ImageSet":
        """Each pixel drawn once from the Bernoulli distribution of its intensity: 0 or 255."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.empty_like(self.images)
        for part, out in zip(self.images.split(10_000), images.split(10_000), strict=True):
            uniform = torch.rand(part.shape, generator=generator).to(part.device)
            out.copy_(uniform * 255 < part).mul_(255)
        return replace(self, images=images)

    def thresholded(self) -> "ImageSet":
        """Each pixel 255 where it is above 127, else 0."""
        return replace(self, images=(self.images > 127).to(torch.uint8).mul_(255))


def binarize(pixel_values: Tensor, uniform: Tensor) -> Tensor:
    """
    Pixels drawn from Bernoulli distributions of their intensities; `uniform`, noise in [0, 1), is overwritten.

    Args:
        pixel_values: intensities in [0, 1], any shape.
        uniform: of the same shape.

    Returns:
        `uniform`, which now holds 0 and 1.
    """
    return uniform.lt_(pixel_values)


class ImageBatches:
    """
    Endless shuffled batches, as `ImageSet.batch` gives them, or of anything else with its `batch`, `device`, `to`,
    `unit` and `len`. Each epoch is a permutation drawn from seed + epoch; the incomplete batch at its end is left out.

    The state is (epoch, batch): the place is exact after a resume, and several processes share the batches that one
    process would see, each of their parts, the i-th process the i-th of equal shares.

    Args:
        data: on the device that the batches are wanted on.
        batch_size: examples for this process.
        seed: of the permutations.
        process_index: this process.
        num_processes: how many there are.
        num_parts: parts of a batch that a step takes one after the other; they divide `batch_size`.

    Raises:
        UsageError: when the data set holds less than one batch.
    """

    def __init__(
        self,
        data: ImageSet,
        batch_size: int,
        seed: int,
        process_index: int = 0,
        num_processes: int = 1,
        num_parts: int = 1,
    ):
        self.data = data
        self.batch_size = batch_size
        self.num_parts = num_parts
        self.global_batch_size = batch_size * num_processes
        self.seed = seed
        self.process_index = process_index
        self.epoch = 0
        self.batch = 0  # of this epoch, the next
        self._order = None
        if len(self) == 0:
            raise UsageError(
                f"--train_batch_size: a step takes {self.global_batch_size} {self.data.unit} (over all processes and "
                f"accumulated batches), of these there are {len(data)}"
            )

    @classmethod
    def for_run(
        cls,
        data: ImageSet,
        run: Any,
        accelerator: Any,
        turns: int = 1,
        seed: int | None = None,
        steps: int | None = None,
    ) -> "ImageBatches":
        """
        The batches of a run, on its device; smaller ones than asked for where it takes no step of too few images.

        Args:
            data: the training images.
            run: its flags: `train_batch_size`, `gradient_accumulation_steps`, `seed`.
            accelerator: its processes and device.
            turns: batches that a step takes of each process and accumulated part.
            seed: of the permutations; that of the run when not given.
            steps: that are taken; those of the run when not given.

        Returns:
            The batches from the first epoch on; this process gets its share of each.
        """
        num_parts = run.gradient_accumulation_steps * turns
        batch_size = run.train_batch_size * num_parts
        process = accelerator.process_index, accelerator.num_processes
        if (getattr(run, "max_train_steps", None) if steps is None else steps) == 0:  # it only tests
            batch_size, num_parts = max(1, min(batch_size, len(data) // accelerator.num_processes)), 1
        return cls(data.to(accelerator.device), batch_size, run.seed if seed is None else seed, *process, num_parts)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.data) // self.global_batch_size

    def __iter__(self) -> "ImageBatches":
        return self

    def __next__(self) -> dict[str, Tensor]:
        if self._order is None:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            self._order = torch.randperm(len(self.data), generator=generator).to(self.data.device)
        indices = self._order[self.batch * self.global_batch_size :][: self.global_batch_size]
        indices = indices.view(self.num_parts, -1, self.batch_size // self.num_parts)[:, self.process_index].flatten()
        self.batch += 1
        if self.batch == len(self):
            self.epoch, self.batch, self._order = self.epoch + 1, 0, None
        return self.data.batch(indices)

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "batch": self.batch, "images": len(self.data)}

    def load_state_dict(self, state: dict[str, Any]):
        """
        Goes on at a batch of an epoch of the same data.

        Raises:
            ValueError: for a data set of another size.
        """
        if state.get("images", len(self.data)) != len(self.data):  # the first version did not save it
            raise ValueError(f"the data set has {len(self.data)} images, it had {state['images']}")
        self.epoch, self.batch, self._order = state["epoch"], state["batch"], None
