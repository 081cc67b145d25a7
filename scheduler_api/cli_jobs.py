"""``cronpost jobs``: look at and change the jobs of a running server."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

import click
import httpx
import msgspec

from scheduler_api.policies import ROWS, Row
from scheduler_api.wire import BATCH_LIMIT
from scheduler_core.config_reader import load_settings
from scheduler_core.errors import ConfigError

DEFAULT_SERVER = "http://127.0.0.1:8000"
TIMEOUT_SECONDS = 30.0
MAX_COLUMN = 48
NAMES_WIDE = 26
IMPORT_BYTES = 4 << 20
"""One request of an import is not longer than this and one job."""


class Failed(click.ClickException):
    """The server refused, or cannot be reached. Exit code 1."""

    def show(self, file: Any = None) -> None:
        click.echo(f"cronpost: {self.message}", err=True)


class Server:
    """A Cronpost server as a client sees it."""

    def __init__(self, url: str, key: str | None, *, as_json: bool) -> None:
        self.as_json = as_json
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._client = httpx.Client(base_url=url, headers=headers, timeout=TIMEOUT_SECONDS, trust_env=False)
        self._url = url

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, method: str, path: str, *, params: dict[str, Any] | None = None, body: Any = None) -> Any:
        """The JSON that the server answers; raises Failed with what went wrong in words."""
        content = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        try:
            answer = self._client.request(method, path, params=params, content=content)
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise Failed(f"{self._url} is not the address of a server: {error}") from None
        except httpx.TransportError as error:
            raise Failed(
                f"no server answers at {self._url} ({str(error) or type(error).__name__}). "
                "Start one with cronpost serve, or say where it is with --server"
            ) from None
        try:
            shown = answer.json()
        except ValueError:
            raise Failed(f"{self._url} does not look like Cronpost: it answered {answer.status_code}") from None
        if answer.is_success:
            if self.as_json:
                click.echo(answer.text)
            return shown
        field = f" (field {shown['field']})" if shown.get("field") else ""
        hint = "; give one with --api-key" if answer.status_code == 401 else ""
        raise Failed(f"{shown.get('detail', answer.text)}{field}{hint} [{answer.status_code}]")


def job_path(job_id: str, action: str = "") -> str:
    """The path of a job; the id is one segment, whatever it holds."""
    return f"/jobs/{quote(job_id, safe='')}{action}"


@click.group()
def jobs() -> None:
    """Look at and change the jobs of a running server.

    Without --server, the address is the one that the settings (CRONPOST_HOST, CRONPOST_PORT, .env) name.
    """


def with_server(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which server it talks to, and a :class:`Server` as its first argument."""

    @click.option("--server", default=None, metavar="URL", help=f"Address of the server. [default: {DEFAULT_SERVER}]")
    @click.option(
        "--api-key", default=None, metavar="KEY", help="Bearer key. Without --server: the first of CRONPOST_API_KEYS."
    )
    @click.option("--json", "as_json", is_flag=True, help="Print what the server answers instead of a table.")
    @functools.wraps(command)
    def wrapped(server: str | None, api_key: str | None, as_json: bool, **rest: Any) -> None:
        with _find_server(server, api_key, as_json=as_json) as found:
            command(found, **rest)

    return wrapped


def _find_server(server: str | None, key: str | None, *, as_json: bool) -> Server:
    if server is None or key is None:
        try:
            settings = load_settings()
        except ConfigError:
            # Settings of a server with which something is wrong do not keep anyone from using another.
            if server is None:
                raise
        else:
            # A key goes to the server that it belongs to, never to another one.
            if server is None:
                key = key or next(iter(settings.api.api_keys), None)
            server = server or _address(settings.api.host, settings.api.port)
    assert server is not None
    return Server(server if "://" in server else f"http://{server}", key, as_json=as_json)


