"""The policies of jobs with real processes: overlap, catch-up, backfill, retries and bounds, also through kills."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import pytest

from scheduler_core.model.run import MissReason, Reason, Run, RunState
from tests.support.checker import Account
from tests.support.processes import Cronpost, eventually
from tests.support.recorder import Answer, Received
from tests.support.runners import Runner, drip_body, drip_head
from tests.system.deployment import EVERY_SECOND, Deployment

pytestmark = pytest.mark.slow

Json = dict[str, Any]
LEAP_DAY = "0 0 29 2 *"
"""A trigger that never fires during a test."""


def instant(at_ms: float) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()


def millis(text: str) -> int:
    """Return an RFC 3339 instant in epoch milliseconds."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)


def soon() -> str:
    """Return a cron expression with one fire time, 0.5 to 1.5 s from now, and none for a minute after it."""
    return f"{int(time.time() + 1.5) % 60} * * * * *"


async def account(server: Cronpost, job_id: str) -> list[Json]:
    """List all entries of a job's account, oldest first, read page by page."""
    client = await server.api()
    entries: list[Json] = []
    cursor: dict[str, str] = {}
    while True:
        answer = await client.get(f"/jobs/{job_id}/account", params={"limit": 10, **cursor})
        assert answer.status_code == 200, answer.text
        page = answer.json()
        entries += page["entries"]
        if page["next"] is None:
            return entries
        cursor = {"cursor": page["next"], "from": page["from"], "to": page["to"]}


def bounds(entry: Json) -> tuple[int, int]:
    """Return the first and the last fire time of an entry."""
    if entry["kind"] == "run":
        return millis(entry["fire_time"]), millis(entry["fire_time"])
    return millis(entry["first_fire_time"]), millis(entry["last_fire_time"])


def assert_gapless(entries: Iterable[Json], *, step_ms: int = 1000) -> None:
    """Assert that every fire time from the first to the last is in exactly one entry; repeated fire
    times are separate."""
    spans = [bounds(entry) for entry in entries if not entry["again"]]
    assert spans
    for (_, last), (first, _) in itertools.pairwise(spans):
        assert first == last + step_ms, f"after {last} comes {first}"
    for entry, (first, last) in zip((entry for entry in entries if not entry["again"]), spans, strict=True):
        if entry["kind"] == "range":
            assert entry["count"] == (last - first) // step_ms + 1


async def runs_of(server: Cronpost, job_id: str) -> list[Json]:
    """Return the settled runs of a job, oldest first; also of a deleted job."""
    answer = await (await server.api()).get(f"/jobs/{job_id}/runs", params={"limit": 1000})
    assert answer.status_code == 200, answer.text
    found: list[Json] = answer.json()["runs"]
    return found[::-1]


async def settled(server: Cronpost, job_id: str, count: int) -> list[Json]:
    """Wait until this many runs of a job are settled. A deleted job is unknown until the first of them is."""
    client = await server.api()

    async def there() -> bool:
        known = (await client.get(f"/jobs/{job_id}/runs")).status_code == 200
        return known and len(await runs_of(server, job_id)) >= count

    await eventually(there, what=f"{count} runs of {job_id} are not settled")
    return await runs_of(server, job_id)


async def completed(server: Cronpost, job_id: str) -> None:
    """Wait until the job is completed."""

    async def so() -> bool:
        view: Json = (await (await server.api()).get(f"/jobs/{job_id}")).json()
        return bool(view["status"] == "completed")

    await eventually(so, what=f"{job_id} is not completed")


