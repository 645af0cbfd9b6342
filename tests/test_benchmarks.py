"""
Every benchmark runs to its end, in small, and gives the ratios that the README quotes; but for
peers/diffusers_unconditional.py, whose script no package holds.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
CASES = {
    "bench_train_vae": (
        ["--steps=8", "--rounds=1"],
        {"recipe / bare", "recipe / usual script", "recipe, bf16 / bare"},
    ),
    "bench_builds": (
        [str(BENCHMARKS.parent), "--preset=digits", "--steps=8", "--rounds=1", "--num_threads=1"],
        {"this / other"},
    ),
    "bench_continual": (["--rounds=1"], {"naive / bare", "ewc / naive", "replay / naive"}),
    "bench_gan": (["--steps=3", "--rounds=1"], {"recipe / bare"}),
    "bench_ddpm": (["--steps=3", "--rounds=1"], {"recipe / bare", "recipe, EMA / recipe", "recipe, patches / recipe"}),
    "bench_likelihood": (
        ["--steps=3", "--rounds=1", "--cpu_minutes=0.02", "--num_samples=4", "--passes=1"],
        {
            "autoregressive, recipe / bare",
            "flow, recipe / bare",
            "nats, transformer",
            "with / without cache, gated PixelCNN",
            "with / without cache, best",
        },
    ),
    "bench_vqvae": (
        ["--steps=3", "--rounds=1"],
        {"recipe / bare, autoencoder", "recipe / bare, prior", "quantiser / step"},
    ),
    "bench_gpu": (
        [
            "--device=cpu",
            "--seconds=0.1",
            "--rounds=1",
            "--steps=1",
            "--batches=8",
            "--diffusion_batches=2",
            "--recipe_batches",
            "8",
            "2",
            "--ways",
            "float32",
            "bfloat16",
            "--most_steps=0",
        ],
        {"vae, 8, float32", "vae, 8, recipe, bfloat16", "diffusion, 2, bfloat16", "diffusion, 2, recipe, float32"},
    ),
    "bench_growth": (
        ["--steps=3", "--rounds=1", "--sizes", "200", "300"],
        {"largest / smallest"} | {f"{kind}, {name}" for kind in ("idx", "arrow") for name in ("anonymous", "steps/s")},
    ),
    "bench_simclr": (["--steps=3", "--rounds=1"], {"recipe / bare", "augmentations / step"}),
    "bench_textvae": (["--steps=3", "--rounds=1"], {"recipe / bare"}),
    "bench_startup": (["--rounds=1"], {"train_vae, first step / imports"}),
    "bench_noise": (["--rounds=3"], {"torch.rand / PCG64", "torch.rand / torch.randint"}),
    "bench_processes": (["--rounds=1", "--steps=4"], {"efficiency of 2 processes"}),
    "bench_generation": (
        ["--lengths", "2", "4", "--beams", "1", "2", "--rounds=1", "--steps=3", "--plot=generation.png"],
        {"recipe / bare", "with / without cache, 4 tokens, 2 beams"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_it_runs_in_small(name, tmp_path):
    arguments, ratios = CASES[name]
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    assert ratios <= set(measured) and all(value > 0 for value in measured.values())
    assert (name == "bench_generation") == (tmp_path / "generation.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "package", "arguments", "measured"),
    [
        ("pythae_vae", "pythae", ["--num_images=300"], {"recipe / pythae"}),
        (
            "avalanche_strategies",
            "avalanche",
            [],
            {f"{name}, avalanche / hwzoo" for name in ("naive", "ewc", "ewc, 1,000 images", "replay")},
        ),
    ],
)
def test_a_peer_runs_in_small(name, package, arguments, measured, tmp_path):
    pytest.importorskip(package, reason="each peer's own packages are installed by hand")
    environment = {key: value for key, value in os.environ.items() if key != "HWZOO_DATA_DIR"}
    command = [sys.executable, str(BENCHMARKS / "peers" / f"{name}.py"), "--rounds=1", *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    ratios = json.loads(done.stdout.splitlines()[-1])
    assert set(ratios) == measured and all(value > 0 for value in ratios.values())
