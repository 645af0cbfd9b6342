"""What temperature, top-k and top-p do to a law, and the tests of draws from it."""

import math
import random

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from hwzoo import text
from hwzoo.errors import UsageError
from hwzoo.text import sampling

LOGITS = torch.tensor([2.0, 0.5, -1.0, 0.0, -3.0])


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.5, 2.0])
def test_the_law_is_p_to_the_power_of_one_over_t(temperature):
    powers = LOGITS.double().softmax(0) ** (1 / temperature)
    assert torch.allclose(sampling.tempered(LOGITS, temperature), powers / powers.sum(), atol=1e-12)


def test_greedy_is_the_limit_and_uniform_the_other():
    assert sampling.tempered(LOGITS, 0).tolist() == [1, 0, 0, 0, 0]
    assert torch.allclose(sampling.tempered(LOGITS, 0.01), sampling.tempered(LOGITS, 0), atol=1e-12)
    assert torch.allclose(sampling.tempered(LOGITS, 1e6), torch.full((5,), 0.2).double(), atol=1e-5)
    with pytest.raises(ValueError, match="temperature is -1"):
        sampling.tempered(LOGITS, -1)


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"), [(1.0, 2, 1.0), (0.5, 0, 0.9), (2.0, 4, 0.6), (1.0, 0, 0.1)]
)
def test_what_is_cut_is_what_the_library_cuts(temperature, top_k, top_p):
    scores = TemperatureLogitsWarper(temperature)(None, LOGITS[None])
    if top_k:
        scores = TopKLogitsWarper(top_k)(None, scores)
    if top_p < 1:
        scores = TopPLogitsWarper(top_p)(None, scores)
    assert torch.allclose(
        sampling.tempered(LOGITS, temperature, top_k, top_p), scores[0].double().softmax(0), atol=1e-6
    )


def test_a_top_p_of_one_cuts_nothing():
    law = sampling.tempered(5 * torch.randn(384, generator=torch.Generator().manual_seed(4)), 0.3)
    assert (law > 0).all() and law.sum().item() == pytest.approx(1)


def test_the_entropy():
    assert sampling.entropy(torch.full((8,), 1 / 8)) == pytest.approx(math.log(8))
    assert sampling.entropy(torch.tensor([1.0, 0.0])) == 0
    rising = [sampling.entropy(sampling.tempered(LOGITS, each)) for each in (0, 0.3, 0.7, 1, 1.5, 2)]
    assert rising == sorted(rising) and rising[0] == 0


def test_chi_square_is_that_of_scipy_and_pools_what_is_rare():
    counts, law = torch.tensor([30, 50, 20]), torch.tensor([0.25, 0.5, 0.25])
    found, truth = sampling.chi_square(counts, law), chisquare([30, 50, 20], [25, 50, 25])
    assert found["statistic"] == pytest.approx(truth.statistic) and found["degrees_of_freedom"] == 2
    assert found["p_value"] == pytest.approx(truth.pvalue)
    # 4 + 2 expected draws of the two rare ones are a cell
    pooled = sampling.chi_square(torch.tensor([60, 34, 2, 4]), torch.tensor([0.6, 0.34, 0.04, 0.02]))
    truth = chisquare([60, 34, 6], [60, 34, 6])
    assert pooled["degrees_of_freedom"] == 2 and pooled["p_value"] == pytest.approx(truth.pvalue)
    # 2 alone are too few, and pooled with the next
    pooled = sampling.chi_square(torch.tensor([58, 38, 4]), torch.tensor([0.6, 0.38, 0.02]))
    assert pooled["degrees_of_freedom"] == 1 and pooled["p_value"] == pytest.approx(
        chisquare([58, 42], [60, 40]).pvalue
    )
    assert sampling.chi_square(torch.tensor([9, 1]), torch.tensor([1.0, 0.0]))["p_value"] == 0
    assert sampling.chi_square(torch.tensor([9, 0]), torch.tensor([1.0, 0.0]))["p_value"] == 1
    # Nine draws of two cells leave one cell, which tests nothing.
    few = sampling.chi_square(torch.tensor([9, 0]), torch.tensor([0.5, 0.5]))
    assert few == {"statistic": 0.0, "degrees_of_freedom": 0, "p_value": None}
    assert (sampling.p_of(few), sampling.p_of({"p_value": 0.0123456})) == ("too few draws", "0.0123")


