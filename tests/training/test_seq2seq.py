"""The Trainer in the zoo's frame: checkpoints that check themselves, losses that stop a run, the order of the data."""

import gc
import json
import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from recipe_runs import same
from safetensors.torch import load_file
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import BatchSampler
from transformers import Seq2SeqTrainingArguments, TrainerCallback

from hwzoo import text
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import read_jsonl, sha256
from hwzoo.training import NonFiniteLoss, Stopped, read_history
from hwzoo.training.seq2seq import EpochSampler, Seq2SeqRunArguments, ZooSeq2SeqTrainer

BYTES = text.new_tokenizer(None, None, [])
SIZES = {
    "d_model": 8, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 1, "dropout_rate": 0.2,
}  # fmt: skip
PAIRS = [text.Example(word, word[::-1], (word[::-1],), "", word) for word in "one two three four five six".split()]
STEPS = 9


def trainer_of(folder: Path, adapter: str | None = None, metrics=None, **settings) -> ZooSeq2SeqTrainer:
    """Of a tiny T5 with dropout; two epochs and a half of six pairs."""
    torch.manual_seed(0)
    model = text.build_t5(BYTES, **SIZES)
    text.generation_config(model, 4)
    if adapter is not None:
        model = text.add_adapter(model, adapter, num_virtual_tokens=2)
    data = text.TokenizedPairs(PAIRS, BYTES, 16, 16)
    defaults = {"max_steps": STEPS, "save_steps": 3, "logging_steps": 1, "per_device_train_batch_size": 2}
    return ZooSeq2SeqTrainer(
        Seq2SeqRunArguments(output_dir=str(folder), **{**defaults, **settings}),
        Accelerator(),
        {"recipe": "test"},
        model=model,
        train_dataset=data,
        eval_dataset=data,
        data_collator=text.PadBatch(BYTES.pad_token_id),
        processing_class=BYTES,
        compute_metrics=metrics,
    )


