"""Random histories of a few jobs, schedules, one-off tasks, clients, runners and nodes on a real Redis: the promises
hold after every single step, whichever face a client comes through."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from msgspec.structs import replace
from redis.asyncio import Redis

from scheduler_core.base.config import EngineSettings, TaskSettings
from scheduler_core.base.errors import (
    AlreadyReplayed,
    AlreadySettled,
    AlreadySucceeded,
    DefinitionChanged,
    InvalidInput,
    JobNotFound,
    KeyReused,
    NoNode,
    OutcomeUnknown,
    RunConflict,
    RunLost,
    RunNotFound,
    ScheduleNotFound,
    TaskNotFound,
    TaskNotStale,
    VersionMismatch,
    WrongStatus,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.attention import AttentionKind, AttentionReason
from scheduler_core.model.catalogue import Target, Timing, job_id_of, tried_target_of
from scheduler_core.model.events_of import event_of_record
from scheduler_core.model.health import failures_of, last_success_ms
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.outcome import Outcome
from scheduler_core.model.pause import Pause, running_pause
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Reason, Run, RunState
from scheduler_core.model.transition import Transition
from scheduler_core.node.loops.sweep import Sweeper
from scheduler_core.plan.claim import Work, is_spawned, plan_claim
from scheduler_core.plan.fire_times import same_fire_times, trigger_of
from scheduler_core.plan.given import starts_now
from scheduler_core.store.claim_keys import CHILD
from scheduler_core.store.events import Position
from scheduler_core.store.history import Bounds
from scheduler_core.store.jobs import Answer, CompletedBounds, Retention, StoredJob
from scheduler_core.store.loop import Release
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.keys import CLAIMED, COMPLETED, IDLE, REMEMBERED
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.redis.tasks import RedisTasks
from scheduler_core.store.shards import PerShard, Shards
from scheduler_core.triggers.trigger import AtSpec, EverySpec, OnRequestSpec
from scheduler_core.usecases.attention import AttentionService
from scheduler_core.usecases.callbacks import CallbackService
from scheduler_core.usecases.cancel import Cancelled, CancelService
from scheduler_core.usecases.edits import edit_job
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.pauses import PauseService
from scheduler_core.usecases.replay import Replayed, ReplayService
from scheduler_core.usecases.schedules import ScheduleChange, ScheduleService
from scheduler_core.usecases.target_tries import TargetTries, TargetTry
from scheduler_core.usecases.targets import TargetService
from scheduler_core.usecases.tasks import TaskService
from tests.support.examples import examples
from tests.support.factories import make_job
from tests.support.manual_clock import ManualClock
from tests.support.model import Segment, check_account, check_replays
from tests.support.nodes import OpenRequest
from tests.support.stores import KEYS, check_keys, dump, index_of, scanned_index
from tests.support.task_nodes import SteppedTaskNode, make_task, task_sets
from tests.unit.test_plan_account import KINDS, OUTCOMES, TRIGGERS, make_policies

NAMES = ["a", "b"]
LABELS: tuple[dict[str, str], ...] = ({}, {"team": "a"}, {"team": "b", "tier": ""})
MOST_NODES = 3
MOST_TASKS = 6
TASK_SETTINGS = TaskSettings(base_interval_ms=2_000, select_size=2, max_retries=1)
SPARING = EngineSettings(
    target_max_in_flight=1, target_rate=0.5, breaker_failures=1, breaker_after_seconds=0.0, breaker_open_seconds=5.0
)
"""Settings of every second node: it holds back most of what it claims, because of limits."""
REFUSALS = (
    AlreadyReplayed,
    AlreadySettled,
    AlreadySucceeded,
    DefinitionChanged,
    InvalidInput,
    JobNotFound,
    KeyReused,
    RunConflict,
    RunLost,
    RunNotFound,
    ScheduleNotFound,
    TaskNotStale,
    TaskNotFound,
    VersionMismatch,
    WrongStatus,
)

names = st.sampled_from(NAMES)
triggers = st.one_of(
    st.sampled_from(TRIGGERS),
    st.sampled_from([AtSpec(0, now=True), AtSpec(5_000), AtSpec(30_000), EverySpec(7_500), OnRequestSpec()]),
)
"""The instant of an ``at`` counts from the upsert."""
nodes = st.integers(0, MOST_NODES - 1)
picks = st.integers(0, 5)
tags = st.sampled_from(["none", "none", "current", "stale"])
"""Which ETag a client requires."""
lost = st.sampled_from(["", "", "request", "answer"])
timings = st.sampled_from([Timing(10), Timing(7, 60), Timing(15)])

Loss = Literal["request", "answer", ""]
"""What of a change is lost."""


class ClientClock(ManualClock):
    """Only clients sleep in these histories, while they wait for a release: then that much time passes."""

    async def sleep(self, seconds: float) -> None:
        self.advance(max(1, round(seconds * 1000)))


class AskingStore(RedisStore):
    """Passes requests to release jobs to the history instead of publishing them. Makes one change fail or race.
    No node receives requests to cut."""

    ask: Callable[[Release], Awaitable[None]]
    meanwhile: Callable[[], Awaitable[None]] | None = None
    """What another client does between the plan and the write of the next change."""
    loses: Loss = ""
    """What of the next change is lost."""

    async def change(
        self, job_id: str, stored: StoredJob, transition: Transition, *, answer: Answer | None = None
    ) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None
        loses, self.loses = self.loses, ""
        if meanwhile is not None:
            await meanwhile()
        if loses == "request":
            raise OutcomeUnknown("the request was lost")
        done = await super().change(job_id, stored, transition, answer=answer)
        if loses == "answer":
            raise OutcomeUnknown("the answer was lost")
        return done

    async def ask_to_release(self, claim_keys: Sequence[str], *, until_ms: int) -> None:
        await self.ask(Release(until_ms, tuple(claim_keys)))

    async def ask_to_cut(self, run_id: str) -> None:
        pass

    async def cut_runs(self) -> AsyncGenerator[str | None]:
        yield None


class AttentionModel:
    """What should be in the list of what needs a person, from the histories of jobs and what clients did."""

    def __init__(self) -> None:
        self.failed: dict[str, str] = {}
        """The latest run that failed for good, of jobs that nobody has looked after since."""
        self.seen: set[str] = set()
        """The runs that were taken into account. Their number would not do: old records are trimmed."""
        self.quarantined: set[str] = set()
        self.dismissed: set[str] = set()
        """Entries that a client dismissed: of quarantined jobs, pending entries and tasks."""

    def resolve(self, name: str) -> None:
        self.failed.pop(name, None)
        self.dismissed.discard(f"job:{name}")

    def replayed(self, name: str, run_id: str) -> None:
        if self.failed.get(name) == run_id:
            self.resolve(name)

    def follow(self, name: str, job: Job | None, state: JobState, records: list[Any]) -> None:
        """Take the new records of a job into account, oldest first."""
        if state.quarantine is not None:
            self.quarantined.add(name)
        elif name in self.quarantined:  # a client has resumed or changed it
            self.quarantined.discard(name)
            self.resolve(name)
        aside = {entry.run_id for entry in state.pending if entry.failed is not None}
        for run in records:
            if not isinstance(run, Run) or run.id in self.seen:
                continue
            self.seen.add(run.id)
            if job is None or (run.started_at_ms or job.created_at_ms) < job.created_at_ms:
                continue
            if run.state in (RunState.FAILED, RunState.LOST, RunState.CONFLICT) and run.id not in aside:
                self.resolve(name)
                self.failed[name] = run.id
            elif run.state is RunState.SUCCEEDED and run.reason not in (Reason.BACKFILL, Reason.REPLAY):
                self.failed.pop(name, None)
        if job is None:
            self.resolve(name)

    def entries(self, name: str, state: JobState) -> set[str]:
        """Return the ids of the entries of a job."""
        found = {f"pending:{one.run_id}:{name}" for one in state.pending if one.failed is not None}
        if name in self.failed or state.quarantine is not None:
            found.add(f"job:{name}")
        return found - self.dismissed


class History(RuleBasedStateMachine):
    """Each rule is a few awaited operations of one party; nothing happens between two rules."""

    keeps_all_records = True
    """Whether the histories of jobs are never trimmed."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = ClientClock()
        self.metrics = Metrics()
        self.client = Redis.from_url(url)
        self.store = AskingStore(connect(url), retention=Retention(entries=1_000_000))
        self.store.ask = self.release
        self.jobs = JobService(self.store, self.clock, self.metrics)
        self.pauses = PauseService(Shards.of_one(self.store), self.clock)
        self.others_store = AskingStore(connect(url), retention=Retention(entries=1_000_000))
        self.others_store.ask = self.release
        self.others_jobs = JobService(self.others_store, self.clock, self.metrics)
        """The service of another process."""
        self.callbacks = CallbackService(Shards.of_one(self.store), PerShard([self.jobs]))
        history = HistoryService(Shards.of_one(self.store), self.clock)
        self.cancels = CancelService(Shards.of_one(self.store), PerShard([self.jobs]), history)
        self.replay_service = ReplayService(PerShard([self.jobs]), history)
        self.schedule_service = ScheduleService(Shards.of_one(self.store), self.clock, self.metrics)
        self.target_service = TargetService(Shards.of_one(self.store), self.clock, self.schedule_service)
        jobs = PerShard([self.jobs])
        self.tries = TargetTries(Shards.of_one(self.store), jobs, self.target_service, self.clock)
        self.tried: dict[str | None, TargetTry] = {}
        """The tries of the target by their Idempotency-Keys; None: the latest one without a key."""
        self.sent_tries: dict[str, list[OpenRequest]] = {}
        """The requests of each run that tries the target."""
        self.tasks = TaskService(RedisTasks(self.store, TASK_SETTINGS), self.clock, self.metrics)
        self.nodes: list[SteppedTaskNode] = []
        self.deaf: SteppedTaskNode | None = None
        """A node that receives no requests to release jobs."""
        self.segments: dict[str, list[Segment]] = {name: [] for name in NAMES}
        self.schedules: list[int] = []
        self.task_ids: list[str] = []
        self.delivered: Counter[str] = Counter()
        """Calls of one-off tasks that were answered 2xx."""
        self.listens_from: Position | None = None
        """Where a listener to events began; None: nobody listens."""
        self.urls = 1
        """How many URLs the target has had: the last is in use."""
        self.fences: Counter[str] = Counter()
        self.sent: dict[str, Job] = {}
        """The last upsert of each job that was accepted, while the store must know it."""
        self.overlapping: set[str] = set()
        """Jobs that had ``overlap: allow`` at some time."""
        self.replays: dict[str, str] = {}
        """The original of each replay, in the order of the requests."""
        self.forced: set[str] = set()
        """Runs that were replayed with ``force``."""
        self.cancelled: set[str] = set()
        self.one_at_a_time: set[str] = set()
        """Jobs that had another policy at some time."""
        self.deleted: set[str] = set()
        """Ids of which a job was deleted."""
        self.late: set[int] = set()
        """Requests of nodes that were silent for too long while they were open: others may have sent them anew."""
        self.attention = AttentionService(
            Shards.of_one(self.store), PerShard([self.jobs]), RedisTasks(self.store, TASK_SETTINGS), self.clock
        )
        self.needs = AttentionModel()
        self.run(self.client.flushall())
        self.start()
        target = Target(0, "target", "http://1.test/", "GET", None, None, 0, 0)
        self.target = self.run(self.target_service.add(target)).id

    def run(self, operation: Any) -> Any:
        return self.runner.run(operation)

    def teardown(self) -> None:
        for node in self.nodes:
            self.run(node.crash())
        self.run(self.store.aclose())
        self.run(self.others_store.aclose())
        self.run(self.client.aclose())
        self.runner.close()

    async def release(self, asked: Release) -> None:
        """Nodes that are not frozen release the jobs that they hold ahead; the deaf one does not in time."""
        for node in self.nodes:
            if not node.frozen and node is not self.deaf:
                node.starter.release(asked)
                await node.settle()

    def node(self, index: int) -> SteppedTaskNode | None:
        """One of the nodes that are not frozen."""
        awake = [node for node in self.nodes if not node.frozen]
        return awake[index % len(awake)] if awake else None

    # ---- clients ------------------------------------------------------------------------------------------------

    @initialize(
        kinds=st.tuples(st.sampled_from(KINDS[:7]), st.sampled_from(KINDS[8:])),
        number=st.integers(0, 3),
        watched=st.booleans(),
    )
    def begin(self, kinds: tuple[str, str], number: int, watched: bool) -> None:
        if watched:
            self.listens_from = self.run(self.store.listen(keep_ms=3_600_000))
        for name, kind in zip(NAMES, kinds, strict=True):
            self.upsert(name, TRIGGERS[0], None, False, b"1", kind, number)

    @rule(
        name=names,
        trigger=triggers,
        every=st.sampled_from([None, 3]),
        recovery=st.booleans(),
        payload=st.sampled_from([b"1", b"2"]),
        kind=st.sampled_from(KINDS),
        number=st.integers(0, 3),
        deletes=st.booleans(),
        restart=st.booleans(),
        labels=st.sampled_from(LABELS),
    )
    def upsert(
        self,
        name: str,
        trigger: Any,
        every: int | None,
        recovery: bool,
        payload: bytes,
        kind: str,
        number: int,
        deletes: bool = False,
        restart: bool = False,
        labels: dict[str, str] = LABELS[0],
    ) -> None:
        if kind == "runs":
            return  # how it ends depends on who claimed it when; the planner's own test has it
        if isinstance(trigger, AtSpec) and not trigger.now:
            trigger = AtSpec(self.clock.now + trigger.at_ms)
        job = make_job(
            name,
            trigger=trigger,
            retry_already_running=every,
            recovery_check=recovery,
            payload=payload,
            policies=replace(make_policies(kind, number), delete_completed=deletes),
            labels=labels,
        )
        self.store_job(job, restart=restart)

    def store_job(self, job: Job, *, restart: bool = False) -> bool:
        """Upsert a job, and begin a segment if its trigger starts; return whether anything changed."""
        name = job.id
        stored = self.run(self.store.read(name))
        old = stored.snapshot.job
        if isinstance(job.trigger, AtSpec) and job.trigger.now:
            if stored.snapshot.changed_at_ms(self.clock.now) != self.clock.now:
                return False  # ``now`` would be the fire time of the run that a node holds ahead
            while any(segment.trigger.last_in(self.clock.now - 1, self.clock.now) for segment in self.segments[name]):
                self.clock.advance(1)  # the model knows fire times by their instants
        try:
            changed: bool = self.run(self.jobs.upsert(job, restart=restart))[1]
        except InvalidInput:
            return False
        self.note_change(job, old)
        return changed

    def note_change(self, job: Job, old: Job | None) -> None:
        """Note a definition that was accepted. ``old``: the one before."""
        name = job.id
        self.sent[name] = job
        if job.policies.overlap is Overlap.ALLOW:
            self.overlapping.add(name)
        new = self.run(self.store.read(name)).snapshot.job
        if new is not None and (old is None or not same_fire_times(old, new)):
            changed_at_ms = self.end_segment(name)
            self.segments[name].append(Segment(trigger_of(new), changed_at_ms - starts_now(new, changed_at_ms)))

    def etags(self, name: str, tag: str) -> set[str] | None:
        """Return the ETags that a client requires."""
        stored = self.run(self.store.read(name)).snapshot.job
        if tag == "none":
            return None
        return {"1-0"} if stored is None or tag == "stale" else {stored.etag}

    @rule(
        name=names,
        what=st.sampled_from(["payload", "retry", "policies", "trigger"]),
        kind=st.sampled_from(KINDS),
        number=st.integers(0, 3),
        tag=tags,
        loses=st.sampled_from(["", "request", "answer"]),
        races=st.booleans(),
    )
    def patch(self, name: str, what: str, kind: str, number: int, tag: str, loses: Any, races: bool) -> None:
        """Change one field. The request or its answer is lost, and the client repeats it; or another one is faster."""
        old = self.run(self.store.read(name)).snapshot.job
        etags = self.etags(name, tag)
        edited: list[Job] = []

        async def edit(job: Job) -> Job:
            policies = replace(make_policies(kind, number), delete_completed=job.policies.delete_completed)
            fields: dict[str, dict[str, Any]] = {
                "payload": {"payload": b"%d" % number},
                "retry": {"retry_already_running": (None, 0, 3, 3)[number]},
                "policies": {"policies": job.policies if kind == "runs" else policies},
                "trigger": {"trigger": TRIGGERS[number]},
            }
            edited.append(replace(job, **fields[what]))
            return edited[-1]

        async def theirs(job: Job) -> Job:
            return replace(job, payload=b"theirs %d" % self.clock.now)

        async def overtake() -> None:
            try:
                won.append((await edit_job(self.others_jobs, name, theirs, if_match=etags))[1])
            except REFUSALS:
                won.append(False)

        won: list[bool] = []
        self.store.loses = "" if races else loses
        self.store.meanwhile = overtake if races else None
        error = self.error_of(edit_job(self.jobs, name, edit, if_match=etags))
        self.store.loses, self.store.meanwhile = "", None
        lost = isinstance(error, OutcomeUnknown)
        between = self.run(self.store.read(name)).snapshot.job
        if lost:
            error = self.error_of(edit_job(self.jobs, name, edit, if_match=etags))
        new = self.run(self.store.read(name)).snapshot.job
        if old is None:
            assert isinstance(error, JobNotFound)
            return
        if tag == "stale" or (any(won) and etags is not None):
            assert isinstance(error, VersionMismatch), "two clients changed one version"
        elif lost and loses == "answer" and between != old:
            expected = JobNotFound if between is None else VersionMismatch if etags is not None else type(None)
            assert isinstance(error, expected)
            assert new == between, "a repeated patch changed something"
        if new is not None:
            assert new.version - old.version <= 1 + any(won)
            assert not any(won) or what == "payload" or new.payload.startswith(b"theirs"), "a change was lost"
        if edited and (lost or error is None):
            self.note_change(edited[-1], old)
        elif any(won) and new is not None:
            self.note_change(new, old)

    def error_of(self, operation: Any) -> Exception | None:
        """Carry out an operation; return why it was refused or that it was lost, or None."""
        try:
            self.run(operation)
        except (*REFUSALS, OutcomeUnknown) as error:
            return error
        return None

    @rule(name=names)
    def repeat(self, name: str) -> None:
        """The answer to the last upsert was lost, and the client sends it again: nothing changes."""
        job = self.sent.get(name)
        if job is not None:
            assert not self.store_job(job), "an identical upsert changed something"

    @rule(kept=st.integers(0, 1), age_ms=st.sampled_from([5_000, 60_000]))
    def sweep_completed(self, kept: int, age_ms: int) -> None:
        bounds = CompletedBounds(age_ms=age_ms, most=kept, id_age_ms=2 * age_ms)
        sweeper = Sweeper(self.store, Bounds(), bounds, self.clock, self.metrics)
        if self.run(sweeper.sweep_completed()):
            for name in NAMES:
                snapshot = self.run(self.store.read(name)).snapshot
                if snapshot.job is None and (snapshot.state is None or not snapshot.state.digest):
                    self.sent.pop(name, None)

    def end_segment(self, name: str) -> int:
        """End the segment of a job that was just changed; return as of when.

        If its node did not release it for the change, the run that it holds ahead belongs to the time before.
        """
        changed_at_ms: int = self.run(self.store.read(name)).snapshot.changed_at_ms(self.clock.now)
        if self.segments[name] and self.segments[name][-1].until_ms is None:
            self.segments[name][-1].until_ms = changed_at_ms
        return changed_at_ms

    def refused(self, operation: Any) -> bool:
        """Carry out an operation; return whether it was refused."""
        try:
            self.run(operation)
        except REFUSALS:
            return True
        return False

    @rule(which=picks)
    def dismiss(self, which: int) -> None:
        """A client dismisses one of the entries of what needs a person."""
        entries = self.run(self.attention.page(None, 100)).entries
        if entries:
            entry = entries[which % len(entries)]
            assert self.run(self.attention.dismiss(entry.id)), entry
            assert not self.run(self.attention.dismiss(entry.id)), entry
            self.needs.failed.pop(entry.job_id if entry.kind is AttentionKind.JOB else "", None)
            if entry.kind is not AttentionKind.JOB or entry.why is AttentionReason.QUARANTINED:
                self.needs.dismissed.add(entry.id)

    @rule(name=names, what=st.sampled_from(["delete", "pause", "resume", "resume", "revive"]), tag=tags)
    def change(self, name: str, what: str, tag: str) -> None:
        if what == "revive":
            state = self.run(self.store.read(name)).snapshot.state or JobState()
            aside = [entry.run_id for entry in state.pending if entry.failed is not None]
            if aside:
                self.run(self.jobs.revive_pending(name, aside[0]))
            return
        blocked = self.is_blocked(name)
        refused = self.refused(getattr(self.jobs, what)(name, if_match=self.etags(name, tag)))
        assert refused or tag != "stale"
        if what == "delete" and not refused:
            self.end_segment(name)
            self.sent.pop(name, None)
        if what == "resume" and not refused and blocked:
            self.look_after(name)

    def is_blocked(self, name: str) -> bool:
        """Return whether the job is paused or quarantined."""
        state = self.run(self.store.read(name)).snapshot.state
        return state is not None and (state.paused_at_ms is not None or state.quarantine is not None)

    def look_after(self, name: str) -> None:
        """Take the records of a job into account, and then that a client resolved its failure."""
        snapshot = self.run(self.store.read(name)).snapshot
        records = self.run(self.store.history(name, limit=1_000_000))[::-1]
        self.needs.follow(name, snapshot.job, snapshot.state or JobState(), records)
        self.needs.resolve(name)

    @rule(name=names, note=st.sampled_from(["", "why"]), seconds=st.sampled_from([2, 15, 70]))
    def pause_for_a_while(self, name: str, note: str, seconds: int) -> None:
        self.refused(self.jobs.pause(name, note=note, until_ms=self.clock.now + 1_000 * seconds))

    @rule(resume=st.booleans(), seconds=st.sampled_from([None, None, 2, 20]))
    def everything(self, resume: bool, seconds: int | None) -> None:
        if resume:
            self.run(self.pauses.resume())
            assert self.paused is None
        else:
            until_ms = None if seconds is None else self.clock.now + 1_000 * seconds
            self.run(self.pauses.pause(note="why", until_ms=until_ms))

    @property
    def paused(self) -> Pause | None:
        """The pause of everything that runs now."""
        return running_pause(self.run(self.store.pauses()).ranges, self.clock.now)

    @rule(
        name=names,
        what=st.sampled_from(["run", "run", "backfill", "pending"]),
        force=st.booleans(),
        payload=st.sampled_from([None, b"7"]),
        seconds=st.sampled_from([0, 3, 20, 120]),
        count=st.integers(0, 3),
        tag=tags,
    )
    def ask(self, name: str, what: str, force: bool, payload: bytes | None, seconds: int, count: int, tag: str) -> None:
        now = self.clock.now
        if what == "run":
            not_before = now + seconds * 1_000 if count else None
            operation = self.jobs.run_now(
                name, force=force, payload=payload, not_before_ms=not_before, if_match=self.etags(name, tag)
            )
            assert self.refused(operation) or tag != "stale"
        elif what == "backfill":
            self.refused(self.jobs.backfill(name, start_ms=now - seconds * 1_000, end_ms=now, limit=1 + count))
        else:
            entries = [(b"8", now + number * seconds * 1_000) for number in range(count)]
            self.refused(self.jobs.replace_pending(name, entries))

    def answer_of(self, request: Callable[[], Any], lose: Loss) -> Any:
        """Send a request; return its answer, or the error that refuses it. If the answer is lost, send it again."""
        self.store.loses = lose
        for _ in range(2):
            try:
                return self.run(request())
            except OutcomeUnknown:
                assert lose
            except REFUSALS as error:
                return error
            finally:
                self.store.loses = ""
        raise AssertionError("two answers were lost")

    def unsettled(self) -> list[str]:
        """Return the ids of runs that are not settled: requested, waiting, taken or in flight."""
        found = [entry.run_id for node in self.nodes for entry in node.deliverer.open]
        for name in self.segments:
            for claim_key in (name, *self.run(self.store.children(name))):
                state = self.run(self.store.read(claim_key)).snapshot.state or JobState()
                found += [] if state.open is None else [state.open.id]
                found += [entry.run_id for entry in state.pending if entry.failed is None]
        return sorted(set(found))

    @rule(which=st.integers(0, 9), lose=lost)
    def cancel(self, which: int, lose: Loss) -> None:
        """Cancel a run, also one that waits in a pending list. If it is found, it has ended as cancelled."""
        runs = self.unsettled()
        if not runs:
            return
        run_id = runs[which % len(runs)]
        done = self.answer_of(lambda: self.cancels.cancel(run_id), lose)
        if isinstance(done, Cancelled):
            self.cancelled.add(run_id)
            assert self.run(self.cancels.cancel(run_id)).run_id == run_id, "twice is the same"
        if run_id in self.cancelled:
            record = self.run(self.store.settled_run(run_id))
            assert record is not None
            assert record.state is RunState.CANCELLED

    @rule(
        at=picks,
        which=st.integers(0, 5),
        force=st.booleans(),
        current=st.booleans(),
        lose=lost,
        key=st.sampled_from([None, "key"]),
    )
    def replay(self, at: int, which: int, force: bool, current: bool, lose: Loss, key: str | None) -> None:
        """Replay one of the latest runs of a job. A lost answer never starts two, unless forced without a key."""
        name = list(self.segments)[at % len(self.segments)]
        runs = [one for one in self.run(self.store.history(name, limit=12)) if isinstance(one, Run)]
        if not runs:
            return
        original = runs[which % len(runs)]
        force = force and (key is not None or not lose)
        known = set(self.replays)

        def request() -> Any:
            return self.replay_service.replay_run(original.id, force=force, current=current, key=key)

        done = self.answer_of(request, lose)
        if isinstance(done, AlreadyReplayed) and lose == "answer" and not original.replayed_by:
            self.replays[done.replayed_by] = original.id  # by the request whose answer was lost
            self.needs.replayed(name, original.id)
        elif isinstance(done, Replayed) and done.run_id not in known:
            self.replays[done.run_id] = original.id
            self.needs.replayed(name, original.id)
            if force:
                self.forced.add(original.id)
        if key is not None and isinstance(done, Replayed):
            assert self.run(request()) == done, "a repetition gets the first answer"

    # ---- runners that call back ---------------------------------------------------------------------------------

    @rule(which=picks, succeeded=st.booleans(), beat_only=st.booleans())
    def call_back(self, which: int, succeeded: bool, beat_only: bool) -> None:
        """The runner of one of the latest requests reports how its run ended, or sends a heartbeat."""
        seen = [entry for node in self.nodes for entry in node.deliverer.seen if entry.has("Cronpost-Callback-Token")]
        if len(seen) <= which:
            return
        entry = seen[-1 - which]
        token = entry.header("Cronpost-Callback-Token")
        if beat_only:
            self.refused(self.callbacks.heartbeat(entry.run_id, token, progress=0.5))
        else:
            self.refused(self.callbacks.complete(entry.run_id, token, succeeded=succeeded))

    # ---- schedules ----------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.schedules) < 2)
    @rule(timing=timings)
    def add_schedule(self, timing: Timing) -> None:
        made = self.run(self.schedule_service.add(f"s{len(self.segments)}", self.target, timing))
        self.schedules.append(made.id)
        self.segments[job_id_of(made.id)] = []
        self.next_segment(made.id)

    def next_segment(self, schedule_id: int, after_ms: int | None = None) -> None:
        name = job_id_of(schedule_id)
        job = self.run(self.store.read(name)).snapshot.job
        assert job is not None
        self.segments[name].append(Segment(trigger_of(job), self.clock.now if after_ms is None else after_ms))

    @precondition(lambda self: self.schedules)
    @rule(which=picks, what=st.sampled_from(["pause", "resume", "resume", "interval", "target", "delete"]))
    def change_schedule(self, which: int, what: str) -> None:
        schedule_id = self.schedules[which % len(self.schedules)]
        name = job_id_of(schedule_id)
        if what in {"pause", "resume"}:
            blocked = self.is_blocked(name)
            if not self.refused(getattr(self.schedule_service, what)(schedule_id)) and what == "resume" and blocked:
                self.look_after(name)
        elif what == "target":
            self.urls += 1
            url = f"http://{self.urls}.test/"
            self.run(self.target_service.change(self.target, lambda target: replace(target, url=url)))
        elif what == "delete":
            self.schedules.remove(schedule_id)
            self.run(self.schedule_service.delete(schedule_id))
            self.end_segment(name)
        else:
            before = self.run(self.store.read(name)).snapshot.job
            change = ScheduleChange(interval_seconds=5 + which)
            if not self.refused(self.schedule_service.change(schedule_id, change)):
                after = self.run(self.store.read(name)).snapshot.job
                if before is not None and after is not None and not same_fire_times(before, after):
                    self.next_segment(schedule_id, self.end_segment(name))

    @rule(key=st.sampled_from([None, "a", "b"]))
    def try_target(self, key: str | None) -> None:
        if not any(not node.frozen for node in self.nodes):
            return
        with contextlib.suppress(NoNode):
            tried = self.run(self.tries.send(self.target, key=key))
            if key is not None:
                assert self.tried.get(key, tried) == tried, "a repetition got another run"
            self.tried[key] = tried

    # ---- one-off tasks ------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.task_ids) < MOST_TASKS)
    @rule(delay=st.sampled_from([-1, 0, 4]), count=st.integers(1, 2))
    def add_tasks(self, delay: int, count: int) -> None:
        execute_at = (self.clock.now + 1_000 * delay) / 1_000
        wanted = [replace(make_task(), execute_at_ms=int(execute_at * 1_000)) for _ in range(count)]
        self.task_ids += self.run(self.tasks.add(wanted))

    @precondition(lambda self: self.task_ids)
    @rule(which=picks)
    def retry_task(self, which: int) -> None:
        public_id = self.task_ids[which % len(self.task_ids)]
        if not self.refused(self.tasks.retry(public_id)):
            self.needs.dismissed.discard(f"task:{public_id}")

    @rule(index=nodes, what=st.sampled_from(["take", "settle"]))
    def work_on_tasks(self, index: int, what: str) -> None:
        node = self.node(index)
        if node is not None and what == "settle":
            self.run(node.settle_calls())
        elif node is not None and not node.has_batch:
            self.run(node.take())

    @rule(index=nodes, outcome=st.sampled_from(OUTCOMES))
    def work_off_a_batch(self, index: int, outcome: Outcome) -> None:
        """Process a batch as usual: take it when it is due, call, settle."""
        node = self.node(index)
        if node is None or node.has_batch or node.deliverer.open:
            return
        self.clock.advance(2_000)
        self.beat_all()
        self.run(node.take())
        assert self.paused is None or not node.has_batch, "a task is called during a pause of everything"
        for entry in self.run(node.answer_all(outcome)):
            self.answered(entry, outcome)
        self.run(node.settle_calls())

    # ---- time ---------------------------------------------------------------------------------------------------

    @rule(milliseconds=st.sampled_from([1, 700, 3_000]))
    def wait(self, milliseconds: int) -> None:
        self.clock.advance(milliseconds)

    @rule(count=st.integers(1, 12))
    def live(self, count: int) -> None:
        """Seconds in which every node that is awake beats."""
        for _ in range(count):
            self.clock.advance(1_000)
            self.beat_all()

    @rule(seconds=st.sampled_from([4, 8, 45]))
    def redis_is_away(self, seconds: int) -> None:
        self.clock.advance(seconds * 1_000)

    # ---- nodes --------------------------------------------------------------------------------------------------

    @precondition(lambda self: len(self.nodes) < MOST_NODES)
    @rule()
    def start(self) -> None:
        settings = SPARING if len(self.nodes) % 2 else None
        node = SteppedTaskNode(self.store, self.clock, self.metrics, settings, task_settings=TASK_SETTINGS)
        self.run(node.start())
        self.nodes.append(node)

    @precondition(lambda self: self.node(0) is not None)
    @rule(index=nodes)
    def claim_when_due(self, index: int) -> None:
        """Time passes, up to a quarter of an hour, until a job is due; then a node claims it."""
        node = self.node(index)
        assert node is not None
        head = self.run(self.client.zrange(KEYS.due, 0, 0, withscores=True))
        if head and self.clock.now < head[0][1] < self.clock.now + 900_000:
            self.clock.advance(int(head[0][1]) - self.clock.now)
        self.beat_all()
        self.claim_with(node, 3)

    @precondition(lambda self: self.node(0) is not None)
    @rule(index=nodes, outcome=st.sampled_from(OUTCOMES), takes=st.sampled_from([0, 300, 12_000]))
    def work_off_what_is_due(self, index: int, outcome: Outcome, takes: int) -> None:
        """Process a job as usual: claim it when it is due, answer after a while, settle."""
        self.claim_when_due(index)
        node = self.node(index)
        assert node is not None
        self.clock.advance(takes)
        self.beat_all()
        while node.deliverer.open:
            self.answered(self.run(node.answer(outcome)), outcome)
        self.run(node.settle())
        self.run(node.settle_calls())

    def beat_all(self) -> None:
        for one in self.nodes:
            if not one.frozen:
                self.run(one.beat())

    def answered(self, entry: OpenRequest, outcome: Outcome) -> None:
        if entry.job_id in self.task_ids and outcome.status == 200:
            self.delivered[entry.job_id] += 1

    @rule(index=nodes, limit=st.integers(1, 3))
    def claim(self, index: int, limit: int) -> None:
        node = self.node(index)
        if node is not None:
            self.claim_with(node, limit)

    @rule(index=nodes, limit=st.integers(1, 3), ahead_ms=st.sampled_from([100, 500, 3_000]))
    def claim_ahead(self, index: int, limit: int, ahead_ms: int) -> None:
        """Claim what becomes due soon. It is started later, or never."""
        node = self.node(index)
        if node is None:
            return
        head = self.run(self.client.zrange(KEYS.due, 0, 0, withscores=True))
        if head and self.clock.now + ahead_ms < head[0][1] < self.clock.now + 900_000:
            self.clock.advance(int(head[0][1]) - self.clock.now - ahead_ms // 2)
        self.beat_all()
        self.claim_with(node, limit, ahead_ms=ahead_ms)

    @rule(index=nodes)
    def start_due(self, index: int) -> None:
        node = self.node(index)
        if node is not None:
            self.check_requests(node, node.start_due())

    @rule(index=nodes, hears=st.booleans())
    def lose_requests_to_release(self, index: int, hears: bool) -> None:
        self.deaf = None if hears else self.node(index)

    def claim_with(self, node: SteppedTaskNode, limit: int, *, ahead_ms: int = 0) -> None:
        self.check_requests(node, node.claim(limit, ahead_ms=ahead_ms))

    def check_requests(self, node: SteppedTaskNode, operation: Any) -> None:
        """Let the node send requests, and check each of them."""
        seen = len(node.deliverer.seen)
        self.run(operation)
        pauses = self.run(self.store.pauses()).ranges
        for entry in node.deliverer.seen[seen:]:
            fence = int(entry.header("Cronpost-Fence"))
            # Runs that overlap may have waited for their target, and be claimed together.
            in_order = fence > self.fences[entry.job_id] or entry.job_id in self.overlapping
            assert in_order, "a later request carries a higher fence"
            self.fences[entry.job_id] = max(fence, self.fences[entry.job_id])
            fire_time = datetime.fromisoformat(entry.header("Cronpost-Fire-Time"))
            assert fire_time <= datetime.fromtimestamp(self.clock.now / 1000, UTC), "early"
            if entry.header("Cronpost-Reason") in {"scheduled", "recovery"}:
                for pause in pauses:  # a deaf node holds jobs for up to three seconds
                    after_ms = fire_time.timestamp() * 1000 - pause.from_ms
                    end_ms = pause.end_ms
                    in_it = after_ms > 3_000 and (end_ms is None or after_ms < end_ms - pause.from_ms)
                    assert not in_it, "started for a fire time in a pause of everything"
            if entry.job_id.startswith("schedule_"):
                assert entry.request.url == f"http://{self.urls}.test/", "not the target as it is"

    @precondition(lambda self: any(node.deliverer.open for node in self.nodes))
    @rule(index=nodes, which=st.integers(0, 3), outcome=st.sampled_from(OUTCOMES), at_once=st.booleans())
    def answer(self, index: int, which: int, outcome: Outcome, at_once: bool) -> None:
        able = [node for node in self.nodes if node.deliverer.open and not node.frozen]
        if not able:
            return
        node = able[index % len(able)]
        self.answered(self.run(node.answer(outcome, which % len(node.deliverer.open))), outcome)
        if at_once:
            self.run(node.settle())

    @rule(index=nodes)
    def settle(self, index: int) -> None:
        node = self.node(index)
        if node is not None:
            self.run(node.settle())

    @rule(index=nodes, what=st.sampled_from(["beat", "reap", "reap", "crash", "leave", "freeze or thaw"]))
    def node_does(self, index: int, what: str) -> None:
        if what in {"crash", "freeze or thaw"} and self.nodes:
            node = self.nodes[index % len(self.nodes)]
            if what == "crash":
                self.nodes.remove(node)
                self.run(node.crash())
            else:
                node.frozen = not node.frozen
            return
        awake = self.node(index)
        if awake is None:
            return
        if what == "beat":
            self.run(awake.beat())
        elif what == "reap" and awake.node.may_reap:
            self.run(awake.reaper.reap())
        elif what == "leave":
            self.nodes.remove(awake)
            self.run(awake.leave())

    # ---- what always holds --------------------------------------------------------------------------------------

    @invariant()
    def each_job_has_one_wake_up_and_each_claimed_job_a_lease(self) -> None:
        content = self.run(dump(self.client))
        check_keys(content)
        assert index_of(content) == scanned_index(content)
        due, jobs = content.get(KEYS.due, {}), content.get(KEYS.jobs, {})
        leases, states = content.get(KEYS.leases, {}), content.get(KEYS.states, {})
        assert set(jobs) <= set(due)
        children = {claim_key for claim_key in jobs if CHILD.encode() in claim_key}
        assert children == set(content.get(KEYS.children, {})) & set(jobs)
        assert set(jobs) - children == set(content.get(KEYS.ids, {}))
        assert set(jobs) <= set(states)
        for job_id, score in due.items():
            assert job_id in jobs or job_id in leases or job_id in states, "a wake-up of nothing"
            if COMPLETED <= score < IDLE:
                assert job_id not in leases
                assert (job_id in jobs) == (score < REMEMBERED)
            elif CLAIMED <= score < IDLE:
                assert leases[job_id].split()[1] != b"-"
        assert set(leases) <= set(due)
        fences = [int(row.split()[0]) for row in leases.values()]
        assert len(fences) == len(set(fences))
        assert all(fence <= int(content[KEYS.meta][b"fence"]) for fence in fences)

    @invariant()
    def the_events_of_a_job_are_its_records_in_their_order(self) -> None:
        if self.listens_from is None:
            return
        stored = self.run(self.store.read_events(self.listens_from, limit=1_000_000))
        assert [one.position.number for one in stored] == list(range(1, len(stored) + 1))
        for name in self.segments:
            # Labels are those of the definition at the time, which the records do not have.
            found = [replace(one.event, labels={}) for one in stored if one.event.job_id == name]
            records = self.run(self.store.history(name, limit=1_000_000))[::-1]
            of_records = [event_of_record(name, record, {}) for record in records]
            ended = [one for one in found if one.type in {"run.settled", "run.missed"}]
            if self.keeps_all_records:
                assert ended == of_records
            else:
                rest = iter(ended)
                assert all(one in rest for one in of_records), "a record without its event, or in another order"
            changes = [one.type for one in found if one.type in {"job.changed", "job.deleted"}]
            is_stored = self.run(self.store.read(name)).snapshot.job is not None
            assert is_stored == (changes[-1:] == ["job.changed"])

    @invariant()
    def a_target_is_tried_by_one_request_at_most(self) -> None:
        for node in self.nodes:
            for entry in node.deliverer.seen:
                if tried_target_of(entry.job_id) is not None:
                    sent = self.sent_tries.setdefault(entry.run_id, [])
                    if entry not in sent:
                        sent.append(entry)
        assert all(len(sent) == 1 for sent in self.sent_tries.values())
        for tried in self.tried.values():
            is_stored = self.run(self.store.read(tried.job_id)).snapshot.job is not None
            run = self.run(self.store.settled_run(tried.run_id))
            assert is_stored == (run is None), "its job exists until its run has ended"
            assert run is None or run.attempt <= 1

    @invariant()
    def no_task_is_in_two_places_or_called_by_two(self) -> None:
        found = self.run(task_sets(self.client))
        everywhere = [number for numbers in found.values() for number in numbers]
        assert sorted(everywhere) == sorted({int(one.removeprefix("task_")) for one in self.task_ids})
        for public_id in self.task_ids:
            if int(public_id.removeprefix("task_")) in found["delivered"]:
                assert self.delivered[public_id], "delivered without a call that succeeded"

    @invariant()
    def what_needs_a_person_is_listed_and_nothing_else(self) -> None:
        expected: set[str] = set()
        for name in self.segments:
            snapshot = self.run(self.store.read(name)).snapshot
            state = snapshot.state or JobState()
            records = self.run(self.store.history(name, limit=1_000_000))[::-1]
            self.needs.follow(name, snapshot.job, state, records)
            if snapshot.job is not None and not state.deleted:
                expected |= self.needs.entries(name, state)
        stale = self.run(task_sets(self.client))["stale"]
        expected |= {f"task:task_{number}" for number in stale} - self.needs.dismissed
        page = self.run(self.attention.page(None, 1000))
        # The failures of runs that overlap are in no state; their own tests have them.
        overlapping = {f"job:{name}" for name in self.overlapping}
        assert {entry.id for entry in page.entries} - overlapping == expected - overlapping

    @invariant()
    def no_job_has_two_owners_that_live(self) -> None:
        owned: Counter[str] = Counter()
        for node in self.nodes:
            if not node.node.holds_lease():
                self.late.update(id(entry) for entry in node.deliverer.open)
            owned.update(entry.run_id for entry in node.deliverer.open if id(entry) not in self.late)
            owned.update(
                entry.job_id
                for entry in node.deliverer.open
                if id(entry) not in self.late and entry.job_id not in self.overlapping
            )
        assert all(count == 1 for count in owned.values())

    @invariant()
    def every_fire_time_is_one_run_or_lies_in_one_miss(self) -> None:
        for name in self.segments:
            stored = self.run(self.store.read(name))
            records = self.run(self.store.history(name, limit=1_000_000))[::-1]
            for record in records:
                started = getattr(record, "started_at_ms", None)
                assert started is None or started >= record.fire_time_ms, "early"
            self.check(name, stored.as_of(self.clock.now), records)
            self.check_health(name, stored, records)

    def check_health(self, name: str, stored: StoredJob, records: list[Any]) -> None:
        """Compare the failures in a row, in the state and in the index, with the runs that were recorded."""
        job, state = stored.snapshot.job, stored.snapshot.state
        if job is None or state is None:
            self.deleted.add(name)
            return
        overlaps = job.policies.overlap is Overlap.ALLOW
        (self.overlapping if overlaps else self.one_at_a_time).add(name)
        if name in self.deleted or (name in self.overlapping and name in self.one_at_a_time):
            return  # a run of an earlier job, or of another policy, does not count
        count, success_ms = 0, None
        for run in records:
            if not isinstance(run, Run):
                continue
            counts = run.reason not in {"backfill", "replay"}
            if run.state is RunState.SUCCEEDED:
                count, success_ms = 0 if counts else count, run.ended_at_ms
            elif run.state in {RunState.FAILED, RunState.LOST, RunState.CONFLICT}:
                count += counts
        assert self.run(self.store.failing([name])) == [count], name
        if not overlaps:
            failures = failures_of(state)
            assert (0 if failures is None else failures.count) == count
            assert last_success_ms(state) == success_ms

    def check(self, name: str, stored: StoredJob, records: list[Any]) -> None:
        job, state, lease = stored.snapshot.job, stored.snapshot.state, stored.snapshot.lease
        position = state or JobState()
        open_runs = [] if position.open is None else [position.open]
        if job is not None and state is not None and lease is not None and not (open_runs and open_runs[0].in_flight):
            planned = plan_claim(
                job,
                state,
                lease,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
                pauses=stored.snapshot.pauses,
            )
            records = [*records, *planned.records]
            if isinstance(planned, Work):
                if is_spawned(planned) and self.is_full(name):
                    return  # the node gets this answer later, and records the fire time as missed
                open_runs, position = [planned.run], planned.state
            else:
                position = planned.state or JobState()
                open_runs = [] if position.open is None else [position.open]
                if planned.remove:
                    position = replace(position, next_fire_ms=None)
        for claim_key in self.run(self.store.children(name)):
            child = self.run(self.store.read(claim_key)).snapshot.state
            if child is not None and child.open is not None:
                open_runs.append(child.open)
        check_account(self.segments[name], records, open_runs, position)
        ids = {record.id for record in records if isinstance(record, Run)}
        replays = {new: original for new, original in self.replays.items() if original in ids}
        check_replays(replays, self.forced, records, open_runs, position)

    def is_full(self, name: str) -> bool:
        return bool(self.run(self.store.children(name)))


# Making a failure smaller takes minutes: add Phase.shrink by hand when there is one. The example is kept for that.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.random
@pytest.mark.timeout(400)
def test_the_promises_hold_after_every_step_of_any_history(redis_url: str) -> None:
    def history() -> History:
        return History(redis_url)

    run_state_machine_as_test(
        history,  # type: ignore[arg-type]
        settings=settings(
            max_examples=examples(6),
            stateful_step_count=50,
            deadline=None,
            phases=PHASES,
            suppress_health_check=list(HealthCheck),
        ),
    )
