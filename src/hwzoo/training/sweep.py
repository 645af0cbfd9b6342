"""A recipe over values of its flags and seeds: a folder for each run, means with standard errors, a table, bars."""

import contextlib
import io
import itertools
import json
import math
import re
import shutil
import statistics
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from huggingface_hub.errors import StrictDataclassError

from ..errors import HwzooError, UsageError, first_line
from ..files import NOT_FINITE, settled, sha256, write_bytes, write_json
from .arguments import LONGEST_NAME, Flags, flag, parse_arguments, reproducing, save_settings
from .launch import check_one_process, locked, make_output_dir
from .loop import Stopped
from .pictures import save_bar_panels, save_functions
from .resume import CHECKPOINTS

# What the sweep itself says of each run, and what all of them would do to the same place.
OWN = {"seed": "--seeds gives it", "output_dir": "each run has its own"}
OWN |= dict.fromkeys(("overwrite_output_dir", "resume_from_checkpoint"), "the sweep does what is needed")
OWN |= dict.fromkeys(("push_to_hub", "hub_model_id"), "push the run that you choose")
AGAIN = "the same command goes on"  # where a run alone would need --resume_from_checkpoint
MOST_PANELS = 6
MOST_DECIMALS = 6


@dataclass
class SweepArguments(Flags):
    """The flags of a sweep; a recipe derives from it to give its own defaults."""

    config: str | None = flag(None, "a preset by name, or a YAML file with these flags as keys; the command line wins")
    preset: str | None = flag(None, "preset of the training recipe, by name or path, that all runs start from")
    runs: list[str] = flag(
        [], "flags of each run as name=value, several values with commas between them; the preset alone when not given"
    )
    seeds: list[int] = flag([0, 1, 2], "each run is done with each of them", "[0, 4294967295]")
    output_dir: str = flag("outputs/sweep", "folder for the table, the picture and the runs")

    def __post_init__(self):
        super().__post_init__()
        twice = sorted({seed for seed in self.seeds if self.seeds.count(seed) > 1})
        if twice:
            raise UsageError(f"--seeds has {twice[0]} twice; each of them is one run")


class Cell(NamedTuple):
    """
    Runs that differ in nothing but their seed.

    Attributes:
        flags: what `--runs` says of them, by name.
        results: of each seed, as in all_results.json.
    """

    flags: dict[str, str]
    results: list[dict[str, Any]]


def expand(spec: str) -> list[dict[str, str]]:
    """
    Args:
        spec: one of `--runs`, "strategy=ewc ewc_lambda=1,10".

    Returns:
        The flags of each combination of values, the last flag's changing fastest.

    Raises:
        UsageError: for what is not name=value, a name or value that stands twice, a flag that a sweep gives itself.
    """
    values_of: dict[str, list[str]] = {}
    for token in spec.split():
        name, equals, values = token.partition("=")
        if not (name and equals and values):
            raise UsageError(f"--runs {token!r} is not name=value[,value...]")
        name = name.replace("-", "_")  # as the command line takes it: --ewc-lambda is --ewc_lambda
        if name in values_of:
            raise UsageError(f"--runs {spec!r} has {name} twice; several values have commas between them")
        if name in OWN:
            raise UsageError(f"--runs {token!r}: {name} is no flag of a run here; {OWN[name]}")
        values_of[name] = every = values.split(",")
        if twice := [value for value in every if every.count(value) > 1]:
            raise UsageError(
                f"--runs {token!r} has {twice[0]} twice; each value is a run of its own, and a list of several stands "
                "in a preset, config=FILE"
            )
    return [dict(zip(values_of, values, strict=True)) for values in itertools.product(*values_of.values())]


