"""Reports the state of a process: to ``/ready``, and to the process that started it as one of its nodes."""

from __future__ import annotations

from scheduler_api.server.node_link import Report
from scheduler_api.server.redis_check import RedisCheck
from scheduler_api.server.services import Services
from scheduler_api.server.stop_signal import StopSignal
from scheduler_core.base.events import log_warnings
from scheduler_core.node.dispatch.targets import OpenBreaker

SHUTTING_DOWN = "shutting down"
"""Why a process is not ready from the first stop signal on."""
NO_PUBLIC_URL = (
    "CRONPOST_PUBLIC_URL is not set, so jobs with completion 'callback' are refused: set it to the address at which "
    "runners reach the API"
)


class ProcessState:
    """The faults, warnings and open breakers of a process.

    ``accepts_callbacks``: jobs with completion by callback may be stored here.
    """

    def __init__(self, check: RedisCheck, stop_signal: StopSignal, *, accepts_callbacks: bool) -> None:
        self.accepts_callbacks = accepts_callbacks
        self.services = Services()
        """Replaced by those of the process when they are built."""
        self._check = check
        self._stop_signal = stop_signal

    def faults(self) -> list[str]:
        """List what keeps the process from its work now."""
        if self._stop_signal.is_set:
            return [SHUTTING_DOWN]
        faults = [] if self._check.fault is None else [self._check.fault]
        return faults + self.services.faults(fires=self._check.passed())

    def warnings(self) -> list[str]:
        """List conditions that an operator should see although the process does its work."""
        warnings = [] if self.accepts_callbacks else [NO_PUBLIC_URL]
        return list(dict.fromkeys(warnings + self.services.warnings() + log_warnings()))

    def breakers(self) -> list[tuple[str, list[OpenBreaker]]] | None:
        """List the breakers that are not closed, by node; None if this process has no node."""
        return self.services.breakers()

    def report(self) -> Report:
        """Return the state of the node in this process, for the parent process."""
        engine = self.services.engine
        assert engine is not None
        return Report(
            engine.node.id,
            engine.has_started,
            self.faults(),
            breakers=engine.limiter.breakers(),
            warnings=self.warnings(),
        )
