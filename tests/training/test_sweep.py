"""Sweeps over a recipe of a few lines: what is run, what is read, means and standard errors, the table."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from huggingface_hub.errors import StrictDataclassError
from PIL import Image

from hwzoo import packaged
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import renewing, write_json
from hwzoo.training import (
    Flags,
    NonFiniteLoss,
    RunArguments,
    Stopped,
    SweepArguments,
    arguments,
    flag,
    save_settings,
    sweep,
)
from hwzoo.training.launch import locked

STEPS = 4


class Killed(BaseException):
    pass


@dataclass
class Run(Flags):
    config: str | None = flag(None, "preset")
    output_dir: str = flag("outputs", "folder")
    seed: int = flag(0, "of the noise", "[0, inf)")
    overwrite_output_dir: bool = flag(False, "start anew")
    resume_from_checkpoint: str | None = flag(None, "go on")


@dataclass
class Model(Flags):
    size: int = flag(1, "of the model", "[1, 99]")
    kind: str = flag("plain", "of the model")


class Recipe:
    """Takes four steps, each with a checkpoint; `steps` are all that were ever taken, `kill_at` ends it before one."""

    def __init__(self):
        self.steps: list[tuple] = []
        self.kill_at: tuple | None = None

    def main(self, run: Run, model: Model) -> dict:
        checkpoints = Path(run.output_dir) / "checkpoints"
        taken = sorted(checkpoints.glob("step-*")) if checkpoints.exists() else []
        assert bool(taken) == (run.resume_from_checkpoint == "latest") and run.overwrite_output_dir == (not taken)
        assert all(path.read_text() == str(model.size) for path in taken)
        for step in range(len(taken), STEPS):
            if self.kill_at == (model.size, run.seed, step):
                raise Killed
            checkpoints.mkdir(parents=True, exist_ok=True)
            (checkpoints / f"step-{step}").write_text(str(model.size))
            self.steps.append((model.size, run.seed, step))
        results = {"test_loss": model.size + [0.1, 0.4, 0.7][run.seed], "test_rank": 3, "protocol": "on paper"}
        results |= {f"of_{model.kind}": 1.0, "learned": True, "matrix": [1.0]}
        results |= {"of_the_first_seed": 1} if run.seed == 0 else {"of_others": 1}
        with renewing(Path(run.output_dir)) as folder:
            write_json(folder / "all_results.json", results)
            save_settings(folder / "preset.yaml", run, model)
        return results


@pytest.fixture
def recipe() -> Recipe:
    return Recipe()


def run_all(recipe, folder, *runs, seeds=(0, 1, 2), preset=None):
    asked = SweepArguments(runs=list(runs), seeds=list(seeds), preset=preset, output_dir=str(folder))
    return sweep.run_all(recipe.main, [Run, Model], asked, lambda results: ["test_loss"])


def all_steps(*cells, seeds=(0, 1, 2)):
    return [(size, seed, step) for size in cells for seed in seeds for step in range(STEPS)]


def test_values_with_commas_make_a_run_each():
    assert sweep.expand("strategy=ewc ewc_lambda=1,10 backbone=mlp,cnn") == [
        {"strategy": "ewc", "ewc_lambda": strength, "backbone": backbone}
        for strength in ("1", "10")
        for backbone in ("mlp", "cnn")
    ]
    assert sweep.expand("strategy=ewc ewc-lambda=1,10") == sweep.expand("strategy=ewc ewc_lambda=1,10")


@pytest.mark.parametrize(
    "spec, message",
    [
        ("strategy", "--runs 'strategy' is not name=value"),
        ("strategy=", "--runs 'strategy=' is not name=value"),
        ("=ewc", "--runs '=ewc' is not name=value"),
        ("a=1 b=2 a=3", "--runs 'a=1 b=2 a=3' has a twice; several values have commas"),
        (
            "beta=2 sizes=400,30,400",
            "--runs 'sizes=400,30,400' has 400 twice; each value is a run of its own, and a list of several stands in "
            "a preset, config=FILE",
        ),
        ("a=1 seed=1,2", "--runs 'seed=1,2': seed is no flag of a run here; --seeds gives it"),
        ("output_dir=x", "output_dir is no flag of a run here; each run has its own"),
        ("push_to_hub=true", "push_to_hub is no flag of a run here; push the run that you choose"),
        ("a_b=1 a-b=2", "--runs 'a_b=1 a-b=2' has a_b twice; several values have commas"),
        ("output-dir=x,y", "--runs 'output-dir=x,y': output_dir is no flag of a run here; each run has its own"),
        ("push-to-hub=true", "push_to_hub is no flag of a run here; push the run that you choose"),
    ],
)
def test_what_is_no_flag_of_a_run_is_refused(spec, message):
    with pytest.raises(UsageError) as told:
        sweep.expand(spec)
    assert message in str(told.value)


def test_a_seed_twice_is_refused():
    with pytest.raises(UsageError, match="--seeds has 1 twice; each of them is one run"):
        SweepArguments(seeds=[0, 1, 1])


@pytest.mark.parametrize(
    "runs, preset, message",
    [
        (["size=2", "size=3,100"], None, "--runs 'size=100': --size is 100; it must be in [1, 99]"),
        (["size=2", "sise=3"], None, "--runs 'sise=3': --sise is not a flag of this recipe (did you mean --size?)"),
        ([], "size: 0", "{folder}/preset.yaml: --size is 0; it must be in [1, 99]"),
        (["kind=a"], "size: 0", "{folder}/preset.yaml: --size is 0; it must be in [1, 99]"),
        (["kind=a size=100"], "size: 0", "--runs 'kind=a size=100': --size is 100; it must be in [1, 99]"),
        ([], None, "--preset {folder}/preset.yaml: No such file"),
    ],
)
def test_a_wrong_run_is_told_before_the_first(runs, preset, message, recipe, tmp_path):
    if preset is not None:
        (tmp_path / "preset.yaml").write_text(preset)
    with pytest.raises(UsageError) as told:
        given = preset is not None or not runs
        run_all(recipe, tmp_path / "out", *runs, preset=str(tmp_path / "preset.yaml") if given else None)
    assert str(told.value).startswith(message.format(folder=tmp_path))
    assert recipe.steps == [] and not (tmp_path / "out").exists()


def test_several_processes_are_refused_before_the_first_run(recipe, tmp_path, monkeypatch):
    """The second run of a group of processes would fail, after hours of the first."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="^2 processes were started; all of it is done in one: "):
        run_all(recipe, tmp_path / "out", "size=2")
    assert recipe.steps == [] and not (tmp_path / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert len(run_all(recipe, tmp_path / "out", "size=2")) == 1


def test_paths_in_a_sweeps_file_begin_at_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "sweep.yaml").write_text("preset: ./base.yaml\n")
    (asked,) = arguments.parse_arguments([SweepArguments], ["--config=exp/sweep.yaml"])
    assert asked.preset == str(Path("exp", "base.yaml"))
    (asked,) = arguments.parse_arguments([SweepArguments], ["--preset=./base.yaml"])
    assert asked.preset == "./base.yaml"  # of the command line: in the working folder


