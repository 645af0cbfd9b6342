#!/usr/bin/env bash
# accelerate 1.15.0: with automatic checkpoint names and a `total_limit`, a resumed run deletes each of its new
# checkpoints at the next one and keeps the one that it was resumed from: the next resume begins there again.
#
# `load_state()` takes the checkpoint of the highest number and leaves `project_configuration.iteration` at 0, so a
# resumed run names its checkpoints from checkpoint_0 on. Which are "oldest" is told by their numbers: the first save
# still deletes one of the run before, each save after it the newest there is. Nothing is said but the usual line of
# "deleting 1 checkpoints to make room". Without a `total_limit` the same run ends with a ValueError at its first save,
# as checkpoint_0 exists. Setting `accelerator.project_configuration.iteration` after `load_state()` avoids both.
#
# Output seen (a save at each step, two are kept; what is in the folder after the step, and where a resume begins):
#   step 10: checkpoint_8 checkpoint_9
#   resumed at step 10
#   step 11: checkpoint_0 checkpoint_9
#   step 12: checkpoint_1 checkpoint_9
#   step 15: checkpoint_4 checkpoint_9
#   resumed at step 10
#   without a limit: ValueError
#   with the iteration set, step 15: checkpoint_13 checkpoint_14
#   resumed at step 15
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
(cd "$work" && venv/bin/python -W ignore - 2>/dev/null) <<'PYTHON' | tee "$work/seen"
import os

import torch
from accelerate import Accelerator
from accelerate.utils import ProjectConfiguration


class Steps:
    done = 0

    def state_dict(self):
        return {"done": torch.tensor(self.done)}

    def load_state_dict(self, state):
        self.done = int(state["done"])


def start(folder, total_limit=2, resume=True, iteration=None):
    automatic = ProjectConfiguration(folder, automatic_checkpoint_naming=True, total_limit=total_limit)
    accelerator, steps = Accelerator(cpu=True, project_config=automatic), Steps()
    accelerator.register_for_checkpointing(steps)
    if resume:
        accelerator.load_state()
        if iteration is not None:
            accelerator.project_configuration.iteration = iteration
    return accelerator, steps


def train(accelerator, steps, until):
    while steps.done < until:
        steps.done += 1
        accelerator.save_state()


def told(folder):
    return " ".join(sorted(os.listdir(f"{folder}/checkpoints")))


run = start("limited", resume=False)
train(*run, until=10)
print("step 10:", told("limited"))
run = start("limited")
print("resumed at step", run[1].done)
for step in (11, 12, 15):
    train(*run, until=step)
    print(f"step {step}:", told("limited"))
print("resumed at step", start("limited")[1].done)

train(*start("all", total_limit=None, resume=False), until=10)
try:
    train(*start("all", total_limit=None), until=11)
except ValueError as error:
    print("without a limit:", type(error).__name__)

train(*start("set", resume=False), until=10)
train(*start("set", iteration=10), until=15)
print("with the iteration set, step 15:", told("set"))
print("resumed at step", start("set")[1].done)
PYTHON
diff <(grep -A9 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
