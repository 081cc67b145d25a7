"""Warnings about Redis's clock: it was set, or it and the clock of the machine disagree."""

from __future__ import annotations

import pytest

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.clock_watch import SHOWN_SECONDS, ClockWatch

START_MS = 1_767_225_600_000
"""2026-01-01T00:00:00Z."""
MINUTES_10 = 600_000


class Machine:
    """A node's clock and the machine's, which a test sets; ``second`` is a beat."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.mono = 500.0
        self.redis_ahead_ms = 0
        self.wall_ahead_ms = 0
        patch.setattr("scheduler_core.base.clock.time.monotonic", lambda: self.mono)
        patch.setattr(RedisClock, "monotonic", lambda _: self.mono)
        patch.setattr("scheduler_core.base.clock.time.time", lambda: (self.true_ms + self.wall_ahead_ms) / 1000)
        self.clock, self.metrics = RedisClock(), Metrics()
        self.watch = ClockWatch(self.clock, self.metrics)
        self.second()

    @property
    def true_ms(self) -> float:
        return START_MS + (self.mono - 500) * 1000

    def second(self, count: int = 1) -> None:
        for _ in range(count):
            self.mono += 1
            self.clock.sample(self.true_ms + self.redis_ahead_ms, received_at=self.mono)
            self.watch.look()

    def value(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []

    class Log:
        def warning(self, event: str, *, seconds: float, **_: object) -> None:
            found.append((event, seconds))

    monkeypatch.setattr("scheduler_core.node.loops.clock_watch.log", Log())
    return found


def test_clocks_that_agree_cause_no_warning(machine: Machine, lines: list[tuple[str, float]]) -> None:
    machine.wall_ahead_ms = 59_000
    machine.second(10)
    assert machine.watch.warnings == {}
    assert lines == []
    assert machine.value("cronpost_clock_jumps_total") == 0
    assert machine.value("cronpost_clock_offset_seconds") == pytest.approx(59)


def test_a_clock_that_was_set_back_warns_until_it_has_caught_up(
    machine: Machine, lines: list[tuple[str, float]]
) -> None:
    machine.wall_ahead_ms = -MINUTES_10  # it is set back together with Redis's
    machine.redis_ahead_ms = -MINUTES_10
    machine.second(2)
    assert "clock jump" not in machine.watch.warnings, "not believed yet"
    machine.second()
    text = machine.watch.warnings["clock jump"]
    assert "set back by 600 s" in text
    assert "do not fire until it has reached 2026-01-01T00:00:04Z" in text
    assert machine.value("cronpost_clock_jump_seconds") == pytest.approx(-600)
    assert machine.value("cronpost_clock_jumps_total") == 1
    machine.second(598)
    assert "clock jump" in machine.watch.warnings
    machine.second(4)
    assert machine.watch.warnings == {}
    assert lines == [("clock jumped", -600)]


def test_a_clock_that_was_set_back_and_corrected_warns_only_of_the_correction(machine: Machine) -> None:
    machine.wall_ahead_ms = -MINUTES_10
    machine.redis_ahead_ms = -MINUTES_10
    machine.second(5)
    machine.wall_ahead_ms = machine.redis_ahead_ms = 0
    machine.second(3)
    assert "set ahead by 600 s" in machine.watch.warnings["clock jump"]
    assert machine.value("cronpost_clock_jumps_total") == 2


def test_a_clock_that_was_set_ahead_warns_for_five_minutes(machine: Machine) -> None:
    machine.wall_ahead_ms = machine.redis_ahead_ms = 5_000
    machine.second(3)
    assert "set ahead by 5.0 s" in machine.watch.warnings["clock jump"]
    machine.second(round(SHOWN_SECONDS))
    assert machine.watch.warnings == {}


@pytest.mark.parametrize(("seconds", "words"), [(61, "61 s ahead of"), (-3600, "3600 s behind")])
def test_a_machine_whose_clock_differs_from_that_of_redis_warns_at_once_and_logs_it_once(
    seconds: int, words: str, machine: Machine, lines: list[tuple[str, float]]
) -> None:
    machine.wall_ahead_ms = seconds * 1000
    machine.second()
    assert words in machine.watch.warnings["clock difference"]
    machine.second(10)
    assert [(event, round(size)) for event, size in lines] == [("clock differs", seconds)]
    machine.wall_ahead_ms = 0
    machine.second()
    assert machine.watch.warnings == {}
