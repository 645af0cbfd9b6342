"""Tensors in, numbers out."""

from .continual import continual_metrics
from .generation import (
    NUM_NEIGHBORS,
    classes_covered,
    frechet_distance,
    generator_scores,
    inception_scores,
    label_entropy,
    label_histogram,
    load_inception,
    precision_recall,
)
from .likelihood import active_units, course100, first_of_each_class

__all__ = [
    "NUM_NEIGHBORS",
    "active_units",
    "classes_covered",
    "continual_metrics",
    "course100",
    "first_of_each_class",
    "frechet_distance",
    "generator_scores",
    "inception_scores",
    "label_entropy",
    "label_histogram",
    "load_inception",
    "precision_recall",
]
