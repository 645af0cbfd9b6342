"""Replay of a few stored images of past tasks (experience replay; Hsu et al., arXiv:1810.12488: naive rehearsal)."""

from typing import Any

import torch
from torch import Tensor

from .strategy import Strategy


class Replay(Strategy):
    """
    From the second task on, a step sees its batch and images drawn with replacement from a memory of past tasks, each
    with equal weight.

    The memory is filled at the end of a task, from all its training images. Settings: `memory_size`, the images held
    at most; `replay_ratio`, how many of them come to a step for each of its own; `memory_policy`:

    - "reservoir" (Vitter, 1985): every image seen so far is in the memory with the same probability, so that a large
      task has a large share;
    - "balanced": every label of every task seen so far has the same number of images (to within one; fewer where
      there are fewer).
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.indices = torch.empty(0, dtype=torch.long)  # of the stored images, in `stream.train`
        self.num_seen = 0

    def extend(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        if not len(self.indices):
            return batch
        drawn = self.noise.integers(len(self.indices), self.settings.replay_ratio * len(batch["labels"]))
        replayed = self.stream.train.batch(self.indices[drawn])
        return {name: torch.cat([values, replayed[name]]) for name, values in batch.items()}

    def end_task(self):
        new = self.stream.train_indices(self.task, self.task)
        new = torch.arange(new.start, new.stop, device=self.stream.train.labels.device)
        fill = {"reservoir": self._reservoir, "balanced": self._balanced}[self.settings.memory_policy]
        self.indices = fill(self.indices.to(new.device), new)
        self.num_seen += len(new)

    def advice(self) -> str:
        return f"A larger --memory_size than {self.settings.memory_size} remembers more."

    def memory_held(self) -> int:
        """Bytes of the stored images."""
        return self.stream.train.images[:1].numel() * len(self.indices)

    def _reservoir(self, held: Tensor, new: Tensor) -> Tensor:
        # The first images fill the memory; the n-th after them replaces a random one with probability size / n.
        size = self.settings.memory_size
        new = new[self._shuffle(len(new))]
        room = size - len(held)
        held, new, num_seen = torch.cat([held, new[:room]]), new[room:], self.num_seen + min(room, len(new))
        counts = torch.arange(num_seen + 1, num_seen + len(new) + 1)
        uniform = torch.rand(len(new), generator=self.noise.generator, device=self.noise.generator.device)
        slots = (uniform.cpu().double() * counts).long().tolist()  # not every device has float64
        for index, slot in zip(new.tolist(), slots, strict=True):
            if slot < size:
                held[slot] = index
        return held

    def _balanced(self, held: Tensor, new: Tensor) -> Tensor:
        indices = torch.cat([held, new[self._shuffle(len(new))]])
        # Tasks may share their labels: a new task is to get its share of each.
        labels = self.stream.train.task_ids[indices] * self.stream.num_labels + self.stream.train.labels[indices]
        names = labels.unique().tolist()
        share, rest = divmod(self.settings.memory_size, len(names))
        # Those first held stay first: what is dropped of an old label is dropped at random, as it was shuffled then.
        parts = [indices[labels == name][: share + (index < rest)] for index, name in enumerate(names)]
        return torch.cat(parts)

    def _shuffle(self, num: int) -> Tensor:
        generator = self.noise.generator
        return torch.randperm(num, generator=generator, device=generator.device).to(self.stream.train.labels.device)

    def state_dict(self) -> dict[str, Any]:
        # `places`: the name that the checkpoints of all versions have.
        return {**super().state_dict(), "places": self.indices, "num_seen": self.num_seen}

    def load_state_dict(self, state: dict[str, Any]):
        super().load_state_dict(state)
        self.indices, self.num_seen = state["places"].to(self.stream.train.labels.device), state["num_seen"]
