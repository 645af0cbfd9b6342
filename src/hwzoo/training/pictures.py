"""Grids of images and training curves as PNG files."""

import io
import json
import math
import re
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor
from torch.nn import functional as F

from ..files import made, record_made, replacing, sha256, write_bytes

MOST_FRAMES = 200  # of a GIF of a run's steps, 50 seconds of them
FRAME_TIME, LAST_TIME = 250, 2000  # milliseconds that a GIF shows each picture, and its last one
COLUMNS = 20  # images in a row of a grid
# In pixels: the least width of an image in a grid and of a grid with its caption; letters, their lines, space around.
TILE, PAGE, FONT, LINE, GAP = 56, 400, 13, 17, 6
LABEL = 260  # pixels of a line of a row's label, but where it would take more lines than the row is high
FRAME = 160  # the grey of a line around each image
DPI = 100  # of figures
SMALL = 8  # points, of the letters beside axes and in legends
MOST_LETTERS = 200  # of a label that a user gave; longer ones are cut
FEW_POINTS = 50  # of a curve, which are then marked
ACRONYMS = {"elbo": "ELBO", "kl": "KL", "rouge1": "ROUGE-1", "rouge2": "ROUGE-2", "rougeL": "ROUGE-L"}


def save_image_grid(images: Tensor | Mapping[str, Tensor], path: Path, caption: str, columns: int = COLUMNS):
    """
    Writes images, row by row, as one PNG with a caption below. Each pixel becomes a square, so large that an image is
    at least TILE pixels wide, and a line of one pixel frames each image. Of the PNG's texts `Description` is the
    caption, and `Grid` tells in JSON where the images are: `left`, `top`, `rows`, `columns`, `num`, the `width` and
    `height` of one without its frame, and how many times it is `enlarged`.

    Args:
        images: in [0, 1], (num, channels, height, width), grey or RGB; values outside are clamped. Several versions of
            the same images, by name, stand beside each other, a row for an image, with the names above.
        path: of the PNG.
        caption: what the images are, which model made them, and its seed.
        columns: images in a row, but for versions; the last row may have fewer.
    """
    _save_png(_grid(images, caption, columns), path)


def save_rows(versions: Mapping[str, Tensor], path: Path, caption: str, columns: int = COLUMNS):
    """
    Writes several versions of the same images as `save_image_grid` does: below each row of the first version those of
    the others, each with its name at the left.

    Args:
        versions: name -> images in [0, 1], (num, channels, height, width), in the same order.
        path: of the PNG.
        caption: what the images are, which model made them, and its seed.
        columns: images in a row.
    """
    rows = zip(*(images.split(columns) for images in versions.values()), strict=True)
    _save_png(_page([row for together in rows for row in together], caption, list(versions)), path)


def save_images(pixel_values: Tensor, folder: Path):
    """
    Writes images in [0, 1], (num, channels, height, width), a PNG each, 00000.png and so on, into a new folder.

    Args:
        pixel_values: on the CPU.
        folder: it must not be there yet.
    """
    from diffusers.utils import numpy_to_pil

    folder.mkdir()
    for index, image in enumerate(numpy_to_pil(pixel_values.permute(0, 2, 3, 1).numpy())):
        image.save(folder / f"{index:05}.png")


def _grid(images: Tensor | Mapping[str, Tensor], caption: str, columns: int):
    """The page of `save_image_grid`."""
    if isinstance(images, Mapping):
        return _page(torch.stack(list(images.values()), 1), caption, column_labels=list(images))
    return _page(images.split(columns), caption)


