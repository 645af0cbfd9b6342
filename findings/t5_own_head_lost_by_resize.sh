#!/usr/bin/env bash
# transformers 5.24.0: a T5 checkpoint with a head of its own (as T5 v1.1 and Flan-T5 have) loads right, and loses the
# head in `resize_token_embeddings`, also to the size that it has.
#
# T5Config takes `tie_word_embeddings=False` and says True afterwards. As both matrices are in the file and differ,
# loading leaves them untied, with a line that advises the very setting that is not kept. `resize_token_embeddings`, which
# every script calls that adds a token, then ties the weights by the config: the input embeddings take the head's place.
#
# Output seen:
#   asked for tie_word_embeddings False, the config says True
#   head as in the file after loading: True
#   head as in the file after a resize to the same size: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - "$work/model" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5ForConditionalGeneration

torch.manual_seed(0)
sizes = {"vocab_size": 40, "d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1}
model = T5ForConditionalGeneration(T5Config(tie_word_embeddings=False, **sizes))
print("asked for tie_word_embeddings False, the config says", model.config.tie_word_embeddings)
model.save_pretrained(sys.argv[1])
file = f"{sys.argv[1]}/model.safetensors"
head = torch.randn(40, 16)
save_file(load_file(file) | {"lm_head.weight": head}, file, metadata={"format": "pt"})

model = T5ForConditionalGeneration.from_pretrained(sys.argv[1])
print("head as in the file after loading:", torch.equal(model.lm_head.weight, head))
model.resize_token_embeddings(40)
print("head as in the file after a resize to the same size:", torch.equal(model.lm_head.weight, head))
PYTHON
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
