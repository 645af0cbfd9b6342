"""hwzoo: the classic deep-learning systems as Hub-compatible, trained and measured models."""

from importlib.metadata import version

from transformers import AutoConfig

from .models import FAMILIES
from .models.vae.configuration_vae import VAEConfig
from .models.vae.modeling_vae import VAEModel

__version__ = version("hwzoo")

# With the classes registered, the Auto classes load a family of the zoo without any remote code.
for _family in FAMILIES:
    AutoConfig.register(_family.config_class.model_type, _family.config_class)
    _family.auto_class.register(_family.config_class, _family.model_class)

__all__ = ["FAMILIES", "VAEConfig", "VAEModel", "__version__"]
