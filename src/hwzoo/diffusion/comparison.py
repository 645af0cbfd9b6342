"""What `compare_samplers.py` makes of the scores of samplers: which there are, their table, and their curves."""

from collections.abc import Sequence
from typing import Any

from .pipelines import SCHEDULERS, SPACINGS, spacings_of

EVERY_SPACING = sorted({name for names in SPACINGS.values() for name in names})
HEADER = (
    "scheduler | spacing | steps | network evaluations | seconds | times as fast | FID | above the floor | "
    "above the reference, in its standard errors | precision | recall"
)


def list_samplers(
    schedulers: Sequence[str], spacings: Sequence[str], steps: Sequence[int], reference: int | None, config: Any
) -> list[tuple[str, str, int]]:
    """
    Every scheduler with every number of steps and every spacing of them that it knows, its best where it knows none.

    Args:
        schedulers: some of `SCHEDULERS`.
        spacings: some of `EVERY_SPACING`, or none.
        steps: numbers of steps.
        reference: timesteps of the training, for DDPM with all of them; None without it.
        config: `scheduler.config` of the pipeline.

    Returns:
        (scheduler, spacing, steps) of each sampler, the reference first.
    """
    samplers = [("ddpm", "trailing", reference)] if reference else []
    for scheduler in schedulers:
        own = spacings_of(scheduler, config)
        for spacing in [name for name in spacings if name in own] or own[:1]:
            samplers += [(scheduler, spacing, num) for num in steps]
    return list(dict.fromkeys(samplers))


def compare_with_reference(rows: list[dict[str, Any]], num_train_timesteps: int) -> dict[str, Any] | None:
    """
    Sorts the scores of samplers; adds `speedup`, and `test_fid_above_reference` in the reference's standard errors.

    Args:
        rows: of the samplers: `scheduler`, `num_inference_steps`, `seconds`, `test_fid`, `test_fid_standard_error`.
        num_train_timesteps: of the training: DDPM with all of them is the reference.

    Returns:
        The reference's row; None without it, and then nothing is added.
    """
    rows.sort(key=lambda row: (SCHEDULERS.index(row["scheduler"]), -row["num_inference_steps"]))
    wanted = {"scheduler": "ddpm", "num_inference_steps": num_train_timesteps}.items()
    reference = next((row for row in rows if wanted <= row.items()), None)
    for row in rows if reference else ():
        row["speedup"] = reference["seconds"] / row["seconds"]
        difference = row["test_fid"] - reference["test_fid"]
        # Images that are all alike have no error but that of rounding, which is no measure.
        if reference["test_fid_standard_error"] > 1e-9 * reference["test_fid"]:
            row["test_fid_above_reference"] = difference / reference["test_fid_standard_error"]
    return reference


def sampler_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `compare_with_reference` as a table in Markdown."""
    lines = [HEADER, " | ".join(["---"] * (HEADER.count("|") + 1))]
    for row in rows:
        fid = f"{row['test_fid']:.2f} ± {row['test_fid_standard_error']:.2f}"
        speedup, above = (
            f"{row[name]:{form}}" if name in row else "-"
            for name, form in (("speedup", ".1f"), ("test_fid_above_reference", "+.1f"))
        )
        cells = [row["scheduler"], row["spacing"], row["num_inference_steps"], f"{row['network_evaluations']:g}"]
        cells += [f"{row['seconds']:.1f}", speedup, fid, f"{row['test_fid'] - row['test_fid_floor']:.2f}", above]
        cells += [f"{row['test_precision']:.3f}", f"{row['test_recall']:.3f}"]
        lines.append(" | ".join(map(str, cells)))
    return "\n".join(f"| {line} |" for line in lines)


def sampler_curves(rows: Sequence[dict[str, Any]], reference: dict[str, Any] | None) -> dict[str, Any]:
    """
    FID over network evaluations.

    Args:
        rows: of `compare_with_reference`.
        reference: as it gives it.

    Returns:
        What `training.save_error_curves` takes: points (network evaluations, FID, standard error) by sampler, levels
        (FID, standard error) of floor and reference by label, and the names of the axes.
    """
    curves: dict[str, list] = {}
    for row in rows:
        point = (row["network_evaluations"], row["test_fid"], row["test_fid_standard_error"])
        if row is not reference:
            curves.setdefault(f"{row['scheduler']}, {row['spacing']}", []).append(point)
    levels = {"floor": (rows[0]["test_fid_floor"], 0.0)}
    if reference:
        label = f"ddpm, {reference['num_inference_steps']} steps, ± 2 standard errors"
        levels[label] = (reference["test_fid"], reference["test_fid_standard_error"])
    return {"curves": curves, "levels": levels, "xlabel": "network evaluations", "ylabel": "FID"}
