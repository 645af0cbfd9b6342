"""Configuration of the vector-quantised variational autoencoder."""

import math
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
# Of flags: the values of others with which a field has an effect.
OF_TRANSFORMER = {"prior": ("transformer",)}


@strict
class VQVAEConfig(PreTrainedConfig):
    r"""
    An autoencoder of binary images with discrete codes (van den Oord et al.,
    [arXiv:1711.00937](https://arxiv.org/abs/1711.00937)) and a prior over the codes.

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image.
        num_classes (`int`): 0: unconditional; else the number of classes that the prior is conditional on.
        hidden_sizes (`list[int]`): channels of the encoder's convolutions, from the image inwards; each halves height
            and width, rounded up: the last ones are those of the grid of codes. The decoder's are the same, backwards.
        num_residual_layers (`int`): residual blocks of a 3 x 3 and a 1 x 1 convolution on the grid of codes, in the
            encoder and as many in the decoder.
        codebook_size (`int`): codes in the codebook, K.
        code_size (`int`): dimensions of a code's embedding.
        codebook_update (`"ema"` or `"loss"`): how the codebook learns: exponential moving averages of what is assigned
            to each code (appendix A.1), untouched by gradients; or the squared distance to it in the loss (equation
            3).
        codebook_decay (`float`): of those averages and of the counts of uses, each time that the loss is taken in
            training (of a step in several parts once for each), in [0, 1).
        commitment_weight (`float`): beta of equation 3, of the squared distance of the encoder's outputs to their
            codes, summed over an image.
        prior (`"transformer"` or `"uniform"`): p(codes): a causal transformer over the codes in the order of reading,
            given the class, if any; or all codes as likely everywhere.
        prior_hidden_size (`int`): width of the transformer, divisible by its heads.
        prior_num_layers (`int`): blocks of the transformer.
        prior_num_heads (`int`): attention heads of the transformer.
        prior_dropout (`float`): probability in [0, 1) of the transformer's dropout in training: of the embedded codes,
            the attention and what each block adds.

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or values that
            do not go together.
    """

    model_type = "hwzoo_vqvae"

    image_size: int = 28
    num_channels: int = 1
    num_classes: int = 0
    hidden_sizes: list[int] | tuple[int, ...] = field(default=(32, 64, 64), metadata={"range": "[1, inf)"})
    num_residual_layers: int = field(default=2, metadata={"range": "[0, inf)"})
    codebook_size: int = field(default=128, metadata={"range": "[2, inf)"})
    code_size: int = field(default=16, metadata={"range": "[1, inf)"})
    codebook_update: Literal["ema", "loss"] = "ema"
    codebook_decay: float | int = field(default=0.99, metadata={"range": "[0, 1)"})
    commitment_weight: float | int = field(default=0.25, metadata={"range": "[0, inf)"})
    prior: Literal["transformer", "uniform"] = "transformer"
    prior_hidden_size: int = field(default=128, metadata={"range": "[1, inf)", "only": OF_TRANSFORMER})
    prior_num_layers: int = field(default=4, metadata={"range": "[1, inf)", "only": OF_TRANSFORMER})
    prior_num_heads: int = field(default=4, metadata={"range": "[1, inf)", "only": OF_TRANSFORMER})
    prior_dropout: float | int = field(default=0.0, metadata={"range": "[0, 1)", "only": OF_TRANSFORMER})

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - KEYWORDS_BESIDE_FIELDS
        # A stored config names its model type, and may hold what a later version of transformers adds.
        if unknown and "model_type" not in kwargs:
            known = sorted(field.name for field in fields(self))
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {known}")
        # JSON has no tuples: with lists a saved and reloaded config equals the first.
        self.hidden_sizes = list(self.hidden_sizes)
        super().__post_init__(**kwargs)

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        made = super().from_dict(config_dict, **kwargs)
        # transformers sets the keywords of `from_pretrained` in a config that is already checked.
        (made[0] if isinstance(made, tuple) else made).validate()
        return made

    @property
    def grid_sizes(self) -> list[int]:
        """Height and width of the image and of what each convolution of the encoder leaves; the last: of the codes."""
        sizes = [self.image_size]
        for _ in self.hidden_sizes:
            sizes.append((sizes[-1] + 1) // 2)
        return sizes

    def validate_architecture(self):
        """
        Checks the values and how they go together (run by `@strict` when the config is built).

        Raises:
            ValueError: naming the field, its value and what it must be.
        """
        least = {"num_classes": 0, "num_residual_layers": 0, "codebook_size": 2}
        sizes = ("image_size", "num_channels", "code_size", "prior_hidden_size", "prior_num_layers", "prior_num_heads")
        for name, low in {**least, **dict.fromkeys(sizes, 1)}.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes is {self.hidden_sizes}; it must be one number or more, each at least 1")
        if self.image_size <= 2 ** (len(self.hidden_sizes) - 1):
            raise ValueError(
                f"hidden_sizes is {self.hidden_sizes} with image_size {self.image_size}; nothing is left to halve for "
                "the last of so many convolutions"
            )
        for name in ("codebook_decay", "prior_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be in [0, 1)")
        if not (math.isfinite(self.commitment_weight) and self.commitment_weight >= 0):
            raise ValueError(f"commitment_weight is {self.commitment_weight}; it must be finite and at least 0")
        if self.prior == "uniform" and self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes}; a uniform prior is of no class, it must be 0")
        if self.prior_hidden_size % self.prior_num_heads:
            raise ValueError(
                f"prior_hidden_size is {self.prior_hidden_size}; it must be divisible by prior_num_heads, which is "
                f"{self.prior_num_heads}"
            )


__all__ = ["VQVAEConfig"]
