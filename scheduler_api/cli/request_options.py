"""The options of ``cronpost jobs put`` and ``update`` for the request of a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click
import msgspec

from scheduler_api.cli.client import json_option, read_input
from scheduler_api.cli.definition import Fields
from scheduler_api.wire.request_fields import METHODS

REQUEST_FIELDS = ("target", "method", "headers", "query", "body", "content_type", "auth", "sign")
_OPTIONS = ("header", "query", "body", "auth", "auth_bearer", "auth_basic", "sign_key")
"""The options whose text is not the value of the field with the same name."""


def request_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command."""
    file = "@FILE reads it from a file, so that no other user of the machine sees it."
    options = (
        click.option("--target", help="Name of a target, instead of --endpoint."),
        click.option("--method", type=click.Choice(METHODS), help="[default: POST]"),
        click.option("--header", multiple=True, callback=_none, help="NAME: VALUE. Can be repeated."),
        click.option("--query", multiple=True, callback=_none, help="NAME=VALUE, appended to the URL. Repeatable."),
        click.option("--body", help="Request body that is not JSON. @FILE reads it from a file."),
        click.option("--content-type", help="[default: application/json; with --body, text/plain]"),
        click.option("--auth", help=f'As JSON, for example {{"type": "bearer", "token": "..."}}. {file}'),
        click.option("--auth-bearer", help=f"A bearer token. {file}"),
        click.option("--auth-basic", help=f"USER:PASSWORD. {file}"),
        click.option("--sign-key", multiple=True, callback=_none, help=f"whsec_..., at most two. {file}"),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _none(_context: click.Context, _option: click.Parameter, given: tuple[str, ...]) -> tuple[str, ...] | None:
    return given or None


def request_fields(options: dict[str, Any]) -> Fields:
    """Take the options of a request out of ``options``; return the fields that they give."""
    taken = {name: options.pop(name, None) for name in _OPTIONS}
    given = {name: value for name, value in taken.items() if value is not None}
    credentials = [f"--{name.replace('_', '-')}" for name in given if name.startswith("auth")]
    if len(credentials) > 1:
        raise click.UsageError(f"give one of {' and '.join(credentials)}")
    values: dict[str, Any] = {}
    if "header" in given:
        values["headers"] = _pairs("--header", given["header"], ":")
    if "query" in given:
        values["query"] = _pairs("--query", given["query"], "=")
    if "body" in given:
        values["body"] = _text("--body", given["body"], stripped=False)
    if "auth_bearer" in given:
        values["auth"] = {"type": "bearer", "token": _text("--auth-bearer", given["auth_bearer"])}
    if "auth_basic" in given:
        user, _, password = _text("--auth-basic", given["auth_basic"]).partition(":")
        values["auth"] = {"type": "basic", "username": user, "password": password}
    if "sign_key" in given:
        values["sign"] = {"keys": [_text("--sign-key", key) for key in given["sign_key"]]}
    fields = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in values.items()}
    if "auth" in given:
        fields["auth"] = msgspec.Raw(json_option("--auth", given["auth"]))
    return fields


def _pairs(option: str, texts: Sequence[str], separator: str) -> dict[str, str]:
    pairs = [_pair(option, text, separator) for text in texts]
    found = dict(pairs)
    if len(found) < len(pairs):
        raise click.UsageError(f"two of the options {option} have the same name: give each name once")
    return found


def _pair(option: str, text: str, separator: str) -> tuple[str, str]:
    name, found, value = text.partition(separator)
    if not found or not name:
        raise click.UsageError(f"{option} must be NAME{separator}VALUE")
    return name, value.strip() if separator == ":" else value


def _text(option: str, text: str, *, stripped: bool = True) -> str:
    if not text.startswith("@"):
        return text
    try:
        content = read_input(text[1:]).decode()
    except UnicodeDecodeError:
        raise click.UsageError(f"the file of {option} is not UTF-8") from None
    return content.strip() if stripped else content
