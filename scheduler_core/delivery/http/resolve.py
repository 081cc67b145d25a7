"""Resolves names with c-ares and caches the answers.

getaddrinfo needs a thread per lookup and has no deadline: with 64 names whose server did not answer, a good name waited
until one of those lookups ended. c-ares (through aiodns) sends all queries from one thread. The cache is our own,
because of these guarantees (docs/decisions/0026-lookups-and-repeated-requests.md).

Guarantees, whatever the name servers do:

* One lookup per name at a time; all requests for the name share it. It has a deadline of its own.
* A name that did not resolve last time waits for one of few slots, so that dead names never delay a good one.
* An answer is used for its TTL, within bounds. When it has expired, the next request waits briefly for a new one. If
  the server is slow or fails temporarily, the expired answer is used again, up to a bounded age.
* A failure is cached for a second or two, so that a thousand jobs with one dead name cause one lookup.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import httpx

if TYPE_CHECKING:
    import aiodns

AddressInfo = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]
"""An address in the form that ``getaddrinfo`` returns. The ports are 0."""

LOOKUP_SECONDS: Final = 10.0
"""The deadline of one lookup, over all name servers and search domains."""
QUERY_SECONDS: Final = 2.0
QUERY_TRIES: Final = 2
"""The timeout of one query to a name server, and how often it is sent."""

LEAST_TTL_SECONDS: Final = 1.0
MOST_TTL_SECONDS: Final = 300.0
"""Bounds of how long an answer is used. /etc/hosts has a TTL of 0."""
STALE_SECONDS: Final = 300.0
"""How long after its TTL an answer may be used while no new one can be obtained."""
REFRESH_WAIT_SECONDS: Final = 0.25
"""How long a request waits for a new answer before it uses the expired one."""
REFRESH_PAUSE_SECONDS: Final = 5.0
"""How long the expired answer is used without waiting, after a refresh was slow or failed."""

MISSING_SECONDS: Final = 2.0
"""How long the answer that a name does not exist is cached."""
FAILED_SECONDS: Final = 1.0
"""How long a failure of the name servers is cached."""

LOOKUPS: Final = 512
SUSPECT_LOOKUPS: Final = 64
"""Concurrent lookups: of names that are new or resolved last time, and of names that did not."""
KNOWN_NAMES: Final = 4096


class LookupFailed(httpx.ConnectError):
    """The name does not resolve. ``temporary``: the name servers failed, so the name may exist."""

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


class Found(NamedTuple):
    """The answer to a lookup, addresses in the order in which to try them."""

    addresses: Sequence[AddressInfo]
    ttl_seconds: float


Lookup = Callable[[str], Awaitable[Found]]
"""Looks a name up. Raises LookupFailed."""

_NUMERIC: Final = re.compile(r"(?:[0-9]+|0[xX][0-9a-fA-F]*)\Z")
# By the names of codes in ``aiodns.error``. The module is imported at the first lookup, not when a process starts.
_MISSING: Final = {
    "ARES_ENOTFOUND": "there is no such name",
    "ARES_ENODATA": "the name has no addresses",
    "ARES_EBADNAME": "it is not a valid name",
}
_TEMPORARY: Final = {
    "ARES_ETIMEOUT": "no name server answered in time",
    "ARES_ESERVFAIL": "the name server failed",
    "ARES_EREFUSED": "the name server refused the query",
    "ARES_ECONNREFUSED": "no name server can be reached",
}


class CaresLookup:
    """A ``Lookup`` by c-ares: /etc/hosts, then DNS with the search domains and options of /etc/resolv.conf. It follows
    changes of that file. ``options`` are those of ``pycares.Channel``."""

    def __init__(self, **options: Any) -> None:
        self._options = {"timeout": QUERY_SECONDS, "tries": QUERY_TRIES} | options
        self._resolver: aiodns.DNSResolver | None = None

    async def __call__(self, host: str) -> Found:
        """Look ``host`` up."""
        import aiodns

        plain = host.lower().removesuffix(".")
        if plain == "localhost" or plain.endswith(".localhost"):
            host = plain  # with a dot at the end c-ares would ask a name server (RFC 6761, 6.3)
        if self._resolver is None:
            self._resolver = aiodns.DNSResolver(loop=asyncio.get_running_loop(), **self._options)
        try:
            result = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            missing, failure = (
                next((text for name, text in reasons.items() if getattr(aiodns.error, name) == error.args[0]), None)
                for reasons in (_MISSING, _TEMPORARY)
            )
            raise _failed(host, missing or failure or str(error.args[-1]), temporary=missing is None) from None
        found: list[AddressInfo] = [
            (node.family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (node.addr[0].decode("ascii"), 0, *node.addr[2:]))
            for node in result.nodes
        ]
        return Found(found, min((node.ttl for node in result.nodes), default=0))

    async def aclose(self) -> None:
        """Cancel the open queries."""
        if self._resolver is not None:
            await self._resolver.close()
            self._resolver = None


class _Known:
    """The cached answer for a name: its addresses, or why it has none."""

    __slots__ = ("addresses", "failure", "fresh_until", "quiet_until", "stale_until", "temporary")

    def __init__(self, fresh_until: float) -> None:
        self.addresses: Sequence[AddressInfo] = ()
        self.failure = ""
        self.temporary = False
        self.fresh_until = fresh_until
        self.stale_until = 0.0
        self.quiet_until = 0.0
        """Until then the expired answer is used without waiting for a new one."""


class Resolver:
    """Resolves names by ``lookup`` (default: c-ares). ``now`` is a clock in seconds (default: the loop's)."""

    def __init__(
        self,
        *,
        lookup: Lookup | None = None,
        now: Callable[[], float] | None = None,
        least_ttl_seconds: float = LEAST_TTL_SECONDS,
        stale_seconds: float = STALE_SECONDS,
        refresh_wait_seconds: float = REFRESH_WAIT_SECONDS,
        missing_seconds: float = MISSING_SECONDS,
        failed_seconds: float = FAILED_SECONDS,
        lookup_seconds: float = LOOKUP_SECONDS,
    ) -> None:
        self._cares = CaresLookup()
        self._lookup: Lookup = self._cares if lookup is None else lookup
        self._now = now if now is not None else lambda: asyncio.get_running_loop().time()
        self._least_ttl = least_ttl_seconds
        self._stale = stale_seconds
        self._refresh_wait = refresh_wait_seconds
        self._missing = missing_seconds
        self._failed = failed_seconds
        self._lookup_seconds = lookup_seconds
        self._known: dict[str, _Known] = {}
        self._under_way: dict[str, asyncio.Task[Sequence[AddressInfo]]] = {}
        self._slots = asyncio.Semaphore(LOOKUPS)
        self._suspect_slots = asyncio.Semaphore(SUSPECT_LOOKUPS)

    async def resolve(self, host: str) -> Sequence[AddressInfo]:
        """Return the addresses of ``host`` in the order in which to try them. Raises LookupFailed."""
        if is_numeric(host):
            return _numeric(host)
        now = self._now()
        known = self._known.get(host)
        if known is not None and now < known.fresh_until:
            if known.failure:
                raise LookupFailed(known.failure, temporary=known.temporary)
            return known.addresses
        stale = known if known is not None and known.addresses and now < known.stale_until else None
        if stale is not None and now < stale.quiet_until:
            return stale.addresses
        task = self._under_way.get(host)
        if task is None:
            task = asyncio.create_task(self._look_up(host, suspect=known is not None and bool(known.failure)))
            self._under_way[host] = task
            task.add_done_callback(lambda done: self._finished(host, done))
        try:
            if stale is not None:
                await asyncio.wait((task,), timeout=self._refresh_wait)
                if not task.done():
                    stale.quiet_until = now + REFRESH_PAUSE_SECONDS
                    return stale.addresses
            # Shielded: the deadline of the first request may pass while others wait for the same answer.
            return await asyncio.shield(task)
        except LookupFailed as error:
            if stale is not None and error.temporary:
                stale.quiet_until = now + REFRESH_PAUSE_SECONDS
                return stale.addresses
            # A new exception for each waiter: a shared one would keep the frames of all alive.
            raise LookupFailed(str(error), temporary=error.temporary) from None
        finally:
            del task

    async def _look_up(self, host: str, *, suspect: bool) -> Sequence[AddressInfo]:
        try:
            async with self._suspect_slots if suspect else self._slots, asyncio.timeout(self._lookup_seconds):
                found = await self._lookup(host)
            if not found.addresses:
                raise _failed(host, "the name has no addresses", temporary=False)
        except TimeoutError:
            error = _failed(host, f"no name server answered within {self._lookup_seconds:g} s", temporary=True)
            self._remember_failure(host, error)
            raise error from None
        except LookupFailed as error:
            self._remember_failure(host, error)
            raise
        now = self._now()
        ttl = min(max(found.ttl_seconds, self._least_ttl), MOST_TTL_SECONDS)
        known = _Known(now + ttl)
        known.addresses = found.addresses
        known.stale_until = now + ttl + self._stale
        self._remember(host, known)
        return found.addresses

    def _remember_failure(self, host: str, error: LookupFailed) -> None:
        now = self._now()
        before = self._known.get(host)
        if error.temporary and before is not None and before.addresses and now < before.stale_until:
            return  # keep the expired answer, which can still be used
        known = _Known(now + (self._failed if error.temporary else self._missing))
        known.failure, known.temporary = str(error), error.temporary
        self._remember(host, known)

    def _remember(self, host: str, known: _Known) -> None:
        self._known.pop(host, None)
        self._known[host] = known
        while len(self._known) > KNOWN_NAMES:
            del self._known[next(iter(self._known))]

    def _finished(self, host: str, task: asyncio.Task[Sequence[AddressInfo]]) -> None:
        self._under_way.pop(host, None)
        if not task.cancelled():
            task.exception()  # mark it as retrieved: all waiting requests may have been cancelled

    async def aclose(self) -> None:
        """Cancel the open lookups."""
        for task in list(self._under_way.values()):
            task.cancel()
        await self._cares.aclose()


def is_numeric(host: str) -> bool:
    """Return whether ``host`` is an address in any spelling (``127.0.0.1``, ``::1``, ``127.1``, ``0x7f000001``)."""
    if _NUMERIC.match(host.removesuffix(".").rpartition(".")[2]):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _numeric(host: str) -> Sequence[AddressInfo]:
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except OSError:
        raise _failed(host, "it is not a valid address", temporary=False) from None


def _failed(host: str, reason: str, *, temporary: bool) -> LookupFailed:
    return LookupFailed(f"the name {host} does not resolve: {reason}", temporary=temporary)
