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
from functools import partial
from pathlib import Path

import numpy as np
from torch.utils.data import Subset

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.files import write_jsonl
from hwzoo.loading import TRUST
from hwzoo.metrics.rouge.sentences import split_sentences
from hwzoo.metrics.text import rouge_scores, rouge_tokenizer, text_scores
from hwzoo.training import flag
from hwzoo.training.seq2seq import Seq2SeqRunArguments, ZooSeq2SeqTrainer

PANELS = {
    "loss": ("loss", "eval_loss"),
    "ROUGE": ("eval_rouge1", "eval_rouge2", "eval_rougeL"),
    "exact match": ("eval_exact_match",),
}
DEFAULTS = {"per_device_train_batch_size": 64, "max_steps": 1500, "learning_rate": 3e-3, "eval_steps": 500}
DEFAULTS |= {"lr_scheduler_type": "cosine", "warmup_steps": 150, "output_dir": "outputs/t5"}


@dataclass
class Run(training.with_defaults(Seq2SeqRunArguments, **DEFAULTS)):
    model_name_or_path: str | None = flag(
        None, "folder or Hub id of a sequence-to-sequence model or adapter; a new T5 is built when not given"
    )
    trust_remote_code: bool = flag(False, TRUST)
    base_model_id: str | None = flag(None, "owner/name of a pushed adapter's base", only={"push_to_hub": (True,)})

    def __post_init__(self):
        super().__post_init__()
        if self.max_steps == 0 and self.model_name_or_path is None:
            raise UsageError("--max_steps is 0 without --model_name_or_path: there is nothing to test")


Model = training.config_flags(text.ModelSettings)
Data = training.config_flags(text.DataSettings, class_name="Data")
Generation = training.config_flags(text.GenerationSettings, class_name="Generation")


def main(run: Run, model: Model, data: Data, generation: Generation) -> dict:
    # 1. accelerator, seed, output folder
    with training.start(run) as accelerator:
        # 2. data
        pairs, trains = text.load_pairs(data), run.max_steps != 0
        asked, run = run, check(run, pairs, accelerator.num_processes)
        words = rouge_tokenizer(pairs.targets, data.rouge_tokenizer)

        # 3. model, new or loaded, its tokenizer, and how it generates
        source = run.model_name_or_path, pairs, hub.load, trains, run.trust_remote_code
        base, tokenizer = text.load_or_build_t5(model, *source)
        generates = text.generation_config(base, **asdict(generation))
        network = text.with_adapter(model, base, tokenizer, run.model_name_or_path)
        if run.push_to_hub:
            hub.check_base(Path(run.output_dir), run.base_model_id, text.base_of(network) or "")

        # 4. the Trainer; its evaluations on the validation set choose the best weights
        lengths = (data.max_source_length, data.max_target_length)
        splits = ("train", "validation", "test")
        tokenized = {split: text.TokenizedPairs(getattr(pairs, split), tokenizer, *lengths) for split in splits}
        used = [row for split, part in tokenized.items() if trains or split == "test" for row in part]
        named = "tokenizer_name" if model.tokenizer_name else "model_name_or_path"
        text.check_fits(network, used, max_new_tokens=generates.max_new_tokens, flag=named)
        text.check_adapter_acts(network)

        def scores(ids: np.ndarray | list[str], examples: list[text.Example]) -> dict[str, float]:
            texts = ids if isinstance(ids, list) else text.decode(ids, tokenizer)
            return text_scores(texts, [each.references for each in examples], [each.task for each in examples], words)

        identity = {"recipe": "train_t5", "training pairs": tokenized["train"].digest()}
        identity |= {"validation pairs": tokenized["validation"].digest(), "data": pairs.digest()}
        identity |= {**training.settings(model), **asdict(generation), "ROUGE": words}

        def trainer_of(network) -> ZooSeq2SeqTrainer:
            return ZooSeq2SeqTrainer(
                run, accelerator, identity, model=network, train_dataset=tokenized["train"],
                eval_dataset=tokenized["validation"], data_collator=text.PadBatch(tokenizer.pad_token_id),
                processing_class=tokenizer,
                compute_metrics=lambda output: scores(output.predictions, pairs.validation),
            )  # fmt: skip

        # 5. baselines, then training
        baselines = text.baselines(pairs, split_sentences, partial(rouge_1, tokenizer=words))
        if trains and run.model_name_or_path is not None:
            baselines["zero_shot"] = text.decode(trainer_of(base).generate_for(tokenized["test"]), tokenizer)

        # 6. test
        predictions: list[str] = []

        def test(limit):
            examples = pairs.test[:limit]
            ids = trainer.generate_for(Subset(tokenized["test"], range(len(examples))))
            predictions[:] = text.decode(ids, tokenizer)
            results = {"trainable_params": text.count_trainable(network)}
            results |= {f"test_{name}": value for name, value in scores(predictions, examples).items()}
            results["test_gen_len"] = text.mean_length(ids, tokenizer)
            results["baselines"] = {name: scores(texts[:limit], examples) for name, texts in baselines.items()}
            results["protocol"] = protocol(data, pairs, generates, words, trainer.weights())
            return results

        # 7. save
        def save(folder, results, history, limit):
            hub.save(network, folder, results, also=(tokenizer, generates))
            sources = text.decode([each.tolist() for each in tokenized["test"].input_ids], tokenizer)  # as cut
            every = zip(sources, predictions, pairs.test, strict=False)  # a rehearsal predicts the first only
            rows = [
                {"source": source, "prediction": prediction, "references": each.references}
                | {name: texts[index] for name, texts in baselines.items()}
                for index, (source, prediction, each) in enumerate(every)
            ]
            write_jsonl(folder / "predictions.jsonl", rows)
            training.save_panels(history, folder / "curves.png", PANELS)
            training.save_settings(folder / "preset.yaml", asked, model, data, generation)
            about = card(run, network, pairs, rows) | {"method": model, "lengths": data}
            hub.save_card(run, folder, "t5", pairs, results, **about)

        ending = training.Ending(test, save, [network], hub.publish)
        trainer = trainer_of(network)
        ending.rehearse(run, accelerator)
        trainer = trainer_of(network)  # the other one has evaluated
        return ending.conclude(run, accelerator, trainer.fit()).results


