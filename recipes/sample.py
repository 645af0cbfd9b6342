"""
Draws images with any zoo model or diffusion pipeline.

    python recipes/sample.py outputs/ddpm --num_samples 100 --scheduler unipc --num_inference_steps 20
    python recipes/sample.py outputs/ddpm-conditional --labels 0 1 2 3 --guidance_scale 1.5
    python recipes/sample.py outputs/vae --num_samples 200 --seed 1

Writes samples.png, each image as a PNG of its own in images/, and samples.json, which says how and in how many seconds
they were drawn. How good and how fast the samplers of a pipeline are, `compare_samplers.py` tells;
`evaluate_generator.py` scores any model.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel

from hwzoo import diffusion, hub, training
from hwzoo.errors import UsageError
from hwzoo.files import adding_to, write_json
from hwzoo.loading import TRUST
from hwzoo.retry import has_file
from hwzoo.training import flag

FAST_STEPS = 25


@dataclass
class Settings(training.Flags):
    FIRST = "model_name_or_path"

    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    model_name_or_path: str | None = flag(None, "folder or Hub id of a model or pipeline")
    trust_remote_code: bool = flag(False, TRUST)
    num_samples: int = flag(100, "how many images", "[1, inf)")
    scheduler: Literal[diffusion.SCHEDULERS] = flag("sde_dpm_solver", "sampler of a pipeline")
    spacing: str | None = flag(
        None,
        "of its steps: trailing, leading or linspace, for the last three karras, for both dpm_solvers lu; its best "
        "when not given",
    )
    num_inference_steps: int | None = flag(
        None, f"of a pipeline; all that it was trained with for ddpm, {FAST_STEPS} else, when not given", "[1, inf)"
    )
    guidance_scale: float = flag(1.0, "classifier-free guidance of a conditional pipeline; 1 is none", "[0, inf)")
    labels: list[int] | None = flag(
        None, "classes, one after the other over and over; when not given, as many images of each class", "[0, inf)"
    )
    seed: int = flag(0, "of the images", "[0, 4294967295]")
    eval_batch_size: int = flag(250, "images a batch", "[1, inf)")
    output_dir: str = flag("outputs/samples", "folder for the images and samples.json")
    overwrite_output_dir: bool = flag(False, "write over earlier ones")


def main(settings: Settings) -> dict:
    # 1. what is asked for: all of it is found, or told to be wrong, before hours of sampling
    folder, name = Path(settings.output_dir), settings.model_name_or_path
    if (folder / "samples.json").exists() and not settings.overwrite_output_dir:
        raise UsageError(f"--output_dir {folder} holds samples.json; give --overwrite_output_dir or another folder")
    model = load_generator(name, PartialState().device, settings.trust_remote_code)
    is_pipeline = hasattr(model, "scheduler")
    num_classes = model.num_classes if is_pipeline else getattr(model.config, "num_classes", 0)
    check_guidance(settings.guidance_scale, model, name)
    results, call = {"model": name}, {}
    if is_pipeline:
        most = model.scheduler.config.num_train_timesteps
        steps = settings.num_inference_steps or (most if settings.scheduler == "ddpm" else min(FAST_STEPS, most))
        check_steps(steps, model, name)
        model.scheduler = diffusion.make_scheduler(settings.scheduler, model.scheduler.config, settings.spacing)
        call = {"num_inference_steps": steps, "guidance_scale": settings.guidance_scale}
        results |= {"scheduler": settings.scheduler, **call}
    if settings.labels is None:
        labels = torch.arange(settings.num_samples) * num_classes // settings.num_samples if num_classes else None
    else:
        if max(settings.labels) >= num_classes:
            known = f"the classes of {name} are 0 to {num_classes - 1}" if num_classes else f"{name} has no classes"
            raise UsageError(f"--labels has {max(settings.labels)}; {known}")
        labels = torch.tensor(settings.labels)[torch.arange(settings.num_samples) % len(settings.labels)]
    training.make_output_dir(folder)

    # 2. images
    images, seconds = draw(model, settings.num_samples, labels, settings.seed, settings.eval_batch_size, **call)

    # 3. save
    results |= {"num_samples": settings.num_samples, "seed": settings.seed, "seconds": round(seconds, 3)}
    save_images(images, folder)
    write_json(folder / "samples.json", results)
    print(f"{len(images)} images in {seconds:.1f} s; they are in {folder}")
    return results


def load_generator(name: str | None, device: torch.device, trust_remote_code: bool | None = None) -> Any:
    """
    A pipeline of a UNet2DModel (it has a `scheduler`), or a model with the zoo's `sample`, in eval mode.

    Args:
        trust_remote_code: as in `hub.load`; the code of a pipeline is never run.
    """
    if name is None:
        raise UsageError("--model_name_or_path is missing: a model or a pipeline")
    if not Path(name).is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)")
    try:
        if has_file(name, "model_index.json"):
            return diffusion.load_pipeline(name).to(device)
        model = hub.load(AutoModel, name, trust_remote_code).to(device).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not hasattr(model, "sample"):
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} has no `sample`")
    return model


def check_guidance(guidance_scale: float, model: Any, name: str):
    if guidance_scale != 1 and not (hasattr(model, "scheduler") and model.num_classes):
        raise UsageError(f"--guidance_scale is {guidance_scale}; {name} is no conditional pipeline, give 1")


def check_steps(steps: int, pipeline: Any, name: str):
    most = pipeline.scheduler.config.num_train_timesteps
    if steps > most:
        raise UsageError(f"--num_inference_steps is {steps}; {name} was trained with {most} timesteps")


def draw(
    model: Any, num_samples: int, labels: Tensor | None, seed: int, batch_size: int, **call: Any
) -> tuple[Tensor, float]:
    """
    Images of a pipeline or a model of `load_generator`, and the seconds that they took.

    Args:
        labels: (num_samples,), or None for a model without classes.
        call: of the pipeline: its steps and guidance.

    Returns:
        (num_samples, channels, height, width) in [0, 1], on the CPU; seconds.
    """
    generator, images, start = torch.Generator().manual_seed(seed), [], time.perf_counter()
    for part in tqdm(torch.arange(num_samples).split(batch_size), desc="samples", unit="batch", disable=None):
        own = None if labels is None else labels[part]
        if hasattr(model, "scheduler"):
            drawn = model(own, batch_size=len(part), generator=generator, output_type="pt", **call).images
        else:
            drawn = model.sample(len(part), labels=own, generator=generator)
        images.append(drawn.detach().cpu())
    return torch.cat(images), time.perf_counter() - start


def save_images(images: Tensor, folder: Path):
    """samples.png, the first 200, and each image as a PNG of its own; those of an earlier call are removed."""
    from diffusers.utils import numpy_to_pil

    for stale in (folder / "images").glob("*.png"):
        stale.unlink()
    training.save_image_grid(images[:200], folder / "samples.png", columns=min(20, len(images)))
    with adding_to(folder / "images") as beside:
        for place, image in enumerate(numpy_to_pil(images.permute(0, 2, 3, 1).numpy())):
            image.save(beside / f"{place:05}.png")


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
