#!/usr/bin/env bash
# transformers 5.24.0: a Trainer that resumes saves, evaluates and logs as often as the run before did, whatever its
# arguments say.
#
# `save_steps`, `eval_steps` and `logging_steps` go into trainer_state.json; a resume loads that state over the one that
# was made of the new arguments, and the callback that decides asks the state. Who shortens `save_steps` on a machine
# that is taken away every hour, and resumes, keeps losing as much as before; who drops evaluations to be faster pays
# for them on. A warning names both values and does not say which of them holds. A callback whose `on_train_begin` sets
# the state's three numbers from the arguments helps.
#
# Output seen (a run of 8 steps that saves, evaluates and logs every 4, resumed at step 4 with 1 for all of them):
#   asked for every 1
#   saved after [4, 8]
#   evaluated after [4, 8]
#   logged after [4, 8]
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 accelerate==1.15.0
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - "$work/run" 2>/dev/null <<'PYTHON' | grep after >"$work/told"
import shutil
import sys
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainingArguments


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, x, labels):
        return {"loss": (self.weight * x - labels).square().mean()}


def train(every, **resume):
    intervals = {name: every for name in ("save_steps", "eval_steps", "logging_steps")}
    arguments = TrainingArguments(
        output_dir=sys.argv[1], max_steps=8, eval_strategy="steps", per_device_train_batch_size=2, report_to="none",
        use_cpu=True, disable_tqdm=True, **intervals,
    )
    data = [{"x": float(i), "labels": 2.0 * i} for i in range(8)]
    trainer = Trainer(Line(), arguments, train_dataset=data, eval_dataset=data)
    trainer.train(**resume)
    return trainer.state.log_history


train(4)
shutil.rmtree(Path(sys.argv[1]) / "checkpoint-8")
history = train(1, resume_from_checkpoint=True)
saved = sorted(int(path.name.split("-")[1]) for path in Path(sys.argv[1]).glob("checkpoint-*"))
print("saved after", saved)
print("evaluated after", [line["step"] for line in history if "eval_loss" in line])
print("logged after", [line["step"] for line in history if "loss" in line])
PYTHON
{ echo "asked for every 1"; cat "$work/told"; } | tee "$work/seen"
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