def plan(types: list[type], asked: SweepArguments) -> list[tuple[dict[str, str], list[list[Any]]]]:
    """
    Parses all runs: what is wrong with one of them is told before hours of training.

    Args:
        types: the dataclasses that the recipe's `main` takes, that with the flags of a run first.
        asked: the flags of the sweep.

    Returns:
        For each combination of values its flags, and the dataclasses of its run with each seed.

    Raises:
        UsageError: for a preset or run that the recipe does not take, or where several processes were started.
    """
    check_one_process()  # a group of processes does one run
    start = [] if asked.preset is None else [f"--config={asked.preset}"]
    planned = []
    for flags in [flags for spec in asked.runs for flags in expand(spec)] or [{}]:
        name = _name(flags)
        # One folder each, whatever stands in a path among the values.
        part = name.replace(" ", ",").replace("%", "%25").replace("/", "%2F")
        if len(whole := part.encode()) > LONGEST_NAME:
            part = f"{whole[: LONGEST_NAME - 9].decode(errors='ignore')}-{sha256(whole)[:8]}"
        arguments = []
        for seed in asked.seeds:
            folder = Path(asked.output_dir) / "runs" / part / f"seed={seed}"
            tokens = [f"--{key}={value}" for key, value in flags.items()]
            try:
                arguments.append(parse_arguments(types, [*start, *tokens, f"--seed={seed}", f"--output_dir={folder}"]))
            except UsageError as error:
                try:
                    parse_arguments(types, start)
                except UsageError as of_preset:
                    if str(of_preset) == str(error):  # else the run gives what the preset lacks, and is wrong itself
                        raise UsageError(re.sub("^--config ", "--preset ", str(of_preset))) from None
                raise UsageError(f"--runs {name!r}: {error}" if name else str(error)) from None
            if getattr(arguments[-1][0], "push_to_hub", False):
                what = f"--runs {name!r}" if "config" in flags else f"--preset {asked.preset}"
                raise UsageError(f"{what}: push_to_hub is not for a run here; {OWN['push_to_hub']}")
        planned.append((flags, arguments))
    return planned


def run_all(
    main: Callable[..., dict[str, Any]],
    types: list[type],
    asked: SweepArguments,
    metrics: Callable[[dict[str, Any]], Sequence[str]],
) -> list[Cell]:
    """
    Does all runs of a sweep, one after the other, and prints a line for each. Of an earlier call with the same output
    folder, what is done with the very same settings is read, and what was interrupted is resumed; what has other
    settings now is begun anew.

    Args:
        main: of the recipe; it leaves all_results.json, preset.yaml and checkpoints as training recipes do.
        types: the dataclasses that it takes, that with the flags of a run first.
        asked: the flags of the sweep.
        metrics: given the results of a run, the names of those that its line tells.

    Returns:
        One cell for each combination of flags, with the results of its runs in the order of the seeds.

    Raises:
        UsageError: before the first run, when the flags of one are wrong or several processes were started.
        HwzooError: after the others, when some failed, as one whose loss is not finite; when all did, a UsageError if
            the first was told so.
    """
    cells, failed = [], []
    for flags, planned in plan(types, asked):
        results = []
        for seed, arguments in zip(asked.seeds, planned, strict=True):
            run = f"{_name(flags)} seed={seed}".lstrip()
            try:
                before = _done(arguments)
                results.append(before or _run(main, arguments))
            except Stopped:
                raise
            except Exception as error:  # whatever it is, the others are done
                # Its words alone: an error keeps the model and the data of its run.
                told = str(error)
                if isinstance(error, StrictDataclassError):
                    told = first_line(error.__cause__ or error)
                elif not isinstance(error, HwzooError):
                    traceback.print_exc()
                    told = f"{type(error).__name__}: {first_line(error)}"
                usage = isinstance(error, UsageError | StrictDataclassError)
                failed.append((f"{run}: {told}", UsageError if usage else HwzooError))
                print(f"failed: {failed[-1][0]}", file=sys.stderr, flush=True)
                continue
            told = (f"{name.replace('_', ' ')} {results[-1][name]:.4f}" for name in metrics(results[-1]))
            print(f"{run}: " + ", ".join([*told, *(["done before"] if before else [])]), flush=True)
        cells.append(Cell(flags, results))
    num = len(cells) * len(asked.seeds)
    if len(failed) == num:
        raise failed[0][1](f"all {num} runs failed: {failed[0][0]}")
    if failed:
        raise some_failed([told for told, _ in failed], num)
    return cells


def some_failed(failed: Sequence[str], num: int) -> HwzooError:
    """
    Args:
        failed: what is told of each run that failed, at least one.
        num: runs in all.

    Returns:
        The error of a sweep or comparison in which the others are done.
    """
    told = f"{len(failed)} of {num} runs failed; leave them out of --runs or --seeds for a table of the others"
    return HwzooError(f"{told}: {failed[0]}")


def result_of(main: Callable[..., dict[str, Any]], arguments: list[Any]) -> dict[str, Any]:
    """
    The results of one run: read when it is done with these very settings, else resumed or begun.

    Args:
        main: as in `run_all`.
        arguments: the dataclasses of the run, that with its flags first.

    Returns:
        What is in its all_results.json.

    Raises:
        Stopped: when a signal ends it.
    """
    return _done(arguments) or _run(main, arguments)


