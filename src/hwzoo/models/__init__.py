"""The model families: one folder each, and the one table that drives their registration and the shared tests."""

from dataclasses import dataclass

from transformers import (
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from .classifier.configuration_classifier import ClassifierConfig
from .classifier.image_processing_classifier import ClassifierImageProcessor
from .classifier.modeling_classifier import ClassifierForImageClassification
from .gan.configuration_gan import GANConfig
from .gan.modeling_gan import GANModel
from .vae.configuration_vae import VAEConfig
from .vae.modeling_vae import VAEModel


@dataclass(frozen=True)
class Family:
    """
    Args:
        name: as in the names of its folder and of the template of its card.
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
        "classifier",
        ClassifierConfig,
        ClassifierForImageClassification,
        AutoModelForImageClassification,
        ClassifierImageProcessor,
    ),
    Family("gan", GANConfig, GANModel, AutoModel),
)

# The former names of the family `classifier`, in folders and scripts of earlier versions: {model type: today's class}.
FORMER_MODEL_TYPES = {"hwzoo_continual": ClassifierConfig}
ContinualConfig, ContinualForImageClassification = ClassifierConfig, ClassifierForImageClassification


class ContinualImageProcessor(ClassifierImageProcessor):
    """Makes a `ClassifierImageProcessor`; a class, as transformers finds an image processor by the name of one."""

    def __new__(cls, *args, **kwargs) -> ClassifierImageProcessor:
        return ClassifierImageProcessor(*args, **kwargs)


__all__ = [
    "FAMILIES",
    "FORMER_MODEL_TYPES",
    "ClassifierConfig",
    "ClassifierForImageClassification",
    "ClassifierImageProcessor",
    "ContinualConfig",
    "ContinualForImageClassification",
    "ContinualImageProcessor",
    "Family",
    "GANConfig",
    "GANModel",
    "VAEConfig",
    "VAEModel",
]
