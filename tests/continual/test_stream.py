"""Streams of tasks: which images, labels and pixels each task has, and the batches that go through them."""

from dataclasses import replace

import pytest
import torch

from hwzoo.continual import SCENARIOS, StreamBatches, StreamSettings, make_streams, permuted, split
from hwzoo.data import ImageBatches, ImageSplits
from hwzoo.errors import UsageError

scenarios = pytest.mark.parametrize("scenario", SCENARIOS)


def same_images(first, second) -> bool:
    return torch.equal(first.images, second.images)


# split


@scenarios
@pytest.mark.parametrize("num_tasks", [1, 2, 3, 6])
def test_each_task_of_a_split_has_its_classes(num_tasks, scenario, image_set):
    train, test = image_set(40, 6), image_set(20, 6, seed=1)
    if num_tasks == 6 and scenario != "class":
        with pytest.raises(UsageError, match="^--num_tasks is 6; with one class a task there is nothing"):
            split(train, test, num_tasks, scenario)
        return
    stream = split(train, test, num_tasks, scenario)
    per_task = 6 // num_tasks
    assert len(stream.train) == 40 and len(stream.test) == 20
    for task in range(num_tasks):
        classes = range(per_task * task, per_task * (task + 1))
        for data, source, indices in (
            (stream.train, train, stream.train_indices(task, task)),
            (stream.test, test, stream.test_indices(task)),
        ):
            wanted = torch.isin(source.labels, torch.tensor(classes))
            part = data.select(indices)
            # Images in the order of the data set, each with its own label.
            assert torch.equal(part.images, source.images[wanted])
            assert part.task_ids.tolist() == [task] * int(wanted.sum())
            first = per_task * task if scenario == "domain" else 0
            assert torch.equal(part.labels, source.labels[wanted] - first)
    assert stream.permutations is None
    assert torch.equal(train.labels, image_set(40, 6).labels) and train.task_ids is None  # left alone


def test_places_of_several_tasks_are_those_of_each(make_stream):
    stream = make_stream(num_tasks=3)
    assert stream.train.task_ids[stream.train_indices(0, 1)].unique().tolist() == [0, 1]
    assert stream.train_indices(0, 2) == slice(0, len(stream.train))
    assert stream.train_indices(1, 2).start == stream.train_indices(0, 0).stop


@pytest.mark.parametrize(
    ("scenario", "names", "num_heads", "active"),
    [
        ("task", ("a", "b", "c", "d", "e", "f"), 3, [6, 6, 6]),
        ("domain", ("a/c/e", "b/d/f"), 1, [2, 2, 2]),
        ("class", ("a", "b", "c", "d", "e", "f"), 1, [2, 4, 6]),
    ],
)
def test_labels_heads_and_competing_outputs_of_a_split(scenario, names, num_heads, active, make_stream):
    stream = make_stream(num_tasks=3, scenario=scenario)
    assert stream.train.class_names == stream.test.class_names == names
    assert (stream.num_labels, stream.num_heads) == (len(names), num_heads)
    assert [stream.num_active(task) for task in range(3)] == active


@pytest.mark.parametrize("num_tasks", [4, 5, 7, 12])
def test_tasks_that_do_not_divide_the_classes_are_refused(num_tasks, image_set):
    with pytest.raises(UsageError, match=f"^--num_tasks is {num_tasks}; it must divide the 6 classes"):
        split(image_set(36, 6), image_set(18, 6), num_tasks, "class")


