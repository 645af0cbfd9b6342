"""Model cards: a family's template, filled with the results of a run."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from .files import write_bytes
from .packaged import folder as packaged_folder

EVAL_RESULTS = ".eval_results"  # a folder of YAML files, as the Hub names it


def template(family: str) -> Path:
    """
    Args:
        family: `vae`.

    Returns:
        The Jinja template of its card, whether hwzoo is a checkout or came from a wheel.
    """
    return packaged_folder("model_cards") / f"{family}.md.jinja"


def write_card(
    folder: Path,
    template: Path,
    *,
    title: str,
    results: dict[str, Any],
    dataset: str,
    pipeline_tag: str = "unconditional-image-generation",
    metrics: Sequence[str] | None = None,
    library_name: str = "transformers",
    base_model: str | None = None,
    tag: str | None = None,
    **variables: Any,
) -> ModelCard:
    """
    Fills a template and writes it as README.md. The model-index holds the finite ones of the `metrics`; where the data
    set has a Hub id they also stand in .eval_results, the Hub's newer format.

    Args:
        folder: of the run, with its pictures.
        template: a Jinja template that starts with the front matter, `{{ card_data }}`; it is also given `metrics`,
            the test numbers by name, `pictures`, the names of the PNG files, and all that is passed here.
        title: heading of the card, and the model's name in its model-index.
        results: of the run, as in all_results.json.
        dataset: Hub id of the data set, or its name.
        pipeline_tag: the Hub's name of the task.
        metrics: names of the test numbers in `results`; those that start with `test_` when not given.
        library_name: the library whose `from_pretrained` loads it.
        base_model: Hub id of the model that it was trained from, or that it is an adapter of.
        tag: of the Hub, beside `hwzoo`; the title up to its first hyphen when not given.
        variables: further ones of the template.

    Returns:
        The card, as it was written.

    Raises:
        HwzooError: when the card cannot be written; an earlier one stays.
    """
    # Plain floats: YAML would write NumPy's as Python objects.
    numbers = {name: float(value) for name, value in results.items() if isinstance(value, int | float)}
    names = [name for name in numbers if name.startswith("test_")] if metrics is None else metrics
    metrics = {name: numbers[name] for name in names if name in numbers and math.isfinite(numbers[name])}
    data = {"dataset_type": dataset, "dataset_name": dataset.split("/")[-1], "dataset_split": "test"}
    card_data = ModelCardData(
        library_name=library_name,
        base_model=base_model,
        license=None if base_model else "apache-2.0",  # that of the base decides
        datasets=[dataset] if "/" in dataset else None,
        tags=["hwzoo", tag or title.split("-")[0]],
        pipeline_tag=pipeline_tag,
        model_name=title,
        eval_results=[
            EvalResult(task_type=pipeline_tag, metric_type=name, metric_value=value, **data)
            for name, value in metrics.items()
        ],
    )
    card = ModelCard.from_template(
        card_data,
        template_path=str(template),
        title=title,
        results=results,
        dataset=dataset,
        metrics=metrics,
        pictures=sorted(path.name for path in Path(folder).glob("*.png")),
        **variables,
    )
    write_bytes(Path(folder) / "README.md", f"{card}\n".encode())
    if "/" in dataset and metrics:
        entries = [
            EvalResultEntry(dataset_id=dataset, task_id=name, value=value, notes=results.get("protocol"))
            for name, value in metrics.items()
        ]
        path = Path(folder) / EVAL_RESULTS / f"{dataset.split('/')[-1]}.yaml"
        path.parent.mkdir(exist_ok=True)
        write_bytes(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False).encode())
    return card
