"""What a push sends and what stays at home, which lines of a card it changes, and its errors of one line."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from hwzoo import VAEConfig, VAEModel, diffusion, hub, text
from hwzoo.errors import UsageError
from hwzoo.files import FINAL, record_made

CODE = {"configuration_vae.py", "modeling_vae.py"}
MODEL = {"config.json", "model.safetensors"} | CODE


@pytest.fixture
def hub_of_files(monkeypatch) -> dict[str, dict[str, bytes]]:
    """What arrives at a Hub that takes everything, by repository and name."""
    arrived: dict[str, dict[str, bytes]] = {}

    class Api:
        def create_repo(self, repo_id, private, exist_ok):
            arrived.setdefault(repo_id, {})

        def repo_info(self, repo_id):
            return SimpleNamespace(private=False, sha="0" * 40)

        def create_commit(self, repo_id, operations, commit_message, parent_commit):
            for each in operations:
                arrived[repo_id][each.path_in_repo] = Path(each.path_or_fileobj).read_bytes()
            return SimpleNamespace(commit_url=f"https://hub/{repo_id}")

    monkeypatch.setattr(hub, "HfApi", Api)
    return arrived


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("saved")
    hub.save(VAEModel(VAEConfig(encoder_hidden_sizes=[8], decoder_hidden_sizes=[8])), folder, {"test_x": 1.0})
    return folder


@pytest.fixture
def run(saved, tmp_path) -> Path:
    """The folder of a run: its model, what it keeps for itself, and private things of its owner."""
    folder = shutil.copytree(saved, tmp_path / "outputs" / "vae")
    for name in (
        "checkpoints/step/state.pt",
        "logs/events",
        ".lock",
        ".secrets/key",
        "train/patients.csv",
        "notes.txt",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def record(folder: Path, *names: str):
    record_made(folder, dict.fromkeys(names, "0" * 64))


def test_what_a_run_made_is_sent_and_the_rest_is_named(run, hub_of_files, capsys):
    (run / "strange.png").write_bytes(b"made by the run")
    record(run, *MODEL, "all_results.json", "strange.png", "checkpoints/step/state.pt", "curves.png")
    (run / "all_results.json").write_text("{}")  # changed since: it is sent as it is now
    assert hub.push(run, "me/vae") == "https://hub/me/vae"
    assert hub_of_files["me/vae"].keys() == MODEL | {"all_results.json", "strange.png"}
    assert hub_of_files["me/vae"]["all_results.json"] == b"{}"
    told = "not pushed: notes.txt, train/patients.csv (--include PATTERN sends what is no link)\n"
    assert capsys.readouterr().err == told


def test_what_the_user_names_is_sent_too(run, hub_of_files, capsys):
    record(run, *MODEL)
    arguments = ["push", str(run), "me/vae", "--include", "train/*.csv", "--include=*.t?t"]
    assert hub.main(arguments) == 0
    assert hub_of_files["me/vae"].keys() == MODEL | {"train/patients.csv", "notes.txt"}
    assert capsys.readouterr().err.startswith("not pushed: all_results.json (")
    assert hub.main(["push", str(run), "me/vae", "--include", "*"]) == 0
    assert hub_of_files["me/vae"].keys() == MODEL | {"train/patients.csv", "notes.txt", "all_results.json"}
    assert capsys.readouterr().err == ""
    for pattern in ("*.cvs", ".lock", "checkpoints/*"):
        assert hub.main(["push", str(run), "me/vae", "--include", pattern]) == 2
        assert capsys.readouterr().err == (
            f"error: --include is {pattern}; no file of {run} that may be pushed has such a name\n"
        )


def test_no_link_is_followed(run, tmp_path, hub_of_files, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.safetensors").write_bytes(b"private")
    (run / "samples.png").symlink_to(outside / "private.safetensors")
    (run / "data").symlink_to(outside)
    (run / "again.safetensors").symlink_to(run / "model.safetensors")
    (run / "broken.json").symlink_to(run / "nowhere")
    (run / "README.md").symlink_to(outside / "card.md")
    (outside / "card.md").write_text('from_pretrained("outputs/vae")')
    for recorded in (False, True):
        if recorded:
            record(run, *MODEL, "samples.png", "data/private.safetensors", "README.md")
        hub.push(run, "me/vae", include=["*"])
        assert hub_of_files["me/vae"].keys() == MODEL | {"all_results.json", "notes.txt", "train/patients.csv"}
        told = (
            "README.md (a link), again.safetensors (a link), broken.json (a link), data (a link), samples.png (a link)"
        )
        assert capsys.readouterr().err == f"not pushed: {told} (--include PATTERN sends what is no link)\n"
    assert (outside / "card.md").read_text() == 'from_pretrained("outputs/vae")'
    assert (run / "README.md").is_symlink()


def test_a_folder_that_is_named_by_a_link_is_the_folder(run, tmp_path, hub_of_files):
    (tmp_path / "link").symlink_to(run)
    hub.push(tmp_path / "link", "me/vae")
    assert hub_of_files["me/vae"].keys() == MODEL | {"all_results.json"}


def test_many_names_make_no_long_line(run, hub_of_files, capsys):
    for number in range(100):
        (run / f"note{number:03}.md").touch()
    hub.push(run, "me/vae")
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "note019.md and 82 more (--include" in told and "note020" not in told


def test_a_vae_without_a_record(run, hub_of_files):
    """As an earlier version left it, with pictures of two kinds: of the recipes' names and shown by the card."""
    for name in ("own.png", "samples.png", "hidden.png", "predictions.jsonl", "helper.py", "stray.py", "data.json"):
        (run / name).write_text("x")
    (run / "README.md").write_text("![own](own.png)\n")
    code = (run / "modeling_vae.py").read_text()
    (run / "modeling_vae.py").write_text(f"{code}\nfrom .helper import x\n")
    hub.push(run, "me/vae")
    more = {"README.md", "all_results.json", "own.png", "samples.png", "predictions.jsonl", "helper.py"}
    assert hub_of_files["me/vae"].keys() == MODEL | more


