#!/usr/bin/env bash
# diffusers 0.42.1: a solver's `add_noise` gives the noise of the other end of the schedule as long as `set_timesteps`
# was not called, and after it the noise of the last step for every timestep that is not among the chosen ones.
#
# DPMSolverMultistepScheduler, UniPCMultistepScheduler and DEISMultistepScheduler look a timestep up in `timesteps`,
# which falls from the start on, and take the noise level of the same place in `sigmas`, which rises until
# `set_timesteps` turns it: a network that is trained with it sees the clean images as timestep 990 and the noise as
# timestep 10, without an error. Samples drawn between two steps of the training leave 20 timesteps behind, and the
# noise of all others becomes that of the last. Only after `set_timesteps(1000)` all is as in DDPMScheduler, which keeps
# the products of its alphas and gives the same in all three cases.
#
# Output seen (standard deviation of the noise at timesteps 10, 500, 990 of 1000; as made, after `set_timesteps(20)`,
# after `set_timesteps(1000)`):
#   DDPMScheduler [0.047, 0.96, 1.0] [0.047, 0.96, 1.0] [0.047, 0.96, 1.0]
#   DPMSolverMultistepScheduler [1.0, 0.96, 0.044] [0.173, 0.96, 0.173] [0.047, 0.96, 1.0]
#   UniPCMultistepScheduler [1.0, 0.96, 0.044] [0.173, 0.96, 0.173] [0.047, 0.96, 1.0]
#   DEISMultistepScheduler [1.0, 0.96, 0.044] [0.173, 0.96, 0.173] [0.047, 0.96, 1.0]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import diffusers
import torch

image, noise, timesteps = torch.zeros(3, 1), torch.ones(3, 1), torch.tensor([10, 500, 990])
for name in ("DDPMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "DEISMultistepScheduler"):
    scheduler, levels = getattr(diffusers, name)(num_train_timesteps=1000), []
    for steps in (None, 20, 1000):
        if steps is not None:
            scheduler.set_timesteps(steps)
        noisy = scheduler.add_noise(image, noise, timesteps)
        levels.append([round(level, 3) for level in noisy.flatten().tolist()])
    print(name, *levels)
PYTHON
diff <(grep -A5 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
