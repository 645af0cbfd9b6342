"""What replay stores and draws, and what each strategy trains on and keeps."""

from collections import Counter

import pytest
import torch
from scipy.stats import chi2

from hwzoo.continual import STRATEGIES, Stream
from hwzoo.data import ImageSet
from hwzoo.training import GlobalNoise

policies = pytest.mark.parametrize("policy", ["reservoir", "balanced"])


@pytest.fixture
def stream_of_sizes(image_set):
    """A stream with tasks of these sizes, two labels each."""

    def make(sizes, scenario="class"):
        task_ids = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
        labels = torch.arange(sum(sizes)) % 2 + (0 if scenario == "domain" else 2 * task_ids)
        names = tuple(map(str, range(2 if scenario == "domain" else 2 * len(sizes))))
        data = ImageSet(image_set(sum(sizes), 1).images, labels, names, task_ids)
        return Stream(data, data, len(sizes), scenario)

    return make


def fill(strategy):
    """Ends all tasks; gives the indices held after each."""
    held = []
    for task in range(strategy.stream.num_tasks):
        strategy.task = task
        strategy.end_task()
        held.append(strategy.indices.tolist())
    return held


@policies
@pytest.mark.parametrize("memory_size", [1, 7, 30, 1000])
def test_memory_keeps_to_its_budget_and_holds_each_image_once(memory_size, policy, stream_of_sizes, make_strategy):
    sizes = [12, 40, 5]
    strategy = make_strategy("replay", stream_of_sizes(sizes), memory_size=memory_size, memory_policy=policy)
    before = set()
    for task, held in enumerate(fill(strategy)):
        seen = sum(sizes[: task + 1])
        assert len(held) <= memory_size and len(set(held)) == len(held)
        if policy == "reservoir":
            assert len(held) == min(memory_size, seen)
        # Of past tasks only what was held: the others are gone.
        of_past = {index for index in held if index < seen - sizes[task]}
        assert max(held) < seen and of_past <= before
        before = set(held)


@pytest.mark.parametrize("sizes", [[40], [5, 20, 15], [10, 10, 10, 10], [39, 1]])
def test_a_reservoir_holds_each_image_with_the_same_probability(sizes, stream_of_sizes, make_strategy):
    """Chi-square over fixed seeds, however the images are divided into tasks."""
    size, num, repetitions = 10, 40, 1500
    strategy = make_strategy("replay", stream_of_sizes(sizes), memory_size=size, memory_policy="reservoir")
    counts, start = torch.zeros(num), strategy.state_dict()
    for _ in range(repetitions):
        strategy.load_state_dict(start)
        counts[fill(strategy)[-1]] += 1
    assert counts.sum() == repetitions * size
    expected, variance = repetitions * size / num, repetitions * size / num * (1 - size / num)
    # As each memory holds exactly `size`, the counts have num - 1 degrees of freedom.
    statistic = ((counts - expected).square().sum() / variance).item() * (num - 1) / num
    assert 0.001 < chi2.sf(statistic, num - 1) < 0.999


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
@pytest.mark.parametrize("memory_size", [3, 8, 10, 23])
def test_a_balanced_memory_has_each_label_of_each_task_alike(scenario, memory_size, stream_of_sizes, make_strategy):
    stream = stream_of_sizes([30, 30, 60, 30], scenario)
    strategy = make_strategy("replay", stream, memory_size=memory_size, memory_policy="balanced")
    for task, held in enumerate(fill(strategy)):
        labels = zip(stream.train.task_ids[held].tolist(), stream.train.labels[held].tolist(), strict=True)
        counts = Counter(labels)
        assert len(held) == memory_size
        assert len(counts) == min(2 * (task + 1), memory_size)
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_balanced_memory_takes_all_of_a_small_label(stream_of_sizes, make_strategy):
    stream = stream_of_sizes([4, 60])
    strategy = make_strategy("replay", stream, memory_size=20, memory_policy="balanced")
    assert Counter(stream.train.labels[fill(strategy)[-1]].tolist()) == {0: 2, 1: 2, 2: 5, 3: 5}


@policies
def test_memory_is_by_the_seed(policy, stream_of_sizes, make_strategy):
    stream = stream_of_sizes([30, 30])
    settings = {"memory_size": 10, "memory_policy": policy}
    first, same, other = (fill(make_strategy("replay", stream, seed=seed, **settings)) for seed in (0, 0, 1))
    assert first == same
    assert sorted(first[0]) != sorted(other[0]) and sorted(first[1]) != sorted(other[1])


