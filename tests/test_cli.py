"""The `hwzoo` command: what it knows, how fast it answers, and that it runs the very recipe files."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

import pytest
import warm
import yaml
from recipe_runs import RECIPES, load_recipe

import hwzoo_cli
from hwzoo.errors import UsageError
from hwzoo.training import RunArguments, parse_arguments

FILES = sorted(path for path in RECIPES.glob("*.py") if path.name != "__init__.py")
PRESETS = {f"{path.parent.name}/{path.stem}": path for path in sorted(RECIPES.glob("configs/*/*.yaml"))}
SMALL = [
    "--encoder_hidden_sizes=8", "--decoder_hidden_sizes=8", "--latent_size=2", "--max_train_steps=4",
    "--num_importance_samples=2", "--train_batch_size=20",
]  # fmt: skip


def types_of(recipe: str) -> list[type]:
    return [kind for kind in load_recipe(recipe).main.__annotations__.values() if hasattr(kind, "FIRST")]


def presets_listed() -> dict[str, list[str]]:
    """The columns of `hwzoo presets` by name."""
    heading, *lines = hwzoo_cli.list_presets(hwzoo_cli.commands()).splitlines()
    starts = [match.start() for match in re.finditer(r"\w+", heading)] + [None]
    cells = [[line[start:end].strip() for start, end in zip(starts, starts[1:], strict=False)] for line in lines]
    return {name: others for name, *others in cells}


def hwzoo(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Runs the command in a process of its own, in a folder."""
    path = os.pathsep.join([str(Path(hwzoo_cli.__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, **environment}
    return warm.run(["-m", "hwzoo_cli", *arguments], cwd=folder, env=environment)


def test_every_recipe_has_a_command_of_its_own():
    commands = hwzoo_cli.commands()
    assert sorted(commands.values()) == FILES
    files = {name: path.stem for name, path in commands.items()}
    for name in ("train vae", "train gan", "train ddpm", "train continual", "train t5"):
        assert files[name] == name.replace(" ", "_")
    for name in ("compare continual", "compare samplers", "compare prompts"):
        assert files[name] == name.replace(" ", "_")
    assert (files["sample"], files["evaluate"]) == ("sample", "evaluate_generator")
    assert (files["classify"], files["estimate"]) == ("classify_by_prompt", "estimate_divergence")


def test_help_names_every_command_once_by_group(capsys):
    assert hwzoo_cli.main([]) == hwzoo_cli.main(["--help"]) == 0
    help, again = capsys.readouterr().out.split("usage: ")[1:]
    assert help == again
    listed = re.findall(r"^  (\S.*?)(?: [A-Z]+)*  ", help, re.M)
    assert sorted(listed) == sorted([*hwzoo_cli.commands(), "push", "presets"])
    groups = ["train:", "draw and score:", "compare and measure:", "share and look up:"]
    assert re.findall(r"^[a-z ]+:$", help, re.M) == groups
    assert re.search(r"^  sample MODEL +Draws images with any zoo model", help, re.M)
    assert re.search(r"^  train vae +Trains a variational autoencoder, scores it", help, re.M)
    assert hwzoo_cli.main(["compare"]) == hwzoo_cli.main(["compare", "--help"]) == 0
    listed = set(re.findall(r"^  (\S.*?)(?: [A-Z]+)*  ", capsys.readouterr().out, re.M))
    assert listed == {name for name in hwzoo_cli.commands() if name.startswith("compare")}


def test_version(capsys):
    assert hwzoo_cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"hwzoo {version('hwzoo')}\n"


def test_every_preset_is_listed():
    listed = presets_listed()
    assert listed.keys() == PRESETS.keys()
    assert listed["vae/cs236"] == ["train vae", "mnist", "2.3 minutes", "test_negative_elbo 98.0 to 101.5"]
    assert listed["ddpm/ift6135"] == ["train ddpm", "mnist", "not run", ""]
    for name, (command, data, takes, expect) in listed.items():
        assert command in hwzoo_cli.commands() and data, name
        expected = yaml.safe_load(PRESETS[name].read_text()).get("expected")
        assert bool(expected) == bool(expect) == ("minute" in takes), name
        assert not takes or re.fullmatch(r"not run|[\w ]+(\.\d)? minutes?", takes), name  # one sentence's, not two


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_by_name_is_the_preset_by_path(name):
    wanted = presets_listed()[name][0]
    (recipe,) = {path.stem for command, path in hwzoo_cli.commands().items() if command == wanted}
    types, path = types_of(recipe), PRESETS[name]
    by_path = parse_arguments(types, ["--config", str(path)])
    for given in (name, path.stem):
        by_name = parse_arguments(types, ["--config", given])
        assert by_name[0].config == given
        assert [replace(by_name[0], config=str(path)), *by_name[1:]] == by_path


@pytest.mark.parametrize("path", [path for path in PRESETS.values() if "\npreset:" in path.read_text()])
def test_what_a_preset_starts_from_is_a_preset_by_its_whole_name(path):
    assert yaml.safe_load(path.read_text())["preset"] in PRESETS


def test_a_name_that_more_recipes_have_is_told_where_none_is_the_recipes_own():
    with pytest.raises(UsageError, match="--config conditional may be autoregressive/conditional, ddpm/conditional, "):
        parse_arguments([RunArguments], ["--config", "conditional"])


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cs263", "did you mean cs236"), ("vae/cs234", "did you mean vae/cs236"), ("quite_another", "hwzoo presets")],
)
def test_an_unknown_preset_is_one_line_with_the_nearest(given, meant):
    with pytest.raises(UsageError, match=f"^--config {given}: no such file, and no preset .*{meant}") as told:
        parse_arguments(types_of("train_vae"), ["--config", given])
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("given", ["cs236", "vae/digits", str(PRESETS["vae/digits"])])
def test_a_preset_of_another_recipe_is_refused(given):
    with pytest.raises(UsageError, match="is of train_vae, not of train_gan; `hwzoo presets` lists"):
        parse_arguments(types_of("train_gan"), ["--config", given])


def test_a_file_is_taken_before_a_preset_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("cs236").write_text("seed: 7\n")
    run, *_ = parse_arguments(types_of("train_vae"), ["--config", "cs236"])
    assert (run.seed, run.dataset_name) == (7, "digits")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["trane", "vae"], "'trane' is not a command (did you mean train "),
        (["train", "vea"], "'train vea' is not a command (did you mean train vae?); hwzoo --help lists them"),
        (["train_vae"], "'train_vae' is not a command (did you mean train vae?)"),
        (["quite_another"], "'quite_another' is not a command; hwzoo --help lists them"),
        (["presets", "vae"], "'vae' is not expected after presets"),
        (
            ["train", "vae", "--nproc"],
            "--nproc takes one whole number, the processes to start; it must be in [1, inf)",
        ),
        (["train", "vae", "--nproc", "0"], "--nproc takes one whole number"),
        (["train", "policy_gradient", "--nproc", "2"], "--nproc is 2; train_policy_gradient runs in one process"),
        (["train", "vae", "--nproc=two", "--seed=1"], "--nproc takes one whole number"),
    ],
)
def test_a_wrong_command_is_one_line(argv, told, capsys):
    assert hwzoo_cli.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"error: {told}") and printed.err.count("\n") == 1 and not printed.out


