"""Grids of images, pixel by pixel, and figures in which every word can be read."""

import json
import math

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from recipe_runs import tiles_of

from hwzoo import training
from hwzoo.training import pictures

STRENGTHS = [0, 1, 10, 100, 1e3, 1e4, 1e6], [0.001, 0.1, 1], [3, 5, 8], [1e-5, 1e5], [0, 3, 4]
LONG = "probability of a first token after 'question: which of the two is larger, the sun or the moon of the earth?'"
HISTORY = [{"step": 50 * i, "loss": 3 / i, "kl_divergence": 20 * i / (i + 3)} for i in range(1, 100)]
HISTORY += [{"step": 1000 * i, "eval_loss": 3.3 / i, "eval_rouge1": 30 + i, "eval_rougeL": 5} for i in range(1, 5)]


def strengths(path):
    names = ("stability", "plasticity", "average_accuracy")
    groups = {
        f"ewc hidden_sizes=400,400 num_tasks={num} scenario=domain over ewc_lambda": {
            name: [(value, 0.3 + 0.1 * index, 0.02) for value in values] for index, name in enumerate(names)
        }
        for num, values in enumerate(STRENGTHS)
    }
    training.save_strength_curves(groups, path)


def errors(path, points=((5, 30, 1), (10, 12, 0.5), (25, 3.2, 0.2), (1000, 1.8, 0.1)), levels=None):
    levels = {"floor": (0.4, 0.0), "ddpm, 1000 steps, ± 2 standard errors": (1.05, 0.04)} if levels is None else levels
    curves = {"ddim, trailing": points, "sde_dpm_solver, lu": [(x, y / 2, error) for x, y, error in points]}
    training.save_error_curves(curves, path, xlabel="network evaluations", ylabel="FID", levels=levels)


def functions(path, x=(1e-8, 1e-4, 1), scale="log", **kwargs):
    curves = {f"{num} beams, {how} cache": (x, x, "o-") for num in (1, 4) for how in ("with", "without")}
    training.save_functions({LONG: curves, "y": {"a label that is longer than its panel " * 3: (x, x, "-")}},
                            path, xlabel="x", scale=scale, **kwargs)  # fmt: skip


def bars(path):
    names = ["naive", "ewc ewc_lambda=1000 hidden_sizes=400,400 fisher_samples=1000 learning_rate=0.001", "x " * 150]
    panels = {"average accuracy": ([0.5, 0.73, math.nan], [0.01, 0.02, 0]), "loss": ([1234.5, 2.1, 0], [10, 2, 0])}
    training.save_bar_panels(names, panels, path)


def receptive_fields(path):
    seen = torch.arange(25).view(5, 5) < 6
    fields = {f"two 3 x 3 layers, {kind} then B": (seen, seen, (2, 2)) for kind in "ABCDE"}
    training.save_receptive_fields(fields, path)


def densities(path):
    density = torch.rand(5, 5, generator=torch.Generator().manual_seed(0))
    training.save_densities({"potential_1": {"P": density, "realnvp, reverse annealed": density}}, path)


def matrix(num_rows):
    return lambda path: training.save_accuracy_matrix([[0.1 * column for column in range(10)]] * num_rows, path)


def tasks(path):
    history = [{"step": 10 * s, **{f"eval_accuracy_task_{t}": 1 / t for t in range(1, s)}} for s in range(1, 20)]
    training.save_task_curves(history, path, [10, 150], held_out=True)


PANELS = {"loss": ("loss", "eval_loss"), "ROUGE": ("eval_rouge1", "eval_rouge2", "eval_rougeL"), "none": ("missing",)}
FIGURES = {
    "strengths": strengths,
    "errors": errors,
    "errors within a factor of two": lambda path: errors(path, [(10, 3.1, 0.1), (12, 3.4, 0.1), (15, 3.9, 0)], {}),
    "errors at one place": lambda path: errors(path, [(10, 3.1, 0.1)], {}),
    "functions, eight decades": functions,
    "functions, one decade": lambda path: functions(path, (16, 32, 64, 128)),
    "functions, large": lambda path: functions(path, (1e3, 1e7)),
    "functions of whole numbers": lambda path: functions(path, (0, 1, 2), "linear", limits=(0, 1)),
    "panels": lambda path: training.save_panels(HISTORY, path, PANELS),
    "curves": lambda path: training.save_curves(HISTORY, path, ("loss", "kl_divergence", "missing"), unit="nats"),
    "bars": bars,
    "bars of fractions": lambda path: training.save_shares({"no_prompt": 0.0, "0_shot": 1.0}, 9, path, "accuracy"),
    "receptive fields": receptive_fields,
    "densities": densities,
    "a row": matrix(1),
    "a matrix": matrix(7),
    "tasks": tasks,
}


