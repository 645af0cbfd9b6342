#!/usr/bin/env bash
# diffusers 0.42.1: with `timestep_spacing="trailing"` some numbers of inference steps get one step more, at timestep -1,
# which in DDPM and DDIM throws the image away.
#
# The timesteps are counted down from T by T / n, which is no whole number; where the sum of the roundings stays above 0
# after n of them there is one more, and -1 follows from it. Of 1,000 timesteps it is so for 62 of the numbers from 1 to
# 1,000, 61 and 103 among them, of 300 for 7, of 100 for 29. The network is asked at a timestep that it was never trained
# on, and the products of alphas are looked up at -1, the noisiest of all: the last step takes the image for pure noise
# and puts the network's guess from noise in its place, here the mean of the data. No error, no warning.
#
# Output seen (the exact noise prediction for pixels that are N(0.3, 0.05^2); steps taken, the last timestep, mean and
# standard deviation of what DDPM and DDIM draw):
#   60 asked, 60 taken to 16: DDPM 0.30 0.03, DDIM 0.30 0.04
#   61 asked, 62 taken to -1: DDPM 0.30 0.00, DDIM 0.30 0.00
#   62 asked, 62 taken to 15: DDPM 0.30 0.03, DDIM 0.30 0.03
#   numbers with one step more, of 1,000 timesteps: 62
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from diffusers import DDIMScheduler, DDPMScheduler

told = {"num_train_timesteps": 1000, "timestep_spacing": "trailing", "clip_sample": False}
for steps in (60, 61, 62):
    drawn = []
    for kind in (DDPMScheduler, DDIMScheduler):
        scheduler, generator = kind(**told), torch.Generator().manual_seed(0)
        scheduler.set_timesteps(steps)
        x = torch.randn(2000, 1, generator=generator)
        for t in scheduler.timesteps:
            a = scheduler.alphas_cumprod[t]
            noise = (1 - a).sqrt() * (x - a.sqrt() * 0.3) / (a * 0.05**2 + 1 - a)
            x = scheduler.step(noise, t, x, generator=generator).prev_sample
        drawn.append(f"{x.mean():.2f} {x.std():.2f}")
    taken, last = len(scheduler.timesteps), scheduler.timesteps[-1]
    print(f"{steps} asked, {taken} taken to {last}: DDPM {drawn[0]}, DDIM {drawn[1]}")
more, scheduler = 0, DDPMScheduler(**told)
for steps in range(1, 1001):
    scheduler.set_timesteps(steps)
    more += len(scheduler.timesteps) > steps
print(f"numbers with one step more, of 1,000 timesteps: {more}")
PYTHON
diff <(grep -A6 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