def _run(main: Callable[..., dict[str, Any]], arguments: list[Any]) -> dict[str, Any]:
    """The results of a run that is resumed or begun."""
    run, wanted = arguments[0], _comparable(reproducing(*arguments))
    folder = Path(run.output_dir)
    done = Path(settled(folder))
    begun, ended = _records(folder)
    make_output_dir(folder.parent)
    ended.unlink(missing_ok=True)
    if wanted != (_read(begun) or _read(done / "preset.yaml") or wanted):
        with locked(folder):  # not of a run that is going on
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)  # a resume would take them for this one's
    save_settings(begun, *arguments)
    if any((folder / CHECKPOINTS).glob("[!.]*")):
        run.resume_from_checkpoint = "latest"
    else:
        run.overwrite_output_dir = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # its numbers are told in one line
            results = main(*arguments)
    except Stopped as error:
        raise Stopped(error.what, error.number, AGAIN) from None
    save_settings(ended, *arguments)
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return results


def _done(arguments: list[Any]) -> dict[str, Any] | None:
    """The results of a run that is done with these very settings; None without; HwzooError as at its own end."""
    folder = Path(arguments[0].output_dir)
    done, (_, ended) = Path(settled(folder)), _records(folder)
    same = _comparable(reproducing(*arguments)) in (_read(done / "preset.yaml"), _read(ended))
    if not same or not (done / "all_results.json").exists():
        return None
    results = json.loads((done / "all_results.json").read_bytes())
    if bad := [name for name, value in results.items() if value in NOT_FINITE]:
        raise HwzooError(f"{', '.join(bad)} is not finite; model, card and pictures are in {done}")
    return results


def _records(folder: Path) -> tuple[Path, Path]:
    """
    What a run was begun with, and what it ended with, beside its folder: preset.yaml is of the last run that ended,
    and says what a trained model has, whatever was asked for.
    """
    return folder.with_name(f"{folder.name}.yaml"), folder.with_name(f"{folder.name}.ended.yaml")


def numbers_of(results: dict[str, Any]) -> dict[str, float]:
    """Those of a run's results that are one number."""
    return {
        name: value
        for name, value in results.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }


def mean_and_error(values: Sequence[float]) -> dict[str, float | None]:
    """
    The mean, and its standard error s / sqrt(n) with s^2 = sum (x - mean)^2 / (n - 1); None for one value, and where
    one of them is not finite.
    """
    finite = len(values) > 1 and all(map(math.isfinite, values))
    error = statistics.stdev(values) / len(values) ** 0.5 if finite else None
    return {"mean": statistics.fmean(values), "standard_error": error}


def summaries(cells: list[Cell], seeds: list[int]) -> list[dict[str, Any]]:
    """
    Args:
        cells: of `run_all`.
        seeds: of the results of each.

    Returns:
        A row a cell: `run` and `label`, its name in full and without what all rows share, `flags`, `seeds`,
        `protocol` where the recipe gives one, and `mean` and `standard_error` of each number that all seeds have.
    """
    rows = []
    for flags, results in cells:
        row = {"run": _name(flags), "flags": flags, "seeds": seeds}
        own = {key: value for key, value in flags.items() if any(cell.flags.get(key) != value for cell in cells)}
        row["label"] = _name(own) or row["run"]
        every = [numbers_of(result) for result in results]
        for name in every[0]:
            if all(name in numbers for numbers in every):
                row[name] = mean_and_error([numbers[name] for numbers in every])
        if all("protocol" in result for result in results):
            row["protocol"] = _one_protocol([result["protocol"] for result in results], seeds)
        rows.append(row)
    return rows


def _one_protocol(protocols: Sequence[str], seeds: Sequence[int]) -> str:
    """That of the first of several seeds, without its own seed where each of the others names its own there."""
    parts = [re.split(r"\bseed (\d+)", protocol) for protocol in protocols]
    first = parts[0]
    if len(seeds) > 1 and all(len(each) == len(first) for each in parts):
        for place in range(1, len(first), 2):
            own = [int(each[place]) for each in parts] == list(seeds)
            first[place] = "the seed of its training" if own else f"seed {first[place]}"
        return "".join(first)
    return protocols[0]


