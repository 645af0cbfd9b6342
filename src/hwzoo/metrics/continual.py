"""Measures of continual learning from the matrix of accuracies."""

from collections.abc import Sequence
from typing import Any

# So near to guessing, in the mean and for any one of them, nothing of the past tasks is remembered.
AT_THE_BOUND, OF_ONE_TASK = 0.02, 0.05


def continual_metrics(
    accuracy_matrix: Sequence[Sequence[float]], untrained: Sequence[float] | None = None
) -> dict[str, float]:
    """
    Summaries of an accuracy matrix R, `R[i][j]` the accuracy on task j after learning task i.

    Args:
        accuracy_matrix: (num_tasks, num_tasks), or one row for a model that learned all tasks at once.
        untrained: the accuracies before any training, (num_tasks,); forward transfer needs them, and is left out
            without.

    Returns:
        `average_accuracy`: the mean of the last row; and, for two tasks or more learned one after the other,
        `average_forgetting`: the mean over all tasks but the last of the best accuracy after an earlier task minus the
        last, below 0 where the last task has helped (Chaudhry et al., arXiv:1801.10112, section 3);
        `backward_transfer`: the mean over all tasks but the last of `R[last][j] - R[j][j]`; `forward_transfer`: the
        mean over all tasks but the first of `R[j - 1][j] - untrained[j]` (both Lopez-Paz and Ranzato,
        arXiv:1706.08840, equations 3 and 4).
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


def lower_bound(last_row: Sequence[float], chance: float) -> float:
    """
    The average accuracy of a network that has learned the last task and forgotten all others, as naive training in the
    class-incremental scenario does (van de Ven and Tolias, arXiv:1904.07734: the lower bound).

    Args:
        last_row: accuracy on each task after the last, fractions, (num_tasks,).
        chance: accuracy on a past task of which nothing is remembered: 0 where its labels are never answered any more.

    Returns:
        A fraction.
    """
    return _mean([chance] * (len(last_row) - 1) + [last_row[-1]])


def _remark(results: dict[str, Any], rows: Sequence[Sequence[float]], strategy: Any) -> str | None:
    """That a run has ended at the lower bound, and what helps; None for one that has not."""
    stream = strategy.stream
    per_task = stream.num_labels // (1 if stream.scenario == "domain" else stream.num_tasks)
    chance = 0.0 if stream.scenario == "class" else 1 / per_task
    bound = lower_bound(rows[-1], chance)
    if results["average_accuracy"] > bound + AT_THE_BOUND or max(rows[-1][:-1]) > chance + OF_ONE_TASK:
        return None
    naive = ", as naive training gives it" if stream.scenario == "class" else ""
    return (
        f"average_accuracy {results['average_accuracy']:.4f} is not above the lower bound{naive}: in this "
        f"{stream.scenario}-incremental scenario it is {bound:.4f} when only the last of {stream.num_tasks} tasks is "
        f"remembered. {strategy.advice()}"
    )


def continual_results(scores: Any, strategy: Any, seen: Sequence[float] | None = None) -> dict[str, Any]:
    """
    What a run of continual learning has measured, for all_results.json.

    Args:
        scores: a `continual.Scores`.
        strategy: a `continual.Strategy`.
        seen: the accuracy on training images of each task at the end, if that is told too.

    Returns:
        `continual_metrics` (without forward transfer in the class scenario, where no label of a task is answered
        before it is learned: it would be 0 whatever was learned), `train_accuracy` (the mean of `seen`; less
        `average_accuracy` it is the gap between training and test), `accuracy_matrix` (a row after each task,
        fractions), `untrained_accuracy`, `seconds_per_phase`, `memory_held` (bytes), of a permuted stream its
        `permutations`, and, where the run has ended no more than 0.02 above its `lower_bound`, and with no past task
        more than 0.05 above guessing, a `remark` that says so and what helps.
    """
    rows, permutations = scores.rows or [scores.untrained], strategy.stream.permutations
    results = continual_metrics(rows, None if strategy.stream.scenario == "class" else scores.untrained)
    results |= {} if seen is None else {"train_accuracy": _mean(seen)}
    results |= {"accuracy_matrix": rows, "untrained_accuracy": scores.untrained}
    results |= {"seconds_per_phase": scores.seconds, "memory_held": strategy.memory_held()}
    results |= {} if permutations is None else {"permutations": permutations.tolist()}
    remark = _remark(results, rows, strategy) if len(rows) > 1 else None
    return results | ({} if remark is None else {"remark": remark})
