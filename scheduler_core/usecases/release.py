"""Waits until nodes release jobs that they claimed ahead of their wake-up, before a client changes these jobs.

Such a node sends the run at the wake-up without reading the job again. If it does not release the job in time, the
change is planned as if the request were open.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.model.run import Miss
from scheduler_core.model.transition import Transition
from scheduler_core.plan.paused import resume_in_time
from scheduler_core.store.jobs import JobStore, StoredJob

WAIT_SECONDS = 0.25
"""How long a change waits for nodes. A node that works answers within a few milliseconds."""

Plan = Callable[[StoredJob, int], Transition | None]
"""Plans a change of a job, as of an instant; None: nothing changes."""


class ReleaseWait:
    """The waits of one change, or of one batch of changes: ``WAIT_SECONDS`` at most for all of them together."""

    def __init__(self, store: JobStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._until: float | None = None

    async def released(self, held: Mapping[str, StoredJob]) -> dict[str, StoredJob]:
        """Ask nodes to release these jobs, by claim key; returns the jobs as they are stored then.

        Waits for each job until it is released or its wake-up has come. Those of the returned jobs that are still held
        ahead were not released in time.
        """
        store, clock = self._store, self._clock
        if self._until is None:
            self._until = clock.monotonic() + WAIT_SECONDS
        found = dict(held)
        waiting = list(held)
        asked: set[tuple[str, int]] = set()
        delay_ms = 1.0
        now_ms = clock.now_ms()
        while waiting:
            claims = {(claim_key, _fence(found[claim_key])) for claim_key in waiting}
            left_ms = min(
                (self._until - clock.monotonic()) * 1000,
                max(found[claim_key].snapshot.changed_at_ms(now_ms) for claim_key in waiting) - now_ms,
            )
            if left_ms <= 0:
                break
            if not claims <= asked:
                claim_keys = sorted(claim_key for claim_key, _ in claims - asked)
                await store.ask_to_release(claim_keys, until_ms=now_ms + int(left_ms))
                asked |= claims
            await clock.sleep(min(delay_ms, left_ms) / 1000)
            delay_ms *= 2
            found |= zip(waiting, await store.read_many(waiting), strict=True)
            now_ms = clock.now_ms()
            waiting = [claim_key for claim_key in waiting if found[claim_key].snapshot.is_held_ahead(now_ms)]
        return found


def plan_as_of(stored: StoredJob, plan: Plan, now_ms: int) -> Transition | None:
    """Plan a change of a job that no node holds ahead, or as if no node did."""
    seen = stored.as_of(now_ms)
    resumed, misses = _resumed(seen, now_ms)
    transition = plan(resumed, resumed.snapshot.changed_at_ms(now_ms))
    if transition is not None and misses:
        transition = replace(transition, records=(*misses, *transition.records))
    if transition is None or seen is stored:
        return transition
    return replace(transition, revoke=True)  # removes the lease that stays when a node releases a job


def _resumed(stored: StoredJob, now_ms: int) -> tuple[StoredJob, tuple[Miss, ...]]:
    """Return a job whose pause ends at an instant that has come as it is after that, although no node has claimed it
    since; also the misses of the pause. A job that a node holds is left as it is: its claim or its settle resumes
    it."""
    snapshot = stored.snapshot
    job, state = snapshot.job, snapshot.state
    if job is None or state is None or state.pause is None or snapshot.lease is not None:
        return stored, ()
    resumed, misses = resume_in_time(job, state, now_ms=now_ms)
    if resumed is state:
        return stored, ()
    return replace(stored, snapshot=replace(snapshot, state=resumed)), misses


def plan_released(stored: StoredJob, plan: Plan, now_ms: int) -> Transition | None:
    """Plan a change after waiting for the release. If a node still holds the job, its run counts as in flight."""
    if stored.snapshot.is_held_ahead(now_ms):
        return plan(stored, stored.snapshot.changed_at_ms(now_ms))
    return plan_as_of(stored, plan, now_ms)


def _fence(stored: StoredJob) -> int:
    return 0 if stored.snapshot.lease is None else stored.snapshot.lease.fence
