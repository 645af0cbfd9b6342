"""What the benchmarks share: contenders that take turns in one process, and a recipe's own loop among them."""

import contextlib
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hwzoo.data import ImageSet, ImageSplits, load_images
from hwzoo.data.raw import idx_files
from hwzoo.data.sources import TORCHVISION


def images(name: str = "mnist") -> ImageSplits:
    """60,000 + 10,000 images of 28 x 28 pixels: the named ones where HWZOO_DATA_DIR holds them, else random ones."""
    folder = os.environ.get("HWZOO_DATA_DIR")
    if folder and any(idx_files(Path(folder) / place) for place in (name, *TORCHVISION[name])):
        print("data:", name)
        return load_images(name, folder)
    print("data: random images, as HWZOO_DATA_DIR holds no", name)
    generator = torch.Generator().manual_seed(0)
    sets = []
    for num in (60_000, 10_000):
        pixels = torch.randint(0, 256, (num, 1, 28, 28), dtype=torch.uint8, generator=generator)
        sets.append(ImageSet(pixels, torch.arange(num) % 10, tuple("0123456789")))
    return ImageSplits("random", *sets)


def take_turns(contenders: Callable[[], dict[str, float]], num_rounds: int, unit: str) -> dict[str, list[float]]:
    """
    Runs all contenders, round after round, so that a change of the machine's speed meets all of them; the first round
    warms up. Prints and gives what each of them reached in each round.
    """
    values: dict[str, list[float]] = {}
    for round_number in range(num_rounds + 1):
        for name, value in contenders().items():
            values.setdefault(name, [])
            if round_number:
                values[name].append(value)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {num_rounds} rounds")
    for name, each in values.items():
        print(f"{name:>34}: {statistics.median(each):8.2f} {unit} (min {min(each):.2f}, max {max(each):.2f})")
    return values


def ratio(values: dict[str, list[float]], first: str, second: str) -> float:
    """The median over the rounds of first / second."""
    return round(statistics.median(a / b for a, b in zip(values[first], values[second], strict=True)), 3)


def recipe_loop(
    recipe: Any, data: ImageSplits, *arguments: Any, between: Callable = lambda: None, **flags: Any
) -> Any:
    """
    The `FitResult` of an image recipe's own `main`, run up to the end of its loop; `flags` are those of its `Run`,
    `between` is called before each step.
    """
    recipe.load_images = lambda *args: data

    class Batches:
        def __init__(self, batches):
            self.batches = batches

        def __len__(self):
            return len(self.batches)

        def __next__(self):
            between()
            return next(self.batches)

        def __getattr__(self, name):
            return getattr(self.batches, name)

    def change(fit):
        return lambda run, accelerator, batches, *args, ending, **kwargs: fit(
            run, accelerator, Batches(batches), *args, **kwargs
        )

    with tempfile.TemporaryDirectory() as folder:
        run = recipe.Run(output_dir=folder, **flags)
        return result_of_loop(recipe.training, "fit", lambda: recipe.main(run, *arguments), change)


def step_by_step(
    recipe: Any, data: ImageSplits, bare_step: Callable, *arguments: Any, **flags: Any
) -> dict[str, float]:
    """
    Steps a second of a bare loop and of a recipe's, which take turns at each step: the finest interleaving there is.
    All that the recipe's loop does counts as its own: batch, step, progress, log, pictures, checkpoints.
    """
    turn = Turn(bare_step)
    return turn.speeds(recipe_loop(recipe, data, *arguments, between=turn, **flags).results)


class Turn:
    """Calls a step of a bare loop within another loop, and keeps the time of both apart."""

    def __init__(self, bare_step: Callable):
        self.bare_step = bare_step
        self.seconds = 0.0

    def __call__(self):
        start = time.perf_counter()
        self.bare_step()
        self.seconds += time.perf_counter() - start

    def speeds(self, results: dict[str, float]) -> dict[str, float]:
        """Steps a second of both, from the results of the loop around."""
        steps = results["train_steps"]
        return {"bare": steps / self.seconds, "recipe": steps / (results["train_runtime"] - self.seconds)}


def result_of_loop(
    holder: Any, name: str, main: Callable[[], Any], change: Callable[[Callable], Callable] = lambda loop: loop
) -> Any:
    """
    What the loop that `holder` has under a name gives, where `main` comes to it; nothing after it is run. `change`
    gives the loop to run in its place.
    """
    loop = getattr(holder, name)

    class Done(Exception):
        pass

    def loop_and_leave(*args, **kwargs):
        raise Done(change(loop)(*args, **kwargs))

    setattr(holder, name, loop_and_leave)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            main()
    except Done as done:
        return done.args[0]
    finally:
        setattr(holder, name, loop)
    raise RuntimeError("the recipe ended without its loop")
