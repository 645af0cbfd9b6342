"""What the tests of recipes share: processes that run one, and comparisons of what two runs left."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import numpy as np
import psutil
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors.torch import load_file

from hwzoo import ClassifierConfig, ClassifierForImageClassification, hub
from hwzoo.errors import UsageError
from hwzoo.files import ENDED
from hwzoo.metrics import likelihood, representation

RECIPES = Path(__file__).parents[1] / "recipes"
TIMES = {"train_runtime", "train_cpu_seconds", "train_samples_per_second", "seconds_per_phase", "peak_memory"}
TIMES |= {"supervised_runtime"}
CLOCKS = ("runtime", "cpu")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
LAUNCHED: list[subprocess.Popen] = []


def load_recipe(name: str) -> ModuleType:
    """A recipe as a module: they are scripts and stand in no package."""
    if str(RECIPES) not in sys.path:
        sys.path.append(str(RECIPES))  # as for a script that is run: some import another
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, RECIPES / f"{name}.py")
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def run_with(recipe: ModuleType, types: list[type], settings: dict) -> dict:
    """The results of a recipe's `main`; flags by name, whichever dataclass holds them."""
    settings = dict(settings)
    arguments = [
        kind(**{field.name: settings.pop(field.name) for field in fields(kind) if field.name in settings})
        for kind in types
    ]
    assert not settings
    return recipe.main(*arguments)


def checkpoint(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def tiles_of(path: Path, columns: int) -> torch.Tensor:
    """
    The images of a grid that a recipe wrote, each pixel once, uint8, (num, height, width), or with a last dimension of
    colours. A tile is 56 pixels wide or more, its squares are of one colour, and a caption is drawn below the grid.
    """
    picture = Image.open(path)
    pixels, grid = torch.from_numpy(np.array(picture)), json.loads(picture.text["Grid"])
    assert grid["columns"] == columns and grid["width"] >= 56, (path, grid)
    bottom = grid["top"] + grid["rows"] * (grid["height"] + 2)
    assert (pixels[:bottom] != 255).any() and (pixels[bottom:] < 100).any() and picture.text["Description"], path
    tiles = pixels[grid["top"] : bottom, grid["left"] : grid["left"] + columns * (grid["width"] + 2)]
    tiles = tiles.unflatten(0, (grid["rows"], -1)).unflatten(2, (columns, -1)).transpose(1, 2).flatten(0, 1)
    shown = (tiles == 255).flatten(1).logical_not().any(1)  # where a row has fewer images the page is white
    assert shown.sum() == grid["num"], path
    tiles, enlarged = tiles[shown, 1:-1, 1:-1], grid["enlarged"]  # without the frame of a pixel
    small = tiles[:, ::enlarged, ::enlarged]
    assert torch.equal(small.repeat_interleave(enlarged, 1).repeat_interleave(enlarged, 2), tiles), path
    return small


def captions_in(folder: Path) -> dict[str, str]:
    """The captions of the grids of images in a folder by name, which are as `tiles_of` tells."""
    captions = {}
    for path in sorted(folder.glob("*.png")):
        if "Grid" in (texts := Image.open(path).text):
            tiles_of(path, json.loads(texts["Grid"])["columns"])
            captions[path.stem] = texts["Description"]
    return captions


def stopped_at(straight: Path, step: int, folder: Path) -> Path:
    """A copy of a run as it was killed after a checkpoint: without those that came later, and what its end wrote."""
    shutil.copytree(straight, folder)
    for name in filter(None, json.loads((folder / ENDED).read_text())):
        (folder / name).unlink()
    (folder / ENDED).unlink()
    for path in (folder / "checkpoints").iterdir():
        if path.name > checkpoint(folder, step).name:
            shutil.rmtree(path)
    return folder


def colour_pictures(folder: Path) -> Path:
    """A folder of 40 training and 8 test images of noise, 8 x 8, of two classes."""
    generator = torch.Generator().manual_seed(0)
    for split, num in (("train", 40), ("test", 8)):
        for index in range(num):
            picture = folder / split / f"{index % 2}" / f"{index}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            pixels = torch.randint(256, (8, 8, 3), generator=generator, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(picture)
    return folder


def same(first, second) -> bool:
    """Equal bit for bit, whatever is nested in it."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[name], second[name]) for name in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def same_weights(first: Path, second: Path, file: str = "model.safetensors"):
    first, second = load_file(first / file), load_file(second / file)
    assert first.keys() == second.keys()
    for name in first:
        assert torch.equal(first[name], second[name]), name


def as_flags(settings: dict) -> list[str]:
    """Settings by name as a command line holds them."""
    tokens = []
    for name, value in settings.items():
        if value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            tokens += [f"--{name}", *map(str, values)]
    return tokens


def state_of(folder: Path, step: int) -> dict:
    """What a checkpoint holds besides weights, without times."""
    state = torch.load(checkpoint(folder, step) / "state.pt", weights_only=True)
    state["progress"] = {name: value for name, value in state["progress"].items() if name not in CLOCKS}
    return state


def history(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]


def last_of_the_bar(error: str) -> str:
    """What the bar of a run in this process showed last, of its standard error."""
    (*_, last) = (part for part in re.split(r"[\r\n]", error) if "step/s" in part or "s/step" in part)
    return last


def evaluations(output: str) -> list[str]:
    """The lines of a run's standard output that tell evaluations, without their beginning."""
    return re.findall(r"^evaluation after step (.*)$", output, re.M)


def same_run(first: Path, second: Path, step: int, file: str = "model.safetensors"):
    """Equal bit for bit: weights, averages, optimisers, noise, logs, results and pictures."""
    same_weights(first, second, file)
    assert results_but_times(first) == results_but_times(second)
    for path in checkpoint(first, step).glob("*.safetensors"):
        same_weights(checkpoint(first, step), checkpoint(second, step), path.name)
    assert same(state_of(first, step), state_of(second, step))
    pictures = [
        {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".gif")}
        for folder in (first, second)
    ]
    assert pictures[0].keys() == pictures[1].keys()
    assert all(pictures[0][name] == pictures[1][name] for name in pictures[0])


