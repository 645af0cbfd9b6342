"""Measures of continual learning from the matrix of accuracies."""

from collections.abc import Sequence
from typing import Any


def continual_metrics(
    accuracy_matrix: Sequence[Sequence[float]], untrained: Sequence[float] | None = None
) -> dict[str, float]:
    """
    Summaries of an accuracy matrix R, `R[i][j]` the accuracy on task j after learning task i.

    Args:
        accuracy_matrix: (num_tasks, num_tasks), or one row for a model that learned all tasks at once.
        untrained: the accuracies before any training, (num_tasks,); forward transfer needs them.

    Returns:
        `average_accuracy`: the mean of the last row; and, for two tasks or more learned one after the other,
        `average_forgetting`: the mean over all tasks but the last of the best accuracy after an earlier task minus the
        last (Chaudhry et al., arXiv:1801.10112, section 3); `backward_transfer`: the mean over all tasks but the last
        of `R[last][j] - R[j][j]`; `forward_transfer`: the mean over all tasks but the first of
        `R[j - 1][j] - untrained[j]` (both Lopez-Paz and Ranzato, arXiv:1706.08840, equations 3 and 4).
    """
    last = accuracy_matrix[-1]
    results = {"average_accuracy": _mean(last)}
    num_tasks = len(accuracy_matrix)
    if num_tasks < 2:
        return results
    past = range(num_tasks - 1)
    best = [max(accuracy_matrix[i][j] for i in range(num_tasks - 1)) for j in past]
    results["average_forgetting"] = _mean([best[j] - last[j] for j in past])
    results["backward_transfer"] = _mean([last[j] - accuracy_matrix[j][j] for j in past])
    if untrained is not None:
        forward = [accuracy_matrix[j - 1][j] - untrained[j] for j in range(1, num_tasks)]
        results["forward_transfer"] = _mean(forward)
    return results


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def continual_results(scores: Any, strategy: Any) -> dict[str, Any]:
    """
    What a run of continual learning has measured, for all_results.json.

    Args:
        scores: a `continual.Scores`.
        strategy: a `continual.Strategy`.

    Returns:
        `continual_metrics`, `accuracy_matrix` (a row after each task, fractions), `untrained_accuracy`,
        `seconds_per_phase`, `memory_held` (bytes) and, of a permuted stream, its `permutations`.
    """
    rows, permutations = scores.rows or [scores.untrained], strategy.stream.permutations
    results = continual_metrics(rows, scores.untrained)
    results |= {"accuracy_matrix": rows, "untrained_accuracy": scores.untrained}
    results |= {"seconds_per_phase": scores.seconds, "memory_held": strategy.memory_held()}
    return results | ({} if permutations is None else {"permutations": permutations.tolist()})
