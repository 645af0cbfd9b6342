"""One call of a visitor: it ends when its seconds are over or the visitor cancels it, wherever it computes."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..errors import HwzooError

TELL_EVERY = 0.3  # seconds


class Stopped(HwzooError):
    """A call was cancelled, or took too long."""


class Job:
    """
    A call.

    Args:
        seconds: that it may take, waiting for the model included.
        tell: gets how far it is, from 0 to 1, and in words.
    """

    def __init__(self, seconds: float, tell: Callable[[float, str], Any] = lambda share, words: None):
        self.seconds = seconds
        self._tell, self._told = tell, 0.0
        self._start = time.monotonic()
        self._cancelled = threading.Event()

    def cancel(self):
        """Ends it at its next step, from any thread."""
        self._cancelled.set()

    def check(self):
        """
        Raises:
            Stopped: when it was cancelled, or its seconds are over.
        """
        if self._cancelled.is_set():
            raise Stopped("cancelled")
        if time.monotonic() - self._start > self.seconds:
            raise Stopped(f"stopped after {self.seconds:g} seconds, the most that a call may take: ask for less")

    def step(self, done: int, steps: int):
        """
        Tells the visitor how far it is.

        Args:
            done: steps that are done.
            steps: of the whole call.

        Raises:
            Stopped: as of `check`.
        """
        self.check()
        self._say(done / steps, f"step {done} of {steps}")

    def _say(self, share: float, words: str):
        now = time.monotonic()
        if now - self._told >= TELL_EVERY:
            self._told = now
            self._tell(share, words)

    @contextmanager
    def running(self, lock: threading.Lock, counted: bool = False) -> Iterator[None]:
        """
        Computes with a model, without gradients: one call at a time, and each function of torch checks the call.

        Args:
            lock: of the model.
            counted: whether `step` tells how far it is; else the seconds are told.

        Returns:
            Nothing, as the value of the `with`.

        Raises:
            Stopped: as of `check`.
        """

        def each():
            self.check()
            if not counted:
                spent = time.monotonic() - self._start
                self._say(spent / self.seconds, f"{spent:.0f} of at most {self.seconds:g} seconds")

        while not lock.acquire(timeout=0.1):
            self.check()
        try:
            with torch.no_grad(), _Before(each):
                yield
        finally:
            lock.release()


class _Before(TorchFunctionMode):
    """Calls something before each function of torch, in this thread alone."""

    def __init__(self, each: Callable[[], None]):
        super().__init__()
        self._each = each

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self._each()
        return function(*args, **(kwargs or {}))
