"""Image data sets in memory and the batches drawn from them."""

from dataclasses import replace
from itertools import islice

import pytest
import torch

from hwzoo.data import BINARIZATIONS, ImageBatches, ImageSet, ImageSplits, binarize
from hwzoo.errors import UsageError


def numbered_set(num, num_channels=1):
    """Each image is recognised by its first pixels, and labelled with its index modulo 10."""
    indices = torch.arange(num)
    images = torch.zeros(num, num_channels, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0], images[:, 0, 0, 1] = indices % 256, indices // 256
    return ImageSet(images, indices % 10, tuple("0123456789"))


def indices_of(batch):
    """The indices in the numbered set of the images of a batch."""
    low, high = batch["pixel_values"][:, 0, 0, :2].mul(255).round().long().unbind(1)
    return (low + 256 * high).tolist()


def take(batches, num):
    return [indices_of(batch) for batch in islice(batches, num)]


def flat(batches):
    return [index for batch in batches for index in batch]


# ImageSet


def test_pixels_are_float32_in_the_unit_range():
    images = torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8)
    data = ImageSet(images, torch.zeros(4, dtype=torch.long), ("only",))
    pixel_values = data.pixel_values()
    assert pixel_values.dtype == torch.float32
    torch.testing.assert_close(pixel_values, images.double().div(255).float())
    assert pixel_values.min() == 0 and pixel_values.max() == 1
    assert torch.equal(data.pixel_values(torch.tensor([2, 0])), pixel_values[[2, 0]])
    assert torch.equal(data.pixel_values(slice(1, 3)), pixel_values[1:3])
    assert torch.equal(data.images, torch.arange(256, dtype=torch.uint8).reshape(4, 1, 8, 8))


def test_a_set_knows_its_sizes():
    data = ImageSet(torch.zeros(5, 3, 7, 7, dtype=torch.uint8), torch.zeros(5, dtype=torch.long), ("only",))
    assert (len(data), data.num_channels, data.image_size) == (5, 3, 7)


def test_images_that_are_not_square_are_refused():
    data = ImageSet(torch.zeros(2, 1, 4, 6, dtype=torch.uint8), torch.zeros(2, dtype=torch.long), ("only",))
    with pytest.raises(UsageError, match="^--dataset_name: .* 4 x 6 "):
        _ = data.image_size


