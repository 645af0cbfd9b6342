"""
How fast a VQ-VAE trains.

    python benchmarks/bench_vqvae.py

The data are 60,000 images of 28 x 28 pixels, binarised at every step: MNIST when HWZOO_DATA_DIR holds it, else random
ones (the work is the same).

- Loop: recipes/train_vqvae.py's own `main` as it is run (codes and prior of the preset `mnist`, averaged weights,
  restarts of dead codes, progress bar, log, checkpoints; only its final test is left out) and a bare loop of the same
  model, optimiser, schedule, average and restarts take turns at each step; the medians over the rounds are compared.
- Quantiser: what the search for the nearest codes and the counts and averages of the codebook take of the steps of
  the bare loop.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_vqvae
from side_by_side import images, ratio, step_by_step, take_turns
from transformers import get_scheduler

from hwzoo import VQVAEConfig, VQVAEModel
from hwzoo.data import ImageSplits
from hwzoo.training import averaged_model

BATCH, WARMUP, RESTART = 64, 100, 50


class Bare:
    """
    The loop that one would write by hand.

    Args:
        data: the images.
        total_steps: of the schedule.
        mixed_precision: whether matrix products are in bfloat16.
    """

    def __init__(self, data: ImageSplits, total_steps: int, mixed_precision: bool):
        torch.manual_seed(0)
        self.images, self.mixed_precision, self.steps = data.train.images, mixed_precision, 0
        self.model = VQVAEModel(VQVAEConfig()).to(memory_format=torch.channels_last).train()
        self.average = averaged_model(self.model, 0.998)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3, fused=True)
        self.lr_scheduler = get_scheduler("cosine", self.optimizer, WARMUP, total_steps)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def step(self):
        if self.place + BATCH > len(self.images):
            self.order, self.place = torch.randperm(len(self.images)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        pixel_values = self.images.index_select(0, indices).float().div_(255)
        pixel_values = torch.rand(pixel_values.shape).lt_(pixel_values)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision):
            loss = self.model(pixel_values).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        self.average.update_parameters(self.model)
        self.steps += 1
        if self.steps % RESTART == 0:
            self.model.restart_dead_codes(pixel_values)


class Clock:
    """Adds up the seconds of a function's calls."""

    def __init__(self, function: Callable):
        self.function, self.seconds = function, 0.0

    def __call__(self, *args):
        start = time.perf_counter()
        result = self.function(*args)
        self.seconds += time.perf_counter() - start
        return result


def bench_loop(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    bare = Bare(data, steps * (rounds + 1), precision == "bf16")
    others = train_vqvae.Model(), train_vqvae.Protocol(num_continuous_steps=0)
    flags = {"max_train_steps": steps, "train_batch_size": BATCH, "mixed_precision": precision}
    print("training, steps of the recipe and of a bare loop in turn:")
    speeds = take_turns(lambda: step_by_step(train_vqvae, data, bare.step, *others, **flags), rounds, "steps/s")
    return {"recipe / bare": ratio(speeds, "recipe", "bare")}


def bench_quantiser(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    bare = Bare(data, steps * (rounds + 1), precision == "bf16")
    codebook = bare.model.codebook
    clocks = [Clock(codebook.nearest), Clock(codebook.update)]
    codebook.nearest, codebook.update = clocks

    def share() -> dict[str, float]:
        for clock in clocks:
            clock.seconds = 0.0
        start = time.perf_counter()
        for _ in range(steps):
            bare.step()
        spent = time.perf_counter() - start
        return {"step": 1000 * spent / steps, "quantiser": 1000 * sum(clock.seconds for clock in clocks) / steps}

    print("the quantiser in a step of the bare loop:")
    return {"quantiser / step": ratio(take_turns(share, rounds, "ms"), "quantiser", "step")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="bf16")
    arguments = parser.parse_args()
    data, results = images(), {}
    for bench in (bench_loop, bench_quantiser):
        results |= bench(data, arguments.steps, arguments.rounds, arguments.mixed_precision)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