def table(rows: list[dict[str, Any]], metrics: Sequence[str]) -> str:
    """
    Rows of `summaries` in Markdown, `mean ± standard error` of some of their numbers, and the protocols.

    Args:
        rows: each with `label`, `seeds` and, by the names of `metrics`, numbers.
        metrics: one a column; `-` stands for what a row lacks.

    Returns:
        Markdown, which ends with a line break.
    """
    lines = [["run", *metrics], ["---"] * (len(metrics) + 1)]
    lines += [[row["label"], *(written(row.get(name)) for name in metrics)] for row in rows]
    notes = [seeds_of(rows), *protocols(rows)]
    return "\n\n".join(["\n".join(f"| {' | '.join(line)} |" for line in lines), *notes]) + "\n"


def seeds_of(rows: list[dict[str, Any]]) -> str:
    """What the numbers of rows of `summaries` are over, a sentence."""
    seeds = ", ".join(map(str, rows[0]["seeds"]))
    return f"Mean ± standard error over the seeds {seeds}." if len(rows[0]["seeds"]) > 1 else f"Seed {seeds} alone."


def protocols(rows: list[dict[str, Any]]) -> list[str]:
    """The protocols of rows of `summaries`, a sentence each; of several each tells whose it is."""
    labels: dict[str, list[str]] = {}
    for row in rows:
        labels.setdefault(row.get("protocol", ""), []).append(row["label"])
    several = len(labels) > 1
    return [f"{', '.join(each) + ': ' if several else ''}{protocol}." for protocol, each in labels.items() if protocol]


def save_comparison(rows: list[dict[str, Any]], folder: Path, text: str, metrics: Sequence[str], limits=None):
    """
    Writes comparison.json with the rows of `summaries`, comparison.md with a table of them, and comparison.png with
    bars.

    Args:
        rows: of `summaries`.
        folder: for the files.
        text: the table.
        metrics: the numbers that are drawn, a panel each, the first six.
        limits: of the axis of the numbers, which else starts at 0.
    """
    write_json(folder / "comparison.json", rows)
    write_bytes(folder / "comparison.md", text.encode())
    missing = {"mean": math.nan, "standard_error": None}
    panels = {}
    for name in metrics[:MOST_PANELS]:
        numbers = [row.get(name, missing) for row in rows]
        means, errors = [each["mean"] for each in numbers], [each["standard_error"] or 0.0 for each in numbers]
        panels[name.replace("_", " ")] = means, errors
    save_bar_panels([row["label"] for row in rows], panels, folder / "comparison.png", limits)


def save_curve(rows: list[dict[str, Any]], folder: Path, x: str, y: str):
    """
    Writes curve.png: a point for each row that has both numbers, their means over the seeds; those that differ in the
    value of one flag alone are joined by a line, the others have a legend.

    Args:
        rows: of `summaries`.
        folder: for the file.
        x: name of the number on the horizontal axis.
        y: of the number on the vertical axis.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in (each for each in rows if x in each and y in each):
        own = row["label"].split()
        groups.setdefault(own[0].split("=")[0] if len(own) == 1 else row["label"], []).append(row)
    curves = {}
    for flag_name, group in groups.items():
        points = sorted((row[x]["mean"], row[y]["mean"]) for row in group)
        label = flag_name if len(group) > 1 else group[0]["label"]
        curves[label] = (*zip(*points, strict=True), "o-")
    save_functions({y.replace("_", " "): curves}, folder / "curve.png", x.replace("_", " "))


def _name(flags: dict[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in flags.items())


def _read(path: Path) -> dict[str, Any] | None:
    return _comparable(yaml.safe_load(path.read_bytes())) if path.exists() else None


def _comparable(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if name != "data_dir"}  # data may be moved


def written(number: dict[str, float | None] | None, digits: int | None = None) -> str:
    """
    A mean with its error, as it stands in tables.

    Args:
        number: of `mean_and_error`, or None.
        digits: significant ones of a mean without an error, also where they are zeros; at most five, and no zeros at
            the end, when not given.

    Returns:
        `99.78 ± 0.29`, with as many decimals as the standard error has in two significant digits; `-` for None.
    """
    if number is None:
        return "-"
    mean, error = number["mean"], number["standard_error"]
    if error:
        return f"{mean:.{_decimals(error, 2)}f} ± {error:.{_decimals(error, 2)}f}"
    rounded = f"{mean:.5g}" if digits is None else f"{mean:.{_decimals(mean, digits)}f}"
    return rounded if error is None else f"{rounded} ± 0"


def _decimals(value: float, digits: int) -> int:
    """How many show so many significant digits of a number."""
    return min(max(0, digits - 1 - math.floor(math.log10(abs(value) or 1))), MOST_DECIMALS)
