"""What `compare_families.py` does with the runs of generators: starts them, measures them, and makes the table."""

import inspect
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor
from tqdm.auto import tqdm

from . import generators, packaged, scoring
from .data import ImageSplits
from .errors import HwzooError, UsageError
from .files import CHECKPOINTS
from .models import FAMILIES, ClassifierForImageClassification, PipelineFamily
from .training import Stopped, sweep
from .training.loop import signal_of

# The likelihood of a run, the first of these that its results hold: binary images in nats, before them the bound of
# most importance samples, and 8-bit ones in bits/dim.
NATS = ("test_negative_elbo", "test_negative_log_prob", "test_negative_bound")
BITS = ("test_bits_per_dim",)
MADE_BY = "each run, with the seed of its training, a pipeline's by the sampler and steps of its training's pictures"
# Columns of the table: what a row calls them, and their headings.
COLUMNS = {
    "nats": "NLL or bound, binary, nats",
    "bits_per_dim": "NLL or bound, 8-bit, bits/dim",
    "test_fid": "FID",
    "test_precision": "precision",
    "test_recall": "recall",
    "test_density": "density",
    "test_coverage": "coverage",
    "smallest_class": "smallest class, %",
    "second_fid": "FID, second classifier",
    "parameters": "parameters, millions",
    "train_minutes": "training, CPU minutes",
    "sample_seconds": "1,000 samples, CPU seconds",
    "peak_memory": "peak memory, MB",
}
# Significant digits of one seed's numbers: likelihoods are known better than what the samples and the clock say.
DIGITS = {"nats": 4, "bits_per_dim": 4}
OTHER_DIGITS = 3


def list_generators(dataset_name: str) -> list[str]:
    """
    The presets of generators of images that train on a data set and were run: they say what to expect.

    Args:
        dataset_name: `digits`, `mnist` or `fashion_mnist`.

    Returns:
        Their names, family/name.
    """
    draws, found = _families(), []
    for preset in packaged.presets():
        flags = yaml.safe_load(preset.path.read_text(encoding="utf-8")) or {}
        if preset.recipe.removeprefix("train_") in draws and flags.get("expected"):
            alone = not flags.get("model_name_or_path")  # else it needs what another preset leaves
            found += [preset.name] if alone and flags.get("dataset_name") == dataset_name else []
    return found


def _families() -> set[str]:
    """The names of those that draw images."""
    return {
        family.name
        for family in FAMILIES
        if family.draws == "images" and (isinstance(family, PipelineFamily) or hasattr(family.model_class, "sample"))
    }


class Run(NamedTuple):
    """
    Attributes:
        label: preset and flags, as in the table.
        main: of `in_a_process`.
        arguments: the dataclasses of the run, that with its flags first.
    """

    label: str
    main: Callable[..., dict[str, Any]]
    arguments: list[Any]

    @property
    def settings(self) -> dict[str, Any]:
        """All flags by name."""
        return {name: value for each in self.arguments for name, value in vars(each).items()}


