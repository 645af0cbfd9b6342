"""Models that bring code of their own: no recipe runs it unasked, and none asks at the terminal."""

import io
import json
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType

import diffusers.utils.dynamic_modules_utils
import pytest
import torch
import transformers.dynamic_module_utils
from recipe_runs import RECIPES, load_recipe, save_classifier

from hwzoo import GANConfig, GANModel, VAEConfig, VAEModel, diffusion, hub, text, training

# Runs where it is imported: leaves a file, and nothing else.
MARKS = "from pathlib import Path\nPath({marker!r}).touch()\n"
MODELS = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers import PreTrainedConfig, PreTrainedModel


class StrangeT5Config(T5Config):
    model_type = "strange_t5"


class StrangeT5(T5ForConditionalGeneration):
    config_class = StrangeT5Config


class StrangeGPT2Config(GPT2Config):
    model_type = "strange_gpt2"


class StrangeGPT2(GPT2LMHeadModel):
    config_class = StrangeGPT2Config


class StrangeImagesConfig(PreTrainedConfig):
    model_type = "strange_images"


class StrangeImages(PreTrainedModel):
    config_class = StrangeImagesConfig

    def __init__(self, config):
        super().__init__(config)
        self.mean = torch.nn.Parameter(torch.zeros(1))
        self.post_init()

    def sample(self, num_samples, *, labels=None, generator=None):
        return torch.rand(num_samples, 1, 28, 28, generator=generator) + self.mean
"""
TOKENIZER = "from transformers import ByT5Tokenizer\nclass StrangeTokenizer(ByT5Tokenizer):\n    pass\n"
PIPELINE = """
from diffusers import DiffusionPipeline
class StrangePipeline(DiffusionPipeline):
    def __init__(self, scheduler):
        super().__init__()
        self.register_modules(scheduler=scheduler)
    def __call__(self, batch_size=1, generator=None, num_inference_steps=2, output_type="np"):
        import torch
        from diffusers import ImagePipelineOutput
        return ImagePipelineOutput(images=torch.rand(batch_size, 28, 28, 1, generator=generator).numpy())
