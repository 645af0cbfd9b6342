"""Every mistake gives one line that names the flag or file, the value and what is allowed, and the right status."""

import errno
import fcntl
import gzip
import json
import os
import resource
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from recipe_runs import load_recipe
from transformers import ProphetNetConfig, ProphetNetForConditionalGeneration

from hwzoo import (
    AutoregressiveConfig,
    AutoregressiveModel,
    FlowConfig,
    FlowModel,
    GANConfig,
    GANModel,
    SimCLRConfig,
    SimCLRForImageClassification,
    TextVAEConfig,
    TextVAEModel,
    VQVAEConfig,
    VQVAEModel,
    hub,
    text,
    training,
)

RECIPE = Path(__file__).parents[2] / "recipes" / "train_vae.py"

SMALL = [
    "--encoder_hidden_sizes=8", "--decoder_hidden_sizes=8", "--latent_size=2", "--max_train_steps=4",
    "--num_importance_samples=2", "--train_batch_size=20",
]  # fmt: skip


def idx(shape: tuple[int, ...], magic: bytes | None = None, missing: int = 0) -> bytes:
    """An idx file of zeros."""
    size = torch.Size(shape).numel() - missing
    return (magic or bytes([0, 0, 8, len(shape)])) + struct.pack(f">{len(shape)}I", *shape) + bytes(size)


def broken_mnist(folder: Path, images: bytes) -> list[str]:
    return ["--dataset_name=mnist", f"--data_dir={mnist_folder(folder, train_images_idx3=images)}"]


def mnist_folder(folder: Path, num_images: int = 30, num_labels: int = 30, **broken: bytes) -> Path:
    (folder / "mnist").mkdir(parents=True)
    files = {
        "train-images-idx3": gzip.compress(idx((num_images, 28, 28))),
        "train-labels-idx1": gzip.compress(idx((num_labels,))),
        "t10k-images-idx3": gzip.compress(idx((30, 28, 28))),
        "t10k-labels-idx1": gzip.compress(idx((30,))),
    }
    for name, data in {**files, **{name.replace("_", "-"): data for name, data in broken.items()}}.items():
        (folder / "mnist" / f"{name}-ubyte.gz").write_bytes(data)
    return folder


def preset(folder: Path, text: str) -> str:
    (folder / "preset.yaml").write_text(text)
    return f"--config={folder / 'preset.yaml'}"


# name: (status, what the line names, the arguments for a folder of the test's own)
CASES = {
    "unknown flag": (2, "--latent_sise", lambda tmp: ["--latent_sise", "3"]),
    "abbreviated flag": (2, "--latent", lambda tmp: ["--latent", "3"]),
    "no flag": (2, "'cs236'", lambda tmp: ["cs236"]),
    "flag without value": (2, "--latent_size", lambda tmp: ["--latent_size"]),
    "word for a number": (2, "--latent_size: invalid int value: 'ten'", lambda tmp: ["--latent_size", "ten"]),
    "latent size 0": (2, "--latent_size is 0; it must be in [1, inf)", lambda tmp: ["--latent_size", "0"]),
    "negative learning rate": (2, "--learning_rate is -0.001", lambda tmp: ["--learning_rate", "-1e-3"]),
    "NaN learning rate": (2, "--learning_rate is nan", lambda tmp: ["--learning_rate", "nan"]),
    "infinite learning rate": (2, "--learning_rate is inf", lambda tmp: ["--learning_rate", "inf"]),
    "hidden size 0": (2, "--encoder_hidden_sizes is 0", lambda tmp: ["--encoder_hidden_sizes", "300", "0"]),
    "prior std 0": (2, "--prior_std is 0.0", lambda tmp: ["--prior_std", "0"]),
    "prior std without a variance": (2, "--prior_std is 1e+154", lambda tmp: ["--prior_std", "1e154"]),
    "negative beta": (2, "--beta is -1.0", lambda tmp: ["--beta", "-1"]),
    "negative KL warm-up": (2, "--kl_warmup_steps is -1", lambda tmp: ["--kl_warmup_steps", "-1"]),
    "no importance samples": (2, "--num_importance_samples is 0", lambda tmp: ["--num_importance_samples", "0"]),
    "absurd importance samples": (
        2, f"--num_importance_samples is {10**12}; it must be in [1, 1000000]",
        lambda tmp: [f"--num_importance_samples={10**12}"],
    ),
    "negative steps": (2, "--max_train_steps is -1", lambda tmp: ["--max_train_steps", "-1"]),
    "steps 0 without a model": (2, "--max_train_steps is 0", lambda tmp: ["--max_train_steps", "0"]),
    "push to nowhere": (2, "--hub_model_id", lambda tmp: ["--push_to_hub"]),
    "push without an owner": (2, "--hub_model_id is vae; it must be owner/name", lambda tmp: ["--hub_model_id=vae"]),
    "push to what the Hub refuses": (
        2, "--hub_model_id is me/vae--best; it must be owner/name", lambda tmp: ["--hub_model_id=me/vae--best"],
    ),
    "overwrite and resume": (
        2, "--overwrite_output_dir and --resume_from_checkpoint",
        lambda tmp: ["--overwrite_output_dir", "--resume_from_checkpoint", "latest"],
    ),
    "an error of a library": (1, "RuntimeError: ", lambda tmp: ["--encoder_hidden_sizes", "1000000000000000"]),
    "no logging": (2, "--logging_steps is 0", lambda tmp: ["--logging_steps", "0"]),
    "EMA decay 1": (2, "--ema_decay is 1.0", lambda tmp: ["--ema_decay", "1"]),
    "seed too large": (2, "--seed is 4294967296", lambda tmp: ["--seed", "4294967296"]),
    "unknown choice": (2, "--prior: invalid choice: 'vamp'", lambda tmp: ["--prior", "vamp"]),
    "half precision": (2, "--mixed_precision: invalid choice: 'fp16'", lambda tmp: ["--mixed_precision", "fp16"]),
    "unknown tracker": (2, "--report_to is tensorbord", lambda tmp: ["--report_to", "tensorbord"]),
    "steps and epochs": (2, "--max_train_steps", lambda tmp: ["--num_train_epochs", "2", "--max_train_steps", "9"]),
    "grey likelihood of drawn pixels": (2, "--likelihood gaussian", lambda tmp: ["--likelihood", "gaussian"]),
    "unknown key in YAML": (2, "preset.yaml: latent_sise", lambda tmp: [preset(tmp, "latent_sise: 3")]),
    "wrong type in YAML": (2, "preset.yaml: --latent_size", lambda tmp: [preset(tmp, "latent_size: ten")]),
    "value out of range in YAML": (2, "preset.yaml: --ema_decay is 2.0", lambda tmp: [preset(tmp, "ema_decay: 2")]),
    "mapping in YAML": (2, "preset.yaml: beta", lambda tmp: [preset(tmp, "beta: {a: 1}")]),
    "list as YAML": (2, "preset.yaml", lambda tmp: [preset(tmp, "- latent_size")]),
    "broken YAML": (2, "preset.yaml", lambda tmp: [preset(tmp, "a: [1, 2")]),
    "missing YAML": (2, "nothere.yaml", lambda tmp: ["--config", str(tmp / "nothere.yaml")]),
    "unknown data set": (2, "--dataset_name mnits", lambda tmp: ["--dataset_name", "mnits"]),
    "missing data folder": (
        2, "--data_dir", lambda tmp: ["--dataset_name", "mnist", "--data_dir", str(tmp / "nothere")],
    ),
    "missing image folder": (2, "nothere", lambda tmp: ["--dataset_name", str(tmp / "nothere")]),
    "empty image folder": (2, "is empty", lambda tmp: (tmp / "e").mkdir() or ["--dataset_name", str(tmp / "e")]),
    "truncated gz": (
        1, "train-images-idx3-ubyte.gz",
        lambda tmp: broken_mnist(tmp, gzip.compress(idx((30, 28, 28)))[:40]),
    ),
    "no gz": (
        1, "t10k-images-idx3-ubyte.gz",
        lambda tmp: ["--dataset_name=mnist", f"--data_dir={mnist_folder(tmp, t10k_images_idx3=b'no gzip at all')}"],
    ),
    "wrong idx magic": (
        1, "magic number is 0x00000d03",
        lambda tmp: broken_mnist(tmp, gzip.compress(idx((30, 28, 28), magic=bytes([0, 0, 13, 3])))),
    ),
    "too few bytes": (
        1, "train-images-idx3-ubyte.gz",
        lambda tmp: broken_mnist(tmp, gzip.compress(idx((30, 28, 28), missing=1))),
    ),
    "images and labels of different number": (
        1, "30 images", lambda tmp: ["--dataset_name=mnist", f"--data_dir={mnist_folder(tmp, num_labels=29)}"],
    ),
    "empty data set": (
        1, "holds no images",
        lambda tmp: ["--dataset_name=mnist", f"--data_dir={mnist_folder(tmp, num_images=0, num_labels=0)}"],
    ),
    "batch larger than the data": (2, "--train_batch_size", lambda tmp: ["--train_batch_size", "1501"]),
    "image size not halved": (
        2, "encoder_hidden_sizes is [4, 4, 4] with image_size 28",
        lambda tmp: ["--network", "conv", "--encoder_hidden_sizes", "4", "4", "4"],
    ),
    "resume from no checkpoint": (
        2, "--resume_from_checkpoint", lambda tmp: ["--resume_from_checkpoint", str(tmp / "nothere")],
    ),
    "resume from an empty folder": (2, "manifest.json", lambda tmp: ["--resume_from_checkpoint", str(tmp)]),
    "absurd batch": (
        2, f"--train_batch_size: a step takes {10**12} images", lambda tmp: [f"--train_batch_size={10**12}"],
    ),
    "absurd accumulation": (
        2, f"--train_batch_size: a step takes {20 * 10**12} images",
        lambda tmp: [f"--gradient_accumulation_steps={10**12}"],
    ),
    "more than an integer": (
        2, f"--eval_batch_size is {10**30}; it must be at most", lambda tmp: [f"--eval_batch_size={10**30}"],
    ),
    "no name of a data set": (2, "--dataset_name is ''; it must not be empty", lambda tmp: ["--dataset_name="]),
    "a data set of no images": (
        2, "the folder is empty", lambda tmp: (tmp / "e").mkdir() or [f"--dataset_name={tmp / 'e' / '.'}"],
    ),
    "no name of a model": (2, "--model_name_or_path is ''; it must", lambda tmp: ["--model_name_or_path", ""]),
    "too long a name": (
        2, "--dataset_name is 'xxxxxxxxxxxx...xxxxxxxxxxxxx'; a name has at most 255",
        lambda tmp: ["--dataset_name", "x" * 999],
    ),
    "flags in a list of YAML": (
        2, "preset.yaml: report_to is ['none', '--push_to_hub']; none of a list",
        lambda tmp: [preset(tmp, "report_to: [none, --push_to_hub]")],
    ),
    "no name of a preset": (2, "--config is ''; it must not be empty", lambda tmp: ["--config="]),
    "no name of a checkpoint": (2, "--resume_from_checkpoint is ''; it", lambda tmp: ["--resume_from_checkpoint="]),
    "bytes for a name": (
        2, "--dataset_name is 'a\\udcff'; it holds what no text in a file can", lambda tmp: ["--dataset_name=a\udcff"],
    ),
    "no text in YAML": (
        2, "preset.yaml: --dataset_name is 'a\\x00b'; it holds", lambda tmp: [preset(tmp, 'dataset_name: "a\\0b"')],
    ),
    "key twice in YAML": (
        2, "preset.yaml is not valid YAML: latent_size stands there twice",
        lambda tmp: [preset(tmp, "latent_size: 3\nseed: 1\nlatent_size: 4\n")],
    ),
    "alias in YAML": (
        2, "preset.yaml is not valid YAML: a preset has no aliases",
        lambda tmp: [preset(tmp, "seed: &a 1\nlatent_size: *a\n")],
    ),
    "depth in YAML": (
        2, "preset.yaml is not valid YAML: nested too deeply", lambda tmp: [preset(tmp, "seed: " + "[" * 9999)],
    ),
    "image size 0": (2, "--image_size is 0; it must be in [1, 4096]", lambda tmp: ["--image_size=0"]),
    "unknown way to resize": (2, "--resize: invalid choice: 'fit'", lambda tmp: ["--resize=fit"]),
    "unknown background": (2, "--background: invalid choice: 'red'", lambda tmp: ["--background=red"]),
    "no test images": (2, "--test_share is 0.0; it must be in (0, 1)", lambda tmp: ["--test_share=0"]),
    "all images for validation": (2, "--validation_share is 1.0", lambda tmp: ["--validation_share=1"]),
    "column that is not there": (
        2, "--label_column kind: --dataset_name", lambda tmp: [small_pictures(tmp), "--label_column=kind"],
    ),
    "grey pixels said to be binary": (
        2, "--binarization fixed: digits has grey pixels", lambda tmp: ["--binarization=fixed"],
    ),
    "an image outside the classes": (
        2, "is in no folder of a class",
        lambda tmp: [small_pictures(tmp), *loose_picture(tmp)],
    ),
    "metadata beside the splits": (
        2, "metadata.csv is beside train/; each split has its own, as train/metadata.csv",
        lambda tmp: [small_pictures(tmp), *metadata(tmp, "")],
    ),
    "metadata of one split": (
        2, "test/metadata.csv is of one split, train/ has none; all splits",
        lambda tmp: [small_pictures(tmp), *metadata(tmp, "test")],
    ),
}  # fmt: skip


