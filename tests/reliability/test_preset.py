"""The preset.yaml that a run leaves is all that it takes to do it again."""

import inspect
import shlex
from dataclasses import asdict

import every_recipe
from every_recipe import weights_of
from recipe_runs import load_recipe, results_but_times

from hwzoo.training import parse_arguments


def test_a_preset_has_every_flag_of_its_run(recipe, straight):
    types = [parameter.annotation for parameter in inspect.signature(load_recipe(recipe).main).parameters.values()]
    given, again = (
        parse_arguments(types, [*flags, "--output_dir=same"])
        for flags in (shlex.split(every_recipe.FLAGS[recipe]), [f"--config={straight[0] / 'preset.yaml'}"])
    )
    for one, other in zip(given, again, strict=True):
        changed = {name for name, value in asdict(one).items() if value != getattr(other, name)}
        assert changed <= {"config"}


@every_recipe.ONE_OF_EACH_LOOP
def test_a_run_is_done_again_by_its_preset_alone(recipe, straight, tmp_path):
    first, again = straight[0], tmp_path / "again"
    ended = every_recipe.run(recipe, again, flags=f"--config={first / 'preset.yaml'}")
    assert ended.status == 0, ended.error
    assert weights_of(recipe, again).read_bytes() == weights_of(recipe, first).read_bytes()
    assert results_but_times(again) == results_but_times(first)
    assert (again / "preset.yaml").read_bytes() == (first / "preset.yaml").read_bytes()
