"""What `push` sends to a loopback Hub, what stays, what it changes in a card, and how it says that it cannot."""

import functools
import inspect
import json
import os
import re
import shlex
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
import warm
from huggingface_hub import HfApi, close_session, constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
from loopback_hub import LoopbackHub
from recipe_runs import finish, load_recipe, run_with, save_classifier, shorten_scores, start
from safetensors.torch import load, load_file

import hwzoo_cli
from hwzoo import (
    ClassifierConfig,
    ClassifierForImageClassification,
    VAEConfig,
    VAEModel,
    diffusion,
    hub,
    page,
    retry,
    text,
    training,
)
from hwzoo.errors import HwzooError, UsageError
from hwzoo.files import ENDED, FINAL, MADE, begin_record, record_made, renewing, sha256
from hwzoo.loading import loading
from hwzoo.models import FAMILIES
from hwzoo.training.resume import check_output_dir

TOKEN = "hf_loopback_right"
SECRET = b"the secret of a patient"
CARD = '---\nlicense: mit\n---\n# Mine\n\nmodel = AutoModel.from_pretrained("{}")\n'
MODEL = {"config.json", "model.safetensors"}


@pytest.fixture
def server(tmp_path_factory, monkeypatch):
    """A Hub that this very process talks to; nothing that lies outside of a push's folder comes to it."""
    with LoopbackHub(token=TOKEN) as server:
        for name, value in server.environment(tmp_path_factory.mktemp("cache")).items():
            monkeypatch.setenv(name, value)
        for name, value in {"ENDPOINT": server.url, "HF_HUB_OFFLINE": False, "HF_HUB_DISABLE_XET": True}.items():
            monkeypatch.setattr(constants, name, value)
        close_session()
        disable_progress_bars()
        yield server
        enable_progress_bars()
        close_session()
        assert not [name for repo in server.repos.values() for name, data in repo.files.items() if SECRET in data]


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def a_run(folder: Path, **more: str | bytes) -> Path:
    """A folder with the record of a run that has ended: a model and its card, which names `outputs/run`."""
    folder.mkdir(parents=True)
    record_made(folder, {"history.jsonl": None, "samples_0001.png": sha256(b"picture")})
    write(folder, {"history.jsonl": "{}\n", "samples_0001.png": b"picture"})
    with renewing(folder) as staging:
        files = {name: "{}" for name in MODEL} | {"README.md": CARD.format("outputs/run"), "data_used.txt": "digits"}
        write(staging, files | more)
    return folder


A_RUN = MODEL | {"README.md", "data_used.txt", "history.jsonl", "samples_0001.png"}


def a_model(folder: Path, **more: str | bytes) -> Path:
    """A folder without a record."""
    return write(folder, {name: "{}" for name in MODEL} | more)


def sent(server: LoopbackHub, repo: str = "me/model") -> set[str]:
    return server.repos[repo].files.keys() - {".gitattributes"}


def snapshot(folder: Path) -> dict[str, bytes]:
    """All files but the record of where they were pushed to."""
    paths = (path for path in folder.rglob("*") if path.is_file() and path.name != ".pushed.jsonl")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


# Links


@pytest.mark.parametrize("make", [a_run, a_model])
def test_no_link_is_followed(make, server, tmp_path, capsys):
    outside = write(tmp_path / "outside", {"secret.json": SECRET, "deep/secret.safetensors": SECRET})
    folder = make(tmp_path / "run")
    names = sent_without_links = A_RUN if make is a_run else MODEL
    links = {
        "all_results.json": outside / "secret.json",
        "unet": outside / "deep",
        "broken": outside / "none",
        "inside.json": folder / "config.json",
        "loop": folder,
        "checkpoints": outside,  # on another disk: what is never sent is not told
        ".cache": outside,
    }
    for name, target in links.items():
        (folder / name).symlink_to(target)
    hub.push(folder, "me/model", include=["*"])
    assert sent(server) == sent_without_links == names
    told = "5 links (all_results.json, broken, inside.json, loop, unet) are not sent; no link is followed\n"
    assert capsys.readouterr().err == told


@pytest.mark.parametrize("name", ["config.json", "README.md", "history.jsonl"])
def test_a_recorded_file_that_became_a_link_stays(name, server, tmp_path, capsys):
    folder = a_run(tmp_path / "run")
    secret = write(tmp_path, {"secret": SECRET + b' from_pretrained("run")'}) / "secret"
    (folder / name).unlink()
    (folder / name).symlink_to(secret)
    hub.push(folder, "me/model")
    assert sent(server) == A_RUN - {name}
    assert f"1 link ({name}) is not sent" in capsys.readouterr().err
    assert (folder / name).is_symlink() and secret.read_bytes() == SECRET + b' from_pretrained("run")'


def test_a_part_of_a_pipeline_behind_a_link_stays(server, tmp_path):
    outside = write(tmp_path / "outside", {"config.json": SECRET, "model.safetensors": SECRET})
    folder = a_model(tmp_path / "run", **{"model_index.json": json.dumps({"unet": ["diffusers", "UNet2DModel"]})})
    (folder / "unet").symlink_to(outside)
    hub.push(folder, "me/model")
    assert sent(server) == MODEL | {"model_index.json"}


def test_the_folder_itself_may_be_named_by_a_link(server, tmp_path):
    a_run(tmp_path / "run")
    (tmp_path / "newest").symlink_to("run")
    hub.push(tmp_path / "newest", "me/model")
    assert sent(server) == A_RUN


def test_weights_that_are_links_are_no_model(tmp_path):
    folder = write(tmp_path / "run", {"config.json": "{}"})
    (folder / "model.safetensors").symlink_to(write(tmp_path, {"blob": b"{}"}) / "blob")
    words = r"holds no model to push \(no .safetensors file\); 1 link \(model.safetensors\) is not sent"
    with pytest.raises(UsageError, match=words):
        hub.push(folder, "me/model")


# What goes and what stays

STRAY = {
    "train/patients.csv": SECRET, "train/labels.csv": SECRET, "notes.txt": SECRET, "old/model.safetensors": SECRET,
    "extra.json": SECRET, "face.png": SECRET, "zoo.py": SECRET,
}  # fmt: skip


@pytest.mark.parametrize("make", [a_run, a_model])
def test_strays_stay_and_are_told(make, server, tmp_path, capsys):
    folder = write(make(tmp_path / "run"), STRAY)
    write(folder, {"checkpoints/step-1/model.safetensors": SECRET, "logs/events": SECRET, ".env": SECRET})
    write(folder, {".git/config": SECRET, "train/.hidden": SECRET, "train/logs/x": SECRET})
    address = hub.push(folder, "me/model")
    assert sent(server) == (A_RUN if make is a_run else MODEL)
    assert address.endswith(server.repos["me/model"].commits[-1].oid)
    names = "extra.json, face.png, notes.txt, old/model.safetensors, train/labels.csv, ..."
    told = f"7 other files ({names}) are not sent; --include PATTERN sends what it names\n"
    assert capsys.readouterr().err == told


