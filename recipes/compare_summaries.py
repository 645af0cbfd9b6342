"""
Compares summaries of the same documents: by models, by baselines that need none, and answers that were made elsewhere,
pasted from any chat model: an exercise of CS 182 (Berkeley).

    python recipes/compare_summaries.py --dataset_name scitldr --data_dir FOLDER --models scratch=outputs/t5-scitldr
    python recipes/compare_summaries.py --dataset_name EdinburghNLP/xsum --models tuned=outputs/t5-small-xsum
        zero_shot=google-t5/t5-small --source_prefixes "tuned=summarize: " "zero_shot=summarize: "
        --predictions chat=answers.jsonl

answers.jsonl has a line of JSON for each document, {"index": 0, "prediction": "..."}; documents.jsonl, which the first
run leaves, has the documents by these numbers. Compared are the documents that all systems have a summary of. Each
score of ROUGE is against the first reference, against the best of them, and with all summaries cut to the length of
the reference; beside them stands how much is copied (Grusky et al., arXiv:1804.11283) and how much is new. The output
folder gets all_results.json, with the differences from --against and their bootstrap intervals, summaries.jsonl,
index.html with the summaries side by side, and summaries.png; docs/text.md says what they mean.
"""

from dataclasses import dataclass
from functools import partial

import torch
from transformers import set_seed

from hwzoo import hub, text, training
from hwzoo.errors import UsageError
from hwzoo.files import write_bytes, write_json, write_jsonl
from hwzoo.loading import TRUST
from hwzoo.metrics import summaries as scored
from hwzoo.metrics.rouge.sentences import split_sentences
from hwzoo.metrics.text import rouge_scores, rouge_tokenizer
from hwzoo.text import summaries
from hwzoo.training import flag

BASELINES = ("lead_1", "lead_3", "oracle_sentence")
TAKEN = (*BASELINES, "index", "references", "the data")  # what else summaries.jsonl and errors name so
COLUMNS = ("rouge1", "rouge2", "rougeL", "rouge1_max", "rouge1_equal_length", "coverage", "density", "new_2grams")
COLUMNS += ("repeated_3grams", "num_words")


@dataclass
class Settings(training.Flags):
    config: str | None = flag(None, "YAML file with these flags as keys; the command line wins")
    output_dir: str = flag("outputs/compare_summaries", "folder for results, the page and the picture")
    overwrite_output_dir: bool = flag(False, "start anew in a folder that is not empty, over its files")
    seed: int = flag(0, "of the bootstrap", "[0, 4294967295]")
    dataset_name: str = flag("scitldr", "scitldr, a folder with test.jsonl, or a Hub id; its test documents are taken")
    data_dir: str | None = flag(None, "folder that holds scitldr/; HWZOO_DATA_DIR when not given")
    test_file: str | None = flag(None, "json, jsonl or csv, plain or .gz; in place of --dataset_name")
    text_column: str | None = flag(None, "column of the documents; document, article, text or source when not given")
    summary_column: str | None = flag(None, "of the summaries; summary, highlights or target when not given")
    references_column: str | None = flag(None, "of lists of right ones; summaries or references where it holds them")
    max_predict_samples: int | None = flag(None, "test documents that are used, the first", "[1, inf)")
    num_shown: int = flag(10, "documents on the page, the first that are compared", "[0, 1000]")


@dataclass
class Systems(training.Flags):
    models: list[str] = flag([], "NAME=FOLDER, or a Hub id, of sequence-to-sequence models or adapters")
    trust_remote_code: bool = flag(False, TRUST)
    source_prefixes: list[str] = flag([], "NAME=PREFIX, what stands before each document for a model of --models")
    predictions: list[str] = flag([], "NAME=FILE of summaries that were made elsewhere, a line of JSON each")
    against: str = flag("lead_1", "the system that all others are compared with")
    per_device_eval_batch_size: int = flag(32, "documents at once", "[1, inf)")
    max_source_length: int = flag(512, "tokens of a document, longer ones are cut", "[1, inf)")
    generation_max_new_tokens: int | None = flag(None, "of a summary; what each model says when not given", "[1, inf)")
    num_beams: int | None = flag(None, "beams of the search; what each model says when not given", "[1, inf)")


