"""What a job adds to its request: method, headers, query, body, credentials and signature.

A job that POSTs its payload to its endpoint stores none of it. ``kept_secrets`` has the rules for masked secrets.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from functools import lru_cache
from urllib.parse import quote, urlencode

import msgspec

from scheduler_core.base.secret_names import is_secret_header, is_secret_parameter

Pairs = tuple[tuple[str, str], ...]


class Content(StrEnum):
    """How the client gave the body."""

    PAYLOAD = "p"
    """As ``payload``: JSON."""
    TEXT = "t"
    """As ``body``: text of any type."""
    NONE = "n"
    """Not at all: the request has no body, or that of its target."""


class _Secret(msgspec.Struct, frozen=True):
    """A value that logs and error texts never show."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(...)"


class BasicAuth(_Secret, frozen=True, tag_field="k", tag="basic"):
    """A user and a password (RFC 7617)."""

    username: str = msgspec.field(name="u")
    password: str = msgspec.field(name="p")


class BearerAuth(_Secret, frozen=True, tag_field="k", tag="bearer"):
    """A token that does not change (RFC 6750)."""

    token: str = msgspec.field(name="t")


class ApiKeyAuth(_Secret, frozen=True, tag_field="k", tag="api_key"):
    """A key in a header of its own."""

    header: str = msgspec.field(name="h")
    value: str = msgspec.field(name="v")


class ClientCredentials(_Secret, frozen=True, omit_defaults=True, tag_field="k", tag="oauth2"):
    """A client of an OAuth 2 server (RFC 6749, 4.4), which fetches its tokens."""

    token_url: str = msgspec.field(name="u")
    client_id: str = msgspec.field(name="i")
    client_secret: str = msgspec.field(name="s")
    scope: str = msgspec.field(default="", name="c")


Auth = BasicAuth | BearerAuth | ApiKeyAuth | ClientCredentials


class RequestSpec(_Secret, frozen=True, omit_defaults=True):
    """What a job adds to its request. Fields with their default value are not stored."""

    method: str | None = msgspec.field(default=None, name="m")
    """None: POST, or the method of the named target."""
    headers: Pairs = msgspec.field(default=(), name="h")
    query: Pairs = msgspec.field(default=(), name="q")
    """Appended to the query of the URL."""
    content: Content = msgspec.field(default=Content.PAYLOAD, name="b")
    content_type: str | None = msgspec.field(default=None, name="t")
    """None: ``application/json`` for a payload, ``text/plain; charset=utf-8`` for a text."""
    auth: Auth | None = msgspec.field(default=None, name="a")
    sign: tuple[str, ...] = msgspec.field(default=(), name="s")
    """The keys that sign each request, as ``whsec_`` and base64."""
    secrets_for: str | None = msgspec.field(default=None, name="o")
    """The origin of the named target for which the client sent the secrets. They are sent to no other one."""
    target_name: str | None = msgspec.field(default=None, name="n")
    """The name of the target, as the client sent it and sees it. Never stored: ``Job.target_id`` is."""


PLAIN = RequestSpec()


def auth_header(auth: Auth | None) -> str | None:
    """Return the name of the header that holds the credentials; None: there are none."""
    if auth is None:
        return None
    return auth.header if isinstance(auth, ApiKeyAuth) else "Authorization"


def merged(base: Pairs, added: Pairs) -> Pairs:
    """Return the headers of ``base`` and ``added``; a header of ``added`` replaces those of the same name."""
    if not base:
        return added
    names = {name.lower() for name, _ in added}
    return (*(header for header in base if header[0].lower() not in names), *added)


@lru_cache(maxsize=4096)
def with_query(url: str, query: Pairs) -> str:
    """Return ``url`` with ``query`` appended to its own query."""
    if not query:
        return url
    separator = "" if url.endswith(("?", "&")) else "&" if "?" in url else "?"
    return f"{url}{separator}{urlencode(query, quote_via=quote)}"


def secrets_of(spec: RequestSpec) -> Iterator[str]:
    """Yield the secret values of a request, to find them in answers."""
    yield from (value for name, value in spec.headers if is_secret_header(name))
    yield from (value for name, value in spec.query if is_secret_parameter(name))
    yield from secrets_of_auth(spec.auth)
    yield from spec.sign


def secrets_of_auth(auth: Auth | None) -> Iterator[str]:
    """Yield the secret values of ``auth``, users and client ids too."""
    match auth:
        case BasicAuth():
            yield auth.username
            yield auth.password
        case BearerAuth():
            yield auth.token
        case ApiKeyAuth():
            yield auth.value
        case ClientCredentials():
            yield auth.client_id
            yield auth.client_secret


def has_secrets(spec: RequestSpec | None) -> bool:
    """Return whether the request holds a secret of its own."""
    return spec is not None and (
        spec.auth is not None
        or bool(spec.sign)
        or any(is_secret_header(name) for name, _ in spec.headers)
        or any(is_secret_parameter(name) for name, _ in spec.query)
    )
