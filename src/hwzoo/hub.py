"""Saving models with the code that defines them, and loading them with every weight accounted for."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from .errors import HwzooError
from .files import adding_to, write_json
from .models import FAMILIES


def register(model: PreTrainedModel):
    """
    Makes `save_pretrained` of a zoo model copy the family's code beside the weights, for users without hwzoo.

    Needed before every save: a model that was itself loaded keeps the reference to its code in config.json, but
    transformers copies the files only for classes registered in this process.
    """
    for family in FAMILIES:
        if type(model) is family.model_class:
            family.config_class.register_for_auto_class()
            family.model_class.register_for_auto_class(family.auto_class.__name__)


def save(model: PreTrainedModel, folder: Path, results: dict[str, Any] | None = None):
    """
    Writes config.json, model.safetensors and the family's code, and the results as all_results.json; each file appears
    whole or not at all.

    Raises:
        HwzooError: when the folder cannot be written; the files it held stay.
    """
    register(model)
    with adding_to(Path(folder)) as beside:
        model.save_pretrained(beside)
        if results is not None:
            write_json(beside / "all_results.json", results)


def load(model_class: type[PreTrainedModel], model_name_or_path: str, **kwargs) -> PreTrainedModel:
    """
    `model_class.from_pretrained` that refuses what transformers only warns of: weights that are missing (they would be
    random), unexpected or of another shape.

    Raises:
        HwzooError: naming the weights that do not fit, or the model that is not there.
    """
    try:
        model, loading = model_class.from_pretrained(
            model_name_or_path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    except OSError as error:
        raise HwzooError(f"{model_name_or_path} cannot be loaded: {str(error).splitlines()[0]}") from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[kind]:
            names = ", ".join(sorted(str(key[0] if isinstance(key, tuple) else key) for key in loading[kind]))
            raise HwzooError(f"{model_name_or_path} has {kind.replace('_keys', '')} weights: {names}")
    return model
