"""``cronpost serve``, ``api``, ``node``, ``demo`` and ``config``: the commands whose options are the settings.

The settings are defined in ``scheduler_core.base.config``; the options are generated from them.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import click

from scheduler_core.base.config import BY_NAME, SETTINGS, Settings, shown_value
from scheduler_core.base.config_reader import load_settings
from scheduler_core.base.config_table import RENAMED, Setting, mask_url
from scheduler_core.base.errors import ConfigError
from scheduler_core.version import __version__

F = TypeVar("F", bound=Callable[..., Any])
UNUSED = ("rich", "pygments")


def setting_options(*sections: str) -> Callable[[F], F]:
    """Add one option for each setting of these sections to a command."""

    def decorate(command: F) -> F:
        for setting in reversed([setting for setting in SETTINGS if setting.section in sections]):
            command = click.option(setting.options[0], **_option(setting))(command)
        for old, new in RENAMED.items():
            if BY_NAME[new].section in sections:
                command = click.option("--" + old.replace("_", "-"), default=None, hidden=True)(command)
        return command

    return decorate


def _option(setting: Setting) -> dict[str, Any]:
    shown = shown_value(setting.name, setting.default)
    option: dict[str, Any] = {
        "default": None,
        "metavar": "YES|NO" if setting.kind == "yes or no" else "VALUE",
        "help": f"{setting.meaning} [{setting.env}; default: {shown}]",
    }
    if setting.kind == "yes or no":
        option |= {"is_flag": False, "flag_value": "yes"}
    return option


def read_settings(options: dict[str, str | None]) -> Settings:
    """Load the settings; ``options`` override the environment."""
    return load_settings(options={name: text for name, text in options.items() if text is not None})


@click.command()
@setting_options("api", "store", "engine", "tasks", "process", "log")
def serve(**options: str | None) -> None:
    """Run the server: API and scheduler in one process, or with --nodes, node processes beside it.

    Without --redis-url it starts its own Redis in the data directory.
    """
    _run(read_settings(options), api=True, node=True)


@click.command()
@setting_options("api", "store", "engine", "tasks", "log")
def api(**options: str | None) -> None:
    """Run the API alone, on a Redis that it shares with nodes."""
    settings = read_settings(options)
    _need_redis_url(settings, "api")
    _run(settings, api=True, node=False)


@click.command()
@setting_options("store", "engine", "tasks", "process", "log")
@click.option("--parent", type=int, hidden=True)
@click.option("--sole", is_flag=True, hidden=True)
@click.option("--own", default="[]", hidden=True)
def node(parent: int | None, sole: bool, own: str, **options: str | None) -> None:
    """Run one scheduler node, or several, on a Redis that is shared with other processes.

    It opens no port, except one for metrics if --metrics-port is set.
    """
    if parent is not None:
        _run_child(parent, sole=sole, own=own)
        return
    settings = read_settings(options)
    _need_redis_url(settings, "node")
    _run(settings, api=False, node=True)


@click.command()
@setting_options("api", "store", "engine", "tasks", "log")
def demo(**options: str | None) -> None:
    """Start a server, a runner and an example job, and show each fire until Ctrl-C.

    It is separate from real jobs: its data is in the directory demo of the data directory.
    """
    from scheduler_api.cli.demo import run_demo
    from scheduler_core.base.events import configure_logging

    options["log_level"] = options["log_level"] or "warning"  # the lines that matter here are the fires
    settings = read_settings(options)
    configure_logging(settings.log)
    run_demo(settings)


def _need_redis_url(settings: Settings, command: str) -> None:
    if settings.store.redis_url is None:
        raise ConfigError(
            f"cronpost {command} needs a Redis that it shares with other processes: set CRONPOST_REDIS_URL or "
            "--redis-url. cronpost serve runs everything in one process and starts its own Redis"
        )


def _load_server() -> None:
    """Import the server as fast as possible.

    The garbage collector is off meanwhile: imports make hardly any garbage, and the search for it took 6 % of the
    start. ``UNUSED`` packages are hidden: structlog and httpx import them where they are installed, which took another
    10 %, for tracebacks and a command line that Cronpost does not use.
    """
    gc.disable()
    hidden = [name for name in UNUSED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment] # makes an import of it raise ImportError
    try:
        import scheduler_api.server.process  # noqa: F401 - imported again where it is used
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.freeze()
        gc.enable()


def _run(settings: Settings, *, api: bool, node: bool) -> None:
    _load_server()
    from scheduler_api.server.process import Process
    from scheduler_core.base.events import SETTING_RENAMED, SETTING_WARNING, configure_logging, get_logger

    configure_logging(settings.log)
    for old, new in settings.old_names:
        get_logger(__name__).warning(SETTING_RENAMED, setting=old, use=new)
    if api and settings.client.api_key is not None and not settings.api.api_keys:
        # Easily confused with CRONPOST_API_KEYS, the setting that protects the server.
        get_logger(__name__).warning(
            SETTING_WARNING,
            setting="CRONPOST_API_KEY",
            detail="only cronpost jobs and cronpost runs use it; this server requires no key. Set CRONPOST_API_KEYS",
        )
    Process(settings, api=api, node=node, on_ready=_banner).run()


def _run_child(descriptor: int, *, sole: bool, own: str) -> None:
    """Run one node of a server. The server passes all settings in the environment."""
    _load_server()
    import msgspec

    from scheduler_api.server.node_link import ParentLink
    from scheduler_api.server.process import Process
    from scheduler_core.base.events import configure_logging
    from scheduler_core.delivery.http.guard import OwnEndpoint

    parent = ParentLink(descriptor, sole=sole, own=msgspec.json.decode(own, type=list[OwnEndpoint]))
    settings = load_settings(dotenv=None)
    configure_logging(settings.log)
    Process(settings, api=False, parent=parent).run()


def _banner(process: Any) -> None:
    """Print addresses and a first command when the process is ready. Only on a terminal."""
    if not sys.stdout.isatty():
        return
    from scheduler_api.cli.screen import show

    settings = process.settings
    lines = [f"Cronpost {__version__}"]
    if process.url is not None:
        lines.append(f"  API         {process.url}")
        lines.append(f"  Dashboard   {process.url}/ui")
        lines.append(f"  Docs        {process.url}/docs")
    if process.embedded is not None:
        lines.append(f"  Redis       {process.embedded.server}, embedded, in {process.embedded.directory}")
    else:
        lines.append(f"  Redis       {mask_url(settings.store.redis_url)}")
    note = settings.notes.get("nodes")
    if process.nodes is not None:
        lines.append(f"  Nodes       {process.nodes.wanted} processes{f' ({note})' if note else ''}")
    elif note:
        lines.append(f"  Nodes       1, in this process ({note})")
    if process.url is not None:
        keys = len(settings.api.api_keys)
        lines.append(f"  Access      {f'{keys} API key(s)' if keys else 'open: no API key is required'}")
        lines.append(f"  Next        cronpost jobs list --server {process.url}     (Ctrl-C stops the server)")
    show("\n".join(lines))


@click.command()
@setting_options(*{setting.section for setting in SETTINGS})
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(as_json: bool, **options: str | None) -> None:
    """List all settings: value, source, default, meaning."""
    rows = read_settings(options).rows()
    if as_json:
        import json

        click.echo(
            json.dumps(
                [
                    {
                        "name": row.setting.env,
                        "value": row.value,
                        "source": row.source,
                        "note": row.note or None,
                        "default": row.default,
                        "expected": row.setting.kind,
                        "meaning": row.setting.meaning,
                        "section": row.setting.section,
                    }
                    for row in rows
                ],
                indent=2,
            )
        )
        return
    width = max(len(row.setting.env) for row in rows)
    for row in rows:
        if row.setting.section == "client" and row is next(one for one in rows if one.setting.section == "client"):
            click.echo("\nFor cronpost jobs and cronpost runs only; servers and nodes ignore these:")
        note = f"; {row.note}" if row.note else ""
        origin = "" if row.source == "default" else f"   (from {row.source}; default {row.default}{note})"
        click.echo(f"{row.setting.env.ljust(width)}  {row.value}{origin}")
        for line in wrap([f"{row.setting.meaning} Expected: {row.setting.kind}."], 100):
            click.echo(f"{' ' * width}    {line}")


def wrap(paragraphs: Iterable[str], width: int) -> list[str]:
    """Wrap paragraphs into lines of at most ``width`` characters."""
    import textwrap

    return [line for paragraph in paragraphs for line in textwrap.wrap(paragraph, width)]
