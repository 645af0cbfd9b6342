"""Grids of images and training curves as PNG files."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from ..files import replacing


def save_image_grid(pixel_values: Tensor, path: Path, columns: int):
    """Writes images in [0, 1], (rows * columns, channels, height, width), row by row, 2 pixels apart, as one PNG."""
    from diffusers.utils import make_image_grid, numpy_to_pil

    framed = F.pad(_in_rows(pixel_values.detach().clamp(0, 1), columns).flatten(0, 1), (1, 1, 1, 1))
    images = numpy_to_pil(framed.permute(0, 2, 3, 1).cpu().numpy())
    grid = make_image_grid(images, rows=len(images) // columns, cols=columns)
    if pixel_values.shape[1] == 1:
        grid = grid.convert("L")
    with replacing(Path(path)) as beside:
        grid.save(beside, format="PNG", optimize=True)


def save_pairs(originals: Tensor, images: Tensor, path: Path, columns: int):
    """Writes originals and, in the row below each row of them, what became of them, as one PNG."""
    rows = torch.stack([_in_rows(originals, columns), _in_rows(images, columns)], 1)
    save_image_grid(rows.flatten(0, 2), path, columns)


def _in_rows(images: Tensor, columns: int) -> Tensor:
    """(rows, columns, ...), the last row filled up with black."""
    missing = -len(images) % columns
    return torch.cat([images, images.new_zeros(missing, *images.shape[1:])]).unflatten(0, (-1, columns))


def save_curves(history: list[dict[str, float]], path: Path, names: Sequence[str], unit: str):
    """
    Plots metrics over the steps, a panel each: from the training log, and from the evaluations (dashed).

    Args:
        history: of `fit`.
        path: of the PNG.
        names: of the metrics; an evaluation's is `eval_<name>`.
        unit: of them all.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * len(names), 3.5), layout="constrained")
    for axis, name in zip(figure.subplots(1, len(names), squeeze=False)[0], names, strict=True):
        for key, style, label in ((name, "-", "training"), (f"eval_{name}", "--", "evaluation")):
            points = [(record["step"], record[key]) for record in history if key in record]
            if points:
                axis.plot(*zip(*points, strict=True), style, label=label)
        axis.set(title=name.replace("_", " "), xlabel="step", ylabel=unit)
        if axis.has_data():
            axis.legend()
    with replacing(Path(path)) as beside:
        figure.savefig(beside, format="png", dpi=80)
