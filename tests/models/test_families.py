"""What every family promises: one suite over the table that registers them."""

import copy
import importlib
import inspect
import json
import os
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import torch
import warm
from huggingface_hub.errors import StrictDataclassClassValidationError, StrictDataclassFieldValidationError
from safetensors.torch import save_file
from torch import nn
from transformers import AutoImageProcessor
from transformers.dynamic_module_utils import get_relative_imports

from hwzoo import AutoregressiveModel, FlowModel, SimCLRModel, VQVAEModel, hub
from hwzoo.errors import HwzooError
from hwzoo.models import FAMILIES
from hwzoo.training import config_flags

# For a value of each type, one that its field must refuse.
WRONG = {bool: "yes", int: 2.5, float: "0.5", str: "no such choice", list: "16"}

ZOO = [family for family in FAMILIES if family.model_class]  # other libraries test the classes of theirs
# What each family's own test says of it: config, the fields of a tiny one; losses, where it has not the one `loss`;
# labelled, where that is of labels; inputs, what gives so many inputs of a family that takes no images; mode, what
# makes the `sample` of one that draws more than latents draw them alone.
SUITE = {family.name: importlib.import_module(f"test_{family.name}").SUITE for family in ZOO}
families = pytest.mark.parametrize("family", ZOO, ids=lambda family: family.name)
# Those that take images, and the others, whose inputs their own tests spoil.
OF_IMAGES = [family for family in ZOO if family.model_class.main_input_name == "pixel_values"]
of_images = pytest.mark.parametrize("family", OF_IMAGES, ids=lambda family: family.name)
generative = pytest.mark.parametrize(
    "family", [family for family in ZOO if hasattr(family.model_class, "sample")], ids=lambda family: family.name
)
conditional = pytest.mark.parametrize(
    "family",
    [family for family in OF_IMAGES if hasattr(family.config_class, "num_classes")],
    ids=lambda family: family.name,
)


def architecture(config):
    """The fields that the family itself defines: what equal models share, whatever library saved them."""
    return {name: getattr(config, name) for name in type(config).__annotations__}


def tiny_config(family, **changes):
    return family.config_class(**SUITE[family.name]["config"] | changes)


def tiny_model(family, seed=0):
    torch.manual_seed(seed)
    return family.model_class(tiny_config(family)).eval()


def some_images(config, num=6):
    shape = (num, config.num_channels, config.image_size, config.image_size)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)).round()


def some_inputs(family, config, num=6):
    """What a family's forward takes to compute its loss."""
    if "inputs" in SUITE[family.name]:
        return SUITE[family.name]["inputs"](config, num)
    inputs = {"pixel_values": some_images(config, num)}
    if SUITE[family.name].get("labelled"):
        inputs["labels"] = torch.arange(num) % config.num_labels
    return inputs


def seeded_forward(model, inputs):
    torch.manual_seed(7)
    with torch.no_grad():
        return dict(model(**inputs))


def seeded_sample(model):
    return model.sample(5, generator=torch.Generator().manual_seed(7))


