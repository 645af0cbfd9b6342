"""Configuration of the encoders that learn from two views of each image."""

import math
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}


def _numbered(label2id: dict[str, int | str]) -> dict[str, int]:
    """With integers; two names of one number are refused."""
    numbers = {name: int(label) for name, label in label2id.items()}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError(f"label2id is {label2id}; each name must have a number of its own")
    return numbers


@strict
class SimCLRConfig(PreTrainedConfig):
    r"""
    An encoder of images that is trained without labels, by SimCLR (Chen et al.,
    [arXiv:2002.05709](https://arxiv.org/abs/2002.05709)) or SimSiam (Chen and He,
    [arXiv:2011.10566](https://arxiv.org/abs/2011.10566)), and a linear classifier of its features.

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image, 1 to 4.
        hidden_sizes (`list[int]`): channels of the encoder's 3 x 3 convolutions, from the image inwards, each with
            batch normalisation; the first, third, fifth and so on halve height and width, rounded up.
        pool_size (`int`): the last feature maps are averaged over a grid of so many by so many fields: 1: over all
            of each. The features are pool_size^2 times the last of hidden_sizes.
        loss (`"nt_xent"` or `"simsiam"`): SimCLR's cross-entropy over all views of a batch (equation 1), or SimSiam's
            negative cosine similarity to the other view alone.
        temperature (`float`): tau of the cross-entropy, above 0; SimSiam ignores it.
        projection_hidden_size (`int`): units of the hidden layer of the projection, which the loss sees in place of
            the features.
        projection_size (`int`): dimensions of the projection.
        predictor (`"trained"`, `"fixed"` or `"none"`): SimSiam's second network, which predicts the projection of the
            other view: trained with the rest, left as it was drawn, or left out.
        predictor_hidden_size (`int`): units of its hidden layer.
        stop_gradient (`bool`): whether SimSiam holds the other view's projection fixed; without, it collapses.
        image_mean (`list[float]`): mean of the training images' pixels in [0, 1], one for each channel or one for all;
            the model subtracts it.
        image_std (`list[float]`): their standard deviation, above 0, one for each channel or one for all; the model
            divides by it.
        num_labels (`int`): classes of the linear classifier; 10 when neither it nor `id2label` is given.
        id2label (`dict[int, str]`): name of each class, from 0 to num_labels - 1.

    Raises:
        ValueError: for an unknown keyword, a stored config of another model type, or a `num_labels` that is no integer
            or not the number of names.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or values that
            do not go together.
    """

    model_type = "hwzoo_simclr"

    image_size: int = 28
    num_channels: int = 1
    hidden_sizes: list[int] | tuple[int, ...] = field(default=(32, 64, 64, 128, 256), metadata={"range": "[1, inf)"})
    pool_size: int = field(default=2, metadata={"range": "[1, inf)"})
    loss: Literal["nt_xent", "simsiam"] = "nt_xent"
    temperature: float | int = field(default=0.2, metadata={"range": "(0, inf)", "only": {"loss": ("nt_xent",)}})
    projection_hidden_size: int = field(default=256, metadata={"range": "[1, inf)"})
    projection_size: int = field(default=64, metadata={"range": "[2, inf)"})
    predictor: Literal["trained", "fixed", "none"] = field(
        default="trained", metadata={"only": {"loss": ("simsiam",)}}
    )
    predictor_hidden_size: int = field(
        default=32, metadata={"range": "[1, inf)", "only": {"loss": ("simsiam",), "predictor": ("trained", "fixed")}}
    )
    stop_gradient: bool = field(default=True, metadata={"only": {"loss": ("simsiam",)}})
    image_mean: list[float | int] | tuple[float | int, ...] = (0.0,)
    image_std: list[float | int] | tuple[float | int, ...] = (1.0,)

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
        self.image_mean = list(self.image_mean)
        self.image_std = list(self.image_std)
        given = "id2label"
        if self.label2id is not None:
            self.label2id = _numbered(self.label2id)
            if self.id2label is None:
                given, self.id2label = "label2id", {label: name for name, label in self.label2id.items()}
        num_labels = kwargs.get("num_labels")
        if num_labels is None:
            # transformers stores names instead of the number, and leaves out those of 2 nameless labels.
            default = 2 if "model_type" in kwargs else 10
            kwargs["num_labels"] = default if self.id2label is None else len(self.id2label)
        elif type(num_labels) is not int:
            raise ValueError(f"num_labels is {num_labels!r}; it must be an integer")
        # A stored model may be loaded with another number of labels: transformers sets it later.
        elif "model_type" not in kwargs and self.id2label is not None and len(self.id2label) != num_labels:
            raise ValueError(f"num_labels is {num_labels}, but {given} has {len(self.id2label)} names")
        super().__post_init__(**kwargs)
        if self.label2id is None:
            self.label2id = {name: label for label, name in self.id2label.items()}

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        # transformers sets the keywords of `from_pretrained` in a config that is already checked, as they are.
        if kwargs.get("id2label") is not None:
            kwargs["id2label"] = {int(label): name for label, name in kwargs["id2label"].items()}
            if kwargs.get("label2id") is None:
                kwargs["label2id"] = {name: label for label, name in kwargs["id2label"].items()}
        if kwargs.get("label2id") is not None:
            kwargs["label2id"] = _numbered(kwargs["label2id"])
            if kwargs.get("id2label") is None:
                kwargs["id2label"] = {label: name for name, label in kwargs["label2id"].items()}
        made = super().from_dict(config_dict, **kwargs)
        (made[0] if isinstance(made, tuple) else made).validate()
        return made

    @property
    def map_size(self) -> int:
        """Height and width of the last feature maps."""
        return math.ceil(self.image_size / 2 ** ((len(self.hidden_sizes) + 1) // 2))

    @property
    def feature_size(self) -> int:
        """Dimensions of the features."""
        return self.hidden_sizes[-1] * self.pool_size**2

    def validate_architecture(self):
        """
        Checks the values and how they go together (run by `@strict` when the config is built).

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        sizes = ("image_size", "pool_size", "projection_hidden_size", "predictor_hidden_size", "num_labels")
        for name, low in (*((name, 1) for name in sizes), ("projection_size", 2)):
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not 1 <= self.num_channels <= 4:  # the pictures that PIL knows: grey or RGB, with or without transparency
            raise ValueError(f"num_channels is {self.num_channels}; it must be 1 to 4")
        if not self.hidden_sizes or min(self.hidden_sizes) < 1:
            raise ValueError(f"hidden_sizes is {self.hidden_sizes}; it must be one number or more, each at least 1")
        if self.pool_size > self.map_size:
            raise ValueError(
                f"pool_size is {self.pool_size}; the last feature maps are {self.map_size} x {self.map_size}, it must "
                f"be at most {self.map_size}"
            )
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"temperature is {self.temperature}; it must be finite and above 0")
        if self.problem_type not in (None, "single_label_classification"):  # by it a pipeline chooses its scores
            raise ValueError(f"problem_type is {self.problem_type!r}; it must be single_label_classification or None")
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ValueError(f"the labels are {sorted(self.id2label)}; they must be 0 to {self.num_labels - 1}")
        for name in ("image_mean", "image_std"):
            values = getattr(self, name)
            if len(values) not in (1, self.num_channels):
                raise ValueError(
                    f"{name} is {values}; it must hold one number for all channels or one for each of the "
                    f"{self.num_channels}"
                )
            if not all(math.isfinite(value) for value in values):
                raise ValueError(f"{name} is {values}; each number must be finite")
        if not all(value > 0 for value in self.image_std):
            raise ValueError(f"image_std is {self.image_std}; each number must be above 0")


__all__ = ["SimCLRConfig"]
