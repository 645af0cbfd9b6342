"""ROUGE: known values, agreement with rouge-score, and that the metric loads where there is no network."""

import evaluate
import numpy as np
import pytest
import warm
from rouge_score import rouge_scorer, scoring

from hwzoo.metrics.rouge.sentences import split_sentences
from hwzoo.metrics.rouge.words import UnicodeTokenizer, share_dropped
from hwzoo.metrics.text import ROUGE, ROUGE_TYPES, rouge_scores, rouge_tokenizer

PREDICTIONS = ["The cats sat on the mats. They slept.", "A quick test", "", "nothing alike"]
REFERENCES = [
    "They sleep. The cat was on the mat.",
    "a quick, thorough test of it",
    "some words",
    "completely different",
]


@pytest.fixture(scope="module")
def rouge():
    return evaluate.load(str(ROUGE))


def by_rouge_score(predictions, references, use_stemmer=False, newline_split=False) -> list[dict[str, float]]:
    """The F-measures of each pair, by rouge-score itself."""
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES, use_stemmer=use_stemmer)
    prepared = [
        ["\n".join(split_sentences(text)) if newline_split else text for text in pair]
        for pair in zip(references, predictions, strict=True)
    ]
    return [{name: score.fmeasure for name, score in scorer.score(*pair).items()} for pair in prepared]


def test_known_values(rouge):
    """Lin's own example: police killed the gunman / police kill the gunman / the gunman kill police."""
    predictions, reference = ["police kill the gunman", "the gunman kill police"], "police killed the gunman"
    scores = rouge.compute(predictions=predictions, references=[reference] * 2, use_aggregator=False)
    assert scores["rouge1"] == [0.75, 0.75] and scores["rouge2"] == pytest.approx([1 / 3, 1 / 3])
    assert scores["rougeL"] == [0.75, 0.5]  # police the gunman; the gunman
    stemmed = rouge.compute(predictions=predictions[:1], references=[reference], use_stemmer=True)
    assert stemmed == {name: 1.0 for name in ROUGE_TYPES}


@pytest.mark.parametrize("use_stemmer", [False, True])
@pytest.mark.parametrize("newline_split", [False, True])
def test_it_gives_what_rouge_score_gives(use_stemmer, newline_split, rouge):
    settings = {"use_stemmer": use_stemmer, "newline_split": newline_split}
    found = rouge.compute(predictions=PREDICTIONS, references=REFERENCES, use_aggregator=False, **settings)
    assert list(found) == list(ROUGE_TYPES)
    expected = by_rouge_score(PREDICTIONS, REFERENCES, **settings)
    assert [{name: found[name][i] for name in found} for i in range(len(PREDICTIONS))] == expected


def test_no_types_are_the_usual_four(rouge):
    asked = {"predictions": PREDICTIONS, "references": REFERENCES, "use_aggregator": False}
    found = rouge.compute(**asked, rouge_types=None)
    assert found == rouge.compute(**asked) and list(found) == ["rouge1", "rouge2", "rougeL", "rougeLsum"]


def test_aggregation_is_that_of_the_hubs_metric(rouge):
    np.random.seed(3)
    found = rouge.compute(predictions=PREDICTIONS, references=REFERENCES)
    np.random.seed(3)
    aggregator, scorer = scoring.BootstrapAggregator(), rouge_scorer.RougeScorer(ROUGE_TYPES)
    for reference, prediction in zip(REFERENCES, PREDICTIONS, strict=True):
        aggregator.add_scores(scorer.score(reference, prediction))
    assert found == {name: interval.mid.fmeasure for name, interval in aggregator.aggregate().items()}


def test_several_references_by_maximum_or_mean(rouge):
    references = [["the dog ran", "the cat sat", "the cat"], ["a b"]]
    predictions = ["the cat sat down", "a b c d"]
    each = by_rouge_score([predictions[0]] * 3 + [predictions[1]], [*references[0], *references[1]])
    scorer = rouge_scorer.RougeScorer(ROUGE_TYPES)
    for how, combine in (("max", max), ("mean", np.mean)):
        found = rouge.compute(
            predictions=predictions, references=references, use_aggregator=False, multi_reference=how
        )
        for name in ROUGE_TYPES:
            assert found[name] == pytest.approx([combine([score[name] for score in each[:3]]), each[3][name]])
    most = rouge.compute(predictions=predictions, references=references, use_aggregator=False)
    hub = [scorer.score_multi(right, text) for right, text in zip(references, predictions, strict=True)]
    assert most == {name: [score[name].fmeasure for score in hub] for name in ROUGE_TYPES}


