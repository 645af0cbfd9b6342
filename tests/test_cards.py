import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData, parse_eval_result_entries
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hwzoo import VAEConfig
from hwzoo.cards import write_card

TEMPLATE = "model_cards/vae.md.jinja"
FILLED = sorted((Path(__file__).parents[1] / "model_cards").glob("*.md"))


def card_of(folder, root, dataset="ylecun/mnist", config=None, **results):
    results = {"train_steps": 20, "train_runtime": 1.5, "protocol": "all of it", **results}
    config = VAEConfig(**(config or {"prior": "mixture"}))
    variables = {"config": config, "seed": 3, "repo_id": "me/vae", "preset": "best"}
    return write_card(folder, root / TEMPLATE, title="vae-mnist", results=results, dataset=dataset, **variables)


def front_matter(folder) -> dict:
    return front_matter_of(folder / "README.md")


def front_matter_of(path) -> dict:
    return yaml.safe_load(path.read_text().split("---")[1])


def test_the_front_matter_comes_back_equal(tmp_path, pytestconfig):
    written = card_of(tmp_path, pytestconfig.rootpath, test_negative_elbo=np.float64(99.5), test_iwae_100=95)
    loaded = ModelCard.load(tmp_path / "README.md").data
    assert loaded.to_dict() == written.data.to_dict()
    assert loaded.eval_results == written.data.eval_results
    index = front_matter(tmp_path)["model-index"]
    assert model_index_to_eval_results(index)[1] == loaded.eval_results
    assert eval_results_to_model_index("vae-mnist", loaded.eval_results) == index
    assert ModelCardData(**{**front_matter(tmp_path)}).to_dict() == loaded.to_dict()


def test_what_the_hub_reads_stands_in_it(tmp_path, pytestconfig):
    card_of(tmp_path, pytestconfig.rootpath, test_negative_elbo=99.5, test_bad=math.nan, course100_iwae_1=1.0)
    data = front_matter(tmp_path)
    assert (data["library_name"], data["license"], data["datasets"]) == (
        "transformers",
        "apache-2.0",
        ["ylecun/mnist"],
    )
    assert data["pipeline_tag"] == "unconditional-image-generation" and data["tags"] == ["hwzoo", "vae"]
    metrics = [metric for result in data["model-index"][0]["results"] for metric in result["metrics"]]
    assert metrics == [{"type": "test_negative_elbo", "value": 99.5}]
    assert "python/object" not in (tmp_path / "README.md").read_text()


def test_the_hubs_newer_format_holds_the_same_numbers(tmp_path, pytestconfig):
    card_of(tmp_path, pytestconfig.rootpath, test_negative_elbo=np.float64(99.5), test_iwae_100=95, test_x=math.nan)
    (path,) = (tmp_path / ".eval_results").iterdir()
    assert path.name == "mnist.yaml"
    entries = parse_eval_result_entries(yaml.safe_load(path.read_text()))
    found = {entry.task_id: entry.value for entry in entries}
    assert found == {"test_negative_elbo": 99.5, "test_iwae_100": 95.0}
    assert {(entry.dataset_id, entry.notes) for entry in entries} == {("ylecun/mnist", "all of it")}
    (tmp_path / "other").mkdir()
    card_of(tmp_path / "other", pytestconfig.rootpath, dataset="digits", test_negative_elbo=1.0)
    assert not (tmp_path / "other" / ".eval_results").exists()
    (tmp_path / "none").mkdir()
    card_of(tmp_path / "none", pytestconfig.rootpath)
    assert not (tmp_path / "none" / ".eval_results").exists()


def test_a_data_set_without_a_hub_id_is_no_link(tmp_path, pytestconfig):
    card_of(tmp_path, pytestconfig.rootpath, dataset="digits", test_negative_elbo=1.0)
    assert "datasets" not in front_matter(tmp_path)


