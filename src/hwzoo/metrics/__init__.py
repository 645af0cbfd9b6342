"""Tensors in, numbers out."""

from .continual import continual_metrics
from .likelihood import active_units, course100, first_of_each_class

__all__ = ["active_units", "continual_metrics", "course100", "first_of_each_class"]
