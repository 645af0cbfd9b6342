"""
How fast the VAE recipe's loop is beside a bare loop, and beside the usual training script, in one process.

    python benchmarks/bench_train_vae.py

The contenders take turns, so that a change of the machine's speed meets all of them; each round times every one of
them for the same number of steps, and the medians over the rounds are compared. All train the `cs236` model
(784-300-300-10, batches of 100, Adam) with dynamic binarisation on 60,000 images of 28 x 28 pixels: MNIST when
HWZOO_DATA_DIR holds it, else random ones of the same size (the work is the same).

- bare: tensors in memory, index_select, the model, fused Adam; no progress, log, evaluation or check.
- recipe: recipes/train_vae.py's own `main` as it is run, with its progress bar, log lines, evaluations and
  checkpoints; only its final test is left out.
- recipe, bf16: the same with `--mixed_precision bf16`.
- usual script: as the libraries' example scripts do it: `datasets` with `set_transform` (a PNG decoded a sample), a
  DataLoader, everything through `accelerator.prepare`, gradient clipping, Adam as it comes, a log line a step.
- usual, 1 thread: the same with the one thread that `accelerate launch` gives a script on a CPU, which ours undoes.

A checkpoint each 1,000 steps and an evaluation each 1,000 are the recipe's defaults; make --steps a multiple.
"""

import argparse
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import get_scheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_vae
from side_by_side import images, ratio, recipe_loop, take_turns

from hwzoo import VAEConfig, VAEModel
from hwzoo.data import ImageSplits

BATCH = 100


class Bare:
    """The loop that one would write by hand."""

    def __init__(self, data: ImageSplits):
        self.images = data.train.images
        self.model = VAEModel(VAEConfig())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-3, fused=True)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def run(self, steps: int) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            if self.place + BATCH > len(self.images):
                self.order, self.place = torch.randperm(len(self.images)), 0
            indices = self.order[self.place : self.place + BATCH]
            self.place += BATCH
            pixel_values = self.images.index_select(0, indices).float().div_(255)
            pixel_values = torch.rand(pixel_values.shape).lt_(pixel_values)
            loss = self.model(pixel_values).loss
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return steps / (time.perf_counter() - start)


class Recipe:
    def __init__(self, data: ImageSplits, mixed_precision: str = "no"):
        self.data = data
        self.mixed_precision = mixed_precision

    def run(self, steps: int) -> float:
        others = train_vae.Model(), train_vae.Protocol()
        flags = {"max_train_steps": steps, "mixed_precision": self.mixed_precision}
        return steps / recipe_loop(train_vae, self.data, *others, **flags).results["train_runtime"]


class UsualScript:
    """
    What the libraries' example scripts do (diffusers' train_unconditional.py, say): a data
    set of PNGs with a transform, a DataLoader, model, optimiser, schedule and loader through `accelerator.prepare`,
    `accumulate`, gradient clipping, and each step's loss in the progress bar and the log.
    """

    def __init__(self, data: ImageSplits, num_threads: int):
        from datasets import Dataset, Features, Image
        from PIL import Image as PILImage

        self.num_threads = num_threads

        encoded = []
        for image in data.train.images[:20_000, 0].numpy():  # enough of them: an epoch is not the question
            buffer = io.BytesIO()
            PILImage.fromarray(image).save(buffer, format="PNG")
            encoded.append({"bytes": buffer.getvalue()})
        dataset = Dataset.from_dict({"image": encoded}, features=Features({"image": Image()}))

        def transform(batch):
            arrays = [np.array(image)[None] / np.float32(255) for image in batch["image"]]
            return {"pixel_values": [torch.from_numpy(array) for array in arrays]}

        dataset.set_transform(transform)
        self.accelerator = Accelerator()
        model = VAEModel(VAEConfig())
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        schedule = get_scheduler("constant", optimizer)
        loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True)
        self.model, self.optimizer, self.loader, self.schedule = self.accelerator.prepare(
            model, optimizer, loader, schedule
        )

    def batches(self):
        while True:
            yield from self.loader

    def run(self, steps: int) -> float:
        threads = torch.get_num_threads()
        torch.set_num_threads(self.num_threads)
        batches = self.batches()
        start = time.perf_counter()
        with tqdm(total=steps, file=io.StringIO()) as bar:
            for step in range(steps):
                pixel_values = torch.bernoulli(next(batches)["pixel_values"])
                with self.accelerator.accumulate(self.model):
                    loss = self.model(pixel_values).loss
                    self.accelerator.backward(loss)
                    if self.accelerator.sync_gradients:
                        self.accelerator.clip_grad_norm_(self.model.parameters(), 1.0)
                    self.optimizer.step()
                    self.schedule.step()
                    self.optimizer.zero_grad()
                bar.update()
                logs = {"loss": loss.detach().item(), "lr": self.schedule.get_last_lr()[0]}
                bar.set_postfix(**logs)
                self.accelerator.log(logs, step=step)
        speed = steps / (time.perf_counter() - start)
        torch.set_num_threads(threads)
        return speed


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1000, help="steps a round, of the usual script a quarter of it")
    parser.add_argument("--rounds", type=int, default=7, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    data = images()
    contenders = {
        "bare": Bare(data),
        "recipe": Recipe(data),
        "recipe, bf16": Recipe(data, "bf16"),
        "usual script": UsualScript(data, torch.get_num_threads()),
        "usual, 1 thread": UsualScript(data, 1),
    }
    speeds = take_turns(
        lambda: {
            name: contender.run(arguments.steps // (4 if name.startswith("usual") else 1))
            for name, contender in contenders.items()
        },
        arguments.rounds,
        "steps/s",
    )
    pairs = [("recipe", "bare"), ("recipe", "usual script"), ("recipe", "usual, 1 thread"), ("recipe, bf16", "recipe")]
    pairs += [("recipe, bf16", "bare")]
    print(json.dumps({f"{first} / {second}": ratio(speeds, first, second) for first, second in pairs}))


if __name__ == "__main__":
    main()
