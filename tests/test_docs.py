"""README and docs: short enough, their links lead somewhere, and their commands are ones that the recipes take."""

import contextlib
import inspect
import io
import itertools
import json
import os
import re
import shlex
from pathlib import Path
from unittest import mock

import pytest
from recipe_runs import load_recipe

import hwzoo_cli
from hwzoo import comparison, hub
from hwzoo.text.sources import read_rows
from hwzoo.training import parse_arguments, sweep

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"]
PAGES += sorted((ROOT / "docs").rglob("*.md")) + sorted((ROOT / "model_cards").glob("*.md"))
LINK = re.compile(r"\]\((?!https?://|mailto:)([^)\s#]*)(?:#([^)\s]+))?\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"`([^`]+)`")
FILE = re.compile(r"\b(?:recipes|benchmarks|docs|model_cards|src|tests)/[\w./-]*\w(?![\w./<*-])")
# What starts a script of ours, and the command of the package, whose words stand for a recipe.
SCRIPT = re.compile(r"(?:accelerate launch(?: --config_file \S+)?|torchrun [-\w ]+|python) ([\w/]+)/(\w+)\.py\b(.*)")
PACKAGE = re.compile(r"^hwzoo (train|compare|export|sample|evaluate|sweep|page)\b(.*)")
PUSH = re.compile(r"(?:hwzoo|python -m hwzoo\.hub) push\b(.+)")  # what is no recipe
RECIPES = {"train": "train_{}", "compare": "compare_{}", "sample": "sample", "evaluate": "evaluate_generator"}
RECIPES |= {"sweep": "sweep", "page": "page", "export": "export_{}"}


def without_code(text: str) -> str:
    return SPAN.sub("", FENCE.sub("", text))


def blocks_of(page: Path) -> list[list[str]]:
    """The lines of its fenced blocks of commands, those that a backslash ends with the next."""
    blocks = [block for language, block in FENCE.findall(page.read_text(encoding="utf-8")) if language in ("", "bash")]
    lines = [re.sub(r"\\\n\s+", "", block).splitlines() for block in blocks]
    return [[part.strip() for line in each for part in line.split("&&")] for each in lines]


def commands_of(page: Path) -> list[str]:
    """The commands in its fenced blocks and in its inline code."""
    text = page.read_text(encoding="utf-8")
    found = [command for block in blocks_of(page) for command in block]
    spans = (" ".join(span.split()) for span in SPAN.findall(FENCE.sub("", text)))
    # Inline, a recipe's name alone speaks of the recipe; with a launcher or a flag it is a command.
    found += list(spans)
    return [command for command in found if any(kind.search(command) for kind in (SCRIPT, PACKAGE, PUSH))]


COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


def parts_of(command: str) -> tuple[str, str, list[str]] | None:
    """The folder and name of the script of a command, and its words; None for another command."""
    if match := PACKAGE.match(command):
        verb, rest = match.groups()
        tokens = shlex.split(rest)
        family = tokens.pop(0) if "{}" in RECIPES[verb] else ""
        if verb == "train":
            number, tokens = hwzoo_cli.processes(tokens)
            assert number, f"--nproc of {command}"
        folder, name = "recipes", RECIPES[verb].format(family)
        # The package's command takes a preset's name: that of a file in the family's folder.
        configs = ROOT / "recipes" / "configs" / family
        tokens = [str(configs / f"{each}.yaml") if (configs / f"{each}.yaml").is_file() else each for each in tokens]
    elif match := SCRIPT.search(command):
        folder, name, rest = match.groups()
        tokens = shlex.split(rest)
    elif match := PUSH.search(command):
        folder, name, tokens = "", "push", shlex.split(match[1], comments=True)
    else:
        return None
    return folder, name, tokens


def check(command: str):
    """Raises UsageError for what the recipe would refuse, FileNotFoundError for a script that is not there."""
    folder, name, tokens = parts_of(command)
    if name == "push":
        with mock.patch.object(hub, "push"), contextlib.redirect_stderr(io.StringIO()) as told:
            assert hub.main(["push", *tokens]) == 0, told.getvalue()
        return
    script = ROOT / folder / f"{name}.py"
    source = script.read_text(encoding="utf-8")
    if folder == "recipes":
        recipe = load_recipe(name)
        types = [parameter.annotation for parameter in inspect.signature(recipe.main).parameters.values()]
        parsed = parse_arguments(types, [token for token in tokens if token != "--help"])
        if name == "sweep":  # the flags of its runs are another recipe's
            sweep.plan(recipe.loaded(parsed[0].recipe)[1], *parsed)
    else:
        unknown = [token for token in tokens if token.startswith("--") and f'"{token}"' not in source]
        assert not unknown, f"{script.name} has no {unknown}"


def anchors_of(page: Path) -> set[str]:
    """Of its headings, as the code host makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_read_in_one_sitting():
    assert len((ROOT / "README.md").read_bytes()) < 9000


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_its_links_and_files_are_there(page):
    text = page.read_text(encoding="utf-8")
    for target, anchor in LINK.findall(without_code(text)):
        path = (page.parent / target).resolve() if target else page
        assert path.is_file() and path.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors_of(path), f"{target}#{anchor}"
    for name in FILE.findall(re.sub(r"\]\([^)]*\)|https?://\S+", "", text)):
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_one_that_its_recipe_takes(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check(command)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_command_of_several_lines_can_be_pasted(page):
    for language, block in FENCE.findall(page.read_text(encoding="utf-8")):
        within = False  # a command; what it prints may be indented too
        for line, following in itertools.pairwise(block.splitlines() if language in ("", "bash") else []):
            within = bool(SCRIPT.search(line) or PACKAGE.match(line)) or (within and line.startswith(" "))
            assert not within or line.endswith("\\") or not re.match(r"\s+(-|\"|[a-z_]+[=/])", following), following


def output_dir_of(command: str) -> str | None:
    """Where a recipe would write, by its defaults too; None for a command that writes over what is there, or adds."""
    if re.search(r"--(overwrite_output_dir|resume_from_checkpoint|help)", command) or not (found := parts_of(command)):
        return None
    folder, name, tokens = found
    if folder != "recipes":
        return None
    types = [parameter.annotation for parameter in inspect.signature(load_recipe(name).main).parameters.values()]
    return getattr(parse_arguments(types, tokens)[0], "output_dir", None)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_of_one_page_write_into_folders_of_their_own(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    commands = {str(parts_of(command)): command for block in blocks_of(page) for command in block}  # in either form
    folders = [folder for command in commands.values() if (folder := output_dir_of(command)) is not None]
    assert len(folders) == len(set(folders)), folders


def test_the_list_of_commands_has_every_recipe():
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    cells = re.findall(r"^\| (`.+?) \|", page, re.MULTILINE)
    told = {name for cell in cells for name in re.findall(r"`(\w+)\.py", cell)}
    assert told == {path.stem for path in (ROOT / "recipes").glob("[!_]*.py")}


