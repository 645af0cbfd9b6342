"""Tensors in, numbers out."""

from .codes import code_counts, code_scores
from .continual import continual_metrics, continual_results, lower_bound
from .discriminators import (
    discriminator_mlp,
    discriminator_values,
    logit_gradient,
    separation,
    train_discriminators,
)
from .divergence import (
    jensen_shannon_divergence,
    normal_log_density,
    penalised_wasserstein,
    segments,
    unwarp,
    warp,
    warped_and_normal,
    warped_normal_log_density,
    warped_normal_log_ratio,
)
from .generation import (
    NUM_NEIGHBORS,
    classes_covered,
    frechet_distance,
    frechet_standard_error,
    generator_scores,
    inception_scores,
    label_entropy,
    label_histogram,
    load_inception,
    precision_recall,
)
from .likelihood import active_units, course100, first_of_each_class, latent_variable_scores

__all__ = [
    "NUM_NEIGHBORS",
    "active_units",
    "classes_covered",
    "code_counts",
    "code_scores",
    "continual_metrics",
    "continual_results",
    "course100",
    "first_of_each_class",
    "discriminator_mlp",
    "discriminator_values",
    "frechet_distance",
    "frechet_standard_error",
    "generator_scores",
    "inception_scores",
    "jensen_shannon_divergence",
    "label_entropy",
    "label_histogram",
    "latent_variable_scores",
    "load_inception",
    "logit_gradient",
    "lower_bound",
    "normal_log_density",
    "penalised_wasserstein",
    "precision_recall",
    "segments",
    "separation",
    "train_discriminators",
    "unwarp",
    "warp",
    "warped_and_normal",
    "warped_normal_log_density",
    "warped_normal_log_ratio",
]
