"""Configuration of the normalising flows of images."""

from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
LOWEST_ALPHA = 1e-37  # a normal number in float32, where 1e-46 is 0 and what is between may be taken for 0


@strict
class FlowConfig(PreTrainedConfig):
    r"""
    A normalising flow of images of 8 bits: an invertible map from pixels to independent latents (Dinh et al.,
    [arXiv:1410.8516](https://arxiv.org/abs/1410.8516), [arXiv:1605.08803](https://arxiv.org/abs/1605.08803)).

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image.
        num_classes (`int`): 0: unconditional; else the number of classes that images are conditional on: each has
            means and standard deviations of its own for the latents of the last scale.
        network (`"nice"`, `"realnvp"` or `"glow"`): couplings of every second value of the flattened image, by fully
            connected networks (arXiv:1410.8516); couplings of a checkerboard of pixels, then of halves of the
            channels, by convolutions (arXiv:1605.08803, with ActNorm for its batch normalisation); or steps of
            ActNorm, an invertible 1 x 1 convolution and a coupling of halves of the channels (Kingma and Dhariwal,
            [arXiv:1807.03039](https://arxiv.org/abs/1807.03039)).
        coupling (`"additive"` or `"affine"`): what a coupling does to the one half given the other: adds to it, or
            scales it too.
        prior (`"normal"` or `"logistic"`): density of a latent.
        num_scales (`int`): of `realnvp` and `glow`: after each but the last, half of the channels become latents; each
            squeezes 2 x 2 pixels into channels (of `realnvp` all but the last), which the image size has to allow.
        num_steps (`int`): couplings of `nice`; steps a scale of `glow`; couplings of each kind a scale of `realnvp`,
            of the last scale one more of a checkerboard and none of channels.
        hidden_size (`int`): units, or channels, of the hidden layers of a coupling's network.
        num_hidden_layers (`int`): hidden layers of a coupling's network; of the convolutional ones the first comes
            from a 3 x 3 convolution, the others from 1 x 1 ones, and the output from a 3 x 3 one.
        logit_alpha (`float`): the flow is of logit(alpha + (1 - 2 alpha) y) of dequantised pixels y in [0, 1), or,
            with 0, of y; at least 1e-37 if not 0.

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or an image
            size that cannot be squeezed so often.
    """

    model_type = "hwzoo_flow"

    image_size: int = 28
    num_channels: int = 1
    num_classes: int = 0
    network: Literal["nice", "realnvp", "glow"] = "glow"
    coupling: Literal["additive", "affine"] = "affine"
    prior: Literal["normal", "logistic"] = "normal"
    num_scales: int = field(default=2, metadata={"range": "[1, inf)", "only": {"network": ("realnvp", "glow")}})
    num_steps: int = field(default=8, metadata={"range": "[1, inf)"})
    hidden_size: int = field(default=64, metadata={"range": "[1, inf)"})
    num_hidden_layers: int = field(default=2, metadata={"range": "[1, inf)"})
    logit_alpha: float | int = field(default=1e-5, metadata={"range": "[0, 0.5)"})

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - KEYWORDS_BESIDE_FIELDS
        # A stored config names its model type, and may hold what a later version of transformers adds.
        if unknown and "model_type" not in kwargs:
            known = sorted(field.name for field in fields(self))
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {known}")
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
            ValueError: for a value out of its range, or an image size that cannot be squeezed so often.
        """
        for name in ("image_size", "num_channels", "num_scales", "num_steps", "hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; it must be at least 0 (0: unconditional)")
        if not 0 <= self.logit_alpha < 0.5:
            raise ValueError(f"logit_alpha is {self.logit_alpha}; it must be in [0, 0.5)")
        if 0 < self.logit_alpha < LOWEST_ALPHA:
            raise ValueError(f"logit_alpha is {self.logit_alpha}; it must be 0 or at least {LOWEST_ALPHA:g}")
        if self.network == "nice":
            if self.image_size == self.num_channels == 1:
                raise ValueError("image_size is 1; nice couples values of an image, it needs two")
            return
        squeezes = self.num_scales - (self.network == "realnvp")
        # A shift by more bits than an integer of 64 has would take the memory of the number itself.
        if squeezes > 62 or self.image_size % 2**squeezes:
            raise ValueError(
                f"num_scales is {self.num_scales} with image_size {self.image_size}; {self.network} halves the image "
                f"size {squeezes} times: it must be divisible by 2^{squeezes}"
            )


__all__ = ["FlowConfig"]
