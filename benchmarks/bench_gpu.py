"""
What a GPU makes of the recipes' models: float32, bfloat16, compiled, and the whole step as a CUDA graph.

    python benchmarks/bench_gpu.py
    python benchmarks/bench_gpu.py --device cpu --seconds 0.5 --rounds 1 --batches 100

It runs unattended, made for less than ten minutes of a GPU with its defaults, and ends with a line of JSON: images a
second, the median over the rounds in which the contenders of a batch size take turns. On a CPU the graphs are left
out. MNIST when HWZOO_DATA_DIR holds it, else random images (the work is the same; then nothing is said of nats).

- vae: the model of the preset `cs236`, dynamic binarisation; diffusion: the conditional UNet of `ift6135`, 32 x 32.
- recipe: the own loop of recipes/train_vae.py and train_ddpm.py with the preset's batch size, in both precisions,
  with progress bar, log and checkpoints; evaluations and final tests are left out.
- The others are bare loops: images on the device, the loss, fused Adam. `compiled` is bfloat16 through torch.compile;
  a `graph` is one replay for forward, backward and update, so that the host starts nothing in between.
- to 100 nats: seconds of training, by graphs in float32 (on a CPU without them) at the preset's batch size and rate,
  until the bound of 1,000 test images, looked at every 1,000 steps, is below 100.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_ddpm
import train_vae
from side_by_side import images, recipe_loop, take_turns

from hwzoo import VAEConfig, VAEModel, diffusion, training
from hwzoo.data import ImageSplits, binarize
from hwzoo.errors import first_line

PRESET = Path(train_ddpm.__file__).parent / "configs" / "ddpm" / "ift6135.yaml"
TYPES = [train_ddpm.Run, train_ddpm.Model, train_ddpm.Method]
RUN, ARCHITECTURE, METHOD = training.parse_arguments(TYPES, [f"--config={PRESET}"])
VAE_BATCH, NATS, WATCHED, MOST_STEPS = 100, 100, 1000, 40_000
WAYS = ("float32", "bfloat16", "compiled", "graph, float32", "graph, bfloat16")


class Bare:
    """
    The loop that one would write by hand.

    Args:
        model: new.
        loss_of: gives the loss from the model and a batch of images in [0, 1].
        images: uint8, on the device.
        batch: images a step.
        learning_rate: of Adam.
        way: one of WAYS.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        loss_of: Callable,
        images: torch.Tensor,
        batch: int,
        learning_rate: float,
        way: str,
    ):
        self.model, self.loss_of, self.images = model.to(images.device).train(), loss_of, images
        self.network = torch.compile(model, dynamic=False) if way == "compiled" else model
        self.low, graph = "float32" not in way, way.startswith("graph")
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, fused=True, capturable=graph)
        self.pixel_values = torch.empty(batch, *images.shape[1:], device=images.device)
        self.learn = self._graph() if graph else self._learn

    def _learn(self):
        # Weights that autocast keeps from one replay for the next would be old ones.
        kind = {"dtype": torch.bfloat16, "enabled": self.low, "cache_enabled": False}
        with torch.autocast(self.images.device.type, **kind):
            loss = self.loss_of(self.network, self.pixel_values)
        loss.backward()
        self.optimizer.step()
        for parameter in self.model.parameters():
            parameter.grad = None

    def _graph(self) -> Callable[[], None]:
        self._fill()
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):  # whatever is set up at the first steps must not be recorded
            for _ in range(3):
                self._learn()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._learn()
        return graph.replay

    def _fill(self):
        indices = torch.randint(len(self.images), (len(self.pixel_values),), device=self.images.device)
        self.pixel_values.copy_(self.images.index_select(0, indices)).div_(255)

    def step(self):
        self._fill()
        self.learn()

    def images_per_second(self, seconds: float) -> float:
        wait(self.images.device)
        start, steps = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            for _ in range(10 if self.images.device.type != "cpu" else 1):  # the device works on behind the host
                self.step()
                steps += 1
            wait(self.images.device)
        return steps * len(self.pixel_values) / (time.perf_counter() - start)


def wait(device: torch.device):
    if device.type == "cuda":
        torch.cuda.synchronize()


def new_vae() -> VAEModel:
    torch.manual_seed(0)
    return VAEModel(VAEConfig())


