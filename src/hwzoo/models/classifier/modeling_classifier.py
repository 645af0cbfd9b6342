"""Image classifiers: three backbones, and heads of their own for the tasks of continual learning when wanted."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import can_return_tuple

from .configuration_classifier import ClassifierConfig
from .pixels import check_pixels, check_shape, extremes


class CNN(nn.Sequential):
    """(batch, channels, height, width) -> (batch, 50): the network of the EECS 182 homework (28 x 28 in its case)."""

    feature_size = 50

    def __init__(self, config: ClassifierConfig):
        smallest = ((config.image_size - 4) // 2 - 4) // 2
        super().__init__(
            nn.Conv2d(config.num_channels, 10, kernel_size=5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(10, 20, kernel_size=5),
            nn.Dropout2d(config.dropout),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(20 * smallest**2, self.feature_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )


class MLP(nn.Sequential):
    """(batch, channels, height, width) -> (batch, the last of hidden_sizes, or all pixels when there is none)"""

    def __init__(self, config: ClassifierConfig):
        sizes = [config.num_channels * config.image_size**2, *config.hidden_sizes]
        layers = []
        for size_in, size_out in zip(sizes[:-1], sizes[1:], strict=True):
            layers += [nn.Linear(size_in, size_out), nn.ReLU()]
        super().__init__(nn.Flatten(), *layers)
        self.feature_size = sizes[-1]


class WideCNN(nn.Sequential):
    """
    (batch, channels, height, width) -> (batch, 128); without BatchNorm, whose parameters and statistics the
    importance estimates of continual learning do not cover.
    """

    feature_size = 128

    def __init__(self, config: ClassifierConfig):
        smallest = config.image_size // 8
        super().__init__(
            nn.Conv2d(config.num_channels, 32, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Dropout(config.dropout),
            nn.Linear(64 * smallest**2, self.feature_size),
            nn.ReLU(),
            nn.Dropout(config.dropout),
        )


BACKBONES = {"cnn": CNN, "mlp": MLP, "wide_cnn": WideCNN}


class Normalization(nn.Module):
    """(pixel_values - image_mean) / image_std, per channel; in float32 where the pixels are of half precision."""

    def forward(self, pixel_values: Tensor, config: ClassifierConfig) -> Tensor:
        # Numbers, no buffers: a model that was built on the meta device has them too; those that would be saved now.
        pixel_values = _wide(pixel_values)
        kind = {"device": pixel_values.device, "dtype": pixel_values.dtype}
        values = config.image_mean, config.image_std
        mean, std = (torch.tensor(each, **kind)[:, None, None] for each in values)
        return (pixel_values - mean) / std


class ClassifierPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = ClassifierConfig
    base_model_prefix = "hwzoo_classifier"  # `classifier` is the last layer
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            module.reset_parameters()

    def _hidden_states(self, pixel_values: Tensor) -> tuple[Tensor, ...]:
        """The normalised pixels and what each layer of the backbone gives; the last are the features."""
        check_pixels(pixel_values, self.training)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        pixel_values = self.normalization(pixel_values, self.config)
        # Of a layer: a replica of nn.DataParallel has no parameters, and so no `self.dtype`. Some `mlp` has none, and
        # layers that torch quantises have a method for a weight.
        weights = (getattr(layer, "weight", None) for layer in self.backbone)
        kinds = (each.dtype for each in weights if isinstance(each, Tensor) and each.is_floating_point())
        states = [pixel_values.to(next(kinds, pixel_values.dtype))]
        for layer in self.backbone:
            states.append(layer(states[-1]))
        return tuple(states)

    def _asked(self, states: tuple[Tensor, ...], output_hidden_states: bool | None) -> tuple[Tensor, ...] | None:
        """Hidden states for the output, where the call or the config asks for them."""
        asked = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return states if asked else None


class ClassifierModel(ClassifierPreTrainedModel):
    """
    The backbone of a classifier alone: what turns an image into features. `AutoModel` and the pipeline
    `image-feature-extraction` load it from the folder of a whole classifier.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        self.normalization = Normalization()
        self.backbone = BACKBONES[config.backbone](config)
        self.post_init()

    @can_return_tuple
    def forward(self, pixel_values: Tensor, output_hidden_states: bool | None = None) -> BaseModelOutputWithPooling:
        """
        The features, (batch, feature_size), as `last_hidden_state` and `pooler_output`.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            output_hidden_states: also what each layer gives; as the config says when not given.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size.
        """
        states = self._hidden_states(pixel_values)
        features = _wide(states[-1])
        return BaseModelOutputWithPooling(features, features, self._asked(states, output_hidden_states))