def test_rouge_lsum_goes_sentence_by_sentence(rouge):
    pair = {"predictions": ["One two three. Four five six."], "references": ["Four five six. One two three."]}
    whole, split = (rouge.compute(**pair, newline_split=newline_split) for newline_split in (False, True))
    assert whole["rougeLsum"] == whole["rougeL"] == split["rougeL"] == 0.5 and split["rougeLsum"] == 1.0


def test_types_and_words_can_be_chosen(rouge):
    found = rouge.compute(predictions=["a-b c"], references=["a-b d"], rouge_types=["rouge1"], tokenizer=str.split)
    assert found == {"rouge1": 0.5}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multi_reference": "min"}, "multi_reference is 'min'; it must be 'max' or 'mean'"),
        ({"references": [["a"], []]}, "prediction 1 has no reference"),
        ({"references": [["a"], ["b", None]]}, "^a reference of prediction 1 is None; it must be a text"),
        ({"predictions": ["a", None]}, "^prediction 1 is None; it must be a text"),
    ],
)
def test_what_cannot_be_scored(wrong, message, rouge):
    with pytest.raises(ValueError, match=message):
        rouge.compute(**{"predictions": ["a", "b"], "references": [["a"], ["b"]]} | wrong)


@pytest.mark.long
def test_it_loads_by_path_without_a_network(tmp_path):
    program = (
        "import sys, socket, evaluate\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = socket.create_connection = refuse\n"
        "print(evaluate.load(sys.argv[1]).compute(predictions=['a b. C'], references=['a b. C'], newline_split=True))"
    )
    environment = {"HF_HOME": str(tmp_path), "PATH": "", "HWZOO_DATA_DIR": ""}
    done = warm.run(["-c", program, ROUGE], env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("1.0") == 4


def test_scores_of_the_zoo_are_stemmed_and_split():
    found = rouge_scores(PREDICTIONS, [[reference] for reference in REFERENCES])
    expected = by_rouge_score(PREDICTIONS, REFERENCES, use_stemmer=True, newline_split=True)
    assert found == {name: [score[name] for score in expected] for name in ROUGE_TYPES}


# Other scripts than ours


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Ёж и 2 кота", ["ёж", "и", "2", "кота"]),
        ("Naïve cafés run", ["naïve", "cafés", "run"]),
        ("cafe\u0301 CAFÉ", ["café", "café"]),  # a letter and its accent, or one character for both
        ("Straße İ", ["strasse", "i̇"]),
        ("मैं हिन्दी क्\u200dषत्रिय", ["मैं", "हिन्दी", "क्षत्रिय"]),  # vowel signs are marks
        ("می\u200cخواهم بله", ["میخواهم", "بله"]),
        ("2024年天气 GPU好", ["2024", "年", "天", "气", "gpu", "好"]),
        ("コーヒー１杯", ["コ", "ー", "ヒ", "ー", "1", "杯"]),
        ("รักดี", ["รั", "ก", "ดี"]),
        ("안녕 세계", ["안녕", "세계"]),
        ("don't _ a-b", ["don", "t", "a", "b"]),
        ("…", []),
    ],
)
def test_words_of_any_script(text, words):
    assert UnicodeTokenizer()(text) == words


def test_english_is_the_same_under_either_tokenizer(rouge):
    texts = [*PREDICTIONS, *REFERENCES, "The U.S. markets' 3.5% falling_back; running, ties!\n\tE-mail"]
    for use_stemmer in (False, True):
        ours = rouge_scorer.tokenizers.DefaultTokenizer(use_stemmer)
        assert [UnicodeTokenizer(use_stemmer)(text) for text in texts] == [ours.tokenize(text) for text in texts]
    pairs = PREDICTIONS, [[reference] for reference in REFERENCES]
    assert rouge_scores(*pairs, "unicode") == rouge_scores(*pairs)
    by_name = {"use_stemmer": True, "use_aggregator": False, "newline_split": True, "tokenizer": "unicode"}
    assert rouge.compute(predictions=PREDICTIONS, references=REFERENCES, **by_name) == rouge_scores(*pairs)


