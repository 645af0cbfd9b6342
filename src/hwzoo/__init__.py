"""hwzoo: the classic deep-learning systems as Hub-compatible, trained and measured models."""

from importlib.metadata import version

from transformers import AutoConfig, AutoImageProcessor, AutoModel

from .models import FAMILIES
from .models.continual.configuration_continual import ContinualConfig
from .models.continual.image_processing_continual import ContinualImageProcessor
from .models.continual.modeling_continual import ContinualForImageClassification, ContinualModel
from .models.gan.configuration_gan import GANConfig
from .models.gan.modeling_gan import GANModel
from .models.vae.configuration_vae import VAEConfig
from .models.vae.modeling_vae import VAEModel

__version__ = version("hwzoo")

# With the classes registered, the Auto classes load a family of the zoo without any remote code; registered for them,
# `save_pretrained` and `push_to_hub` copy the family's code beside the weights, for users without hwzoo.
for _family in FAMILIES:
    _family.config_class.register_for_auto_class()
    _family.model_class.register_for_auto_class(_family.auto_class.__name__)
    AutoConfig.register(_family.config_class.model_type, _family.config_class)
    _family.auto_class.register(_family.config_class, _family.model_class)
    if _family.image_processor_class is not None:
        _family.image_processor_class.register_for_auto_class()
        AutoImageProcessor.register(_family.config_class, slow_image_processor_class=_family.image_processor_class)
# The backbone alone, for features.
ContinualModel.register_for_auto_class("AutoModel")
AutoModel.register(ContinualConfig, ContinualModel)

__all__ = [
    "FAMILIES",
    "ContinualConfig",
    "ContinualForImageClassification",
    "ContinualImageProcessor",
    "ContinualModel",
    "GANConfig",
    "GANModel",
    "VAEConfig",
    "VAEModel",
    "__version__",
]