def test_uniform_p_values_under_the_law():
    """Of 400 tests of true draws about 5 % reject."""
    generator = torch.Generator().manual_seed(0)
    law = sampling.tempered(LOGITS, 1)
    draws = torch.multinomial(law, 400 * 500, replacement=True, generator=generator).view(400, 500)
    rejected = sum(sampling.chi_square(torch.bincount(row, minlength=5), law)["p_value"] < 0.05 for row in draws)
    assert 6 <= rejected <= 36  # 20, standard deviation 4.4


@pytest.fixture(scope="module")
def base():
    torch.manual_seed(0)
    model, tokenizer = text.new_base("causal", 16, 1)
    model.lm_head.weight.data.mul_(6)  # far from uniform
    return model, tokenizer


@pytest.mark.parametrize("way", [{"temperature": 0.7, "top_k": 0}, {"temperature": 2.0, "top_k": 0, "top_p": 0.8}])
def test_generate_draws_from_that_law(base, way):
    law, counts, row = sampling.sampled_law(*base, "one ", 5000, way, seed=3)
    assert law.shape == counts.shape == (384,) and law.sum().item() == pytest.approx(1) and counts.sum() == 5000
    assert row["chi_square"]["p_value"] > 0.001 and row["chi_square"]["degrees_of_freedom"] > 3
    if "top_p" in way:
        assert 0.1 < row["cut_mass"] <= 0.2 and row["chi_square_uncut"]["p_value"] < 1e-6
    else:
        assert row["cut_mass"] == 0 and row["chi_square_uncut"] == row["chi_square"] and row["kept_tokens"] == 384


def test_what_a_model_asks_for_itself_is_no_part_of_the_law(base):
    model, own = base[0], base[0].generation_config

    def answer():
        return text.generate_answers(*base, ["one"], max_new_tokens=5, batch_size=1)

    given = {"top_p": 0.5, "top_k": 5, "temperature": 3.0, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}
    model.generation_config = GenerationConfig(**own.to_dict() | given)
    asked = model.generation_config
    try:
        ways = {"temperature": 1.0}, {"temperature": 0.0}
        rows = [sampling.sampled_law(*base, "one ", 5000, way, seed=0)[2] for way in ways]
        answers = answer()
        assert model.generation_config is asked
    finally:
        model.generation_config = own
    assert rows[0]["kept_tokens"] == 50 and rows[0]["chi_square"]["p_value"] > 0.001
    assert rows[1]["most_drawn"] == 1 and answers == answer()


def test_draws_end_where_the_positions_do(base):
    model, tokenizer = base
    most = model.config.max_position_embeddings
    drawn = sampling.draw(*base, "a" * (most - 3), 2, max_new_tokens=9, do_sample=True, top_k=0)
    assert drawn.shape == (2, 9) and (drawn[:, 4:] == tokenizer.eos_token_id).all()  # of four the last is not read
    assert (drawn[:, 3] != tokenizer.eos_token_id).any()
    sampling.check_prompts(*base, prompt="a" * most)
    full = sampling.draw(*base, "a" * most, 9, max_new_tokens=5, do_sample=True, top_k=0)
    assert full.shape == (9, 5) and len(full[:, 0].unique()) > 1


def test_a_context_beyond_positions_that_are_stated_only():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    config = LlamaConfig(vocab_size=384, eos_token_id=1, pad_token_id=0, max_position_embeddings=4, **sizes)
    given = LlamaForCausalLM(config), text.new_tokenizer(None, None, [])
    sampling.check_prompts(*given, prompt="abcdef")
    assert sampling.draw(*given, "abcdef", 3, max_new_tokens=2, do_sample=True).shape == (3, 2)


