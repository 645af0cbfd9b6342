"""
The numbers of a run in words, with their units: those of an evaluation in a line, and the last lines, with what is
normal and the commands that follow.
"""

import json
import math
import shlex
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from .arguments import _from_beside, load_preset, recorded

# Words and unit of the numbers of all_results.json; those that stand in none are shown by their name alone.
WORDS = {
    "train_steps": ("optimiser steps", ""),
    "train_runtime": ("training", "seconds"),
    "train_cpu_seconds": ("the same of the processor", "seconds"),
    "peak_memory": ("most memory that the run held", "MB"),
    "train_samples_per_second": ("speed of training", "examples a second"),
    "test_negative_elbo": ("negative evidence lower bound", "nats an image"),
    "test_reconstruction_loss": ("its reconstruction loss", "nats an image"),
    "test_kl_divergence": ("its KL divergence", "nats an image"),
    "test_iwae_100": ("importance-weighted bound of 100 samples", "nats an image"),
    "active_units": ("latent units in use", ""),
    "test_negative_log_prob": ("negative log-likelihood", "nats an image"),
    "test_bits_per_dim": ("negative log-likelihood, or its bound", "bits a pixel and channel"),
    "test_negative_bound": ("bound on the negative log-likelihood", "nats an image"),
    "test_rate": ("of it the codes, given the prior", "nats an image"),
    "test_distortion": ("of it the pixels, given the codes", "nats an image"),
    "test_searched_bound": ("the same over codes near the encoder's", "nats an image"),
    "test_codes_used": ("codes that some test image holds", ""),
    "test_perplexity": ("codes in use, as many alike as spread so", ""),
    "test_fid": ("Fréchet distance of the samples", "lower is better"),
    "test_fid_floor": ("the same of training images", "no model is expected below"),
    "test_precision": ("samples that look like the data", "fraction"),
    "test_recall": ("data that the samples look like", "fraction"),
    "test_label_entropy": ("entropy of the samples' classes", "nats"),
    "test_classes_covered": ("classes that 1 % of the samples show", ""),
    "test_linear_accuracy": ("accuracy of a linear probe, all labels", "fraction"),
    "test_few_labels_accuracy": ("the same of ten labels a class", "fraction"),
    "test_knn_accuracy": ("accuracy of the nearest neighbours", "fraction"),
    "test_alignment": ("squared distance of two views", "0 to 4"),
    "test_uniformity": ("of projections on the sphere", "-8 to 0, lower is more even"),
    "test_projection_std": ("spread of the projections", "0: collapsed; 1: alike in all directions"),
    "test_effective_rank": ("directions in which features vary", ""),
    "average_accuracy": ("accuracy, mean over the tasks", "fraction"),
    "average_forgetting": ("accuracy lost since its best, mean", "fraction"),
    "backward_transfer": ("change of accuracy since learned, mean", "fraction"),
    "forward_transfer": ("accuracy before learned, above untrained", "fraction"),
    "test_accuracy_task": ("accuracy on task", "fraction"),  # its number follows
    "test_rouge1": ("ROUGE-1", "F-measure x 100"),
    "test_rouge2": ("ROUGE-2", "F-measure x 100"),
    "test_rougeL": ("ROUGE-L", "F-measure x 100"),
    "test_rougeLsum": ("ROUGE-Lsum", "F-measure x 100"),
    "test_exact_match": ("texts that equal a reference", "fraction"),
}

TEXTS = "texts.json"  # what a model of texts writes, in its folder


