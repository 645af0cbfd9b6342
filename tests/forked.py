"""Recipes in processes of their own that need no time for imports: forks of one that has done them."""

import faulthandler
import multiprocessing
import os
import signal
import socket
import sys
from multiprocessing import forkserver
from pathlib import Path
from types import ModuleType
from unittest import mock

from recipe_runs import as_flags, load_recipe

from hwzoo.training import parse_arguments


def context():
    """Starts processes with everything imported that a run imports, and nothing that has run."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["forked_preloaded"])
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with mock.patch.dict(os.environ, PYTHONPATH=path):  # it does not get this process's path
        forkserver.ensure_running()
    return context


class TwoProcesses:
    """
    Starts a recipe in two processes as torchrun does.

    Args:
        recipe: its name.
        folder: of its output; what the processes write to standard error comes into files beside it.
        arguments: further ones.
        on_cpu: whether accelerate is told so; without it they do not know of each other where there is no GPU.
    """

    def __init__(self, recipe: str, folder: Path, *arguments: str, on_cpu: bool = True):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2}
        environment |= {"ACCELERATE_USE_CPU": 1} if on_cpu else {}
        self._processes, self._errors = [], []
        folder.parent.mkdir(parents=True, exist_ok=True)
        for rank in (0, 1):
            environment |= {"RANK": rank, "LOCAL_RANK": rank}
            self._errors.append(folder.with_name(f"{folder.name}.stderr-{rank}"))
            args = recipe, [f"--output_dir={folder}", *arguments], environment, self._errors[-1]
            self._processes.append(context().Process(target=_run, args=args, daemon=True))
            self._processes[-1].start()

    def finish(self, timeout: float = 240, status: int = 0) -> str:
        """What they wrote to standard error once both have ended with `status`; else it is told where they stand."""
        for process in self._processes:
            process.join(timeout)
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGABRT)
                process.join()
        errors = "\n".join(path.read_text()[-3000:] for path in self._errors)
        assert [process.exitcode for process in self._processes] == [status, status], errors
        return errors


def _run(recipe: str, argv: list[str], environment: dict, error: Path):
    os.environ.update({name: str(value) for name, value in environment.items()})
    sys.stdout, sys.stderr = open(os.devnull, "w"), error.open("w", buffering=1)
    faulthandler.enable(sys.stderr)
    as_command(recipe, argv)


def as_command(recipe: str, argv: list[str]):
    """Runs a recipe in this process as `python recipes/RECIPE.py ARGV` does."""
    sys.argv = [f"recipes/{recipe}.py", *argv]
    module = load_recipe(recipe)
    types = [kind for kind in module.main.__annotations__.values() if kind is not dict]
    module.training.launch(module.main, *types)


def by_one_and_by_two(recipe: ModuleType, types: list[type], folder: Path, settings: dict) -> tuple[Path, Path]:
    """The folders of a run in this process, and of one in two processes that share its batches."""
    one, two = folder / "one", folder / "two"
    half = as_flags(settings | {"train_batch_size": settings["train_batch_size"] // 2})
    processes = TwoProcesses(recipe.__name__, two, *half)
    recipe.main(*parse_arguments(types, as_flags(settings | {"output_dir": str(one)})))
    processes.finish()
    return one, two