@pytest.fixture
def drawn(monkeypatch):
    """The figures that are saved."""
    figures, save = [], pictures._save_figure
    monkeypatch.setattr(pictures, "_save_figure", lambda figure, path: (figures.append(figure), save(figure, path)))
    return figures


def tick_labels(axes, renderer) -> dict[str, list]:
    """By axis, x or y, the labels of the ticks that are seen, with their boxes."""
    low_high = {"x": axes.get_xlim(), "y": axes.get_ylim()}
    found = {}
    for which, axis in (("x", axes.xaxis), ("y", axes.yaxis)):
        low, high = sorted(low_high[which])
        ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
        labels = [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
        found[which] = [(label.get_text(), label.get_window_extent(renderer)) for label in labels if label.get_text()]
    return found


def texts_of(figure):
    """All that is written into it, but for the labels of ticks."""
    for axes in figure.axes:
        yield from (axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts)
        yield from axes.get_legend().get_texts() if axes.get_legend() else ()
    for legend in figure.legends:
        yield from legend.get_texts()


@pytest.mark.long
@pytest.mark.parametrize("name", FIGURES)
def test_every_word_of_a_figure_can_be_read(name, drawn, tmp_path):
    FIGURES[name](tmp_path / "x.png")
    (figure,) = drawn
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    page, boxes = figure.bbox.padded(0.5), []
    for text in texts_of(figure):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(renderer)
            assert page.containsx(box.x0) and page.containsx(box.x1), (text.get_text(), box, page)
            assert page.containsy(box.y0) and page.containsy(box.y1), (text.get_text(), box, page)
            assert "..." not in text.get_text() or len(text.get_text()) > 150
            boxes.append((text.get_text(), box))
    assert all(axes.has_data() for axes in figure.axes)
    for axes in figure.axes:
        assert axes.get_label() == "<colorbar>" or min(axes.bbox.size) > 25
        for which, labels in tick_labels(axes, renderer).items():
            if getattr(axes, f"get_{which}scale")() != "linear":
                assert len(labels) >= 2, labels
                assert all(set(text) <= set("0123456789.") for text, _ in labels), labels
            boxes += labels
    for index, (text, box) in enumerate(boxes):
        for other, another in boxes[:index]:
            assert not (box.padded(-1).overlaps(another.padded(-1))), (text, other)
    assert Image.open(tmp_path / "x.png").size == pytest.approx(tuple(figure.bbox.size), abs=1)


def test_numbers_on_logarithmic_axes_are_plain(drawn, tmp_path):
    strengths(tmp_path / "x.png")
    figure = drawn[0]
    figure.draw(renderer := FigureCanvasAgg(figure).get_renderer())
    told = [[text for text, _ in tick_labels(axes, renderer)["x"]] for axes in figure.axes]
    assert told[0][:2] == ["0", "1"] and told[0][-1] == "1000000"
    assert told[1] == ["0.001", "0.01", "0.1", "1"]
    assert told[2] == ["3", "4", "5", "6", "7", "8"]
    assert told[3][0] in ("0.00001", "0.0001") and told[3][-1] in ("10000", "100000")  # matplotlib chooses the powers
    assert told[4] == ["0", "3", "4"]


def test_only_what_was_measured_is_drawn(drawn, tmp_path):
    training.save_functions({"y": {"a": ([0, 1, 2], [0.1, math.nan, 0.3], ".-")}}, tmp_path / "x.png", xlabel="x")
    (line,) = drawn[0].axes[0].lines
    assert np.isnan(line.get_ydata()[1])  # matplotlib breaks a line there
    training.save_panels(HISTORY, tmp_path / "y.png", PANELS)
    loss, rouge = drawn[1].axes
    assert [line.get_label() for line in loss.lines] == ["training", "evaluation"]
    assert [line.get_label() for line in rouge.lines] == ["ROUGE-1, evaluation", "ROUGE-L, evaluation"]
    assert loss.lines[0].get_marker() != "." and loss.lines[1].get_marker() == "."  # 99 points, and four
    assert list(loss.lines[1].get_xdata()) == [1000, 2000, 3000, 4000]
    history = [{"step": step, "eval_loss": 1.0, "eval_exact_match": 0.0} for step in (1, 2)]
    panels = {"loss": ("eval_loss",), "exact match": ("eval_exact_match",)}
    training.save_panels(history, tmp_path / "z.png", panels)
    assert [axis.get_ylabel() for axis in drawn[2].axes] == ["loss"]
    training.save_panels([*history, {"step": 3, "eval_exact_match": 0.1}], tmp_path / "z.png", panels)
    assert [axis.get_ylabel() for axis in drawn[3].axes] == ["loss", "exact match"]


def test_the_curves_of_tasks_say_of_which_images_they_are(drawn, tmp_path):
    history = [{"step": 1, "eval_accuracy_task_1": 0.5}]
    for held_out in (False, True):
        training.save_task_curves(history, tmp_path / "x.png", [1], held_out)
    labels = [figure.axes[0].get_ylabel() for figure in drawn]
    assert labels == ["accuracy on test images", "accuracy on images held out"]


def test_without_points_there_is_no_picture(tmp_path):
    training.save_panels([{"step": 1, "other": 2.0}], tmp_path / "x.png", PANELS)
    training.save_curves([], tmp_path / "x.png", ("loss",), unit="nats")
    training.save_task_curves(HISTORY, tmp_path / "x.png", [5])
    assert not list(tmp_path.iterdir())


# Grids of images


@pytest.mark.parametrize("size", [1, 8, 28, 55, 56, 57, 64])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_each_pixel_is_a_square_of_its_colour(size, num_channels, tmp_path):
    images = torch.randint(256, (7, num_channels, size, size), generator=torch.Generator().manual_seed(0))
    training.save_image_grid(images / 255, tmp_path / "x.png", "seven images; a model, seed 0", columns=3)
    shown = tiles_of(tmp_path / "x.png", 3)
    assert torch.equal(shown.long(), images[:, 0] if num_channels == 1 else images.permute(0, 2, 3, 1))
    picture = Image.open(tmp_path / "x.png")
    grid = json.loads(picture.text["Grid"])
    assert grid["enlarged"] == {1: 56, 8: 7, 28: 2, 55: 2, 56: 1, 57: 1, 64: 1}[size] and grid["num"] == 7
    assert picture.text["Description"] == "seven images; a model, seed 0"
    assert picture.mode == ("L" if num_channels == 1 else "RGB") and picture.format == "PNG"


def test_values_outside_are_clamped_and_any_precision_is_taken(tmp_path):
    images = torch.tensor([-1.0, 0.5, 3.0]).view(3, 1, 1, 1).to(torch.bfloat16)
    training.save_image_grid(images, tmp_path / "x.png", "three", columns=3)
    assert tiles_of(tmp_path / "x.png", 3).flatten().tolist() == [0, 128, 255]


def test_versions_stand_below_or_beside_each_other(tmp_path):
    first = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    versions = {"original": first, "its negative": 1 - first}
    first, second = ((images * 255).round().to(torch.uint8)[:, 0] for images in versions.values())
    training.save_rows(versions, tmp_path / "rows.png", "two versions", columns=3)
    # Rows of three and of two images, each of both versions; the place of the last two stays white.
    picture = np.array(Image.open(tmp_path / "rows.png"))
    grid = json.loads(Image.open(tmp_path / "rows.png").text["Grid"])
    assert (grid["rows"], grid["columns"], grid["num"], grid["top"]) == (4, 3, 10, 0) and grid["left"] > 60
    for row, column, expected in ((0, 0, first[0]), (1, 2, second[2]), (2, 1, first[4]), (3, 0, second[3])):
        place = [1 + row * 58, grid["left"] + 1 + column * 58]
        tile = picture[place[0] : place[0] + 56, place[1] : place[1] + 56]
        assert np.array_equal(tile[::14, ::14], expected), (row, column)
    assert (picture[2 * 58 : 4 * 58, grid["left"] + 2 * 58 :] == 255).all()
    labels = picture[: 4 * 58, : grid["left"] - 2]
    assert all((labels[row * 58 : (row + 1) * 58] < 100).any() for row in range(4))  # each row has its name

    # A run's long name takes lines, as many as the row is high, and no width of the page.
    long = {"vae/best latent_size=20 kl_warmup_steps=0 mixed_precision=no max_train_steps=12000": versions["original"]}
    training.save_rows(long, tmp_path / "long.png", "a long name", columns=5)
    grid = json.loads(Image.open(tmp_path / "long.png").text["Grid"])
    labels = np.array(Image.open(tmp_path / "long.png"))[:58, : grid["left"] - 2]
    assert (
        grid["left"] < 400 and (labels[0] == 255).all() and (labels[-1] == 255).all() and (labels[:, 0] == 255).all()
    )

    training.save_image_grid(versions, tmp_path / "columns.png", "two versions")
    shown = tiles_of(tmp_path / "columns.png", 2)
    assert torch.equal(shown[::2], first) and torch.equal(shown[1::2], second)
    grid = json.loads(Image.open(tmp_path / "columns.png").text["Grid"])
    above = np.array(Image.open(tmp_path / "columns.png"))[: grid["top"]]
    assert all((above[:, column * 58 : (column + 1) * 58] < 100).any() for column in range(2))


@pytest.mark.parametrize("caption", ["short", "many words " * 40, "x" * 300, "две\nстроки", "x" * 60 + "\n" + "y" * 9])
def test_a_caption_is_on_the_page_whole(caption, tmp_path):
    training.save_image_grid(torch.zeros(1, 1, 28, 28), tmp_path / "x.png", caption)
    picture = Image.open(tmp_path / "x.png")
    assert picture.text["Description"] == caption
    below = np.array(picture)[58:]
    assert (below[:, :3] == 255).all() and (below[:, -3:] == 255).all()  # nothing is cut off at a side
    assert (below[:3] == 255).all() and (below[-3:] == 255).all()
    lines = np.flatnonzero(np.diff((below < 100).any(1).astype(int)) == 1)
    assert len(lines) >= max(1, len(caption) // 60)


def test_a_series_and_an_animation_are_told_apart_by_their_words(tmp_path):
    images = torch.rand(4, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    series = training.ImageSeries(tmp_path, "The same latents; gan, seed 0", columns=2)
    for step in (5, 100000):
        series.add(step, images)
    series.finish(tmp_path / "series.gif")
    frames = {"step 1": images, "step 2 of 2": images}
    training.save_animation(frames, tmp_path / "x.gif", "The reverse process; ddpm, seed 0", columns=2)
    assert Image.open(tmp_path / "fake_0005.png").text["Description"].endswith("seed 0\nstep 5")
    for name in ("series.gif", "x.gif"):
        with Image.open(tmp_path / name) as animation:
            shown = []
            for index in range(animation.n_frames):
                animation.seek(index)
                shown.append((np.array(animation.convert("L")), animation.info["duration"]))
        assert [duration for _, duration in shown] == [250, 2000]
        grid = [page[: 2 * 58, : 2 * 58] for page, _ in shown]
        assert np.array_equal(*grid) and not np.array_equal(shown[0][0], shown[1][0])
        assert np.array_equal(grid[0], np.array(Image.open(tmp_path / "fake_0005.png"))[: 2 * 58, : 2 * 58])


def test_a_long_series_shows_some_and_keeps_no_file_open(tmp_path, monkeypatch):
    pages, num_open = [], []

    def watched(path, real=Image.open):
        pages.append(real(path))
        num_open.append(sum(page.fp is not None and not page.fp.closed for page in pages))
        return pages[-1]

    monkeypatch.setattr(Image, "open", watched)
    series = training.ImageSeries(tmp_path, "Of a long run; gan, seed 0", columns=1)
    for step in range(1, 252):
        series.add(step, torch.zeros(1, 1, 4, 4))
    assert list(series.shown()) == [1 + index * 250 // 199 for index in range(200)]
    series.finish(tmp_path / "series.gif")
    assert num_open == [1] * 200  # each alone
    assert Image.open(tmp_path / "series.gif").n_frames == 200


def test_a_pixel_that_is_seen_is_marked_too(tmp_path):
    """Of colours: its red is before its blue."""
    drawn = []
    for place in ((1, 1), (3, 2)):
        seen = torch.ones(5, 5, dtype=torch.bool)
        training.save_receptive_fields({"": (seen, seen, place)}, tmp_path / "fields.png")
        drawn.append(np.array(Image.open(tmp_path / "fields.png").convert("L"), dtype=int))
    differing = drawn[0] != drawn[1]
    darker = np.minimum(*drawn)[differing]
    assert differing.any() and np.median(darker) < 60
