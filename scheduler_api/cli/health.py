"""``cronpost health``: checks whether the server or node of this container or machine is alive."""

from __future__ import annotations

import http.client
from pathlib import Path

import click

from scheduler_api.cli.errors import unreachable
from scheduler_core.base.config import BY_NAME, Settings
from scheduler_core.base.config_reader import load_settings

ANSWER_SECONDS = 2.0
FIRST_PROCESS = Path("/proc/1/cmdline")
"""In a container: the process to check, with its options."""
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Addresses to listen on, and where to connect to them."""
PLACES = ("host", "port", "metrics_port")


@click.command()
def health() -> None:
    """Check whether the server or node of this container is alive; for health checks.

    Sends GET /health to CRONPOST_METRICS_PORT if it is set, else to the port of the API. Options of the first
    process of the container override both. A node without a port counts as alive as long as its container runs.
    """
    command, options = first_command(FIRST_PROCESS)
    settings = load_settings(options=options)
    if command == "node" and settings.process.metrics_port is None:
        click.echo("healthy: the node runs and has no port to check")
        return
    host, port = place(settings)
    connection = http.client.HTTPConnection(host, port, timeout=ANSWER_SECONDS)
    try:
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise unreachable(f"no answer from {host} port {port}: {error}") from error
    finally:
        connection.close()
    if status != 200:
        raise unreachable(f"{host} port {port} answered {status}")
    click.echo("healthy")


def place(settings: Settings) -> tuple[str, int]:
    """Return the host and the port to check."""
    host = ANY_ADDRESS.get(settings.api.host, settings.api.host)
    metrics_port = settings.process.metrics_port
    return host, settings.api.port if metrics_port is None else metrics_port


def first_command(path: Path) -> tuple[str, dict[str, str]]:
    """Read a process's command line from ``path``: the command of Cronpost, and the options that decide where it
    listens. Both are empty if it is another program."""
    try:
        words = path.read_bytes().decode("utf-8", "replace").rstrip("\0").split("\0")
    except OSError:
        return "", {}
    names = [Path(word).name for word in words]
    start = next((number for number, name in enumerate(names) if name in {"cronpost", "scheduler_api"}), None)
    if start is None or start + 1 >= len(words):
        return "", {}
    command, *rest = words[start + 1 :]
    options = {}
    for name in PLACES:
        for option in BY_NAME[name].options:
            for word, following in zip(rest, [*rest[1:], ""], strict=False):
                if word == option:
                    options[name] = following
                elif word.startswith(f"{option}="):
                    options[name] = word.partition("=")[2]
    return command, options
