"""Reads the strip of a job: its account in one read, then the records of the runs in the window in batches."""

from __future__ import annotations

from collections.abc import Generator

from msgspec.structs import replace

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import InvalidInput, JobNotFound
from scheduler_core.model.health import DEFAULT_RULES, HealthRules
from scheduler_core.model.run import Run
from scheduler_core.plan.account import make_account
from scheduler_core.plan.strip import LONGEST_WINDOW_MS, MOST_CELLS, Strip, runs_in_window, strip_steps
from scheduler_core.store.jobs import JobStore

DEFAULT_WINDOW_MS = 86_400_000
RECORDS_READ = 200
"""Records are read in batches of this size, so that other requests and fires are served in between."""


async def read_strip(
    store: JobStore,
    clock: Clock,
    job_id: str,
    *,
    from_ms: int | None = None,
    to_ms: int | None = None,
    cells: int = MOST_CELLS,
    rules: HealthRules = DEFAULT_RULES,
) -> Strip:
    """Return the strip of [from, to] in at most ``cells`` cells. ``to_ms`` None: now; ``from_ms`` None: 24 hours
    before it.

    Raises InvalidInput for a window that is empty or longer than ``LONGEST_WINDOW_MS``; JobNotFound if neither a job
    nor a history is stored under the id.
    """
    read = await store.read_account(job_id)
    if not read.exists:
        raise JobNotFound(job_id)
    now_ms = clock.now_ms()
    last_ms = now_ms if to_ms is None else to_ms
    first_ms = last_ms - DEFAULT_WINDOW_MS if from_ms is None else from_ms
    if first_ms >= last_ms:
        raise InvalidInput("from must be earlier than to, which is now if it is absent", field="from")
    if last_ms - first_ms > LONGEST_WINDOW_MS:
        days = LONGEST_WINDOW_MS // 86_400_000
        raise InvalidInput(f"from and to must not be more than {days} days apart", field="from")
    snapshot = read.stored.snapshot
    account = make_account(
        snapshot,
        read.records,
        read.children,
        forgotten_ms=read.forgotten_ms,
        downtimes=read.stored.downtimes,
        store_id=read.stored.store_id,
        now_ms=now_ms,
    )
    wanted = runs_in_window(account, first_ms, last_ms)
    runs: dict[str, Run] = {}
    for start in range(0, len(wanted), RECORDS_READ):
        runs |= await store.settled_runs(wanted[start : start + RECORDS_READ])
    steps = strip_steps(
        account,
        snapshot.job,
        snapshot.pauses,
        from_ms=first_ms,
        to_ms=last_ms,
        now_ms=now_ms,
        cells=cells,
        runs=runs,
        late_after_ms=rules.late_after_ms,
    )
    return replace(await _finish(steps, clock), trimmed=frozenset(wanted) - runs.keys())


async def _finish(steps: Generator[None, None, Strip], clock: Clock) -> Strip:
    """Run the steps to their end. Fires and other requests go first after each."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            strip: Strip = done.value
            return strip
        await clock.sleep(0)
