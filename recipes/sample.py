"""
Draws images with any zoo model or diffusion pipeline, and tells how good and how fast each sampler is.

    python recipes/sample.py outputs/ddpm --num_samples 100 --scheduler unipc --num_inference_steps 20
    python recipes/sample.py outputs/ddpm-conditional --labels 0 1 2 3 --guidance_scale 1.5
    python recipes/sample.py outputs/ddpm-mnist-cpu --dataset_name mnist --num_samples 1000 --num_repeats 3 \\
        --scheduler ddim dpm_solver unipc --num_inference_steps 10 20 50

Writes samples.png, each image as a PNG, samples.json and, with `--dataset_name`, the table of quality against steps
against seconds as table.md: FID and its floor, precision and recall as `evaluate_generator.py` has them, each the mean
over `--num_repeats` seeds with its standard error.
"""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

import torch
from accelerate import PartialState
from evaluate_generator import load_classifier, score
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel
from transformers.utils import has_file

from hwzoo import diffusion, hub, training
from hwzoo.data import ImageSplits, load_images
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import adding_to, write_bytes, write_json
from hwzoo.training import flag

SCORES = ("test_fid", "test_fid_floor", "test_precision", "test_recall")
HEADER = ("scheduler", "steps", "evaluations", "seconds", "FID", "floor", "precision", "recall")


@dataclass
class Settings(training.Flags):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a model or pipeline")
    num_samples: int = flag(100, "images of each sampler and seed", "[1, inf)")
    scheduler: list[str] = flag(["dpm_solver"], f"samplers of a pipeline, some of {', '.join(diffusion.SCHEDULERS)}")
    num_inference_steps: list[int] = flag([25], "steps of each sampler of a pipeline", "[1, inf)")
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    labels: list[int] | None = flag(
        None, "classes, one after the other over and over; when not given, as many images of each class", "[0, inf)"
    )
    seed: int = flag(0, "of the first images", "[0, 4294967295]")
    num_repeats: int = flag(1, "seeds, one after the other, for the standard errors of the table", "[1, inf)")
    dataset_name: str | None = flag(None, "what the images are scored against; as in the other recipes")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    classifier: str | None = flag(None, "folder or Hub id of a classifier; the data set's own when not given")
    eval_batch_size: int = flag(250, "images a batch", "[1, inf)")
    output_dir: str = flag("outputs/samples", "folder for pictures and numbers")
    overwrite_output_dir: bool = flag(False, "write over earlier ones")


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, device = Path(settings.output_dir), PartialState().device
    if (folder / "samples.json").exists() and not settings.overwrite_output_dir:
        raise UsageError(f"--output_dir {folder} holds samples.json; give --overwrite_output_dir or another folder")
    samplers = open_model(settings, device)
    if settings.dataset_name is not None:
        data = load_images(settings.dataset_name, settings.data_dir)
        classifier = load_classifier(data, settings.classifier).to(device)
        if not 4 <= settings.num_samples <= len(data.train):
            raise UsageError(
                f"--num_samples is {settings.num_samples}; to be scored it must be in [4, {len(data.train)}]"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HwzooError(f"--output_dir {folder} cannot be written: {error.strerror}") from error

    # 2. images, sampler by sampler and seed by seed
    results = []
    for about, draw in samplers:
        runs = []
        for seed in range(settings.seed, settings.seed + settings.num_repeats):
            generator, images, start = torch.Generator().manual_seed(seed), [], time.perf_counter()
            places = torch.arange(settings.num_samples).split(settings.eval_batch_size)
            for part in tqdm(places, desc=f"{about['scheduler']}, {about['steps']} steps", unit="batch", disable=None):
                images.append(draw(part, generator).cpu())
            images, run = torch.cat(images), {"seconds": time.perf_counter() - start}
            if settings.dataset_name is not None:
                check_size(images, data, settings)
                run |= score(
                    images,
                    data,
                    classifier,
                    f"{settings.model_name_or_path} by {about['scheduler']}, {about['steps']} steps, seed {seed}",
                )
            if seed == settings.seed:
                save_images(images, folder, "" if len(samplers) == 1 else f"{about['scheduler']}-{about['steps']}")
            runs.append(run)
        names = [name for name in ("seconds", *SCORES) if name in runs[0]]
        means = {name: fmean(run[name] for run in runs) for name in names}
        if len(runs) > 1:
            errors = {f"{name}_standard_error": stdev(run[name] for run in runs) / len(runs) ** 0.5 for name in names}
            means |= errors
        results.append(about | means | {"num_samples": settings.num_samples, "num_seeds": len(runs)})
        if "protocol" in runs[0]:
            results[-1]["protocol"] = runs[0]["protocol"]

    # 3. save
    results = {"model": settings.model_name_or_path, "seed": settings.seed, "samplers": results}
    write_json(folder / "samples.json", results)
    table = [HEADER, ["---"] * len(HEADER), *map(row_of, results["samplers"])]
    lines = [f"| {' | '.join(cells)} |" for cells in table]
    if settings.dataset_name is not None:
        write_bytes(folder / "table.md", "\n".join(lines + ["", results["samplers"][0]["protocol"], ""]).encode())
    print(*lines, f"pictures and numbers are in {folder}", sep="\n")
    return results


def open_model(settings: Settings, device: torch.device) -> list[tuple[dict, Callable[..., Tensor]]]:
    """Each sampler: (what it is, draw(places, generator) -> (len(places), channels, height, width) in [0, 1])."""
    name = settings.model_name_or_path
    if name is None:
        raise UsageError("--model_name_or_path is missing: a model or a pipeline")
    if not Path(name).is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)")
    try:
        pipeline = diffusion.load_pipeline(name).to(device) if has_file(name, "model_index.json") else None
        model = None if pipeline else hub.load(AutoModel, name, trust_remote_code=False).to(device).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if pipeline is None and not hasattr(model, "sample"):
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} has no `sample`")
    num_classes = pipeline.num_classes if pipeline else getattr(model.config, "num_classes", 0)
    if settings.labels is not None and not num_classes:
        raise UsageError(f"--labels is given, but {name} is unconditional")
    if settings.labels is not None and max(settings.labels) >= num_classes:
        raise UsageError(f"--labels has {max(settings.labels)}; the classes of {name} are 0 to {num_classes - 1}")
    if settings.guidance_scale != 1 and not (pipeline and num_classes):
        raise UsageError(f"--guidance_scale is {settings.guidance_scale}; {name} has no guidance, give 1")

    def labels_of(places):
        if not num_classes:
            return None
        if settings.labels is None:
            return places * num_classes // settings.num_samples
        return torch.tensor(settings.labels)[places % len(settings.labels)]

    if pipeline is None:

        def draw(places, generator):
            return model.sample(len(places), labels=labels_of(places), generator=generator)

        return [({"scheduler": type(model).__name__, "steps": 1, "evaluations": 1}, draw)]
    most, config, samplers = pipeline.scheduler.config.num_train_timesteps, pipeline.scheduler.config, []
    for kind, steps in product(settings.scheduler, settings.num_inference_steps):
        if steps > most:
            raise UsageError(f"--num_inference_steps is {steps}; {name} was trained with {most} timesteps")
        scheduler = diffusion.make_scheduler(kind, config)

        def draw(places, generator, scheduler=scheduler, steps=steps):
            pipeline.scheduler, labels = scheduler, labels_of(places)
            kind = {"guidance_scale": settings.guidance_scale, "num_inference_steps": steps, "output_type": "pt"}
            return pipeline(labels, batch_size=len(places), generator=generator, **kind).images

        evaluations = steps * (1 if settings.guidance_scale == 1 else 2)
        samplers.append(({"scheduler": kind, "steps": steps, "evaluations": evaluations}, draw))
    return samplers


