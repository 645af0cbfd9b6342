"""Log-probabilities of labels against direct forward passes, their normalisation and calibration, and confidences."""

import pytest
import torch
from peft import PromptTuningConfig, TaskType, get_peft_model
from transformers import ByT5Tokenizer, GPT2Config, GPT2LMHeadModel

from hwzoo import text
from hwzoo.errors import UsageError
from hwzoo.text import scoring
from hwzoo.text.scoring import label_words

CONTEXTS = ["a good film", "bad", "it was neither long nor short, and I slept:"]
LABELS = ["positive", "bad", "so so"]
KINDS = text.ARCHITECTURES


@pytest.fixture(scope="module", params=KINDS)
def bytewise(request):
    """A tiny model of each kind that reads bytes, with weights large enough to tell contexts apart."""
    torch.manual_seed(0)
    model, tokenizer = text.new_base(request.param, d_model=16, num_layers=2)
    return spread(model), tokenizer


@pytest.fixture(scope="module")
def learned():
    """A tiny GPT-2 with a tokenizer of pieces of words that adds an end token to every text, as T5's does."""
    torch.manual_seed(0)
    tokenizer = text.train_tokenizer([*CONTEXTS, *LABELS], 290)
    return spread(GPT2LMHeadModel(GPT2Config(vocab_size=290, n_embd=16, n_layer=2, n_head=2))), tokenizer


def spread(model):
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


def direct_seq2seq(model, tokenizer, context: str, label: str) -> tuple[float, int]:
    """Token by token, through the decoder."""
    source = torch.tensor([tokenizer(context)["input_ids"]])
    written, total = [model.config.decoder_start_token_id], 0.0
    target = tokenizer(label)["input_ids"]
    assert target[-1] == tokenizer.eos_token_id
    for token in target:
        with torch.no_grad():
            logits = model(input_ids=source, decoder_input_ids=torch.tensor([written])).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
        written.append(token)
    return total, len(target)


def direct_causal(model, tokenizer, context: str, label: str) -> tuple[float, int]:
    read = tokenizer(context, add_special_tokens=False)["input_ids"]
    target = tokenizer(" " + label, add_special_tokens=False)["input_ids"]
    total = 0.0
    for token in target:
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([read])).logits
        total += logits[0, -1].log_softmax(-1)[token].item()
        read = [*read, token]
    return total, len(target)


def agree(model, tokenizer, scores):
    direct = direct_seq2seq if model.config.is_encoder_decoder else direct_causal
    for row, context in enumerate(CONTEXTS):
        for column, label in enumerate(LABELS):
            log_prob, num = direct(model, tokenizer, context, label)
            assert scores.log_probs[row, column].item() == pytest.approx(log_prob, rel=1e-4), (context, label)
            assert scores.num_tokens[row, column] == num


# Log-probabilities


def test_they_are_those_of_a_forward_pass(bytewise):
    agree(*bytewise, text.score_labels(*bytewise, CONTEXTS, LABELS))


def test_an_end_token_that_the_tokenizer_adds_is_no_part_of_a_causal_text(learned):
    agree(*learned, text.score_labels(*learned, CONTEXTS, LABELS))


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_neither_the_batch_nor_its_padding_matters(bytewise, batch_size):
    scores = text.score_labels(*bytewise, CONTEXTS, LABELS, batch_size=batch_size)
    alone = [text.score_labels(*bytewise, [context], LABELS).log_probs for context in CONTEXTS]
    assert torch.allclose(scores.log_probs, torch.cat(alone), rtol=1e-4)


def test_a_causal_model_gives_logits_of_no_more_than_the_labels(learned, monkeypatch):
    model, tokenizer = learned
    lengths = []
    hook = model.lm_head.register_forward_hook(lambda module, args, output: lengths.append(output.shape[1]))
    contexts, labels = ["a good film " * 20, "a good film " * 19 + "bad"], ["so", "bad"]
    scores = text.score_labels(model, tokenizer, contexts, labels)
    pairs = [(context, label) for context in contexts for label in labels]
    rows = text.encode(tokenizer, *zip(*pairs, strict=True), False, end=False)
    first = min(int((row["labels"] != -100).nonzero()[0, 0]) for row in rows)
    longest = max(len(row["labels"]) for row in rows)
    assert lengths == [longest - first + 1] and lengths[0] < 20 < first

    def older(input_ids, attention_mask):
        return GPT2LMHeadModel.forward(model, input_ids=input_ids, attention_mask=attention_mask)

    monkeypatch.setattr(model, "forward", older)
    full = text.score_labels(model, tokenizer, contexts, labels)
    hook.remove()
    assert lengths[1:] == [longest]  # it knows no such argument
    assert torch.allclose(full.log_probs, scores.log_probs, rtol=1e-5)
    assert torch.equal(full.num_tokens, scores.num_tokens)


