"""What a run of train_t5.py leaves, that what it saves writes the same elsewhere, and that it goes on exactly."""

import ast
import functools
import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import recipe_runs
import warm
from forked import TwoProcesses
from loopback_hub import LoopbackHub
from peft import AutoPeftModelForSeq2SeqLM, IA3Config, get_peft_model
from recipe_runs import (
    checkpoint,
    evaluations,
    history,
    last_of_the_bar,
    results_but_times,
    run_with,
    same_weights,
    wait_for_checkpoint,
)
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    ByT5Tokenizer,
    GenerationConfig,
)

from hwzoo import hub, text, training
from hwzoo.errors import HwzooError, UsageError
from hwzoo.metrics.text import ROUGE_TYPES
from hwzoo.text import adapters as text_adapters
from hwzoo.training import parse_arguments, read_history, save_panels
from hwzoo.training.seq2seq import EpochSampler, ZooSeq2SeqTrainer

RECIPE = Path(__file__).parents[2] / "recipes" / "train_t5.py"
launch = functools.partial(recipe_runs.launch, RECIPE)
SMALL = {
    "config_d_model": 16, "config_d_ff": 16, "config_num_layers": 1, "config_num_decoder_layers": 1,
    "config_num_heads": 2, "per_device_train_batch_size": 8, "max_steps": 4, "eval_steps": 2, "logging_steps": 2,
    "generation_max_new_tokens": 5, "warmup_steps": 60,
}  # fmt: skip
WORDS = "cat dog box fox man city boy wolf kiss toy baby bush car day fly".split()
TOKEN = "hf_loopback_right"


@pytest.fixture(scope="module")
def train_t5():
    return recipe_runs.load_recipe("train_t5")


@pytest.fixture(scope="module")
def words(tmp_path_factory) -> str:
    """A folder of two word tasks."""
    folder = tmp_path_factory.mktemp("data") / "inflected"
    folder.mkdir()
    for split, part in (("train", WORDS[:9]), ("validation", WORDS[9:12]), ("test", WORDS[12:])):
        rows = [{"task": task, "source": word, "target": word + end} for word in part for task, end in TASKS]
        write(folder / f"{split}.jsonl", rows)
    return str(folder)


TASKS = (("plural", "s"), ("past", "ed"))


@pytest.fixture(scope="module")
def papers(tmp_path_factory) -> str:
    """A folder of documents with one or two summaries."""
    folder = tmp_path_factory.mktemp("data") / "papers"
    folder.mkdir()
    rows = [
        {"document": f"We study {word}. A {word} is red. It ends here. So.", "summary": f"The {word} is red."}
        for word in WORDS
    ]
    rows = [row | {"summaries": [row["summary"], "It ends."][: 1 + i % 2]} for i, row in enumerate(rows)]
    for split, part in (("train", rows[:9]), ("validation", rows[9:12]), ("test", rows[12:])):
        write(folder / f"{split}.jsonl", part)
    return str(folder)


def write(path: Path, rows: list[dict]):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def types_of(recipe) -> list[type]:
    return [recipe.Run, recipe.Model, recipe.Data, recipe.Generation]


def run(recipe, folder: Path, **settings) -> dict:
    """A small run."""
    return run_with(recipe, types_of(recipe), {**SMALL, "output_dir": str(folder), **settings})


def flags(**settings) -> list[str]:
    return [f"--{name}={value}" for name, value in (SMALL | settings).items()]


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]


