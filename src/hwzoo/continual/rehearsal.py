"""Training on all images so far, without a limit of memory: what a replay with a budget approaches."""

from .strategy import Strategy


class Rehearsal(Strategy):
    """At each task the images of all tasks up to it, shuffled together; an epoch grows with the tasks."""

    def phases(self) -> list[tuple[int, int]]:
        return [(0, task) for task in range(self.stream.num_tasks)]

    def advice(self) -> str:
        return "All past images were shown again: more steps, or another learning rate, may learn them."

    def memory_held(self) -> int:
        """Bytes of the images of the past tasks."""
        if self.task == 0:
            return 0
        return self.stream.train.images[self.stream.train_indices(0, self.task - 1)].numel()