def small_pictures(
    folder: Path, size: int = 8, test_classes: int = 2, classes: int = 2, num_test: int = 60, name: str = "pictures"
) -> str:
    """A folder of grey images of two classes."""
    for split, num_classes in (("train", classes), ("test", min(classes, test_classes))):
        for index in range(60 if split == "train" else num_test):
            picture = folder / name / split / f"{index % num_classes}" / f"{index}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (size, size), index).save(picture)
    return f"--dataset_name={folder / name}"


def loose_picture(folder: Path) -> list[str]:
    """Puts one beside the folders of the classes; no further arguments."""
    Image.new("L", (8, 8)).save(folder / "pictures" / "test" / "loose.png")
    return []


def metadata(folder: Path, split: str) -> list[str]:
    """Puts a table of one image into the folder of a split, or beside them; no further arguments."""
    (folder / "pictures" / split / "metadata.csv").write_text("file_name,label\n0/0.png,cat\n")
    return []


# The same for train_continual.py: its own flags, and what only it can refuse.
CONTINUAL_CASES = {
    "negative EWC strength": (2, "--ewc_lambda is -1.0; it must be in [0, inf)", lambda tmp: ["--ewc_lambda", "-1"]),
    "NaN EWC strength": (2, "--ewc_lambda is nan", lambda tmp: ["--ewc_lambda", "nan"]),
    "infinite EWC strength": (2, "--ewc_lambda is inf", lambda tmp: ["--ewc_lambda", "inf"]),
    "negative SI strength": (2, "--si_lambda is -0.5; it must be in [0, inf)", lambda tmp: ["--si_lambda", "-0.5"]),
    "NaN SI strength": (2, "--si_lambda is nan", lambda tmp: ["--si_lambda", "nan"]),
    "negative LwF strength": (2, "--lwf_lambda is -2.0; it must be in [0, inf)", lambda tmp: ["--lwf_lambda", "-2"]),
    "NaN LwF strength": (2, "--lwf_lambda is nan", lambda tmp: ["--lwf_lambda", "nan"]),
    "no memory for replay": (
        2, "--memory_size is 0; it must be in [1, inf)", lambda tmp: ["--strategy", "replay", "--memory_size", "0"],
    ),
    "no stored image a step": (
        2, "--replay_ratio is 0; it must be in [1, 1000]", lambda tmp: ["--strategy", "replay", "--replay_ratio", "0"],
    ),
    "absurd replay": (
        2, f"--replay_ratio is {10**12}; it must be in [1, 1000]", lambda tmp: [f"--replay_ratio={10**12}"],
    ),
    "no task": (2, "--num_tasks is 0; it must be in [1, inf)", lambda tmp: ["--num_tasks", "0"]),
    "more tasks than classes": (
        2, "--num_tasks is 20; it must divide the 10 classes of the data set", lambda tmp: ["--num_tasks", "20"],
    ),
    "tasks that do not divide the classes": (
        2, "--num_tasks is 3; it must divide the 10 classes of the data set", lambda tmp: ["--num_tasks", "3"],
    ),
    "a task without test images": (
        2, "--num_tasks is 2; task 2 has no test images", lambda tmp: [small_pictures(tmp, test_classes=1)],
    ),
    "one class": (
        2, "pictures has one class, 0; two or more are needed",
        lambda tmp: ["--num_tasks=1", small_pictures(tmp, classes=1)],
    ),
    "one class with permuted pixels": (
        2, "pictures has one class, 0; two or more", lambda tmp: ["--stream=permuted", small_pictures(tmp, classes=1)],
    ),
    "absurd batch": (2, f"a step takes {10**12} images", lambda tmp: [f"--train_batch_size={10**12}"]),
    "unknown strategy": (2, "--strategy: invalid choice: 'gem' (choose from", lambda tmp: ["--strategy", "gem"]),
    "unknown stream": (2, "--stream: invalid choice: 'rotated'", lambda tmp: ["--stream", "rotated"]),
    "unknown scenario": (2, "--scenario: invalid choice: 'online'", lambda tmp: ["--scenario", "online"]),
    "unknown backbone": (2, "--backbone: invalid choice: 'resnet'", lambda tmp: ["--backbone", "resnet"]),
    "unknown estimator": (
        2, "--fisher_estimator: invalid choice: 'kfac'", lambda tmp: ["--fisher_estimator", "kfac"],
    ),
    "unknown convention": (2, "--ewc_penalty: invalid choice: 'third'", lambda tmp: ["--ewc_penalty", "third"]),
    "unknown policy": (2, "--memory_policy: invalid choice: 'fifo'", lambda tmp: ["--memory_policy", "fifo"]),
    "unknown optimiser": (2, "--optimizer: invalid choice: 'adamw'", lambda tmp: ["--optimizer", "adamw"]),
    "no Fisher samples": (2, "--fisher_samples is 0; it must be in [1, inf)", lambda tmp: ["--fisher_samples", "0"]),
    "EWC decay above 1": (2, "--ewc_decay is 1.5; it must be in [0, 1]", lambda tmp: ["--ewc_decay", "1.5"]),
    "no SI damping": (2, "--si_damping is 0.0; it must be in (0, inf)", lambda tmp: ["--si_damping", "0"]),
    "LwF temperature 0": (2, "--lwf_temperature is 0.0", lambda tmp: ["--lwf_temperature", "0"]),
    "momentum 1": (2, "--momentum is 1.0; it must be in [0, 1)", lambda tmp: ["--momentum", "1"]),
    "dropout 1": (2, "--dropout is 1.0; it must be in [0, 1)", lambda tmp: ["--dropout", "1"]),
    "hidden size 0": (2, "--hidden_sizes is 0; it must be in [1, inf)", lambda tmp: ["--hidden_sizes", "9", "0"]),
    "images too small for the CNN": (
        2, "image_size is 8; for backbone cnn it must be at least 16",
        lambda tmp: ["--backbone", "cnn", small_pictures(tmp)],
    ),
    "batch larger than a task": (2, "--train_batch_size", lambda tmp: ["--train_batch_size", "1000"]),
    "steps 0 without a model": (2, "--max_train_steps is 0", lambda tmp: ["--max_train_steps", "0"]),
    "one class a task for EWC": (
        2, "the Fisher information is zero for every weight",
        lambda tmp: ["--strategy", "ewc", "--num_tasks", "10", "--max_train_steps", "1"],
    ),
    "one class a task for labels that tasks share": (
        2, "--num_tasks is 10; with one class a task there is nothing to tell apart in the domain-incremental",
        lambda tmp: ["--scenario", "domain", "--num_tasks", "10"],
    ),
    "unknown key in YAML": (2, "preset.yaml: ewc_lamda", lambda tmp: [preset(tmp, "ewc_lamda: 3")]),
    "value out of range in YAML": (2, "preset.yaml: --ewc_lambda is -3", lambda tmp: [preset(tmp, "ewc_lambda: -3")]),
    "a model that is not there": (
        1, "nothere cannot be loaded", lambda tmp: ["--model_name_or_path", str(tmp / "nothere")],
    ),
}  # fmt: skip


