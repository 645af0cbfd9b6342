"""What makes images: any zoo model with `sample`, any pipeline of diffusers, or a folder of images."""

import copy
import inspect
import math
import re
import time
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from . import diffusion, hub
from .data import ImageOptions, image_files, read_picture, stacked
from .errors import HwzooError, UsageError
from .files import CHECKPOINTS, ENTRIES
from .loading import check_finite, loading
from .models import FAMILIES, Family, PipelineFamily, family_of
from .retry import has_file, retried
from .training import settings_of

FAST_STEPS = 25  # of a sampler that is good with a few


def load_generator(
    name: str | None,
    device: torch.device,
    trust_remote_code: bool | None = None,
    foreign: bool = False,
    draws: Collection[str] = ("images",),
) -> tuple[Family, Any]:
    """
    A model that makes images, or texts, from nothing, in eval mode, and the row of its family.

    Args:
        name: folder or Hub id.
        device: for the model.
        trust_remote_code: as in `hub.load`; the code of a pipeline is run only where it is a foreign one.
        foreign: whether a pipeline of another network than a UNet2DModel will do.
        draws: what may come out, `images` or `texts`.

    Returns:
        The row, and the model or pipeline on the device.

    Raises:
        UsageError: for what makes none of these.
        HwzooError: when it cannot be loaded.
    """
    if name is None:
        raise UsageError("--model_name_or_path is missing: a model or a pipeline")
    check_name(name)
    try:
        may_be = foreign and has_file(name, PipelineFamily.entry)
        family, model = PipelineFamily(""), _foreign_pipeline(name, trust_remote_code) if may_be else None
        if model is None:
            family, model = hub.load_any(name, trust_remote_code)
    except (OSError, ValueError) as error:
        raise UsageError(f"--model_name_or_path {name} cannot be loaded: {str(error).splitlines()[0]}") from error
    if not family.samples(model):
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} has no `sample`")
    if family.draws not in draws:
        raise UsageError(f"--model_name_or_path {name}: a {type(model).__name__} makes {family.draws}, no images")
    model = model.to(device)
    return family, model.eval() if isinstance(model, torch.nn.Module) else model


def check_name(name: str):
    """
    Checks that a model can be looked for.

    Args:
        name: folder or Hub id.

    Raises:
        UsageError: for what is neither, and for a run that has not come to its end.
    """
    if (Path(name) / CHECKPOINTS).is_dir() and not any(has_file(name, each) for each in ENTRIES):
        raise UsageError(
            f"--model_name_or_path {name}: a run that was stopped has no model yet; its command with "
            "--resume_from_checkpoint latest brings it to its end"
        )
    if not Path(name).is_dir() and not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", name):
        raise UsageError(f"--model_name_or_path {name}: no such folder, and not a Hub id (owner/name)")


def check_guidance(guidance_scale: float, family: Family, model: Any, name: str):
    """
    Checks that a model can be guided so.

    Args:
        guidance_scale: 1 for none.
        family: the row of the model.
        model: of `load_generator`.
        name: of the model, for the error.

    Raises:
        UsageError: for a scale other than 1 without a conditional pipeline, or with one whose record says that it
            never saw an image without its class.
    """
    if guidance_scale == 1:
        return
    if not (isinstance(family, PipelineFamily) and family.num_classes(model)):
        raise UsageError(f"--guidance_scale is {guidance_scale}; {name} is no conditional pipeline, give 1")
    try:
        label_dropout = float(settings_of(name).get("label_dropout") or 1)
    except (HwzooError, TypeError, ValueError):  # the Hub does not tell, or a stranger's preset
        return
    if label_dropout == 0:
        raise UsageError(f"--guidance_scale is {guidance_scale}; {name} was trained with --label_dropout 0, give 1")


def check_temperature(temperature: float | None, family: Family, model: Any, name: str):
    """
    Checks that a model can be sampled at a temperature.

    Args:
        temperature: None for the model's own.
        family: the row of the model.
        model: of `load_generator`.
        name: of the model, for the error.

    Raises:
        UsageError: for a model whose `sample` has none or whose prior is uniform, and for a pipeline.
    """
    without = isinstance(family, PipelineFamily) or getattr(model, "prior", model) is None
    if temperature is not None and (without or "temperature" not in inspect.signature(model.sample).parameters):
        raise UsageError(f"--temperature is {temperature}; {name} has none, leave it out")


