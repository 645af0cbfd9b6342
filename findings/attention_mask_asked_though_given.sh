#!/usr/bin/env bash
# transformers 5.24.0: `generate` with an attention mask warns that an attention mask should be passed, once a sequence
# of the batch has ended before the others: it pads that one, and hands its model no mask where the mask is all ones.
#
# The warning goes away where the padding is another token than the model's own (`pad_token_id` of the end, say), or the
# mask has a 0 in it. The ids are the same.
#
# Output seen (whether it warns):
#   a mask of ones, one sequence ends early: True
#   a mask of ones, padded with the end: False
#   a mask with a zero: False
#   the same ids: True
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import logging

import torch
from transformers import GPT2Config, GPT2LMHeadModel

PAD, END = 0, 1
torch.manual_seed(0)
ends = {"pad_token_id": PAD, "bos_token_id": END, "eos_token_id": END}
model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=2, **ends))
told = []
handler = logging.Handler()
handler.emit = lambda record: told.append(record.getMessage())
logging.getLogger("transformers").addHandler(handler)


def generated(mask, **more):
    for logger in logging.root.manager.loggerDict.values():  # a warning is given once
        getattr(getattr(logger, "warning_once", None), "cache_clear", int)()
    told.clear()
    torch.manual_seed(2)
    suppress = {"suppress_tokens": [PAD], "do_sample": True, "max_new_tokens": 20}
    ids = model.generate(input_ids=torch.tensor([[3, 4, 5]] * 4), attention_mask=mask, **suppress, **more)
    return any("passing in an `attention_mask`" in each for each in told), ids


ones = torch.ones(4, 3, dtype=torch.long)
holed = ones.clone()
holed[0, 0] = 0
warns, ids = generated(ones)
assert ((ids == END).any(1)).any() and not (ids == END).any(1).all()
print("a mask of ones, one sequence ends early:", warns)
warns, others = generated(ones, pad_token_id=END)
print("a mask of ones, padded with the end:", warns)
print("a mask with a zero:", generated(holed)[0])
ended = ids == PAD
print("the same ids:", torch.equal(ids.masked_fill(ended, END), others))
PYTHON
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