def flow_model(folder: Path, **changes) -> str:
    """An untrained one, of 28 x 28 images but for the changes."""
    hub.save(FlowModel(FlowConfig(**{"hidden_size": 4, "num_steps": 1} | changes)), folder / "model")
    return f"--model_name_or_path={folder / 'model'}"


def autoregressive_model(folder: Path, **changes) -> str:
    """An untrained one, of binary 28 x 28 images but for the changes."""
    small = {"image_size": 28, "hidden_size": 8, "num_layers": 1, "num_attention_heads": 2, "head_hidden_size": 16}
    hub.save(AutoregressiveModel(AutoregressiveConfig(**small | changes)), folder / "model")
    return f"--model_name_or_path={folder / 'model'}"


def vqvae_model(folder: Path, **changes) -> str:
    """An untrained one, of binary 28 x 28 images but for the changes."""
    small = {"hidden_sizes": [4], "prior_hidden_size": 8, "prior_num_layers": 1, "prior_num_heads": 2}
    hub.save(VQVAEModel(VQVAEConfig(**small | changes)), folder / "model")
    return f"--model_name_or_path={folder / 'model'}"


def simclr_model(folder: Path, **changes) -> str:
    """An untrained one, of 28 x 28 images and ten classes but for the changes."""
    hub.save(SimCLRForImageClassification(SimCLRConfig(**{"hidden_sizes": [4]} | changes)), folder / "model")
    return f"--model_name_or_path={folder / 'model'}"


def one_pair(folder: Path) -> Path:
    """A folder of one pair of texts."""
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text('{"source": "ab", "target": "ba"}\n')
    return folder


def textvae_model(folder: Path, texts: list[str] | None = None, **changes) -> str:
    """An untrained one, with a tokenizer of the bytes where there are texts."""
    model = TextVAEModel(TextVAEConfig(embedding_size=4, hidden_size=8, **changes))
    hub.save(model, folder / "model", also=() if texts is None else [text.train_tokenizer(texts, 259)])
    return f"--model_name_or_path={folder / 'model'}"


def gan_model(folder: Path, num_classes: int) -> str:
    """A saved GAN of some classes."""
    sizes = {"generator_hidden_size": 4, "generator_channels": [4, 4], "discriminator_hidden_size": 4}
    hub.save(GANModel(GANConfig(num_classes=num_classes, **sizes)), folder / "model")
    return f"--model_name_or_path={folder / 'model'}"


# The same for train_gan.py.
GAN_CASES = {
    "unknown loss": (2, "--loss: invalid choice: 'hinge' (choose from", lambda tmp: ["--loss", "hinge"]),
    "batch of one": (
        2, "--train_batch_size is 1; it must be in [2, inf)", lambda tmp: ["--train_batch_size", "1"],
    ),
    "batch larger than the data": (
        2, "--train_batch_size: a step takes 2000 images", lambda tmp: ["--num_discriminator_steps", "100"],
    ),
    "image size not divisible by 4": (
        2, "image_size is 10; it must be divisible by 4", lambda tmp: [small_pictures(tmp, size=10)],
    ),
    "channels that cannot be shuffled": (
        2, "generator_channels is [8, 6]; it must be two numbers divisible by 4",
        lambda tmp: ["--generator_channels", "8", "6"],
    ),
    "one number of channels": (
        2, "discriminator_channels is [8]; it must be two numbers", lambda tmp: ["--discriminator_channels", "8"],
    ),
    "negative penalty": (
        2, "--gradient_penalty_weight is -1.0; it must be in [0, inf)",
        lambda tmp: ["--gradient_penalty_weight", "-1"],
    ),
    "NaN penalty": (2, "--gradient_penalty_weight is nan", lambda tmp: ["--gradient_penalty_weight", "nan"]),
    "no discriminator step": (
        2, "--num_discriminator_steps is 0; it must be in [1, inf)", lambda tmp: ["--num_discriminator_steps", "0"],
    ),
    "Adam's decay 1": (2, "--adam_beta1 is 1.0; it must be in [0, 1)", lambda tmp: ["--adam_beta1", "1"]),
    "negative second decay": (2, "--adam_beta2 is -0.1; it must be in [0, 1)", lambda tmp: ["--adam_beta2", "-0.1"]),
    "no grid step": (2, "--grid_steps is 0; it must be in [1, inf)", lambda tmp: ["--grid_steps", "0"]),
    "discriminator learning rate 0": (
        2, "--discriminator_learning_rate is 0.0", lambda tmp: ["--discriminator_learning_rate", "0"],
    ),
    "unknown range of pixels": (2, "--pixel_range: invalid choice: 'byte'", lambda tmp: ["--pixel_range", "byte"]),
    "a model of other classes": (
        2, "it has num_classes 3, the data 0 or 10", lambda tmp: [gan_model(tmp, num_classes=3)],
    ),
    "an unconditional model of classes": (
        2, "it has num_classes 0, the data 10; leave out --conditional",
        lambda tmp: ["--conditional", gan_model(tmp, num_classes=0)],
    ),
    "a model of other images": (
        2, "it has image_size 28, the data 8", lambda tmp: [gan_model(tmp, num_classes=0), small_pictures(tmp)],
    ),
    "one class for a conditional one": (
        2, "--conditional: pictures has one class, 0; two or more are needed",
        lambda tmp: ["--conditional", small_pictures(tmp, classes=1)],
    ),
    "absurd batch": (2, f"a step takes {10**12} images", lambda tmp: [f"--train_batch_size={10**12}"]),
    "absurd turns": (
        2, f"a step takes {20 * 10**12} images", lambda tmp: [f"--num_discriminator_steps={10**12}"],
    ),
    "no name of a classifier": (2, "--classifier is ''; it must not be empty", lambda tmp: ["--classifier="]),
    "unknown key in YAML": (2, "preset.yaml: los is not a flag", lambda tmp: [preset(tmp, "los: minimax")]),
}  # fmt: skip