def same_tensors(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.fixture
def saved(family, tmp_path):
    """A tiny model and the folder that `hub.save` wrote."""
    model = tiny_model(family)
    hub.save(model, tmp_path / "saved")
    return model, tmp_path / "saved"


# Configurations


@families
def test_a_config_comes_back_from_its_folder(family, tmp_path):
    config = tiny_config(family)
    config.save_pretrained(tmp_path)
    loaded = family.config_class.from_pretrained(tmp_path)
    # Where it came from is no property of the model.
    assert loaded.to_dict() | {"_name_or_path": ""} == config.to_dict()
    assert architecture(loaded) == architecture(config)
    assert SUITE[family.name]["config"].items() <= architecture(loaded).items()


@families
def test_a_config_comes_back_from_json(family):
    config = tiny_config(family)
    for use_diff in (True, False):
        loaded = family.config_class.from_dict(json.loads(config.to_json_string(use_diff=use_diff)))
        assert architecture(loaded) == architecture(config)


@families
def test_tuples_come_back_equal_as_lists(family, tmp_path):
    lists = {name: value for name, value in SUITE[family.name]["config"].items() if isinstance(value, list)}
    config = tiny_config(family, **{name: tuple(value) for name, value in lists.items()})
    config.save_pretrained(tmp_path)
    loaded = family.config_class.from_pretrained(tmp_path)
    assert architecture(config) == architecture(loaded) == architecture(tiny_config(family))


@families
def test_a_misspelt_field_is_refused_by_name(family):
    field = next(iter(architecture(tiny_config(family))))
    with pytest.raises(ValueError) as error:
        tiny_config(family, **{field + "x": 1})
    assert repr(field + "x") in str(error.value)
    assert all(repr(name) in str(error.value) for name in architecture(tiny_config(family)))


@families
def test_a_value_of_the_wrong_type_is_refused_by_name(family):
    for name, value in architecture(tiny_config(family)).items():
        with pytest.raises(StrictDataclassFieldValidationError, match=name):
            tiny_config(family, **{name: WRONG[type(value)]})


@families
def test_whole_numbers_are_taken_for_floats(family):
    """JSON of other programs writes 1.0 as 1."""
    annotations = family.config_class.__annotations__
    flags = {each.name: each.type for each in fields(config_flags(family.config_class))}
    for name in (each for each in annotations if "float" in str(annotations[each])):
        many = isinstance(architecture(tiny_config(family))[name], list)
        assert flags[name] == (list[float] if many else float)
        taken = 0
        for whole in (0, 1):
            number, same, wrong = ([each] if many else each for each in (float(whole), whole, bool(whole)))
            try:
                expected = tiny_config(family, **{name: number})
            except StrictDataclassClassValidationError:  # out of its range, as either
                with pytest.raises(StrictDataclassClassValidationError, match=name):
                    tiny_config(family, **{name: same})
                continue
            taken += 1
            assert architecture(tiny_config(family, **{name: same})) == architecture(expected)
            setattr(expected, name, same)
            told = expected.to_dict() | {name: same}
            assert architecture(family.config_class.from_dict(json.loads(json.dumps(told)))) == architecture(expected)
            family.model_class(expected)
            with pytest.raises(StrictDataclassFieldValidationError, match=name):
                tiny_config(family, **{name: wrong})
        assert taken


# Weights


@families
def test_the_same_seed_gives_the_same_model(family):
    model, twin, other = tiny_model(family), tiny_model(family), tiny_model(family, seed=1)
    inputs = some_inputs(family, model.config)
    assert same_tensors(model.state_dict(), twin.state_dict())
    assert not same_tensors(model.state_dict(), other.state_dict())
    assert same_tensors(seeded_forward(model, inputs), seeded_forward(twin, inputs))


@families
def test_layers_start_with_the_initialisation_of_torch(family):
    torch.manual_seed(0)
    model = family.model_class(family.config_class())  # the default: tiny layers have no exact spread
    kinds = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
    weights = {name: layer.weight for name, layer in model.named_modules() if isinstance(layer, kinds)}
    large = {name: weight for name, weight in weights.items() if weight.numel() >= 2_000}
    assert large
    for name, weight in large.items():
        # Uniform within 1 / sqrt(fan-in); transformers' own would be 0.02 everywhere.
        assert weight.std().item() == pytest.approx((3 * weight[0].numel()) ** -0.5, rel=0.05), name
        assert weight.abs().max() <= weight[0].numel() ** -0.5, name
        assert model.get_submodule(name).bias.abs().max() > 0, name


@families
def test_a_few_steps_on_a_batch_lower_its_loss(family):
    for name, part in SUITE[family.name].get("losses", {"loss": ""}).items():
        model = tiny_model(family).train()
        inputs = some_inputs(family, model.config)
        parameters = list(model.get_submodule(part).parameters())
        optimizer = torch.optim.Adam(parameters, lr=0.01)
        losses = []
        for _ in range(5):
            torch.manual_seed(0)
            loss = model(**inputs)[name]
            losses.append(loss.item())
            loss.backward()
            assert all(parameter.grad is not None for parameter in parameters)
            optimizer.step()
            optimizer.zero_grad()
        assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0], name


# Model, its fields, and how many modules of a class one part of it then has.
DEPTHS = {
    "patch_transformer": (
        AutoregressiveModel, {"network": "patch_transformer", "num_layers": 3}, {("network", "GPT2Block"): 3},
    ),
    "vqvae": (
        VQVAEModel, {"num_residual_layers": 3, "prior_num_layers": 2},
        {("autoencoder.encoder", "Residual"): 3, ("autoencoder.decoder", "Residual"): 3, ("prior", "GPT2Block"): 2},
    ),
    "glow": (
        FlowModel, {"network": "glow", "num_scales": 2, "num_steps": 3, "num_hidden_layers": 4},
        {("network", "HalfCoupling"): 3 + 3, ("network", "Split"): 1, ("network.scales.1.3.network", "Conv2d"): 4},
    ),
    "realnvp": (
        FlowModel, {"network": "realnvp", "num_scales": 3, "num_steps": 2},
        {("network", "Squeeze"): 2, ("network", "Split"): 2, ("network", "CheckerboardCoupling"): 2 + 2 + 3,
         ("network", "HalfCoupling"): 2 + 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("model_class", "changes", "expected"), DEPTHS.values(), ids=DEPTHS)
def test_a_model_is_as_deep_as_it_is_asked_to_be(model_class, changes, expected):
    model = model_class(model_class.config_class(**changes))
    for (part, kind), num in expected.items():
        found = [each for each in model.get_submodule(part).modules() if type(each).__name__ == kind]
        assert len(found) == num, (part, kind)


# Saving and loading


@families
def test_a_saved_model_comes_back(family, saved):
    model, folder = saved
    inputs = some_inputs(family, model.config)
    for load in (
        lambda: family.model_class.from_pretrained(folder),
        lambda: family.auto_class.from_pretrained(folder),
        lambda: hub.load(family.model_class, folder),
    ):
        loaded = load()
        assert type(loaded) is family.model_class
        assert not loaded.training
        assert architecture(loaded.config) == architecture(model.config)
        assert same_tensors(loaded.state_dict(), model.state_dict())
        # Weights in a mapped file lie at any address, and some matrix products round by it.
        torch.testing.assert_close(seeded_forward(loaded, inputs), seeded_forward(model, inputs))
    assert all(tensor.data_ptr() % 64 == 0 for tensor in loaded.state_dict().values())  # by `hub.load`, in their own
    assert same_tensors(seeded_forward(loaded, inputs), seeded_forward(model, inputs))


@families
def test_a_model_of_another_family_is_refused(family, tmp_path):
    """transformers would warn, and give a model of random weights."""
    other = ZOO[ZOO.index(family) - 1].config_class.model_type
    hub.save(tiny_model(family), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"model_type": other}))
    for load in (family.model_class.from_pretrained, family.config_class.from_pretrained):
        with pytest.raises(ValueError, match=f"^this config is {other}'s; {family.config_class.__name__} is"):
            load(tmp_path)


