"""Views of images: what each setting does, by value, and that the noise alone decides them."""

import math

import pytest
import torch
from torch.nn import functional as F

from hwzoo.data import NUM_NOISE, Augmentations, augment

NOTHING = dict.fromkeys(("stretch", "rotation", "shear", "shift", "blur", "contrast", "brightness"), 0.0)
NOTHING |= {"min_scale": 1.0, "max_scale": 1.0}


def some_images(num=5, channels=2, size=9):
    return torch.rand(num, channels, size, size, generator=torch.Generator().manual_seed(1))


def some_noise(num=5, seed=2):
    return torch.rand(num, NUM_NOISE, generator=torch.Generator().manual_seed(seed))


def noise_of(**values):
    """Of one image: in the middle but for some numbers, by their place."""
    noise = torch.full((1, NUM_NOISE), 0.5)
    for place, value in values.items():
        noise[0, int(place[1:])] = value
    return noise


def test_views_are_images_of_the_same_shape_and_vary():
    images = some_images(200)
    views = augment(images, some_noise(200), Augmentations(mirror=True))
    assert views.shape == images.shape and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1
    assert (views - images).abs().mean((1, 2, 3)).min() > 0.01


def test_the_noise_alone_decides_and_each_image_has_its_own():
    images, settings = some_images(), Augmentations(mirror=True)
    state = torch.get_rng_state()
    views = augment(images, some_noise(), settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augment(images, some_noise(), settings), views)
    assert not torch.allclose(augment(images, some_noise(seed=3), settings), views)
    for index in range(5):
        alone = augment(images[index : index + 1], some_noise()[index : index + 1], settings)
        torch.testing.assert_close(alone, views[index : index + 1])


def test_without_strength_nothing_changes():
    images = some_images()
    torch.testing.assert_close(augment(images, some_noise(), Augmentations(**NOTHING)), images)


def test_a_quarter_turn_and_a_mirror():
    images = some_images(1)
    turned = augment(images, noise_of(_2=1.0), Augmentations(**NOTHING | {"rotation": 90.0}))
    torch.testing.assert_close(turned, images.rot90(1, (2, 3)), atol=1e-5, rtol=0)
    mirrored = Augmentations(**NOTHING, mirror=True)
    torch.testing.assert_close(augment(images, noise_of(_6=0.4), mirrored), images.flip(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(augment(images, noise_of(_6=0.6), mirrored), images, atol=1e-5, rtol=0)


def test_a_view_shows_the_part_that_its_scale_says():
    images = some_images(1, 1, 8)
    half = augment(images, noise_of(_0=0.0), Augmentations(**NOTHING | {"min_scale": 0.5}))
    inner = F.interpolate(images[:, :, 1:7, 1:7], (12, 12), mode="bilinear")[:, :, 2:10, 2:10]
    torch.testing.assert_close(half, inner, atol=1e-5, rtol=0)
    twice = augment(torch.ones(1, 1, 8, 8), noise_of(_0=1.0), Augmentations(**NOTHING | {"max_scale": 2.0}))
    assert torch.equal(twice[:, :, 2:6, 2:6], torch.ones(1, 1, 4, 4)) and twice.sum() == 16  # in a black frame


def test_shifts_go_both_ways():
    images = some_images(1, 1, 8)
    moved = augment(images, noise_of(_4=1.0, _5=0.0), Augmentations(**NOTHING | {"shift": 0.25}))
    expected = torch.zeros_like(images)
    expected[:, :, 1:, :-1] = images[:, :, :-1, 1:]  # one pixel of eight is a quarter of half of them
    torch.testing.assert_close(moved, expected, atol=1e-5, rtol=0)


def test_stretch_and_shear_move_the_places_that_they_say():
    """A ramp tells where each pixel was taken from."""
    across = torch.linspace(-1 + 1 / 64, 1 - 1 / 64, 64).expand(1, 1, 64, 64) / 2 + 0.5
    down = across.transpose(2, 3)
    x, y = across * 2 - 1, down * 2 - 1
    inside = slice(16, 48)
    ratio = Augmentations(**NOTHING | {"stretch": 0.4})
    for images, place, factor in ((across, x, math.exp(0.2)), (down, y, math.exp(-0.2))):
        view = augment(images, noise_of(_1=1.0), ratio)[..., inside, inside]
        torch.testing.assert_close(view, (place * factor / 2 + 0.5)[..., inside, inside], atol=1e-4, rtol=0)
    view = augment(across, noise_of(_3=1.0), Augmentations(**NOTHING | {"shear": 0.3}))
    expected = (x + 0.3 * y) / 2 + 0.5
    torch.testing.assert_close(view[..., inside, inside], expected[..., inside, inside], atol=1e-4, rtol=0)


def test_blur_is_the_binomial_filter():
    dot = torch.zeros(1, 1, 5, 5)
    dot[0, 0, 2, 2] = 1
    blurred = augment(dot, noise_of(_7=0.4), Augmentations(**NOTHING | {"blur": 0.5}))
    weights = torch.tensor([0.0, 1, 2, 1, 0]) / 4
    torch.testing.assert_close(blurred[0, 0], weights[:, None] * weights, atol=1e-5, rtol=0)
    assert torch.allclose(augment(dot, noise_of(_7=0.6), Augmentations(**NOTHING | {"blur": 0.5})), dot, atol=1e-5)
    flat = torch.full((1, 1, 5, 5), 0.7)
    torch.testing.assert_close(augment(flat, noise_of(_7=0.0), Augmentations(**NOTHING | {"blur": 1.0})), flat)


@pytest.mark.parametrize("place, name", [("_8", "contrast"), ("_9", "brightness")])
@pytest.mark.parametrize("value, factor", [(1.0, 1.2), (0.0, 0.8)])
def test_contrast_is_around_the_mean_and_brightness_around_black(place, name, value, factor):
    images = some_images(1) * 0.4 + 0.2
    view = augment(images, noise_of(**{place: value}), Augmentations(**NOTHING | {name: 0.2}))
    centre = images.mean() if name == "contrast" else 0.0
    torch.testing.assert_close(view, centre + factor * (images - centre), atol=1e-5, rtol=0)
