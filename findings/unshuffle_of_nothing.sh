#!/usr/bin/env bash
# torch 2.13.0: pixel_unshuffle leaves the shape of an empty batch as it is; pixel_shuffle, and pixel_unshuffle on the
# meta device, do not.
#
# A batch of nothing, as the last part of a split or what a filter leaves over, keeps its channels, height and width in
# eager mode on a CPU, where one image of the same size gets four times the channels and half the sides. The next layer
# then raises for a wrong number of channels, far from the cause; where it takes any, wrong sizes are carried on without
# a word. Shapes that were found without running (meta tensors, traces) are those of the documentation, so that what was
# checked against them fails on this one batch alone.
#
# Output seen (shapes of pixel_unshuffle by 2 of images of 3 x 8 x 8, and of pixel_shuffle by 2 of 12 x 4 x 4):
#   1 image: (1, 12, 4, 4) (1, 3, 8, 8)
#   0 images: (0, 3, 8, 8) (0, 3, 8, 8)
#   0 images, meta: (0, 12, 4, 4) (0, 3, 8, 8)
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0
"$work/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON' | tee "$work/seen"
import torch
import torch.nn.functional as F

for num, device, told in ((1, "cpu", "1 image"), (0, "cpu", "0 images"), (0, "meta", "0 images, meta")):
    down = F.pixel_unshuffle(torch.zeros(num, 3, 8, 8, device=device), 2)
    up = F.pixel_shuffle(torch.zeros(num, 12, 4, 4, device=device), 2)
    print(f"{told}: {tuple(down.shape)} {tuple(up.shape)}")
PYTHON
diff <(grep -A3 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