"""
GENERATE = "def generate(model, *args, **kwargs):\n    return type(model).generate(model, *args, **kwargs)\n"
AUTO = {
    "t5": {"AutoConfig": "StrangeT5Config", "AutoModelForSeq2SeqLM": "StrangeT5"},
    "gpt2": {"AutoConfig": "StrangeGPT2Config", "AutoModelForCausalLM": "StrangeGPT2"},
    "images": {
        "AutoConfig": "StrangeImagesConfig", "AutoModel": "StrangeImages",
        "AutoModelForImageClassification": "StrangeImages",
    },
}  # fmt: skip


def edit(path: Path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def save_pipeline(folder: Path):
    unet = diffusion.build_unet(28, 1, block_out_channels=[8, 8], norm_num_groups=4, attention=False)
    hub.save(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), folder)


class Strangers:
    """Folders of models that bring code, which leaves `marker` when it runs."""

    def __init__(self, folder: Path):
        self.folder, self.marker = folder, folder / "marker"

    def code(self, path: Path, text: str):
        path.parent.mkdir(exist_ok=True)
        path.write_text(MARKS.format(marker=str(self.marker)) + text)

    def base(self, name: str, kind: str = "seq2seq") -> Path:
        model, tokenizer = text.new_base(kind, 8, 1)
        hub.save(model, self.folder / name, also=(tokenizer,))
        return self.folder / name

    def model(self, name: str, kind: str = "t5") -> str:
        folder = self.base(name, "causal" if kind == "gpt2" else "seq2seq")
        if kind == "images":
            (folder / "config.json").write_text("{}")
            from safetensors.torch import save_file

            save_file({"mean": torch.zeros(1)}, folder / "model.safetensors", {"format": "pt"})
        self.code(folder / "modeling.py", MODELS)
        auto_map = {auto: f"modeling.{name}" for auto, name in AUTO[kind].items()}
        edit(folder / "config.json", model_type=f"strange_{kind}", auto_map=auto_map)
        return str(folder)

    def t5(self) -> str:
        return self.model("t5")

    def gpt2(self) -> str:
        return self.model("gpt2", "gpt2")

    def images(self) -> str:
        return self.model("images", "images")

    def tokenizer(self) -> str:
        folder = self.base("tokenizer")
        self.code(folder / "tokenization.py", TOKENIZER)
        auto_map = {"AutoTokenizer": ["tokenization.StrangeTokenizer", None]}
        edit(folder / "tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map=auto_map)
        return str(folder)

    def generation(self) -> str:
        folder = self.base("generation")
        self.code(folder / "custom_generate" / "generate.py", GENERATE)
        return str(folder)

    def adapter(self) -> str:
        """Its base brings the code."""
        base, folder = self.t5(), self.folder / "adapter"
        model = hub.load(transformers.AutoModelForSeq2SeqLM, str(self.base("plain")))
        hub.save(text.add_adapter(model, "lora"), folder, also=(transformers.ByT5Tokenizer(),))
        edit(folder / "adapter_config.json", base_model_name_or_path=base)
        return str(folder)

    def pipeline(self) -> str:
        folder = self.folder / "pipeline"
        diffusion.train_scheduler(30).save_pretrained(folder / "scheduler")
        self.code(folder / "strange.py", PIPELINE)
        index = {"_class_name": ["strange", "StrangePipeline"], "scheduler": ["diffusers", "DDPMScheduler"]}
        (folder / "model_index.json").write_text(json.dumps(index))
        return str(folder)

    def component(self) -> str:
        """A pipeline of the library; a part of it brings the code."""
        folder = self.folder / "component"
        save_pipeline(folder)
        self.code(
            folder / "unet" / "strange.py",
            "from diffusers import UNet2DModel\nclass Strange(UNet2DModel):\n    pass\n",
        )
        edit(folder / "model_index.json", unet=["strange", "Strange"])
        return str(folder)


@pytest.fixture
def strangers(tmp_path, monkeypatch) -> Strangers:
    """With a cache of their own for the code that is run, and an input that says yes to whatever asks."""
    for module in (transformers.dynamic_module_utils, diffusers.utils.dynamic_modules_utils):
        monkeypatch.setattr(module, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 20))
    folder = tmp_path / "strangers"
    folder.mkdir()
    yield Strangers(folder)
    for name in [name for name in sys.modules if name.split(".")[0] in ("transformers_modules", "diffusers_modules")]:
        del sys.modules[name]


WORDS = ["--dataset_name={pairs}", "--generation_max_new_tokens=2"]
PROMPTS = [*WORDS, "--max_steps=1", "--num_virtual_tokens=2", "--shots=0", "--tuning=full"]
PROMPTS += ["--per_device_train_batch_size=2"]
LABELS = ["--train_file={pairs}/train.jsonl", "--test_file={pairs}/test.jsonl", "--text_column=source"]
LABELS += ["--label_column=target", "--shots=0"]
SAMPLING = ["--prompt=a", "--digits_prompt=a", "--num_draws=100", "--num_lists=1", "--num_digits=20"]
IMAGES = ["--dataset_name=digits", "--classifier={classifier}", "--num_samples=20"]
TEXT = ("t5", "tokenizer", "generation")
# What a recipe with the flag is given; which folders may serve as what.
CASES = {
    ("train_t5", "model_name_or_path"): (["--max_steps=0", *WORDS], (*TEXT, "adapter")),
    ("train_t5", "tokenizer_name"): (
        ["--max_steps=1", *WORDS, "--config_d_model=8", "--per_device_train_batch_size=2"], ("tokenizer",),
    ),
    ("classify_by_prompt", "model_name_or_path"): (LABELS, (*TEXT, "gpt2")),
    ("compare_prompts", "model_name_or_path"): (PROMPTS, (*TEXT, "gpt2")),
    ("explore_sampling", "model_name_or_path"): (SAMPLING, (*TEXT, "gpt2")),
    ("compare_checkpoints", "model_name_or_path"): (["--dataset_name=digits"], ("images",)),
    ("compare_checkpoints", "classifier"): (["--model_name_or_path={gan}", "--dataset_name=digits"], ("images",)),
    ("compare_summaries", "models"): (["--test_file={pairs}/train.jsonl", "--text_column=source"], TEXT),
    ("sample", "model_name_or_path"): (["--num_samples=2"], ("images",)),
    ("evaluate_generator", "model_name_or_path"): (IMAGES, ("images", "pipeline", "component")),
    # Nothing foreign can serve here: there is no flag.
    ("evaluate_generator", "classifier"): (["--model_name_or_path={vae}", "--dataset_name=digits"], ("images",)),
    ("compare_samplers", "model_name_or_path"): (["--dataset_name=digits"], ("images", "pipeline")),
    ("compare_samplers", "classifier"): (
        ["--dataset_name=digits", "--model_name_or_path={ddpm}", "--num_inference_steps=2"], ("images",),
    ),
    ("compare_families", "second_classifier"): (["--runs=vae/digits max_train_steps=1"], ("images",)),
    ("export_onnx", "model_name_or_path"): ([], ("images",)),
    ("train_vae", "classifier"): (["--max_train_steps=1"], ("images",)),
    ("train_gan", "classifier"): (["--max_train_steps=1"], ("images",)),
    ("train_ddpm", "classifier"): (["--max_train_steps=1"], ("images",)),
    ("train_autoregressive", "classifier"): (["--max_train_steps=1"], ("images",)),
    ("train_flow", "classifier"): (["--max_train_steps=1"], ("images",)),
    ("train_vqvae", "classifier"): (["--max_train_steps=1"], ("images",)),
    **{
        (recipe.stem, "model_name_or_path"): (["--max_train_steps=0"], ("images", "pipeline"))
        for recipe in RECIPES.glob("train_*.py")
        if recipe.stem not in ("train_t5", "train_policy_gradient")
    },
}  # fmt: skip
SERVES = {"train_t5", "classify_by_prompt", "compare_prompts", "explore_sampling", "sample", "evaluate_generator"}
SERVES |= {"compare_summaries"}
NAMES_OF_MODELS = {"second_classifier", "model_name_or_path", "models", "tokenizer_name", "classifier"}


def types_of(recipe: ModuleType) -> list[type]:
    return [kind for kind in getattr(recipe.main, "__annotations__", {}).values() if hasattr(kind, "FIRST")]


def test_every_flag_that_names_a_model_is_tried():
    found, trusting = set(), set()
    for path in sorted(RECIPES.glob("[!_]*.py")):
        names = {each.name for kind in types_of(load_recipe(path.stem)) for each in fields(kind)}
        found |= {(path.stem, name) for name in names & NAMES_OF_MODELS}
        trusting |= {path.stem} if "trust_remote_code" in names else set()
    assert found - {("page", "models")} == CASES.keys() and trusting == SERVES  # see the last test


OTHERS_OF_TEXTS = ("explore_sampling", "compare_summaries", "classify_by_prompt", "compare_prompts")


# Of the recipes of texts one by default.
@pytest.mark.parametrize(
    "recipe, flag, kind",
    [
        pytest.param(*key, kind, marks=pytest.mark.long if key[0] in OTHERS_OF_TEXTS else ())
        for key, (_, kinds) in CASES.items()
        for kind in kinds
    ],
)
def test_code_of_a_stranger_runs_by_the_flag_alone(recipe, flag, kind, strangers, command_line, tmp_path):
    torch.manual_seed(0)
    given = {name: tmp_path / name for name in ("pairs", "vae", "gan", "ddpm", "classifier")}
    given["pairs"].mkdir()
    for split in ("train", "validation", "test"):
        rows = [{"source": word, "target": word[-1], "task": "plural"} for word in ("ab", "cd", "eb", "fd", "gb")]
        (given["pairs"] / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    save_classifier(given["classifier"])
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), given["vae"])
    hub.save(GANModel(GANConfig(generator_hidden_size=8, generator_channels=[8, 4])), given["gan"])
    (given["gan"] / "checkpoints" / "step-00000001").mkdir(parents=True)
    save_pipeline(given["ddpm"])
    folder = getattr(strangers, kind)()
    if (recipe, flag) == ("compare_checkpoints", "model_name_or_path"):  # which takes no other folder
        (Path(folder) / "checkpoints" / "step-00000001").mkdir(parents=True)
    assert not strangers.marker.exists()
    arguments = [each.format(**given) for each in CASES[recipe, flag][0]]
    arguments.append(f"--{flag}={'own=' if flag == 'models' else ''}{folder}")
    module = load_recipe(recipe)

    status, error = command_line(module, f"--output_dir={tmp_path / 'run'}", *arguments)
    assert not strangers.marker.exists(), error
    assert sys.stdin.tell() == 0  # nobody asked
    assert status in (1, 2) and error.startswith("error: ") and error.count("\n") == 1, error
    assert folder in error
    if recipe not in SERVES or "classifier" in flag:
        assert "--trust_remote_code" not in error
        return
    assert "--trust_remote_code" in error

    status, error = command_line(module, f"--output_dir={tmp_path / 'trusted'}", *arguments, "--trust_remote_code")
    assert strangers.marker.exists(), error
    assert status == 0, error


def test_a_preset_cannot_trust(command_line, tmp_path):
    """It may be somebody else's."""
    (tmp_path / "preset.yaml").write_text("trust_remote_code: true\n")
    status, error = command_line(load_recipe("sample"), f"--config={tmp_path / 'preset.yaml'}")
    assert status == 2 and "trust_remote_code is taken from the command line only" in error
    run = load_recipe("train_t5").Run(trust_remote_code=True)
    assert "trust_remote_code" not in training.settings(run)


def test_the_help_warns(capsys):
    for recipe in sorted(SERVES):
        with pytest.raises(SystemExit):
            training.parse_arguments(types_of(load_recipe(recipe)), ["--help"])
        assert "only for people you trust" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("kind", ["images", "pipeline", "component", "t5", "gpt2"])
def test_a_page_runs_no_code_of_a_stranger_and_tells_it_on_the_tab(kind, strangers):
    from hwzoo import page

    (entry,) = page.load_entries([getattr(strangers, kind)()])
    assert not strangers.marker.exists() and sys.stdin.tell() == 0
    assert entry.model is None and entry.error
