"""Every recipe through the Hub: pushed past its failures, loaded from there, safe where it cannot be reached."""

import os
import shlex
import sys
from pathlib import Path

import pytest
from every_recipe import FLAGS, weights_of
from loopback_hub import LoopbackHub
from recipe_runs import RECIPES, end_all, finish, start

TOKEN = "hf_loopback_right"


@pytest.fixture(autouse=True)
def nothing_runs_on():
    yield
    end_all()


def run(recipe: str, server: LoopbackHub, folder: Path, *arguments: str) -> tuple[int, str]:
    """The status, and what it wrote."""
    environment = os.environ | server.environment(folder.parent / "cache")
    command = [sys.executable, str(RECIPES / f"{recipe}.py"), f"--output_dir={folder}", *arguments]
    process = start(command, env=environment)
    out, error = finish(process, 400)
    return process.returncode, out + error


def no_token_below(folder: Path, *said: str):
    token = TOKEN.encode()
    assert not [path for path in folder.rglob("*") if path.is_file() and token in path.read_bytes()]
    assert not any(TOKEN in each for each in said)


@pytest.mark.slow
def test_pushed_past_failures_and_tested_from_there(recipe, tmp_path):
    tracked = ["--report_to=tensorboard", "--push_to_hub", "--hub_model_id=me/model", "--hub_private_repo"]
    with LoopbackHub(token=TOKEN, users=("me",)) as server:
        server.fail("POST", "me/model/commit", 503)
        server.fail("POST", "me/model/preupload", 429)
        status, said = run(recipe, server, tmp_path / "run", *shlex.split(FLAGS[recipe]), *tracked)
        assert status == 0, said
        assert "pushed: " in said and "trying again in 1 s" in said
        repo = server.repos["me/model"]
        assert repo.private and len(repo.commits) == 2
        weights = weights_of(recipe, tmp_path / "run")
        assert repo.files[str(weights.relative_to(tmp_path / "run"))] == weights.read_bytes()
        kept = {name for name in repo.files if name.startswith(("checkpoints", "logs", "."))}
        assert kept == {".gitattributes"}  # the Hub's own
        files = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*.*")}
        ours = {name for name in files if not name.startswith(("checkpoints", "logs", "."))}
        assert repo.files.keys() == ours | kept and "not sent" not in said  # a run makes nothing without a record
        assert not [name for name, data in repo.files.items() if TOKEN.encode() in data]

        steps = "--max_steps" if recipe == "train_t5" else "--max_train_steps"
        flags = shlex.split(FLAGS[recipe].replace(f"{steps} 12", "").replace(f"{steps} 3", ""))
        server.fail("GET", "me/model/resolve", 503)
        status, more = run(recipe, server, tmp_path / "again", *flags, "--model_name_or_path=me/model", f"{steps}=0")
        assert status == 0, more
        assert weights_of(recipe, tmp_path / "again").read_bytes() == weights.read_bytes()
    no_token_below(tmp_path, said, more)


@pytest.mark.slow
def test_a_hub_that_is_gone_costs_no_result(recipe, tmp_path):
    with LoopbackHub(token=TOKEN, users=("me",)) as server:
        pass
    push = ["--push_to_hub", "--hub_model_id=me/model"]
    status, said = run(recipe, server, tmp_path / "run", *shlex.split(FLAGS[recipe]), *push)
    assert status == 1
    line = said.splitlines()[-1]
    assert line.startswith("error: pushing to me/model failed: the Hub cannot be reached")
    assert f"hwzoo.hub push {tmp_path / 'run'} me/model" in line
    assert weights_of(recipe, tmp_path / "run").exists() and (tmp_path / "run" / "all_results.json").exists()
    assert (tmp_path / "run" / "README.md").exists()
    no_token_below(tmp_path, said)
