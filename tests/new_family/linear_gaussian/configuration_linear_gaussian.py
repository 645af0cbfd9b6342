"""Configuration of the linear-Gaussian model."""

from dataclasses import field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


@strict
class LinearGaussianConfig(PreTrainedConfig):
    """
    Probabilistic principal component analysis (Tipping and Bishop, 1999).

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image.
        latent_size (`int`): dimensions of the latent variable z.
    """

    model_type = "hwzoo_linear_gaussian"

    image_size: int = 28
    num_channels: int = 1
    latent_size: int = field(default=10, metadata={"range": "[1, inf)"})

    def __post_init__(self, **kwargs):
        beside = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - beside
        if unknown and "model_type" not in kwargs:
            known = sorted(each.name for each in fields(self))
            raise ValueError(f"LinearGaussianConfig has no field {sorted(unknown)}; it has {known}")
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(config_dict, **kwargs)
        # transformers sets the keywords of `from_pretrained` in a config that is already checked.
        (made[0] if isinstance(made, tuple) else made).validate()
        return made

    def validate_architecture(self):
        for name in ("image_size", "num_channels", "latent_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
