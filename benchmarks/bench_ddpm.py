"""
How fast the diffusion recipe's step is beside a bare loop, and what the average of the weights costs, in one process.

    python benchmarks/bench_ddpm.py

All train the UNet of the preset `mnist_cpu` on 60,000 images of 28 x 28 pixels, 64 a step: MNIST when HWZOO_DATA_DIR
holds it, else random ones (the work is the same). They take turns, and the medians over the rounds are compared.

- bare: tensors in memory, index_select, diffusers' UNet and DDPMScheduler, fused Adam; no progress, log or check.
- recipe: recipes/train_ddpm.py's own `main` without averages, with its progress bar, log lines, norms of gradients and
  a checkpoint; its evaluations, which draw pictures, and its final test are left out.
- recipe, EMA: the same with averages.
"""

import argparse
import json
import statistics
import sys
import time
from dataclasses import asdict
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_ddpm
from bench_train_vae import images, recipe_speed

from hwzoo import diffusion, training
from hwzoo.data import ImageSplits

PRESET = Path(train_ddpm.__file__).parent / "configs" / "ddpm" / "mnist_cpu.yaml"
TYPES = [train_ddpm.Run, train_ddpm.Model, train_ddpm.Method]
RUN, ARCHITECTURE, METHOD = training.parse_arguments(TYPES, [f"--config={PRESET}"])
BATCH = RUN.train_batch_size


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, data: ImageSplits):
        self.images = data.train.images
        network = {name: value for name, value in asdict(ARCHITECTURE).items() if name != "padded_size"}
        self.unet = diffusion.build_unet(28, 1, **network).train()
        self.scheduler = diffusion.train_scheduler(1000, prediction_type="v_prediction")
        self.optimizer = torch.optim.Adam(self.unet.parameters(), lr=RUN.learning_rate, fused=True)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def run(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            if self.place + BATCH > len(self.images):
                self.order, self.place = torch.randperm(len(self.images)), 0
            indices = self.order[self.place : self.place + BATCH]
            self.place += BATCH
            clean = self.images.index_select(0, indices).float().div_(127.5).sub_(1)
            noise, timesteps = torch.randn_like(clean), torch.randint(1000, (BATCH,))
            noisy = self.scheduler.add_noise(clean, noise, timesteps)
            target = self.scheduler.get_velocity(clean, noise, timesteps)
            F.mse_loss(self.unet(noisy, timesteps).sample, target).backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return steps / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50, help="steps a round")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    data = images()
    bare = Bare(data)
    flags = {"max_train_steps": arguments.steps, "train_batch_size": BATCH, "eval_steps": None}

    def recipe(use_ema):
        return recipe_speed(train_ddpm, data, ARCHITECTURE, METHOD, **flags, use_ema=use_ema)

    contenders = {
        "bare": lambda: bare.run(arguments.steps),
        "recipe": lambda: recipe(False),
        "recipe, EMA": lambda: recipe(True),
    }
    speeds = {name: [] for name in contenders}
    for round_number in range(arguments.rounds + 1):
        for name, contender in contenders.items():
            speed = contender()
            if round_number:  # the first round warms up
                speeds[name].append(speed)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {data.name} images, {arguments.rounds} rounds"
    )
    for name, values in speeds.items():
        print(f"{name:>12}: {statistics.median(values):5.2f} steps/s (min {min(values):.2f}, max {max(values):.2f})")
    ratios = {
        f"{first} / {second}": statistics.median(a / b for a, b in zip(speeds[first], speeds[second], strict=True))
        for first, second in (("recipe", "bare"), ("recipe, EMA", "recipe"))
    }
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
