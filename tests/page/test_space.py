"""What the folder of a Space holds, that it runs by itself, and its way to the Hub."""

import ast
import json
import os
import re
import socket
import sys
import time
from importlib.metadata import version

import httpx
import pytest
import yaml
from huggingface_hub import close_session, constants
from loopback_hub import LoopbackHub
from page_models import make
from page_visitor import free_port
from recipe_runs import finish, load_recipe, start

from hwzoo import hub, page
from hwzoo.errors import UsageError
from hwzoo.files import PUSHED, write_jsonl
from hwzoo.training import parse_arguments


@pytest.fixture
def recipe():
    return load_recipe("page")


def run(recipe, *argv: str):
    recipe.main(*parse_arguments([recipe.Settings], list(argv)))


@pytest.fixture
def folder(tmp_path, recipe, capsys):
    """A Space of a Hub id and of a folder that was pushed."""
    (tmp_path / "vae").mkdir()
    write_jsonl(tmp_path / "vae" / PUSHED, ["me/vae", {"pushed": "me/old"}, {"pushed": "me/vae"}, "me/failed"])
    run(recipe, "you/gan", str(tmp_path / "vae"), f"--output_dir={tmp_path / 'space'}", "--max_seconds=7")
    assert "python app.py" in capsys.readouterr().out
    return tmp_path / "space"


def test_its_files(folder):
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    card = yaml.safe_load(head)
    assert card["sdk"] == "gradio" and card["app_file"] == "app.py" and card["models"] == ["you/gan", "me/vae"]
    assert card["sdk_version"] == version("gradio") and "you/gan, me/vae" in body
    pinned = dict(line.split("==") for line in (folder / "requirements.txt").read_text().split())
    assert pinned["gradio"] == version("gradio") and pinned["torch"] == version("torch").split("+")[0]
    assert {"transformers", "diffusers", "peft", "huggingface-hub"} <= set(pinned) and "pytest" not in pinned
    assert all(re.fullmatch(r"\d[\w.]*", each) for each in pinned.values())
    calls = [node for node in ast.walk(ast.parse((folder / "app.py").read_text())) if isinstance(node, ast.Call)]
    (build,) = [call for call in calls if getattr(call.func, "attr", "") == "build"]
    assert build.args[1].value == 7
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {"hwzoo/page/app.py", "hwzoo/page/board.js", "hwzoo/models/vae/modeling_vae.py"} <= names
    assert not [name for name in names if name.endswith((".safetensors", ".pyc"))]


def test_what_no_hub_has_is_refused(tmp_path, recipe):
    (tmp_path / "gan").mkdir()
    wrong = {"a/b/c": "not a Hub id", "x": "not a Hub id", str(tmp_path / "gan"): "hwzoo push .*gan OWNER/NAME first"}
    for name, told in wrong.items():
        with pytest.raises(UsageError, match=told):
            run(recipe, name, f"--output_dir={tmp_path / 'space'}")
    assert not (tmp_path / "space").exists()
    write_jsonl(tmp_path / "gan" / PUSHED, ["me/gan"])  # of an earlier version, or of a push that failed
    with pytest.raises(UsageError, match="gan: it is not known where it was pushed to last: push it again"):
        page.hub_ids([str(tmp_path / "gan")])
    write_jsonl(tmp_path / "gan" / PUSHED, [3, *({"pushed": each} for each in (3, "x'); import os; ('/y"))])
    with pytest.raises(UsageError, match="OWNER/NAME first"):
        page.hub_ids([str(tmp_path / "gan")])


def test_a_comparison_has_no_place_in_a_space(tmp_path, recipe):
    (tmp_path / "compared").mkdir()
    (tmp_path / "compared" / "comparison.json").write_text("[]")
    with pytest.raises(UsageError, match="compared is a comparison, which has no place in a Space: leave it out"):
        run(recipe, str(tmp_path / "compared"), f"--output_dir={tmp_path / 'space'}")


@pytest.mark.parametrize("name", ["you/a--b", "you/space.", "you/..", "-a/b"])
def test_ids_that_the_hub_refuses_are_refused_before(name, tmp_path, recipe):
    with pytest.raises(UsageError, match=r"--push is .*; it must be owner/name"):
        run(recipe, "you/gan", f"--output_dir={tmp_path / 'space'}", f"--push={name}")
    with pytest.raises(UsageError, match="not a Hub id"):
        page.hub_ids([name])
    assert not (tmp_path / "space").exists()


def test_a_space_without_gradio_is_one_line(tmp_path, recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(UsageError, match=r"the page needs Gradio: pip install 'hwzoo\[page\]'"):
        run(recipe, "you/gan", f"--output_dir={tmp_path / 'space'}")
    assert not (tmp_path / "space").exists()


def test_a_port_that_is_taken_is_told_before_models_are_loaded(recipe):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=rf"--port is {port}; it cannot be taken \(.*\): give another"):
            run(recipe, "nowhere/at-all", f"--port={port}")


def test_a_folder_with_files_is_left_alone(folder, recipe):
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="overwrite_output_dir"):
        run(recipe, "you/other", f"--output_dir={folder}")
    run(recipe, "you/other", f"--output_dir={folder}", "--overwrite_output_dir")
    assert "you/other" in (folder / "app.py").read_text() and (folder / "mine.txt").read_text() == "mine"


@pytest.fixture
def served_hub(tmp_path, monkeypatch):
    """A Hub with a VAE, whose folder is here too."""
    with LoopbackHub(token="hf_right") as server:
        for name, value in server.environment(tmp_path / "cache").items():
            monkeypatch.setenv(name, value)
        for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        close_session()
        folder = make("vae", tmp_path / "vae")
        (folder / "README.md").write_text(f'# A VAE\n\nVAEModel.from_pretrained("{folder}")\n')
        hub.push(folder, "me/vae")
        yield server
        close_session()


def test_it_comes_to_the_hub_in_one_commit(tmp_path, recipe, served_hub, capsys):
    run(recipe, str(tmp_path / "vae"), f"--output_dir={tmp_path / 'space'}", "--push=me/space")
    assert "pushed: " in capsys.readouterr().out
    repo = served_hub.repos["spaces/me/space"]
    made = {path.relative_to(tmp_path / "space").as_posix() for path in (tmp_path / "space").rglob("*.*")}
    made = {name for name in made if (tmp_path / "space" / name).is_file() and not name.startswith(".")}
    sent = set(repo.files) - {".gitattributes"}
    assert {name for name in sent if "." in name.rsplit("/")[-1]} == made and len(repo.commits) == 2
    assert not [name for name, content in repo.files.items() if b"hf_right" in content or b"/tmp" in content]
    page.push_space(tmp_path / "space", "me/space")
    assert len(repo.commits) == 2  # nothing is new


@pytest.mark.slow
def test_it_runs_by_its_own_package_against_the_hub(tmp_path, recipe, served_hub):
    space = tmp_path / "space"
    run(recipe, str(tmp_path / "vae"), f"--output_dir={space}")
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"GRADIO_SERVER_PORT": str(port), "HF_TOKEN": "", "PYTHONDONTWRITEBYTECODE": "1"}
    process = start([sys.executable, "app.py"], cwd=space, env=environment)
    try:
        url, deadline = f"http://127.0.0.1:{port}/", time.monotonic() + 120
        while True:
            try:
                text = httpx.get(url + "config", trust_env=False).text
                break
            except httpx.HTTPError:
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.1)
        titles = [part["props"].get("label") for part in json.loads(text)["components"]]
        assert "vae" in titles and "Path" in titles
    finally:
        process.terminate()
        out, error = finish(process)
    assert "Traceback" not in error, error
