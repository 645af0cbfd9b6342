"""What `accelerate launch` was asked for, by the environment that it leaves to its processes."""

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import UsageError

# What the frame does not train with; accelerate would set it up, or leave it out, without a word.
UNSUPPORTED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism_config",
}
# The word of a command line after which the launcher's own flags come.
LAUNCHERS = ("launch", "accelerate-launch", "accelerate.commands.launch")
# What stands there also where nothing was asked for.
NOTHING_ASKED = {"mixed_precision": "no", "gradient_accumulation_steps": "1"}


def launcher_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """
    What the launcher asks of a run. Its "no" and its 1 are what it says by itself and ask for nothing.

    Args:
        environment: of the process; a variable that is not there asks for nothing.

    Returns:
        `mixed_precision` and `gradient_accumulation_steps`, those that are asked for, as they were given.

    Raises:
        UsageError: for what no recipe can do: DeepSpeed, FSDP, Megatron-LM, a parallelism_config, a backend of
            torch.compile.
    """
    for variable, name in UNSUPPORTED.items():
        if environment.get(variable, "").lower() in ("1", "true", "yes", "y", "on", "t"):
            raise UsageError(f"accelerate launch asks for {name}; recipes train on one device a process, without it")
    backend = environment.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend != "no":
        raise UsageError(
            f"accelerate launch asks for dynamo_backend {backend}: it must be no; train_ddpm.py compiles by --compile"
        )
    asked = {name: environment.get(f"ACCELERATE_{name.upper()}") for name in NOTHING_ASKED}
    # But for DeepSpeed the launcher tells its processes nothing of the steps that it was given.
    if asked["gradient_accumulation_steps"] is None and "ACCELERATE_MIXED_PRECISION" in environment:
        asked["gradient_accumulation_steps"] = given_to_launcher("gradient_accumulation_steps")
    return {name: value for name, value in asked.items() if value not in (None, NOTHING_ASKED[name])}


def given_to_launcher(flag: str) -> str | None:
    """The value of a flag of the `accelerate launch` that started this process; None where there is none (or no
    Linux, which alone shows the command line of another process)."""
    try:
        words = Path(f"/proc/{os.getppid()}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return None
    starts = [place for place, word in enumerate(words[:4], 1) if Path(word).name in LAUNCHERS]
    if not starts or not any(word.replace("-", "_").startswith(f"__{flag}") for word in words):
        return None
    from accelerate.commands.launch import launch_command_parser

    value = getattr(launch_command_parser().parse_known_args(words[starts[-1] :])[0], flag)
    return None if value is None else str(value)
