"""
The diffusion recipe's loop beside that of diffusers' example `train_unconditional.py`, in one process.

    pip install -e . torchvision tensorboard
    HWZOO_DATA_DIR=... python benchmarks/peers/diffusers_unconditional.py --script PATH/train_unconditional.py

The script is no part of diffusers' package: it stands in examples/unconditional_image_generation of its repository, at
the tag of the version that is installed. It imports torchvision, whose wheels on PyPI fit the torch wheels of PyPI of
the same release alone.

Both train the UNet of the preset `mnist_cpu` on the same images, three channels each, as the script makes every image
RGB, by the noise, with averaged weights, clipped gradients and one log line a step for TensorBoard (the script) or a
line in fifty steps (the recipe). A round is so many steps of each, from the first batch to the last step; a model's
building, the loading of data and the pictures at the end are left out.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import logging
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import datasets
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench_ddpm import ARCHITECTURE, BATCH, METHOD, NETWORK, train_ddpm
from side_by_side import images, ratio, recipe_loop, take_turns

from hwzoo import diffusion
from hwzoo.data import ImageSet, ImageSplits


def coloured(part: ImageSet, num: int) -> ImageSet:
    return replace(part, images=part.images[:num].expand(-1, 3, -1, -1).contiguous(), labels=part.labels[:num])


def script_of(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_unconditional", path)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def script_steps_per_second(script: ModuleType, folder: Path, flags: list[str]) -> float:
    seconds = []

    class Timed(script.tqdm):
        """From the bar that is made before the first batch to its end after the last step."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.begun = time.perf_counter()

        def close(self):
            if self.n == self.total:
                seconds.append((time.perf_counter() - self.begun) / self.n)
            super().close()

    timed, script.tqdm = script.tqdm, Timed
    argv, sys.argv = sys.argv, ["train_unconditional.py", f"--output_dir={folder}", *flags]
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            script.main(script.parse_args())
    finally:
        script.tqdm, sys.argv = timed, argv
    return 1 / seconds[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--script", type=Path, required=True, help="diffusers' train_unconditional.py")
    parser.add_argument("--steps", type=int, default=60, help="steps of each in a round")
    parser.add_argument("--rounds", type=int, default=3, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    script = script_of(arguments.script)
    logging.disable(logging.INFO)
    datasets.disable_progress_bars()
    data = images()
    data = ImageSplits(data.name, coloured(data.train, arguments.steps * BATCH), coloured(data.test, 10))
    method = replace(METHOD, prediction_type="epsilon")

    with tempfile.TemporaryDirectory() as folder:
        unet, pictures = Path(folder, "unet"), Path(folder, "data", "train.parquet")
        diffusion.build_unet(28, 3, **NETWORK).save_config(unet)
        pictures.parent.mkdir()
        shown = [Image.fromarray(each) for each in data.train.images.permute(0, 2, 3, 1).numpy()]
        kinds = datasets.Features({"image": datasets.Image()})
        datasets.Dataset.from_dict({"image": shown}, features=kinds).to_parquet(pictures)
        flags = {
            "dataset_name": pictures.parent,
            "cache_dir": Path(folder, "cache"),
            "model_config_name_or_path": unet,
            "resolution": 28,
            "train_batch_size": BATCH,
            "num_epochs": 1,
            "ddpm_num_inference_steps": 1,
            "eval_batch_size": 1,
        }
        flags = ["--use_ema", *(f"--{name}={value}" for name, value in flags.items())]

        def contenders() -> dict[str, float]:
            # Threads as they are: those of the process, which the script takes, too.
            own = {"max_train_steps": arguments.steps, "train_batch_size": BATCH, "eval_steps": None}
            own |= {"use_ema": True, "max_grad_norm": 1.0, "num_threads": torch.get_num_threads()}
            results = recipe_loop(train_ddpm, data, ARCHITECTURE, method, **own).results
            theirs = script_steps_per_second(script, Path(folder, "out"), flags)
            return {"recipe": arguments.steps / results["train_runtime"], "diffusers": theirs}

        speeds = take_turns(contenders, arguments.rounds, "steps/s")
    print(json.dumps({"recipe / diffusers": ratio(speeds, "recipe", "diffusers")}))


if __name__ == "__main__":
    main()
