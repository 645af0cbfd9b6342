#!/usr/bin/env bash
# accelerate 1.15.0: `accelerate launch --gradient_accumulation_steps 4 program.py` does nothing. The program's
# `Accelerator()` accumulates 1 batch; `--mixed_precision bf16` beside it on the same command line is followed.
#
# The launcher hands its settings over by the environment, and an Accelerator reads ACCELERATE_GRADIENT_ACCUMULATION_STEPS
# there; but the launcher writes that variable for DeepSpeed only. Set by hand, it is followed.
#
# Output seen (batches accumulated, mixed precision):
#   launch --gradient_accumulation_steps 4 --mixed_precision bf16: 1 bf16
#   ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4: 4 bf16
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
export CUDA_VISIBLE_DEVICES="" HF_HOME="$work/cache"
cat >"$work/program.py" <<'PYTHON'
from accelerate import Accelerator

accelerator = Accelerator()
print(accelerator.gradient_accumulation_steps, accelerator.mixed_precision)
PYTHON
launch=("$work/venv/bin/accelerate" launch --cpu --mixed_precision bf16)
{
  echo "launch --gradient_accumulation_steps 4 --mixed_precision bf16:" \
    "$("${launch[@]}" --gradient_accumulation_steps 4 "$work/program.py" 2>/dev/null)"
  echo "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4:" \
    "$(ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 "${launch[@]}" "$work/program.py" 2>/dev/null)"
} | tee "$work/seen"
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
