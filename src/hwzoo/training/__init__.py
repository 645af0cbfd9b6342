"""The frame that recipes share: arguments, the loop, checkpoints, evaluation, sweeps. It knows no model."""

from . import sweep
from .arguments import (
    Flags,
    ImageData,
    RunArguments,
    expected_numbers,
    flag,
    identity_of,
    parse_arguments,
    recorded,
    save_settings,
    settings,
    weights_of,
)
from .checkpoint import Checkpoint, Checkpoints, CorruptCheckpoint
from .config_flags import config_flags, with_defaults
from .ema import averaged_model
from .ending import Ending
from .evaluation import TestMeans, mean_over
from .journal import read_history
from .launch import (
    check_free,
    earlier_results,
    folder_for,
    launch,
    make_output_dir,
    print_results,
    save_results,
    start,
)
from .loop import FitResult, NonFiniteLoss, Stopped, fit
from .noise import GlobalNoise
from .pictures import (
    ImageSeries,
    save_accuracy_matrix,
    save_animation,
    save_bar_panels,
    save_bars,
    save_curves,
    save_densities,
    save_error_curves,
    save_functions,
    save_image_grid,
    save_images,
    save_pairs,
    save_panels,
    save_receptive_fields,
    save_shares,
    save_strength_curves,
    save_task_curves,
)
from .state import TrainState, average, make_optimizer
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
    "ImageData",
    "RunArguments",
    "Stopped",
    "SweepArguments",
    "TestMeans",
    "TrainState",
    "average",
    "averaged_model",
    "check_free",
    "config_flags",
    "expected_numbers",
    "earlier_results",
    "fit",
    "folder_for",
    "identity_of",
    "flag",
    "launch",
    "make_optimizer",
    "make_output_dir",
    "mean_over",
    "parse_arguments",
    "print_results",
    "read_history",
    "recorded",
    "save_accuracy_matrix",
    "save_animation",
    "save_bar_panels",
    "save_bars",
    "save_curves",
    "save_densities",
    "save_error_curves",
    "save_functions",
    "save_image_grid",
    "save_images",
    "save_pairs",
    "save_panels",
    "save_receptive_fields",
    "save_results",
    "save_settings",
    "save_shares",
    "save_strength_curves",
    "save_task_curves",
    "settings",
    "start",
    "sweep",
    "weights_of",
    "with_defaults",
]
