"""Configuration of the variational autoencoder."""

import math
from dataclasses import field, fields
from typing import Any, Literal

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}


@strict
class VAEConfig(PreTrainedConfig):
    r"""
    A variational autoencoder (Kingma and Welling, [arXiv:1312.6114](https://arxiv.org/abs/1312.6114)).

    Args:
        image_size (`int`): height and width of an image, in pixels.
        num_channels (`int`): channels of an image.
        num_classes (`int`): 0: unconditional; else the number of classes that encoder and decoder are conditional on,
            q(z|x, y) and p(x|z, y) (Sohn et al., NeurIPS 2015): as one-hot vectors beside the latents and the pixels,
            of `conv` as channels. The prior knows nothing of them.
        network (`"mlp"` or `"conv"`): fully connected networks on the flattened image, or strided 4 x 4 convolutions.
        encoder_hidden_sizes (`list[int]`): widths of the encoder's hidden layers, from the image inwards: units for
            `mlp` (may be empty: a linear encoder), channels for `conv` (one halving of the image each, at least one).
        decoder_hidden_sizes (`list[int]`): the same for the decoder, from the latents outwards.
        latent_size (`int`): dimensions of the latent variable z.
        activation (`"elu"`, `"gelu"`, `"leaky_relu"`, `"relu"`, `"silu"` or `"tanh"`): after each hidden layer.
        likelihood (`"bernoulli"` or `"gaussian"`): p(x|z) per pixel. `bernoulli`: of binary pixels. `gaussian`: of
            continuous pixels, with a mean from the decoder and one learned standard deviation, in pixel units, for all
            pixels (Rybkin et al., [arXiv:2006.13202](https://arxiv.org/abs/2006.13202)).
        variance_parametrization (`"softplus"` or `"exp"`): what turns an unconstrained output h into a variance:
            softplus(h) + 1e-8, or exp(h) (h is then the log-variance).
        prior (`"normal"` or `"mixture"`): p(z) = N(0, prior_std^2 I), or a uniform mixture of diagonal Gaussians with
            learned means and variances (its KL divergence is a one-sample Monte Carlo estimate).
        prior_std (`float`): standard deviation of the `normal` prior, in [1e-6, 1e6]; of a `mixture`, the scale that
            its components are drawn with at initialisation.
        num_mixture_components (`int`): components of the `mixture` prior.
        beta (`float`): weight of the KL divergence in the training loss (Higgins et al., 2017); the bounds ignore it.
        train_importance_samples (`int`): samples of q(z|x) in the training loss: 1 is the ELBO; more the
            importance-weighted bound (Burda et al., [arXiv:1509.00519](https://arxiv.org/abs/1509.00519), equation 8),
            with `beta` before log q(z|x) - log p(z) in each weight. The bounds ignore it.

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range, or an image
            size that the network cannot take.
    """

    model_type = "hwzoo_vae"

    image_size: int = 28
    num_channels: int = 1
    num_classes: int = 0
    network: Literal["mlp", "conv"] = "mlp"
    encoder_hidden_sizes: list[int] | tuple[int, ...] = field(
        default=(300, 300), metadata={"range": "[1, inf)", "empty": True}
    )
    decoder_hidden_sizes: list[int] | tuple[int, ...] = field(
        default=(300, 300), metadata={"range": "[1, inf)", "empty": True}
    )
    latent_size: int = field(default=10, metadata={"range": "[1, inf)"})
    activation: Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"] = "elu"
    likelihood: Literal["bernoulli", "gaussian"] = "bernoulli"
    variance_parametrization: Literal["softplus", "exp"] = "softplus"
    prior: Literal["normal", "mixture"] = "normal"
    prior_std: float | int = field(default=1.0, metadata={"range": "[1e-6, 1e6]"})
    num_mixture_components: int = field(default=500, metadata={"range": "[1, inf)", "only": {"prior": ("mixture",)}})
    beta: float | int = field(default=1.0, metadata={"range": "[0, inf)"})
    train_importance_samples: int = field(default=1, metadata={"range": "[1, inf)"})

    def __post_init__(self, **kwargs):
        if kwargs.get("model_type", self.model_type) != self.model_type:
            raise ValueError(f"this config is {kwargs['model_type']}'s; {type(self).__name__} is {self.model_type}'s")
        unknown = {key for key in kwargs if not key.startswith("_")} - KEYWORDS_BESIDE_FIELDS
        # A stored config names its model type, and may hold what a later version of transformers adds.
        if unknown and "model_type" not in kwargs:
            known = sorted(field.name for field in fields(self))
            raise ValueError(f"{type(self).__name__} has no field {sorted(unknown)}; it has {known}")
        # JSON has no tuples: with lists a saved and reloaded config equals the first.
        self.encoder_hidden_sizes = list(self.encoder_hidden_sizes)
        self.decoder_hidden_sizes = list(self.decoder_hidden_sizes)
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
        sizes = "image_size", "num_channels", "latent_size", "num_mixture_components", "train_importance_samples"
        for name in sizes:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.num_classes < 0:
            raise ValueError(f"num_classes is {self.num_classes}; it must be at least 0")
        if not 1e-6 <= self.prior_std <= 1e6:  # its square, and what is divided by it, have to be float32
            raise ValueError(f"prior_std is {self.prior_std}; it must be in [1e-6, 1e6]")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta is {self.beta}; it must be finite and at least 0")
        for name in ("encoder_hidden_sizes", "decoder_hidden_sizes"):
            sizes = getattr(self, name)
            if any(size < 1 for size in sizes):
                raise ValueError(f"{name} is {sizes}; each width must be at least 1")
            if self.network == "conv" and (not sizes or self.image_size % 2 ** len(sizes)):
                raise ValueError(
                    f"{name} is {sizes} with image_size {self.image_size}; the convolutional network needs at "
                    f"least one layer, each of which halves the image size: it must be divisible by {2 ** len(sizes)}"
                )


__all__ = ["VAEConfig"]
