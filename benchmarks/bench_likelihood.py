"""
How fast models with likelihoods train: autoregressive ones and flows; how fast the autoregressive ones learn and draw.

    python benchmarks/bench_likelihood.py
    python benchmarks/bench_likelihood.py --cpu_minutes 0 --rounds 0

The data are 60,000 images of 28 x 28 pixels, binarised at every step, for flows dequantised: MNIST when HWZOO_DATA_DIR
holds it, else random ones (the work is the same, the likelihoods say nothing then).

- Loop: the own `main` of recipes/train_autoregressive.py and of train_flow.py as they are run (their default networks,
  averaged weights, progress bar, log, checkpoints; the evaluations and the final tests are left out) and a bare loop
  of the same model, optimiser, schedule and average take turns at each step; the medians over the rounds are compared.
- Learning: nats per image on 1,000 test images after so many minutes of the processor (all threads added up), for the
  transformer, a plain PixelCNN of the course's kind with as many parameters, and the residual PixelCNN of 32 channels
  and 15 blocks that others publish; batches of 32, Adam at 4e-3, warmed up and then falling like a cosine; bfloat16
  where the processor has instructions for it.
- Sampling: seconds for so many images with the cache; without it some of the passes that a sample takes are timed.
"""

import argparse
import functools
import json
import math
import resource
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_autoregressive
import train_flow
from side_by_side import images, ratio, step_by_step, take_turns
from transformers import get_scheduler

from hwzoo import AutoregressiveConfig, AutoregressiveModel, FlowConfig, FlowModel
from hwzoo.data import ImageSplits
from hwzoo.training import averaged_model
from hwzoo.training.arguments import has_bfloat16

BATCH, WARMUP = 32, 100
NETWORKS = {
    "transformer": {},
    "plain PixelCNN": dict(
        network="pixelcnn", residual=False, hidden_size=97, head_hidden_size=97, num_layers=5, kernel_size=7
    ),
    "residual PixelCNN": dict(network="pixelcnn", hidden_size=32, head_hidden_size=32, num_layers=15),
}


def binarised_loss(model, pixel_values):
    return model(torch.rand(pixel_values.shape).lt_(pixel_values)).loss


def dequantised_loss(model, pixel_values):
    return model(pixel_values, noise=torch.rand(pixel_values.shape)).loss


# By name: the recipe, its default model and its loss.
LOOPS = {
    "autoregressive": (train_autoregressive, lambda: AutoregressiveModel(AutoregressiveConfig()), binarised_loss),
    "flow": (train_flow, lambda: FlowModel(FlowConfig()), dequantised_loss),
}


class Bare:
    """
    The loop that one would write by hand.

    Args:
        data: the images.
        model: new.
        learning_rate: its peak.
        scheduler: gives the schedule of an optimiser, as `get_scheduler` does.
        loss_of: the loss of a model and a batch of grey images.
        mixed_precision: whether matrix products are in bfloat16.
    """

    def __init__(
        self,
        data: ImageSplits,
        model: torch.nn.Module,
        learning_rate: float,
        scheduler,
        loss_of=binarised_loss,
        mixed_precision: bool = False,
    ):
        self.images, self.loss_of, self.mixed_precision = data.train.images, loss_of, mixed_precision
        self.model = model.train().to(memory_format=torch.channels_last)
        if isinstance(model, FlowModel):
            model.initialize(data.train.pixel_values(slice(train_flow.NUM_FIRST_IMAGES)))
        self.average = averaged_model(self.model, 0.998)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=learning_rate, fused=True)
        self.lr_scheduler = scheduler(self.optimizer)
        self.order, self.place = torch.randperm(len(self.images)), 0

    def step(self):
        if self.place + BATCH > len(self.images):
            self.order, self.place = torch.randperm(len(self.images)), 0
        indices = self.order[self.place : self.place + BATCH]
        self.place += BATCH
        pixel_values = self.images.index_select(0, indices).float().div_(255)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed_precision):
            loss = self.loss_of(self.model, pixel_values)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.lr_scheduler.step()
        self.average.update_parameters(self.model)


