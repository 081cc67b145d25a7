"""Packages with target kinds, installed for one test."""

from __future__ import annotations

import re
from pathlib import Path

DOCUMENTED = Path(__file__).parents[2] / "docs" / "target-kinds.md"


def documented_example() -> str:
    """Return the Python file in docs/target-kinds.md."""
    found = re.search(r"```python\n(.*?)```", DOCUMENTED.read_text(encoding="utf-8"), re.DOTALL)
    assert found is not None
    return found[1]


def install(directory: Path, source: str, *, attribute: str = "UnixKind", package: str = "cronpost-unix") -> None:
    """Put a package with a target kind into ``directory``, as pip would."""
    module = package.replace("-", "_")
    (directory / f"{module}.py").write_text(source, encoding="utf-8")
    described = directory / f"{module}-1.0.dist-info"
    described.mkdir()
    (described / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    points = f"[cronpost.targets]\nunix = {module}:{attribute}\n"
    (described / "entry_points.txt").write_text(points, encoding="utf-8")