def chosen_labels(labels: Sequence[int] | None, num_samples: int, num_classes: int, name: str) -> Tensor | None:
    """
    The class of each image that is drawn.

    Args:
        labels: one after the other over and over; None for as many of each class, in order.
        num_samples: how many.
        num_classes: of the model; 0 for one without classes.
        name: of the model, for the error.

    Returns:
        int64, (num_samples,), or None for a model without classes.

    Raises:
        UsageError: for classes that the model does not have.
    """
    if labels is None:
        return torch.arange(num_samples) * num_classes // num_samples if num_classes else None
    if max(labels) >= num_classes:
        known = f"the classes of {name} are 0 to {num_classes - 1}" if num_classes else f"{name} has no classes"
        raise UsageError(f"--labels has {max(labels)}; {known}")
    return torch.tensor(labels)[torch.arange(num_samples) % len(labels)]


def check_sampler(family: Family, name: str, **asked: Any):
    """
    Checks that a sampler was asked of a pipeline only.

    Args:
        family: the row of the model.
        name: of the model, for the error.
        asked: flags of the sampler with their values; None for what was not asked.

    Raises:
        UsageError: for any of them with another model.
    """
    for flag, value in asked.items():
        if value is not None and not isinstance(family, PipelineFamily):
            raise UsageError(f"--{flag} is {value}; {name} is no pipeline of diffusers, leave it out")


def check_steps(steps: int, scheduler: Any, name: str, asked: str = "--num_inference_steps"):
    """
    Checks that a scheduler has as many steps.

    Args:
        steps: of sampling.
        scheduler: of a pipeline, with which it samples.
        name: of the pipeline, for the error.
        asked: what the steps are called where they are asked for, for the error.

    Raises:
        UsageError: for more steps than the training had timesteps; for as many where diffusers' solvers have one
            fewer, and would take steps of no width to images that are not finite; for more than a distillation had, as
            51 of LCM; for too few, as 3 of PNDM.
    """
    if steps > (timesteps := scheduler.config.num_train_timesteps):
        raise UsageError(f"{asked} is {steps}; {name} was trained with {timesteps} timesteps")
    kind = type(scheduler).__name__
    if steps > (most := most_steps(scheduler)):
        if "original_inference_steps" in inspect.signature(type(scheduler)).parameters:
            raise UsageError(f"{asked} is {steps}; the {kind} of {name} takes at most {most}")
        spacing = scheduler.config.timestep_spacing
        raise UsageError(f"{asked} is {steps}; by {spacing} spacing {name} has at most {most}")
    if not _takes(steps, scheduler) and _takes(most, scheduler):  # else it needs more than a number of steps
        least = next(each for each in range(steps, most + 1) if _takes(each, scheduler))
        raise UsageError(f"{asked} is {steps}; the {kind} of {name} takes at least {least}")


def _takes(steps: int, scheduler: Any) -> bool:
    try:
        copy.deepcopy(scheduler).set_timesteps(steps)
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError):
        return False
    return True


def most_steps(scheduler: Any) -> int:
    """How many steps a scheduler of diffusers has: `pipeline_class_conditional.most_steps`."""
    from .diffusion.pipeline_class_conditional import most_steps  # it imports diffusers

    return most_steps(scheduler)


def default_steps(scheduler: Any) -> int:
    """The steps that a scheduler of diffusers takes unasked: all for DDPM, only good with them; else `FAST_STEPS`."""
    most = most_steps(scheduler)
    return most if type(scheduler).__name__ == "DDPMScheduler" else min(FAST_STEPS, most)