def test_a_prompt_before_the_text_is_not_scored_itself(bytewise):
    model, tokenizer = bytewise
    seq2seq = model.config.is_encoder_decoder
    kind = TaskType.SEQ_2_SEQ_LM if seq2seq else TaskType.CAUSAL_LM
    config = PromptTuningConfig(task_type=kind, num_virtual_tokens=3, num_transformer_submodules=1)
    prompted = get_peft_model(model, config).eval()
    scores = text.score_labels(prompted, tokenizer, CONTEXTS, LABELS)
    prompt = prompted.get_prompt(1)
    for row, context in enumerate(CONTEXTS):
        encoded = text.encode(tokenizer, [context], LABELS[:1], seq2seq, end=False)[0]
        embedded = torch.cat([prompt, model.get_input_embeddings()(encoded["input_ids"][None])], 1)
        labels = encoded["labels"] if seq2seq else torch.cat([torch.full((3,), -100), encoded["labels"]])
        with torch.no_grad():
            loss = model(inputs_embeds=embedded, labels=labels[None]).loss
        mean = scores.log_probs[row, 0] / scores.num_tokens[row, 0]
        assert mean.item() == pytest.approx(-loss.item(), rel=1e-4)


def test_the_last_tokens_of_a_long_context_stay(bytewise):
    # Bytes: the question at the end is what the label answers. T5's end token is one of the tokens.
    model, tokenizer = bytewise
    seq2seq = model.config.is_encoder_decoder
    cut = text.score_labels(model, tokenizer, ["x" * 50 + "yes or no?"], LABELS, max_source_length=10 + seq2seq)
    assert torch.equal(cut.log_probs, text.score_labels(model, tokenizer, ["yes or no?"], LABELS).log_probs)


def test_an_empty_context_and_one_with_its_own_space(bytewise):
    model, tokenizer = bytewise
    assert text.score_labels(model, tokenizer, [""], LABELS).log_probs.isfinite().all()
    if not model.config.is_encoder_decoder:
        spaced, plain = (text.encode(tokenizer, [each], ["b"], False)[0] for each in ("a ", "a"))
        assert torch.equal(spaced["input_ids"], plain["input_ids"])  # no second space
        assert (spaced["labels"] != -100).sum() == 2 and (plain["labels"] != -100).sum() == 3


def test_a_label_without_tokens_is_refused(bytewise):
    for label in ("", " "):
        with pytest.raises(UsageError, match=f"the answer '{label}' has no tokens"):
            text.score_labels(*bytewise, CONTEXTS, ["good", label])


# Probabilities


def test_normalising_by_length():
    scores = text.LabelScores(torch.tensor([[-2.0, -3.0]]), torch.tensor([[1, 3]]))
    assert scores.raw()[0].tolist() == pytest.approx([0.7311, 0.2689], abs=1e-4)  # softmax of -2, -3
    assert scores.normalized()[0].tolist() == pytest.approx([0.2689, 0.7311], abs=1e-4)  # of -2, -1


def test_calibration_makes_a_biased_prior_uniform():
    prior = torch.tensor([[0.8, 0.15, 0.05]])
    assert text.calibrate(prior, prior)[0].tolist() == pytest.approx([1 / 3] * 3)
    # 0.7 is less than the 0.8 that no content gets, 0.1 is more than the 0.05.
    quotients = torch.tensor([0.7 / 0.8, 0.2 / 0.15, 0.1 / 0.05])
    calibrated = text.calibrate(torch.tensor([[0.7, 0.2, 0.1]]), prior)[0]
    assert torch.allclose(calibrated, quotients / quotients.sum()) and calibrated.argmax() == 2


def test_calibration_with_a_uniform_prior_changes_nothing_and_takes_the_mean():
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.0, 1.0, 0.0]])
    assert torch.allclose(text.calibrate(probabilities, torch.full((2, 3), 1 / 3)), probabilities)
    twice = torch.tensor([[0.9, 0.1], [0.5, 0.5]])
    assert torch.allclose(text.calibrate(twice, twice), text.calibrate(twice, torch.tensor([[0.7, 0.3]])))


def test_calibration_of_a_model_with_a_bias(bytewise):
    """Whatever a prompt without content makes of the labels, calibrated it is uniform."""
    free = text.score_labels(*bytewise, [f"{each} is" for each in text.CONTENT_FREE], LABELS).raw()
    assert free.max() > 0.9  # the labels differ in length
    assert torch.allclose(text.calibrate(free.mean(0, keepdim=True), free), torch.full((1, 3), 1 / 3))


