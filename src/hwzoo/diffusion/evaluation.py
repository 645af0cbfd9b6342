"""What a diffusion model is tested and shown by: its bound, its samples, their way from noise."""

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .bound import variational_bound
from .pipelines import denoising_strips, make_pipeline, make_scheduler, reverse_process
from .process import alphas_cumprod, q_sample
from .unet import clean_images

BOUNDS = ("bits_per_dim", "prior", "denoising", "reconstruction")


class Evaluation:
    """
    Tests a UNet and draws from it: at each call with the same noise, on the UNet's device.

    Args:
        unet: a `UNet2DModel`; what calls these methods puts it into eval mode.
        scheduler: the `DDPMScheduler` that it is trained with.
        image_size: height and width of the images, of which the UNet's may be padded.
        settings: `scheduler` (as in `make_scheduler`), `num_inference_steps` and `guidance_scale` of what is drawn,
            `num_bound_timesteps` of the bound.
        seed: of the noise and of the classes that are drawn.
        batch_size: images that are drawn at once.
        patch_size: of the UNet, as in `UNetArchitecture`.

    Raises:
        UsageError: for more steps or terms of the bound than the scheduler's timesteps allow.
    """

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        image_size: int,
        settings: Any,
        seed: int,
        batch_size: int,
        patch_size: int = 1,
    ):
        num = scheduler.config.num_train_timesteps
        for name, most in {"num_inference_steps": num, "num_bound_timesteps": num - 1}.items():
            if (value := getattr(settings, name)) > most:
                raise UsageError(f"--{name} is {value}; with {num} timesteps of training it must be in [1, {most}]")
        self.unet, self.scheduler, self.settings, self.seed = unet, scheduler, settings, seed
        self.batch_size, sampler = batch_size, make_scheduler(settings.scheduler, scheduler.config)
        self.pipeline = make_pipeline(unet, sampler, image_size, patch_size)
        self.num_classes, self.image_size = self.pipeline.num_classes, image_size
        self.sizes = unet.config.sample_size * patch_size, patch_size  # in pixels: of the padded images, of a patch

    def __str__(self) -> str:
        """What makes the samples, for protocols."""
        guided = (
            f", classes drawn uniformly, guidance scale {self.settings.guidance_scale}" if self.num_classes else ""
        )
        return f"{self.settings.scheduler}, {self.settings.num_inference_steps} steps, seed {self.seed}{guided}"

    def frames(self, num_images: int, num_frames: int = 1) -> dict[str, Tensor]:
        """
        Those of `reverse_process`, of as many images of each class, in the order of the classes.

        Args:
            num_images: in all; a multiple of the number of classes for as many of each.
            num_frames: evenly spaced over the steps; the last is the image.

        Returns:
            `step 1` and so on -> (num_images, channels, height, width) in [0, 1], on the CPU.
        """
        labels, generator = torch.arange(num_images) * max(1, self.num_classes) // num_images, self._generator()
        parts = [
            reverse_process(self.pipeline, num_frames, **self._call(part, generator))
            for part in labels.split(self.batch_size)
        ]
        return {name: torch.cat([each[name] for each in parts]) for name in parts[0]}

    def pictures(self, num_images: int, columns: int) -> dict[str, Any]:
        """
        Such images, and ten of them on their way.

        Args:
            num_images: how many.
            columns: frames of each image on its way.

        Returns:
            `samples`, (num_images, channels, height, width) in [0, 1], and `denoising`, what `denoising_strips` gives.
        """
        frames = self.frames(num_images, columns)
        return {"samples": list(frames.values())[-1], "denoising": denoising_strips(frames, 10, columns)}

    def forward_process(self, pixel_values: Tensor, columns: int) -> dict[str, Tensor]:
        """
        Images on their way to noise: x_0, and samples of q(x_t | x_0) at timesteps evenly spaced up to the last one,
        by `q_sample` with the same noise at each of them.

        Args:
            pixel_values: in [0, 1], (num, channels, height, width).
            columns: versions of each image, 2 or more.

        Returns:
            `x_0`, then `t = 110` and so on -> of the shape of `pixel_values`, in [0, 1], what lies outside clamped.
        """
        clean = clean_images(pixel_values, *self.sizes)
        noise = torch.randn(clean.shape, generator=self._generator()).to(clean.device)
        products, versions = alphas_cumprod(self.scheduler, clean.device), {"x_0": pixel_values}
        for timestep in (index * (len(products) - 1) // (columns - 1) for index in range(1, columns)):
            noisy = q_sample(clean, noise, torch.full((len(clean),), timestep, device=clean.device), products)
            versions[f"t = {timestep}"] = self.pipeline.to_pixel_values(noisy)
        return versions

    def samples(self, num_images: int) -> Tensor:
        """Images of classes drawn uniformly, (num_images, channels, height, width) in [0, 1], on the CPU."""
        generator, images = self._generator(), []
        for part in torch.arange(num_images).split(self.batch_size):
            labels = torch.randint(max(1, self.num_classes), (len(part),), generator=generator)
            images.append(self.pipeline(**self._call(labels, generator)).images.cpu())
        return torch.cat(images)

    def bound(self, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """
        `variational_bound` and its terms, (batch,) each, in bits for each dimension of the images before padding.

        Args:
            batch: `pixel_values` in [0, 1], (batch, channels, height, width), and `labels`, int64, (batch,).
            generator: of the noise and the timesteps.

        Returns:
            (batch,) by the names of the fields of `VariationalBound`.
        """
        labels = batch["labels"] if self.num_classes else None
        padded = (clean_images(batch["pixel_values"], *self.sizes) + 1) / 2
        drawn = {"num_timesteps": self.settings.num_bound_timesteps, "generator": generator}
        terms = variational_bound(self.unet, self.scheduler, padded, labels=labels, **drawn)
        return {name: (self.sizes[0] / self.image_size) ** 2 * getattr(terms, name) for name in BOUNDS}

    def protocol(self, num_images: int) -> str:
        """How the mean of `bound` over so many images, evenly spaced, is computed."""
        num_terms = self.scheduler.config.num_train_timesteps - 1
        return (
            f"bits/dim: the variational bound on {num_images} test images, evenly spaced, with "
            f"{self.settings.num_bound_timesteps} of the {num_terms} terms L_(t-1) of each, at stratified t; prior is "
            "L_T, reconstruction L_0; the standard error is over the images"
            f"{', each given its class' if self.num_classes else ''}"
        )

    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.seed)

    def _call(self, labels: Tensor, generator: torch.Generator) -> dict[str, Any]:
        steps = {"num_inference_steps": self.settings.num_inference_steps, "output_type": "pt"}
        asked = {"labels": labels, "guidance_scale": self.settings.guidance_scale} if self.num_classes else {}
        return steps | asked | {"batch_size": len(labels), "generator": generator}