def vae_loss(model: torch.nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    return model(torch.rand_like(pixel_values).lt_(pixel_values)).loss


def new_unet() -> torch.nn.Module:
    torch.manual_seed(0)
    return diffusion.build_unet(28, 1, num_classes=10, **asdict(ARCHITECTURE))


def diffusion_loss(alphas_cumprod: torch.Tensor, unet: torch.nn.Module, pixel_values: torch.Tensor) -> torch.Tensor:
    clean = diffusion.clean_images(pixel_values, ARCHITECTURE.padded_size)
    num, device = len(clean), clean.device
    timesteps, labels = (torch.randint(most, (num,), device=device) for most in (len(alphas_cumprod), 11))
    noise, kind = torch.randn_like(clean), {"prediction_type": METHOD.prediction_type, "labels": labels}
    return diffusion.diffusion_loss(unet, clean, noise, timesteps, alphas_cumprod, **kind)


def side_by_side(name: str, new: Callable, loss_of: Callable, rate: float, pixels: torch.Tensor, batch: int, asked):
    """Images a second of the bare loops with a batch size, by name."""
    loops = {}
    for way in asked.ways:
        try:
            loops[way] = Bare(new(), loss_of, pixels, batch, rate, way)
            loops[way].step()
        except Exception as error:  # no compiler, too little memory: the others are measured all the same
            loops.pop(way, None)
            print(f"{name}, {batch} images a step, {way} is left out: {type(error).__name__}: {first_line(error)}")
    print(f"{name}, {batch} images a step:")
    speeds = take_turns(
        lambda: {way: loop.images_per_second(asked.seconds) for way, loop in loops.items()}, asked.rounds, "images/s"
    )
    return {f"{name}, {batch}, {way}": round(statistics.median(each), 1) for way, each in speeds.items()}


def recipes(data: ImageSplits, asked) -> dict[str, float]:
    """Images a second of both recipes' loops, by name."""
    kinds = {
        "vae": (train_vae, asked.recipe_batches[0], (train_vae.Model(), train_vae.Protocol()), 20 * asked.steps),
        "diffusion": (train_ddpm, asked.recipe_batches[1], (ARCHITECTURE, METHOD), asked.steps),
    }

    def contenders() -> dict[str, float]:
        speeds = {}
        for name, (recipe, batch, others, steps) in kinds.items():
            for precision in ("no", "bf16"):
                flags = {"max_train_steps": steps, "train_batch_size": batch, "mixed_precision": precision}
                results = recipe_loop(recipe, data, *others, **flags, eval_steps=None).results
                precision = {"no": "float32", "bf16": "bfloat16"}[precision]
                speeds[f"{name}, {batch}, recipe, {precision}"] = steps * batch / results["train_runtime"]
        return speeds

    print("the recipes' loops:")
    speeds = take_turns(contenders, asked.rounds, "images/s")
    return {name: round(statistics.median(each), 1) for name, each in speeds.items()}


def seconds_to(nats: float, data: ImageSplits, pixels: torch.Tensor, most: int) -> float | None:
    """Seconds of training until the bound of test images is below `nats`; None where `most` steps do not do."""
    way = "graph, float32" if pixels.is_cuda else "float32"
    loop = Bare(new_vae(), vae_loss, pixels, VAE_BATCH, 1e-3, way)
    watched, seconds = data.test.spread(WATCHED).pixel_values(), 0.0
    watched = binarize(watched, torch.rand(watched.shape, generator=torch.Generator().manual_seed(0))).to(
        pixels.device
    )
    for _ in range(0, most, 1000):
        start = time.perf_counter()
        for _ in range(1000):
            loop.step()
        wait(pixels.device)
        seconds += time.perf_counter() - start
        with torch.no_grad():
            bound = loop.model.negative_elbo_bound(watched)[0].mean().item()
        if bound < nats:
            return round(seconds, 2)
    return None


def device_of(name: str) -> torch.device:
    if name.partition(":")[0] not in ("cpu", "cuda"):  # the recipes run on one of the two
        raise argparse.ArgumentTypeError(f"{name} is neither cuda nor cpu")
    return torch.device(name)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", type=device_of, default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seconds", type=float, default=2, help="of each contender in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the medians over them count")
    parser.add_argument("--batches", type=int, nargs="+", default=[100, 1000, 10_000], help="images a step of the VAE")
    parser.add_argument("--diffusion_batches", type=int, nargs="+", default=[64, 256, 1024], help="those of the UNet")
    own = [VAE_BATCH, RUN.train_batch_size]
    parser.add_argument("--recipe_batches", type=int, nargs=2, default=own, help="both recipes': of VAE and UNet")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="of the bare loops")
    parser.add_argument(
        "--steps", type=int, default=100, help="of the diffusion recipe in a round, 20 times for the VAE"
    )
    parser.add_argument("--most_steps", type=int, default=MOST_STEPS, help="on the way to 100 nats; 0 leaves it out")
    asked = parser.parse_args()
    device, data = asked.device, images()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    else:
        os.environ["ACCELERATE_USE_CPU"] = "1"  # for the recipes
        asked.ways = [way for way in asked.ways if not way.startswith("graph")]
    print(torch.cuda.get_device_name() if device.type == "cuda" else "no GPU: the CPU")
    pixels, results = data.train.images.to(device), recipes(data, asked)
    alphas_cumprod = diffusion.alphas_cumprod(diffusion.train_scheduler(METHOD.num_train_timesteps), device)
    for batch in asked.batches:
        results |= side_by_side("vae", new_vae, vae_loss, 1e-3, pixels, batch, asked)
    for batch in asked.diffusion_batches:
        loss_of = partial(diffusion_loss, alphas_cumprod)
        results |= side_by_side("diffusion", new_unet, loss_of, RUN.learning_rate, pixels, batch, asked)
    if data.name != "random" and asked.most_steps:
        results["seconds to 100 nats"] = seconds_to(NATS, data, pixels, asked.most_steps)
    if device.type == "cuda":
        results["peak memory, GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    print(json.dumps(results))


if __name__ == "__main__":
    main()
