"""The mathematics of SimCLR: losses by their sums, who learns from which gradient, one batch in several processes."""

import math
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import warm
from huggingface_hub.errors import StrictDataclassClassValidationError
from PIL import Image
from torch import nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoModelForImageClassification, pipeline

from hwzoo import hub
from hwzoo.models.classifier.image_processing_classifier import ClassifierImageProcessor
from hwzoo.models.simclr.configuration_simclr import SimCLRConfig
from hwzoo.models.simclr.losses_simclr import negative_cosine, nt_xent, relative_std
from hwzoo.models.simclr.modeling_simclr import SimCLRForImageClassification, SimCLRModel

# For the shared suite: a small model with its optional parts switched on.
SUITE = {
    "config": dict(
        image_size=9,
        num_channels=3,
        hidden_sizes=[4, 6, 5],
        pool_size=2,
        loss="simsiam",
        temperature=0.5,
        projection_hidden_size=7,
        projection_size=6,
        predictor="fixed",
        predictor_hidden_size=3,
        stop_gradient=False,
        image_mean=[0.5, 0.4, 0.3],
        image_std=[0.3, 0.4, 0.5],
    ),
    "labelled": True,
    "losses": {"loss": "classifier"},  # of the probe: the rest learns from views
}
SMALL = dict(image_size=8, hidden_sizes=[4, 6, 5], projection_hidden_size=7, projection_size=6)
SMALL |= dict(predictor_hidden_size=3, temperature=0.5, image_mean=[0.3], image_std=[0.4])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small_model(model_class=SimCLRModel, **changes):
    torch.manual_seed(0)
    return model_class(SimCLRConfig(**SMALL | changes)).double()


def some_images(num=6, seed=1, size=8):
    return torch.rand((num, 1, size, size), generator=seeded(seed), dtype=torch.float64)


def some_projections(num=4, size=3, seed=2):
    return [torch.randn(num, size, generator=seeded(each), dtype=torch.float64) for each in (seed, seed + 10)]


def cosine(a, b):
    return (a @ b / (a.norm() * b.norm())).item()


# Losses


@pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
def test_nt_xent_is_the_double_loop_of_the_paper(temperature):
    first, second = some_projections()
    views, num = torch.cat([first, second]), len(first)
    total = 0.0
    for i in range(2 * num):
        partner = (i + num) % (2 * num)
        others = sum(math.exp(cosine(views[i], views[k]) / temperature) for k in range(2 * num) if k != i)
        total -= math.log(math.exp(cosine(views[i], views[partner]) / temperature) / others)
    assert nt_xent(first, second, temperature).item() == pytest.approx(total / (2 * num), rel=1e-12)


@pytest.mark.parametrize("num", [2, 5, 64])
def test_at_an_infinite_temperature_all_others_are_as_likely(num):
    loss = nt_xent(*some_projections(num), math.inf)
    assert loss.item() == pytest.approx(math.log(2 * num - 1), rel=1e-12)


def test_a_batch_of_one_point_has_the_same_loss():
    """The own view is masked: with exp(1 / temperature) subtracted in its place the sum of the others is lost."""
    same = torch.ones(5, 3)
    assert nt_xent(same, same, 0.1).item() == pytest.approx(math.log(9), rel=1e-6)


def test_views_that_agree_and_differ_from_all_others_have_no_loss():
    apart = torch.eye(4)
    assert nt_xent(apart, apart, 0.01).item() < 1e-6
    assert nt_xent(apart, apart.roll(1, 0), 0.01).item() > 90  # the other view of the image is none of the near ones


def test_gradients_of_nt_xent():
    inputs = [each.requires_grad_() for each in some_projections(3)]
    assert torch.autograd.gradcheck(lambda *both: nt_xent(*both, 0.5), inputs)


def test_losses_are_of_the_directions_alone():
    first, second = some_projections()
    torch.testing.assert_close(nt_xent(3 * first, second / 7, 0.5), nt_xent(first, second, 0.5))
    plain = negative_cosine((first, second), (second, first), True)
    torch.testing.assert_close(negative_cosine((3 * first, second), (second / 7, first), True), plain)