def _page(rows: Sequence[Tensor], caption: str, row_labels: Sequence[str] = (), column_labels: Sequence[str] = ()):
    """
    A PIL image, with its texts, of rows of images in [0, 1], none longer than the first. Labels of rows are told over
    and over.
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont

    # It comes with matplotlib, and has more letters than Pillow's own.
    font = ImageFont.truetype(str(Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")), FONT)
    columns, _, height, width = rows[0].shape
    enlarged = -(-TILE // width)
    height, width = enlarged * height, enlarged * width
    above = [_wrapped(label, font, width) for label in column_labels]
    top = GAP + LINE * max(map(len, above)) if above else 0
    beside = [_wrapped_into(height // LINE, label, font) for label in row_labels]
    left = 2 * GAP + round(max(font.getlength(line) for lines in beside for line in lines)) if beside else 0
    bottom, right = top + len(rows) * (height + 2), max(left + columns * (width + 2), PAGE)
    below = _wrapped(caption, font, right - 2 * GAP)

    strips = [Image.fromarray(_strip(row, enlarged)) for row in rows]
    page = Image.new(strips[0].mode, (right, bottom + LINE * len(below) + 2 * GAP), "white")
    draw = ImageDraw.Draw(page)
    for row, strip in enumerate(strips):
        page.paste(strip, (left, top + row * strip.height))
        if beside:
            place, lines = (left - GAP, top + (row + 0.5) * strip.height), beside[row % len(beside)]
            draw.multiline_text(place, "\n".join(lines), "black", font, anchor="rm", align="right")
    for column, lines in enumerate(above):
        place = left + (column + 0.5) * (width + 2), GAP
        draw.multiline_text(place, "\n".join(lines), "black", font, anchor="ma", align="center")
    draw.multiline_text((GAP, bottom + GAP), "\n".join(below), "black", font)
    grid = {"left": left, "top": top, "rows": len(rows), "columns": columns, "num": sum(map(len, rows))}
    grid |= {"width": width, "height": height, "enlarged": enlarged}
    page.info |= {"Description": caption, "Grid": json.dumps(grid)}
    return page


def _strip(images: Tensor, enlarged: int):
    """Images beside each other as a uint8 array, each pixel `enlarged` times as high and wide, in frames."""
    pixels = images.detach().cpu().float().clamp(0, 1).mul(255).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(enlarged, 2).repeat_interleave(enlarged, 3)
    strip = F.pad(pixels, (1, 1, 1, 1), value=FRAME).permute(2, 0, 3, 1).flatten(1, 2)
    return strip.squeeze(-1).numpy()  # PIL knows grey pictures without a channel dimension only


def _wrapped(text: str, font: Any, width: float) -> list[str]:
    """Its lines, cut between words, or within one that is too long, where they would be wider in pixels."""
    lines = []
    for line in text.splitlines():
        parts, letters = [line], len(line)
        while letters > 1 and max(map(font.getlength, parts)) > width:
            letters -= 1
            parts = textwrap.wrap(line, letters)
        lines += parts
    return lines


def _wrapped_into(lines: int, label: str, font: Any) -> list[str]:
    """A row's label in at most so many lines."""
    label, width = " ".join(label.split()), LABEL
    while len(wrapped := _wrapped(label, font, width)) > lines:
        width += FONT
    return wrapped


def _png(page: Any) -> bytes:
    """A PIL image with its texts."""
    from PIL.PngImagePlugin import PngInfo

    texts, buffer = PngInfo(), io.BytesIO()
    for name, text in page.info.items():
        texts.add_itxt(name, text)
    page.save(buffer, format="PNG", pnginfo=texts)  # optimize=True: 3 times as long for a file 0.3 % smaller
    return buffer.getvalue()


def _save_png(page: Any, path: Path):
    write_bytes(Path(path), _png(page))