def check_size(images: Tensor, data: ImageSplits, settings: Settings):
    given, wanted = (" x ".join(map(str, each.shape[1:])) for each in (images, data.test.images))
    if given != wanted:
        name = settings.model_name_or_path
        raise UsageError(f"--model_name_or_path {name}: its samples are {given}, the images of {data.name} {wanted}")


def save_images(images: Tensor, folder: Path, name: str):
    """samples.png, the first 200, and each image as a PNG of its own; those of an earlier call are removed."""
    from diffusers.utils import numpy_to_pil

    for stale in (folder / "images" / name).glob("*.png"):
        stale.unlink()
    training.save_image_grid(images[:200], folder / f"samples{name and f'-{name}'}.png", columns=min(20, len(images)))
    with adding_to(folder / "images" / name) as beside:
        for place, image in enumerate(numpy_to_pil(images.permute(0, 2, 3, 1).numpy())):
            image.save(beside / f"{place:05}.png")


def row_of(result: dict) -> list[str]:
    def cell(name, digits):
        if name not in result:
            return "-"
        error = result.get(f"{name}_standard_error")
        return f"{result[name]:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")

    cells = [result["scheduler"], str(result["steps"]), str(result["evaluations"]), cell("seconds", 1)]
    return cells + [cell("test_fid", 2), cell("test_fid_floor", 2), cell("test_precision", 3), cell("test_recall", 3)]


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
