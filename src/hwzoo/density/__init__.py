"""Densities that are known, fits of others to them by either Kullback-Leibler divergence, and flows of the plane."""

from .fits import Scores, fit_flows, inverse_cost, log_densities, score_flows
from .line import (
    GaussianFit,
    cauchy,
    fit_gaussian,
    fit_to_mixture,
    kl_divergence,
    mixture,
    mixture_samples,
    monte_carlo_kl,
    normal,
    reverse_kl_of,
    uniform,
    window_kl,
)
from .plane import BISECTIONS, FLOWS, Couplings, Planar, PlaneFlow, spline
from .targets import TARGETS, Target, targets

__all__ = [
    "BISECTIONS",
    "FLOWS",
    "TARGETS",
    "Couplings",
    "GaussianFit",
    "Planar",
    "PlaneFlow",
    "Scores",
    "Target",
    "cauchy",
    "fit_flows",
    "fit_gaussian",
    "fit_to_mixture",
    "inverse_cost",
    "kl_divergence",
    "log_densities",
    "mixture",
    "mixture_samples",
    "monte_carlo_kl",
    "normal",
    "reverse_kl_of",
    "score_flows",
    "spline",
    "targets",
    "uniform",
    "window_kl",
]
