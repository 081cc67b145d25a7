"""The imports of the command line: a command that needs little must not load the server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from scheduler_api.cli import jobs as cli_jobs
from scheduler_api.cli import main as cli
from scheduler_api.cli.lazy import LazyGroup
from tests.api.command_line import KEY

ROOT = Path(__file__).parents[2]
SERVER_CODE = {"starlette", "uvicorn", "redis", "hiredis", "prometheus_client", "structlog"}

PROGRAM = """
import json, sys
from scheduler_api.cli.main import main
try:
    main(sys.argv[1:], prog_name="cronpost")
except SystemExit as end:
    code = end.code or 0
print("\\n" + json.dumps({"code": code, "loaded": sorted({name.partition(".")[0] for name in sys.modules})}))
"""


def loaded_by(*args: str, directory: Path) -> set[str]:
    """Return the top-level modules that are loaded after the command, in its own process."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("CRONPOST_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *args],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=True,
    )
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["code"] == 0, done.stderr
    return set(last["loaded"])


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["jobs", "--help"]])
def test_version_and_help_load_neither_the_server_nor_the_client(args: list[str], tmp_path: Path) -> None:
    loaded = loaded_by(*args, directory=tmp_path)
    assert not loaded & (SERVER_CODE | {"httpx", "msgspec", "croniter", "asyncio"})


def test_cron_loads_neither_the_server_nor_the_client(tmp_path: Path) -> None:
    assert not loaded_by("cron", "@daily", directory=tmp_path) & (SERVER_CODE | {"httpx"})


@pytest.mark.parametrize(
    "args",
    [
        ["jobs", "list"],
        ["jobs", "put", "a", "--endpoint", "http://h/", "--cron", "@daily", "--payload", "1", "--dry-run"],
    ],
)
def test_commands_on_jobs_load_no_server_code(cli_server: str, args: list[str], tmp_path: Path) -> None:
    loaded = loaded_by(*args, "--server", cli_server, "--api-key", KEY, directory=tmp_path)
    assert "httpx" in loaded
    assert not loaded & SERVER_CODE


def test_a_process_loads_only_what_its_first_fires_need_before_it_fires(tmp_path: Path) -> None:
    program = """
import sys
from scheduler_api.cli.serve import _load_server
_load_server()
from scheduler_api.server.ports import Ports
from scheduler_core.base.config import ApiSettings, ProcessSettings, Settings
ports = Ports()
ports.open(Settings(api=ApiSettings(port=0), process=ProcessSettings(metrics_port=0)), with_api=True)
print(*sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    loaded = set(done.stdout.split())
    assert "scheduler_api.server.process" in loaded
    assert not loaded & {
        "rich",
        "pygments",
        "aiodns",
        "croniter",
        "uvicorn",
        "starlette",
        "scheduler_api.app",
        "scheduler_api.openapi.document",
        "scheduler_api.cli.demo",
    }


@pytest.mark.parametrize("group", [cli.main, cli_jobs.jobs], ids=lambda group: str(group.name))
def test_the_help_of_a_group_repeats_the_help_of_its_commands(group: click.Group) -> None:
    assert isinstance(group, LazyGroup)
    context = click.Context(group)
    for name, (_, short) in group.lazy.items():
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str(1000) == short
