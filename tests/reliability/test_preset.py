"""The preset.yaml that a run leaves is all that it takes to do it again."""

import every_recipe
from every_recipe import weights_of
from recipe_runs import results_but_times


def test_a_run_is_done_again_by_its_preset_alone(recipe, straight, tmp_path):
    first, again = straight[0], tmp_path / "again"
    ended = every_recipe.run(recipe, again, flags=f"--config={first / 'preset.yaml'}")
    assert ended.status == 0, ended.error
    assert weights_of(recipe, again).read_bytes() == weights_of(recipe, first).read_bytes()
    assert results_but_times(again) == results_but_times(first)
    assert (again / "preset.yaml").read_bytes() == (first / "preset.yaml").read_bytes()