def test_losses_are_float32_under_autocast():
    first, second = (each.float() for each in some_projections(16, 8))
    with torch.autocast("cpu", torch.bfloat16):
        losses = [nt_xent(first, second, 0.05), negative_cosine((first, second), (second, first), True)]
        losses.append(relative_std(first))
    expected = [nt_xent(first, second, 0.05), negative_cosine((first, second), (second, first), True)]
    expected.append(relative_std(first))
    assert all(torch.equal(*pair) for pair in zip(losses, expected, strict=True))
    half = nt_xent(first.bfloat16(), second.bfloat16(), 0.05)
    assert half.dtype == torch.float32 and half.item() == pytest.approx(expected[0].item(), rel=0.02)


def test_simsiam_is_the_mean_of_both_predictions_of_the_other_view():
    (p1, p2), (z1, z2) = some_projections(seed=2), some_projections(seed=4)
    expected = -sum(cosine(p1[i], z2[i]) + cosine(p2[i], z1[i]) for i in range(4)) / 8
    for stop in (False, True):
        assert negative_cosine((p1, p2), (z1, z2), stop).item() == pytest.approx(expected, rel=1e-12)
    assert negative_cosine((z2, z1), (z1, z2), True).item() == pytest.approx(-1)


@pytest.mark.parametrize("stop", [False, True])
def test_stop_gradient_holds_what_is_predicted(stop):
    predictions, projections = some_projections(seed=2), some_projections(seed=4)
    inputs = [each.requires_grad_() for each in (*predictions, *projections)]
    loss = negative_cosine(inputs[:2], inputs[2:], stop)
    gradients = torch.autograd.grad(loss, inputs, allow_unused=True)
    assert [each is None for each in gradients] == [False, False, stop, stop]
    if not stop:
        assert torch.autograd.gradcheck(lambda *all_: negative_cosine(all_[:2], all_[2:], False), inputs)


def test_the_spread_tells_a_collapse():
    assert relative_std(torch.ones(10, 4) * torch.arange(1, 11)[:, None]).item() == pytest.approx(0, abs=1e-3)
    everywhere = torch.randn(20_000, 16, generator=seeded())
    assert relative_std(everywhere).item() == pytest.approx(1, abs=0.02)
    # On one axis each way: its standard deviation is 1, all others' 0.
    axis = torch.zeros(10, 4)
    axis[:, 1] = torch.tensor([1.0, -1.0]).repeat(5)
    assert relative_std(axis).item() == pytest.approx(1 / 4 * 2)


# Networks


@pytest.mark.parametrize(
    "hidden_sizes, pool_size, map_size, features",
    [([32, 64, 64, 128, 256], 1, 4, 256), ([8, 4], 1, 14, 4), ([8, 4, 6], 2, 7, 24), ([3] * 9, 1, 1, 3)],
)
def test_shapes(hidden_sizes, pool_size, map_size, features):
    model = SimCLRForImageClassification(SimCLRConfig(hidden_sizes=hidden_sizes, pool_size=pool_size)).eval()
    assert (model.config.map_size, model.config.feature_size, model.feature_size) == (map_size, features, features)
    images = torch.rand(2, 1, 28, 28)
    assert nn.Sequential(*list(model.simclr.backbone)[:-2])(images).shape[2:] == (map_size, map_size)
    assert model.features(images).shape == (2, features) and model(images).logits.shape == (2, 10)
    output = model.simclr(images)
    assert output.loss is None and output.projections.shape == (2, 64)
    assert torch.equal(output[0], model.features(images)) and torch.equal(output.pooler_output, output[0])


def test_parameters_of_the_default():
    assert SimCLRModel(SimCLRConfig()).num_parameters() == 705_216


def test_both_views_are_one_batch_of_the_batch_normalisation():
    model = small_model().train()
    first, second = some_images(), some_images(seed=3) ** 3
    output = model(first, second)
    assert all(layer.num_batches_tracked == 1 for layer in model.modules() if isinstance(layer, nn.BatchNorm2d))
    projections = model.projector(model.features(torch.cat([first, second])))
    torch.testing.assert_close(output.loss, nt_xent(projections[:6], projections[6:], 0.5))
    torch.testing.assert_close(output.projections, projections[:6])
    apart = [model.projector(model.features(each)) for each in (first, second)]
    assert abs(nt_xent(*apart, 0.5) - output.loss) > 1e-3


