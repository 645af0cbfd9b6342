#!/usr/bin/env bash
# transformers 5.24.0: a `GenerationConfig` that is handed to `generate` is filled up from the model's own one, also where
# it was made from nothing: what it does not state is not the library's default.
#
# Its attributes are None until they are stated, and None is taken from `model.generation_config`. A model whose
# generation_config.json asks for top_k 1, or a penalty on repetitions, as those of chat models may, keeps them under
# a `generation_config=GenerationConfig(do_sample=True)`, without a word: 2,000 draws from 50 tokens of nearly equal
# probability are all the same token. Only values that are stated, neutral ones too, or another
# `model.generation_config`, free the draws.
#
# Output seen (different tokens among 2,000 draws):
#   model asks for nothing, config states nothing: 50
#   model asks for top_k 1, config states nothing: 1
#   model asks for top_k 1, config states top_k 0: 50
#   model asks for min_p 0.99, config states top_k 0: 1
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 1}
model = GPT2LMHeadModel(GPT2Config(vocab_size=50, **sizes)).eval()
prompts = torch.full((2000, 1), 5)
for asked, stated in (({}, {}), ({"top_k": 1}, {}), ({"top_k": 1}, {"top_k": 0}), ({"min_p": 0.99}, {"top_k": 0})):
    model.generation_config = GenerationConfig(do_sample=True, **asked)
    own = GenerationConfig(do_sample=True, max_new_tokens=1, pad_token_id=0, **stated)
    drawn = model.generate(prompts, attention_mask=torch.ones_like(prompts), generation_config=own)[:, 1]
    words = [" ".join(f"{name} {value}" for name, value in each.items()) or "nothing" for each in (asked, stated)]
    print(f"model asks for {words[0]}, config states {words[1]}: {len(drawn.unique())}")
PYTHON
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
