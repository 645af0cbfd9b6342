#!/usr/bin/env bash
# accelerate 1.15.0 with trackio 0.43.0: a loss that is logged as a tensor of no dimension is not stored, without a word;
# a Python number beside it is, and tensorboard, given both by the same call, stores both.
#
# `accelerator.log({"loss": loss.detach()}, step=...)` passes values on as they are to each tracker.
#
# Output seen (names of what was stored of `loss`, a tensor, and `number`):
#   tensorboard: loss number
#   trackio: number
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0 trackio==0.43.0 tensorboard==2.21.0
export TRACKIO_DIR="$work/trackio" HF_HOME="$work/cache" HF_HUB_OFFLINE=1
"$work/venv/bin/python" -W ignore - "$work" >"$work/log" 2>&1 <<'PYTHON'
import sys

import torch
from accelerate import Accelerator

accelerator = Accelerator(log_with=["tensorboard", "trackio"], project_dir=sys.argv[1], cpu=True)
accelerator.init_trackers("project")
accelerator.log({"loss": torch.tensor(0.5), "number": 0.5}, step=3)
accelerator.end_training()
PYTHON
"$work/venv/bin/python" - "$work" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import json
import pathlib
import sqlite3
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

events = EventAccumulator(f"{sys.argv[1]}/project")
events.Reload()
print("tensorboard:", *events.Tags()["scalars"])
(database,) = pathlib.Path(sys.argv[1], "trackio").rglob("project.db")
rows = sqlite3.connect(database).execute("SELECT metrics FROM metrics WHERE step = 3").fetchall()
print("trackio:", *sorted({name for (row,) in rows for name in json.loads(row)} & {"loss", "number"}))
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
