"""Runs examples/api_getter with real processes: Cronpost, the getter, and the API that it copies.

Only settings make the times short: a cron of seconds instead of a day, a small ``min_interval_seconds``, short retry
delays. Three sources check each claim: the requests that the API received, the files on disk, and the records of
Cronpost.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from scheduler_core.embedded import EmbeddedRedis, ask
from tests.support.processes import ROOT, Child, Cronpost, eventually
from tests.system.deployment import Deployment

EXAMPLE = ROOT / "examples" / "api_getter"
JOB: dict[str, Any] = json.loads((EXAMPLE / "job.json").read_text())
ITEMS = {"orders": 45, "customers": 25, "events": 15}
LEAP_DAY = "0 0 29 2 *"
"""A trigger that never fires during a test."""
DAILY = "*/3 * * * * *"
"""A "day" of three seconds."""
RETRY = {**JOB["retry"], "first_delay_seconds": 1, "factor": 1}
STORY_SECONDS = 40.0
"""Far longer than a copy takes: about ten pages, each at least a second after the previous one."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

Json = dict[str, Any]


class Program(Child):
    """A program of the example. Its first line contains its address."""

    def __init__(self, name: str, *options: object, directory: Path) -> None:
        environment = {"PATH": os.environ.get("PATH", ""), "PYTHONUNBUFFERED": "1"}
        command = [sys.executable, str(EXAMPLE / f"{name}.py"), *(str(option) for option in options)]
        super().__init__(command, directory=directory, environment=environment)

    async def address(self) -> str:
        def said() -> re.Match[str] | None:
            assert self.is_running, f"it has ended:\n{self.output()}"
            return re.search(r" on (http://\S+)\n", self.output())

        await eventually(said)
        found = said()
        assert found is not None
        return found[1]