def by_reason(account: Account, reason: MissReason) -> list[int]:
    """Return how many fire times of a job that fires every second are misses with this reason, range by range."""
    return [(miss.last_ms - miss.first_ms) // 1000 + 1 for miss in account.misses if miss.reason is reason]


def most_at_once(requests: Iterable[Received]) -> int:
    """Return how many of these requests were open at the same time."""
    changes = [(one.arrived_ms, 1) for one in requests]
    changes += [(one.ended_ms, -1) for one in requests if one.ended_ms is not None]
    return max(itertools.accumulate(change for _, change in sorted(changes)), default=0)


class TestRunsThatWouldOverlap:
    async def test_allow_stays_within_its_limit_queue_one_runs_one_more_and_skip_none(
        self, deployment: Deployment
    ) -> None:
        """One slow runner and three policies. Of four fire times in 3.4 seconds, three may be open at once."""
        server = await deployment.start()
        for job_id, seconds in (("allow", 3.4), ("queue", 1.4), ("skip", 1.4)):
            deployment.recorder.otherwise[job_id] = deployment.recorder.slow(seconds)
        await deployment.put(server, "allow", overlap="allow", max_concurrent=3)
        await deployment.put(server, "queue", overlap="queue_one")
        await deployment.put(server, "skip", overlap="skip")
        shown: list[int] = []

        async def has_run() -> bool:
            view = await deployment.view(server, "allow")
            shown.append(len(view["open_runs"]))
            assert all(run["state"] == "open" for run in view["open_runs"])
            assert len(view["open_runs"]) <= 3
            return len(deployment.recorder.of("allow")) >= 6

        await eventually(has_run)
        await deployment.recorder.until(
            lambda: len(deployment.recorder.of("queue")) >= 4 and len(deployment.recorder.of("skip")) >= 3
        )
        assert max(shown) == 3
        accounts = {one.job_id: one for one in await deployment.check()}

        assert most_at_once(deployment.recorder.of("allow")) == 3
        missed = by_reason(accounts["allow"], MissReason.OVERLAP)
        assert missed, "three runs are open at the fourth fire time"
        assert {miss.reason for one in accounts.values() for miss in one.misses} == {MissReason.OVERLAP}
        for job_id in accounts:
            assert_gapless(await account(server, job_id))

        # With queue_one a run follows at once, for the latest fire time that passed; with skip the job waits for
        # the next fire time.
        for job_id in ("queue", "skip"):
            for earlier, later in itertools.pairwise(deployment.recorder.of(job_id)):
                assert earlier.ended_ms is not None
                assert (later.fire_time_ms < earlier.ended_ms) == (job_id == "queue"), f"{earlier}, then {later}"
                assert later.fire_time_ms + 1000 > earlier.ended_ms

    async def test_open_runs_of_a_killed_node_are_delivered_again_under_the_same_ids(
        self, deployment: Deployment
    ) -> None:
        await deployment.redis.start()
        survivor, victim = await asyncio.gather(deployment.start("serve"), deployment.start("node"))
        deployment.recorder.otherwise["a"] = deployment.recorder.slow(2.5)
        await deployment.put(survivor, "a", overlap="allow", max_concurrent=3)
        survivor.freeze()
        await deployment.recorder.until(lambda: most_at_once(deployment.recorder.of("a")) >= 2)
        killed_at = deployment.now_ms()
        await victim.kill()
        deployment.record_fault(killed_at - 500, killed_at)
        survivor.thaw()
        await deployment.recorder.until(
            lambda: len([one for one in deployment.recorder.of("a") if one.client_gone]) >= 2
        )
        broken = {one.run_id for one in deployment.recorder.of("a") if one.client_gone}
        await deployment.recorder.until(
            lambda: broken <= {one.run_id for one in deployment.recorder.of("a") if one.status == 200},
            what="the open requests of the killed node are sent again",
        )
        await deployment.recorder.until_requests(2, "a")
        (judged,) = await deployment.check()
        done = {run.id for run in judged.runs if run.state is RunState.SUCCEEDED}
        assert broken <= done
        assert len({one.run_id for one in deployment.recorder.of("a")}) == len(judged.all_runs)
        assert_gapless(await account(survivor, "a"))

    async def test_the_account_begins_with_the_first_run_even_if_it_ends_after_the_second(
        self, deployment: Deployment
    ) -> None:
        server = await deployment.start()
        hold = deployment.recorder.hold("a")
        await deployment.put(server, "a", overlap="allow", max_concurrent=3)
        await settled(server, "a", 1)
        first = hold.received.fire_time_ms
        assert bounds((await account(server, "a"))[0]) == (first, first), "an open run has its place too"
        hold.release()
        await settled(server, "a", 2)
        entries = await account(server, "a")
        assert bounds(entries[0]) == (first, first)
        assert_gapless(entries)

    async def test_a_delete_while_several_runs_are_open_starts_no_run_and_records_their_ends(
        self, deployment: Deployment
    ) -> None:
        server = await deployment.start()
        holds = [deployment.recorder.hold("a") for _ in range(3)]
        await deployment.put(server, "a", overlap="allow", max_concurrent=5)
        await deployment.put(server, "other")
        await deployment.recorder.until(lambda: all(hold.has_arrived for hold in holds))
        deployment.recorder.otherwise["a"] = Answer(503)
        await deployment.delete(server, "a")
        holds[0].release(200)
        holds[1].release(503)  # would be retried if the job existed
        ended = await settled(server, "a", 2)
        assert {run["state"] for run in ended} == {"succeeded", "cancelled"}
        await deployment.recorder.until_requests(2, "other")
        holds[2].release(404)
        ended = await settled(server, "a", 3)
        states = {run["id"]: run["state"] for run in ended}
        assert [states[hold.received.run_id] for hold in holds] == ["succeeded", "cancelled", "failed"]
        assert len(deployment.recorder.of("a")) == len(ended) == 3, "nothing else has started"
        assert (await (await server.api()).get("/jobs/a")).status_code == 404
        await deployment.check()


class TestAfterDowntime:
    async def test_recovery_all_runs_missed_fire_times_in_order_within_its_limits(self, deployment: Deployment) -> None:
        server = await deployment.start()
        jobs = ("everything", "limited", "windowed", "latest", "nothing")
        for job_id in jobs:
            deployment.recorder.otherwise[job_id] = deployment.recorder.slow(0.3)
        every: Json = {"recovery": "all", "overlap": "queue_one"}
        # A slow machine starts the server late; the limit is above the number of fire times that pass until then.
        await deployment.put(server, "everything", **every, catch_up_limit=100)
        await deployment.put(server, "limited", **every, catch_up_limit=2)
        await deployment.put(server, "windowed", **every, catch_up_window_seconds=3.5)
        await deployment.put(server, "latest", recovery="latest", overlap="queue_one")
        await deployment.put(server, "nothing", overlap="queue_one")
        await deployment.recorder.until_requests(1, *jobs)

        async def idle() -> bool:
            views = [await deployment.view(server, job_id) for job_id in jobs]
            return all(view["status"] == "active" for view in views)

        await eventually(idle)  # a run that is open when its node dies is tested elsewhere
        killed_at = deployment.now_ms()
        await server.kill()
        deployment.record_fault(killed_at - 500, killed_at)
        await eventually(lambda: deployment.now_ms() > killed_at + 5000)
        server = await deployment.start()

        async def caught_up() -> bool:
            views = [await deployment.view(server, job_id) for job_id in jobs]
            return not any(view["replays"] for view in views)

        await deployment.recorder.until_requests(2, *jobs)
        await eventually(caught_up)
        accounts = {one.job_id: one for one in await deployment.check()}
        caught = {job_id: [one for one in runs(accounts[job_id]) if one.reason is Reason.RECOVERY] for job_id in jobs}

        missed = [run.fire_time_ms for run in caught["everything"]]
        assert len(missed) >= 5
        assert missed == list(range(missed[0], missed[-1] + 1000, 1000)), "each of them, in order"
        assert not accounts["everything"].misses
        assert len(caught["limited"]) == 2
        for job_id in ("limited", "windowed"):
            (expired,) = accounts[job_id].misses
            assert expired.reason is MissReason.EXPIRED
            assert expired.last_ms + 1000 == caught[job_id][0].fire_time_ms, "the latest fire times are run"
        (expired,) = accounts["windowed"].misses
        oldest_ms = expired.recorded_at_ms - 3500
        assert expired.last_ms < oldest_ms
        assert [run.fire_time_ms for run in caught["windowed"]] == [at_ms for at_ms in missed if at_ms >= oldest_ms]
        assert len(caught["latest"]) == 1
        for job_id, job_account in accounts.items():
            reasons = {miss.reason for miss in job_account.misses}
            assert reasons <= ({MissReason.DOWNTIME} if job_id in {"latest", "nothing"} else {MissReason.EXPIRED})
            assert_gapless(await account(server, job_id))

        # Fire times that are due meanwhile do not wait behind the missed ones. One missed run may arrive after such a
        # fire time, because it was claimed before; a second one was claimed after it.
        requests = deployment.recorder.of("everything")
        for one in requests:
            if one.reason != "scheduled" or one.arrived_ms < killed_at:
                continue
            before = [
                other
                for other in requests
                if other.reason == "recovery" and one.fire_time_ms < other.arrived_ms < one.arrived_ms
            ]
            assert len(before) <= 1, f"{one.fire_time_ms} was due, and ran after {len(before)} that were not"

    async def test_a_backfill_runs_each_fire_time_once_and_after_those_that_are_due(
        self, deployment: Deployment
    ) -> None:
        await deployment.redis.start()
        server, _ = await asyncio.gather(deployment.start("serve"), deployment.start("node"))
        deployment.recorder.otherwise["a"] = deployment.recorder.slow(0.2)
        await deployment.put(server, "a", overlap="queue_one")
        await deployment.recorder.until_requests(2, "a")
        start = (deployment.recorder.of("a")[0].fire_time_ms // 60_000 - 60) * 60_000
        client = await server.api()
        body = {"start": instant(start), "end": instant(start + 11_000)}
        answer = await client.post("/jobs/a/backfill", json=body)
        assert answer.status_code == 202, answer.text
        assert answer.json()["runs"] == 12
        own = {
            "start": instant(deployment.recorder.of("a")[0].fire_time_ms),
            "end": instant(deployment.now_ms()),
            "limit": 2,
        }
        answer = await client.post("/jobs/a/backfill", json=own)
        assert answer.json()["runs"] == 2
        limited = {"start": instant(start + 60_000), "end": instant(start + 600_000), "limit": 3}
        answer = await client.post("/jobs/a/backfill", json=limited)
        assert answer.json()["runs"] == 3
        twice = [one.fire_time_ms for one in deployment.recorder.of("a")[:2]]
        wanted = [start + 1000 * second for second in range(12)]
        wanted += [*twice, *(start + 60_000 + 1000 * second for second in range(3))]

        def again() -> list[Received]:
            return [one for one in deployment.recorder.of("a") if one.reason == "backfill"]

        await deployment.recorder.until(lambda: len(again()) == len(wanted))
        await deployment.recorder.until_requests(1, "a")
        assert (await deployment.view(server, "a"))["replays"] == []
        (judged,) = await deployment.check()
        assert not judged.misses, "no regular fire time was missed"
        assert [one.fire_time_ms for one in again()] == wanted
        assert len({one.run_id for one in deployment.recorder.of("a")}) == len(deployment.recorder.of("a"))
        first, last = again()[0].arrived_ms, again()[-1].arrived_ms
        between = [
            one for one in deployment.recorder.of("a") if one.reason == "scheduled" and first < one.arrived_ms < last
        ]
        assert len(between) >= 2, "the trigger fires meanwhile"
        entries = await account(server, "a")
        assert_gapless(entries)
        assert [millis(entry["fire_time"]) for entry in entries if entry["again"]] == sorted(wanted)
        history = [run for run in await runs_of(server, "a") if run["reason"] == "backfill"]
        assert [(millis(run["fire_time"]), run["state"]) for run in history] == [(one, "succeeded") for one in wanted]


def runs(account: Account) -> list[Run]:
    """List the runs of an account in the order in which they were delivered."""
    return sorted(account.all_runs, key=lambda run: run.started_at_ms or 0)


class TestRetries:
    async def test_attempts_statuses_factor_and_delays_are_those_of_the_job(self, deployment: Deployment) -> None:
        server = await deployment.start()
        quick: Json = {"first_delay_seconds": 0.2, "factor": 10, "max_delay_seconds": 0.8, "attempts": 6}
        for job_id in ("asked", "fired", "listed"):
            deployment.recorder.script(job_id, 503, 502, 500, 429, 408, 504, otherwise=200)
        deployment.recorder.script("unlisted", 500, otherwise=200)
        deployment.recorder.script("once", 503, otherwise=200)
        deployment.recorder.script("old", otherwise=503)
        deployment.recorder.script("recovers", 500, 500, otherwise=200)
        retries: dict[str, Json | None] = {
            "asked": quick | {"statuses": [500]},
            "listed": quick | {"statuses": [500, 404], "attempts": 3},
            "unlisted": quick,
            "once": {"attempts": 1},
            "old": quick | {"attempts": 1000, "max_age_seconds": 1.5},
            "recovers": {"statuses": [500], "first_delay_seconds": 0.1},
        }
        await deployment.put(server, "fired", soon(), retry=quick | {"statuses": [500]})
        for job_id, retry in retries.items():
            await deployment.put(server, job_id, LEAP_DAY, retry=retry)
            assert (await (await server.api()).post(f"/jobs/{job_id}/run")).status_code == 202
        ended = {job_id: (await settled(server, job_id, 1))[-1] for job_id in (*retries, "fired")}
        attempts = {job_id: len(deployment.recorder.of(job_id)) for job_id in ended}
        old = attempts.pop("old")
        assert attempts == {"asked": 6, "fired": 6, "listed": 3, "unlisted": 1, "once": 1, "recovers": 3}
        assert {job_id: run["state"] for job_id, run in ended.items()} == {
            job_id: "succeeded" if job_id == "recovers" else "failed" for job_id in ended
        }
        for job_id in ("asked", "fired"):
            assert "6 attempts" in ended[job_id]["message"]
            requests = deployment.recorder.of(job_id)
            assert [one.attempt for one in requests] == [1, 2, 3, 4, 5, 6]
            # The first delay twice, then ten times as much, limited by the cap: without it, 2, 20 and 200 seconds.
            for (earlier, later), delay_ms in zip(itertools.pairwise(requests), (200, 200, 800, 800, 800), strict=True):
                assert earlier.ended_ms is not None
                # Instants are whole milliseconds, rounded down.
                assert later.arrived_ms >= earlier.ended_ms + delay_ms - 1
        assert old >= 2
        first, last = deployment.recorder.of("old")[0], deployment.recorder.of("old")[-1]
        assert last.attempt == old
        assert "too long ago" in ended["old"]["message"]
        assert first.ended_ms is not None
        await deployment.check()

    async def test_timeout_seconds_ends_an_attempt_whose_answer_arrives_byte_by_byte(
        self, deployment: Deployment
    ) -> None:
        """Every byte is in time, the whole answer is not. The server's setting would allow 20 seconds."""
        server = await deployment.start()
        client = await server.api()
        ended: Json = {}
        async with Runner(otherwise=drip_body(0.02)) as body, Runner(otherwise=drip_head(0.02)) as head:
            for job_id, runner in (("body", body), ("head", head)):
                fields: Json = {"endpoint": runner.url(), "timeout_seconds": 0.7}
                retry: Json = {"attempts": 2, "first_delay_seconds": 0.1}
                await deployment.put(server, job_id, LEAP_DAY, **fields, retry=retry)
                assert (await client.post(f"/jobs/{job_id}/run")).status_code == 202
            for job_id, runner in (("body", body), ("head", head)):
                (ended[job_id],) = await settled(server, job_id, 1)
                assert len(runner.received) == 2
        for run in ended.values():
            assert run["state"] == "failed"
            assert [attempt["outcome"] for attempt in run["attempts"]] == ["timeout", "timeout"]
            assert all(690 <= attempt["latency_ms"] < 10_000 for attempt in run["attempts"])
        listed = (await client.get("/runs", params={"status_filter": "TIMEOUT"})).json()
        assert {run["job_id"] for run in listed} == {"body", "head"}


class TestBounds:
    async def test_a_job_fires_from_its_start_to_its_end_and_is_then_completed(self, deployment: Deployment) -> None:
        server = await deployment.start()
        starts = (int(time.time()) + 3) * 1000
        bounded: Json = {"starts_at": instant(starts), "ends_at": instant(starts + 2000)}
        between: Json = {"starts_at": instant(starts + 1), "ends_at": instant(starts + 2999)}
        counted: Json = {"starts_at": instant(starts), "max_runs": 2}
        await deployment.put(server, "bounded", **bounded)
        await deployment.put(server, "between", **between)
        await deployment.put(server, "counted", **counted)
        await deployment.put(server, "spread", **bounded, jitter_seconds=0.9)
        hold = deployment.recorder.hold("waits")
        await deployment.put(server, "waits", max_runs=1)
        client = await server.api()
        for job_id, fields in (("bounded", bounded), ("spread", {**bounded, "jitter_seconds": 0.9})):
            same = {"id": job_id, "endpoint": deployment.recorder.url, "cron": EVERY_SECOND, "payload": {"job": job_id}}
            assert (await client.post("/", json={**same, **fields})).json()["changed"] is False
        view = await deployment.view(server, "spread")
        offset = round(view["jitter_offset_seconds"] * 1000)
        assert 0 < offset < 900
        expected = {
            "bounded": [starts, starts + 1000, starts + 2000],
            "between": [starts + 1000, starts + 2000],
            "counted": [starts, starts + 1000],
            "spread": [starts + offset, starts + 1000 + offset, starts + 2000 + offset],
        }
        assert [millis(one) for one in view["next_fire_times"]] == expected["spread"]
        counted_view = await deployment.view(server, "counted")
        assert [millis(one) for one in counted_view["next_fire_times"]] == expected["counted"]

        # A job whose trigger has ended is completed when its requested runs have ended.
        await deployment.recorder.until(lambda: hold.has_arrived)
        assert (await client.post("/jobs/waits/run", json={"force": True})).status_code == 202
        for job_id in expected:
            await completed(server, job_id)
        assert (await deployment.view(server, "waits"))["next_fire_times"] == []
        hold.release()
        await completed(server, "waits")
        assert [one.reason for one in deployment.recorder.of("waits")] == ["scheduled", "manual"]

        for job_id, fire_times in expected.items():
            requests = deployment.recorder.of(job_id)
            assert [one.fire_time_ms for one in requests] == fire_times
            assert all(one.arrived_ms >= one.fire_time_ms - 2 for one in requests)
            history = await runs_of(server, job_id)
            assert [(millis(run["fire_time"]), run["state"]) for run in history] == [
                (fire_time, "succeeded") for fire_time in fire_times
            ]
            entries = await account(server, job_id)
            assert [bounds(entry) for entry in entries] == [(fire_time, fire_time) for fire_time in fire_times]
            listed = (await client.get("/runs", params={"job_id": job_id})).json()
            assert [run["id"] for run in listed] == [run["id"] for run in reversed(history)]
