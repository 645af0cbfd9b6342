"""transformers' Trainer, its outputs and its ways of loading, with the families."""

import importlib
import inspect

import pytest
import torch
from transformers import Trainer, TrainingArguments

from hwzoo import GANModel, VAEConfig, VAEModel, hub
from hwzoo.models import FAMILIES

ZOO = [family for family in FAMILIES if family.model_class]
families = pytest.mark.parametrize("family", ZOO, ids=lambda family: family.name)
layered = pytest.mark.parametrize(
    "family",
    [each for each in ZOO if "output_hidden_states" in inspect.signature(each.model_class.forward).parameters],
    ids=lambda family: family.name,
)
SMALL = {
    "vae": dict(image_size=8, latent_size=3, encoder_hidden_sizes=[16], decoder_hidden_sizes=[16]),
    "gan": dict(
        image_size=8, latent_size=3, generator_hidden_size=16, generator_channels=[8, 4],
        discriminator_channels=[3, 5], discriminator_hidden_size=16,
    ),
    "classifier": dict(image_size=16, image_mean=[0.3], image_std=[0.5]),
    "flow": dict(image_size=8, num_scales=1, num_steps=2, hidden_size=8, num_hidden_layers=1),
    "autoregressive": dict(image_size=8, hidden_size=8, num_layers=1, head_hidden_size=16),
    "vqvae": dict(
        image_size=8, hidden_sizes=[8], codebook_size=8, code_size=4, prior_hidden_size=8, prior_num_layers=1,
        prior_num_heads=2,
    ),
    "textvae": dict(vocab_size=9, max_tokens=5, embedding_size=4, hidden_size=8, latent_size=2),
}  # fmt: skip


def build(family, **changes):
    torch.manual_seed(0)
    return family.model_class(family.config_class(**SMALL.get(family.name, SMALL["classifier"]) | changes)).eval()


def inputs_of(model, num=4):
    if model.main_input_name == "input_ids":
        return {"input_ids": torch.tensor([[3, 4, 5, 6, 1], [7, 1, 0, 0, 0]])[torch.arange(num) % 2]}
    size = model.config.image_size
    images = torch.rand(num, 1, size, size, generator=torch.Generator().manual_seed(1)).round()
    takes_labels = "labels" in inspect.signature(model.forward).parameters and not isinstance(model, GANModel)
    return {"pixel_values": images} | ({"labels": torch.arange(num)} if takes_labels else {})


def outputs(model, **inputs):
    torch.manual_seed(7)
    with torch.no_grad():
        return model(**inputs)


# What of a family has other layers than its small model.
OTHERS = [
    ("vae", dict(network="conv", num_classes=4)),
    ("vae", dict(encoder_hidden_sizes=[], prior="mixture", num_mixture_components=5, train_importance_samples=3)),
    ("vae", dict(likelihood="gaussian", output_hidden_states=True)),
    ("gan", dict(spectral_norm=True, output_hidden_states=True)),
    ("classifier", dict(backbone="mlp", hidden_sizes=[])),
    ("classifier", dict(backbone="wide_cnn", output_hidden_states=True)),
    ("flow", dict(network="nice", num_classes=4)),
    ("flow", dict(network="realnvp", num_scales=2)),
    ("autoregressive", dict(network="pixelcnn", num_classes=4)),
    ("autoregressive", dict(network="gated_pixelcnn")),
    ("autoregressive", dict(patch_size=1, num_classes=4)),
    ("vqvae", dict(codebook_update="loss", num_classes=4)),
]


@pytest.mark.parametrize(
    "name, changes", [*((family.name, {}) for family in ZOO), *OTHERS, ("simclr", "two views")], ids=str
)
def test_a_replica_of_data_parallel_gives_what_the_model_gives(name, changes, monkeypatch):
    """transformers' Trainer wraps a model in it where it sees several GPUs. A replica has no parameters."""
    # Its copies to the GPUs, on the CPU.
    monkeypatch.setattr(
        importlib.import_module("torch.nn.parallel.replicate"), "_broadcast_coalesced_reshape",
        lambda tensors, devices, detach=False: [[each.clone() for each in tensors] for _ in devices],
    )  # fmt: skip
    family = next(each for each in ZOO if each.name == name)
    if changes == "two views":
        model = build(family).simclr
        inputs = {"pixel_values": torch.rand(4, 1, 16, 16), "other_pixel_values": torch.rand(4, 1, 16, 16)}
    else:
        model = build(family, **changes)
        inputs = inputs_of(model) | ({"labels": torch.arange(4)} if "num_classes" in changes else {})
    replicas = torch.nn.parallel.replicate(model, [0, 0])
    assert len(replicas) == 2 and not list(replicas[1].parameters())
    expected = outputs(model, **inputs).to_tuple()
    for replica in replicas:
        torch.testing.assert_close(outputs(replica, **inputs).to_tuple(), expected, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name, changes",
    [("vae", {}), ("vae", {"network": "conv"}), ("simclr", {}), ("gan", {})],
    ids=str,
)
def test_linear_layers_that_torch_quantises(name, changes):
    """Their weights are methods, by which no dtype and no device is told."""
    model = build(next(each for each in ZOO if each.name == name), **changes)
    model, images = model.simclr if name == "simclr" else model, inputs_of(model)["pixel_values"]

    def numbers(model):
        if name == "gan":
            return model.sample(3, generator=torch.Generator().manual_seed(0))
        given = outputs(model, pixel_values=images)
        return given["loss" if name == "vae" else "projections"]

    quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    torch.testing.assert_close(numbers(quantised), numbers(model), rtol=0.05, atol=0.05)