def test_nothing_is_told_where_nothing_stays(server, tmp_path, capsys):
    hub.push(a_run(tmp_path / "run"), "me/model")
    assert capsys.readouterr() == ("", "")


def test_a_name_with_a_line_end_stays_in_its_line(server, tmp_path, capsys):
    hub.push(write(a_run(tmp_path / "run"), {"a\nb.txt": SECRET}), "me/model")
    assert capsys.readouterr().err.startswith("1 other file (a b.txt) is not sent; ")


@pytest.mark.parametrize("main", [hub.main, hwzoo_cli.main])
@pytest.mark.parametrize(
    ("patterns", "more"),
    [
        (["notes.txt"], {"notes.txt"}),
        (["*.csv"], {"train/a.csv", "train/b.csv", "top.csv"}),
        (["train/*"], {"train/a.csv", "train/b.csv", "train/c.json"}),
        (["train/[ab].csv", "*.txt"], {"train/a.csv", "train/b.csv", "notes.txt"}),
        (["*"], {"train/a.csv", "train/b.csv", "train/c.json", "top.csv", "notes.txt"}),
        (["config.json"], set()),
    ],
)
def test_what_is_included_goes_too(main, patterns, more, server, tmp_path, capsys):
    files = ("train/a.csv", "train/b.csv", "train/c.json", "top.csv", "notes.txt")
    private = dict.fromkeys((".hidden.csv", "checkpoints/x.txt", "logs/y.csv", "train/.z"), SECRET)
    folder = write(a_run(tmp_path / "run"), dict.fromkeys(files, b"x") | private)
    assert main(["push", str(folder), "me/model", *(f"--include={pattern}" for pattern in patterns)]) == 0
    assert sent(server) == A_RUN | more
    told = capsys.readouterr().err
    assert told.startswith(f"{5 - len(more)} other file") if len(more) < 5 else told == ""


@pytest.mark.parametrize("pattern", ["*.cvs", "train", ".env", "checkpoints/*", "logs/*", "link", "Notes.txt", ""])
def test_a_pattern_that_names_no_file_is_refused(pattern, server, tmp_path, capsys):
    folder = write(a_run(tmp_path / "run"), {".env": SECRET, "checkpoints/x": SECRET, "logs/y": SECRET})
    write(folder, {"train/a.csv": SECRET, "notes.txt": SECRET})
    (folder / "link").symlink_to("notes.txt")
    before = snapshot(folder)
    assert hub.main(["push", str(folder), "me/model", "--include", pattern]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: --include {pattern}".rstrip()) and told.count("\n") == 1
    assert snapshot(folder) == before and not server.requests


def test_a_recorded_file_goes_as_its_owner_changed_it(server, tmp_path):
    folder = write(
        a_run(tmp_path / "run"), {"README.md": "# By hand\n", "data_used.txt": "digits, mine", "vocab.txt": SECRET}
    )
    (folder / "samples_0001.png").unlink()
    hub.push(folder, "me/model")
    files = server.repos["me/model"].files
    assert sent(server) == A_RUN - {"samples_0001.png"}
    assert files["README.md"] == b"# By hand\n" and files["data_used.txt"] == b"digits, mine"


def test_a_final_save_that_was_interrupted_is_brought_to_its_end_first(server, tmp_path):
    folder = a_run(tmp_path / "run")
    write(folder, {f"{FINAL}/{name}": '{"new": 1}' for name in MODEL})
    hub.push(folder, "me/model")
    files = server.repos["me/model"].files
    assert sent(server) == MODEL | {"history.jsonl", "samples_0001.png"}
    assert all(files[name] == b'{"new": 1}' for name in MODEL)


@pytest.mark.parametrize("how", ["anew", "resumed"])
def test_what_an_interrupted_later_run_has_made_is_not_of_the_model(how, server, tmp_path, capsys):
    folder, later = a_run(tmp_path / "run"), {"samples_0001.png": b"another", "samples_0002.png": b"later"}
    write(folder, {"samples_0003.png": b"of its user"})
    if how == "anew":
        begin_record(folder)
        record_made(folder, {"history.jsonl": None})
    record_made(folder, {name: sha256(data) for name, data in later.items()})
    write(folder, later | {"history.jsonl": '{"step": 1}\n'})
    hub.push(folder, "me/model")
    assert sent(server) == A_RUN - {"history.jsonl", "samples_0001.png"}
    told = "4 other files (history.jsonl, samples_0001.png, samples_0002.png, samples_0003.png) are not sent"
    assert capsys.readouterr().err.startswith(told)
    # As they were, they are its own, whatever else the later run has begun.
    write(folder, {"history.jsonl": "{}\n", "samples_0001.png": b"picture"})
    hub.push(folder, "me/model")
    assert sent(server) == A_RUN
    # An earlier version's record does not tell.
    ended = json.loads((folder / ENDED).read_text())
    write(folder, {ENDED: json.dumps({name: digest for name, digest in ended.items() if name})} | later)
    hub.push(folder, "me/model")
    assert sent(server) == A_RUN | {"samples_0002.png"}


def test_a_model_of_an_earlier_version_goes_with_what_a_later_run_began(server, tmp_path):
    folder = write(a_model(tmp_path / "run"), {"samples_0001.png": b"picture", "notes.txt": SECRET})
    record_made(folder, {"samples_0001.png": sha256(b"picture")})
    assert (folder / MADE).is_file()
    hub.push(folder, "me/model")
    assert sent(server) == MODEL | {"samples_0001.png"}


def test_a_record_names_no_file_outside(server, tmp_path):
    write(tmp_path, {"secret": SECRET})
    folder = a_run(tmp_path / "run")
    record_made(folder, {"../secret": sha256(SECRET), str(tmp_path / "secret"): None})
    hub.push(folder, "me/model")
    assert sent(server) == A_RUN


TRANSFORMERS = (
    "adapter_config.json", "added_tokens.json", "chat_template.jinja", "generation_config.json", "merges.txt",
    "model-00001-of-00002.safetensors", "model.safetensors.index.json", "preprocessor_config.json",
    "sentencepiece.bpe.model", "special_tokens_map.json", "spiece.model", "tokenizer.json", "tokenizer_config.json",
    "model.safetensors.index.fp16.json", "source.spm", "target.spm", "target_vocab.json", "prophetnet.tokenizer",
    "vocab-src.json", "vocab-tgt.json", "vocab.json", "vocab.txt", "all_results.json", "preset.yaml",
    "predictions.jsonl", "history.jsonl", "README.md",
)  # fmt: skip
NEVER_KNOWN = (
    "optimizer.pt", "training_args.bin", "data.json", "train.jsonl", "dump.pkl", "a/config.json", "a/vocab.txt",
    "a/x.safetensors", "other.py", "picture.png",
)  # fmt: skip


def test_a_folder_without_a_record_is_told_by_names(server, tmp_path, capsys):
    folder = a_model(tmp_path / "run", **dict.fromkeys(TRANSFORMERS, "{}"), **dict.fromkeys(NEVER_KNOWN, SECRET))
    hub.push(folder, "me/model")
    assert sent(server) == MODEL | set(TRANSFORMERS)
    assert capsys.readouterr().err.startswith("10 other files (a/config.json, a/vocab.txt, a/x.safetensors, data.json")


def test_a_pipeline_without_a_record_goes_by_its_index(server, tmp_path):
    index = {
        "_class_name": ["my_pipeline", "MyPipeline"],
        "_diffusers_version": "0.42.1",
        "image_size": None,
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["my_unet", "MyUNet"],
        "tokenizer": ["transformers", "T5Tokenizer"],
        "safety_checker": [None, None],
    }
    known = (
        "my_pipeline.py", "my_steps.py", "scheduler/scheduler_config.json", "unet/config.json", "unet/my_unet.py",
        "unet/diffusion_pytorch_model.safetensors", "unet/diffusion_pytorch_model.safetensors.index.json",
        "tokenizer/vocab.txt", "tokenizer/tokenizer_config.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
    )  # fmt: skip
    strays = (
        "unet/notes.txt",
        "unet/README.md",
        "other/config.json",
        "unet/deep/config.json",
        "my_unet.py",
        "unet.py",
    )
    files = dict.fromkeys(known, "{}") | dict.fromkeys(strays, SECRET) | {"model_index.json": json.dumps(index)}
    folder = write(tmp_path / "run", files | {"my_pipeline.py": "from .my_steps import step\n"})
    write(folder, {"unet/config.json": '{"auto_map": {"AutoModel": "XModel"}}'})
    hub.push(folder, "me/model")
    assert sent(server) == {*known, "model_index.json"}


@pytest.mark.parametrize("kind", ["model", "pipeline"])
def test_the_parts_of_a_variant_go_with_their_index(kind, tmp_path):
    how = {"variant": "fp16", "max_shard_size": "10KB"}
    if kind == "model":
        model = VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8]))
        index, load = "model.safetensors.index.fp16.json", lambda folder: hub.load(VAEModel, folder, variant="fp16")
    else:
        from diffusers import DDPMPipeline

        unet = diffusion.build_unet(8, 1, block_out_channels=[8, 8], norm_num_groups=4, attention=False)
        model = DDPMPipeline(unet, diffusion.train_scheduler(30))
        index = "unet/diffusion_pytorch_model.safetensors.index.fp16.json"
        load = functools.partial(DDPMPipeline.from_pretrained, variant="fp16")
    model.save_pretrained(tmp_path / "run", **how)
    names, _ = hub._chosen(tmp_path / "run", [])
    assert index in names and sum(name.endswith(".safetensors") for name in names) > 1
    pushed = write(tmp_path / "pushed", {name: (tmp_path / "run" / name).read_bytes() for name in names})
    weights, loaded = (getattr(each, "unet", each).state_dict() for each in (model, load(str(pushed))))
    assert weights.keys() == loaded.keys() and all(torch.equal(weights[name], loaded[name]) for name in weights)
    (pushed / index).write_text("[]")
    with (
        pytest.raises(HwzooError, match=f"^{re.escape(str(pushed / index))} holds a JSON list; it must be an object$"),
        loading(str(pushed), "unet"),
    ):
        pass


