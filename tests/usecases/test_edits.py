"""Changes of one version of a job, and of single fields: against other clients, nodes and lost answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from scheduler_core.base.errors import (
    JobNotFound,
    OutcomeUnknown,
    RunConflict,
    StoreUnavailable,
    VersionMismatch,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.model.job import Job
from scheduler_core.model.policies import Policies
from scheduler_core.model.transition import Transition
from scheduler_core.store.jobs import Answer, StoredJob
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.usecases.edits import edit_job, preview_edit, preview_upsert
from scheduler_core.usecases.jobs import JobService
from tests.support.factories import make_job
from tests.support.manual_clock import ManualClock
from tests.support.stores import KEYS

Meanwhile = Callable[[], Awaitable[Any]]


class MeddlingStore(RedisStore):
    """Lets another client act between the plan of a change and its write, and loses answers."""

    meanwhile: Meanwhile | None = None
    loses = False
    writes = 0

    async def change(
        self, job_id: str, stored: StoredJob, transition: Transition, *, answer: Answer | None = None
    ) -> bool:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        self.writes += 1
        done = await super().change(job_id, stored, transition, answer=answer)
        if self.loses:
            self.loses = False
            raise OutcomeUnknown("the answer was lost")
        return done


class Setup:
    """The service of one process on a store that meddles, and that of another process."""

    def __init__(self, store: MeddlingStore, other: RedisStore) -> None:
        self.store = store
        self.clock = ManualClock()
        self.jobs = JobService(store, self.clock, Metrics())
        self.other = JobService(other, self.clock, Metrics())

    async def stored(self) -> Job:
        job = (await self.jobs.get("job")).job
        assert job is not None
        return job


@pytest.fixture
async def setup(redis_url: str) -> AsyncIterator[Setup]:
    store, other = MeddlingStore(connect(redis_url)), RedisStore(connect(redis_url))
    setup = Setup(store, other)
    await setup.jobs.upsert(make_job())
    yield setup
    await store.aclose()
    await other.aclose()


async def change_payload(job: Job) -> Job:
    return replace(job, payload=b"mine")


async def set_timeout(job: Job) -> Job:
    return replace(job, policies=replace(job.policies, timeout_ms=5_000))


CHANGES: dict[str, Callable[[JobService, Any], Awaitable[Any]]] = {
    "upsert": lambda jobs, tags: jobs.upsert(make_job(payload=b"mine"), if_match=tags),
    "edit": lambda jobs, tags: edit_job(jobs, "job", change_payload, if_match=tags),
    "pause": lambda jobs, tags: jobs.pause("job", if_match=tags),
    "run": lambda jobs, tags: jobs.run_now("job", if_match=tags),
    "run with a key": lambda jobs, tags: jobs.run_now("job", key="k", if_match=tags),
    "delete": lambda jobs, tags: jobs.delete("job", if_match=tags),
}
each_change = pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)


@each_change
async def test_a_definition_that_changes_between_plan_and_write_is_not_changed(setup: Setup, change: Any) -> None:
    tags = {(await setup.stored()).etag}

    async def theirs() -> None:
        assert (await setup.other.upsert(make_job(payload=b"theirs"), if_match=tags))[1]

    setup.store.meanwhile = theirs
    with pytest.raises(VersionMismatch) as caught:
        await change(setup.jobs, tags)
    after = await setup.stored()
    assert (after.payload, after.version) == (b"theirs", 2)
    assert caught.value.etag == after.etag
    assert (await setup.jobs.get("job")).state.pending == ()


@each_change
async def test_a_job_that_is_created_again_between_plan_and_write_is_not_changed(setup: Setup, change: Any) -> None:
    before = await setup.stored()

    async def theirs() -> None:
        await setup.other.delete("job")
        setup.clock.advance(1)
        await setup.other.upsert(make_job())

    setup.store.meanwhile = theirs
    with pytest.raises(VersionMismatch):
        await change(setup.jobs, {before.etag})
    after = await setup.stored()
    assert after.version == before.version == 1
    assert after.same_definition(before)


@each_change
async def test_a_change_of_the_state_alone_does_not_matter(setup: Setup, change: Any) -> None:
    async def theirs() -> None:
        await setup.other.pause("job")
        await setup.other.resume("job")

    setup.store.meanwhile = theirs
    await change(setup.jobs, {(await setup.stored()).etag})
    assert setup.store.writes == 2


async def test_an_edit_keeps_what_another_client_changes_between_its_read_and_its_write(setup: Setup) -> None:
    async def theirs() -> None:
        await setup.other.upsert(make_job(payload=b"theirs"))

    setup.store.meanwhile = theirs
    view, changed = await edit_job(setup.jobs, "job", set_timeout)
    after = await setup.stored()
    assert (changed, view.job) == (True, after)
    assert (after.payload, after.policies, after.version) == (b"theirs", Policies(timeout_ms=5_000), 3)


async def test_an_edit_that_is_always_overtaken_gives_up(setup: Setup) -> None:
    numbers = iter(range(1_000))

    async def overtaken(job: Job) -> Job:
        await setup.other.upsert(make_job(payload=b"%d" % next(numbers)))
        return await set_timeout(job)

    with pytest.raises(StoreUnavailable):
        await edit_job(setup.jobs, "job", overtaken)
    assert (await setup.stored()).policies == Policies()


async def test_a_job_that_is_deleted_during_an_edit_is_not_created_again(setup: Setup) -> None:
    async def deleted(job: Job) -> Job:
        await setup.other.delete("job")
        return await set_timeout(job)

    with pytest.raises(JobNotFound):
        await edit_job(setup.jobs, "job", deleted)
    with pytest.raises(JobNotFound):
        await setup.jobs.get("job")


async def test_an_edit_whose_answer_was_lost_can_be_repeated(setup: Setup) -> None:
    before = await setup.stored()
    setup.store.loses = True
    with pytest.raises(OutcomeUnknown):
        await edit_job(setup.jobs, "job", change_payload, if_match={before.etag})
    with pytest.raises(VersionMismatch) as caught:
        await edit_job(setup.jobs, "job", change_payload, if_match={before.etag})
    assert caught.value.etag == (await setup.stored()).etag
    view, changed = await edit_job(setup.jobs, "job", change_payload)
    assert view.job is not None
    assert (changed, view.job.payload, view.job.version) == (False, b"mine", 2)


async def test_an_edit_and_its_preview_need_a_job_that_can_be_read(setup: Setup) -> None:
    for operation in (edit_job, preview_edit):
        with pytest.raises(JobNotFound):
            await operation(setup.jobs, "nobody", set_timeout)
        with pytest.raises(JobNotFound):
            await operation(setup.jobs, "nobody", set_timeout, if_match={"*"})
    redis: Any = setup.store.client
    await redis.hset(KEYS.jobs, "job", b"not a document")
    for operation in (edit_job, preview_edit):
        with pytest.raises(RunConflict):
            await operation(setup.jobs, "job", set_timeout)


async def test_a_preview_writes_nothing_and_has_the_refusals_of_the_change(setup: Setup) -> None:
    before = await setup.stored()
    preview = await preview_edit(setup.jobs, "job", change_payload, if_match={before.etag})
    assert (preview.before, preview.after.payload, preview.after.version) == (before, b"mine", 2)
    same = await preview_upsert(setup.jobs, make_job(), if_match={"*"})
    assert (same.changed, same.after) == (False, before)
    new = await preview_upsert(setup.jobs, make_job("new"))
    assert (new.before, new.changed, new.after.version) == (None, True, 1)
    for operation in (
        preview_edit(setup.jobs, "job", change_payload, if_match={"other"}),
        preview_upsert(setup.jobs, make_job(), if_match={"other"}),
        preview_upsert(setup.jobs, make_job("new"), if_match={"*"}),
    ):
        with pytest.raises(VersionMismatch):
            await operation
    assert setup.store.writes == 0
    assert await setup.stored() == before