@families
def test_a_tuple_holds_what_the_output_holds(family):
    model = build(family)
    inputs = inputs_of(model)
    expected, given = outputs(model, **inputs), outputs(model, **inputs, return_dict=False)
    assert isinstance(given, tuple) and len(given) == len(expected)
    torch.testing.assert_close(given, expected.to_tuple())


@families
def test_a_recipe_reads_outputs_by_name_whatever_a_configuration_asks_for(family, tmp_path):
    model = build(family)
    inputs = inputs_of(model)
    expected = outputs(model, **inputs)
    model.config.return_dict, model.config.output_hidden_states = False, True
    model.save_pretrained(tmp_path)
    loaded = hub.load_or_build(family.model_class, str(tmp_path), model.config.to_dict())
    torch.testing.assert_close(dict(outputs(loaded, **inputs)), dict(expected))


@layered
def test_hidden_states_are_those_of_each_layer(family):
    model = build(family)
    inputs = inputs_of(model)
    plain, given = outputs(model, **inputs), outputs(model, **inputs, output_hidden_states=True)
    assert "hidden_states" not in plain
    torch.testing.assert_close({key: given[key] for key in plain}, dict(plain))
    layers = {"vae": "encoder", "gan": "discriminator.network"}.get(family.name, "backbone")
    seen = []
    hooks = [layer.register_forward_hook(lambda *each: seen.append(each[-1])) for layer in model.get_submodule(layers)]
    outputs(model, **inputs)
    for hook in hooks:
        hook.remove()
    first = seen[: len(hooks)]  # the GAN's discriminator also sees generated images
    assert len(given.hidden_states) == len(first) + 1
    torch.testing.assert_close(list(given.hidden_states[1:]), first)
    model.config.output_hidden_states = True
    assert len(outputs(model, **inputs).hidden_states) == len(first) + 1


