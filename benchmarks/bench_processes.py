"""
What a second process gives: the VAE of the default run by one process with batches of 200 images and by two with 100
each, one thread a process, in turns.

    python benchmarks/bench_processes.py

Efficiency is the images a second of two processes over twice those of one: 1 where the second core is all gain.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from side_by_side import ratio, take_turns

RECIPE = Path(__file__).parents[1] / "recipes" / "train_vae.py"
TWO = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]


def images_a_second(processes: int, steps: int) -> float:
    """Of the training loop alone, as the run itself tells."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, *(TWO if processes == 2 else []), str(RECIPE), f"--output_dir={folder}/run"]
        command += [f"--train_batch_size={200 // processes}", f"--max_train_steps={steps}", "--num_threads=1"]
        command += ["--num_importance_samples", "1", f"--checkpointing_steps={steps}"]
        environment = os.environ | {"ACCELERATE_USE_CPU": "1"}
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        results = json.loads(Path(folder, "run", "all_results.json").read_text())
    return 200 * results["train_steps"] / results["train_runtime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    runs = {"1 process": 1, "2 processes": 2}
    speeds = take_turns(
        lambda: {name: images_a_second(num, args.steps) for name, num in runs.items()}, args.rounds, "images/s"
    )
    print(json.dumps({"efficiency of 2 processes": round(ratio(speeds, "2 processes", "1 process") / 2, 3)}))


if __name__ == "__main__":
    main()
