"""What the processes of `forked` share: everything that a run imports, and nothing that has run."""

import gc
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["OMP_NUM_THREADS"] = "1"

import evaluate  # noqa: E402, F401
import inflect  # noqa: E402, F401
import matplotlib.backends.backend_agg  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
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

shorten_scores()
gc.freeze()  # no process looks for garbage in it
