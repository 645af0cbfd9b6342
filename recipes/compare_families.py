"""
Trains every generator of the zoo on one data set, and puts their numbers, costs and samples side by side.

    python recipes/compare_families.py
    python recipes/compare_families.py --dataset_name mnist --seeds 0 1
    python recipes/compare_families.py --dataset_name mnist --runs vae/cs236 "gan/best dataset_name=mnist"

Each of `--runs` is a preset, family/name, and flags of its recipe as name=value; when not given, every preset of a
generator that trains on the data and says what to expect. The first command trains on scikit-learn's digits, offline:
the presets' minutes, a quarter of an hour of one core. The output folder gets families.md (the table; likelihoods of
binary and of 8-bit images in columns of their own), families.json, quality.png (FID over processor minutes),
samples.png (the same number of samples of each), and each run's own folder. A second classifier of another
architecture, which is trained first, tells whether the order depends on the one that scores. Run again after an
interruption, it repeats nothing that is done.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hwzoo import comparison, scoring, training
from hwzoo.data import load_images
from hwzoo.errors import HwzooError
from hwzoo.files import write_bytes, write_json
from hwzoo.training import flag, sweep

# The second classifier: another architecture than those that come with the package, with 400 features.
SECOND = "continual/digits scenario=class strategy=joint num_tasks=1 backbone=mlp num_train_epochs=12"
SHOWN = 20  # samples of each run


@dataclass
class Compare(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    dataset_name: Literal["digits", "mnist", "fashion_mnist"] = flag("digits", "data that all are trained on")
    data_dir: str | None = flag(None, "folder that holds mnist/ or fashion_mnist/; HWZOO_DATA_DIR when not given")
    runs: list[str] = flag([], "presets, family/name, each with flags as name=value; all that fit when not given")
    seeds: list[int] = flag([0], "each run is done with each of them", "[0, 4294967295]")
    num_samples: int = flag(10_000, "of each, at most as many as training images", "[4, inf)")
    second_classifier: str | None = flag(None, "folder or Hub id; an MLP that is trained first when not given")
    eval_batch_size: int = flag(500, "samples a batch", "[1, inf)")
    output_dir: str = flag("outputs/compare_families", "folder for table, pictures and runs")
    overwrite_output_dir: bool = flag(False, "measure anew in a folder with measurements of other settings")


def main(compare: Compare) -> dict:
    # 1. what is asked for: all of it is parsed before hours of training
    folder = Path(compare.output_dir)
    data = load_images(compare.dataset_name, compare.data_dir)
    specs, where = (
        compare.runs or comparison.list_generators(compare.dataset_name),
        (folder / "runs", compare.data_dir, compare.dataset_name),
    )
    runs = comparison.plan(specs, compare.seeds, *where)
    wanted = {"dataset": data.name, "data": data.digest(), "num_samples": min(compare.num_samples, len(data.train))}
    wanted |= {"second_classifier": compare.second_classifier, "eval_batch_size": compare.eval_batch_size}
    path = folder / "families.json"
    rows = training.earlier_results(path, wanted, compare.overwrite_output_dir).get("rows", [])
    rows = [] if compare.overwrite_output_dir else rows
    training.make_output_dir(folder)

    # 2. two classifiers, of which the second may have to be trained
    second = compare.second_classifier
    if second is None:
        (run,) = comparison.plan([f"{SECOND} dataset_name={compare.dataset_name}"], [0], *where, drawn=False)
        sweep.result_of(run.main, run.arguments)
        second = run.settings["output_dir"]
    classifiers = [scoring.load_classifier(data), scoring.load_classifier(data, second, "second_classifier")]
    known_by = [scoring.weights_sha256(each) for each in classifiers]

    # 3. each run in a process of its own, whose memory and processor time are its alone; then its samples
    shown, failed = {}, []
    for number, run in enumerate(runs, 1):
        settings = run.settings
        print(f"{number} of {len(runs)}: {run.label}, seed {settings['seed']}", flush=True)
        try:
            results = sweep.result_of(run.main, run.arguments)
            row = {"run": run.label, "seed": settings["seed"], "train_cpu_seconds": results["train_cpu_seconds"]}
            row |= {"classifiers_sha256": known_by}
            if not any(row.items() <= each.items() for each in rows):
                rows = [each for each in rows if (each["run"], each["seed"]) != (run.label, settings["seed"])]
                asked = wanted["num_samples"], compare.eval_batch_size
                rows.append(row | comparison.measure(settings, results, data, classifiers, *asked))
                write_json(path, wanted | {"rows": rows})
            if settings["seed"] == compare.seeds[0]:
                shown[run.label] = comparison.draw(settings, SHOWN, SHOWN)[0]
        except training.Stopped:
            raise
        except HwzooError as error:  # the others are done
            failed.append(f"{run.label} seed={settings['seed']}: {error}")
            print(f"failed: {failed[-1]}", file=sys.stderr, flush=True)
            continue
        (done,) = (each for each in rows if row.items() <= each.items())
        done["likelihood_of"] = comparison.likelihood_of(results, settings, len(data.test))
        print(f"  FID {done['test_fid']:.1f}, {done['train_cpu_seconds'] / 60:.1f} CPU minutes", flush=True)

    if failed:
        raise sweep.some_failed(failed, len(runs))

    # 4. side by side
    asked = [row for label in shown for row in rows if row["run"] == label and row["seed"] in compare.seeds]
    means, floors = comparison.averaged(asked), (asked[0]["test_fid_floor"], asked[0]["second_fid_floor"])
    table = comparison.family_table(means, floors)
    text = f"{table}\n{comparison.agreement(means)}\n\n{asked[0]['protocol']}.\n"
    pictures = "![FID over CPU minutes](quality.png)\n\n![samples of each](samples.png)\n"
    page = f"# Generators of {data.title}, side by side\n\n{text}\n{pictures}"
    write_bytes(folder / "families.md", page.encode())
    training.save_error_curves(path=folder / "quality.png", **comparison.quality_curves(means, floors[0]))
    training.save_rows(
        shown, folder / "samples.png", f"{data.title}: samples of each run, seed {compare.seeds[0]}", SHOWN
    )
    print("", text, f"table, pictures and runs are in {folder}", sep="\n")
    return {"rows": means, "protocol": asked[0]["protocol"]}


if __name__ == "__main__":
    training.launch(main, Compare, description=__doc__)
