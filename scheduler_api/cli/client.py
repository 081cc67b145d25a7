"""The HTTP client of the commands: server address, API key, requests, errors."""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
SILENT_SECONDS = 45.0
"""After this long without a line, a stream counts as lost. The server writes one every 15 s."""
_STDIN_READ = "scheduler_api.cli.client.stdin_read"


class Server:
    """Sends requests to one Cronpost server."""

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
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send a request and return its response. Raises Failed if no server answers or the request is refused."""
        query = None if params is None else {name: value for name, value in params.items() if value is not None}
        with self._connecting():
            answer = self._client.request(method, path, params=query, content=body, headers=headers)
        return self._checked(answer)

    @contextmanager
    def stream(self, path: str, *, params: dict[str, Any], headers: dict[str, str]) -> Iterator[Iterator[str]]:
        """Open a stream of events and yield its lines. Raises Failed as ``request`` does, also when the connection
        ends."""
        import httpx

        timeout = httpx.Timeout(TIMEOUT_SECONDS, read=SILENT_SECONDS)
        with (
            self._connecting(),
            self._client.stream("GET", path, params=params, headers=headers, timeout=timeout) as answer,
        ):
            if not answer.headers.get("content-type", "").startswith("text/event-stream"):
                answer.read()
                self._checked(answer)
                raise self._not_cronpost(answer.status_code)
            yield answer.iter_lines()

    @contextmanager
    def _connecting(self) -> Iterator[None]:
        """Turn errors of the connection into Failed."""
        import httpx

        try:
            yield
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise click.UsageError(f"{self._url} is not a server address: {error}") from None
        except httpx.TransportError as error:
            raise unreachable(
                f"no server answers at {self._url} ({str(error) or type(error).__name__}). "
                "Start one with cronpost serve, or give its address with --server or CRONPOST_SERVER"
            ) from None

    def _checked(self, answer: httpx.Response) -> httpx.Response:
        """Return an answer that is a success. Raises Failed for others."""
        try:
            document = answer.json()
        except ValueError:
            raise self._not_cronpost(answer.status_code) from None
        if answer.is_success:
            return answer
        if not isinstance(document, dict):
            raise self._not_cronpost(answer.status_code)
        raise refusal(document, answer.status_code)

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:
        """Send a request and return the JSON of its response; with ``--json``, print it unchanged."""
        answer = self.request(method, path, params=params, body=body, headers=headers)
        if self.as_json:
            click.echo(answer.text.rstrip("\n"))
        return answer.json()

    def _not_cronpost(self, status: int) -> Failed:
        detail = f"{self._url} does not look like Cronpost: it answered {status}"
        return Failed(
            detail, exit_code=_exit_code_of_other_server(status), problem=local_problem("Failed", detail, "no_json")
        )


def _exit_code_of_other_server(status: int) -> int:
    return exit_code_of(status if status >= 500 else 500)


def refusal(problem: dict[str, Any], status: int) -> Failed:
    """Build the error for a problem document."""
    field = f" (field {problem['field']})" if problem.get("field") else ""
    hint = "; give a key with CRONPOST_API_KEY, --api-key-file or --api-key" if status == 401 else ""
    text = f"{problem.get('detail', problem.get('title', 'the server refused'))}{field}{hint} [{status}]"
    return Failed(text, exit_code=exit_code_of(status), problem=problem)


def job_path(job_id: str, action: str = "") -> str:
    """Return the path of a job, with its id percent-encoded as one segment."""
    return f"/jobs/{quote(job_id, safe='')}{action}"


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that select a server to a command, which receives a ``Server`` as its first argument."""

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
        help="Bearer key. Other users of the machine can read it in the process list. [CRONPOST_API_KEY]",
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
    """Find the server and the key: first in the options, then in the environment, ``.env`` and the defaults."""
    from scheduler_core.base.config_reader import load_settings

    if key_file is not None:
        if key is not None:
            raise click.UsageError("give either --api-key or --api-key-file")
        key = read_input(key_file).decode("utf-8", "replace").strip()
    try:
        settings = load_settings()
    except ConfigError:
        # Invalid server settings on this machine must not prevent the use of another server.
        if server is None:
            raise
        key = key or os.environ.get("CRONPOST_API_KEY", "").strip() or None
    else:
        key = key or settings.client.api_key
        server = server or settings.client.server
        if server is None:
            # CRONPOST_API_KEYS holds the keys of the server on this machine: never send one to another server.
            key = key or next(iter(settings.api.api_keys), None)
            server = _address(settings.api.host, settings.api.port)
    if key is not None and not all("!" <= character <= "~" for character in key):
        raise click.UsageError(
            "the API key contains a character that is not allowed in a header: use printable ASCII without spaces"
        )
    return Server(server if "://" in server else f"http://{server}", key, as_json=as_json, timeout=timeout)


def _address(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def read_input(path: str) -> bytes:
    """Read a file; ``-`` is standard input."""
    if path == "-":
        context = click.get_current_context(silent=True)
        if context is not None and context.meta.setdefault(_STDIN_READ, False):
            raise click.UsageError("standard input can be read only once: use it for the key or for the body")
        if context is not None:
            context.meta[_STDIN_READ] = True
        return sys.stdin.buffer.read()
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise unusable_file(f"{path} cannot be read: {error.strerror}") from None


def json_option(name: str, text: str) -> bytes:
    """Return the JSON text of an option, or of the file if the option is ``@FILE``."""
    raw = read_input(text[1:]) if text.startswith("@") else text.encode()
    try:
        json.loads(raw)
    except ValueError as error:
        raise click.UsageError(f"{name} is not JSON ({error}); put a text in quotes: '\"text\"'") from None
    return raw.strip()
