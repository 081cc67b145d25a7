"""Keeps the state of each target in memory: open requests, response time, circuit breaker, rates."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from scheduler_core.base.urls import origin_of
from scheduler_core.node.dispatch.breaker import Breaker, BreakerState
from scheduler_core.node.dispatch.limits import Rate, RetryQueue

KNOWN_URLS = 16_384
"""The maximum number of URLs that are cached with their targets; then the cache is emptied."""
KNOWN_TARGETS = 16_384


class TargetState(msgspec.Struct, eq=False):
    """The state of one target on this node."""

    origin: str
    open: int = 0
    """Requests that are open."""
    breaker: Breaker = msgspec.field(default_factory=Breaker)
    retry_queue: RetryQueue = msgspec.field(default_factory=RetryQueue)
    service_ms: float | None = None
    """Moving average of its response times; None: no request has ended."""
    ended: int = 0
    seen_ended: int = 0
    still_since_ms: int = 0
    """When a run that was held back last found that ``ended`` had changed."""
    held: int = 0
    """How many runs were held back since its breaker last opened."""
    rates: dict[float, Rate] = msgspec.field(default_factory=dict)


class OpenBreaker(msgspec.Struct, frozen=True):
    """A breaker that is not closed, as the API shows it."""

    target: str
    state: BreakerState
    since_ms: int
    failures: int
    probe_at_ms: int
    last_error: str


class TargetRegistry:
    """The targets that this node has sent requests to. ``forgotten`` receives failing targets that are dropped."""

    def __init__(self, forgotten: Callable[[TargetState], None]) -> None:
        self._by_url: dict[str, TargetState] = {}
        self._by_origin: dict[str, TargetState] = {}
        self._forgotten = forgotten
        self.failing: dict[str, TargetState] = {}
        """The targets whose breakers are not closed, by origin."""

    def __len__(self) -> int:
        return len(self._by_origin)

    def of(self, url: str) -> TargetState:
        """Return the target of a URL; one dictionary look-up if the URL is cached."""
        return self._by_url.get(url) or self._find(url)

    def open_breakers(self) -> list[OpenBreaker]:
        """Return the breakers that are not closed, in the order in which they opened."""
        found = [
            OpenBreaker(
                target.origin,
                target.breaker.state,
                target.breaker.opened_at_ms,
                target.breaker.failures,
                target.breaker.probe_at_ms,
                target.breaker.last_error,
            )
            for target in self.failing.values()
        ]
        return sorted(found, key=lambda one: (one.since_ms, one.target))

    def _find(self, url: str) -> TargetState:
        if len(self._by_url) >= KNOWN_URLS:
            self._by_url.clear()
        origin = origin_of(url)
        target = self._by_origin.get(origin)
        if target is None:
            if len(self._by_origin) >= KNOWN_TARGETS:
                self._forget()
            target = self._by_origin[origin] = TargetState(origin)
        self._by_url[url] = target
        return target

    def _forget(self) -> None:
        """Drop the targets without an open request; if most of the rest is failing, also failing ones."""
        kept = {origin: target for origin, target in self._by_origin.items() if target.open or origin in self.failing}
        if len(kept) > KNOWN_TARGETS // 2:
            for target in [target for target in kept.values() if not target.open]:
                del kept[target.origin]
                if self.failing.pop(target.origin, None) is not None:
                    target.breaker.answered()
                    self._forgotten(target)
        self._by_origin, self._by_url = kept, {}
