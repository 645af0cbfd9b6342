#!/usr/bin/env bash
# evaluate 0.4.6: a metric script that says `import datasets, evaluate` does not load: it asks to install a package called
# "datasets,". The same script with the two imports on two lines loads.
#
# The imports of a metric script are read by a regular expression that takes the first word after `import`, with the comma.
#
# Output seen:
#   on one line: ImportError ['datasets,']
#   on two lines: {'accuracy': 0.5}
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet evaluate==0.4.6 datasets==5.2.0
for lines in one two; do
  mkdir "$work/$lines"
  cat >"$work/$lines/$lines.py" <<'PYTHON'
import datasets, evaluate


class Accuracy(evaluate.Metric):
    def _info(self):
        kinds = {name: datasets.Value("int64") for name in ("predictions", "references")}
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features(kinds))

    def _compute(self, predictions, references):
        hits = [one == other for one, other in zip(predictions, references)]
        return {"accuracy": sum(hits) / len(hits)}
PYTHON
done
sed -i 's/^import datasets, evaluate/import datasets\nimport evaluate/' "$work/two/two.py"
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - "$work" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import re
import sys

import evaluate

for lines in ("one", "two"):
    try:
        metric = evaluate.load(f"{sys.argv[1]}/{lines}")
        told = metric.compute(predictions=[1, 2], references=[1, 3])
    except ImportError as error:
        told = "ImportError " + re.search(r"\[.*\]", str(error))[0]
    print(f"on {lines} line{'s' * (lines == 'two')}: {told}")
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
