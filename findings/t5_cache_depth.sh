#!/usr/bin/env bash
# transformers 5.24.0: a T5 whose decoder is deeper than its encoder trains, but `generate` raises IndexError: the
# key-value cache that it makes has as many layers as the encoder.
#
# `T5Config` takes `num_layers` (encoder) and `num_decoder_layers` apart, and `forward` works with any pair. `generate`
# sizes its cache by `num_hidden_layers`, which is the encoder's number. With `use_cache=False` it works.
#
# Output seen (encoder and decoder layers, what `generate` gives with a cache and without):
#   3 1 ids ids
#   1 3 IndexError: list index out of range ids
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from transformers import T5Config, T5ForConditionalGeneration


def generated(model, use_cache):
    try:
        model.generate(input_ids=torch.tensor([[5, 6, 7, 1]]), max_new_tokens=4, use_cache=use_cache)
        return "ids"
    except IndexError as error:
        return f"IndexError: {error}"


for encoder, decoder in ((3, 1), (1, 3)):
    layers = {"num_layers": encoder, "num_decoder_layers": decoder, "decoder_start_token_id": 0}
    model = T5ForConditionalGeneration(T5Config(vocab_size=40, d_model=16, d_ff=16, d_kv=8, num_heads=2, **layers))
    print(encoder, decoder, generated(model, True), generated(model, False))
PYTHON
diff <(grep -A2 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