def at(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def state_of(folder: Path, step: int) -> dict:
    """Everything that the future of a run depends on."""
    files = {name: torch.load(at(folder, step) / name) for name in ("optimizer.pt", "scheduler.pt")}
    weights = "trained.safetensors" if (at(folder, step) / "trained.safetensors").exists() else "model.safetensors"
    rng = torch.load(at(folder, step) / "rng_state.pth", weights_only=False)
    return files | {"weights": load_file(at(folder, step) / weights), "dropout": rng["cpu"]}


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> Path:
    """The folder of a run without interruption, with all its checkpoints."""
    folder = tmp_path_factory.mktemp("straight")
    trainer_of(folder, save_total_limit=None).fit()
    return folder


@pytest.fixture
def copied(straight, tmp_path) -> Path:
    shutil.copytree(straight, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_process_has_one_device(monkeypatch, tmp_path):
    """Where there are several GPUs, which a plain `python` sees all."""
    monkeypatch.setattr(Seq2SeqTrainingArguments, "n_gpu", property(lambda self: 3))
    assert Seq2SeqRunArguments(output_dir=str(tmp_path)).training_arguments(torch.device("cpu"))._n_gpu == 1


def test_a_checkpoint_holds_no_pickle_of_the_arguments(straight):
    assert sorted(path.name for path in (straight / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (3, 6, 9)
    ]
    assert not list(straight.rglob("training_args.bin"))
    assert {"manifest.json", "model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= {
        path.name for path in at(straight, 9).iterdir()
    }


@pytest.mark.parametrize("adapter", [None, "p_tuning"])
def test_a_resumed_run_equals_one_without_interruption(adapter, straight, tmp_path):
    if adapter is not None:
        straight = tmp_path / "straight"
        trainer_of(straight, adapter, save_total_limit=None).fit()
    where = at(straight, 3)
    resumed = trainer_of(tmp_path / "resumed", adapter, resume_from_checkpoint=str(where), save_steps=100)
    result = resumed.fit()
    assert same(state_of(straight, STEPS), state_of(tmp_path / "resumed", STEPS))
    losses = [
        [
            record["loss"]
            for record in json.loads((at(folder, STEPS) / "trainer_state.json").read_text())["log_history"]
        ]
        for folder in (straight, tmp_path / "resumed")
    ]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS
    assert result.results["train_steps"] == STEPS


def test_the_history_goes_on_from_the_checkpoint(straight, tmp_path):
    """Here and in another folder; a log line begun before the checkpoint is finished after it."""
    settings = {"logging_steps": 2, "save_total_limit": None}
    expected = trainer_of(tmp_path / "a", **settings).fit().history
    path = tmp_path / "a" / "history.jsonl"
    assert expected == read_history(tmp_path / "a")
    each = [record["loss"] for record in read_history(straight)]
    assert [record["loss"] for record in expected] == pytest.approx(
        [sum(each[step : step + 2]) / 2 for step in (0, 2, 4, 6)]
    )
    content = path.read_bytes()
    resumed = trainer_of(tmp_path / "b", **settings, resume_from_checkpoint=str(at(tmp_path / "a", 3))).fit()
    assert resumed.history == expected and path.read_bytes() == content
    for step in (6, 9):
        shutil.rmtree(at(tmp_path / "a", step))
    with open(path, "a") as file:
        file.write('{"step": 9, "lo')  # the kill came while it was written
    trainer_of(tmp_path / "a", **settings, resume_from_checkpoint="latest").fit()
    assert path.read_bytes() == content
    again = trainer_of(tmp_path / "a", **settings, resume_from_checkpoint="latest").fit()  # it has ended
    assert again.history == expected


def test_the_history_of_a_checkpoint_of_the_first_version_is_the_trainers(copied, straight):
    shutil.rmtree(at(copied, 9))
    manifest = json.loads((at(copied, 6) / "manifest.json").read_text())
    for name in ("history.jsonl", ".made.jsonl", "window"):
        del manifest["progress"][name]
    del manifest["sha256"]
    manifest["sha256"] = sha256(json.dumps(manifest, sort_keys=True).encode())
    (at(copied, 6) / "manifest.json").write_text(json.dumps(manifest))
    (copied / "history.jsonl").unlink(), (copied / ".made.jsonl").unlink()
    trainer_of(copied, resume_from_checkpoint="latest").fit()
    assert read_history(copied) == read_history(straight) and len(read_history(copied)) == STEPS


def missing(path: Path):
    path.unlink()


def emptied(path: Path):
    path.write_bytes(b"")


def truncated(path: Path):
    path.write_bytes(path.read_bytes()[:-7])


def flipped(path: Path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [missing, emptied, truncated, flipped])
@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors", "trainer_state.json", "manifest.json"])
def test_a_damaged_checkpoint_is_stepped_over(damage, name, copied, caplog):
    """The Trainer would go on with a fresh optimizer, or fail."""
    damage(at(copied, 9) / name)
    with caplog.at_level(logging.WARNING):
        checkpoint = trainer_of(copied, resume_from_checkpoint="latest")._checkpoint()
    assert checkpoint.path == at(copied, 6)
    (warning,) = [each.getMessage() for each in caplog.records if each.name.startswith("hwzoo")]
    assert str(at(copied, 9) / name) in warning and "the checkpoint before it is used" in warning


def test_after_stepping_back_the_run_ends_the_same(copied, straight):
    missing(at(copied, 9) / "optimizer.pt")
    truncated(at(copied, 6) / "rng_state.pth")
    trainer = trainer_of(copied, resume_from_checkpoint="latest")
    trainer.fit()
    assert trainer.resumed_from == at(copied, 3)
    assert same(state_of(copied, STEPS), state_of(straight, STEPS))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: missing(path / "optimizer.pt"), "is not a whole checkpoint: .*optimizer.pt is missing"),
        (lambda path: (path / "pytorch_model.bin").touch(), "pytorch_model.bin is not in its manifest"),
    ],
)
def test_a_named_checkpoint_must_be_whole(spoil, message, copied, tmp_path):
    spoil(at(copied, 6))
    with pytest.raises(UsageError, match=message):
        trainer_of(tmp_path / "new", resume_from_checkpoint=str(at(copied, 6))).fit()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"learning_rate": 0.5}, "learning_rate 0.001, this one has 0.5"),
        ({"max_steps": 12}, "max_steps 9, this one has 12"),
        ({"per_device_train_batch_size": 3}, "per_device_train_batch_size 2, this one has 3"),
        ({"optim": "adafactor"}, "optim 'adamw_torch_fused', this one has 'adafactor'"),
        ({"adapter": "lora"}, "it is of a run"),
    ],
)
def test_another_run_is_not_resumed(changed, message, straight, tmp_path):
    if "adapter" in changed:
        trainer = trainer_of(tmp_path / "a", "lora", max_steps=1)
        trainer.fit()
        changed, where = {"adapter": "prompt_tuning", "max_steps": 1}, at(tmp_path / "a", 1)
        frozen = trainer.model.get_base_model().lm_head.weight
        frozen.data += 1
        trainer = ZooSeq2SeqTrainer(trainer.run, trainer.trackers, {"recipe": "test"}, model=trainer.model)
        trainer.run.resume_from_checkpoint = str(where)
        message = "frozen weights"
    else:
        trainer = trainer_of(tmp_path, **changed, resume_from_checkpoint=str(at(straight, 6)))
    with pytest.raises(UsageError, match=message):
        trainer.fit()


