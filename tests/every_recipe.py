"""Small runs of every recipe that trains, each in a process of its own that can be killed at any of its moments."""

import os
import resource
import shlex
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import forked
import pytest
from torch.optim.optimizer import register_optimizer_step_post_hook

from hwzoo.training import Checkpoints
from hwzoo.training.ending import REHEARSAL

# Twelve steps, a checkpoint every third, and everything that a resume has to bring back.
STEPS, INTERVAL = 12, 3
TEXTS = Path(__file__).parent / "texts"  # 200 short words
FLAGS = {
    "train_vae": """
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 20 --use_ema
        --encoder_hidden_sizes 12 --decoder_hidden_sizes 12 --latent_size 3 --num_importance_samples 2
        --lr_scheduler cosine --lr_warmup_steps 3 --prior mixture --num_mixture_components 3
        --gradient_accumulation_steps 2 --num_test_samples 8""",
    "train_flow": """
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 10
        --hidden_size 4 --num_steps 1 --num_hidden_layers 1 --conditional --ema_decay 0.9 --lr_warmup_steps 3
        --gradient_accumulation_steps 2 --num_importance_samples 2 --num_test_samples 8""",
    "train_autoregressive": """
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 10
        --hidden_size 8 --num_layers 1 --head_hidden_size 49 --patch_size 7 --num_attention_heads 2 --conditional
        --ema_decay 0.9 --lr_warmup_steps 3 --gradient_accumulation_steps 2 --max_grad_norm 50
        --num_test_samples 8""",
    "train_vqvae": """
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 10
        --hidden_sizes 4 6 8 --num_residual_layers 1 --codebook_size 12 --code_size 3 --prior_hidden_size 8
        --prior_num_layers 1 --prior_num_heads 2 --conditional --ema_decay 0.9 --lr_warmup_steps 3
        --gradient_accumulation_steps 2 --num_continuous_steps 2 --restart_steps 3 --num_test_samples 8
        --num_search_images 2""",
    "train_simclr": """
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 10
        --hidden_sizes 4 6 8 --projection_hidden_size 8 --projection_size 6 --loss simsiam --predictor_hidden_size 4
        --use_ema --ema_decay 0.9 --lr_warmup_steps 3 --gradient_accumulation_steps 2 --mirror --supervised_steps 2
        --num_draws 2""",
    "train_textvae": f"""
        --dataset_name {shlex.quote(str(TEXTS))} --text_column word
        --max_train_steps 12 --checkpointing_steps 3 --eval_steps 4 --logging_steps 2 --train_batch_size 10
        --max_tokens 24 --embedding_size 4 --hidden_size 8 --latent_size 2 --word_dropout 0.3 --kl_warmup_steps 8
        --ema_decay 0.9 --use_ema --gradient_accumulation_steps 2 --num_importance_samples 2""",
    "train_gan": """
        --max_train_steps 12 --checkpointing_steps 3 --logging_steps 2 --grid_steps 4 --train_batch_size 10
        --latent_size 4 --generator_hidden_size 12 --generator_channels 8 4 --discriminator_channels 4 6
        --discriminator_hidden_size 10 --use_ema --ema_decay 0.9 --loss wasserstein_gp --conditional --spectral_norm
        --num_discriminator_steps 2 --num_test_samples 8""",
    "train_ddpm": """
        --max_train_steps 12 --checkpointing_steps 3 --logging_steps 2 --eval_steps 6 --train_batch_size 10
        --block_out_channels 8 8 --norm_num_groups 4 --dropout 0.2 --num_train_timesteps 30 --num_inference_steps 2
        --num_bound_images 4 --num_bound_timesteps 2 --conditional --ema_decay 0.9
        --num_test_samples 8""",
    "train_continual": """
        --max_train_steps 3 --num_tasks 5 --checkpointing_steps 3 --logging_steps 2 --train_batch_size 20
        --hidden_sizes 16 --dropout 0.25 --strategy replay --memory_size 30""",
    "train_t5": """
        --max_steps 12 --save_steps 3 --logging_steps 2 --eval_steps 6 --per_device_train_batch_size 8
        --config_d_model 16 --config_d_ff 16 --config_num_layers 1 --config_num_decoder_layers 1 --config_num_heads 2
        --config_dropout_rate 0.1 --max_eval_samples 8 --max_predict_samples 8 --generation_max_new_tokens 4
        --compounds_per_word 0""",
}
# By default the recipe that is read first, in the long tests each.
ALL = [name if name == "train_vae" else pytest.param(name, marks=pytest.mark.long) for name in FLAGS]
# What the loop alone decides: in the long tests for the frame's and that of transformers, in the slow ones for each.
ONE_OF_EACH_LOOP = pytest.mark.parametrize(
    "recipe",
    ["train_vae", pytest.param("train_t5", marks=pytest.mark.long)]
    + [pytest.param(name, marks=pytest.mark.slow) for name in FLAGS if name not in ("train_vae", "train_t5")],
)
WEIGHTS = {"train_ddpm": "unet/diffusion_pytorch_model.safetensors"}
# What an event is: a step of an optimiser, and each change of a file below the output folder, just before it happens,
# but for those of the rehearsal, which leaves nothing.
AUDITED = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