def test_words_come_in_the_order_of_the_values():
    """Which is that of the columns of their probabilities."""
    words = label_words(["0", "1", "10"], ["10=great", "0=bad", "1=good"])
    assert list(words.items()) == [("0", "bad"), ("1", "good"), ("10", "great")]
    assert list(label_words(["b", "a"], None).items()) == [("b", "b"), ("a", "a")]


def test_white_space_around_labels_and_words_is_none_of_theirs():
    for given in (["0= negative", "1=positive "], ["0 = negative", " 1 =positive"]):
        assert label_words(["0", "1"], given) == {"0": "negative", "1": "positive"}
    with pytest.raises(UsageError, match="it must be value=words for each of 0, 1"):
        label_words(["0", "1"], ["0=negative", "0 =bad", "1=positive"])


def test_confidence_when_right_and_when_wrong():
    probabilities = torch.tensor([[0.9, 0.1], [0.85, 0.15], [0.35, 0.65], [1.0, 0.0]])
    scores = text.confidence_scores(probabilities, torch.tensor([0, 1, 1, 0]))
    assert scores["accuracy"] == 0.75
    assert scores["confidence_right"] == pytest.approx((0.9 + 0.65 + 1.0) / 3)
    assert scores["confidence_wrong"] == pytest.approx(0.85)
    bins = scores["reliability"]
    assert [row["num"] for row in bins] == [1, 1, 2] and [row["accuracy"] for row in bins] == [1, 0, 1]
    assert [row["confidence"] for row in bins] == pytest.approx([0.65, 0.85, 0.95])
    assert scores["calibration_error"] == pytest.approx((0.35 + 0.85 + 2 * 0.05) / 4)
    assert "confidence_wrong" not in text.confidence_scores(probabilities[:1], torch.tensor([0]))


def test_a_tokenizer_whose_end_token_pads():
    """As GPT-2's own tokenizer: the end token pads then, and is masked."""
    tokenizer = ByT5Tokenizer()
    model, _ = text.new_base("causal", d_model=16, num_layers=1)
    expected = text.score_labels(model, tokenizer, CONTEXTS, LABELS).log_probs
    tokenizer.pad_token = tokenizer.eos_token
    assert torch.allclose(text.score_labels(model, tokenizer, CONTEXTS, LABELS).log_probs, expected, rtol=1e-4)


def test_the_calibration_error_is_that_of_torchmetrics_and_its_interval_holds_it():
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(400, 3, generator=generator)
    labels = torch.multinomial((logits / 2).softmax(-1), 1, generator=generator)[:, 0]  # twice as sure as right
    scores = text.confidence_scores(logits.softmax(-1), labels)
    truth = multiclass_calibration_error(logits.softmax(-1), labels, num_classes=3, n_bins=10, norm="l1")
    assert scores["calibration_error"] == pytest.approx(truth.item(), abs=1e-6)
    low, high = scores["calibration_error_interval"]
    assert 0 < low < scores["calibration_error"] < high < 2 * scores["calibration_error"]
    assert scores == text.confidence_scores(logits.softmax(-1), labels)  # the resampling has a seed of its own
    certain = text.confidence_scores(torch.eye(3)[labels], labels)
    assert certain["calibration_error"] == 0 and certain["calibration_error_interval"] == [0, 0]


def test_the_temperature_is_found_again_and_is_the_best():
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(20_000, 3, generator=generator)
    labels = torch.multinomial(scores.softmax(-1), 1, generator=generator)[:, 0]
    assert text.fit_temperature(scores * 2.5, labels) == pytest.approx(2.5, rel=0.05)
    few = scores[:50] * 2.5, labels[:50]
    best = text.fit_temperature(*few)

    def loss(temperature: float) -> float:
        return torch.nn.functional.cross_entropy(few[0].double() / temperature, few[1]).item()

    assert loss(best) <= min(loss(best * factor) for factor in (0.99, 1.01, 0.5, 2))
    assert torch.equal((few[0] / best).argmax(-1), few[0].argmax(-1))


def test_a_temperature_beyond_the_border_is_the_border():
    scores, right = torch.tensor([[3.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
    assert text.fit_temperature(scores, right) == pytest.approx(1 / 1000)
    assert text.fit_temperature(scores, 1 - right) == pytest.approx(1000)


def test_what_a_wrong_row_and_a_curve_say():
    probabilities = torch.tensor([[0.9, 0.1], [0.2, 0.8]])
    (row,) = scoring.wrong_labels(["a", "b"], probabilities, torch.tensor([1, 1]), ["x", "y"])
    assert row == {"source": "a", "prediction": "x", "label": "y", "confidence": pytest.approx(0.9)}
    scores = {"0_shot_raw": {"reliability": [{"confidence": 0.9, "accuracy": 0.4}]}}
    assert scoring.reliability_curves(scores, [0])["accuracy, 0 shots"]["raw"][:2] == ([0.9], [0.4])
