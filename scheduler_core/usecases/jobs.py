"""Changes jobs for clients: reads, plans, writes, and starts again if the job changed in between.

Needs no node: an API process and a node share only Redis.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import (
    InvalidInput,
    JobNotFound,
    OutcomeUnknown,
    RunNotFound,
    StoreError,
    StoreUnavailable,
)
from scheduler_core.base.events import JOB_DELETED, JOB_PAUSED, JOB_RESUMED, JOB_UPSERTED, get_logger, instant
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState, Pending, Replay, Snapshot
from scheduler_core.model.kept_secrets import has_masks, with_kept_secrets
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Reason, Run, random_run_id
from scheduler_core.model.transition import Transition, is_finished
from scheduler_core.plan.change import (
    plan_cancel_unit,
    plan_delete,
    plan_nothing,
    plan_pause,
    plan_resume,
    plan_upsert,
)
from scheduler_core.plan.fire_times import same_fire_times
from scheduler_core.plan.given import check_fires, completed_trigger
from scheduler_core.plan.labels import LabelChanges, plan_labels
from scheduler_core.plan.on_demand import Skipped, plan_backfill, plan_replace_pending, plan_revive, plan_run_now
from scheduler_core.store.claim_keys import job_of_claim_key
from scheduler_core.store.history import Stored, mark_of
from scheduler_core.store.jobs import JobStore, StoredJob
from scheduler_core.triggers.trigger import AtSpec, CronSpec
from scheduler_core.usecases.if_match import ABSENT, IfMatch, check_etag, check_existing, requiring
from scheduler_core.usecases.job_reads import (
    JobReader,
    JobView,
    exists,
    latest_run,
    overlaps,
    run_in_flight,
    view_after,
)
from scheduler_core.usecases.job_targets import JobTargets, check_in_time
from scheduler_core.usecases.release import Plan, ReleaseWait, plan_as_of, plan_released
from scheduler_core.usecases.repeats import ANSWERS_KEPT_MS, Repeated, RunNow
from scheduler_core.usecases.report import report_record

log = get_logger(__name__)

TRIES = 32
"""Maximum tries of one change. A try fails when another change or a fire of the same job comes in between."""

CHILDREN_AT_ONCE = 100
"""How many child runs of a job are read in one step."""


class JobService(JobReader):
    """Changes and reads jobs.

    With ``if_match``, a change raises VersionMismatch unless the stored job has one of these ETags when it is written.
    Every method raises StoreUnavailable or StoreRefused if Redis does not store the change; nothing is changed then.
    OutcomeUnknown has two meanings: the change may be stored as a whole, but will not be stored later
    (``JobStore.write``); or it is stored, but a step that must follow it failed. Repeating the request completes it.
    """

    def __init__(self, store: JobStore, clock: Clock, metrics: Metrics, *, targets: JobTargets | None = None) -> None:
        """``targets``: None: no job has a named target."""
        super().__init__(store, clock)
        self._metrics = metrics
        self._targets = targets

    async def upsert(self, job: Job, *, restart: bool = False, if_match: IfMatch | None = None) -> tuple[JobView, bool]:
        """Store the job under its id; returns the stored job, and whether anything changed.

        ``restart``: if the job is completed, its trigger starts again. Raises InvalidInput if the trigger never fires
        again.
        """
        plan = requiring(partial(step_of_upsert, job, restart=restart), if_match)
        if job.target_id is None or self._targets is None:
            return await self._upsert(job, plan, creates=if_match is None or if_match is ABSENT)

        def plan_in_time(stored: StoredJob, now_ms: int) -> Transition | None:
            check_in_time(now_ms, until_ms)
            return plan(stored, now_ms)

        async with self._targets.using(job) as until_ms:
            return await self._upsert(job, plan_in_time, creates=if_match is None or if_match is ABSENT)

    async def _upsert(self, job: Job, plan: Plan, *, creates: bool) -> tuple[JobView, bool]:
        # Most jobs are new or unchanged. One command is enough for both.
        found: StoredJob | None = None
        created = as_created(job, now_ms=self._clock.now_ms()) if creates else None
        if created is not None:
            answer = (await self._store.create([created]))[0]
            if answer is None:
                log.info(JOB_UPSERTED, job_id=job.id, version=1)
                return JobView(job.id, *created, None), True
            found = None if answer == "large" else answer
        stored, transition = await self.change(job.id, plan, found=found)
        child = await self.finish_upsert(stored, job.id, transition)
        view = self._view(job.id, stored, transition, child)
        if transition is None:
            return view, False
        log.info(JOB_UPSERTED, job_id=job.id, version=transition.job.version if transition.job else None)
        return view, True

    async def finish_upsert(self, stored: StoredJob, job_id: str, step: Transition | None) -> Run | None:
        """Run the step after an upsert: stop retrying child runs that run otherwise than the new definition. Returns
        the latest of them that is in flight.

        ``stored``: the job before the upsert. ``step``: None: an equal definition was stored already. The request that
        stored it may have failed before this step, so the child runs that it left are cancelled too.
        """
        state, old = stored.snapshot.state, stored.snapshot.job
        if step is not None:
            await self._release_target(job_id, old)
        new = old if step is None else step.job
        if overlaps(stored) or (step is None and state is not None and state.awaits_children):
            return await self._cancel_children(job_id, "its job was changed", of_others_than=new)
        return None

    async def delete(self, job_id: str, *, if_match: IfMatch | None = None) -> Run | None:
        """Remove the job; returns its run in flight. Raises JobNotFound."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            if exists(stored):
                check_etag(stored, if_match)
            if stored.fault is not None:
                return Transition(None, remove=True)
            return plan_delete(stored.snapshot, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id)

        stored, transition = await self.change(job_id, plan)
        child: Run | None = None
        if transition is None or overlaps(stored):
            # Also if the job is gone: the process that deleted it may have died before this step.
            child = await self._cancel_children(job_id, "its job was deleted", deleted=True)
        if transition is None:
            raise JobNotFound(job_id)
        await self._release_target(job_id, stored.snapshot.job)
        log.info(JOB_DELETED, job_id=job_id)
        return run_in_flight(transition.state) or child

    async def _release_target(self, job_id: str, before: Job | None) -> None:
        """Remove the note of a job's former target, unless the job still uses it."""
        if before is not None and before.target_id is not None and self._targets is not None:
            with contextlib.suppress(StoreError):  # the next count or sweep of the target's jobs removes it
                await self._targets.release(before.target_id, job_id)

    async def pause(
        self, job_id: str, *, note: str = "", until_ms: int | None = None, if_match: IfMatch | None = None
    ) -> JobView:
        """Pause the trigger, until ``until_ms`` or until a resume. A paused job stays paused; its note and end are
        replaced. Raises JobNotFound, and InvalidInput if ``until_ms`` has passed."""
        if until_ms is not None and until_ms <= self._clock.now_ms():
            raise InvalidInput("until must lie in the future", field="until")

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_pause(
                stored.snapshot,
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
                note=note,
                until_ms=until_ms,
            )

        view, changed = await self._change_existing(job_id, plan, if_match)
        if view.job is not None and view.job.policies.overlap is Overlap.ALLOW:
            # Also if it was paused already: the request that paused it may have failed before this step.
            child = await self._cancel_children(job_id, "its job was paused")
            view = replace(view, child_in_flight=child)
        if changed:
            log.info(JOB_PAUSED, job_id=job_id, detail=note, until=instant(until_ms))
        return view

    async def resume(self, job_id: str, *, if_match: IfMatch | None = None) -> JobView:
        """Resume the trigger without catching up, also of a quarantined job. Raises JobNotFound."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_resume(stored.snapshot, now_ms=now_ms)

        view, changed = await self._change_existing(job_id, plan, if_match)
        if changed:
            log.info(JOB_RESUMED, job_id=job_id)
        return view

    async def relabel(self, job_id: str, changes: LabelChanges) -> bool:
        """Change labels of the job, also of a schedule's; returns whether any changed. Raises JobNotFound and
        InvalidInput."""

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_labels(
                stored.snapshot, changes, now_ms=now_ms, downtimes=stored.downtimes, store_id=stored.store_id
            )

        view, changed = await self._change_existing(job_id, plan)
        if changed:
            log.info(JOB_UPSERTED, job_id=job_id, version=view.job.version if view.job else None)
        return changed

    async def run_now(
        self,
        job_id: str,
        *,
        force: bool = False,
        payload: bytes | None = None,
        not_before_ms: int | None = None,
        key: str | None = None,
        if_match: IfMatch | None = None,
        answer_kept_ms: int = ANSWERS_KEPT_MS,
    ) -> RunNow:
        """Request a run, at once or not before an instant. ``force``: queue it behind a run that is not settled.

        Without payload and instant, a pending entry goes first, and the job's minimum interval applies. With ``key``, a
        repetition of the request within ``answer_kept_ms`` returns the first result, whatever the job's version is
        then. Raises JobNotFound, RunConflict and KeyReused.
        """
        bare = payload is None and not_before_ms is None
        answer = RunNow()
        latest: Run | None = None
        if bare and not force and overlaps(await self._store.read(job_id)):
            latest = await self._store.latest_success(job_id)

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal answer
            due_ms = now_ms if not_before_ms is None else max(now_ms, not_before_ms)
            snapshot = stored.snapshot
            if latest is not None and snapshot.state is not None:
                state = replace(snapshot.state, last_success_start_ms=latest.started_at_ms)
                snapshot = replace(snapshot, state=state)
            planned = plan_run_now(
                snapshot,
                Pending(random_run_id(now_ms), due_ms, payload),
                force=force,
                bare=bare,
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )
            if isinstance(planned, Skipped):
                answer = RunNow(skipped=planned.why, next_at_ms=planned.next_at_ms)
                return None
            answer = RunNow(run_id=planned.run_id)
            return planned.transition

        if key is not None:
            request = f"{force} {not_before_ms} ".encode() + (b"-" if payload is None else payload)
            repeated = Repeated(job_id, key, request=request, kept_ms=answer_kept_ms)
            return await self.once(job_id, repeated, self.checked(job_id, plan, if_match), lambda: answer)
        await self._change_existing(job_id, plan, if_match)
        return answer

    async def once(self, job_id: str, repeated: Repeated, plan: Plan, answer: Callable[[], RunNow]) -> RunNow:
        """Make a change of an existing job whose request may be repeated under its key: the same step stores its
        answer, which every repetition returns.

        An error is not stored: nothing was changed, so a repetition is a new try.
        """
        release = ReleaseWait(self._store, self._clock)

        def plan_answer(stored: StoredJob, now_ms: int) -> Transition:
            step = plan(stored, now_ms)
            if step is not None:
                return step
            return plan_nothing(stored.snapshot, downtimes=stored.downtimes, store_id=stored.store_id)

        for _ in range(TRIES):
            now_ms = self._clock.now_ms()
            known = await repeated.stored(self._store, now_ms=now_ms)
            if known is not None:
                return known
            stored, step = await self.planned(job_id, await self._store.read(job_id), plan_answer, release)
            assert step is not None
            if await self._store.change(job_id, stored, step, answer=repeated.answer(answer(), now_ms=now_ms)):
                self.report(job_id, step)
                return answer()
        raise StoreUnavailable(f"job {job_id!r} changes too often to be changed now")

    async def backfill(self, job_id: str, *, start_ms: int, end_ms: int, limit: int) -> Replay:
        """Run past fire times again, one at a time; returns their range. Raises JobNotFound, InvalidInput,
        RunConflict."""
        replay: Replay | None = None

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            nonlocal replay
            replay, transition = plan_backfill(
                stored.snapshot,
                start_ms=start_ms,
                end_ms=end_ms,
                limit=limit,
                backfill_id=random_run_id(now_ms),
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )
            return transition

        await self._change_existing(job_id, plan)
        assert replay is not None
        return replay

    async def replace_pending(self, job_id: str, entries: Sequence[tuple[bytes | None, int | None]]) -> JobView:
        """Replace the pending list with entries (payload, None: the job's; not-before time, None: now).

        Raises JobNotFound.
        """

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            return plan_replace_pending(
                stored.snapshot,
                [
                    Pending(random_run_id(now_ms), max(now_ms, not_before_ms or now_ms), payload, Reason.CONTINUATION)
                    for payload, not_before_ms in entries
                ],
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )

        return (await self._change_existing(job_id, plan))[0]

    async def revive_pending(self, job_id: str, run_id: str) -> JobView:
        """Make a pending entry that was set aside due again, now. Raises JobNotFound and RunNotFound.

        The record of its run gets a note of the new run, so that a replay of many runs leaves it out.
        """
        settled: Stored | None = None

        async def prepare() -> None:
            nonlocal settled
            settled = await self._store.settled_record(run_id)

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            new_id = random_run_id(now_ms)
            transition = plan_revive(
                stored.snapshot,
                run_id,
                new_id,
                now_ms=now_ms,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )
            if transition is None:
                raise RunNotFound(f"this job has no pending entry {run_id!r} that was set aside")
            return transition if settled is None else replace(transition, mark=mark_of(settled, new_id))

        stored, transition = await self.change(job_id, self.checked(job_id, plan), prepare=prepare)
        return self._view(job_id, stored, transition)

    async def _cancel_children(
        self, job_id: str, why: str, *, deleted: bool = False, of_others_than: Job | None = None
    ) -> Run | None:
        """Stop retrying the child runs of a job after a change. Their open requests are not cut off. Returns the latest
        of these runs that is in flight.

        ``of_others_than``: leave the runs that were created with this job and run as it does. Raises OutcomeUnknown if
        Redis fails, because the change itself is stored.
        """
        release = ReleaseWait(self._store, self._clock)

        def plan(stored: StoredJob, now_ms: int) -> Transition | None:
            its = stored.snapshot.job
            other = of_others_than
            if (
                other is not None
                and its is not None
                and other.created_at_ms == its.created_at_ms
                and other.same_runs(its)
            ):
                return None
            return plan_cancel_unit(
                stored.snapshot,
                now_ms=now_ms,
                why=why,
                deleted=deleted,
                downtimes=stored.downtimes,
                store_id=stored.store_id,
            )

        try:
            in_flight: Run | None = None
            claim_keys = await self._store.children(job_id)
            for start in range(0, len(claim_keys), CHILDREN_AT_ONCE):
                some = await self._cancel_some(claim_keys[start : start + CHILDREN_AT_ONCE], plan, release)
                in_flight = latest_run((in_flight, some))
            return in_flight
        except StoreUnavailable as error:
            raise OutcomeUnknown(
                f"{why}, but not all of its overlapping runs are cancelled yet ({error}); repeat the request"
            ) from error

    async def _cancel_some(self, claim_keys: Sequence[str], plan: Plan, release: ReleaseWait) -> Run | None:
        found = dict(zip(claim_keys, await self._store.read_many(claim_keys), strict=True))
        now_ms = self._clock.now_ms()
        held = {claim_key: stored for claim_key, stored in found.items() if stored.snapshot.is_held_ahead(now_ms)}
        if held:
            found |= await release.released(
                {claim_key: stored for claim_key, stored in held.items() if plan_as_of(stored, plan, now_ms)}
            )
        steps = [
            (await self.change(claim_key, plan, found=stored, release=release))[1]
            for claim_key, stored in found.items()
        ]
        return latest_run(run_in_flight(step.state) for step in steps if step is not None)

    async def _change_existing(self, job_id: str, plan: Plan, if_match: IfMatch | None = None) -> tuple[JobView, bool]:
        stored, transition = await self.change(job_id, self.checked(job_id, plan, if_match))
        return self._view(job_id, stored, transition), transition is not None

    def _view(
        self, job_id: str, stored: StoredJob, transition: Transition | None, child_in_flight: Run | None = None
    ) -> JobView:
        """Return the view of a job after ``change``."""
        return view_after(job_id, stored, transition, self._clock.now_ms(), child_in_flight)

    def checked(self, job_id: str, plan: Plan, if_match: IfMatch | None = None) -> Plan:
        """Return ``plan`` with ``check_existing`` before it."""

        def checked(stored: StoredJob, now_ms: int) -> Transition | None:
            check_existing(job_id, stored, if_match)
            return plan(stored, now_ms)

        return checked

    async def change(
        self,
        job_id: str,
        plan: Plan,
        *,
        found: StoredJob | None = None,
        release: ReleaseWait | None = None,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> tuple[StoredJob, Transition | None]:
        """Read the job or child run, plan, write; start again if it changed in between.

        If a node holds the job ahead of its wake-up, waits until that node releases it (``release``), unless nothing
        changes. Returns the state that was read and the step that was written; step None: no change was needed.
        ``found``: a state that was read just now. ``prepare``: reads what else ``plan`` needs, before each try.
        """
        release = release or ReleaseWait(self._store, self._clock)
        for _ in range(TRIES):
            if prepare is not None:
                await prepare()
            stored, transition = await self.planned(job_id, found or await self._store.read(job_id), plan, release)
            found = None
            if transition is None:
                return stored, None
            if await self._store.change(job_id, stored, transition):
                self.report(job_id, transition)
                return stored, transition
        raise StoreUnavailable(f"job {job_id!r} changes too often to be changed now")

    async def planned(
        self, job_id: str, stored: StoredJob, plan: Plan, release: ReleaseWait
    ) -> tuple[StoredJob, Transition | None]:
        """Plan a change; returns the job that it is planned from, and the step."""
        now_ms = self._clock.now_ms()
        transition = plan_as_of(stored, plan, now_ms)
        if transition is None or not stored.snapshot.is_held_ahead(now_ms):
            return stored, transition
        stored = (await release.released({job_id: stored}))[job_id]
        return stored, plan_released(stored, plan, self._clock.now_ms())

    def report(self, job_id: str, applied: Transition) -> None:
        """Log and count the records that a change wrote."""
        for record in applied.records:
            report_record(self._metrics, job_of_claim_key(job_id), record)


_NOTHING = StoredJob(Snapshot(None, None, None), b"", b"", (), "")
"""The stored state of a new id. Creating a job needs neither downtimes nor the store's id."""


def as_created(job: Job, *, now_ms: int, state: JobState | None = None) -> tuple[Job, JobState] | None:
    """Return definition and state of a new job; None: it would be refused as new.

    (If the same definition is stored already, it is accepted.) ``state``: its first state, if it is known already.
    """
    if job.target_id is not None:
        return None  # written while its target is pinned
    if type(job.trigger) is not CronSpec:
        job = completed_trigger(job, None, now_ms=now_ms)
    if state is None or has_masks(job):
        try:
            step = step_of_upsert(job, _NOTHING, now_ms)
        except InvalidInput:
            return None
        if step is None or step.state is None:
            return None
        state = step.state
    return replace(job, version=1, created_at_ms=now_ms, updated_at_ms=now_ms), state


def step_of_upsert(job: Job, stored: StoredJob, now_ms: int, *, restart: bool = False) -> Transition | None:
    """Return the step that stores ``job`` under its id; None: it is stored already, or it is the same definition as
    that of a job which was deleted when it completed.

    ``restart``: if the job is completed, its trigger starts again. Raises InvalidInput if the trigger never fires
    again, or if the job keeps a secret that is not stored or not for its target.
    """
    old, state = stored.snapshot.job, stored.snapshot.state
    job = with_kept_secrets(job, old)
    if old is None and state is not None and state.digest and not restart and state.digest == job.digest():
        return None
    restart = restart and old is not None and state is not None and is_finished(state)
    if type(job.trigger) is not CronSpec:
        job = completed_trigger(job, None if restart else old, now_ms=now_ms)
    starts = restart or old is None or not same_fire_times(old, job) or state is None or state.next_fire_ms is None
    if starts or type(job.trigger) is AtSpec:
        if not restart and stored.fault is None and old is not None and old.same_definition(job):
            return None  # unchanged: it is completed, or its last run is not settled yet
        check_fires(job, now_ms)
    snapshot = stored.snapshot
    if stored.fault is not None:
        snapshot = Snapshot(None, None, snapshot.lease)
    return plan_upsert(
        job,
        snapshot,
        now_ms=now_ms,
        downtimes=stored.downtimes,
        store_id=stored.store_id,
        children=stored.children > 0,
        restart=restart,
    )
