"""
How long a recipe takes from its start to its first step, beside the imports that it cannot do without.

    python benchmarks/bench_startup.py
    python benchmarks/bench_startup.py --recipes train_ddpm train_t5
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

RECIPES = Path(__file__).parents[1] / "recipes"
IMPORTS = "import torch, accelerate; from transformers import PreTrainedModel, AutoModel, HfArgumentParser"
# What a recipe needs beside these.
FURTHER = {
    "train_ddpm": "from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel",
    "train_t5": "from transformers import Seq2SeqTrainer, T5ForConditionalGeneration; import evaluate, inflect",
    "train_textvae": "import inflect",
}
STEPS = {"train_t5": "--max_steps=1000000"}


def imports(recipe: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"{IMPORTS}; {FURTHER.get(recipe, '')}"], check=True)
    return time.perf_counter() - start


def first_step(recipe: str) -> float:
    """Seconds until the progress bar shows a step that is done; of a run of several parts it has more in all."""
    with tempfile.TemporaryDirectory() as folder:
        steps = STEPS.get(recipe, "--max_train_steps=1000000")
        command = [sys.executable, str(RECIPES / f"{recipe}.py"), f"--output_dir={folder}/run", steps]
        start, shown = time.perf_counter(), b""
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
            while not re.search(rb" [1-9]\d*/\d{7}", shown):
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
    parser.add_argument("--recipes", nargs="+", default=["train_vae"], help="that train and have defaults")
    args, ratios = parser.parse_args(), {}
    for recipe in args.recipes:
        rounds = [(imports(recipe), first_step(recipe)) for _ in range(args.rounds + 1)][1:]
        for name, seconds in zip(("imports", "first step"), zip(*rounds, strict=True), strict=True):
            told = f"{statistics.median(seconds):.2f} s (min {min(seconds):.2f}, max {max(seconds):.2f})"
            print(f"{recipe}, {name:>10}: {told}", flush=True)
        ratios[f"{recipe}, first step / imports"] = round(statistics.median(step / base for base, step in rounds), 3)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
