"""SimCLR (arXiv:2002.05709) and SimSiam (arXiv:2011.10566): features of images that are learned without labels."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_simclr import SimCLRConfig
from .losses_simclr import BatchNorm, negative_cosine, nt_xent, relative_std, wide
from .pixels import check_pixels, check_shape


@dataclass
class SimCLROutput(ModelOutput):
    """
    What `SimCLRModel.forward` returns.

    Args:
        loss: mean over both views of all images, a scalar: in nats (`nt_xent`) or in [-1, 1] (`simsiam`); with two
            views only.
        last_hidden_state: the features, (batch, feature_size), those of the first view.
        pooler_output: the same.
        projections: what the loss compares, (batch, projection_size), those of the first view.
        projection_std: of the normalised projections over the batch, relative to that of points spread alike in all
            directions: near 0 where the projections have collapsed; with two views only.
    """

    loss: Tensor | None = None
    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    projections: Tensor | None = None
    projection_std: Tensor | None = None


class Normalization(nn.Module):
    """(pixel_values - image_mean) / image_std, per channel; in float32 where the pixels are of half precision."""

    def forward(self, pixel_values: Tensor, config: SimCLRConfig) -> Tensor:
        # Numbers, no buffers: a model that was built on the meta device has them too; those that would be saved now.
        pixel_values = wide(pixel_values)
        kind = {"device": pixel_values.device, "dtype": pixel_values.dtype}
        values = config.image_mean, config.image_std
        mean, std = (torch.tensor(each, **kind)[:, None, None] for each in values)
        return (pixel_values - mean) / std


class Backbone(nn.Sequential):
    """(batch, channels, height, width) -> (batch, feature_size)"""

    def __init__(self, config: SimCLRConfig):
        channels, layers = [config.num_channels, *config.hidden_sizes], []
        for index, (size_in, size_out) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            convolution = nn.Conv2d(size_in, size_out, 3, stride=2 - index % 2, padding=1)
            layers += [convolution, BatchNorm(size_out), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(config.pool_size), nn.Flatten())


class Projector(nn.Sequential):
    """Two linear layers with batch normalisation between them: (batch, size_in) -> (batch, size_out)"""

    def __init__(self, size_in: int, hidden_size: int, size_out: int):
        hidden = nn.Linear(size_in, hidden_size), BatchNorm(hidden_size), nn.ReLU()
        super().__init__(*hidden, nn.Linear(hidden_size, size_out))


class SimCLRPreTrainedModel(PreTrainedModel):
    """Weights, saving and loading, as all models of transformers have them."""

    config_class = SimCLRConfig
    base_model_prefix = "simclr"
    main_input_name = "pixel_values"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        # transformers would draw every layer from N(0, 0.02): keep torch's own initialisation (scaled by the fan-in).
        if isinstance(module, (nn.Linear, nn.Conv2d, BatchNorm)):
            module.reset_parameters()


class SimCLRModel(SimCLRPreTrainedModel):
    """
    An encoder of images, and the networks through which it learns from two views of each image. `AutoModel` and the
    pipeline `image-feature-extraction` load it from the folder of a `SimCLRForImageClassification`.

    Pixels are float32 in [0, 1], shape (batch, num_channels, image_size, image_size); the model normalises them by
    `config.image_mean` and `config.image_std`.
    """

    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        size, hidden_size = config.projection_size, config.projection_hidden_size
        self.normalization = Normalization()
        self.backbone = Backbone(config)
        self.projector = Projector(config.feature_size, hidden_size, size)
        self.predictor = None
        if config.loss == "simsiam" and config.predictor != "none":
            self.predictor = Projector(size, config.predictor_hidden_size, size)
            self.predictor.requires_grad_(config.predictor == "trained")
        self.post_init()

    def train(self, mode: bool = True) -> "SimCLRModel":
        super().train(mode)
        # Loading puts new parameters, which are trained, in the place of those of `__init__`; it ends here, by `eval`.
        if self.predictor is not None and self.config.predictor == "fixed":
            self.predictor.requires_grad_(False)
        return self

    @can_return_tuple
    def forward(
        self, pixel_values: Tensor, other_pixel_values: Tensor | None = None, return_loss: bool = True
    ) -> SimCLROutput:
        """
        The features, and with a second view of each image the loss. Both views are one batch for the batch
        normalisation, which could else tell them apart.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            other_pixel_values: another view of each image, in the same order.
            return_loss: as in transformers, whose Trainer takes from it that there is a loss without labels; for its
                `predict` of single views say `label_names=["other_pixel_values"]`.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or views of different shapes.
        """
        num, loss, std = len(pixel_values), None, None
        if other_pixel_values is not None:
            if other_pixel_values.shape != pixel_values.shape:
                raise ValueError(
                    f"other_pixel_values has shape {tuple(other_pixel_values.shape)}; it must be that of "
                    f"pixel_values, {tuple(pixel_values.shape)}"
                )
            pixel_values = torch.cat([pixel_values, other_pixel_values])
        features = self.features(pixel_values)
        projections = self.projector(features.to(self.backbone[0].weight.dtype))
        if other_pixel_values is not None:
            std = relative_std(projections)
            if self.config.loss == "nt_xent":
                loss = nt_xent(*projections.split(num), self.config.temperature)
            else:
                predicted = projections if self.predictor is None else self.predictor(projections)
                loss = negative_cosine(predicted.split(num), projections.split(num), self.config.stop_gradient)
        loss = loss if return_loss else None
        features, projections = features[:num], wide(projections[:num])
        return SimCLROutput(loss, features, features, projections, std)

    def features(self, pixel_values: Tensor) -> Tensor:
        """
        What the encoder makes of images: (batch, channels, height, width) in [0, 1] -> (batch, feature_size).

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size.
        """
        check_pixels(pixel_values, self.training)
        check_shape(pixel_values, self.config.num_channels, self.config.image_size)
        # Of a layer: a replica of nn.DataParallel has no parameters, and so no `self.dtype`.
        return wide(self.backbone(self.normalization(pixel_values, self.config).to(self.backbone[0].weight.dtype)))


class SimCLRForImageClassification(SimCLRPreTrainedModel):
    """
    An encoder and a linear classifier of its features: the linear probe of what was learned without labels, or a start
    for fine-tuning.

    Attributes:
        simclr: the encoder, a `SimCLRModel`.
        classifier: the linear layer from its features to the logits.
        feature_size: dimensions of the features.
    """

    def __init__(self, config: SimCLRConfig):
        super().__init__(config)
        self.simclr = SimCLRModel(config)
        self.feature_size = config.feature_size
        self.classifier = nn.Linear(config.feature_size, config.num_labels)
        self.post_init()
        self._keys_to_ignore_on_load_unexpected = set()  # `post_init` gathers those of the encoder, which has no head

    @can_return_tuple
    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """
        Logits, (batch, num_labels), and with labels the loss: the mean cross-entropy in nats.

        Args:
            pixel_values: (batch, channels, height, width) in [0, 1].
            labels: int64, (batch,), from 0 to num_labels - 1.

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size.
        """
        features = self.features(pixel_values)
        logits = wide(self.classifier(features.to(self.classifier.weight.dtype)))
        if labels is not None and labels.dtype == torch.int32:  # which torch's loss does not take
            labels = labels.long()
        return ImageClassifierOutput(loss=None if labels is None else F.cross_entropy(logits, labels), logits=logits)

    def features(self, pixel_values: Tensor) -> Tensor:
        """
        What the classifier sees: (batch, channels, height, width) in [0, 1] -> (batch, feature_size).

        Raises:
            ValueError: for pixels that are no floating-point numbers in [0, 1], or images of another size.
        """
        return self.simclr.features(pixel_values)

    def save_pretrained(self, *args: Any, **kwargs: Any):
        """As transformers does; config.json also says which class `AutoModel` loads where hwzoo is not installed."""
        if self._auto_class is not None:
            named = f"{__name__.rpartition('.')[2]}.{SimCLRModel.__name__}"
            self.config.auto_map = (getattr(self.config, "auto_map", None) or {}) | {"AutoModel": named}
        super().save_pretrained(*args, **kwargs)


__all__ = ["SimCLRForImageClassification", "SimCLRModel", "SimCLRPreTrainedModel"]
