"""A run that is killed, stopped or out of disk at any moment, and resumed, ends with the bits of one that was not."""

import random
import shutil
import signal
from pathlib import Path

import every_recipe
import pytest
from every_recipe import weights_of
from recipe_runs import checkpoint_state, results_but_times, same

from hwzoo.training import Checkpoint, Checkpoints

RESUME = "--resume_from_checkpoint=latest"
HOLD_TIMES = {"README.md", "all_results.json", "curves.png", ".ended.json"}  # and so differ


def content(folder: Path) -> dict[str, bytes]:
    """What a run leaves besides its checkpoints and times."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.parts[len(folder.parts)] != "checkpoints" and path.name not in HOLD_TIMES
    }


def assert_same_run(folder: Path, straight: Path):
    assert content(folder) == content(straight)
    assert results_but_times(folder) == results_but_times(straight)
    first, second = (Checkpoints(each / "checkpoints").paths() for each in (folder, straight))
    assert first[-1].name == second[-1].name
    assert same(checkpoint_state(first[-1]), checkpoint_state(second[-1]))
    assert not [path for path in folder.rglob("*") if "unfinished" in path.name]


def killed_and_resumed(recipe: str, folder: Path, straight: tuple[Path, int], kills: int, seed: str):
    """Runs with kills at random events, of the first run or of one that was resumed, until there were so many."""
    generator = random.Random(f"{recipe} {seed}")
    while kills > 0:
        shutil.rmtree(folder, ignore_errors=True)
        ended = None
        while ended is None or ended.status != 0:
            signals = {generator.randint(1, straight[1]): signal.SIGKILL} if kills > 0 else {}
            ended = every_recipe.run(recipe, folder, RESUME, signals=signals)
            assert ended.status in (0, -signal.SIGKILL), ended.error
            kills -= ended.status != 0
        assert_same_run(folder, straight[0])


@every_recipe.ONE_OF_EACH_LOOP  # one stop of each recipe is in its own tests
def test_killed_twice(recipe, straight, tmp_path):
    killed_and_resumed(recipe, tmp_path / "run", straight, 2, "0")


@pytest.mark.slow
@pytest.mark.parametrize("seed", "1234")
def test_killed_often(recipe, seed, straight, tmp_path):
    killed_and_resumed(recipe, tmp_path / "run", straight, 10, seed)


@every_recipe.ONE_OF_EACH_LOOP
def test_nothing_is_lost_at_any_event_of_the_second_half(recipe, straight, tmp_path):
    """Writing the last checkpoints, the model, the results, the card: nothing that was there before is lost."""
    begin, weights = straight[1] // 2, weights_of(recipe, straight[0]).read_bytes()
    ended = every_recipe.run(recipe, tmp_path / "run", whole=(begin, weights))
    assert ended.status == 0, ended.error
    assert ended.events - begin > 20


@pytest.mark.long
@pytest.mark.parametrize("recipe", ["train_vae"])
def test_what_is_lost_would_be_told(recipe, straight, tmp_path):
    """Of the test before: a model with other weights."""
    ended = every_recipe.run(recipe, tmp_path / "run", whole=(straight[1] // 2, b"other"))
    assert ended.status == 3 and "not whole at event" in ended.error


@every_recipe.ONE_OF_EACH_LOOP
@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_signal_saves_and_tells_how_to_go_on(number, recipe, straight, tmp_path):
    first_save = 20  # by then three steps were done by any recipe, and the first checkpoint is being written
    ended = every_recipe.run(recipe, tmp_path / "run", signals={straight[1] // 4 + first_save: number})
    assert ended.status == 128 + number, ended.error
    line = ended.error.splitlines()[-1]
    assert line.startswith(f"error: stopped by {signal.Signals(number).name} after step")
    assert "--resume_from_checkpoint latest" in line and "Traceback" not in ended.error
    assert f"after step {Checkpoints(tmp_path / 'run' / 'checkpoints').read_latest().step};" in line
    ended = every_recipe.run(recipe, tmp_path / "run", RESUME)
    assert ended.status == 0, ended.error
    assert_same_run(tmp_path / "run", straight[0])


@pytest.mark.long
@every_recipe.ONE_OF_EACH_LOOP
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_after_the_last_step_tells_how_to_go_on(number, recipe, straight, tmp_path):
    """While the final files are written."""
    ended = every_recipe.run(recipe, tmp_path / "run", signals={straight[1] - 30: number})
    assert ended.status == 128 + number, ended.error
    line = ended.error.splitlines()[-1]
    assert line.startswith(f"error: stopped by {signal.Signals(number).name} after the last step")
    assert "--resume_from_checkpoint latest" in line and "Traceback" not in ended.error
    ended = every_recipe.run(recipe, tmp_path / "run", RESUME)
    assert ended.status == 0, ended.error
    assert_same_run(tmp_path / "run", straight[0])


@every_recipe.ONE_OF_EACH_LOOP
def test_a_second_signal_leaves_at_once(recipe, straight, tmp_path):
    for event in range(straight[1] // 3, straight[1] // 3 + 4):
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        signals = {event: signal.SIGTERM, event + 1: signal.SIGTERM, event + 2: signal.SIGKILL}
        ended = every_recipe.run(recipe, tmp_path / "run", signals=signals)
        if ended.events > event:  # else it was the last before the run had saved and left
            break
    assert ended.status == 128 + signal.SIGTERM and ended.events == event + 1


def out_of_disk(recipe: str, half: Path, folder: Path, straight: tuple[Path, int], event: int):
    if not half.exists():
        before = every_recipe.run(recipe, half, signals={straight[1] // 2: signal.SIGKILL})
        assert before.status == -signal.SIGKILL
    shutil.copytree(half, folder)
    saved = Checkpoints(folder / "checkpoints").read_latest()
    ended = every_recipe.run(recipe, folder, RESUME, full_at=event)
    assert ended.status == 1, ended.error
    line = ended.error.splitlines()[-1]
    assert line.startswith("error: cannot write ") and str(folder) in line and "File too large" in line
    assert "Traceback" not in ended.error
    latest = Checkpoints(folder / "checkpoints").read_latest()
    assert latest.step >= saved.step and Checkpoint(latest.path)
    ended = every_recipe.run(recipe, folder, RESUME)
    assert ended.status == 0, ended.error
    assert_same_run(folder, straight[0])


@pytest.mark.long
@every_recipe.ONE_OF_EACH_LOOP
def test_a_full_disk_costs_nothing_that_was_saved(recipe, straight, tmp_path):
    out_of_disk(recipe, tmp_path / "half", tmp_path / "run", straight, event=5)


@pytest.mark.slow
def test_a_disk_that_is_full_at_any_moment(recipe, straight, tmp_path):
    for event in range(1, straight[1] // 4, 2):
        out_of_disk(recipe, tmp_path / "half", tmp_path / str(event), straight, event)


@every_recipe.ONE_OF_EACH_LOOP
def test_a_run_keeps_its_folder_for_itself(recipe, straight, tmp_path):
    """A lock, which a run that was killed does not leave behind, as the other tests show."""
    fcntl = pytest.importorskip("fcntl")
    (tmp_path / "run").mkdir()
    with open(tmp_path / "run" / ".lock", "ab") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        ended = every_recipe.run(recipe, tmp_path / "run", "--overwrite_output_dir")
    assert ended.status == 1 and len(ended.error.splitlines()) == 1
    assert f"error: --output_dir {tmp_path / 'run'} is in use by another run" in ended.error