def weights_of(recipe: str, folder: Path) -> Path:
    return folder / WEIGHTS.get(recipe, "model.safetensors")


class Ended(NamedTuple):
    """
    Args:
        status: of the process; -9 for one that was killed.
        error: what it wrote to standard error.
        events: how many happened.
    """

    status: int
    error: str
    events: int


def run(
    recipe: str,
    folder: Path,
    *arguments: str,
    signals: dict[int, int] | None = None,
    full_at: int | None = None,
    flags: str | None = None,
    copies: tuple[Path, int] | None = None,
    whole: tuple[int, bytes] | None = None,
    nohup: bool = False,
) -> Ended:
    """
    Runs a recipe as from the command line.

    Args:
        recipe: its name.
        folder: of its output.
        arguments: further ones.
        signals: which signal it sends itself at which event.
        full_at: the event from which on the disk is full.
        flags: in place of FLAGS.
        copies: a folder beside that of the output, and the event from which on that of the output, checkpoints left
            out, is copied into it at each, under the event's number: what a kill there would leave.
        whole: the event from which on, at each, there is a checkpoint to resume and the model, if any, has these
            weights; else the process ends there with status 3.
        nohup: whether SIGHUP is ignored from the start, as `nohup` leaves it.
    """
    context = forked.context()  # what a run imports takes longer than the run
    events, (reader, writer) = context.Value("q", 0), context.Pipe(duplex=False)
    argv = [f"--output_dir={folder}", *shlex.split(FLAGS[recipe] if flags is None else flags), *arguments]
    moments = signals or {}, full_at, copies, whole, nohup
    process = context.Process(target=_run, args=(recipe, argv, str(folder), writer, events, *moments))
    process.start()
    writer.close()
    with open(os.dup(reader.fileno()), "rb") as pipe:  # to its end, which is the process's
        error = pipe.read().decode()
    process.join()
    return Ended(process.exitcode, error, events.value)


def _run(recipe, argv, folder, writer, events, signals, full_at, copies, whole, nohup):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(writer.fileno(), 2)
    writer.close()
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # The tests themselves may have been started by nohup, or not.
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error of the write, as on a full disk

    def happens(*_):
        events.value += 1
        if events.value in signals:
            os.kill(os.getpid(), signals[events.value])
        if events.value == full_at:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
        if copies and events.value >= copies[1]:
            shutil.copytree(folder, copies[0] / str(events.value), ignore=shutil.ignore_patterns("checkpoints"))
        if whole and events.value >= whole[0] and not _is_whole(recipe, Path(folder), whole[1]):
            print(f"not whole at event {events.value}", file=sys.stderr, flush=True)
            os._exit(3)

    def hook(event: str, args: tuple[Any, ...]):
        if event in AUDITED and str(args[0]).startswith(folder) and REHEARSAL not in str(args[0]):
            if event != "open" or (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
                happens()

    sys.addaudithook(hook)
    register_optimizer_step_post_hook(happens)
    forked.as_command(recipe, argv)


def _is_whole(recipe: str, folder: Path, weights: bytes) -> bool:
    model = weights_of(recipe, folder)
    return Checkpoints(folder / "checkpoints").read_latest() is not None and (
        not model.exists() or model.read_bytes() == weights
    )
