"""Reports jumps of Redis's clock, and a difference between it and the clock of this machine.

Both change when jobs fire, but the node still works. So they are warnings of ``/ready``, log lines and metrics.
"""

from __future__ import annotations

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.events import CLOCK_DIFFERS, CLOCK_JUMPED, get_logger, instant
from scheduler_core.base.metrics import Metrics

log = get_logger(__name__)

DIFFERENCE_SECONDS = 60.0
"""Clocks that NTP keeps differ by less than a second; a minute means no NTP, or a wrong time zone."""
SHOWN_SECONDS = 300.0
"""How long ``/ready`` shows that the clock was set ahead. A clock that was set back is shown until it has caught up."""
JUMP, DIFFERENCE = "clock jump", "clock difference"


class ClockWatch:
    """Compares clocks in ``look``, after each sample of Redis's clock. ``warnings`` is for ``/ready``."""

    def __init__(self, clock: RedisClock, metrics: Metrics) -> None:
        self.warnings: dict[str, str] = {}
        self._clock = clock
        self._metrics = metrics
        self._jumps = clock.jumps
        self._ahead_at: float | None = None

    def look(self) -> None:
        """Compare the clocks, log what is new, and update warnings and metrics."""
        self._look_for_jump()
        self._look_for_difference()

    def _look_for_jump(self) -> None:
        clock = self._clock
        seconds = clock.jump_ms / 1000
        size = f"{abs(seconds):.0f} s" if abs(seconds) >= 10 else f"{abs(seconds):.1f} s"
        is_back = clock.passed_ms > clock.now_ms()
        if clock.jumps != self._jumps:
            self._metrics.clock_jumps.inc(clock.jumps - self._jumps)
            self._metrics.clock_jump.set(seconds)
            self._jumps = clock.jumps
            self._ahead_at = clock.monotonic() if seconds > 0 else None
            log.warning(
                CLOCK_JUMPED,
                seconds=round(seconds, 3),
                nothing_fires_before=instant(clock.passed_ms) if is_back else None,
                detail=f"Redis's clock was set {'ahead' if seconds > 0 else 'back'} by {size}; the node follows it",
            )
        if is_back:
            by = f" by {size}" if seconds < 0 else ""
            self.warnings[JUMP] = (
                f"clock: Redis's clock was set back{by}: jobs that were stored before do not fire until it has reached "
                f"{_to_the_second(clock.passed_ms)} again"
            )
        elif self._ahead_at is not None and clock.monotonic() - self._ahead_at < SHOWN_SECONDS:
            self.warnings[JUMP] = (
                f"clock: Redis's clock was set ahead by {size}: the fire times in between were skipped"
            )
        else:
            self.warnings.pop(JUMP, None)

    def _look_for_difference(self) -> None:
        ahead = self._clock.wall_offset_ms() / 1000
        self._metrics.clock_offset.set(ahead)
        if self._clock.in_doubt:
            return  # if both clocks were set together, they differ only until the jump is accepted
        if abs(ahead) <= DIFFERENCE_SECONDS:
            self.warnings.pop(DIFFERENCE, None)
            return
        side = "ahead of" if ahead > 0 else "behind"
        text = f"clock: this machine's clock is {abs(ahead):.0f} s {side} Redis's, by which jobs fire; one is wrong"
        if DIFFERENCE not in self.warnings:
            log.warning(CLOCK_DIFFERS, seconds=round(ahead, 3), detail=text)
        self.warnings[DIFFERENCE] = text


def _to_the_second(epoch_ms: int) -> str:
    # Nodes notice a jump some milliseconds apart. To the second, their warnings have the same text.
    return f"{instant(epoch_ms - epoch_ms % 1000)}".replace(".000Z", "Z")
