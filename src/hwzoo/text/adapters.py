"""Parameter-efficient training of a frozen sequence-to-sequence or causal model, by PEFT's own classes."""

import math
import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..errors import HwzooError, UsageError
from .cache_names import follow_cache_name
from .models import cache_is_too_short, plain_generation

PEFT_METHODS = ("prompt_tuning", "prefix_tuning", "p_tuning", "lora")
PROMPT_INITS = ("random", "text", "vocab")
# What layers of queries and values are called in transformers, or of both and the keys in one.
QUERIES_AND_VALUES = (("q_proj", "v_proj"), ("q", "v"), ("query", "value"), ("qkv_proj",))


def add_adapter(
    model: PreTrainedModel,
    method: str,
    *,
    num_virtual_tokens: int = 20,
    prompt_tuning_init: str = "random",
    prompt_tuning_init_text: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    lora_rank: int = 8,
):
    """
    Freezes a model and puts a trainable adapter on it.

    Args:
        model: the base, sequence-to-sequence or causal; its `name_or_path` is what the adapter will name.
        method: `prompt_tuning` (Lester et al., arXiv:2104.08691: embeddings before those of the source),
            `prefix_tuning` (Li and Liang, arXiv:2101.00190: keys and values before those of each layer of the decoder,
            without their network), `p_tuning` (Liu et al., arXiv:2103.10385: embeddings that a small network makes),
            `lora` (Hu et al., arXiv:2106.09685: updates of low rank to the queries and values).
        num_virtual_tokens: of the first three.
        prompt_tuning_init: of `prompt_tuning`: `random` (standard normal), `vocab` (the embeddings of tokens drawn
            from the vocabulary), `text` (those of the tokens of `prompt_tuning_init_text`, from the first again when
            they are too few).
        prompt_tuning_init_text: in words, for `text`.
        tokenizer: for `text`.
        lora_rank: of `lora`; the update is scaled by 2, whatever the rank.

    Returns:
        A `peft.PeftModel`.

    Raises:
        UsageError: for an unknown method or initialisation, `text` without a text or tokenizer, `lora` for a kind of
            model whose queries and values are not known, or `prefix_tuning` for a T5 whose decoder is deeper than its
            encoder.
    """
    import peft

    config = model.config
    kind = peft.TaskType.SEQ_2_SEQ_LM if config.is_encoder_decoder else peft.TaskType.CAUSAL_LM
    task: dict[str, Any] = {"task_type": kind}
    prompt = task | {"num_virtual_tokens": num_virtual_tokens}
    # One set of embeddings, for the encoder: PEFT's second one, for the decoder, never gets a gradient. As wide as
    # those of words, which some OPTs widen only behind them; PEFT would take the model's width.
    embeddings = prompt | {"num_transformer_submodules": 1, "token_dim": model.get_input_embeddings().weight.shape[1]}
    # PEFT asks for these whatever the method, and finds none in an EncoderDecoderModel's two configurations.
    sizes = getattr(config, "decoder", config)
    embeddings |= {
        "num_layers": getattr(sizes, "num_hidden_layers", None),
        "num_attention_heads": getattr(sizes, "num_attention_heads", None),
    }
    if method == "lora":
        modules = _queries_and_values(model)
        adapter = peft.LoraConfig(**task, r=lora_rank, lora_alpha=2 * lora_rank, target_modules=modules)
    elif method == "prompt_tuning":
        ids = _initial_tokens(prompt_tuning_init, prompt_tuning_init_text, tokenizer, num_virtual_tokens, model)
        adapter = peft.PromptTuningConfig(**embeddings)
    elif method == "p_tuning":
        adapter = peft.PromptEncoderConfig(**embeddings, encoder_hidden_size=sizes.hidden_size)
    elif method == "prefix_tuning":
        if cache_is_too_short(config):  # and without a cache a prefix is lost behind the first token
            depths = f"a decoder of {config.num_decoder_layers} layers on an encoder of {config.num_hidden_layers}"
            raise UsageError(f"--peft_method is prefix_tuning; {depths} does not generate with it: another may do")
        # PEFT would take the encoder's number of layers, and the width of the model for that of its heads together.
        heads = getattr(sizes, "decoder_attention_heads", None) or sizes.num_attention_heads
        width = getattr(sizes, "d_kv", sizes.hidden_size // heads)
        layers = getattr(sizes, "num_decoder_layers", None) or getattr(sizes, "decoder_layers", None)
        adapter = peft.PrefixTuningConfig(
            **prompt, num_layers=layers or sizes.num_hidden_layers, num_attention_heads=heads, token_dim=heads * width
        )
    else:
        raise UsageError(f"--peft_method is {method}; it must be none or one of {', '.join(PEFT_METHODS)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what PEFT itself does with deprecated names, and with GPT-2's layers
        wrapped = follow_cache_name(peft.get_peft_model(model, adapter))
    if method == "prompt_tuning" and ids is not None:
        # Ours, as PEFT would load a tokenizer by name for this, and again wherever the adapter is loaded.
        with torch.no_grad():
            wrapped.prompt_encoder[wrapped.active_adapter].embedding.weight.copy_(model.get_input_embeddings()(ids))
    return wrapped


@torch.no_grad()
def check_adapter_acts(model: nn.Module):
    """
    Generates one token with random numbers in place of an adapter's weights and one without the adapter: what is
    trained would be of no use where they are equally probable. Model and global random state stay as they were.

    Args:
        model: with an adapter; one without is fine.

    Raises:
        HwzooError: when the adapter changes nothing.
    """
    if not hasattr(model, "active_peft_config"):
        return
    name, training = model.active_adapter, model.training
    weights = [weight for full, weight in model.named_parameters() if name in full.split(".")]
    kept = [weight.clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    token = model.config.eos_token_id
    # Each id once, as a list of them may end a text.
    input_ids = torch.tensor([[token[0] if isinstance(token, list) else token or 0]], device=model.device)
    settings = {"max_new_tokens": 1, "do_sample": False, "num_beams": 1}
    settings |= {"output_logits": True, "return_dict_in_generate": True}

    def logits(network: nn.Module) -> torch.Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        with plain_generation(network):  # its own configuration may ask for several texts, say
            return network.generate(**inputs, **settings).logits[0]

    model.eval()
    try:
        for weight in weights:
            weight.copy_(torch.randn(weight.shape, generator=generator))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Position ids are not supported")  # PEFT counts them itself
            with_adapter = logits(model)
            with model.disable_adapter():
                without = logits(model.get_base_model())
    finally:
        for weight, before in zip(weights, kept, strict=True):
            weight.copy_(before)
        model.train(training)
    if torch.allclose(with_adapter, without, rtol=1e-4, atol=1e-5):
        kind = model.active_peft_config.peft_type.value.lower()
        raise HwzooError(
            f"an adapter of {kind} has no effect on what {type(model.get_base_model()).__name__} generates with the "
            "installed transformers and PEFT, so that it is not trained: another --peft_method may have"
        )


def count_trainable(model: nn.Module) -> int:
    """Numbers that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _queries_and_values(model: PreTrainedModel) -> list[str] | None:
    """The names of the layers that LoRA changes; None where PEFT knows them itself, as it does for few kinds."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    kind = model.config.model_type
    if kind in KNOWN:
        return None
    layers = {name.split(".")[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    # All of them: encoders of LED and BigBirdPegasus have other names than their decoders.
    found = [name for names in QUERIES_AND_VALUES if layers.issuperset(names) for name in names]
    if not found:
        raise UsageError(
            f"--peft_method is lora; which layers of a {kind} give its queries and values is not known: another "
            "--peft_method may do"
        )
    return found


def _initial_tokens(init: str, text: str | None, tokenizer, num: int, model: PreTrainedModel) -> torch.Tensor | None:
    """Ids of the tokens whose embeddings the prompt starts with, (num,); None for random numbers."""
    if init == "random":
        return None
    embeddings = model.get_input_embeddings()
    if init == "vocab":
        return torch.randint(embeddings.num_embeddings, (num,), device=embeddings.weight.device)
    if init != "text":
        raise UsageError(f"--prompt_tuning_init is {init}; it must be one of {', '.join(PROMPT_INITS)}")
    if not text:
        raise UsageError("--prompt_tuning_init text needs --prompt_tuning_init_text")
    if tokenizer is None:
        raise UsageError("--prompt_tuning_init text needs a tokenizer, and none is given")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise UsageError(f"--prompt_tuning_init_text is {text!r}; it has no tokens")
    return torch.tensor((ids * math.ceil(num / len(ids)))[:num], device=embeddings.weight.device)
