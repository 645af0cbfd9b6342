import re
import tracemalloc
from dataclasses import asdict, dataclass, fields, make_dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Literal, get_args

import every_recipe
import pytest
import torch
from recipe_runs import RECIPES, load_recipe

from hwzoo.errors import UsageError
from hwzoo.training import (
    GIVEN,
    Flags,
    RunArguments,
    arguments,
    flag,
    made_by,
    parse_arguments,
    record_of,
    recorded,
    save_settings,
    with_defaults,
)
from hwzoo.training.arguments import has_bfloat16
from hwzoo.training.seq2seq import Seq2SeqRunArguments


@dataclass
class Own:
    sizes: list[int] = flag([1, 2], "sizes")
    kind: Literal["no", "yes"] = flag("yes", "kind")
    rate: float | None = flag(None, "rate")


def parse(*argv):
    return parse_arguments([RunArguments, Own], list(argv))


def test_defaults_and_types():
    run, own = parse()
    assert (run.dataset_name, run.max_train_steps, own.sizes, own.rate) == ("digits", None, [1, 2], None)
    run, own = parse("--sizes", "3", "4", "--rate=1e-3", "--use_ema", "--report_to", "tensorboard", "wandb")
    assert (own.sizes, own.rate, run.use_ema, run.report_to) == ([3, 4], 1e-3, True, ["tensorboard", "wandb"])


def test_a_range_is_metadata_of_the_field_and_shown_by_help(capsys):
    flags = make_dataclass("Ranged", [("rate", float, flag(0.5, "of decay", "[0, 1)"))], bases=(Flags,))
    assert dict(fields(flags)[0].metadata) == {"help": "of decay", "range": "[0, 1)"}
    with pytest.raises(SystemExit):
        parse_arguments([flags], ["--help"])
    assert "  --rate [0, 1)  of decay (default: 0.5)\n" in capsys.readouterr().out


def test_a_recipe_has_defaults_of_its_own_for_flags_that_all_have():
    changed = with_defaults(RunArguments, ema_decay=0.5, lr_scheduler="cosine")
    (run,) = parse_arguments([changed], [])
    assert asdict(run) == asdict(RunArguments()) | {"ema_decay": 0.5, "lr_scheduler": "cosine"}
    for wrong in (["--ema_decay=1"], ["--lr_scheduler=sine"]):
        with pytest.raises(UsageError, match=wrong[0].split("=")[0]):
            parse_arguments([changed], wrong)
    with pytest.raises(ValueError, match="RunArguments has no flag ema$"):
        with_defaults(RunArguments, ema=0.5)


def test_a_preset_goes_through_the_same_checks_and_the_command_line_wins(tmp_path):
    preset = tmp_path / "p.yaml"
    preset.write_text(
        "learning_rate: 1e-3\nkind: no\nsizes: [5, 6]\nuse_ema: true\nseed: 3\nexpected: {test_x: [1, 2]}\n"
    )
    run, own = parse(f"--config={preset}", "--seed", "4", "--sizes", "7")
    assert (run.learning_rate, own.kind, own.sizes, run.use_ema, run.seed) == (1e-3, "no", [7], True, 4)
    assert run.asked == {"config", "learning_rate", "use_ema", "seed"} and own.asked == {"kind", "sizes"}
    assert parse()[0].asked == parse()[1].asked == set()


@pytest.mark.parametrize(
    ("line", "flags", "name"),
    [
        ("mixed_precision: bf16", RunArguments, "mixed_precision"), ("bf16: True", Seq2SeqRunArguments, "bf16"),
        ("bf16: yes", Seq2SeqRunArguments, "bf16"), ("bf16: 1", Seq2SeqRunArguments, "bf16"),
        ("bf16: [y]", Seq2SeqRunArguments, "bf16"),
    ],
)  # fmt: skip
def test_a_presets_bfloat16_is_for_processors_that_have_it(tmp_path, monkeypatch, caplog, line, flags, name):
    preset = tmp_path / "p.yaml"
    preset.write_text(f"{line}\noutput_dir: run\nexpected: {{test_x: [1, 2]}}\n")

    def value(*argv, launcher=None):
        (parsed,) = parse_arguments([flags], [f"--config={preset}", *argv], launcher=launcher)
        # Either way it is the preset.
        assert not parsed.changed and parsed.expected == {"test_x": (1, 2)}
        return getattr(parsed, name)

    arguments._tell_once.cache_clear()
    monkeypatch.setattr(arguments, "has_bfloat16", lambda: True)
    wanted = value()
    assert wanted in ("bf16", True) and not caplog.records
    monkeypatch.setattr(arguments, "has_bfloat16", lambda: False)
    assert value() in ("no", False)
    (record,) = caplog.records
    message = record.getMessage()
    asking = re.search(r"--\S+", message).group()
    assert message.startswith("float32 in place of the preset's bfloat16")
    # What the line names, or the launcher, asks for it all the same.
    assert value(asking) == wanted and value(launcher={"mixed_precision": "bf16"}) == wanted
    # The next run of a sweep says it no more, another process of the same run not at all.
    assert value() in ("no", False) and len(caplog.records) == 1
    caplog.clear()
    arguments._tell_once.cache_clear()
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert value() in ("no", False) and not caplog.records