def test_a_preset_that_pushes_is_refused(tmp_path):
    (tmp_path / "preset.yaml").write_text("push_to_hub: true\nhub_model_id: me/x\n")
    asked = SweepArguments(preset=str(tmp_path / "preset.yaml"), output_dir=str(tmp_path / "out"))
    with pytest.raises(
        UsageError, match="preset.yaml: push_to_hub is not for a run here; push the run that you choose"
    ):
        sweep.plan([RunArguments], asked)
    runs = [f"config={tmp_path / 'preset.yaml'} learning-rate=0.1"]
    with pytest.raises(UsageError, match=r"^--runs 'config=\S+preset.yaml learning_rate=0.1': push_to_hub is not for"):
        sweep.plan([RunArguments], SweepArguments(runs=runs, output_dir=str(tmp_path / "out")))


def test_whatever_error_ends_a_run_the_others_are_done(recipe, tmp_path, capsys):
    def main(run, model):
        if model.size == 2:
            raise ValueError("all fits failed\nfor a reason")
        return recipe.main(run, model)

    asked = SweepArguments(runs=["size=2,3"], seeds=[0, 1], output_dir=str(tmp_path / "out"))
    with pytest.raises(HwzooError, match="^2 of 4 runs failed; .*: size=2 seed=0: ValueError: all fits failed$"):
        sweep.run_all(main, [Run, Model], asked, lambda results: ["test_loss"])
    told = capsys.readouterr()
    assert "size=3 seed=1: test loss" in told.out and "Traceback" in told.err


