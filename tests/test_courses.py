"""The map of the courses: every command of it runs, at tiny size, its tests are there, and it counts right."""

import inspect
import json
import re
import shlex
from pathlib import Path

import pytest
import torch
from recipe_runs import load_recipe, shorten_scores

from hwzoo import hub, text
from hwzoo.errors import UsageError
from hwzoo.training import parse_arguments

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs" / "courses").glob("*.md"))
COMMAND = re.compile(r"`(?:accelerate launch|python) recipes/(\w+)\.py\b([^`]*)`")
TEST = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
MAKES = re.compile(r"outputs/[\w-]+")

IMAGES = """
    --dataset_name digits --max_train_steps 2 --train_batch_size 10 --num_test_samples 8 --checkpointing_steps 1
    --eval_steps 2 """
SMALL_GPT = "--config_d_model 16 --config_num_layers 1 --pretrain_steps 4 --max_predict_samples 6 "
# What makes each recipe tiny; it is given after the command's own flags and wins.
TINY = {
    "train_vae": IMAGES + """
        --encoder_hidden_sizes 8 --decoder_hidden_sizes 8 --latent_size 2 --num_importance_samples 2
        --num_iwae_images 8""",
    "train_gan": IMAGES + """
        --generator_hidden_size 12 --generator_channels 8 4 --discriminator_channels 4 6
        --discriminator_hidden_size 10 --grid_steps 1""",
    "train_continual": """
        --dataset_name digits --max_train_steps 2 --train_batch_size 10 --fisher_samples 4 --hidden_sizes 8
        --checkpointing_steps 2 --eval_steps 2""",
    "train_autoregressive": IMAGES + """
        --hidden_size 8 --num_layers 1 --head_hidden_size 8 --eval_batch_size 100 --mixed_precision no""",
    "train_vqvae": IMAGES + """
        --hidden_sizes 4 6 8 --num_residual_layers 1 --codebook_size 12 --code_size 3 --prior_hidden_size 8
        --prior_num_layers 1 --prior_num_heads 2 --num_continuous_steps 1 --num_search_images 2""",
    "train_simclr": """
        --dataset_name digits --max_train_steps 2 --train_batch_size 10 --eval_steps 2 --hidden_sizes 4 6
        --projection_hidden_size 8 --projection_size 6 --supervised_steps 1 --num_draws 2""",
    "train_textvae": """
        --max_train_steps 2 --train_batch_size 10 --embedding_size 4 --hidden_size 8 --latent_size 2
        --num_importance_samples 2""",
    "train_ddpm": IMAGES + """
        --block_out_channels 8 8 --layers_per_block 1 --norm_num_groups 4 --num_train_timesteps 25
        --num_inference_steps 2 --num_bound_images 4 --num_bound_timesteps 2""",
    "train_t5": """
        --max_steps 2 --per_device_train_batch_size 2 --eval_steps 2 --save_steps 2 --max_eval_samples 2
        --max_predict_samples 2 --generation_max_new_tokens 3 --num_beams 1 --config_d_model 16 --config_d_ff 16
        --config_num_layers 1 --config_num_decoder_layers 1 --config_num_heads 2 --compounds_per_word 0""",
    "explore_sampling": SMALL_GPT + "--num_draws 100 --num_lists 2 --num_digits 20",
    "classify_by_prompt": SMALL_GPT,
    "compare_prompts": SMALL_GPT + """
        --num_virtual_tokens 2 --max_steps 2 --per_device_train_batch_size 4 --generation_max_new_tokens 2""",
    "compare_summaries": "--max_predict_samples 2 --generation_max_new_tokens 3 --num_shown 1",
    "compare_checkpoints": "--num_samples 20",
    "estimate_divergence": "--max_train_steps 2 --num_eval_samples 50 --train_batch_size 8",
    "fit_kl": "--max_train_steps 2 --train_batch_size 8 --num_eval_samples 50 --targets potential_2 eight",
    "exact": "--num_eval_samples 2000 --num_repeats 4 --num_rings 20 --num_languages 1 --max_train_steps 2",
    "train_policy_gradient": "--max_train_steps 3 --seeds 0",
}  # fmt: skip
# The same for the runs of sweeps, by the recipe that they run.
SWEPT = {
    "continual": {"dataset_name": "digits", "max_train_steps": "1", "train_batch_size": "10", "hidden_sizes": "8"},
    "t5": {"max_steps": "2", "per_device_train_batch_size": "2", "max_predict_samples": "2", "config_d_model": "16"},
}
SWEPT["continual"] |= {"fisher_samples": "4"}
SWEPT["t5"] |= {"eval_steps": "2", "max_eval_samples": "2", "compounds_per_word": "0", "warmup_steps": "0"}
SWEPT["t5"] |= {"generation_max_new_tokens": "3"}
FILE = re.compile(r"`(?!fake_)(\w+\.(?:png|gif|html|jsonl))`")
AGAIN = ("the same command", "the same commands")


