"""The frame that recipes share: arguments, the loop, checkpoints, evaluation, sweeps. It knows no model."""

from . import sweep
from .arguments import (
    Flags,
    RunArguments,
    deciding,
    expected_numbers,
    flag,
    parse_arguments,
    save_settings,
    settings,
)
from .checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint
from .config_flags import config_flags
from .ema import averaged_model
from .ending import Ending
from .evaluation import TestMeans, mean_over
from .launch import launch, make_output_dir, print_results, start
from .loop import FitResult, NonFiniteLoss, Stopped, fit
from .noise import GlobalNoise
from .pictures import (
    ImageSeries,
    save_accuracy_matrix,
    save_animation,
    save_bar_panels,
    save_bars,
    save_curves,
    save_error_curves,
    save_functions,
    save_image_grid,
    save_pairs,
    save_panels,
    save_strength_curves,
    save_task_curves,
)
from .state import TrainState, average
from .sweep import SweepArguments

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "CorruptCheckpoint",
    "Ending",
    "FitResult",
    "Flags",
    "GlobalNoise",
    "ImageSeries",
    "NonFiniteLoss",
    "RunArguments",
    "Stopped",
    "SweepArguments",
    "TestMeans",
    "TrainState",
    "average",
    "averaged_model",
    "config_flags",
    "deciding",
    "expected_numbers",
    "fit",
    "flag",
    "launch",
    "make_output_dir",
    "mean_over",
    "parse_arguments",
    "print_results",
    "save_accuracy_matrix",
    "save_animation",
    "save_bar_panels",
    "save_bars",
    "save_curves",
    "save_error_curves",
    "save_functions",
    "save_image_grid",
    "save_pairs",
    "save_panels",
    "save_settings",
    "save_strength_curves",
    "save_task_curves",
    "settings",
    "start",
    "sweep",
]
