"""``cronpost jobs export`` and ``import``: copies job definitions out of a server and into one.

Importing an unchanged export changes nothing: payloads keep their bytes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from scheduler_api.cli.client import Server, read_input, with_server
from scheduler_api.cli.definition import Fields, body_of, definition_of, is_schedule, is_unreadable
from scheduler_api.cli.errors import EXIT_OTHER, exit_code_of, unusable_file
from scheduler_api.cli.job_views import pages
from scheduler_api.cli.output import printable

BATCH_LIMIT = 1000
"""Maximum number of jobs in one ``POST /jobs:batch``."""
BATCH_BYTES = 4 << 20
"""One request of an import holds at most this many bytes, or one job."""

SECRET_FIELDS = ("headers", "query", "auth", "sign")

_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


@click.command()
@click.option("--prefix", default=None, help="Only ids with this prefix.")
@click.option("--jsonl", is_flag=True, help="One JSON object after another instead of one array.")
@with_server
def export(server: Server, prefix: str | None, jsonl: bool) -> None:
    """Print the definitions of jobs, for cronpost jobs import.

    They are sorted by id. Payloads keep their bytes, so a payload with line breaks takes several lines, also with
    --jsonl. Secrets are printed as "***", which an import into the same server keeps. Not exported: fields without a
    value (null), state (pauses, pending runs, histories) and schedules, which POST /schedules creates.
    """
    written = schedules = masked = 0
    unreadable: list[str] = []
    for fields in _stored_jobs(server, prefix):
        if is_schedule(fields):
            schedules += 1
            continue
        if is_unreadable(fields):
            unreadable.append(str(msgspec.json.decode(fields["id"])))
            continue
        begin = b"" if jsonl else b",\n" if written else b"[\n"
        given = {
            name: raw
            for name, raw in definition_of(fields).items()
            if name in {"payload", "cron"} or bytes(raw) != b"null"
        }
        click.echo(begin + body_of(given), nl=jsonl)
        written += 1
        masked += _has_masks(given)
    if not jsonl:
        click.echo("\n]" if written else "[]")
    if schedules:
        click.echo(f"{schedules} schedule(s) not exported", err=True)
    if masked:
        click.echo(
            f'{masked} job(s) with masked secrets: a server that has none of them stored refuses each "***" until you '
            "replace it with the secret",
            err=True,
        )
    for job_id in unreadable:
        click.echo(f"{printable(job_id)} not exported: its definition cannot be read", err=True)
    if unreadable:
        raise click.exceptions.Exit(EXIT_OTHER)


def _has_masks(given: Fields) -> bool:
    """Return whether a secret of the job is masked, also the password of a broker in its endpoint."""
    in_fields = any(b'"***"' in bytes(given[name]) for name in SECRET_FIELDS if name in given)
    return in_fields or ("endpoint" in given and b":***@" in bytes(given["endpoint"]))


def _stored_jobs(server: Server, prefix: str | None) -> Iterator[Fields]:
    """Read all jobs with their payloads."""
    for rows, _ in pages(server, "/jobs", "jobs", {"prefix": prefix, "view": "full"}, None):
        yield from map(_fields_decoder.decode, rows)


class Counts(msgspec.Struct):
    """Counts the results of an import."""

    created: int = 0
    changed: int = 0
    unchanged: int = 0
    failed: int = 0
    not_sent: int = 0

    def line(self) -> str:
        """Format the counts as one line."""
        text = f"{self.created} created, {self.changed} changed, {self.unchanged} unchanged, {self.failed} failed"
        return f"{text}, {self.not_sent} not sent" if self.not_sent else text


@click.command("import")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--on-error",
    type=click.Choice(["continue", "stop"]),
    default="continue",
    show_default=True,
    help="stop: send no further request after one in which a job failed. The other jobs of that request are stored.",
)
@with_server
def import_jobs(server: Server, file: str, on_error: str) -> None:
    """Create or replace the jobs of a file.

    The file has the format of cronpost jobs export: a JSON array of bodies of POST /, or one body after another. - is
    stdin. Jobs are stored independently; each failure is printed with its reason. After failures the exit code is the
    one that all of them share, else 1.
    """
    bodies = bodies_of(read_input(file))
    counts = Counts()
    failures: list[dict[str, Any]] = []
    done = 0
    try:
        for part in _parts(bodies):
            results = server.request("POST", "/jobs:batch", body=b"[" + b",".join(part) + b"]").json()
            for place, result in enumerate(results, done + 1):
                _count(counts, result, place, failures)
            done += len(part)
            _show_progress(server, done, len(bodies))
            if failures and on_error == "stop":
                break
    finally:
        counts.not_sent = len(bodies) - done
        _show_result(server, counts, failures)
    if failures:
        codes = {exit_code_of(failure["status"]) for failure in failures}
        raise click.exceptions.Exit(codes.pop() if len(codes) == 1 else EXIT_OTHER)


def _count(counts: Counts, result: dict[str, Any], place: int, failures: list[dict[str, Any]]) -> None:
    if result["status"] != 202:
        counts.failed += 1
        failures.append({"place": place, **result})
    elif not result["changed"]:
        counts.unchanged += 1
    elif result["version"] == 1:
        counts.created += 1
    else:
        counts.changed += 1


def _show_progress(server: Server, done: int, total: int) -> None:
    """Print a line on standard error if the import needs more than one request."""
    if server.as_json or (done == total and total <= BATCH_LIMIT):
        return
    if sys.stderr.isatty():
        click.echo(f"\r{done} of {total} sent", err=True, nl=done == total)
    else:
        click.echo(f"{done} of {total} sent", err=True)


def _show_result(server: Server, counts: Counts, failures: list[dict[str, Any]]) -> None:
    if server.as_json:
        click.echo(json.dumps(msgspec.to_builtins(counts) | {"failures": failures}, ensure_ascii=False))
        return
    click.echo(counts.line())
    for failure in failures:
        field = f" (field {failure['field']})" if failure.get("field") else ""
        named = "" if failure["id"] is None else f" {failure['id']}"
        text = f"job {failure['place']}{named}: {failure['detail']}{field} [{failure['status']}]"
        click.echo(printable(text), err=True)


def bodies_of(text: bytes) -> list[bytes]:
    """Split a file into bodies, each as its bytes: the elements of an array, or objects one after another."""
    if text.lstrip().startswith(b"["):
        try:
            return [bytes(one) for one in msgspec.json.decode(text, type=list[msgspec.Raw])]
        except (msgspec.DecodeError, RecursionError) as error:
            raise unusable_file(f"the file is not JSON: {error}") from None
    bodies = list(_one_after_the_other(text))
    if len(bodies) == 1 and b'"jobs"' in bodies[0] and "jobs" in (msgspec.json.decode(bodies[0]) or ()):
        raise unusable_file("the file is the output of cronpost jobs list; cronpost jobs export prints definitions")
    return bodies


def _one_after_the_other(text: bytes) -> Iterator[bytes]:
    # Numbers stay text: only the end of each value is needed, and a long number must not be an error here.
    decoder = json.JSONDecoder(parse_int=str, parse_float=str)
    try:
        characters = text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise unusable_file(f"the file is not UTF-8: byte {error.start} ({error.reason})") from None
    place, end = 0, len(characters)
    while True:
        while place < end and characters[place] in " \t\r\n":
            place += 1
        if place == end:
            return
        try:
            _, after = decoder.raw_decode(characters, place)
        except (ValueError, RecursionError) as error:
            line = characters.count("\n", 0, getattr(error, "pos", place)) + 1
            raise unusable_file(f"line {line} of the file is not JSON: {error}") from None
        yield characters[place:after].encode()
        place = after


def _parts(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    """Group the bodies into requests, in order."""
    part: list[bytes] = []
    size = 0
    for one in bodies:
        if part and (len(part) == BATCH_LIMIT or size + len(one) > BATCH_BYTES):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one)
    if part:
        yield part
