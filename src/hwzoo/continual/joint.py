"""Training on all tasks at once: the upper bound that every strategy is compared with (Hsu et al.: offline)."""

from .strategy import Strategy


class Joint(Strategy):
    """One phase with the images of all tasks; no task is ever past."""

    def phases(self) -> list[tuple[int, int]]:
        return [(0, self.stream.num_tasks - 1)]

    def place(self) -> str:
        return f"all {self.stream.num_tasks} tasks" if self.stream.num_tasks > 1 else super().place()
