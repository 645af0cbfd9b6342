#!/usr/bin/env bash
# diffusers 0.42.1: `add_noise` on bfloat16 images adds none at all in the first steps of the schedule, and one of four
# noise levels in the next forty.
#
# DDPMScheduler turns the products of its alphas, the closer to 1 the earlier the step, into the images' type before it
# subtracts them from 1. bfloat16 has no number between 0.996 and 1, so the difference is 0, 1/256, 2/256 ...: with the
# cosine schedule the first 21 of 1,000 steps, with the linear one the first 10, leave the images as they are, and the
# network is to find there a noise that was not added. `get_velocity` does the same. float32 images, cast after
# `add_noise`, get a level of their own at each step, and in bfloat16 the noise would lose two digits and no more.
#
# Output seen (schedule, type, steps without noise among the first 60, distinct noise levels among them, level of step 10):
#   linear float32 0 60 0.047
#   linear bfloat16 10 11 0.062
#   squaredcos_cap_v2 float32 0 60 0.027
#   squaredcos_cap_v2 bfloat16 21 4 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from diffusers import DDPMScheduler

for schedule in ("linear", "squaredcos_cap_v2"):
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=schedule)
    for dtype in (torch.float32, torch.bfloat16):
        image, noise = torch.zeros(60, 1, dtype=dtype), torch.ones(60, 1, dtype=dtype)
        levels = scheduler.add_noise(image, noise, torch.arange(60)).flatten().float()
        name = str(dtype).removeprefix("torch.")
        print(schedule, name, (levels == 0).sum().item(), len(levels.unique()), round(levels[10].item(), 3))
PYTHON
diff <(grep -A5 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