class ImageSeries:
    """
    Grids of images over the steps of a run, `fake_0050.png` and so on, recorded as made by it: so a resumed run, in
    another folder too, has the pictures of the steps before. It belongs into the run's state.

    Args:
        folder: for the files.
        caption: of each grid, as of `save_image_grid`; the step stands below it.
        columns: of a grid.
        name: of the files, before the step.
    """

    def __init__(self, folder: Path, caption: str, columns: int = COLUMNS, name: str = "fake"):
        self.folder = Path(folder)
        self.caption = caption
        self.columns = columns
        self.name = name

    def add(self, step: int, images: Tensor | Mapping[str, Tensor]):
        """
        Writes the grid of images as that of a step.

        Args:
            step: it names the file, with at least four digits.
            images: as of `save_image_grid`.
        """
        png = _png(_grid(images, f"{self.caption}\nstep {step}", self.columns))
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"{self.name}_{step:04d}.png"
        record_made(self.folder, {name: sha256(png)})
        write_bytes(self.folder / name, png)

    def each(self, steps: int | None, draw: Callable[[], Tensor]) -> Callable[[int], Callable[[], None] | None]:
        """
        Adds images at regular steps, in the first process.

        Args:
            steps: between two pictures; None for none.
            draw: gives the images, as `add` takes them.

        Returns:
            `after_step` of `fit`.
        """

        def add(step: int):
            if PartialState().is_main_process:
                self.add(step, draw())

        return lambda step: None if steps is None or step % steps else partial(add, step)

    def pictures(self) -> dict[int, Path]:
        """The files by step, in the order of the steps, without those that are changed or gone since."""
        found = {}
        for name, digest in made(self.folder).items():
            match, path = re.fullmatch(rf"{re.escape(self.name)}_(\d+)\.png", name), self.folder / name
            if match and path.is_file() and sha256(path.read_bytes()) == digest:
                found[int(match.group(1))] = path
        return dict(sorted(found.items()))

    def shown(self) -> dict[int, Path]:
        """Those of `pictures` that `finish` shows: at most 200, evenly spaced, the first and the last among them."""
        found = list(self.pictures().items())
        num = min(MOST_FRAMES, len(found))
        return dict(found[index * (len(found) - 1) // max(1, num - 1)] for index in range(num))

    def finish(self, path: Path):
        """Writes the grids of `shown` as a GIF that never ends; without any grid there is none."""
        from PIL import Image

        pages = []
        for each in self.shown().values():
            with Image.open(each) as page:  # a system gives a process some hundred open files
                pages.append(page.copy())
        if pages:
            _save_gif(pages, path)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]):
        # The first version kept the images in checkpoints.
        for step, images in state.get("images", {}).items():
            self.add(step, images / 255)


def save_animation(frames: Mapping[str, Tensor], path: Path, caption: str, columns: int = COLUMNS):
    """
    Writes grids as of `save_image_grid`, one after the other, as an endless GIF that rests at the last.

    Args:
        frames: what stands below the caption -> images in [0, 1], (num, channels, height, width), all of one shape.
        path: of the GIF.
        caption: what the images are, which model made them, and its seed.
        columns: images in a row of each grid.
    """
    _save_gif([_page(images.split(columns), f"{caption}\n{words}") for words, images in frames.items()], path)


def _save_gif(pages: Sequence[Any], path: Path):
    """Of PIL images."""
    times = {"duration": [FRAME_TIME] * (len(pages) - 1) + [LAST_TIME], "loop": 0}
    with replacing(Path(path)) as staging:
        pages[0].save(staging, format="GIF", save_all=True, append_images=pages[1:], **times)