def plan(
    specs: Sequence[str],
    seeds: list[int],
    folder: Path,
    data_dir: str | None,
    dataset_name: str,
    drawn: bool = True,
) -> list[Run]:
    """
    Parses all runs: what is wrong with one of them is told before hours of training.

    Args:
        specs: of each a preset, family/name, and flags as name=value; several values with commas make a run each.
        seeds: each run is done with each of them.
        folder: for the runs' own folders.
        data_dir: of the data; None for HWZOO_DATA_DIR's.
        dataset_name: that all are to train on.
        drawn: whether all are to draw images.

    Returns:
        The runs, those of one label together.

    Raises:
        UsageError: for a preset that is not there or of models that draw no images, flags that its recipe does not
            take, or a run on other data.
    """
    presets, runs = {each.name: each for each in packaged.presets()}, []
    for spec in specs:
        name, *flags = spec.split() or [""]
        if name not in presets:
            raise UsageError(f"--runs {spec!r}: there is no preset {name!r}; `hwzoo presets` lists them")
        preset = presets[name]
        if drawn and preset.recipe.removeprefix("train_") not in _families():
            raise UsageError(f"--runs {spec!r}: its models draw no images")
        main = packaged.load_recipe(preset.recipe).main
        types = [parameter.annotation for parameter in inspect.signature(main).parameters.values()]
        asked = {"preset": str(preset.path), "runs": [" ".join(flags)] if flags else [], "seeds": seeds}
        for values, planned in sweep.plan(types, sweep.SweepArguments(**asked, output_dir=str(folder / name))):
            tokens = [f"--config={preset.path}", *(f"--{key}={value}" for key, value in values.items())]
            label = " ".join([name, *(f"{key}={value}" for key, value in values.items())])
            runs += [Run(label, in_a_process(preset.recipe, tokens, data_dir), each) for each in planned]
            if size := runs[-1].settings.get("image_size"):
                raise UsageError(
                    f"--runs {spec!r}: images of {size} x {size} are not those that all are compared with"
                )
            if (other := runs[-1].settings["dataset_name"]) != dataset_name:
                raise UsageError(
                    f"--runs {spec!r} trains on {other}, not on --dataset_name {dataset_name}: add "
                    f"dataset_name={dataset_name}"
                )
    return runs


def in_a_process(recipe: str, flags: Sequence[str], data_dir: str | None) -> Callable[..., dict[str, Any]]:
    """
    The `main` of a recipe, run in a process of its own, whose memory and processor time are of this run alone.

    Args:
        recipe: its name, `train_vae`.
        flags: of the command line, without those of the run's folder and seed.
        data_dir: of the data; None for HWZOO_DATA_DIR's.

    Returns:
        A function of the run's dataclasses that gives what is in its all_results.json; it raises `HwzooError` with the
        last line that the process wrote, and `Stopped` after a signal, once the process has ended.
    """

    def last_line(told: str) -> str:
        return (told.strip().splitlines() or ["without a word"])[-1]

    environment = os.environ | ({} if data_dir is None else {"HWZOO_DATA_DIR": data_dir})

    def main(run: Any, *further: Any) -> dict[str, Any]:
        file, folder = packaged.folder("recipes") / f"{recipe}.py", Path(run.output_dir)
        command = [sys.executable, str(file), *flags, f"--seed={run.seed}", f"--output_dir={folder}"]
        resume = run.resume_from_checkpoint
        command += ["--overwrite_output_dir"] if resume is None else [f"--resume_from_checkpoint={resume}"]
        pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
        # In a group of its own: a Ctrl-C reaches this process alone, which passes it on.
        with subprocess.Popen(command, env=environment, start_new_session=True, **pipes) as process:
            try:
                _, told = process.communicate()
            except (KeyboardInterrupt, SystemExit) as error:
                number = signal_of(error) or signal.SIGTERM
                try:
                    if os.name != "nt":  # there it has its own, and can be sent none
                        process.send_signal(number)
                    _, told = process.communicate()
                finally:
                    process.kill()  # for a second signal, which does not wait
                kept = (
                    f"{folder} is saved" if any((folder / CHECKPOINTS).glob("[!.]*")) else "before it had a checkpoint"
                )
                failed = process.returncode > 0 and process.returncode != 128 + number
                told = last_line(told) if failed else kept
                raise Stopped(f"stopped by {signal.Signals(number).name}; {told}", number) from error
        if process.returncode:
            told = f"{recipe} into {folder} ended with status {process.returncode}: {last_line(told)}"
            raise HwzooError(told)
        return json.loads((folder / "all_results.json").read_bytes())

    return main


def likelihood(results: dict[str, Any], settings: dict[str, Any]) -> dict[str, float]:
    """
    The negative log-likelihood of a run, or its bound: only numbers of images of one kind can be compared.

    Args:
        results: of the run.
        settings: its flags.

    Returns:
        `nats`, an image, where its pixels were made binary at random; `bits_per_dim` for images of 8 bits; nothing for
        a run without, or on images of another kind.
    """
    binarization = settings.get("binarization", "none")
    draws = sorted(int(name[1]) for each in results if (name := re.fullmatch(r"test_iwae_(\d+)", each)))
    nats = *(f"test_iwae_{num}" for num in reversed(draws)), *NATS
    unit, names = {"dynamic": ("nats", nats), "none": ("bits_per_dim", BITS)}.get(binarization, ("", ()))
    found = [results[name] for name in names if name in results]
    return {unit: found[0]} if found else {}


