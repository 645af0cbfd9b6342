"""The model families: one folder each, and the one table of all families, whatever library holds their classes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    BaseImageProcessor,
    PreTrainedConfig,
    PreTrainedModel,
)

from .autoregressive.configuration_autoregressive import AutoregressiveConfig
from .autoregressive.modeling_autoregressive import AutoregressiveModel
from .classifier.configuration_classifier import ClassifierConfig
from .classifier.image_processing_classifier import ClassifierImageProcessor
from .classifier.modeling_classifier import ClassifierForImageClassification, ClassifierModel
from .flow.configuration_flow import FlowConfig
from .flow.modeling_flow import FlowModel
from .gan.configuration_gan import GANConfig
from .gan.modeling_gan import GANModel
from .simclr.configuration_simclr import SimCLRConfig
from .simclr.modeling_simclr import SimCLRForImageClassification, SimCLRModel
from .textvae.configuration_textvae import TextVAEConfig
from .textvae.modeling_textvae import TextVAEModel
from .vae.configuration_vae import VAEConfig
from .vae.labels import drawn_by
from .vae.modeling_vae import VAEModel
from .vqvae.configuration_vqvae import VQVAEConfig
from .vqvae.modeling_vqvae import VQVAEModel


@dataclass(frozen=True)
class Family:
    """
    A row of the table: a family whose classes are the zoo's.

    Args:
        name: as in the names of its folder and the card template.
        config_class: its `model_type` starts with `hwzoo_`.
        model_class: the class that `from_pretrained` and the Auto class below give.
        auto_class: the Auto class of transformers that loads it.
        image_processor_class: what turns pictures into the model's input, where a pipeline needs it; built by its
            `from_config(config, read)`.
        must_fit: fields of the configuration that the data decides: a trained model must have the data's.
        loss_fields: those that the training loss alone reads: a run that goes on from a trained model may change them.
        card_template: of its cards; `model_cards/<name>.md.jinja` when not given.
        backbone_class: the model without its head, where it has one: what `AutoModel` loads.
    """

    name: str
    config_class: type[PreTrainedConfig] | None = None
    model_class: type[PreTrainedModel] | None = None
    auto_class: type = AutoModel
    image_processor_class: type[BaseImageProcessor] | None = None
    must_fit: tuple[str, ...] = ("image_size", "num_channels")
    loss_fields: tuple[str, ...] = ()
    card_template: Path | None = None
    backbone_class: type[PreTrainedModel] | None = None

    entry: ClassVar[str] = "config.json"  # the file by which a saved model of the family is known
    card: ClassVar[dict[str, str]] = {}  # what its cards say that is not `write_card`'s default
    draws: ClassVar[str] = "images"  # or texts: what `sample` gives

    def holds(self, model: Any) -> bool:
        """Whether a model is of this family."""
        return type(model) in (self.model_class, self.backbone_class)

    def load(self, name: str, load: Callable[..., Any], trust_remote_code: bool | None = None) -> Any:
        """
        Loads a model.

        Args:
            name: folder or Hub id.
            load: `hwzoo.hub.load`, which the table cannot import.
            trust_remote_code: as there.

        Returns:
            The model, on the CPU.
        """
        return load(self.auto_class, name, trust_remote_code)

    def parts(self, model: Any, read: Any = None) -> list[Any]:
        """
        What is saved of a model, for users without hwzoo with the family's code.

        Args:
            model: of the family.
            read: the flags by which its training read pictures, for an image processor that does the same.

        Returns:
            Objects with `save_pretrained`.
        """
        if self.image_processor_class is None:
            return [model]
        further = () if read is None else (read,)  # which a family's own processor may not know
        return [model, self.image_processor_class.from_config(model.config, *further)]

    def samples(self, model: Any) -> bool:
        """Whether `sample` draws from nothing what `draws` says."""
        return hasattr(model, "sample")

    def num_classes(self, model: Any) -> int:
        """The classes that `sample` takes labels of; 0 for an unconditional model."""
        return getattr(model.config, "num_classes", 0)

    def sample(self, model: Any, num_samples: int, labels: Tensor | None, generator: Any, **call: Any) -> Tensor:
        """
        Draws images, or texts.

        Args:
            model: of the family.
            num_samples: how many.
            labels: (num_samples,), or None.
            generator: of the noise, and of labels that are not given; of a pipeline a list too, one for each image.
            call: what the family takes besides, as a pipeline its steps and guidance.

        Returns:
            (num_samples, channels, height, width) in [0, 1]; of texts their tokens, (num_samples, max_tokens).
        """
        return model.sample(num_samples, labels=labels, generator=generator, **call)


class PipelineFamily(Family):
    """A family whose models are pipelines of diffusers around a `UNet2DModel`."""

    entry = "model_index.json"
    card: ClassVar = {"library_name": "diffusers"}

    def holds(self, model: Any) -> bool:
        return hasattr(model, "scheduler") and hasattr(model, "unet")

    def load(self, name: str, load: Callable[..., Any], trust_remote_code: bool | None = None) -> Any:
        from .. import diffusion

        return diffusion.load_pipeline(name)  # it never runs the code of a repository

    def parts(self, model: Any, read: Any = None) -> list[Any]:
        from .. import diffusion

        return [diffusion.portable(model)]

    def samples(self, model: Any) -> bool:
        return True

    def num_classes(self, model: Any) -> int:
        return getattr(model, "num_classes", 0)

    def sample(self, model: Any, num_samples: int, labels: Tensor | None, generator: Any, **call: Any) -> Tensor:
        if labels is None and (num_classes := self.num_classes(model)):  # drawn uniformly
            each = generator if isinstance(generator, list) else [generator]
            if each and len(each) in (1, num_samples):  # other lists the pipeline refuses
                given, shape = [drawn_by(one, torch.device("cpu")) for one in each], (num_samples // len(each),)
                labels = torch.cat([torch.randint(num_classes, shape, **one).cpu() for one in given])
        call |= {} if labels is None else {"labels": labels}  # others do not know the word
        images = model(batch_size=num_samples, generator=generator, output_type="np", **call).images
        return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()  # it had the channels last


class TextGeneratorFamily(Family):
    """A family of the zoo's own models that draw texts, as tokens of the tokenizer that is saved beside each."""

    card: ClassVar = {"pipeline_tag": "text-generation"}
    draws: ClassVar = "texts"


