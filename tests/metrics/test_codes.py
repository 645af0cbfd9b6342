"""Codes in use, counted over a data set."""

from types import SimpleNamespace

import pytest
import torch

from hwzoo.data import ImageSet
from hwzoo.metrics import code_counts, code_scores


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_codes_of_all_images_are_counted_once(batch_size):
    images = torch.tensor([0, 0, 0, 2, 2, 4, 4], dtype=torch.uint8).view(-1, 1, 1, 1)
    data = ImageSet(images, torch.zeros(7, dtype=torch.long), ("a",))
    config = SimpleNamespace(codebook_size=6)
    encode = lambda pixel_values: (255 * pixel_values).round().long()[:, 0].repeat(1, 2, 1)  # noqa: E731  (two alike)
    model = SimpleNamespace(config=config, encode=encode, device=torch.device("cpu"))
    counts = code_counts(model, data, batch_size)
    assert counts.tolist() == [6, 0, 4, 0, 4, 0]

    class Own:  # has what is documented, and no more
        def __len__(self):
            return len(data)

        def pixel_values(self, indices):
            return data.pixel_values(indices)

    assert torch.equal(code_counts(model, Own(), batch_size), counts)


@pytest.mark.parametrize(
    ("counts", "used", "perplexity"), [([3, 3, 3, 3], 4, 4.0), ([5, 0, 0, 0], 1, 1.0), ([1, 3, 0, 0], 2, 1.7548)]
)
def test_perplexity_is_the_number_of_codes_that_would_be_as_spread(counts, used, perplexity):
    scores = code_scores(torch.tensor(counts))
    assert scores == {"test_codes_used": used, "test_perplexity": pytest.approx(perplexity, abs=1e-4)}