def rows_of(page: Path) -> list[list[str]]:
    """The cells of the rows of its tables, without their headings."""
    lines = [line for line in page.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip().removeprefix("|").removesuffix("|").split("|")] for line in lines]
    return [row for row in rows if row[0] not in ("question", "page") and not set(row[0]) <= set("- |")]


def commands() -> dict[str, set[str]]:
    """Every command of the map, and the files that its rows say it leaves."""
    found: dict[str, set[str]] = {}
    for row in (row for page in PAGES for row in rows_of(page)):
        said = COMMAND.findall(row[1]) or COMMAND.findall(row[2])
        if not said and row[1] in AGAIN:
            command = list(found)[-1]
        elif said:
            command = " ".join(f"{said[0][0]} {said[0][1]}".split())
        else:
            continue
        found.setdefault(command, set()).update(FILE.findall(row[2]))
    return found


COMMANDS = commands()
NAMES = [command.split()[0] for command in COMMANDS]
DEFAULT = ("train_vae", "train_continual", "train_policy_gradient", "estimate_divergence")


# Each is trained at this size by tests of its own.
COSTLY = "compare_prompts explore_sampling fit_kl train_autoregressive train_ddpm train_simclr train_textvae".split()


def mark_of(index: int):
    """By default few recipes, in the long tests each recipe once that is not costly, among the slow each command."""
    if NAMES[index] in NAMES[:index] or NAMES[index] in COSTLY:
        return pytest.mark.slow
    return () if NAMES[index] in DEFAULT else pytest.mark.long


