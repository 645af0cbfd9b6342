"""docs/clients.md: every row names a test that is there; and what belongs to no other file."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoImageProcessor, ByT5Tokenizer, T5ForConditionalGeneration, Trainer, TrainingArguments
from transformers.pipelines import PIPELINE_REGISTRY

from hwzoo import ClassifierConfig, ClassifierForImageClassification, hub, onnx
from hwzoo.errors import UsageError
from hwzoo.models import FAMILIES
from hwzoo.text.adapters import add_adapter
from hwzoo.text.models import build_t5

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
ROWS = [line for line in TABLE.splitlines() if line.startswith("| ") and not line.startswith(("| call", "| ---"))]
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "model_cards").iterdir()]


@pytest.mark.parametrize("row", ROWS)
def test_each_row_names_tests_that_are_there(row):
    named = re.findall(r"`(test_\w+)`", row.rsplit(" | ", 1)[1])
    assert named
    for name in named:
        assert f"def {name}(" in TESTS, name


# What a cell of the table says, by the first cell of its row, as far as a second of a tiny model's time shows it; the
# tests that the rows name go through all families, by value.
SMALL = {
    "VAE": ("vae", {"image_size": 8, "latent_size": 2, "encoder_hidden_sizes": [4], "decoder_hidden_sizes": [4]}),
    "GAN": (
        "gan",
        {
            "image_size": 8, "latent_size": 2, "generator_hidden_size": 8, "generator_channels": [8, 4],
            "discriminator_channels": [2, 4], "discriminator_hidden_size": 8,
        },
    ),
    "flow": ("flow", {"image_size": 8, "num_scales": 1, "num_steps": 1, "hidden_size": 4, "num_hidden_layers": 1}),
    "autoregressive": (
        "autoregressive", {"image_size": 8, "hidden_size": 8, "num_layers": 1, "head_hidden_size": 16},
    ),
    "VQ-VAE": (
        "vqvae",
        {
            "image_size": 8, "hidden_sizes": [4, 4], "num_residual_layers": 1, "codebook_size": 6, "code_size": 2,
            "prior_hidden_size": 8, "prior_num_layers": 1, "prior_num_heads": 2,
        },
    ),
    "SimCLR": ("simclr", {"image_size": 8, "hidden_sizes": [4, 4, 6]}),
    "text VAE": (
        "textvae", {"vocab_size": 9, "max_tokens": 5, "embedding_size": 4, "hidden_size": 4, "latent_size": 2},
    ),
    "classifier": ("classifier", {"image_size": 8, "backbone": "mlp", "hidden_sizes": [4]}),
}  # fmt: skip
IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round()


TEXTS = torch.tensor([[3, 4, 5, 6, 1], [7, 1, 0, 0, 0]]).repeat(3, 1)


def inputs_of(model):
    """What it takes first."""
    return TEXTS if model.main_input_name == "input_ids" else IMAGES


def small(column, **changes):
    name, config = SMALL[column]
    family = next(each for each in FAMILIES if each.name == name)
    torch.manual_seed(0)
    return family.model_class(family.config_class(**config | changes)).eval()


def saved(model, folder):
    hub.save(model, folder)
    return str(folder)


def trained(model, folder, cell):
    plain = [{model.main_input_name: each} for each in inputs_of(model)]
    labelled = [each | {"label": 1} for each in plain]
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "max_steps": 1, "save_strategy": "no"}
    data = labelled if hasattr(model, "classifier") else plain
    trainer = Trainer(model, TrainingArguments(str(folder), **settings), train_dataset=data)
    trainer.train()
    assert trainer.evaluate(labelled)["eval_loss"] > 0
    assert ("eval_loss" in trainer.evaluate(plain)) == ("with and without" in cell)
    if "`label_names=[]`" in cell:
        arguments = TrainingArguments(str(folder), **settings, label_names=[])
        assert Trainer(model, arguments).evaluate(plain)["eval_loss"] > 0


def exported(call, inputs):
    batch = torch.export.Dim("batch")
    return torch.export.export(call, (), inputs, dynamic_shapes={name: {0: batch} for name in inputs})


class Sample(torch.nn.Module):
    """`sample` as a module whose batch size is that of its input."""

    def __init__(self, model):
        super().__init__()
        self.model, self.sample = model, model.sample

    def forward(self, like):
        return self.sample(like.shape[0])


def hidden_states(model, folder, cell):
    assert model(inputs_of(model), output_hidden_states=True).hidden_states


CALLS = {
    "`model(..., return_dict=False)`": lambda model, folder, cell: model(inputs_of(model), return_dict=False)[0],
    "`model(..., output_hidden_states=True)`, or in the config": hidden_states,
    "`Trainer(...).train()`, `.evaluate()`": trained,
    "`AutoImageProcessor` on arrays, tensors, batches, PIL images": lambda model, folder, cell: (
        AutoImageProcessor.from_pretrained(saved(model, folder))(IMAGES[:2])
    ),
    '`pipeline("image-classification")`': lambda model, folder, cell: transformers.pipeline(
        "image-classification", saved(model, folder)
    ),
    "`torch.export.export(model, ..., dynamic_shapes=...)`, strict or not": lambda model, folder, cell: exported(
        model, {model.main_input_name: inputs_of(model)}
    ),
    "`torch.export` of `sample`": lambda model, folder, cell: exported(Sample(model), {"like": torch.zeros(3)}),
    "`hwzoo export onnx MODEL --output_dir FOLDER`": lambda model, folder, cell: onnx.parts(model),
}
CELLS = [
    (row.split(" | ")[0].removeprefix("| "), column, cell)
    for table in re.findall(r"^\| call \| VAE .*?(?=\n\n|\Z)", TABLE, re.DOTALL | re.MULTILINE)
    for row in table.splitlines()[2:]
    for column, cell in zip(
        table.splitlines()[0].strip("| ").split(" | ")[1:-1], row.strip("| ").split(" | ")[1:-1], strict=True
    )
]


def test_each_family_of_the_zoo_has_a_column():
    assert {SMALL[column][0] for _, column, _ in CELLS} == {family.name for family in FAMILIES if family.model_class}
    assert CALLS.keys() <= {call for call, _, _ in CELLS}


# The page is of the newest versions: an older torch exports less of these, and says so in other words.
NEEDS_NEWEST_TORCH = "flow", "autoregressive", "VQ-VAE", "text VAE"
OLD_TORCH = Version(torch.__version__) < Version("2.13")


def mark_of(call: str, column: str):
    if "export" not in call or column == "VAE":
        return ()
    return pytest.mark.slow if column == "autoregressive" else pytest.mark.long


@pytest.mark.parametrize(
    ("call", "column", "cell"),
    [pytest.param(*each, marks=mark_of(*each[:2])) for each in CELLS if each[0] in CALLS],
)
def test_a_cell_says_what_the_call_does(call, column, cell, tmp_path):
    if OLD_TORCH and "torch.export" in call and column in NEEDS_NEWEST_TORCH:
        pytest.skip("docs/clients.md is of the newest torch")
    model = small(column)
    if not cell.startswith(("refused", "has none")):
        CALLS[call](model, tmp_path, cell)
        return
    with pytest.raises((AttributeError, TypeError, ValueError, OSError, RuntimeError, UsageError)) as error:
        CALLS[call](model, tmp_path, cell)
    for words in re.findall(r'"(.+?)"', cell):
        assert words in str(error.value)


@pytest.mark.slow
@pytest.mark.skipif(OLD_TORCH, reason="docs/clients.md is of the newest torch")
@pytest.mark.parametrize("column", ["flow", "autoregressive", "VQ-VAE", "SimCLR"])
def test_the_other_families_are_traced(column):
    """By torch.compile and torch.export; of the autoregressive model `forward` only, as its `sample` is a loop."""
    model = small(column)
    torch._dynamo.reset()
    compiled = torch.compile(model.forward, backend="aot_eager", fullgraph=True, dynamic=True)
    shapes = {"pixel_values": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (), {"pixel_values": IMAGES}, dynamic_shapes=shapes, strict=True).module()
    calls = [lambda num, call=call: dict(call(pixel_values=IMAGES[:num])) for call in (model, compiled, program)]
    assert_same_for_each_size(*calls)
    if not hasattr(model, "sample"):
        return
    torch._dynamo.reset()
    compiled = torch.compile(model.sample, backend="aot_eager", fullgraph=True, dynamic=True)
    if column == "autoregressive":
        with pytest.raises(RuntimeError):
            compiled(3)
        return
    calls = [model.sample, compiled]
    if column == "flow":  # the cells of torch.export, where another test reads them
        program = exported(Sample(model), {"like": torch.zeros(3)}).module()
        calls.append(lambda num: program(like=torch.zeros(num)))
    assert_same_for_each_size(*calls)


def test_a_recurrent_network_is_not_compiled():
    torch._dynamo.reset()
    with pytest.raises(RuntimeError, match="RNN, GRU"):
        torch.compile(small("text VAE").forward, backend="aot_eager", fullgraph=True)(TEXTS)


def assert_same_for_each_size(*calls):
    for num in (3, 5):
        results = []
        for call in calls:
            torch.manual_seed(7)
            with torch.no_grad():
                results.append(call(num))
        torch.testing.assert_close(results, results[:1] * len(calls), rtol=1e-4, atol=1e-5)


def test_no_example_calls_a_pipeline_that_is_gone():
    known = set(PIPELINE_REGISTRY.get_supported_tasks())
    assert not known & {"text2text-generation", "summarization"}  # else the sentence in docs/clients.md is wrong
    called = {
        (path.name, task)
        for path in PAGES
        if path.suffix in (".md", ".jinja") and path.name != "clients.md"
        for task in re.findall(r"""pipeline\(\s*["']([\w-]+)["']""", path.read_text(encoding="utf-8"))
    }
    assert "image-classification" in {task for _, task in called}
    assert {task for _, task in called} <= known, called


def test_an_adapter_is_loaded_by_peft(tmp_path):
    from peft import AutoPeftModelForSeq2SeqLM, PeftModel

    torch.manual_seed(0)
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2}
    tokenizer = ByT5Tokenizer()
    build_t5(tokenizer, **sizes).save_pretrained(tmp_path / "base")
    base = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    adapted = add_adapter(base, "lora").eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    adapted.save_pretrained(tmp_path / "adapter")
    inputs = tokenizer("cat", return_tensors="pt") | {"decoder_input_ids": torch.zeros(1, 1, dtype=torch.long)}
    with torch.no_grad():
        expected = adapted(**inputs).logits
        plain = T5ForConditionalGeneration.from_pretrained(tmp_path / "base").eval()
        assert not torch.allclose(plain(**inputs).logits, expected, atol=1e-3)
        for loaded in (
            AutoPeftModelForSeq2SeqLM.from_pretrained(tmp_path / "adapter"),
            PeftModel.from_pretrained(
                T5ForConditionalGeneration.from_pretrained(tmp_path / "base"), tmp_path / "adapter"
            ),
        ):
            torch.testing.assert_close(loaded.eval()(**inputs).logits, expected)
    plain.load_adapter(str(tmp_path / "adapter"))
    with torch.no_grad():
        torch.testing.assert_close(plain(**inputs).logits, expected)
    add_adapter(base, "prompt_tuning", num_virtual_tokens=2).save_pretrained(tmp_path / "prompt")
    plain = T5ForConditionalGeneration.from_pretrained(tmp_path / "base")
    with pytest.raises(ValueError, match="does not support prompt learning"):
        plain.load_adapter(str(tmp_path / "prompt"))
    if transformers.__version__.startswith("5.24."):
        with pytest.raises(ValueError, match=r"PEFT .* version >= 0\.22"):
            plain.set_adapter("default")