def set_of_tasks(num=6):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num, 2, 3, 3), generator=generator, dtype=torch.uint8)
    return ImageSet(images, torch.arange(num) % 2, ("even", "odd"), task_ids=torch.arange(num) // 2)


@pytest.mark.parametrize("indices", [slice(1, 4), torch.tensor([4, 0, 4])], ids=["slice", "indices"])
def test_selected_images_keep_their_labels_and_tasks(indices):
    data = set_of_tasks()
    part = data.select(indices)
    assert torch.equal(part.images, data.images[indices])
    assert torch.equal(part.labels, data.labels[indices])
    assert torch.equal(part.task_ids, data.task_ids[indices])
    assert part.class_names == data.class_names
    shared = part.images.untyped_storage().data_ptr() == data.images.untyped_storage().data_ptr()
    assert shared == isinstance(indices, slice)  # a slice is no copy
    assert grey_set(8).select(indices).task_ids is None


def test_a_batch_of_places():
    data, indices = set_of_tasks(), torch.tensor([5, 0, 5])
    batch = data.batch(indices)
    assert set(batch) == {"pixel_values", "labels", "task_ids"}
    assert torch.equal(batch["pixel_values"], data.pixel_values(indices))
    assert batch["labels"].tolist() == [1, 0, 1] and batch["task_ids"].tolist() == [2, 0, 2]
    assert batch["task_ids"].dtype == torch.int64
    assert set(grey_set(8).batch(indices)) == {"pixel_values", "labels"}


def test_a_moved_set_takes_its_tasks_along():
    moved = set_of_tasks().to("meta")
    assert {tensor.device.type for tensor in (moved.images, moved.labels, moved.task_ids)} == {"meta"}
    assert grey_set(2).to("meta").task_ids is None


def test_mean_and_std_of_each_channel():
    data = set_of_tasks(num=50)
    pixels = data.pixel_values().double().transpose(0, 1).flatten(1)
    mean, std = data.mean_and_std()
    assert mean == pytest.approx(pixels.mean(1).tolist(), abs=1e-4)
    assert std == pytest.approx(pixels.std(1, correction=0).tolist(), abs=1e-4)
    assert mean[0] != mean[1]
    data.images[:, 1] = 51  # a channel that is not used: networks divide by its deviation
    assert (data.mean_and_std()[0][1], data.mean_and_std()[1][1]) == (0.2, 1.0)


# Binarisation


def grey_set(num, size=4):
    images = torch.randint(256, (num, 1, size, size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return ImageSet(images, torch.arange(num), tuple(map(str, range(num))))


def test_binarised_pixels_are_black_or_white_by_the_seed():
    data = grey_set(50)
    before = data.images.clone()
    binary = data.binarized(3)
    assert binary.images.dtype == torch.uint8 and set(binary.images.unique().tolist()) == {0, 255}
    assert torch.equal(binary.labels, data.labels) and binary.class_names == data.class_names
    assert torch.equal(data.images, before)
    torch.manual_seed(1)
    assert torch.equal(data.binarized(3).images, binary.images)
    assert not torch.equal(data.binarized(4).images, binary.images)


def test_binarised_pixels_are_white_as_often_as_their_intensity():
    intensities = torch.tensor([0, 1, 64, 128, 254, 255], dtype=torch.uint8)
    images = intensities.reshape(1, 1, 1, 6).expand(40_000, -1, -1, -1).contiguous()
    binary = ImageSet(images, torch.zeros(40_000, dtype=torch.long), ("only",)).binarized(0)
    frequency = binary.images.double().div(255).mean((0, 1, 2))
    expected = intensities.double() / 255
    assert frequency[0] == 0 and frequency[-1] == 1
    error = (expected * (1 - expected) / 40_000).sqrt()
    assert ((frequency - expected).abs() <= 4 * error).all()


def test_each_image_is_binarised_alike_whatever_follows_it():
    data = grey_set(10_050, size=2)  # more than is drawn at once
    binary = data.binarized(0).images
    for num in (7, 10_000, 10_001):
        part = ImageSet(data.images[:num], data.labels[:num], data.class_names)
        assert torch.equal(part.binarized(0).images, binary[:num])
    uniform = torch.rand(data.images.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(binary, (uniform * 255 < data.images).to(torch.uint8) * 255)


def test_a_threshold_is_above_127_and_leaves_the_rest():
    data = replace(
        numbered_set(6), images=torch.tensor([0, 1, 127, 128, 200, 255], dtype=torch.uint8).view(6, 1, 1, 1)
    )
    binary = data.thresholded()
    assert binary.images.dtype == torch.uint8 and binary.images.flatten().tolist() == [0, 0, 0, 255, 255, 255]
    assert torch.equal(binary.labels, data.labels)


def test_each_binarisation_makes_its_training_and_test_images():
    splits = ImageSplits("some", grey_set(40), grey_set(30))
    for binarization, (train, test) in {
        "dynamic": (splits.train, splits.test.binarized(7)),
        "static": (splits.train.binarized(3), splits.test.binarized(7)),
        "threshold": (splits.train.thresholded(), splits.test.thresholded()),
        "none": (splits.train, splits.test),
    }.items():
        made = splits.binarized(binarization, seed=3, test_seed=7)
        assert torch.equal(made[0].images, train.images) and torch.equal(made[1].images, test.images)
        assert binarization in BINARIZATIONS[binarization].format(seed=7)


def test_binarize_compares_intensities_with_the_noise():
    pixel_values = torch.tensor([0.0, 0.3, 0.3, 1.0])
    uniform = torch.tensor([0.0, 0.29, 0.3, 1 - 2**-24])
    assert torch.equal(binarize(pixel_values, uniform), torch.tensor([0.0, 1.0, 0.0, 1.0]))


def test_binarize_gives_the_frequency_of_the_intensity():
    uniform = torch.rand(100_000, generator=torch.Generator().manual_seed(0))
    binary = binarize(torch.full((100_000,), 0.3), uniform)
    assert binary.dtype == torch.float32 and set(binary.tolist()) == {0.0, 1.0}
    assert binary.mean().item() == pytest.approx(0.3, abs=0.006)


# ImageBatches


def test_a_batch_holds_images_and_their_labels():
    data = numbered_set(300, num_channels=3)
    batch = next(ImageBatches(data, 25, seed=0))
    assert set(batch) == {"pixel_values", "labels"}
    assert batch["pixel_values"].shape == (25, 3, 2, 2) and batch["pixel_values"].dtype == torch.float32
    assert batch["labels"].dtype == torch.int64
    assert batch["labels"].tolist() == [index % 10 for index in indices_of(batch)]
    assert torch.equal(batch["pixel_values"], data.pixel_values(torch.tensor(indices_of(batch))))
    batch = next(ImageBatches(replace(data, task_ids=torch.arange(300) // 7), 25, seed=0))
    assert batch["task_ids"].tolist() == [index // 7 for index in indices_of(batch)]


@pytest.mark.parametrize("num, batch_size", [(300, 25), (300, 300), (317, 25), (29, 15)])
def test_an_epoch_has_each_image_once_but_for_the_incomplete_batch(num, batch_size):
    batches = ImageBatches(numbered_set(num), batch_size, seed=0)
    assert len(batches) == num // batch_size
    for _ in range(3):
        epoch = take(batches, len(batches))
        assert {len(batch) for batch in epoch} == {batch_size}
        assert len(set(flat(epoch))) == len(flat(epoch)) == len(batches) * batch_size
        assert set(flat(epoch)) <= set(range(num))


def test_each_epoch_and_each_seed_has_its_own_order():
    def epochs(seed):
        batches = ImageBatches(numbered_set(100), 20, seed)
        return [tuple(flat(take(batches, 5))) for _ in range(3)]

    assert epochs(0) == epochs(0)
    assert len({*epochs(0), tuple(range(100))}) == 4
    assert epochs(0)[0] != epochs(7)[0]


def test_the_global_random_state_has_no_part_in_it():
    batches, twin = (ImageBatches(numbered_set(100), 20, seed=0) for _ in range(2))
    expected = take(batches, 7)
    state = torch.get_rng_state()
    for batch in expected:
        torch.manual_seed(1)
        assert indices_of(next(twin)) == batch
    torch.set_rng_state(state)
    next(twin)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("num_before", [0, 1, 3, 4, 5, 8, 10], ids=lambda num: f"after {num} of 4 an epoch")
def test_batches_go_on_where_the_state_was_taken(num_before):
    batches = ImageBatches(numbered_set(103), 25, seed=5)
    take(batches, num_before)
    state = batches.state_dict()
    expected = take(batches, 9)
    fresh, used = (ImageBatches(numbered_set(103), 25, seed=5) for _ in range(2))
    take(used, 6)
    for other in (fresh, used, batches):
        other.load_state_dict(state)
        assert other.state_dict() == state
        assert take(other, 9) == expected


@pytest.mark.parametrize("num_processes", [2, 4])
def test_processes_share_the_batches_of_one(num_processes):
    data, batch_size = numbered_set(110), 20 // num_processes
    alone = ImageBatches(data, 20, seed=2)
    together = [ImageBatches(data, batch_size, 2, index, num_processes) for index in range(num_processes)]
    assert {len(batches) for batches in together} == {len(alone)} == {5}
    assert {batches.global_batch_size for batches in together} == {alone.global_batch_size} == {20}
    for expected in take(alone, 12):
        assert flat(indices_of(next(batches)) for batches in together) == expected
    assert all(batches.state_dict() == alone.state_dict() for batches in together)


def test_processes_share_each_part_of_a_batch():
    """What one process takes in its first part is what all take in their first parts."""
    data = numbered_set(110)
    alone = ImageBatches(data, 24, seed=2, num_parts=3)
    together = [ImageBatches(data, 12, 2, index, 2, num_parts=3) for index in range(2)]
    for expected in take(alone, 6):
        shares = [torch.tensor(indices_of(next(batches))).chunk(3) for batches in together]
        assert torch.cat([torch.cat(parts) for parts in zip(*shares, strict=True)]).tolist() == expected


@pytest.mark.parametrize("batch_size, num_processes, wanted", [(11, 1, 11), (4, 3, 12)])
def test_a_set_smaller_than_a_step_is_refused(batch_size, num_processes, wanted):
    with pytest.raises(UsageError) as error:
        ImageBatches(numbered_set(10), batch_size, 0, 0, num_processes)
    message = str(error.value)
    assert message.startswith("--train_batch_size: ") and "\n" not in message
    assert f" {wanted} images" in message and message.endswith(" 10")


def test_the_place_in_another_data_set_is_refused():
    state = ImageBatches(numbered_set(10), 2, seed=0).state_dict()
    with pytest.raises(ValueError, match="the data set has 8 images, it had 10"):
        ImageBatches(numbered_set(8), 2, seed=0).load_state_dict(state)