def test_a_model_is_the_same_however_its_folder_is_spelled(tmp_path, monkeypatch):
    """Also for a checkpoint of an earlier version, which has it as it was given."""
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    first = trainer_of(tmp_path / "run", max_steps=1)
    first.identity |= {"model_name_or_path": "./base", "tokenizer_name": "base"}
    first.fit()

    def resumed(model: str, tokenizer: str | None) -> ZooSeq2SeqTrainer:
        trainer = trainer_of(tmp_path / "run", max_steps=1, resume_from_checkpoint="latest")
        identity = {"recipe": "test", "model_name_or_path": model, "tokenizer_name": tokenizer}
        return ZooSeq2SeqTrainer(trainer.run, trainer.trackers, identity, model=trainer.model)

    for model in ("base", "./base", str(tmp_path / "base")):
        trainer = resumed(model, model)
        assert trainer.identity["model_name_or_path"] == trainer.identity["tokenizer_name"] == "base"
        assert trainer._checkpoint().step == 1
    for wrong in (("owner/base", "base"), ("base", None)):
        with pytest.raises(
            UsageError, match="it is of a run with (model_name_or_path './base'|tokenizer_name 'base')"
        ):
            resumed(*wrong)._checkpoint()


def test_the_best_checkpoint_by_rouge_l_stays_and_is_taken(tmp_path):
    scores = iter([1.0, 5.0, 3.0, 2.0, 4.0])  # the last one at the end
    trainer = trainer_of(
        tmp_path,
        metrics=lambda output: {"rougeL": next(scores)},
        eval_steps=2,
        save_steps=4,
        save_total_limit=1,
    )
    result = trainer.fit()
    assert result.results["best_step"] == 4
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000004", "step-00000009"]
    best = load_file(at(tmp_path, 4) / "model.safetensors")
    assert torch.equal(trainer.model.shared.weight, best["shared.weight"])
    # A resume of the finished run finds them again; where they are lost it says so and takes the last.
    again = trainer_of(tmp_path, eval_steps=2, save_steps=4, resume_from_checkpoint="latest")
    assert again.fit().results["best_step"] == 4
    assert torch.equal(again.model.shared.weight, best["shared.weight"])
    assert again.weights() == "the best of the evaluations every 2 steps, by ROUGE-L on 6 validation pairs"


def test_the_best_weights_come_along_to_another_folder(tmp_path):
    scores = iter([5.0, 1.0, 2.0, 3.0])
    settings = {"eval_steps": 2, "save_steps": 2, "max_steps": 8, "save_total_limit": None}
    first = trainer_of(tmp_path / "a", metrics=lambda output: {"rougeL": next(scores)}, **settings)
    first.fit()
    best = load_file(at(tmp_path / "a", 2) / "model.safetensors")["shared.weight"]
    resumed = str(at(tmp_path / "a", 4))
    other = trainer_of(
        tmp_path / "b", metrics=lambda output: {"rougeL": 4.0}, **settings, resume_from_checkpoint=resumed
    )
    assert other.fit().results["best_step"] == 2
    shutil.rmtree(tmp_path / "a")
    settings["save_total_limit"] = 1  # beyond which it is kept
    again = trainer_of(tmp_path / "b", **settings, resume_from_checkpoint="latest")
    assert again.fit().results["best_step"] == 2 and torch.equal(again.model.shared.weight, best)


def test_a_resumed_run_saves_and_logs_as_it_is_asked(straight, tmp_path):
    asked = {"save_steps": 1, "logging_steps": 3, "save_total_limit": None}
    trainer_of(tmp_path, **asked, resume_from_checkpoint=str(at(straight, 6))).fit()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (7, 8, 9)
    ]
    logged = [row["step"] for row in read_jsonl(tmp_path / "history.jsonl") if "loss" in row]
    assert logged == [1, 2, 3, 4, 5, 6, 9]


