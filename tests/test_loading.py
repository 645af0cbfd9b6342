"""Files of a model that are damaged are named in one line; half precision becomes float32; a run's files are whole."""

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from recipe_runs import save_classifier
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
)
from transformers.utils.logging import disable_progress_bar, enable_progress_bar

from hwzoo import FAMILIES, Family, VAEConfig, VAEModel, diffusion, hub, register, text
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import FINAL
from hwzoo.loading import loading
from hwzoo.retry import has_file

DAMAGES = {
    "empty": lambda data: b"",
    "cut": lambda data: data[:-7],
    "halved": lambda data: data[: len(data) // 2],
    "a list": lambda data: b"[1, 2]",
    "a number": lambda data: b"3",
    "a name": lambda data: b'"somebody/model"',  # which diffusers would load from the Hub
    "text": lambda data: b"no model \xff",
}


def load_text(folder: str):
    text.load_seq2seq(folder, hub.load, trainable=False)
    text.load_tokenizer(folder)


LOADS = {
    "vae": lambda folder: hub.load(VAEModel, folder),
    "t5": load_text,
    "lora": load_text,
    "gpt2": lambda folder: text.load_base(folder, hub.load),
    "ddpm": diffusion.load_pipeline,
}
FILES = {
    "vae": ["config.json", "model.safetensors"],
    "t5": ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    "lora": ["adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"],
    "gpt2": [
        "added_tokens.json", "config.json", "generation_config.json", "model.safetensors", "tokenizer_config.json",
    ],
    "ddpm": [
        "model_index.json", "scheduler/scheduler_config.json", "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ],
}  # fmt: skip
WEIGHTS = {kind: name for kind, names in FILES.items() for name in names if name.endswith(".safetensors")}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    """One folder of each kind, as the recipes write them."""
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), root / "vae")
    tokenizer = text.train_tokenizer(["some words", "and others"], 260)
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    t5 = text.build_t5(tokenizer, **sizes)
    hub.save(t5, root / "t5", also=(tokenizer, text.generation_config(t5, 4)))
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    bart = BartForConditionalGeneration(BartConfig(vocab_size=260, d_model=8, **heads))
    untied = text.build_t5(tokenizer, **sizes)
    untied.config.tie_word_embeddings = False  # as of flan-t5
    for name, each in (("bart", bart), ("untied", type(untied)(untied.config))):
        hub.save(each, root / name, also=(tokenizer,))
    t5 = hub.load(AutoModelForSeq2SeqLM, str(root / "t5"))
    hub.save(text.add_adapter(t5, "lora"), root / "lora", also=(tokenizer,))
    gpt2, tokenizer = text.new_base("causal", 8, 1)
    hub.save(gpt2, root / "gpt2", also=(tokenizer,))
    unet = diffusion.build_unet(8, 1, block_out_channels=[8, 8], norm_num_groups=4, attention=False)
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), root / "ddpm")
    return root


@pytest.fixture(autouse=True)
def no_progress_bars():
    """As in a recipe."""
    disable_progress_bar()
    yield
    enable_progress_bar()


