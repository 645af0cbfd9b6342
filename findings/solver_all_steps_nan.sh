#!/usr/bin/env bash
# diffusers 0.42.1: the multistep solvers give NaN when they are asked for as many steps as the model has timesteps.
#
# By their default spacing the n steps are n + 1 evenly spaced numbers from 0 to T - 1, rounded, without the last. With
# n = T two of the T + 1 numbers round to the same one in the middle: a step from a timestep to itself, of the width 0 by
# which the solvers divide. All samples are NaN from there on, which an image pipeline shows as black ones. No error, no
# warning, although "as many steps as in the training" is the first thing to compare with; T - 1 steps are right. The
# spacing `leading` takes the number T + 1 there and ends in an IndexError or an AssertionError without words; `trailing`
# is right.
#
# Output seen (the exact noise prediction for pixels that are N(0.3, 0.05^2); mean and standard deviation of what is
# drawn, and how many timesteps come twice):
#   DPMSolverMultistepScheduler: 999 steps 0.30 0.05, 0 twice; 1000 steps nan nan, 1 twice
#   UniPCMultistepScheduler: 999 steps 0.30 0.05, 0 twice; 1000 steps nan nan, 1 twice
#   DEISMultistepScheduler: 999 steps 0.30 0.05, 0 twice; 1000 steps nan nan, 1 twice
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from diffusers import DEISMultistepScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler

for kind in (DPMSolverMultistepScheduler, UniPCMultistepScheduler, DEISMultistepScheduler):
    drawn = []
    for steps in (999, 1000):
        scheduler = kind(num_train_timesteps=1000)
        scheduler.set_timesteps(steps)
        x = torch.randn(2000, 1, generator=torch.Generator().manual_seed(0))
        for t in scheduler.timesteps:
            a = scheduler.alphas_cumprod[t]
            noise = (1 - a).sqrt() * (x - a.sqrt() * 0.3) / (a * 0.05**2 + 1 - a)
            x = scheduler.step(noise, t, x).prev_sample
        twice = len(scheduler.timesteps) - len(scheduler.timesteps.unique())
        drawn.append(f"{steps} steps {x.mean():.2f} {x.std():.2f}, {twice} twice")
    print(f"{kind.__name__}: {'; '.join(drawn)}")
PYTHON
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
