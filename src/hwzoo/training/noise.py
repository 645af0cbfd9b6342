"""Noise that belongs to the global batch, so that several processes see together what one process would see."""

from functools import partial
from typing import Any

import torch
from torch import Tensor


class GlobalNoise:
    """
    A seeded stream of noise for the rows of a global batch: each process draws the noise of all and takes its rows.

    Rows are shared as `ImageBatches` shares a batch: of each part process i has the i-th of `num_processes` equal
    shares.

    Args:
        seed: of the generator.
        device: where the noise is drawn.
        process_index: this process.
        num_processes: how many there are.
        num_parts: accumulated parts of a batch.
    """

    def __init__(
        self,
        seed: int,
        device: torch.device | str = "cpu",
        process_index: int = 0,
        num_processes: int = 1,
        num_parts: int = 1,
    ):
        self.generator = torch.Generator(device).manual_seed(seed)
        self.process_index = process_index
        self.num_processes = num_processes
        self.num_parts = num_parts

    @classmethod
    def for_run(cls, run: Any, accelerator: Any) -> "GlobalNoise":
        """
        The noise of a run: of its seed, on its device, shared by its processes.

        Args:
            run: its flags, with `seed` and `gradient_accumulation_steps`.
            accelerator: its device and processes.

        Returns:
            The noise at its beginning.
        """
        processes = accelerator.process_index, accelerator.num_processes
        return cls(run.seed, accelerator.device, *processes, run.gradient_accumulation_steps)

    def normal(self, num_rows: int, *shape: int, turns: int = 1) -> Tensor:
        """
        Standard normal noise, (num_rows, *shape).

        Args:
            num_rows: of this process.
            shape: of a row.
            turns: that the rows are of, each of `num_parts`.

        Returns:
            This process's rows, float32, on the device of the noise.
        """
        return self._own_rows(torch.randn, num_rows, shape, turns)

    def uniform(self, num_rows: int, *shape: int, turns: int = 1) -> Tensor:
        """
        Uniform noise in [0, 1), (num_rows, *shape).

        Args:
            num_rows: of this process.
            shape: of a row.
            turns: as of `normal`.

        Returns:
            This process's rows, float32, on the device of the noise.
        """
        return self._own_rows(torch.rand, num_rows, shape, turns)

    def integers(self, high: int, num_rows: int, *shape: int, turns: int = 1) -> Tensor:
        """
        Uniform integers from 0 to high - 1, int64, (num_rows, *shape).

        Args:
            high: one more than the largest.
            num_rows: of this process.
            shape: of a row.
            turns: as of `normal`.

        Returns:
            This process's rows, on the device of the noise.
        """
        return self._own_rows(partial(torch.randint, high), num_rows, shape, turns)

    def _own_rows(self, draw, num_rows: int, shape: tuple[int, ...], turns: int) -> Tensor:
        size = (num_rows * self.num_processes, *shape)
        noise = draw(size, generator=self.generator, device=self.generator.device)
        if self.num_processes == 1:
            return noise
        shares = noise.unflatten(0, (turns * self.num_parts, self.num_processes, -1))
        return shares[:, self.process_index].flatten(0, 1)

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]):
        """
        Goes on where the noise of a checkpoint stood.

        Args:
            state: of `state_dict`.

        Raises:
            ValueError: for the state of another kind of device: each has generators of its own.
        """
        if state["generator"].shape != self.generator.get_state().shape:
            raise ValueError(f"it was drawn on another kind of device than {self.generator.device.type}: go on there")
        self.generator.set_state(state["generator"])
