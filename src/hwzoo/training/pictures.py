"""Grids of images and training curves as PNG files."""

from pathlib import Path

from torch import Tensor

from ..files import replacing


def save_image_grid(pixel_values: Tensor, path: Path, columns: int):
    """Writes images in [0, 1], (rows * columns, channels, height, width), row by row, as one PNG."""
    from diffusers.utils import make_image_grid, numpy_to_pil

    images = numpy_to_pil(pixel_values.detach().clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy())
    grid = make_image_grid(images, rows=len(images) // columns, cols=columns)
    if pixel_values.shape[1] == 1:
        grid = grid.convert("L")
    with replacing(Path(path)) as beside:
        grid.save(beside, format="PNG", optimize=True)


def save_curves(history: list[dict[str, float]], path: Path, panels: dict[str, list[str]]):
    """
    Plots metrics of a training history over its steps.

    Args:
        history: of `fit`.
        path: of the PNG.
        panels: title of each panel and the metrics in it; those starting with `eval_` are drawn dashed.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(panels), 3.5), layout="constrained")
    for axis, (title, names) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True):
        for name in names:
            points = [(record["step"], record[name]) for record in history if name in record]
            if points:
                style = "--" if name.startswith("eval_") else "-"
                axis.plot(*zip(*points, strict=True), style, label=name)
        axis.set(title=title, xlabel="step")
        if axis.has_data():
            axis.legend()
    with replacing(Path(path)) as beside:
        figure.savefig(beside, format="png", dpi=100)
