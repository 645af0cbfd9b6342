"""
What mkdocs needs to know about this repository: pages that stand outside docs/ (README, cards, benchmarks), pages that
are made of other files (presets, API), and links between all of them, which are written as the code host follows them.
"""

import os
import re
from pathlib import Path

import yaml
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]
PRESETS = sorted((ROOT / "recipes" / "configs").glob("*/*.yaml"))
CARDS = sorted((ROOT / "model_cards").glob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md", *CARDS]
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def on_config(config):
    cards = [{path.stem: _uri(path)} for path in CARDS]
    api = [{name: f"api/{name}.md"} for name in _modules()]
    config.nav += [{"Presets": "presets.md"}, {"Cards": cards}, {"API": api}]
    return config


def on_files(files, config):
    for path in PAGES:
        files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    files.append(File.generated(config, "presets.md", content=_presets()))
    for name in _modules():
        files.append(File.generated(config, f"api/{name}.md", content=f"# {name}\n\n::: {name}\n"))
    # What pages link to, pictures and recipes, goes into the site as it is.
    for page in [*PAGES, *(ROOT / "docs").rglob("*.md")]:
        for target, _ in LINK.findall(page.read_text(encoding="utf-8")):
            path = (page.parent / target).resolve()
            if path.is_file() and path.is_relative_to(ROOT) and files.get_file_from_path(_uri(path)) is None:
                files.append(File.generated(config, _uri(path), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links that lead out of docs/ or into it lead to the same file in the site."""
    path = next((path for path in PAGES if _uri(path) == page.file.src_uri), ROOT / "docs" / page.file.src_uri)

    def to_site(match):
        target = (path.parent / match[1]).resolve()
        if not target.is_file():
            return match[0]
        uri = os.path.relpath(_uri(target), Path(page.file.src_uri).parent)
        return f"]({uri}{match[2] or ''})"

    return LINK.sub(to_site, markdown)


def _uri(path: Path) -> str:
    """A file's place among the sources of the site."""
    if path == ROOT / "README.md":
        return "index.md"
    return path.relative_to(ROOT).as_posix().removeprefix("docs/")


def _modules() -> list[str]:
    """hwzoo, its packages and its modules of one file."""
    package = ROOT / "src" / "hwzoo"
    names = [path.parent.name for path in package.glob("*/__init__.py")]
    names += [path.stem for path in package.glob("*.py") if not path.stem.startswith("_")]
    return ["hwzoo", *(f"hwzoo.{name}" for name in sorted(names))]


def _presets() -> str:
    rows, sections = [], []
    for path in PRESETS:
        name, text = f"{path.parent.name}/{path.stem}", path.read_text(encoding="utf-8")
        settings = yaml.safe_load(text)
        expected = (f"`{key}` {low} to {high}" for key, (low, high) in settings.get("expected", {}).items())
        anchor = name.replace("/", "-")
        rows.append(f"| [{name}](#{anchor}) | {settings.get('dataset_name', '')} | {', '.join(expected)} |")
        sections.append(f"## {name} {{ #{anchor} }}\n\n```yaml\n{text}```\n")
    return "\n".join(
        [
            "# Presets\n",
            "The files of `recipes/configs`: a header with the command and the minutes, the settings that differ from "
            "the defaults, and the band in which each test number is expected.\n",
            "| preset | data | expected |",
            "| --- | --- | --- |",
            *rows,
            "",
            *sections,
        ]
    )