RUNS = [pytest.param(command, marks=mark_of(index), id=command) for index, command in enumerate(COMMANDS)]


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with tiny data sets and models in place of those that a command names."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HWZOO_DATA_DIR", "data")
    shorten_scores(monkeypatch.setattr)
    documents = [
        {"document": f"We try {each}. It works. More follows.", "summary": f"{each} works"} for each in "abcdef"
    ]
    words = [{"task": "plural", "source": each, "target": f"{each}s"} for each in ("fox", "cat", "dog", "hat", "bee")]
    for folder, rows in (("data/scitldr", documents), ("xsum", documents), ("data/inflections", words)):
        Path(folder).mkdir(parents=True)
        for split in ("train", "validation", "test"):
            Path(folder, f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("answers.jsonl").write_text('{"index": 0, "prediction": "a works"}\n{"index": 1, "prediction": "b"}\n')
    torch.manual_seed(0)
    for name, architecture in (("gpt2", "causal"), ("t5", "seq2seq"), ("outputs/t5-inflections", "seq2seq")):
        model, tokenizer = text.new_base(architecture, 16, 1)
        hub.save(model, Path(name), also=(tokenizer,))
    return tmp_path


def tokens_of(command: str) -> tuple[str, list[str]]:
    """The recipe and its flags, with what the workplace holds in place of what is named."""
    name, *tokens = shlex.split(command)
    for told, there in (
        ("openai-community/gpt2", "gpt2"), ("google-t5/t5-small", "t5"), ("EdinburghNLP/xsum", "xsum"),
        ("FOLDER", "data"), ("recipes/configs/", f"{ROOT}/recipes/configs/"),
    ):  # fmt: skip
        tokens = [token.replace(told, there) for token in tokens]
    return name, ["digits" if token == "mnist" else token for token in tokens]


def parsed(command: str) -> tuple:
    """The recipe and the dataclasses of its flags, at tiny size."""
    name, tokens = tokens_of(command)
    recipe = load_recipe(name)
    types = [parameter.annotation for parameter in inspect.signature(recipe.main).parameters.values()]
    tiny = shlex.split(TINY.get(name, ""))
    arguments = parse_arguments(types, tokens + tiny)
    if hasattr(asked := arguments[0], "runs"):
        small = SWEPT[getattr(asked, "recipe", "continual")]
        runs = [dict(pair.split("=") for pair in spec.split()) | small for spec in asked.runs]
        if name == "compare_continual":  # the first and the last of many, one value of each
            runs = [{key: value.split(",")[0] for key, value in run.items()} for run in (runs[0], runs[-1])]
        asked.runs = [" ".join(f"{key}={value}" for key, value in run.items()) for run in runs]
        asked.seeds = [0]
    return recipe, arguments


def output_of(command: str) -> Path:
    return Path(parsed(command)[1][0].output_dir)


def run(command: str) -> Path:
    """Runs a command, after those whose outputs it takes; its output folder."""
    recipe, arguments = parsed(command)
    for needed in MAKES.findall(command.split("--output_dir")[0]):
        if not Path(needed).exists():
            makers = [other for other in COMMANDS if other.startswith("train") and output_of(other) == Path(needed)]
            assert makers, f"{command}: no command of the map makes {needed}"
            run(makers[-1])
    assert recipe.main(*arguments)
    return Path(arguments[0].output_dir)


@pytest.mark.parametrize("command", RUNS)
def test_a_command_of_the_map_runs_and_leaves_what_it_says(command, workplace):
    folder = run(command)
    assert {"all_results.json", "comparison.json"} & {path.name for path in folder.iterdir()}
    missing = [name for name in COMMANDS[command] if not (folder / name).is_file()]
    assert not missing, (
        f"{command} leaves no {', '.join(missing)}, but {sorted(path.name for path in folder.iterdir())}"
    )


def test_a_command_that_is_gone_is_found(workplace):
    with pytest.raises((FileNotFoundError, UsageError)):
        run("train_nothing")
    with pytest.raises(UsageError, match="--los is not a flag"):
        run("train_gan --los minimax")
    with pytest.raises(AssertionError, match="no command of the map makes outputs/nothing"):
        run("compare_summaries --data_dir FOLDER --models a=outputs/nothing")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_tests_that_derive_are_there(page):
    for file, name in TEST.findall(page.read_text(encoding="utf-8")):
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.M), f"{file}::{name}"


PRESET = re.compile(r"`accelerate launch recipes/\w+\.py --config (recipes/configs/\w+/\w+\.yaml)`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_was_not_run_is_what_its_preset_says(page):
    for row in rows_of(page):
        for preset in PRESET.findall(row[1]):
            header = (ROOT / preset).read_text(encoding="utf-8")
            assert row[3].startswith("not run") == ("# Not run" in header), preset


def counts(page: Path) -> list[int]:
    """Questions in all, with a command, with a test of the derivation, without."""
    rows = rows_of(page)
    assert rows and all(len(row) == 5 for row in rows), [row for row in rows if len(row) != 5]
    asked = sum(bool(COMMAND.search(row[1])) or row[1] in AGAIN for row in rows)
    tested = sum(bool(TEST.search(row[1])) for row in rows)
    return [len(rows), asked, tested, len(rows) - asked - tested]


def test_the_map_counts_right():
    told = {}
    for row in rows_of(ROOT / "docs" / "courses.md"):
        page = re.search(r"\(courses/(\w+)\.md\)", row[0])
        told[page[1] if page else "all"] = [int(cell) for cell in row[1:]]
    found = {page.stem: counts(page) for page in PAGES}
    assert told == found | {"all": [sum(column) for column in zip(*found.values(), strict=True)]}
