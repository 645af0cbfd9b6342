"""
The `hwzoo` command: each recipe by name, and what belongs to all of them.

It stands beside the package, not in it, and imports nothing of it until something is to run: whatever is imported of
`hwzoo` brings torch and transformers, seconds before a line of help.
"""

import difflib
import importlib.util
import logging
import os
import re
import runpy
import shutil
import signal
import sys
import textwrap
from importlib.metadata import version
from pathlib import Path

PACKAGED = runpy.run_path(str(Path(importlib.util.find_spec("hwzoo").origin).with_name("packaged.py")))
RECIPES = PACKAGED["folder"]("recipes")

SEVERAL = ("train", "compare", "export")  # verbs of more than one recipe: the rest of its name follows
DRAW, OTHERS, SHARE = "draw and score", "compare and measure", "share and look up"
GROUPS = {"train": "train", "sample": DRAW, "evaluate": DRAW, "page": DRAW, "export": SHARE}  # of verbs; else: OTHERS
OWN = [
    ("push FOLDER REPO", "Sends a folder that a recipe wrote to the Hub, as owner/name; --private, --include PATTERN"),
    ("presets", "Lists the presets: command, data, minutes, the number to expect"),
]
FOOTER = (
    "hwzoo COMMAND --help lists the flags of a command; hwzoo --version says the version.",
    "--config takes the name of a preset, cs236 or vae/cs236, or a YAML file.",
    "hwzoo train ... --nproc N trains in N processes, each on its own GPU, or all on the CPU where there is no GPU.",
)
INDENT = 28  # of what a command does
MINUTES = re.compile(r"(?:^# |[,.] )((?:[\w ]|\.\d)+? minutes?) (?:on|of) ", re.M)  # "# 2.3 minutes on one core"


def main(argv: list[str] | None = None) -> int:
    """
    Runs the command line.

    Args:
        argv: its arguments; those of this process when not given.

    Returns:
        The exit status: 0, 1 for a failure, 2 for wrong usage, 128 + n after signal n. A recipe exits by itself.
    """
    argv = sys.argv[1:] if argv is None else argv
    word, *rest = argv or ["--help"]
    helps = not rest or rest[0] in ("-h", "--help")
    known = commands()
    if word in ("-h", "--help"):
        print(help_of(known))
    elif word == "--version":
        print(f"hwzoo {version('hwzoo')}")
    elif word == "presets" and helps:
        print(list_presets(known))
    elif word == "presets":
        return failed(f"{rest[0]!r} is not expected after presets")
    elif word == "push":
        from hwzoo import hub

        return hub.main(argv)
    elif word in SEVERAL and helps:
        print(help_of({name: path for name, path in known.items() if name.split()[0] == word}, whole=False))
    elif word in known:
        return run(known[word], rest)
    elif rest and f"{word} {rest[0]}" in known:
        return run(known[f"{word} {rest[0]}"], rest[1:], may_launch=word == "train")
    else:
        given = f"{word} {rest[0]}" if word in SEVERAL else word
        close = difflib.get_close_matches(given.replace("_", " "), [*known, "presets", "push"], n=1)
        meant = f" (did you mean {close[0]}?)" if close else ""
        return failed(f"{given!r} is not a command{meant}; hwzoo --help lists them")
    return 0


def commands() -> dict[str, Path]:
    """The commands that are recipes: `train vae` is train_vae.py, `evaluate` is evaluate_generator.py."""
    found = {}
    for path in sorted(RECIPES.glob("[!_]*.py")):
        verb, _, rest = path.stem.partition("_")
        found[f"{verb} {rest}" if verb in SEVERAL else verb] = path
    return found


def run(recipe: Path, arguments: list[str], may_launch: bool = False) -> int:
    """
    Runs a recipe as `python recipes/NAME.py` does; with `--nproc N` in N processes.

    Args:
        recipe: its file.
        arguments: its flags.
        may_launch: whether `--nproc` is a flag.

    Returns:
        The exit status, where the recipe does not exit by itself.
    """
    number, arguments = processes(arguments) if may_launch else (1, arguments)
    if number is None:
        return failed("--nproc takes one whole number, the processes to start; it must be in [1, inf)")
    if number > 1 and not PACKAGED["runs_the_loop"](recipe):
        return failed(f"--nproc is {number}; {recipe.stem} runs in one process")
    if number > 1:
        return launch(recipe, arguments, number)
    sys.path.insert(0, str(recipe.parent))
    sys.argv = [str(recipe), *arguments]
    runpy.run_path(str(recipe), run_name="__main__")
    return 0


def processes(arguments: list[str]) -> tuple[int | None, list[str]]:
    """
    Args:
        arguments: of `hwzoo train NAME`.

    Returns:
        The number after `--nproc`, None where it is no whole number above 0, 1 where it is not given; and the
        arguments without it.
    """
    number, others = "1", []
    tokens = iter(arguments)
    for token in tokens:
        if token == "--nproc":
            number = next(tokens, "")
        elif token.startswith("--nproc="):
            number = token.removeprefix("--nproc=")
        else:
            others.append(token)
    return (int(number) if re.fullmatch(r"0*[1-9]\d{0,5}", number) else None), others


