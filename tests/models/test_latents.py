"""Paths between latents, against closed forms; the families share the file."""

import itertools
import math

import pytest
import torch

from hwzoo.models.vae.latents import between


def test_a_great_circle_is_walked_at_an_even_pace():
    start, end = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    (path,) = between(start, end, 4, "spherical")
    angles = torch.tensor([0.0, 30.0, 60.0, 90.0]).deg2rad()
    torch.testing.assert_close(path, 3 * torch.stack([angles.cos(), angles.sin()], 1))
    (straight,) = between(start, end, 4, "linear")
    torch.testing.assert_close(straight, torch.tensor([[3.0, 0.0], [2.0, 1.0], [1.0, 2.0], [0.0, 3.0]]))


def test_the_formula_is_that_of_the_paper():
    start, end = torch.randn(2, 5, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    path = between(start, end, 5, "spherical")
    for index, (first, last) in enumerate(zip(start, end, strict=True)):
        omega = math.acos(first @ last / first.norm() / last.norm())
        for step, mu in enumerate((0.0, 0.25, 0.5, 0.75, 1.0)):
            weights = (math.sin((1 - mu) * omega) / math.sin(omega), math.sin(mu * omega) / math.sin(omega))
            torch.testing.assert_close(path[index, step], weights[0] * first + weights[1] * last)


def test_normal_latents_of_many_dimensions_keep_their_length():
    start, end = torch.randn(2, 200, 100, generator=torch.Generator().manual_seed(0))
    spherical, linear = (between(start, end, 3, mode)[:, 1].norm(dim=1).mean() for mode in ("spherical", "linear"))
    assert spherical == pytest.approx(100**0.5, rel=0.02) and linear == pytest.approx(50**0.5, rel=0.02)


@pytest.mark.parametrize("factor", [1.0, 2.0, -1.0, 0.0])
def test_latents_on_one_line_are_joined_by_it(factor):
    start = torch.randn(4, 20, generator=torch.Generator().manual_seed(0))
    path = between(start, factor * start, 5, "spherical")
    assert path.isfinite().all()
    if factor:  # the origin has no direction
        torch.testing.assert_close(path, between(start, factor * start, 5, "linear"), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(path[:, -1], factor * start)


@pytest.mark.parametrize("mode", ["spherical", "linear"])
@pytest.mark.parametrize(
    "dtypes", [*itertools.product([torch.float64, torch.float32, torch.bfloat16], repeat=2)], ids=str
)
def test_ends_may_be_of_different_precision(dtypes, mode):
    ends = torch.randn(2, 4, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).bfloat16()
    path = between(*(end.to(dtype) for end, dtype in zip(ends, dtypes, strict=True)), 5, mode)
    assert path.dtype == (torch.float64 if torch.float64 in dtypes else torch.float32)
    torch.testing.assert_close(path.double(), between(*ends.double(), 5, mode), rtol=1e-5, atol=1e-5)