@pytest.mark.parametrize("has", [False, True])
def test_a_preset_without_bfloat16_is_another_with_it(has, tmp_path, monkeypatch):
    monkeypatch.setattr(arguments, "has_bfloat16", lambda: has)
    preset = tmp_path / "p.yaml"
    for line, given, changed in (
        ("bf16: no", "--bf16", True), ("bf16: no", "--bf16=no", False), ("bf16: yes", "--bf16=no", has),
        ("bf16: yes", "--learning_rate=0.5", True),
    ):  # fmt: skip
        preset.write_text(f"{line}\nlearning_rate: 0.25\n")
        (run,) = parse_arguments([Seq2SeqRunArguments], [f"--config={preset}", given])
        assert run.changed == changed, (line, given)
    preset.write_text("bf16: maybe\n")
    with pytest.raises(UsageError, match="p.yaml: --bf16: "):
        parse_arguments([Seq2SeqRunArguments], [f"--config={preset}"])


def test_has_bfloat16_asks_torch(monkeypatch):
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert has_bfloat16()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert not has_bfloat16()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert has_bfloat16()


@pytest.mark.parametrize("has_instructions", [False, True])
def test_has_bfloat16_of_a_gpu_that_only_emulates_it_is_false(monkeypatch, has_instructions):
    monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    emulated = lambda including_emulation=True: has_instructions or including_emulation  # noqa: E731
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", emulated)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: not has_instructions)
    assert has_bfloat16() == has_instructions
    # Trained on the CPU all the same, it is the processor that counts.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    assert has_bfloat16() != has_instructions


def test_words_of_a_list_are_some_of_the_known_ones(capsys):
    flags = make_dataclass("Flags_", [("how", list[str], flag(["a"], "ways", some_of=["a", "b"]))], bases=(Flags,))
    assert flags().how == ["a"] and flags(how=["b", "a"]).how == ["b", "a"]
    with pytest.raises(UsageError, match="^--how has c; it must be some of a, b$"):
        flags(how=["a", "c"])
    with pytest.raises(SystemExit):
        parse_arguments([flags], ["--help"])
    assert "ways, some of a, b" in capsys.readouterr().out


@pytest.mark.parametrize("given", ["--num_train_epochs=2", "--max_train_steps=7"])
def test_epochs_or_steps_of_the_command_line_displace_the_presets(tmp_path, given):
    preset = tmp_path / "p.yaml"
    preset.write_text("num_train_epochs: 9\n" if "steps" in given else "max_train_steps: 9\n")
    run, _ = parse(f"--config={preset}", given)
    assert run.total_steps(steps_per_epoch=10) == (7 if "steps" in given else 20)


def test_total_steps():
    assert RunArguments(num_train_epochs=0.25).total_steps(10) == 3
    assert RunArguments(num_train_epochs=0.07).total_steps(100) == 7
    assert RunArguments(num_train_epochs=1.1).total_steps(10) == 11
    assert RunArguments(max_train_steps=5).total_steps(10) == 5
    assert RunArguments(num_train_epochs=2, max_train_steps=5).total_steps(10) == 20  # a recipe's default gives way
    assert RunArguments().total_steps(10) == 10