def main(settings: Settings, asked: Systems) -> dict:
    # 1. what is asked for, before anything is written
    models = summaries.named("models", asked.models, TAKEN)
    pasted = summaries.named("predictions", asked.predictions, [*TAKEN, *models])
    prefixes = summaries.named("source_prefixes", asked.source_prefixes)
    for name, value, known in (
        *(("source_prefixes", each, models) for each in prefixes),
        ("against", asked.against, [*BASELINES, *models, *pasted]),
    ):
        if value not in known:
            raise UsageError(f"--{name} has {value}; there are {', '.join(known) or 'no models'}")
    training.check_free(settings.output_dir, settings.overwrite_output_dir)
    set_seed(settings.seed)
    columns = text.Columns(settings.text_column, settings.summary_column, settings.references_column, "")
    pairs = text.load_text(settings.dataset_name, settings.data_dir, {"test": settings.test_file}, columns)
    test = pairs.test[: settings.max_predict_samples]
    words = rouge_tokenizer(each.target for each in test)

    # 2. summaries by the number of the document
    told = {
        name: summaries.read_predictions(path, "predictions", len(pairs.test)) for name, path in pasted.items()
    }  # fmt: skip
    said, found = [], {f"lead_{num}": text.lead(test, num, split_sentences) for num in (1, 3)}
    found["oracle_sentence"] = text.oracle_sentence(test, split_sentences, partial(rouge_1, tokenizer=words))
    given = {"flag": "models", "trust_remote_code": asked.trust_remote_code}
    for name, path in models.items():
        model = text.load_seq2seq(path, hub.load, trainable=False, **given)
        tokenizer = text.load_tokenizer(text.tokenizer_of(path, model), **given)
        how = summaries.settle_generation(model, path, asked.generation_max_new_tokens, asked.num_beams)
        said.append(f"{name} {path} ({how})")
        found[name] = summaries.summarize(
            model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizer,
            [prefixes.get(name, "") + each.text for each in test], name=name,
            batch_size=asked.per_device_eval_batch_size, max_source_length=asked.max_source_length,
        )  # fmt: skip
    systems = {name: dict(enumerate(texts)) for name, texts in found.items()} | told
    common = summaries.in_common({"the data": dict(enumerate(test)), **systems})

    # 3. scores, document by document, and differences
    documents, references = [test[index].text for index in common], [test[index].references for index in common]
    scores = {
        name: scored.summary_scores(documents, [texts[index] for index in common], references, words)
        for name, texts in systems.items()
    }
    means = {name: {key: values.mean().item() for key, values in own.items()} for name, own in scores.items()}
    differences = {
        name: {
            key: scored.paired_bootstrap(values - scores[asked.against][key], seed=settings.seed)
            for key, values in own.items()
        }
        for name, own in scores.items()
        if name != asked.against
    }
    protocol = "; ".join([
        f"{pairs.name}: {len(common)} of {len(test)} test documents, those that all systems have a summary of",
        *([pairs.note] if pairs.note else []),
        "ROUGE F-measures x 100 by rouge-score with stemming, against the first reference; _max: against the best of "
        "them; _equal_length: the summary cut to as many words as the first reference has",
        f"differences from {asked.against} with 95 % intervals over 2,000 resampled sets of documents",
        f"models: {', '.join(said) or 'none'}; sources of at most "
        f"{asked.max_source_length} tokens",
        f"made elsewhere: {', '.join(pasted) or 'none'}; seed {settings.seed}",
    ])  # fmt: skip

    # 4. save
    folder = training.make_output_dir(settings.output_dir)
    results = {"scores": means, f"differences_from_{asked.against}": differences, "protocol": protocol}
    write_json(folder / "all_results.json", results)
    training.save_settings(folder / "preset.yaml", settings, asked)
    write_jsonl(folder / "documents.jsonl", [{"index": n, "document": each.text} for n, each in enumerate(test)])
    rows = [{"index": n, "references": test[n].references} | {k: own[n] for k, own in systems.items()} for n in common]
    write_jsonl(folder / "summaries.jsonl", rows)
    shown = {index: test[index] for index in common[: settings.num_shown]}
    parts = {
        name: {
            n: summaries.marked(each.text, texts[n], scored.words_of, scored.extractive_fragments)
            for n, each in shown.items()
        }
        for name, texts in systems.items()
    }
    page = summaries.side_by_side_page(f"Summaries: {pairs.name}", protocol, means, COLUMNS, shown, parts)
    write_bytes(folder / "index.html", page.encode())
    panels = {
        key: ([own[key] for own in means.values()], [0.0] * len(means))
        for key in ("rouge1", "rouge1_equal_length", "new_2grams")
    }
    training.save_bar_panels(list(means), panels, folder / "summaries.png")
    print(summaries.table(means, COLUMNS, differences, "rouge1", asked.against))
    print(f"results, the page index.html and the picture are in {folder}")
    return results


def rouge_1(predictions: list[str], targets: list[str], tokenizer: str) -> list[float]:
    return rouge_scores(predictions, [[target] for target in targets], tokenizer, rouge_types=["rouge1"])["rouge1"]


if __name__ == "__main__":
    training.launch(main, Settings, Systems, description=__doc__)
