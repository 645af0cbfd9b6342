"""hwzoo: the classic deep-learning systems as Hub-compatible, trained and measured models."""

from importlib.metadata import version

from transformers import CONFIG_MAPPING, AutoConfig, AutoImageProcessor

from .models import (
    FAMILIES,
    FORMER_MODEL_TYPES,
    ContinualConfig,
    ContinualForImageClassification,
    ContinualImageProcessor,
)
from .models.classifier.configuration_classifier import ClassifierConfig
from .models.classifier.image_processing_classifier import ClassifierImageProcessor
from .models.classifier.modeling_classifier import ClassifierForImageClassification
from .models.gan.configuration_gan import GANConfig
from .models.gan.modeling_gan import GANModel
from .models.vae.configuration_vae import VAEConfig
from .models.vae.modeling_vae import VAEModel

__version__ = version("hwzoo")

# With the classes registered, the Auto classes load a family of the zoo without any remote code.
for _family in FAMILIES:
    AutoConfig.register(_family.config_class.model_type, _family.config_class)
    _family.auto_class.register(_family.config_class, _family.model_class)
    if _family.image_processor_class is not None:
        AutoImageProcessor.register(_family.config_class, slow_image_processor_class=_family.image_processor_class)
for _model_type, _config_class in FORMER_MODEL_TYPES.items():
    CONFIG_MAPPING.register(_model_type, _config_class)  # AutoConfig's own would ask for the class's model type
AutoImageProcessor.register(ContinualConfig, image_processor_classes={"former": ContinualImageProcessor})

__all__ = [
    "FAMILIES",
    "ClassifierConfig",
    "ClassifierForImageClassification",
    "ClassifierImageProcessor",
    "ContinualConfig",
    "ContinualForImageClassification",
    "ContinualImageProcessor",
    "GANConfig",
    "GANModel",
    "VAEConfig",
    "VAEModel",
    "__version__",
]