def save_panels(history: list[dict[str, float]], path: Path, panels: Mapping[str, Sequence[str]]):
    """
    Plots metrics of the training log over the steps, several a panel; those of evaluations are dashed.

    Args:
        history: of `fit`.
        path: of the PNG.
        panels: label of the vertical axis -> names of the metrics; an evaluation's is `eval_<name>`. Those that the
            log lacks are left out, and panels of nothing, or of nothing but zeros; without any there is no picture.
    """
    curves = {}
    for label, names in panels.items():
        told = {name: [(record["step"], record[name]) for record in history if name in record] for name in names}
        if any(value for points in told.values() for _, value in points):
            curves[label] = {name: points for name, points in told.items() if points}
    if not curves:
        return
    figure, axes = _figure(4.5 * len(curves), 3.3, columns=len(curves))
    for axis, (label, told) in zip(axes, curves.items(), strict=True):
        measured = {name.removeprefix("eval_") for name in told}
        for name, points in told.items():
            evaluated = name.startswith("eval_")
            words = "evaluation" if evaluated else "training"
            if len(measured) > 1:
                words = _words(name.removeprefix("eval_")) + (", evaluation" if evaluated else "")
            marker = "." if evaluated or len(points) <= FEW_POINTS else ""
            axis.plot(*zip(*points, strict=True), "--" if evaluated else "-", marker=marker, label=words)
        axis.set(xlabel="step", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
    _legends(figure)
    _save_figure(figure, path)


def save_curves(history: list[dict[str, float]], path: Path, names: Sequence[str], unit: str):
    """
    Plots metrics over the steps, a panel each: from the training log, and from the evaluations (dashed).

    Args:
        history: of `fit`; without any of these metrics there is no picture.
        path: of the PNG.
        names: of the metrics; an evaluation's is `eval_<name>`.
        unit: of them all.
    """
    save_panels(history, path, {f"{_words(name)} ({unit})": (name, f"eval_{name}") for name in names})


def save_task_curves(history: list[dict[str, float]], path: Path, borders: Sequence[int], held_out: bool = False):
    """
    Plots the accuracy on each task over the steps, the ends of the tasks as dotted lines.

    Args:
        history: of `fit`, with evaluations `eval_accuracy_task_1` and so on; without any there is no picture.
        path: of the PNG.
        borders: the last step of each phase of training.
        held_out: whether it is of training images held out, not of test images.
    """
    curves: dict[str, list[tuple[float, float]]] = {}
    for record in history:
        for name in record:
            if name.startswith("eval_accuracy_task_"):
                curves.setdefault(name.rpartition("_")[2], []).append((record["step"], record[name]))
    if not curves:
        return
    figure, (axis,) = _figure(7, 3.5)
    for task, points in curves.items():
        axis.plot(*zip(*points, strict=True), marker=".", label=f"task {task}")
    for border in borders:
        axis.axvline(border, color="grey", linestyle=":", linewidth=1)
    axis.set(
        xlabel="step", ylabel=f"accuracy on {'images held out' if held_out else 'test images'}", ylim=(-0.02, 1.02)
    )
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=SMALL, ncols=-(-len(curves) // 15))
    _save_figure(figure, path)


def save_accuracy_matrix(matrix: Sequence[Sequence[float]], path: Path):
    """
    Draws an accuracy matrix, fractions, as a heat map: a row after each task learned, a column for each tested.

    Args:
        matrix: rows of equal length; a single one is that after all tasks.
        path: of the PNG.
    """
    rows, columns = len(matrix), len(matrix[0])
    figure, (axis,) = _figure(1.8 + 0.55 * columns, 1.3 + 0.5 * rows)
    image = axis.imshow(matrix, vmin=0, vmax=1, cmap="viridis", aspect="auto")  # the figure is of its shape
    for row in range(rows):
        for column in range(columns):
            value = matrix[row][column]
            colour = "black" if value > 0.6 else "white"
            axis.text(column, row, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=SMALL)
    axis.set_xticks(range(columns), range(1, columns + 1))
    axis.set_yticks(range(rows), range(1, rows + 1) if rows > 1 else ["all"])
    axis.set(xlabel="accuracy on task", ylabel="after task")
    figure.colorbar(image)
    _save_figure(figure, path)


def save_receptive_fields(fields: Mapping[str, tuple[Tensor, Tensor, tuple[int, int]]], path: Path):
    """
    Draws which pixels a model sees when it says what one of them may be, a panel for each such pixel.

    Args:
        fields: title -> what is seen and what comes before the pixel, both bool (height, width), and (row, column).
        path: of the PNG.
    """
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle

    kinds = {"later": "white", "before, never seen": "tab:orange", "seen": "tab:blue", "the pixel": "black"}
    columns = min(4, len(fields))
    rows = -(-len(fields) // columns)
    figure = Figure(figsize=(2.6 * columns, 2.6 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).flatten()
    colours = ListedColormap(list(kinds.values())), BoundaryNorm(range(len(kinds) + 1), len(kinds))
    for axis, (title, (seen, before, place)) in zip(axes, fields.items(), strict=False):
        codes = torch.where(seen, 2, before.long()).cpu()
        if not seen[place]:
            codes[place] = 3
        edges = {"edgecolors": "lightgrey", "linewidth": 2 / len(codes)}
        axis.pcolormesh(codes.numpy(), cmap=colours[0], norm=colours[1], **edges)
        if seen[place]:  # some values of a pixel of colours are before others
            axis.add_patch(Rectangle(place[::-1], 1, 1, fill=False, edgecolor=kinds["the pixel"], linewidth=2))
        axis.set(title=title, aspect="equal", xticks=[], yticks=[])
        axis.title.set_fontsize(SMALL)
        axis.invert_yaxis()
    for axis in axes[len(fields) :]:
        axis.remove()
    handles = [Patch(facecolor=colour, edgecolor="grey", label=kind) for kind, colour in kinds.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(kinds), fontsize=SMALL)
    _save_figure(figure, path)


def save_bars(names: Sequence[str], values: Sequence[float], errors: Sequence[float], path: Path, label: str):
    """
    Draws a horizontal bar of a fraction, with an error bar, for each name, the first on top.

    Args:
        names: from top to bottom.
        values: fractions, one a name.
        errors: their standard errors.
        path: of the PNG.
        label: of the axis of the values.
    """
    save_bar_panels(names, {label: (values, errors)}, path, (0, 1))


def save_bar_panels(
    names: Sequence[str],
    panels: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    path: Path,
    limits: tuple[float, float] | None = None,
):
    """
    Draws a horizontal bar with an error bar for each name, the first on top, in each of several panels.

    Args:
        names: of the bars, the same in all panels.
        panels: label of the horizontal axis -> (values, errors); no bar is drawn for NaN.
        path: of the PNG.
        limits: of the horizontal axes, which else hold 0 and all values.
    """
    names = [_folded(name, 5.5) for name in names]
    height = 0.9 + sum(0.3 + 0.14 * name.count("\n") for name in names)
    figure, axes = _figure(4 + 4 * len(panels), height, columns=len(panels), sharey=True)
    for axis, (label, (values, errors)) in zip(axes, panels.items(), strict=True):
        bars = axis.barh(range(len(names)), values, xerr=errors, capsize=3, color="tab:blue", alpha=0.8)
        told = ["" if math.isnan(value) else _plain(value, 4) for value in values]
        axis.bar_label(bars, told, padding=4, fontsize=SMALL)
        axis.margins(x=0.15)
        axis.set(xlabel=label, xlim=limits)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()  # of all: they share it
    _save_figure(figure, path)


def save_shares(shares: Mapping[str, float], num: int, path: Path, label: str):
    """
    `save_bars` of shares of `num` cases, in [0, 1], with their standard errors.

    Args:
        shares: by name, from top to bottom.
        num: of cases, the same for each share; the error of a share p is sqrt(p (1 - p) / num).
        path: of the PNG.
        label: of the axis of the shares.
    """
    errors = [(share * (1 - share) / num) ** 0.5 for share in shares.values()]
    save_bars(list(shares), list(shares.values()), errors, path, label)


def save_strength_curves(groups: dict[str, dict[str, list[tuple[float, float, float]]]], path: Path):
    """
    Plots numbers over the strength of a penalty, on a logarithmic axis, a panel for each group. A strength of 0 stands
    left of the others.

    Args:
        groups: title of the panel -> name of the curve -> points (strength, mean, standard error).
        path: of the PNG.

    Without a panel there is no picture, not even one of before.
    """
    if not groups:
        path.unlink(missing_ok=True)
        return
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure, axes = _figure(4.5 * columns, 3.4 * rows, rows=rows, columns=columns)
    for axis, (title, curves) in zip(axes, groups.items(), strict=False):
        for name, points in curves.items():
            strengths, means, errors = zip(*sorted(points), strict=True)
            axis.errorbar(strengths, means, errors, marker=".", capsize=3, label=_words(name))
        axis.set(xlabel=_folded(title, 3.7), ylabel="accuracy", ylim=(-0.02, 1.02))
        _log_scale(axis, "x", [strength for points in curves.values() for strength, *_ in points])
        axis.grid(alpha=0.3)
    for axis in axes[len(groups) :]:
        axis.remove()
    _legends(figure)
    _save_figure(figure, path)


def save_functions(
    panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], str]]],
    path: Path,
    xlabel: str,
    scale: str = "linear",
    limits: tuple[float, float] | None = None,
):
    """
    Plots functions of one number, a panel for each group.

    Args:
        panels: label of the vertical axis -> label of the curve -> (x, y, matplotlib's format string: "-", "o"). NaN
            breaks a line.
        path: of the PNG.
        xlabel: of the horizontal axes.
        scale: of both axes, linear or log.
        limits: of the vertical axes; those of the curves when not given.

    Without a panel there is no picture, not even one of before.
    """
    if not panels:
        path.unlink(missing_ok=True)
        return
    figure, axes = _figure(6 * len(panels), 3.7, columns=len(panels))
    for axis, (ylabel, curves) in zip(axes, panels.items(), strict=True):
        for label, (x, y, style) in curves.items():
            axis.plot(x, y, style, label=label, markersize=5)
        axis.set(xlabel=xlabel, ylabel=_folded(ylabel, 3.2))
        x, y = ([float(value) for curve in curves.values() for value in curve[index]] for index in (0, 1))
        if limits:
            axis.set_ylim(limits[0] - 0.02 * (limits[1] - limits[0]), limits[1] + 0.02 * (limits[1] - limits[0]))
        if scale == "log":
            _log_scale(axis, "x", x)
            _log_scale(axis, "y", y)
        elif all(value.is_integer() for value in x):
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    _legends(figure)
    _save_figure(figure, path)