def test_a_prompt_that_is_too_long_is_told_by_its_flag(base):
    most = base[0].config.max_position_embeddings
    told = f"^--digits_prompt \\({most + 1} tokens\\): {most + 1} positions are needed, the model has {most}$"
    with pytest.raises(UsageError, match=told):
        sampling.check_prompts(*base, prompt="a", digits_prompt="a" * (most + 1))


def test_the_library_keeps_fifty_tokens_where_nothing_is_said(base):
    _, counts, row = sampling.sampled_law(*base, "one ", 5000, {"temperature": 2.0}, seed=0)
    assert row["kept_tokens"] == 50 and (counts > 0).sum() <= 50
    assert row["cut_mass"] > 0.1 and row["chi_square_uncut"]["p_value"] < 1e-6 < row["chi_square"]["p_value"]


def test_greedy_draws_are_all_the_most_probable_token(base):
    law, counts, row = sampling.sampled_law(*base, "one ", 300, {"temperature": 0.0, "top_k": 0}, seed=0)
    assert counts[law.argmax()] == 300 and row["most_drawn"] == row["most_probable"] == 1 and row["entropy"] == 0


def test_draws_leave_the_random_state(base):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = sampling.draw(*base, "a", 7, max_new_tokens=3, seed=1, batch_size=4, do_sample=True, top_k=0)
    assert first.shape == (7, 3) and torch.equal(torch.rand(1), expected)
    again = sampling.draw(*base, "a", 7, max_new_tokens=3, seed=1, batch_size=4, do_sample=True, top_k=0)
    other = sampling.draw(*base, "a", 7, max_new_tokens=3, seed=2, batch_size=4, do_sample=True, top_k=0)
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_law_of_digits():
    law = sampling.biased_digits()
    assert torch.allclose(law.stationary @ law.transition, law.stationary)
    assert law.stationary.sum().item() == pytest.approx(1)
    assert law.stationary.argmax() == 7 and law.stationary.argmin() == 0 and law.repeats < 0.05
    draw = random.Random(0)
    lists = [sampling.digits_of(law.line(100, draw), 100) for _ in range(200)]
    assert {len(each) for each in lists} == {100}
    found = sampling.digit_tests(lists)
    assert found["num_digits"] == 20_000
    assert torch.allclose(torch.tensor(found["shares"]).double(), law.stationary, atol=0.012)
    assert found["repeats"]["share"] == pytest.approx(law.repeats, abs=0.005)
    assert max(found[name]["p_value"] for name in ("digits", "pairs", "repeats")) < 1e-6
    assert found["digits_rejected"] > 0.25 and found["repeats_rejected"] > 0.5


def test_uniform_digits_are_not_rejected_but_by_chance():
    draw = random.Random(1)
    found = sampling.digit_tests([draw.choices(range(10), k=100) for _ in range(200)])
    assert min(found[name]["p_value"] for name in ("digits", "pairs", "repeats")) > 0.01
    assert found["digits_rejected"] < 0.12 and found["repeats_rejected"] < 0.12
    assert found["pairs"]["degrees_of_freedom"] == 99 and found["digits"]["degrees_of_freedom"] == 9


def test_exactly_five_expected_draws_are_enough():
    found = sampling.digit_tests([random.Random(2).choices(range(10), k=100) for _ in range(10)])  # 500 of 100 pairs
    assert found["pairs"]["degrees_of_freedom"] == 99


def test_repeats_alone_tell_a_sequence_whose_counts_are_perfect():
    found = sampling.digit_tests([list(range(10)) * 10 for _ in range(20)])
    assert found["digits"]["p_value"] == pytest.approx(1) and found["repeats"]["share"] == 0
    assert found["repeats"]["p_value"] < 1e-9 and found["pairs"]["p_value"] < 1e-9


def test_lists_too_short_for_a_test_are_not_counted_as_passed():
    sevens = [7] * 40
    found = sampling.digit_tests([sevens] * 3)
    assert found["digits_rejected"] is None and found["repeats_rejected"] is None
    found = sampling.digit_tests([sevens, [7] * 60])
    assert found["digits_rejected"] == 1 and found["repeats_rejected"] == 1


