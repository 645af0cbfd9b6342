#!/usr/bin/env bash
# diffusers 0.42.1: FlowMatchEulerDiscreteScheduler with a shift other than 1 ends its sampling at another noise level
# by `set_timesteps(n)` than by `set_timesteps(sigmas=...)` with the same n evenly spaced levels.
#
# The constructor shifts its table of sigmas and keeps the smallest shifted one; `set_timesteps(n)` spaces n levels down
# to that and shifts them once more. The last level before 0 is then about shift^2 / 1000 in place of shift / 1000, which
# is what the same number of steps gets when the levels are handed over.
#
# Output seen (shift, last sigma before 0 by the number of steps, by sigmas handed over):
#   1.0 0.0010 0.0010
#   3.0 0.0089 0.0030
#   6.0 0.0348 0.0060
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 diffusers==0.42.1
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import numpy as np
from diffusers import FlowMatchEulerDiscreteScheduler

for shift in (1.0, 3.0, 6.0):
    scheduler, last = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=shift), []
    for asked in ({"num_inference_steps": 20}, {"sigmas": np.linspace(1, 1 / 1000, 20)}):
        scheduler.set_timesteps(**asked)
        last.append(f"{scheduler.sigmas[-2].item():.4f}")
    print(shift, *last)
PYTHON
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
