"""The documentation names files, sections and settings that exist."""

from __future__ import annotations

import re
from pathlib import Path

import click
import pytest

from scheduler_api.cli.main import main
from scheduler_core.base.config_reader import load_settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("examples/**/*.md")])
CODE = re.compile(r"```.*?```|<!--.*?-->", re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
SETTING = re.compile(r"\bCRONPOST_[A-Z_]*[A-Z]\b(?![A-Z_]*\*)")


def text_of(page: Path) -> str:
    return CODE.sub("", page.read_text(encoding="utf-8"))


def anchors_of(page: Path) -> set[str]:
    """List the anchors that GitHub makes of the headings of ``page``."""
    seen: dict[str, int] = {}
    for heading in re.findall(r"^#+ +(.*)$", text_of(page), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).strip().replace(" ", "-")
        seen[anchor] = seen.get(anchor, -1) + 1
    return {
        anchor if number == 0 else f"{anchor}-{number}" for anchor, last in seen.items() for number in range(last + 1)
    }


def broken_links(page: Path) -> list[str]:
    broken = []
    for link in LINK.findall(text_of(page)):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_leads_to_a_file_and_a_section_that_exist(page: Path) -> None:
    assert broken_links(page) == []


def test_the_readme_leads_to_every_page_and_the_index_of_decisions_to_every_decision() -> None:
    for index, pages in (("README.md", "docs/*.md"), ("docs/decisions/README.md", "docs/decisions/0*.md")):
        page = ROOT / index
        linked = {(page.parent / link.partition("#")[0]).resolve() for link in LINK.findall(text_of(page))}
        assert set(ROOT.glob(pages)) - linked == set()


def test_the_documentation_names_only_settings_that_exist() -> None:
    known = {row.setting.env for row in load_settings(environ={}).rows()}
    pages = [ROOT / "README.md", *ROOT.glob("docs/*.md")]
    named = {name: page.name for page in pages for name in SETTING.findall(page.read_text(encoding="utf-8"))}
    assert {name: page for name, page in named.items() if name not in known} == {}


def command_names(group: click.Group) -> set[str]:
    """List the commands below ``group``, each with its group's name: ``jobs pause``, ``watch``."""
    context = click.Context(group)
    found = set()
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found |= {f"{name} {one}" for one in command_names(command)} if isinstance(command, click.Group) else {name}
    return found


def test_the_page_of_the_command_line_lists_every_command() -> None:
    rows = [line for line in (ROOT / "docs/cli.md").read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    listed: set[str] = set()
    for names in (re.findall(r"`([a-z ]+)`", row.split("|")[1]) for row in rows):
        group = names[0].rpartition(" ")[0] if names else ""
        listed |= {name if " " in name or not group else f"{group} {name}" for name in names}
    assert command_names(main) - listed == set()


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# A heading\n\n[there](#a-heading) [not there](#b) [gone](gone.md)\n", encoding="utf-8")
    assert broken_links(page) == ["#b", "gone.md"]