def test_lost_best_weights_are_told(tmp_path, caplog):
    scores = iter([5.0, 1.0])
    settings = {"max_steps": 4, "eval_steps": 2, "save_steps": 2}
    trainer_of(tmp_path, metrics=lambda output: {"rougeL": next(scores)}, **settings).fit()
    flipped(at(tmp_path, 2) / "model.safetensors")
    again = trainer_of(tmp_path, **settings, resume_from_checkpoint="latest")
    with caplog.at_level(logging.WARNING):
        assert "best_step" not in again.fit().results
    assert again.weights() == "the last weights"
    assert "step-00000002/model.safetensors is cut off or altered; it has the best weights" in caplog.text


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteLoss, match=r"the loss is (nan|inf) at step \d"):
        trainer_of(tmp_path, learning_rate=1e30, logging_steps=100, save_steps=4, max_grad_norm=None).fit()
    whole = [load_file(path / "model.safetensors") for path in (tmp_path / "checkpoints").glob("step-*")]
    assert all(tensor.isfinite().all() for weights in whole for tensor in weights.values())


def test_weights_that_are_not_finite_enter_no_checkpoint(tmp_path):
    trainer = trainer_of(tmp_path)
    hook = register_optimizer_step_post_hook(lambda *_: trainer.model.shared.weight.data.fill_(torch.nan))
    try:
        with pytest.raises(HwzooError, match="is nan at step|is not finite after step"):
            trainer.fit()
    finally:
        hook.remove()
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_signal_saves_and_stops(straight, tmp_path):
    steps = []
    hook = register_optimizer_step_post_hook(
        lambda *_: steps.append(1) or (len(steps) == 4 and os.kill(os.getpid(), signal.SIGTERM))
    )
    try:
        with pytest.raises(
            Stopped, match="stopped by SIGTERM after step 4; .*--resume_from_checkpoint latest"
        ) as stop:
            trainer_of(tmp_path).fit()
    finally:
        hook.remove()
    assert stop.value.status == 128 + signal.SIGTERM and at(tmp_path, 4).is_dir()
    trainer_of(tmp_path, resume_from_checkpoint="latest").fit()
    assert same(state_of(tmp_path, STEPS), state_of(straight, STEPS))


def test_a_signal_after_the_last_step_stops_before_the_test(tmp_path):
    def evaluated(output):
        if trainer.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return {"rougeL": 1.0}

    settings = {"max_steps": 4, "eval_steps": 2, "save_steps": 2}
    trainer = trainer_of(tmp_path, metrics=evaluated, **settings)
    with pytest.raises(Stopped, match="stopped by SIGTERM after step 4; ") as stop:
        trainer.fit()
    assert stop.value.status == 128 + signal.SIGTERM and at(tmp_path, 4).is_dir()
    again = trainer_of(tmp_path, **settings, resume_from_checkpoint="latest")
    assert again.fit().results["train_steps"] == 4


def test_generation_is_in_float32_after_training_in_bfloat16(tmp_path):
    trainer = trainer_of(tmp_path, bf16=True, max_steps=2)
    seen = []
    trainer.fit()
    trainer.model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    ids = trainer.generate_for(trainer.eval_dataset)
    assert len(ids) == len(PAIRS) and set(seen) == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"lr_scheduler_type": "constant"}, [0.01] * 5),
        ({"lr_scheduler_type": "linear", "warmup_steps": 2}, [0.0, 0.005, 0.01, 0.01 * 2 / 3, 0.01 / 3]),
        (
            {"lr_scheduler_type": "inverse_sqrt", "warmup_steps": 2},
            [0.01] * 3 + [0.01 * (2 / n) ** 0.5 for n in (3, 4)],
        ),
    ],
    ids=["constant", "linear", "inverse_sqrt"],
)
@pytest.mark.parametrize("optim", ["adamw_torch_fused", "adafactor"])
def test_schedules(settings, expected, optim, tmp_path):
    trainer = trainer_of(tmp_path, max_steps=5, learning_rate=0.01, optim=optim, **settings)
    rates = []
    hook = register_optimizer_step_post_hook(lambda each, *_: rates.append(each.param_groups[0]["lr"]))
    try:
        trainer.fit()
    finally:
        hook.remove()
    assert rates == pytest.approx(expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fp16": True}, r"--fp16 is refused: activations of T5 overflow in float16 .*#10956"),
        ({"lr_scheduler_type": "inverse_sqrt"}, "--warmup_steps is 0; --lr_scheduler_type inverse_sqrt needs"),
        ({"push_to_hub": True}, "--push_to_hub is given without --hub_model_id"),
        ({"max_grad_norm": -1.0}, r"--max_grad_norm is -1.0; it must be in \[0, inf\)"),
    ],
)
def test_arguments_that_cannot_be(settings, message):
    with pytest.raises(UsageError, match=message):
        Seq2SeqRunArguments(**settings)


