#!/usr/bin/env bash
# PEFT 0.21.2 with transformers 5.24.0: inside of `disable_adapter` a T5's soft prompt still steers what `generate` writes.
#
# The context replaces `forward` and `prepare_inputs_for_generation`. The `generate` of a sequence-to-sequence PeftModel
# reads neither, but puts the prompt before the embeddings of the source by itself; so a comparison "with and without
# the adapter" shows the adapter twice. The logits of the same context are the base's, and for a GPT-2 so is the text.
# `model.get_base_model().generate` gives the base's.
#
# Output seen:
#   T5, the prompt changes what is generated: True
#   T5, disabled: logits of the base: True
#   T5, disabled: text of the base: False
#   T5, disabled: text with the prompt: True
#   GPT-2, the prompt changes what is generated: True
#   GPT-2, disabled: logits of the base: True
#   GPT-2, disabled: text of the base: True
#   GPT-2, disabled: text with the prompt: False
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0 peft==0.21.2
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from peft import PromptTuningConfig, get_peft_model
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration


def show(name, base, task, given):
    for weight in base.parameters():
        weight.data += 0.3 * torch.randn_like(weight)
    base.eval()
    settings = {"input_ids": given["input_ids"], "max_new_tokens": 6, "do_sample": False}
    settings["attention_mask"] = torch.ones_like(given["input_ids"])
    with torch.no_grad():
        logits, text = base(**given).logits, base.generate(**settings)
        model = get_peft_model(base, PromptTuningConfig(task_type=task, num_virtual_tokens=3)).eval()
        for weight in model.prompt_encoder.parameters():
            weight.normal_(std=3.0)
        prompted = model.generate(**settings)
        print(f"{name}, the prompt changes what is generated:", not torch.equal(prompted, text))
        with model.disable_adapter():
            print(f"{name}, disabled: logits of the base:", torch.allclose(model(**given).logits, logits, atol=1e-5))
            disabled = model.generate(**settings)
        print(f"{name}, disabled: text of the base:", torch.equal(disabled, text))
        print(f"{name}, disabled: text with the prompt:", torch.equal(disabled, prompted))


torch.manual_seed(0)
source = torch.tensor([[5, 6, 7, 8, 1]])
sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 2}
t5 = T5ForConditionalGeneration(T5Config(vocab_size=40, decoder_start_token_id=0, dropout_rate=0.0, **sizes))
show("T5", t5, "SEQ_2_SEQ_LM", {"input_ids": source, "decoder_input_ids": torch.tensor([[0, 9]])})
gpt2 = GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, eos_token_id=None, bos_token_id=None))
show("GPT-2", gpt2, "CAUSAL_LM", {"input_ids": source})
PYTHON
diff <(grep -A8 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
