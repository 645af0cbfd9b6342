"""Into a recipe and out of it: threads, the console, seeds of several processes."""

import io
import os
import subprocess
import sys
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch

from hwzoo import packaged
from hwzoo.errors import UsageError
from hwzoo.files import NAMED_DATA
from hwzoo.training import RunArguments, launch, on_one_thread, start
from hwzoo.training.launch import _threads_given

# As a launcher does: its child gets the one thread that its own environment may not have asked for.
LAUNCHER = """
import os, subprocess, sys
os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_MIXED_PRECISION": "no"}
sys.exit(subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]]).returncode)
"""
RUN = """
import sys
from hwzoo.training import RunArguments, start
with start(RunArguments(output_dir=sys.argv[1], num_threads=int(sys.argv[2]) if sys.argv[2:] else None)):
    import torch
    print(torch.get_num_threads())
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a launcher's environment cannot be read")
@pytest.mark.parametrize(
    ("given", "flag", "expected"),
    [
        (None, [], "cores"),
        pytest.param("1", [], "1", marks=pytest.mark.slow),
        pytest.param("1", ["3"], "3", marks=pytest.mark.slow),
    ],
)
def test_threads_of_a_launched_run_are_those_that_were_asked_for(given, flag, expected, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    environment |= {"OMP_NUM_THREADS": given} if given else {}
    command = [sys.executable, "-c", LAUNCHER, RUN, str(tmp_path / "run"), *flag]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    said, number = done.stdout.split("\n")[-3:-1]
    assert number == (str(len(os.sched_getaffinity(0))) if expected == "cores" else expected), done.stderr
    assert said == f"on cpu: {number} thread{'s' if number != '1' else ''}"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a launcher's command line cannot be read")
@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([], False),
        (["--cpu"], False),
        (["--num_cpu_threads_per_process", "1"], True),
        (["--num-cpu-threads-per-process=1", "--cpu"], True),
    ],
)
def test_one_thread_that_the_launcher_was_asked_for_is_not_more(flags, expected, monkeypatch):
    """It gives one by itself as well."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    command = ["sh", "-c", "read line", "launch", *flags, "program.py", "--num_cpu_threads_per_process=1"]
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE) as launcher:  # it waits, as one does
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        monkeypatch.setattr(os, "getppid", lambda: launcher.pid)
        while not Path(f"/proc/{launcher.pid}/cmdline").read_bytes():
            pass  # it has none for a moment
        assert _threads_given() == expected
        launcher.stdin.close()


def test_a_number_of_threads_is_set(tmp_path, capsys):
    """For this run alone: the next one of the process has what it would have without."""
    before = torch.get_num_threads()
    assert before != 2
    with start(RunArguments(output_dir=str(tmp_path / "first"), num_threads=2)):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before and "on cpu: 2 threads" in capsys.readouterr().out
    with start(RunArguments(output_dir=str(tmp_path / "second"))):
        assert torch.get_num_threads() == before
    with pytest.raises(ZeroDivisionError), start(RunArguments(output_dir=str(tmp_path / "third"), num_threads=2)):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == before


def test_a_recipe_on_one_thread_gives_the_others_back():
    @on_one_thread
    def main(number: int) -> tuple[int, float]:
        return torch.get_num_threads(), 1 / number

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert main(4) == (1, 0.25) and torch.get_num_threads() == 2
        with pytest.raises(ZeroDivisionError):
            main(0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    for name in ("fit_kl", "exact", "train_policy_gradient"):
        recipe = packaged.load_recipe(name)
        assert recipe.main.__code__ is main.__code__
        assert recipe.main.__annotations__["settings"] is recipe.Settings


class Broken(io.StringIO):
    def write(self, text):
        raise OSError(28, "No space left on device")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_broken_console_costs_nothing(stream, monkeypatch):
    monkeypatch.setattr(sys, stream, Broken())
    monkeypatch.setattr(sys, "argv", ["recipe"])
    done = []

    def main():
        print("lost")
        print("lost", file=sys.stderr)
        done.append(True)

    launch(main)
    assert done and isinstance(getattr(sys, stream), Broken)


@pytest.mark.parametrize("name", [each.stem for each in sorted(packaged.folder("recipes").glob("[!_]*.py"))])
def test_only_trainings_are_done_in_several_processes(name, monkeypatch, capsys):
    """Of other recipes two would do the same and write it into one folder, each over the other's."""
    recipe = packaged.load_recipe(name)
    types = [each for each in recipe.main.__annotations__.values() if is_dataclass(each)]
    monkeypatch.setattr(sys, "argv", ["recipe", "--no_flag=1"])
    for processes in ("1", "2"):
        monkeypatch.setenv("WORLD_SIZE", processes)
        with pytest.raises(SystemExit) as ended:
            launch(recipe.main, *types)
        refused = processes == "2" and not packaged.runs_the_loop(packaged.folder("recipes") / f"{name}.py")
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.count("\n") == 1
        assert told.startswith("error: 2 processes were started; all of it is done in one: ") == refused


def test_the_folder_of_a_refused_run_is_not_made(tmp_path, monkeypatch):
    """What is asked for is looked at before anything is written."""
    with pytest.raises(Exception, match="overwrite_output_dir and --resume"):
        with start(
            RunArguments(output_dir=str(tmp_path / "x"), overwrite_output_dir=True, resume_from_checkpoint="latest")
        ):
            pass
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", sorted(NAMED_DATA))
def test_a_run_may_lie_in_a_folder_called_as_the_zoos_data(name, tmp_path, monkeypatch):
    """What the data of this name is no folder can change; `./digits` is one of one's own."""
    monkeypatch.chdir(tmp_path)
    run = {"output_dir": name, "dataset_name": name}
    for overwrite in (False, True):
        with start(RunArguments(**run, overwrite_output_dir=overwrite)):
            Path(name, "samples.png").touch()
    with pytest.raises(UsageError, match=f"^--output_dir {name} is in --dataset_name ./{name}, and would become data"):
        with start(RunArguments(output_dir=name, dataset_name=f"./{name}", overwrite_output_dir=True)):
            pass


@pytest.mark.parametrize(
    ("own", "given", "told"),
    [
        ("mnist", "digits", True), ("mnist", "mnist", False), ("../pets", "pets", False), ("../pets", "digits", True),
        ("../mnist", "mnist", True), ("mnist", "./mnist", True), ("../mnist", "./mnist", False),
    ],
)  # fmt: skip
def test_a_test_on_other_data_than_the_trainings_is_told(own, given, told, tmp_path, monkeypatch, caplog):
    """`--max_train_steps 0` with the default of `--dataset_name`, say."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    (tmp_path / "mnist").mkdir()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "preset.yaml").write_text(f"dataset_name: {own}\n")
    for steps in (0, 3):
        run = RunArguments(
            output_dir=f"out{steps}", model_name_or_path="model", dataset_name=given, max_train_steps=steps
        )
        with start(run):
            pass
    (tmp_path / "model" / "preset.yaml").write_text("validation_share: 7\n")  # it costs no run
    with start(RunArguments(output_dir="out", model_name_or_path="model", max_train_steps=0)):
        pass
    path = {"../pets": "pets", "../mnist": "./mnist"}.get(own, own)
    words = [f"model was trained on {path}; it is tested on {given}, --dataset_name"] if told else []
    assert [each for each in caplog.messages if "was trained on" in each] == words
