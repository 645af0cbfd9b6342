"""Pipelines and schedulers of diffusers: made, saved and loaded as the zoo needs them."""

import logging
import os
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import HwzooError, UsageError, first_line
from ..loading import check_all_loaded, check_finite, loading
from ..retry import retried
from .bound import VARIANCE_TYPES
from .unet import UNetArchitecture, build_unet

# Spacings of the timesteps that diffusers gives each scheduler; `spacings_of` has the best first. Trailing: the first
# timestep is the last of training, whatever the number of steps (arXiv:2305.08891).
TIMESTEP_SPACINGS = ("trailing", "leading", "linspace")
SPACINGS = {
    "ddpm": TIMESTEP_SPACINGS,
    "ddim": TIMESTEP_SPACINGS,
    "dpm_solver": ("karras", "lu", *TIMESTEP_SPACINGS),
    "sde_dpm_solver": ("karras", "lu", *TIMESTEP_SPACINGS),
    "unipc": ("karras", *TIMESTEP_SPACINGS),
}
# diffusers' names of the two solvers: of the probability flow, DDIM's of first order, and of the equation with noise.
ALGORITHM_TYPES = {"ddim": "dpmsolver++", "dpm_solver": "dpmsolver++", "sde_dpm_solver": "sde-dpmsolver++"}
SCHEDULERS = tuple(SPACINGS)
# diffusers' word for a schedule that courses call otherwise; of the last it knows the betas alone.
BETA_SCHEDULES = {"linear": "linear", "cosine": "squaredcos_cap_v2", "flow_matching": "flow_matching"}

# What a run asks of the noise that a UNet is trained on, in diffusers' words.
SCHEDULE_FIELDS = ("beta_schedule", "num_train_timesteps", "prediction_type")
logger = logging.getLogger(__name__)


def train_scheduler(num_train_timesteps: int, beta_schedule: str = "linear", prediction_type: str = "epsilon") -> Any:
    """
    The `DDPMScheduler` that says how a model is trained.

    Args:
        num_train_timesteps: T.
        beta_schedule: `linear`, from 1e-4 to 0.02 for T = 1000 (Ho et al., arXiv:2006.11239), for another T scaled by
            1000 / T so that as little of the image is left at the end; `cosine` (Nichol and Dhariwal,
            arXiv:2102.09672, equation 17); or `flow_matching`, the straight path of `straight_path_betas`.
        prediction_type: `epsilon`, `v_prediction` or `sample`.

    Returns:
        The scheduler, which adds noise and gives the betas of training.

    Raises:
        ValueError: for T below 25, with which the linear schedule would leave nothing to its last steps.
    """
    from diffusers import DDPMScheduler

    if num_train_timesteps < 25:
        raise ValueError(f"num_train_timesteps is {num_train_timesteps}; it must be 25 or more")
    scale = 1000 / num_train_timesteps
    straight = beta_schedule == "flow_matching"
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=BETA_SCHEDULES[beta_schedule],
        beta_start=1e-4 * scale,
        beta_end=0.02 * scale,
        trained_betas=straight_path_betas(num_train_timesteps).tolist() if straight else None,
        prediction_type=prediction_type,
    )


def straight_path_betas(num_train_timesteps: int) -> Tensor:
    """
    The betas of flow matching (Lipman et al., arXiv:2210.02747, with the path of arXiv:2209.03003).

    Its images are (1 - s) x_0 + s noise. Divided by the root of (1 - s)^2 + s^2 they are those of a diffusion model
    with abar = (1 - s)^2 / ((1 - s)^2 + s^2), whose bound and samplers so hold for them too.

    Args:
        num_train_timesteps: T.

    Returns:
        (T,), float64, for s of 1 / (T + 1), 2 / (T + 1), ..., T / (T + 1).
    """
    s = torch.arange(num_train_timesteps + 1, dtype=torch.float64) / (num_train_timesteps + 1)
    products = (1 - s).square() / ((1 - s).square() + s.square())
    return 1 - products[1:] / products[:-1]


def train_scheduler_of(scheduler: Any) -> Any:
    """The `DDPMScheduler` that adds the noise of a trained pipeline, whatever scheduler it samples with."""
    from diffusers import DDPMScheduler

    return DDPMScheduler.from_config(scheduler.config)


