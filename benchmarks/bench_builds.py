"""
The speed of the VAE recipe's loop (evaluations, log and checkpoint included) beside that of another commit, in
processes that take turns.

    git worktree add ../other COMMIT
    HWZOO_DATA_DIR=... python benchmarks/bench_builds.py ../other --num_threads 1

Flags that it does not know are the recipe's. Networks of a few units show what a step costs beside its arithmetic,
less hidden by the noise of the machine:

    python benchmarks/bench_builds.py ../other --num_threads 1 --encoder_hidden_sizes 4 --decoder_hidden_sizes 4
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from side_by_side import ratio, take_turns

HERE = Path(__file__).parents[1]


def steps_per_second(checkout: Path, preset: str, num_steps: int, num_threads: int, flags: list[str]) -> float:
    environment = os.environ | {"PYTHONPATH": str(checkout / "src"), "OMP_NUM_THREADS": str(num_threads)}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(checkout / "recipes" / "train_vae.py"), f"--output_dir={folder}/run"]
        command += [f"--config={checkout}/recipes/configs/vae/{preset}.yaml", f"--max_train_steps={num_steps}"]
        command += ["--num_iwae_images=10", *flags]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{checkout}: {done.stderr.strip().splitlines()[-1]}")
        results = json.loads(Path(folder, "run", "all_results.json").read_text())
    return results["train_steps"] / results["train_runtime"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=lambda name: Path(name).resolve(), help="checkout of the other commit")
    parser.add_argument("--preset", default="cs236", help="of the VAE, in both")
    parser.add_argument("--steps", type=int, default=3000, help="steps of each in a round")
    parser.add_argument("--num_threads", type=int, default=len(os.sched_getaffinity(0)), help="of each")
    parser.add_argument("--rounds", type=int, default=9, help="rounds; the median of their ratios counts")
    arguments, flags = parser.parse_known_args()
    torch.set_num_threads(arguments.num_threads)  # for what is printed
    asked = arguments.preset, arguments.steps, arguments.num_threads, flags
    builds = {"this": HERE, "other": arguments.other}
    speeds = take_turns(
        lambda: {name: steps_per_second(checkout, *asked) for name, checkout in builds.items()},
        arguments.rounds,
        "steps/s",
    )
    print("this / other:", *(f"{a / b:.3f}" for a, b in zip(speeds["this"], speeds["other"], strict=True)))
    print(json.dumps({"this / other": ratio(speeds, "this", "other")}))


if __name__ == "__main__":
    main()