def test_the_number_of_processes_is_taken_out_of_the_flags():
    assert hwzoo_cli.processes(["--seed", "1", "--nproc", "2", "--use_ema"]) == (2, ["--seed", "1", "--use_ema"])
    assert hwzoo_cli.processes(["--nproc=12"]) == (12, [])
    assert hwzoo_cli.processes(["--seed=1"]) == (1, ["--seed=1"])


def test_more_processes_than_gpus_are_refused(monkeypatch, capsys):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr("torch.accelerator.device_count", lambda: 2)
    assert hwzoo_cli.main(["train", "vae", "--nproc", "3"]) == 2
    told = "error: --nproc is 3; the GPUs here are 2 (ACCELERATE_USE_CPU=1 trains on the CPU)\n"
    assert capsys.readouterr().err == told


def test_push_is_that_of_the_hub(tmp_path, capsys):
    assert hwzoo_cli.main(["push", str(tmp_path), "me/vae", "--private"]) == 2
    assert capsys.readouterr().err == f"error: {tmp_path} holds no model to push (no .safetensors file)\n"


@pytest.mark.parametrize("recipe", [path.stem for path in FILES])
def test_help_of_a_recipe_shows_each_flag_once_by_group(recipe, capsys):
    types = types_of(recipe)
    with pytest.raises(SystemExit, match="0"):
        parse_arguments(types, ["--help"], "What it does.")
    help = capsys.readouterr().out
    sections = re.split(r"^(\w+):$", help, flags=re.M)
    groups = {
        title: re.findall(r"^  --(\w+)", text, re.M)
        for title, text in zip(sections[1::2], sections[2::2], strict=True)
    }
    titles = ["options", "run", "data", "model", "method", "sharing"]
    assert list(groups) == [title for title in titles if title in groups]
    shown = [name for names in groups.values() for name in names]
    names = [field.name for kind in types for field in fields(kind)]
    # A flag that is on has a second one that turns it off.
    assert sorted(name for name in shown if name in names) == sorted(names)
    assert {name for name in shown if name not in names} <= {f"no_{name}" for name in names}
    assert not re.search(r"--\w+-\w", help)
    assert "output_dir" in groups["run"]
    assert groups.get("sharing", []) == [name for name in names if name.startswith(("push_to_hub", "hub_"))]