def test_the_protocol_of_several_seeds_names_none_of_them():
    def protocol(seed):
        return f"8 samples, seed {seed}; test images drawn once, seed 0; no seed"

    cells = [sweep.Cell({}, [{"protocol": protocol(seed), "x": 1.0} for seed in seeds]) for seeds in ((0, 1), (0,))]
    (row,) = sweep.summaries(cells[:1], [0, 1])
    assert row["protocol"] == "8 samples, the seed of its training; test images drawn once, seed 0; no seed"
    (row,) = sweep.summaries(cells[1:], [0])
    assert row["protocol"] == protocol(0)


def test_a_stopped_sweep_tells_how_a_sweep_goes_on(tmp_path):
    """It has no --resume_from_checkpoint."""

    def main(run, model):
        raise Stopped("stopped by SIGTERM after step 7", 15)

    with pytest.raises(Stopped, match="^stopped by SIGTERM after step 7: the same command goes on$") as stopped:
        sweep.run_all(main, [Run, Model], SweepArguments(output_dir=str(tmp_path)), lambda results: [])
    assert stopped.value.status == 143


def test_a_run_is_not_told_of_what_it_asks_for(tmp_path, monkeypatch, caplog):
    """That a preset's bfloat16 is replaced, where it takes float32 anyway."""
    arguments._tell_once.cache_clear()
    monkeypatch.setattr(arguments, "has_bfloat16", lambda: False)
    preset = tmp_path / "preset.yaml"
    preset.write_text("mixed_precision: bf16\n")

    def precisions(*runs):
        asked = SweepArguments(runs=list(runs), preset=str(preset), seeds=[0, 1], output_dir=str(tmp_path / "out"))
        return [parsed[0].mixed_precision for _, cell in sweep.plan([RunArguments], asked) for parsed in cell]

    assert precisions("mixed_precision=no") == ["no"] * 2 and not caplog.records
    assert precisions("mixed_precision=no,bf16", "learning_rate=1,2") == ["no"] * 2 + ["bf16"] * 2 + ["no"] * 4
    assert len(caplog.records) == 1


def test_means_and_standard_errors_by_hand(recipe, tmp_path, capsys):
    cells = run_all(recipe, tmp_path, "size=2,30 kind=plain", "kind=other size=2")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "size=2 kind=plain seed=0: test loss 2.1000",
        "size=2 kind=plain seed=1: test loss 2.4000",
    ]
    rows = sweep.summaries(cells, [0, 1, 2])
    # 2.1, 2.4, 2.7: s = 0.3, and 0.3 / sqrt(3) = 0.17321
    assert rows[0] == {
        "run": "size=2 kind=plain", "label": "size=2 kind=plain", "seeds": [0, 1, 2], "protocol": "on paper",
        "flags": {"size": "2", "kind": "plain"},
        "test_loss": {"mean": pytest.approx(2.4), "standard_error": pytest.approx(0.173205, abs=1e-6)},
        "test_rank": {"mean": 3, "standard_error": 0}, "of_plain": {"mean": 1, "standard_error": 0},
    }  # fmt: skip
    assert rows[1]["test_loss"]["mean"] == pytest.approx(30.4)
    text = sweep.table(rows, ["test_loss", "test_rank", "of_other"])
    assert text.splitlines() == [
        "| run | test_loss | test_rank | of_other |",
        "| --- | --- | --- | --- |",
        "| size=2 kind=plain | 2.40 ± 0.17 | 3 ± 0 | - |",
        "| size=30 kind=plain | 30.40 ± 0.17 | 3 ± 0 | - |",
        "| kind=other size=2 | 2.40 ± 0.17 | 3 ± 0 | 1 ± 0 |",
        "",
        "Mean ± standard error over the seeds 0, 1, 2.",
        "",
        "on paper.",
    ]
    sweep.save_comparison(rows, tmp_path, text, ["test_loss", "of_other"])
    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    assert (tmp_path / "comparison.md").read_text() == text
    wide = Image.open(tmp_path / "comparison.png").size
    sweep.save_comparison(rows, tmp_path, text, ["test_loss"])
    assert wide == pytest.approx((1200, 180), abs=1)  # matplotlib rounds an inch down or up
    assert Image.open(tmp_path / "comparison.png").size == pytest.approx((800, 180), abs=1)