# The order of the data


@pytest.mark.parametrize("lengths", [None, [3, 9, 1, 7, 5, 3, 8, 2, 6, 4, 1]])
def test_an_epoch_has_every_example_once_in_an_order_of_its_own(lengths):
    sampler = EpochSampler(11, 5, lengths, 2)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        orders.append(list(sampler))
    assert all(sorted(order) == list(range(11)) for order in orders) and len(sampler) == 11
    assert orders[0] == orders[2] != orders[1]
    other = EpochSampler(11, 6, lengths, 2)
    assert list(other) != orders[0]


def test_batches_by_length_hold_similar_lengths():
    lengths = torch.randint(1, 100, (400,), generator=torch.Generator().manual_seed(0)).tolist()
    order = list(EpochSampler(400, 0, lengths, 8))
    batches = [[lengths[index] for index in order[start : start + 8]] for start in range(0, 400, 8)]
    assert sum(max(batch) - min(batch) for batch in batches) / len(batches) < 5
    assert [batch[0] for batch in batches] != sorted(batch[0] for batch in batches)


def test_only_a_short_batch_has_its_place_at_the_end():
    """A whole one of the longest texts would be the last of each epoch."""
    ends = []
    for epoch in range(20):
        sampler = EpochSampler(400, 0, range(400), 8)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert sorted(order) == list(range(400))
        ends.append(max(order[-8:]))
    assert len(set(ends)) > 10
    order = list(EpochSampler(403, 0, range(403), 8))
    assert sorted(order) == list(range(403)) and sorted(order[-3:]) == order[-3:]


def test_several_processes_take_only_whole_steps_of_an_epoch(monkeypatch, tmp_path):
    """accelerate fills up the others with the epoch's first pairs."""
    order = torch.randperm(18, generator=torch.Generator().manual_seed(3)).tolist()
    batches = BatchSampler(EpochSampler(18, 3, None, 8, whole=8), 4, drop_last=False)
    own = [list(BatchSamplerShard(batches, 2, process)) for process in (0, 1)]
    assert own == [[order[0:4], order[8:12]], [order[4:8], order[12:16]]]
    assert list(EpochSampler(18, 3, None, 8)) == order
    with pytest.raises(UsageError, match="^--per_device_train_batch_size: a step takes 8 pairs .*, the .* set has 7$"):
        EpochSampler(7, 3, None, 8, whole=8)

    trainer = trainer_of(tmp_path)
    order = torch.randperm(6, generator=torch.Generator().manual_seed(0)).tolist()
    assert list(trainer._get_train_sampler()) == order
    monkeypatch.setattr(Seq2SeqTrainingArguments, "world_size", property(lambda self: 2))
    assert list(trainer._get_train_sampler()) == order[:4] and len(trainer._get_train_sampler()) == 4
    trainer.args.gradient_accumulation_steps = 2
    with pytest.raises(UsageError, match="a step takes 8 pairs"):
        trainer._get_train_sampler()


def test_what_fills_no_step_is_left_out_whatever_its_length():
    """The longest texts are last in a pool of batches by length, and would never be seen."""
    left_out = set()
    for epoch in range(100):
        sampler = EpochSampler(30, 0, range(30), 4, whole=8)
        sampler.set_epoch(epoch)
        order = list(sampler)
        assert len(order) == len(set(order)) == len(sampler) == 24
        assert all(sorted(order[i : i + 4]) == order[i : i + 4] for i in range(0, 24, 4))
        left_out |= set(range(30)) - set(order)
    assert left_out == set(range(30))


def test_imports_are_not_searched_for_garbage_while_it_trains(unfrozen, tmp_path):
    seen = []

    class Counts(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(gc.get_freeze_count())

    trainer = trainer_of(tmp_path)
    trainer.add_callback(Counts())
    trainer.fit()
    assert len(seen) == STEPS and min(seen) > 1000 and gc.get_freeze_count() == 0
