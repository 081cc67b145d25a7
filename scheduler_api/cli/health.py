"""``cronpost health``: asks the server or node of this container or machine whether it lives."""

from __future__ import annotations

import http.client
from pathlib import Path

import click

from scheduler_api.cli.errors import unreachable
from scheduler_core.base.config import BY_NAME, Settings
from scheduler_core.base.config_reader import load_settings

ANSWER_SECONDS = 2.0
FIRST_PROCESS = Path("/proc/1/cmdline")
"""In a container, the process that is to be asked, with its options."""
ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""An address to listen on is none to connect to."""
PLACES = ("host", "port", "metrics_port")


@click.command()
def health() -> None:
    """Ask the server or node of this container whether it lives; for health checks.

    Sends GET /health to the port of CRONPOST_METRICS_PORT if that is set, else to that of the API. The first process of
    a container may have set both by options. A node of a container that has no port lives as long as the container.
    """
    command, options = first_command(FIRST_PROCESS)
    settings = load_settings(options=options)
    if command == "node" and settings.process.metrics_port is None:
        click.echo("healthy: the node runs, and has no port to ask")
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
    """Host and port to ask."""
    host = ANY_ADDRESS.get(settings.api.host, settings.api.host)
    metrics_port = settings.process.metrics_port
    return host, settings.api.port if metrics_port is None else metrics_port


def first_command(path: Path) -> tuple[str, dict[str, str]]:
    """The command of Cronpost that ``path`` shows as command line, and those of its options that decide where it
    listens; both empty if it is another program."""
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