class TextFamily(Family):
    """A family of sequence-to-sequence models of transformers, and of PEFT's adapters on them."""

    entry = "adapter_config.json"
    card: ClassVar = {"pipeline_tag": "text2text-generation"}

    def holds(self, model: Any) -> bool:
        return getattr(getattr(model, "config", None), "is_encoder_decoder", False)

    def load(self, name: str, load: Callable[..., Any], trust_remote_code: bool | None = None) -> Any:
        from .. import text

        return text.load_seq2seq(name, load, trainable=False, trust_remote_code=bool(trust_remote_code))


FAMILIES: list[Family] = []


def family_of(model: Any) -> Family:
    """The row of a model; of a stranger's, one without a name, which treats it as a model of transformers."""
    return next((each for each in FAMILIES if each.holds(model)), Family(""))


def register(family: Family):
    """
    Adds a family to the table and its classes to the Auto classes of transformers, which then load it without any
    remote code, and whose `save_pretrained` and `push_to_hub` copy its code along, for users without hwzoo. A recipe
    outside the package calls it for a family of its own.

    Args:
        family: the row.

    Raises:
        ValueError: for a name that the table has.
    """
    if any(each.name == family.name for each in FAMILIES):
        raise ValueError(f"there is a family {family.name}")
    if family.model_class is not None:
        AutoConfig.register(family.config_class.model_type, family.config_class)
        family.config_class.register_for_auto_class()
        # AutoModel loads any, without its head.
        classes = {AutoModel: family.backbone_class or family.model_class, family.auto_class: family.model_class}
        for auto_class, model_class in classes.items():
            auto_class.register(family.config_class, model_class)
            model_class.register_for_auto_class(auto_class.__name__)
    if family.image_processor_class is not None:
        family.image_processor_class.register_for_auto_class()
        AutoImageProcessor.register(family.config_class, slow_image_processor_class=family.image_processor_class)
    FAMILIES.append(family)


