"""Measures of continual learning against matrices worked out by hand."""

import pytest

from hwzoo.metrics import continual_metrics

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
