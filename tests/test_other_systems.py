"""A Mac's device, which has no float64, and Windows' files, by stand-ins: no recipe needs more than they have."""

import shlex
import shutil

import numpy as np
import pytest
import recipe_runs
import torch
import transformers
from accelerate.state import AcceleratorState, GradientState, PartialState
from every_recipe import FLAGS
from recipe_runs import TIMES, shorten_scores
from stand_ins import CPU, DEVICE, WithoutFloat64, files_as_on_windows

from hwzoo import files
from hwzoo.metrics import inception_scores, load_inception

CONTINUAL = FLAGS["train_continual"].replace("--strategy replay --memory_size 30", "").replace("--num_tasks 5", "")
CONTINUAL += " --num_tasks 2 --strategy "
MORE = {
    "train_continual": [
        "replay --memory_size 30 --memory_policy reservoir",
        "ewc --fisher_samples 20",
        "si",
        "lwf",
        "rehearsal --memory_size 30",
        "joint",
    ],
    "train_autoregressive": [
        f"--max_train_steps 2 --train_batch_size 10 --network {network} --num_layers 1 --hidden_size 4"
        for network in ("pixelcnn", "gated_pixelcnn")
    ],
    "train_vqvae": [
        "--max_train_steps 2 --train_batch_size 10 --hidden_sizes 4 6 8 --codebook_size 12 --code_size 3 "
        "--prior uniform --codebook_update loss --num_continuous_steps 1 --restart_steps 1 --num_test_samples 8 "
        "--num_search_images 2"
    ],
    "train_gan": ["--max_train_steps 2 --train_batch_size 10 --generator_channels 8 4 --discriminator_channels 4 6"],
    "train_ddpm": [
        "--max_train_steps 2 --train_batch_size 10 --block_out_channels 8 8 --norm_num_groups 4 --num_bound_images 4 "
        "--num_bound_timesteps 2 --num_train_timesteps 30 --num_inference_steps 2 --prediction_type v_prediction "
        "--loss_weighting min_snr --scheduler ddim"
    ],
}
# Recipe, flags, and whether the run is resumed too: the frame's and that of transformers' trainer.
RESUMED = ("train_vae", "train_t5")
MARKS = {"train_vae": ()} | dict.fromkeys(("train_t5", "train_gan", "train_continual"), pytest.mark.long)
CASES = [
    pytest.param(recipe, flags, recipe in RESUMED, id=recipe, marks=MARKS.get(recipe, pytest.mark.slow))
    for recipe, flags in FLAGS.items()
]
FURTHER = {f"{recipe}-resumed": (recipe, FLAGS[recipe], True) for recipe in FLAGS if recipe not in RESUMED}
FURTHER |= {
    f"{recipe}-{index}": (recipe, CONTINUAL * (recipe == "train_continual") + each, False)
    for recipe in MORE
    for index, each in enumerate(MORE[recipe])
}
CASES += [pytest.param(*case, id=name, marks=pytest.mark.slow) for name, case in FURTHER.items()]


@pytest.fixture
def without_float64(monkeypatch):
    """The device of accelerate is one without float64."""
    states = (AcceleratorState, GradientState, PartialState)
    for state in states:
        state._reset_state()
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", str(DEVICE))
    # By itself it would say of any CPU that it is cpu.
    monkeypatch.setattr(transformers.TrainingArguments, "device", property(lambda run: run._setup_devices and DEVICE))
    shorten_scores(monkeypatch.setattr)
    with WithoutFloat64() as mode:
        yield mode
    for state in states:
        state._reset_state()


def run(recipe: str, folder, flags: str, *more: str) -> dict:
    module = recipe_runs.load_recipe(recipe)
    types = [kind for kind in module.main.__annotations__.values() if kind is not dict]
    arguments = [*more, *shlex.split(flags), *([f"--output_dir={folder}"] if folder else [])]
    return module.main(*module.training.parse_arguments(types, arguments))