def test_every_recipe_is_told_of():
    told = {match[2] for command in COMMANDS if (match := SCRIPT.search(command))}
    assert told >= {path.stem for path in (ROOT / "recipes").glob("[!_]*.py")}


@pytest.mark.parametrize(
    "command",
    [
        "accelerate launch recipes/train_vae.py --latent_sise 3",
        "accelerate launch recipes/train_vae.py --config recipes/configs/vae/no.yaml",
        "python recipes/train_no.py",
        "hwzoo train vae --config no",
        "hwzoo evaluate outputs/vae --num_importance_samples 3",
        "hwzoo sweep vae --runs latent_sise=3",
        "hwzoo sweep vae --preset no",
        "python benchmarks/bench_gan.py --turns 3",
        "OMP_NUM_THREADS=1 python benchmarks/peers/pythae_vae.py --turns 3",
        "hwzoo push outputs/vae you/vae --turns 3",
        "python -m hwzoo.hub push outputs/vae you/vae --turns 3",
        "hwzoo train vae --nproc turns",
    ],
)
def test_a_wrong_one_is_found(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(
        Exception, match="latent_sise|no.yaml|train_no|(config|preset) no|num_importance_samples|turns"
    ):
        check(command)


def test_the_runs_of_the_long_comparison_are_counted():
    page = (ROOT / "docs" / "results" / "generators.md").read_text(encoding="utf-8")
    (seeds,) = re.findall(r"compare_families\.py --dataset_name mnist --seeds ([\d ]+?) --", page)
    assert re.findall(r"(\d+) runs, about a day", page) == [
        str(len(comparison.list_generators("mnist")) * len(seeds.split()))
    ]
    given = [parts_of(command)[2] for command in commands_of(ROOT / "docs" / "results" / "families.md")]
    runs = [run for tokens in given if "--runs" in tokens for run in tokens[tokens.index("--runs") + 1 :]]
    presets = {run.split()[0] for run in runs}
    told = r"has (\d+) of the presets, of about\nfive minutes each, most of them cut to that, in (\d+) rows"
    assert re.findall(told, page) == [(str(len(presets)), str(len(runs)))]


AGID = """\
good A: better | best
good N: goods
goodish A: goodisher? | goodishest?
goodman N?: goodmen
goose N: geese {bird}, gooses {poke}
goose V: goosed | goosing | gooses
goosefish N: goosefish, goosefishes~ 1
gospel A: gospeler, gospeller< 1 | gospelest?, gospellest<? 1
grad N: grads, grades!< 1
Grail N: Grails
granny N: grannies
grave A: graver | gravest
grave V: graved | graven, graved 1 | graving | graves
gravy N: gravies
Welshman N: Welshmen
"""
INFLECTIONS = [
    ("good", "comparative better", "superlative best", "plural goods"),
    ("goose", "past goosed", "participle goosed", "gerund goosing", "third_person gooses"),
    ("goosefish", "plural goosefish"),
    ("gospel", "comparative gospeler"),
    ("grad", "plural grads"),
    ("grave", "comparative graver", "superlative gravest", "past graved", "participle graven", "gerund graving"),
    ("grave", "third_person graves"),
    ("granny", "plural grannies"),
    ("gravy", "plural gravies"),
]


def test_the_folders_of_texts_are_made_as_the_page_tells(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    papers = Path("scitldr/SciTLDR-Data/SciTLDR-A")
    papers.mkdir(parents=True)
    paper = {"source": ["We try. ", "It works.\n"], "paper_id": "a", "target": ["Works. ", "It does."], "title": "T"}
    for name in ("train", "dev", "test"):
        (papers / f"{name}.jsonl").write_text(json.dumps(paper) + "\n")
    Path("infl.txt").write_text(AGID)
    page = (ROOT / "docs/text.md").read_text(encoding="utf-8")
    for part in re.split(r"^##+ ", page, flags=re.M):
        if part.startswith("Where `scitldr` and `inflections` come from"):
            for _, block in FENCE.findall(part):
                exec(compile(block, "docs/text.md", "exec"), {})

    document = {"document": "We try. It works.", "summary": "Works.", "summaries": ["Works.", "It does."]}
    for split in ("train", "validation", "test"):
        (row,) = read_rows("file", Path(f"texts/scitldr/{split}.jsonl"))
        assert row == {"id": "a", "title": "T"} | document
    found = {
        split: read_rows("file", Path(f"texts/inflections/{split}.jsonl")) for split in ("train", "validation", "test")
    }
    pairs = sorted((row["source"], f"{row['task']} {row['target']}") for rows in found.values() for row in rows)
    assert pairs == sorted((word, form) for word, *forms in INFLECTIONS for form in forms)
    if data := os.environ.get("HWZOO_DATA_DIR"):  # what the figures are of
        for split, rows in found.items():
            real = read_rows("file", Path(data, "inflections", f"{split}.jsonl.gz"))
            assert all(row in real for row in rows), split