def drop(weights, name):
    del weights[name]
    return name


def add(weights, name):
    weights[name + "_x"] = torch.zeros(2)
    return name + "_x"


def reshape(weights, name):
    weights[name] = weights[name][None]
    return name


CHANGES = {"missing": drop, "unexpected": add, "mismatched": reshape}


@families
@pytest.mark.parametrize("kind, change", CHANGES.items(), ids=CHANGES)
def test_weights_that_do_not_fit_are_refused_by_name(family, saved, kind, change):
    model, folder = saved
    names = list(model.state_dict())
    for name in dict.fromkeys((names[0], names[len(names) // 2], names[-1])):
        weights = dict(model.state_dict())
        wrong = change(weights, name)
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(HwzooError) as error:
            hub.load(family.model_class, folder)
        assert str(error.value) == f"{folder} has {kind} weights: {wrong}"


REMOTE = f"""
import sys
sys.modules["hwzoo"] = None  # importing it fails
import torch, transformers
from pathlib import Path

{inspect.getsource(seeded_forward)}
{inspect.getsource(seeded_sample)}

for folder in map(Path, sys.argv[1:]):
    auto_class = getattr(transformers, (folder / "auto_class").read_text())
    inputs = torch.load(folder / "inputs.pt")
    for name in ("saved", "saved_again"):
        model = auto_class.from_pretrained(folder / name, trust_remote_code=True)
        results = seeded_forward(model, inputs)
        if hasattr(model, "sample"):
            results["sample"] = seeded_sample(model)
        torch.save(results, folder / f"{{name}}.pt")
    model.save_pretrained(folder / "saved_remotely")
    if (folder / "saved_again/preprocessor_config.json").exists():
        processor = transformers.AutoImageProcessor.from_pretrained(folder / "saved_again", trust_remote_code=True)
        processor.save_pretrained(folder / "saved_remotely")
"""


@pytest.fixture(scope="module")
def remote(tmp_path_factory):
    """
    A folder a family: `saved`, and `saved_again` after a load, were loaded in a process without hwzoo, which left what
    it computed in .pt files and saved the model as `saved_remotely`.
    """
    root = tmp_path_factory.mktemp("remote")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for family in ZOO:
        model, folder = tiny_model(family), root / family.name
        hub.save(model, folder / "saved")
        # By transformers' own calls: the code goes along.
        family.auto_class.from_pretrained(folder / "saved").save_pretrained(folder / "saved_again")
        if family.image_processor_class is not None:
            AutoImageProcessor.from_pretrained(folder / "saved").save_pretrained(folder / "saved_again")
        torch.save(some_inputs(family, model.config), folder / "inputs.pt")
        (folder / "auto_class").write_text(family.auto_class.__name__)
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(elsewhere / "modules")}
    folders = [root / family.name for family in ZOO]
    warm.run(["-c", REMOTE, *folders], cwd=elsewhere, env=environment, check=True)
    return root


@families
@pytest.mark.parametrize("name", ["saved", "saved_again"])
def test_a_model_works_without_hwzoo(family, remote, name):
    model = tiny_model(family)
    expected = seeded_forward(model, some_inputs(family, model.config))
    if hasattr(model, "sample"):
        expected["sample"] = seeded_sample(model)
    torch.testing.assert_close(torch.load(remote / family.name / f"{name}.pt"), expected)


@families
def test_each_save_holds_weights_config_and_code_and_nothing_else(family, remote):
    files = [*Path(inspect.getfile(family.model_class)).parent.glob("*.py")]
    source = {path.name: path.read_bytes() for path in files if path.name != "__init__.py"}
    names = {"config.json", "model.safetensors"}
    if family.image_processor_class is not None:
        names.add("preprocessor_config.json")
        path = Path(inspect.getfile(family.image_processor_class))  # it may be another family's
        siblings = [path.parent / f"{name}.py" for name in get_relative_imports(path)]
        source |= {each.name: each.read_bytes() for each in (path, *siblings)}
    names |= source.keys()
    for name in ("saved", "saved_again", "saved_remotely"):
        folder = remote / family.name / name
        assert {path.name for path in folder.iterdir()} == names
        assert {path.name: path.read_bytes() for path in folder.glob("*.py")} == source


@families
def test_a_model_saved_without_hwzoo_comes_back_here(family, remote):
    folder, model = remote / family.name / "saved_remotely", tiny_model(family)
    loaded = hub.load(family.model_class, folder)
    assert same_tensors(loaded.state_dict(), model.state_dict())
    if family.image_processor_class is not None:
        processor = AutoImageProcessor.from_pretrained(folder)
        assert type(processor) is family.image_processor_class
        expected = family.image_processor_class.from_config(model.config).to_dict()
        assert {name: value for name, value in processor.to_dict().items() if name != "auto_map"} == expected


# Samples


@generative
def test_samples_are_what_the_family_draws(family):
    model = tiny_model(family)
    config = model.config
    for num_samples in (1, 5):
        samples = model.sample(num_samples)
        assert not samples.requires_grad
        if family.draws == "images":
            assert samples.shape == (num_samples, config.num_channels, config.image_size, config.image_size)
            assert samples.dtype == torch.float32 and 0 <= samples.min() < samples.max() <= 1
        else:
            assert samples.shape == (num_samples, config.max_tokens) and samples.dtype == torch.int64
            assert dict(model(samples))  # they are what it takes


@generative
def test_a_generator_alone_decides_the_samples(family):
    model = tiny_model(family)
    samples = seeded_sample(model)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(seeded_sample(model), samples)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(model.sample(5, generator=torch.Generator().manual_seed(8)), samples)


@generative
def test_an_unconditional_model_refuses_labels(family):
    with pytest.raises(ValueError, match="labels"):
        tiny_model(family).sample(2, labels=torch.zeros(2, dtype=torch.long))


WRONG_LABELS = {
    "none": (None, "labels is None"),
    "no class": (torch.tensor([0, 1, 3]), "labels holds 3; it must be one of 0 to 2 for each of the 3 images"),
    "negative": (torch.tensor([0, -1, 2]), "labels holds -1; it must be"),
    "one for all": (torch.tensor([2]), r"labels has shape \(1,\); it must be one of 0 to 2 for each of the 3 images"),
    "too few": (torch.tensor([2, 1]), r"labels has shape \(2,\)"),
    "numbers with points": (torch.tensor([0.0, 1.0, 2.0]), "labels is float32; it must be int64"),
    "a mask": (torch.tensor([True, False, True]), "labels is bool; it must be int64"),
}


@conditional
@pytest.mark.parametrize("name", WRONG_LABELS)
def test_wrong_labels_of_a_conditional_model_are_refused_by_name(family, name):
    labels, told = WRONG_LABELS[name]
    model = family.model_class(tiny_config(family, num_classes=3)).eval()
    images = some_images(model.config, 3)
    calls = [call for call in TAKES_LABELS if hasattr(model, call)]
    assert len(calls) > 1
    for call in calls:
        with pytest.raises(ValueError, match=told):
            getattr(model, call)(images, labels=labels, **({"num_importance_samples": 2} if "iwae" in call else {}))
    if labels is not None:
        with pytest.raises(ValueError, match=told):
            model.sample(3, labels=labels)


# Noise


@pytest.mark.parametrize(
    "family",
    [family for family in ZOO if "noise" in inspect.signature(family.model_class.forward).parameters],
    ids=lambda family: family.name,
)
def test_noise_of_another_shape_is_refused(family):
    """It would be broadcast: all examples with the same noise, without an error."""
    model = tiny_model(family)
    inputs = some_inputs(family, model.config)
    some = inputs[model.main_input_name]
    shape = getattr(model, "noise_shape", some.shape[1:] if family.name == "flow" else (model.config.latent_size,))
    noise = torch.zeros(len(some), *shape)
    calls = [call for call in ("forward", "negative_elbo_bound", "negative_bound") if hasattr(model, call)]
    for call in (getattr(model, each) for each in calls):
        call(some, noise=noise)
        for wrong in (noise[:1], noise[0], noise[..., :1], noise[None]):
            with pytest.raises(ValueError) as error:
                call(some, noise=wrong)
            assert str(error.value) == f"noise has shape {tuple(wrong.shape)}; it must be {tuple(noise.shape)}"


# Pixels

# What of each family takes images and, of a conditional model, needs their labels.
TAKES_LABELS = (
    "forward", "negative_elbo_bound", "negative_iwae_bound", "discriminate", "logits", "log_prob", "bits_per_dim",
    "to_latents", "negative_bound", "search",
)  # fmt: skip
# What of each family takes images; all have `forward`.
TAKES_PIXELS = (
    "forward", "encode", "negative_elbo_bound", "negative_iwae_bound", "reconstruct", "discriminate", "features",
    "logits", "log_prob", "bits_per_dim", "to_latents", "initialize", "complete",
)  # fmt: skip
MORE = {"negative_iwae_bound": (2,), "complete": (torch.ones(8, 8, dtype=torch.bool),)}
WRONG_PIXELS = {
    "0 to 255": (lambda images: (images * 255).byte(), r"pixel_values is torch.uint8; it must be .* in \[0, 1\]"),
    "integers": (lambda images: images.long(), r"pixel_values is torch.int64; it must be .* in \[0, 1\]"),
    "booleans": (lambda images: images.bool(), r"pixel_values is torch.bool; it must be .* in \[0, 1\]"),
    "0.0 to 255.0": (lambda images: images * 255, "255; .* 0|from 0 to 255; it must be in"),
    "-1 to 1": (lambda images: images * 2 - 1, "-1; .* 0|from -1 to 1; it must be in"),
    "not a number": (lambda images: images * torch.nan, "nan"),
}


@of_images
@pytest.mark.parametrize("name", WRONG_PIXELS)
def test_pixels_that_are_not_in_0_to_1_are_refused_with_the_range(family, name):
    spoil, told = WRONG_PIXELS[name]
    model = tiny_model(family)
    calls = [call for call in TAKES_PIXELS if hasattr(model, call)]
    assert len(calls) > 1
    for training in (False, True):
        model.train(training)
        for call in calls:
            with pytest.raises(ValueError, match=told):
                getattr(model, call)(spoil(some_images(model.config)), *MORE.get(call, ()))


WRONG_SHAPES = {
    "channels last": lambda images: images.movedim(1, -1),
    "no channels": lambda images: images[:, 0],
    "one image": lambda images: images[0],
    "another size": lambda images: images[..., 1:],
}


@of_images
@pytest.mark.parametrize("name", WRONG_SHAPES)
def test_images_of_another_shape_are_refused(family, name):
    """A flattening layer takes them, and a likelihood broadcasts them: wrong numbers without an error."""
    settings = [{}] + [{"likelihood": "gaussian"}] * (family.name == "vae")
    for model in (family.model_class(tiny_config(family, **each)).eval() for each in settings):
        images = WRONG_SHAPES[name](some_images(model.config))
        for call in (call for call in TAKES_PIXELS if hasattr(model, call)):
            with pytest.raises(ValueError, match=r"pixel_values has shape \("):
                getattr(model, call)(images, *MORE.get(call, ()))


# What else of a family computes other things than its tiny model.
OTHERS_BY_FAMILY = {
    "autoregressive": [
        {"network": "pixelcnn"},
        {"network": "patch_transformer", "hidden_size": 12, "head_hidden_size": 32, "num_attention_heads": 2},
    ],
    "flow": [{"network": "nice"}, {"network": "realnvp"}],
    "textvae": [{"latent_size": 0}],
    "vqvae": [{"prior": "uniform"}],
}
of_each_kind = pytest.mark.parametrize(
    ("family", "changes"),
    [
        (family, changes)
        for family in ZOO
        for changes in (
            {}, *OTHERS_BY_FAMILY.get(family.name, ()),
            *([{"num_classes": 3}] if hasattr(family.config_class, "num_classes") else ()),
        )
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)  # fmt: skip


def of_kind(family, changes, num):
    """A tiny model and so many inputs, with the noise that it would draw."""
    torch.manual_seed(0)
    model = family.model_class(tiny_config(family, **changes)).eval()
    given = some_inputs(family, model.config, num)
    if "noise" in inspect.signature(model.forward).parameters:
        shape = given["pixel_values"].shape[1:] if family.name == "flow" else (model.config.latent_size,)
        given["noise"] = torch.rand(num, *shape, generator=torch.Generator().manual_seed(2))
    if "num_classes" in changes:
        given["labels"] = torch.arange(num) % 3
    return model, given


@of_each_kind
def test_gradients_of_single_examples_by_vmap(family, changes):
    """Where no value can be looked at, none is."""
    model, given = of_kind(family, changes, 3)
    parameters = {name: each for name, each in model.named_parameters() if each.requires_grad}

    def loss(parameters, inputs):
        inputs = {key: value[None] for key, value in inputs.items()}
        output = torch.func.functional_call(model, parameters, (), inputs)
        return sum(output[name] for name in SUITE[family.name].get("losses", {"loss": ""}))

    each = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, given)
    for index in range(3):
        inputs = {key: value[index] for key, value in given.items()}
        gradients = torch.autograd.grad(loss(parameters, inputs), [*parameters.values()], materialize_grads=True)
        for key, gradient in zip(parameters, gradients, strict=True):
            torch.testing.assert_close(each[key][index], gradient, rtol=1e-4, atol=1e-5)


@of_each_kind
def test_on_the_meta_device_shapes_are_those_of_any(family, changes):
    model, given = of_kind(family, changes, 3)
    transforms = changes.get("network") == "patch_transformer" or (family.name == "vqvae" and "prior" not in changes)
    for training in (False, True):
        expected = {name: value.shape for name, value in model.train(training)(**given).items()}
        inputs = {name: value.to("meta") for name, value in given.items()}
        empty = copy.deepcopy(model).to("meta")
        if transforms:
            with pytest.raises(RuntimeError, match="cannot be called on meta tensors"):  # of transformers' GPT-2
                empty(**inputs)
            continue
        assert {name: value.shape for name, value in empty(**inputs).items()} == expected


@families
def test_a_batch_of_nothing_is_no_error_of_range(family):
    model = tiny_model(family)
    inputs = some_inputs(family, model.config, num=0)[model.main_input_name]
    of_images = ("log_prob", "bits_per_dim", "to_latents") if family in OF_IMAGES else ()
    for call in ("encode", "features", "logits", *of_images):
        if hasattr(model, call):
            assert len(getattr(model, call)(inputs)) in (0, 2)
    if hasattr(model, "sample"):
        assert len(model.sample(0)) == 0


@pytest.mark.parametrize(
    "model_class, config",
    [
        (AutoregressiveModel, {"network": "patch_transformer", "num_attention_heads": 2}),
        (FlowModel, {"network": "glow", "num_scales": 2, "num_channels": 3, "num_steps": 1}),
        (FlowModel, {"network": "realnvp", "num_scales": 2, "num_channels": 3, "num_steps": 1}),
        (VQVAEModel, {"hidden_sizes": [4], "prior_hidden_size": 4, "prior_num_heads": 1}),
    ],
)
def test_no_images_of_the_networks_that_other_libraries_refuse(model_class, config):
    small = {} if model_class is VQVAEModel else {"hidden_size": 4}
    model = model_class(model_class.config_class(image_size=8, **small, **config)).eval()
    images = torch.zeros(0, model.config.num_channels, 8, 8)
    assert model.sample(0).shape == images.shape
    for call in ("forward", "log_prob", "bits_per_dim", "to_latents", "negative_bound"):
        if hasattr(model, call):
            getattr(model, call)(images)
    if hasattr(model, "complete"):
        assert model.complete(images, torch.ones(8, 8).bool()).shape == images.shape


def test_a_file_of_several_families_is_the_same_in_each():
    copies = {}
    for path in (Path(__file__).parents[2] / "src/hwzoo/models").glob("*/*.py"):
        copies.setdefault(path.name, []).append(path.read_bytes())
    shared = {name: texts for name, texts in copies.items() if len(texts) > 1 and name != "__init__.py"}
    assert {"pixels.py", "labels.py", "latents.py"} <= shared.keys()
    for name, texts in shared.items():
        assert len(set(texts)) == 1, name


# Labels

labelled = pytest.mark.parametrize(
    "family", [family for family in ZOO if SUITE[family.name].get("labelled")], ids=lambda family: family.name
)


@labelled
@pytest.mark.parametrize("given", ["both", "id2label", "label2id"])
def test_a_model_is_loaded_with_other_labels_as_transformers_users_write_them(family, given, tmp_path):
    own = SUITE[family.name]["config"] | {"num_labels": 4}
    own |= {"num_heads": 1} if "num_heads" in own else {}  # it divides 3 too
    family.model_class(family.config_class(**own)).save_pretrained(tmp_path / "old")
    names = {"num_labels": 3, "id2label": {"0": "cat", "1": "dog", "2": "cow"}}
    if given != "id2label":
        names["label2id"] = {"cat": "0", "dog": "1", "cow": "2"}
    if given == "label2id":
        del names["id2label"]
    loaded = family.model_class.from_pretrained(tmp_path / "old", **names, ignore_mismatched_sizes=True)
    loaded.save_pretrained(tmp_path / "new")
    for config in (loaded.config, family.model_class.from_pretrained(tmp_path / "new").config):
        assert config.id2label == {0: "cat", 1: "dog", 2: "cow"}
        assert config.label2id == {"cat": 0, "dog": 1, "cow": 2}


@labelled
def test_the_statistics_of_the_pixels_are_those_of_the_config_that_is_saved(family, tmp_path):
    model, images = tiny_model(family), some_images(tiny_config(family))
    before = model(images).logits
    model.config.image_mean, model.config.image_std = [0.2], [0.7]
    after = model(images).logits
    assert not torch.allclose(after, before, atol=1e-4)
    model.save_pretrained(tmp_path)
    torch.testing.assert_close(family.model_class.from_pretrained(tmp_path)(images).logits, after)


@labelled
def test_labels_may_be_int32(family):
    """As the generators' may."""
    model = tiny_model(family)
    inputs = some_inputs(family, model.config)
    assert torch.equal(model(**inputs | {"labels": inputs["labels"].int()}).loss, model(**inputs).loss)


@labelled
def test_names_of_labels_may_be_given_from_either_side(family):
    own = SUITE[family.name]["config"]
    for numbers in ({"cat": 0, "dog": 1}, {"cat": "0", "dog": "1"}):  # JSON may have either
        for more in ({}, {"num_labels": 2}, {"id2label": {0: "cat", 1: "dog"}}):
            config = family.config_class(**own, **more, label2id=numbers)
            assert (config.id2label, config.label2id) == ({0: "cat", 1: "dog"}, {"cat": 0, "dog": 1})
    with pytest.raises(ValueError, match="^num_labels is 10, but label2id has 2 names"):
        family.config_class(**own, num_labels=10, label2id={"cat": 0, "dog": 1})
    twice = {"cat": 0, "dog": "0", "cow": 1}
    for make in (lambda: family.config_class(**own, label2id=twice),
                 lambda: family.config_class.from_dict(config.to_dict(), label2id=twice)):  # fmt: skip
        with pytest.raises(ValueError, match=r"^label2id is {'cat': 0, 'dog': '0', 'cow': 1}; each name must have"):
            make()


@labelled
@pytest.mark.parametrize("problem", ["multi_label_classification", "regression"])
def test_a_problem_that_the_loss_is_not_of_is_refused(family, problem, tmp_path):
    told = f"problem_type is '{problem}'; it must be single_label_classification or None"
    with pytest.raises(StrictDataclassClassValidationError, match=told):
        tiny_config(family, problem_type=problem)
    tiny_model(family).save_pretrained(tmp_path)
    with pytest.raises(StrictDataclassClassValidationError, match=told):
        family.model_class.from_pretrained(tmp_path, problem_type=problem)
    config = family.model_class.from_pretrained(tmp_path, problem_type="single_label_classification").config
    assert config.problem_type == "single_label_classification"


# Latents

LATENT = [family for family in ZOO if hasattr(family.model_class, "interpolate")]
latent = pytest.mark.parametrize("family", LATENT, ids=lambda family: family.name)


def mode_of(family):
    """What makes `sample` draw nothing but the latents."""
    return SUITE[family.name].get("mode", {})


def some_latents(config, num, seed):
    size = config.latent_size if hasattr(config, "latent_size") else config.num_channels * config.image_size**2
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed))