def test_code_goes_with_what_it_imports_beside_it(server, tmp_path):
    auto_map = {
        "AutoModel": "modeling_x.XModel",
        "AutoConfig": "owner/other--configuration_y.YConfig",
        "AutoTokenizer": ["tokenization_x.XTokenizer", None],
        "AutoProcessor": "configuration_y",
    }
    code = {
        "modeling_x.py": "from .layers_x import Layer\nimport torch\nfrom .missing import z\n",
        "layers_x.py": "from .modeling_x import XModel\nfrom .deep_x import y\n",
        "deep_x.py": "x = 1\n",
        "tokenization_x.py": "# caf\xe9".encode("latin-1"),
    }
    strays = dict.fromkeys(("configuration_y.py", "train_x.py", "missing.txt"), SECRET)
    folder = a_model(tmp_path / "run", **code, **strays, **{"config.json": json.dumps({"auto_map": auto_map})})
    hub.push(folder, "me/model")
    assert sent(server) == MODEL | code.keys()


@pytest.mark.parametrize("broken", [b"{", b"[]", b'{"auto_map": 3}', b'{"auto_map": {"AutoModel": 3}}', b"\xff"])
def test_a_configuration_that_is_none_names_no_code(broken, server, tmp_path):
    files = {"config.json": broken, "model_index.json": broken, "modeling_x.py": SECRET}
    hub.push(a_model(tmp_path / "run", **files), "me/model")
    assert sent(server) == MODEL | {"model_index.json"}


def test_pictures_go_that_the_card_names(server, tmp_path):
    card = '![samples](samples.png) ![](./my%20curves.png)\n<img src="walk.gif">, see faces.png.\n`deep/in.png`'
    named = ("samples.png", "my curves.png", "walk.gif", "faces.png")
    strays = ("les.png", "in.png", "deep/in.png", "scan.png", "samples.png.txt", "samples.jpg")
    files = dict.fromkeys(named, b"picture") | dict.fromkeys(strays, SECRET)
    hub.push(a_model(tmp_path / "run", **files, **{"README.md": card}), "me/model")
    assert sent(server) == MODEL | {"README.md", *named}


def test_what_the_zoo_saves_goes_whole(server, tmp_path):
    folder = tmp_path / "run"
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), folder, {"test_x": 1.0})
    hub.push(folder, "me/model")
    code = {"configuration_vae.py", "labels.py", "latents.py", "modeling_vae.py", "pixels.py"}
    assert sent(server) == MODEL | code | {"all_results.json"} == set(snapshot(folder))


# The card


def pushed_card(server: LoopbackHub, folder: Path, repo: str = "me/model") -> bytes:
    hub.push(folder, repo)
    assert server.repos[repo].files["README.md"] == (folder / "README.md").read_bytes()
    return (folder / "README.md").read_bytes()


