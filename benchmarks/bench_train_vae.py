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
import contextlib
import io
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from tqdm import tqdm
from transformers import get_scheduler

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_vae

from hwzoo import VAEConfig, VAEModel
from hwzoo.data import ImageSet, ImageSplits, load_images

BATCH = 100


def images(name: str = "mnist") -> ImageSplits:
    folder = os.environ.get("HWZOO_DATA_DIR")
    if folder and (Path(folder) / name).is_dir():
        return load_images(name, folder)
    generator = torch.Generator().manual_seed(0)
    sets = []
    for num in (60_000, 10_000):
        pixels = torch.randint(0, 256, (num, 1, 28, 28), dtype=torch.uint8, generator=generator)
        sets.append(ImageSet(pixels, torch.arange(num) % 10, tuple("0123456789")))
    return ImageSplits("random", *sets)


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


def recipe_speed(recipe, data: ImageSplits, *arguments, **flags) -> float:
    """Steps a second of a recipe's own `main`, up to the end of its loop; `flags` are those of its `Run`."""
    recipe.load_images = lambda *args: data
    with tempfile.TemporaryDirectory() as folder:
        run = recipe.Run(output_dir=folder, **flags)
        fitted = result_of_loop(recipe.training, "fit", lambda: recipe.main(run, *arguments))
    return run.max_train_steps / fitted.results["train_runtime"]


def result_of_loop(holder, name: str, main: Callable[[], object]):
    """What the loop that `holder` has under a name gives, where `main` comes to it; nothing after it is run."""
    loop = getattr(holder, name)

    class Done(Exception):
        pass

    def loop_and_leave(*args, **kwargs):
        raise Done(loop(*args, **kwargs))

    setattr(holder, name, loop_and_leave)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            main()
    except Done as done:
        return done.args[0]
    finally:
        setattr(holder, name, loop)
    raise RuntimeError("the recipe ended without its loop")


class Recipe:
    def __init__(self, data: ImageSplits, mixed_precision: str = "no"):
        self.data = data
        self.mixed_precision = mixed_precision

    def run(self, steps: int) -> float:
        others = train_vae.Model(), train_vae.Protocol()
        return recipe_speed(train_vae, self.data, *others, max_train_steps=steps, mixed_precision=self.mixed_precision)


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
    speeds = {name: [] for name in contenders}
    for round_number in range(arguments.rounds + 1):
        for name, contender in contenders.items():
            speed = contender.run(arguments.steps // (4 if name.startswith("usual") else 1))
            if round_number:  # the first round warms up
                speeds[name].append(speed)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {data.name} images, {arguments.rounds} rounds"
    )
    for name, values in speeds.items():
        print(f"{name:>15}: {medians[name]:7.1f} steps/s (min {min(values):.1f}, max {max(values):.1f})")
    ratios = {
        "recipe / bare": statistics.median(a / b for a, b in zip(speeds["recipe"], speeds["bare"], strict=True)),
        "recipe / usual script": medians["recipe"] / medians["usual script"],
        "recipe / usual, 1 thread": medians["recipe"] / medians["usual, 1 thread"],
        "recipe, bf16 / recipe": medians["recipe, bf16"] / medians["recipe"],
    }
    print(json.dumps({name: round(value, 3) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