@pytest.mark.parametrize("given", ["--num_train_epochs=2", "--max_train_steps=7", ""])
@pytest.mark.parametrize("default", ["num_train_epochs", "max_train_steps"])
def test_epochs_or_steps_that_are_given_displace_a_recipes_default(default, given, tmp_path):
    defaults = {"num_train_epochs": None, "max_train_steps": None} | {default: 4}
    fields = [(name, float | None, flag(value, "")) for name, value in defaults.items()]
    recipes_own = make_dataclass("Run", fields, bases=(RunArguments,))
    (run,) = parse_arguments([recipes_own], [given] if given else [])
    expected = {"num_train_epochs": None, "max_train_steps": None} | {default: 4}
    if given:
        name, value = given[2:].split("=")
        expected = dict.fromkeys(expected) | {name: int(value)}
    assert {name: getattr(run, name) for name in expected} == expected
    save_settings(tmp_path / "preset.yaml", run)
    (again,) = parse_arguments([recipes_own], [f"--config={tmp_path / 'preset.yaml'}"])
    assert again.total_steps(10) == run.total_steps(10)


OF_A_TRY = {"resume_from_checkpoint": "latest", "push_to_hub": True, "hub_model_id": "me/x", "hub_private_repo": True,
            "overwrite_output_dir": True, "report_to": ["tensorboard"]}  # fmt: skip


