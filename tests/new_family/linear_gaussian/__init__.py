"""A family outside the package: its row of the table."""

from pathlib import Path

from hwzoo import Family, register

from .configuration_linear_gaussian import LinearGaussianConfig
from .modeling_linear_gaussian import LinearGaussianModel

TEMPLATE = Path(__file__).parents[1] / "linear_gaussian.md.jinja"
register(Family("linear_gaussian", LinearGaussianConfig, LinearGaussianModel, card_template=TEMPLATE))
