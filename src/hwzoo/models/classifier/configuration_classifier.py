"""Configuration of the image classifiers."""

import math
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
# Below it the convolutions and poolings leave no pixel.
SMALLEST_IMAGE_SIZE = {"cnn": 16, "mlp": 1, "wide_cnn": 8}


def _numbered(label2id: dict[str, int | str]) -> dict[str, int]:
    """With integers; two names of one number are refused."""
    numbers = {name: int(label) for name, label in label2id.items()}
    if len(set(numbers.values())) < len(numbers):
        raise ValueError(f"label2id is {label2id}; each name must have a number of its own")
    return numbers


@strict
class ClassifierConfig(PreTrainedConfig):
    r"""
    An image classifier whose outputs may be divided into one head a task.

    Args:
        image_size (`int`): height and width of an image, in pixels: at least 16 for `cnn`, 8 for `wide_cnn`.
        num_channels (`int`): channels of an image, 1 to 4.
        backbone (`"cnn"`, `"mlp"` or `"wide_cnn"`): `cnn`: two 5 x 5 convolutions (10 and 20 channels) and a hidden
            layer of 50 units; `mlp`: fully connected layers on the flattened image; `wide_cnn`: three 3 x 3
            convolutions (32, 64 and 64 channels) and a hidden layer of 128 units, for features that separate
            classes it was not trained on.
        hidden_sizes (`list[int]`): units of the hidden layers of `mlp` (may be empty: a linear classifier); the
            others ignore it.
        num_heads (`int`): the outputs are divided into this many heads of equal size in their order, one a task
            (task-incremental learning); 1: one head for all tasks (domain- and class-incremental learning).
        dropout (`float`): probability in [0, 1) of the dropout layers of `cnn` and `wide_cnn`; `mlp` has none.
        image_mean (`list[float]`): mean of the training images' pixels in [0, 1], one for each channel or one for all;
            the model subtracts it.
        image_std (`list[float]`): their standard deviation, above 0, one for each channel or one for all; the model
            divides by it.
        num_labels (`int`): outputs over all heads; 10 when neither it nor `id2label` is given.
        id2label (`dict[int, str]`): name of each output, from 0 to num_labels - 1.

    Raises:
        ValueError: for an unknown keyword, a stored config of another model type, or a `num_labels` that is no integer
            or not the number of names.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or values that
            do not go together.
    """

    model_type = "hwzoo_classifier"

    image_size: int = 28
    num_channels: int = 1
    backbone: Literal["cnn", "mlp", "wide_cnn"] = "cnn"
    hidden_sizes: list[int] | tuple[int, ...] = field(
        default=(256, 256), metadata={"range": "[1, inf)", "empty": True, "only": {"backbone": ("mlp",)}}
    )
    num_heads: int = 1
    dropout: float | int = field(default=0.5, metadata={"range": "[0, 1)", "only": {"backbone": ("cnn", "wide_cnn")}})
    image_mean: list[float | int] | tuple[float | int, ...] = (0.0,)
    image_std: list[float | int] | tuple[float | int, ...] = (1.0,)

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) not in (self.model_type, "hwzoo_continual"):  # the former
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

    def validate_architecture(self):
        """
        Checks the values and how they go together (run by `@strict` when the config is built).

        Raises:
            ValueError: naming the field, its value and what is allowed.
        """
        for name in ("image_size", "num_heads", "num_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not 1 <= self.num_channels <= 4:  # the pictures that PIL knows: grey or RGB, with or without transparency
            raise ValueError(f"num_channels is {self.num_channels}; it must be 1 to 4")
        if self.image_size < SMALLEST_IMAGE_SIZE[self.backbone]:
            raise ValueError(
                f"image_size is {self.image_size}; for backbone {self.backbone} it must be at least "
                f"{SMALLEST_IMAGE_SIZE[self.backbone]}"
            )
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes is {self.hidden_sizes}; each width must be at least 1")
        if self.num_labels % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}; it must divide num_labels, {self.num_labels}")
        if self.problem_type not in (None, "single_label_classification"):  # by it a pipeline chooses its scores
            raise ValueError(f"problem_type is {self.problem_type!r}; it must be single_label_classification or None")
        if sorted(self.id2label) != list(range(self.num_labels)):
            raise ValueError(f"the labels are {sorted(self.id2label)}; they must be 0 to {self.num_labels - 1}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout is {self.dropout}; it must be at least 0 and below 1")
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


__all__ = ["ClassifierConfig"]