class ClassifierForImageClassification(ClassifierPreTrainedModel):
    """
    An image classifier: a backbone as the config says and a linear classifier over the outputs of all heads.

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size); the model normalises them by
    `config.image_mean` and `config.image_std`.

    Attributes:
        backbone: from normalised pixels to the classifier's input, (batch, feature_size).
        classifier: the linear layer from there to the logits of all heads.
        feature_size: 50 (`cnn`), the last of `hidden_sizes` (`mlp`) or 128 (`wide_cnn`).
    """

    def __init__(self, config: ClassifierConfig):
        super().__init__(config)
        self.normalization = Normalization()
        self.backbone = BACKBONES[config.backbone](config)
        self.feature_size = self.backbone.feature_size
        self.classifier = nn.Linear(self.feature_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
        output_hidden_states: bool | None = None,
    ) -> ImageClassifierOutput:
        """
        Logits, (batch, num_labels), and with labels the loss: the mean cross-entropy in nats.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            labels: int64, (batch,), of all outputs: with several heads a label is of the head of its task.
            task_ids: int64, (batch,), from 0 to num_heads - 1: each example is classified by its own task's head;
                the logits of the others are half the lowest number, so that their probabilities and gradients are 0.
                Without them all heads compete. Ignored with one head.
            output_hidden_states: also the normalised pixels and what each layer of the backbone gives; as the config
                says when not given.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size; for
                `task_ids` that are none of the model's.
        """
        if task_ids is not None and self.config.num_heads > 1:
            self._check_tasks(task_ids, len(pixel_values))
        states = self._hidden_states(pixel_values)
        logits = _wide(self.classifier(states[-1].to(self.classifier.weight.dtype)))
        if task_ids is not None and self.config.num_heads > 1:
            head_size = self.config.num_labels // self.config.num_heads
            head = torch.arange(self.config.num_labels, device=logits.device) // head_size
            # Finite: an infinite logit would make NaN of a gradient that a strategy takes of the log-probabilities.
            logits = logits.masked_fill(head != task_ids[:, None], torch.finfo(logits.dtype).min / 2)
        if labels is not None and labels.dtype == torch.int32:  # which torch's loss does not take
            labels = labels.long()
        loss = None if labels is None else F.cross_entropy(logits, labels)
        hidden_states = self._asked(states, output_hidden_states)
        return ImageClassifierOutput(loss=loss, logits=logits, hidden_states=hidden_states)

    def _check_tasks(self, task_ids: Tensor, num: int):
        """An id of no task would leave no head: all classes would be as likely."""
        allowed = f"one of 0 to {self.config.num_heads - 1} for each of the {num} images"
        if task_ids.shape != (num,):
            raise ValueError(f"task_ids has shape {tuple(task_ids.shape)}; it must be {allowed}")
        if (seen := extremes(task_ids, self.training)) is None:
            return
        low, high = seen
        if low < 0 or high >= self.config.num_heads:
            raise ValueError(f"task_ids holds {low if low < 0 else high}; it must be {allowed}")

    def features(self, pixel_values: Tensor) -> Tensor:
        """
        What the classifier sees: (batch, channels, height, width) in [0, 1] -> (batch, feature_size).

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size.
        """
        return _wide(self._hidden_states(pixel_values)[-1])

    def save_pretrained(self, *args: Any, **kwargs: Any):
        """As transformers does; config.json also says which class `AutoModel` loads where hwzoo is not installed."""
        if self._auto_class is not None:
            named = f"{__name__.rpartition('.')[2]}.{ClassifierModel.__name__}"
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {"AutoModel": named}
        super().save_pretrained(*args, **kwargs)


def _wide(output: Tensor) -> Tensor:
    """As float32, or float64 where the weights are, also in bfloat16 or mixed precision."""
    return output.to(torch.promote_types(output.dtype, torch.float32))


__all__ = ["ClassifierForImageClassification", "ClassifierModel", "ClassifierPreTrainedModel"]