def save_classifier(folder: Path, **changes) -> str:
    """A small untrained one, of ten classes of 28 x 28 images but for `changes` of its configuration."""
    torch.manual_seed(0)
    config = {"image_size": 28, "num_channels": 1, "backbone": "mlp", "hidden_sizes": [8], "num_labels": 10}
    hub.save(ClassifierForImageClassification(ClassifierConfig(**config | changes)), folder)
    return str(folder)


def results_but_times(folder: Path) -> dict:
    results = json.loads((folder / "all_results.json").read_text())
    return {name: value for name, value in results.items() if name not in TIMES}


def shorten_scores(patch: Callable[[object, str, object], None] = setattr):
    """Most of the time of a small run of the VAE is the protocol of the courses, and of SimCLR its probes."""
    patch(likelihood, "COURSE_REPEATS", 2)
    patch(likelihood, "COURSE_SAMPLES", (1, 10))
    patch(representation, "MAX_ITERATIONS", 20)
    patch(representation, "NUM_TO_CHOOSE", 20)


def launch(recipe: Path, folder: Path, *arguments: str, command=(sys.executable,), **kwargs) -> subprocess.Popen:
    """Starts a recipe on an output folder."""
    return start([*command, str(recipe), f"--output_dir={folder}", *arguments], **kwargs)


def scored_as_evaluate_generator_does(folder: Path, num_samples: int):
    """Whether a run's last scores are those of its saved model, under the seed 0 and the same batches."""
    results = results_but_times(folder)
    recipe, settings = load_recipe("evaluate_generator"), {"dataset_name": "digits", "num_samples": num_samples}
    settings |= {"eval_batch_size": 20, "output_dir": str(folder / "scores"), "model_name_or_path": str(folder)}
    scores = recipe.main(recipe.Settings(**settings))
    for name in ("test_fid", "test_fid_floor", "test_precision", "test_recall", "test_class_histogram"):
        assert results[name] == scores[name], name
    assert scores["classifier"] in results["protocol"]


