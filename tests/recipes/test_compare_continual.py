"""Comparing strategies: the grid of runs, the tables, and going on after an interruption."""

import json
from types import ModuleType

import pytest
from recipe_runs import load_recipe

from hwzoo.errors import UsageError
from hwzoo.training import Stopped

TINY = "hidden_sizes=16 num_tasks=2 scenario=domain max_train_steps=3 train_batch_size=20"
RUNS = [f"strategy=naive {TINY}", f"strategy=ewc ewc_lambda=1,1e4 fisher_samples=20 {TINY}"]


@pytest.fixture
def compare() -> ModuleType:
    return load_recipe("compare_continual")


def test_a_wrong_run_is_told_before_any_is_started(compare, tmp_path):
    for runs, words in ((["strategy=gem"], "invalid choice: 'gem'"), (["lambda=1"], "--lambda is not a flag")):
        with pytest.raises(UsageError, match=words):
            compare.main(compare.Compare(runs=[RUNS[0], *runs], seeds=[0], output_dir=str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_each_protocol_is_told_of_its_own_rows(compare):
    number = {"mean": 0.5, "standard_error": 0.1}
    row = {"seeds": [0, 1], "accuracy_by_task": [0.5], "train_runtime": number, "memory_held": number}
    row |= {"average_accuracy": number}
    rows = [row | {"label": f"scenario={each}", "protocol": f"by {each}"} for each in ("task", "class")]
    text, note = compare.table(rows), "\n\nAccuracies in per cent after the last task. "
    protocols = "\n\nscenario=task: by task.\n\nscenario=class: by class.\n"
    assert text.endswith(f"{note}Mean ± standard error over the seeds 0, 1.{protocols}")
    assert compare.table([each | {"seeds": [3]} for each in rows]).endswith(f"{note}Seed 3 alone.{protocols}")


def test_no_picture_of_an_earlier_comparison_stays(compare, tmp_path, monkeypatch):
    results = {"accuracy_matrix": [[0.9, 0.1], [0.6, 0.8]], "average_accuracy": 0.7, "average_forgetting": 0.3}
    results |= {"train_runtime": 1.0, "memory_held": 0, "protocol": "by both"}
    monkeypatch.setattr(compare.train_continual, "main", lambda *arguments: dict(results))
    settings = {"seeds": [0], "output_dir": str(tmp_path)}
    compare.main(compare.Compare(runs=["strategy=ewc ewc-lambda=1,10"], **settings))
    assert (tmp_path / "strength.png").stat().st_size > 1000
    compare.main(compare.Compare(runs=["strategy=naive"], **settings))
    assert not (tmp_path / "strength.png").exists() and (tmp_path / "comparison.png").exists()


@pytest.mark.long
def test_tables_pictures_and_no_run_twice(compare, tmp_path, monkeypatch):
    settings = {"runs": RUNS, "seeds": [0, 1], "output_dir": str(tmp_path)}
    train, started = compare.train_continual.main, []

    def interrupted(run, *others):
        started.append(run)
        if len(started) == 4:
            raise Stopped("", 15)
        return train(run, *others)

    monkeypatch.setattr(compare.train_continual, "main", interrupted)
    with pytest.raises(Stopped):
        compare.main(compare.Compare(**settings))
    rows = compare.main(compare.Compare(**settings))
    assert len(started) == 7  # six runs, the fourth twice
    assert compare.main(compare.Compare(**settings)) == rows and len(started) == 7

    assert json.loads((tmp_path / "comparison.json").read_text()) == rows
    for row in rows:
        folder = tmp_path / "runs" / row["run"].replace(" ", ",")
        results = [json.loads((folder / f"seed={seed}" / "all_results.json").read_text()) for seed in (0, 1)]
        first, second = (result["average_accuracy"] for result in results)
        assert row["average_accuracy"]["mean"] == pytest.approx((first + second) / 2)
        assert row["average_accuracy"]["standard_error"] == pytest.approx(abs(first - second) / 2)
        matrices = [result["accuracy_matrix"] for result in results]
        assert row["stability"]["mean"] == pytest.approx(sum(matrix[1][0] for matrix in matrices) / 2)
        plasticity = sum(matrix[0][0] + matrix[1][1] for matrix in matrices) / 4
        assert row["plasticity"]["mean"] == pytest.approx(plasticity)
        assert not (folder / "seed=0" / "checkpoints").exists()
    table = (tmp_path / "comparison.md").read_text()
    labels = [row["label"] for row in rows]
    assert labels[0] == "naive" and labels[1] == "ewc ewc_lambda=1 fisher_samples=20"
    assert all(f"\n| {label} | " in table for label in labels)
    assert "over the seeds 0, 1.\n" in table and "digits, 2 tasks" in table
    assert all((tmp_path / name).stat().st_size > 1000 for name in ("comparison.png", "strength.png"))


@pytest.mark.long
def test_all_tasks_at_once_are_learned_at_once(compare, tmp_path):
    settings = {"runs": ["strategy=joint num_tasks=5 num_train_epochs=1"], "seeds": [0], "output_dir": str(tmp_path)}
    (row,) = compare.main(compare.Compare(**settings))
    (results,) = (json.loads(path.read_text()) for path in tmp_path.rglob("all_results.json"))
    (accuracies,) = results["accuracy_matrix"]
    assert len(set(accuracies)) > 1
    assert row["plasticity"]["mean"] == row["stability"]["mean"] == pytest.approx(sum(accuracies) / 5)


def test_another_setting_is_another_run(compare, tmp_path, monkeypatch):
    """Also where the folder has the same name: what `--preset` says has changed."""
    base = tmp_path / "base.yaml"
    train, started = compare.train_continual.main, []
    monkeypatch.setattr(compare.train_continual, "main", lambda *args: started.append(1) or train(*args))
    for rate in ("1e-3", "1e-2"):
        base.write_text(f"learning_rate: {rate}\n")
        compare.main(compare.Compare(preset=str(base), runs=RUNS[:1], seeds=[0], output_dir=str(tmp_path / "run")))
    assert len(started) == 2