@pytest.fixture
def reports() -> list[str]:
    """What the libraries say: their handlers write to wherever the standard error was when they were imported."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    for logger in loggers:
        logger.addHandler(handler)
    yield said
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.fixture
def copy(models, tmp_path):
    def of(kind: str) -> Path:
        shutil.rmtree(tmp_path / kind, ignore_errors=True)
        return shutil.copytree(models / kind, tmp_path / kind)

    return of


def change(path: Path, how):
    tensors = {name: how(tensor) for name, tensor in load_file(path).items()}
    save_file(tensors, path, {"format": "pt"})


@pytest.mark.parametrize("kind", FILES)
def test_a_damaged_file_is_named_in_one_line_and_nothing_else_is_said(kind, models, copy, capfd, reports):
    there = {path.relative_to(models / kind).as_posix() for path in (models / kind).rglob("*.*")}
    assert there - set(FILES[kind]) <= {
        "README.md",
        "configuration_vae.py",
        "labels.py",
        "latents.py",
        "modeling_vae.py",
        "pixels.py",
    }
    for name in FILES[kind]:
        for damage in DAMAGES.values():
            folder = copy(kind)
            (folder / name).write_bytes(damage((folder / name).read_bytes()))
            capfd.readouterr()
            with pytest.raises(HwzooError) as told:
                LOADS[kind](str(folder))
            assert str(told.value).startswith(f"{folder / name} ") and "\n" not in str(told.value), told.value
            if not name.startswith("adapter_model"):  # the base is loaded before
                assert "".join(capfd.readouterr()) == "" and reports == []


@pytest.mark.parametrize("kind", WEIGHTS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_named(kind, value, copy):
    path = copy(kind) / WEIGHTS[kind]
    tensors = load_file(path)
    name = sorted(tensors)[-1]
    tensors[name].view(-1)[-1] = value
    save_file(tensors, path, {"format": "pt"})
    with pytest.raises(HwzooError) as told:
        LOADS[kind](str(path.parents[WEIGHTS[kind].count("/")]))
    assert str(told.value) == f"{path}: the weights {name} are not finite"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_loaded_as_float32_and_told(dtype, copy, caplog):
    loads = {
        "vae": lambda folder: hub.load(VAEModel, folder),
        "t5": lambda folder: text.load_seq2seq(folder, hub.load, trainable=False),
        "lora": lambda folder: text.load_seq2seq(folder, hub.load, trainable=True),
        "gpt2": lambda folder: text.load_base(folder, hub.load)[0],
        "ddpm": lambda folder: diffusion.load_pipeline(folder).unet,
    }
    for kind, load in loads.items():
        folder = copy(kind)
        change(folder / WEIGHTS[kind], lambda tensor: tensor.to(dtype))
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            model = load(str(folder))
        assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
        kind = str(dtype).removeprefix("torch.")
        assert caplog.messages == [f"{folder / WEIGHTS[folder.name]} holds {kind}; it is loaded as float32"]
        rounded = {name: tensor.float() for name, tensor in load_file(folder / WEIGHTS[folder.name]).items()}
        found = [tensor for tensor in model.state_dict().values()]
        for tensor in rounded.values():
            assert any(tensor.shape == other.shape and torch.equal(tensor, other) for other in found)


def test_half_precision_stays_where_it_is_asked_for(copy, caplog):
    folder = copy("gpt2")
    change(folder / "model.safetensors", lambda tensor: tensor.to(torch.bfloat16))
    model = hub.load(AutoModelForCausalLM, str(folder), dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.bfloat16} and not caplog.messages


def test_weights_that_do_not_fit_are_told_in_our_line_alone(copy, capfd, reports):
    for kind, class_ in (("vae", VAEModel), ("t5", AutoModelForSeq2SeqLM)):
        for word, how in (
            ("missing", lambda tensors: tensors.popitem()),
            ("unexpected", lambda tensors: tensors.update(more=torch.zeros(1))),
            ("mismatched", lambda tensors: tensors.update({sorted(tensors)[0]: torch.zeros(3, 5)})),
        ):
            path = copy(kind) / "model.safetensors"
            tensors = load_file(path)
            how(tensors)
            save_file(tensors, path, {"format": "pt"})
            capfd.readouterr()
            with pytest.raises(HwzooError, match=f"^{path.parent} has {word} weights: [^\n]*$"):
                hub.load(class_, str(path.parent))
            assert "".join(capfd.readouterr()) == "" and reports == []


@pytest.mark.parametrize(
    "kind, name, changes, status",
    [
        ("vae", "config.json", {"latent_size": "two"}, 1),
        ("vae", "config.json", {"model_type": "t5"}, 2),
        ("t5", "config.json", {"d_model": "wide"}, 1),
        ("t5", "config.json", {"auto_map": 3}, 1),
        ("lora", "adapter_config.json", {"peft_type": "MAGIC"}, 1),
        ("gpt2", "tokenizer_config.json", {"pad_token": 3}, 1),
        ("ddpm", "unet/config.json", {"block_out_channels": "wide"}, 1),
        ("ddpm", "model_index.json", {"unet": None}, 2),
    ],
)
def test_settings_that_make_no_sense_are_one_line(kind, name, changes, status, copy, capfd):
    folder = copy(kind)
    content = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps(content))
    capfd.readouterr()
    with pytest.raises(HwzooError) as told:
        LOADS[kind](str(folder))
    assert str(folder) in str(told.value) and "\n" not in str(told.value) and told.value.status == status


@pytest.mark.parametrize("kind", FILES)
def test_a_folder_whose_new_files_are_on_their_way_is_read_where_they_are_whole(kind, models, copy, tmp_path):
    """As a kill leaves it: the new ones together, the old ones half replaced."""
    folder = copy(kind)
    shutil.copytree(models / kind, folder / FINAL)
    for path in [path for path in folder.rglob("*.*") if FINAL not in path.parts and path.is_file()]:
        path.write_bytes(b"of another run")
    LOADS[kind](str(folder))
    assert has_file(str(folder), FILES[kind][0]) and not has_file(str(folder), "nothing.json")
    if kind == "gpt2":
        model, tokenizer = text.load_base(str(folder), hub.load)
        assert model.name_or_path == model.config.name_or_path == tokenizer.name_or_path == str(folder)
    if kind == "lora":
        model = SimpleNamespace(active_peft_config=SimpleNamespace(base_model_name_or_path="base"))
        assert text.tokenizer_of(str(folder), model) == str(folder)


def test_a_model_of_another_type_is_refused(copy):
    with pytest.raises(UsageError, match="t5 is a model of type t5; it must be of type hwzoo_vae"):
        hub.load(VAEModel, str(copy("t5")))


@pytest.mark.parametrize("error", [None, TypeError("a list has no attribute `get`")])
def test_a_damaged_file_from_the_hub_is_named_too(error, copy, monkeypatch):
    folder = copy("t5")
    (folder / "generation_config.json").write_text("[]")
    cached = {path.name: str(path) for path in folder.iterdir()}
    monkeypatch.setattr("hwzoo.loading.try_to_load_from_cache", lambda name, file: cached.get(file))
    with pytest.raises(HwzooError) as told, loading("me/t5"):
        if error is not None:
            raise error
    assert str(told.value) == f"{folder / 'generation_config.json'} holds a JSON list; it must be an object"


def test_what_else_a_library_stumbles_over_is_one_line():
    for name in ("me/t5", "/no/folder"):
        with pytest.raises(HwzooError, match=f"^{name} cannot be loaded: TypeError: first$"), loading(name):
            raise TypeError("first\nsecond")


ROWS = {
    "vae": ("vae", "VAEModel"),
    "classifier": ("classifier", "ClassifierForImageClassification"),
    "ddpm": ("ddpm", "ClassConditionalPipeline"),
    "lora": ("t5", "PeftModelForSeq2SeqLM"),
    "t5": ("t5", "T5ForConditionalGeneration"),
    "gpt2": ("", "GPT2Model"),
    "bart": ("t5", "BartForConditionalGeneration"),
    "untied": ("t5", "T5ForConditionalGeneration"),
}


@pytest.mark.parametrize("kind", ROWS)
def test_any_model_of_the_zoo_is_loaded_by_one_function(models, kind, tmp_path):
    folder = save_classifier(tmp_path) if kind == "classifier" else str(models / kind)
    row, model = hub.load_any(folder)
    assert (row.name, type(model).__name__) == ROWS[kind]
    network = model.unet if kind == "ddpm" else model
    weights = [tensor for path in Path(folder).rglob("*.safetensors") for tensor in load_file(path).values()]
    found = {tuple(tensor.flatten().tolist()) for tensor in network.state_dict().values()}
    assert weights and all(tuple(tensor.flatten().tolist()) in found for tensor in weights)
    assert row.samples(model) == (kind in ("vae", "ddpm"))
    if row.samples(model):
        call = {"num_inference_steps": 2} if kind == "ddpm" else {}
        images = [row.sample(model, 3, None, torch.Generator().manual_seed(seed), **call) for seed in (0, 0, 1)]
        assert images[0].shape[:2] == (3, 1) and images[0].min() >= 0 and images[0].max() <= 1
        assert torch.equal(images[0], images[1]) and not torch.equal(images[0], images[2])


def test_a_name_stands_in_the_table_once():
    before = list(FAMILIES)
    with pytest.raises(ValueError, match="there is a family vae"):
        register(Family("vae"))
    assert before == FAMILIES


def test_positions_that_a_model_computes_itself_need_not_be_saved(tmp_path):
    """As in the files of Pegasus on the Hub; other weights must be there."""
    torch.manual_seed(0)
    sizes = {"d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "vocab_size": 20}
    model = PegasusForConditionalGeneration(PegasusConfig(**sizes, max_position_embeddings=16)).eval()
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if "embed_positions" not in name}
    assert len(weights) == len(kept) + 2
    save_file(kept, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded, ids = hub.load(AutoModelForSeq2SeqLM, str(tmp_path)), torch.tensor([[3, 4, 5]])
    assert torch.equal(
        loaded(input_ids=ids, decoder_input_ids=ids).logits, model(input_ids=ids, decoder_input_ids=ids).logits
    )
    name = next(name for name in kept if "fc1.weight" in name)
    save_file(
        {key: kept[key] for key in kept if key != name}, tmp_path / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(HwzooError, match=f"has missing weights: {name}$"):
        hub.load(AutoModelForSeq2SeqLM, str(tmp_path))
