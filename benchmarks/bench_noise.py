"""
Ways to draw a batch of binary images from grey levels, each pixel 1 with the probability of its level, in turns.

    OMP_NUM_THREADS=1 python benchmarks/bench_noise.py

The recipe's way compares uniform numbers in [0, 1) with pixels. A uniform integer in [0, 255) is below the level k
with the probability k / 255, which is exact, and a byte is enough for it.
"""

import argparse
import json
import time

import numpy as np
import torch
from side_by_side import ratio, take_turns

SHAPE = (100, 784)


def ways() -> dict:
    """By name, what draws a batch; each has a generator of its own."""
    levels = torch.randint(256, SHAPE, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels, generator = levels.float() / 255, torch.Generator().manual_seed(1)
    pcg, sfc = (np.random.Generator(kind(1)) for kind in (np.random.PCG64, np.random.SFC64))
    return {
        "torch.rand": lambda: torch.rand(SHAPE, generator=generator) < pixels,
        "torch.bernoulli": lambda: torch.bernoulli(pixels, generator=generator),
        "torch.randint": lambda: torch.randint(255, SHAPE, dtype=torch.uint8, generator=generator) < levels,
        "PCG64": lambda: torch.from_numpy(pcg.integers(255, size=SHAPE, dtype=np.uint8)) < levels,
        "SFC64": lambda: torch.from_numpy(sfc.integers(255, size=SHAPE, dtype=np.uint8)) < levels,
    }


def microseconds(draw) -> float:
    start = time.perf_counter()
    draw()
    return 1e6 * (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1000, help="batches of each, after one that warms up")
    contenders = ways()
    times = take_turns(
        lambda: {name: microseconds(draw) for name, draw in contenders.items()}, parser.parse_args().rounds, "us"
    )
    print(json.dumps({f"torch.rand / {name}": ratio(times, "torch.rand", name) for name in list(times)[1:]}))


if __name__ == "__main__":
    main()
