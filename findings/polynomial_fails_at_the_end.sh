#!/usr/bin/env bash
# transformers 5.24.0: the polynomial schedule divides by zero in the last step of a training whose warm-up is as long.
#
# All schedules of `get_scheduler` take a warm-up of as many steps as the training has, as a short trial of a recipe or a
# phase of a training may have by its defaults: the rate rises over all of them. The polynomial one alone divides by the
# steps after the warm-up without a guard, not when it is made but when it is asked for the rate after the last step: the
# error comes out of `scheduler.step()` once all steps are done, before what saves at the end.
#
# Output seen (rates of four steps with a warm-up of four to 0.1, then what comes of the last `scheduler.step()`):
#   linear [0.0, 0.025, 0.05, 0.075] fine
#   cosine [0.0, 0.025, 0.05, 0.075] fine
#   polynomial [0.0, 0.025, 0.05, 0.075] ZeroDivisionError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from transformers import get_scheduler

for name in ("linear", "cosine", "polynomial"):
    optimizer, rates, end = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1), [], "fine"
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=4, num_training_steps=4)
    for step in range(4):
        rates.append(round(optimizer.param_groups[0]["lr"], 3))
        optimizer.step()
        try:
            scheduler.step()
        except ZeroDivisionError as error:
            end = type(error).__name__ if step == 3 else f"{type(error).__name__} too early"
    print(name, rates, end)
PYTHON
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