def test_help_of_the_vae_by_group(capsys):
    with pytest.raises(SystemExit):
        parse_arguments(types_of("train_vae"), ["--help"])
    run, data, model, method, sharing = re.split(r"^\w+:$", capsys.readouterr().out, flags=re.M)[2:]
    for text, names in {
        run: ("config", "seed", "learning_rate", "report_to"),
        data: ("dataset_name", "data_dir"),
        model: ("model_name_or_path", "latent_size", "beta"),
        method: ("kl_warmup_steps", "binarization"),
        sharing: ("push_to_hub", "hub_model_id", "hub_private_repo"),
    }.items():
        assert set(names) <= set(re.findall(r"^  --(\w+)", text, re.M))


def test_help_and_presets_load_nothing_heavy():
    program = "import sys, hwzoo_cli; hwzoo_cli.main(['--help']); hwzoo_cli.main(['presets'])\n"
    program += "print(*{'hwzoo', 'torch', 'transformers', 'numpy', 'accelerate'} & set(sys.modules), sep=',')"
    path = str(Path(hwzoo_cli.__file__).parent)
    command = [sys.executable, "-c", program]
    shown = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == ""


@pytest.mark.long
def test_a_recipe_runs_in_an_empty_folder(tmp_path):
    ended = hwzoo(tmp_path, "train", "vae", "--config", "eecs182", "--dataset_name", "digits", "--seed=3", *SMALL)
    assert ended.returncode == 0, ended.stderr
    folder = tmp_path / "outputs" / "vae-eecs182"
    assert json.loads((folder / "all_results.json").read_text())["train_steps"] == 4
    assert "seed 3" in (folder / "README.md").read_text() and "eecs182" in (folder / "README.md").read_text()


@pytest.mark.slow
def test_processes_are_started_and_give_their_status(tmp_path):
    one = hwzoo(tmp_path, "train", "vae", "--output_dir=one", *SMALL)
    halves = [*SMALL, "--train_batch_size=10"]
    two = hwzoo(tmp_path, "train", "vae", "--nproc", "2", "--output_dir=two", *halves, ACCELERATE_USE_CPU="1")
    assert one.returncode == two.returncode == 0, one.stderr + two.stderr
    results = [json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("one", "two")]
    # They see together what one process sees with twice the batch.
    assert results[1]["test_negative_elbo"] == pytest.approx(results[0]["test_negative_elbo"], rel=1e-4)
    assert two.stdout.count("train_steps") == 1
    wrong = hwzoo(tmp_path, "train", "vae", "--latent_sise=3")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: --latent_sise is not a flag of this recipe (did")
    wrong = hwzoo(tmp_path, "train", "vae", "--nproc=2", "--latent_size=0", ACCELERATE_USE_CPU="1")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --latent_size is 0; it must be in [1, inf)\n")
    failed = hwzoo(tmp_path, "train", "vae", "--nproc=2", "--output_dir=two", *halves, ACCELERATE_USE_CPU="1")
    assert failed.returncode == 2 and failed.stderr.startswith("error: --output_dir two is not empty")