def likelihood_of(results: dict[str, Any], settings: dict[str, Any], num_images: int) -> str:
    """
    What a run's likelihood is of, where it is not log p(x) of all test images; such numbers are not comparable.

    Args:
        results: of the run.
        settings: its flags.
        num_images: test images of the data.

    Returns:
        Words for its cell of the table; "" where there is nothing to say.
    """
    if not likelihood(results, settings):
        return ""
    some = settings.get("num_iwae_images") if any("test_iwae_" in name for name in results) else None
    some = settings.get("num_bound_images", some)
    parts = ["given the class"] if settings.get("conditional") else []
    return ", ".join([*parts, *([f"{some:,} images"] if some and some < num_images else [])])


@torch.no_grad()
def draw(settings: dict[str, Any], num_samples: int, batch_size: int) -> tuple[Tensor, float]:
    """
    Samples of a run, a pipeline's by the sampler, steps and guidance of its training's pictures.

    Args:
        settings: flags of the run: `output_dir`, `seed`, and of a pipeline `scheduler`, `num_inference_steps` and
            `guidance_scale`.
        num_samples: that are drawn, with the run's seed.
        batch_size: of them.

    Returns:
        (num_samples, channels, height, width) in [0, 1], on the CPU, and the processor's seconds that drawing them
        took: without the loading of the model, and after a first image.
    """
    name, asked = settings["output_dir"], {key: settings.get(key) for key in ("scheduler", "num_inference_steps")}
    asked |= {"guidance_scale": settings.get("guidance_scale", 1.0)}
    sample, *_ = generators.open_generator(name, torch.device("cpu"), output_dir=Path(), **asked)
    sample(torch.arange(1), num_samples, torch.Generator().manual_seed(0))  # warms up
    generator, images, start = torch.Generator().manual_seed(settings["seed"]), [], time.process_time()
    quick = True if num_samples <= batch_size else None  # no bar
    for part in tqdm(torch.arange(num_samples).split(batch_size), desc="samples", unit="batch", disable=quick):
        images.append(sample(part, num_samples, generator).float())
    return torch.cat(images), time.process_time() - start


def measure(
    settings: dict[str, Any],
    results: dict[str, Any],
    data: ImageSplits,
    classifiers: Sequence[ClassifierForImageClassification],
    num_samples: int,
    batch_size: int,
) -> dict[str, Any]:
    """
    The numbers of one run, for a row of the table.

    Args:
        settings: its flags, as of `draw`, and `binarization`.
        results: as in its all_results.json.
        data: that it was trained on.
        classifiers: that scores the samples, and another, for `second_fid`.
        num_samples: that are drawn, with the run's seed.
        batch_size: of them.

    Returns:
        By the names of `COLUMNS`, with `test_fid_standard_error`, `second_fid_floor` and `protocol`.
    """
    images, seconds = draw(settings, num_samples, batch_size)
    scores = scoring.score(images, data, classifiers[0], MADE_BY, every_score=True)
    second = scoring.score(images, data, classifiers[1], MADE_BY)
    _, model = generators.load_generator(settings["output_dir"], torch.device("cpu"))
    network = getattr(model, "unet", model)
    row = likelihood(results, settings) | scores
    row |= {"smallest_class": 100 * min(scores["test_class_histogram"])}
    row |= {"second_fid": second["test_fid"], "second_fid_floor": second["test_fid_floor"]}
    if scoring.SINGULAR in second["protocol"] and scoring.SINGULAR not in scores["protocol"]:
        row["protocol"] += f"; second classifier: {scoring.SINGULAR}"
    row |= {"parameters": sum(each.numel() for each in network.parameters()) / 1e6}
    row |= {"train_minutes": results["train_cpu_seconds"] / 60, "sample_seconds": 1000 * seconds / num_samples}
    return row | ({"peak_memory": results["peak_memory"]} if "peak_memory" in results else {})