def test_the_name_of_a_configuration_is_no_path(tmp_path, monkeypatch):
    """Also where a folder is called so."""
    (tmp_path / "letters").mkdir(), (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    save_settings(Path("run/preset.yaml"), RunArguments(output_dir="run", dataset_config="letters"))
    assert "dataset_config: letters\n" in Path("run/preset.yaml").read_text()
    monkeypatch.chdir(tmp_path.parent)
    path = tmp_path / "run" / "preset.yaml"
    (again,) = parse_arguments([RunArguments], [f"--config={path}"])
    assert again.dataset_config == recorded(path)["dataset_config"] == "letters"


def test_a_preset_finds_what_its_run_found_from_any_folder(tmp_path, monkeypatch):
    for folder in ("project/data/mine", "project/idx", "project/outputs/vae", "project/outputs/run", "project/mnist"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    given = {"data_dir": "idx", "model_name_or_path": "outputs/vae", "max_train_steps": 3, **OF_A_TRY}
    run = RunArguments(output_dir="outputs/run", dataset_name="data/mine", **given)
    save_settings(Path("outputs/run/preset.yaml"), run)
    (again,) = parse_arguments([RunArguments], ["--config=outputs/run/preset.yaml", "--output_dir=new"])
    changed = dict.fromkeys(OF_A_TRY) | {"output_dir": None, "config": None}
    assert asdict(again) | changed == asdict(run) | changed
    assert all(getattr(again, name) == getattr(RunArguments(), name) for name in OF_A_TRY)
    assert again.output_dir == "new"
    monkeypatch.chdir(tmp_path)
    (again,) = parse_arguments([RunArguments], ["--config=project/outputs/run/preset.yaml"])
    assert (again.dataset_name, again.data_dir) == ("project/data/mine", "project/idx")
    assert again.model_name_or_path == "project/outputs/vae"
    assert recorded(Path("project/outputs/run/preset.yaml"))["dataset_name"] == "project/data/mine"
    (tmp_path / "project").rename(tmp_path / "moved")
    (again,) = parse_arguments([RunArguments], [f"--config={tmp_path}/moved/outputs/run/preset.yaml"])
    assert again.dataset_name == f"{tmp_path}/moved/data/mine"


def test_a_record_on_its_way_says_what_it_says_in_its_place(tmp_path, monkeypatch):
    for folder in ("pets", "idx", "outputs/vae/.final"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    preset = Path("outputs/vae/preset.yaml")
    save_settings(preset, RunArguments(output_dir="outputs/vae", dataset_name="pets", data_dir="idx"))
    in_its_place = recorded(preset)
    preset.rename("outputs/vae/.final/preset.yaml")
    assert record_of("outputs/vae") == in_its_place
    assert (in_its_place["dataset_name"], in_its_place["data_dir"]) == ("pets", "idx")


@pytest.mark.parametrize("name", ["mnist", "owner/images", "/absolute"])
def test_names_of_data_stay_names_in_a_preset(name, tmp_path, monkeypatch):
    """mnist is the data set, also where a folder of that name lies."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    save_settings(tmp_path / "preset.yaml", RunArguments(output_dir=str(tmp_path), dataset_name=name))
    (again,) = parse_arguments([RunArguments], [f"--config={tmp_path / 'preset.yaml'}"])
    assert again.dataset_name == name


def test_a_folder_with_the_name_of_a_data_set_stays_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mnist").mkdir()
    save_settings(tmp_path / "preset.yaml", RunArguments(output_dir=".", dataset_name="./mnist"))
    assert "dataset_name: ./mnist\n" in (tmp_path / "preset.yaml").read_text()
    (again,) = parse_arguments([RunArguments], ["--config=preset.yaml"])
    assert again.dataset_name == "./mnist"


@pytest.mark.parametrize("given", ["other", "./other"])
def test_paths_in_a_list_are_found_from_any_folder(tmp_path, monkeypatch, given):
    for folder in ("project/other", "project/outputs"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "project/made=here.jsonl").touch()
    monkeypatch.chdir(tmp_path / "project")
    settings = load_recipe("compare_checkpoints").Settings
    systems = load_recipe("compare_summaries").Systems
    asked = {"models": [f"mine={given}", "hub=me/t5", f"at={tmp_path}"], "predictions": ["theirs=made=here.jsonl"]}
    save_settings(Path("outputs/p.yaml"), settings(output_dir="outputs", others=["mnist", given]), systems(**asked))
    monkeypatch.chdir(tmp_path)
    read, named = parse_arguments([settings, systems], ["--config=project/outputs/p.yaml"])
    assert read.others == ["mnist", "project/other"]
    assert named.models == ["mine=project/other", "hub=me/t5", f"at={tmp_path}"]
    assert named.predictions == ["theirs=project/made=here.jsonl"]


def test_a_path_of_a_list_that_holds_an_equals_sign_needs_no_name(tmp_path):
    (tmp_path / "p.yaml").write_text("models: [./seed=3, ../seed=4]\n")
    (page,) = parse_arguments([load_recipe("page").Settings], [f"--config={tmp_path / 'p.yaml'}"])
    assert page.models == [f"{tmp_path}/seed=3", f"{tmp_path.parent}/seed=4"]


WRITE_PRESETS = [
    each.stem for each in RECIPES.glob("*.py") if re.search("save_settings|save_results", each.read_text())
]


@pytest.mark.parametrize("recipe", sorted(WRITE_PRESETS))
def test_the_preset_of_a_recipes_defaults_gives_them_again(recipe, tmp_path):
    types = [kind for kind in load_recipe(recipe).main.__annotations__.values() if kind is not dict]
    flags = parse_arguments(types, [f"--output_dir={tmp_path}"])
    save_settings(tmp_path / "preset.yaml", *flags)
    again = parse_arguments(types, [f"--config={tmp_path / 'preset.yaml'}", f"--output_dir={tmp_path}"])
    assert [asdict(each) | {"config": None} for each in again] == [asdict(each) | {"config": None} for each in flags]


def test_an_empty_list_of_a_preset_is_the_default_where_that_is_empty(tmp_path):
    (tmp_path / "p.yaml").write_text("others: []\n")
    (read,) = parse_arguments([load_recipe("compare_checkpoints").Settings], [f"--config={tmp_path / 'p.yaml'}"])
    assert read.others == []
    (tmp_path / "p.yaml").write_text("sizes: []\n")
    with pytest.raises(UsageError, match="p.yaml: --sizes: expected at least one argument"):
        parse(f"--config={tmp_path / 'p.yaml'}")


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ("train_vae", "encoder_hidden_sizes"), ("train_vae", "decoder_hidden_sizes"),
        ("train_continual", "hidden_sizes"),
    ],
)  # fmt: skip
def test_the_widths_of_a_linear_model_are_an_empty_list(recipe, name, tmp_path):
    types = list(load_recipe(recipe).main.__annotations__.values())[:-1]
    path = tmp_path / "p.yaml"

    def value(*argv):
        return next(getattr(each, name) for each in parse_arguments(types, list(argv)) if hasattr(each, name))

    assert value() != [] == value(f"--{name}") == value(f"--{name}", "--seed=1")
    save_settings(path, *parse_arguments(types, [f"--{name}", f"--output_dir={tmp_path}"]))
    assert f"{name}: []\n" in path.read_text() and value(f"--config={path}") == []
    assert value(f"--config={path}", f"--{name}", "3", "4") == [3, 4]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('seed: "--"', "seed is '--'; -- is no value"),
        ('output_dir: "--"', "output_dir is '--'; -- is no value"),
        ('dataset_name: "--"', "dataset_name is '--'; -- is no value"),
        ('source_prefix: "--"', "source_prefix is '--'; -- is no value"),
        ('report_to: ["--"]', "report_to is ['--']; -- is no value"),
        ("bf16: []", "bf16 is []; it must be true or false"),
        ("seed: []", "--seed: expected one argument"),
    ],
)
def test_a_preset_holds_a_value_for_each_flag(text, told, tmp_path):
    """argparse leaves `--` out, and takes a switch without a value for true."""
    types = list(load_recipe("train_t5").main.__annotations__.values())[:-1]
    (tmp_path / "p.yaml").write_text(f"{text}\n")
    with pytest.raises(UsageError) as error:
        parse_arguments(types, [f"--config={tmp_path / 'p.yaml'}"])
    assert str(error.value) == f"{tmp_path / 'p.yaml'}: {told}"


@pytest.mark.parametrize(
    ("interval", "inside", "outside"),
    [
        ("[0, 1)", [0, 0.5, None, [0.1, 0.2]], [1, -1e-9, float("nan"), [0.1, 2]]),
        ("(0, inf)", [1e-9, 1e300], [0, float("inf"), float("nan")]),
        ("[1, 3]", [1, 3, (1, 2, 3)], [0, 4]),
    ],
)
def test_ranges(interval, inside, outside):
    @dataclass
    class Ranged(Flags):
        rate: float | None = flag(None, "rate", interval)

    for value in inside:
        Ranged(rate=value)
    for value in outside:
        with pytest.raises(UsageError, match=r"--rate is .*; it must be in "):
            Ranged(rate=value)


@pytest.mark.parametrize("name", ["dataset_name", "output_dir", "data_dir", "model_name_or_path", "config"])
def test_a_name_is_not_empty(name):
    for value in ("", " "):
        with pytest.raises(UsageError, match=f"--{name} is '{value}'; it must not be empty"):
            RunArguments(**{name: value})


@pytest.mark.parametrize("given", [".", "./", "../model/", "{folder}/", "below/.."])
def test_a_model_is_called_by_the_name_of_its_folder(tmp_path, monkeypatch, given):
    folder = tmp_path / "model"
    (folder / "below").mkdir(parents=True)
    monkeypatch.chdir(folder)
    name = Path(RunArguments(model_name_or_path=given.format(folder=folder)).model_name_or_path)
    assert name.name == "model" and name.resolve() == folder.resolve()
    assert RunArguments(model_name_or_path="owner/model").model_name_or_path == "owner/model"
    assert RunArguments(model_name_or_path="../model").model_name_or_path == "../model"


def test_a_text_may_be_empty():
    @dataclass
    class Texts(Flags):
        source_prefix: str | None = flag(None, "prefix")
        content_free: list[str] = flag([], "texts")

    assert Texts("", ["", "N/A"]) == Texts("", ["", "N/A"])


def test_words_can_be_written():
    for value in ("a\0b", "\ud800"):
        with pytest.raises(UsageError, match="--dataset_name is .*; it holds what no text in a file can"):
            RunArguments(dataset_name=value)
    RunArguments(dataset_name="Größe 猫", output_dir="猫", data_dir="\udcff")  # data may lie under any bytes
    for value in ("\0", "\ud800", "\udcff"):  # safetensors reads no weights from a folder like the last
        with pytest.raises(UsageError, match="--output_dir is .*; it holds what no text in a file can"):
            RunArguments(output_dir=value)


def test_a_name_is_no_longer_than_a_file_system_takes():
    RunArguments(dataset_name="/".join(["x" * 255] * 9), output_dir="x" * 255, data_dir="\udcff" * 255)
    for name in ("dataset_name", "output_dir", "model_name_or_path", "resume_from_checkpoint"):
        for value in ("x" * 256, "a/" + "ä" * 128 + "/b"):
            with pytest.raises(UsageError, match=f"^--{name} is '[^ ]{{9,30}}'; a name has at most 255 bytes$"):
                RunArguments(**{name: value})


@pytest.mark.parametrize(
    ("text", "given", "expected", "alone"),
    [
        ("max_train_steps: 0", "--model_name_or_path=out", 0, "--max_train_steps is 0 without --model_name_or_path"),
        ("guidance_scale: 2.0", "--conditional", 2.0, "--guidance_scale is 2.0; without --conditional it must be 1"),
        ("push_to_hub: true", "--hub_model_id=me/it", True, "--push_to_hub is given without --hub_model_id"),
        ("train_batch_size: 0", "--train_batch_size=7", 7, "--train_batch_size is 0; it must be in [1, inf)"),
    ],
)
def test_what_a_preset_lacks_may_be_given_beside_it(text, given, expected, alone, tmp_path):
    """It is blamed for what the command line does not mend, and for nothing else."""
    types = [kind for kind in load_recipe("train_ddpm").main.__annotations__.values() if kind is not dict]
    (tmp_path / "p.yaml").write_text(f"{text}\n")
    config = f"--config={tmp_path / 'p.yaml'}"
    values = {name: value for each in parse_arguments(types, [config, given]) for name, value in vars(each).items()}
    assert values[text.split(":")[0]] == expected
    for argv, told in (
        ([], f"{tmp_path / 'p.yaml'}: {alone}"),
        (["--eval_batch_size=3"], f"{tmp_path / 'p.yaml'}: {alone}"),
        ([given, "--learning_rate=-1"], "--learning_rate is -1.0; it must be in (0, inf)"),
        ([given, "--sead=1"], "--sead is not a flag of this recipe"),
    ):
        with pytest.raises(UsageError) as error:
            parse_arguments(types, [config, *argv])
        assert str(error.value).startswith(told)


def test_a_list_of_a_preset_holds_no_flags(tmp_path):
    (tmp_path / "p.yaml").write_text("report_to: [none, --push_to_hub, --hub_model_id=me/it]\n")
    with pytest.raises(UsageError, match=r"p.yaml: report_to is \[.*; none of a list of values may start with --"):
        parse(f"--config={tmp_path / 'p.yaml'}")


def test_integers_are_those_of_torch():
    RunArguments(eval_batch_size=2**63 - 1)
    with pytest.raises(UsageError, match="--eval_batch_size is 9223372036854775808; it must be at most"):
        RunArguments(eval_batch_size=2**63)


def bomb(depth: int) -> str:
    """Aliases that unfold to ten to the power of `depth` scalars."""
    lines = ["a0: &a0 [x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, depth + 1)]
    return "\n".join(lines) + "\n"


# What a preset holds, and what is said of it.
BAD_PRESETS = {
    "key twice": ("seed: 1\nrate: 2.0\nseed: 3\n", "seed stands there twice .* line 3, column 1"),
    "key and value twice": ("seed: 1\nseed: 1\n", "seed stands there twice .* line 2"),
    "key twice, once quoted": ('seed: 1\n"seed": 1\n', "seed stands there twice .* line 2"),
    "key twice inside": ("expected:\n  test_x: [1, 2]\n  test_x: [1, 3]\n", "test_x stands there twice .* line 3"),
    "alias": ("seed: &s 1\nsizes: [*s]\n", "a preset has no aliases .* line 2, column 9"),
    "merge": ("expected: &e {a: 1}\n<<: *e\n", "a preset has no aliases .* line 2"),
    "ten billion": (bomb(9), "a preset has no aliases .* line 2"),
    "alias of itself": ("sizes: &a [*a]\n", "a preset has no aliases"),
    "lists in one another": ("expected: " + "[" * 100_000, "nested too deeply .* line 1"),
    "mappings in one another": ("expected: " + "{a: " * 100_000, "nested too deeply .* line 1"),
    "blocks in one another": ("".join(f"{' ' * i}a:\n" for i in range(1000)), "nested too deeply .* line 20"),
    "list for a key": ("? [a, b]\n: c\n", "unhashable key"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "expected a single document"),
}


@pytest.mark.parametrize(("text", "named"), BAD_PRESETS.values(), ids=BAD_PRESETS)
def test_a_preset_says_each_thing_once_and_no_more(tmp_path, text, named):
    (tmp_path / "p.yaml").write_text(text)
    tracemalloc.start()
    try:
        with pytest.raises(UsageError, match=f"^--config .*p.yaml is not valid YAML: .*{named}") as error:
            parse(f"--config={tmp_path / 'p.yaml'}")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(str(error.value).splitlines()) == 1 and peak < 20e6


@pytest.mark.parametrize("value", ["-1e-3", "-.5", "-2.5E+3", "-inf"])
def test_a_negative_number_is_a_value(value):
    assert parse("--rate", value)[1].rate == float(value)


def test_a_list_may_hold_negative_numbers_anywhere():
    for sizes in ([-1, 2], [2, -1], [-1, -2]):
        assert parse("--sizes", *map(str, sizes))[1].sizes == sizes


def test_words_of_a_list_may_begin_as_a_negative_number(tmp_path):
    labels = load_recipe("classify_by_prompt").Settings
    for given in (["-1=negative", "1=positive"], ["1=positive", "-1=negative"]):
        (tmp_path / "p.yaml").write_text(f"labels: [{', '.join(given)}]\n")
        for argv in (["--labels", *given], [f"--config={tmp_path / 'p.yaml'}"]):
            assert parse_arguments([labels], argv)[0].labels == given
    rewards = load_recipe("train_policy_gradient").Settings
    assert parse_arguments([rewards], ["--rewards", "0/-1", "-1/-2"])[0].rewards == ["0/-1", "-1/-2"]


def test_a_dash_before_letters_is_a_flag(tmp_path):
    (tmp_path / "p.yaml").write_text("report_to: [none, -x]\n")
    for argv in (["-x"], ["--sizes", "1", "-x"], [f"--config={tmp_path / 'p.yaml'}"]):
        with pytest.raises(UsageError, match="-x is not a flag of this recipe; --help lists them$"):
            parse(*argv)


def test_a_negative_number_is_a_value_of_config_too_and_none_without_a_flag():
    with pytest.raises(UsageError, match="^--config -1e-3: no such file"):
        parse("--config", "-1e-3")
    with pytest.raises(UsageError, match="^-1 is not a flag of this recipe"):
        parse("-1")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("learning_rat", "learning_rate"), ("lr", "learning_rate"), ("epochs", "num_train_epochs"),
        ("batch_size", "eval_batch_size or --train_batch_size"),
    ],
)  # fmt: skip
def test_an_unknown_flag_suggests_what_was_meant(given, meant):
    with pytest.raises(UsageError, match=rf"--{given} is not a flag .* \(did you mean --{meant}\?\);"):
        parse_arguments([RunArguments], [f"--{given}=1"])


@dataclass
class OfAModel(Flags):
    FIRST = "model_name_or_path"

    model_name_or_path: str | None = flag(None, "folder or Hub id")
    num_samples: int = flag(1, "how many")


def test_what_a_recipe_is_about_may_come_first():
    for argv in (["me/vae", "--num_samples", "3"], ["--num_samples", "3", "--model_name_or_path", "me/vae"]):
        (parsed,) = parse_arguments([OfAModel], argv)
        assert (parsed.model_name_or_path, parsed.num_samples) == ("me/vae", 3)
    with pytest.raises(UsageError, match="--model_name_or_path is given twice, as me/vae"):
        parse_arguments([OfAModel], ["me/vae", "--model_name_or_path=me/gan"])
    with pytest.raises(UsageError, match="'me/gan' is not expected"):
        parse_arguments([OfAModel], ["me/vae", "me/gan"])


def test_what_is_normal_is_told_of_the_preset_as_it_stands(tmp_path, monkeypatch):
    types = list(load_recipe("train_vae").main.__annotations__.values())[:-1]

    def run(*argv, **kwargs):
        return parse_arguments(types, list(argv), **kwargs)[0]

    assert run("--seed=3").expected and run("--config=digits", "--seed=3").expected
    assert not run("--learning_rate=0.1").expected
    launched = {"launcher": {"gradient_accumulation_steps": "4"}}
    assert run(**launched).gradient_accumulation_steps == 4 and not run(**launched).expected
    assert not run("--config=cs236", "--max_train_steps=5000").expected  # that of runs without a preset
    assert run("--config=cs236", "--max_train_steps=20000").expected
    captions = {made_by(run(*argv), SimpleNamespace(name="digits")) for argv in (
        ["--config=cs236"], ["--config=cs236", "--latent_size=2"], ["--latent_size=2"], ["--config=cs236", "--seed=1"],
        ["--config=cs236", "--train_batch_size=100", "--checkpoints_total_limit=1"],  # as the preset says
    )}  # fmt: skip
    assert captions == {
        "vae on digits, preset cs236, seed 0", "vae on digits, preset cs236, changed, seed 0", "vae on digits, seed 0",
        "vae on digits, preset cs236, seed 1",
    }  # fmt: skip
    of_t5 = list(load_recipe("train_t5").main.__annotations__.values())[:-1]
    for argv, changed in ((["--eval_steps=7500"], True), (["--save_steps=100"], False), (["--max_steps=1500"], True)):
        parsed = parse_arguments(of_t5, ["--config=inflections", *argv])
        assert (parsed[0].changed, not parsed[0].expected) == (changed, changed), argv
    monkeypatch.setenv("WORLD_SIZE", "2")  # of so many batches a step
    assert not run().expected and run("--config=digits").changed


def test_a_flag_that_has_no_effect_beside_the_others_is_told_once(caplog, monkeypatch):
    arguments._tell_once.cache_clear()

    def told(*argv, types=(RunArguments,)):
        caplog.clear()
        parse_arguments(list(types), list(argv))
        return [record.getMessage() for record in caplog.records]

    assert told("--ema_decay=0.9") == ["--ema_decay has no effect: --use_ema is false"]
    assert told("--ema_decay=0.9") == []  # another run of a sweep
    assert told("--lr_warmup_steps=5", "--lr_scheduler=constant") == [
        "--lr_warmup_steps has no effect: --lr_scheduler is constant"
    ]
    arguments._tell_once.cache_clear()
    assert told("--use_ema", "--ema_decay=0.9", "--lr_warmup_steps=5", "--lr_scheduler=linear") == []
    assert told() == [] and told("--ema_decay=0.999", "--lr_warmup_steps=0") == []  # nor is a default
    assert told("--resize=pad", "--image_size=28") == [] and told("--resize=crop") == []
    assert told("--resize=pad") == ["--resize has no effect: --image_size is none"]
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert told("--ema_decay=0.9") == []


@pytest.mark.parametrize("given", ["--stop_gradient=false", "--no_stop_gradient", "--no-stop-gradient"])
def test_a_flag_that_is_switched_off_is_given(given, caplog):
    arguments._tell_once.cache_clear()
    types = list(load_recipe("train_simclr").main.__annotations__.values())[:-1]
    assert set().union(*(each.asked for each in parse_arguments(types, [given]))) == {"stop_gradient"}
    assert caplog.messages == ["--stop_gradient has no effect: --loss is nt_xent"]


def test_what_a_trained_model_decides_is_not_said_to_have_no_effect(caplog):
    arguments._tell_once.cache_clear()
    flags = load_recipe("train_autoregressive").Model
    types = [RunArguments, flags]
    parse_arguments(types, ["--dilations", "2", "--model_name_or_path=somewhere"])
    assert not caplog.records
    parse_arguments(types, ["--dilations", "1"])
    assert not caplog.records
    parse_arguments(types, ["--dilations", "2"])
    assert caplog.messages == ["--dilations has no effect: --network is patch_transformer"]
    # So is what a flag of the method needs of the model.
    types = list(load_recipe("train_vqvae").main.__annotations__.values())[:-1]
    without_effect = ["--prior=uniform", "--prior_share=0.3", "--temperature=0.1"]
    parse_arguments(types, [*without_effect, "--model_name_or_path=somewhere"])
    assert len(caplog.messages) == 1
    parse_arguments(types, without_effect)
    assert caplog.messages[1:] == [
        f"--{name} has no effect: --prior is uniform" for name in ("prior_share", "temperature")
    ]
    caplog.records.pop(), caplog.records.pop()
    # What is not of the model is told there too, names as they are.
    base = load_recipe("explore_sampling").Base
    parse_arguments([base], ["--pretrain_steps=9", "--model_name_or_path=Some/Where"])
    assert caplog.messages[1] == "--pretrain_steps has no effect: --model_name_or_path is Some/Where"
    types = [RunArguments, flags]
    parse_arguments(types, ["--ema_decay=0.9", "--model_name_or_path=somewhere"])
    assert caplog.messages[2:] == ["--ema_decay has no effect: --use_ema is false"]
    # Images are read as those of its training where no data is given.
    types = [load_recipe("evaluate_generator").Settings]
    parse_arguments(types, ["--resize=pad", "--model_name_or_path=somewhere"])
    assert len(caplog.messages) == 3
    parse_arguments(types, ["--resize=pad", "--model_name_or_path=somewhere", "--dataset_name=mnist"])
    assert caplog.messages[3:] == ["--resize has no effect: --image_size is none"]


@pytest.mark.parametrize("recipe", sorted(every_recipe.FLAGS))
def test_a_flag_depends_on_flags_of_its_recipe_and_values_they_can_have(recipe):
    types = [kind for kind in load_recipe(recipe).main.__annotations__.values() if kind is not dict]
    flags = {each.name: each for kind in types for each in fields(kind)}
    for each in flags.values():
        for other, allowed in each.metadata.get("only", {}).items():
            choices = get_args(flags[other].type)
            given_or_not = allowed in ((True,), (None,)) or isinstance(allowed, range) or allowed is GIVEN
            assert given_or_not or set(allowed) < set(choices), other