@dataclass
class Setup:
    """The API, the getter that copies it, and the job that drives the getter."""

    deployment: Deployment
    stack: AsyncExitStack
    root: Path
    server: Cronpost = field(init=False)
    getter: Program = field(init=False)
    getter_url: str = field(init=False)
    api: httpx.AsyncClient = field(init=False)

    async def open(self) -> None:
        """Start everything but Cronpost."""
        directory = self.deployment.processes.directory
        items = [f"{name}={count}" for name, count in ITEMS.items()]
        api = Program("fake_api", "--port", 0, "--items", *items, directory=directory)
        self.stack.callback(api.clean_up)
        client = httpx.AsyncClient(base_url=await api.address(), trust_env=False)
        self.api = await self.stack.enter_async_context(client)
        await self.start_getter(port=0)

    async def start_getter(self, *, port: int | None = None) -> None:
        """Start the getter, or start it again at its address."""
        if port is None:
            port = httpx.URL(self.getter_url).port or 0
        options = ("--port", port, "--api", self.api.base_url, "--root", self.root, "--timeout", 60)
        self.getter = Program("getter", *options, directory=self.deployment.processes.directory)
        self.stack.callback(self.getter.clean_up)
        self.getter_url = await self.getter.address()

    async def start_server(self) -> None:
        """Start Cronpost with its own Redis, or start both again."""
        data = self.deployment.processes.directory / "data"
        self.server = await self.deployment.start("serve", redis_url="", data_dir=data, attempt_timeout_seconds=60)
        # With Cronpost's own settings, a kill may lose the last writes that Redis had answered.
        assert ask(EmbeddedRedis(data).socket_path, "CONFIG", "SET", "appendfsync", "always") == "+OK"

    async def put(self, **fields: Any) -> None:
        """Store the example's job, with times of seconds; starts Cronpost if necessary."""
        if not hasattr(self, "server"):
            await self.start_server()
        job = {**JOB, "endpoint": self.getter_url, "retry": RETRY, "timeout_seconds": 60, **fields}
        answer = await (await self.server.api()).post("/", json=job)
        assert answer.status_code == 202, answer.text

    async def call(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Send a request about the job."""
        return await (await self.server.api()).request(method, f"/jobs/{JOB['id']}{path}", **options)

    async def poke(self, count: int = 1) -> list[httpx.Response]:
        """Send ``POST /jobs/{id}/run`` without a body, ``count`` times at once."""
        return list(await asyncio.gather(*(self.call("POST", "/run") for _ in range(count))))

    async def pending(self) -> list[Json]:
        answer = await self.call("GET", "/pending")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["pending"]
        return found

    async def records(self) -> list[Json]:
        """Settled runs and misses, oldest first."""
        answer = await self.call("GET", "/runs?misses=true&limit=1000")
        assert answer.status_code == 200, answer.text
        found: list[Json] = answer.json()["runs"]
        return found[::-1]

    async def runs(self) -> list[Json]:
        return [record for record in await self.records() if record["kind"] == "run"]

    async def fault(self, **fault: Any) -> None:
        assert (await self.api.post("/_faults", json=fault)).status_code == 200

    async def end_faults(self) -> None:
        assert (await self.api.delete("/_faults")).status_code == 200

    async def add_items(self, endpoint: str, count: int) -> None:
        assert (await self.api.post("/_items", json={"endpoint": endpoint, "count": count})).status_code == 200

    async def asked(self, endpoint: str | None = None) -> list[Json]:
        """List the requests that the API received, in order; all of them, or those for one endpoint."""
        found = (await self.api.get("/_asked")).json()["asked"]
        return [one for one in found if endpoint in {None, one["endpoint"]}]

    async def most_open(self) -> int:
        most: int = (await self.api.get("/_asked")).json()["most_open"]
        return most

    def pages(self, endpoint: str) -> list[Json]:
        return [json.loads(path.read_bytes()) for path in sorted((self.root / endpoint).glob("*.json"))]

    def ids(self, endpoint: str) -> list[int]:
        return [item["id"] for page in self.pages(endpoint) for item in page["items"]]

    def has(self, **items: int) -> bool:
        """Return whether this many items of each endpoint are on disk: every one, in order, none twice."""
        return all(self.ids(endpoint) == list(range(1, count + 1)) for endpoint, count in items.items())

    async def copied(self, **items: int) -> None:
        """Wait until this many items are on disk and no entry is pending."""

        async def so() -> bool:
            return self.has(**items) and not await self.pending() and (await self.view())["open_run"] is None

        await eventually(so, seconds=STORY_SECONDS, what=f"on disk: {[(name, self.ids(name)) for name in items]}")

    async def view(self) -> Json:
        answer = await self.call("GET", "")
        assert answer.status_code == 200, answer.text
        found: Json = answer.json()
        return found

    async def until_busy(self, *, runs: int) -> None:
        """Wait until this many runs are settled and the API is answering a page."""

        async def so() -> bool:
            return len(await self.runs()) >= runs and bool((await self.api.get("/_asked")).json()["open"])

        await eventually(so, seconds=STORY_SECONDS, what="no page is requested")

    async def until_asked(self, endpoint: str, cursor: str | None) -> None:
        async def so() -> bool:
            return any(one["cursor"] == cursor for one in await self.asked(endpoint))

        await eventually(so, seconds=STORY_SECONDS, what=f"{endpoint} after {cursor}")


@pytest.fixture
async def setup(deployment: Deployment, request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        setup = Setup(deployment, stack, deployment.processes.directory / "copy")
        await setup.open()
        yield setup
        report = getattr(request.node, "report_of_call", None)
        if report is not None and report.failed:
            print(setup.getter.output())


def cursors(asked: list[Json], *, status: int | None = None) -> list[str | None]:
    """List the cursors of the requested pages; only those that got this answer."""
    return [one["cursor"] for one in asked if status in {None, one["status"]}]


def at(instant: str) -> float:
    """Return an RFC 3339 instant in seconds."""
    return datetime.fromisoformat(instant).timestamp()


def only_one_started(answers: list[httpx.Response]) -> bool:
    """Return whether exactly one of these pokes started a run.

    For the others, that run was still open, or it was over while its next pages were not due yet.
    """
    others = [answer for answer in answers if answer.status_code != 202]
    skipped = {answer.json()["skipped"] for answer in others if answer.status_code == 200}
    return (
        len(others) == len(answers) - 1 and {one.status_code for one in others} <= {200, 409} and skipped <= {"not_due"}
    )


async def pokes_until(setup: Setup, done: Callable[[], bool]) -> list[httpx.Response]:
    """Poke the job twice at once, ten times per second, until the other task ends."""
    answers: list[httpx.Response] = []
    while not done():
        answers += await setup.poke(2)
        await asyncio.sleep(0.1)
    return answers


async def test_a_copy_survives_a_429_and_a_500_and_then_fetches_only_new_items_each_day(setup: Setup) -> None:
    """Two clients poke the job all the time."""
    await setup.fault(endpoint="customers", cursor="10", status=429, retry_after=4)
    await setup.fault(endpoint="events", cursor=None, status=500)  # any of its pages: the first one
    await setup.put(cron=DAILY, min_interval_seconds=600)
    history = asyncio.create_task(setup.copied(**ITEMS))
    pokes = await pokes_until(setup, history.done)
    await history

    # The requests to the API: each page once, in order; pages without an answer once more, with the same parameters.
    assert cursors(await setup.asked("orders"))[:5] == [None, "10", "20", "30", "40"]
    assert cursors(await setup.asked("customers"))[:4] == [None, "10", "10", "20"]
    assert cursors(await setup.asked("events"))[:3] == [None, None, "10"]
    refused, given = [one for one in await setup.asked("customers") if one["cursor"] == "10"]
    assert (refused["status"], given["status"]) == (429, 200)
    assert given["at"] - refused["at"] >= 4.0, "a poke never leads to a request before the time that the API set"
    meanwhile = [one for one in await setup.asked("orders") if refused["at"] < one["at"] < given["at"]]
    assert len(meanwhile) >= 2, "the others keep firing"
    assert await setup.most_open() == 1, "one run at a time"

    # The records of Cronpost: one run for each page, the same run when a page is requested again; the trigger was
    # blocked all the time.
    records = await setup.records()
    runs = [record for record in records if record["kind"] == "run"]
    pages = [run for run in runs if run["reason"] == "continuation"][:10]
    assert [run["state"] for run in pages] == ["succeeded"] * 10
    tries = sorted([one["status_code"] for one in run["attempts"]] for run in pages)
    assert tries == [[200]] * 8 + [[429, 200], [500, 200]]
    first, last = at(pages[0]["started_at"]), max(at(run["ended_at"]) for run in pages)
    assert not [run for run in runs if run["reason"] != "continuation" and first < at(run["started_at"]) < last]
    assert [one for one in records if one["kind"] == "miss" and one["reason"] == "held"]

    # The files on disk: each page with the run that fetched it.
    assert len({page["run"] for name in ITEMS for page in setup.pages(name)}) == 10
    assert {page["run"] for name in ITEMS for page in setup.pages(name)} == {run["id"] for run in pages}

    # The answers to the pokes: they started the first run, if they came before the trigger, and pages that were due.
    assert {answer.status_code for answer in pokes} <= {200, 202, 409}
    started = {answer.json()["run_id"] for answer in pokes if answer.status_code == 202}
    assert started <= {run["id"] for run in await setup.runs()}
    skipped = {answer.json()["skipped"] for answer in pokes if answer.status_code == 200}
    assert "not_due" in skipped
    assert skipped <= {"not_due", "too_soon"}

    # Then only the new items, every "day".
    before = len(await setup.asked())
    await setup.add_items("orders", 7)
    await setup.add_items("events", 13)
    new = asyncio.create_task(setup.copied(orders=52, customers=25, events=28))
    await pokes_until(setup, new.done)
    await new
    asked = (await setup.asked())[before:]
    assert set(cursors(asked)) <= {"45", "52", "25", "15", "28"}, "only from where the copy ended"
    brought = {page["run"] for page in (setup.pages("orders")[5], *setup.pages("events")[2:])}
    assert brought <= {run["id"] for run in await setup.runs() if run["reason"] == "continuation"}
    assert [run["state"] for run in await setup.runs() if run["state"] != "succeeded"] == []
    assert await setup.most_open() == 1


async def test_a_job_that_is_poked_all_the_time_calls_the_api_only_when_due(setup: Setup) -> None:
    """The job has no trigger: only pokes start it, and ``min_interval_seconds`` is the day."""
    await setup.put(cron=LEAP_DAY, min_interval_seconds=5)
    assert only_one_started(await setup.poke(2))
    skipped: set[str] = set()
    history = asyncio.create_task(setup.copied(**ITEMS))
    skipped |= {answer.json().get("skipped", "") for answer in await pokes_until(setup, history.done)}
    await history
    assert "not_due" in skipped, "the earliest page lies ahead"
    assert len(await setup.asked()) == 10, "each page was requested once"
    assert [run["reason"] for run in await setup.runs()] == ["manual"] + ["continuation"] * 10

    # The next day: one run, and its continuations.
    answers = await pokes_for_runs(setup, 12)
    assert {answer.json().get("skipped") for answer in answers if answer.status_code == 200} <= {"too_soon", "not_due"}
    assert "too_soon" in {answer.json().get("skipped") for answer in answers}
    runs = await setup.runs()
    assert runs[11]["reason"] == "manual"
    assert at(runs[11]["started_at"]) - max(at(run["started_at"]) for run in runs[:11]) >= 5.0

    # The following days.
    history = asyncio.create_task(setup.copied(**ITEMS))
    await pokes_until(setup, history.done)
    await history
    await setup.add_items("customers", 1)
    copied = asyncio.create_task(setup.copied(customers=26))
    await pokes_until(setup, copied.done)
    await copied
    await eventually(lambda: setup.has(**{**ITEMS, "customers": 26}))
    assert await setup.most_open() == 1


async def pokes_for_runs(setup: Setup, count: int) -> list[httpx.Response]:
    """Poke the job until this many of its runs are settled."""

    async def there() -> None:
        async def so() -> bool:
            return len(await setup.runs()) >= count

        await eventually(so, seconds=STORY_SECONDS)

    waiting = asyncio.create_task(there())
    answers = await pokes_until(setup, waiting.done)
    await waiting
    return answers


@pytest.mark.parametrize("victims", ["getter", "server", "getter and server"])
async def test_a_getter_that_is_killed_in_the_middle_of_a_page_resumes_at_that_page(setup: Setup, victims: str) -> None:
    await setup.fault(endpoint="orders", cursor="10", seconds=60)
    await setup.put(cron=LEAP_DAY)
    await setup.poke()
    await setup.until_asked("orders", "10")
    waiting = await setup.pending()
    node = (await setup.view())["open_run"]["node"]
    assert setup.ids("orders") == list(range(1, 11)), "the page is not there yet"

    if "server" in victims:
        await setup.server.kill()
    if "getter" in victims:
        await setup.getter.kill()
        await setup.end_faults()
    if "server" in victims:
        await setup.start_server()
        assert {entry["run_id"] for entry in await setup.pending()} == {entry["run_id"] for entry in waiting}
    if "getter" in victims:
        await setup.start_getter()
    if victims == "server":

        async def taken_over() -> bool:
            open_run = (await setup.view())["open_run"]
            return open_run is not None and open_run.get("node") not in {None, node}

        await eventually(taken_over, what="the new server sends the run again")
        await setup.end_faults()
    await setup.copied(**ITEMS)

    times = 2 if "getter" in victims else 1
    assert cursors(await setup.asked("orders")) == [None, *["10"] * times, "20", "30", "40"]
    assert len(await setup.asked()) == 10 + times - 1, "no other page was requested twice"
    page = setup.pages("orders")[1]
    (run,) = [run for run in await setup.runs() if run["id"] == page["run"]]
    assert run["state"] == "succeeded"
    assert len(await setup.runs()) == 11, "one run begins, and one for each page"
    if victims == "getter":
        *broken, last = [attempt["outcome"] for attempt in run["attempts"]]
        assert (set(broken), last) == ({"connection"}, "response")
    if victims == "server":
        assert setup.getter.output().count("orders page 2") == 2, "it came again, and was answered from the disk"


async def test_repeated_kills_neither_lose_nor_double_a_page(setup: Setup) -> None:
    for name in ITEMS:
        await setup.fault(endpoint=name, seconds=0.3, times=1000)
    await setup.put(cron=LEAP_DAY)
    await setup.poke()
    for count, victims in enumerate(("getter", "server", "both", "server", "getter", "both"), 1):
        # At least one run ends between two kills: a job whose run takes three nodes in a row with it is quarantined.
        await setup.until_busy(runs=count)
        if victims != "getter":
            await setup.server.kill()
        if victims != "server":
            await setup.getter.kill()
            await setup.start_getter()
        if victims != "getter":
            await setup.start_server()
    await setup.end_faults()
    await setup.copied(**ITEMS)

    runs = await setup.runs()
    assert [run["reason"] for run in runs].count("continuation") == len(runs) - 1 == 10
    assert {run["state"] for run in runs} == {"succeeded"}
    assert {page["run"] for name in ITEMS for page in setup.pages(name)} == {run["id"] for run in runs[1:]}
    assert len(await setup.asked()) <= 10 + 4, "only the page of the killed getter is requested again"


async def test_simultaneous_pokes_at_two_servers_start_one_run(setup: Setup) -> None:
    await setup.deployment.redis.start()
    servers = await asyncio.gather(setup.deployment.start("serve"), setup.deployment.start("serve"))
    setup.server = servers[0]
    await setup.put(cron=LEAP_DAY, min_interval_seconds=600)
    clients = [await one.api() for one in servers]
    answers = await asyncio.gather(*(client.post(f"/jobs/{JOB['id']}/run") for client in clients for _ in range(5)))
    assert only_one_started(answers)
    history = asyncio.create_task(setup.copied(**ITEMS))
    while not history.done():
        for one in servers:
            setup.server = one
            await setup.poke(2)
    await history
    assert len(await setup.asked()) == 10
    assert len(await setup.runs()) == 11
    assert await setup.most_open() == 1


async def test_replacing_the_pending_list_ends_its_chains_and_the_next_run_continues_the_copy(
    setup: Setup,
) -> None:
    await setup.fault(endpoint="orders", cursor="10", seconds=60)
    await setup.put(cron=LEAP_DAY, min_interval_seconds=0)
    await setup.poke()
    await setup.until_asked("orders", "10")
    assert (await setup.call("PUT", "/pending", json={"pending": []})).status_code < 300
    await setup.end_faults()

    async def settled() -> bool:
        view = await setup.view()
        return view["open_run"] is None and not view["pending"] and len(setup.pages("orders")) == 2

    await eventually(settled, what="the open run ends, and no run follows")
    dropped = [run for run in await setup.runs() if "dropped" in run["message"]]
    assert [(run["state"], run["id"]) for run in dropped] == [("succeeded", setup.pages("orders")[1]["run"])]
    await setup.poke()
    await setup.copied(**ITEMS)
    assert len(await setup.asked()) == 10


async def test_a_page_that_the_api_refuses_for_good_is_set_aside_until_a_person_revives_it(setup: Setup) -> None:
    await setup.fault(endpoint="events", cursor="10", status=403, times=1)
    await setup.put(cron=LEAP_DAY)
    await setup.poke()

    async def set_aside() -> bool:
        left = await setup.pending()
        return setup.has(orders=45, customers=25, events=10) and [one["failed"] is not None for one in left] == [True]

    await eventually(set_aside, seconds=STORY_SECONDS)
    (entry,) = await setup.pending()
    assert entry["payload"] == {"endpoint": "events", "page": 2, "cursor": "10"}
    assert (await setup.view())["held_for"] is None, "an entry that is set aside does not block the trigger"
    (run,) = [run for run in await setup.runs() if run["state"] == "failed"]
    assert run["status_code"] == 422
    assert "403" in run["answer_excerpt"]

    answer = await setup.call("POST", f"/pending/{entry['run_id']}/revive")
    assert answer.status_code < 300, answer.text
    await setup.copied(**ITEMS)
    assert len(await setup.asked()) == 11


async def test_lost_pages_are_copied_again_when_a_person_adds_them_to_the_pending_list(setup: Setup) -> None:
    """Two pages are lost. Added to the pending list, they are copied again, and the trigger waits for them."""
    await setup.put(cron=LEAP_DAY)
    await setup.poke()
    await setup.copied(**ITEMS)
    for name in ("000002.json", "000004.json"):
        (setup.root / "orders" / name).unlink()
    lost = [{"payload": {"endpoint": "orders", "page": page, "cursor": str(10 * (page - 1))}} for page in (2, 4)]
    answer = await setup.call("PUT", "/pending", json={"pending": lost})
    assert answer.status_code < 300, answer.text
    await setup.copied(**ITEMS)
    assert cursors(await setup.asked("orders")) == [None, "10", "20", "30", "40", "10", "30"]
