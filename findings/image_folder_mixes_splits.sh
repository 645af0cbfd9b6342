#!/usr/bin/env bash
# datasets 5.2.0: in an image folder with train/ and test/, a class whose name holds the word of a split mixes the two:
# its training images are in the test split too, or the other way round, without a warning.
#
# Splits are found by patterns over the whole path, and a file may fit several. Below, train/ has 6 images a class and
# test/ 3; of the classes, one is called "pre-test" (say, photographs before an experiment), or "train" (the vehicle).
#
# Output seen (name of the second class; files of the split train, of the split test, files that are in both):
#   dog: 12 6 0
#   pre-test: 12 15 6
#   train: 15 6 3
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet datasets==5.2.0 pillow==12.3.0
HF_HOME="$work/cache" HF_HUB_OFFLINE=1 "$work/venv/bin/python" - "$work" 2>/dev/null <<'PYTHON' | tee "$work/seen"
import pathlib
import sys

import datasets
from PIL import Image

for second in ("dog", "pre-test", "train"):
    root = pathlib.Path(sys.argv[1], f"animals {second}")
    for split, images in (("train", 6), ("test", 3)):
        for name in ("cat", second):
            for index in range(images):
                path = root / split / name / f"{index}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.new("L", (4, 4)).save(path)
    splits = datasets.load_dataset(str(root)).cast_column("image", datasets.Image(decode=False))
    paths = [[row["image"]["path"] for row in splits[split]] for split in ("train", "test")]
    print(f"{second}:", *map(len, paths), len(set(paths[0]) & set(paths[1])))
PYTHON
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
