#!/usr/bin/env bash
# gradio 6.31.0: an image of 0 and 255 alone, given to `gr.Image` or `gr.Gallery` with their defaults, reaches the browser
# as lossy WebP in three channels: about half of its pixels have other values. With `format="png"` all are kept.
#
# The image is 28 x 28, random zeros and 255s (NumPy's PCG64, seed 0). What is compared is the file that the component
# makes of it, which the browser gets.
#
# Output seen (component, format of the file, share of the pixels that changed):
#   Image WEBP more than a quarter
#   Gallery WEBP more than a quarter
#   Image, format="png" PNG none
#   Gallery, format="png" PNG none
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gradio==6.31.0 pillow==12.3.0 numpy==2.4.6
export GRADIO_ANALYTICS_ENABLED=False GRADIO_TEMP_DIR="$work/files"
"$work/venv/bin/python" -W ignore - <<'PYTHON' | tee "$work/seen"
import gradio as gr
import numpy as np
from PIL import Image

image = (np.random.default_rng(0).random((28, 28)) < 0.5).astype(np.uint8) * 255
for name, settings in (("", {}), (', format="png"', {"format": "png"})):
    single = gr.Image(**settings).postprocess(image).path
    several = gr.Gallery(**settings).postprocess([image]).root[0].image.path
    for kind, path in (("Image", single), ("Gallery", several)):
        with Image.open(path) as opened:
            changed = (np.array(opened.convert("L")) != image).mean()
            share = "none" if changed == 0 else "more than a quarter" if changed > 0.25 else f"{changed:.3f}"
            print(f"{kind}{name} {opened.format} {share}")
PYTHON
diff <(grep -A4 "^# Output seen" "$0" | sed -n 's/^#   //p') "$work/seen"
