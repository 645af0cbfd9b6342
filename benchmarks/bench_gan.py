"""
How fast the GAN recipe's loop is beside a bare loop of two optimisers, in one process.

    python benchmarks/bench_gan.py

Both train the networks of the preset `cs274e` on 60,000 images of 28 x 28 pixels, 64 a step: Fashion-MNIST when
HWZOO_DATA_DIR holds it, else random ones (the work is the same). They take turns at each step, and the medians over
the rounds are compared.

- bare: tensors in memory, index_select, two networks, two fused Adams; no progress, log, grid or check.
- recipe: recipes/train_gan.py's own `main` as it is run, with its progress bar, log lines (accuracies and norms of
  gradients), a grid each 50 steps and checkpoints; only its final test is left out.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_gan
from side_by_side import images, ratio, step_by_step, take_turns

from hwzoo import GANConfig, GANModel
from hwzoo.data import ImageSplits

BATCH = 64


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, data: ImageSplits):
        self.images = data.train.images
        self.model = GANModel(GANConfig()).to(memory_format=torch.channels_last).train()
        networks = self.model.generator, self.model.discriminator
        self.optimizers = [
            torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999), fused=True) for network in networks
        ]
        self.order, self.place = torch.randperm(len(self.images)), 0

    def step(self):
        generator, discriminator = self.model.generator, self.model.discriminator
        if self.place + BATCH > len(self.images):
            self.order, self.place = torch.randperm(len(self.images)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        real = self.images.index_select(0, indices).float().div_(255)
        with torch.no_grad():
            fake = generator(torch.randn(BATCH, 64))
        logits_real, logits_fake = discriminator(torch.cat([real, fake])).chunk(2)
        (F.softplus(-logits_real).mean() + F.softplus(logits_fake).mean()).backward()
        self.optimizers[1].step()
        self.optimizers[1].zero_grad()
        discriminator.requires_grad_(False)
        F.softplus(-discriminator(generator(torch.randn(BATCH, 64)))).mean().backward()
        discriminator.requires_grad_(True)
        self.optimizers[0].step()
        self.optimizers[0].zero_grad()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=500, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    data = images("fashion_mnist")
    bare = Bare(data)
    flags = {"max_train_steps": arguments.steps, "train_batch_size": BATCH, "learning_rate": 1e-3}
    speeds = take_turns(
        lambda: step_by_step(train_gan, data, bare.step, train_gan.Model(), train_gan.Method(), **flags),
        arguments.rounds,
        "steps/s",
    )
    print(json.dumps({"recipe / bare": ratio(speeds, "recipe", "bare")}))


if __name__ == "__main__":
    main()
