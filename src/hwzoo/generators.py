"""What makes images: any zoo model with `sample`, any pipeline of diffusers, or a folder of images."""

import inspect
import math
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModel

from . import diffusion, hub
from .errors import HwzooError, UsageError
from .loading import check_finite, loading
from .retry import has_file, retried


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


def open_generator(
    name: str,
    device: torch.device,
    *,
    output_dir: Path,
    scheduler: str | None = None,
    num_inference_steps: int | None = None,
    trust_remote_code: bool = False,
) -> tuple[Callable[..., Tensor], str, float]:
    """
    Whatever makes images: a zoo model, a pipeline of diffusers that makes them from nothing, or a folder of them.

    Args:
        name: folder or Hub id.
        device: for the model.
        output_dir: where the caller writes; not into a folder of images.
        scheduler: of a pipeline; its own when None.
        num_inference_steps: of a pipeline; its own default when None.
        trust_remote_code: whether code that comes with it is run.

    Returns:
        `sample(indices, num_samples, generator)`, which gives (len(indices), channels, height, width) in [0, 1]; a
        description for the protocol; the most images that it has.

    Raises:
        UsageError: for what makes no images.
        HwzooError: when it cannot be loaded.
    """
    path = Path(name)
    if path.is_dir() and not has_file(name, "model_index.json") and not has_file(name, "config.json"):
        return _open_folder(path, output_dir)
    if not path.is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)")
    try:
        if has_file(name, "model_index.json"):
            return _open_pipeline(name, device, scheduler, num_inference_steps, trust_remote_code)
        model = hub.load(AutoModel, name, trust_remote_code).to(device).eval()
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not hasattr(model, "sample"):
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} has no `sample`")
    what = f"{name} ({type(model).__name__} in eval mode: BatchNorm, if any, with its running statistics)"
    return lambda indices, num_samples, generator: model.sample(len(indices), generator=generator), what, math.inf


def _open_pipeline(
    name: str, device: torch.device, scheduler: str | None, num_inference_steps: int | None, trust: bool
):
    """`open_generator` for a pipeline of diffusers that makes images from nothing, or of classes drawn uniformly."""
    from diffusers import DiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading
    with loading(name) as source:
        index = retried(lambda: DiffusionPipeline.load_config(source), f"loading {name}")
        own = diffusion.is_of_unet(index)  # others have further parts
    if own:
        pipeline = diffusion.load_pipeline(name).to(device)
    else:
        parts = [part for part, kind in index.items() if isinstance(kind, list) and part != "_class_name" and kind[0]]
        dtype = torch.float32
        with loading(name, *parts, trust_remote_code=trust, dtype=dtype) as source:
            pipeline = retried(
                lambda: DiffusionPipeline.from_pretrained(source, trust_remote_code=trust), f"loading {name}"
            ).to(device, dtype)
        for part in parts:
            if isinstance(getattr(pipeline, part), torch.nn.Module):
                check_finite(getattr(pipeline, part), name, part)
    pipeline.set_progress_bar_config(disable=True)
    parameters = inspect.signature(pipeline.__call__).parameters
    if "batch_size" not in parameters:
        raise UsageError(f"--model_name_or_path {name}: a {type(pipeline).__name__} makes no images from nothing")
    kind, num_classes = index["_class_name"], getattr(pipeline, "num_classes", 0)
    kind = kind if isinstance(kind, str) else kind[1]
    if scheduler is not None:
        pipeline.scheduler = diffusion.make_scheduler(scheduler, pipeline.scheduler.config)
    # The default of 1,000 steps is refused by schedulers that were trained with fewer.
    most = pipeline.scheduler.config.num_train_timesteps
    steps = num_inference_steps or min(parameters["num_inference_steps"].default or most, most)
    if steps > most:
        raise UsageError(f"--num_inference_steps is {steps}; {name} was trained with {most} timesteps")

    def sample(indices, num_samples, generator):
        asked = {"batch_size": len(indices)}
        if num_classes:
            asked["labels"] = torch.randint(num_classes, (len(indices),), generator=generator)
        made = pipeline(**asked, generator=generator, num_inference_steps=steps, output_type="np").images
        return torch.from_numpy(made).permute(0, 3, 1, 2)  # it had the channels last

    kind = f"{kind}, {type(pipeline.scheduler).__name__} with {steps} steps"
    kind += ", classes drawn uniformly" if num_classes else ""
    return sample, f"{name} ({kind}; eval mode)", math.inf


def _open_folder(path: Path, output_dir: Path):
    """`open_generator` for a folder: its PNG images and those of its folders, evenly spaced by name."""
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise UsageError(f"--model_name_or_path {path}: it holds no model_index.json, config.json or PNG images")
    if output_dir.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--output_dir {output_dir} is in the folder of images, and gets samples.png: give another")

    def sample(indices, num_samples, generator):
        images = []
        for file in (files[index * len(files) // num_samples] for index in indices.tolist()):
            try:
                with Image.open(file) as image:
                    if image.mode[0] in "IF":  # more than 8 bits a pixel
                        raise UsageError(f"{file} has the mode {image.mode}; pixels must have 8 bits a channel")
                    if image.mode not in ("L", "RGB"):
                        image = image.convert("L" if image.mode in ("1", "LA") else "RGB")
                    array = np.array(image)
            except OSError as error:
                raise HwzooError(f"{file} cannot be read: {error}") from error
            images.append(torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1)))
            if images[-1].shape != images[0].shape:
                sizes = f"{_by(images[-1].shape)} (channels x height x width), not {_by(images[0].shape)}"
                raise UsageError(f"{file} is {sizes} as the first of its batch")
        return torch.stack(images).float().div_(255)

    return sample, f"{len(files)} PNG images in {path}", len(files)


def fitted(images: Tensor, shape: Sequence[int], center_crop: bool, name: str, data: str) -> Tensor:
    """
    Images of the shape of a data set's.

    Args:
        images: (num, channels, height, width).
        shape: channels, height and width that are wanted.
        center_crop: whether the edges of larger ones are cut off.
        name: of what made them, for the error.
        data: of the data set, for the error.

    Raises:
        UsageError: for images of another shape.
    """
    if center_crop:
        top, left = ((images.shape[i] - shape[i - 1]) // 2 for i in (2, 3))
        images = images[:, :, max(0, top) :, max(0, left) :][:, :, : shape[1], : shape[2]]
    if images.shape[1:] != shape:
        raise UsageError(
            f"--model_name_or_path {name}: its images are {_by(images.shape[1:])} (channels x height x width), those "
            f"of --dataset_name {data} {_by(shape)}"
        )
    return images


def _by(shape) -> str:
    return " x ".join(map(str, shape))
