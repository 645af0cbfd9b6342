"""
Trains a T5 (Raffel et al., arXiv:1910.10683) that turns one text into another, from scratch, by fine-tuning any
sequence-to-sequence checkpoint, or by training an adapter on a frozen one, and scores it with ROUGE.

    accelerate launch recipes/train_t5.py
    accelerate launch recipes/train_t5.py --config recipes/configs/t5/inflections.yaml
    accelerate launch recipes/train_t5.py --model_name_or_path outputs/t5-inflections --peft_method prompt_tuning ...
    accelerate launch recipes/train_t5.py --model_name_or_path google-t5/t5-small --dataset_name EdinburghNLP/xsum
        --source_prefix "summarize: " --max_source_length 512 --optim adafactor --learning_rate 1e-3

The first trains on word tasks (plural, present participle, numbers in words, ordinals), offline, reading bytes: 3
minutes on 2 CPU cores, after which 97 % of the test words are right. The checkpoints are made by transformers'
Seq2SeqTrainer and checked by a manifest (`src/hwzoo/training/seq2seq.py`).
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.files import write_jsonl
from hwzoo.loading import TRUST
from hwzoo.metrics.rouge.sentences import split_sentences
from hwzoo.metrics.text import rouge_scores, text_scores
from hwzoo.training import flag
from hwzoo.training.seq2seq import Seq2SeqRunArguments, ZooSeq2SeqTrainer

CARD = Path(__file__).parents[1] / "model_cards" / "t5.md.jinja"
SIZES = ("d_model", "d_ff", "num_layers", "num_decoder_layers", "num_heads", "dropout_rate")
ADAPTER = ("num_virtual_tokens", "prompt_tuning_init", "prompt_tuning_init_text", "lora_rank")
PANELS = {
    "loss": ("loss", "eval_loss"),
    "ROUGE": ("eval_rouge1", "eval_rouge2", "eval_rougeL"),
    "exact match": ("eval_exact_match",),
}


@dataclass
class Run(Seq2SeqRunArguments):
    model_name_or_path: str | None = flag(
        None, "folder or Hub id of a sequence-to-sequence model or adapter; a new T5 is built when not given"
    )
    trust_remote_code: bool = flag(False, TRUST)
    output_dir: str = flag("outputs/t5", "folder for the model, results, predictions and checkpoints")
    per_device_train_batch_size: int = flag(64, "pairs a step, for each process and accumulated batch", "[1, inf)")
    max_steps: int | None = flag(1500, "optimiser steps, 0 to test only; in place of --num_train_epochs", "[0, inf)")
    learning_rate: float = flag(3e-3, "peak learning rate; Adafactor's in absolute terms", "(0, inf)")
    lr_scheduler_type: Literal["constant", "linear", "cosine", "inverse_sqrt"] = flag(
        "cosine", "constant (with adafactor and 1e-3: fine-tuning of the T5 paper); linear or cosine down to 0; "
        "inverse_sqrt: the rate times sqrt(w / max(step, w)), w = --warmup_steps (0.01 and 10000: the paper's "
        "pre-training)",
    )  # fmt: skip
    warmup_steps: int = flag(150, "steps over which linear and cosine rise from 0", "[0, inf)")
    eval_steps: int | None = flag(
        500, "steps between evaluations on the validation set; the best by ROUGE-L is kept", "[1, inf)"
    )

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps == 0 and self.model_name_or_path is None:
            raise UsageError("--max_steps is 0 without --model_name_or_path: there is nothing to test")


@dataclass
class Model(training.Flags):  # of a new T5, and of an adapter
    tokenizer_name: str | None = flag(None, "folder or Hub id of its tokenizer; the bytes of ByT5 when not given")
    config_vocab_size: int | None = flag(
        None, "learn a tokenizer of so many tokens from the training texts", "[260, inf)"
    )
    config_d_model: int = flag(64, "width", "[1, inf)")
    config_d_ff: int = flag(256, "units of the hidden layer of a block", "[1, inf)")
    config_num_layers: int = flag(3, "blocks of the encoder", "[1, inf)")
    config_num_decoder_layers: int = flag(2, "blocks of the decoder", "[1, inf)")
    config_num_heads: int = flag(4, "heads of attention", "[1, inf)")
    config_dropout_rate: float = flag(0.0, "share of units that is dropped", "[0, 1)")
    peft_method: Literal[("none", *text.PEFT_METHODS)] = flag("none", "adapter that is trained on the frozen model")
    num_virtual_tokens: int = flag(20, "of a prompt or prefix", "[1, inf)")
    prompt_tuning_init: Literal[text.PROMPT_INITS] = flag("random", "what a tuned prompt starts with")
    prompt_tuning_init_text: str | None = flag(None, "for --prompt_tuning_init text")
    lora_rank: int = flag(8, "of LoRA's updates", "[1, inf)")


@dataclass
class Data(training.Flags):
    dataset_name: str = flag("words", "words, inflections, scitldr, a folder with train.jsonl and so on, or a Hub id")
    dataset_config_name: str | None = flag(None, "configuration of a Hub data set")
    data_dir: str | None = flag(None, "folder that holds inflections/ and scitldr/; HWZOO_DATA_DIR when not given")
    train_file: str | None = flag(None, "json, jsonl or csv, plain or .gz; in place of --dataset_name")
    validation_file: str | None = flag(None, "the same for validation")
    test_file: str | None = flag(None, "the same for the test")
    text_column: str | None = flag(None, "column of the sources; document, article, text or source when not given")
    summary_column: str | None = flag(None, "column of the targets; summary, highlights or target when not given")
    references_column: str | None = flag(None, "column of lists of right targets; summaries or references if there")
    tasks: list[str] | None = flag(None, "rows with these values in the column task; all when not given")
    source_prefix: str | None = flag(None, "before each source, with {columns}; '{task}: ' where there are tasks")
    compounds_per_word: float | None = flag(
        None, "compounds that end in a training word, for each, as further ones; 8 for words, else 0 when not given",
        "[0, inf)",
    )  # fmt: skip
    max_source_length: int = flag(128, "tokens of a source, longer ones are cut", "[1, inf)")
    max_target_length: int = flag(64, "tokens of a target in training, longer ones are cut", "[1, inf)")
    max_eval_samples: int | None = flag(None, "validation pairs that are used, the first", "[1, inf)")
    max_predict_samples: int | None = flag(None, "test pairs that are used, the first", "[1, inf)")


@dataclass
class Generation(training.Flags):
    generation_max_new_tokens: int = flag(64, "tokens that are generated at most", "[1, inf)")
    num_beams: int = flag(1, "beams of the search; 1 is greedy", "[1, inf)")
    length_penalty: float = flag(1.0, "exponent of the length by which a beam's score is divided", "(-inf, inf)")


def main(run: Run, model: Model, data: Data, generation: Generation) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data
        files = {split: getattr(data, f"{split}_file") for split in ("train", "validation", "test")}
        columns = (data.text_column, data.summary_column, data.references_column, data.source_prefix, data.tasks)
        pairs = text.load_text(
            data.dataset_name, data.data_dir, files, text.Columns(*columns), data.dataset_config_name,
            data.compounds_per_word,
        )  # fmt: skip
        pairs = text.limited(pairs, None, data.max_eval_samples, data.max_predict_samples)

        if run.max_steps != 0 and not pairs.train:
            raise UsageError("--test_file is given without --train_file: give it, or --max_steps 0 to test only")
        if run.max_steps != 0 and run.eval_steps is not None and not pairs.validation:
            raise UsageError("--validation_file is needed: the best of the evaluations every --eval_steps is taken")

        # 3. model, new or loaded, its tokenizer, and how it generates
        if run.model_name_or_path is not None:
            network = text.load_seq2seq(run.model_name_or_path, hub.load, run.max_steps != 0, run.trust_remote_code)
            place = model.tokenizer_name or text.tokenizer_of(run.model_name_or_path, network)
            tokenizer = text.load_tokenizer(place, trust_remote_code=run.trust_remote_code)
        else:
            texts = (each for pair in pairs.train for each in (pair.source, pair.target))
            tokenizer = text.new_tokenizer(model.tokenizer_name, model.config_vocab_size, texts, run.trust_remote_code)
            network = text.build_t5(tokenizer, **{name: getattr(model, f"config_{name}") for name in SIZES})
        generates = text.generation_config(network, **asdict(generation))
        base = network
        if model.peft_method != "none":
            if run.model_name_or_path is None or hasattr(base, "peft_config"):
                needed = "--model_name_or_path of a model that is no adapter"
                raise UsageError(f"--peft_method {model.peft_method} needs {needed}")
            given = {name: getattr(model, name) for name in ADAPTER}
            network = text.add_adapter(base, model.peft_method, tokenizer=tokenizer, **given)

        # 4. the Trainer; its evaluations on the validation set choose the best weights
        lengths = (data.max_source_length, data.max_target_length)
        train, validation, test = (
            text.TokenizedPairs(part, tokenizer, *lengths) for part in (pairs.train, pairs.validation, pairs.test)
        )

        def scores(ids: np.ndarray | list[str], examples: list[text.Example]) -> dict[str, float]:
            texts = ids if isinstance(ids, list) else text.decode(ids, tokenizer)
            return text_scores(texts, [each.references for each in examples], [each.task for each in examples])

        identity = {"recipe": "train_t5", "training pairs": train.digest(), "validation pairs": validation.digest()}
        identity |= {**training.settings(model), **asdict(generation)}

        def trainer_of(network) -> ZooSeq2SeqTrainer:
            return ZooSeq2SeqTrainer(
                run,
                accelerator,
                identity,
                model=network,
                train_dataset=train,
                eval_dataset=validation,
                data_collator=text.PadBatch(tokenizer.pad_token_id),
                processing_class=tokenizer,
                compute_metrics=lambda output: scores(output.predictions, pairs.validation),
            )

        # 5. baselines, then training
        baselines = {}
        if pairs.tasks and pairs.train:
            baselines["suffix_rules"] = list(map(text.SuffixRules(pairs.train), pairs.test))
        elif not pairs.tasks:
            baselines |= {f"lead_{num}": text.lead(pairs.test, num, split_sentences) for num in (1, 3)}
            baselines["oracle_sentence"] = text.oracle_sentence(pairs.test, split_sentences, rouge_1)
        if run.max_steps != 0 and run.model_name_or_path is not None:
            baselines["zero_shot"] = text.decode(trainer_of(base).generate_for(test), tokenizer)
        trainer = trainer_of(network)
        fitted = trainer.fit() if run.max_steps != 0 else training.FitResult({}, [])

        # 6. test
        ids = trainer.generate_for(test)
        predictions = text.decode(ids, tokenizer)
        results = fitted.results | {"trainable_params": text.count_trainable(network)}
        results |= {f"test_{name}": value for name, value in scores(predictions, pairs.test).items()}
        results["test_gen_len"] = text.mean_length(ids, tokenizer)
        results["baselines"] = {name: scores(texts, pairs.test) for name, texts in baselines.items()}
        several = any(len(each.references) > 1 for each in pairs.test)
        sentence = [
            f"{pairs.name}: {len(pairs.test)} test pairs" + (" (the first)" if data.max_predict_samples else ""),
            *([pairs.note] if pairs.note else []),
            f"sources of at most {data.max_source_length} tokens, longer ones cut",
            "generation: " + text.describe(generates),
            "ROUGE F-measures x 100 by rouge-score with stemming, mean over the pairs, rougeLsum by sentence",
            *(["against the first reference; _max against the best, _mean the mean over all"] if several else []),
            f"the best of the evaluations every {run.eval_steps} steps, by ROUGE-L on {len(pairs.validation)} "
            "validation pairs" if "best_step" in results else "the last weights",
        ]  # fmt: skip
        results["protocol"] = "; ".join(sentence)

        # 7. save
        if accelerator.is_main_process:
            folder = Path(run.output_dir)
            sources = tokenizer.batch_decode(test.input_ids, skip_special_tokens=True)  # as cut, as the model saw them
            hub.save(network, folder, results, also=(tokenizer, generates))
            rows = [
                {"source": seen, "prediction": prediction, "references": each.references}
                | {name: texts[index] for name, texts in baselines.items()}
                for index, (seen, prediction, each) in enumerate(zip(sources, predictions, pairs.test, strict=True))
            ]
            write_jsonl(folder / "predictions.jsonl", rows)
            logged = {name for record in fitted.history for name in record}
            panels = {label: names for label, names in PANELS.items() if logged & set(names)}
            training.save_panels(fitted.history, folder / "curves.png", panels or PANELS)
            training.save_settings(folder / "preset.yaml", run, model, data, generation)
            about = {"config": network.config, "method": model, "tasks": pairs.tasks, "lengths": data}
            about |= {"base": run.model_name_or_path, "adapter": text.adapter_of(network)}
            about["network_base"] = text.base_of(network)
            about["irregular"] = [
                row for row, each in zip(rows, pairs.test, strict=True) if text.is_irregular_plural(each, row)
            ]
            about["samples"] = rows[:: max(1, len(rows) // 8)][:8]
            tag = "text2text-generation" if pairs.tasks else "summarization"
            library = "peft" if about["adapter"] else "transformers"
            # The Hub takes ids only, no folders.
            local = run.model_name_or_path is None or Path(run.model_name_or_path).exists()
            base_model = None if local else run.model_name_or_path
            training.print_results(results, folder)
            about |= {"pipeline_tag": tag, "library_name": library, "base_model": base_model, "dataset": pairs.source}
            hub.publish(run, CARD, results=results, title=f"t5-{pairs.name.split('/')[-1]}", **about)
        return results


def rouge_1(predictions: list[str], targets: list[str]) -> list[float]:
    return rouge_scores(predictions, [[target] for target in targets], rouge_types=["rouge1"])["rouge1"]


if __name__ == "__main__":
    training.launch(main, Run, Model, Data, Generation, description=__doc__)