@pytest.mark.parametrize(
    ("text", "other", "rouge1"),
    [
        ("Кошка спит. Собака лает.", "Собака лает. Кошка ест.", 3 / 4),
        ("天气好。我走。", "我走。天气坏。", 4 / 5),
        ("मैं घर गया। वह आया।", "वह आया। मैं घर आया।", 4 / 5),
        ("今日は雨。", "今日は1", 3 / 4),
    ],
)
def test_other_scripts_are_scored_by_their_words(text, other, rouge1):
    assert rouge_tokenizer([text]) == "unicode"
    same = rouge_scores([text], [[text]], "unicode")
    assert same == {name: [1.0] for name in ROUGE_TYPES}
    assert rouge_scores([other], [[text]], "unicode", rouge_types=["rouge1"])["rouge1"] == pytest.approx([rouge1])
    assert rouge_scores([text], [[text]])["rouge1"] == [0.0]  # by rouge-score's own words


def test_rouge_lsum_knows_the_sentences_of_other_scripts():
    for text, other in (("Кот спит. Пёс лает.", "Пёс лает. Кот спит."), ("天气好。我走。", "我走。天气好。")):
        found = rouge_scores([other], [[text]], "unicode")
        assert found["rougeL"][0] < 1 and found["rougeLsum"] == [1.0]


def test_the_tokenizer_is_chosen_by_the_letters_that_would_be_lost():
    assert rouge_tokenizer(["word"], "unicode") == "unicode"
    assert share_dropped(["ab", "вг", "12 ...", ""]) == 0.5 and share_dropped(["12", ""]) == 0.0
    assert rouge_tokenizer(["Les élèves déjà reçus", "12"]) == "rouge_score" == rouge_tokenizer([])
    assert rouge_tokenizer(["English words stand here", "и много русских слов стоит тут же рядом"]) == "unicode"
    with_accents = {name: rouge_scores(["élève"], [["grève"]], name)["rouge1"] for name in ("rouge_score", "unicode")}
    assert with_accents == {"rouge_score": [0.5], "unicode": [0.0]}  # l ve and gr ve


# Sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("  \n ", []),
        ("One.", ["One."]),
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "no." Then he left.', ['He said "no."', "Then he left."]),
        ("A line\nbreak ends one", ["A line", "break ends one"]),
        (
            "See Fig. 3 and Dr. Smith, e.g. Here, by J. S. Bach.",
            ["See Fig. 3 and Dr. Smith, e.g. Here, by J. S. Bach."],
        ),
        ("It is 3.5 points. 2 more follow.", ["It is 3.5 points.", "2 more follow."]),
        ("ends. lower case goes on", ["ends. lower case goes on"]),
        ("Smith et al. (2019) say so. (We agree.)", ["Smith et al. (2019) say so.", "(We agree.)"]),
        ("It was. Émile came.", ["It was. Émile came."]),  # English as ever
        ("Он А. С. Пушкин. «Да?» Нет! 5 раз. да", ["Он А. С. Пушкин.", "«Да?»", "Нет!", "5 раз. да"]),
        ("天气好。“我走！”好吗？好", ["天气好。", "“我走！”", "好吗？", "好"]),
        ("वह आया। मैं गया।", ["वह आया।", "मैं गया।"]),
        ("هل؟ نعم. لا", ["هل؟", "نعم.", "لا"]),
    ],
)
def test_sentences(text, expected):
    assert split_sentences(text) == expected


@pytest.mark.parametrize("run", [".", "a", "a."])
def test_a_long_run_without_white_space_is_read_once(run):
    """It takes many minutes where each letter of it is tried as the first of the last word."""
    first = run * 200_000 + "!"
    assert split_sentences(f"{first} Then.") == [first, "Then."]