@pytest.mark.parametrize(
    ("which", "advice"),
    [("training", ""), ("test", ""), ("validation", ": give another --validation_share, or 0 to hold none out")],
)
def test_a_task_without_images_is_refused(which, advice, image_set):
    whole, lacking = image_set(36, 6), image_set(36, 6)
    lacking = lacking.select(lacking.labels // 2 != 1)
    parts = dict.fromkeys(("training", "test", "validation"), whole) | {which: lacking}
    data = ImageSplits("letters", parts["training"], parts["test"], validation=parts["validation"])
    with pytest.raises(UsageError) as told:
        make_streams(StreamSettings(num_tasks=3, scenario="class"), data, "cpu")
    assert str(told.value) == f"--num_tasks is 3; task 2 has no {which} images{advice}"


# permuted


@scenarios
def test_each_task_of_a_permuted_stream_has_all_images_in_its_own_order_of_pixels(scenario, image_set):
    train, test = image_set(8, 2, num_channels=3), image_set(4, 2, num_channels=3, seed=1)
    stream = permuted(train, test, 4, scenario, seed=7)
    assert (len(stream.train), len(stream.test)) == (32, 16)
    assert stream.permutations.shape == (4, 16) and stream.permutations.dtype == torch.int64
    assert torch.equal(stream.permutations[0], torch.arange(16))
    for task in range(4):
        order = stream.permutations[task]
        assert order.sort().values.tolist() == list(range(16))
        for data, source, indices in (
            (stream.train, train, stream.train_indices(task, task)),
            (stream.test, test, stream.test_indices(task)),
        ):
            part = data.select(indices)
            expected = source.images.flatten(2)[:, :, order]  # the same order in each channel
            assert torch.equal(part.images.flatten(2), expected)
            assert torch.equal(part.labels, source.labels + (0 if scenario == "domain" else 2 * task))
            assert part.task_ids.unique().tolist() == [task]
    # Not all alike, a bug that others had.
    assert len({tuple(order.tolist()) for order in stream.permutations}) == 4


@pytest.mark.parametrize(
    ("scenario", "num_labels", "num_heads", "active"),
    [("task", 6, 3, [6, 6, 6]), ("domain", 2, 1, [2, 2, 2]), ("class", 6, 1, [2, 4, 6])],
)
def test_labels_heads_and_competing_outputs_of_a_permuted_stream(scenario, num_labels, num_heads, active, image_set):
    stream = permuted(image_set(8, 2), image_set(4, 2), 3, scenario, seed=0)
    assert (stream.num_labels, stream.num_heads) == (num_labels, num_heads)
    assert len(set(stream.train.class_names)) == num_labels
    assert [stream.num_active(task) for task in range(3)] == active


@scenarios
def test_one_task_alone_has_the_names_of_the_data(scenario, image_set):
    """Nothing is permuted; of several tasks each has names of its own where it has labels of its own."""
    names = image_set(8, 2).class_names
    assert permuted(image_set(8, 2), image_set(4, 2), 1, scenario, seed=0).train.class_names == names
    two = permuted(image_set(8, 2), image_set(4, 2), 2, scenario, seed=0).train.class_names
    assert two == (names if scenario == "domain" else ("a (task 1)", "b (task 1)", "a (task 2)", "b (task 2)"))


def test_permutations_depend_on_their_seed_and_task_alone(image_set):
    def permutations(num_tasks, seed, global_seed):
        torch.manual_seed(global_seed)
        return permuted(image_set(4, 2), image_set(2, 2), num_tasks, "domain", seed).permutations

    several = permutations(4, seed=3, global_seed=0)
    assert torch.equal(several, permutations(4, seed=3, global_seed=1))  # another run, another worker
    assert torch.equal(several[:2], permutations(2, seed=3, global_seed=0))
    assert not torch.equal(several[1], permutations(4, seed=4, global_seed=0)[1])


def test_a_stream_keeps_to_its_permutations(image_set):
    sets = image_set(4, 2), image_set(2, 2)
    stream, other = (permuted(*sets, 3, "domain", seed) for seed in (0, 1))
    stream.load_state_dict(permuted(*sets, 3, "domain", 0).state_dict())
    for another in (other, split(*sets, 2, "class")):
        with pytest.raises(ValueError, match="permutations"):
            stream.load_state_dict(another.state_dict())
        with pytest.raises(ValueError, match="permutations"):
            another.load_state_dict(stream.state_dict())


# StreamBatches


def stream_batches(stream, steps):
    def of_phase(phase):
        return ImageBatches(stream.train.select(stream.train_indices(phase, phase)), 4, seed=phase)

    return StreamBatches(of_phase, steps)


def test_batches_go_through_the_tasks_by_their_steps(make_stream):
    batches = stream_batches(make_stream(num_tasks=3), [5, 1, 2])
    seen = [
        (batch["task_ids"].unique().tolist(), batches.phase, batches.phase_done)
        for _, batch in zip(range(8), batches, strict=False)
    ]
    tasks = [0] * 5 + [1] + [2] * 2
    ends = [False] * 4 + [True, True, False, True]
    assert seen == [([task], task, end) for task, end in zip(tasks, ends, strict=True)]
    assert batches.global_batch_size == 4


@pytest.mark.parametrize("num_before", range(8))
def test_batches_of_a_stream_go_on_where_the_state_was_taken(num_before, make_stream):
    stream, steps = make_stream(num_tasks=3), [5, 1, 2]
    batches = stream_batches(stream, steps)
    for _ in range(num_before):
        next(batches)
    state = batches.state_dict()
    expected = [next(batches) for _ in range(8 - num_before)]
    other = stream_batches(stream, steps)
    next(other)
    other.load_state_dict(state)
    assert other.state_dict() == state
    for batch in expected:
        again = next(other)
        assert all(torch.equal(batch[name], again[name]) for name in batch)
    assert other.phase_done


def test_the_device_of_a_stream(make_stream):
    stream = make_stream().to("meta")
    assert {data.images.device.type for data in (stream.train, stream.test)} == {"meta"}
    assert stream.train.task_ids.device.type == "meta" and stream.num_tasks == 3
    assert replace(stream, num_tasks=1).num_tasks == 1


@pytest.mark.parametrize("kind", ["split", "permuted"])
def test_training_images_in_place_of_test_images(kind, image_set):
    """Evenly spaced in each task, as many as there are test images or training images, whichever are fewer."""
    train, test = image_set(12, 4), image_set(8 if kind == "split" else 20, 4, seed=1)
    stream = split(train, test, 2, "class") if kind == "split" else permuted(train, test, 2, "class", seed=1)
    seen = stream.seen()
    for task in range(2):
        where, theirs = seen.test_indices(task), stream.train_indices(task, task)
        chosen = [0, 1, 3, 4] if kind == "split" else list(range(12))  # of 6, and of 12 in each permutation
        assert where.stop - where.start == len(chosen)
        assert torch.equal(seen.test.images[where], stream.train.images[theirs][chosen])
        assert torch.equal(seen.test.labels[where], stream.train.labels[theirs][chosen])
    assert seen.train is stream.train


def test_training_images_that_lie_class_by_class_are_of_each_class(image_set):
    train, test = (replace(image_set(2 * num, 4), labels=torch.arange(2).repeat_interleave(num)) for num in (12, 4))
    seen = split(train, test, 1, "class").seen()
    assert seen.test.labels.bincount().tolist() == [4, 4]
