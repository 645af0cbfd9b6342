"""Folders of tiny models for the page, one for each thing that a model can offer."""

import json
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hwzoo import data, diffusion, hub, text
from hwzoo.models import (
    AutoregressiveConfig,
    AutoregressiveModel,
    ClassifierConfig,
    ClassifierForImageClassification,
    FlowConfig,
    FlowModel,
    GANConfig,
    GANModel,
    TextVAEConfig,
    TextVAEModel,
    VAEConfig,
    VAEModel,
    VQVAEConfig,
    VQVAEModel,
)

IMAGES = {"image_size": 28, "num_channels": 1}
MODELS = {
    "vae": lambda: VAEModel(
        VAEConfig(**IMAGES, encoder_hidden_sizes=[12], decoder_hidden_sizes=[12], latent_size=3, prior="mixture")
    ),
    "gan": lambda: GANModel(
        GANConfig(
            **IMAGES, latent_size=4, generator_hidden_size=12, generator_channels=[8, 4],
            discriminator_channels=[4, 6], discriminator_hidden_size=10, num_classes=10,
        )
    ),
    "flow": lambda: FlowModel(FlowConfig(**IMAGES, hidden_size=4, num_steps=1, num_hidden_layers=1)),
    "autoregressive": lambda: AutoregressiveModel(
        AutoregressiveConfig(**IMAGES, hidden_size=8, num_layers=1, head_hidden_size=16, num_levels=2)
    ),
    "vqvae": lambda: VQVAEModel(
        VQVAEConfig(
            **IMAGES, hidden_sizes=[4, 6, 8], num_residual_layers=1, codebook_size=12, code_size=3,
            prior_hidden_size=8, prior_num_layers=1, prior_num_heads=2,
        )
    ),
    "classifier": lambda: ClassifierForImageClassification(
        ClassifierConfig(**IMAGES, hidden_sizes=[8], backbone="mlp", num_labels=10)
    ),
    "ddpm": lambda: diffusion.make_pipeline(
        diffusion.build_unet(28, 1, num_classes=10, block_out_channels=[8, 8], norm_num_groups=4, padded_size=32),
        diffusion.train_scheduler(30), 28,
    ),
    "patches": lambda: diffusion.make_pipeline(
        diffusion.build_unet(28, 1, num_classes=10, block_out_channels=[8, 8], norm_num_groups=4, patch_size=2),
        diffusion.train_scheduler(30), 28, 2,
    ),
}  # fmt: skip
TEXTS = ("t5", "gpt2", "prompt")
RUN = {"vae", "classifier"}  # that have the files of a run on the digits
MATRIX = [[0.9, 0.5], [0.6, 0.8]]
HISTORY = [{"step": step, "loss": 5.0 / step} for step in range(1, 6)]
# The controls of each.
OFFERED = {
    "vae": ["Draw", "Path", "Plane", "Reconstruct", "Nearest"],
    "gan": ["Draw", "Path", "Plane", "Discriminate"],
    "flow": ["Draw", "Path", "Plane", "Score", "Inverse"],
    "autoregressive": ["Draw", "Complete", "Score"],
    "vqvae": ["Draw", "Reconstruct", "Codes"],
    "classifier": ["Classify", "Nearest", "Tasks"],
    "ddpm": ["Draw", "Reverse process", "Forward process"],
    "textvae": ["Draw", "Reconstruct words"],
    "comparison": ["Runs"],
    "t5": ["Write", "Next token", "Score words"],
    "gpt2": ["Write", "Next token", "Score words"],
    "prompt": ["Write", "Next token", "Score words"],
}


def digit(place: int = 0) -> Tensor:
    """(channels, height, width) of a digit, as 8 bits hold it."""
    return data.load_images("digits").train.pixel_values(slice(place, place + 1))[0]


class Slow:
    """Draws as long as it is let."""

    config = type("Config", (), {"num_classes": 0, "image_size": 28, "num_channels": 1})

    def __init__(self):
        self.steps = 0

    def sample(self, num_samples, *, labels=None, generator=None):
        image = torch.zeros(num_samples, 1, 28, 28)
        for self.steps in range(10**6):  # noqa: B020
            image = torch.relu(image)
            time.sleep(0.001)
        return image


def make(name: str, folder: Path) -> Path:
    """Saves one of the models, or an adapter by its method, in a folder; its weights depend on its name alone."""
    torch.manual_seed(len(name))
    if name in MODELS:
        hub.save(MODELS[name](), folder, {"test_score": 1.5, "protocol": "none"})
    elif name == "comparison":
        folder.mkdir(parents=True)
        rows = [_row("naive", {"strategy": "naive"}, 0.5)]
        rows += [_row(f"ewc {x}", {"strategy": "ewc", "ewc_lambda": x}, y) for x, y in (("1e3", 0.7), ("10", 0.6))]
        (folder / "comparison.json").write_text(json.dumps(rows))
    elif name == "textvae":
        config = TextVAEConfig(vocab_size=len(ByT5Tokenizer()), max_tokens=8, hidden_size=8, latent_size=2)
        hub.save(TextVAEModel(config), folder, also=[ByT5Tokenizer()])
    elif name == "gpt2":
        tokenizer = ByT5Tokenizer()
        config = GPT2Config(
            vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, eos_token_id=1, bos_token_id=1, pad_token_id=0
        )
        hub.save(GPT2LMHeadModel(config), folder, also=[tokenizer])
    else:
        model, tokenizer = text.new_base("seq2seq", 16, 1)
        for weight in model.parameters():
            weight.data *= 3  # else it writes nothing
        if name != "t5":
            base = (
                make("t5", folder.with_name("t5")) if not folder.with_name("t5").is_dir() else folder.with_name("t5")
            )
            model = hub.load(type(model), str(base))
            method = "prompt_tuning" if name == "prompt" else name
            model = text.add_adapter(model, method, **{"num_virtual_tokens": 3} if method != "lora" else {})
            for weight in (each for each in model.parameters() if each.requires_grad):
                torch.nn.init.normal_(weight.data, std=3)
        hub.save(model, folder, also=[tokenizer])
    if name in RUN:
        (folder / "preset.yaml").write_text("dataset_name: digits\n")
        (folder / "history.jsonl").write_text("".join(json.dumps(line) + "\n" for line in HISTORY))
        (folder / "README.md").write_text("---\nlicense: mit\n---\n# A card\n\n![x](curves.png)\nIts words.\n")
        (folder / "curves.png").write_bytes(b"\x89PNG, of a run")
    if name == "classifier":
        results = json.loads((folder / "all_results.json").read_text()) | {"accuracy_matrix": MATRIX}
        (folder / "all_results.json").write_text(json.dumps(results))
    return folder


def _row(label: str, flags: dict, accuracy: float) -> dict:
    number = {"mean": accuracy, "standard_error": 0.01}
    return {"label": label, "flags": flags, "average_accuracy": number, "accuracy_by_task": [accuracy, 0.9]}