def test_models_with_latents_name_and_order_them_alike():
    assert {"vae", "gan", "flow", "textvae"} <= {family.name for family in LATENT}
    for name in ("interpolate", "sample"):
        signatures = [inspect.signature(getattr(family.model_class, name)).parameters for family in LATENT]
        shared = [
            [(each.name, each.kind, each.default) for each in parameters.values() if each.name != "temperature"]
            for parameters in signatures
        ]
        assert all(each == shared[0] for each in shared), name
        assert name == "interpolate" or "latents" in signatures[0]


@latent
def test_latents_alone_decide_the_samples(family):
    model = tiny_model(family)
    latents = some_latents(model.config, 5, 1)
    state = torch.get_rng_state()
    samples = model.sample(5, latents=latents, **mode_of(family))
    assert torch.equal(torch.get_rng_state(), state)
    assert samples.shape[0] == 5 and not samples.requires_grad
    torch.testing.assert_close(model.sample(2, latents=latents[:2], **mode_of(family)), samples[:2])
    other = 3 * some_latents(model.config, 5, 2)  # far: tokens do not move with every change of a latent
    assert not torch.allclose(model.sample(5, latents=other, **mode_of(family)), samples)
    for wrong in (latents[:4], latents[:, :-1], latents[None]):
        with pytest.raises(ValueError, match=r"latents has shape .*; it must be \(5, "):
            model.sample(5, latents=wrong)


