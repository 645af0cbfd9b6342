"""
Runs a training recipe over seeds and values of its flags, and gives means with their standard errors.

    python recipes/sweep.py vae
    python recipes/sweep.py vae --preset cs236 --seeds 0 1 2
    python recipes/sweep.py vae --runs config=cs236,eecs182,mixture
    python recipes/sweep.py gan --runs "loss=minimax,non_saturating learning_rate=1e-4,2e-4" "loss=wasserstein_gp"

Each of `--runs` gives flags of the recipe as name=value; several values with commas between them make a run each. The
first command trains on scikit-learn's digits, offline, in about three minutes on 2 CPU cores. The output folder gets
comparison.md and comparison.json (mean and standard error over the seeds), comparison.png (bars), curve.png where
`--axes` names two numbers, and each run's own folder. Run again after an interruption, it goes on with the run that
was interrupted and repeats none that is done; a run whose settings have changed since is begun anew.
"""

import inspect
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

from hwzoo import packaged, training
from hwzoo.errors import UsageError
from hwzoo.files import sha256
from hwzoo.training import flag, sweep


@dataclass
class Sweep(training.SweepArguments):
    FIRST = "recipe"

    recipe: str | None = flag(None, "training recipe, vae or train_vae, or the file of one")
    metrics: list[str] | None = flag(
        None,
        "numbers of all_results.json for the table; when not given, those for which the presets say what to expect, "
        "else the scores, test_... and accuracies, else all",
    )
    axes: list[str] | None = flag(
        None, "two numbers of all_results.json: also curve.png, the second over the first, a point for each run"
    )
    output_dir: str | None = flag(
        None, "folder for the table, the picture and the runs; outputs/sweep-RECIPE-PRESET when not given"
    )

    def __post_init__(self):
        super().__post_init__()
        paths = [Path(name) for name in (self.recipe, self.preset) if name]
        # Each run leaves a preset.yaml, in its folder.
        names = [path.resolve().parent.name if path.stem == "preset" else path.stem for path in paths]
        names = [name.removeprefix("train_") for name in names]
        self.title = "-".join(names)
        self.output_dir = self.output_dir or "-".join(["outputs/sweep", *names])


def main(asked: Sweep) -> list[dict]:
    if asked.axes is not None and len(asked.axes) != 2:
        raise UsageError(f"--axes is {' '.join(asked.axes)}; it must be two numbers")
    recipe, types = loaded(asked.recipe)
    runs = apart(asked, Path(recipe.__file__))
    presets = dict.fromkeys(flags.get("config", asked.preset) for flags, _ in sweep.plan(types, runs))
    expected = [name for preset in presets if preset for name in training.expected_numbers(preset, types)]
    columns: dict[str, None] = {}  # of the table, in their order

    def metrics(results):
        numbers = sweep.numbers_of(results)
        for key in ("metrics", "axes"):
            unknown = [name for name in getattr(asked, key) or [] if name not in numbers]
            if unknown and not columns:
                raise UsageError(f"--{key} {unknown[0]} is not among its numbers: {', '.join(numbers)}")
        named = [name for name in asked.metrics or expected if name in numbers]
        named = named or [name for name in numbers if name.startswith("test_") or "accuracy" in name]
        named = named or list(numbers)  # of a generator without a classifier that would score it
        columns.update(dict.fromkeys(named))
        return named

    rows = sweep.summaries(sweep.run_all(recipe.main, types, runs, metrics), asked.seeds)
    for row in rows:
        row["label"] = row["label"] or asked.title  # the only row
    text = sweep.table(rows, list(columns))
    sweep.save_comparison(rows, Path(asked.output_dir), text, list(columns))
    if asked.axes is not None:
        sweep.save_curve(rows, Path(asked.output_dir), *asked.axes)
    else:
        Path(asked.output_dir, "curve.png").unlink(missing_ok=True)  # of an earlier call
    print(f"\n{text}\ntable, picture and runs are in {asked.output_dir}")
    return rows


def loaded(name: str | None) -> tuple[ModuleType, list[type]]:
    """The recipe that a name or path stands for, and the dataclasses that its `main` takes."""
    paths = sorted(packaged.folder("recipes").glob("train_*.py"))
    known = [path.stem for path in paths if packaged.runs_the_loop(path)]  # others take seeds themselves
    allowed = f"one of {', '.join(stem.removeprefix('train_') for stem in known)}, or the file of a recipe"
    if name is None:
        raise UsageError(f"no recipe is given; the first argument must be {allowed}")
    found = [stem for stem in known if name in (stem, stem.removeprefix("train_"))]
    found += [name] if name.endswith(".py") and Path(name).is_file() else []
    if not found:
        raise UsageError(f"--recipe {name}: it must be {allowed}")
    recipe = packaged.load_recipe(found[0])
    return recipe, [parameter.annotation for parameter in inspect.signature(recipe.main).parameters.values()]


def apart(asked: Sweep, file: Path) -> Sweep:
    """With a folder for the runs of this version of a recipe of one's own: the numbers of another are not its."""
    if file.parent == packaged.folder("recipes").resolve():
        return asked
    version = sha256(file.read_bytes())[:8]
    return replace(asked, output_dir=str(Path(asked.output_dir) / f"{file.stem}-{version}"))


if __name__ == "__main__":
    training.launch(main, Sweep, description=__doc__)
