"""
That a family is what CONTRIBUTING's list says: its folder with its row of the table, a recipe, a card template,
presets and the test of its mathematics. One is put beside the zoo, of which no file knows it, and has all that a
family has.
"""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import warm
from loopback_hub import LoopbackHub
from recipe_runs import checkpoint, same_run, save_classifier, stopped_at

REPOSITORY = Path(__file__).parents[2]
SOURCE = REPOSITORY / "tests" / "new_family"
STEPS = 40  # of its preset
# Several recipes in one process, as their imports take longer than they do.
RUNS = """
import json, runpy, sys
for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        if exit.code:
            raise
"""
WITHOUT_HWZOO = """
import json, sys
sys.modules["hwzoo"] = None
import torch
"""
DRAWS = """
print(json.dumps(model.sample(2, generator=torch.Generator().manual_seed(0)).flatten().tolist()))
"""


@pytest.fixture
def family(tmp_path) -> Path:
    return Path(shutil.copytree(SOURCE, tmp_path / "family", ignore=shutil.ignore_patterns("__pycache__")))


def python(family: Path, *arguments: str, **environment: str) -> str:
    paths = [str(family), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | environment
    done = warm.run(arguments, env=environment, cwd=family.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_short_and_nothing_of_the_zoo_knows_it():
    assert len((SOURCE / "linear_gaussian" / "modeling_linear_gaussian.py").read_text().splitlines()) <= 60
    assert len((SOURCE / "train_linear_gaussian.py").read_text().splitlines()) < 100
    files = [path for name in ("src", "recipes", "model_cards") for path in (REPOSITORY / name).rglob("*")]
    files = [path for path in files if path.suffix in (".py", ".yaml", ".jinja")]
    assert len(files) > 100
    assert [path for path in files if re.search("linear_?gaussian", path.read_text(encoding="utf-8"), re.I)] == []


@pytest.mark.slow
def test_it_passes_the_shared_suite_and_its_own(family):
    suite = str(Path(__file__).with_name("test_families.py"))
    options = ["-q", "-n0", "-p", "no:cacheprovider", "-c", str(REPOSITORY / "pyproject.toml")]
    options += ["-p", "linear_gaussian", "-k", "linear_gaussian"]  # its row, and the tests of its row
    told = python(family, "-m", "pytest", *options, suite, str(family))
    passed = int(re.search(r"(\d+) passed", told)[1])
    assert passed >= 20 and not re.search("skipped|failed|error", told), told


@pytest.mark.long
def test_it_is_trained_resumed_scored_carded_and_pushed(family, tmp_path):
    recipe, straight, resumed = str(family / "train_linear_gaussian.py"), tmp_path / "straight", tmp_path / "resumed"
    train = [recipe, "--config=digits"]
    evaluate = [str(REPOSITORY / "recipes" / "evaluate_generator.py"), str(straight), "--dataset_name=digits"]
    evaluate += [f"--classifier={save_classifier(tmp_path / 'classifier')}", "--num_samples=60", "--trust_remote_code"]
    with LoopbackHub(token="hf_right", users=("me",)) as server:
        hub = server.environment(tmp_path / "cache")
        push = ["--push_to_hub", "--hub_model_id=me/pca"]
        runs = [[*train, f"--output_dir={straight}", *push], [*evaluate, f"--output_dir={tmp_path / 'scores'}"]]
        python(family, "-c", RUNS, json.dumps(runs), **hub)
        results = json.loads((straight / "all_results.json").read_text())
        assert results["train_steps"] == STEPS and "test_negative_log_likelihood" in results
        scores = json.loads((tmp_path / "scores" / "scores.json").read_text())
        assert scores["test_fid"] > 0 and "LinearGaussianModel" in scores["protocol"]

        # Its card, there and on the Hub, whose example loads it where hwzoo is not.
        pushed = server.repos["me/pca"].files
        card = pushed["README.md"].decode()
        assert card == (straight / "README.md").read_text()
        assert f"for {STEPS} steps" in card and "preset digits" in card and "name: linear_gaussian-digits" in card
        assert pushed["model.safetensors"] == (straight / "model.safetensors").read_bytes()
        example = re.search(r"```python\n(.*?)```", card, re.DOTALL)[1]
        elsewhere = python(Path("/"), "-c", WITHOUT_HWZOO + example + DRAWS, **hub)
    load = "import json, torch\nfrom linear_gaussian import LinearGaussianModel\n"
    load += f"model = LinearGaussianModel.from_pretrained({str(straight)!r})\n"
    here = python(family, "-c", load + DRAWS)
    assert json.loads(elsewhere) == pytest.approx(json.loads(here), abs=1e-6)

    # Stopped half way and resumed, it is the same bit for bit.
    stopped_at(straight, STEPS // 2, resumed)
    assert not checkpoint(resumed, STEPS).exists()
    python(family, *train, f"--output_dir={resumed}", "--resume_from_checkpoint=latest")
    same_run(straight, resumed, STEPS)