@pytest.mark.parametrize("ratio", [1, 3])
@policies
def test_replay_adds_images_of_past_tasks_only(policy, ratio, make_stream, make_strategy):
    stream = make_stream()
    strategy = make_strategy("replay", stream, memory_size=6, memory_policy=policy, replay_ratio=ratio)
    for task in range(3):
        strategy.task = task
        batch = stream.train.batch(torch.arange(8) + stream.train_indices(task, task).start)
        extended = strategy.extend(batch)
        if task == 0:
            assert extended is batch
        else:
            assert extended.keys() == batch.keys()
            replayed = {name: values[8:] for name, values in extended.items()}
            assert all(torch.equal(extended[name][:8], batch[name]) for name in batch)
            assert all(len(values) == 8 * ratio for values in replayed.values())
            assert replayed["task_ids"].max() < task
            # Whole images of the memory, with their own labels.
            stored = stream.train.batch(strategy.indices)
            for pixels, label in zip(replayed["pixel_values"], replayed["labels"], strict=True):
                (found,) = (stored["pixel_values"] == pixels).all((1, 2, 3)).nonzero()[:, 0]
                assert stored["labels"][found] == label
        strategy.end_task()


def test_replay_draws_all_of_its_memory(make_stream, make_strategy):
    stream = make_stream()
    strategy = make_strategy("replay", stream, memory_size=6)
    fill(strategy)
    drawn = strategy.extend(stream.train.batch(torch.arange(600) % 36))["pixel_values"][600:]
    assert len(drawn.unique(dim=0)) == 6


@pytest.mark.parametrize("ratio", [1, 2])
def test_processes_replay_together_what_one_would(ratio, make_stream, make_strategy):
    stream = make_stream()
    one, *two = (make_strategy("replay", stream, memory_size=9, replay_ratio=ratio) for _ in range(3))
    for index, strategy in enumerate(two):
        strategy.noise = GlobalNoise(0, process_index=index, num_processes=2)
    assert fill(one) == fill(two[0]) == fill(two[1])
    batch = stream.train.batch(torch.arange(8))
    parts = [
        strategy.extend({name: values[4 * index :][:4] for name, values in batch.items()})
        for index, strategy in enumerate(two)
    ]
    for name, values in one.extend(batch).items():
        assert torch.equal(values[8:], torch.cat([part[name][4:] for part in parts]))


# All strategies


@pytest.mark.parametrize("scenario", ["task", "domain", "class"])
def test_the_images_of_each_phase(scenario, make_stream, make_strategy):
    stream = make_stream(scenario=scenario)
    phases = {name: make_strategy(name, stream).phases() for name in STRATEGIES}
    one_task_each = [(0, 0), (1, 1), (2, 2)]
    assert phases.pop("joint") == [(0, 2)]
    assert phases.pop("rehearsal") == [(0, 0), (0, 1), (0, 2)]
    assert phases == dict.fromkeys(phases, one_task_each) and "replay" in phases


def test_where_training_is(make_stream, make_strategy):
    assert make_strategy("naive", make_stream(num_tasks=3)).place() == "task 1 of 3"
    assert make_strategy("joint", make_stream(num_tasks=3)).place() == "all 3 tasks"
    assert make_strategy("joint", make_stream(num_tasks=1)).place() == "task 1 of 1"


def test_memory_held(make_stream, make_model, make_strategy):
    stream = make_stream()
    weights = sum(p.numel() * p.element_size() for p in make_model(stream).parameters())
    image = 1 * 4 * 4
    held = {}
    for name in STRATEGIES:
        strategy = make_strategy(name, stream, memory_size=10)
        for task in range(3):
            strategy.task = task
            strategy.end_task()
        held[name] = strategy.memory_held()
    assert held == {
        "naive": 0,
        "joint": 0,
        "rehearsal": 24 * image,  # all of the two past tasks
        "replay": 10 * image,
        "ewc": 2 * weights,  # two tensors whatever the number of tasks
        "si": 6 * weights,
        "lwf": weights,
    }


def test_outputs_of_later_tasks_do_not_compete_in_the_class_scenario(make_stream, make_strategy):
    logits = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 5.0]])
    for scenario, seen in (("class", [2, 4, 6]), ("task", [6, 6, 6])):
        strategy = make_strategy("naive", make_stream(scenario=scenario))
        for task in range(3):
            strategy.task = task
            terms = strategy.cross_entropy(logits, torch.tensor([1]))
            expected = -logits[0, : seen[task]].log_softmax(-1)[1]
            torch.testing.assert_close(terms["loss"], expected)
            assert terms["accuracy"] == (seen[task] == 2)