@latent
@pytest.mark.parametrize("mode", [None, "spherical", "linear"])
def test_a_path_begins_and_ends_with_its_ends(family, mode):
    model = tiny_model(family)
    start, end = some_latents(model.config, 3, 1), some_latents(model.config, 3, 2)
    samples = model.interpolate(start, end, 4, mode=mode)
    assert samples.shape == (3, 4, *model.sample(1).shape[1:]) and not samples.requires_grad
    torch.testing.assert_close(samples[:, 0], model.sample(3, latents=start, **mode_of(family)))
    torch.testing.assert_close(samples[:, -1], model.sample(3, latents=end, **mode_of(family)))


@latent
def test_the_ends_of_a_path_may_be_of_another_precision_than_the_model(family):
    """A user's latents, or what the model draws, and its encodings of inputs."""
    model = tiny_model(family)
    latents, end = some_latents(model.config, 3, 1), some_latents(model.config, 3, 2)
    if hasattr(model, "encode") or hasattr(model, "to_latents"):
        end = some_inputs(family, model.config, 3)[model.main_input_name]
    expected = model.interpolate(latents, end, 3)
    torch.testing.assert_close(model.interpolate(latents.double(), end, 3), expected)
    model.bfloat16()
    for start in (latents, latents.bfloat16(), latents.double()):
        path = model.interpolate(start, end, 3)
        if not expected.is_floating_point():  # the likeliest token may be another one
            assert path.shape == expected.shape
        else:
            torch.testing.assert_close(path, expected, rtol=0, atol=0.05)


