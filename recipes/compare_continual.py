"""
Runs `train_continual.py` over strategies, strengths, backbones, scenarios and seeds, and compares the results.

    python recipes/compare_continual.py
    python recipes/compare_continual.py --config recipes/configs/continual/compare_eecs182.yaml
    python recipes/compare_continual.py --runs "strategy=naive,rehearsal" "strategy=ewc ewc_lambda=1,10" --seeds 0 1

Each of `--runs` gives flags of `train_continual.py` as name=value; several values with commas between them make a run
each. The first command compares on scikit-learn's digits, offline, in a few minutes on 2 CPU cores. The output folder
gets comparison.md and comparison.json (mean and standard error over the seeds), comparison.png (bars), strength.png
(stability and plasticity over the strength of a penalty), and each run's own folder. Run again after an interruption,
it goes on with the run that was interrupted and repeats none that is done.
"""

import contextlib
import io
import itertools
import json
import shutil
import statistics
from dataclasses import dataclass
from pathlib import Path

import train_continual
import yaml

from hwzoo import training
from hwzoo.errors import UsageError
from hwzoo.files import write_bytes, write_json
from hwzoo.training import flag

TYPES = [
    train_continual.Run,
    train_continual.Tasks,
    train_continual.Model,
    train_continual.Optimizer,
    train_continual.Method,
]
STRENGTHS = ("ewc_lambda", "si_lambda", "lwf_lambda")
NUMBERS = ("average_accuracy", "average_forgetting", "stability", "plasticity", "train_runtime", "memory_held")


