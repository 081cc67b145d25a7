"""Decides after an attempt: whether its run is over, which fire times passed, and when the job wakes next."""

from __future__ import annotations

from enum import Enum

import msgspec
from msgspec.structs import replace

from scheduler_core.model.call import Call
from scheduler_core.model.downtime import Downtime
from scheduler_core.model.job import Job
from scheduler_core.model.job_state import JobState
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.model.pause import Pause
from scheduler_core.model.policies import Overlap
from scheduler_core.model.run import Attempt, Reason, Record, Run, RunState, keep_attempts
from scheduler_core.model.transition import Transition, complete, is_finished
from scheduler_core.plan.backoff import RetryPolicy, retry_delay_ms, with_rule
from scheduler_core.plan.callback import taken
from scheduler_core.plan.claim import Work
from scheduler_core.plan.continuation import PENDING_LIMIT, BadContinuation, continuations_in
from scheduler_core.plan.detail import answer_shown, detail_of
from scheduler_core.plan.finish import end_run, requeue
from scheduler_core.plan.passed import account_for_passed, finish_and_account, trigger_was_blocked

EXCERPT_BYTES = 512
"""The length of the excerpt of an unsuccessful answer's body in a run's record."""
DROPPED = "the continuation that it asks for was dropped: its job or the pending list was replaced meanwhile"


class RunResult(Enum):
    """The meaning of an outcome for its run, under the job's policies."""

    SUCCEEDED = 1, RunState.SUCCEEDED
    TAKEN = 2, RunState.SUCCEEDED
    CONFLICT = 3, RunState.CONFLICT
    RETRY = 4, RunState.FAILED
    FAILED = 5, RunState.FAILED

    def __init__(self, _: int, final: RunState) -> None:
        self.final = final
        """The state of a run that ends with this result."""


class Ended(msgspec.Struct, frozen=True):
    """One attempt of a run, ended."""

    outcome: Outcome
    fence: int
    started_at_ms: int
    ended_at_ms: int
    jitter: float = 0.0
    """A random number in [0, 1) for the delay of a retry."""
    downtimes: tuple[Downtime, ...] = ()
    """Periods without a living node, oldest first. A run that was taken over may have started before one."""
    call: Call | None = None
    """The attempt as it was passed to its target; None if the call could not be built."""
    pauses: tuple[Pause, ...] = ()
    """The pauses of everything, oldest first."""


def judge(outcome: Outcome, job: Job | None = None) -> RunResult:
    """Return what ``outcome`` means for a run of ``job``, from its verdict and the job's policies."""
    verdict = outcome.verdict
    if verdict is Verdict.ACCEPTED:
        return RunResult.TAKEN if job is not None and job.policies.callback else RunResult.SUCCEEDED
    if verdict is Verdict.BUSY:
        is_failure = job is not None and job.policies.conflict_is_failure
        return RunResult.FAILED if is_failure else RunResult.CONFLICT
    return RunResult.RETRY if verdict is Verdict.RETRY else RunResult.FAILED


def plan_settle(work: Work, ended: Ended, policy: RetryPolicy) -> Transition:
    """Return the step that ends an attempt of a run whose job did not change since the claim."""
    state, records = _settle(work.job, work.job, work.state, work.run, ended, policy)
    return _step(work.job, state, work.run, (*work.records, *records), ended)


