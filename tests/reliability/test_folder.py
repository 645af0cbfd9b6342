"""What a run may do with a folder and a console that are not its own: nothing of a user's is lost."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import every_recipe
import pytest
import warm
from every_recipe import weights_of
from recipe_runs import RECIPES, checkpoint, stopped_at

from hwzoo import files
from hwzoo.training import Checkpoints

RESUME = "--resume_from_checkpoint"


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(recipe: str, folder: Path, words: str, *arguments: str):
    before = snapshot(folder)
    ended = every_recipe.run(recipe, folder, *arguments)
    assert ended.status == 2, ended.error
    line = ended.error.splitlines()[-1]
    assert line.startswith("error: ") and words in line and str(folder) in line, line
    assert snapshot(folder) == before


def test_a_checkpoint_of_another_run_is_not_resumed_into_a_finished_one(recipe, straight, tmp_path):
    folder = Path(shutil.copytree(straight[0], tmp_path / "finished"))
    strange = str(checkpoint(straight[0], every_recipe.STEPS - every_recipe.INTERVAL))
    refused(recipe, folder, "holds checkpoints of another run", f"{RESUME}={strange}")
    shutil.rmtree(folder / "checkpoints")
    refused(recipe, folder, "holds a finished model, and not this checkpoint; give another", f"{RESUME}={strange}")
    refused(recipe, folder, "holds a finished model, and no checkpoint; give another", f"{RESUME}=latest")


@every_recipe.ONE_OF_EACH_LOOP
def test_the_folder_of_the_run_is_no_checkpoint(recipe, straight, tmp_path):
    folder = Path(shutil.copytree(straight[0], tmp_path / "run"))
    for where in (folder, folder / "checkpoints"):
        refused(
            recipe, folder, f"{where}: it must be one of the checkpoints in {folder}/checkpoints", f"{RESUME}={where}"
        )


def test_latest_is_no_leave_to_write_over_strange_files(recipe, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("of years")
    refused(recipe, folder, "notes.txt", f"{RESUME}=latest")


@every_recipe.ONE_OF_EACH_LOOP
def test_damaged_checkpoints_are_kept(recipe, straight, tmp_path):
    folder = Path(shutil.copytree(straight[0], tmp_path / "run"))
    for path in Checkpoints(folder / "checkpoints").paths():
        (path / "manifest.json").write_text("cut")
    refused(recipe, folder, "no checkpoint", f"{RESUME}=latest")


@every_recipe.ONE_OF_EACH_LOOP
def test_a_run_does_not_go_back_to_fewer_steps(recipe, straight, tmp_path):
    folder = Path(shutil.copytree(straight[0], tmp_path / "run"))
    flag = {"train_t5": "--max_steps=6", "train_continual": "--max_train_steps=1"}.get(recipe, "--max_train_steps=6")
    refused(recipe, folder, "step", f"{RESUME}=latest", flag)


@pytest.mark.long
@every_recipe.ONE_OF_EACH_LOOP
def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(recipe, straight, tmp_path):
    folder = tmp_path / "run"
    assert every_recipe.run(recipe, folder, signals={3: signal.SIGKILL}).status == -signal.SIGKILL
    assert not Checkpoints(folder / "checkpoints").paths()
    ended = every_recipe.run(recipe, folder, f"{RESUME}=latest")
    assert ended.status == 0, ended.error


@every_recipe.ONE_OF_EACH_LOOP
def test_a_resumed_run_in_another_folder_has_all_of_it(recipe, straight, tmp_path):
    step = (15 if recipe == "train_continual" else every_recipe.STEPS) - every_recipe.INTERVAL
    half = stopped_at(straight[0], step, tmp_path / "half")
    ended = every_recipe.run(recipe, tmp_path / "new", f"{RESUME}={checkpoint(half, step)}")
    assert ended.status == 0, ended.error
    first, second = snapshot(straight[0]), snapshot(tmp_path / "new")
    names = {name for name in first if name.endswith((".jsonl", ".safetensors", ".gif")) or "_00" in name}
    names = {name for name in names if "checkpoints" not in name}
    assert names and {name for name in names if first[name] != second.get(name)} == set()


@pytest.mark.long
@every_recipe.ONE_OF_EACH_LOOP
def test_overwriting_leaves_the_old_model_or_the_new(recipe, straight, tmp_path):
    """At each event of the second half as a kill would leave it, and where no model stands in the folder killed."""
    wider = {"train_vae": "--latent_size=4", "train_gan": "--latent_size=5", "train_ddpm": "--layers_per_block=2"}
    wider |= {"train_continual": "--hidden_sizes=17", "train_t5": "--config_d_ff=24"}
    wider |= {"train_flow": "--hidden_size=5"}
    wider |= {"train_autoregressive": "--head_hidden_size=50"}
    wider |= {"train_vqvae": "--code_size=4"}
    wider |= {"train_simclr": "--projection_size=7"}
    wider |= {"train_vqvae": "--code_size=4", "train_textvae": "--latent_size=3"}
    flags = ["--overwrite_output_dir", wider[recipe]]
    old, new, killed = straight[0], tmp_path / "new", tmp_path / "killed"
    shutil.copytree(old, new)
    whole = every_recipe.run(recipe, new, *flags, copies=(tmp_path / "at", straight[1] // 2))
    assert whole.status == 0, whole.error
    weights = {name: weights_of(recipe, folder).read_bytes() for name, folder in (("old", old), ("new", new))}
    configs = {name: config_of(recipe, folder) for name, folder in (("old", old), ("new", new))}
    assert weights["old"] != weights["new"] and configs["old"] != configs["new"]
    folders = sorted((tmp_path / "at").iterdir(), key=lambda path: int(path.name))
    entry = next(name for name in files.ENTRIES if (new / name).exists())
    without = next(folder for folder in folders if not (folder / entry).exists())
    shutil.copytree(old, killed)
    ended = every_recipe.run(recipe, killed, *flags, signals={int(without.name): signal.SIGKILL})
    assert ended.status == -signal.SIGKILL
    shutil.rmtree(killed / "checkpoints")
    assert snapshot(killed).keys() == snapshot(without).keys()
    seen = set()
    for folder in (*folders, killed):
        model = Path(files.settled(folder))
        which = [name for name in weights if weights_of(recipe, model).read_bytes() == weights[name]]
        assert which and config_of(recipe, model) == configs[which[0]], folder.name
        seen.add(which[0])
        if (folder / entry).exists():  # what transformers and diffusers would load without asking
            assert weights_of(recipe, folder).read_bytes() == weights[which[0]] or model != folder
            assert config_of(recipe, folder) in (configs["old"], configs["new"])
        files.finish(folder)
        assert config_of(recipe, folder) == configs[which[0]]
        assert weights_of(recipe, folder).read_bytes() == weights[which[0]]
        shutil.rmtree(folder)  # thousands of files
    assert seen == {"old", "new"}


def config_of(recipe: str, folder: Path) -> bytes:
    return (weights_of(recipe, folder).parent / "config.json").read_bytes()


def command(recipe: str, folder: Path) -> list[str]:
    return [str(RECIPES / f"{recipe}.py"), f"--output_dir={folder}", *shlex.split(every_recipe.FLAGS[recipe])]


@pytest.mark.long
@pytest.mark.parametrize(
    ("where", "recipe"),
    [
        ("gone", "train_vae"),
        ("full", "train_vae"),
        ("ascii", "train_vae"),
        pytest.param("gone", "train_t5", marks=pytest.mark.slow),
        pytest.param("full", "train_t5", marks=pytest.mark.slow),
        pytest.param("ascii", "train_t5", marks=pytest.mark.slow),
    ],
)
def test_the_console_is_not_the_run(where, recipe, straight, tmp_path):
    folder = tmp_path / ("läufe" if where == "ascii" else "run")
    environment = os.environ | ({"PYTHONIOENCODING": "ascii"} if where == "ascii" else {})
    with open("/dev/full" if where == "full" else tmp_path / "console", "w+b", 0) as console:
        if where == "gone":
            read, write = os.pipe()
            os.close(read)
            os.dup2(write, console.fileno())
            os.close(write)
        done = warm.run(command(recipe, folder), env=environment, console=console)
        said = (tmp_path / "console").read_bytes() if where == "ascii" else b""
    as_without_a_console(recipe, done.returncode, folder, straight)
    assert (rb"l\xe4ufe" in said) == (where == "ascii")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["train_vae", "train_t5"])
def test_no_console_is_needed(recipe, straight, tmp_path):
    line = subprocess.list2cmdline([sys.executable, *command(recipe, tmp_path / "run")])
    done = subprocess.run(["bash", "-c", f"{line} >&- 2>&-"])
    as_without_a_console(recipe, done.returncode, tmp_path / "run", straight)


def as_without_a_console(recipe: str, status: int, folder: Path, straight: tuple[Path, int]):
    assert status == 0
    assert weights_of(recipe, folder).read_bytes() == weights_of(recipe, straight[0]).read_bytes()
    assert (folder / "README.md").exists()


@every_recipe.ONE_OF_EACH_LOOP
def test_a_hangup_saves_and_leaves(recipe, straight, tmp_path):
    ended = every_recipe.run(recipe, tmp_path / "run", signals={straight[1] // 4 + 20: signal.SIGHUP})
    assert ended.status == 128 + signal.SIGHUP, ended.error
    assert "stopped by SIGHUP after step" in ended.error.splitlines()[-1]
    assert Checkpoints(tmp_path / "run" / "checkpoints").read_latest() is not None


@every_recipe.ONE_OF_EACH_LOOP
def test_a_hangup_under_nohup_is_nothing(recipe, straight, tmp_path):
    """In the middle of the training, where its loop listens, and in its last writes, where the command does."""
    hangups = dict.fromkeys((straight[1] // 4 + 20, straight[1] - 5), signal.SIGHUP)
    ended = every_recipe.run(recipe, tmp_path / "run", signals=hangups, nohup=True)
    assert ended.status == 0, ended.error
    assert weights_of(recipe, tmp_path / "run").read_bytes() == weights_of(recipe, straight[0]).read_bytes()
