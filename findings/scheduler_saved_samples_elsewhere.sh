#!/usr/bin/env bash
# diffusers 0.42.1: a sampler that is made from a training scheduler takes other timesteps once that scheduler has been
# saved and loaded, with equal settings in both.
#
# `DPMSolverMultistepScheduler.from_config(scheduler.config)` takes from the config only what was given when the
# scheduler was made; for what was left at its default it takes the solver's own default. A scheduler that was loaded
# counts all of its settings as given. So DDPMScheduler's default spacing, "leading", is passed on after a round trip
# through `save_pretrained` and `from_pretrained` alone: the same network samples other images.
#
# Output seen (spacing of the scheduler, spacing and timesteps of the sampler):
#   made: leading -> linspace [999, 799, 599, 400, 200]
#   loaded: leading -> leading [830, 664, 498, 332, 166]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - "$work/saved" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import sys

from diffusers import DDPMScheduler, DPMSolverMultistepScheduler

made = DDPMScheduler(num_train_timesteps=1000)
made.save_pretrained(sys.argv[1])
for name, scheduler in {"made": made, "loaded": DDPMScheduler.from_pretrained(sys.argv[1])}.items():
    sampler = DPMSolverMultistepScheduler.from_config(scheduler.config)
    sampler.set_timesteps(5)
    spacings = scheduler.config.timestep_spacing, sampler.config.timestep_spacing
    print(f"{name}:", *spacings[:1], "->", *spacings[1:], sampler.timesteps.tolist())
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
