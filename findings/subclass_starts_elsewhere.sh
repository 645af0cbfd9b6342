#!/usr/bin/env bash
# transformers 5.24.0: an empty subclass of a model class starts with other random weights than the class itself.
#
# For a class that is not defined inside of transformers, the initialisation first asks whether a module's own parameters
# and buffers all have been filled, so as not to draw over loaded ones, and takes a module that has none of its own for
# filled. Rules of `_init_weights` for such a module, which set the weights of the layers in it, are then never applied:
# GPT-2's smaller weights at the ends of the residual branches, initializer_range / sqrt(2 n_layer), wav2vec 2.0's own
# range and bias of the feature projection. The subclass has the plain 0.02 and zeros in their place, without a word;
# the same seed and the same config give other models, and a deep GPT-2 starts with a residual stream that grows. A rule
# of one's own for a block is skipped as silently; one for the layers in it, which own parameters, is applied.
#
# Output seen (class, rules for which `_init_weights` was called, standard deviation of the residual branch's last
# weights in GPT-2 of 12 layers; of the feature projection's weights and bias in wav2vec 2.0):
#   GPT2Model GPT2Attention,GPT2MLP 0.0041
#   EmptySubclass - 0.02
#   Wav2Vec2Model Wav2Vec2FeatureProjection 0.0255 0.0257
#   EmptySubclass - 0.02 0.0
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 transformers==5.24.0
HF_HUB_OFFLINE=1 "$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
from transformers import GPT2Config, GPT2Model, Wav2Vec2Config, Wav2Vec2Model

RULES = {"GPT2Attention", "GPT2MLP", "Wav2Vec2FeatureProjection"}


def subclass_of(base):
    class EmptySubclass(base):
        pass

    return EmptySubclass


def started(model_class, config):
    asked, rule = [], model_class._init_weights
    model_class._init_weights = lambda self, module: asked.append(type(module).__name__) or rule(self, module)
    torch.manual_seed(0)
    model = model_class(config)
    model_class._init_weights = rule
    return model, model_class.__name__, ",".join(sorted(RULES & set(asked))) or "-"


gpt2 = GPT2Config(n_layer=12, n_embd=256, n_head=4, vocab_size=100, bos_token_id=0, eos_token_id=0)
for model_class in (GPT2Model, subclass_of(GPT2Model)):
    model, *told = started(model_class, gpt2)
    print(*told, round(model.h[0].mlp.c_proj.weight.std().item(), 4))
for model_class in (Wav2Vec2Model, subclass_of(Wav2Vec2Model)):
    model, *told = started(model_class, Wav2Vec2Config(num_hidden_layers=1))
    projection = model.feature_projection.projection
    print(*told, *(round(each.std().item(), 4) for each in (projection.weight, projection.bias)))
PYTHON
diff <(grep -A9 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
