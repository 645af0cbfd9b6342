#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.24.0: prompt tuning on GPT-2 puts its virtual tokens in again at every step of
# `generate`, without an error.
#
# PEFT looks for the key-value cache under `past_key_values`, which transformers 5.24 calls `cache`; as it finds none, it
# takes each step for the first. What is generated differs from what the same model generates with `use_cache=False`,
# from the second token on. With transformers 5.23.0 both are the same.
#
# Output seen (embeddings that the transformer reads at each step, for 4 tokens of text and 3 virtual ones):
#   with a cache: [7, 4, 4, 4, 4, 4]
#   the same ids as without a cache: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel

torch.manual_seed(0)
ends = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
base = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=64, **ends)).eval()
for weight in base.parameters():
    weight.data += 0.3 * torch.randn_like(weight)
model = get_peft_model(base, PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)).eval()
read = []
base.transformer.h[0].register_forward_hook(lambda module, args, output: read.append(args[0].shape[1]))
text = torch.tensor([[5, 6, 7, 8]])
settings = {"attention_mask": torch.ones_like(text), "max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
cached = model.generate(input_ids=text, **settings)
print("with a cache:", read)
whole = model.generate(input_ids=text, **settings, use_cache=False)
print("the same ids as without a cache:", torch.equal(cached, whole))
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
