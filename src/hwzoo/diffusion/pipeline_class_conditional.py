"""
A pipeline of diffusers that draws images with a `UNet2DModel`: of given classes, with classifier-free guidance.

This file needs torch and diffusers only; it is saved beside the weights, for users without hwzoo.
"""

import inspect
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch.nn import functional as F


def most_steps(scheduler: Any) -> int:
    """
    How many steps a scheduler of diffusers has.

    Args:
        scheduler: of discrete timesteps.

    Returns:
        The timesteps of its training; of the multistep solvers one less where evenly spaced ones do not end at 0: with
        all of them a step would have no width, and give images that are black or not finite. Those of consistency
        models choose from the `original_inference_steps` of a distillation (arXiv:2310.04378).
    """
    # Made from another's configuration it keeps what it does not know, and does not do.
    known = inspect.signature(type(scheduler).__init__).parameters
    config = {name: value for name, value in scheduler.config.items() if name in known}
    levels = config.get("use_karras_sigmas") or config.get("use_lu_lambdas")
    even = config.get("timestep_spacing", "trailing") != "trailing" and not levels
    multistep = "solver_order" in config or "predictor_order" in config
    most = config["num_train_timesteps"] - (multistep and even)
    return min(most, config.get("original_inference_steps", most))


class ClassConditionalPipeline(DiffusionPipeline):
    """
    Draws images of given classes, or of none where the network knows none, by any scheduler of diffusers that takes
    discrete timesteps.

    Args:
        unet: with `num_class_embeds` it is conditional; the last embedding is that of no class.
        scheduler: DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler ...
        image_size: height and width that the images are cut to, from the middle, where those of the network are
            larger (it was trained on padded ones).
        patch_size: side of the patches of pixels that are the channels of one place of the network.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: UNet2DModel, scheduler: Any, image_size: int | None = None, patch_size: int = 1):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(image_size=image_size, patch_size=patch_size)

    @property
    def num_classes(self) -> int:
        """How many classes the network knows; 0 for an unconditional one."""
        return (self.unet.config.num_class_embeds or 1) - 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of the images that it draws."""
        patch_size = self.config.patch_size
        height, width = (self.config.image_size or size * patch_size for size in self._sample_sizes)
        return self.unet.config.in_channels // patch_size**2, height, width

    @property
    def _sample_sizes(self) -> Sequence[int]:
        """Height and width of what the network takes; of another's pipeline they may differ."""
        size = self.unet.config.sample_size
        return [size] * 2 if isinstance(size, int) else size

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[int] | torch.Tensor | None = None,
        batch_size: int | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[..., Any] | None = None,
    ) -> ImagePipelineOutput | tuple:
        """
        Args:
            labels: the class of each image, from 0 to `num_classes` - 1; None draws `batch_size` images of no given
                class.
            batch_size: how many images are drawn, where there are no labels; 1 when not given.
            guidance_scale: s of s * conditional + (1 - s) * unconditional prediction: 1 is the conditional model, 0
                the unconditional one, more than 1 classifier-free guidance (Ho and Salimans, arXiv:2207.12598,
                equation 6 with w = s - 1). Other values than 1 cost two evaluations of the network a step.
            num_inference_steps: of the scheduler; as many as it has (`most_steps`) when not given.
            generator: of the noise; a list has one for each image.
            output_type: `pil`; `np`, float32 in [0, 1], (batch, height, width, channels); or `pt`, float32 in [0, 1],
                (batch, channels, height, width).
            return_dict: False gives a tuple.
            callback_on_step_end: called after each step as `callback(pipeline, step, timestep, {"latents": x})` with x
                in [-1, 1] and noise, in patches and before it is cut; what it returns is not used.

        Raises:
            ValueError: for labels that are no classes of the network, of an unconditional network, or beside another
                `batch_size`; for a `batch_size` below 1, for guidance without labels, or more steps than `most_steps`;
                for a list of generators that is not of one or of as many as images.
        """
        # 0. what is asked for
        device = self._execution_device
        most = most_steps(self.scheduler)
        steps = most if num_inference_steps is None else num_inference_steps
        if not 1 <= steps <= most:
            raise ValueError(f"num_inference_steps is {steps}; it must be from 1 to {most}")
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type is {output_type!r}; it must be pil, np or pt")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; it must be at least 1")
        none = self.num_classes  # the label of no class
        if labels is not None:
            if not self.num_classes:
                raise ValueError("labels are given, but this model is unconditional")
            labels = torch.as_tensor(labels, device=device)
            if labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool or not len(labels):
                raise ValueError(f"labels must be one integer for each image, not {labels.tolist()}")
            labels = labels.long()
            if labels.min() < 0 or labels.max() >= none:
                raise ValueError(f"labels are from {labels.min()} to {labels.max()}; there are 0 to {none - 1}")
            if batch_size not in (None, len(labels)):
                raise ValueError(f"batch_size is {batch_size}, but there are {len(labels)} labels")
            batch_size = len(labels)
        elif guidance_scale != 1:
            raise ValueError(f"guidance_scale is {guidance_scale}; without labels there is no guidance, give 1")
        elif self.num_classes:
            labels = torch.full((batch_size or 1,), none, device=device)
        batch_size = batch_size or 1
        if isinstance(generator, list) and len(generator) not in (1, batch_size):
            allowed = f"it must be of one, or one for each of {batch_size} images"
            raise ValueError(f"generator is a list of {len(generator)}; {allowed}")
        guided = guidance_scale != 1
        if guided:
            labels = torch.cat([labels, torch.full_like(labels, none)])

        # 1. noise
        shape = (batch_size, self.unet.config.in_channels, *self._sample_sizes)
        images = randn_tensor(shape, generator=generator, device=device, dtype=self.unet.dtype)
        self._set_timesteps(steps, device)
        if hasattr(self.scheduler, "set_begin_index"):
            # Where two of its sigmas share a timestep it would take the first step for the second.
            self.scheduler.set_begin_index(0)
        images = images * self.scheduler.init_noise_sigma

        # 2. from noise to images
        takes_generator = "generator" in inspect.signature(self.scheduler.step).parameters
        noise_of_step = {"generator": generator} if takes_generator else {}
        for step, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            inputs = self.scheduler.scale_model_input(images, timestep)
            inputs = torch.cat([inputs, inputs]) if guided else inputs
            prediction = self.unet(inputs, timestep, class_labels=labels, return_dict=False)[0]
            if guided:
                conditional, unconditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            images = self.scheduler.step(prediction, timestep, images, **noise_of_step, return_dict=False)[0]
            if callback_on_step_end is not None:
                callback_on_step_end(self, step, timestep, {"latents": images})

        # 3. pixels
        images = self.to_pixel_values(images)
        if output_type != "pt":
            images = images.cpu().permute(0, 2, 3, 1).numpy()
            if output_type == "pil":
                images = self.numpy_to_pil(images)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _set_timesteps(self, steps: int, device: Any):
        """As many steps as are asked for: by rounding diffusers' trailing spacing makes one more of some, at -1."""
        self.scheduler.set_timesteps(steps, device=device)
        timesteps = self.scheduler.timesteps
        if self.scheduler.config.get("timestep_spacing") != "trailing" or timesteps[-1] != -1:
            return
        if "timesteps" in inspect.signature(self.scheduler.set_timesteps).parameters:
            wanted = timesteps.unique_consecutive()[:-1]  # Heun's holds each twice
            self.scheduler.set_timesteps(timesteps=wanted.tolist(), device=device)
            return
        self.scheduler.timesteps, self.scheduler.num_inference_steps = timesteps[:-1], steps
        sigmas = getattr(self.scheduler, "sigmas", ())
        if len(sigmas) == len(timesteps) + 1:  # the last is that without noise
            self.scheduler.sigmas = torch.cat([sigmas[:-2], sigmas[-1:]])

    def to_pixel_values(self, latents: torch.Tensor) -> torch.Tensor:
        """What a step of the scheduler leaves as pixels, cut to the size of the images and clamped to [0, 1]."""
        latents = F.pixel_shuffle(latents, self.config.patch_size)
        if size := self.config.image_size:
            start = (latents.shape[-1] - size) // 2
            latents = latents[..., start : start + size, start : start + size]
        return (latents / 2 + 0.5).clamp(0, 1).float()

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any):
        """Writes model_index.json and this file: both are needed where hwzoo is not installed."""
        # The last that every way of saving and pushing does before its upload.
        super().save_config(save_directory, push_to_hub=False, **kwargs)
        file, index = Path(__file__), Path(save_directory) / self.config_name
        (Path(save_directory) / file.name).write_bytes(file.read_bytes())
        content = json.loads(index.read_text(encoding="utf-8")) | {"_class_name": [file.stem, type(self).__name__]}
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