def spacings_of(name: str, config: Any) -> tuple[str, ...]:
    """
    The spacings of the steps that a sampler knows, the best first. The noise levels of Karras et al. and even steps of
    log SNR begin at the last timestep, and that of the cosine schedule has a noise of 20,000 times the image, of flow
    matching 1,000 times: half of 20 such steps would see noise alone, so that there even steps of t come first.

    Args:
        name: of a sampler, as in `make_scheduler`.
        config: `scheduler.config`.

    Returns:
        Those of `SPACINGS[name]`.
    """
    far = config.get("beta_schedule") in (BETA_SCHEDULES["cosine"], BETA_SCHEDULES["flow_matching"])
    return tuple(sorted(SPACINGS[name], key=lambda spacing: far and spacing not in TIMESTEP_SPACINGS))


def make_scheduler(name: str, config: Any, spacing: str | None = None) -> Any:
    """
    A scheduler to sample with, from the config of any other.

    The defaults of diffusers' fast schedulers lose variance in few steps (measured on a Gaussian of standard deviation
    0.200 in 20 steps: 0.148 for DPM-Solver++, with Karras sigmas 0.212), a saved and a fresh config give them
    different timesteps, and they do not clip the predicted image, so that an error of `epsilon` at the first steps
    grows: all three are set here.

    Args:
        name: `ddpm` (arXiv:2006.11239), `ddim` (arXiv:2010.02502; as DPM-Solver++ of first order, which is the same
            step, from a timestep to the next one: diffusers' DDIMScheduler goes back T / steps of them, rounded down,
            wherever the next one is), `dpm_solver` (DPM-Solver++ 2M of second order, arXiv:2211.01095),
            `sde_dpm_solver` (SDE-DPM-Solver++ 2M of the same paper: the fresh noise of each step, as in `ddpm`, covers
            the errors of earlier ones) or `unipc` (arXiv:2302.04867).
        config: `scheduler.config`.
        spacing: of the steps, one of `SPACINGS[name]`, the first of `spacings_of` when not given: `karras` has the
            noise levels of Karras et al., arXiv:2206.00364, equation 5; `lu` even steps of log SNR (arXiv:2206.00927);
            `trailing`, `leading` and `linspace` even steps of t (arXiv:2305.08891, table 2).

    Returns:
        The scheduler of diffusers; its number of steps is not set yet.

    Raises:
        UsageError: for another name, or a spacing that it does not know.
    """
    import diffusers

    if name not in SCHEDULERS:
        raise UsageError(f"--scheduler is {name}; it must be one of {', '.join(SCHEDULERS)}")
    spacing = spacings_of(name, config)[0] if spacing is None else spacing
    if spacing not in SPACINGS[name]:
        raise UsageError(f"--spacing is {spacing}; for {name} it must be one of {', '.join(SPACINGS[name])}")
    # Where the spacing is of noise levels, that of timesteps has no effect.
    settings = {"timestep_spacing": spacing if spacing in TIMESTEP_SPACINGS else "trailing"}
    if name == "ddpm":
        return diffusers.DDPMScheduler.from_config(config, **settings)
    settings |= {"use_karras_sigmas": spacing == "karras", "solver_order": 1 if name == "ddim" else 2}
    if config.get("clip_sample", True):
        # Their dynamic threshold between 1 and 1 is the clipping to [-1, 1] that they have no word for.
        settings |= {"thresholding": True, "sample_max_value": 1.0}
    if name == "unipc":
        return diffusers.UniPCMultistepScheduler.from_config(config, **settings)
    settings |= {"algorithm_type": ALGORITHM_TYPES[name], "use_lu_lambdas": spacing == "lu"}
    return diffusers.DPMSolverMultistepScheduler.from_config(config, **settings)


def make_pipeline(unet: Any, scheduler: Any, image_size: int | None = None, patch_size: int = 1) -> Any:
    """
    A `ClassConditionalPipeline` without progress bar; cuts images to `image_size` where the UNet's are larger.

    Args:
        unet: a `UNet2DModel`.
        scheduler: to sample with.
        image_size: height and width of what the pipeline gives; that of the UNet when None.
        patch_size: of the UNet, as in `UNetArchitecture`.

    Returns:
        The pipeline, which holds both as they are, not copies.
    """
    from .pipeline_class_conditional import ClassConditionalPipeline

    if image_size == unet.config.sample_size * patch_size:
        image_size = None
    pipeline = ClassConditionalPipeline(unet, scheduler, image_size, patch_size)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def portable(pipeline: Any) -> Any:
    """
    Args:
        pipeline: of `make_pipeline` or `load_pipeline`.

    Returns:
        What is saved of it: of an unconditional one without patches that cuts nothing a `DDPMPipeline`, which every
        diffusers loads without further code; not where its scheduler is one that such a pipeline does not run.
    """
    from diffusers import DDIMScheduler, DDPMPipeline, DDPMScheduler, DPMSolverMultistepScheduler

    if getattr(pipeline, "num_classes", 1) or pipeline.config.image_size is not None or pipeline.config.patch_size > 1:
        return pipeline  # also one that is not ours
    # Theirs scales no inputs, and gives each step a generator, which other schedulers refuse. At some numbers of steps
    # trailing ones end at -1, and even steps of the noise begin with one timestep twice: it leaves them as they are.
    config, solver = pipeline.scheduler.config, isinstance(pipeline.scheduler, DPMSolverMultistepScheduler)
    if not (solver or isinstance(pipeline.scheduler, DDPMScheduler | DDIMScheduler)):
        return pipeline
    if solver and (config.use_karras_sigmas or config.use_lu_lambdas) or config.timestep_spacing == "trailing":
        return pipeline
    return DDPMPipeline(pipeline.unet, pipeline.scheduler)


