"""
The VAE recipe's loop beside pythae's trainer (arXiv:2206.08309), in one process.

    pip install -e . pythae==0.1.2
    HWZOO_DATA_DIR=... python benchmarks/peers/pythae_vae.py

Both train the networks of `cs236` (784-300-300-10, ELU) on the same images, batches of 100, Adam with the rate 1e-3,
float32. A round is an epoch of each: the whole `train()` of pythae, as it is run, with its progress bar, its copy of
the best model and the save at its end; the loop of recipes/train_vae.py, with its progress bar, log, evaluation and
checkpoint. The recipe draws the binary pixels anew at each step, pythae trains on the intensities.
"""

import argparse
import contextlib
import io
import json
import logging
import sys
import tempfile
import time
from pathlib import Path

import torch
from pythae.data.datasets import BaseDataset
from pythae.models import VAE
from pythae.models import VAEConfig as PythaeConfig
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseEncoder
from pythae.trainers import BaseTrainer, BaseTrainerConfig

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2] / "recipes"))

import train_vae
from side_by_side import images, ratio, recipe_loop, take_turns

from hwzoo import VAEConfig, VAEModel

BATCH = 100


class Encoder(BaseEncoder):
    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pixel_values):
        mean, log_variance = self.network(pixel_values).chunk(2, -1)
        return ModelOutput(embedding=mean, log_covariance=log_variance)


class Decoder(BaseDecoder):
    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network

    def forward(self, latents):
        return ModelOutput(reconstruction=self.network(latents).sigmoid())


def pythae_steps_per_second(dataset: BaseDataset) -> float:
    networks = VAEModel(VAEConfig())
    asked = PythaeConfig(input_dim=(1, 28, 28), latent_dim=10, reconstruction_loss="bce")
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
        training = BaseTrainerConfig(folder, num_epochs=1, per_device_train_batch_size=BATCH, learning_rate=1e-3)
        model = VAE(asked, Encoder(networks.encoder), Decoder(networks.decoder))
        trainer = BaseTrainer(model, dataset, None, training)
        start = time.perf_counter()
        trainer.train()
        return len(trainer.train_loader) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_images", type=int, default=60_000, help="of the epoch that a round is")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; the medians over them are compared")
    arguments = parser.parse_args()
    logging.disable(logging.INFO)  # its messages, epoch by epoch
    data = images()
    pixels = data.train.images[: arguments.num_images].float().div(255)
    dataset = BaseDataset(pixels, data.train.labels[: arguments.num_images])
    steps = len(dataset) // BATCH

    def contenders() -> dict[str, float]:
        # Threads as they are: those of the process, which pythae takes, too.
        flags = {"max_train_steps": steps, "eval_steps": steps, "num_threads": torch.get_num_threads()}
        results = recipe_loop(train_vae, data, train_vae.Model(), train_vae.Protocol(), **flags).results
        return {"recipe": steps / results["train_runtime"], "pythae": pythae_steps_per_second(dataset)}

    speeds = take_turns(contenders, arguments.rounds, "steps/s")
    print(json.dumps({"recipe / pythae": ratio(speeds, "recipe", "pythae")}))


if __name__ == "__main__":
    main()
