"""Configuration of the variational autoencoder of texts."""

import math
from dataclasses import field, fields
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

# What transformers takes besides the fields; any other unknown keyword is a misspelling.
KEYWORDS_BESIDE_FIELDS = {"attn_implementation", "name_or_path", "num_labels", "output_attentions", "torch_dtype"}
WITH_LATENT = {"latent_size": range(1, 2**63)}  # of flags: the sizes with which a field has an effect


@strict
class TextVAEConfig(PreTrainedConfig):
    r"""
    A variational autoencoder of texts (Bowman et al., [arXiv:1511.06349](https://arxiv.org/abs/1511.06349)): a
    recurrent encoder of a text into one latent, and a recurrent language model of the text given the latent.

    Args:
        vocab_size (`int`): tokens of the vocabulary, the special ones among them.
        max_tokens (`int`): tokens that a text has at most, its end token counted.
        embedding_size (`int`): dimensions of a token's embedding.
        hidden_size (`int`): units of the decoder, and of the encoder in each direction (GRUs of one layer).
        latent_size (`int`): dimensions of the latent variable z, whose prior is N(0, I); 0: no latent and no encoder,
            the decoder is then a language model.
        beta (`float`): weight of the rate in the training loss; bounds ignore it.
        free_bits (`float`): nats of each latent dimension, averaged over the batch (or an accumulated part), that
            cost the same as fewer in the training loss (Kingma et al., arXiv:1606.04934, appendix C.8); bounds ignore
            them.
        word_dropout (`float`): share of the decoder's inputs that in training are replaced by the unknown token, so
            that what they would have told has to come from the latent (section 3.1 of Bowman et al.).
        pad_token_id (`int`): fills rows after the end of a text; the decoder's first input, never its output.
        eos_token_id (`int`): the last token of each text.
        unk_token_id (`int`): the unknown token.

    Raises:
        ValueError: for an unknown keyword, and a stored config of another model type.
        huggingface_hub.errors.StrictDataclassError: for a value of the wrong type or out of its range.
    """

    model_type = "hwzoo_textvae"

    vocab_size: int = 259
    max_tokens: int = field(default=128, metadata={"range": "[1, inf)"})
    embedding_size: int = field(default=64, metadata={"range": "[1, inf)"})
    hidden_size: int = field(default=128, metadata={"range": "[1, inf)"})
    latent_size: int = field(default=16, metadata={"range": "[0, inf)"})
    beta: float | int = field(default=1.0, metadata={"range": "[0, inf)", "only": WITH_LATENT})
    free_bits: float | int = field(default=0.0, metadata={"range": "[0, 1e6]", "only": WITH_LATENT})
    word_dropout: float | int = field(default=0.0, metadata={"range": "[0, 1]"})
    pad_token_id: int = 0
    eos_token_id: int = 1
    unk_token_id: int = 2

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
            ValueError: naming the field, its value and what it must be.
        """
        least = {"vocab_size": 3, "max_tokens": 1, "embedding_size": 1, "hidden_size": 1, "latent_size": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least {low}")
        if not (math.isfinite(self.beta) and self.beta >= 0):
            raise ValueError(f"beta is {self.beta}; it must be finite and at least 0")
        if not 0 <= self.free_bits <= 1e6:  # it has to be float32
            raise ValueError(f"free_bits is {self.free_bits}; it must be in [0, 1e6]")
        if not 0 <= self.word_dropout <= 1:
            raise ValueError(f"word_dropout is {self.word_dropout}; it must be in [0, 1]")
        special = (self.pad_token_id, self.eos_token_id, self.unk_token_id)
        if len(set(special)) < 3 or not all(0 <= each < self.vocab_size for each in special):
            raise ValueError(
                f"pad_token_id, eos_token_id and unk_token_id are {special}; they must be three of 0 to "
                f"{self.vocab_size - 1}"
            )


__all__ = ["TextVAEConfig"]
