"""The cookie of a session: its name, what it must not be mistaken for, and how it is set.

Cookies do not belong to a port: a browser sends those of one server on localhost to all others there. So the name
contains the port that the browser uses, and two Cronposts on one host do not overwrite each other's sessions. Under TLS
the name begins with ``__Host-``: then neither another host of the domain nor a page without TLS can set it.
"""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from scheduler_api.problem import ApiError
from scheduler_core.usecases.sessions import ID_FORM

SECURE_PREFIX = "__Host-"
NAME = "cronpost-session"

_PORT = re.compile(rb":([0-9]{1,5})\Z")


def is_tls(scope: Scope, public_url: str | None) -> bool:
    """Return whether the browser reached this server, or the proxy in front of it, by TLS.

    The first of these decides: the scheme of ``Origin``, which browsers send with every sign-in; the scheme of the
    connection; ``X-Forwarded-Proto``; ``public_url``, if it has the host of the request. No header here need be
    trusted: a client that invents one only changes the cookie that it gets itself.
    """
    headers: dict[bytes, bytes] = dict(scope["headers"])
    origin = headers.get(b"origin")
    if origin is not None:
        return origin.lower().startswith(b"https://")
    if scope.get("scheme") == "https" or headers.get(b"x-forwarded-proto", b"").strip().lower() == b"https":
        return True
    if public_url is None:
        return False
    url = urlsplit(public_url)
    return url.scheme == "https" and headers.get(b"host", b"").decode("latin-1").lower() == url.netloc.lower()


def session_id_of(scope: Scope, public_url: str | None) -> str | None:
    """Return the id of a session in the cookies of a request; None: no cookie can be one.

    The cookie for TLS wins. The other one is not used in a request that came by TLS, because a page without TLS could
    have set it. Several different cookies of one name are refused with 403: which of them the server set is unknown.
    """
    given = [value for name, value in scope["headers"] if name == b"cookie"]
    if not given:
        return None
    cookies = b";".join(given)
    names = [name_of(scope, secure=True)]
    if not is_tls(scope, public_url):
        names.append(name_of(scope, secure=False))
    for name in names:
        found = {value.strip() for value in _finder(name).findall(cookies)}
        if len(found) > 1:
            raise ApiError(
                403,
                f"the request has several cookies named {name}, and one of them is not of this server: delete the "
                "cookies of this host in the browser, then sign in again",
                code="several_sessions",
                headers={"Connection": "close"},
            )
        if found:
            text = found.pop().decode("latin-1")
            return text if ID_FORM.match(text) else None
    return None


def name_of(scope: Scope, *, secure: bool) -> str:
    """Return the name of the cookie for the host and port in the ``Host`` header."""
    host = next((value for name, value in scope["headers"] if name == b"host"), b"")
    port = _PORT.search(host)
    return (SECURE_PREFIX if secure else "") + NAME + ("" if port is None else f"-{port[1].decode()}")


def set_cookie(scope: Scope, public_url: str | None, session_id: str, *, seconds: int) -> str:
    """Return the ``Set-Cookie`` header of a session. No script can read the cookie, and no other site can send it."""
    secure = is_tls(scope, public_url)
    cookie = f"{name_of(scope, secure=secure)}={session_id}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Strict"
    return f"{cookie}; Secure" if secure else cookie


def remove_cookie(scope: Scope, public_url: str | None) -> str:
    """Return the ``Set-Cookie`` header that removes the cookie of a session."""
    return set_cookie(scope, public_url, "", seconds=0)


# Cached: a server has one or two names.
@lru_cache(maxsize=64)
def _finder(name: str) -> re.Pattern[bytes]:
    return re.compile(rb"(?:^|;)[ \t]*" + re.escape(name.encode()) + rb"=([^;]*)")