def test_the_curve_joins_the_values_of_one_flag(recipe, tmp_path, monkeypatch):
    cells = run_all(recipe, tmp_path, "size=3,1,2", "size=2 kind=b", seeds=[0, 1])
    drawn = {}
    monkeypatch.setattr(sweep, "save_functions", lambda panels, path, xlabel: drawn.update({xlabel: (panels, path)}))
    sweep.save_curve(sweep.summaries(cells, [0, 1]), tmp_path, "test_loss", "test_rank")
    assert drawn == {
        "test loss": (
            {
                "test rank": {
                    "size": ((1.25, 2.25, 3.25), (3.0, 3.0, 3.0), "o-"),
                    "size=2 kind=b": ((2.25,), (3.0,), "o-"),
                }
            },
            tmp_path / "curve.png",
        )
    }
    sweep.save_curve(sweep.summaries(cells[:1], [0, 1]), tmp_path, "test_loss", "test_rank")
    assert list(drawn["test loss"][0]["test rank"]) == ["size=3"]  # one alone has its value


def test_a_row_is_called_by_what_the_rows_do_not_share(recipe, tmp_path):
    rows = sweep.summaries(run_all(recipe, tmp_path, "kind=a size=1,2", seeds=[1]), [1])
    assert [row["label"] for row in rows] == ["size=1", "size=2"]
    assert rows[0]["test_loss"] == {"mean": pytest.approx(1.4), "standard_error": None}
    assert sweep.table(rows, ["test_loss"]).endswith("| size=2 | 2.4 |\n\nSeed 1 alone.\n\non paper.\n")


def test_protocols_that_differ_are_told_by_row():
    results = [{"loss": 1.0, "protocol": f"on {what}"} for what in ("paper", "screen", "paper")]
    cells = [sweep.Cell({"size": str(size)}, [result]) for size, result in enumerate(results)]
    text = sweep.table(sweep.summaries(cells, [0]), ["loss"])
    assert text.endswith("\n\nsize=0, size=2: on paper.\n\nsize=1: on screen.\n")


@pytest.mark.parametrize(
    "mean, error, text",
    [
        (272.456, 25.31, "272 ± 25"),
        (99.7834, 0.2949, "99.78 ± 0.29"),
        (0.95114, 0.00123, "0.9511 ± 0.0012"),
        (5.0, 1e-17, "5.000000 ± 0.000000"),
        (99.78345, None, "99.783"),
    ],
)
def test_a_number_has_the_digits_of_its_error(mean, error, text):
    rows = [{"label": "x", "seeds": [0, 1], "loss": {"mean": mean, "standard_error": error}}]
    assert f"| x | {text} |" in sweep.table(rows, ["loss"])


@pytest.mark.parametrize(
    "mean, digits, text",
    [
        (1051.8, 3, "1052"),
        (99.78345, 4, "99.78"),
        (1.101, 4, "1.101"),
        (1.1, 4, "1.100"),
        (0.8541, 3, "0.854"),
        (0.04236, 3, "0.0424"),
        (-0.5, 3, "-0.500"),
        (0.0, 3, "0.00"),
        (3e-9, 3, "0.000000"),
    ],
)
def test_the_digits_of_a_number_without_an_error(mean, digits, text):
    assert sweep.written({"mean": mean, "standard_error": None}, digits) == text
    assert sweep.written({"mean": 99.78, "standard_error": 0.29}, digits) == "99.78 ± 0.29"
    assert sweep.written(None, digits) == "-"


