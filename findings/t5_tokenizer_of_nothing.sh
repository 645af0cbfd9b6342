#!/usr/bin/env bash
# transformers 5.24.0: `AutoTokenizer.from_pretrained` of a folder with a model's config.json and without any file of a
# tokenizer gives a tokenizer: special tokens alone, of which a T5's reads every word as unknown, and GPT-2's no word
# at all. Who copies a model without its tokenizer trains it on texts that are all the same, and is told nothing.
#
# The classes have a default for a vocabulary that is not there, which serves to train a new one, and loading does not
# ask whether a file was found. Other models' fail, as Llama's. What can be asked is whether the folder, or the Hub,
# has one of `tokenizer.vocab_files_names` or tokenizer.json; ByT5's, which needs no file, names none.
#
# Output seen (model, class, number of tokens, tokens of "the cat sat"):
#   t5 T5Tokenizer 104 ▁ <unk> ▁ <unk> ▁ <unk> </s>
#   mt5 T5Tokenizer 104 ▁ <unk> ▁ <unk> ▁ <unk> </s>
#   bart RobertaTokenizer 5 <s> </s>
#   gpt2 GPT2Tokenizer 1
#   qwen2 Qwen2Tokenizer 1
#   llama ValueError
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0
"$work/venv/bin/python" -W ignore - "$work" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import json
import sys
from pathlib import Path

from transformers import AutoTokenizer

for kind in ("t5", "mt5", "bart", "gpt2", "qwen2", "llama"):
    folder = Path(sys.argv[1]) / kind
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": kind}))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except ValueError:
        print(kind, "ValueError")
        continue
    tokens = tokenizer.convert_ids_to_tokens(tokenizer("the cat sat").input_ids)
    print(kind, type(tokenizer).__name__, len(tokenizer), *tokens)
PYTHON
diff <(grep -A6 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
