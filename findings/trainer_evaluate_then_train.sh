#!/usr/bin/env bash
# transformers 5.24.0 with accelerate 1.15.0 (torch 2.13.0, 2 CPU processes by torchrun, gloo).
# A Trainer that has evaluated its model once, before `train`, trains it on several processes without exchanging
# gradients: each process learns from its own half of the batches, and the weights drift apart. No warning is given.
# Without that evaluation the processes stay equal. Why: evaluating prepares the model by `prepare_model(...,
# evaluation_mode=True)`, which does not wrap it for several processes but marks it `_is_accelerate_prepared`; the
# `prepare` of `train` finds the mark and gives the bare model back.
# Seen: "train: ranks equal True", "evaluate, then train: ranks equal False".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "torch==2.13.0" "transformers==5.24.0" "accelerate==1.15.0" numpy
cat >"$work/program.py" <<'PYTHON'
import sys

import torch
import torch.distributed as dist
from transformers import Trainer, TrainingArguments


class Line(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 1)

    def forward(self, x, labels):
        return {"loss": (self.linear(x).squeeze(-1) - labels).square().mean()}


torch.manual_seed(0)
data = [{"x": torch.randn(4), "labels": torch.randn(())} for _ in range(64)]
arguments = TrainingArguments(
    sys.argv[2], use_cpu=True, per_device_train_batch_size=4, max_steps=5, report_to="none", save_strategy="no",
    disable_tqdm=True, learning_rate=0.1,
)
model = Line()
trainer = Trainer(model=model, args=arguments, train_dataset=data, eval_dataset=data)
if sys.argv[1] == "evaluate, then train":
    trainer.evaluate()
trainer.train()
weights = [torch.zeros_like(model.linear.weight) for _ in range(2)]
dist.all_gather(weights, model.linear.weight.detach())
if dist.get_rank() == 0:
    print(f"{sys.argv[1]}: ranks equal {torch.equal(*weights)}")
PYTHON
export ACCELERATE_USE_CPU=1 OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
for order in "train" "evaluate, then train"; do
  "$work/venv/bin/torchrun" --standalone --nproc_per_node 2 "$work/program.py" "$order" "$work/out" 2>"$work/log" |
    grep "ranks equal" | tee -a "$work/seen" || { cat "$work/log"; exit 1; }
done
grep -qx "train: ranks equal True" "$work/seen"
grep -qx "evaluate, then train: ranks equal False" "$work/seen"