def save_densities(rows: Mapping[str, Mapping[str, Tensor]], path: Path):
    """
    Draws densities on the plane as pictures, a row for each group; each picture is bright where its density is high.

    Args:
        rows: label of the row -> title of the picture -> density at a square grid of points, (num, num): the first
            index is x, from left to right, the second y, from below.
        path: of the PNG.
    """
    from matplotlib.figure import Figure

    columns = max(len(row) for row in rows.values())
    figure = Figure(figsize=(1.7 * columns, 1.8 * len(rows)), layout="constrained")
    for axes, (label, row) in zip(figure.subplots(len(rows), columns, squeeze=False), rows.items(), strict=True):
        for axis, (title, density) in zip(axes, row.items(), strict=False):
            axis.imshow(density.T.numpy(), origin="lower", vmin=0)
            axis.set_title(_folded(title, 1.7), fontsize=SMALL)
            axis.set(xticks=[], yticks=[])
        for axis in axes[len(row) :]:
            axis.remove()
        axes[0].set_ylabel(_folded(label, 1.7), fontsize=SMALL)
    _save_figure(figure, path)


def save_error_curves(
    curves: Mapping[str, Sequence[tuple[float, float, float]]],
    path: Path,
    *,
    xlabel: str,
    ylabel: str,
    levels: Mapping[str, tuple[float, float]],
):
    """
    Plots positive numbers with their standard errors on logarithmic axes.

    Args:
        curves: label -> points (x, y, standard error).
        path: of the PNG.
        xlabel, ylabel: of the axes.
        levels: label -> (y, standard error) of horizontal lines, in a band of two standard errors.
    """
    figure, (axis,) = _figure(7, 4)
    shown = [(x, y) for points in curves.values() for x, y, _ in points]
    for label, points in curves.items():
        x, y, errors = zip(*sorted(points), strict=True)
        axis.errorbar(x, y, errors, marker=".", capsize=3, label=label)
    for index, (label, (y, error)) in enumerate(levels.items()):
        grey = str(0.3 * index)
        axis.axhline(y, color=grey, linestyle="--", linewidth=1, label=label)
        axis.axhspan(y - 2 * error, y + 2 * error, color=grey, alpha=0.15)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    _log_scale(axis, "x", [x for x, _ in shown])
    _log_scale(axis, "y", [y for _, y in shown] + [y for y, _ in levels.values()])
    axis.grid(alpha=0.3)
    _legends(figure)
    _save_figure(figure, path)