def test_no_run_is_done_twice(recipe, tmp_path, capsys):
    recipe.kill_at = (2, 1, 3)
    with pytest.raises(Killed):
        run_all(recipe, tmp_path, "size=1,2")
    recipe.kill_at = (2, 2, 0)  # before there is a checkpoint
    with pytest.raises(Killed):
        run_all(recipe, tmp_path, "size=1,2")
    recipe.kill_at = None
    cells = run_all(recipe, tmp_path, "size=1,2")
    assert recipe.steps == all_steps(1, 2)
    capsys.readouterr()
    again = run_all(recipe, tmp_path, "size=1,2")
    assert again == cells and recipe.steps == all_steps(1, 2)
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 6 and all(line.endswith(", done before") for line in told)
    run_all(recipe, tmp_path, "size=1,2,3", seeds=[1, 0])  # more of them
    assert recipe.steps == all_steps(1, 2) + all_steps(3, seeds=[1, 0])
    assert not list(tmp_path.rglob("checkpoints"))


def test_a_run_that_ended_with_a_number_that_is_not_finite_fails_each_time(recipe, tmp_path, capsys):
    cells = run_all(recipe, tmp_path, "size=1", seeds=[0, 1])
    (path,) = (path for path in tmp_path.rglob("all_results.json") if "seed=1" in str(path))
    path.write_text(json.dumps(cells[0].results[1] | {"test_x": "nan"}))
    for _ in range(2):
        with pytest.raises(
            HwzooError, match="^1 of 2 runs failed.*test_x is not finite; model, card and pictures are"
        ):
            run_all(recipe, tmp_path, "size=1", seeds=[0, 1])
        assert "done before" in capsys.readouterr().out


@pytest.mark.parametrize("killed", [None, (9, 0, 2), (9, 0, 0)])
def test_only_what_has_other_settings_is_begun_anew(killed, recipe, tmp_path):
    """Also where the run before, or the one after, was interrupted."""
    preset = tmp_path / "preset.yaml"
    preset.write_text("size: 9\n")
    recipe.kill_at = killed
    runs = ["kind=a", "kind=b size=2"]
    if killed:
        with pytest.raises(Killed):
            run_all(recipe, tmp_path / "out", *runs, preset=str(preset))
    else:
        run_all(recipe, tmp_path / "out", *runs, preset=str(preset))
    recipe.steps.clear()
    preset.write_text("size: 8\n")
    recipe.kill_at = (8, 1, 1)
    with pytest.raises(Killed):
        run_all(recipe, tmp_path / "out", *runs, preset=str(preset))
    recipe.kill_at = None
    cells = run_all(recipe, tmp_path / "out", *runs, preset=str(preset))
    assert recipe.steps == all_steps(8) + (all_steps(2) if killed else [])
    assert [result["test_loss"] for result in cells[0].results] == [8.1, 8.4, 8.7]


def test_the_others_go_on_past_a_run_that_fails(recipe, tmp_path, capsys):
    """As one whose loss is not finite, in a sweep over learning rates."""

    def main(run, model):
        if (model.size, run.seed) == (2, 1):
            raise HwzooError("loss is nan at step 2")
        return recipe.main(run, model)

    def sweep_all(*runs):
        asked = SweepArguments(runs=list(runs), seeds=[0, 1], output_dir=str(tmp_path))
        return sweep.run_all(main, [Run, Model], asked, lambda results: ["test_loss"])

    told = "^1 of 6 runs failed; leave them out of --runs or --seeds for a .*: size=2 seed=1: loss is nan at step 2$"
    with pytest.raises(HwzooError, match=told):
        sweep_all("size=1,2,3")
    assert recipe.steps == [each for each in all_steps(1, 2, 3, seeds=[0, 1]) if each[:2] != (2, 1)]
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 5 and told.err == "failed: size=2 seed=1: loss is nan at step 2\n"
    recipe.steps.clear()
    assert [cell.flags["size"] for cell in sweep_all("size=1,3")] == ["1", "3"] and not recipe.steps