@latent
def test_what_is_no_path_is_refused(family):
    model = tiny_model(family)
    start, end = some_latents(model.config, 3, 1), some_latents(model.config, 3, 2)
    with pytest.raises(ValueError, match="num_steps is 1; it must be at least 2"):
        model.interpolate(start, end, 1)
    with pytest.raises(ValueError, match="mode is 'cubic'; it must be one of spherical, linear"):
        model.interpolate(start, end, 3, mode="cubic")
    with pytest.raises(ValueError, match="start and end are of the shapes"):
        model.interpolate(start, end[:2], 3)
    for part in (slice(0, 1), slice(0, -1)):
        with pytest.raises(ValueError, match="latents has shape"):
            model.interpolate(start[:, part], end[:, part], 3)
    with pytest.raises(ValueError, match="unconditional"):
        model.interpolate(start, end, 3, labels=torch.zeros(3, dtype=torch.long))
    if family.name != "textvae":
        model = family.model_class(tiny_config(family, num_classes=3)).eval()
        start, end = some_latents(model.config, 2, 1), some_latents(model.config, 2, 2)
        for labels in (None, torch.tensor([0, 3]), torch.tensor([0, 1, 2])):
            with pytest.raises(ValueError, match="one of 0 to 2 for each of the 2 images"):
                model.interpolate(start, end, 3, labels=labels)


