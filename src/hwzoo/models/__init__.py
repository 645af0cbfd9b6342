"""The model families: one folder each, and the one table that drives their registration and the shared tests."""

from dataclasses import dataclass

from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from .continual.configuration_continual import ContinualConfig
from .continual.image_processing_continual import ContinualImageProcessor
from .continual.modeling_continual import ContinualForImageClassification
from .flow.configuration_flow import FlowConfig
from .flow.modeling_flow import FlowModel
from .gan.configuration_gan import GANConfig
from .gan.modeling_gan import GANModel
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
        image_processor_class: what turns pictures into the model's input, where a pipeline needs it; built by its
            `from_config(config)`.
    """

    name: str
    config_class: type[PreTrainedConfig]
    model_class: type[PreTrainedModel]
    auto_class: type
    image_processor_class: type[BaseImageProcessor] | None = None


FAMILIES = (
    Family("vae", VAEConfig, VAEModel, AutoModel),
    Family(
        "continual",
        ContinualConfig,
        ContinualForImageClassification,
        AutoModelForImageClassification,
        ContinualImageProcessor,
    ),
    Family("gan", GANConfig, GANModel, AutoModel),
    Family("flow", FlowConfig, FlowModel, AutoModel),
)

__all__ = [
    "FAMILIES",
    "ContinualConfig",
    "ContinualForImageClassification",
    "ContinualImageProcessor",
    "Family",
    "FlowConfig",
    "FlowModel",
    "GANConfig",
    "GANModel",
    "VAEConfig",
    "VAEModel",
]
