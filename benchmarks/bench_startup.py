"""
How long the VAE recipe takes from its start to its first step, beside the imports that it cannot do without.

    python benchmarks/bench_startup.py
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "train_vae.py"
IMPORTS = "import torch, accelerate; from transformers import PreTrainedModel, AutoModel, HfArgumentParser"


def imports() -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - start


def first_step() -> float:
    """Seconds until the progress bar shows a step that is done."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(RECIPE), f"--output_dir={folder}/run", "--max_train_steps=1000000"]
        start, shown = time.perf_counter(), b""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while not re.search(rb" [1-9]\d*/1000000", shown):
                read = process.stderr.read(1)
                if not read:
                    raise RuntimeError(f"the recipe ended before its first step: {shown.decode()}")
                shown += read
            seconds = time.perf_counter() - start
            process.kill()
    return seconds


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds, after one that warms up")
    rounds = [(imports(), first_step()) for _ in range(parser.parse_args().rounds + 1)][1:]
    for name, seconds in zip(("imports", "first step"), zip(*rounds, strict=True), strict=True):
        print(f"{name:>10}: {statistics.median(seconds):.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f})")
    ratio = statistics.median(step / base for base, step in rounds)
    print(json.dumps({"first step / imports": round(ratio, 3)}))


if __name__ == "__main__":
    main()
