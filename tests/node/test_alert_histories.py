"""Random histories of runs with nodes that die at any command of a sweep: each change is in one message, once."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from random import Random
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import Pipeline
from redis.exceptions import ConnectionError as Disconnected

from scheduler_core.base.errors import StoreError
from scheduler_core.model.alerts import AlertCondition, Message
from scheduler_core.usecases.alert_outbox import OutboxChanged
from tests.support.alerts import FAILED, SENT, Fleet
from tests.support.examples import examples
from tests.support.stores import opened

JOBS = ("a", "b", "c")


class Faults:
    """Cuts the connection at one of the next commands, before or after Redis has carried it out."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.after = False
        for owner, name in ((Redis, "execute_command"), (Pipeline, "execute")):
            monkeypatch.setattr(owner, name, self._wrapped(getattr(owner, name)))

    def _wrapped(self, call: Any) -> Any:
        async def wrapped(client: Any, *args: Any, **options: Any) -> Any:
            if self.left is None:
                return await call(client, *args, **options)
            self.left -= 1
            fails = self.left < 0
            if fails and not self.after:
                raise Disconnected("cut before")
            result = await call(client, *args, **options)
            if fails:
                raise Disconnected("cut after")
            return result

        return wrapped


@pytest.fixture
async def fleet(redis_url: str) -> AsyncIterator[Fleet]:
    async with opened(redis_url) as (store, _):
        fleet = Fleet(store)
        await fleet.node.start()
        yield fleet


@pytest.mark.parametrize("seed", range(examples(3)))
async def test_each_change_is_reported_once_whatever_dies(
    fleet: Fleet, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    faults = Faults(monkeypatch)
    first = await fleet.rule(AlertCondition.FAILURE, AlertCondition.RECOVERY)
    second = await fleet.rule(AlertCondition.FAILURE, after_failures=2)
    await fleet.add(*JOBS)
    expected: Counter[tuple[int, AlertCondition, str]] = Counter()
    failures = dict.fromkeys(JOBS, 0)
    sent: dict[str, Message] = {}

    def note() -> None:
        for _, message in fleet.notifier.tried:
            known = sent.setdefault(message.id, message)
            assert (known.jobs, known.count) == (message.jobs, message.count), "an id has one content"
        fleet.notifier.tried = []

    for _ in range(12):
        for _ in range(random.randrange(4)):
            job_id, status = random.choice(JOBS), random.choice((200, 404))
            await fleet.run(job_id, status)
            if status == 404:
                failures[job_id] += 1
                expected[first.id, AlertCondition.FAILURE, job_id] += failures[job_id] == 1
                expected[second.id, AlertCondition.FAILURE, job_id] += failures[job_id] == 2
            else:
                expected[first.id, AlertCondition.RECOVERY, job_id] += failures[job_id] > 0
                failures[job_id] = 0
        down = random.random() < 0.3
        fleet.notifier.answer = lambda channel, message, down=down: FAILED if down else SENT  # type: ignore[misc]
        faults.left, faults.after = random.randrange(25), random.random() < 0.5
        with contextlib.suppress(StoreError, OutboxChanged):
            await fleet.step()
        fell, faults.left = faults.left < 0, None
        note()
        if fell:
            await fleet.fail_over()

    fleet.notifier.answer = lambda channel, message: SENT
    for _ in range(4):
        await fleet.step(after_ms=700_000)
        note()
    found = Counter((one.rule, one.on, job.job_id) for one in sent.values() for job in one.jobs)
    assert found == +expected
    assert await fleet.store.outbox().count_waiting() == 0