@pytest.mark.parametrize("make", [a_run, a_model])
@pytest.mark.parametrize(
    "own", ["{folder}", "run", "outputs/run", "./outputs/run", "outputs/run/", "../work/outputs/run", "{link}"]
)
def test_examples_that_name_the_folder_name_the_repository(own, make, server, tmp_path, monkeypatch):
    folder = make(tmp_path / "work" / "outputs" / "run")
    (tmp_path / "newest").symlink_to(folder)
    own = own.format(folder=folder, link=tmp_path / "newest")
    lines = [
        f'm = AutoModel.from_pretrained("{own}", trust_remote_code=True)',
        f'p = load_pipeline("{own}") or pipeline("image-classification", model="{own}")',
        f'It is at "{own}", load("{own}") is none of ours.',
    ]
    others = [
        'AutoTokenizer.from_pretrained("google-t5/t5-small")',
        'x = from_pretrained("other/run"); y = from_pretrained("outputs/run2"); z = from_pretrained("puts/run")',
        'from_pretrained("."); from_pretrained(""); from_pretrained("/"); from_pretrained("..")',
        f'from_pretrained("{own}-large"); model="{own}/unet"; from_pretrained(\'{own}\')',
        "Caf\u00e9, \u6f22\u5b57\u2028, a tab\t, no end at the last line",
    ]
    write(folder, {"README.md": "\r\n".join([*lines, *others])})
    monkeypatch.chdir(tmp_path / "work")
    new = [each.replace(f'd("{own}"', 'd("me/model"').replace(f'e("{own}"', 'e("me/model"') for each in lines[:2]]
    new[1] = new[1].replace(f'model="{own}"', 'model="me/model"')
    assert pushed_card(server, folder) == "\r\n".join([*new, lines[2], *others]).encode()


@pytest.mark.parametrize("text", ["", "# Mine\r\n\r\n", '\ufeff# Mine\rfrom_pretrained("google/vit")\n\n\n'])
def test_a_card_without_examples_of_its_own_is_not_touched(text, server, tmp_path):
    folder = write(a_run(tmp_path / "run"), {"README.md": text})
    os.utime(folder / "README.md", (1, 1))
    before = snapshot(folder)
    assert pushed_card(server, folder) == text.encode()
    assert snapshot(folder) == before and (folder / "README.md").stat().st_mtime == 1


def test_a_card_as_the_run_wrote_it_names_the_repository_wherever_the_folder_went(server, tmp_path):
    folder = a_run(tmp_path / "moved", **{"README.md": CARD.format("/elsewhere/old")})
    assert pushed_card(server, folder) == CARD.format("me/model").encode()


def test_a_push_is_no_change_of_the_users(server, tmp_path, caplog):
    """The next run need keep no copy of the card."""
    folder = a_run(tmp_path / "run", **{"README.md": CARD.format("run")})
    for repo in ("me/one", "me/two"):
        pushed_card(server, folder, repo)
    with renewing(folder) as staging:
        (staging / "README.md").write_text("new")
    assert not (folder / "README.yours.md").exists() and not caplog.records


@pytest.mark.parametrize("make", [a_run, a_model])
def test_a_second_repository_takes_the_place_of_the_first(make, server, tmp_path):
    folder = make(tmp_path / "run", **{"README.md": CARD.format("run")})
    other = 'from_pretrained("google/vit")\r\n'
    for repo in ("me/one", "me/two", "me/one"):
        assert f'from_pretrained("{repo}")'.encode() in pushed_card(server, folder, repo)
        if repo == "me/one" and other not in (folder / "README.md").read_bytes().decode():
            with open(folder / "README.md", "ab") as file:
                file.write(other.encode())
    assert (folder / "README.md").read_bytes() == (CARD.format("me/one") + other).encode()
    assert not {name for repo in ("me/one", "me/two") for name in sent(server, repo) if name.startswith(".")}


@pytest.mark.parametrize("damaged", [b"", b"{", b"3\n[]\n{}\nnull\n", b'"me/one', b"\xff\n"])
def test_a_damaged_list_of_former_repositories_costs_no_push(damaged, server, tmp_path):
    card = CARD.format("me/one") + CARD.format("run")
    folder = a_model(tmp_path / "run", **{".pushed.jsonl": damaged, "README.md": card})
    assert pushed_card(server, folder) == (CARD.format("me/one") + CARD.format("me/model")).encode()
    assert pushed_card(server, folder, "me/two") == (CARD.format("me/one") + CARD.format("me/two")).encode()


def test_where_a_folder_was_pushed_to_last_is_known(server, tmp_path, monkeypatch):
    folder = a_run(tmp_path / "run")
    for repo in ("me/a", "me/b", "me/a"):
        hub.push(folder, repo)
    assert page.hub_ids([str(folder)]) == ["me/a"]
    with pytest.raises(HwzooError):
        hub.push(folder, "other/never")
    assert page.hub_ids([str(folder)]) == ["me/a"]
    plain = a_model(tmp_path / "plain")  # whose card names no folder
    hub.push(plain, "me/plain")
    assert page.hub_ids([str(plain)]) == ["me/plain"]


def test_a_push_from_a_folder_that_cannot_be_written_succeeds(server, tmp_path, monkeypatch):
    folder = a_model(tmp_path / "run")

    def refuse(*args):
        raise HwzooError("cannot write: Read-only file system")

    monkeypatch.setattr(hub, "write_jsonl", refuse)
    assert hub.push(folder, "me/model") and server.repos["me/model"].files


def test_a_pushed_folder_that_was_emptied_takes_a_new_run(server, tmp_path):
    folder = a_run(tmp_path / "run")
    hub.push(folder, "me/model")
    with pytest.raises(UsageError, match="is not empty"):
        check_output_dir(folder, False, None)
    for path in folder.glob("[!.]*"):
        path.unlink()
    assert (folder / ".pushed.jsonl").read_text() == '"me/model"\n{"pushed": "me/model"}\n'
    check_output_dir(folder, False, None)


def test_where_the_data_lies_on_this_machine_is_not_pushed(server, tmp_path):
    preset = f"dataset_name: mnist\nlearning_rate: 0.001\ndata_dir: {tmp_path / 'data'}\n"
    folder = a_model(tmp_path / "run", **{"preset.yaml": preset})
    hub.push(folder, "me/model")
    assert server.repos["me/model"].files["preset.yaml"] == b"dataset_name: mnist\nlearning_rate: 0.001\n"
    assert (folder / "preset.yaml").read_text() == preset
    hub.push(folder, "me/model")
    assert len(server.repos["me/model"].commits) == 2  # with the one that made the repository


def test_of_the_folder_of_ones_own_images_the_name_alone_is_pushed(server, tmp_path):
    preset = f"dataset_name: {tmp_path / 'patients'}\nclassifier: ../../alice/known\nlearning_rate: 0.001\n"
    folder = a_model(tmp_path / "run", **{"preset.yaml": preset})
    hub.push(folder, "me/model")
    sent = server.repos["me/model"].files["preset.yaml"]
    assert sent == b"dataset_name: patients\nclassifier: known\nlearning_rate: 0.001\n"
    assert (folder / "preset.yaml").read_text() == preset


