"""
What diffusers lacks for a DDPM on small images: closed forms, loss, bound, and a class-conditional pipeline.

`UNet2DModel` and the schedulers are diffusers' own; the pipeline stands in `pipeline_class_conditional`, which imports
diffusers.
"""

from .bound import VariationalBound, discretized_log_likelihood, gaussian_kl, strata, variational_bound
from .evaluation import Evaluation
from .loss import WEIGHTINGS, diffusion_loss
from .pipelines import (
    BETA_SCHEDULES,
    SCHEDULE_FIELDS,
    SCHEDULERS,
    SPACINGS,
    denoising_strips,
    is_of_unet,
    load_or_build,
    load_pipeline,
    make_pipeline,
    make_scheduler,
    portable,
    reverse_process,
    spacings_of,
    train_scheduler,
    train_scheduler_of,
)
from .process import PREDICTION_TYPES, alphas_cumprod, predicted_clean, prediction_target, q_posterior, q_sample
from .unet import UNetArchitecture, build_unet, clean_images

__all__ = [
    "BETA_SCHEDULES",
    "Evaluation",
    "PREDICTION_TYPES",
    "SCHEDULERS",
    "SCHEDULE_FIELDS",
    "SPACINGS",
    "UNetArchitecture",
    "WEIGHTINGS",
    "VariationalBound",
    "alphas_cumprod",
    "build_unet",
    "clean_images",
    "denoising_strips",
    "diffusion_loss",
    "discretized_log_likelihood",
    "gaussian_kl",
    "load_or_build",
    "is_of_unet",
    "load_pipeline",
    "make_pipeline",
    "make_scheduler",
    "predicted_clean",
    "prediction_target",
    "q_posterior",
    "q_sample",
    "reverse_process",
    "spacings_of",
    "portable",
    "strata",
    "train_scheduler",
    "train_scheduler_of",
    "variational_bound",
]
