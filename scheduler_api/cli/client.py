"""The server that a command talks to: its address, the key, requests and their errors."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import click

from scheduler_api.cli.errors import Failed, exit_code_of, local_problem, unreachable, unusable_file
from scheduler_core.base.errors import ConfigError

if TYPE_CHECKING:
    import httpx

DEFAULT_SERVER = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 30.0
_STDIN_READ = "scheduler_api.cli.client.stdin_read"


class Server:
    """A Cronpost server as a client sees it."""

    def __init__(self, url: str, key: str | None, *, as_json: bool = False, timeout: float = TIMEOUT_SECONDS) -> None:
        import httpx

        self.as_json = as_json
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._url = url
        self._client = httpx.Client(base_url=url, headers=headers, timeout=timeout, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def request(
        self, method: str, path: str, *, params: dict[str, Any] | None = None, body: bytes | None = None
    ) -> httpx.Response:
        """The answer to a request that succeeded; raises Failed with what went wrong in words."""
        import httpx

        given = None if params is None else {name: value for name, value in params.items() if value is not None}
        try:
            answer = self._client.request(method, path, params=given, content=body)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise click.UsageError(f"{self._url} is not the address of a server: {error}") from None
        except httpx.TransportError as error:
            raise unreachable(
                f"no server answers at {self._url} ({str(error) or type(error).__name__}). "
                "Start one with cronpost serve, or say where it is with --server or CRONPOST_SERVER"
            ) from None
        try:
            shown = answer.json()
        except ValueError:
            raise self._not_cronpost(answer.status_code) from None
        if answer.is_success:
            return answer
        if not isinstance(shown, dict):
            raise self._not_cronpost(answer.status_code)
        raise refusal(shown, answer.status_code)

    def ask(self, method: str, path: str, *, params: dict[str, Any] | None = None, body: bytes | None = None) -> Any:
        """The JSON that the server answers, which is printed as it came with ``--json``."""
        answer = self.request(method, path, params=params, body=body)
        if self.as_json:
            click.echo(answer.text.rstrip("\n"))
        return answer.json()

    def _not_cronpost(self, status: int) -> Failed:
        detail = f"{self._url} does not look like Cronpost: it answered {status}"
        return Failed(detail, exit_code=_code_of_stranger(status), problem=local_problem("Failed", detail, "no_json"))


def _code_of_stranger(status: int) -> int:
    return exit_code_of(status if status >= 500 else 500)


def refusal(problem: dict[str, Any], status: int) -> Failed:
    """The error for a problem document."""
    field = f" (field {problem['field']})" if problem.get("field") else ""
    hint = "; give a key with CRONPOST_API_KEY, --api-key-file or --api-key" if status == 401 else ""
    text = f"{problem.get('detail', problem.get('title', 'the server refused'))}{field}{hint} [{status}]"
    return Failed(text, exit_code=exit_code_of(status), problem=problem)


def job_path(job_id: str, action: str = "") -> str:
    """The path of a job; the id is one segment, whatever it holds."""
    return f"/jobs/{quote(job_id, safe='')}{action}"


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which server it talks to, and a ``Server`` as its first argument."""

    @click.option(
        "--server",
        default=None,
        metavar="URL",
        help=f"Address of the server. [CRONPOST_SERVER; default: {DEFAULT_SERVER}]",
    )
    @click.option(
        "--api-key",
        default=None,
        metavar="KEY",
        help="Bearer key; every user of the machine can read it here. [CRONPOST_API_KEY]",
    )
    @click.option(
        "--api-key-file",
        type=click.Path(dir_okay=False, allow_dash=True),
        default=None,
        metavar="FILE",
        help="File with the bearer key; - is stdin.",
    )
    @click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table; errors are JSON too.")
    @functools.wraps(command)
    def wrapped(server: str | None, api_key: str | None, api_key_file: str | None, as_json: bool, **rest: Any) -> None:
        with find_server(server, api_key, api_key_file, as_json=as_json) as found:
            command(found, **rest)

    return wrapped


def find_server(
    server: str | None,
    key: str | None,
    key_file: str | None = None,
    *,
    as_json: bool = False,
    timeout: float = TIMEOUT_SECONDS,
) -> Server:
    """The server that the options, the environment, ``.env`` and the defaults name, in this order."""
    from scheduler_core.base.config_reader import load_settings

    if key_file is not None:
        if key is not None:
            raise click.UsageError("either --api-key or --api-key-file")
        key = read_input(key_file).decode("utf-8", "replace").strip()
    try:
        settings = load_settings()
    except ConfigError:
        # Wrong settings of a server here must not prevent the use of another server.
        if server is None:
            raise
        key = key or os.environ.get("CRONPOST_API_KEY", "").strip() or None
    else:
        key = key or settings.client.api_key
        server = server or settings.client.server
        if server is None:
            # The keys of a server's own settings go to that server, never to another one.
            key = key or next(iter(settings.api.api_keys), None)
            server = _address(settings.api.host, settings.api.port)
    if key is not None and not all("!" <= character <= "~" for character in key):
        raise click.UsageError("the API key holds a character that a header cannot carry")
    return Server(server if "://" in server else f"http://{server}", key, as_json=as_json, timeout=timeout)


def _address(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_input(path: str) -> bytes:
    """The bytes of a file; ``-`` is standard input."""
    if path == "-":
        context = click.get_current_context(silent=True)
        if context is not None and context.meta.setdefault(_STDIN_READ, False):
            raise click.UsageError("standard input can be read once: for the key or for the body, not for both")
        if context is not None:
            context.meta[_STDIN_READ] = True
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unusable_file(f"{path} cannot be read: {error.strerror}") from None


def json_option(name: str, text: str) -> bytes:
    """The JSON text of an option, or of the file that ``@FILE`` names."""
    raw = read_input(text[1:]) if text.startswith("@") else text.encode()
    try:
        json.loads(raw)
    except ValueError as error:
        raise click.UsageError(f"{name} is not JSON ({error}); a text needs its quotes: '\"text\"'") from None
    return raw.strip()
