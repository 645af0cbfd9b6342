"""Configuration of the autoregressive image models."""

from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
# Of flags: the values of others with which a field has an effect.
OF_CONVOLUTIONS = {"network": ("pixelcnn", "gated_pixelcnn")}
OF_TRANSFORMER = {"network": ("patch_transformer",)}


@strict
class AutoregressiveConfig(PreTrainedConfig):
    r"""
    A model of images pixel by pixel, each given those before it (van den Oord et al.,
    [arXiv:1601.06759](https://arxiv.org/abs/1601.06759)).

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image; those of a pixel follow each other in the order.
        num_levels (`int`): values of a channel of a pixel, evenly spaced from 0 to 1: 2 for binary images, 256 for
            images of 8 bits.
        num_classes (`int`): 0: unconditional; else the number of classes that images are conditional on.
        network (`"pixelcnn"`, `"gated_pixelcnn"` or `"patch_transformer"`): masked convolutions, with a blind spot;
            gated ones in a vertical and a horizontal stack, without (van den Oord et al.,
            [arXiv:1606.05328](https://arxiv.org/abs/1606.05328)); or a causal transformer over square patches with a
            small masked network for the pixels inside one.
        hidden_size (`int`): channels of the convolutional networks, divisible by the image's; width of the
            transformer, divisible by its heads.
        num_layers (`int`): layers after the first convolution, or blocks of the transformer.
        head_hidden_size (`int`): units of the two last hidden layers: of the 1 x 1 convolutions, or of the network
            inside a patch; at least a unit for each of the image's channels, or of the patch's values; without effect
            on patches of one value.
        first_kernel_size (`int`): of the first convolution, type A; odd.
        kernel_size (`int`): of the others, type B; odd.
        dilations (`list[int]`): of the convolutions after the first, in turn.
        residual (`bool`): layers of `pixelcnn` after the first: bottlenecks of half the channels around the masked
            convolution, with a skip connection, as in the paper; else one masked convolution each.
        patch_size (`int`): height and width of a patch of the transformer, in pixels; it divides the image's.
        patch_context (`"neighbours"` or `"previous"`): what a position of the transformer, and the network inside its
            patch, is given of the known patches: the previous one in the order and the three above; or the previous
            one, to the transformer alone.
        num_attention_heads (`int`): attention heads of the transformer.

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or sizes that
            do not go together.
    """

    model_type = "hwzoo_autoregressive"

    image_size: int = 28
    num_channels: int = 1
    num_levels: int = 2
    num_classes: int = 0
    network: Literal["pixelcnn", "gated_pixelcnn", "patch_transformer"] = "patch_transformer"
    hidden_size: int = field(default=128, metadata={"range": "[1, inf)"})
    num_layers: int = field(default=6, metadata={"range": "[1, inf)"})
    head_hidden_size: int = field(default=256, metadata={"range": "[1, inf)"})
    first_kernel_size: int = field(default=7, metadata={"range": "[3, inf)", "only": OF_CONVOLUTIONS})
    kernel_size: int = field(default=3, metadata={"range": "[1, inf)", "only": OF_CONVOLUTIONS})
    dilations: list[int] | tuple[int, ...] = field(
        default=(1,), metadata={"range": "[1, inf)", "only": OF_CONVOLUTIONS}
    )
    residual: bool = field(default=True, metadata={"only": {"network": ("pixelcnn",)}})
    patch_size: int = field(default=4, metadata={"range": "[1, inf)", "only": OF_TRANSFORMER})
    patch_context: Literal["neighbours", "previous"] = field(default="neighbours", metadata={"only": OF_TRANSFORMER})
    num_attention_heads: int = field(default=4, metadata={"range": "[1, inf)", "only": OF_TRANSFORMER})

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - KEYWORDS_BESIDE_FIELDS
        # A stored config names its model type, and may hold what a later version of transformers adds.
        if unknown and "model_type" not in kwargs:
            known = sorted(field.name for field in fields(self))
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {known}")
        # JSON has no tuples: with lists a saved and reloaded config equals the first.
        self.dilations = list(self.dilations)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(config_dict, **kwargs)
        # transformers sets the keywords of `from_pretrained` in a config that is already checked.
        (made[0] if isinstance(made, tuple) else made).validate()
        return made

    @property
    def rows_at_once(self) -> int:
        """
        Where known rows, from the top, are a multiple of so many, all known values come before the others in the
        order: then completions are samples given all of them.
        """
        return self.patch_size if self.network == "patch_transformer" else 1

    def validate_architecture(self):
        """
        Checks the values and how they go together (run by `@strict` when the config is built).

        Raises:
            ValueError: naming the field, its value and what it must be.
        """
        sizes = ("image_size", "num_channels", "hidden_size", "num_layers", "head_hidden_size", "kernel_size")
        for name in (*sizes, "patch_size", "num_attention_heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 2 <= self.num_levels <= 256:
            raise ValueError(f"num_levels is {self.num_levels}; it must be in [2, 256]")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; it must be at least 0 (0: unconditional)")
        for name in ("first_kernel_size", "kernel_size"):
            if getattr(self, name) % 2 == 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be odd, with the pixel in its middle")
        if self.first_kernel_size < 3:
            raise ValueError("first_kernel_size is 1; it must be at least 3: type A leaves its middle out")
        if not self.dilations or min(self.dilations) < 1:
            raise ValueError(f"dilations is {self.dilations}; it must be one number or more, each at least 1")
        check = self._validate_transformer if self.network == "patch_transformer" else self._validate_convolutions
        check()

    def _validate_transformer(self):
        if self.image_size % self.patch_size:
            raise ValueError(
                f"patch_size is {self.patch_size}; it must divide the image size, which is {self.image_size}"
            )
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"hidden_size is {self.hidden_size}; it must be divisible by num_attention_heads, which is "
                f"{self.num_attention_heads}"
            )
        values = self.num_channels * self.patch_size**2
        if self.head_hidden_size < values:
            raise ValueError(
                f"head_hidden_size is {self.head_hidden_size}; it must be at least {values}, a unit for each value of "
                "a patch"
            )

    def _validate_convolutions(self):
        bottleneck = self.network == "pixelcnn" and self.residual
        for name, divisor in (
            ("hidden_size", self.num_channels * (1 + bottleneck)),
            ("head_hidden_size", self.num_channels),
        ):
            if getattr(self, name) % divisor:
                raise ValueError(
                    f"{name} is {getattr(self, name)}; it must be divisible by {divisor}, "
                    + (
                        "twice the number of channels (bottlenecks)"
                        if divisor > self.num_channels
                        else "the number of channels"
                    )
                )


__all__ = ["AutoregressiveConfig"]
