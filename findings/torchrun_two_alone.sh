#!/usr/bin/env bash
# accelerate 1.15.0 with torch 2.13.0 on a machine without GPU: two processes of torchrun each believe to be the only one,
# and the main one: both write the same files, and neither exchanges gradients. `accelerate launch --cpu
# --num_processes 2` starts one process. Neither says so.
#
# Several CPU processes are asked for by ACCELERATE_USE_CPU=1 in the environment of torchrun; torchrun's own WORLD_SIZE is
# read only then. (`accelerate launch --cpu` means a machine of one process unless told the machine's address.)
#
# Output seen (number of processes and whether it is the main one, of each):
#   torchrun: 1 True 1 True
#   accelerate launch: 1 True
#   torchrun with ACCELERATE_USE_CPU=1: 2 False 2 True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 accelerate==1.15.0
export OMP_NUM_THREADS=1 CUDA_VISIBLE_DEVICES="" HF_HOME="$work/cache"
cat >"$work/program.py" <<'PYTHON'
from accelerate import Accelerator

accelerator = Accelerator()
print(f"{accelerator.num_processes} {accelerator.is_main_process}\n", end="", flush=True)
accelerator.end_training()
PYTHON
torchrun=("$work/venv/bin/torchrun" --standalone --nproc_per_node 2 "$work/program.py")
seen() {
  echo "$1:" $("${@:2}" 2>/dev/null | sort) | tee -a "$work/seen"
}
seen "torchrun" "${torchrun[@]}"
seen "accelerate launch" "$work/venv/bin/accelerate" launch --cpu --num_processes 2 "$work/program.py"
seen "torchrun with ACCELERATE_USE_CPU=1" env ACCELERATE_USE_CPU=1 "${torchrun[@]}"
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