def text_file(folder: Path, content: str = '{"text": "a", "target": "b"}\n', name: str = "rows.jsonl") -> str:
    """A file of pairs, to be tested on."""
    (folder / name).write_text(content)
    return f"--test_file={folder / name}"


def t5_model(folder: Path, complete: bool = True) -> str:
    """A saved T5, with its tokenizer if it is to be complete."""
    tokenizer = text.new_tokenizer(None, None, [])
    sizes = {"d_model": 4, "d_ff": 4, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 1}
    hub.save(text.build_t5(tokenizer, **sizes), folder / "model", also=[tokenizer] if complete else [])
    return f"--model_name_or_path={folder / 'model'}"


def model_of_other_layers(folder: Path) -> str:
    """A saved ProphetNet, whose queries are called query_proj, with a tokenizer."""
    sizes = {"hidden_size": 4, "encoder_ffn_dim": 4, "decoder_ffn_dim": 4, "max_position_embeddings": 8}
    sizes |= {f"num_{part}_{what}": 1 for part in ("encoder", "decoder") for what in ("layers", "attention_heads")}
    model = ProphetNetForConditionalGeneration(ProphetNetConfig(vocab_size=384, **sizes))
    hub.save(model, folder / "model", also=[text.new_tokenizer(None, None, [])])
    return f"--model_name_or_path={folder / 'model'}"


def adapter_without_base(folder: Path) -> str:
    (folder / "adapter").mkdir()
    (folder / "adapter" / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "task_type": "SEQ_2_SEQ_LM", "base_model_name_or_path": "nothere/base"}'
    )
    return f"--model_name_or_path={folder / 'adapter'}"


