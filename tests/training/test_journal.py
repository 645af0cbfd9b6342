"""What a run tells on its way: the bar, evaluations in words, groups of the trackers."""

import re

import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from hwzoo.errors import HwzooError
from hwzoo.files import append_jsonl, record_made
from hwzoo.training import read_history
from hwzoo.training.journal import Journal, grouped, log_ending
from hwzoo.training.numbers import evaluation_line


@pytest.mark.parametrize(
    ("values", "words", "told"),
    [
        (
            {"negative_elbo": 105.26, "reconstruction_loss": 80.0, "kl_divergence": 25.26},
            {},
            "negative evidence lower bound 105.3, its reconstruction loss 80, its KL divergence 25.26 (nats an image)",
        ),
        (
            {"accuracy_task_1": 0.98, "accuracy_task_12": 1}, {},
            "accuracy on task 1 0.98, accuracy on task 12 1 (fraction)",
        ),
        ({"loss": 0.03125}, {"loss": ("loss", "mean squared error")}, "loss 0.03125 (mean squared error)"),
        (
            {"loss": 1.5, "rougeL": 50.0, "exact_match": 0.25, "own_number": 3},
            {"loss": ("loss", "nats a token")},
            "loss 1.5 (nats a token); ROUGE-L 50 (F-measure x 100); texts that equal a reference 0.25 (fraction); "
            "own number 3",
        ),
    ],
)  # fmt: skip
def test_an_evaluation_in_words(values, words, told):
    assert evaluation_line(300, values, words) == f"evaluation after step 300: {told}"


def test_groups():
    values = {"loss": 1.0, "eval_loss": 2, "test_fid": 3.0, "train_runtime": 4.0, "active_units": 5, "protocol": "six"}
    common = {"eval/loss": 2, "test/fid": 3.0, "train/runtime": 4.0}
    assert grouped(values, "train") == {"train/loss": 1.0, "train/active_units": 5, **common}
    assert grouped(values, "test") == {"test/loss": 1.0, "test/active_units": 5, **common}


class Numbers(GeneralTracker):
    """A tracker that takes no pictures."""

    name, requires_logging_directory, tracker = "numbers", False, None

    def __init__(self):
        super().__init__()
        self.logged = []

    def log(self, values, step=None, **kwargs):
        self.logged.append((step, values))


class Pictures(Numbers):
    """One that does."""

    def log_images(self, values, step=None, **kwargs):
        self.logged.append((step, {name: value.shape for name, value in values.items()}))


@pytest.fixture
def accelerator():
    given = Accelerator(cpu=True, log_with=[Numbers(), Pictures()])
    given.init_trackers("test")
    return given


def logged(accelerator) -> list[list]:
    return [tracker.logged for tracker in accelerator.trackers]


def test_the_bar_shows_what_was_chosen_and_evaluations_stand_above_it(tmp_path, capsys, accelerator):
    places = iter(["task 1 of 2", "task 1 of 2", "task 2 of 2"])
    journal = Journal(tmp_path, accelerator, shown=("kl_divergence", "eval_score"), place=lambda: next(places))
    journal.begin(0, 4)
    journal.bar.update(2)
    journal.record(2, {"loss": 1.0, "kl_divergence": 12.3456})
    journal.record(2, {"eval_score": 0.5})
    journal.record(2, {})
    journal.bar.refresh()
    journal.close()
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["evaluation after step 2: score 0.5"]
    last = printed.err.replace("\n", "\r").strip("\r").split("\r")[-1]
    assert re.fullmatch(
        r"task 2 of 2:  50%\|.*\| 2/4 \[\d\d:\d\d left, +[\d.]+(step/s|s/step), KL=12.35, eval_score=0.5\] *", last
    )
    assert read_history(tmp_path) == [
        {"step": 2, "loss": 1.0, "kl_divergence": 12.3456}, {"step": 2, "eval_score": 0.5},
    ]  # fmt: skip
    told = [(2, {"train/loss": 1.0, "train/kl_divergence": 12.3456}), (2, {"eval/score": 0.5})]
    assert logged(accelerator) == [told, told]


def test_a_bar_of_its_own_accord_shows_the_first_three(tmp_path, capsys):
    journal = Journal(tmp_path, Accelerator(cpu=True)).begin(0, 1)
    journal.record(1, {"eval_x": 1.0})  # not the place to choose from
    journal.record(1, {"a": 1.0, "generator_loss": 2.0, "c": 3.0, "d": 4.0})
    journal.close()
    assert ", a=1, loss_G=2, c=3]" in capsys.readouterr().err


def test_pictures_of_the_run_go_to_trackers_that_take_them(tmp_path, accelerator):
    append_jsonl(tmp_path / ".made.jsonl", [{"file": "fake_0001.png", "sha256": "of a run that was resumed"}])
    journal = Journal(tmp_path, accelerator).begin(1, 9)
    for name in ("fake_0005.png", "history.jsonl"):
        record_made(tmp_path, {name: "digest"})
    Image.new("L", (30, 20)).save(tmp_path / "fake_0005.png")
    for _ in range(2):
        journal.show_pictures()
    assert logged(accelerator) == [[], [(5, {"eval/fake": (1, 20, 30, 3)})]]
    Image.new("RGB", (4, 2)).save(tmp_path / "samples.png")
    log_ending(accelerator, {"train_steps": 9, "test_fid": 2.5, "protocol": "words"}, [tmp_path / "samples.png"])
    numbers = (9, {"train/steps": 9, "test/fid": 2.5})
    assert logged(accelerator)[0] == [numbers]
    assert logged(accelerator)[1][1:] == [numbers, (9, {"test/samples": (1, 2, 4, 3)})]


def test_without_history_there_is_nothing_to_read(tmp_path):
    with pytest.raises(HwzooError, match="history.jsonl is not there: no run has logged"):
        read_history(tmp_path)


def test_a_tensor_is_no_number_of_a_tracker():
    assert grouped({"a": torch.tensor(1.0), "b": [1.0], "c": None}, "train") == {}