def lines_of(
    results: Mapping[str, Any],
    expected: Mapping[str, tuple[float, float]],
    words: Mapping[str, tuple[str, str]] | None = None,
) -> list[str]:
    """
    A line a number: name, value, what it is in words, its unit, and the band of what is normal.

    Args:
        results: by name; texts, lists and mappings are left out.
        expected: lowest and highest normal value by name, for this data and these settings.
        words: words and unit by name without `test_`, of a test's numbers in place of those of WORDS.

    Returns:
        The lines.
    """
    lines, known = [], WORDS | {f"test_{name}": each for name, each in (words or {}).items()}
    for name, value in results.items():
        if not isinstance(value, int | float):
            continue
        what, unit = known.get(name, ("", ""))
        line = f"{name:>32} " + (f"{value:<12.4f}" if isinstance(value, float) else f"{value:<12}")
        line += f" {what}" + (f" ({unit})" if unit else "")
        if name in expected:
            low, high = expected[name]
            side = "normal" if low <= value <= high else "low" if value < low else "high"
            side = side if math.isfinite(value) else "not finite"
            line += f"; {side}: such a run gives {low:g} to {high:g}" if low < high else f"; {side}: it gives {low:g}"
        lines.append(line.rstrip())
    return lines


def evaluation_line(step: int, values: Mapping[str, float], words: Mapping[str, tuple[str, str]]) -> str:
    """
    An evaluation during training in words.

    Args:
        step: after which it was.
        values: by name, without `eval_`.
        words: words and unit by such a name, beyond those that WORDS has for a test's.

    Returns:
        One line: what each number is and its value, then the unit of those before it.
    """
    known = {name.removeprefix("test_"): each for name, each in WORDS.items()} | dict(words)

    def described(name: str) -> tuple[str, str]:
        kind, _, number = name.rpartition("_")
        if name not in known and kind in known and number.isdigit():  # one of several
            what, unit = known[kind]
            return f"{what} {number}", unit
        return known.get(name, (name.replace("_", " "), ""))

    told = [(*described(name), value) for name, value in values.items()]
    parts = []
    for unit, same in groupby(told, key=lambda each: each[1]):
        numbers = ", ".join(f"{what} {value:.4g}" for what, _, value in same)
        parts.append(f"{numbers} ({unit})" if unit else numbers)
    return f"evaluation after step {step}: {'; '.join(parts)}"


def next_commands(folder: Path) -> list[str]:
    """
    What to do with a model that was saved: sample, score and load it; one that makes texts is not scored, one that
    makes nothing is loaded alone.

    Args:
        folder: with all that the run left.

    Returns:
        The commands.
    """
    name = shlex.quote(str(folder))
    code = f"from hwzoo import hub; family, model = hub.load_any({json.dumps(str(folder), ensure_ascii=False)})"
    commands = [f"python -c {shlex.quote(code)}"]
    if (folder / TEXTS).exists():
        commands = [f"hwzoo sample {name}", *commands]
    if (folder / "samples.png").exists():
        sampler = _sampler(folder) if (folder / "model_index.json").exists() else ""
        commands = [f"hwzoo sample {name}{sampler}", f"hwzoo evaluate {name}{sampler}{_classifier(folder)}", *commands]
    return commands


def _classifier(folder: Path) -> str:
    """The run's own, or a flag to fill in where it was on images of a user's own, for which none is packaged."""
    preset, results = folder / "preset.yaml", folder / "all_results.json"
    if preset.exists() and (own := load_preset(preset).get("classifier")) is not None:
        return f" --classifier {shlex.quote(_from_beside(folder, 'classifier', own))}"
    if results.exists() and "test_fid" in json.loads(results.read_bytes()):
        return ""
    dataset = recorded(preset).get("dataset_name") if preset.exists() else None
    return " --classifier CLASSIFIER" if dataset and Path(dataset).exists() else ""


def _sampler(folder: Path) -> str:
    """The flags that draw as the run drew its samples; a pipeline's own sampler takes every step of its training."""
    flags = {"scheduler": "sde_dpm_solver", "num_inference_steps": 25, "guidance_scale": 1.0}
    record = load_preset(folder / "preset.yaml") if (folder / "preset.yaml").exists() else {}
    flags = {name: record.get(name, value) for name, value in flags.items()}
    if float(flags["guidance_scale"]) == 1:
        flags.pop("guidance_scale")
    return "".join(f" --{name} {value}" for name, value in flags.items())