def draw(
    family: Family, model: Any, num_samples: int, labels: Tensor | None, seed: int, batch_size: int, **call: Any
) -> tuple[Tensor, float]:
    """
    Images, or tokens of texts, of a model of `load_generator`, and the seconds that they took.

    Args:
        family: the row of the model.
        model: of `load_generator`.
        num_samples: how many.
        labels: (num_samples,), or None for a model without classes.
        seed: of the noise and of classes that are drawn.
        batch_size: images drawn at once.
        call: of a pipeline: its steps and guidance; of a model: a `temperature`.

    Returns:
        (num_samples, channels, height, width) in [0, 1], or (num_samples, max_tokens), on the CPU; seconds.

    Raises:
        HwzooError: for images that are not finite.
    """
    start = time.perf_counter()
    samples = _draw(family, model, num_samples, labels, seed, batch_size, **call)
    seconds = time.perf_counter() - start
    if not samples.isfinite().all():
        wrong = (~samples.flatten(1).isfinite().all(1)).sum()
        raise HwzooError(f"{wrong} of the {num_samples} samples are not finite")
    return samples, seconds


def _draw(
    family: Family, model: Any, num_samples: int, labels: Tensor | None, seed: int, batch_size: int, **call: Any
) -> Tensor:
    quick = True if num_samples <= batch_size else None  # no bar; None: where there is a terminal
    generator, images = torch.Generator().manual_seed(seed), []
    for part in tqdm(torch.arange(num_samples).split(batch_size), desc="samples", unit="batch", disable=quick):
        own = None if labels is None else labels[part]
        images.append(family.sample(model, len(part), own, generator, **call).detach().cpu())
    return torch.cat(images)


def sampler(model: Any, seed: int, batch_size: int, evenly: bool = False, **call: Any) -> Callable[[int], Tensor]:
    """
    Args:
        model: of the zoo, with `sample`.
        seed: of the noise and the classes.
        batch_size: images drawn at once.
        evenly: whether there are as many images of each class, in order; else classes are drawn uniformly.
        call: what its `sample` takes besides, as `temperature`.

    Returns:
        Draws so many images, (num, channels, height, width) in [0, 1], on the CPU: always the same ones.
    """
    family = family_of(model)
    num_classes = family.num_classes(model) if evenly else 0

    def samples(num: int) -> Tensor:
        labels = chosen_labels(None, num, num_classes, "")
        # What is not finite too: who scores them names it.
        return _draw(family, model, num, labels, seed, batch_size, **call)

    return samples


def open_generator(
    name: str,
    device: torch.device,
    *,
    output_dir: Path,
    scheduler: str | None = None,
    num_inference_steps: int | None = None,
    guidance_scale: float = 1.0,
    trust_remote_code: bool = False,
    options: ImageOptions | None = None,
    num_channels: int = 1,
) -> tuple[Callable[..., Tensor], str, float]:
    """
    Whatever makes images: a zoo model, a pipeline of diffusers that makes them from nothing, or a folder of them.

    Args:
        name: folder or Hub id.
        device: for the model.
        output_dir: where the caller writes; not into a folder of images.
        scheduler: of a pipeline; its own when None.
        num_inference_steps: of a pipeline; when None its own default, `default_steps` where it has none.
        guidance_scale: classifier-free guidance of a conditional pipeline; 1 is none.
        trust_remote_code: whether code that comes with it is run.
        options: how a folder of images is read, as a data set's.
        num_channels: 3 gives grey images of a folder three equal channels, also where a batch is all grey.

    Returns:
        `sample(indices, num_samples, generator)`, which gives (len(indices), channels, height, width) in [0, 1]; a
        description for the protocol; the most images that it has.

    Raises:
        UsageError: for what makes no images, is guided without being a conditional pipeline, or is to have a sampler
            without being a pipeline.
        HwzooError: when it cannot be loaded.
    """
    check_name(name)
    path = Path(name)
    if path.is_dir() and not any(has_file(name, each.entry) for each in FAMILIES):
        check_guidance(guidance_scale, Family(""), None, name)
        check_sampler(Family(""), name, scheduler=scheduler, num_inference_steps=num_inference_steps)
        return _open_folder(path, output_dir, options, num_channels)
    family, model = load_generator(name, device, trust_remote_code, foreign=True)
    check_guidance(guidance_scale, family, model, name)
    check_sampler(family, name, scheduler=scheduler, num_inference_steps=num_inference_steps)
    what, call = f"{type(model).__name__} in eval mode: BatchNorm, if any, with its running statistics", {}
    if isinstance(family, PipelineFamily):
        what, call = _describe_pipeline(family, model, name, scheduler, num_inference_steps)
    elif family.num_classes(model):
        what += "; classes drawn uniformly"
    if guidance_scale != 1:
        what, call = f"{what}; guidance scale {guidance_scale}", call | {"guidance_scale": guidance_scale}

    def sample(indices, num_samples, generator):
        return family.sample(model, len(indices), None, generator, **call)

    return sample, f"{name} ({what})", math.inf