def _figure(width: float, height: float, rows: int = 1, columns: int = 1, sharey: bool = False):
    """A figure of so many inches and its axes, row by row."""
    from matplotlib.figure import Figure  # takes a second

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=sharey, squeeze=False).flatten()
    for axis in axes:
        axis.tick_params(labelsize=SMALL)
        axis.xaxis.label.set_size(SMALL + 1)
        axis.yaxis.label.set_size(SMALL + 1)
    return figure, axes


def _log_scale(axes, which: str, values: Sequence[float]):
    """
    Makes an axis logarithmic, with plain numbers at few enough ticks: powers of ten, and others between few of them. 0
    stands as far below the smallest positive value as a tenth of that would.

    Args:
        axes: of matplotlib.
        which: of their axes, x or y.
        values: that stand on it.
    """
    from matplotlib.ticker import AutoLocator, FixedLocator, FuncFormatter, LogLocator, NullFormatter

    if not (positive := [value for value in values if value > 0]):
        return
    axis, low, high = getattr(axes, f"{which}axis"), min(positive), max(positive)
    decades = math.log10(high / low)
    locator = LogLocator(subs=(1, 2, 5) if decades <= 1.3 else (1, 3) if decades <= 2.6 else (1,), numticks=6)
    ticks = [tick for tick in locator.tick_values(low, high) if 0.99 * low <= tick <= 1.01 * high]
    if len(ticks) < 3:
        locator = AutoLocator()
    if 0 in values:
        getattr(axes, f"set_{which}scale")("symlog", linthresh=low)
        getattr(axes, f"set_{which}lim")(-0.2 * low, high**1.05 / low**0.05)
        locator = FixedLocator([0, *(ticks if decades > 0.5 else (low, high))])
    else:
        getattr(axes, f"set_{which}scale")("log")
    axis.set_major_locator(locator)
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))
    axis.set_minor_formatter(NullFormatter())


