"""
What is generated with an adapter is what `forward` with the adapter says, token by token, and not what the base says:
all methods on all kinds of base, greedy, with beams and sampled.
"""

import copy
import inspect

import pytest
import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    CTRLConfig,
    CTRLLMHeadModel,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    GPT2Config,
    GPT2LMHeadModel,
    LEDConfig,
    LEDForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PegasusConfig,
    PegasusForConditionalGeneration,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5ForConditionalGeneration,
)

from hwzoo import hub, text
from hwzoo.errors import HwzooError, UsageError

# PEFT counts the positions of a causal model itself: right, as nothing is padded.
pytestmark = pytest.mark.filterwarnings("ignore:Position ids are not supported")

IDS = {"vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2}
ENDLESS = {"decoder_start_token_id": 2, "forced_eos_token_id": None, "max_position_embeddings": 32}


def bert(**changes) -> dict:
    dropout = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
    sizes = {"hidden_size": 16, "intermediate_size": 16, "max_position_embeddings": 32}
    return BertConfig(**IDS, **sizes, **dropout, **changes).to_dict()


# As deep in the decoder as not in the encoder, where there is one; in Llama two heads share their keys and values. In
# the last three PEFT does not know what LoRA is to change; the other methods are the same for them.
BASES = {
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(**IDS, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=3, num_decoder_layers=2,
                 decoder_start_token_id=0, dropout_rate=0.0)
    ),
    "bart": lambda: BartForConditionalGeneration(
        BartConfig(**IDS, **ENDLESS, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
                   decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, dropout=0.0)
    ),
    "gpt2": lambda: GPT2LMHeadModel(GPT2Config(**IDS, n_embd=16, n_layer=2, n_head=2, n_positions=32)),
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(**IDS, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
                    num_key_value_heads=2, max_position_embeddings=32)
    ),
    "bert2bert": lambda: EncoderDecoderModel(
        EncoderDecoderConfig(
            encoder=bert(num_hidden_layers=3, num_attention_heads=4),
            decoder=bert(num_hidden_layers=2, num_attention_heads=2, is_decoder=True, add_cross_attention=True),
            **IDS, decoder_start_token_id=2,
        )
    ),
    "pegasus": lambda: PegasusForConditionalGeneration(
        PegasusConfig(**IDS, **ENDLESS, d_model=16, encoder_layers=3, decoder_layers=2, encoder_attention_heads=4,
                      decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, dropout=0.0)
    ),
    "umt5": lambda: UMT5ForConditionalGeneration(
        UMT5Config(**IDS, d_model=16, d_ff=16, d_kv=8, num_heads=2, num_layers=3, num_decoder_layers=2,
                   decoder_start_token_id=0, dropout_rate=0.0)
    ),
    "phi3": lambda: Phi3ForCausalLM(
        Phi3Config(**IDS, hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=4,
                   num_key_value_heads=2, max_position_embeddings=32, original_max_position_embeddings=32)
    ),
}  # fmt: skip
OF_UNKNOWN_LAYERS = ("pegasus", "umt5", "phi3")
PAIRS = [
    (kind, method) for kind in BASES for method in text.PEFT_METHODS
    if method == "lora" or kind not in OF_UNKNOWN_LAYERS
]  # fmt: skip
SOURCES = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
STEPS, BEAMS, SEED = 7, 3, 4
DECODING = {
    "greedy": {"do_sample": False, "num_beams": 1},
    "beams": {"do_sample": False, "num_beams": BEAMS, "length_penalty": 0.0},
    "sampling": {"do_sample": True, "num_beams": 1, "top_k": 0},
}


def base_of(kind: str):
    """With weights so large that what is read decides what is written."""
    torch.manual_seed(0)
    model = BASES[kind]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def adapted(kind: str, method: str):
    """With an adapter whose weights, LoRA's zeros too, make a difference."""
    model = text.add_adapter(base_of(kind), method, num_virtual_tokens=3, lora_rank=2)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(2 * torch.randn_like(parameter))
    return model.eval()


def generated(model, decoding: str = "greedy", **kwargs) -> torch.Tensor:
    """Exactly STEPS new ids for each source."""
    torch.manual_seed(SEED)
    inputs = {"input_ids": SOURCES, "attention_mask": torch.ones_like(SOURCES)}
    ids = model.generate(**inputs, max_new_tokens=STEPS, min_new_tokens=STEPS, **DECODING[decoding], **kwargs)
    return ids[:, -STEPS:]