@families
def test_a_value_that_is_given_while_loading_is_checked(family, tmp_path):
    tiny_model(family).save_pretrained(tmp_path)
    name = "vocab_size" if family.name == "textvae" else "image_size"
    for load in (family.model_class, family.config_class):
        with pytest.raises(StrictDataclassClassValidationError, match=f"{name} is 0"):
            load.from_pretrained(tmp_path, **{name: 0})
    config, unused = family.config_class.from_pretrained(tmp_path, return_unused_kwargs=True, other=3)
    assert architecture(config) == architecture(tiny_config(family)) and unused == {"other": 3}


@families
def test_a_config_of_a_later_library_loads(family, tmp_path):
    model = tiny_model(family)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"field_of_the_future": 1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = family.model_class.from_pretrained(tmp_path, attn_implementation="eager")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), loaded.parameters(), strict=True))


@families
def test_a_result_that_is_not_finite_costs_neither_model_nor_results(family, tmp_path):
    hub.save(tiny_model(family), tmp_path, {"test_x": float("inf"), "test_y": 1.0})
    assert (tmp_path / "model.safetensors").exists()
    assert json.loads((tmp_path / "all_results.json").read_text()) == {"test_x": "inf", "test_y": 1.0}


# Fields of flags that have an effect with some values of others alone, and another value of each.
OTHERS = {
    "autoregressive": dict(
        first_kernel_size=7, kernel_size=3, dilations=[2], residual=True, patch_size=2, patch_context="neighbours",
        num_attention_heads=3,
    ),
    "classifier": dict(hidden_sizes=[6], dropout=0.5),
    "flow": dict(num_scales=1),
    "simclr": dict(temperature=2.0, predictor="trained", predictor_hidden_size=4, stop_gradient=True),
    "textvae": dict(beta=3.0, free_bits=2.0),
    "vae": dict(num_mixture_components=2),
    "vqvae": dict(prior_hidden_size=8, prior_num_layers=3, prior_num_heads=1, prior_dropout=0.5),
}  # fmt: skip
# What their configs need for all values of the others to go together.
FITTING = {"autoregressive": dict(hidden_size=12, head_hidden_size=32, patch_size=4, num_attention_heads=2)}