@families
@pytest.mark.parametrize("weights", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("pixels", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_losses_are_float32_whatever_is_half(family, weights, pixels):
    model = build(family)
    inputs = inputs_of(model)
    expected = outputs(model, **inputs)
    given = {name: value.to(pixels) if value.is_floating_point() else value for name, value in inputs.items()}
    given = outputs(model.to(weights), **given)
    assert {key: value.dtype for key, value in given.items()} == dict.fromkeys(expected, torch.float32)
    torch.testing.assert_close(dict(given), dict(expected), rtol=0.05, atol=0.05)


@families
@pytest.mark.parametrize(
    "how",
    [
        {"dtype": torch.float32},
        {"dtype": torch.float16},
        {"dtype": torch.bfloat16},
        {"dtype": "auto"},
        {"device_map": "auto"},
        {"device_map": "cpu", "dtype": torch.bfloat16},
    ],
    ids=str,
)
def test_each_way_of_loading_gives_the_same_numbers(family, how, tmp_path):
    model = build(family)
    model.save_pretrained(tmp_path)
    loaded = family.model_class.from_pretrained(tmp_path, **how)
    dtype = how.get("dtype", torch.float32)
    dtype = torch.float32 if dtype == "auto" else dtype
    assert loaded.dtype == dtype
    own = {**dict(loaded.named_parameters()), **dict(loaded.named_buffers())}
    for name, value in {**dict(model.named_parameters()), **dict(model.named_buffers())}.items():
        assert torch.equal(own[name], value.to(own[name].dtype)), name
    inputs = inputs_of(model)
    tolerance = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(
        dict(outputs(loaded, **inputs)), dict(outputs(model, **inputs)), rtol=tolerance, atol=tolerance
    )


@families
def test_a_model_of_the_meta_device_is_whole_once_its_weights_are_assigned(family):
    model = build(family)
    with torch.device("meta"):
        empty = family.model_class(model.config)
    empty.load_state_dict(model.state_dict(), assign=True)
    inputs = inputs_of(model)
    torch.testing.assert_close(dict(outputs(empty.eval(), **inputs)), dict(outputs(model, **inputs)))


class Images(torch.utils.data.Dataset):
    def __init__(self, **more):
        self.images = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()
        self.more = more

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return {"pixel_values": self.images[index], **self.more}


def arguments(folder, **more):
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "max_steps": 2, "save_strategy": "no"}
    return TrainingArguments(str(folder), **settings | more)


@pytest.mark.parametrize("column", [{}, {"label": 3}], ids=["no labels", "labels"])
def test_the_trainer_evaluates_a_vae_without_labels(column, tmp_path):
    torch.manual_seed(0)
    model = VAEModel(VAEConfig(**SMALL["vae"]))
    data = Images(**column)
    trainer = Trainer(model, arguments(tmp_path), train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    images = data.images
    assert before == pytest.approx(model(images).loss.item(), rel=0.05)  # of other noise
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


class WithoutNoise(VAEModel):
    def negative_elbo_bound(self, pixel_values, labels=None, **kwargs):
        return super().negative_elbo_bound(pixel_values, labels, noise=torch.zeros(len(pixel_values), 3))


@pytest.mark.parametrize("column, more", [("label", {}), ("labels", {"remove_unused_columns": False}), ("labels", {})])
def test_the_trainer_gives_a_conditional_vae_its_labels(column, more, tmp_path):
    """It leaves a column `labels` out, as `forward` takes it among its keywords."""
    torch.manual_seed(0)
    model, data = WithoutNoise(VAEConfig(**SMALL["vae"], num_classes=4)), Images(**{column: 3})
    trainer = Trainer(model, arguments(tmp_path, **more), train_dataset=data, eval_dataset=data)
    if column == "labels" and not more:
        for call in (trainer.evaluate, trainer.train):
            with pytest.raises(ValueError, match="labels is None, but this model is conditional"):
                call()
        return
    of_its_labels, of_others = (
        outputs(model, pixel_values=data.images, labels=torch.full((16,), each))["loss"].item() for each in (3, 0)
    )
    before = trainer.evaluate()["eval_loss"]
    assert before == pytest.approx(of_its_labels, rel=1e-5) and before != pytest.approx(of_others, rel=1e-5)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before


def test_accumulation_does_not_scale_the_trainers_loss(tmp_path):
    def trained(**batches):
        torch.manual_seed(0)
        model = WithoutNoise(VAEConfig(**SMALL["vae"]))
        settings = arguments(tmp_path, max_steps=1, optim="sgd", learning_rate=0.01, max_grad_norm=0.0, **batches)
        Trainer(model, settings, train_dataset=Images()).train()
        return [parameter.detach().clone() for parameter in model.parameters()]

    whole = trained(per_device_train_batch_size=16)
    parts = trained(per_device_train_batch_size=4, gradient_accumulation_steps=4)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_the_trainer_evaluates_an_encoder_by_its_two_views(tmp_path):
    model = build(next(family for family in FAMILIES if family.name == "simclr")).simclr
    views = torch.rand(2, 8, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    data = [{"pixel_values": one, "other_pixel_values": other} for one, other in zip(*views, strict=True)]
    trainer = Trainer(model, arguments(tmp_path), eval_dataset=data)
    expected = outputs(model, pixel_values=views[0], other_pixel_values=views[1])
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected.loss.item(), rel=1e-5)
    assert outputs(model, pixel_values=views[0], other_pixel_values=views[1], return_loss=False).loss is None
    single = Trainer(model, arguments(tmp_path, label_names=["other_pixel_values"]))
    features, *_ = single.predict([{"pixel_values": each} for each in views[0]]).predictions
    torch.testing.assert_close(torch.from_numpy(features), outputs(model, pixel_values=views[0]).pooler_output)


def test_a_gan_has_no_loss_for_the_trainer(tmp_path):
    model = build(next(family for family in FAMILIES if family.name == "gan"))
    with pytest.raises(ValueError, match="did not return a loss.*discriminator_loss,generator_loss"):
        Trainer(model, arguments(tmp_path), train_dataset=Images()).train()


def test_an_unknown_keyword_is_refused():
    with pytest.raises(TypeError, match="kl_wieght"):
        build(ZOO[0])(torch.rand(2, 1, 8, 8), kl_wieght=0.5)
