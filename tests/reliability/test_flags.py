"""A resumed run shares every flag that decides its steps: another value is refused, or changes no bit."""

import shlex
from dataclasses import fields
from typing import Any, get_args, get_origin

import every_recipe
import pytest
from every_recipe import weights_of
from recipe_runs import checkpoint, checkpoint_state, load_recipe, same, stopped_at

from hwzoo.training import Checkpoint

# Flags whose other value has to fit the run; the rest are changed by their type.
OTHER = {
    "resume_from_checkpoint": None, "overwrite_output_dir": None, "output_dir": None, "config": None,
    "push_to_hub": None, "hub_model_id": "me/model", "report_to": "tensorboard", "data_dir": "/", "num_threads": "2",
    "dataset_name": None, "model_name_or_path": None, "classifier": None, "train_file": None, "validation_file": None,
    "test_file": None, "tokenizer_name": None, "dataset_config_name": "other", "text_column": "source",
    "summary_column": "target", "references_column": None, "prompt_tuning_init_text": "words", "tasks": "plural",
    "source_prefix": "x ", "norm_num_groups": "2", "generator_channels": "4 4", "num_tasks": "2",
    "num_inference_steps": "3", "num_bound_timesteps": "3", "num_bound_images": "3", "label_dropout": "0.3",
    "num_train_timesteps": "40", "scenario": "class", "config_d_model": "18", "adam_beta1": "0.4", "ema_decay": "0.8",
    "guidance_scale": "2.0", "max_train_steps": None, "num_train_epochs": None, "max_steps": None, "fp16": None,
    "lr_warmup_steps": "2", "warmup_steps": "2", "checkpoints_total_limit": "3", "save_total_limit": "3",
    "max_eval_samples": "7", "max_predict_samples": "7", "generation_max_new_tokens": "3", "compile": None,
    "config_num_heads": "1", "padded_size": "32", "trust_remote_code": None, "hub_include": "*.txt",
    "image_size": "28", "image_column": None, "label_column": None, "dataset_config": None,
}  # fmt: skip


def every_flag(recipe: str) -> list[tuple[type, Any]]:
    types = [kind for kind in load_recipe(recipe).main.__annotations__.values() if kind is not dict]
    return [(kind, each) for kind in types for each in fields(kind)]


def given(recipe: str) -> dict[str, str]:
    tokens = shlex.split(every_recipe.FLAGS[recipe])
    values: dict[str, str] = {}
    for token in tokens:
        if token.startswith("--"):
            name = token[2:]
            values[name] = ""
        else:
            values[name] = f"{values[name]} {token}".strip()
    return values


def other_value(recipe: str, each: Any) -> str | None:
    """Another value of a flag than the straight run's, as on a command line; None where none is to be tried."""
    if each.name in OTHER:
        return OTHER[each.name]
    now = given(recipe).get(each.name)
    kind = next((kind for kind in get_args(each.type) if kind is not type(None)), each.type)
    kind = each.type if get_origin(each.type) is not None and type(None) not in get_args(each.type) else kind
    default = each.default_factory() if callable(each.default_factory) else each.default
    if get_args(kind) and get_origin(kind) is not list:  # a choice
        return next(str(value) for value in get_args(kind) if str(value) != (now or str(default)))
    if kind is bool:
        return "False" if now is not None or default is True else "True"
    numbers = (now or " ".join(map(str, default)) if get_origin(kind) is list else now or str(default)).split()
    number = numbers[0] if numbers and numbers[0] != "None" else "1"
    changed = str(int(number) + 1) if float(number) == int(float(number)) and "." not in number else None
    return changed or f"{float(number) * 0.5 or 0.25:g}"


def test_every_flag_is_shared_or_free(recipe, straight):
    """What is not said to be free stands in the checkpoint; by what it decides the slow test tells it right."""
    identity = Checkpoint(checkpoint(straight[0], last_step(recipe))).identity
    named = set(identity) | {"gradient_accumulation_steps"}
    missing = {each.name for kind, each in every_flag(recipe) if each.name not in kind.FREE} - named
    # The data has a digest, also as tokens; `conditional` is the number of classes.
    missing -= {"conditional"} if "num_classes" in identity else set()
    if recipe == "train_t5":
        missing -= {each.name for kind, each in every_flag(recipe) if kind.__name__ in ("Data", "Model", "Generation")}
    assert not missing


def last_step(recipe: str) -> int:
    return 15 if recipe == "train_continual" else every_recipe.STEPS


@pytest.mark.slow
def test_another_value_is_refused_or_changes_no_bit(recipe, straight, tmp_path):
    step, end = last_step(recipe) - every_recipe.INTERVAL, last_step(recipe)
    half = stopped_at(straight[0], step, tmp_path / "half")
    where, expected = checkpoint(half, step), checkpoint_state(checkpoint(straight[0], end))
    counts = {"refused": 0, "same": 0}
    for kind, each in every_flag(recipe):
        value = other_value(recipe, each)
        if value is None:
            continue
        folder = tmp_path / each.name
        flags = f"{every_recipe.FLAGS[recipe]} --{each.name} {value}"
        ended = every_recipe.run(recipe, folder, f"--resume_from_checkpoint={where}", flags=flags)
        if ended.status == 2:
            assert ended.error.splitlines()[-1].startswith("error: "), ended.error
            counts["refused"] += 1
            assert each.name not in kind.FREE or "it is of a run with" not in ended.error, ended.error
            continue
        assert ended.status == 0, (each.name, value, ended.error)
        state = checkpoint_state(checkpoint(folder, end))
        for name in ("state.pt", "trainer_state.json"):  # how far the log had come is no step
            for each_state in (state, expected):
                if isinstance(each_state.get(name), dict):
                    each_state[name].pop("progress", None)
        assert same(state, expected), (each.name, value)
        assert weights_of(recipe, folder).read_bytes() == weights_of(recipe, straight[0]).read_bytes(), each.name
        counts["same"] += 1
    assert counts["refused"] > 10 and counts["same"] > 3, counts