def test_a_reader_finds_model_results_protocol_and_pictures(tmp_path, pytestconfig):
    (tmp_path / "samples.png").write_bytes(b"")
    card_of(tmp_path, pytestconfig.rootpath, test_negative_elbo=99.456)
    text = (tmp_path / "README.md").read_text()
    assert "a mixture of 500 Gaussians" in " ".join(text.split())
    for part in (
        "arXiv:1312.6114",
        "| `test_negative_elbo` | 99.46 |",
        "all of it",
        "seed 3",
    ):
        assert part in text, part
    assert "](samples.png)" in text and "](curves.png)" not in text
    assert 'AutoModel.from_pretrained("me/vae", trust_remote_code=True)' in text
    assert "--config preset.yaml" in text and "What it is not good for" in text


def test_results_that_json_holds_make_the_same_card(tmp_path, pytestconfig):
    results = json.loads(json.dumps({"test_negative_elbo": 99.456}))
    card = card_of(tmp_path, pytestconfig.rootpath, **results)
    assert f"{card}\n" == (tmp_path / "README.md").read_text()


def test_the_card_says_how_it_was_trained(tmp_path, pytestconfig):
    sizes = {"encoder_hidden_sizes": [4, 8], "decoder_hidden_sizes": [8, 4]}
    card = card_of(tmp_path, pytestconfig.rootpath, config={"network": "conv", "beta": 4.0, **sizes})
    text = " ".join(str(card).split())
    assert "convolutional encoder (hidden layers 4-8) and decoder (8-4)" in text and "a normal prior." in text
    assert "for 20 steps (2 seconds) with 4.0 as the weight of the KL divergence." in text
    linear = card_of(tmp_path, pytestconfig.rootpath, config={name: [] for name in sizes})
    assert "encoder (hidden layers none) and decoder (none)," in " ".join(str(linear).split())
    tested = " ".join(str(card_of(tmp_path, pytestconfig.rootpath, train_steps=0)).split())
    assert "Tested on ylecun/mnist without further training." in tested and "Trained on" not in tested


def test_densities_are_not_told_as_probabilities_of_binary_pixels(tmp_path, pytestconfig):
    binary = str(card_of(tmp_path, pytestconfig.rootpath))
    grey = str(card_of(tmp_path, pytestconfig.rootpath, config={"likelihood": "gaussian"}))
    assert "negative_elbo_bound(images.round())" in binary and "or of continuous pixels, are not" in binary
    assert "negative_elbo_bound(images)" in grey and "continuous pixels, are not" not in grey
    assert "may be negative: those of binary pixels are not comparable. A high" in " ".join(grey.split())


def test_its_prose_is_wrapped(tmp_path, pytestconfig):
    """A protocol is some 400 characters long; only code, tables and the front matter keep their long lines."""
    card_of(tmp_path, pytestconfig.rootpath, protocol="one remark; " * 30, test_negative_elbo=1.0)
    assert all(len(line) <= 120 for line in (tmp_path / "README.md").read_text().splitlines() if "  # (" not in line)


@pytest.mark.parametrize("path", FILLED, ids=lambda path: path.stem)
def test_filled_cards(path):
    card = ModelCard.load(path)
    data = card.data
    assert ModelCard(str(card)).data.to_dict() == data.to_dict() == ModelCardData(**front_matter_of(path)).to_dict()
    assert data.library_name in {"transformers", "diffusers", "peft"}
    assert data.license == "apache-2.0" and data.pipeline_tag
    assert "hwzoo" in data.tags and data.eval_results
    assert data.datasets or data.eval_results[0].dataset_name in {"inflections", "digits"}  # not on the Hub
    for result in data.eval_results:
        assert type(result.metric_value) is float and math.isfinite(result.metric_value)
        printed = re.search(rf"\| `{result.metric_type}` \| (-?[\d.]+) \|", card.text)[1]
        assert float(printed) == pytest.approx(result.metric_value, abs=0.006)
    for part in ("from_pretrained(", "accelerate launch recipes/", "\nProtocol: ", "\n## What it is not good for\n"):
        assert part in card.text
    # What it says to load is what its command writes.
    family, preset = path.stem.split("-", 1)
    settings = Path("recipes", "configs", family, f"{preset}.yaml")
    output_dir = yaml.safe_load((path.parents[1] / settings).read_text())["output_dir"]
    assert f"--config {settings.as_posix()}" in card.text and f'from_pretrained("{output_dir}"' in card.text
