"""docs/clients.md: every row names a test that is there; and what belongs to no other file."""

import re
from pathlib import Path

import pytest
import torch
import transformers
from transformers import ByT5Tokenizer, T5ForConditionalGeneration, Trainer, TrainingArguments
from transformers.pipelines import PIPELINE_REGISTRY

from hwzoo import ClassifierConfig, ClassifierForImageClassification
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
