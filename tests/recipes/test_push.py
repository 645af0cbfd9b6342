"""Pushing against a loopback Hub: what arrives there, and what a user sees when it fails; no result is lost."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from loopback_hub import LoopbackHub

from hwzoo import VAEConfig, VAEModel, hub

RECIPE = Path(__file__).parents[2] / "recipes" / "train_vae.py"
TOKEN = "hf_loopback_secret"
SMALL = [
    "--max_train_steps=4", "--encoder_hidden_sizes=8", "--decoder_hidden_sizes=8", "--latent_size=2",
    "--num_importance_samples=2", "--train_batch_size=20",
]  # fmt: skip
PUSHED = {
    "README.md", "all_results.json", "config.json", "configuration_vae.py", "curves.png", "model.safetensors",
    "modeling_vae.py", "preset.yaml", "reconstructions.png", "samples.png",
}  # fmt: skip
# Pushes by `python -m hwzoo.hub` in one process, one case after the other; tells status, words and seconds of each.
PUSHES = """
import contextlib, io, json, os, sys, time
from hwzoo import hub
told = []
for token, arguments in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    error, start = io.StringIO(), time.monotonic()
    with contextlib.redirect_stderr(error):
        status = hub.main(["push", *arguments])
    told.append([status, error.getvalue(), time.monotonic() - start])