# The same for train_t5.py.
T5_CASES = {
    "half precision": (
        2, "--fp16 is refused: activations of T5 overflow in float16 and the loss becomes NaN", lambda tmp: ["--fp16"],
    ),
    "unknown words of ROUGE": (
        2, "--rouge_tokenizer: invalid choice: 'spaces'", lambda tmp: ["--rouge_tokenizer", "spaces"],
    ),
    "no token of the source": (
        2, "--max_source_length is 0; it must be in [1, inf)", lambda tmp: ["--max_source_length", "0"],
    ),
    "no new token": (2, "--generation_max_new_tokens is 0", lambda tmp: ["--generation_max_new_tokens", "0"]),
    "no beam": (2, "--num_beams is 0; it must be in [1, inf)", lambda tmp: ["--num_beams", "0"]),
    "infinite length penalty": (2, "--length_penalty is inf", lambda tmp: ["--length_penalty", "inf"]),
    "too small a vocabulary": (
        2, "--config_vocab_size is 9; it must be in [260, inf)", lambda tmp: ["--config_vocab_size", "9"],
    ),
    "heads that do not fit": (
        2, "--config_d_model is 8; it must be a multiple of 3 heads", lambda tmp: ["--config_num_heads", "3"],
    ),
    "a decoder deeper than the encoder": (
        2, "--config_num_decoder_layers is 2; it must be at most --config_num_layers, 1",
        lambda tmp: ["--config_num_decoder_layers", "2"],
    ),
    "dropout 1": (2, "--config_dropout_rate is 1.0; it must be in [0, 1)", lambda tmp: ["--config_dropout_rate=1"]),
    "unknown adapter": (2, "--peft_method: invalid choice: 'ia3'", lambda tmp: ["--peft_method", "ia3"]),
    "adapter of a new model": (
        2, "--peft_method lora needs --model_name_or_path of a model that is no adapter",
        lambda tmp: ["--peft_method", "lora"],
    ),
    "adapter of low rank for layers of no known name": (
        2, "--peft_method is lora; which layers of a prophetnet give its queries and values is not known",
        lambda tmp: [model_of_other_layers(tmp), "--peft_method=lora"],
    ),
    "prompt of a text that is not given": (
        2, "--prompt_tuning_init text needs --prompt_tuning_init_text",
        lambda tmp: [t5_model(tmp), "--peft_method=prompt_tuning", "--prompt_tuning_init=text"],
    ),
    "adapter whose base is missing": (
        1, "is an adapter whose base cannot be loaded: nothere/base cannot be loaded",
        lambda tmp: [adapter_without_base(tmp)],
    ),
    "a model that is not there": (
        1, "nothere cannot be loaded", lambda tmp: ["--model_name_or_path", str(tmp / "nothere")],
    ),
    "a model without its tokenizer": (1, "has no tokenizer", lambda tmp: [t5_model(tmp, complete=False)]),
    "steps 0 without a model": (2, "--max_steps is 0 without --model_name_or_path", lambda tmp: ["--max_steps=0"]),
    "steps and epochs": (2, "--max_steps", lambda tmp: ["--max_steps=2", "--num_train_epochs=2"]),
    "test file alone": (2, "there are no training pairs: give --train_file", lambda tmp: [text_file(tmp)]),
    "missing column": (
        2, "rows.jsonl has the columns text, target", lambda tmp: [text_file(tmp), "--text_column=article"],
    ),
    "empty file": (1, "rows.jsonl is empty", lambda tmp: [text_file(tmp, "")]),
    "broken JSON line": (1, "rows.jsonl, line 2 is not valid JSON", lambda tmp: [text_file(tmp, '{"a": 1}\n{"a"\n')]),
    "broken CSV line": (
        1, "rows.csv, line 3 is not valid CSV", lambda tmp: [text_file(tmp, 'text,target\na,b\n"c,d\n', "rows.csv")],
    ),
    "missing file": (2, "--test_file nothere.jsonl: No such file", lambda tmp: ["--test_file", "nothere.jsonl"]),
    "unknown data set": (2, "--dataset_name wrds is neither words", lambda tmp: ["--dataset_name", "wrds"]),
    "null for a summary": (
        2, "rows.jsonl, row 1: target is None; it must be a text",
        lambda tmp: [text_file(tmp, '{"text": "a", "target": null}')],
    ),
    "null among the references": (
        2, "rows.jsonl, row 1: references is None; it must be a text",
        lambda tmp: [
            "--references_column=references", text_file(tmp, '{"text": "a", "target": "b", "references": ["b", null]}')
        ],
    ),
    "empty text": (
        2, "rows.jsonl, row 1: text is ''; it must", lambda tmp: [text_file(tmp, '{"text": "", "target": "b"}')],
    ),
    "half a surrogate pair": (
        2, "rows.jsonl, row 1: target holds U+D800, half of a surrogate pair",
        lambda tmp: [text_file(tmp, r'{"text": "a", "target": "\ud800"}')],
    ),
    "null for a task": (
        2, "rows.jsonl, row 1: task is None; --source_prefix '{task}: ' needs it",
        lambda tmp: [text_file(tmp, '{"text": "a", "target": "b", "task": null}')],
    ),
    "column twice": (
        2, "rows.csv: its header has the column 'text' twice",
        lambda tmp: [text_file(tmp, "text,target,text\na,b,c\n", "rows.csv")],
    ),
    "key twice": (
        2, "rows.jsonl, line 1: 'text' stands twice in one object",
        lambda tmp: [text_file(tmp, '{"text": "a", "text": "c", "target": "b"}')],
    ),
    "absurd batch": (
        2, f"--per_device_train_batch_size: a step takes {10**12} pairs",
        lambda tmp: [f"--per_device_train_batch_size={10**12}"],
    ),
    "absurd accumulation": (
        2, f"--per_device_train_batch_size: a step takes {64 * 10**12} pairs",
        lambda tmp: [f"--gradient_accumulation_steps={10**12}"],
    ),
    "no name of a data set": (2, "--dataset_name is ''; it must not be empty", lambda tmp: ["--dataset_name="]),
    "no name of a column": (2, "--text_column is ''; it must", lambda tmp: [text_file(tmp), "--text_column="]),
    "bytes for a prefix": (
        2, "--source_prefix is '\\udcff'; it holds what no text", lambda tmp: ["--source_prefix=\udcff"],
    ),
    "unknown task": (2, "--tasks past: the word tasks has", lambda tmp: ["--tasks", "past"]),
    "prefix of a column that is not there": (
        2, "--source_prefix '{lang}: ': 'lang' is no column", lambda tmp: ["--source_prefix", "{lang}: "],
    ),
    "resume from an empty folder": (2, "manifest.json", lambda tmp: ["--resume_from_checkpoint", str(tmp)]),
    "unknown key in YAML": (2, "preset.yaml: num_beam is not a flag", lambda tmp: [preset(tmp, "num_beam: 3")]),
}  # fmt: skip
DDPM_CASES = {
    "steps above T": (
        2, "--num_inference_steps is 31; with 30 timesteps of training it must be in [1, 30]",
        lambda tmp: ["--num_inference_steps=31"],
    ),
    "terms above T": (
        2, "--num_bound_timesteps is 30; with 30 timesteps of training it must be in [1, 29]",
        lambda tmp: ["--num_bound_timesteps=30"],
    ),
    "too few timesteps": (
        2, "--num_train_timesteps is 20; it must be in [25, inf)", lambda tmp: ["--num_train_timesteps=20"],
    ),
    "unknown scheduler": (
        2, "--scheduler: invalid choice: 'pndm' (choose from", lambda tmp: ["--scheduler=pndm"],
    ),
    "unknown schedule": (
        2, "--beta_schedule: invalid choice: 'sigmoid'", lambda tmp: ["--beta_schedule=sigmoid"],
    ),
    "one test image": (
        2, "--num_bound_images: a standard error needs 2 test images, pictures has 1",
        lambda tmp: [small_pictures(tmp, num_test=1)],
    ),
    "one class for a conditional one": (
        2, "--conditional: pictures has one class, 0; two or more are needed",
        lambda tmp: ["--conditional", small_pictures(tmp, classes=1)],
    ),
    "absurd batch": (2, f"a step takes {10**12} images", lambda tmp: [f"--train_batch_size={10**12}"]),
    "unknown prediction": (2, "--prediction_type: invalid choice: 'noise'", lambda tmp: ["--prediction_type=noise"]),
    "unknown weighting": (2, "--loss_weighting: invalid choice: 'snr'", lambda tmp: ["--loss_weighting=snr"]),
    "guidance without classes": (
        2, "--guidance_scale is 2.0; without --conditional it must be 1", lambda tmp: ["--guidance_scale=2"],
    ),
    "guidance by labels that are never hidden": (
        2, "--guidance_scale is 2.0; with --label_dropout 0 it must be 1",
        lambda tmp: ["--guidance_scale=2", "--conditional", "--label_dropout=0"],
    ),
    "size not divisible": (
        2, "images of 28 pixels cannot be halved 3 times; give fewer, or --padded_size 32",
        lambda tmp: ["--block_out_channels", "8", "8", "8", "8"],
    ),
    "patches that do not divide": (
        2, "--patch_size is 3; it must divide the 28 pixels of a side (see --padded_size)",
        lambda tmp: ["--patch_size=3"],
    ),
    "patches not divisible": (
        2, "images of 28 pixels in patches of 2 cannot be halved 2 times; give fewer, or --padded_size 32",
        lambda tmp: ["--patch_size=2", "--block_out_channels", "8", "8", "8"],
    ),
    "groups that do not divide": (
        2, "--norm_num_groups is 3; it must divide each of --block_out_channels 8 8",
        lambda tmp: ["--norm_num_groups=3"],
    ),
    "padded to less": (
        2, "--padded_size is 24; the images of digits have 28 pixels", lambda tmp: ["--padded_size=24"],
    ),
    "no pipeline": (2, "is no pipeline of diffusers", lambda tmp: ["--model_name_or_path", str(tmp)]),
    "all labels hidden": (2, "--label_dropout is 1.0; it must be in [0, 1)", lambda tmp: ["--label_dropout=1"]),
    "NaN dropout": (2, "--dropout is nan", lambda tmp: ["--dropout=nan"]),
    "unknown flag": (2, "--bloc_out_channels is not a flag", lambda tmp: ["--bloc_out_channels=8"]),
}  # fmt: skip
FLOW_CASES = {
    "too many scales": (
        2, "num_scales is 3 with image_size 28; glow halves the image size 3 times", lambda tmp: ["--num_scales=3"],
    ),
    "no scales": (2, "--num_scales is 0; it must be in [1, inf)", lambda tmp: ["--num_scales=0"]),
    "temperature 0": (2, "--temperature is 0.0; it must be in (0, inf)", lambda tmp: ["--temperature=0"]),
    "negative temperature": (2, "--temperature is -1.0; it must be in (0, inf)", lambda tmp: ["--temperature=-1"]),
    "no draws": (
        2, "--num_importance_samples is 0; it must be in [1, 1000000]", lambda tmp: ["--num_importance_samples=0"],
    ),
    "alpha of a half": (2, "--logit_alpha is 0.5; it must be in [0, 0.5)", lambda tmp: ["--logit_alpha=0.5"]),
    "alpha that is 0 in float32": (
        2, "logit_alpha is 1e-40; it must be 0 or at least 1e-37", lambda tmp: ["--logit_alpha=1e-40"],
    ),
    "unknown network": (2, "--network: invalid choice: 'planar'", lambda tmp: ["--network=planar"]),
    "unknown coupling": (2, "--coupling: invalid choice: 'spline'", lambda tmp: ["--coupling=spline"]),
    "a model of other images": (2, "it has image_size 8, the data 28", lambda tmp: [flow_model(tmp, image_size=8)]),
    "a model without classes": (
        2, "it has num_classes 0, the data 10; leave out --conditional",
        lambda tmp: ["--conditional", flow_model(tmp)],
    ),
    "a model of classes": (
        2, "it has num_classes 10, the data 0; it is conditional: give --conditional",
        lambda tmp: [flow_model(tmp, num_classes=10)],
    ),
    "classes of one class": (
        2, "--conditional: pictures has one class", lambda tmp: ["--conditional", small_pictures(tmp, classes=1)],
    ),
}  # fmt: skip
AUTOREGRESSIVE_CASES = {
    "patches that do not divide": (
        2, "patch_size is 5; it must divide the image size, which is 28", lambda tmp: ["--patch_size=5"],
    ),
    "too few units": (2, "head_hidden_size is 8; it must be at least 16", lambda tmp: ["--head_hidden_size=8"]),
    "too many heads": (
        2, "hidden_size is 8; it must be divisible by num_attention_heads, which is 3",
        lambda tmp: ["--num_attention_heads=3"],
    ),
    "temperature 0": (2, "--temperature is 0.0; it must be in (0, inf)", lambda tmp: ["--temperature=0"]),
    "negative temperature": (2, "--temperature is -1.0; it must be in (0, inf)", lambda tmp: ["--temperature=-1"]),
    "even kernel": (
        2, "first_kernel_size is 4; it must be odd", lambda tmp: ["--first_kernel_size=4", "--network=pixelcnn"],
    ),
    "unknown network": (2, "--network: invalid choice: 'pixelrnn'", lambda tmp: ["--network=pixelrnn"]),
    "unknown binarisation": (
        2, "--binarization: invalid choice: 'median' (choose from", lambda tmp: ["--binarization=median"],
    ),
    "pixels that are not on the levels": (
        2, "it has num_levels 2, the data 256",
        lambda tmp: ["--binarization=none", autoregressive_model(tmp)],
    ),
    "images beyond the positions": (
        2, "it has image_size 8, the data 28", lambda tmp: [autoregressive_model(tmp, image_size=8)],
    ),
    "a model without classes": (
        2, "it has num_classes 0, the data 10; leave out --conditional",
        lambda tmp: ["--conditional", autoregressive_model(tmp)],
    ),
    "classes of one class": (
        2, "--conditional: pictures has one class", lambda tmp: ["--conditional", small_pictures(tmp, classes=1)],
    ),
}  # fmt: skip
VQVAE_CASES = {
    "too many halvings": (
        2, "hidden_sizes is [4, 4, 4, 4, 4, 4] with image_size 28; nothing is left to halve",
        lambda tmp: ["--hidden_sizes", *"444444"],
    ),
    "one code": (2, "--codebook_size is 1; it must be in [2, inf)", lambda tmp: ["--codebook_size=1"]),
    "a prior that drops all": (2, "--prior_dropout is 1.0; it must be in [0, 1)", lambda tmp: ["--prior_dropout=1"]),
    "averages that stand still": (
        2, "--codebook_decay is 1.0; it must be in [0, 1)", lambda tmp: ["--codebook_decay=1"],
    ),
    "negative commitment": (
        2, "--commitment_weight is -1.0; it must be in [0, inf)", lambda tmp: ["--commitment_weight=-1"],
    ),
    "too many heads": (
        2, "prior_hidden_size is 8; it must be divisible by prior_num_heads, which is 3",
        lambda tmp: ["--prior_num_heads=3"],
    ),
    "grey pixels": (2, "--binarization: invalid choice: 'none'", lambda tmp: ["--binarization=none"]),
    "temperature 0": (2, "--temperature is 0.0; it must be in (0, inf)", lambda tmp: ["--temperature=0"]),
    "unknown update": (2, "--codebook_update: invalid choice: 'sgd'", lambda tmp: ["--codebook_update=sgd"]),
    "more than all steps": (2, "--prior_share is 1.5; it must be in [0, 1]", lambda tmp: ["--prior_share=1.5"]),
    "restarts before the start": (
        2, "--restart_steps is -1; it must be in [0, inf)", lambda tmp: ["--restart_steps=-1"],
    ),
    "a prior of codes that are not there": (
        2, "--prior_share is 1 without a model", lambda tmp: ["--prior_share=1"],
    ),
    "a prior that learns nothing": (
        2, "is uniform, nothing to train",
        lambda tmp: ["--prior_share=1", vqvae_model(tmp, prior="uniform")],
    ),
    "classes of a uniform prior": (
        2, "--conditional is of a transformer as prior", lambda tmp: ["--conditional", "--prior=uniform"],
    ),
    "a model of other images": (2, "it has image_size 8, the data 28", lambda tmp: [vqvae_model(tmp, image_size=8)]),
    "a model without classes": (
        2, "it has num_classes 0, the data 10", lambda tmp: ["--conditional", vqvae_model(tmp)],
    ),
    "classes of one class": (
        2, "--conditional: pictures has one class",
        lambda tmp: ["--conditional", "--train_batch_size=20", small_pictures(tmp, classes=1)],
    ),
}  # fmt: skip
SIMCLR_CASES = {
    "nothing to tell from": (
        2, "--train_batch_size is 1: a view is told from those of other images", lambda tmp: ["--train_batch_size=1"],
    ),
    "least above most": (
        2, "--min_scale is 0.9; it must be at most --max_scale, 0.8",
        lambda tmp: ["--min_scale=0.9", "--max_scale=0.8"],
    ),
    "temperature 0": (2, "--temperature is 0.0; it must be in (0, inf)", lambda tmp: ["--temperature=0"]),
    "unknown loss": (2, "--loss: invalid choice: 'infonce'", lambda tmp: ["--loss=infonce"]),
    "unknown predictor": (2, "--predictor: invalid choice: 'moving'", lambda tmp: ["--predictor=moving"]),
    "more fields than pixels": (
        2, "pool_size is 5; the last feature maps are 4 x 4, it must be at most 4",
        lambda tmp: ["--pool_size=5", "--hidden_sizes", "4", "4", "4", "4", "4"],
    ),
    "a share above 1": (2, "--blur is 2.0; it must be in [0, 1]", lambda tmp: ["--blur=2"]),
    "one draw has no error": (2, "--num_draws is 1; it must be in [2, inf)", lambda tmp: ["--num_draws=1"]),
    "steps before the start": (
        2, "--supervised_steps is -1; it must be in [0, inf)", lambda tmp: ["--supervised_steps=-1"],
    ),
    "a larger batch than data": (2, "--train_batch_size", lambda tmp: ["--train_batch_size=2000"]),
    "one class": (2, "pictures has one class", lambda tmp: [small_pictures(tmp, classes=1)]),
    "a model of other images": (2, "it has image_size 8, the data 28", lambda tmp: [simclr_model(tmp, image_size=8)]),
    "a model of other classes": (2, "it has num_labels 3, the data 10", lambda tmp: [simclr_model(tmp, num_labels=3)]),
}  # fmt: skip
TEXTVAE_CASES = {
    "unknown data set": (2, "--dataset_name novels is neither words, a folder", lambda tmp: ["--dataset_name=novels"]),
    "a column of words": (2, "--text_column word: words has no columns", lambda tmp: ["--text_column=word"]),
    "a column that is not there": (
        2, "--text_column title: ", lambda tmp: ["--text_column=title", f"--dataset_name={one_pair(tmp / 'texts')}"],
    ),
    "too few tokens": (2, "--vocab_size is 258; it must be in [259, inf)", lambda tmp: ["--vocab_size=258"]),
    "no tokens": (2, "--max_tokens is 0; it must be in [1, inf)", lambda tmp: ["--max_tokens=0"]),
    "only longer texts": (2, "--max_tokens is 1; no training text of words is", lambda tmp: ["--max_tokens=1"]),
    "more than all inputs": (2, "--word_dropout is 1.5; it must be in [0, 1]", lambda tmp: ["--word_dropout=1.5"]),
    "negative free nats": (2, "--free_bits is -1.0; it must be in [0, 1e6]", lambda tmp: ["--free_bits=-1"]),
    "too many free nats": (2, "--free_bits is 3.5e+38; it must be in [0, 1e6]", lambda tmp: ["--free_bits=3.5e38"]),
    "negative latent": (2, "--latent_size is -1; it must be in [0, inf)", lambda tmp: ["--latent_size=-1"]),
    "absurd batch": (2, f"a step takes {10**12} texts", lambda tmp: [f"--train_batch_size={10**12}"]),
    "a flag of images": (2, "--image_size is not a flag of this recipe", lambda tmp: ["--image_size=28"]),
    "a model of images": (
        2, "is a model of type hwzoo_vqvae; it must be of type hwzoo_textvae", lambda tmp: [vqvae_model(tmp)],
    ),
    "a model without its tokenizer": (1, "its tokenizer cannot be loaded", lambda tmp: [textvae_model(tmp)]),
    "another model's tokenizer": (
        2, "it has vocab_size 300, its tokenizer 259", lambda tmp: [textvae_model(tmp, ["abc"], vocab_size=300)],
    ),
}  # fmt: skip
ALL_CASES = [
    (recipe, name)
    for recipe, cases in (
        ("train_vae", CASES), ("train_continual", CONTINUAL_CASES), ("train_gan", GAN_CASES),
        ("train_ddpm", DDPM_CASES), ("train_t5", T5_CASES), ("train_flow", FLOW_CASES),
        ("train_autoregressive", AUTOREGRESSIVE_CASES), ("train_vqvae", VQVAE_CASES),
        ("train_simclr", SIMCLR_CASES),
        ("train_textvae", TEXTVAE_CASES),
    )
    for name in cases
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "name"), ALL_CASES, ids=["-".join(case) for case in ALL_CASES])
def test_one_line_and_status(recipe, name, request, command_line, tmp_path):
    cases, small_flags = {
        "train_vae": (CASES, SMALL_WITHOUT_STEPS),
        "train_continual": (CONTINUAL_CASES, SMALL_CONTINUAL),
        "train_gan": (GAN_CASES, SMALL_GAN),
        "train_ddpm": (DDPM_CASES, SMALL_DDPM),
        "train_t5": (T5_CASES, SMALL_T5),
        "train_flow": (FLOW_CASES, SMALL_FLOW),
        "train_autoregressive": (AUTOREGRESSIVE_CASES, SMALL_AUTOREGRESSIVE),
        "train_vqvae": (VQVAE_CASES, SMALL_VQVAE),
        "train_simclr": (SIMCLR_CASES, SMALL_SIMCLR),
        "train_textvae": (TEXTVAE_CASES, SMALL_TEXTVAE),
    }[recipe]
    status, named, arguments = cases[name]
    output = tmp_path / "output"
    recipe = request.getfixturevalue(recipe)
    got, error = command_line(recipe, *small_flags, f"--output_dir={output}", *arguments(tmp_path))
    lines = [line for line in error.splitlines() if line.startswith("error:")]
    assert got == status, error
    assert len(lines) == 1 and named in lines[0], error
    assert "Traceback" not in error
    assert not [path for path in output.rglob("*") if path.is_file() and path.name != ".lock"]


