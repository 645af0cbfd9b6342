"""
What a step costs, and what a run holds in memory, as the data grows.

    python benchmarks/bench_growth.py --folder FOLDER

Random images of 28 x 28 pixels: of the smaller sizes tensors in memory, of the largest the training file of a folder
of idx files (784 bytes an image, written to FOLDER, deleted at the end), which is mapped into memory; and as many in a
`datasets.Dataset` of arrays, which becomes a file of that size in its cache.

- steps/s: recipes/train_vae.py's own `main`, without its final test, the sizes in turns in one process.
- memory: a process of its own reads the largest and trains on it. Anonymous pages are what it needs; pages of the
  file are the system's to take back.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "recipes"))

import train_vae
from side_by_side import ratio, recipe_loop, take_turns

from hwzoo.data import ImageSet, ImageSplits, load_images

PART = 100_000  # images that are written at once
TEST = 1_000


def write_idx(folder: Path, num: int):
    """The four files, of `num` training images and TEST test images."""
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    for split, size in (("train", num), ("t10k", TEST)):
        with open(folder / f"{split}-images-idx3-ubyte", "wb") as file:
            file.write(bytes([0, 0, 8, 3]) + b"".join(each.to_bytes(4, "big") for each in (size, 28, 28)))
            for start in range(0, size, PART):
                file.write(generator.bytes(784 * min(PART, size - start)))
        labels = (np.arange(size) % 10).astype(np.uint8)
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(
            bytes([0, 0, 8, 1]) + size.to_bytes(4, "big") + labels.tobytes()
        )


def write_arrow(folder: Path, num: int):
    """A folder of `save_to_disk` of as many images, a column of arrays; PART of them are in memory at once."""
    import datasets
    import pyarrow

    features = datasets.Features(pixels=datasets.Array2D((28, 28), "uint8"), label=datasets.ClassLabel(10))
    schema, column = features.arrow_schema, features["pixels"]()

    def nested(flat: np.ndarray) -> pyarrow.Array:
        values = pyarrow.array(flat)
        for _ in range(2):  # rows of pixels, images of rows
            values = pyarrow.ListArray.from_arrays(np.arange(0, len(values) + 1, 28, dtype=np.int32), values)
        return pyarrow.ExtensionArray.from_storage(column, values)

    generator = np.random.default_rng(0)
    splits = {}
    for split, size in {"train": num, "test": TEST}.items():
        path = folder.with_name(f"{folder.name}-{split}")
        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, schema) as stream:
            for start in range(0, size, PART):
                part = min(PART, size - start)
                pixels = nested(np.frombuffer(generator.bytes(784 * part), np.uint8))
                labels = pyarrow.array(np.arange(part) % 10, pyarrow.int64())
                stream.write_batch(pyarrow.record_batch([pixels, labels], schema=schema))
        splits[split] = datasets.Dataset.from_file(str(path))
    datasets.DatasetDict(splits).save_to_disk(folder)
    for split in splits:
        folder.with_name(f"{folder.name}-{split}").unlink()


def in_memory(num: int) -> ImageSplits:
    generator = torch.Generator().manual_seed(0)
    sets = []
    for size in (num, TEST):
        images = torch.empty(size, 1, 28, 28, dtype=torch.uint8)
        for part in images.split(PART):
            part.random_(0, 256, generator=generator)
        sets.append(ImageSet(images, torch.arange(size) % 10, tuple("0123456789")))
    return ImageSplits("random", *sets)


def steps_per_second(data: ImageSplits, steps: int) -> float:
    quiet = {"max_train_steps": steps, "eval_steps": None, "checkpointing_steps": None, "num_threads": 1}
    fitted = recipe_loop(train_vae, data, train_vae.Model(), train_vae.Protocol(), **quiet)
    return fitted.results["train_steps"] / fitted.results["train_runtime"]


def memory(folder: str, steps: int) -> dict[str, float]:
    """GiB of this process after training on a folder, anonymous and of files."""
    speed = steps_per_second(load_images(folder), steps)
    told = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    gib = {
        name: round(int(told[key].split()[0]) / 2**20, 2)
        for name, key in (("anonymous", "RssAnon"), ("of files", "RssFile"))
    }
    return gib | {"steps/s": round(speed, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="for the files; a temporary one when not given")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 5_000_000], help="images")
    parser.add_argument("--steps", type=int, default=500, help="of each size in a round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds; medians count")
    parser.add_argument("--memory_of", help="only read this folder, train on it, and tell what that holds")
    arguments = parser.parse_args()
    sizes = sorted(arguments.sizes)
    if len(sizes) < 2:
        parser.error(f"--sizes is {sizes[0]}; give two or more")
    torch.set_num_threads(1)
    if arguments.memory_of:
        print(json.dumps(memory(arguments.memory_of, arguments.steps)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        largest = sizes[-1]
        write_idx(Path(work, "idx"), largest)
        write_arrow(Path(work, "arrow"), largest)
        data = {f"{size} in memory": in_memory(size) for size in sizes[:-1]}
        data[f"{largest} of files"] = load_images(str(Path(work, "idx")))
        speeds = take_turns(
            lambda: {name: steps_per_second(each, arguments.steps) for name, each in data.items()},
            arguments.rounds,
            "steps/s",
        )
        first, *_, last = data
        results = {"largest / smallest": ratio(speeds, last, first)}
        for kind in ("idx", "arrow"):
            command = [sys.executable, __file__, "--memory_of", str(Path(work, kind)), "--steps", str(arguments.steps)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            held = json.loads(told.splitlines()[-1])
            print(f"{kind} of {largest}: {held}")
            results |= {f"{kind}, {name}": value for name, value in held.items()}
    print(json.dumps(results))


if __name__ == "__main__":
    main()
