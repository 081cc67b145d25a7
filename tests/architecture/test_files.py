"""Rules for all files of the project."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOT_OURS = {
    ".git",
    ".venv",
    "__pycache__",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    ".hypothesis",
    "build",
    "dist",
}
NOT_OURS |= {"cronpost-data", "node_modules", ".env"}

# Joined from halves, so that this file passes its own test.
REGISTRIES = ("py" + "pi.org", "python" + "hosted.org", "npm" + "js.org", "crates" + ".io", "docker" + ".io")
REGISTRY = re.compile("|".join(re.escape(host) for host in REGISTRIES))
MACHINE_PATH = re.compile(r"(?<![\w./~$}<>-])/(?:work|root|home|tmp|Users|mnt)/\w")


def files() -> Iterator[Path]:
    def walk(directory: Path) -> Iterator[Path]:
        for path in sorted(directory.iterdir()):
            if path.name in NOT_OURS or path.name.endswith(".egg-info"):
                continue
            if path.is_dir():
                yield from walk(path)
            elif path.is_file():
                yield path

    yield from walk(ROOT)


def texts() -> Iterator[tuple[str, str]]:
    for path in files():
        try:
            yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # not text: an image


def lines_with(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name}:{number}: {line.strip()[:120]}"
        for name, text in texts()
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_the_host_of_a_package_registry() -> None:
    assert lines_with(REGISTRY) == []


def test_no_file_names_a_path_of_the_machine_it_was_written_on() -> None:
    assert lines_with(MACHINE_PATH) == []


def test_the_check_for_machine_paths_finds_one() -> None:
    assert MACHINE_PATH.search('open("' + "/ho" + 'me/me/x")')
    assert not MACHINE_PATH.search("http://host/home/x")


def test_every_requirement_of_a_lock_is_pinned_and_has_hashes_and_no_index() -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    names = ["-build", "-dev", "-installer", "-mutation", ""]
    assert [lock.name for lock in locks] == [f"requirements{name}.lock" for name in names]
    for lock in locks:
        text = lock.read_text()
        assert not re.search(r"^\s*(-i|--index|--extra-index|--find-links|-e)\b", text, re.MULTILINE)
        requirements = re.findall(r"^[a-z0-9].*(?:\n    --hash=sha256:[0-9a-f]{64}(?: \\)?)+", text, re.MULTILINE)
        assert len(requirements) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE))
        for requirement in requirements:
            assert re.match(r"[a-z0-9._-]+==\S+( ; .*)? \\\n", requirement), requirement.splitlines()[0]


def pins(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", (ROOT / name).read_text(), re.MULTILINE))


def test_every_dependency_is_in_its_lock_and_the_locks_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    runtime, everything = pins("requirements.lock"), pins("requirements-dev.lock")
    assert runtime.items() <= everything.items()
    assert pins("requirements-build.lock").items() <= everything.items()

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=!;\[ ]", requirement)[0] for requirement in requirements}

    assert names(project["project"]["dependencies"]) <= runtime.keys()
    for extra in project["project"]["optional-dependencies"].values():
        assert names(extra) <= everything.keys()
    assert names(project["build-system"]["requires"]) <= pins("requirements-build.lock").keys()


def test_the_reason_for_every_dependency_is_written_down() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    reasons = (ROOT / "docs" / "decisions" / "0002-dependencies.md").read_text()
    for requirement in project["project"]["dependencies"]:
        name = re.split(r"[<>=!;\[ ]", requirement)[0]
        assert f"`{name}`" in reasons, f"{name} has no reason in docs/decisions/0002-dependencies.md"


SCRIPTS = sorted((ROOT / "scheduler_core" / "store" / "redis" / "lua").glob("*/*.lua"))
SCRIPTS = [path for path in SCRIPTS if path.parent.name != "lib"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_starts_with_its_signature(script: Path) -> None:
    header = []
    for line in script.read_text(encoding="utf-8").splitlines():
        if not line.startswith("--"):
            break
        header.append(line)
    text = "\n".join(header)
    for section in ("KEYS", "ARGV", "Returns"):
        assert re.search(rf"^--\s*{section}\b", text, re.MULTILINE | re.IGNORECASE), f"{script.name}: no {section}"


def decisions() -> list[str]:
    """Return the file names of all decisions; the index of the folder is not one."""
    names = sorted(path.name for path in (ROOT / "docs" / "decisions").glob("*.md"))
    return [name for name in names if name != "README.md"]


def test_the_file_name_of_a_decision_is_its_number_and_title() -> None:
    names = decisions()
    assert all(re.fullmatch(r"[0-9]{4}-[a-z0-9-]+\.md", name) for name in names), names
    numbers = [name[:4] for name in names]
    assert len(set(numbers)) == len(numbers), "two decisions share a number"


def test_the_index_of_decisions_lists_each_with_its_status() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| \[([0-9]+)\]\(([^)]+)\) \| [^|]+\. \| (in force|superseded by)[^|]* \|$", index, re.MULTILINE
    )
    assert [name for _, name, _ in rows] == decisions(), (
        "docs/decisions/README.md has a row for each decision, in order"
    )
    assert [int(number) for number, _, _ in rows] == [int(name[:4]) for _, name, _ in rows]
