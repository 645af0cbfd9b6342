"""
How fast the diffusion recipe's step is beside a bare loop, and what the average of the weights costs, in one process.

    python benchmarks/bench_ddpm.py

All train the UNet of the preset `mnist_cpu` on 60,000 images of 28 x 28 pixels, 64 a step: MNIST when HWZOO_DATA_DIR
holds it, else random ones (the work is the same). A recipe and the bare loop take turns at each step, and the medians
over the rounds are compared.

- bare: tensors in memory, index_select, diffusers' UNet and DDPMScheduler, fused Adam; no progress, log or check.
- recipe: recipes/train_ddpm.py's own `main` without averages, with its progress bar, log lines, norms of gradients and
  a checkpoint; its evaluations, which draw pictures, and its final test are left out.
- recipe, EMA: the same with averages.
- recipe, patches: without averages, as many parameters on patches of 2 x 2 pixels (`--patch_size 2
  --block_out_channels 32 64 --mixed_precision bf16`).
"""

import argparse
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_ddpm
from side_by_side import images, ratio, step_by_step, take_turns

from hwzoo import diffusion, training
from hwzoo.data import ImageSplits

PRESET = Path(train_ddpm.__file__).parent / "configs" / "ddpm" / "mnist_cpu.yaml"
TYPES = [train_ddpm.Run, train_ddpm.Model, train_ddpm.Method]
RUN, ARCHITECTURE, METHOD = training.parse_arguments(TYPES, [f"--config={PRESET}"])
BATCH = RUN.train_batch_size
NETWORK = {name: value for name, value in asdict(ARCHITECTURE).items() if name not in ("padded_size", "patch_size")}
PATCHES = replace(ARCHITECTURE, patch_size=2, block_out_channels=[32, 64])
KINDS = {"recipe": (ARCHITECTURE, {"use_ema": False}), "recipe, EMA": (ARCHITECTURE, {"use_ema": True})}
KINDS["recipe, patches"] = PATCHES, {"use_ema": False, "mixed_precision": "bf16"}


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, data: ImageSplits):
        self.images = data.train.images
        self.unet = diffusion.build_unet(28, 1, **NETWORK).train()
        self.scheduler = diffusion.train_scheduler(1000, prediction_type="v_prediction")
        self.optimizer = torch.optim.Adam(self.unet.parameters(), lr=RUN.learning_rate, fused=True)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def step(self):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    data = images()
    bare = Bare(data)
    flags = {"max_train_steps": arguments.steps, "train_batch_size": BATCH, "eval_steps": None}

    def contenders():
        speeds = {}
        for name, (architecture, own) in KINDS.items():
            turns = step_by_step(train_ddpm, data, bare.step, architecture, METHOD, **flags, **own)
            # Each beside the bare loop that ran with it.
            speeds |= {f"bare of {name}": turns["bare"], name: turns["recipe"]}
            speeds[f"{name} / bare"] = turns["recipe"] / turns["bare"]
        return speeds

    speeds = take_turns(contenders, arguments.rounds, "steps/s (or their ratio)")
    ratios = {"recipe / bare": ratio(speeds, "recipe", "bare of recipe")}
    for name in ("recipe, EMA", "recipe, patches"):
        ratios[f"{name} / recipe"] = ratio(speeds, f"{name} / bare", "recipe / bare")
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
