"""What a run through a stream of tasks has measured so far."""

import time
from typing import Any


class Scores:
    """
    The rows of the accuracy matrix, and how long each phase of training took; part of a run's state.

    Args:
        untrained: accuracy on each task before any training, fractions.
    """

    def __init__(self, untrained: list[float]):
        self.untrained = untrained
        self.rows: list[list[float]] = []
        self.seconds: list[float] = []
        self._elapsed = 0.0  # of this phase, before the last resume
        self._started: float | None = None

    def begin(self):
        """A step begins; the first one of a phase starts its time."""
        if self._started is None:
            self._started = time.perf_counter()

    def add(self, row: list[float]) -> list[float]:
        """Notes the accuracies on all tasks after a phase, and its time, the evaluation included; gives the row."""
        self.rows.append(row)
        self.seconds.append(round(self._now(), 4))
        self._elapsed, self._started = 0.0, None
        return row

    def _now(self) -> float:
        return self._elapsed + (0.0 if self._started is None else time.perf_counter() - self._started)

    def state_dict(self) -> dict[str, Any]:
        # Copies: what is saved must not change with the run.
        rows = [list(row) for row in self.rows]
        return {"untrained": self.untrained, "rows": rows, "seconds": list(self.seconds), "elapsed": self._now()}

    def load_state_dict(self, state: dict[str, Any]):
        self.untrained, self.rows, self.seconds = state["untrained"], state["rows"], state["seconds"]
        self._elapsed, self._started = state["elapsed"], None