def choices(config_class, name):
    """Values of a field to try: all of its words, none and two of a size."""
    return get_args(config_class.__annotations__[name]) or (0, 2)


@families
def test_a_field_that_is_said_to_have_no_effect_has_none_and_has_one_elsewhere(family):
    ruled = {each.name: each.metadata["only"] for each in fields(family.config_class) if "only" in each.metadata}
    others = OTHERS.get(family.name, {})
    assert ruled.keys() == others.keys()
    for name, only in ruled.items():
        for condition, allowed in only.items():
            values = choices(family.config_class, condition)
            assert {value in allowed for value in values} == {True, False}
            for value in values:
                rest = {each: allowed[0] for each, allowed in only.items() if each != condition}
                fitting = FITTING.get(family.name, {}) | rest | {condition: value}
                left, right = (
                    tiny_config(family, **fitting | changes) for changes in ({}, {name: others[name]})
                )  # fmt: skip
                assert getattr(left, name) != getattr(right, name)
                assert has_effect(family, left, right) == (value in allowed), (name, condition, value)


def has_effect(family, left, right):
    """Whether models of two configs have other weights, another loss in training or other gradients of it."""
    everything = []
    for config in (left, right):
        torch.manual_seed(0)
        model = (SimCLRModel if family.name == "simclr" else family.model_class)(config).train()
        state = {name: value.clone() for name, value in model.state_dict().items()}
        inputs = some_inputs(family, config)
        if family.name == "simclr":  # it learns from two views, without labels
            inputs = {"pixel_values": inputs["pixel_values"], "other_pixel_values": inputs["pixel_values"].flip(-1)}
        torch.manual_seed(7)
        loss = model(**inputs).loss
        loss.backward()
        gradients = {f"{name}'": each.grad for name, each in model.named_parameters() if each.grad is not None}
        everything.append(state | gradients | {"": loss.detach()})
    return not same_tensors(*everything)