def written_by(model, folder: Path) -> list[str]:
    """What a model of others' making out of a folder writes for the test set of the folder's run."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    inputs = tokenizer([row["source"] for row in rows_of(folder)], return_tensors="pt", padding=True)
    ids = model.eval().generate(**inputs, generation_config=GenerationConfig.from_pretrained(folder))
    return text.decode(ids.tolist(), tokenizer)


def losses_of(folder: Path, step: int) -> list[float]:
    logged = json.loads((checkpoint(folder, step) / "trainer_state.json").read_text())["log_history"]
    return [record["loss"] for record in logged if "loss" in record]


@pytest.mark.long
def test_two_processes_and_two_accumulated_batches_equal_one_batch(train_t5, tmp_path, monkeypatch):
    """The words have lengths of their own: a mean of the batches' means would be another loss."""
    regular = [word for word in WORDS if word not in text.COURSE_WORDS]  # those are all tested
    for split, part in (("train", regular[:9]), ("validation", regular[9:12]), ("test", regular[11:])):
        rows = [{"task": task, "source": word, "target": word * 2 + end} for word in part for task, end in TASKS]
        write(tmp_path / f"{split}.jsonl", rows)
    # Three words of two tasks are no multiple of two batches of four.
    settings = {"dataset_name": str(tmp_path), "max_steps": 50, "eval_steps": 25, "logging_steps": 1}
    settings |= {"learning_rate": 1e-2, "warmup_steps": 5, "per_device_eval_batch_size": 4}
    half = settings | {"per_device_train_batch_size": 4}
    two = TwoProcesses("train_t5", tmp_path / "two", *flags(**half))
    # Two of the 18 pairs fill no step of eight: two processes leave them out, one here too.
    whole = EpochSampler(18, 0, None, 8, whole=8)
    monkeypatch.setattr(ZooSeq2SeqTrainer, "_get_train_sampler", lambda *_: whole)
    run(train_t5, tmp_path / "one", **settings)
    run(train_t5, tmp_path / "accumulated", **half, gradient_accumulation_steps=2)
    two.finish()
    one = losses_of(tmp_path / "one", 50)
    assert len(one) == 50 and one[-1] < one[0] / 1.5
    for other in ("two", "accumulated"):
        assert losses_of(tmp_path / other, 50) == pytest.approx(one, rel=1e-4), other
        assert rows_of(tmp_path / other) == rows_of(tmp_path / "one")
        first, second = results_but_times(tmp_path / "one"), results_but_times(tmp_path / other)
        assert {name: value for name, value in first.items() if name.startswith("test_")}.items() <= second.items()


