#!/usr/bin/env bash
# pythae 0.1.2: VAE.get_nll(data, n_samples, batch_size=100), "the estimate negative log-likelihood" by `n_samples`
# importance samples, gives the log-likelihood, with its own sign, and draws another number of samples than asked.
#
# The model's decoder says 1/2 for each of four binary pixels and its encoder's posterior is the prior, so that every
# image has -log p(x) = 4 ln 2 = 2.7726 nats, whatever is drawn. Asked for 1 sample, or 50, the decoder is given 100;
# asked for 150 it is given 100, for 250 it is given 200: always whole batches. A bound by one sample (-ELBO) is not to
# be had from it without `batch_size=1`, and K in a table of such bounds is `batch_size` times a whole number.
#
# Output seen (what was done, what came of it):
#   negative log-likelihood of each image: 2.7726
#   get_nll: -2.7726
#   n_samples 1: 100 latents decoded
#   n_samples 50: 100 latents decoded
#   n_samples 150: 100 latents decoded
#   n_samples 250: 200 latents decoded
#   n_samples 1, batch_size 1: 1 latents decoded
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet pythae==0.1.2 torch==2.13.0
cd "$work"
"$work/venv/bin/python" - <<'PYTHON' | tee "$work/seen"
import math

import torch
from pythae.models import VAE, VAEConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder


class Encoder(BaseEncoder):
    def forward(self, x):
        return ModelOutput(embedding=torch.zeros(len(x), 2), log_covariance=torch.zeros(len(x), 2))


class Decoder(BaseDecoder):
    decoded = 0

    def forward(self, z):
        self.decoded += len(z)
        return ModelOutput(reconstruction=torch.full((len(z), 1, 2, 2), 0.5))


decoder = Decoder()
model = VAE(VAEConfig(input_dim=(1, 2, 2), latent_dim=2, reconstruction_loss="bce"), Encoder(), decoder)
image = torch.ones(1, 1, 2, 2)
print(f"negative log-likelihood of each image: {4 * math.log(2):.4f}")
print(f"get_nll: {model.get_nll(image, n_samples=100):.4f}")
for asked in ({"n_samples": 1}, {"n_samples": 50}, {"n_samples": 150}, {"n_samples": 250},
              {"n_samples": 1, "batch_size": 1}):
    decoder.decoded = 0
    model.get_nll(image, **asked)
    print(*(f"{name} {value}" for name, value in asked.items()), sep=", ", end=f": {decoder.decoded} latents decoded\n")
PYTHON
diff <(grep -A7 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
