#!/usr/bin/env bash
# diffusers 0.42.1: with `timestep_spacing="trailing"` DDIMScheduler removes too little noise where the number of steps
# does not divide the timesteps of the training, with "linspace" at any number.
#
# `step` takes the image from a timestep to the one T // steps before it, whatever the next of `timesteps` is; those of
# `trailing` and `linspace` lie T / steps and (T - 1) / (steps - 1) apart; those of `leading`, the default, T // steps.
# Each step so ends short of where the next begins, and the image keeps noise, more with more steps. No warning says so.
# DPMSolverMultistepScheduler of first order is the same step (arXiv:2211.01095, section 4) from each timestep to the
# next one, and ends where it should.
#
# Output seen (standard deviation of the samples by the exact score of a Gaussian of 0.2; T, steps, spacing; DDIM, first
# order of DPM-Solver++):
#   1000 25 trailing 0.151 0.151
#   1000 300 trailing 0.231 0.196
#   1000 600 trailing 0.381 0.198
#   100 60 trailing 0.368 0.179
#   1000 3 linspace 0.534 0.027
#   1000 300 leading 0.197 0.196
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler


def drawn(kind, timesteps, steps, spacing, **settings):
    scale = 1000 / timesteps
    noise = {"beta_start": 1e-4 * scale, "beta_end": 0.02 * scale, "num_train_timesteps": timesteps}
    scheduler = kind(**noise, timestep_spacing=spacing, **settings)
    scheduler.set_timesteps(steps)
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    for t in scheduler.timesteps:
        abar = scheduler.alphas_cumprod[t]
        eps = (1 - abar).sqrt() * x / (abar * 0.2**2 + 1 - abar)  # the exact prediction for N(0, 0.2^2)
        x = scheduler.step(eps, t, x).prev_sample
    return round(x.std().item(), 3)


for case in ((1000, 25, "trailing"), (1000, 300, "trailing"), (1000, 600, "trailing"), (100, 60, "trailing"),
             (1000, 3, "linspace"), (1000, 300, "leading")):
    print(*case, drawn(DDIMScheduler, *case, clip_sample=False),
          drawn(DPMSolverMultistepScheduler, *case, solver_order=1, algorithm_type="dpmsolver++"))
PYTHON
diff <(grep -A7 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
