"""
How fast a VQ-VAE trains.

    python benchmarks/bench_vqvae.py

The data are 60,000 images of 28 x 28 pixels, binarised at every step: MNIST when HWZOO_DATA_DIR holds it, else random
ones (the work is the same).

- Loops: recipes/train_vqvae.py's own `main` as it is run (averaged weights, restarts of dead codes, progress bar, log,
  checkpoints; its evaluations and its final test are left out) in each of its two phases, and a bare loop of the same
  part of the model, optimiser, schedule, average and restarts take turns at each step; the medians over the rounds are
  compared.
- Quantiser: what the search for the nearest codes and the counts and averages of the codebook take of the steps of
  the bare loop of the codes.
"""

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_vqvae
from side_by_side import images, ratio, step_by_step, take_turns
from transformers import get_scheduler

from hwzoo import VQVAEConfig, VQVAEModel, hub
from hwzoo.data import ImageSplits
from hwzoo.training import averaged_model

BATCH, WARMUP, RESTART = 64, 100, 50


class Bare:
    """
    The loop that one would write by hand.

    Args:
        data: the images.
        part: `autoencoder` or `prior`.
        total_steps: of the schedule.
        mixed_precision: whether matrix products are in bfloat16.
    """

    def __init__(self, data: ImageSplits, part: str, total_steps: int, mixed_precision: bool):
        torch.manual_seed(0)
        self.images, self.mixed_precision, self.steps = data.train.images, mixed_precision, 0
        self.model = VQVAEModel(VQVAEConfig()).to(memory_format=torch.channels_last).train()
        self.codes, self.part = part == "autoencoder", getattr(self.model, part)
        self.average = averaged_model(self.part, 0.998)
        self.optimizer = torch.optim.Adam(self.part.parameters(), lr=4e-3, fused=True)
        self.lr_scheduler = get_scheduler("cosine", self.optimizer, WARMUP, total_steps)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def step(self):
        if self.place + BATCH > len(self.images):
            self.order, self.place = torch.randperm(len(self.images)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        pixel_values = self.images.index_select(0, indices).float().div_(255)
        pixel_values = torch.rand(pixel_values.shape).lt_(pixel_values)
        codes = None if self.codes else self.model.encode(pixel_values).flatten(1)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision):
            loss = self.part(pixel_values)[0]["loss"] if self.codes else -self.part(codes, None).mean()
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        self.average.update_parameters(self.part)
        self.steps += 1
        if self.codes and self.steps % RESTART == 0:
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


def bench_loops(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        hub.save(VQVAEModel(VQVAEConfig()), Path(folder))
        flags = {"max_train_steps": steps, "train_batch_size": BATCH, "eval_steps": None, "mixed_precision": precision}
        flags |= {"model_name_or_path": folder}
        for part, share in (("autoencoder", 0.0), ("prior", 1.0)):
            bare = Bare(data, part, steps * (rounds + 1), precision == "bf16")
            others = train_vqvae.Model(), train_vqvae.Protocol(num_continuous_steps=0, prior_share=share)
            turns = partial(step_by_step, train_vqvae, data, bare.step, *others, **flags)
            print(f"training the {part}, steps of the recipe and of a bare loop in turn:")
            results[f"recipe / bare, {part}"] = ratio(take_turns(turns, rounds, "steps/s"), "recipe", "bare")
    return results


def bench_quantiser(data: ImageSplits, steps: int, rounds: int, precision: str) -> dict[str, float]:
    bare = Bare(data, "autoencoder", steps * (rounds + 1), precision == "bf16")
    codebook = bare.model.autoencoder.codebook
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
    for bench in (bench_loops, bench_quantiser):
        results |= bench(data, arguments.steps, arguments.rounds, arguments.mixed_precision)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
