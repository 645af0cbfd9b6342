"""Several processes give what one gives. That they train as one does is tested beside each recipe."""

import os
import shlex
import socket
import sys
from pathlib import Path

import numpy as np
import pytest
import warm
from accelerate.commands.config.config_args import load_config_from_file
from every_recipe import FLAGS, weights_of
from recipe_runs import RECIPES, TORCHRUN, end_all, finish, results_but_times, start

CPU = {**os.environ, "ACCELERATE_USE_CPU": "1"}
CONFIGS = sorted((RECIPES / "accelerate").glob("*.yaml"))
# A pipeline draws its samples batch by batch on the main process, in float32: the last digits depend on the threads.
CLOSE = 1e-4


@pytest.fixture(autouse=True)
def nothing_runs_on():
    yield
    end_all()


def finished(process):
    _, error = finish(process, 400)
    assert process.returncode == 0, error[-3000:]


@pytest.mark.slow
def test_two_processes_test_a_model_as_one_does(recipe, straight, tmp_path):
    """On a test set that they cannot divide: each example counts once."""
    steps = "--max_steps" if recipe == "train_t5" else "--max_train_steps"
    flags = shlex.split(FLAGS[recipe].replace(f"{steps} 12", "").replace(f"{steps} 3", ""))
    flags += [f"--model_name_or_path={straight[0]}", f"{steps}=0"]
    flags += ["--supervised_steps=0"] * (recipe == "train_simclr")  # that trains, on batches twice as large
    for name, command in (("two", TORCHRUN), ("one", [sys.executable])):
        script = str(RECIPES / f"{recipe}.py")
        finished(start([*command, script, f"--output_dir={tmp_path / name}", *flags], env=CPU))
    one, two = (results_but_times(tmp_path / name) for name in ("one", "two"))
    assert one.keys() == two.keys()
    if recipe == "train_simclr":
        # How its untrained encoder is calibrated, by statistics summed over processes, differs in the last digits, and
        # so may a few predictions of its probe.
        calibrated = [each["accuracies"].pop("untrained encoder") for each in (one, two)]
        assert calibrated[1] == pytest.approx(calibrated[0], abs=3.5 / 297)
        assert all(each.pop("remark") for each in (one, two))  # the table of these
    for name, value in one.items():
        if isinstance(value, float | list):
            np.testing.assert_allclose(two[name], value, rtol=CLOSE, err_msg=name)
        else:
            assert two[name] == value, name
    assert weights_of(recipe, tmp_path / "two").read_bytes() == weights_of(recipe, tmp_path / "one").read_bytes()


@pytest.mark.slow
def test_two_nodes_train_as_one_process(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    flags = [
        "--max_train_steps=20", "--encoder_hidden_sizes=16", "--decoder_hidden_sizes=16", "--latent_size=3",
        "--num_importance_samples=2",
    ]  # fmt: skip
    script = str(RECIPES / "train_vae.py")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
    torchrun += ["--master_addr=127.0.0.1", f"--master_port={port}"]
    nodes = [
        start(
            [*torchrun, f"--node_rank={rank}", script, f"--output_dir={tmp_path / 'two'}", "--train_batch_size=10"]
            + flags,
            env=CPU,
        )
        for rank in (0, 1)
    ]
    for node in nodes:
        finished(node)
    finished(start([sys.executable, script, f"--output_dir={tmp_path / 'one'}", "--train_batch_size=20", *flags]))
    one, two = (results_but_times(tmp_path / name) for name in ("one", "two"))
    for name in ("test_negative_elbo", "test_iwae_2", "train_steps"):
        assert two[name] == pytest.approx(one[name], rel=1e-3), name


@pytest.mark.slow
def test_machines_that_find_different_checkpoints_are_refused(tmp_path):
    """They would train apart, one from the checkpoint and one from new weights."""
    flags = [
        "--max_train_steps=4",
        "--encoder_hidden_sizes=8",
        "--decoder_hidden_sizes=8",
        "--num_importance_samples=2",
    ]
    script = str(RECIPES / "train_vae.py")
    warm.run([script, f"--output_dir={tmp_path / '0'}", "--train_batch_size=20", *flags], check=True)
    before = results_but_times(tmp_path / "0")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # Two processes of which each has a disk of its own.
    own = f"sys.argv = [{script!r}, *sys.argv[1:], '--output_dir={tmp_path}/' + os.environ['RANK']]"
    run = f"runpy.run_path({script!r}, run_name='__main__')"
    (tmp_path / "alone.py").write_text(f"import os, runpy, sys\n{own}\n{run}\n")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    resumed = [str(tmp_path / "alone.py"), "--train_batch_size=10", *flags, "--resume_from_checkpoint=latest"]
    process = start([*torchrun, *resumed], env=CPU)
    _, error = finish(process, 400)
    assert process.returncode != 0
    assert "--resume_from_checkpoint latest: the processes find the steps 4, 0: every machine needs the same" in error
    assert results_but_times(tmp_path / "0") == before


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerate_reads_the_launcher_configs(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == 2 * config.num_machines and config.mixed_precision == "no"
    assert f"--config_file recipes/accelerate/{Path(path).name}" in path.read_text()
