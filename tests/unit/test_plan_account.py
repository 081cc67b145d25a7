"""Check promise 1 in random histories: each fire time of a job is one run or lies in one recorded miss.

The tests call the planner without Redis. ``Simulation`` applies transitions as the scripts do: a change of a claimed
job keeps the lease, a settlement is planned again if the job changed, and a run of a job that allows overlap becomes a
child run.
Nodes claim the job ahead of its wake-ups too, and release it for a change or do not.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.base.errors import AlreadyReplayed, AlreadySucceeded, DefinitionChanged, InvalidInput, RunConflict
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.health import Health, failures_of, health_of, last_success_ms
from scheduler_core.model.index import FAILING, index_entries
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import Failures, HeldBack, HoldReason, JobState, Pending, Snapshot
from scheduler_core.model.lease import SUSPECT_LOSSES, Lease, LostCause, LostClaim
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.model.pause import Pause, running_pause
from scheduler_core.model.policies import Overlap, Policies, Recovery, RetryRule
from scheduler_core.model.run import Miss, MissReason, Reason, Record, Run, RunState
from scheduler_core.model.transition import Mark, Transition, is_finished, next_wake_ms
from scheduler_core.plan.backoff import RetryPolicy
from scheduler_core.plan.cancel import plan_cancel_run
from scheduler_core.plan.change import plan_cancel_unit, plan_delete, plan_pause, plan_resume, plan_upsert
from scheduler_core.plan.claim import Work, is_spawned, plan_claim, plan_claim_tombstone
from scheduler_core.plan.complete import plan_complete, plan_heartbeat
from scheduler_core.plan.fire_times import same_fire_times, trigger_of
from scheduler_core.plan.given import completed_trigger
from scheduler_core.plan.held_back import may_release, plan_hold_back, plan_hold_back_changed
from scheduler_core.plan.on_demand import Started, plan_backfill, plan_replace_pending, plan_revive, plan_run_now
from scheduler_core.plan.overlapping import plan_full, plan_spawn
from scheduler_core.plan.paused import LONGEST_STEP_MS
from scheduler_core.plan.replay import plan_replay
from scheduler_core.plan.settle import Ended, plan_settle, plan_settle_changed
from scheduler_core.store.claim_keys import child_id
from scheduler_core.triggers.trigger import (
    AtSpec,
    CronSpec,
    EverySpec,
    IntervalSpec,
    OnRequestSpec,
    TriggerSpec,
)
from tests.support.examples import examples
from tests.support.factories import STORE_ID, answered, failed, make_job, over_http
from tests.support.manual_clock import START_MS
from tests.support.model import Segment, check_account, check_replays

TRIGGERS: list[TriggerSpec] = [
    CronSpec("*/10 * * * * *"),
    CronSpec("*/7 * * * * *"),
    CronSpec("* * * * *"),
    CronSpec("*/10 * * * * * 2026"),
    CronSpec("*/10 * * * * *", "Asia/Kathmandu"),
]
INTERVALS: list[TriggerSpec] = [IntervalSpec(13_000, START_MS), IntervalSpec(9_000, START_MS, START_MS + 200_000)]


def continuing(*continuation: str) -> Outcome:
    """Return a 2xx answer with a list of continuations."""
    body = f'{{"continue": [{", ".join(continuation)}]}}'.encode()
    return over_http(Outcome(OutcomeKind.RESPONSE, 12.0, status=200, body=body))


OTHERS: list[TriggerSpec] = [EverySpec(11_000), AtSpec(START_MS + 30_000), AtSpec(START_MS + 150_500), OnRequestSpec()]
OUTCOMES = [
    answered(200),
    answered(409),
    answered(503),
    answered(503, retry_after="45"),
    answered(500),
    failed(),
    continuing('{"payload": 1}'),
    continuing('{"payload": 2, "after_seconds": 30}', "{}"),
    continuing('{"after_seconds": "soon"}'),
]
POLICY = RetryPolicy()
REFUSALS = (RunConflict, InvalidInput, AlreadyReplayed, AlreadySucceeded, DefinitionChanged)


class Claim(msgspec.Struct):
    """What a node read when it claimed the job or one of its child runs."""

    planned: Work | Transition
    fence: int
    started_at_ms: int
    generation: int


class Stored(msgspec.Struct, eq=False):
    """The stored values of the job or of a child run, and the claim of the node that holds it."""

    id: str
    job: Job | None = None
    state: JobState | None = None
    lease: Lease | None = None
    generation: int = 0
    """Counts the writes of the state, as its tag does."""
    held: Claim | None = None
    ahead: Claim | None = None
    """The claim of the node that holds it ahead of its wake-up."""
    releases: bool = False
    """Whether that node releases it when a client asks."""
    due_ms: int | None = None
    """Its wake-up, where that does not follow from its state."""
    pauses: tuple[Pause, ...] = ()
    """The pauses of everything."""

    @property
    def snapshot(self) -> Snapshot:
        return Snapshot(self.job, self.state, self.lease, self.pauses)


class HealthModel:
    """Counts the failures of the job by the runs that it records, without looking at its state."""

    def __init__(self) -> None:
        self.count = 0
        self.since_ms: int | None = None
        self.failed: str | None = None
        self.success_ms: int | None = None
        self.any_failed = False
        self.known = True
        """Whether the job is the first one under its id: a run of an earlier job does not count."""

    def end(self, run: Run) -> None:
        again = run.reason in (Reason.BACKFILL, Reason.REPLAY)
        if run.state is RunState.SUCCEEDED:
            self.success_ms = run.ended_at_ms
            if not again:
                self.count, self.since_ms = 0, None
        elif run.state in (RunState.FAILED, RunState.LOST, RunState.CONFLICT):
            self.any_failed = True
            if not again:
                self.count, self.failed = self.count + 1, run.id
                self.since_ms = run.ended_at_ms if self.since_ms is None else self.since_ms

    def check(self, job: Job, state: JobState) -> None:
        if not self.known:
            return
        failures = failures_of(state) or Failures(0)
        assert (failures.count, failures.since_ms) == (self.count, self.since_ms)
        assert (failures.run_id or None) == self.failed
        assert last_success_ms(state) == self.success_ms
        waits = replace(state, next_fire_ms=None, pending=(), replays=(), open=None, pause=None)
        expected = Health.OK if self.success_ms is not None else Health.UNKNOWN
        if self.count:
            expected = Health.FAILING if self.success_ms is not None else Health.NEVER_SUCCEEDED
        elif self.success_ms is None and self.any_failed:
            # Only a backfill failed. A run that was cancelled since then hides it.
            assert health_of(job, waits, None, now_ms=0) in (Health.NEVER_SUCCEEDED, Health.UNKNOWN)
            return
        assert health_of(job, waits, None, now_ms=0) is expected
        entries = index_entries(job, state)
        if job.policies.overlap is not Overlap.ALLOW:
            assert entries.get(FAILING, 0) == self.count


class Simulation:
    """Simulate the store and the nodes for one job id, and collect its records."""

    def __init__(self) -> None:
        self.now = START_MS
        self.main = Stored("job")
        self.children: list[Stored] = []
        """The runs of the job that overlap, each until it is over."""
        self.fence = 0
        self.downtimes: tuple[Downtime, ...] = ()
        self.pauses: tuple[Pause, ...] = ()
        self.claimed_at = START_MS - 1
        """When a node claimed last."""
        self.records: list[Record] = []
        self.segments: list[Segment] = []
        self.claims: dict[int, str] = {}
        self.runs_requested = 0
        self.health = HealthModel()
        self.replays: dict[str, str] = {}
        """The original of each replay."""
        self.forced: set[str] = set()
        """Runs that were replayed with ``force``."""

    def one(self, index: int) -> Stored:
        """Return the job, or one of its runs that overlap."""
        ones = [self.main, *self.children]
        return ones[index % len(ones)]

    def apply(self, one: Stored, transition: Transition) -> None:
        planned = None if one.ahead is None or one is not self.main else one.ahead.planned
        if isinstance(planned, Work) and not is_spawned(planned) and one.snapshot.is_held_ahead(self.now):
            self.decided(planned)  # by a change for which its node has not released it
        one.generation += 1
        self.records += transition.records
        if one is self.main:
            for record in transition.records:
                if isinstance(record, Run):
                    self.health.end(record)
            self.health.known = self.health.known and not transition.remove
        if transition.revoke:
            one.held = one.ahead = one.lease = None  # a late result is refused
        if transition.mark is not None:
            marked = transition.mark.run
            (place,) = [at for at, run in enumerate(self.records) if isinstance(run, Run) and run.id == marked.id]
            self.records[place] = replace(self.records[place], replayed_by=marked.replayed_by)
        self.check_reasons(transition.records)
        if transition.spawn is not None:
            run = transition.spawn.run
            born = child_id("job", run.id, replay=transition.spawn.replay)
            self.children.append(Stored(born, one.job, JobState(open=run, child=True), pauses=self.pauses))
        if transition.remove:
            one.job, one.state = None, transition.state
            if one is self.main:
                self.end_segment()
            elif one.state is None:
                self.children.remove(one)
            return
        if transition.job is not None:
            one.job = transition.job
        before, one.state = one.state, transition.state
        if one is self.main and before is not None and one.state is not None and self.in_segment:
            position, moved = before.next_fire_ms, one.state.next_fire_ms
            assert position is None or moved is None or moved >= position, (
                "the position of the schedule moved backwards"
            )

    @property
    def in_segment(self) -> bool:
        return bool(self.segments) and self.segments[-1].until_ms is None

    def end_segment(self) -> None:
        if self.in_segment:
            self.segments[-1].until_ms = self.at(self.main)

    # ---- clients ------------------------------------------------------------------------------------------------

    def met(self, one: Stored) -> Snapshot:
        """Return the job or child run as a client changes it: its node has released it, or does not in time."""
        if one.releases and one.snapshot.is_held_ahead(self.now):
            one.lease = one.ahead = None
        seen = one.snapshot
        if one.ahead is None:
            seen = one.snapshot.as_of(self.now)
            one.lease = seen.lease  # the change removes a lease that stayed after its release
        return seen

    def at(self, one: Stored) -> int:
        """Return the instant as of which a client changes the job or child run."""
        return one.snapshot.changed_at_ms(self.now)

    def upsert(self, job: Job, restart: bool = False) -> None:
        main, old = self.main, self.main.job
        restart = restart and main.state is not None and old is not None and is_finished(main.state)
        job = completed_trigger(job, old, now_ms=self.at(main))
        if trigger_of(job).next_after(self.now) is None and not isinstance(job.trigger, OnRequestSpec):
            return  # refused
        planned = plan_upsert(
            job,
            self.met(main),
            now_ms=self.at(main),
            downtimes=self.downtimes,
            store_id=STORE_ID,
            children=bool(self.children),
            restart=restart,
        )
        if planned is None:
            return
        goes_on = planned.state is not None and planned.state.next_fire_ms is not None
        if old is None or not same_fire_times(old, job) or not goes_on or restart:
            self.end_segment()
        self.apply(main, planned)
        if goes_on and not self.in_segment:
            self.segments.append(Segment(trigger_of(job), self.at(main)))
        if old is not None and old.policies.overlap is Overlap.ALLOW:
            self.cancel_children()

    def patch(self, field: str, other: Job) -> None:
        """Change one field to that of another job."""
        if self.main.job is not None:
            self.upsert(replace(self.main.job, **{field: getattr(other, field)}))

    def change(self, one: Stored, plan: Callable[[], Transition | RunState | None]) -> bool:
        try:
            planned = plan()
        except REFUSALS:
            return False
        if not isinstance(planned, Transition):
            return False
        self.apply(one, planned)
        return True

    def cancel_children(self) -> None:
        for one in list(self.children):
            self.change(
                one,
                lambda one=one: plan_cancel_unit(  # type: ignore[misc]
                    self.met(one),
                    now_ms=self.at(one),
                    why="why",
                    deleted=self.main.job is None,
                    downtimes=self.downtimes,
                    store_id=STORE_ID,
                ),
            )

    def delete(self) -> None:
        def plan() -> Transition | None:
            return plan_delete(
                self.met(self.main), now_ms=self.at(self.main), downtimes=self.downtimes, store_id=STORE_ID
            )

        if self.change(self.main, plan):
            self.cancel_children()

    def pause(self, note: str = "", length_ms: int | None = None) -> None:
        until_ms = None if length_ms is None else self.now + length_ms

        def plan() -> Transition | None:
            return plan_pause(
                self.met(self.main),
                now_ms=self.at(self.main),
                downtimes=self.downtimes,
                store_id=STORE_ID,
                note=note,
                until_ms=until_ms,
            )

        if self.change(self.main, plan):
            self.cancel_children()

    def pause_all(self, length_ms: int | None) -> None:
        """Pause everything. Nodes that can be asked release what they hold ahead."""
        self.end_pause()
        at_ms = max(self.now, self.claimed_at + 1)
        until_ms = None if length_ms is None else at_ms + length_ms
        self.set_pauses((*self.pauses, Pause(at_ms, until_ms, self.fence)))
        for one in (self.main, *self.children):
            if one.releases and one.lease is not None and one.snapshot.is_held_ahead(self.now):
                one.ahead, one.lease = None, replace(one.lease, node="-")

    def end_pause(self) -> None:
        at_ms = max(self.now, self.claimed_at + 1)
        if self.pauses and self.pauses[-1].covers(at_ms):
            self.set_pauses((*self.pauses[:-1], replace(self.pauses[-1], ended_ms=at_ms, end_fence=self.fence)))

    def set_pauses(self, pauses: tuple[Pause, ...]) -> None:
        self.pauses = pauses
        for one in (self.main, *self.children):
            one.pauses = pauses

    def check_reasons(self, records: tuple[Record, ...]) -> None:
        """Assert that fire times in a pause of everything are misses for that reason, unless a claim that was made
        ahead, before the pause, has decided about them."""
        for record in records:
            if not isinstance(record, Miss) or record.reason is MissReason.PAUSED:
                continue
            for pause in self.pauses:
                first = max(record.first_ms, pause.from_ms + 501)
                last = min(record.last_ms, record.last_ms if pause.end_ms is None else pause.end_ms - 1)
                if first <= last:
                    found = self.segments[-1].trigger.last_in(first - 1, last)
                    assert found is None, f"{found} lies in {pause}, and {record} says otherwise"

    def check_run(self, one: Stored, run: Run, lease: Lease) -> None:
        """Assert that a pause of everything which the claim knew holds all runs but requested ones, and that none of
        its fire times runs later."""
        if one.state is not None and one.state.open is not None and one.state.open.in_flight:
            return  # it was open before
        known = [pause for pause in self.pauses if pause.fence < lease.first_fence]
        of_trigger = run.reason in (Reason.SCHEDULED, Reason.RECOVERY)
        for pause in known:
            end_ms = pause.end_ms if pause.end_fence < lease.first_fence else pause.until_ms
            if pause.from_ms <= lease.first_claimed_at_ms and (end_ms is None or lease.first_claimed_at_ms < end_ms):
                assert run.reason in (Reason.MANUAL, Reason.CONTINUATION), "started during a pause of everything"
            if of_trigger and not run.attempt and not one.id.partition("\x1f")[1]:
                assert run.on_demand or not (
                    pause.from_ms <= run.fire_time_ms and (end_ms is None or run.fire_time_ms < end_ms)
                )

    def resume(self) -> None:
        self.change(self.main, lambda: plan_resume(self.met(self.main), now_ms=self.at(self.main)))

    def run_now(self, force: bool, bare: bool) -> None:
        self.runs_requested += 1
        entry = Pending(f"ASKED{self.runs_requested}", self.now)

        def plan() -> Transition | None:
            answer = plan_run_now(
                self.met(self.main),
                entry,
                force=force,
                bare=bare,
                now_ms=self.at(self.main),
                downtimes=self.downtimes,
                store_id=STORE_ID,
            )
            return answer.transition if isinstance(answer, Started) else None

        if self.main.job is not None:
            self.change(self.main, plan)

    def backfill(self, since_ms: int, until_ms: int, limit: int) -> None:
        self.runs_requested += 1
        backfill_id = f"BACKFILL{self.runs_requested}"

        def plan() -> Transition:
            return plan_backfill(
                self.met(self.main),
                start_ms=self.now - since_ms,
                end_ms=self.now - until_ms,
                limit=limit,
                backfill_id=backfill_id,
                now_ms=self.at(self.main),
                downtimes=self.downtimes,
                store_id=STORE_ID,
            )[1]

        if self.main.job is not None:
            self.change(self.main, plan)

    def replace_pending(self, delays_ms: list[int]) -> None:
        entries = []
        for delay_ms in delays_ms:
            self.runs_requested += 1
            entries.append(Pending(f"PUT{self.runs_requested}", self.now + delay_ms, b"3", Reason.CONTINUATION))
        if self.main.job is not None:
            self.change(
                self.main,
                lambda: plan_replace_pending(
                    self.met(self.main), entries, now_ms=self.at(self.main), downtimes=self.downtimes, store_id=STORE_ID
                ),
            )

    def revive(self) -> None:
        state = self.main.state
        failed_entries = [] if state is None else [entry for entry in state.pending if entry.failed is not None]
        if self.main.job is not None and failed_entries:
            self.runs_requested += 1
            again = f"REVIVED{self.runs_requested}"
            self.change(
                self.main,
                lambda: plan_revive(
                    self.met(self.main),
                    failed_entries[0].run_id,
                    again,
                    now_ms=self.at(self.main),
                    downtimes=self.downtimes,
                    store_id=STORE_ID,
                ),
            )

    def cancel(self, index: int) -> None:
        """Cancel a run that is not settled, also one that waits in the pending list."""
        runs = [(one, self.open_run(one)) for one in (self.main, *self.children)]
        pending = () if self.main.state is None else self.main.state.pending
        runs += [(self.main, entry.run_id) for entry in pending if entry.failed is None]
        one, run_id = runs[index % len(runs)]
        self.change(
            one,
            lambda: plan_cancel_run(
                self.met(one), run_id, now_ms=self.at(one), downtimes=self.downtimes, store_id=STORE_ID
            ),
        )

    def replay(self, index: int, current: bool, force: bool) -> None:
        """Replay one of the latest settled runs."""
        settled = [record for record in self.records if isinstance(record, Run)][-6:]
        if self.main.job is None or not settled:
            return
        original = settled[index % len(settled)]
        self.runs_requested += 1
        new_id = f"REPLAY{self.runs_requested}"

        def plan() -> Transition:
            step = plan_replay(
                self.met(self.main),
                original,
                new_id,
                current=current,
                force=force,
                now_ms=self.at(self.main),
                downtimes=self.downtimes,
                store_id=STORE_ID,
            )
            return replace(step, mark=Mark(replace(original, replayed_by=new_id, payload=None), b""))

        if self.change(self.main, plan):
            self.replays[new_id] = original.id
            if force:
                self.forced.add(original.id)

    # ---- runners that call back ---------------------------------------------------------------------------------

    def open_run(self, one: Stored) -> str:
        """Return the id of the run that a runner can report on: it is in flight, taken, or waits for a retry."""
        if one.held is not None and isinstance(one.held.planned, Work):
            return one.held.planned.run.id
        if one.state is not None and one.state.open is not None:
            return one.state.open.id
        return "NONE"

    def complete(self, index: int, succeeded: bool, asks: bool) -> None:
        one = self.one(index)
        final = RunState.SUCCEEDED if succeeded else RunState.FAILED
        run_id = self.open_run(one)
        self.change(
            one,
            lambda: plan_complete(
                self.met(one),
                run_id,
                final,
                message="done",
                continuation=b'{"after_seconds": 5}' if asks else None,
                now_ms=self.at(one),
                downtimes=self.downtimes,
                store_id=STORE_ID,
            ),
        )

    def heartbeat(self, index: int) -> None:
        one = self.one(index)
        planned = plan_heartbeat(
            self.met(one),
            self.open_run(one),
            progress=0.5,
            note="half",
            now_ms=self.at(one),
            downtimes=self.downtimes,
            store_id=STORE_ID,
        )
        if planned is not None:
            self.apply(one, planned[0])

    # ---- nodes --------------------------------------------------------------------------------------------------

    def plan(self, one: Stored) -> Work | Transition:
        assert one.lease is not None
        if one.state is None:
            return Transition(None, remove=True)
        if one.job is None:
            return plan_claim_tombstone(one.state, one.lease, now_ms=self.now, downtimes=self.downtimes)
        return plan_claim(
            one.job,
            one.state,
            one.lease,
            downtimes=self.downtimes,
            store_id=STORE_ID,
            now_ms=self.now,
            pauses=self.pauses,
        )

    def claim(self, index: int = 0) -> None:
        one = self.one(index)
        if one.held is not None:
            return
        if one.ahead is not None:
            if one.ahead.started_at_ms <= self.now:
                claim, one.ahead = one.ahead, None
                self.begin(one, claim)
            return
        if one.lease is None:
            wake = self.wake_ms(one)
            if wake is None or wake > self.now:
                return
        elif one.lease.first_claimed_at_ms > self.now:
            return  # released; it waits for its wake-up
        one.due_ms = None
        self.fence += 1
        self.claimed_at = self.now
        old = one.lease
        one.lease = (
            Lease(self.fence, "node", self.fence, self.now)
            if old is None or (self.pauses and old.was_released)
            else replace(old, fence=self.fence, node="node", group=int(old.losses >= SUSPECT_LOSSES))
        )
        self.begin(one, Claim(self.plan(one), self.fence, self.now, one.generation))

    def wake_ms(self, one: Stored) -> int | None:
        """Return the wake-up of the job or a child run that no node holds."""
        if one.due_ms is not None or one.state is None:
            return one.due_ms
        wake = next_wake_ms(one.state)
        if wake is None and one is not self.main and one.state.open is not None:
            return one.state.open.fire_time_ms
        return wake

    def claim_ahead(self, early_ms: int, releases: bool, index: int = 0) -> None:
        """Claim the job or a child run ``early_ms`` before its wake-up; time passes until then."""
        one = self.one(index)
        wake = self.wake_ms(one)
        if one.held is not None or one.ahead is not None or one.lease is not None or wake is None or wake <= self.now:
            return
        self.now = max(self.now, wake - early_ms)
        if running_pause(self.pauses, self.now) is not None:
            return
        self.fence += 1
        self.claimed_at = self.now
        one.due_ms = None
        one.lease = Lease(self.fence, "node", self.fence, wake, wake_ms=wake)
        one.ahead = Claim(self.plan(one), self.fence, wake, one.generation)
        one.releases = releases

    def stop(self, index: int = 0) -> None:
        """Let a node release what it holds ahead."""
        one = self.one(index)
        if one.snapshot.is_held_ahead(self.now) and one.lease is not None:
            one.ahead, one.lease = None, replace(one.lease, node="-")

    def decided(self, planned: Work) -> None:
        """End the segment with the last fire time of the trigger."""
        if planned.state.next_fire_ms is None:
            self.end_segment()

    def begin(self, one: Stored, claim: Claim) -> None:
        """Start what the claimed job or child run has to do."""
        planned = claim.planned
        assert one.lease is not None
        has_changed = claim.generation != one.generation
        if isinstance(planned, Work):
            # A replay starts on request, also that of a continuation which was cancelled before its time.
            assert planned.run.fire_time_ms <= self.now or planned.run.replay_of is not None, "early"
            first = self.claims.setdefault(one.lease.first_fence, planned.run.id)
            assert first == planned.run.id, "who takes over delivers another run"
            self.check_run(one, planned.run, one.lease)
            if one is self.main and not has_changed:
                self.decided(planned)
        one.held = claim
        if has_changed and (isinstance(planned, Transition) or is_spawned(planned) or planned.state.awaits_children):
            step = None
            if isinstance(planned, Work) and one.state is not None:
                step = plan_hold_back_changed(one.job, one.state, planned, now_ms=self.now)
            if step is None:
                one.held, one.lease = None, replace(one.lease, node="-")
            else:
                self.write(one, step)
        elif isinstance(planned, Transition):
            self.write(one, planned)
        elif planned.state.awaits_children and self.children:
            assert one.state is not None
            self.write(one, plan_full(planned, one.state, now_ms=self.now))
        elif is_spawned(planned):
            step = plan_spawn(planned, now_ms=one.lease.first_claimed_at_ms)
            assert step.spawn is not None
            replays = [one for one in self.children if "~" in one.id]
            if len(self.children) >= step.spawn.limit or (step.spawn.replay and replays):
                assert one.state is not None
                step = plan_full(planned, one.state, now_ms=one.lease.first_claimed_at_ms)
            self.write(one, step)

    def hold(self, reason: HoldReason, wait_ms: int, index: int = 0) -> None:
        """Hold back the run of a claimed job or child run, because of a limit or the breaker of its target."""
        one = self.one(index)
        held, one.held = one.held, None
        if held is None:
            return
        assert isinstance(held.planned, Work)
        assert one.lease is not None
        if not may_release(one.lease):
            one.lease = replace(one.lease, node="-")
            return
        if held.generation == one.generation:
            assert one.state is not None
            if one is self.main and held.planned.state.next_fire_ms is None and one.state.next_fire_ms is not None:
                self.segments[-1].until_ms = None  # the claim decided the last fire time, and is undone
            mark = HeldBack(reason, self.now, self.now + wait_ms, breaker=reason is HoldReason.BREAKER)
            self.write(one, plan_hold_back(one.state, mark))
            return
        planned = None
        if one.state is not None:
            planned = plan_hold_back_changed(one.job, one.state, held.planned, now_ms=self.now)
        if planned is None:
            one.lease = replace(one.lease, node="-")
        else:
            self.write(one, planned)

    def write(self, one: Stored, transition: Transition) -> None:
        """Settle a job or child run without a delivery."""
        one.held = one.lease = None
        self.apply(one, transition)

    def settle(self, outcome: Outcome | None, index: int = 0) -> None:
        one = self.one(index)
        held, one.held = one.held, None
        if held is None:
            return
        assert outcome is not None
        assert isinstance(held.planned, Work)
        ended = Ended(outcome, held.fence, held.started_at_ms, self.now, 0.0, pauses=self.pauses)
        one.lease = None
        if held.generation != one.generation:
            self.apply(one, plan_settle_changed(one.job, one.state, held.planned, ended, POLICY))
        else:
            self.apply(one, plan_settle(held.planned, ended, POLICY))

    def die(self, index: int = 0) -> None:
        """Let the node that holds a lease die, and another node detect it."""
        one = self.one(index)
        if one.ahead is not None and one.lease is not None:
            claim, one.ahead = one.ahead, None
            if claim.started_at_ms > self.now:
                one.due_ms, one.lease = claim.started_at_ms, None  # nothing was sent
            else:
                one.held = claim
        if one.held is not None and one.lease is not None:
            lease = one.lease
            one.lease = replace(
                lease,
                node="-",
                losses=lease.losses + 1,
                alone=lease.alone + lease.group,
                lost=(*lease.lost, LostClaim(lease.fence, one.held.started_at_ms, LostCause.DIED))[-10:],
                lost_count=lease.lost_count + 1,
            )
            one.held = None

    def downtime(self, since_beat_ms: int, length_ms: int) -> None:
        """Let all nodes die. Their last heartbeat was ``since_beat_ms`` ago."""
        for index in range(1 + len(self.children)):
            self.die(index)
        earliest = self.downtimes[-1].until_ms if self.downtimes else START_MS
        after = max(self.now - since_beat_ms, earliest)
        self.now += length_ms
        self.downtimes = (*self.downtimes, Downtime(after, self.now))

    # ---- the account --------------------------------------------------------------------------------------------

    def check(self) -> None:
        main, records, open_runs = self.main, list(self.records), []
        position = main.state or JobState()
        if position.open is not None:
            open_runs = [position.open]
        held = main.snapshot.as_of(self.now).lease is not None
        if held and main.state is not None and not (open_runs and open_runs[0].in_flight):
            # A node holds the job, or held it when it died: its decision is not written yet.
            planned = self.plan(main)
            records += planned.records
            if isinstance(planned, Work):
                if main.ahead is not None:
                    self.decided(planned)  # its wake-up has come
                open_runs, position = [planned.run], planned.state
            else:
                position = planned.state or JobState()
                open_runs = [] if position.open is None else [position.open]
                if planned.remove:
                    position = replace(position, next_fire_ms=None)
        for one in self.children:
            if one.state is not None and one.state.open is not None:
                open_runs.append(one.state.open)
        if main.job is not None and main.state is not None:
            self.health.check(main.job, main.state)
        check_account(self.segments, records, open_runs, position)
        check_replays(self.replays, self.forced, records, open_runs, position)
        assert len(position.pending) <= 101 + 1


def make_policies(kind: str, number: int) -> Policies:
    """Policies of one kind; ``number`` selects a variant."""
    odd = number % 2 == 1
    kinds = {
        "usual": Policies(),
        "queue": Policies(overlap=Overlap.QUEUE_ONE),
        "skip": Policies(overlap=Overlap.SKIP),
        "allow": Policies(overlap=Overlap.ALLOW, max_concurrent=1 + number),
        "all": Policies(recovery=Recovery.ALL, catch_up_limit=1 + 2 * number, catch_up_window_ms=60_000),
        "retry": Policies(retry=RetryRule(attempts=1 + number, statuses=(500,), factor=3.0, max_age_ms=90_000)),
        "bounds": Policies(starts_at_ms=START_MS + 25_000, ends_at_ms=START_MS + 300_000 if odd else None),
        "runs": Policies(max_runs=1 + number),
        "jitter": Policies(jitter_ms=9_000),
        "continue": Policies(continuations=True, overlap=Overlap.QUEUE_ONE if odd else None, min_interval_ms=20_000),
        "callback": Policies(
            callback=True,
            run_timeout_ms=40_000,
            heartbeat_timeout_ms=15_000 if odd else None,
            continuations=number > 1,
            recovery=Recovery.ALL if number == 3 else None,
        ),
        "schedule": Policies(retry=RetryRule(attempts=1), conflict_is_failure=True, keep=True, keep_answers=True),
    }
    return kinds[kind]


KINDS = (
    "usual",
    "queue",
    "skip",
    "allow",
    "all",
    "retry",
    "bounds",
    "runs",
    "jitter",
    "continue",
    "callback",
    "schedule",
)
JOBS = st.builds(
    lambda trigger, every, recovery, payload, kind, number, deletes: make_job(
        trigger=trigger,
        retry_already_running=every,
        recovery_check=recovery,
        payload=payload,
        policies=replace(make_policies(kind, number), delete_completed=deletes),
    ),
    st.sampled_from(TRIGGERS + INTERVALS + OTHERS),
    st.sampled_from([None, 0, 3]),
    st.booleans(),
    st.sampled_from([b"1", b"2"]),
    st.sampled_from(KINDS),
    st.integers(0, 3),
    st.booleans(),
)
UNITS = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1, 500, 999, 1_000, 3_000, 9_999, 10_000, 12_345, 65_000, 400_000])),
    st.tuples(st.just("wait"), st.sampled_from([1_000, 10_000])),
    st.tuples(st.just("claim"), UNITS),
    st.tuples(st.just("claim"), UNITS),
    st.tuples(st.just("settle"), st.sampled_from(OUTCOMES), UNITS),
    st.tuples(st.just("settle"), st.sampled_from(OUTCOMES), UNITS),
    st.tuples(st.just("claim_ahead"), st.sampled_from([1, 50, 500]), st.booleans(), UNITS),
    st.tuples(st.just("claim_ahead"), st.sampled_from([1, 50, 500]), st.booleans(), UNITS),
    st.tuples(st.just("stop"), UNITS),
    st.tuples(st.just("die"), UNITS),
    st.tuples(st.just("hold"), st.sampled_from(HoldReason), st.sampled_from([50, 5_000, 30_000]), UNITS),
    st.tuples(st.just("downtime"), st.sampled_from([0, 700, 1_500]), st.sampled_from([2_500, 31_000, 300_000])),
    st.tuples(st.just("upsert"), JOBS, st.booleans()),
    st.tuples(st.just("patch"), st.sampled_from(["trigger", "policies", "payload", "retry_already_running"]), JOBS),
    st.tuples(st.just("delete")),
    st.tuples(st.just("pause"), st.sampled_from(["", "why"]), st.sampled_from([None, 5_000, 30_000, 61_000])),
    st.tuples(st.just("resume")),
    st.tuples(st.just("pause_all"), st.sampled_from([None, None, 9_500, 30_000])),
    st.tuples(st.just("end_pause")),
    st.tuples(st.just("run_now"), st.booleans(), st.booleans()),
    st.tuples(
        st.just("backfill"),
        st.sampled_from([5_000, 60_000, 1_000_000]),
        st.sampled_from([0, 30_000]),
        st.integers(1, 5),
    ),
    st.tuples(st.just("replace_pending"), st.lists(st.sampled_from([0, 2_000, 50_000]), max_size=2)),
    st.tuples(st.just("revive")),
    st.tuples(st.just("complete"), UNITS, st.booleans(), st.booleans()),
    st.tuples(st.just("heartbeat"), UNITS),
    st.tuples(st.just("cancel"), st.integers(0, 5)),
    st.tuples(st.just("replay"), st.integers(0, 5), st.booleans(), st.booleans()),
    st.tuples(st.just("replay"), st.integers(0, 5), st.just(True), st.just(False)),
)


HISTORIES = given(first=JOBS, steps=st.lists(STEPS, max_size=40))


@settings(max_examples=examples(20), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@HISTORIES
def test_every_fire_time_is_one_run_or_lies_in_one_miss(first: Job, steps: list[tuple[object, ...]]) -> None:
    check_history(first, steps)


@pytest.mark.slow
@pytest.mark.timeout(300)
@settings(max_examples=examples(80), deadline=None, suppress_health_check=[HealthCheck.too_slow])
@HISTORIES
def test_every_fire_time_is_one_run_or_lies_in_one_miss_in_many_histories(
    first: Job, steps: list[tuple[object, ...]]
) -> None:
    check_history(first, steps)


def test_the_claim_of_the_last_fire_time_can_be_held_back() -> None:
    bounds = Policies(starts_at_ms=START_MS + 25_000, ends_at_ms=START_MS + 300_000)
    job = make_job(policies=bounds)
    check_history(job, [("wait", 400_000), ("claim", 0), ("hold", HoldReason.LIMIT, 50, 0)])


def check_history(first: Job, steps: list[tuple[object, ...]]) -> None:
    simulation = Simulation()
    simulation.upsert(first)
    for name, *arguments in steps:
        if name == "wait":
            assert isinstance(arguments[0], int)
            simulation.now += arguments[0]
        else:
            getattr(simulation, str(name))(*arguments)
        simulation.check()
    # After any history, live nodes and answering runners must finish all open work.
    simulation.end_pause()
    simulation.now += 500 + LONGEST_STEP_MS  # what is held ahead, or was held during a pause, is due by then
    for _ in range(60):
        for index in range(1 + len(simulation.children)):
            simulation.claim(index)
            simulation.settle(answered(200), index)
            simulation.complete(index, True, False)
        simulation.check()
    main = simulation.main
    assert not simulation.children
    if main.state is not None and main.lease is None and main.job is not None:
        wake = next_wake_ms(main.state)
        assert wake is None or wake > simulation.now
        completed = is_finished(main.state) and main.state.completed_at_ms is not None
        assert main.state.quarantine is not None or completed or not is_finished(main.state)


@settings(max_examples=examples(20), deadline=None)
@given(st.lists(st.sampled_from([100, 1_000, 4_000, 11_000, 25_000]), min_size=1, max_size=60))
def test_a_busy_node_gives_each_fire_time_at_most_one_run(pauses: list[int]) -> None:
    simulation = Simulation()
    simulation.upsert(make_job(retry_already_running=3))
    for pause in pauses:
        simulation.now += pause
        simulation.claim()
        simulation.now += pause // 3
        simulation.settle(answered(200))
        simulation.check()
    runs = [record for record in simulation.records if isinstance(record, Run)]
    assert [run.fire_time_ms for run in runs] == sorted({run.fire_time_ms for run in runs})
