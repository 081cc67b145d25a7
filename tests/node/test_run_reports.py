"""Log lines and metrics of runs, with all fields: operators and their alerts rely on them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings
from scheduler_core.base.errors import StoreRefused
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job_state import HeldBack, HoldReason, JobState, Pending, Unresolved
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.policies import Overlap, Policies
from scheduler_core.model.run import Miss, MissReason, Reason, Run, RunState
from scheduler_core.node.loops.settle import waiting_run
from scheduler_core.node.loops.settle_queue import REFUSALS, REJECTED_SECONDS
from scheduler_core.plan.claim import Work
from scheduler_core.plan.settle import Ended
from scheduler_core.store.attention import SetAside, Source, decode_set_aside
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.report import report_record
from tests.support.factories import answered, at, ended, failed, make_job, make_run, make_state, retrying, settled_run
from tests.support.manual_clock import ManualClock
from tests.support.nodes import SteppedNode
from tests.support.stores import KEYS, opened, put

INSTANT = "2026-12-31T23:50:{:06.3f}Z"
RetryQueue = tuple[str, str, dict[str, Any]]


class Log:
    """Takes what a module logs."""

    def __init__(self) -> None:
        self.lines: list[RetryQueue] = []

    def __getattr__(self, level: str) -> Callable[..., None]:
        def take(event: str, **fields: Any) -> None:
            self.lines.append((level, event, fields))

        return take

    def often(self, event: str, fields: dict[str, Any], *, detail: str, level: int = logging.INFO) -> None:
        self.lines.append((logging.getLevelName(level).lower(), event, fields | {"detail": detail}))

    def of(self, event: str) -> list[RetryQueue]:
        return [line for line in self.lines if line[1] == event]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    found = Log()
    modules = ("node.loops.settle", "node.loops.start", "node.dispatch.dispatcher", "node.dispatch.limiter")
    for module in (*modules, "usecases.report"):
        monkeypatch.setattr(f"scheduler_core.{module}.log", found)
    for module in ("usecases.report",):
        monkeypatch.setattr(f"scheduler_core.{module}.log_often", found.often)
    return found


class Setup:
    def __init__(self, store: RedisStore, redis: Redis) -> None:
        self.store, self.redis = store, redis
        self.clock = ManualClock()
        self.metrics = Metrics()
        self.node = SteppedNode(store, self.clock, self.metrics, EngineSettings(public_url="http://cronpost.test"))
        self.woken: list[int] = []
        self.node.settler._wake_at = self.woken.append

    async def claim(self, **fields: Any) -> None:
        await self.node.start()
        await put(self.redis, make_job("a", **fields), make_state(0))
        await self.node.claim()

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    async with opened(redis_url) as (store, redis):
        setup = Setup(store, redis)
        yield setup
        await setup.node.crash()


def record_of(run: Any) -> dict[str, Any]:
    return {
        "job_id": "a",
        "run_id": run.id,
        "state": run.state.value,
        "reason": "scheduled",
        "fire_time": INSTANT.format(0),
        "lateness_ms": 0,
        "attempt": 1,
        "outcome": "response",
        "status": 200,
        "latency_ms": 12.5,
        "detail": "",
    }


def test_a_settled_run_is_one_line_with_its_last_attempt(log: Log) -> None:
    metrics = Metrics()
    run = settled_run()
    report_record(metrics, "a", run)
    assert log.lines == [("info", "run settled", record_of(run))]
    labels = {"state": "succeeded", "reason": "scheduled"}
    assert metrics.registry.get_sample_value("cronpost_runs_total", labels) == 1.0
    log.lines.clear()
    late = settled_run(0, 500, started_at_ms=at(2), message="given up")
    report_record(metrics, "a", late)
    wrong = record_of(late) | {"lateness_ms": 2_000, "status": 500, "detail": "given up"}
    assert log.lines == [("warning", "run settled", wrong)]


@pytest.mark.parametrize(
    ("state", "level"),
    [
        (RunState.LOST, "warning"),
        (RunState.CONFLICT, "warning"),
        (RunState.FAILED, "warning"),
        (RunState.CANCELLED, "info"),
        (RunState.SUPERSEDED, "info"),
    ],
)
def test_a_run_that_failed_is_logged_as_a_warning(log: Log, state: RunState, level: str) -> None:
    run = make_run(0, state=state, ended_at_ms=at(3))
    report_record(Metrics(), "a", run)
    nothing = {"lateness_ms": None, "attempt": 0, "outcome": None, "status": None, "latency_ms": None}
    assert log.lines == [(level, "run settled", record_of(run) | nothing)]


def test_the_message_of_the_last_attempt_is_logged_if_the_run_has_none(log: Log) -> None:
    run = settled_run(0, None)
    attempt = replace(run.attempts[0], message="no answer")
    report_record(Metrics(), "a", replace(run, attempts=(attempt,)))
    assert log.lines[0][2]["detail"] == "no answer"
    assert log.lines[0][2]["outcome"] == "timeout"


def test_missed_fire_times_are_one_line_and_one_count(log: Log) -> None:
    metrics = Metrics()
    report_record(metrics, "a", Miss(MissReason.OVERLAP, at(10), at(30), at(31), 3))
    first, last = INSTANT.format(10), INSTANT.format(30)
    fields = {"job_id": "a", "reason": "overlap", "first": first, "last": last}
    assert log.lines == [("info", "fires missed", fields)]
    assert metrics.registry.get_sample_value("cronpost_miss_ranges_total", {"reason": "overlap"}) == 1.0


def test_a_waiting_run_is_the_open_one_or_a_pending_entry() -> None:
    run = retrying(0, 60)
    entry = Pending("RUN", at(60), run=run)
    assert waiting_run(JobState(open=run), "RUN") is run
    assert waiting_run(JobState(open=run, pending=(entry,)), "OTHER") is None
    assert waiting_run(JobState(pending=(Pending("A", at(1)), entry)), "RUN") is run
    assert waiting_run(JobState(pending=(Pending("RUN", at(1)),)), "RUN") is None
    assert waiting_run(JobState(), "RUN") is None


async def test_a_retry_is_logged_with_the_last_attempt_and_its_time(setup: Setup, log: Log) -> None:
    await setup.claim()
    setup.clock.advance(500)
    await setup.node.answer(failed(OutcomeKind.TIMEOUT))
    await setup.node.settle()
    (line,) = log.of("run retrying")
    waits = (await setup.store.read("a")).snapshot.state
    assert waits is not None
    assert waits.open is not None
    due = waits.open.retry_at_ms
    assert due is not None
    assert line == (
        "info",
        "run retrying",
        {
            "job_id": "a",
            "run_id": waits.open.id,
            "attempt": 1,
            "status": None,
            "outcome": "timeout",
            "detail": "why",
            "retry_at": INSTANT.format((due - at(0)) / 1000),
        },
    )
    assert setup.value("cronpost_retries_total") == 1.0
    assert setup.woken == [due]


async def test_a_taken_run_is_logged_with_when_it_is_lost(setup: Setup, log: Log) -> None:
    await setup.claim(policies=Policies(callback=True, run_timeout_ms=9_000))
    await setup.node.answer(answered(202))
    run_id = setup.node.deliverer.seen[0].run_id
    await setup.node.settle()
    fields = {"job_id": "a", "run_id": run_id, "lost_at": INSTANT.format(9)}
    assert log.of("run taken") == [("info", "run taken", fields)]
    assert setup.value("cronpost_retries_total") == 0.0
    assert setup.woken == [at(9)]


async def test_a_settled_run_wakes_the_claimer_when_the_job_is_due_again(setup: Setup, log: Log) -> None:
    await setup.claim()
    await setup.node.answer(answered(200))
    await setup.node.settle()
    assert setup.woken == [at(10)]
    assert [line[1] for line in log.lines] == ["run claimed", "run settled"]
    assert log.lines[1][2]["job_id"] == "a"
    claimed = {
        "job_id": "a",
        "run_id": log.lines[1][2]["run_id"],
        "fence": int(setup.node.deliverer.seen[0].header("Cronpost-Fence")),
    }
    assert log.lines[0] == ("debug", "run claimed", claimed)


async def test_the_earliest_wake_up_during_a_claim_counts(setup: Setup, log: Log) -> None:
    alarm = setup.node.alarm
    for wake_ms in (at(9), at(3), at(7)):
        alarm.wake_at(wake_ms)
    assert alarm.earliest_ms == at(3)
    assert not alarm.rang


async def test_a_child_run_wakes_the_claimer_at_once(setup: Setup, log: Log) -> None:
    await setup.claim(policies=Policies(overlap=Overlap.ALLOW, max_concurrent=2))
    await setup.node.settle()
    assert setup.woken == [at(10), at(0)]
    assert not log.of("run settled")


async def test_a_job_that_is_released_is_logged_and_due_at_once(setup: Setup, log: Log) -> None:
    await setup.node.start()
    await put(setup.redis, make_job("a"), make_state(0))
    (claimed,) = (await setup.node.claimer._claim(1)).jobs
    setup.node.settler.release(claimed)
    await setup.node.settle()
    fence = claimed.lease.fence
    assert log.of("run released") == [("info", "run released", {"job_id": "a", "fence": fence})]
    (again,) = (await setup.node.claimer._claim(1)).jobs
    assert (again.lease.first_fence, again.lease.lost) == (claimed.lease.first_fence, ())
    setup.node.settler.requeue(again, at(7))
    await setup.node.settle()
    assert setup.woken[-1] == at(7)
    assert await setup.redis.zscore(KEYS.due, "a") == at(7)


async def test_the_run_of_a_deleted_job_whose_node_died_is_recorded_and_nothing_is_left(setup: Setup, log: Log) -> None:
    await setup.claim()
    await JobService(setup.store, setup.clock, setup.metrics).delete("a")
    await setup.node.crash()
    await setup.store.reap(now_ms=at(1), dead_after_ms=5_000, void_all=True)
    setup.clock.advance(2_000)
    successor = SteppedNode(setup.store, setup.clock, setup.metrics)
    await successor.start()
    await successor.claim()
    await successor.settle()
    (run,) = await setup.store.history("a")
    assert isinstance(run, Run)
    assert (run.state, run.ended_at_ms) == (RunState.LOST, at(2))
    assert run.message == "its node died, and the job was deleted"
    assert not log.of("job quarantined")
    for key in (KEYS.jobs, KEYS.states, KEYS.due, KEYS.leases):
        assert not await setup.redis.exists(key)


async def test_a_due_id_without_documents_is_removed(setup: Setup, log: Log) -> None:
    await setup.node.start()
    await setup.redis.zadd(KEYS.due, {"a": at(0)})
    assert await setup.node.claim() == 1
    await setup.node.settle()
    assert not log.of("job quarantined")
    for key in (KEYS.states, KEYS.due, KEYS.leases):
        assert not await setup.redis.exists(key)


@pytest.mark.parametrize(("lost", "why"), [("definition", "its definition is gone"), ("state", "its state is gone")])
async def test_a_job_with_a_missing_document_is_quarantined_with_the_reason(
    setup: Setup, log: Log, lost: str, why: str
) -> None:
    await setup.node.start()
    await put(setup.redis, make_job("a"), make_state(0))
    await setup.redis.hdel(KEYS.jobs if lost == "definition" else KEYS.states, "a")
    await setup.node.claim()
    await setup.node.settle()
    assert log.of("job quarantined") == [("error", "job quarantined", {"job_id": "a", "detail": why})]
    assert setup.value("cronpost_jobs_quarantined_total") == 1.0
    state = (await setup.store.read("a")).snapshot.state
    assert state is not None
    assert state.quarantine == why


async def test_a_run_that_is_held_back_is_logged_with_reason_and_target(setup: Setup, log: Log) -> None:
    await setup.node.start()
    await put(setup.redis, make_job("a"), make_state(0))
    (claimed,) = (await setup.node.claimer._claim(1)).jobs
    assert claimed.job is not None
    work = Work(claimed.job, make_run(0), make_state(10))
    held = HeldBack(HoldReason.RATE, at(0), at(4), "http://one.test")
    setup.node.settler.hold_back(claimed, work, held)
    fields = {"job_id": "a", "reason": "rate", "target": "http://one.test", "until": INSTANT.format(4)}
    assert log.lines == [("debug", "run held back", fields)]
    await setup.node.settle()
    state = (await setup.store.read("a")).snapshot.state
    assert state == make_state(0, held_back=held)
    assert setup.woken == [at(4)]


async def test_a_result_that_redis_refuses_is_a_warning_and_a_count(setup: Setup, log: Log) -> None:
    await setup.claim()
    await setup.redis.hdel(KEYS.leases, "a")
    await setup.node.answer(answered(200))
    await setup.node.settle()
    fence = int(setup.node.deliverer.seen[0].header("Cronpost-Fence"))
    assert log.of("settlement refused") == [("warning", "settlement refused", {"job_id": "a", "fence": fence})]
    assert setup.value("cronpost_settles_refused_total") == 1.0
    assert not log.of("run settled")


async def test_a_result_that_cannot_be_planned_quarantines_its_job_with_the_reason(
    setup: Setup, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise RuntimeError("broken")

    await setup.claim()
    monkeypatch.setattr("scheduler_core.node.loops.settle.plan_settle", broken)
    await setup.node.answer(answered(200))
    await setup.node.settle()
    why = "it cannot be planned: RuntimeError: broken"
    assert log.of("job quarantined") == [("error", "job quarantined", {"job_id": "a", "detail": why})]
    assert setup.value("cronpost_jobs_quarantined_total") == 1.0
    state = (await setup.store.read("a")).snapshot.state
    assert state == make_state(0, quarantine=why, unresolved=Unresolved("", setup.clock.now, setup.clock.now))


async def test_a_rejected_settlement_is_logged_once(setup: Setup, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refused(*_: Any) -> Any:
        raise StoreRefused("its keys cannot be used")

    await setup.claim()
    await setup.node.answer(answered(200))
    monkeypatch.setattr(RedisStore, "settle", refused)
    settler = setup.node.settler
    for number in range(1, REFUSALS + 2):
        assert settler.unsettled == 1
        assert log.of("settlement set aside") == []
        assert settler.is_idle is False, number
        with contextlib.suppress(StoreRefused):
            await settler.run_once()
    fence = int(setup.node.deliverer.seen[0].header("Cronpost-Fence"))
    fields = {"job_id": "a", "fence": fence, "detail": "its keys cannot be used"}
    assert log.of("settlement set aside") == [("error", "settlement set aside", fields)]
    assert (settler.is_idle, settler.unsettled) == (True, 1)
    setup.clock.advance(round(REJECTED_SECONDS * 1000))
    await settler.run_once()
    assert len(log.of("settlement set aside")) == 1
    assert settler.unsettled == 1


async def test_a_rejected_settlement_is_noted_until_redis_accepts_it(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refused(*_: Any) -> Any:
        raise StoreRefused("its keys cannot be used")

    await setup.claim()
    entry = await setup.node.answer(answered(200))
    settler, lists = setup.node.settler, setup.store.attention_store()
    with monkeypatch.context() as patch:
        patch.setattr(RedisStore, "settle", refused)
        for _ in range(REFUSALS + 1):
            assert (await lists.counts()).settlements == 0
            with contextlib.suppress(StoreRefused):
                await settler.run_once()
        (spot,) = await lists.page(Source.SETTLEMENTS, None, limit=5)
        fence = int(entry.header("Cronpost-Fence"))
        note = SetAside("a", fence, entry.run_id, "its keys cannot be used")
        assert (decode_set_aside(spot.member), spot.score) == (note, setup.clock.now)
    setup.clock.advance(round(REJECTED_SECONDS * 1000))
    await settler.run_once()
    assert settler.unsettled == 0
    assert (await lists.counts()).settlements == 0


@pytest.mark.parametrize(
    ("kind", "status", "labels"),
    [
        (OutcomeKind.RESPONSE, 503, {"outcome": "response", "status": "5xx"}),
        (OutcomeKind.RESPONSE, 204, {"outcome": "response", "status": "2xx"}),
        (OutcomeKind.TIMEOUT, None, {"outcome": "timeout", "status": ""}),
    ],
)
async def test_an_attempt_is_counted_by_outcome_and_class_of_status(
    setup: Setup, log: Log, kind: OutcomeKind, status: int | None, labels: dict[str, str]
) -> None:
    await setup.claim()
    await setup.node.answer(replace(answered(200), kind=kind, status=status, latency_ms=1_500.0))
    assert setup.value("cronpost_attempts_total", **labels) == 1.0
    assert setup.value("cronpost_attempt_duration_seconds_sum") == 1.5


@pytest.mark.parametrize(
    ("fields", "started", "seconds"),
    [
        ({}, 2.5, 2.5),
        ({}, -1, 0.0),
        ({"started_at_ms": at(1)}, 2.5, None),
        ({"reason": Reason.MANUAL}, 2.5, None),
    ],
)
async def test_lateness_is_measured_at_the_first_attempt_of_a_scheduled_run(
    setup: Setup, log: Log, fields: dict[str, Any], started: float, seconds: float | None
) -> None:
    await setup.node.start()
    await put(setup.redis, make_job("a"), make_state(0))
    (claimed,) = (await setup.node.claimer._claim(1)).jobs
    end: Ended = ended(answered(200), started, 5)
    setup.node.settler.put(claimed, Work(make_job("a"), make_run(0, **fields), make_state(10)), end)
    count = setup.value("cronpost_lateness_seconds_count")
    assert count == (0.0 if seconds is None else 1.0)
    assert setup.value("cronpost_lateness_seconds_sum") == (seconds or 0.0)