def bench_loop(data: ImageSplits, steps: int, rounds: int) -> dict[str, float]:
    def scheduler(optimizer):
        return get_scheduler("cosine", optimizer, WARMUP, steps * (rounds + 1))

    results = {}
    for name, (recipe, make_model, loss_of) in LOOPS.items():
        torch.manual_seed(0)
        bare = Bare(data, make_model(), 2e-3, scheduler, loss_of)
        others = recipe.Model(), recipe.Protocol()
        flags = {"max_train_steps": steps, "train_batch_size": BATCH, "eval_steps": None}
        print(f"training, {name}, steps of the recipe and of a bare loop in turn:")
        in_turn = functools.partial(step_by_step, recipe, data, bare.step, *others, **flags)
        speeds = take_turns(in_turn, rounds, "steps/s")
        results[f"{name}, recipe / bare"] = ratio(speeds, "recipe", "bare")
    return results


def nats_after(data: ImageSplits, config: dict, cpu_minutes: float) -> tuple[float, int]:
    """Nats per image on 1,000 test images, and the number of steps."""

    def scheduler(optimizer):
        def rate(step: int) -> float:  # the time decides, not the step
            done = (time.process_time() - start) / (60 * cpu_minutes)
            return min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

        return torch.optim.lr_scheduler.LambdaLR(optimizer, rate)

    start, steps = time.process_time(), 0
    torch.manual_seed(0)
    model = AutoregressiveModel(AutoregressiveConfig(**config))
    bare = Bare(data, model, 4e-3, scheduler, mixed_precision=has_bfloat16())
    start = time.process_time()
    while time.process_time() - start < 60 * cpu_minutes:
        bare.step()
        steps += 1
    tests = data.test.select(torch.arange(1000) * len(data.test) // 1000).binarized(0)
    with torch.no_grad():
        parts = [bare.average.module.log_prob(tests.pixel_values(part)) for part in torch.arange(1000).split(100)]
    return -torch.cat(parts).mean().item(), steps


def bench_learning(data: ImageSplits, cpu_minutes: float) -> dict[str, float]:
    precision = "bfloat16" if has_bfloat16() else "float32"
    print(f"learning in {precision}, {cpu_minutes:g} minutes of the processor each:")
    results = {}
    for name, config in NETWORKS.items():
        nats, steps = nats_after(data, config, cpu_minutes)
        size = sum(each.numel() for each in AutoregressiveModel(AutoregressiveConfig(**config)).parameters())
        print(f"{name:>34}: {nats:8.2f} nats, {size} parameters, {steps} steps")
        results[f"nats, {name}"] = round(nats, 2)
    return results


def bench_sampling(num_samples: int, passes: int) -> dict[str, float]:
    gated = dict(network="gated_pixelcnn", hidden_size=32, head_hidden_size=32, num_layers=7)
    results = {}
    print(f"sampling, {num_samples} images:")
    best = dict(head_hidden_size=512)  # of the preset
    for name, config in {**NETWORKS, "gated PixelCNN": gated, "best": best}.items():
        model = AutoregressiveModel(AutoregressiveConfig(**config)).eval()
        start = time.perf_counter()
        samples = model.sample(num_samples, generator=torch.Generator().manual_seed(0))
        cached = time.perf_counter() - start
        start = time.perf_counter()
        with torch.no_grad():
            for _ in range(passes):
                model.logits(samples)
        uncached = (time.perf_counter() - start) / passes * samples[0].numel()
        print(f"{name:>34}: {cached:8.2f} s with the cache, {uncached:.0f} s without ({passes} passes timed)")
        results[f"with / without cache, {name}"] = round(uncached / cached, 1)
    return results


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="steps of each in a round of the loop")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the loop, 0 for none")
    parser.add_argument("--cpu_minutes", type=float, default=10.0, help="minutes of learning, 0 for none")
    parser.add_argument("--num_samples", type=int, default=200, help="images that are drawn at once")
    parser.add_argument("--passes", type=int, default=4, help="passes that are timed without the cache")
    arguments = parser.parse_args()
    data, results = images(), {}
    if arguments.rounds:
        results |= bench_loop(data, arguments.steps, arguments.rounds)
    if arguments.cpu_minutes:
        results |= bench_learning(data, arguments.cpu_minutes)
    results |= bench_sampling(arguments.num_samples, arguments.passes)
    print(f"peak memory: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")
    print(json.dumps(results))


if __name__ == "__main__":
    main()
