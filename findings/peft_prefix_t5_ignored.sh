#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.24.0: `generate` ignores prefix tuning on T5, without an error.
#
# transformers 5.24 renamed the decoder's `past_key_values` to `cache`; where both are given, `cache` wins. PEFT puts the
# prefix into `past_key_values`, beside the empty `cache` of `generate`. The loss and `forward` use the prefix, so it
# trains as it should; what is generated is what the base model writes. With transformers 5.23.0 both use it.
#
# Output seen:
#   forward changed by the prefix: True
#   generated ids changed by the prefix: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import T5Config, T5ForConditionalGeneration

torch.manual_seed(0)
sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2}
base = T5ForConditionalGeneration(T5Config(vocab_size=40, decoder_start_token_id=0, dropout_rate=0.0, **sizes)).eval()
for weight in base.parameters():
    weight.data += 0.3 * torch.randn_like(weight)
source = torch.tensor([[5, 6, 7, 8, 1]])
given = {"input_ids": source, "decoder_input_ids": torch.tensor([[0, 9]])}
settings = {"input_ids": source, "max_new_tokens": 8, "do_sample": False}
with torch.no_grad():
    logits, ids = base(**given).logits, base.generate(**settings)
    prefix = PrefixTuningConfig(task_type="SEQ_2_SEQ_LM", num_virtual_tokens=3)
    model = get_peft_model(base, prefix).eval()
    for weight in model.prompt_encoder.parameters():
        weight.normal_(std=3.0)
    print("forward changed by the prefix:", not torch.allclose(model(**given).logits, logits, atol=1e-3))
    print("generated ids changed by the prefix:", not torch.equal(model.generate(**settings), ids))
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
