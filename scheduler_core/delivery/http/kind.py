"""The kind of target for ``http`` and ``https`` URLs."""

from __future__ import annotations

import resource
from collections.abc import Mapping
from typing import ClassVar, Final

from scheduler_core.delivery.base import Deliverer, Environment, TargetKind
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.validate import check_allowed, check_headers, check_url
from scheduler_core.model.alerts import MAX_CHANNELS

OTHER_DESCRIPTORS: Final = 256
"""File descriptors of a node that are no connections to targets."""
FEWEST_CONNECTIONS: Final = 16


class HttpKind(TargetKind):
    """Calls become HTTP/1.1 requests."""

    schemes: ClassVar[tuple[str, ...]] = ("http", "https")
    supports_request: ClassVar[bool] = True

    def check_url(self, url: str, *, field: str) -> None:
        check_url(url, field=field)

    def check_headers(self, headers: Mapping[str, str], *, field: str) -> tuple[tuple[str, str], ...]:
        return check_headers(headers, field=field)

    def check_allowed(self, url: str, guard: AddressGuard, *, field: str) -> None:
        check_allowed(guard, url, field=field)

    def open(self, environment: Environment) -> Deliverer:
        from scheduler_core.delivery.http.client import HttpClient  # only nodes load it

        settings = environment.settings
        return HttpClient(
            clock=environment.clock,
            guard=environment.guard,
            # As many for one-off tasks as for jobs, and one for each channel of alerts.
            max_connections=connections_for(2 * settings.max_in_flight + MAX_CHANNELS),
            read_limit_bytes=settings.read_limit_bytes,
            keep_bytes=settings.keep_bytes,
            sign_keys=settings.sign_keys,
            sign_origins=settings.sign_origins,
            is_sampled=environment.is_sampled,
        )


def connections_for(wanted: int) -> int:
    """Return how many connections a node may open: at most ``wanted``, and what the limit of open files leaves.

    A request beyond that waits for a connection. Without this bound it would fail.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(FEWEST_CONNECTIONS, limit - OTHER_DESCRIPTORS))
