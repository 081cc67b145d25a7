"""An attempt ended: is its run over, what passed meanwhile, and when does the job wake next?"""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec.structs import replace

from scheduler_core.backoff import RetryPolicy, parse_retry_after, retry_delay_ms
from scheduler_core.job import Downtime, Job, JobState
from scheduler_core.outcome import Outcome, OutcomeKind
from scheduler_core.plan.claim import Work, end_run
from scheduler_core.plan.misses import misses_around
from scheduler_core.run import Attempt, MissReason, Record, Run, RunState, keep_attempts
from scheduler_core.transition import Transition, is_finished
from scheduler_core.trigger import Trigger, compile_trigger

EXCERPT_BYTES = 512
"""How much of an unsuccessful answer's body a run's record keeps."""
CONFLICT_STATUS = 409


class Verdict(Enum):
    """What an outcome means for its run."""

    SUCCEEDED = 1
    CONFLICT = 2
    RETRY = 3
    FAILED = 4


class Ended(msgspec.Struct, frozen=True):
    """One attempt of a run, ended."""

    outcome: Outcome
    fence: int
    started_at_ms: int
    ended_at_ms: int
    jitter: float = 0.0
    """A random number in [0, 1) for the delay of a retry."""
    downtimes: tuple[Downtime, ...] = ()
    """The times without a living node, oldest first: one may lie in the life of a run that was taken over."""


def judge(outcome: Outcome, policy: RetryPolicy) -> Verdict:
    """What an outcome means: 2xx succeeded, 409 conflict, «not now» retry, anything else failed.

    A request that the address guard refused, and an answer that is not HTTP, fail: the next attempt would end the same.
    """
    if outcome.kind is OutcomeKind.RESPONSE and outcome.status is not None:
        if 200 <= outcome.status < 300:
            return Verdict.SUCCEEDED
        if outcome.status == CONFLICT_STATUS:
            return Verdict.CONFLICT
        return Verdict.RETRY if outcome.status in policy.statuses else Verdict.FAILED
    if outcome.kind in (OutcomeKind.BLOCKED, OutcomeKind.PROTOCOL):
        return Verdict.FAILED
    return Verdict.RETRY


def plan_settle(work: Work, ended: Ended, policy: RetryPolicy) -> Transition:
    """The step that ends an attempt of a run whose job is as it was when it was claimed."""
    state, records = _settle(work.job, work.state, work.run, ended, policy)
    return Transition(state, (*work.records, *records), remove=is_finished(state))


def plan_settle_changed(
    job: Job | None, state: JobState | None, run: Run, ended: Ended, policy: RetryPolicy
) -> Transition:
    """The step that ends an attempt of a run whose job was changed while the request was open.

    The change has left the run in ``state.open``, with what it means for the run: ``detached`` unless it is retried as
    if nothing had happened. Where another run or none is there, the job was deleted and created again since: the
    attempt is recorded and changes nothing else.
    """
    stored = None if state is None else state.open
    if state is None or stored is None or stored.id != run.id:
        run = _with_attempt(replace(run, detached=True), ended)
        _, final = end_run(JobState(), run, _final_state(judge(ended.outcome, policy)), now_ms=ended.ended_at_ms)
        return Transition(state, (final,))
    run = replace(run, detached=stored.detached)
    base = replace(state, open=None)
    if job is None or state.deleted:
        _, records = _settle_detached(base, run, ended, policy)
        return Transition(None, records, remove=True)
    after, settled = _settle(job, base, run, ended, policy)
    if ended.started_at_ms < job.created_at_ms:
        # A run of an earlier job under this id: it is recorded, but it is not what the new job last did.
        after = replace(after, last=base.last, last_success_ms=base.last_success_ms)
    return Transition(after, settled, remove=is_finished(after))


