import json
import math

import numpy as np
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from hwzoo import VAEConfig
from hwzoo.cards import write_card

TEMPLATE = "model_cards/vae.md.jinja"


def card_of(folder, root, dataset="ylecun/mnist", **results):
    results = {"train_steps": 20, "train_runtime": 1.5, "protocol": "all of it", **results}
    variables = {"config": VAEConfig(prior="mixture"), "seed": 3, "repo_id": "me/vae", "preset": "best"}
    return write_card(folder, root / TEMPLATE, title="vae-mnist", results=results, dataset=dataset, **variables)


def front_matter(folder) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---")[1])


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


def test_a_data_set_without_a_hub_id_is_no_link(tmp_path, pytestconfig):
    card_of(tmp_path, pytestconfig.rootpath, dataset="digits", test_negative_elbo=1.0)
    assert "datasets" not in front_matter(tmp_path)


def test_a_reader_finds_model_results_protocol_and_pictures(tmp_path, pytestconfig):
    (tmp_path / "samples.png").write_bytes(b"")
    card_of(tmp_path, pytestconfig.rootpath, test_negative_elbo=99.456)
    text = (tmp_path / "README.md").read_text()
    for part in (
        "arXiv:1312.6114",
        "a mixture of 500 Gaussians",
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
    assert str(card_of(tmp_path, pytestconfig.rootpath, **results)) == (tmp_path / "README.md").read_text()
