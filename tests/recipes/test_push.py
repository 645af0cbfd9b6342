"""Pushing against a loopback Hub: what arrives there, and what a user sees when it fails; no result is lost."""

import gzip
import json
import os
import re
import shlex
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import warm
import yaml
from huggingface_hub import ModelCard
from loopback_hub import LoopbackHub

from hwzoo import VAEConfig, VAEModel, hub

RECIPE = Path(__file__).parents[2] / "recipes" / "train_vae.py"
SECRET = "hf_loopback_"  # what every token of these tests starts with
TOKEN, WRONG_TOKEN = SECRET + "right", SECRET + "wrong"
SMALL = [
    "--max_train_steps=4", "--encoder_hidden_sizes=8", "--decoder_hidden_sizes=8", "--latent_size=2",
    "--num_importance_samples=2", "--train_batch_size=20",
]  # fmt: skip
PUSHED = {
    "history.jsonl",
    "README.md", "all_results.json", "config.json", "configuration_vae.py", "curves.png", "model.safetensors",
    "labels.py", "latents.py", "modeling_vae.py", "pixels.py", "preset.yaml", "reconstructions.png", "samples.png",
}  # fmt: skip
# Runs of the recipe as from the command line, one after the other in one process, as its imports take longer than they
# do; tells status, words and seconds of each.
RUNS = """
import contextlib, io, json, os, runpy, sys, time
told = {}
for name, (token, arguments) in json.load(sys.stdin).items():
    os.environ["HF_TOKEN"], sys.argv = token, arguments
    said, start, status = io.StringIO(), time.monotonic(), 0
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            runpy.run_path(arguments[0], run_name="__main__")
        except SystemExit as exit:
            status = exit.code
    told[name] = [status, said.getvalue(), time.monotonic() - start]
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


def python(server, tmp_path, *arguments: str, **kwargs) -> subprocess.CompletedProcess:
    return warm.run(arguments, env=os.environ | server.environment(tmp_path / "cache"), **kwargs)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def assert_no_token(folder: Path, server: LoopbackHub, *said: str):
    """In no file below a folder (results, caches), in none that was pushed and in nothing that was said."""
    pushed = {f"{id}/{name}": data for id, repo in server.repos.items() for name, data in repo.files.items()}
    found = snapshot(folder) | pushed | {f"output {index}": text.encode() for index, text in enumerate(said)}
    assert not [name for name, data in found.items() if SECRET.encode() in data]


@pytest.mark.long
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
        assert "not sent" not in done.stderr
        said = [done.stdout, done.stderr]

        # Somebody without hwzoo loads it, by revision; this process does by the family's class.
        example = re.search(r"```python\n(.*?)```", pushed["README.md"].decode(), re.DOTALL)[1]
        program = WITHOUT_HWZOO + example + BY_REVISION
        loaded = python(server, tmp_path, "-c", program, repo.commits[-1].oid)
        assert loaded.returncode == 0, loaded.stderr
        model = VAEModel.from_pretrained(folder)
        here = model.sample(2, generator=torch.Generator().manual_seed(0)).flatten().tolist()
        assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(here, abs=1e-6)
        said += [loaded.stdout, loaded.stderr]

        # The recipe tests it from there.
        again = tmp_path / "again"
        arguments = [f"--output_dir={again}", *SMALL[1:], "--model_name_or_path=me/vae", "--max_train_steps=0"]
        done = python(server, tmp_path, str(RECIPE), *arguments)
        assert done.returncode == 0, done.stderr
        first, second = (json.loads((each / "all_results.json").read_text()) for each in (folder, again))
        assert first["test_negative_elbo"] == second["test_negative_elbo"] and second["train_steps"] == 0
        assert (again / "modeling_vae.py").read_bytes() == (folder / "modeling_vae.py").read_bytes()
        assert_no_token(tmp_path, server, *said, done.stdout, done.stderr)


class Case(NamedTuple):
    """
    Args:
        words: some of what the user sees: of the one line of an error where the status is not 0.
        faults: of the Hub, for its `fail`.
        arguments: after those of a run of four steps that pushes to `repo`.
        commits: of the repository afterwards, the Hub's own first one included; None where there is none.
        told: whether the line says how to push later.
        every_day: whether it is quick enough.
    """

    repo: str
    status: int
    words: str
    commits: int | None
    faults: tuple[dict, ...] = ()
    token: str = TOKEN
    arguments: tuple[str, ...] = ()
    told: bool = True
    every_day: bool = True


def fault(method: str, path: str, status: int | None = None, times: int | None = 1, **kwargs) -> tuple[dict, ...]:
    return ({"method": method, "path": path, "status": status, "times": times, **kwargs},)


CASES = {
    # The first: its fault names no repository.
    "a proxy's page": Case(
        "me/page", 0, "no answer of the Hub (a page came, perhaps a proxy's); trying again in 1 s", 2,
        fault("POST", "validate-yaml", 200, body=b"<html>"),
    ),
    "503 twice": Case(
        "me/twice", 0, "pushing: the Hub answered 503; trying again in 2 s", 2,
        fault("POST", "me/twice/commit", 503, 2),
    ),
    "429 once": Case(
        "me/busy", 0, "pushing: the Hub answered 429; trying again in 1 s", 2, fault("POST", "me/busy/commit", 429)
    ),
    "lost answer": Case(
        "me/lost", 0, "pushed: ", 2, fault("POST", "me/lost/commit", cut=True)
    ),
    "another commit meanwhile": Case(
        "me/race", 0, "pushed: ", 2, fault("POST", "me/race/commit", 412), every_day=False
    ),
    "wrong token": Case("me/vae", 1, "the token is missing or refused (401)", None, token=WRONG_TOKEN),
    "no such owner": Case("nobody/vae", 1, "there is no such owner or repository (404)", None),
    "owner of others": Case("you/vae", 1, "the token may not write there (403)", None),
    "public, private asked": Case(
        "me/public", 1, "it exists and is public, but a private one was asked for", 2,
        arguments=("--hub_private_repo",),
    ),
    "private, to read, no token": Case(
        "me/private", 1, "or the token may not read it (401); a private one needs HF_TOKEN", 2, token="", told=False,
        arguments=("--model_name_or_path=me/private", "--max_train_steps=0"),
    ),
    "no token": Case("me/vae", 1, "the token is missing or refused (401)", None, token="", every_day=False),
    "private": Case("me/secret", 0, "pushed: ", 2, arguments=("--hub_private_repo",), every_day=False),
    "503 for ever": Case(
        "me/down", 1, "the Hub answered 503 at every try", 1, fault("POST", "me/down/commit", 503, None),
        every_day=False,
    ),
    "503 before the upload": Case(
        "me/down", 1, "the Hub answered 503 at every try", 1, fault("POST", "me/down/preupload", 503, None),
        every_day=False,
    ),
    "503 of the upload": Case(
        "me/full", 1, "the Hub answered 503 at every try", 1, fault("PUT", "me/full", 503, None), every_day=False
    ),
    "upload refused": Case(
        "me/full", 1, "the token may not write there (403)", 1, fault("PUT", "me/full", 403, None), every_day=False
    ),
    "a proxy's page for ever": Case(
        "me/page", 1, "the Hub cannot be reached (a page came", 1,
        fault("POST", "preupload", 200, None, body=b"<html>"), every_day=False,
    ),
    "a Hub that hangs": Case(
        "me/slow", 1, "the Hub cannot be reached (timed out)", None, fault("POST", "create", 503, None, delay=100),
        every_day=False,
    ),
    "refused card": Case(
        "me/card", 1, "the Hub refuses it (400): Invalid metadata", 1,
        fault("POST", "validate-yaml", 400, None, body=b'{"errors": [{"message": "tags"}]}'), every_day=False,
    ),
    "download cut for ever": Case(
        "me/public", 1, "me/public cannot be loaded: the download broke off", 2,
        fault("GET", "me/public/resolve", None, None, cut=True),
        arguments=("--model_name_or_path=me/public", "--max_train_steps=0"), told=False, every_day=False,
    ),
}  # fmt: skip
EVERY_DAY = {name: case for name, case in CASES.items() if case.every_day}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """A data set of 30 + 30 images of 8 x 8, on which a run takes a second."""
    folder = tmp_path_factory.mktemp("pictures")
    for split in ("train", "t10k"):
        for name, shape in (("images-idx3", (30, 8, 8)), ("labels-idx1", (30,))):
            header = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
            data = gzip.compress(header + bytes(torch.Size(shape).numel()))
            (folder / f"{split}-{name}-ubyte.gz").write_bytes(data)
    return folder


def command(case: Case, pictures: Path, folder: Path) -> list[str]:
    push = ["--push_to_hub", f"--hub_model_id={case.repo}"]
    return [str(RECIPE), f"--output_dir={folder}", f"--dataset_name={pictures}", *SMALL, *push, *case.arguments]


def a_hub(*cases: Case) -> LoopbackHub:
    server = LoopbackHub(token=TOKEN, users=("me",), others=("you",))
    server.add_model("me/public", {"config.json": b"{}"})
    server.add_model("me/private", {"config.json": b"{}"}, private=True)
    for case in cases:
        for each in case.faults:
            server.fail(**each)
    return server


def check(case: Case, folder: Path, server: LoopbackHub, status: int, said: str):
    """One clear line, a whole repository or none, and every result there and readable."""
    errors = [line for line in said.splitlines() if line.startswith("error:")]
    assert status == case.status and case.words in (errors[0] if status else said), said
    assert len(errors) == bool(status) and "Traceback" not in said, said
    repo = server.repos.get(case.repo)
    assert (len(repo.commits) if repo else None) == case.commits
    if "--max_train_steps=0" in case.arguments:
        return
    assert all((folder / name).stat().st_size for name in PUSHED)
    assert VAEModel.from_pretrained(folder).config.latent_size == 2
    numbers = json.loads((folder / "all_results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    assert card.data.eval_results[0].metric_value == numbers["test_negative_elbo"] > 0
    if status == 0:
        local = {name: (folder / name).read_bytes() for name in PUSHED}
        where = yaml.safe_load(local["preset.yaml"])["dataset_name"]  # of that folder the name alone is sent
        local["preset.yaml"] = local["preset.yaml"].replace(where.encode(), Path(where).name.encode())
        assert Path(where).is_absolute() and all(repo.files[name] == local[name] for name in PUSHED)
        assert repo.private == ("--hub_private_repo" in case.arguments)
    elif case.told:
        private = " --private" if "--hub_private_repo" in case.arguments else ""
        later = f"python -m hwzoo.hub push {shlex.quote(str(folder))} {case.repo}{private}"
        assert errors[0].endswith(f"; {folder} is safe, push it later (twice does no harm): {later}")


@pytest.mark.long
def test_faults_are_told_in_one_line_and_lose_nothing(pictures, tmp_path):
    folders = {name: tmp_path / f"run {number}" for number, name in enumerate(EVERY_DAY)}
    commands = {name: [case.token, command(case, pictures, folders[name])] for name, case in EVERY_DAY.items()}
    with a_hub(*EVERY_DAY.values()) as server:
        done = python(server, tmp_path, "-c", RUNS, input=json.dumps(commands))
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    for name, case in EVERY_DAY.items():
        status, said, seconds = told[name]
        check(case, folders[name], server, status, said)
        assert seconds < 30, (name, seconds)
    assert_no_token(tmp_path, server, done.stdout, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_each_fault_alone(name, pictures, tmp_path):
    """And never more than ten seconds without a word, from the results to the end."""
    case, folder = CASES[name], tmp_path / "run"
    with a_hub(case) as server:
        environment = os.environ | server.environment(tmp_path / "cache", case.token) | {"PYTHONUNBUFFERED": "1"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        process = subprocess.Popen([sys.executable, *command(case, pictures, folder)], env=environment, **pipes)
        said, times = b"", [time.monotonic()]
        while part := os.read(process.stdout.fileno(), 1 << 16):
            said += part
            if b"pictures are in" not in said:
                times.clear()
            times.append(time.monotonic())
        status = process.wait()
        times.append(time.monotonic())
    check(case, folder, server, status, said.decode())
    longest = max(second - first for first, second in zip(times, times[1:], strict=False))
    print(f"{name}: status {status}, {times[-1] - times[0]:.1f} s after the results, longest silence {longest:.1f} s")
    print("\n".join(line for line in said.decode().splitlines() if line.startswith(("error:", "push"))))
    assert times[-1] - times[0] < 50 and longest < 10
    assert_no_token(tmp_path, server, said.decode())


def test_a_hub_that_is_down_is_told_at_once(pictures, tmp_path):
    with LoopbackHub(token=TOKEN) as server:
        pass  # its port is free now: nobody answers
    cases = {
        "push": Case("me/vae", 1, "the Hub cannot be reached ([Errno 111] Connection refused)", None),
        "load": Case(
            "me/vae", 1, "you/vae cannot be loaded: no such folder, no Hub that can be reached", None,
            arguments=("--model_name_or_path=you/vae", "--max_train_steps=0"),
        ),
    }  # fmt: skip
    commands = {name: [TOKEN, command(case, pictures, tmp_path / name)] for name, case in cases.items()}
    done = python(server, tmp_path, "-c", RUNS, input=json.dumps(commands))
    for name, (status, said, seconds) in json.loads(done.stdout.splitlines()[-1]).items():
        check(cases[name], tmp_path / name, server, status, said)
        assert "trying again" not in said and seconds < 30


def test_pushing_later(tmp_path):
    folder = tmp_path / "run"
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), folder, {"test_x": 1.0})
    (folder / "checkpoints").mkdir()
    for name in ("checkpoints/weights", ".lock"):
        (folder / name).write_text("of this run alone")
    with LoopbackHub(token=TOKEN) as server:
        done = python(server, tmp_path, "-m", "hwzoo.hub", "push", str(folder), "me/vae", "--private")
        repo = server.repos["me/vae"]
        assert (done.returncode, done.stdout) == (0, f"{server.url}/me/vae/commit/{repo.commits[-1].oid}\n"), (
            done.stderr
        )
    assert repo.private and repo.files.keys() == {
        ".gitattributes", "all_results.json", "config.json", "configuration_vae.py", "labels.py", "latents.py",
        "model.safetensors", "modeling_vae.py", "pixels.py",
    }  # fmt: skip
    assert_no_token(tmp_path, server, done.stdout, done.stderr)


def test_a_folder_without_a_model_and_an_id_without_an_owner_are_refused(tmp_path, capsys):
    assert hub.main(["push", str(tmp_path), "me/vae"]) == 2
    assert f"error: {tmp_path} holds no model to push" in capsys.readouterr().err
    (tmp_path / "model.safetensors").touch()
    assert hub.main(["push", str(tmp_path), "vae"]) == 2
    assert "error: vae is not a repository id, owner/name; nothing was pushed" in capsys.readouterr().err


def test_a_push_that_fails_comes_after_the_results_are_safe(train_vae, command_line, tmp_path):
    """The tests run offline: the Hub cannot be reached."""
    push = ["--push_to_hub", "--hub_model_id=me/vae"]
    status, error = command_line(train_vae, f"--output_dir={tmp_path}", *SMALL, *push)
    assert status == 1
    assert f"python -m hwzoo.hub push {tmp_path} me/vae" in error
    assert all((tmp_path / name).stat().st_size for name in PUSHED)


@pytest.mark.long
def test_training_goes_on_from_a_trained_model(train_vae, command_line, tmp_path):
    assert command_line(train_vae, f"--output_dir={tmp_path / 'first'}", *SMALL)[0] == 0
    more = [f"--model_name_or_path={tmp_path / 'first'}", "--max_train_steps=200", *SMALL[1:]]
    assert command_line(train_vae, f"--output_dir={tmp_path / 'second'}", *more)[0] == 0
    first, second = (json.loads((tmp_path / name / "all_results.json").read_text()) for name in ("first", "second"))
    assert second["test_negative_elbo"] < first["test_negative_elbo"]


def test_a_model_of_other_images_or_of_none_is_refused(train_vae, command_line, tmp_path):
    VAEModel(VAEConfig(image_size=8)).save_pretrained(tmp_path / "small")
    for path, status, words in ((tmp_path / "small", 2, "image_size 8, the data 28"), (tmp_path / "none", 1, "none")):
        got, error = command_line(
            train_vae, f"--output_dir={tmp_path / 'run'}", *SMALL, f"--model_name_or_path={path}"
        )
        assert got == status and words in error and "Traceback" not in error
