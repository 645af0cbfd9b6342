#!/usr/bin/env bash
# torchmetrics 1.9.0: the area under the ROC curve of logits is another than that of the same scores elsewhere: it takes
# the sigmoid of what lies outside of [0, 1], in the precision of the scores, and large logits become ties.
#
# The area depends on the order alone, so that a sigmoid changes nothing in exact numbers; in float32 it is 1 for all
# logits above 17. The same logits in float64, less 100 or divided by 50 have the right area, as scikit-learn's has it of
# all of them.
#
# Output seen (images that are told apart without a mistake):
#   torchmetrics, float32: 0.625
#   torchmetrics, float64: 1.0
#   torchmetrics, float32, less 100: 1.0
#   torchmetrics, float32, divided by 50: 1.0
#   scikit-learn, float32: 1.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 torchmetrics==1.9.0 scikit-learn==1.9.1
"$work/venv/bin/python" -W ignore - <<'PYTHON' | tee "$work/seen"
import torch
from sklearn.metrics import roc_auc_score
from torchmetrics.functional.classification import binary_auroc

logits = torch.tensor([22.0, 25.0, 30.0, 41.0, -3.0, 18.0, 19.0, 20.0])
real = torch.tensor([1, 1, 1, 1, 0, 0, 0, 0])
print("torchmetrics, float32:", binary_auroc(logits, real).item())
print("torchmetrics, float64:", binary_auroc(logits.double(), real).item())
print("torchmetrics, float32, less 100:", binary_auroc(logits - 100, real).item())
print("torchmetrics, float32, divided by 50:", binary_auroc(logits / 50, real).item())
print("scikit-learn, float32:", float(roc_auc_score(real, logits)))
PYTHON
diff <(grep -A5 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