def plan_settle_changed(
    job: Job | None, state: JobState | None, work: Work, ended: Ended, policy: RetryPolicy
) -> Transition:
    """Return the step that ends an attempt of a run whose job was changed while the request was open.

    The change has stored the run in ``state.open``: ``detached`` if it must not be retried, ``completed`` if the runner
    reported its end before the answer. If another run or none is stored there, the job was deleted and created again:
    the attempt is recorded and changes nothing else.
    """
    stored = None if state is None else state.open
    if state is None or stored is None or stored.id != work.run.id:
        run = _without_continuation(work.job, _with_attempt(replace(work.run, detached=True), ended), ended)
        result = judge(ended.outcome, work.job)
        _, final = end_run(None, JobState(), run, result.final, now_ms=ended.ended_at_ms)
        return _step(work.job, state, run, (final,), ended, remove=False)
    run = replace(
        work.run,
        detached=stored.detached,
        completed=stored.completed,
        message=stored.message,
        progress=stored.progress,
        note=stored.note,
        heartbeat_at_ms=stored.heartbeat_at_ms,
        list_replaced=stored.list_replaced,
    )
    base = replace(state, open=None)
    if job is not None and not state.deleted:
        after, settled = _settle(work.job, job, base, run, ended, policy)
        return _step(job, after, run, settled, ended)
    result = judge(ended.outcome, work.job)
    run = _without_continuation(work.job, _with_attempt(run, ended), ended)
    if result is RunResult.TAKEN and run.completed is None:
        return Transition(replace(state, open=taken(work.job, run, now_ms=ended.ended_at_ms)))
    run = _with_completion(run, result, ended)
    final_state, message = _detached_end(run, result)
    _, final = end_run(None, base, run, final_state, now_ms=ended.ended_at_ms, message=message)
    return _step(work.job, None, run, (final,), ended, remove=True)


def _step(
    job: Job,
    state: JobState | None,
    run: Run,
    records: tuple[Record, ...],
    ended: Ended,
    *,
    remove: bool | None = None,
) -> Transition:
    """Return the transition, with request and answer if the run ended and they are kept."""
    if remove is None:
        remove = False
        if state is not None and is_finished(state):
            state, remove = complete(job, state, now_ms=ended.ended_at_ms)
    for record in records:
        if isinstance(record, Run) and record.id == run.id:
            if record.state is RunState.SUCCEEDED and not job.policies.keep_answers:
                break
            detail = detail_of(ended.call, ended.outcome)
            return Transition(state, records, remove=remove, detail=detail, detail_of=run.id)
    return Transition(state, records, remove=remove)


def _settle(
    started_as: Job, job: Job, state: JobState, run: Run, ended: Ended, policy: RetryPolicy
) -> tuple[JobState, tuple[Record, ...]]:
    """Return the state after an attempt, and the records. ``started_as``: the definition that the run started with;
    ``job``: the current one."""
    if started_as.policies.retry is not None:
        policy = with_rule(policy, started_as.policies.retry)
    now_ms = ended.ended_at_ms
    result = judge(ended.outcome, started_as)
    trigger_blocked = trigger_was_blocked(state, run)
    covers_until_ms = ended.started_at_ms if run.conflict else None
    run = _with_attempt(run, ended)
    final, message = result.final, ""
    if started_as.policies.continuations and result in (RunResult.SUCCEEDED, RunResult.TAKEN):
        state, run, fault = _continue(state, run, ended)
        if fault and result is RunResult.TAKEN:
            run = replace(run, message=fault)
        elif fault:
            final, message = RunState.FAILED, fault
    if run.completed is not None:
        final = run.completed
        run = _with_completion(run, result, ended)
    elif result is RunResult.TAKEN:
        return replace(state, open=taken(started_as, run, now_ms=now_ms)), ()
    elif run.detached:
        final, message = _detached_end(run, result) if not message else (final, message)
    elif result is RunResult.CONFLICT and started_as.retry_already_running is not None:
        retry_at = now_ms + max(started_as.retry_already_running * 1000, policy.conflict_floor_ms)
        if not _waits_in_pending(state, run):
            return _wait(state, run, retry_at, conflict=True), ()
        return _account_for_passed(
            job, requeue(state, run, retry_at, conflict=True), run, ended, trigger_blocked=trigger_blocked
        )
    elif result is RunResult.RETRY or (
        result is RunResult.CONFLICT and run.on_demand and run.reason is not Reason.MANUAL
    ):
        run = replace(run, failures=run.failures + 1)
        no_retry, retry_at = _next_attempt(run, ended, policy)
        if no_retry is None and _waits_in_pending(state, run):
            return _account_for_passed(
                job, requeue(state, run, retry_at, conflict=False), run, ended, trigger_blocked=trigger_blocked
            )
        if no_retry is None:
            state = _wait(state, run, retry_at, conflict=False)
            if job.overlap is Overlap.QUEUE_ONE:
                return state, ()  # a fire time that passed takes over at once
            return _account_for_passed(job, state, run, ended, trigger_blocked=trigger_blocked)
        message = no_retry
    return finish_and_account(
        job,
        state,
        run,
        final,
        now_ms=now_ms,
        downtimes=ended.downtimes,
        pauses=ended.pauses,
        message=message,
        trigger_blocked=trigger_blocked,
        covers_until_ms=covers_until_ms,
    )