def check(run: Run, pairs: text.TextSplits, num_processes: int) -> Run:
    """Before a model is built: whether there is enough to train on, and to evaluate."""
    if run.max_steps == 0:
        return run
    if not pairs.train:
        raise UsageError("there are no training pairs: give --train_file, or --max_steps 0 to test only")
    batch_size = run.per_device_train_batch_size * run.gradient_accumulation_steps
    text.check_batch_size(batch_size * num_processes, len(pairs.train))
    unwatched = run.eval_steps is not None and not pairs.validation
    return text.without_evaluations(run, pairs) if unwatched else run


def protocol(data: Data, pairs: text.TextSplits, generates, words: str, weights: str) -> str:
    several = any(len(each.references) > 1 for each in pairs.test)
    return "; ".join([
        f"{pairs.name}: {len(pairs.test)} test pairs" + (" (the first)" if data.max_predict_samples else ""),
        *([pairs.note] if pairs.note else []),
        f"sources of at most {data.max_source_length} tokens, longer ones cut",
        "generation: " + text.describe(generates),
        "ROUGE F-measures x 100 by rouge-score with stemming, mean over the pairs, rougeLsum by sentence",
        *(["words of ROUGE in any script (unicode)"] if words == "unicode" else []),
        *(["against the first reference; _max against the best, _mean the mean over all"] if several else []),
        weights,
    ])  # fmt: skip


def card(run: Run, network, pairs: text.TextSplits, rows: list[dict]) -> dict:
    """What the card is told."""
    adapter = text.adapter_of(network)
    # The Hub takes ids only, no folders.
    local = run.model_name_or_path is None or Path(run.model_name_or_path).exists()
    return {
        "config": network.config, "adapter": adapter, "peft": getattr(network, "active_peft_config", None),
        "base_model": None if local else run.model_name_or_path,
        "tasks": sorted({each.task for each in pairs.train or pairs.test} - {""}),
        "pipeline_tag": "summarization" if pairs.are_summaries else "text2text-generation",
        "irregular": [row for row, each in zip(rows, pairs.test, strict=False) if text.is_irregular_plural(each, row)],
        "samples": rows[:: max(1, len(rows) // 8)][:8], "library_name": "peft" if adapter else "transformers",
    }  # fmt: skip


def rouge_1(predictions: list[str], targets: list[str], tokenizer: str) -> list[float]:
    return rouge_scores(predictions, [[target] for target in targets], tokenizer, rouge_types=["rouge1"])["rouge1"]


if __name__ == "__main__":
    training.launch(main, Run, Model, Data, Generation, description=__doc__)
