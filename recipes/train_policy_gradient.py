"""
Trains classifiers by rewards alone, which can be asked for and not differentiated, and compares what they learn from:
the exercise of CS 182 (Berkeley).

    python recipes/train_policy_gradient.py
    python recipes/train_policy_gradient.py --rewards 3/-1 1/0 0/-1 4/0 --estimators argmax reinforce --output_dir NEW
    python recipes/train_policy_gradient.py --config recipes/configs/policy_gradient/digits_bandit.yaml

`argmax` is the course's notebook: reward times the gradient of log p of the most probable answer. `reinforce` draws
the answer (Williams 1992), `reinforce_baseline` takes the mean reward of the other points from each, `exact` asks for
the reward of every answer, `evolution` perturbs the weights (arXiv:1703.03864), `supervised` is told the answer. The
first of `--rewards`, right/wrong, is for all of them, the others for `argmax` and `reinforce`: to those alone it
matters where 0 lies. Accuracy is of the most probable answer, whatever the training drew.

all_results.json holds accuracies, curves.png draws them. Takes 54 seconds of one core of an AMD EPYC (Zen 4).
"""

import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from hwzoo import blackbox, training
from hwzoo.data import load_images
from hwzoo.errors import UsageError
from hwzoo.files import with_words, write_json
from hwzoo.training import flag, sweep

TABLE_STEPS = (100, 300, 1000, 3000)  # of the table, as far as the training goes
ZERO_MATTERS = ("argmax", "reinforce")
COURSE = "cs182"


@dataclass
class Settings(training.ImageData):
    config: str | None = flag(None, "a preset by name, or a YAML file with flags as keys; the command line wins")
    dataset_name: str = flag(COURSE, f"{COURSE}, or images: digits, mnist, fashion_mnist, a Hub id, a folder")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    output_dir: str = flag("outputs/policy_gradient", "folder for all_results.json and the picture")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seeds: list[int] = flag([73, 0, 1, 2, 3], "of weights and draws, a network each", "[0, 4294967295]")
    estimators: list[str] = flag(list(blackbox.ESTIMATORS), "what is learned from", some_of=list(blackbox.ESTIMATORS))
    rewards: list[str] = flag(["3/-1", "1/0"], "of a right and of a wrong answer, right/wrong")
    hidden_sizes: list[int] = flag([32], "units of the hidden layers", "[1, 65536]")
    train_batch_size: int | None = flag(None, "points a step, at least 2; all when not given", "[2, inf)")
    max_train_steps: int = flag(3000, "optimiser steps of each network", "[1, inf)")
    learning_rate: float = flag(2e-3, "of Adam", "(0, inf)")
    eval_steps: int = flag(50, "steps between points of the curves", "[1, inf)")

    def __post_init__(self):
        super().__post_init__()
        given = [each.name for each in fields(training.ImageData) if getattr(self, each.name) != each.default]
        if given and self.dataset_name == COURSE:
            raise UsageError(f"--{given[0]} is of images; --dataset_name is {COURSE}, which are points")
        _ = [blackbox.pair_of(words) for words in self.rewards]  # refused now, not after the first run
        for name in ("seeds", "estimators", "rewards"):
            if not (values := getattr(self, name)) or len(set(values)) < len(values):
                raise UsageError(f"--{name} is {' '.join(map(str, values))}; each may be given once, and one must be")