def test_the_first_token_is_drawn_whatever_a_model_forces():
    """As BART forces its end onto the last token, which of one new token is all."""
    torch.manual_seed(0)
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    way = sampling.of_generate({"temperature": 1.0, "top_k": 0})
    free = sampling.draw(model, tokenizer, "one ", 20, **way)
    model.generation_config.forced_eos_token_id = model.config.eos_token_id
    assert torch.equal(sampling.draw(model, tokenizer, "one ", 20, **way), free)
    assert (free[:, 0] != model.config.eos_token_id).any()


@pytest.mark.parametrize(
    ("written", "digits"),
    [(" 4719", [4, 7, 1, 9]), ("sure:\n4, 7\n1", [4, 7]), ("42 ¾ ٣", [4, 2]), ("", []), ("123456", [1, 2, 3, 4, 5])],
)
def test_the_digits_of_what_is_written(written, digits):
    assert sampling.digits_of(written, 5) == digits


def test_scores_of_lists_and_those_too_short():
    scores, short = sampling.digit_scores(["01234567890123456789", "no", "12"], 100, torch.full((10,), -3.0))
    assert scores["num_lists"] == 1 and scores["num_digits"] == 20 and short == ["no", "12"]
    assert scores["first_token"] == pytest.approx([0.1] * 10) and scores["first_token_mass"] == pytest.approx(
        10 * math.exp(-3)
    )
    scores, short = sampling.digit_scores(["no"], 100, torch.full((10,), -3.0))
    assert scores["num_lists"] == 0 and "shares" not in scores and short == ["no"]


def test_an_encoder_decoder_is_asked_too():
    torch.manual_seed(0)
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    law, counts, row = sampling.sampled_law(model, tokenizer, "one ", 1000, {"temperature": 1.0, "top_k": 0}, 0)
    assert row["chi_square"]["p_value"] > 0.001 and law.sum().item() == pytest.approx(1) and counts.sum() == 1000


def test_digits_that_begin_an_answer_do_not_have_to_end_it():
    torch.manual_seed(0)
    model, tokenizer = text.new_base("seq2seq", 16, 1)
    digits = [str(digit) for digit in range(10)]
    first = text.score_labels(model, tokenizer, ["digits:"], digits, end=False)
    law = text.prompts.next_token_logits(model, tokenizer, "digits:").softmax(-1)
    assert torch.allclose(first.log_probs[0].exp(), law[tokenizer.convert_tokens_to_ids(digits)], rtol=1e-4)
    assert first.num_tokens.tolist() == [[1] * 10]
    # Nor is what a tokenizer puts behind the end, as mBART's a language.
    tokenizer._add_eos_if_not_present = lambda ids: [*ids, tokenizer.eos_token_id, 7]
    assert torch.equal(
        text.score_labels(model, tokenizer, ["digits:"], digits, end=False).num_tokens, first.num_tokens
    )


def test_first_tokens_are_those_of_the_logits():
    torch.manual_seed(0)
    model, tokenizer = (
        GPT2LMHeadModel(GPT2Config(vocab_size=384, n_embd=8, n_layer=1, n_head=2)),
        text.new_base("causal", 16, 1)[1],
    )
    law = text.prompts.next_token_logits(model, tokenizer, "x").softmax(0)
    (token, share), *_ = text.first_token_probabilities(model, tokenizer, "x", 2)
    assert share == pytest.approx(law.max().item()) and tokenizer.convert_tokens_to_ids(token) == law.argmax()


def test_an_answer_is_right_whatever_blanks_its_reference_ends_with(monkeypatch):
    monkeypatch.setattr(sampling, "generate_answers", lambda *args, **kwargs: ["foxes", "foxs"])
    asked = [text.Example("fox", "foxes ", ("foxes ",), "", "fox")] * 2
    (wrong,) = sampling.wrong_answers(None, None, asked, "{text}", {"temperature": 0}, 0)
    assert wrong["prediction"] == "foxs"
