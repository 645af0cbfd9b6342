"""What transformers 5.24 renamed, and PEFT 0.21 still calls by its old name: the key-value cache of a decoder."""

import inspect
from types import MethodType

from torch import nn

OLD, NEW = "past_key_values", "cache"


def follow_cache_name(model: nn.Module) -> nn.Module:
    """
    Lets a `peft.PeftModel` of prompts or a prefix generate with a base that calls its key-value cache `cache`.

    PEFT reads and writes `past_key_values`. Where the base takes `cache` beside it, or knows that name alone,
    `generate` would ignore a prefix, and put a causal model's virtual tokens in again at every step. The model shows
    PEFT its cache by both names and takes over whichever PEFT sets: nothing changes once PEFT writes `cache` itself,
    nor for a base that knows the old name alone.

    Args:
        model: as `peft.get_peft_model` and `from_pretrained` give it; changed in place.

    Returns:
        The model. Another model, and an adapter of weights (LoRA), as it came.
    """
    adapter = getattr(model, "active_peft_config", None)
    prepare = getattr(model, "base_model_prepare_inputs_for_generation", None)
    if prepare is None or not adapter.is_prompt_learning or NEW not in inspect.signature(prepare).parameters:
        return model
    model.prepare_inputs_for_generation = MethodType(_prepare_inputs_for_generation, model)
    model.get_base_model().register_forward_pre_hook(_rename, with_kwargs=True)
    return model


def _prepare_inputs_for_generation(self, *args, **kwargs) -> dict:
    """PEFT's own, on what the base prepares with its cache under both names."""
    base_prepare, caches = self.base_model_prepare_inputs_for_generation, []

    def prepare(*args, **kwargs) -> dict:
        inputs = base_prepare(*args, **kwargs)
        caches.append(inputs.get(NEW))
        return inputs | {OLD: caches[-1]}

    self.base_model_prepare_inputs_for_generation = prepare
    try:
        inputs = type(self).prepare_inputs_for_generation(self, *args, **kwargs)
    finally:
        self.base_model_prepare_inputs_for_generation = base_prepare
    if (cache := inputs.pop(OLD, None)) is not caches[-1]:
        inputs[NEW] = cache
    return inputs


def _rename(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
    """Before `forward`, to which PEFT gives a prefix by the old name."""
    if OLD in kwargs:
        kwargs = {name: value for name, value in kwargs.items() if name != OLD} | {NEW: kwargs[OLD]}
    return args, kwargs