# The table gives steps of its own in one case, and two of a flag are fine in all others.
SMALL_WITHOUT_STEPS = [argument for argument in SMALL if "steps" not in argument]
SMALL_CONTINUAL = ["--hidden_sizes=8", "--train_batch_size=20", "--num_tasks=2", "--scenario=class"]
SMALL_GAN = [
    "--generator_hidden_size=8", "--discriminator_hidden_size=8", "--train_batch_size=20", "--num_test_samples=8",
]  # fmt: skip
SMALL_DDPM = [
    "--block_out_channels", "8", "8", "--norm_num_groups=4", "--attention=false", "--num_train_timesteps=30",
    "--num_inference_steps=3", "--num_bound_timesteps=2", "--train_batch_size=10", "--num_test_samples=8",
]  # fmt: skip
SMALL_FLOW = ["--hidden_size=4", "--num_steps=1", "--train_batch_size=20", "--num_test_samples=8"]
SMALL_AUTOREGRESSIVE = ["--hidden_size=8", "--num_layers=1", "--num_attention_heads=2", "--train_batch_size=20"]
SMALL_AUTOREGRESSIVE += ["--num_test_samples=8"]
SMALL_VQVAE = ["--hidden_sizes", "4", "6", "8", "--prior_hidden_size=8", "--prior_num_layers=1", "--prior_num_heads=2"]
SMALL_SIMCLR = ["--hidden_sizes", "4", "6", "8", "--train_batch_size=20"]
SMALL_TEXTVAE = ["--embedding_size=4", "--hidden_size=8", "--latent_size=2", "--max_train_steps=2"]
SMALL_T5 = ["--config_d_model=8", "--config_d_ff=8", "--config_num_layers=1", "--config_num_decoder_layers=1"]