@pytest.fixture(scope="module")
def drawn():
    """Drawing the curves is most of a small run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save_panels", lambda *arguments: None)
        yield


@pytest.fixture(scope="module")
def base(train_t5, words, drawn, tmp_path_factory) -> Path:
    """The folder of a model whose words depend on what it reads."""
    folder = tmp_path_factory.mktemp("base") / "model"
    run(train_t5, folder, dataset_name=words, max_steps=60, eval_steps=None, learning_rate=3e-2)
    assert len({row["prediction"] for row in rows_of(folder)}) > 1
    return folder


# What a run leaves


def test_the_default_run_in_small(train_t5, tmp_path, capsys):
    """The embedded word tasks, from scratch."""
    results = run(train_t5, tmp_path, max_eval_samples=20, max_predict_samples=30, report_to=["tensorboard"])
    printed, records = capsys.readouterr(), history(tmp_path)
    evaluated = [record for record in records if "eval_loss" in record]
    assert [record["step"] for record in evaluated] == [2, 4]
    for line, record in zip(evaluations(printed.out), evaluated, strict=True):
        assert line.startswith(f"{record['step']}: loss {record['eval_loss']:.4g} (nats a token); ROUGE-1 ")
        assert f", ROUGE-L {record['eval_rougeL']:.4g}, " in line and "runtime" not in line and "epoch" not in line
    (*_, loss) = (record["loss"] for record in records if "loss" in record)
    assert f", loss={loss:.4g}, ROUGE-L={records[-1]['eval_rougeL']:.4g}]" in last_of_the_bar(printed.err)
    assert "{" not in printed.out + printed.err  # the Trainer's own lines
    save_panels(read_history(tmp_path), tmp_path / "again.png", train_t5.PANELS)
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "curves.png").read_bytes()
    logs = [EventAccumulator(str(events)).Reload() for events in (tmp_path / "logs").rglob("events*")]
    (log,) = [log for log in logs if "train/loss" in log.Tags()["scalars"]]
    for tag, name in (("train/loss", "loss"), ("eval/rougeL", "eval_rougeL"), ("train/grad_norm", "grad_norm")):
        told = [(event.step, event.value) for event in log.Scalars(tag)]
        assert told == [(each["step"], pytest.approx(each[name])) for each in records if name in each] != []
    assert log.Scalars("test/exact_match")[0].value == pytest.approx(results["test_exact_match"])
    assert json.loads((tmp_path / "all_results.json").read_text()) == results
    names = {f"test_{name}" for name in (*ROUGE_TYPES, "exact_match", "gen_len")}
    names |= {"train_steps", "train_runtime", "train_samples_per_second", "best_step", "trainable_params"}
    assert names | {"baselines", "protocol"} <= set(results)
    assert (results["train_steps"], results["best_step"] in (2, 4)) == (4, True)
    for words in (
        "words: 30 test pairs (the first)", "split by the hash", "at most 5 new tokens, greedy;", "128 tokens",
        "with stemming", "every 2 steps, by ROUGE-L on 20 validation pairs", "foot, man, person",
    ):  # fmt: skip
        assert words in results["protocol"], words
    assert results["baselines"].keys() == {"suffix_rules"}
    assert results["baselines"]["suffix_rules"]["exact_match"] > 0.8
    assert len(rows_of(tmp_path)) == 30
    assert rows_of(tmp_path)[0].keys() == {"source", "prediction", "references", "suffix_rules"}
    pushed = {"README.md", "all_results.json", "config.json", "curves.png", "generation_config.json"}
    pushed |= {"model.safetensors", "predictions.jsonl", "preset.yaml", "tokenizer_config.json"}
    assert pushed <= {path.name for path in tmp_path.iterdir()} and not list(tmp_path.rglob("training_args.bin"))

    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert results["trainable_params"] == model.num_parameters()
    assert model.generation_config.max_new_tokens == 5 and model.generation_config.num_beams == 1
    card = (tmp_path / "README.md").read_text()
    for words in ("arXiv:1910.10683", "| suffix rules | ", "](curves.png)", "pipeline_tag: text2text-generation"):
        assert words in card, words
    again = parse_arguments(types_of(train_t5), [f"--config={tmp_path / 'preset.yaml'}"])
    assert again[0].max_steps == 4 and again[1].config_d_model == 16 and again[3].generation_max_new_tokens == 5


def test_summaries_beside_leads_and_the_oracle(train_t5, papers, drawn, tmp_path):
    settings = {"config_vocab_size": 300, "max_source_length": 9, "source_prefix": "tldr: ", "num_beams": 2}
    results = run(train_t5, tmp_path, dataset_name=papers, **settings)
    baselines = results["baselines"]
    assert list(baselines) == ["lead_1", "lead_3", "oracle_sentence"]
    assert all({"rouge1", "rouge1_max", "rouge1_mean"} <= set(each) for each in baselines.values())
    assert baselines["oracle_sentence"]["rouge1"] > baselines["lead_3"]["rouge1"] > baselines["lead_1"]["rouge1"]
    rows = rows_of(tmp_path)
    assert rows[0]["lead_1"] == "We study car." and rows[0]["oracle_sentence"] == "A car is red."
    assert rows[0]["lead_3"] == "We study car. A car is red. It ends here."
    assert [len(row["references"]) for row in rows] == [1, 2, 1]
    for row in rows:  # as the model saw it
        assert row["source"].startswith("tldr: We") and len(row["source"]) < 40
    assert "2 beams, length penalty 1.0; " in results["protocol"] and "_max against the best" in results["protocol"]
    card = (tmp_path / "README.md").read_text()
    assert "Lead 1 and lead 3 are" in card and "pipeline_tag: summarization" in card
    assert len(AutoTokenizer.from_pretrained(tmp_path)) <= 300
    assert written_by(AutoModelForSeq2SeqLM.from_pretrained(tmp_path), tmp_path) == [r["prediction"] for r in rows]


def test_texts_of_another_script_are_scored_by_their_own_words(train_t5, drawn, tmp_path):
    """Baselines, the evaluations that choose a checkpoint, and the test; by the flag as by themselves."""
    (tmp_path / "data").mkdir()
    for split in ("train", "validation", "test"):
        rows = [
            {"text": f"Слово {word}. Ещё одно.", "summary": f"Слово {word}."}
            for word in "ива дуб ель лес сад луг".split()
        ]
        write(tmp_path / "data" / f"{split}.jsonl", rows)
    settings = {"dataset_name": str(tmp_path / "data"), "per_device_train_batch_size": 6}
    results = run(train_t5, tmp_path / "auto", **settings)
    assert "; words of ROUGE in any script (unicode); " in results["protocol"]
    assert "(unicode)" in " ".join((tmp_path / "auto" / "README.md").read_text().split())
    assert results["baselines"]["lead_1"]["rouge1"] == results["baselines"]["oracle_sentence"]["rouge1"] == 100
    latin = run(train_t5, tmp_path / "latin", rouge_tokenizer="rouge_score", **settings)
    assert latin["baselines"]["lead_1"]["rouge1"] == 0 and "unicode" not in latin["protocol"]


def test_files_and_columns_are_taken_as_named(train_t5, drawn, tmp_path, caplog):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"q": f"{split} {word}", "a": word} for word in WORDS[:6]])
    files = {f"{split}_file": str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings = {"text_column": "q", "summary_column": "a", "per_device_train_batch_size": 6}
    results = run(train_t5, tmp_path / "run", **files, **settings, source_prefix="> ")
    assert results["protocol"].startswith("train: 6 test pairs")
    assert rows_of(tmp_path / "run")[1]["source"] == "> test dog"
    del files["validation_file"]
    run(train_t5, tmp_path / "no", **files, **settings)
    assert "train has no validation pairs: no evaluations in training, the last weights are kept" in caplog.messages
    assert not any(name.startswith("eval_") for record in history(tmp_path / "no") for name in record)
    assert "; the last weights" in json.loads((tmp_path / "no" / "all_results.json").read_text())["protocol"]


def test_the_card_of_pairs_that_are_no_summaries(train_t5, drawn, tmp_path):
    """What it says to run reads the source as it is, whatever its letters."""
    source = '1 < 2 & \U0001f600 isn\'t "x"\n'
    for split in ("train", "validation", "test"):
        rows = [{"source": source + word, "target": f"das ist kein {word}"} for word in WORDS[:6]]
        write(tmp_path / f"{split}.jsonl", rows)
    files = {f"{split}_file": str(tmp_path / f"{split}.jsonl") for split in ("train", "validation", "test")}
    settings = {"model_name_or_path": tiny_bart(tmp_path / "base"), "per_device_train_batch_size": 6}
    run(train_t5, tmp_path / "run", **files, **settings, source_prefix="", max_source_length=40)
    card = (tmp_path / "run" / "README.md").read_text()
    assert "pipeline_tag: text2text-generation" in card and "A sequence-to-sequence transformer (`bart`), " in card
    assert "T5: Raffel" not in card and "summary" not in card.split("## What it is not good for")[1]
    (example,) = re.findall(r"tokenizer\((.*), return_tensors", card)
    assert ast.literal_eval(example) == source + WORDS[0]


def tiny_bart(folder: Path) -> str:
    """A saved BART that reads and writes at most 64 bytes."""
    bart = BartConfig(
        vocab_size=259, d_model=8, encoder_layers=1, decoder_layers=1, encoder_attention_heads=1,
        decoder_attention_heads=1, encoder_ffn_dim=8, decoder_ffn_dim=8, max_position_embeddings=64, pad_token_id=0,
        eos_token_id=1, bos_token_id=0, decoder_start_token_id=0, forced_eos_token_id=None,
    )  # fmt: skip
    hub.save(BartForConditionalGeneration(bart), folder, also=[ByT5Tokenizer(extra_ids=0)])
    return str(folder)


def test_what_does_not_fit_the_model_is_told_before_training(train_t5, drawn, tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / f"{split}.jsonl", [{"source": word * 25, "target": f"s {word}"} for word in WORDS[:8]])
    base, asked = tiny_bart(tmp_path / "base"), {"dataset_name": str(tmp_path)}
    text.new_tokenizer(None, 400, [f"{word} " * 9 for word in WORDS]).save_pretrained(tmp_path / "pieces")
    for given, told in (
        ({}, r"--max_source_length \(101 tokens\): 101 positions are needed, the model has 64"),
        ({"max_steps": 0}, r"--max_source_length \(101 tokens\): 101 positions"),
        (
            {"peft_method": "prompt_tuning", "num_virtual_tokens": 30, "max_source_length": 40},
            r"--max_source_length \(40 tokens\), --num_virtual_tokens \(30 tokens\): 70 positions",
        ),
        ({"max_source_length": 64, "generation_max_new_tokens": 65}, r"--generation_max_new_tokens \(65 tokens\)"),
        (
            {"tokenizer_name": str(tmp_path / "pieces"), "max_source_length": 64},
            r"--tokenizer_name: its tokenizer gives the token \d+, the model has embeddings of 259",
        ),
    ):
        with pytest.raises(UsageError, match=f"^{told}"):
            run(train_t5, tmp_path / "run", model_name_or_path=base, **asked, **given)
    assert not list((tmp_path / "run").rglob("*.safetensors"))
    run(train_t5, tmp_path / "run", model_name_or_path=base, **asked, max_source_length=64, max_steps=0)


def test_sizes_of_a_trained_model_stay_and_that_is_told(train_t5, base, drawn, tmp_path, caplog):
    run(train_t5, tmp_path, model_name_or_path=str(base), config_dropout_rate=0.3, max_steps=0)
    own = json.loads((base / "config.json").read_text())["dropout_rate"]
    assert f"{base} keeps its own dropout_rate {own} (not 0.3)" in caplog.messages
    # Also of one that is as by default, when it is asked for.
    given = ["--model_name_or_path", str(base), "--config_d_model=64", "--max_steps=0", "--output_dir", str(tmp_path)]
    train_t5.main(*parse_arguments(types_of(train_t5), [*given, "--max_predict_samples=1", "--overwrite_output_dir"]))
    own = json.loads((base / "config.json").read_text())["d_model"]
    assert f"{base} keeps its own d_model {own} (not 64)" in caplog.messages


@pytest.mark.long
def test_a_trained_model_writes_the_same_elsewhere(train_t5, base, words, drawn, tmp_path):
    predictions = [row["prediction"] for row in rows_of(base)]
    assert written_by(AutoModelForSeq2SeqLM.from_pretrained(base), base) == predictions
    tested = run(train_t5, tmp_path, dataset_name=words, model_name_or_path=str(base), max_steps=0)
    assert [row["prediction"] for row in rows_of(tmp_path)] == predictions
    first = json.loads((base / "all_results.json").read_text())
    for name in (*(f"test_{kind}" for kind in ROUGE_TYPES), "test_exact_match", "baselines"):
        assert tested[name] == first[name]
    assert "Tested on inflected without further training." in " ".join((tmp_path / "README.md").read_text().split())


def test_zero_steps_resume_nothing_and_begin_a_folder_anew(train_t5, base, words, drawn, tmp_path):
    settings = {"dataset_name": words, "model_name_or_path": str(base)}
    run(train_t5, tmp_path, **settings, report_to=["tensorboard"])
    steps = tmp_path / "checkpoints"
    assert [path.name for path in sorted(steps.iterdir())][-1] == "step-00000004"
    logs = tmp_path / "logs" / tmp_path.name
    assert EventAccumulator(str(logs)).Reload().Scalars("train/loss")

    def files():
        return {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    before = files()
    for where in ("latest", str(steps / "step-00000004")):
        with pytest.raises(UsageError, match="it is of a run with max_steps 4, this one has 0$") as error:
            run(train_t5, tmp_path, **settings, max_steps=0, resume_from_checkpoint=where)
        assert error.value.status == 2 and files() == before
    tested = {"max_steps": 0, "overwrite_output_dir": True, "report_to": ["tensorboard"]}
    results = run(train_t5, tmp_path, **settings, **tested)
    assert list(steps.iterdir()) == [] and not (tmp_path / "history.jsonl").exists()
    told = EventAccumulator(str(logs)).Reload()
    assert "train/loss" not in told.Tags()["scalars"] or told.Scalars("train/loss") == []
    assert told.Scalars("test/exact_match")[0].value == pytest.approx(results["test_exact_match"])


def test_fine_tuning_is_compared_with_before(train_t5, base, words, drawn, tmp_path):
    settings = {"model_name_or_path": str(base), "optim": "adafactor", "lr_scheduler_type": "constant"}
    results = run(train_t5, tmp_path, dataset_name=words, **settings, learning_rate=1e-2, bf16=True, eval_steps=None)
    assert [row["zero_shot"] for row in rows_of(tmp_path)] == [row["prediction"] for row in rows_of(base)]
    assert "the last weights" in results["protocol"]
    card = " ".join((tmp_path / "README.md").read_text().split())
    assert f"Trained further from `{base.name}` on" in card and str(base) not in card  # where it lies is private
    # Tested in float32, as whoever loads it does.
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert written_by(model, tmp_path) == [row["prediction"] for row in rows_of(tmp_path)]


@pytest.mark.long
@pytest.mark.parametrize("method", text.PEFT_METHODS)
def test_an_adapter_writes_the_same_elsewhere(method, train_t5, base, words, drawn, tmp_path):
    settings = {"model_name_or_path": str(base), "peft_method": method, "num_virtual_tokens": 3, "tasks": ["past"]}
    settings["lora_rank"] = 2
    settings["per_device_train_batch_size"] = 7
    results = run(train_t5, tmp_path, dataset_name=words, **settings, source_prefix="", learning_rate=0.5)
    assert results["baselines"].keys() == {"suffix_rules", "zero_shot"}
    rows = rows_of(tmp_path)
    assert [row["source"] for row in rows] == [*WORDS[12:], "man", "wolf"]  # the course's words are tested
    assert [row["prediction"] for row in rows] != [row["zero_shot"] for row in rows]
    again = text.follow_cache_name(AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path))
    assert written_by(again, tmp_path) == [row["prediction"] for row in rows]
    assert not (tmp_path / "model.safetensors").exists()
    assert results["trainable_params"] < 5000
    card = (tmp_path / "README.md").read_text()
    assert "library_name: peft" in card and f"looks for at `{base}`" in card
    assert ("follow_cache_name(model)" in card) == (method == "prefix_tuning")
    size = "of rank 2" if method == "lora" else "3 tokens long"
    assert f"{size}, {results['trainable_params']:,} numbers that training changes. Trained" in " ".join(card.split())
    run(train_t5, tmp_path / "tested", dataset_name=words, model_name_or_path=str(tmp_path), max_steps=0)
    tested = " ".join((tmp_path / "tested" / "README.md").read_text().split())
    assert size in tested and "Tested on" in tested and " 0 numbers" not in tested


def test_the_card_of_an_adapter_of_another_kind(train_t5, base, words, drawn, tmp_path):
    """PEFT has more of them than the recipe trains; it tests them all."""
    model = AutoModelForSeq2SeqLM.from_pretrained(base)
    layers = {"target_modules": ["k", "v", "wo"], "feedforward_modules": ["wo"]}
    get_peft_model(model, IA3Config(task_type="SEQ_2_SEQ_LM", **layers)).save_pretrained(tmp_path / "ia3")
    run(train_t5, tmp_path / "run", dataset_name=words, model_name_or_path=str(tmp_path / "ia3"), max_steps=0)
    card = " ".join((tmp_path / "run" / "README.md").read_text().split())
    assert f"# t5-inflected An adapter (ia3) for the frozen model `{base}`, 128 numbers" in card
    assert "PEFT loads it, as above. ## Training" in card and "tokens long" not in card and "prompts" not in card


def test_line_breaks_of_any_kind_break_no_line_of_the_card(train_t5, drawn, tmp_path):
    for split in ("train", "validation", "test"):
        rows = [{"source": f"{word}\r\n{word}", "target": f"{word}\r{word}"} for word in WORDS[:8]]
        write(tmp_path / f"{split}.jsonl", rows)
    run(train_t5, tmp_path / "run", dataset_name=str(tmp_path))
    card = (tmp_path / "run" / "README.md").read_bytes().decode()
    assert "- Source: cat cat\n  - reference: cat cat\n" in card and "\r" not in card


def test_an_adapter_of_a_local_base_is_not_pushed_without_an_id_for_it(train_t5, base, words, drawn, tmp_path):
    settings = {"model_name_or_path": str(base), "peft_method": "prompt_tuning", "num_virtual_tokens": 3}
    settings |= {"push_to_hub": True, "hub_model_id": "me/adapter"}
    with pytest.raises(
        UsageError, match=f"an adapter of a model in a local folder, {base},.*--base_model_id OWNER/NAME"
    ):
        run(train_t5, tmp_path, dataset_name=words, **settings)
    assert not (tmp_path / "history.jsonl").exists() and not (tmp_path / "adapter_config.json").exists()


def test_an_id_of_a_base_without_an_adapter_is_refused_before_the_training(train_t5, words, drawn, tmp_path):
    """Also over an adapter of before."""
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "../t5"}')
    settings = {"push_to_hub": True, "hub_model_id": "me/t5", "overwrite_output_dir": True}
    with pytest.raises(UsageError, match=f"^--base_model_id is me/base, but {tmp_path} is no adapter, not one of a"):
        run(train_t5, tmp_path, dataset_name=words, base_model_id="me/base", **settings)
    assert not (tmp_path / "history.jsonl").exists()


def test_an_adapter_without_effect_is_not_trained(train_t5, base, words, drawn, tmp_path, monkeypatch):
    def without_effect(*args, **kwargs):
        model = text_adapters.add_adapter(*args, **kwargs)
        model.generate = model.base_model.generate
        return model

    monkeypatch.setattr(text.settings, "add_adapter", without_effect)
    settings = {"model_name_or_path": str(base), "peft_method": "prefix_tuning", "num_virtual_tokens": 3}
    with pytest.raises(HwzooError, match="^an adapter of prefix_tuning has no effect on what T5ForCond.* generates"):
        run(train_t5, tmp_path, dataset_name=words, **settings)
    assert not list(tmp_path.rglob("*.safetensors"))


# Resume


@pytest.mark.long
@pytest.mark.parametrize("peft_method", ["none", "prompt_tuning"])
def test_interrupted_and_resumed_equals_uninterrupted(peft_method, train_t5, base, words, drawn, tmp_path):
    settings = {"dataset_name": words, "max_steps": 7, "eval_steps": 3, "save_steps": 2, "save_total_limit": None}
    settings |= {"config_dropout_rate": 0.2, "learning_rate": 0.05, "group_by_length": True}
    if peft_method != "none":
        settings |= {"model_name_or_path": str(base), "peft_method": peft_method, "num_virtual_tokens": 3}
    run(train_t5, tmp_path / "straight", **settings)
    where = checkpoint(tmp_path / "straight", 4)
    run(train_t5, tmp_path / "resumed", **settings, resume_from_checkpoint=str(where))
    file = "adapter_model.safetensors" if peft_method != "none" else "model.safetensors"
    same_weights(tmp_path / "straight", tmp_path / "resumed", file)
    assert results_but_times(tmp_path / "straight") == results_but_times(tmp_path / "resumed")
    assert rows_of(tmp_path / "straight") == rows_of(tmp_path / "resumed")


def test_a_finished_run_is_only_tested_again(train_t5, base, words, drawn, tmp_path):
    shutil.copytree(base, tmp_path / "run")
    settings = {"max_steps": 60, "eval_steps": None, "learning_rate": 3e-2, "dataset_name": words}
    run(train_t5, tmp_path / "run", **settings, resume_from_checkpoint="latest")
    same_weights(base, tmp_path / "run")
    assert results_but_times(base) == results_but_times(tmp_path / "run")


def test_the_model_of_a_run_may_be_spelled_otherwise(train_t5, base, words, drawn, tmp_path, monkeypatch):
    monkeypatch.chdir(base.parent)
    settings = {"dataset_name": words, "max_steps": 2, "eval_steps": None}
    run(train_t5, tmp_path / "run", **settings, model_name_or_path=base.name, tokenizer_name=base.name)
    again = {"model_name_or_path": str(base), "tokenizer_name": f"./{base.name}", "resume_from_checkpoint": "latest"}
    assert run(train_t5, tmp_path / "run", **settings, **again)["train_steps"] == 2
    shutil.copytree(base, tmp_path / "other")
    again["model_name_or_path"] = str(tmp_path / "other")
    with pytest.raises(UsageError, match="of a run with model_name_or_path 'model', this one has 'other'"):
        run(train_t5, tmp_path / "run", **settings, **again)


@pytest.mark.slow  # the suite over all recipes does it at every moment of a run
def test_sigterm_saves_and_the_run_can_go_on(train_t5, words, drawn, tmp_path):
    settings = {"dataset_name": words, "max_steps": 400, "eval_steps": 400, "save_steps": 2}
    process = launch(tmp_path, *flags(**settings))
    wait_for_checkpoint(tmp_path, process)
    process.terminate()
    _, error = recipe_runs.finish(process)
    assert process.returncode == 128 + signal.SIGTERM, error
    assert re.search(r"error: stopped by SIGTERM after step \d+; .*--resume_from_checkpoint latest", error)
    step = max(int(path.name[5:]) for path in (tmp_path / "checkpoints").glob("step-*"))
    assert f"after step {step};" in error and not list(tmp_path.glob("*.safetensors"))


# The Hub


@pytest.mark.slow
@pytest.mark.parametrize("method", ["none", "lora"])
def test_the_model_or_the_adapter_alone_is_pushed(method, train_t5, base, words, drawn, tmp_path, monkeypatch):
    with LoopbackHub(token=TOKEN, users=("me",)) as server:
        folder = tmp_path / "run"
        run(train_t5, folder, dataset_name=words, model_name_or_path=str(base), peft_method=method)
        environment = server.environment(tmp_path / "cache") | {"HF_TOKEN": TOKEN}
        program = "import sys; from hwzoo.hub import main; sys.exit(main(['push', *sys.argv[1:]]))"
        pushes = [(folder, "me/t5")]
        if method != "none":  # others need its base too
            pushes = [(base, "me/base"), (folder, "me/t5", "--base_model_id", "me/base")]
        for arguments in pushes:
            done = python(environment, program, *map(str, arguments))
            assert done.returncode == 0, done.stderr
        pushed = server.repos["me/t5"].files
        weights = "model.safetensors" if method == "none" else "adapter_model.safetensors"
        assert {name for name in pushed if name.endswith(".safetensors")} == {weights}
        assert {"README.md", "generation_config.json", "predictions.jsonl", "tokenizer_config.json"} <= set(pushed)
        assert not [name for name in pushed if "training_args" in name or "checkpoint" in name]
        # The card's own example, where hwzoo is not.
        example = re.search(r"```python\n(.*?)```", pushed["README.md"].decode(), re.DOTALL)[1]
        assert '"me/t5"' in example
        loaded = python(environment, "import sys\nsys.modules['hwzoo'] = None\n" + example)
        assert loaded.returncode == 0, loaded.stderr
        assert loaded.stdout.splitlines()[-1] == rows_of(folder)[0]["prediction"]


def python(environment: dict, program: str, *arguments: str) -> subprocess.CompletedProcess:
    return warm.run(["-c", program, *arguments], env=os.environ | environment)
