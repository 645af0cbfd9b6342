"""Measures of continual learning against matrices worked out by hand."""

import time
from types import SimpleNamespace

import pytest

from hwzoo import continual
from hwzoo.continual.scores import Scores
from hwzoo.metrics import continual_metrics, continual_results, lower_bound

# Tasks of 4; the second is best before the end, the third was known a little before it was learned.
MATRIX = [
    [0.9, 0.2, 0.1, 0.0],
    [0.5, 0.8, 0.3, 0.1],
    [0.7, 0.9, 0.6, 0.5],
    [0.4, 0.6, 0.7, 1.0],
]
UNTRAINED = [0.3, 0.1, 0.2, 0.6]


def test_a_matrix_by_hand():
    assert continual_metrics(MATRIX, UNTRAINED) == {
        "average_accuracy": pytest.approx((0.4 + 0.6 + 0.7 + 1.0) / 4),
        # Best of the earlier rows: 0.9, 0.9 (not the 0.8 right after learning), 0.6.
        "average_forgetting": pytest.approx((0.5 + 0.3 - 0.1) / 3),
        "backward_transfer": pytest.approx((-0.5 - 0.2 + 0.1) / 3),
        # Right before each is learned: 0.2, 0.3, 0.5.
        "forward_transfer": pytest.approx((0.1 + 0.1 - 0.1) / 3),
    }


def test_two_tasks():
    assert continual_metrics([[1.0, 0.5], [0.25, 0.75]], [0.0, 0.5]) == {
        "average_accuracy": 0.5,
        "average_forgetting": 0.75,
        "backward_transfer": -0.75,
        "forward_transfer": 0.0,
    }


def test_forward_transfer_needs_the_untrained_accuracies():
    assert set(continual_metrics(MATRIX)) == {"average_accuracy", "average_forgetting", "backward_transfer"}


@pytest.mark.parametrize("scenario", continual.SCENARIOS)
def test_forward_transfer_is_left_out_where_it_is_0_whatever_was_learned(scenario):
    """In the class scenario no label of a task is answered before it is learned."""
    assert ("forward_transfer" in results_of("replay", scenario, [0.9] * 4)) == (scenario != "class")


def test_forgetting_is_below_0_where_the_last_task_has_helped():
    assert continual_metrics([[0.5, 0.0], [0.75, 1.0]])["average_forgetting"] == -0.25


@pytest.mark.parametrize("row", [[0.5], [0.5, 0.25, 0.75]])
def test_one_row_has_an_average_only(row):
    """One task, or all learned at once."""
    assert continual_metrics([row], row) == {"average_accuracy": 0.5}


def test_nothing_forgotten_and_all_forgotten():
    kept = continual_metrics([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, 1.0, 1.0]], [0.0] * 3)
    assert kept == dict(average_accuracy=1.0, average_forgetting=0.0, backward_transfer=0.0, forward_transfer=0.0)
    lost = continual_metrics([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]], [0.0] * 3)
    assert (lost["average_forgetting"], lost["backward_transfer"]) == (1.0, -1.0)
    assert lost["average_accuracy"] == pytest.approx(1 / 3)


# Tasks of 4 with two labels each; after the last, nothing of the first three is left, or a little.
@pytest.mark.parametrize(
    ("scenario", "past", "bound", "told"),
    [
        ("class", [0.0, 0.0, 0.0], 0.225, True),
        ("class", [0.03, 0.01, 0.02], 0.225, True),
        ("class", [0.04, 0.04, 0.04], 0.225, False),
        ("domain", [0.5, 0.5, 0.5], 0.6, True),
        ("domain", [0.3, 0.4, 0.5], 0.6, True),
        ("domain", [0.5, 0.5, 0.6], 0.6, False),
        ("task", [0.5, 0.45, 0.55], 0.6, True),
        ("task", [0.2, 0.6, 0.7], 0.6, False),  # two of them are remembered, whatever the average
        ("domain", [0.227, 0.685, 0.169], 0.6, False),
        ("task", [0.9, 0.9, 0.9], 0.6, False),
    ],
)
def test_a_run_at_the_lower_bound_says_so(scenario, past, bound, told):
    last = [*past, 0.9]
    assert lower_bound(last, 0.0 if scenario == "class" else 0.5) == pytest.approx(bound)
    results = results_of("naive", scenario, last)
    assert ("remark" in results) is told
    if told:
        naive = ", as naive training gives it" if scenario == "class" else ""
        assert results["remark"].startswith(
            f"average_accuracy {sum(last) / 4:.4f} is not above the lower bound{naive}: in this "
            f"{scenario}-incremental scenario it is {bound:.4f} when only the last of 4 tasks is remembered. Nothing "
        )


@pytest.mark.parametrize(
    ("strategy", "scenario", "advice"),
    [
        ("naive", "class", "Nothing was done against forgetting; --strategy replay"),
        ("ewc", "class", "Regularisation alone does no better in this scenario"),
        ("si", "class", "Regularisation alone does no better in this scenario"),
        ("lwf", "class", "Regularisation alone does no better in this scenario"),
        ("ewc", "domain", "Another --ewc_lambda than 3, larger or smaller, may hold more"),
        ("si", "task", "Another --si_lambda than 2, larger or smaller, may hold more"),
        ("lwf", "domain", "Another --lwf_lambda than 0.5, larger or smaller, may hold more"),
        ("replay", "class", "A larger --memory_size than 7 remembers more."),
        ("rehearsal", "class", "All past images were shown again"),
    ],
)
def test_what_helps_depends_on_strategy_and_scenario(strategy, scenario, advice):
    assert f" is remembered. {advice}" in results_of(strategy, scenario, [0.0, 0.0, 0.0, 0.9])["remark"]


def test_what_was_learned_at_once_has_no_lower_bound():
    assert "remark" not in results_of("joint", "class", [0.0, 0.0, 0.0, 0.0], learned=1)


def results_of(strategy, scenario, last, learned=4):
    """Results of a run whose last row is given, with four tasks of two labels."""
    stream = continual.Stream(None, None, 4, scenario)
    strategy = object.__new__(continual.STRATEGIES[strategy])
    strategy.stream, strategy.memory_held = stream, lambda: 0
    strategy.settings = SimpleNamespace(ewc_lambda=3.0, si_lambda=2.0, lwf_lambda=0.5, memory_size=7)
    stream.train = SimpleNamespace(class_names=["a", "b"] if scenario == "domain" else list("abcdefgh"))
    scores = continual.Scores([0.1] * 4)
    for row in ([[0.9] * 4] * (learned - 1)) + [last]:
        scores.add(row)
    return continual_results(scores, strategy)


def test_the_seconds_of_a_phase_go_on_after_a_resume():
    scores, again = Scores([0.1]), Scores([])
    scores.begin()
    time.sleep(0.05)
    again.load_state_dict(scores.state_dict())
    again.begin()
    again.add([0.5])
    assert again.seconds[0] >= 0.05
