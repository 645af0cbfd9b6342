"""
How fast SimCLR trains.

    python benchmarks/bench_simclr.py

The data are 60,000 images of 28 x 28 pixels: MNIST when HWZOO_DATA_DIR holds it, else random ones (the work is the
same).

- Loop: recipes/train_simclr.py's own `main` as it is run (progress bar, log, checkpoints; its evaluations and its
  final test are left out) and a bare loop of the same model, optimiser, schedule and views take turns at each step;
  the medians over the rounds are compared.
- Augmentations: what both views of each image take of the steps of the bare loop.
"""

import argparse
import json
import resource
import sys
import time
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_simclr
from side_by_side import images, ratio, step_by_step, take_turns
from transformers import get_scheduler

from hwzoo import SimCLRConfig, SimCLRModel
from hwzoo.data import NUM_NOISE, Augmentations, ImageSplits, augment

BATCH, WARMUP = 256, 50


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
        self.images, self.mixed_precision, self.augmenting = data.train.images, mixed_precision, 0.0
        self.model = SimCLRModel(SimCLRConfig()).to(memory_format=torch.channels_last).train()
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=2e-3, fused=True)
        self.lr_scheduler = get_scheduler("cosine", self.optimizer, WARMUP, total_steps)
        self.order, self.place, self.settings = torch.randperm(len(self.images)), 0, Augmentations()

    def step(self):
        if self.place + BATCH > len(self.images):
            self.order, self.place = torch.randperm(len(self.images)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        pixel_values = self.images.index_select(0, indices).float().div_(255)
        start = time.perf_counter()
        views = [augment(pixel_values, torch.rand(BATCH, NUM_NOISE), self.settings) for _ in range(2)]
        self.augmenting += time.perf_counter() - start
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision):
            loss = self.model(*views).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()


def bench_loop(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    bare = Bare(data, steps * (rounds + 1), precision == "bf16")
    flags = {"max_train_steps": steps, "train_batch_size": BATCH, "eval_steps": None, "mixed_precision": precision}
    others = train_simclr.Model(), train_simclr.Views(), train_simclr.Protocol()
    turns = partial(step_by_step, train_simclr, data, bare.step, *others, **flags)
    print("training, steps of the recipe and of a bare loop in turn:")
    return {"recipe / bare": ratio(take_turns(turns, rounds, "steps/s"), "recipe", "bare")}


def bench_augmentations(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    bare = Bare(data, steps * (rounds + 1), precision == "bf16")

    def share() -> dict[str, float]:
        start, bare.augmenting = time.perf_counter(), 0.0
        for _ in range(steps):
            bare.step()
        spent = time.perf_counter() - start
        return {"step": 1000 * spent / steps, "augmentations": 1000 * bare.augmenting / steps}

    print("the views in a step of the bare loop:")
    return {"augmentations / step": ratio(take_turns(share, rounds, "ms"), "augmentations", "step")}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--mixed_precision", choices=["no", "bf16"], default="bf16")
    arguments = parser.parse_args()
    data, results = images(), {}
    for bench in (bench_loop, bench_augmentations):
        results |= bench(data, arguments.steps, arguments.rounds, arguments.mixed_precision)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
