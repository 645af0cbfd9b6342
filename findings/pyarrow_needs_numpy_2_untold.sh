#!/usr/bin/env bash
# pyarrow 26.0.1: it needs NumPy 2.0 where there is a NumPy, and tells pip nothing of it. A fresh `pip install datasets`
# beside NumPy 1.26, which datasets 5.2.0 allows, ends well, `pip check` finds nothing wrong, and `import datasets` fails.
#
# The wheel's metadata has no Requires-Dist; the check stands in its compiled module. pyarrow 25.0.1, which datasets
# 5.2.0 allows as well, works with the same NumPy, and 26.0.1 without any. So a lower bound on NumPy below 2 in a
# project that uses datasets is one that a fresh install no longer keeps.
#
# Output seen (what was done, what came of it):
#   installed pyarrow 26.0.1 with numpy 1.26.4
#   pip check: No broken requirements found.
#   import datasets: ImportError: pyarrow requires NumPy 2.0 or newer, found 1.26.4
#   with pyarrow 25.0.1: imported, 3 rows
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
bin="$work/venv/bin"
"$bin/pip" install --quiet datasets==5.2.0 numpy==1.26.4 pyarrow==26.0.1
{
  echo installed pyarrow "$("$bin/python" -c "from importlib.metadata import version as v; print(v('pyarrow'), 'with numpy', v('numpy'))")"
  echo "pip check: $("$bin/pip" check)"
  echo "import datasets: $("$bin/python" -c "import datasets" 2>&1 | tail -n 1)"
  "$bin/pip" install --quiet pyarrow==25.0.1
  echo "with pyarrow 25.0.1: $("$bin/python" -c "
import datasets
print('imported,', len(datasets.Dataset.from_dict({'x': [1, 2, 3]})), 'rows')" 2>&1 | tail -n 1)"
} | tee "$work/seen"
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