@dataclass
class Compare(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    base: str | None = flag(None, "preset of train_continual.py that all runs start from")
    runs: list[str] = flag(
        [
            "scenario=domain strategy=naive,joint,rehearsal,si,lwf backbone=mlp,cnn",
            "scenario=domain strategy=ewc ewc_lambda=1,100,10000 backbone=mlp,cnn",
            "scenario=domain strategy=replay memory_size=200 backbone=mlp,cnn",
        ],
        "flags of each run as name=value, several values with commas between them",
    )
    seeds: list[int] = flag([0, 1, 2], "each run is done with each of them", "[0, 4294967295]")
    output_dir: str = flag("outputs/compare_continual", "folder for the tables, pictures and runs")


def main(compare: Compare) -> list[dict]:
    folder = Path(compare.output_dir)
    cells = [cell for spec in compare.runs for cell in expand(spec)]
    parsed = {}  # all of them first: a wrong one is told before hours of training
    for cell, seed in itertools.product(cells, compare.seeds):
        name = " ".join(f"{key}={value}" for key, value in cell.items())
        argv = ["--config", compare.base] if compare.base else []
        argv += [f"--{key}={value}" for key, value in cell.items()]
        argv += [f"--seed={seed}", f"--output_dir={folder / 'runs' / name.replace(' ', ',') / f'seed={seed}'}"]
        parsed[name, seed] = training.parse_arguments(TYPES, argv)
    rows = []
    for cell in cells:
        name = " ".join(f"{key}={value}" for key, value in cell.items())
        results = []
        for seed in compare.seeds:
            results.append(finished(*parsed[name, seed]))
            print(f"{name} seed={seed}: average accuracy {results[-1]['average_accuracy']:.4f}", flush=True)
        rows.append({"run": name, "flags": cell, "seeds": compare.seeds, **summary(results)})
    for row in rows:  # a row is called by what the rows do not share
        others = [other["flags"] for other in rows]
        own = {key: value for key, value in row["flags"].items() if any(flags.get(key) != value for flags in others)}
        row["label"] = " ".join(f"{key}={value}" for key, value in own.items()).replace("strategy=", "") or row["run"]
    write_json(folder / "comparison.json", rows)
    write_bytes(folder / "comparison.md", table(rows).encode())
    draw(rows, folder)
    print(table(rows))
    return rows


def expand(spec: str) -> list[dict[str, str]]:
    """'strategy=ewc ewc_lambda=1,10' -> one dictionary of flags for each combination of values."""
    flags = {}
    for token in spec.split():
        key, equals, values = token.partition("=")
        if not (key and equals and values):
            raise UsageError(f"--runs {token!r} is not name=value[,value...]")
        flags[key] = values.split(",")
    return [dict(zip(flags, values, strict=True)) for values in itertools.product(*flags.values())]


def finished(run, *others) -> dict:
    """The results of a run: read when it is done with these very settings, else trained or gone on with."""
    folder = Path(run.output_dir)
    settings = training.settings(run, *others)
    done = folder / "all_results.json"
    if (folder / "preset.yaml").exists() and yaml.safe_load((folder / "preset.yaml").read_text()) != settings:
        run.overwrite_output_dir = True
    elif done.exists():
        return json.loads(done.read_text())
    elif folder.exists():
        run.resume_from_checkpoint = "latest"
    with contextlib.redirect_stdout(io.StringIO()):  # its numbers are told in one line
        results = train_continual.main(run, *others)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return results


def summary(results: list[dict]) -> dict:
    """Mean and standard error over the seeds of a run."""
    for result in results:
        matrix = result["accuracy_matrix"]
        result["plasticity"] = statistics.fmean(row[min(i, len(row) - 1)] for i, row in enumerate(matrix))
        past = matrix[-1][:-1] if len(matrix) > 1 else matrix[-1]
        result["stability"] = statistics.fmean(past)
    means = {}
    for name in NUMBERS:
        values = [result[name] for result in results if name in result]
        if values:
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
            means[name] = {"mean": statistics.fmean(values), "standard_error": error}
    last = zip(*(result["accuracy_matrix"][-1] for result in results), strict=True)
    return {
        **means,
        "accuracy_by_task": [statistics.fmean(values) for values in last],
        "protocol": results[0]["protocol"],
    }


def table(rows: list[dict]) -> str:
    """Markdown; accuracies in per cent."""
    lines = [
        "| run | average accuracy | forgetting | by task | seconds | memory, MB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        by_task = " / ".join(f"{100 * value:.1f}" for value in row["accuracy_by_task"])
        forgetting = per_cent(row["average_forgetting"]) if "average_forgetting" in row else "-"
        seconds, memory = row["train_runtime"]["mean"], row["memory_held"]["mean"] / 1e6
        average = per_cent(row["average_accuracy"])
        lines.append(f"| {row['label']} | {average} | {forgetting} | {by_task} | {seconds:.0f} | {memory:.1f} |")
    seeds = ", ".join(map(str, rows[0]["seeds"]))
    note = "Accuracies in per cent after the last task, mean ± standard error"
    return "\n".join(lines) + f"\n\n{note} over the seeds {seeds}. {rows[0]['protocol']}.\n"


def per_cent(number: dict) -> str:
    error = number["standard_error"]
    return f"{100 * number['mean']:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def draw(rows: list[dict], folder: Path):
    """Bars of the average accuracy, and lines over the strength for runs that differ in nothing else."""
    names = [row["label"] for row in rows]
    average = [row["average_accuracy"] for row in rows]
    training.save_bars(
        names,
        [number["mean"] for number in average],
        [number["standard_error"] or 0.0 for number in average],
        folder / "comparison.png",
        label="average accuracy",
    )
    groups: dict[str, dict[str, list]] = {}
    for row in rows:
        strength = next((key for key in STRENGTHS if key in row["flags"]), None)
        if strength is not None:
            rest = " ".join(f"{key}={value}" for key, value in row["flags"].items() if key != strength)
            curves = groups.setdefault(f"{rest} over {strength}", {})
            for name in ("stability", "plasticity", "average_accuracy"):
                number = row[name]
                point = (float(row["flags"][strength]), number["mean"], number["standard_error"] or 0.0)
                curves.setdefault(name, []).append(point)
    groups = {title: curves for title, curves in groups.items() if len(curves["stability"]) > 1}
    if groups:
        training.save_strength_curves(groups, folder / "strength.png")


if __name__ == "__main__":
    training.launch(main, Compare, description=__doc__)
