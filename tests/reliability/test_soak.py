"""A run of 100,000 steps costs no more memory, files and time at its end than at its start."""

import os
import statistics
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_runs import load_recipe, run_with

from hwzoo import VAEConfig, VAEModel
from hwzoo.data import ImageBatches, load_images
from hwzoo.training import Checkpoints

STEPS, INTERVAL, BARE_STEPS = 100_000, 1000, 200
SIZES = {"encoder_hidden_sizes": [16], "decoder_hidden_sizes": [16], "latent_size": 3}


def bare_loop():
    """The same model, data and optimiser, without anything else; gives the seconds of a step."""
    model = VAEModel(VAEConfig(**SIZES))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
    batches = ImageBatches(load_images("digits").train, 20, 0)

    def run() -> float:
        started = time.perf_counter()
        for _ in range(BARE_STEPS):
            pixel_values = next(batches)["pixel_values"]
            pixel_values = torch.rand(pixel_values.shape).lt_(pixel_values)
            model(pixel_values).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        return (time.perf_counter() - started) / BARE_STEPS

    return run


SETTINGS = {
    "train_vae": {**SIZES, "num_importance_samples": 2, "train_batch_size": 20, "eval_steps": 10_000},
    "train_gan": {
        "latent_size": 4, "generator_hidden_size": 12, "generator_channels": [8, 4], "discriminator_channels": [4, 6],
        "discriminator_hidden_size": 10, "train_batch_size": 10, "grid_steps": 50,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads the memory from /proc")
@pytest.mark.parametrize("name", SETTINGS)
def test_a_hundred_thousand_steps(name, monkeypatch, tmp_path):
    recipe, bare, records = load_recipe(name), bare_loop(), []
    random_state = torch.get_rng_state()
    save, page = Checkpoints.save, os.sysconf("SC_PAGE_SIZE")

    def save_and_measure(self, step, *args):
        started = time.perf_counter()
        save(self, step, *args)
        now = time.perf_counter()
        memory = int(Path("/proc/self/statm").read_text().split()[1]) * page
        size = sum(path.stat().st_size for path in self.paths()[-1].iterdir())
        numbers = [len(os.listdir("/proc/self/fd")), len(self.paths()), size, now - started]
        with torch.random.fork_rng():
            torch.set_rng_state(random_state)
            records.append([step, now - self.started, memory, *numbers, bare()])
        self.started = time.perf_counter()

    monkeypatch.setattr(Checkpoints, "save", save_and_measure)
    monkeypatch.setattr(Checkpoints, "started", time.perf_counter(), raising=False)
    given = {"output_dir": str(tmp_path), "max_train_steps": STEPS, "checkpointing_steps": INTERVAL}
    types = [kind for kind in recipe.main.__annotations__.values() if kind is not dict]
    run_with(recipe, types, {**given, "checkpoints_total_limit": 2, **SETTINGS[name]})
    steps, seconds, memory, files, checkpoints, sizes, writes, bare_seconds = np.array(records).T
    assert len(steps) == STEPS // INTERVAL and steps[-1] == STEPS
    warm = steps > STEPS / 5
    slope = np.polyfit(steps[warm], memory[warm], 1)[0]
    ratios, writes = seconds / INTERVAL / bare_seconds, 1000 * writes
    first, last = statistics.median(ratios[1:21]), statistics.median(ratios[-20:])
    print(
        f"{name}: memory {memory[0] / 2**20:.0f} to {memory[-1] / 2**20:.0f} MiB, {slope:.0f} bytes a step; "
        f"{files[0]:.0f} to {files[-1]:.0f} open files; a step takes {first:.2f} and {last:.2f} of the bare loop's; "
        f"a checkpoint has {sizes[0]:.0f} and {sizes[-1]:.0f} bytes and takes "
        f"{statistics.median(writes[:20]):.1f} and {statistics.median(writes[-20:]):.1f} ms"
    )
    assert slope < 1024
    assert len(set(files[warm])) == 1 and set(checkpoints[2:]) == {2.0}
    assert sizes[-1] == pytest.approx(sizes[0], rel=0.05)
    assert last < 1.2 * first