for _family in (
    Family(
        "vae",
        VAEConfig,
        VAEModel,
        must_fit=("image_size", "num_channels", "num_classes"),
        loss_fields=("beta", "train_importance_samples"),
    ),  # fmt: skip
    Family(
        "classifier",
        ClassifierConfig,
        ClassifierForImageClassification,
        AutoModelForImageClassification,
        ClassifierImageProcessor,
        must_fit=("image_size", "num_channels", "num_labels", "num_heads"),
        backbone_class=ClassifierModel,
    ),  # fmt: skip
    Family("gan", GANConfig, GANModel),
    Family("autoregressive", AutoregressiveConfig, AutoregressiveModel),
    Family("flow", FlowConfig, FlowModel),
    Family(
        "vqvae",
        VQVAEConfig,
        VQVAEModel,
        must_fit=("image_size", "num_channels", "num_classes"),
        loss_fields=("commitment_weight",),
    ),  # fmt: skip
    Family(
        "simclr",
        SimCLRConfig,
        SimCLRForImageClassification,
        AutoModelForImageClassification,
        ClassifierImageProcessor,
        must_fit=("image_size", "num_channels", "num_labels"),
        loss_fields=("temperature", "stop_gradient"),
        backbone_class=SimCLRModel,
    ),  # fmt: skip
    TextGeneratorFamily(
        "textvae", TextVAEConfig, TextVAEModel, must_fit=(), loss_fields=("beta", "free_bits", "word_dropout")
    ),
    PipelineFamily("ddpm"),
    TextFamily("t5"),
):
    register(_family)


# The former names of the family `classifier`, in folders and scripts of earlier versions: {model type: today's class}.
FORMER_MODEL_TYPES = {"hwzoo_continual": ClassifierConfig}
ContinualConfig, ContinualForImageClassification = ClassifierConfig, ClassifierForImageClassification


class ContinualImageProcessor(ClassifierImageProcessor):
    """Makes a `ClassifierImageProcessor`; a class, as transformers finds an image processor by the name of one."""

    def __new__(cls, *args, **kwargs) -> ClassifierImageProcessor:
        return ClassifierImageProcessor(*args, **kwargs)


for _model_type, _config_class in FORMER_MODEL_TYPES.items():
    CONFIG_MAPPING.register(_model_type, _config_class)  # AutoConfig's own would ask for the class's model type
AutoImageProcessor.register(ContinualConfig, image_processor_classes={"former": ContinualImageProcessor})

__all__ = [
    "FAMILIES",
    "FORMER_MODEL_TYPES",
    "AutoregressiveConfig",
    "AutoregressiveModel",
    "ClassifierConfig",
    "ClassifierForImageClassification",
    "ClassifierImageProcessor",
    "ClassifierModel",
    "ContinualConfig",
    "ContinualForImageClassification",
    "ContinualImageProcessor",
    "Family",
    "FlowConfig",
    "FlowModel",
    "GANConfig",
    "GANModel",
    "PipelineFamily",
    "SimCLRConfig",
    "SimCLRForImageClassification",
    "SimCLRModel",
    "TextFamily",
    "TextGeneratorFamily",
    "TextVAEConfig",
    "TextVAEModel",
    "VAEConfig",
    "VAEModel",
    "VQVAEConfig",
    "VQVAEModel",
    "family_of",
    "register",
]