@pytest.mark.parametrize("kind", [UsageError, StrictDataclassError])
def test_what_only_the_data_can_refuse_fails_alone(kind, recipe, tmp_path):
    def main(run, model):
        if model.size > 1:
            raise kind("it does not fit the data")
        return recipe.main(run, model)

    def sweep_all(*runs):
        asked = SweepArguments(runs=list(runs), seeds=[0], output_dir=str(tmp_path))
        return sweep.run_all(main, [Run, Model], asked, lambda results: ["test_loss"])

    with pytest.raises(HwzooError, match="^2 of 3 runs failed; .*: size=3 seed=0: it does not fit the data$"):
        sweep_all("size=3,1,2")
    assert recipe.steps == all_steps(1, seeds=[0])
    with pytest.raises(UsageError, match="^all 2 runs failed: size=2 seed=0: it does not fit the data$"):
        sweep_all("size=2,3")


@pytest.mark.parametrize("kind", [HwzooError, NonFiniteLoss])
def test_what_failed_is_told_in_the_words_of_the_zoo(kind, recipe, tmp_path):
    def main(run, model):
        raise kind("the folder is in use") from OSError("Resource temporarily unavailable")

    with pytest.raises(HwzooError, match="^all 1 runs failed: seed=0: the folder is in use$") as told:
        sweep.run_all(main, [Run, Model], SweepArguments(seeds=[0], output_dir=str(tmp_path)), lambda results: [])
    assert told.type is HwzooError


def test_a_run_that_is_going_on_keeps_its_checkpoints(recipe, tmp_path):
    recipe.kill_at = (1, 0, 2)
    with pytest.raises(Killed):
        run_all(recipe, tmp_path, "kind=a", seeds=[0])
    folder, preset = tmp_path / "runs" / "kind=a" / "seed=0", tmp_path / "preset.yaml"
    preset.write_text("size: 8\n")
    notes = folder.with_name("seed=0.yaml").read_bytes()
    with locked(folder), pytest.raises(HwzooError, match="in use by another run"):
        run_all(recipe, tmp_path, "kind=a", seeds=[0], preset=str(preset))
    assert len(list((folder / "checkpoints").iterdir())) == 2
    assert folder.with_name("seed=0.yaml").read_bytes() == notes


def test_a_finished_run_of_before_the_notes_is_read(recipe, tmp_path):
    run_all(recipe, tmp_path, "size=1")
    for note in (tmp_path / "runs" / "size=1").glob("*.yaml"):
        assert yaml.safe_load(note.read_text())["size"] == 1
        note.unlink()
    run_all(recipe, tmp_path, "size=1")
    assert recipe.steps == all_steps(1)


def test_long_runs_have_folders_of_names_that_every_system_takes(recipe, tmp_path):
    """255 bytes at most; two that differ at their ends stay two."""
    longest = "kind=" + "ü" * 125  # 255 bytes, whole
    runs = [longest, *(f"kind={'ü' * 130}{end}" for end in "ab")]
    cells = run_all(recipe, tmp_path, *runs, seeds=[0])
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert longest in names and len(names) == len(cells) == 3 and max(len(name.encode()) for name in names) == 255
    taken = len(recipe.steps)
    assert run_all(recipe, tmp_path, *runs, seeds=[0]) == cells and len(recipe.steps) == taken == 3 * STEPS


def test_paths_among_the_values_make_no_folders(recipe, tmp_path):
    run_all(recipe, tmp_path, "kind=../../a,b%2F size=2", seeds=[0])
    found = sorted(path.name for path in (tmp_path / "runs").iterdir())
    assert found == ["kind=..%2F..%2Fa,size=2", "kind=b%252F,size=2"]


def test_a_recipe_is_loaded_by_its_file(tmp_path):
    vae = packaged.load_recipe("train_vae")
    assert vae is packaged.load_recipe("train_vae") and vae.Run.__module__ == vae.__name__
    assert Path(vae.__file__) == packaged.folder("recipes").resolve() / "train_vae.py"
    (tmp_path / "train_vae.py").write_text("main = 3\n")
    assert packaged.load_recipe(tmp_path / "train_vae.py").main == 3
    assert packaged.load_recipe("train_vae").main.__module__ == vae.__name__
    with pytest.raises(FileNotFoundError, match="train_no"):
        packaged.load_recipe("train_no")