print(json.dumps(told))
"""
# What stands in the card, run as printed where hwzoo is not; then the same model by its revision.
WITHOUT_HWZOO = """
import json, sys
sys.modules["hwzoo"] = None
"""
BY_REVISION = """
assert images.shape == (16, 1, 28, 28) and negative_elbo > 0
model = AutoModel.from_pretrained("me/vae", trust_remote_code=True, revision=sys.argv[1])
print(json.dumps(model.sample(2, generator=torch.Generator().manual_seed(0)).flatten().tolist()))
"""


def python(server, tmp_path, *arguments: str, **changes: str) -> subprocess.CompletedProcess:
    environment = os.environ | server.environment(tmp_path / "cache") | changes
    return subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, timeout=200)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder that the recipe wrote."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    command = [sys.executable, str(RECIPE), f"--output_dir={folder}", *SMALL]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return folder


def test_the_recipe_pushes_what_others_load(tmp_path):
    with LoopbackHub(token=TOKEN, users=("me",)) as server:
        folder = tmp_path / "run"
        push = ["--push_to_hub", "--hub_model_id=me/vae"]
        done = python(server, tmp_path, str(RECIPE), f"--output_dir={folder}", *SMALL, *push)
        assert done.returncode == 0, done.stderr
        repo = server.repos["me/vae"]
        assert not repo.private and len(repo.commits) == 2  # the Hub's own first one, and ours
        pushed = repo.files
        assert PUSHED <= set(pushed) <= PUSHED | {".gitattributes"}
        assert all(pushed[name] == (folder / name).read_bytes() for name in PUSHED)
        assert b'from_pretrained("me/vae", trust_remote_code=True)' in pushed["README.md"]
        # Nothing that was written or sent holds the token.
        said = (done.stdout + done.stderr).encode()
        assert not [
            name for name, data in {**snapshot(tmp_path), **pushed, "": said}.items() if TOKEN.encode() in data
        ]

        # Somebody without hwzoo loads it, by revision; this process does by the family's class.
        example = re.search(r"```python\n(.*?)```", pushed["README.md"].decode(), re.DOTALL)[1]
        program = WITHOUT_HWZOO + example + BY_REVISION
        loaded = python(server, tmp_path, "-c", program, repo.commits[-1].oid)
        assert loaded.returncode == 0, loaded.stderr
        model = VAEModel.from_pretrained(folder)
        here = model.sample(2, generator=torch.Generator().manual_seed(0)).flatten().tolist()
        assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(here, abs=1e-6)

        # The recipe tests it from there.
        again = tmp_path / "again"
        arguments = [f"--output_dir={again}", *SMALL[1:], "--model_name_or_path=me/vae", "--max_train_steps=0"]
        done = python(server, tmp_path, str(RECIPE), *arguments)
        assert done.returncode == 0, done.stderr
        first, second = (json.loads((each / "all_results.json").read_text()) for each in (folder, again))
        assert first["test_negative_elbo"] == second["test_negative_elbo"] and second["train_steps"] == 0
        assert (again / "modeling_vae.py").read_bytes() == (folder / "modeling_vae.py").read_bytes()


def test_faults_are_told_in_one_line_and_lose_nothing(trained, tmp_path):
    folder = str(trained)
    with LoopbackHub(token=TOKEN, users=("me",), others=("you",)) as server:
        server.add_model("me/public", {"a.txt": b"a"})
        server.fail("POST", "me/twice/commit", status=503, times=2)
        server.fail("POST", "me/busy/commit", status=429, times=1)
        server.fail("POST", "me/down/commit", status=503, times=None)
        server.fail("PUT", "me/full", status=403, times=None)
        server.fail("POST", "validate-yaml", status=503, body=b"<html>")
        cases = {
            "an answer that is no JSON": (TOKEN, ["me/vae"], 1, "the Hub cannot be reached (Expecting value"),
            "503 twice": (TOKEN, ["me/twice"], 0, "the Hub answered 503; trying again in 2 s"),
            "429 once": (TOKEN, ["me/busy"], 0, "the Hub answered 429; trying again in 1 s"),
            "503 for ever": (TOKEN, ["me/down"], 1, "the Hub answered 503 at every try"),
            "wrong token": ("hf_wrong", ["me/vae"], 1, "refuses the token (401)"),
            "owner of others": (TOKEN, ["you/vae"], 1, "may not write there (403)"),
            "no such owner": (TOKEN, ["nobody/vae"], 1, "no such owner or repository (404)"),
            "upload refused": (TOKEN, ["me/full"], 1, "may not write there (403)"),
            "no id": (TOKEN, ["a/b/c"], 2, "a/b/c is not a repository id"),
            "private": (TOKEN, ["me/secret", "--private"], 0, ""),
            "private, but public": (TOKEN, ["me/public", "--private"], 1, "me/public exists and is public"),
        }
        before = snapshot(trained)
        arguments = json.dumps([[token, [folder, *rest]] for token, rest, _, _ in cases.values()])
        done = python(server, tmp_path, "-c", PUSHES, arguments)
        assert done.returncode == 0, done.stderr
        told = dict(zip(cases, json.loads(done.stdout.splitlines()[-1]), strict=True))
        repos = server.repos
    for name, (_, rest, status, words) in cases.items():
        got, said, seconds = told[name]
        assert got == status and words in said, (name, said)
        errors = [line for line in said.splitlines() if line.startswith("error:")]
        assert len(errors) == (1 if status else 0) and "Traceback" not in said
        if status == 1 and "public" not in rest[0]:
            assert f"python -m hwzoo.hub push {folder} {rest[0]}" in errors[0]
        assert seconds < (30 if name == "503 for ever" else 10), (name, seconds)
    assert repos["me/secret"].private and "model.safetensors" not in repos["me/public"].files
    after = snapshot(trained)
    assert {**before, "README.md": b""} == {**after, "README.md": b""}


def test_a_hub_that_is_down_is_told_at_once(trained, tmp_path):
    with LoopbackHub(token=TOKEN) as server:
        pass  # its port is free now: nobody answers
    done = python(server, tmp_path, "-m", "hwzoo.hub", "push", str(trained), "me/vae")
    assert done.returncode == 1 and "cannot be reached" in done.stderr and "push it later" in done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("error:")]) == 1


def test_a_folder_without_a_model_is_refused(tmp_path, capsys):
    assert hub.main(["push", str(tmp_path), "me/vae"]) == 2
    assert f"error: {tmp_path} holds no model to push" in capsys.readouterr().err


def test_a_push_that_fails_comes_after_the_results_are_safe(train_vae, command_line, tmp_path):
    """The tests run offline: the Hub cannot be reached."""
    push = ["--push_to_hub", "--hub_model_id=me/vae"]
    status, error = command_line(train_vae, f"--output_dir={tmp_path}", *SMALL, *push)
    assert status == 1
    assert f"python -m hwzoo.hub push {tmp_path} me/vae" in error
    assert all((tmp_path / name).stat().st_size for name in PUSHED)


def test_training_goes_on_from_a_trained_model(train_vae, command_line, trained, tmp_path):
    first = json.loads((trained / "all_results.json").read_text())["test_negative_elbo"]
    more = [f"--model_name_or_path={trained}", "--max_train_steps=200", *SMALL[1:]]
    assert command_line(train_vae, f"--output_dir={tmp_path}", *more)[0] == 0
    assert json.loads((tmp_path / "all_results.json").read_text())["test_negative_elbo"] < first


def test_a_model_of_other_images_or_of_none_is_refused(train_vae, command_line, tmp_path):
    VAEModel(VAEConfig(image_size=8)).save_pretrained(tmp_path / "small")
    for path, status, words in ((tmp_path / "small", 2, "image_size 8, the data 28"), (tmp_path / "none", 1, "none")):
        got, error = command_line(
            train_vae, f"--output_dir={tmp_path / 'run'}", *SMALL, f"--model_name_or_path={path}"
        )
        assert got == status and words in error and "Traceback" not in error