def _foreign_pipeline(name: str, trust: bool | None) -> Any:
    """A pipeline of diffusers of another network than a UNet2DModel, with schedulers of other kinds; else None."""
    from diffusers import DiffusionPipeline
    from diffusers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading
    with loading(name) as source:
        index = retried(lambda: DiffusionPipeline.load_config(source), f"loading {name}")
    if diffusion.is_of_unet(index):  # others have further parts
        return None
    parts = [part for part, kind in index.items() if isinstance(kind, list) and part != "_class_name" and kind[0]]
    dtype = torch.float32
    with loading(name, *parts, trust_remote_code=trust, dtype=dtype) as source:
        pipeline = retried(
            lambda: DiffusionPipeline.from_pretrained(source, trust_remote_code=trust), f"loading {name}"
        ).to(dtype)
    for part in parts:
        if isinstance(getattr(pipeline, part), torch.nn.Module):
            check_finite(getattr(pipeline, part), name, part)
    pipeline.set_progress_bar_config(disable=True)
    if "batch_size" not in inspect.signature(pipeline.__call__).parameters:
        raise UsageError(f"--model_name_or_path {name}: a {type(pipeline).__name__} makes no images from nothing")
    return pipeline


def _describe_pipeline(family: Family, pipeline: Any, name: str, scheduler: str | None, steps: int | None):
    """What the protocol says of a pipeline, and how it is called; it gets its scheduler."""
    if scheduler is not None:
        pipeline.scheduler = diffusion.make_scheduler(scheduler, pipeline.scheduler.config)
    # The default of 1,000 steps is refused by schedulers that were trained with fewer.
    default = inspect.signature(pipeline.__call__).parameters["num_inference_steps"].default
    steps = steps or (min(default, most_steps(pipeline.scheduler)) if default else default_steps(pipeline.scheduler))
    check_steps(steps, pipeline.scheduler, name)
    kind = type(family.parts(pipeline)[0]).__name__
    kind += f", {scheduler or type(pipeline.scheduler).__name__} with {steps} steps"
    kind += ", classes drawn uniformly" if family.num_classes(pipeline) else ""
    return f"{kind}; eval mode", {"num_inference_steps": steps}


def _open_folder(path: Path, output_dir: Path, options: ImageOptions | None, num_channels: int):
    """`open_generator` for a folder: its images and those of its folders, evenly spaced by name."""
    files, options = image_files(path), options or ImageOptions()
    if not files:
        raise UsageError(f"--model_name_or_path {path}: it holds no model_index.json, config.json or images")
    if output_dir.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"--output_dir {output_dir} is in the folder of images, and gets samples.png: give another")

    def sample(indices, num_samples, generator):
        chosen = [str(files[index * len(files) // num_samples]) for index in indices.tolist()]
        arrays = [read_picture(file, file, options) for file in chosen]
        images = torch.from_numpy(stacked(arrays, chosen.__getitem__, str(path))).float().div_(255)
        return images.expand(-1, max(num_channels, images.shape[1]), -1, -1)

    how = f", images of {options.image_size} x {options.image_size} ({options.resize})" if options.image_size else ""
    return sample, f"{len(files)} images in {path} (transparency, if any, over {options.background}{how})", len(files)


def fitted(images: Tensor, shape: Sequence[int], center_crop: bool, name: str, data: str) -> Tensor:
    """
    Images of the shape of a data set's.

    Args:
        images: (num, channels, height, width).
        shape: channels, height and width that are wanted.
        center_crop: whether the edges of larger ones are cut off.
        name: of what made them, for the error.
        data: of the data set, for the error.

    Returns:
        The images, cut if asked for.

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
