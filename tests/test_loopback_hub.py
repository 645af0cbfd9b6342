"""The loopback Hub against its real clients: huggingface_hub, datasets and transformers, each in its own process."""

import io
import json
import os
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import warm
import yaml
from loopback_hub import LoopbackHub

from hwzoo import VAEConfig, VAEModel, hub

TOKEN = "hf_loopback_secret"
BIG = bytes(range(256)) * 1200


def run(server, folder, program, *arguments):
    """Runs a program that prints one line of JSON, against the Hub; gives what it says."""
    environment = os.environ | server.environment(folder / "cache")
    environment.pop("HWZOO_DATA_DIR", None)
    done = warm.run(["-W", "ignore", "-c", program, *arguments], cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# huggingface_hub

CLIENT = """
import json, pathlib, time
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_hf_file_metadata, hf_hub_url

api, told = HfApi(), {}
big = bytes(range(256)) * 1200
card = b"---\\nlibrary_name: transformers\\ntags: [vae]\\n---\\n# Model\\n"

def tried(name, call, *arguments, **kwargs):
    start = time.monotonic()
    try:
        told[name] = {"result": call(*arguments, **kwargs)}
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        told[name] = {"error": type(error).__name__, "status": status, "message": str(error)}
    told[name]["seconds"] = time.monotonic() - start

def add(path, data):
    return CommitOperationAdd(path, data)

def weights():
    return [add("model.safetensors", big), add("a/b/note.txt", b"one")]

def commit(repo_id, *operations, api=api, **kwargs):
    return api.create_commit(repo_id, list(operations), commit_message="Upload", **kwargs).oid

def download(path, repo_id="me/model", api=api, **kwargs):
    data = pathlib.Path(api.hf_hub_download(repo_id, path, **kwargs)).read_bytes()
    return f"{len(data) // len(big)} big" if data == big * (len(data) // len(big)) else data.decode()

def info(repo_id="me/model", api=api):
    return [(info := api.repo_info(repo_id)).private, info.sha, info.tags]

def tree(**kwargs):
    entries = api.list_repo_tree("me/model", **kwargs)
    return {entry.path: [type(entry).__name__, getattr(entry, "size", None)] for entry in entries}

def sizes():
    siblings = api.model_info("me/model", files_metadata=True).siblings
    return {file.rfilename: [file.size, bool(file.lfs)] for file in siblings}

def last_commits():
    entries = api.get_paths_info("me/model", ["a/b/note.txt", "a", "none"], expand=True)
    return {entry.path: entry.last_commit.oid for entry in entries}

def snapshot():
    folder = pathlib.Path(api.snapshot_download("me/model"))
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())

tried("html", commit, "me/busy", add("README.md", b"# Model"))
tried("whoami", lambda: api.whoami()["name"])
tried("create", lambda: api.create_repo("me/model", private=True).repo_id)
tried("create again", api.create_repo, "me/model")
tried("create, exist_ok", lambda: api.create_repo("me/model", exist_ok=True).repo_id)
tried("create dataset", lambda: api.create_repo("model", repo_type="dataset").repo_id)
tried("unknown owner", api.create_repo, "nobody/model", exist_ok=True)
tried("other owner", api.create_repo, "them/model", exist_ok=True)
tried("first", commit, "me/model", *weights())
tried("info", info)
tried("tree", tree, recursive=True)
tried("top", tree)
tried("folder", tree, path_in_repo="a")
tried("no folder", tree, path_in_repo="b")
tried("sizes", sizes)
tried("text", download, "a/b/note.txt")
tried("big", download, "model.safetensors")
second = [add("a/b/note.txt", b"two"), add("README.md", card), CommitOperationDelete("model.safetensors")]
tried("second", commit, "me/model", *second)
tried("info of second", info)
tried("last commits", last_commits)
tried("newest", download, "a/b/note.txt")
tried("pinned", download, "a/b/note.txt", revision=told["first"]["result"], cache_dir="pinned")
tried("snapshot", snapshot)
tried("deleted file", download, "model.safetensors")
tried("no revision", download, "a/b/note.txt", revision="0" * 40)
tried("no repo", download, "a/b/note.txt", "me/none")
tried("bad card", commit, "me/model", add("README.md", b"---\\ntags: vae\\n---\\n"))
tried("old parent", commit, "me/model", add("x", b"x"), parent_commit=told["first"]["result"])
tried("nothing new", commit, "me/model", add("a/b/note.txt", b"two"))

for who, token in (("wrong", "hf_wrong"), ("no", False)):
    other = HfApi(token=token)
    tried(f"{who} token, create", other.create_repo, "me/other")
    tried(f"{who} token, commit", commit, "me/model", add("x", b"x"), api=other)
    tried(f"{who} token, info", info, api=other)
    tried(f"{who} token, download", download, "README.md", api=other, cache_dir=who)

for number in range(3):
    tried(f"busy {number}", commit, "me/busy", add("x", b"x"))
tried("limited", commit, "me/limited", add("x", b"x"))
tried("batch", commit, "me/batch", *weights())
tried("lost answer", commit, "me/lost", add("x", b"x"))
tried("cut-verify", commit, "me/cut-verify", *weights())
tried("broken upload", commit, "me/broken", *weights())
tried("cut", download, "model.safetensors", "me/cut")
tried("busy HEAD", download, "model.safetensors", "me/busy-head")
tried("busy GET", download, "model.safetensors", "me/busy-get")
tried("slow", lambda: get_hf_file_metadata(hf_hub_url("me/slow", "x"), timeout=0.3).etag)
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """What each call of CLIENT gave or raised, and the Hub after it."""
    with LoopbackHub(token=TOKEN, users=("me",), others=("them",)) as server:
        for name in ("busy", "limited", "batch", "lost", "cut-verify", "broken"):
            server.add_model(f"me/{name}", {})
        # The client writes 10 MB at a time, and asks for what it has not written yet.
        server.add_model("me/cut", {"model.safetensors": BIG * 80})
        for name in ("busy-head", "busy-get", "slow"):
            server.add_model(f"me/{name}", {"model.safetensors": BIG, "x": b"x"})
        server.fail("POST", "/api/validate-yaml", 503, body=b"<html>Service Unavailable</html>")
        server.fail("POST", "/me/busy/commit/main", status=503, times=2)
        server.fail("POST", "/me/limited/commit/main", status=429, retry_after=7)
        server.fail("POST", "/me/batch.git/info/lfs/objects/batch", status=503)
        server.fail("POST", "/me/lost/commit/main", cut=True)
        server.fail("POST", "/me/cut-verify.git/info/lfs/verify", cut=True)
        server.fail("PUT", "/lfs/me/broken/", status=403)
        server.fail("GET", "/me/cut/resolve/", cut=True)
        server.fail("HEAD", "/me/busy-head/resolve/", status=503)
        server.fail("GET", "/me/busy-get/resolve/", status=503)
        server.fail("HEAD", "/me/slow/resolve/", delay=1)
        yield run(server, tmp_path_factory.mktemp("client"), CLIENT), server


def test_what_is_pushed_is_there(client):
    told, server = client
    results = {name: entry.get("result", entry) for name, entry in told.items()}
    first, second = results["first"], results["second"]
    assert results["whoami"] == "me"
    assert results["create"] == results["create, exist_ok"] == results["create dataset"] == "me/model"
    repo = server.repos["me/model"]
    assert repo.private and repo.kind == "model" and not server.repos["datasets/me/model"].private
    # The Hub's own first commit, and one for each call that changed something.
    assert [commit.oid for commit in repo.commits[1:]] == [first, second] and results["nothing new"] == second
    assert repo.commits[1].files | {".gitattributes": b""} == {
        ".gitattributes": b"",
        "model.safetensors": BIG,
        "a/b/note.txt": b"one",
    }
    assert repo.commits[1].lfs == {"model.safetensors"} and repo.commits[1].message == "Upload"
    assert repo.files.keys() == {".gitattributes", "README.md", "a/b/note.txt"}
    assert results["info"] == [True, first, []] and results["info of second"] == [True, second, ["vae"]]


def test_what_is_there_is_read(client):
    told, server = client
    results = {name: entry.get("result", entry) for name, entry in told.items()}
    size = len(server.repos["me/model"].files[".gitattributes"])
    top = {
        ".gitattributes": ["RepoFile", size],
        "a": ["RepoFolder", None],
        "model.safetensors": ["RepoFile", len(BIG)],
    }
    assert results["top"] == top
    assert results["tree"] == top | {"a/b": ["RepoFolder", None], "a/b/note.txt": ["RepoFile", 3]}
    assert results["folder"] == {"a/b": ["RepoFolder", None]}
    assert results["sizes"] == {
        ".gitattributes": [size, False],
        "a/b/note.txt": [3, False],
        "model.safetensors": [len(BIG), True],
    }
    assert results["last commits"] == {"a": results["second"], "a/b/note.txt": results["second"]}
    assert results["text"] == results["pinned"] == "one" and results["big"] == "1 big" and results["newest"] == "two"
    assert results["snapshot"] == [".gitattributes", "README.md", "a/b/note.txt"]


@pytest.mark.parametrize(
    "name, error, status, message",
    [
        ("create again", "HfHubHTTPError", 409, "You already created this model repo"),
        ("unknown owner", "HfHubHTTPError", 404, '"nobody" not found'),
        ("other owner", "HfHubHTTPError", 403, 'rights to create a model under the namespace "them"'),
        ("no folder", "RemoteEntryNotFoundError", 404, "does not exist"),
        ("deleted file", "RemoteEntryNotFoundError", 404, "Entry Not Found"),
        ("no revision", "RevisionNotFoundError", 404, "Revision Not Found"),
        ("no repo", "RepositoryNotFoundError", 404, "Repository Not Found"),
        ("bad card", "ValueError", None, "Invalid metadata in README.md"),
        ("old parent", "HfHubHTTPError", 412, "A commit has happened since"),
        ("wrong token, create", "HfHubHTTPError", 401, "Invalid credentials"),
        ("wrong token, commit", "HfHubHTTPError", 401, "Invalid credentials"),
        ("wrong token, info", "HfHubHTTPError", 401, "Invalid credentials"),
        ("wrong token, download", "HfHubHTTPError", 401, "Invalid credentials"),
        ("no token, create", "HfHubHTTPError", 401, "Invalid username or password"),
        ("no token, commit", "HfHubHTTPError", 401, "Invalid username or password"),
        ("no token, info", "RepositoryNotFoundError", 401, "Repository Not Found"),
        ("no token, download", "RepositoryNotFoundError", 401, "Repository Not Found"),
    ],
)
def test_what_is_refused(client, name, error, status, message):
    told = client[0][name]
    assert (told.get("error"), told.get("status")) == (error, status) and message in told["message"]


def test_faults(client):
    told, server = client
    # huggingface_hub tries a commit once only, whatever the answer.
    for name, status in (("busy 0", 503), ("busy 1", 503), ("limited", 429)):
        assert (told[name]["error"], told[name]["status"]) == ("HfHubHTTPError", status) and told[name]["seconds"] < 1
    assert told["busy 2"]["result"] == server.repos["me/busy"].commits[-1].oid
    answered = [request.status for request in server.requests if request.path == "/api/models/me/busy/commit/main"]
    assert answered == [503, 503, 200]
    # What carries no commit is tried again after a second.
    for name in ("batch", "cut-verify"):
        assert told[name]["result"] == server.repos[f"me/{name}"].commits[-1].oid and told[name]["seconds"] >= 1
    assert told["broken upload"]["error"] == "RuntimeError"
    # A page in place of the Hub's JSON, as a proxy answers.
    assert told["html"]["error"] == "JSONDecodeError"
    # The commit of an answer that got lost is there.
    assert told["lost answer"]["error"] == "RemoteProtocolError" and len(server.repos["me/lost"].commits) == 2


def test_faults_of_downloads(client):
    told, server = client
    assert told["cut"]["result"] == "80 big"
    # The last one asked for the rest.
    answered = [request.status for request in server.requests if request.path.startswith("/me/cut/resolve/")]
    assert answered == [200, 200, 206]
    assert told["busy HEAD"]["result"] == "1 big"
    assert (told["busy GET"]["error"], told["busy GET"]["status"]) == ("HfHubHTTPError", 503)
    assert told["slow"]["error"] == "ReadTimeout" and told["slow"]["seconds"] < 0.9


def test_parts_of_a_file():
    with LoopbackHub(token=TOKEN) as server:
        server.add_model("me/model", {"x.bin": b"0123456789"})

        def part(wanted):
            request = urllib.request.Request(f"{server.url}/me/model/resolve/main/x.bin", headers={"Range": wanted})
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as response:
                return response.status, response.headers["Content-Range"], response.read()

        assert part("bytes=2-4") == (206, "bytes 2-4/10", b"234")
        assert part("bytes=8-") == (206, "bytes 8-9/10", b"89")
        assert part("bytes=-3") == (206, "bytes 7-9/10", b"789")
        with pytest.raises(urllib.error.HTTPError, match="416"):
            part("bytes=10-")


# datasets

IMAGES = """
import json
from hwzoo.data import load_images
data = load_images("mnist")
print(json.dumps([[part.images.tolist(), part.labels.tolist(), part.class_names] for part in (data.train, data.test)]))
"""
CARD = b"""---
configs:
- config_name: mnist
  data_files:
  - split: train
    path: mnist/train-*
  - split: test
    path: mnist/test-*
  default: true
---
# MNIST
"""


def parquet(pixels, labels):
    """The bytes of a file with an image and a class label column, as the Hub has MNIST."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Picture

    features = Features(image=Image(), label=ClassLabel(names=[str(digit) for digit in range(10)]))
    columns = {"image": [Picture.fromarray(image) for image in pixels], "label": labels}
    file = io.BytesIO()
    Dataset.from_dict(columns, features=features).to_parquet(file)
    return file.getvalue()


def test_load_images_reads_mnist(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(9, 28, 28), dtype=np.uint8)
    labels = [5, 0, 4, 1, 9, 2, 7, 2, 1]
    files = {
        "README.md": CARD,
        "mnist/train-00000-of-00001.parquet": parquet(pixels[:6], labels[:6]),
        "mnist/test-00000-of-00001.parquet": parquet(pixels[6:], labels[6:]),
    }
    with LoopbackHub(token=TOKEN) as server:
        server.add_dataset("ylecun/mnist", files)
        with ThreadPoolExecutor(2) as pool:  # two processes fill one cache
            parts, others = pool.map(lambda number: run(server, tmp_path, IMAGES), range(2))
    assert parts == others
    for part, place in zip(parts, (slice(6), slice(6, None)), strict=True):
        assert np.array_equal(part[0], pixels[place, None]) and part[1] == labels[place]
        assert part[2] == [str(digit) for digit in range(10)]
    assert not [request for request in server.requests if request.status not in (200, 404)]


CONFIGURATIONS = """
import json
from hwzoo.data import ImageOptions, load_images
from hwzoo.errors import UsageError
told = []
for name in ("evens", "odds", None, "primes"):
    try:
        data = load_images("me/shapes", options=ImageOptions(dataset_config=name))
        told.append([[part.images.tolist(), part.labels.tolist()] for part in (data.train, data.test)])
    except UsageError as error:
        told.append(str(error))
print(json.dumps(told))
"""


def configurations(default: str | None = None, **pixels) -> dict[str, bytes]:
    """The files of a data set whose configurations have these images, the last third of them for the test."""
    files, entries = {}, []
    for name, images in pixels.items():
        labels, cut = [index % 3 for index in range(len(images))], len(images) * 2 // 3
        parts = {"train": parquet(images[:cut], labels[:cut]), "test": parquet(images[cut:], labels[cut:])}
        paths = {split: f"{name}/{split}-00000-of-00001.parquet" for split in parts}
        files |= {paths[split]: data for split, data in parts.items()}
        data_files = [{"split": split, "path": path} for split, path in paths.items()]
        entries.append({"config_name": name, "data_files": data_files, "default": name == default})
    return files | {"README.md": f"---\n{yaml.safe_dump({'configs': entries})}---\n# Shapes\n".encode()}


@pytest.mark.parametrize("default", [None, "odds"])
def test_load_images_takes_the_configuration_that_is_asked_for(default, tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(2, 9, 8, 8), dtype=np.uint8)
    given = dict(zip(("evens", "odds"), pixels, strict=True))
    with LoopbackHub(token=TOKEN) as server:
        server.add_dataset("me/shapes", configurations(default, **given))
        *own, unsaid, unknown = run(server, tmp_path, CONFIGURATIONS)
    for part, images in zip(own, pixels, strict=True):
        assert part == [[images[:6, None].tolist(), [0, 1, 2] * 2], [images[6:, None].tolist(), [0, 1, 2]]]
    several = "--dataset_name me/shapes has several configurations: give --dataset_config, one of ['evens', 'odds']"
    assert unsaid == (several if default is None else own[1])
    assert unknown == several


TEXTS = """
import json
from hwzoo.text import Columns, load_text
splits = load_text("me/reviews", columns=Columns("text", "label", source_prefix=""))
print(json.dumps([[[each.source, each.target] for each in part] for part in (splits.train, splits.test)]))
"""


def test_load_text_reads_classes_by_name(tmp_path):
    from datasets import ClassLabel, Dataset, Features, Value

    features = Features(text=Value("string"), label=ClassLabel(names=["bad", "good"]))
    rows, files = {"train": (["fine", "dull"], [1, 0]), "test": (["well"], [1])}, {}
    for split, (texts, labels) in rows.items():
        file = io.BytesIO()
        Dataset.from_dict({"text": texts, "label": labels}, features=features).to_parquet(file)
        files[f"data/{split}-00000-of-00001.parquet"] = file.getvalue()
    with LoopbackHub(token=TOKEN) as server:
        server.add_dataset("me/reviews", files)
        parts = run(server, tmp_path, TEXTS)
    assert parts == [[["fine", "good"], ["dull", "bad"]], [["well", "good"]]]


# transformers

MODEL = """
import json, pathlib, sys
sys.modules["hwzoo"] = None
import torch
from huggingface_hub import CommitOperationAdd, HfApi
from transformers import AutoModel

api, oids = HfApi(), []
api.create_repo("me/vae", private=True)
for folder in map(pathlib.Path, sys.argv[1:]):
    operations = [CommitOperationAdd(path.name, path) for path in folder.iterdir()]
    oids.append(api.create_commit("me/vae", operations, commit_message="Upload").oid)
newest = AutoModel.from_pretrained("me/vae", trust_remote_code=True)
pinned = AutoModel.from_pretrained("me/vae", trust_remote_code=True, revision=oids[0])
weights = [{name: weight.tolist() for name, weight in model.state_dict().items()} for model in (pinned, newest)]
print(json.dumps([oids, [type(model).__module__ for model in (pinned, newest)], weights]))
"""


def test_a_model_is_pushed_and_loaded_without_hwzoo(tmp_path):
    models = []
    for seed in range(2):
        torch.manual_seed(seed)
        config = VAEConfig(image_size=4, encoder_hidden_sizes=[8], decoder_hidden_sizes=[8], latent_size=2)
        models.append(VAEModel(config))
        hub.save(models[-1], tmp_path / str(seed))
    with LoopbackHub(token=TOKEN) as server:
        oids, loaded, weights = run(server, tmp_path, MODEL, tmp_path / "0", tmp_path / "1")
        repo = server.repos["me/vae"]
        assert [commit.oid for commit in repo.commits[1:]] == oids and repo.private
        assert loaded == [f"transformers_modules.me.vae.{oid}.modeling_vae" for oid in oids]
        assert repo.commits[-1].lfs == {"model.safetensors"}
    for model, loaded in zip(models, weights, strict=True):
        assert model.state_dict().keys() == loaded.keys()
        for name, weight in model.state_dict().items():
            assert torch.equal(weight, torch.tensor(loaded[name]))
