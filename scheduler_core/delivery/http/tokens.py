"""Fetches and caches the tokens of OAuth 2 clients (RFC 6749, 4.4: client credentials).

A token is fetched once for all jobs with the same URL, client, secret and scope, however many need it at once. It is
fetched again before it expires, while the old one is still used. Token requests use the connections, and so the address
guard, of all other requests. They are never recorded.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from base64 import b64encode
from typing import Final
from urllib.parse import quote_plus, urlencode

import httpx
import msgspec

from scheduler_core.base.clock import Clock
from scheduler_core.base.urls import origin_of
from scheduler_core.model.request import ClientCredentials

FETCH_SECONDS: Final = 30.0
"""The deadline of a token request. Attempts that wait for it have deadlines of their own."""
READ_LIMIT: Final = 65_536
DEFAULT_LIFE_SECONDS: Final = 300.0
"""The assumed life of a token whose answer does not tell it."""
MAX_LIFE_SECONDS: Final = 86_400.0
REFRESH_SECONDS: Final = 60.0
"""How long before its end a token is fetched again; at most a fifth of its life."""
SPARE_SECONDS: Final = 5.0
"""How long before its end a token is no longer sent: it must not expire on its way. At most a twentieth of its life."""
AGAIN_SECONDS: Final = 5.0
"""How long after a failed refresh the next one begins while the old token still works."""
KNOWN_TOKENS: Final = 1024

_TOKEN: Final = re.compile(r"[!-~]{1,16384}\Z")
_ERROR: Final = re.compile(r"[a-z_]{1,40}\Z")

Key = tuple[str, str, bytes, str]


class TokenFailed(Exception):
    """No token. The text holds no secret. ``final``: the next request would fail the same way."""

    def __init__(self, text: str, *, final: bool = False) -> None:
        super().__init__(text)
        self.final = final


class _Token(msgspec.Struct):
    text: str
    refresh_at: float
    """On the monotonic clock."""
    unusable_at: float


class _Answer(msgspec.Struct):
    access_token: str = ""
    token_type: str = ""
    expires_in: float | None = None
    error: str = ""


_decoder = msgspec.json.Decoder(_Answer, strict=False)


class Tokens:
    """The tokens of a node. ``transport`` makes the requests."""

    def __init__(self, clock: Clock, transport: httpx.AsyncBaseTransport, user_agent: str) -> None:
        self._clock = clock
        self._transport = transport
        self._user_agent = user_agent
        self._known: dict[Key, _Token] = {}
        self._fetches: dict[Key, asyncio.Task[str]] = {}
        self._rejected: set[Key] = set()
        """The clients whose latest token but one was dropped because a target answered 401."""

    def known(self, client: ClientCredentials) -> str | None:
        """Return the token if one can be sent now. Begins to fetch the next one if it expires soon."""
        key = _key(client)
        token = self._known.get(key)
        now = self._clock.monotonic()
        if token is None or now >= token.unusable_at:
            return None
        if now >= token.refresh_at:
            token.refresh_at = now + AGAIN_SECONDS
            self._fetch(key, client)
        return token.text

    def expect(self, client: ClientCredentials) -> None:
        """Begin to fetch the token if none is known: an attempt needs it soon."""
        if self.known(client) is None:
            self._fetch(_key(client), client)

    async def get(self, client: ClientCredentials) -> str:
        """Return a token. Raises TokenFailed. Cancelling this does not cancel the fetch that others wait for."""
        known = self.known(client)
        return known if known is not None else await asyncio.shield(self._fetch(_key(client), client))

    def rejected(self, client: ClientCredentials, token: str) -> bool:
        """Note that a target answered 401; return whether another token may help.

        The first 401 drops the token. If the one that is fetched then is answered with 401 too, the token is not to
        blame, and is kept: otherwise each attempt would fetch one.
        """
        key = _key(client)
        known = self._known.get(key)
        if known is None or known.text != token:
            return True
        if key in self._rejected:
            return False
        del self._known[key]
        self._rejected.add(key)
        return True

    def accepted(self, client: ClientCredentials) -> None:
        """Note that a target answered other than with 401."""
        if self._rejected:
            self._rejected.discard(_key(client))

    def _fetch(self, key: Key, client: ClientCredentials) -> asyncio.Task[str]:
        task = self._fetches.get(key)
        if task is None:
            task = self._fetches[key] = asyncio.create_task(self._fetched(key, client))
            task.add_done_callback(_retrieve)
        return task

    async def _fetched(self, key: Key, client: ClientCredentials) -> str:
        server = origin_of(client.token_url)
        try:
            started = self._clock.monotonic()
            async with asyncio.timeout(FETCH_SECONDS):
                status, body = await self._request(client)
            text, life = _read(status, body, server)
            while len(self._known) >= KNOWN_TOKENS:
                del self._known[next(iter(self._known))]
            self._known[key] = _Token(
                text,
                started + life - min(REFRESH_SECONDS, life / 5),
                started + life - min(SPARE_SECONDS, life / 20),
            )
        except TimeoutError:
            raise TokenFailed(f"no token: {server} did not answer within {FETCH_SECONDS:g} s") from None
        except httpx.TransportError as error:
            raise TokenFailed(f"no token from {server}: {' '.join(str(error).split())[:300]}") from None
        finally:
            self._fetches.pop(key, None)
        return text

    async def _request(self, client: ClientCredentials) -> tuple[int, bytes]:
        user = f"{quote_plus(client.client_id)}:{quote_plus(client.client_secret)}"  # RFC 6749, 2.3.1
        form = {"grant_type": "client_credentials"} | ({"scope": client.scope} if client.scope else {})
        request = httpx.Request(
            "POST",
            client.token_url,
            headers={
                "Authorization": f"Basic {b64encode(user.encode()).decode()}",
                "Content-Type": "application/x-www-form-urlencoded",
                "Accept": "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": self._user_agent,
            },
            content=urlencode(form).encode(),
        )
        response = await self._transport.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = b""
        try:
            async for chunk in response.stream:
                body += chunk
                if len(body) > READ_LIMIT:
                    raise TokenFailed(f"no token: the answer of {origin_of(client.token_url)} is too long", final=True)
        finally:
            await response.aclose()
        return response.status_code, body

    async def aclose(self) -> None:
        """Stop fetching."""
        tasks = list(self._fetches.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _read(status: int, body: bytes, server: str) -> tuple[str, float]:
    """Return the token of an answer and its life in seconds. Raises TokenFailed."""
    try:
        answer = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        answer = _Answer()
    if not 200 <= status < 300:
        code = f" {answer.error}" if _ERROR.match(answer.error) else ""
        final = 300 <= status < 500 and status not in {408, 425, 429}
        raise TokenFailed(f"no token: {server} answered {status}{code}", final=final)
    if not _TOKEN.match(answer.access_token):
        raise TokenFailed(f"no token: {server} answered {status} without an access_token that can be sent", final=True)
    if answer.token_type.lower() not in {"", "bearer"}:
        raise TokenFailed(f"no token: {server} issued one of another type than Bearer", final=True)
    life = answer.expires_in
    if life is None or not life > 0:
        life = DEFAULT_LIFE_SECONDS
    return answer.access_token, min(life, MAX_LIFE_SECONDS)


def _key(client: ClientCredentials) -> Key:
    return client.token_url, client.client_id, hashlib.sha256(client.client_secret.encode()).digest(), client.scope


def _retrieve(task: asyncio.Task[str]) -> None:
    if not task.cancelled():
        task.exception()  # mark the exception as retrieved, so that asyncio does not log it
