#!/usr/bin/env bash
# transformers 5.24.0: which files go along with a model of custom code is decided by a search for lines in its source,
# also inside docstrings, and for one spelling of an import only.
#
# `save_pretrained` of a class with `register_for_auto_class` copies the class's file and the siblings it imports by
# `from .sibling import name`. A docstring whose line begins with such words, as an example does, is taken for an import:
# the save raises FileNotFoundError. `from . import sibling` is not seen: the save succeeds, without the file that the
# model needs, and loading it anywhere else fails.
#
# Output seen (how the sibling is named in the model's file: what `save_pretrained` did, what it copied):
#   from .sibling import size: saved sibling.py, loads
#   a docstring with "from .elsewhere import model": FileNotFoundError
#   from . import sibling: saved without sibling.py, does not load
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
cat >"$work/save.py" <<'PYTHON'
import importlib
import pathlib
import sys

root, name, imports, docstring = sys.argv[1:]
package = pathlib.Path(root, name)
package.mkdir()
(package / "__init__.py").touch()
(package / "sibling.py").write_text("size = 4\n")
(package / "model.py").write_text(f'''{imports}
import torch
from transformers import PreTrainedConfig, PreTrainedModel


class Config(PreTrainedConfig):
    model_type = "{name}"


class Model(PreTrainedModel):
    """{docstring}"""

    config_class = Config

    def __init__(self, config):
        super().__init__(config)
        self.linear = torch.nn.Linear({"sibling.size" if "import sibling" in imports else "size"}, 1)
        self.post_init()
''')
sys.path.insert(0, root)
module = importlib.import_module(f"{name}.model")
module.Config.register_for_auto_class()
module.Model.register_for_auto_class("AutoModel")
try:
    module.Model(module.Config()).save_pretrained(f"{root}/saved {name}")
    copied = pathlib.Path(root, f"saved {name}", "sibling.py").exists()
    print("saved", "sibling.py," if copied else "without sibling.py,")
except FileNotFoundError:
    print("FileNotFoundError")
PYTHON
cat >"$work/load.py" <<'PYTHON'
import sys

from transformers import AutoModel

try:
    AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
    print("loads")
except Exception:
    print("does not load")
PYTHON
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1
run() {
  "$work/venv/bin/python" -W ignore "$work/$1.py" "${@:2}" 2>/dev/null
}
{
  echo "from .sibling import size: $(run save "$work" one "from .sibling import size" "A model.")" \
    "$(run load "$work/saved one")"
  example=$'Beside it stands another:\n\n    from .elsewhere import model\n    '
  echo "a docstring with \"from .elsewhere import model\": $(run save "$work" two "from .sibling import size" "$example")"
  echo "from . import sibling: $(run save "$work" three "from . import sibling" "A model.")" \
    "$(run load "$work/saved three")"
} | tee "$work/seen"
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
