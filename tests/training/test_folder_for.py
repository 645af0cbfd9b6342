"""Two models do not meet in one default folder."""

import pytest
from recipe_runs import load_recipe

from hwzoo.training import folder_for


@pytest.mark.parametrize("recipe", ["sample", "evaluate_generator"])
def test_each_model_has_a_folder_of_its_own(recipe, tmp_path, monkeypatch):
    settings, parent = load_recipe(recipe).Settings, {"sample": "samples"}.get(recipe, recipe)
    (tmp_path / "runs" / "vae").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "vae")
    for model, name in (("me/gan", "me--gan"), ("../vae", "vae"), (".", "vae"), (str(tmp_path / "runs/vae"), "vae")):
        assert settings(model_name_or_path=model).output_dir == f"outputs/{parent}/{name}"
    assert settings(model_name_or_path="me/gan", output_dir="mine").output_dir == "mine"


def test_without_a_model_it_is_the_parent():
    assert folder_for("outputs/samples", None) == "outputs/samples"