def test_a_folder_of_ones_own_with_the_name_of_a_known_data_set_stays_a_folder(server, tmp_path):
    folder = a_model(tmp_path / "run", **{"preset.yaml": "dataset_name: ../../data/digits\n"})
    hub.push(folder, "me/model")
    assert server.repos["me/model"].files["preset.yaml"] == b"dataset_name: ./digits\n"


def test_of_the_folder_of_ones_own_classifier_the_name_alone_is_told(server, tmp_path, monkeypatch):
    shorten_scores(monkeypatch.setattr)
    recipe, given = load_recipe("train_vae"), {"max_train_steps": 1, "num_importance_samples": 2, "latent_size": 2}
    types = [kind for kind in recipe.main.__annotations__.values() if kind is not dict]
    given |= {"encoder_hidden_sizes": [8], "decoder_hidden_sizes": [8], "num_test_samples": 8}
    given |= {"classifier": save_classifier(tmp_path / "alice" / "clf"), "output_dir": str(tmp_path / "run")}
    results = run_with(recipe, types, given)
    assert results["classifier"] == "clf" and " of the classifier clf (sha256 " in results["protocol"]
    assert "alice" not in json.dumps(results)
    assert f"--classifier {given['classifier']}" in training.numbers.next_commands(tmp_path / "run")[1]  # whole
    hub.push(tmp_path / "run", "me/model")
    files = server.repos["me/model"].files
    assert b"classifier clf" in files["README.md"].replace(b"\n", b" ")
    assert not [name for name, data in files.items() if b"alice" in data]


def test_the_data_of_the_training_is_known_or_asked_for(server, tmp_path, monkeypatch, caplog):
    """Never guessed: of a Hub that does not answer, nobody knows whether a model has a record."""
    server.add_model("me/one", {"config.json": b"{}", "preset.yaml": b"dataset_name: digits\n"})
    server.add_model("me/none", {"config.json": b"{}"})
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    template = f"{server.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    for name, value in {"HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setattr(constants, name, value)
    fault = server.fail("HEAD", r"preset\.yaml", 503, times=None)
    with pytest.raises(HwzooError, match="^--model_name_or_path me/one: .*the Hub does not tell which data"):
        training.record_of("me/one")
    with pytest.raises(HwzooError, match="^--model_name_or_path me/none: "):
        training.record_of("me/none")
    fault.times = 0
    assert training.record_of("me/one") == {"dataset_name": "digits"} and training.record_of("me/none") == {}
    for owner in ("me", "you"):
        server.add_model(f"{owner}/private", {"config.json": b"{}", "preset.yaml": b"dataset_name: digits\n"}, True)
    server.add_model("you/gated", {"config.json": b"{}"})
    server.fail("HEAD", "you/gated", 403, times=None)
    for name, status in {"me/typo": 404, "you/private": 404, "you/gated": 403, "me/private": 401}.items():
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", status == 401)
        with pytest.raises(HwzooError) as told:
            training.record_of(name)
        words = f"no such folder or repository, or the token may not read it ({status}); a private one needs HF_TOKEN"
        assert (str(told.value), told.value.status) == (f"--model_name_or_path {name}: {words}", 1)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_IMPLICIT_TOKEN", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # what was asked before is still known
    assert training.record_of("me/one") == {"dataset_name": "digits"} and training.record_of("me/none") == {}
    with pytest.raises(HwzooError, match="^--model_name_or_path me/typo: .*give --dataset_name"):
        training.record_of("me/typo")
    run = {"output_dir": str(tmp_path / "out"), "max_train_steps": 0, "dataset_name": "mnist"}
    with training.start(training.RunArguments(**run, model_name_or_path="me/one")):
        pass
    assert "me/one was trained on digits; it is tested on mnist, --dataset_name" in caplog.messages


@pytest.mark.parametrize(
    "words", ["data_dir: [", "- data_dir", "data_dir: x\n---\ny: 1", "x: 2001-99-99", "x: " + 1000 * "["]
)
def test_a_preset_of_a_users_own_goes_as_it_is(words, server, tmp_path):
    folder = a_model(tmp_path / "run", **{"preset.yaml": words})
    hub.push(folder, "me/model")
    assert server.repos["me/model"].files["preset.yaml"] == words.encode()


def test_a_push_that_failed_counts_as_a_former_one(server, tmp_path):
    folder = a_model(tmp_path / "run", **{"README.md": CARD.format("run")})
    server.fail("POST", "create", 403)
    with pytest.raises(HwzooError, match="the token may not write there"):
        hub.push(folder, "you/model")
    assert '"you/model"' in (folder / "README.md").read_text()
    assert pushed_card(server, folder) == CARD.format("me/model").encode()


# What cannot be


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
@pytest.mark.parametrize("make", [a_run, a_model])
def test_a_card_that_is_not_utf8_is_one_line(make, encoding, server, tmp_path, capsys):
    folder = write(make(tmp_path / "run"), {"README.md": '# One\n\nfrom_pretrained("run") \xe9t\xe9'.encode(encoding)})
    before = snapshot(folder)
    assert hub.main(["push", str(folder), "me/model"]) == 2
    line = 3 if encoding == "latin-1" else 1
    told = f"error: {folder}/README.md is not UTF-8 (line {line}); save it as UTF-8; nothing was pushed\n"
    assert capsys.readouterr().err == told
    assert snapshot(folder) == before and not server.requests


@pytest.mark.parametrize("make", [a_run, a_model])
def test_a_card_that_is_a_folder_is_one_line(make, server, tmp_path, capsys):
    folder = make(tmp_path / "run")
    (folder / "README.md").unlink(missing_ok=True)
    write(folder, {"README.md/notes.txt": SECRET})
    assert hub.main(["push", str(folder), "me/model", "--include=*"]) == 2
    told = f"error: {folder}/README.md is a folder; a model card is a file of that name; nothing was pushed\n"
    assert capsys.readouterr().err == told
    assert not server.requests


