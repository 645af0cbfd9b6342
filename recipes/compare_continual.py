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

import statistics
from dataclasses import dataclass
from pathlib import Path

from hwzoo import packaged, training
from hwzoo.training import flag, sweep

train_continual = packaged.load_recipe("train_continual")
TYPES = [kind for kind in train_continual.main.__annotations__.values() if kind is not dict]
STRENGTHS = ("ewc_lambda", "si_lambda", "lwf_lambda")


@dataclass
class Compare(training.SweepArguments):
    runs: list[str] = flag(
        [
            "scenario=domain strategy=naive,joint,rehearsal,si,lwf backbone=mlp,cnn",
            "scenario=domain strategy=ewc ewc_lambda=1e3,1e5,1e7 backbone=mlp,cnn",
            "scenario=domain strategy=replay memory_size=200 backbone=mlp,cnn",
        ],
        "flags of each run as name=value, several values with commas between them",
    )
    output_dir: str = flag("outputs/compare_continual", "folder for the tables, pictures and runs")


def main(compare: Compare) -> list[dict]:
    cells = sweep.run_all(train_continual.main, TYPES, compare, lambda results: ["average_accuracy"])
    for result in (result for cell in cells for result in cell.results):
        matrix = result["accuracy_matrix"]
        learned = [row[i] for i, row in enumerate(matrix)] if len(matrix) > 1 else matrix[0]  # joint: all at once
        result["plasticity"] = statistics.fmean(learned)
        result["stability"] = statistics.fmean(matrix[-1][:-1] if len(matrix) > 1 else matrix[-1])
    rows = sweep.summaries(cells, compare.seeds)
    for row, cell in zip(rows, cells, strict=True):
        row["label"] = row["label"].replace("strategy=", "")
        last = zip(*(result["accuracy_matrix"][-1] for result in cell.results), strict=True)
        row["accuracy_by_task"] = [statistics.fmean(values) for values in last]
    folder = Path(compare.output_dir)
    sweep.save_comparison(rows, folder, table(rows), ["average_accuracy"], limits=(0, 1))
    draw_strengths(rows, folder)
    print(table(rows))
    return rows


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
    note = f"Accuracies in per cent after the last task. {sweep.seeds_of(rows)}"
    return "\n\n".join(["\n".join(lines), note, *sweep.protocols(rows)]) + "\n"


def per_cent(number: dict) -> str:
    error = number["standard_error"]
    return f"{100 * number['mean']:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


def draw_strengths(rows: list[dict], folder: Path):
    """Lines over the strength, for runs that differ in nothing else."""
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
    training.save_strength_curves(groups, folder / "strength.png")


if __name__ == "__main__":
    training.launch(main, Compare, description=__doc__)
