"""What is given to `accelerate launch` is what a run does, or is refused."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from accelerate import Accelerator

from hwzoo.errors import UsageError
from hwzoo.training import Flags, RunArguments, flag, parse_arguments, start
from hwzoo.training.launcher import launcher_settings
from hwzoo.training.seq2seq import Seq2SeqRunArguments

MIXED, STEPS = "ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS"
BY_ITSELF = {MIXED: "no", "ACCELERATE_DYNAMO_BACKEND": "NO", "ACCELERATE_DYNAMO_MODE": "default"}


@dataclass
class Sampling(Flags):
    """A recipe without these flags."""

    config: str | None = flag(None, "a preset")


def precision(run) -> tuple[str, int]:
    return run.mixed_precision, run.gradient_accumulation_steps


@pytest.mark.parametrize("kind", [RunArguments, Seq2SeqRunArguments])
@pytest.mark.parametrize(
    ("environment", "argv", "expected"),
    [
        ({}, [], ("no", 1)),
        (BY_ITSELF, [], ("no", 1)),
        (BY_ITSELF | {STEPS: "1"}, ["--gradient_accumulation_steps=3", "bf16"], ("bf16", 3)),
        ({MIXED: "bf16"}, [], ("bf16", 1)),
        ({MIXED: "bf16"}, ["bf16"], ("bf16", 1)),
        ({STEPS: "4"}, ["--gradient_accumulation_steps", "4"], ("no", 4)),
        ({MIXED: "bf16", STEPS: "4"}, ["--seed=3"], ("bf16", 4)),
    ],
)
def test_the_launcher_gives_the_defaults(kind, environment, argv, expected):
    argv = [spelled(kind, "bf16") if word == "bf16" else word for word in argv]
    (run,) = parse_arguments([kind], argv, launcher=launcher_settings(environment))
    assert precision(run) == expected


def spelled(kind: type, value: str) -> str:
    if kind is RunArguments:
        return f"--mixed_precision={value}"
    return f"--bf16={str(value == 'bf16').lower()}"


@pytest.mark.parametrize(
    ("kind", "environment", "argv", "message"),
    [
        (RunArguments, {MIXED: "fp16"}, [], "asks for mixed_precision fp16: --mixed_precision: invalid choice"),
        (RunArguments, {MIXED: "fp8"}, [], "asks for mixed_precision fp8: --mixed_precision: invalid choice"),
        (Seq2SeqRunArguments, {MIXED: "fp16"}, [], "asks for mixed_precision fp16: --fp16 is refused"),
        (Seq2SeqRunArguments, {MIXED: "fp8"}, [], "mixed_precision fp8; this recipe has no --mixed_precision"),
        (RunArguments, {MIXED: "bf16"}, ["no"], "^--mixed_precision is no, but accelerate launch asks for .* bf16;"),
        (Seq2SeqRunArguments, {MIXED: "bf16"}, ["no"], "^--bf16 is False, but accelerate launch asks for .* bf16;"),
        (RunArguments, {STEPS: "4"}, ["--gradient_accumulation_steps=2"], "^--gradient_accumulation_steps is 2, but"),
        (RunArguments, {STEPS: "0"}, [], "gradient_accumulation_steps 0: --gradient_accumulation_steps is 0; it must"),
        (RunArguments, {STEPS: "many"}, [], "--gradient_accumulation_steps: invalid int value: 'many'"),
        (Sampling, {MIXED: "bf16"}, [], "mixed_precision bf16; this recipe has no --mixed_precision"),
        (RunArguments, {"ACCELERATE_USE_DEEPSPEED": "true"}, [], "asks for DeepSpeed;"),
        (RunArguments, {"ACCELERATE_USE_FSDP": "true"}, [], "asks for FSDP;"),
        (
            Sampling,
            {"ACCELERATE_DYNAMO_BACKEND": "INDUCTOR"},
            [],
            "asks for dynamo_backend inductor: it must be no; train_ddpm.py compiles by --compile",
        ),
    ],
)
def test_what_cannot_be_is_refused(kind, environment, argv, message):
    argv = [spelled(kind, word) if word == "no" else word for word in argv]
    with pytest.raises(UsageError, match=message):
        parse_arguments([kind], argv, launcher=launcher_settings(BY_ITSELF | environment))


def test_a_recipe_without_these_flags_starts_as_before():
    assert parse_arguments([Sampling], [], launcher=launcher_settings(BY_ITSELF))[0] == Sampling()


def test_a_preset_is_as_explicit_as_a_flag(tmp_path):
    (tmp_path / "preset.yaml").write_text("mixed_precision: no\n")
    argv, launcher = [f"--config={tmp_path / 'preset.yaml'}"], launcher_settings({MIXED: "bf16"})
    with pytest.raises(UsageError, match="--mixed_precision is no, but accelerate launch asks for .* bf16"):
        parse_arguments([RunArguments], argv, launcher=launcher)
    (run,) = parse_arguments([RunArguments], [*argv, "--mixed_precision=bf16"], launcher=launcher)
    assert run.mixed_precision == "bf16"


def test_a_launchers_steps_divide_no_loss_a_second_time(tmp_path, monkeypatch):
    monkeypatch.setenv(STEPS, "4")
    assert Accelerator().gradient_accumulation_steps == 4  # what a loss is divided by
    with start(RunArguments(output_dir=str(tmp_path), gradient_accumulation_steps=4)) as accelerator:
        assert accelerator.gradient_accumulation_steps == 1


PROGRAM = """
import json, sys
from hwzoo.training import RunArguments, launch
if sys.argv[1:2] == ["text"]:
    from hwzoo.training.seq2seq import Seq2SeqRunArguments as RunArguments
    del sys.argv[1]
launch(lambda run: print(json.dumps([run.mixed_precision, run.gradient_accumulation_steps])), RunArguments)
"""
CONFIG = """
compute_environment: LOCAL_MACHINE
distributed_type: 'NO'
num_processes: 1
num_machines: 1
mixed_precision: {}
use_cpu: true
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "arguments", "expected"),
    [
        (["--cpu", "--mixed_precision=bf16", "--gradient-accumulation-steps", "3"], [], ["bf16", 3]),
        (["--config_file", "bf16"], ["text"], ["bf16", 1]),
        (["--config_file", "fp16"], [], "error: accelerate launch asks for mixed_precision fp16: --mixed_precision"),
    ],
)
def test_of_accelerate_launch_itself(launcher, arguments, expected, tmp_path):
    if sys.platform != "linux" and "--gradient-accumulation-steps" in launcher:
        pytest.skip("elsewhere the command line of the launcher cannot be read")
    (tmp_path / "program.py").write_text(PROGRAM)
    if launcher[0] == "--config_file":
        (tmp_path / "launcher.yaml").write_text(CONFIG.format(launcher[1]))
        launcher = ["--config_file", str(tmp_path / "launcher.yaml")]
    command = [str(Path(sys.executable).parent / "accelerate"), "launch", *launcher, str(tmp_path / "program.py")]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    if isinstance(expected, list):
        assert done.returncode == 0 and json.loads(done.stdout.splitlines()[-1]) == expected, done.stderr
    else:
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
        assert line.startswith(expected) and "non-zero exit status 2" in done.stderr