def test_a_record_without_a_model_is_of_a_run_that_has_not_ended(run, hub_of_files):
    record(run, "history.jsonl")
    hub.push(run, "me/vae")
    assert hub_of_files["me/vae"].keys() == MODEL | {"all_results.json"}


def test_what_other_libraries_save(tmp_path, hub_of_files):
    torch.manual_seed(0)
    tokenizer = text.train_tokenizer(["some words"], 260)
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_decoder_layers": 1, "num_heads": 2, "dropout_rate": 0.0}
    t5 = text.build_t5(tokenizer, **sizes)
    hub.save(t5, tmp_path / "t5", also=(tokenizer, text.generation_config(t5, 4)))
    t5.save_pretrained(tmp_path / "sharded", max_shard_size=2000)
    t5 = hub.load(AutoModelForSeq2SeqLM, str(tmp_path / "t5"))
    hub.save(text.add_adapter(t5, "lora"), tmp_path / "lora", also=(tokenizer,))
    gpt2, tokenizer = text.new_base("causal", 8, 1)
    hub.save(gpt2, tmp_path / "gpt2", also=(tokenizer,))
    for name, num_classes in (("ddpm", 0), ("conditional", 2)):
        unet = diffusion.build_unet(
            8, 1, block_out_channels=[8, 8], norm_num_groups=4, attention=False, num_classes=num_classes
        )
        diffusion.save_pipeline(diffusion.make_pipeline(unet, diffusion.train_scheduler(30)), tmp_path / name)
    for folder in sorted(tmp_path.iterdir()):
        written = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert len(written) >= 4
        (folder / "train").mkdir()
        (folder / "train" / "config.json").write_text("{}")
        (folder / "patients.json").write_text("{}")
        hub.push(folder, f"me/{folder.name}")
        assert hub_of_files[f"me/{folder.name}"].keys() == written


def test_new_files_on_their_way_take_their_places_first(run, saved, hub_of_files):
    shutil.copytree(saved, run / FINAL)
    (run / FINAL / "all_results.json").write_text('{"test_x": 2.0}')
    hub.push(run, "me/vae")
    assert json.loads(hub_of_files["me/vae"]["all_results.json"]) == {"test_x": 2.0}
    assert not (run / FINAL).exists()