ALL = "all-linear"
ADAPTED = [
    ("VAE", {}, ALL),
    ("VAE", {"network": "conv"}, ["0"]),  # a convolution of the encoder and a linear layer of the decoder
    ("GAN", {}, ALL),
    ("GAN", {"spectral_norm": True}, r"discriminator\.(network\.5|output)"),
    ("flow", {"network": "nice"}, ALL),
    ("flow", {}, r".*network\.0"),
    ("autoregressive", {"num_classes": 3}, ALL),
    ("autoregressive", {"network": "pixelcnn", "num_classes": 3}, r".*classes\.\d"),
    ("VQ-VAE", {}, ALL),
    ("text VAE", {}, ALL),
    ("classifier", {}, ALL),
    ("SimCLR", {}, ALL),
]


@pytest.mark.parametrize(("column", "changes", "targets"), ADAPTED, ids=str)
def test_lora_of_peft_trains_what_it_is_put_on_and_merges(column, changes, targets):
    from peft import LoraConfig, get_peft_model

    model = small(column, **changes)
    inputs = {model.main_input_name: inputs_of(model)}
    if column == "SimCLR":  # whose encoder learns from two views
        model, inputs["other_pixel_values"] = model.simclr, IMAGES.flip(-1)
    elif hasattr(model, "classifier") or changes.get("num_classes"):
        inputs["labels"] = torch.arange(6) % 3
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=targets)).eval()
    trained = [parameter for name, parameter in adapted.named_parameters() if "lora_" in name]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():  # away from their start: the last convolutions of a flow are 0 there
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.1)

    def given(model):
        torch.manual_seed(7)
        return model(**inputs)

    expected = given(adapted)
    loss = expected.generator_loss + expected.discriminator_loss if column == "GAN" else expected.loss
    loss.backward()
    assert trained and all(parameter.grad is not None and parameter.grad.any() for parameter in trained)
    expected = [each.detach() for each in expected.to_tuple()]
    with adapted.disable_adapter():
        plain = [each.detach() for each in given(adapted).to_tuple()]
    assert not torch.allclose(plain[0], expected[0], rtol=1e-3, atol=1e-3)
    merged = [each.detach() for each in given(adapted.merge_and_unload()).to_tuple()]
    # Under a spectral norm PEFT adds to a weight that is computed anew.
    torch.testing.assert_close(merged, plain if changes.get("spectral_norm") else expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("network", ["pixelcnn", "gated_pixelcnn"])
def test_peft_refuses_masked_layers(network):
    """What it would add to one would pass by the mask: a value would be told of those after it."""
    from peft import LoraConfig, get_peft_model

    with pytest.raises(TypeError, match="unexpected keyword argument 'bias'"):
        get_peft_model(small("autoregressive", network=network), LoraConfig(target_modules=r".*head\.\d"))
    with pytest.raises(ValueError, match="Target module MaskedLinear.* is not supported"):
        get_peft_model(small("autoregressive"), LoraConfig(target_modules=["first"]))


def test_the_trainer_evaluates_a_classifier(tmp_path):
    torch.manual_seed(0)
    model = ClassifierForImageClassification(ClassifierConfig(image_size=16, backbone="mlp", hidden_sizes=[8]))
    images = torch.rand(20, 1, 16, 16)
    data = [{"pixel_values": image, "label": index % 10} for index, image in enumerate(images)]
    settings = {"report_to": [], "use_cpu": True, "disable_tqdm": True, "max_steps": 30, "save_strategy": "no"}
    arguments = TrainingArguments(str(tmp_path), learning_rate=0.003, **settings)
    trainer = Trainer(model, arguments, train_dataset=data, eval_dataset=data)
    before = trainer.evaluate()["eval_loss"]
    with torch.no_grad():
        expected = model.eval()(images, torch.arange(20) % 10).loss.item()
    assert before == pytest.approx(expected, rel=1e-4)
    trainer.train()
    assert trainer.evaluate()["eval_loss"] < before