def _plain(value: float, digits: int = 6) -> str:
    """0.001 and 1000000 as they are, with so many digits at most that count."""
    return np.format_float_positional(value, precision=digits, unique=False, fractional=False, trim="-")


def _legends(figure):
    """Legends above the panels, where they hide no curve; the figure grows by them."""
    rows = 0
    for axis in figure.axes:
        handles, labels = axis.get_legend_handles_labels()
        width = figure.get_figwidth() / axis.get_gridspec().ncols
        labels = [_folded(label, width - 1) for label in labels]
        columns = 2 if max(map(len, labels), default=0) <= 6 * (width - 1) else 1
        rows = max(rows, sum(label.count("\n") + 1 for label in labels) / columns)
        place = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2, "frameon": False}
        axis.legend(handles, labels, fontsize=SMALL, ncols=columns, **place)
    figure.set_figheight(figure.get_figheight() + 0.15 * rows * figure.axes[0].get_gridspec().nrows)


def _folded(label: str, inches: float) -> str:
    """A label on several lines, none of them longer."""
    return textwrap.fill(textwrap.shorten(label, MOST_LETTERS, placeholder=" ..."), int(12 * inches))


def _words(name: str) -> str:
    """`kl_divergence` as `KL divergence`."""
    return " ".join(ACRONYMS.get(word, word) for word in name.split("_"))


def _save_figure(figure, path: Path):
    with replacing(Path(path)) as staging:
        figure.savefig(staging, format="png", dpi=DPI)
