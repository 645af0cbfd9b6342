"""Configuration of the generative adversarial networks."""

from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}


@strict
class GANConfig(PreTrainedConfig):
    r"""
    A generative adversarial network (Goodfellow et al., [arXiv:1406.2661](https://arxiv.org/abs/1406.2661)), if wanted
    conditional on a class.

    Args:
        image_size (`int`): height and width of an image, in pixels; divisible by 4.
        num_channels (`int`): channels of an image.
        latent_size (`int`): dimensions of the standard normal z that the generator turns into an image.
        generator_hidden_size (`int`): units of the generator's first layer.
        generator_channels (`list[int]`): channels of the generator's maps of a quarter and of half the image size,
            each before the pixels of 4 channels are shuffled into a map of twice the size: divisible by 4.
        generator_norm (`"batch"` or `"none"`): BatchNorm after the generator's hidden layers, or nothing, as the
            relativistic loss wants it ([arXiv:2501.05441](https://arxiv.org/abs/2501.05441)).
        discriminator_channels (`list[int]`): channels of the discriminator's maps of half and of a quarter of the
            image size.
        discriminator_hidden_size (`int`): units of the discriminator's last hidden layer, its features.
        discriminator_activation (`"leaky_relu"` or `"relu"`): after each hidden layer of the discriminator; the leaky
            one has the slope 0.1 below 0. The generator's is always ReLU.
        spectral_norm (`bool`): divide each of the discriminator's weights by its largest singular value (Miyato et
            al., [arXiv:1802.05957](https://arxiv.org/abs/1802.05957)).
        num_classes (`int`): 0: unconditional; else the number of classes that images are conditional on.
        pixel_range (`"symmetric"` or `"unit"`): the range of pixels inside of both networks, [-1, 1] or [0, 1];
            outside of them pixels are in [0, 1].

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or an image
            size that the networks cannot make.
    """

    model_type = "hwzoo_gan"

    image_size: int = 28
    num_channels: int = 1
    latent_size: int = field(default=64, metadata={"range": "[1, inf)"})
    generator_hidden_size: int = field(default=512, metadata={"range": "[1, inf)"})
    generator_channels: list[int] | tuple[int, ...] = field(default=(64, 32), metadata={"range": "[4, inf)"})
    generator_norm: Literal["batch", "none"] = "batch"
    discriminator_channels: list[int] | tuple[int, ...] = field(default=(32, 64), metadata={"range": "[1, inf)"})
    discriminator_hidden_size: int = field(default=512, metadata={"range": "[1, inf)"})
    discriminator_activation: Literal["leaky_relu", "relu"] = "leaky_relu"
    spectral_norm: bool = False
    num_classes: int = 0
    pixel_range: Literal["symmetric", "unit"] = "symmetric"

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - KEYWORDS_BESIDE_FIELDS
        # A stored config names its model type, and may hold what a later version of transformers adds.
        if unknown and "model_type" not in kwargs:
            known = sorted(field.name for field in fields(self))
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {known}")
        # JSON has no tuples: with lists a saved and reloaded config equals the first.
        self.generator_channels = list(self.generator_channels)
        self.discriminator_channels = list(self.discriminator_channels)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(config_dict, **kwargs)
        # transformers sets the keywords of `from_pretrained` in a config that is already checked.
        (made[0] if isinstance(made, tuple) else made).validate()
        return made

    def validate_architecture(self):
        """
        Checks the values and how they go together (run by `@strict` when the config is built).

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        for name in ("num_channels", "latent_size", "generator_hidden_size", "discriminator_hidden_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.image_size < 4 or self.image_size % 4:
            raise ValueError(f"image_size is {self.image_size}; it must be divisible by 4 (two halvings)")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; it must be at least 0 (0: unconditional)")
        for name, divisor in (("generator_channels", 4), ("discriminator_channels", 1)):
            sizes = getattr(self, name)
            if len(sizes) != 2 or any(size < 1 or size % divisor for size in sizes):
                multiple = f" divisible by {divisor}" if divisor > 1 else " of at least 1"
                raise ValueError(f"{name} is {sizes}; it must be two numbers{multiple}")


__all__ = ["GANConfig"]