def _waits_in_pending(state: JobState, run: Run) -> bool:
    """Return whether the run waits for a retry in the pending list: it is on demand, and no child run."""
    return run.on_demand and not state.child


def _continue(state: JobState, run: Run, ended: Ended) -> tuple[JobState, Run, str]:
    """Add the continuations of an answer; returns the reason if that is impossible, which fails the run."""
    if ended.outcome.truncated:
        return state, run, "answer_too_large: a continuation in it may be cut off"
    if ended.outcome.body and ended.outcome.unreadable:
        return state, run, f"{ended.outcome.unreadable}: a continuation in it cannot be read"
    try:
        entries = continuations_in(ended.outcome.body, run, now_ms=ended.ended_at_ms)
    except BadContinuation as error:
        return state, run, str(error)
    if entries and run.list_replaced:
        return state, replace(run, message=DROPPED), ""
    if len(state.pending) + len(entries) > PENDING_LIMIT:
        return state, run, f"{PENDING_LIMIT} runs wait for this job already"
    return replace(state, pending=(*state.pending, *entries)), run, ""


def _without_continuation(started_as: Job, run: Run, ended: Ended) -> Run:
    """Return ``run`` of a removed job with a message if a continuation in its answer is dropped."""
    if started_as.policies.continuations and b'"continue"' in ended.outcome.body:
        return replace(run, message=DROPPED)
    return run


def _next_attempt(run: Run, ended: Ended, policy: RetryPolicy) -> tuple[str | None, int]:
    """Return why the run is not retried (None: it is), and when the retry is due."""
    delay = retry_delay_ms(
        policy,
        run.failures,
        retry_after_ms=ended.outcome.retry_after_ms,
        jitter=ended.jitter,
    )
    retry_at = ended.ended_at_ms + delay
    if policy.attempts is not None and run.failures >= policy.attempts:
        return (f"given up after {run.attempt} attempts" if policy.attempts > 1 else ""), retry_at
    if retry_at - (run.started_at_ms or ended.started_at_ms) > policy.max_age_ms:
        return "given up: its first attempt was too long ago", retry_at
    return None, retry_at


def _detached_end(run: Run, result: RunResult) -> tuple[RunState, str]:
    """Return the final state of a run whose job was changed, paused or deleted since it started, and a message if the
    run would have been retried. Its result counts; it is not retried."""
    if run.completed is not None:
        return run.completed, ""
    if result is RunResult.RETRY:
        return RunState.CANCELLED, "not tried again: its job was changed, paused or deleted meanwhile"
    return result.final, ""


def _account_for_passed(
    job: Job, state: JobState, run: Run, ended: Ended, *, trigger_blocked: bool
) -> tuple[JobState, tuple[Record, ...]]:
    """Account for fire times that passed during the request; the run is not over, but others may start."""
    return account_for_passed(
        job,
        state,
        run,
        trigger_blocked=trigger_blocked,
        now_ms=ended.ended_at_ms,
        downtimes=ended.downtimes,
        pauses=ended.pauses,
    )


def _wait(state: JobState, run: Run, retry_at_ms: int, *, conflict: bool) -> JobState:
    return replace(state, open=replace(run, state=RunState.RETRYING, retry_at_ms=retry_at_ms, conflict=conflict))


def _with_attempt(run: Run, ended: Ended) -> Run:
    outcome, call = ended.outcome, ended.call
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
        excerpt=answer_shown(call, outcome)[:EXCERPT_BYTES].decode("utf-8", "replace"),
        method=run.method if call is None else call.method,
        url=run.url if call is None else call.url,
        answer_bytes=outcome.body_bytes if outcome.kind is OutcomeKind.RESPONSE else None,
    )


def _with_completion(run: Run, result: RunResult, ended: Ended) -> Run:
    """Return ``run`` with the time at which it was taken, also if its completion arrived before the 2xx."""
    if result is RunResult.TAKEN and run.completed is not None:
        return replace(run, taken_at_ms=ended.ended_at_ms)
    return run