def launch(recipe: Path, arguments: list[str], number: int) -> int:
    """
    Starts a recipe in several processes by accelerate's launcher, on GPUs, or on the CPU where there is none.

    Args:
        recipe: its file.
        arguments: its flags.
        number: of processes, 2 or more.

    Returns:
        The exit status of the process that failed first, 0 when all went well.
    """
    import torch
    from accelerate.commands.launch import launch_command, launch_command_parser
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    devices = torch.accelerator.device_count()
    if not devices:
        os.environ["ACCELERATE_USE_CPU"] = "1"
    elif number > devices and os.environ.get("ACCELERATE_USE_CPU") != "1":
        return failed(f"--nproc is {number}; the GPUs here are {devices} (ACCELERATE_USE_CPU=1 trains on the CPU)")
    # `--cpu --num_processes 2` starts one process. What starts several is `--multi_gpu`, on a CPU too: the processes
    # then look at ACCELERATE_USE_CPU. All that a file of `accelerate config` may say otherwise is said; port 0 is a
    # free one.
    flags = ["--multi_gpu", "--num_machines=1", f"--num_processes={number}", "--main_process_port=0", "--gpu_ids=all"]
    flags += ["--mixed_precision=no", "--dynamo_backend=no"]
    logging.disable()  # the processes tell by themselves what went wrong
    try:
        launch_command(launch_command_parser().parse_args([*flags, str(recipe), *arguments]))
    except ChildFailedError as error:
        _, first = error.get_first_failure()
        return first.exitcode if first.exitcode > 0 else 128 - first.exitcode
    except SignalException as error:
        return 128 + error.sigval
    except (OSError, RuntimeError, ValueError) as error:
        return failed(f"--nproc {number}: {' '.join(str(error).split())}", status=1)
    return 0


def help_of(known: dict[str, Path], whole: bool = True) -> str:
    """
    Args:
        known: recipes by command.
        whole: whether the commands that are no recipes belong to it.

    Returns:
        The usage, and the commands by group, each with the first sentence of its recipe.
    """
    groups: dict[str, list[tuple[str, str]]] = {title: [] for title in ("train", DRAW, OTHERS, SHARE)}
    for name, path in known.items():
        text = path.read_text(encoding="utf-8")
        first = re.search(r'^    FIRST = "([a-z]+)', text, re.M)  # the flag that needs no name: model_name_or_path
        given = f" {first[1].upper()}" if first else ""
        groups[GROUPS.get(name.split()[0], OTHERS)].append((name + given, summary(text)))
    if whole:
        groups[SHARE] += OWN
    lines = ["usage: hwzoo COMMAND [--flag value ...]"]
    width = min(shutil.get_terminal_size().columns, 120)
    for title, entries in groups.items():
        lines += ["", f"{title}:"] if entries else []
        for name, text in entries:
            first = f"  {name:<{INDENT}}"
            lines += textwrap.wrap(text, width, initial_indent=first, subsequent_indent=" " * len(first))
    return "\n".join([*lines, "", *FOOTER])


def summary(recipe: str) -> str:
    """The first sentence of a recipe's docstring, without its papers."""
    sentence = re.match(r'"""\s*(.+?)[.:]\s', recipe, re.S)
    text = " ".join(sentence[1].split()) if sentence else ""
    return re.sub(r" \([^)]*arXiv[^)]*\)", "", text)


def list_presets(known: dict[str, Path]) -> str:
    """
    Args:
        known: recipes by command.

    Returns:
        A line for each preset: its name, its command, its data, how long it takes on the machine that its header
        names, and the first of the numbers to expect.
    """
    import yaml

    commands_of = {path.stem: name for name, path in known.items()}
    texts = {preset: preset.path.read_text(encoding="utf-8") for preset in PACKAGED["presets"]()}
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    settings = {preset.name: yaml.load(text, Loader=loader) for preset, text in texts.items()}
    rows = [("preset", "command", "data", "takes", "expect")]
    for preset, text in texts.items():
        own = settings[preset.name]
        # A comparison has the data of the preset that its runs start from.
        data = own.get("dataset_name") or settings.get(own.get("preset"), {}).get("dataset_name", "")
        minutes = MINUTES.search(text)
        takes = minutes[1].lower() if minutes else "not run" if "# Not run" in text else ""
        expect = [f"{name} {low} to {high}" for name, (low, high) in own.get("expected", {}).items()]
        rows.append((preset.name, commands_of.get(preset.recipe, ""), data, takes, expect[0] if expect else ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def failed(message: str, status: int = 2) -> int:
    """Prints the one line of an error; gives its exit status."""
    print(f"error: {message}", file=sys.stderr)
    return status


def console() -> int:
    """`main` for a terminal: who reads only the first lines, as `head` does, is told no error; Ctrl-C is one line."""
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        return failed("interrupted", status=128 + signal.SIGINT)
    return status


if __name__ == "__main__":
    sys.exit(console())