def start(command: list[str], *, env: dict | None = None, **kwargs) -> subprocess.Popen:
    """Starts a process in a group of its own, which `end_all` ends."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    env = (os.environ if env is None else env) | {"PYTHONFAULTHANDLER": "1"}  # see `finish`
    LAUNCHED.append(subprocess.Popen(command, start_new_session=True, env=env, **pipes, **kwargs))
    return LAUNCHED[-1]


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[str, str]:
    """What a process that `start` started wrote, once it has ended; one that does not end tells where it stands."""
    try:
        return process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        # One after the other while the rest stands still: what two write into one pipe at once would mix, and what
        # waits for another would end with it.
        family = _family(process)
        for each in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.suspend()
        for each in family:
            deadline = time.monotonic() + 10  # a full pipe: it is read below
            with contextlib.suppress(psutil.NoSuchProcess):
                each.send_signal(signal.SIGABRT)
                each.resume()
                while each.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
                    time.sleep(0.01)
        raise AssertionError(f"not ended after {timeout} s: {process.communicate(timeout=30)[1][-6000:]}") from None


def _family(process: subprocess.Popen) -> list[psutil.Process]:
    """A process and all that it started, the youngest first; those of torchrun are in groups of their own."""
    try:
        first = psutil.Process(process.pid)
        return [*reversed(first.children(recursive=True)), first]
    except psutil.NoSuchProcess:
        return []


def end_all():
    while LAUNCHED:
        process = LAUNCHED.pop()
        for each in _family(process):
            with contextlib.suppress(psutil.NoSuchProcess):
                each.kill()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what it left behind


def wait_for_checkpoint(folder: Path, process: subprocess.Popen, after: int = 0) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = [path for path in (folder / "checkpoints").glob("step-*") if int(path.name[5:]) > after]
        if found:
            return max(found)
        if process.poll() is not None:
            break
        time.sleep(0.02)
    process.kill()
    raise TimeoutError(f"no checkpoint: {process.communicate()}")


def checkpoint_state(path: Path) -> dict:
    """What a checkpoint holds, without times: tensors of its safetensors and of what torch serialised."""
    state = {}
    for name in sorted(file.name for file in path.iterdir()):
        if name.endswith(".safetensors"):
            state[name] = (path / name).read_bytes()
        elif name.endswith((".pt", ".pth")):
            state[name] = torch.load(path / name, weights_only=False)  # this test's own run
    if "progress" in state.get("state.pt", {}):
        progress = state["state.pt"]["progress"]
        state["state.pt"]["progress"] = {name: value for name, value in progress.items() if name not in CLOCKS}
        for name in ("elapsed", "seconds"):  # of the tasks of continual learning
            state["state.pt"]["objects"].get("scores", {}).pop(name, None)
    return state


def standardisation_is_compared(run, folder: Path):
    """
    That a run from a trained model, whose weights are in its checkpoint, is not resumed where its flags do not name
    the model and would give that of its own data; `run(folder, **settings)` does a small run.
    """
    run(folder / "a", max_train_steps=1)
    config = json.loads((folder / "a" / "config.json").read_text())
    (folder / "a" / "config.json").write_text(json.dumps(config | {"image_mean": [0.03125]}))
    settings = {"checkpointing_steps": 1, "max_train_steps": 2}
    run(folder / "b", model_name_or_path=str(folder / "a"), **settings)
    again = settings | {"resume_from_checkpoint": "latest"}
    with pytest.raises(UsageError, match=r"is of a run with image_mean \[0\.03125\], this one has \[0\."):
        run(folder / "b", **again)
    run(folder / "b", **again, model_name_or_path=str(folder / "a"))


def results_of_its_own_architecture(
    recipe: ModuleType, types: list[type], model: torch.nn.Module, refused: str, folder: Path
) -> dict:
    """
    The results of a trained model without further training, on images that the default architecture refuses in the
    words of `refused`: what the flags say of an architecture is of a new model, and the trained one has its own.
    """
    asked = {"image_size": model.config.image_size, "num_test_samples": 8, "output_dir": str(folder / "out")}
    hub.save(model, folder / "model")
    with pytest.raises(StrictDataclassError, match=refused):
        run_with(recipe, types, asked | {"max_train_steps": 1})
    asked |= {"max_train_steps": 0, "model_name_or_path": str(folder / "model")}
    results = run_with(recipe, types, asked)
    same_weights(folder / "model", folder / "out")
    return results