@pytest.mark.parametrize("predictor", ["trained", "fixed", "none"])
def test_who_learns_under_simsiam(predictor):
    model = small_model(loss="simsiam", predictor=predictor).train()
    model(some_images(), some_images(seed=3)).loss.backward()
    learning = {name.split(".")[0] for name, each in model.named_parameters() if each.grad is not None}
    assert learning == {"backbone", "projector"} | ({"predictor"} if predictor == "trained" else set())
    assert (model.predictor is None) == (predictor == "none")
    assert small_model(loss="nt_xent", predictor=predictor).predictor is None


@pytest.mark.parametrize("stop", [False, True])
def test_simsiam_by_hand(stop):
    model = small_model(loss="simsiam", stop_gradient=stop).train()
    first, second = some_images(), some_images(seed=3)
    model(first, second).loss.backward()
    expected = {name: each.grad.clone() for name, each in model.named_parameters()}
    model.zero_grad()
    z = model.projector(model.features(torch.cat([first, second])))
    p, target = model.predictor(z), z.detach() if stop else z
    loss = -(F.cosine_similarity(p[:6], target[6:]).mean() + F.cosine_similarity(p[6:], target[:6]).mean()) / 2
    loss.backward()
    for name, each in model.named_parameters():
        torch.testing.assert_close(each.grad, expected[name])


def test_without_the_stop_gradient_projections_collapse():
    spreads = {}
    for stop in (False, True):
        torch.manual_seed(0)
        sizes = dict(hidden_sizes=[8, 8], projection_hidden_size=32, projection_size=16, predictor_hidden_size=8)
        model = SimCLRModel(SimCLRConfig(**SMALL | sizes | dict(loss="simsiam", stop_gradient=stop))).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        images, generator = some_images(64).float(), seeded(5)
        for _ in range(60):
            views = [(images + 0.2 * torch.randn(images.shape, generator=generator)).clamp(0, 1) for _ in range(2)]
            output = model(*views)
            output.loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        spreads[stop] = output.projection_std.item()
    assert spreads[False] < 0.1 and spreads[True] > 0.4


def test_pixels_are_normalised_inside():
    model, plain = small_model().eval(), small_model(image_mean=[0.0], image_std=[1.0]).eval()
    images = some_images()
    normalised = (images - 0.3) / 0.4
    torch.testing.assert_close(model.features(images), plain.backbone(normalised))


def test_views_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"other_pixel_values has shape \(5, 1, 8, 8\); it must be that of"):
        small_model()(some_images(), some_images(5))


