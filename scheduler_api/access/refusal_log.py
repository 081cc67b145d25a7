"""Log lines about refused requests, at most one per second: a client that tries keys must not fill the log."""

from __future__ import annotations

from scheduler_core.base.clock import Clock
from scheduler_core.base.events import get_logger

log = get_logger(__name__)

REFUSALS_SECONDS = 1.0


class RefusalLog:
    """Writes the lines of one log event. Each line has the number of refusals before it that have none."""

    def __init__(self, event: str, clock: Clock) -> None:
        self._event = event
        self._clock = clock
        self._logged_at: float | None = None
        self._not_logged = 0

    def refused(self, *, client: str, detail: str) -> None:
        """Log a refusal, or count it."""
        now = self._clock.monotonic()
        if self._logged_at is not None and now - self._logged_at < REFUSALS_SECONDS:
            self._not_logged += 1
            return
        log.warning(self._event, client=client, detail=detail, not_logged=self._not_logged)
        self._logged_at, self._not_logged = now, 0