def is_of_unet(index: Mapping[str, Any]) -> bool:
    """Whether a model_index.json names a `UNet2DModel`, a scheduler and nothing else (no decoder of latents, say)."""
    parts = {name: kind for name, kind in index.items() if isinstance(kind, list) and not name.startswith("_")}
    return parts.keys() == {"unet", "scheduler"} and parts["unet"][1] == "UNet2DModel"


def load_pipeline(name_or_path: str) -> Any:
    """
    A `ClassConditionalPipeline` of any pipeline of a `UNet2DModel` (our own, DDPM, DDIM), with the scheduler that it
    was saved with, in float32 and eval mode. No code of the repository is run.

    Args:
        name_or_path: a folder or a Hub id.

    Raises:
        UsageError: for what is no such pipeline, or has a UNet that does not say how large its images are.
        HwzooError: when it cannot be loaded, a file is damaged, or weights are missing, left over, of another shape or
            not finite.
    """
    import diffusers
    from diffusers import DiffusionPipeline, UNet2DModel

    index = None
    try:
        with loading(name_or_path, "unet", "scheduler", dtype=torch.float32) as source:
            index = retried(lambda: DiffusionPipeline.load_config(source), f"loading {name_or_path}")
            kind = index.get("_class_name")
            if not is_of_unet(index):
                raise UsageError(f"{name_or_path} is a {kind}; it must be a pipeline of a UNet2DModel")
            scheduler_class = getattr(diffusers, str(index["scheduler"][1]), None)
            if not all(hasattr(scheduler_class, name) for name in ("scale_model_input", "step", "from_pretrained")):
                raise UsageError(
                    f"{name_or_path} is a {kind} with a {index['scheduler'][1]}; it must have one of diffusers' "
                    "schedulers of discrete timesteps, as DDPMScheduler or EulerDiscreteScheduler"
                )
            unet, report = retried(
                lambda: UNet2DModel.from_pretrained(
                    source, subfolder="unet", output_loading_info=True, use_safetensors=True, low_cpu_mem_usage=False,
                ),
                f"loading {name_or_path}",
            )  # fmt: skip
            scheduler = retried(
                lambda: scheduler_class.from_pretrained(source, subfolder="scheduler"), f"loading {name_or_path}"
            )
    except (OSError, ValueError) as error:
        if index is None:
            raise UsageError(f"{name_or_path} is no pipeline of diffusers: {first_line(error)}") from error
        raise HwzooError(f"{name_or_path} cannot be loaded: {first_line(error)}") from error
    check_all_loaded(report, name_or_path)
    check_finite(unet, name_or_path, "unet")
    if not (size := unet.config.sample_size):
        raise UsageError(f"{name_or_path}: its UNet has sample_size {size}; it must be the size of its images")
    if not isinstance(size, int) and size[0] == size[1]:  # as diffusers allows; we count in sides of squares
        unet.register_to_config(sample_size=size[0])
    return make_pipeline(unet.float().eval(), scheduler, index.get("image_size"), index.get("patch_size", 1))