@pytest.mark.parametrize(
    "changes, told",
    [
        (dict(pool_size=3), "pool_size is 3; the last feature maps are 2 x 2, it must be at most 2"),
        (dict(temperature=0.0), "temperature is 0.0; it must be finite and above 0"),
        (dict(temperature=math.inf), "temperature is inf; it must be finite and above 0"),
        (dict(hidden_sizes=[]), "hidden_sizes is []; it must be one number or more"),
        (dict(projection_size=1), "projection_size is 1; it must be at least 2"),
        (dict(num_channels=5), "num_channels is 5; it must be 1 to 4"),
        (dict(image_std=[0.0]), "image_std is [0.0]; each number must be above 0"),
        (dict(image_mean=[0.1, 0.2]), "image_mean is [0.1, 0.2]; it must hold one number"),
        (dict(image_mean=[math.nan]), "image_mean is [nan]; each number must be finite"),
        (dict(id2label={1: "a", 2: "b"}), "the labels are [1, 2]; they must be 0 to 1"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, told):
    with pytest.raises(StrictDataclassClassValidationError) as error:
        SimCLRConfig(**SMALL | changes)
    assert told in str(error.value.__cause__ or error.value)


# Several processes

TWO = """
import os, sys, torch
from torch.nn.parallel import DistributedDataParallel
sys.path[:0] = [sys.argv[1], os.path.dirname(sys.argv[1])]
from test_simclr import small_model, some_images
rank = int(sys.argv[3])
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}/meet", world_size=2, rank=rank)
for loss in ("nt_xent", "simsiam"):
    model = small_model(loss=loss).train()
    wrapped = DistributedDataParallel(model)
    for seed in (1, 5):
        views = [some_images(seed=each)[3 * rank : 3 * rank + 3] for each in (seed, seed + 2)]
        output = wrapped(*views)
        output.loss.backward()
    mean = output.loss.detach().clone()
    torch.distributed.all_reduce(mean)
    if rank == 0:
        gradients = {name: each.grad for name, each in model.named_parameters()}
        torch.save((mean / 2, gradients, dict(model.named_buffers())), f"{sys.argv[2]}/{loss}.pt")
torch.distributed.barrier()
os._exit(0)  # torch may abort where it takes a group down while its last exchange is being tidied up
"""


@pytest.mark.long
def test_two_processes_have_the_loss_and_gradients_of_one(tmp_path):
    """Of the whole batch: its views are compared with those of both, and normalised by the statistics of both."""
    (tmp_path / "two.py").write_text(TWO)
    commands = [[tmp_path / "two.py", os.path.dirname(__file__), tmp_path, rank] for rank in (0, 1)]
    with ThreadPoolExecutor() as pool:
        for done in pool.map(warm.run, commands):
            assert done.returncode == 0, done.stderr
    for loss in ("nt_xent", "simsiam"):
        model = small_model(loss=loss).train()
        for seed in (1, 5):
            output = model(some_images(seed=seed), some_images(seed=seed + 2))
            output.loss.backward()
        mean, gradients, buffers = torch.load(tmp_path / f"{loss}.pt")
        torch.testing.assert_close(mean, output.loss.detach())
        torch.testing.assert_close(gradients, {name: each.grad for name, each in model.named_parameters()})
        torch.testing.assert_close(buffers, dict(model.named_buffers()))


# From a folder


def test_the_encoder_loads_alone_and_serves_the_pipelines(tmp_path):
    torch.manual_seed(0)
    model = SimCLRForImageClassification(SimCLRConfig(**SMALL, num_labels=3)).eval()
    hub.save(model, tmp_path)
    encoder = AutoModel.from_pretrained(tmp_path)
    assert type(encoder) is SimCLRModel
    picture = np.random.default_rng(0).integers(0, 256, (11, 13), np.uint8)
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(processor) is ClassifierImageProcessor
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    assert pixels.shape == (1, 1, 8, 8)
    extracted = pipeline("image-feature-extraction", model=str(tmp_path))(Image.fromarray(picture))
    torch.testing.assert_close(torch.tensor(extracted), model.features(pixels).detach(), atol=1e-5, rtol=1e-5)
    told = pipeline("image-classification", model=str(tmp_path))(Image.fromarray(picture), top_k=3)
    expected = AutoModelForImageClassification.from_pretrained(tmp_path)(pixels).logits.softmax(-1)[0]
    given = {each["label"]: each["score"] for each in told}
    for label, name in model.config.id2label.items():
        assert given[name] == pytest.approx(expected[label].item(), abs=1e-5)


def test_a_fixed_predictor_stays_fixed_however_it_is_loaded(tmp_path):
    """transformers loads parameters that are trained, whatever they were before."""
    settings = SMALL | dict(loss="simsiam", predictor="fixed", num_labels=3)
    torch.manual_seed(0)
    model = SimCLRForImageClassification(SimCLRConfig(**settings))
    hub.save(model, tmp_path)
    expected = {name: each.clone() for name, each in model.simclr.predictor.named_parameters()}
    views = [some_images(seed=each).float() for each in (1, 3)]
    for loaded in (
        SimCLRModel.from_pretrained(tmp_path),
        SimCLRForImageClassification.from_pretrained(tmp_path).simclr,
        hub.load(SimCLRForImageClassification, str(tmp_path)).simclr,
        hub.load_or_build(SimCLRForImageClassification, str(tmp_path), settings).simclr,
    ):
        optimizer = torch.optim.Adam(loaded.parameters(), lr=0.1)
        loaded.train()(*views).loss.backward()
        optimizer.step()
        assert not torch.equal(loaded.projector[0].weight, model.simclr.projector[0].weight)
        torch.testing.assert_close(dict(loaded.predictor.named_parameters()), expected, rtol=0, atol=0)


def test_a_trained_predictor_is_trained_after_a_load(tmp_path):
    small_model(loss="simsiam").float().save_pretrained(tmp_path)
    assert all(each.requires_grad for each in SimCLRModel.from_pretrained(tmp_path).train().parameters())


def test_the_classifier_is_linear_in_the_features():
    model = small_model(SimCLRForImageClassification, num_labels=3).eval()
    images, labels = some_images(), torch.arange(6) % 3
    output = model(images, labels)
    torch.testing.assert_close(
        output.logits, model.features(images) @ model.classifier.weight.T + model.classifier.bias
    )
    torch.testing.assert_close(output.loss, F.cross_entropy(output.logits, labels))