CARD = """---\r
library_name: transformers\r
---
load_pipeline("{own}")  AutoModel.from_pretrained("{own}", trust_remote_code=True)\r
pipeline("x", model="{own}"); GANModel.from_pretrained("{own}")
base = T5.from_pretrained("google-t5/t5-small"); other = T5.from_pretrained("outputs/other")\t
from_pretrained("") from_pretrained('{own}') model="vae2" "{own}" é
"""


@pytest.mark.parametrize("spelling", ["outputs/vae", "./outputs/vae/", "vae", "../{parent}/outputs/vae", "{absolute}"])
def test_a_card_names_the_repository_where_it_named_this_run(spelling, run, hub_of_files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = spelling.format(parent=tmp_path.name, absolute=run)
    card = CARD.format(own=own).encode()
    (run / "README.md").write_bytes(card)
    wanted = CARD.replace("from_pretrained('{own}')", f"from_pretrained('{own}')").replace('" "{own}"', f'" "{own}"')
    for repo_id in ("me/vae", "you/renamed"):  # the second from the first
        hub.push(Path("outputs/vae"), repo_id)
        assert (run / "README.md").read_bytes() == wanted.replace("{own}", repo_id).encode()
        assert hub_of_files[repo_id]["README.md"] == (run / "README.md").read_bytes()


def test_a_card_of_others_stays_byte_for_byte(run, hub_of_files):
    card = b'\xef\xbb\xbf# Mine\r\nfrom_pretrained("me/else") model="gpt2"\n\n\nfrom_pretrained("a/outputs/vae/b")'
    (run / "README.md").write_bytes(card)
    hub.push(run, "me/vae")
    assert (run / "README.md").read_bytes() == card == hub_of_files["me/vae"]["README.md"]


def test_a_card_that_is_none_is_refused(run, hub_of_files):
    (run / "README.md").write_bytes("Müller".encode("latin-1"))
    with pytest.raises(UsageError, match=f"^{run}/README.md is no text in UTF-8 .*; nothing was pushed$"):
        hub.push(run, "me/vae")
    (run / "README.md").unlink()
    (run / "README.md").mkdir()
    with pytest.raises(UsageError, match=f"^{run}/README.md is a folder"):
        hub.push(run, "me/vae")
    assert hub_of_files == {}


def test_an_interrupted_push_tells_how_to_go_on(run, hub_of_files, monkeypatch, capsys):
    record(run, *MODEL, "all_results.json", "notes.txt", "train/patients.csv")

    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub.HfApi, "create_commit", interrupt)
    assert hub.main(["push", str(run), "me/vae", "--private", "--include", "*.t?t"]) == 1  # it is public
    assert f"python -m hwzoo.hub push {run} me/vae --include '*.t?t' --private" in capsys.readouterr().err
    assert hub.main(["push", str(run), "me/vae"]) == 130
    assert capsys.readouterr().err == (
        f"error: pushing to me/vae was interrupted; {run} is safe, push it later (twice does no harm): "
        f"python -m hwzoo.hub push {run} me/vae\n"
    )


@pytest.mark.parametrize(
    "arguments, words",
    [
        ([], "the following arguments are required: command"),
        (["push"], "the following arguments are required: output_dir, repo_id"),
        (["push", "outputs"], "the following arguments are required: repo_id"),
        (["pull", "outputs", "me/vae"], "invalid choice: 'pull'"),
        (["push", "outputs", "me/vae", "--privat"], "unrecognized arguments: --privat"),
        (["push", "outputs", "me/vae", "more"], "unrecognized arguments: more"),
        (["push", "outputs", "me/vae", "--include"], "argument --include: expected one argument"),
        (["push", "nowhere", "me/vae"], "nowhere holds no model to push"),
        (["push", "nowhere", "vae"], "vae is not a repository id, owner/name"),
    ],
)
def test_a_wrong_command_is_one_line(arguments, words, capsys):
    assert hub.main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and words in told