def _settle(
    job: Job, state: JobState, run: Run, ended: Ended, policy: RetryPolicy
) -> tuple[JobState, tuple[Record, ...]]:
    if run.detached:
        state, records = _settle_detached(state, run, ended, policy)
        return _account_passed(job, state, ended, waited=False, records=records)
    verdict = judge(ended.outcome, policy)
    waited = run.conflict
    run = _with_attempt(run, ended)
    if verdict is Verdict.SUCCEEDED:
        state, final = end_run(state, run, RunState.SUCCEEDED, now_ms=ended.ended_at_ms)
        return _account_passed(job, state, ended, waited=waited, records=(final,))
    if verdict is Verdict.CONFLICT and job.retry_already_running is not None:
        delay = max(job.retry_already_running * 1000, policy.conflict_floor_ms)
        return _wait(state, run, ended.ended_at_ms + delay, conflict=True), ()
    if verdict is Verdict.RETRY:
        run = replace(run, failures=run.failures + 1)
        retry_at = ended.ended_at_ms + retry_delay_ms(
            policy,
            run.failures,
            retry_after_ms=parse_retry_after(ended.outcome.header("retry-after"), now_ms=ended.ended_at_ms),
            jitter=ended.jitter,
        )
        if retry_at - (run.started_at_ms or ended.started_at_ms) <= policy.max_age_ms:
            state = _wait(state, run, retry_at, conflict=False)
            if job.retry_already_running is not None:
                return state, ()  # a fire time that passed takes over at once
            return _account_passed(job, state, ended, waited=False, records=())
        run = replace(run, message="given up: its first attempt was too long ago")
    state, final = end_run(state, run, _final_state(verdict), now_ms=ended.ended_at_ms)
    return _account_passed(job, state, ended, waited=waited, records=(final,))


def _settle_detached(
    state: JobState, run: Run, ended: Ended, policy: RetryPolicy
) -> tuple[JobState, tuple[Record, ...]]:
    """A run whose job was changed, paused or deleted since it started: its result counts, it is not tried again."""
    run = _with_attempt(run, ended)
    verdict = judge(ended.outcome, policy)
    final, message = _final_state(verdict), ""
    if verdict is Verdict.RETRY:
        final, message = RunState.CANCELLED, "not tried again: its job was changed, paused or deleted meanwhile"
    state, settled = end_run(state, run, final, now_ms=ended.ended_at_ms, message=message)
    return state, (settled,)


def _account_passed(
    job: Job, state: JobState, ended: Ended, *, waited: bool, records: tuple[Record, ...]
) -> tuple[JobState, tuple[Record, ...]]:
    """Account for the fire times that passed while the run was not settled.

    A job with ``retry_already_running`` is owed one run for the latest fire time that passed while the request was
    open; so is one with ``recovery_check`` if any of them fell into a downtime (the node of this run died, and it was
    taken over). That fire time stays due. All others are misses. While the trigger is held, nothing is accounted:
    resume will.
    """
    due_ms = state.next_fire_ms
    if state.is_held or due_ms is None or due_ms > ended.ended_at_ms:
        return state, records
    trigger = compile_trigger(job.trigger)
    latest = trigger.last_in(due_ms - 1, ended.ended_at_ms)
    if latest is None:
        return state, records
    owed = job.retry_already_running is not None and not (waited and latest <= ended.started_at_ms)
    if job.recovery_check and not owed:
        owed = any(_fires_within(trigger, due_ms, downtime) for downtime in ended.downtimes)
    chosen = latest if owed else None
    misses = misses_around(
        trigger, due_ms, latest, chosen, MissReason.OVERLAP, ended.downtimes, now_ms=ended.ended_at_ms
    )
    next_fire = latest if owed else trigger.next_after(latest)
    return replace(state, next_fire_ms=next_fire), (*records, *misses)


def _fires_within(trigger: Trigger, due_ms: int, downtime: Downtime) -> bool:
    """Whether a fire time from ``due_ms`` on, itself one, fell into the downtime."""
    if downtime.until_ms <= due_ms:
        return False
    return trigger.last_in(max(due_ms - 1, downtime.after_ms), downtime.until_ms - 1) is not None


def _wait(state: JobState, run: Run, retry_at_ms: int, *, conflict: bool) -> JobState:
    return replace(
        state, open=replace(run, state=RunState.RETRYING, retry_at_ms=retry_at_ms, conflict=conflict, in_flight=False)
    )


def _with_attempt(run: Run, ended: Ended) -> Run:
    outcome = ended.outcome
    attempt = Attempt(
        number=run.attempt + 1,
        fence=ended.fence,
        started_at_ms=ended.started_at_ms,
        latency_ms=round(outcome.latency_ms, 3),
        outcome=outcome.kind,
        status=outcome.status,
        message=outcome.message,
    )
    return replace(
        run,
        attempt=attempt.number,
        attempts=keep_attempts(run.attempts, attempt),
        started_at_ms=ended.started_at_ms if run.started_at_ms is None else run.started_at_ms,
        excerpt=outcome.body[:EXCERPT_BYTES].decode("utf-8", "replace"),
    )


def _final_state(verdict: Verdict) -> RunState:
    if verdict is Verdict.SUCCEEDED:
        return RunState.SUCCEEDED
    return RunState.CONFLICT if verdict is Verdict.CONFLICT else RunState.FAILED
