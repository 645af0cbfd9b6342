"""What the processes of `forked` share: all that a run imports, its figures' fonts and its classifier's class."""

import gc
import os
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"

import evaluate  # noqa: E402, F401
import inflect  # noqa: E402, F401
import matplotlib.backends.backend_agg  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import matplotlib.layout_engine  # noqa: E402
import no_power_cut  # noqa: E402, F401
import rouge_score.rouge_scorer  # noqa: E402, F401
import sklearn.datasets  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401
import torch.distributed.tensor  # noqa: E402, F401
import torchmetrics.image.fid  # noqa: E402, F401
from diffusers import DDPMPipeline, DPMSolverMultistepScheduler, UNet2DModel  # noqa: E402, F401
from every_recipe import FLAGS  # noqa: E402
from recipe_runs import load_recipe, shorten_scores  # noqa: E402
from transformers import Seq2SeqTrainer, T5ForConditionalGeneration  # noqa: E402, F401

for recipe in FLAGS:
    load_recipe(recipe)

from hwzoo.hub import load_classifier  # noqa: E402
from hwzoo.training import save_curves  # noqa: E402

shorten_scores()
# Half of a figure's time; training/test_pictures.py looks at figures.
matplotlib.layout_engine.ConstrainedLayoutEngine.execute = lambda *_: None
with tempfile.TemporaryDirectory() as folder:
    for _ in range(2):  # the first two figures of a process take four times as long as those after them
        save_curves([{"step": step, "loss": 2.0 - step} for step in (0, 1)], Path(folder) / "a.png", ["loss"], "nats")
load_classifier("digits")
gc.freeze()  # no process looks for garbage in it