def small(train_vae, command_line, folder: Path, *arguments: str) -> tuple[int, str]:
    return command_line(train_vae, *SMALL, f"--output_dir={folder}", *arguments)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_no_run_is_written_into_its_images(train_vae, command_line, tmp_path, monkeypatch):
    small_pictures(tmp_path)
    monkeypatch.chdir(tmp_path / "pictures")
    for folder, dataset in (("outputs/vae", "."), ("../pictures/train/out", str(tmp_path / "pictures"))):
        status, error = small(train_vae, command_line, Path(folder), f"--dataset_name={dataset}")
        assert status == 2 and f"--output_dir {folder} is in --dataset_name {dataset}, and would become data" in error
        assert not Path(folder).exists()


@pytest.mark.long
def test_a_finished_run_is_not_overwritten_unasked(train_vae, command_line, tmp_path):
    assert small(train_vae, command_line, tmp_path)[0] == 0
    before = snapshot(tmp_path)
    status, error = small(train_vae, command_line, tmp_path)
    assert status == 2 and f"--output_dir {tmp_path} is not empty" in error
    assert snapshot(tmp_path) == before
    assert small(train_vae, command_line, tmp_path, "--overwrite_output_dir", "--seed=1")[0] == 0
    assert snapshot(tmp_path)["model.safetensors"] != before["model.safetensors"]


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("--latent_size=3", "latent_size 2, this one has 3"),
        ("--prior=mixture", "prior 'normal', this one has 'mixture'"),
        ("--seed=5", "seed 0, this one has 5"),
        ("--learning_rate=1", "learning_rate 0.001, this one has 1.0"),
        ("--train_batch_size=10", "examples_per_step 20, this one has 10"),
        ("--use_ema", "use_ema False, this one has True"),
        ("--kl_warmup_steps=3", "kl_warmup_steps 0, this one has 3"),
        ("--lr_warmup_steps=3", "lr_warmup_steps 0, this one has 3"),
        ("--num_threads=1", "num_threads None, this one has 1"),
    ],
)
def test_resume_from_another_run_is_refused(changed, named, vae_run, train_vae, command_line, tmp_path):
    before = snapshot(vae_run)
    where = vae_run / "checkpoints" / "step-00000004"
    status, error = small(train_vae, command_line, tmp_path / "b", f"--resume_from_checkpoint={where}", changed)
    assert status == 2 and named in error and str(where) in error, error
    assert snapshot(vae_run) == before


def test_an_unknown_loss_is_told_the_known_ones(train_gan, command_line, tmp_path):
    _, error = command_line(train_gan, f"--output_dir={tmp_path}", "--loss=hinge")
    assert len(error.splitlines()) == 1
    assert all(name in error.split("choose from")[1] for name in ("minimax", "non_saturating", "wasserstein_gp"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ("--loss=minimax", "loss 'non_saturating', this one has 'minimax'"),
        ("--conditional", "conditional False, this one has True"),
        ("--spectral_norm", "spectral_norm False, this one has True"),
        ("--adam_beta1=0.9", "adam_beta1 0.5, this one has 0.9"),
        ("--num_discriminator_steps=2", "num_discriminator_steps 1, this one has 2"),
    ],
)
def test_resume_from_another_gan_is_refused(changed, named, gan_run, train_gan, command_line):
    before = snapshot(gan_run)
    where = gan_run / "checkpoints" / "step-00000002"
    again = [f"--output_dir={gan_run.parent / 'again'}", f"--resume_from_checkpoint={where}"]
    status, error = command_line(train_gan, *SMALL_GAN, "--max_train_steps=2", *again, changed)
    assert status == 2 and len(error.splitlines()) == 1
    assert f"error: --resume_from_checkpoint {where}: it is of a run with " in error and named in error
    assert snapshot(gan_run) == before


def run_of(name: str, folder: Path, *flags: str) -> Path:
    """What a small run left."""
    recipe = load_recipe(name)
    types = [kind for kind in recipe.main.__annotations__.values() if kind is not dict]
    recipe.main(*training.parse_arguments(types, [*flags, f"--output_dir={folder}"]))
    return folder


@pytest.fixture(scope="module")
def vae_run(tmp_path_factory) -> Path:
    return run_of("train_vae", tmp_path_factory.mktemp("vae") / "run", *SMALL)


@pytest.fixture(scope="module")
def gan_run(tmp_path_factory) -> Path:
    return run_of("train_gan", tmp_path_factory.mktemp("gan") / "run", *SMALL_GAN, "--max_train_steps=2")


def test_an_unknown_strategy_is_told_the_known_ones(train_continual, command_line, tmp_path):
    _, error = command_line(train_continual, f"--output_dir={tmp_path}", "--strategy=gem")
    assert len(error.splitlines()) == 1
    choices = error.split("choose from")[1]
    assert all(name in choices for name in ("naive", "joint", "rehearsal", "replay", "ewc", "si", "lwf"))


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (["--strategy=ewc"], "strategy 'si', this one has 'ewc'"),
        (["--strategy=joint"], "strategy 'si', this one has 'joint'"),
        (["--num_tasks=5"], "num_tasks 2, this one has 5"),
        (["--scenario=task"], "scenario 'class', this one has 'task'"),
        (["--stream=permuted"], "stream 'split', this one has 'permuted'"),
        (["--si_lambda=2"], "si_lambda 1000.0, this one has 2.0"),
        (["--hidden_sizes=9"], "hidden_sizes [8], this one has [9]"),
        (["--max_train_steps=3"], "steps [2, 2], this one has [3, 3]"),
        (["--reset_optimizer"], "reset_optimizer False, this one has True"),
    ],
)
def test_resume_from_another_continual_run_is_refused(changed, named, continual_run, train_continual, command_line):
    before = snapshot(continual_run)
    where = continual_run / "checkpoints" / "step-00000004"
    again = [f"--output_dir={continual_run.parent / 'again'}", f"--resume_from_checkpoint={where}"]
    flags = [*SMALL_CONTINUAL, "--max_train_steps=2", "--strategy=si"]
    status, error = command_line(train_continual, *flags, *again, *changed)
    assert status == 2 and len(error.splitlines()) == 1
    assert f"error: --resume_from_checkpoint {where}: it is of a run with {named}" in error
    assert snapshot(continual_run) == before


@pytest.fixture(scope="module")
def continual_run(tmp_path_factory):
    """What a small run left."""
    folder = tmp_path_factory.mktemp("continual") / "run"
    recipe = load_recipe("train_continual")
    flags = [*SMALL_CONTINUAL, "--max_train_steps=2", "--strategy=si", f"--output_dir={folder}"]
    recipe.main(
        *training.parse_arguments([recipe.Run, recipe.Tasks, recipe.Model, recipe.Optimizer, recipe.Method], flags)
    )
    return folder


