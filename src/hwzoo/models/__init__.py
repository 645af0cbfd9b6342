"""The model families: one folder each, and the one table that drives their registration and the shared tests."""

from dataclasses import dataclass

from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from .vae.configuration_vae import VAEConfig
from .vae.modeling_vae import VAEModel


@dataclass(frozen=True)
class Family:
    """
    Args:
        name: as in the recipe's and the folders' names.
        config_class: its `model_type` starts with `hwzoo_`.
        model_class: the class that `from_pretrained` and the Auto class below give.
        auto_class: the Auto class of transformers that loads it.
    """

    name: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    auto_class: type


FAMILIES = (Family("vae", VAEConfig, VAEModel, AutoModel),)

__all__ = ["FAMILIES", "Family", "VAEConfig", "VAEModel"]