def reverse_process(pipeline: Any, num_frames: int, **kwargs: Any) -> dict[str, Tensor]:
    """
    The images of a run of the pipeline on their way from noise, evenly spaced over its steps.

    Args:
        pipeline: of `make_pipeline` or `load_pipeline`.
        num_frames: how many, at most one for each step.
        kwargs: of the pipeline's call.

    Returns:
        `step 1` and so on -> (batch, channels, height, width), float32 in [0, 1], on the CPU; the last are the images
        that the call gives.
    """
    frames = {}

    def keep(pipeline, step, timestep, tensors):
        steps = len(pipeline.scheduler.timesteps)
        num = min(num_frames, steps)
        if step in {(index + 1) * steps // num - 1 for index in range(num)}:
            frames[f"step {step + 1}"] = pipeline.to_pixel_values(tensors["latents"]).cpu()

    pipeline(**kwargs | {"output_type": "pt"}, callback_on_step_end=keep)
    return frames


def denoising_strips(frames: dict[str, Tensor], rows: int, columns: int) -> dict[str, Tensor]:
    """
    Some images on their way from noise, for a picture with a row of each.

    Args:
        frames: of `reverse_process`.
        rows: images, evenly spaced over the batch; fewer where there are fewer.
        columns: frames of each, evenly spaced, the last the image itself; fewer where there are fewer.

    Returns:
        Of the frames by name, (rows, channels, height, width).
    """
    columns, steps = min(columns, len(frames)), list(frames)
    shown = [steps[(index + 1) * len(steps) // columns - 1] for index in range(columns)]
    batch = len(frames[steps[0]])
    images = torch.arange(min(rows, batch)) * batch // min(rows, batch)
    return {step: frames[step][images] for step in shown}


def load_or_build(
    name_or_path: str | None, data: Any, architecture: UNetArchitecture, scheduler: Any, num_classes: int = 0
) -> tuple[Any, Any, UNetArchitecture]:
    """
    The UNet and the scheduler to train: new, or those of a trained pipeline. Of what was asked for, what differs there
    is told in a warning.

    Args:
        name_or_path: of the trained pipeline; None for new ones.
        data: `ImageSplits`.
        architecture: of a new UNet.
        scheduler: the new one, of `train_scheduler`.
        num_classes: as in `build_unet`; then the data has two classes or more.

    Returns:
        The UNet, its scheduler, and the architecture that it has.

    Raises:
        UsageError: for data of one class, a padded size below that of its images, a trained UNet of other images or
            classes, or a trained pipeline whose scheduler has a variance that no bound is known of here.
    """
    images = data.train
    if num_classes:
        data.check_classes("--conditional")
    if name_or_path is None:
        if (padded_size := architecture.padded_size or images.image_size) < images.image_size:
            told = f"the images of {data.name} have {images.image_size} pixels"
            raise UsageError(f"--padded_size is {padded_size}; {told}")
        unet = build_unet(images.image_size, images.num_channels, num_classes=num_classes, **asdict(architecture))
        return unet, scheduler, architecture
    trained = load_pipeline(name_or_path)
    shapes = trained.image_shape, (images.num_channels, images.image_size, images.image_size)
    if shapes[0] != shapes[1]:
        given, wanted = (" x ".join(map(str, shape)) for shape in shapes)
        raise UsageError(f"--model_name_or_path {name_or_path}: its images are {given}, those of {data.name} {wanted}")
    given, wanted = trained.unet.config.num_class_embeds, num_classes + 1 if num_classes else None
    if given != wanted:
        told = f"its UNet has num_class_embeds {given}, this run's {wanted}"
        if None in (given, wanted):
            told += "; it is conditional: give --conditional" if given else "; leave out --conditional"
        raise UsageError(f"--model_name_or_path {name_or_path}: {told}")
    scheduler_of_training = train_scheduler_of(trained.scheduler)
    if (variance_type := scheduler_of_training.config.variance_type) not in VARIANCE_TYPES:
        told = f"its scheduler has variance_type {variance_type}; it must be {' or '.join(VARIANCE_TYPES)}"
        raise UsageError(f"--model_name_or_path {name_or_path}: {told}")
    own = _architecture_of(trained)
    pairs = {name: (value, getattr(architecture, name)) for name, value in own.items()}
    pairs |= {name: (trained.scheduler.config.get(name), scheduler.config[name]) for name in SCHEDULE_FIELDS}
    kept = [
        f"{name} {given} (not {wanted})"
        for name, (given, wanted) in sorted(pairs.items())
        if given != (list(wanted) if isinstance(wanted, tuple) else wanted)
    ]
    if kept and os.environ.get("LOCAL_RANK", "0") == "0":  # once for all processes
        logger.warning("%s keeps its own %s", name_or_path, ", ".join(kept))
    return trained.unet, scheduler_of_training, replace(architecture, **own)


def _architecture_of(pipeline: Any) -> dict[str, Any]:
    """The fields of `UNetArchitecture` of a trained pipeline."""
    config, patch_size = pipeline.unet.config, pipeline.config.patch_size
    own = {name: config[name] for name in ("layers_per_block", "norm_num_groups", "dropout")}
    return own | {
        "block_out_channels": list(config.block_out_channels),
        "attention": any("Attn" in each for each in config.down_block_types),
        "padded_size": config.sample_size * patch_size if pipeline.config.image_size else None,
        "patch_size": patch_size,
    }