def _address(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::"}:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


@jobs.command("list")
@click.option("--status", default=None, help="active, running, retrying, taken, paused or quarantined.")
@click.option("--prefix", default=None, help="Only ids that start so.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="At most so many.")
@with_server
def list_jobs(server: Server, status: str | None, prefix: str | None, limit: int) -> None:
    """List jobs, in the order of their ids."""
    params: dict[str, Any] = {"status": status, "prefix": prefix, "view": "full" if server.as_json else None}
    found: list[dict[str, Any]] = []
    while len(found) < limit:
        asked = {name: value for name, value in params.items() if value is not None}
        page = server.ask("GET", "/jobs", params={**asked, "limit": min(1000, limit - len(found))})
        found += page["jobs"]
        params["cursor"] = page["next"]
        if page["next"] is None:
            break
    if server.as_json:
        return
    rows = [
        (
            job["id"],
            job["status"],
            job.get("cron", ""),
            job.get("timezone", ""),
            next(iter(job.get("next_fire_times", [])), "-"),
            _last(job),
        )
        for job in found
    ]
    table(("ID", "STATUS", "CRON", "ZONE", "NEXT FIRE", "LAST RUN"), rows)
    if params["cursor"] is not None:
        click.echo(f"... and more: --limit {limit * 2}", err=True)


def _last(job: dict[str, Any]) -> str:
    last = job.get("last_run")
    return "-" if not last else f"{last['state']} {last['status_code'] or ''}".rstrip()


@jobs.command()
@click.argument("job_id")
@with_server
def get(server: Server, job_id: str) -> None:
    """Show a job."""
    show_job(server, server.ask("GET", job_path(job_id)))


def show_job(server: Server, job: dict[str, Any]) -> None:
    """A job as lines of name and value."""
    if server.as_json:
        return
    for name, value in job.items():
        if value is None or value == []:
            continue
        if name == "next_fire_times":
            text = "\n".join(value)
        elif isinstance(value, dict | list):
            text = json.dumps(value, ensure_ascii=False)
        elif isinstance(value, bool):
            text = "yes" if value else "no"
        else:
            text = str(value)
        first, *rest = [printable(line) for line in text.split("\n")]
        click.echo(f"{name:<{NAMES_WIDE}} {first}")
        for line in rest:
            click.echo(f"{'':<{NAMES_WIDE}} {line}")


def policy_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command one option per optional field of a job, named as the field."""
    command = click.option("--limits", help='As JSON, for example {"max_in_flight": 5, "rate": 10}.')(command)
    command = click.option("--retry", help='As JSON, for example {"attempts": 3, "statuses": [500]}.')(command)
    for row in reversed(ROWS):
        name = "--" + row.name.replace("_", "-")
        if row.kind == "flag":
            command = click.option(f"{name}/--no-{name[2:]}", default=None, help=row.meaning)(command)
        else:
            command = click.option(name, type=_option_type(row), default=None, help=_option_help(row))(command)
    return command


def _option_type(row: Row) -> Any:
    if row.kind == "choice":
        return click.Choice(row.choices)
    return {"whole": int, "seconds": float, "number": float}.get(row.kind, str)


def _option_help(row: Row) -> str:
    only = "" if row.needs is None else f" Only with --{row.needs[0]} {row.needs[1]}."
    usual = row.usual if row.default is None else f"{row.default}"
    return f"{row.meaning}{only} [default: {usual}]"


@jobs.command()
@click.argument("job_id", required=False)
@click.option("--endpoint", help="URL of the runner.")
@click.option("--cron", "expression", help="When: 5, 6 (seconds first) or 7 fields, or a macro.")
@click.option("--payload", help="Request body, JSON. @FILE reads it from a file. [default: null]")
@click.option("--timezone", help="IANA name. [default: UTC]")
@click.option("--retry-already-running", type=int, help="Try again so many seconds after a 409.")
@click.option("--recovery-check/--no-recovery-check", default=None, help="Run once after a downtime.")
@policy_options
@click.option("--file", "file", type=click.Path(dir_okay=False, allow_dash=True), help="The whole body; - is stdin.")
@with_server
def put(server: Server, job_id: str | None, file: str | None, **given: Any) -> None:
    """Create or replace a job, from options or from a file with the JSON body of POST /."""
    if file is not None:
        if any(value is not None for value in given.values()):
            raise click.UsageError("either --file or the options of a job")
        body = sys.stdin.buffer.read() if file == "-" else read_file(file)
    else:
        body = _body(job_id, **given)
    answer = server.ask("PUT", job_path(job_id), body=body) if job_id else server.ask("POST", "/", body=body)
    if not server.as_json:
        what = f"{'stored' if answer['changed'] else 'unchanged'} (version {answer['version']})"
        click.echo(f"{printable(answer['id'])} {what}, next fire {answer['next_fire_time'] or '-'}")


def _body(
    job_id: str | None,
    endpoint: str | None,
    expression: str | None,
    payload: str | None,
    retry: str | None,
    limits: str | None,
    **rest: Any,
) -> bytes:
    """The body that the options ask for; the payload stays the text that was given."""
    if not job_id or not endpoint or not expression:
        raise click.UsageError("needed are JOB_ID, --endpoint and --cron (or --file)")
    fields: dict[str, Any] = {"id": job_id, "endpoint": endpoint, "cron": expression}
    fields |= {name: value for name, value in rest.items() if value is not None}
    body = json.dumps(fields).encode()[:-1]
    if retry is not None:
        body += b', "retry": ' + json_option("--retry", retry)
    if limits is not None:
        body += b', "limits": ' + json_option("--limits", limits)
    return body + b', "payload": ' + json_option("--payload", "null" if payload is None else payload) + b"}"


def json_option(name: str, text: str) -> bytes:
    """The JSON text of an option, or of the file that ``@FILE`` names."""
    raw = read_file(text[1:]) if text.startswith("@") else text.encode()
    try:
        json.loads(raw)
    except ValueError as error:
        raise click.UsageError(f"{name} is not JSON ({error}); a text needs its quotes: '\"text\"'") from None
    return raw.strip()


def read_file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}") from None


@jobs.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@with_server
def import_jobs(server: Server, file: str) -> None:
    """Create or replace the jobs of a file: a JSON array of bodies of POST /, or one body a line. - is stdin.

    Each job stands for itself. Those that are refused are named with the reason, and the exit code is then 1.
    """
    stored = unchanged = sent = 0
    refused: list[str] = []
    for part in _parts(_bodies(sys.stdin.buffer.read() if file == "-" else read_file(file))):
        results = server.ask("POST", "/jobs:batch", body=b"[" + b",".join(part) + b"]")
        for place, result in enumerate(results, sent + 1):
            if result["status"] != 202:
                field = f" (field {result['field']})" if result.get("field") else ""
                named = "" if result["id"] is None else f" {result['id']}"
                refused.append(f"job {place}{named}: {result['detail']}{field} [{result['status']}]")
            elif result["changed"]:
                stored += 1
            else:
                unchanged += 1
        sent += len(part)
    if not server.as_json:
        click.echo(f"{stored} stored, {unchanged} unchanged, {len(refused)} refused")
        for line in refused:
            click.echo(printable(line), err=True)
    if refused:
        raise click.exceptions.Exit(1)


def _bodies(text: bytes) -> list[bytes]:
    """The bodies in a file, each as its bytes."""
    if text.lstrip().startswith(b"["):
        try:
            return [bytes(one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failed(f"the file is not JSON: {error}") from None
    bodies: list[bytes] = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            bodies.append(bytes(msgspec.json.decode(line, type=msgspec.Raw)))
        except (msgspec.DecodeError, RecursionError) as error:
            raise Failed(f"line {number} of the file is not JSON: {error}") from None
    return bodies


def _parts(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    """What one request takes, in their order."""
    part: list[bytes] = []
    size = 0
    for one in bodies:
        if part and (len(part) == BATCH_LIMIT or size + len(one) > IMPORT_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield part


@jobs.command()
@click.argument("job_id")
@with_server
def delete(server: Server, job_id: str) -> None:
    """Remove a job. A request that is open may end."""
    server.ask("DELETE", job_path(job_id))
    if not server.as_json:
        click.echo(f"{printable(job_id)} deleted")


@jobs.command()
@click.argument("job_id")
@with_server
def pause(server: Server, job_id: str) -> None:
    """Hold a job's trigger."""
    server.ask("POST", job_path(job_id, "/pause"))
    if not server.as_json:
        click.echo(f"{printable(job_id)} paused")


@jobs.command()
@click.argument("job_id")
@with_server
def resume(server: Server, job_id: str) -> None:
    """Let a paused or quarantined job go on."""
    job = server.ask("POST", job_path(job_id, "/resume"))
    if not server.as_json:
        click.echo(f"{printable(job_id)} goes on, next fire {next(iter(job.get('next_fire_times', [])), '-')}")


@jobs.command()
@click.argument("job_id")
@click.option("--force", is_flag=True, help="Queue behind a run that is not settled, whatever its time is.")
@click.option("--payload", help="Another body for this run, JSON. @FILE reads it from a file.")
@click.option("--not-before", default=None, help="RFC 3339 instant at which it may start.")
@with_server
def run(server: Server, job_id: str, force: bool, payload: str | None, not_before: str | None) -> None:
    """Start a run now: the earliest that waits, or the job's usual one."""
    fields: dict[str, Any] = {"force": force} if not_before is None else {"force": force, "not_before": not_before}
    body = json.dumps(fields).encode()[:-1]
    if payload is not None:
        body += b', "payload": ' + json_option("--payload", payload)
    answer = server.ask("POST", job_path(job_id, "/run"), body=body + b"}")
    if server.as_json:
        return
    if "skipped" in answer:
        click.echo(f"nothing started: {answer['skipped'].replace('_', ' ')}, next at {answer['next_at'] or '-'}")
    else:
        click.echo(f"run {answer['run_id']} asked for; cronpost jobs runs {printable(job_id)} shows how it ends")


@jobs.command()
@click.argument("job_id")
@click.option("--misses/--no-misses", default=True, show_default=True, help="Also the fire times that became no run.")
@click.option("--limit", default=20, show_default=True, type=click.IntRange(1, 1000), help="At most so many.")
@with_server
def runs(server: Server, job_id: str, misses: bool, limit: int) -> None:
    """Show what happened to a job's fire times, newest first."""
    params = {"misses": "true" if misses else "false", "limit": limit}
    answer = server.ask("GET", job_path(job_id, "/runs"), params=params)
    if server.as_json:
        return
    rows = []
    if answer["open_run"] is not None:
        rows.append(_run_row({"fire_time": "", "reason": "", "id": "", **answer["open_run"]}))
    rows += [_miss_row(one) if one["kind"] == "miss" else _run_row(one) for one in answer["runs"]]
    table(("FIRE TIME", "STATE", "REASON", "STATUS", "LATE MS", "ATTEMPTS", "RUN"), rows)


def _run_row(run: dict[str, Any]) -> tuple[str, ...]:
    late = run.get("lateness_ms")
    return (
        run["fire_time"],
        run["state"],
        run["reason"],
        str(run.get("status_code") or "-"),
        "-" if late is None else str(late),
        str(run["attempt"]),
        run["id"],
    )


def _miss_row(miss: dict[str, Any]) -> tuple[str, ...]:
    first, last = miss["first_fire_time"], miss["last_fire_time"]
    return (first if first == last else f"{first} to {last}", "missed", miss["reason"], "-", "-", "-", "-")


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns under their heads; on a terminal, long values are cut."""
    if not rows:
        click.echo("none")
        return
    cut = sys.stdout.isatty()
    lines = [[_cut(printable(cell)) if cut else printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in [list(heads), *lines]) for column in range(len(heads))]
    for row in [list(heads), *lines]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _cut(text: str) -> str:
    return text if len(text) <= MAX_COLUMN else text[: MAX_COLUMN - 3] + "..."


def printable(text: str) -> str:
    """``text`` without what could steer a terminal: ids and answers come from others."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