def averaged(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Args:
        rows: of runs, with `run`, their label, `seed` and `likelihood_of`.

    Returns:
        One row a label, in their order: `run`, `seeds`, `likelihood_of`, and of each number `mean` and
        `standard_error` over the seeds; over the samples, by the jackknife, where a FID is of one seed alone.
    """
    found = []
    for label in dict.fromkeys(row["run"] for row in rows):
        own = [row for row in rows if row["run"] == label]
        row = {"run": label, "seeds": [each["seed"] for each in own], "likelihood_of": own[0].get("likelihood_of", "")}
        for name in [name for name in COLUMNS if name in own[0]]:
            row[name] = sweep.mean_and_error([each[name] for each in own])
        row["parameters"]["standard_error"] = None  # a count, the same of all seeds
        if len(own) == 1:
            row["test_fid"]["standard_error"] = own[0]["test_fid_standard_error"]
        found.append(row)
    return found


def family_table(rows: Sequence[dict[str, Any]], floors: tuple[float, float]) -> str:
    """
    Args:
        rows: of `averaged`.
        floors: the FID of training images, on both classifiers.

    Returns:
        A table in Markdown, with a last row of the floors, and a line on its errors.
    """
    lines = [["run", "seeds", *COLUMNS.values()]]
    lines += [["---"] * len(lines[0])]
    for row in rows:
        cells = {name: sweep.written(row.get(name), DIGITS.get(name, OTHER_DIGITS)) for name in COLUMNS}
        if told := row.get("likelihood_of"):
            cells |= {name: f"{cells[name]} ({told})" for name in ("nats", "bits_per_dim") if name in row}
        lines.append([row["run"], ", ".join(map(str, row["seeds"])), *cells.values()])
    ends = dict(zip(("test_fid", "second_fid"), floors, strict=True))
    lines.append(["floor: training images", "", *(f"{ends[name]:.2f}" if name in ends else "" for name in COLUMNS)])
    notes = "± is the standard error over the seeds; of the FID of one seed that over the samples, by the jackknife."
    if any(row.get("likelihood_of") for row in rows):
        notes += (
            " In brackets what a likelihood is of: given the class it is another quantity, of fewer images less sure."
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{notes}\n"


def agreement(rows: Sequence[dict[str, Any]]) -> str:
    """
    Whether the order by FID depends on the classifier.

    Args:
        rows: of `averaged`.

    Returns:
        A sentence: the pairs of runs that the second classifier orders the other way, and Kendall's tau of the orders.
    """
    pairs = list(itertools.combinations(rows, 2))
    turned = []
    for one, other in pairs:
        first, second = (one[name]["mean"] - other[name]["mean"] for name in ("test_fid", "second_fid"))
        turned += [f"{one['run']} and {other['run']}"] if first * second < 0 else []
    if not pairs:
        return "One run has no order."
    tau = 1 - 2 * len(turned) / len(pairs)
    told = f"orders {len(turned)} of {len(pairs)} pairs the other way (Kendall's tau {tau:.2f})"
    return f"By FID the second classifier {told}{': ' if turned else ''}{', '.join(turned)}."


def quality_curves(rows: Sequence[dict[str, Any]], floor: float) -> dict[str, Any]:
    """
    What `training.save_error_curves` draws: FID over the minutes of the training, a point a run.

    Args:
        rows: of `averaged`.
        floor: the FID of training images.

    Returns:
        Its arguments but for the path.
    """
    curves = {
        row["run"]: [(row["train_minutes"]["mean"], row["test_fid"]["mean"], row["test_fid"]["standard_error"])]
        for row in rows
    }
    labels = {"xlabel": "training, CPU minutes", "ylabel": "FID"}
    return {"curves": curves, "levels": {"floor: training images": (floor, 0.0)}, **labels}