@pytest.mark.parametrize("main", [hub.main, hwzoo_cli.main])
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: FOLDER, REPO"),
        (["run"], "the following arguments are required: REPO"),
        (["run", "me/model", "more"], "unrecognized arguments: more"),
        (["run", "me/model", "--privat"], "unrecognized arguments: --privat"),
        (["run", "me/model", "--token", "x"], "unrecognized arguments: --token x"),
        (["run", "me/model", "--include"], "argument --include: expected one argument"),
        (["run", "me/model", "--private=yes"], "argument --private: ignored explicit argument 'yes'"),
        (["none", "me/model"], "none is no folder; nothing was pushed"),
        (["run/config.json", "me/model"], "run/config.json is no folder; nothing was pushed"),
        (["run", "model"], "model is not a repository id, owner/name; nothing was pushed"),
        (["run", "me/model/x"], "me/model/x is not a repository id, owner/name; nothing was pushed"),
        (["run", ""], " is not a repository id, owner/name; nothing was pushed"),
        (["run", "me/a--b"], "me/a--b is not a repository id, owner/name; nothing was pushed"),
        (["run", "me/a.git"], "me/a.git is not a repository id, owner/name; nothing was pushed"),
        (["run", f"me/{'a' * 120}"], f"me/{'a' * 120} is not a repository id, owner/name; nothing was pushed"),
    ],
)
def test_wrong_arguments_are_one_line(arguments, words, main, server, tmp_path, monkeypatch, capsys):
    a_run(tmp_path / "run")
    before = snapshot(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert main(["push", *arguments]) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {words}".replace("  ", " ")) and told.err.count("\n") == 1 and not told.out
    assert snapshot(tmp_path) == before and not server.requests


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the following arguments are required: command"),
        (["pull", "run", "me/model"], "argument command: invalid choice: 'pull'"),
        (["--private"], "the following arguments are required: command"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, words, capsys):
    assert hub.main(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith(f"error: {words}") and told.err.count("\n") == 1 and not told.out


def test_help_is_help(capsys):
    with pytest.raises(SystemExit, match="0"):
        hub.main(["push", "--help"])
    told = capsys.readouterr().out
    assert all(f"\n  {name} " in told for name in ("FOLDER", "REPO", "--private", "--include PATTERN"))


def test_the_later_command_is_the_whole_one(server, tmp_path, capsys):
    folder = write(a_run(tmp_path / "my run"), {"notes.txt": "x"})
    server.fail("POST", "create", 403)
    asked = ["push", str(folder), "me/model", "--private", "--include=*.txt", "--include=config.json"]
    assert hub.main(asked) == 1
    later = capsys.readouterr().err.split("(twice does no harm): ")[1]
    assert shlex.split(later) == ["python", "-m", "hwzoo.hub", *asked]
    assert hub.main(shlex.split(later)[3:]) == 0 and sent(server) == A_RUN | {"notes.txt"}


@pytest.mark.long
def test_ctrl_c_ends_it_at_once_in_one_line(server, tmp_path):
    """Also while threads send large files, which an exception would wait for."""
    folder = a_run(tmp_path / "run", **{f"model-{part}.safetensors": f"weights {part}" for part in range(8)})
    server.fail("PUT", "lfs", 503, times=None, delay=60)
    command = [sys.executable, "-m", "hwzoo.hub", "push", str(folder), "me/model", "--include=*.txt"]
    process = start(command)
    end = time.monotonic() + 60
    while not any("lfs/objects/batch" in request.path for request in server.requests) and time.monotonic() < end:
        time.sleep(0.05)
    time.sleep(0.5)
    interrupted = time.monotonic()
    process.send_signal(signal.SIGINT)
    out, error = finish(process)
    assert time.monotonic() - interrupted < 5
    line = f"error: interrupted; {folder} is safe, push it later (twice does no harm): "
    assert (process.returncode, out) == (130, "")
    assert error.splitlines()[-1] == f"{line}python -m hwzoo.hub push {folder} me/model '--include=*.txt'"
    assert "Traceback" not in error and len(server.repos["me/model"].commits) == 1


def test_ctrl_c_before_the_push_is_one_line_too(monkeypatch, capsys):
    """The imports take seconds."""

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(hwzoo_cli, "main", interrupted)
    assert hwzoo_cli.console() == 130
    assert capsys.readouterr() == ("", "error: interrupted\n")


def test_a_terminal_that_is_gone_costs_no_push(server, tmp_path, monkeypatch):
    class Gone:
        def write(self, text: str):
            raise BrokenPipeError

    folder = write(a_run(tmp_path / "run"), STRAY)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", Gone())
        hub.push(folder, "me/model")
    assert sent(server) == A_RUN


# The hidden files that are the Hub's


@pytest.mark.parametrize("make", [a_run, a_model])
def test_the_hubs_own_hidden_folder_goes_and_no_other(make, server, tmp_path):
    hidden = {".eval_results/mnist.yaml": "[]", ".eval_results/.x.yaml": "[]", ".secret/a.yaml": SECRET}
    folder = make(tmp_path / "run", **{".eval_results/mnist.yaml": "[]"})
    hub.push(write(folder, hidden), "me/model")
    assert ".eval_results/mnist.yaml" in sent(server)
    assert not {name for name in sent(server) if name.startswith(".")} - {".eval_results/mnist.yaml"}


def test_hf_upload_leaves_out_what_is_the_runs_own(server, tmp_path):
    """`upload_folder` is what that command calls; the Hub reads the .gitignore among the files."""
    folder = a_run(tmp_path / "run")
    begin_record(folder)
    private = {".lock": "", "checkpoints/step-1/a.safetensors": SECRET, "logs/a/b.txt": SECRET, ".pushed.jsonl": "[]"}
    write(folder, private | {".unfinished-x/a": SECRET, ".final/config.json": SECRET})
    HfApi().create_repo("me/model")
    HfApi().upload_folder(repo_id="me/model", folder_path=folder)
    assert sent(server) == A_RUN


# Adapters


def an_adapter(folder: Path, base: str) -> Path:
    config = json.dumps({"peft_type": "LORA", "base_model_name_or_path": base})
    card = f"---\nlicense: mit\n---\nIt needs its base, which it looks for at `{base}`.\n"
    return write(folder, {"adapter_config.json": config, "adapter_model.safetensors": "{}", "README.md": card})


@pytest.mark.parametrize("name", ["outputs/t5", "{}/outputs/t5", "./outputs/t5", "../t5"])
def test_an_adapter_of_a_local_folder_is_refused_and_told_what_to_do(name, server, tmp_path, monkeypatch, capsys):
    a_model(tmp_path / "outputs" / "t5")
    a_model(tmp_path / "t5")
    base = name.format(tmp_path)
    folder = an_adapter(tmp_path / "outputs" / "adapter", base)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for place in (tmp_path, elsewhere):
        monkeypatch.chdir(place)
        assert hub.main(["push", str(folder), "me/model"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"an adapter of a model in a local folder, {base}," in line
        assert f"hwzoo push {base} OWNER/NAME, and give --base_model_id OWNER/NAME here; nothing was pushed" in line
    assert not server.repos


@pytest.mark.parametrize("absolute", [True, False])
def test_an_adapter_names_the_pushed_base(absolute, server, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    base = str(a_model(tmp_path / "t5")) if absolute else str(a_model(Path("t5")))
    folder = an_adapter(tmp_path / "adapter", base)
    named = base if absolute else "../t5"  # as `save_settings` writes it
    (folder / "preset.yaml").write_text(f"model_name_or_path: {named}\ndata_dir: {tmp_path}\nlora_rank: 2\n")
    before = snapshot(folder)
    assert hub.main(["push", str(folder), "me/model", "--base_model_id", "me/t5"]) == 0
    assert snapshot(folder) == before  # it still loads here
    files = server.repos["me/model"].files
    assert json.loads(files["adapter_config.json"]) == {"base_model_name_or_path": "me/t5", "peft_type": "LORA"}
    card = files["README.md"].decode()
    assert card == "---\nbase_model: me/t5\nlicense: mit\n---\nIt needs its base, which it looks for at `me/t5`.\n"
    assert files["preset.yaml"] == b"model_name_or_path: me/t5\nlora_rank: 2\n"
    assert not [name for name, data in files.items() if str(tmp_path).encode() in data]
    assert hub.main(["push", str(folder), "me/model", "--base_model_id", "me/t5"]) == 0
    assert len(server.repos["me/model"].commits) == 2  # with the one that made the repository


@pytest.mark.parametrize("base", ["google/t5-small", "t5-small"])
def test_an_adapter_of_a_base_on_the_hub_goes_as_it_is(base, server, tmp_path, capsys):
    folder = an_adapter(tmp_path / "adapter", base)
    hub.push(folder, "me/model")
    for name in ("adapter_config.json", "README.md"):
        assert server.repos["me/model"].files[name] == (folder / name).read_bytes()
    assert hub.main(["push", str(folder), "me/model", "--base_model_id", "me/t5"]) == 2
    assert f"is an adapter of {base}, not one of a local folder" in capsys.readouterr().err


def test_wrong_ids_of_bases_are_told(server, tmp_path, capsys):
    assert hub.main(["push", str(a_model(tmp_path / "whole")), "me/model", "--base_model_id", "me/t5"]) == 2
    assert "is no adapter, not one of a local folder" in capsys.readouterr().err
    folder = an_adapter(tmp_path / "adapter", str(tmp_path))
    assert hub.main(["push", str(folder), "me/model", "--base_model_id", "t5"]) == 2
    assert "--base_model_id is t5; it must be owner/name" in capsys.readouterr().err
    assert not server.repos


# Loading

LOADED = """
import json, sys
from types import SimpleNamespace
from huggingface_hub import constants
from transformers import AutoModelForSeq2SeqLM
from hwzoo import VAEModel, hub, text

token, old, broken, cache = sys.argv[1:]

def told(name, kind=VAEModel, **place):
    try:
        return sum(each.double().sum().item() for each in hub.load(kind, name, **place).parameters())
    except hub.HwzooError as error:
        return str(error)

def tokenizers():
    adapter = SimpleNamespace(active_peft_config=SimpleNamespace(base_model_name_or_path="me/t5"))
    return [text.tokenizer_of(name, adapter) for name in ("me/lora", "me/whole")]

found = {
    "without a token": told("me/model"),
    "of today": told("me/model", token=token),
    "code": told("me/model", AutoModelForSeq2SeqLM, token=token),
    "older": told("me/model", token=token, revision=old, cache_dir=cache),
    "broken": told("me/model", token=token, revision=broken, cache_dir=cache),
    "part": told("me/parts", subfolder="vae"),
    "tokenizers": tokenizers(),
}
constants.HF_HUB_OFFLINE = True
found |= {
    "older, offline": told("me/model", revision=old, cache_dir=cache),
    "broken, offline": told("me/model", revision=broken, cache_dir=cache),
    "in no cache": told("me/model", revision=old),
    "tokenizers, offline": tokenizers(),
}
print(json.dumps(found))
"""


@pytest.mark.long
def test_a_model_is_looked_for_where_from_pretrained_looks(tmp_path):
    """Its configuration, its code and its damages too; and the tokenizer of an adapter without one is its base's."""
    torch.manual_seed(0)
    vae = VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8]))
    t5, _ = text.new_base("seq2seq", 8, 1)
    expected = pytest.approx(sum(each.double().sum().item() for each in vae.parameters()))
    hub.save(vae, tmp_path / "vae")
    (name, parameter), *_ = vae.named_parameters()
    parameter.data.fill_(float("nan"))
    hub.save(vae, tmp_path / "broken")
    hub.save(t5, tmp_path / "t5")
    first, broken, last = (snapshot(tmp_path / each) for each in ("vae", "broken", "t5"))
    with LoopbackHub(token=TOKEN) as server:
        repo = server.add_model("me/model", first, private=True)
        oids = [repo.commits[-1].oid, repo.commit("broken", broken, ()).oid]
        repo.commit("another", last | {"custom_generate/generate.py": b""}, ())
        server.add_model("me/parts", {f"vae/{name}": data for name, data in first.items()})
        server.add_model("me/lora", {"adapter_config.json": b"{}"})
        server.add_model("me/whole", {"adapter_config.json": b"{}", "tokenizer_config.json": b"{}"})
        environment = os.environ | server.environment(tmp_path / "cache", token="")
        done = warm.run(["-c", LOADED, TOKEN, *oids, tmp_path / "mine"], env=environment, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    file = tmp_path / "mine" / "models--me--model" / "snapshots" / oids[1] / "model.safetensors"
    assert "the token may not read it (401)" in found["without a token"]
    assert found["of today"] == "me/model is a model of type t5; it must be of type hwzoo_vae"
    assert found["code"] == "me/model brings code of its own, which is not run"
    assert found["older"] == found["older, offline"] == found["part"] == expected
    assert found["broken"] == found["broken, offline"] == f"{file}: the weights {name} are not finite"
    assert found["in no cache"].endswith("no Hub that can be reached, and not in the cache")
    assert found["tokenizers"] == ["me/t5", "me/whole"] and found["tokenizers, offline"][0] == "me/t5"


# By transformers' own calls


PUSHES = """
import hwzoo
for family in filter(lambda family: family.model_class, hwzoo.FAMILIES):
    family.model_class(family.config_class()).push_to_hub(f"me/{family.name}")
    if family.image_processor_class is not None:
        family.image_processor_class().push_to_hub(f"me/{family.name}")
"""
LOADS = """
import sys
sys.modules["hwzoo"] = None
import transformers
for argument in sys.argv[1:]:
    name, auto = argument.split("=")
    model = getattr(transformers, auto).from_pretrained(f"me/{name}", trust_remote_code=True)
    model.save_pretrained(name)
"""


def test_push_to_hub_of_transformers_takes_the_code_along(tmp_path, tmp_path_factory):
    """In a process of its own: the libraries keep the address of the Hub."""
    with LoopbackHub(token=TOKEN) as server:
        environment = os.environ | server.environment(tmp_path_factory.mktemp("cache")) | {"HF_HUB_DISABLE_XET": "1"}
        warm.run(["-c", PUSHES], env=environment | {"HF_HUB_OFFLINE": "0"}, check=True)
        for family in filter(lambda family: family.model_class, FAMILIES):
            folder = Path(inspect.getfile(family.model_class)).parent
            files = server.repos[f"me/{family.name}"].files
            code = {path.name: path.read_bytes() for path in folder.glob("[!_]*.py")}
            if family.image_processor_class is not None:  # it may be another family's, and comes with its code
                others = Path(inspect.getfile(family.image_processor_class)).parent.glob("*.py")
                code |= {path.name: path.read_bytes() for path in others if path.name in files}
            assert {name: data for name, data in files.items() if name.endswith(".py")} == code
            auto_map = json.loads(files["config.json"])["auto_map"]
            assert auto_map[family.auto_class.__name__].split(".")[1] == family.model_class.__name__
            assert {f"{named.split('.')[0]}.py" for named in auto_map.values()} <= files.keys()
        # And each comes back where hwzoo is not.
        named = [f"{family.name}={family.auto_class.__name__}" for family in FAMILIES if family.model_class]
        warm.run(["-c", LOADS, *named], env=environment | {"HF_HUB_OFFLINE": "0"}, cwd=tmp_path, check=True)
        for family in filter(lambda family: family.model_class, FAMILIES):
            sent = load(server.repos[f"me/{family.name}"].files["model.safetensors"])
            back = load_file(tmp_path / family.name / "model.safetensors")
            assert sent.keys() == back.keys() and all(torch.equal(sent[name], back[name]) for name in sent)


def test_what_a_trained_model_keeps_of_its_own_is_told(tmp_path, caplog):
    own = {"encoder_hidden_sizes": [8], "decoder_hidden_sizes": [8], "latent_size": 3, "beta": 2.0}
    hub.save(VAEModel(VAEConfig(**own)), tmp_path)
    asked = own | {"latent_size": 5, "prior_std": 2.0}
    assert hub.load_or_build(VAEModel, str(tmp_path), asked).config.latent_size == 3
    (record,) = caplog.records
    assert record.getMessage() == f"{tmp_path} keeps its own latent_size 3 (not 5), prior_std 1.0 (not 2.0)"
    caplog.clear()
    # Nothing for what is as asked, or was not asked for.
    hub.load_or_build(VAEModel, str(tmp_path), own)
    assert hub.load_or_build(VAEModel, str(tmp_path), {}).config.beta == 2
    hub.load_or_build(VAEModel, None, asked)
    # A flag that gives a default is asked for.
    assert hub.load_or_build(VAEModel, str(tmp_path), own | {"beta": 1.0}, {"beta"}).config.beta == 1
    assert caplog.records.pop().getMessage() == f"{tmp_path} goes on with beta 1.0 (it had 2.0)"
    hub.load_or_build(VAEModel, str(tmp_path), own | {"latent_size": 10}, {"latent_size"})
    assert caplog.records.pop().getMessage() == f"{tmp_path} keeps its own latent_size 3 (not 10)"
    # A recipe's own defaults are not asked for either.
    hub.load_or_build(VAEModel, str(tmp_path), {"latent_size": 5}, default={"latent_size": 5})
    assert not caplog.records


def test_a_classifier_that_goes_on_has_the_names_of_the_data(tmp_path, caplog):
    sizes = {"backbone": "mlp", "hidden_sizes": [4], "image_size": 8}
    own, new = ({"id2label": dict(enumerate(names))} for names in (("cat", "dog"), ("dog", "cat")))
    hub.save(ClassifierForImageClassification(ClassifierConfig(**sizes, **own)), tmp_path)
    load = hub.load_or_build, ClassifierForImageClassification, str(tmp_path)
    assert load[0](*load[1:], sizes | own).config.id2label == own["id2label"]
    assert not caplog.records
    config = load[0](*load[1:], sizes | new).config
    assert config.id2label == new["id2label"] and config.label2id == {"dog": 0, "cat": 1}
    assert caplog.messages == [f"{tmp_path} goes on with the classes dog, cat (it had cat, dog)"]
    # What is only tested keeps its names; of an order of its own the numbers would be of other classes.
    other = sizes | {"id2label": {0: "sheep", 1: "goat"}}
    assert load[0](*load[1:], other, trains=False).config.id2label == own["id2label"]
    told = f"{tmp_path} is tested with its classes cat, dog as those of the data, sheep, goat"
    assert caplog.messages[1:] == [told]
    for names in ({0: "dog", 1: "cat"}, {0: "dog", 1: "goat"}):
        with pytest.raises(UsageError, match=f"its classes are cat, dog, the data's {', '.join(names.values())}"):
            load[0](*load[1:], sizes | {"id2label": names}, trains=False)


def test_a_run_from_a_trained_model_may_change_its_loss(tmp_path, caplog):
    own = {"encoder_hidden_sizes": [8], "decoder_hidden_sizes": [8], "latent_size": 3}
    torch.manual_seed(0)
    model, images = VAEModel(VAEConfig(**own)), torch.rand(6, 1, 28, 28).round()
    hub.save(model, tmp_path)
    loaded = hub.load_or_build(VAEModel, str(tmp_path), own | {"train_importance_samples": 4, "beta": 0.5})
    assert (loaded.config.train_importance_samples, loaded.config.beta) == (4, 0.5)
    told = f"{tmp_path} goes on with beta 0.5 (it had 1.0), train_importance_samples 4 (it had 1)"
    assert caplog.messages == [told]
    noise, expected = torch.randn(6, 4, 3), VAEModel(loaded.config)
    expected.load_state_dict(model.state_dict())
    assert loaded.noise_shape == (4, 3)
    torch.testing.assert_close(loaded(images, noise=noise).loss, expected(images, noise=noise).loss)
    hub.save(loaded, tmp_path / "again")
    assert VAEModel.from_pretrained(tmp_path / "again").config.train_importance_samples == 4


@pytest.mark.parametrize("family", [family for family in FAMILIES if family.loss_fields], ids=lambda each: each.name)
def test_the_fields_of_a_loss_shape_no_weight(family):
    changed = {"beta": 0.5, "train_importance_samples": 3, "commitment_weight": 0.5, "temperature": 0.7}
    changed |= {"stop_gradient": False, "free_bits": 0.5, "word_dropout": 0.5}
    configs = family.config_class(), family.config_class(**{name: changed[name] for name in family.loss_fields})
    weights = [family.model_class(config).state_dict() for config in configs]
    shapes = [{name: each.shape for name, each in part.items()} for part in weights]
    assert shapes[0] == shapes[1]