@torch.no_grad()
def log_probabilities(model, sources: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Of the token after `ids`, by a pass over all of them, without a cache; never the end."""
    mask = torch.ones_like(sources)
    if model.config.is_encoder_decoder:
        start = torch.full((len(ids), 1), model.config.decoder_start_token_id)
        inputs = {"input_ids": sources, "attention_mask": mask, "decoder_input_ids": torch.cat([start, ids], 1)}
    else:
        whole = torch.cat([sources, ids], 1)
        inputs = {"input_ids": whole, "attention_mask": torch.ones_like(whole)}
    scores = model(**inputs).logits[:, -1].log_softmax(-1)
    scores[:, IDS["eos_token_id"]] = -torch.inf
    return scores


def expected(model, decoding: str) -> torch.Tensor:
    if decoding == "beams":
        return torch.cat([best_beam(model, source[None]) for source in SOURCES])
    torch.manual_seed(SEED)
    ids = SOURCES[:, :0]
    for _ in range(STEPS):
        scores = log_probabilities(model, SOURCES, ids)
        new = scores.argmax(-1, keepdim=True) if decoding == "greedy" else torch.multinomial(scores.softmax(-1), 1)
        ids = torch.cat([ids, new], 1)
    return ids


def best_beam(model, source: torch.Tensor) -> torch.Tensor:
    beams, totals = source[:, :0], torch.zeros(1, 1)
    for _ in range(STEPS):
        totals = totals + log_probabilities(model, source.repeat(len(beams), 1), beams)
        values, indices = totals.flatten().topk(BEAMS)
        came_from, new = indices // totals.shape[1], indices % totals.shape[1]
        beams, totals = torch.cat([beams[came_from], new[:, None]], 1), values[:, None]
    return beams[:1]


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_what_is_generated_is_what_forward_says(kind, method, decoding):
    model = adapted(kind, method)
    ids = generated(model, decoding)
    assert torch.equal(ids, expected(model, decoding))
    assert not torch.equal(ids, generated(base_of(kind), decoding))
    assert torch.equal(ids, generated(model, decoding))  # and again: nothing of the first time is left
    with model.disable_adapter():
        assert torch.equal(generated(model.get_base_model(), decoding), generated(base_of(kind), decoding))


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_a_copy_and_a_saved_one_generate_the_same(kind, method, tmp_path):
    model = adapted(kind, method)
    ids = generated(model)
    again = copy.deepcopy(model)
    assert torch.equal(generated(again), ids)
    for parameter in model.parameters():
        parameter.data.zero_()
    assert torch.equal(generated(again), ids)  # nothing of it is the first one's
    base_of(kind).save_pretrained(tmp_path / "base")
    again.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    again.save_pretrained(tmp_path / "adapter")
    if model.config.is_encoder_decoder:
        loaded = text.load_seq2seq(str(tmp_path / "adapter"), hub.load, trainable=False)
    else:
        loaded = text.follow_cache_name(PeftModel.from_pretrained(base_of(kind), tmp_path / "adapter"))
    assert torch.equal(generated(loaded.eval()), ids)


def deep_t5():
    """Whose decoder is deeper than its encoder: transformers' cache is too short for it."""
    sizes = {"d_model": 16, "d_ff": 16, "d_kv": 8, "num_heads": 2, "num_layers": 1, "num_decoder_layers": 3}
    return T5ForConditionalGeneration(T5Config(**IDS, **sizes, decoder_start_token_id=0, dropout_rate=0.0))


@pytest.mark.parametrize("decoding", DECODING)
@pytest.mark.parametrize("method", [None, "prompt_tuning", "p_tuning", "lora"])
def test_a_decoder_deeper_than_its_encoder_generates_without_a_cache(method, decoding, monkeypatch):
    monkeypatch.setitem(BASES, "deep_t5", deep_t5)
    model = adapted("deep_t5", method) if method else base_of("deep_t5")
    text.check_adapter_acts(model)
    right = expected(model, decoding)
    with text.models.plain_generation(model):
        assert torch.equal(generated(model, decoding), right)
    config = text.generation_config(model, STEPS)
    assert torch.equal(generated(model, decoding), right)
    assert config.use_cache is False and "cache" not in text.describe(config)
    assert text.generation_config(base_of("t5"), STEPS).use_cache is not False


def test_a_prefix_before_a_decoder_deeper_than_its_encoder_is_refused():
    told = "^--peft_method is prefix_tuning; a decoder of 3 layers on an encoder of 1 does not generate with it: "
    with pytest.raises(UsageError, match=told):
        text.add_adapter(deep_t5(), "prefix_tuning")


def test_lora_changes_the_queries_and_values_of_a_kind_that_peft_does_not_know():
    layers, attentions, rank, width = ("q_proj", "v_proj"), 3 + 2 * 2, 2, 16
    model = text.add_adapter(BASES["pegasus"](), "lora", lora_rank=rank)
    assert text.count_trainable(model) == attentions * len(layers) * 2 * rank * width
    trained = {name.split(".lora_")[0].split(".")[-1] for name, each in model.named_parameters() if each.requires_grad}
    assert trained == set(layers)
    # Phi-3 has one layer for 4 heads of queries, 2 of keys and 2 of values.
    model = text.add_adapter(BASES["phi3"](), "lora", lora_rank=rank)
    assert text.count_trainable(model) == 2 * rank * (width + (4 + 2 + 2) * 4)


def test_lora_changes_encoder_and_decoder_whose_layers_have_different_names():
    sizes = {"encoder_layers": 3, "decoder_layers": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "attention_window": 4}
    positions = {"max_encoder_position_embeddings": 16, "max_decoder_position_embeddings": 16}
    base = LEDForConditionalGeneration(LEDConfig(**IDS, d_model=16, **sizes, **heads, **positions))
    model = text.add_adapter(base, "lora", lora_rank=2)
    assert text.count_trainable(model) == (3 + 2 * 2) * 2 * 2 * 2 * 16
    trained = [name for name, each in model.named_parameters() if each.requires_grad]
    assert {name.split(".layers.")[0].split(".")[-1] for name in trained} == {"encoder", "decoder"}


@pytest.mark.parametrize("settings", [{}, {"prompt_tuning_init": "vocab"}], ids=["random", "vocab"])
@pytest.mark.parametrize("method", ["prompt_tuning", "p_tuning"])
def test_a_prompt_is_as_wide_as_the_embeddings_of_words(method, settings):
    """Which in an OPT may be narrower than the model."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "word_embed_proj_dim": 8, "ffn_dim": 16, "num_hidden_layers": 2}
    config = OPTConfig(**IDS, **sizes, num_attention_heads=2, max_position_embeddings=32, dropout=0.0)
    model = text.add_adapter(OPTForCausalLM(config), method, num_virtual_tokens=3, **settings)
    text.check_adapter_acts(model)
    network = 8 * 16 + 16 + 16 * 16 + 16 + 16 * 8 + 8 if method == "p_tuning" else 0
    assert text.count_trainable(model) == 3 * 8 + network
    assert generated(model.eval()).shape == (len(SOURCES), STEPS)


def test_lora_for_layers_of_no_known_name_is_refused():
    model = CTRLLMHeadModel(CTRLConfig(vocab_size=8, n_positions=4, n_embd=4, dff=4, n_layer=1, n_head=1))
    told = "^--peft_method is lora; which layers of a ctrl give its queries and values is not known: another"
    with pytest.raises(UsageError, match=told):
        text.add_adapter(model, "lora")


@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_a_peft_that_writes_the_cache_by_its_own_name_is_left_alone(kind, monkeypatch):
    model = adapted(kind, "prefix_tuning")
    name = "cache" if "cache" in inspect.signature(base_of(kind).forward).parameters else "past_key_values"

    def prepare(self, *args, **kwargs):
        """As PEFT's, for a prefix, a batch without padding and one name."""
        inputs = self.base_model_prepare_inputs_for_generation(*args, **kwargs)
        cache = inputs.get(name)
        if cache is None or not cache.get_seq_length():
            inputs[name] = self.get_prompt(len(SOURCES))
        if not self.config.is_encoder_decoder:
            inputs |= {"attention_mask": None, "position_ids": None}
        return inputs

    ids = generated(model)
    monkeypatch.setattr(type(model), "prepare_inputs_for_generation", prepare)
    assert torch.equal(generated(model), ids)


@pytest.mark.parametrize(("kind", "method"), PAIRS)
def test_an_adapter_that_acts_passes_and_is_left_as_it_was(kind, method):
    model = text.add_adapter(BASES[kind](), method, num_virtual_tokens=3, lora_rank=2).train()
    weights = {name: each.clone() for name, each in model.state_dict().items()}
    ids = generated(copy.deepcopy(model).eval())
    torch.manual_seed(3)
    text.check_adapter_acts(model)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3)) and model.training
    assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
    assert torch.equal(generated(model.eval()), ids)
    text.check_adapter_acts(model.get_base_model())  # no adapter: nothing to check


@pytest.mark.parametrize("method", text.PEFT_METHODS)
@pytest.mark.parametrize("kind", ["t5", "gpt2"])
def test_an_adapter_without_effect_is_told(kind, method):
    model = adapted(kind, method)
    if method == "lora":
        for module in model.modules():
            if isinstance(module, LoraLayer):
                module.scaling["default"] = 0.0
    else:
        model.generate = model.base_model.generate
    name = type(model.get_base_model()).__name__
    with pytest.raises(HwzooError, match=f"^an adapter of {method} has no effect on what {name} generates") as told:
        text.check_adapter_acts(model)
    assert "\n" not in str(told.value)
