#!/usr/bin/env bash
# transformers 5.24.0: beam search fills what comes after the end of a text with the end token where the pad token is 0,
# as T5's is: `pad_token_id or eos_token_id[0]`, and 0 counts as none there. Greedy search fills it with the pad token.
#
# Who counts the tokens that are not padding, as the library's own summarisation example does for `gen_len`, finds nearly
# the longest of a batch for every text as soon as `--num_beams` is above 1, and compares it with greedy runs. Decoded
# texts are right, as both tokens are skipped. What helps is to count up to the first end token.
#
# Output seen (beams, ids of two texts, the mean of what is no padding):
#   1 [[0, 11, 8, 1, 0, 0, 0, 0, 0], [0, 8, 8, 8, 8, 8, 8, 8, 8]] 5.5
#   3 [[0, 11, 8, 1, 1, 1, 1, 1, 1], [0, 8, 8, 8, 8, 8, 8, 8, 8]] 8.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from transformers import T5Config, T5ForConditionalGeneration

torch.manual_seed(10)
sizes = {"vocab_size": 12, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0, tie_word_embeddings=False)).eval()
with torch.no_grad():
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter))
sources = torch.randint(2, 12, (4, 5))[[3, 2]]
for num_beams in (1, 3):
    ids = model.generate(sources, num_beams=num_beams, max_new_tokens=8, do_sample=False)
    print(num_beams, ids.tolist(), (ids != model.config.pad_token_id).sum(1).float().mean().item())
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