def test_the_stand_in_refuses_what_the_device_does(without_float64):
    on_device = torch.ones(3, device=DEVICE)
    assert on_device.device == DEVICE and torch.ones(3).device == CPU and (2 * on_device).device == DEVICE
    assert on_device.cpu().device == on_device.to("cpu").device == CPU and torch.ones(3).to(on_device).device == DEVICE
    assert torch.nn.Linear(2, 2).to(DEVICE).weight.device == DEVICE
    assert on_device.cpu().double().dtype == torch.float64 and torch.ones(3).double().float().to(DEVICE).sum() == 3
    for wrong in (
        lambda: on_device.double(),
        lambda: torch.ones(3).double().to(DEVICE),
        lambda: torch.zeros(1, dtype=torch.float64, device=DEVICE),
        lambda: torch.tensor([np.float64(1.0)], dtype=torch.float64, device=DEVICE),
        lambda: on_device * torch.ones(3).double(),
        lambda: torch.nn.Linear(2, 2).double().to(DEVICE),
        lambda: on_device.numpy(),
    ):
        with pytest.raises(TypeError):
            wrong()


@pytest.mark.parametrize(("recipe", "flags", "is_resumed"), CASES)
def test_a_recipe_trains_on_a_device_without_float64_and_on_windows(
    recipe, flags, is_resumed, without_float64, tmp_path
):
    with files_as_on_windows() as system:
        results = run(recipe, tmp_path / "run", flags)
    assert system.flushed > 3 and without_float64.storages
    if is_resumed:  # it goes on to the same numbers
        *_, last = sorted((tmp_path / "run" / "checkpoints").iterdir())
        shutil.rmtree(last)
        (tmp_path / "again").mkdir()
        (tmp_path / "run" / "checkpoints").rename(tmp_path / "again" / "checkpoints")
        resumed = run(recipe, tmp_path / "again", flags, "--resume_from_checkpoint=latest")
        assert {name: value for name, value in resumed.items() if name not in TIMES} == {
            name: value for name, value in results.items() if name not in TIMES
        }


@pytest.mark.long
def test_what_draws_and_scores_does_without_float64_and_on_windows(without_float64, tmp_path):
    """Every sampler, and the scores of a classifier."""
    recipe_runs.save_classifier(tmp_path / "classifier")
    model, scored = str(tmp_path / "ddpm"), ["--dataset_name=digits", f"--classifier={tmp_path / 'classifier'}"]
    with files_as_on_windows():
        run("train_ddpm", model, MORE["train_ddpm"][0])
        run("sample", tmp_path / "samples", "--num_samples 3 --num_inference_steps 2", f"--model_name_or_path={model}")
        few = "--num_samples 8 --num_inference_steps 3"
        run("evaluate_generator", tmp_path / "scores", few, f"--model_name_or_path={model}", *scored)
        compared = tmp_path / "compared"
        run("compare_samplers", compared, f"{few} --reference false", f"--model_name_or_path={model}", *scored)
    assert {path.name for path in tmp_path.iterdir()} >= {"samples", "scores", "compared"}


def test_inception_adds_up_where_float64_is(without_float64):
    class Features(torch.nn.Module):
        num_features = 4

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def forward(self, images):
            return images.mean((1, 2, 3))[:, None] * self.weight

    inception = load_inception(Features(), device=DEVICE)
    assert inception.real_features_cov_sum.dtype == torch.float64
    images = torch.rand(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    scores = inception_scores(images[:4].to(DEVICE), images[4:8], images[8:], inception)
    assert set(scores) == {"test_inception_fid", "test_inception_fid_floor"} and scores["test_inception_fid"] > 0


def test_a_file_that_nobody_may_write_is_flushed_too(tmp_path):
    with files_as_on_windows() as system, files.replacing(tmp_path / "folder") as staging:
        staging.mkdir()
        (staging / "a").write_text("a")
        (staging / "a").chmod(0o444)
    assert system.flushed == 1 and (tmp_path / "folder" / "a").stat().st_mode & 0o777 == 0o444