@training.on_one_thread
def main(settings: Settings) -> dict:
    # 1. output folder, data
    folder = training.make_output_dir(settings.output_dir, settings.overwrite_output_dir)
    task, described = load_task(settings)
    started = time.monotonic()

    # 2. a row of the table for each estimator and pair of rewards: the networks of all seeds at once
    last = settings.max_train_steps
    table_steps = sorted({step for step in (*TABLE_STEPS, last) if step <= last})
    eval_at = {*table_steps, *range(settings.eval_steps, last + 1, settings.eval_steps)}
    rows = {}
    for index, words in enumerate(settings.rewards):
        for name in settings.estimators:
            if index == 0 or name in ZERO_MATTERS:
                learned = blackbox.learn(
                    name, task, blackbox.pair_of(words), settings.seeds, steps=last, eval_at=eval_at,
                    hidden_sizes=settings.hidden_sizes, batch_size=settings.train_batch_size,
                    learning_rate=settings.learning_rate, noise_at=table_steps if name == "reinforce" else (),
                )  # fmt: skip
                rows[name if name == "supervised" else f"{name} {words}"] = row_of(name, words, learned)
                print(f"{list(rows)[-1]}: {time.monotonic() - started:.0f} s", flush=True)

    # 3. save
    batch = f"{settings.train_batch_size} points drawn with replacement" if settings.train_batch_size else "all points"
    units = "-".join(map(str, [task.train.shape[-1], *settings.hidden_sizes, task.num_classes]))
    results = {
        f"test_accuracy_{row['estimator']}": row["test_accuracy"]["mean"][-1]
        for row in rows.values()
        if row["rewards"] == settings.rewards[0]
    } | {
        "rows": rows,
        "train_runtime": time.monotonic() - started,
        "protocol": (
            f"{described}: {len(task.train)} training and {len(task.test)} test points; networks {units} "
            f"with ReLU; {last} steps of Adam at {settings.learning_rate:g} on {batch}; accuracy of the most probable "
            f"answer, mean and standard error over the seeds {', '.join(map(str, settings.seeds))} of network and "
            "draws, on the same data; classes_answered: those with at least 1 % of the answers to the test points; "
            "gradient_noise: root of E|g - G|^2 / |G|^2 at the weights after a step, G exact, g of reinforce without "
            "and with the baseline"
        ),
    }
    write_json(folder / "all_results.json", with_words(results))  # no noise where the gradient is 0
    training.save_settings(folder / "preset.yaml", settings)
    draw(folder, rows)
    print_table(rows, table_steps)
    print(f"results and picture are in {folder}")
    return results


def load_task(settings: Settings) -> tuple[blackbox.Task, str]:
    if settings.dataset_name == COURSE:
        return blackbox.course_task(), COURSE
    images = load_images(settings.dataset_name, settings.data_dir, settings)
    images.check_classes("--dataset_name")
    sets = [(part.pixel_values(), part.labels) for part in (images.train, images.watched)]
    described = images.described + (", tested on the images held out" if images.validation is not None else "")
    return blackbox.image_task(*sets, num_classes=len(images.train.class_names)), described


def row_of(name: str, rewards: str, learned: blackbox.Learned) -> dict:
    return {
        "estimator": name,
        "rewards": rewards,
        "steps": learned.steps,
        "train_accuracy": by_step(learned.train_accuracy),
        "test_accuracy": by_step(learned.test_accuracy),
        "test_accuracy_by_seed": learned.test_accuracy[-1].tolist(),
        "classes_answered": learned.classes_answered.tolist(),
        "gradient_noise": {
            str(step): {each: sweep.mean_and_error(values.tolist()) for each, values in noise.items()}
            for step, noise in learned.noise.items()
        },
    }


def by_step(values: torch.Tensor) -> dict[str, list]:
    """Mean and standard error of each row of (steps, seeds)."""
    numbers = [sweep.mean_and_error(row.tolist()) for row in values]
    return {key: [number[key] for number in numbers] for key in ("mean", "standard_error")}


def draw(folder: Path, rows: dict[str, dict]):
    panels = {
        f"accuracy on {part} points": {
            name: (row["steps"], row[f"{part}_accuracy"]["mean"], f"C{index}-")
            for index, (name, row) in enumerate(rows.items())
        }
        for part in ("train", "test")
    }
    training.save_functions(panels, folder / "curves.png", xlabel="step")


def print_table(rows: dict[str, dict], steps: list[int]):
    """Markdown; accuracies in per cent."""
    print("| estimator, rewards | " + " | ".join(f"{step:,} steps" for step in steps) + " | training, at the end |")
    print("| --- " * (len(steps) + 2) + "|")
    for name, row in rows.items():
        places = [("test_accuracy", row["steps"].index(step)) for step in steps] + [("train_accuracy", -1)]
        print(f"| {name} | " + " | ".join(per_cent(row[key], place) for key, place in places) + " |")


def per_cent(numbers: dict[str, list], place: int) -> str:
    mean, error = numbers["mean"][place], numbers["standard_error"][place]
    return f"{100 * mean:.1f}" + (f" ± {100 * error:.1f}" if error is not None else "")


if __name__ == "__main__":
    training.launch(main, Settings, description=__doc__)