def test_resume_from_another_familys_checkpoint_is_refused(train_vae, command_line, tmp_path):
    state = {"model": torch.nn.Linear(2, 2)}
    training.Checkpoints(tmp_path / "other").save(4, state, {}, {"recipe": "train_gan"}, [])
    where = tmp_path / "other" / "step-00000004"
    status, error = small(train_vae, command_line, tmp_path / "run", f"--resume_from_checkpoint={where}")
    assert status == 2 and "recipe 'train_gan', this one has 'train_vae'" in error


def test_an_output_folder_that_cannot_be_made_is_named(train_vae, command_line, tmp_path):
    (tmp_path / "file").write_text("in the way")
    status, error = small(train_vae, command_line, tmp_path / "file" / "run")
    assert status == 1 and f"--output_dir {tmp_path / 'file' / 'run'} cannot be written" in error


@pytest.mark.long
def test_a_full_disk_leaves_the_checkpoint_before_it(train_vae, command_line, monkeypatch, tmp_path):
    assert small(train_vae, command_line, tmp_path)[0] == 0
    before = snapshot(tmp_path)
    monkeypatch.setattr(training.Ending, "rehearse", lambda *models: None)  # the disk was not full then
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # the system refuses longer files as it does on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        status, error = small(
            train_vae, command_line, tmp_path, "--resume_from_checkpoint=latest", "--max_train_steps=8"
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1 and "cannot write" in error and "step-00000008" in error and "File too large" in error
    assert {**snapshot(tmp_path), "history.jsonl": before["history.jsonl"]} == before
    status, error = small(train_vae, command_line, tmp_path, "--resume_from_checkpoint=latest", "--max_train_steps=8")
    assert status == 0, error


def test_a_full_disk_at_the_final_save_leaves_the_files_before_it(train_vae, command_line, monkeypatch, tmp_path):
    monkeypatch.setattr(training.Ending, "rehearse", lambda *models: None)
    assert small(train_vae, command_line, tmp_path)[0] == 0
    before = snapshot(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        status, error = small(train_vae, command_line, tmp_path, "--resume_from_checkpoint=latest")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert status == 1 and "cannot write" in error
    assert snapshot(tmp_path) == before


def test_a_second_run_on_the_same_folder_is_refused(train_vae, command_line, tmp_path):
    with training.start(training.RunArguments(output_dir=str(tmp_path))):
        status, error = small(train_vae, command_line, tmp_path, "--overwrite_output_dir")
    assert status == 1 and f"--output_dir {tmp_path} is in use by another run" in error
    assert small(train_vae, command_line, tmp_path)[0] == 0


def test_a_file_system_without_locks_is_told(train_vae, command_line, tmp_path, monkeypatch, caplog):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert small(train_vae, command_line, tmp_path)[0] == 0
    assert f"--output_dir {tmp_path}: its file system has no locks; give each run its own folder" in caplog.messages


def test_debug_shows_the_traceback(train_vae, command_line, tmp_path, monkeypatch):
    monkeypatch.setenv("HWZOO_DEBUG", "1")
    with pytest.raises(Exception, match="mnits"):
        small(train_vae, command_line, tmp_path, "--dataset_name=mnits")


def test_help_lists_every_flag(train_vae, command_line, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train_vae.py", "--help"])
    with pytest.raises(SystemExit) as exit:
        training.parse_arguments([train_vae.Run, train_vae.Model, train_vae.Protocol])
    text = capsys.readouterr().out
    assert exit.value.code == 0
    assert all(f"--{name} " in text for name in ("config", "latent_size", "learning_rate", "resume_from_checkpoint"))


OFFLINE = {
    "mnist without files or Hub": (
        1, "--data_dir takes the folder that holds mnist/ with its idx files",
        lambda tmp: ["--dataset_name=mnist", f"--data_dir={tmp}"],
    ),
    "Hub id without Hub": (1, "--dataset_name nobody/nothing", lambda tmp: ["--dataset_name=nobody/nothing"]),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(
    "name",
    [
        "truncated gz",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("unknown flag", "unknown data set", *OFFLINE)),
    ],
)
def test_the_real_command_says_the_same(name, tmp_path):
    status, named, arguments = (CASES | OFFLINE)[name]
    done = subprocess.run(
        [sys.executable, RECIPE, f"--output_dir={tmp_path / 'o'}", *arguments(tmp_path)],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == status
    assert [line for line in done.stderr.splitlines() if line.strip()] == [done.stderr.strip()]
    assert done.stderr.startswith("error: ") and named in done.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_before_the_loop_ends_the_run(number, status, train_vae, command_line, monkeypatch, tmp_path):
    monkeypatch.setattr(train_vae, "load_images", lambda *args: os.kill(os.getpid(), number))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where a shell has the tests run by `&`
    got, error = small(train_vae, command_line, tmp_path)
    signal.signal(signal.SIGINT, before)
    assert got == status and error.splitlines()[-1] == f"error: stopped by {number.name}"


@pytest.mark.parametrize("recipe", ["train_gan", "train_ddpm"])
def test_a_classifier_is_taken_by_what_the_data_is(recipe, request, command_line, tmp_path):
    """Not by the name of the folder: images of one's own in one called fashion_mnist are not scored."""
    module, output = request.getfixturevalue(recipe), tmp_path / "output"
    flags = {"train_gan": SMALL_GAN, "train_ddpm": [*SMALL_DDPM, "--eval_steps=5"]}[recipe]
    data = small_pictures(tmp_path, name="fashion_mnist")
    status, error = command_line(module, *flags, data, "--max_train_steps=1", f"--output_dir={output}")
    assert status == 0, error
    results = json.loads((output / "all_results.json").read_text())
    assert "fashion_mnist: " in results["protocol"] and "not scored, no classifier for it" in results["protocol"]
    assert "test_fid" not in results and "zalando" not in (output / "README.md").read_text()


def test_a_classifier_is_not_taken_by_the_name_of_a_folder(command_line, tmp_path):
    data = small_pictures(tmp_path, name="mnist")
    flags = [data, f"--model_name_or_path={tmp_path / 'mnist' / 'test'}", f"--output_dir={tmp_path / 'output'}"]
    status, error = command_line(load_recipe("evaluate_generator"), *flags)
    assert status == 2 and "--classifier is not given, and none comes with the package for mnist (only" in error
    assert not (tmp_path / "output").exists()


@pytest.mark.long
@pytest.mark.parametrize(
    ("recipe", "size"),
    [
        ("train_vae", 2**63 - 1),
        ("train_gan", 10**12),
        ("train_ddpm", 10**12),
        pytest.param("train_t5", 10**12, marks=pytest.mark.slow),
    ],
)
def test_a_batch_larger_than_the_test_set_is_all_of_it(recipe, size, request, command_line, tmp_path):
    """The test numbers are those of a batch that holds the set."""
    flags = {
        "train_vae": [*SMALL_WITHOUT_STEPS, "--max_train_steps=1"],
        "train_gan": [*SMALL_GAN, "--max_train_steps=1"],
        "train_ddpm": [*SMALL_DDPM, "--max_train_steps=1", "--eval_steps=1", "--num_bound_images=20"],
        "train_t5": [
            *SMALL_T5, "--max_steps=1", "--eval_steps=1", "--max_eval_samples=20", "--max_predict_samples=20",
            "--config_num_heads=1", "--generation_max_new_tokens=2",
        ],
    }[recipe]  # fmt: skip
    name = "per_device_eval_batch_size" if recipe == "train_t5" else "eval_batch_size"
    results = []
    for given in (size, 60):
        output = tmp_path / str(given)
        data = [] if recipe == "train_t5" else [small_pictures(tmp_path)]
        module = request.getfixturevalue(recipe)
        status, error = command_line(module, *flags, *data, f"--{name}={given}", f"--output_dir={output}")
        assert status == 0, error
        results.append(json.loads((output / "all_results.json").read_text()))
    for name, value in results[0].items():
        measured = name.startswith("train_") or name == "peak_memory"  # of the machine and its process
        assert measured or value == results[1][name], name


@pytest.mark.parametrize("recipe", ["train_vae", "train_gan", "train_ddpm"])
def test_one_class_is_enough_where_none_is_needed(recipe, request, command_line, tmp_path):
    flags = {"train_vae": SMALL_WITHOUT_STEPS, "train_gan": SMALL_GAN, "train_ddpm": SMALL_DDPM}[recipe]
    data = small_pictures(tmp_path, classes=1, num_test=2)
    module, output = request.getfixturevalue(recipe), f"--output_dir={tmp_path / 'output'}"
    status, error = command_line(module, *flags, data, "--max_train_steps=1", output)
    assert status == 0, error
    assert "pictures: " in json.loads((tmp_path / "output" / "all_results.json").read_text())["protocol"]
