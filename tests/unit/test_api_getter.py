"""The getter of examples/api_getter against its fake API, called with the requests that Cronpost sends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.api_getter import fake_api, getter
from examples.api_getter.getter import Copy, Getter
from tests.support.processes import eventually

Json = dict[str, Any]
SUCCEEDED = {"Cronpost-Last-Success": "2026-11-21T03:00:00Z"}
DEFAULT = {"endpoints": ["orders", "customers"]}


class Setup:
    """The getter and its API, in one process and without sockets."""

    def __init__(self, root: Path, api: httpx.AsyncClient, runner: httpx.AsyncClient) -> None:
        self.root = root
        self.api = api
        self.runner = runner

    async def run(self, payload: Json, *, headers: dict[str, str] | None = None) -> httpx.Response:
        return await self.runner.post("/run", json=payload, headers={"Idempotency-Key": "RUN1", **(headers or {})})

    async def work_off(self, payload: Json, *, headers: dict[str, str] | None = None) -> list[Json]:
        """Execute this run and all runs that follow from it; return the payloads in order."""
        waiting, done = [payload], []
        while waiting:
            done.append(waiting.pop(0))
            answer = await self.run(done[-1], headers=headers)
            assert answer.status_code == 200
            after = answer.json().get("continue", [])
            waiting += [one["payload"] for one in (after if isinstance(after, list) else [after])]
        return done

    async def requests(self) -> list[tuple[str, str | None]]:
        return [(one["endpoint"], one["cursor"]) for one in (await self.api.get("/_asked")).json()["asked"]]

    async def fault(self, **fault: Any) -> None:
        await self.api.post("/_faults", json=fault)

    def ids(self, endpoint: str) -> list[int]:
        """List the items on disk, in the order of the pages."""
        pages = sorted((self.root / endpoint).glob("*.json"))
        return [item["id"] for page in pages for item in json.loads(page.read_text())["items"]]


@pytest.fixture
async def setup(tmp_path: Path) -> AsyncIterator[Setup]:
    async with AsyncExitStack() as stack:
        shop = fake_api.make_app(fake_api.FakeApi({"orders": 25, "customers": 5}))
        api = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(shop), base_url="http://api.test")
        )
        app = getter.make_app(Getter(api, Copy(tmp_path), pause_seconds=1))
        runner = await stack.enter_async_context(
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://getter.test")
        )
        yield Setup(tmp_path, api, runner)


async def test_a_job_that_never_succeeded_starts_every_endpoint_at_its_first_page(setup: Setup) -> None:
    answer = await setup.run(DEFAULT)
    assert answer.json() == {
        "continue": [
            {"payload": {"endpoint": "orders", "page": 1, "cursor": None}, "after_seconds": 1},
            {"payload": {"endpoint": "customers", "page": 1, "cursor": None}, "after_seconds": 1},
        ]
    }
    assert await setup.requests() == []


async def test_a_page_is_written_and_the_next_one_is_requested(setup: Setup) -> None:
    answer = await setup.run({"endpoint": "orders", "page": 1, "cursor": None})
    following = {"endpoint": "orders", "page": 2, "cursor": "10"}
    assert answer.json() == {"continue": {"payload": following, "after_seconds": 1}}
    page = json.loads((setup.root / "orders" / "000001.json").read_text())
    assert [item["id"] for item in page["items"]] == list(range(1, 11))
    assert page["run"] == "RUN1"


async def test_the_history_is_copied_page_by_page_and_every_page_is_requested_once(setup: Setup) -> None:
    await setup.work_off(DEFAULT)
    assert setup.ids("orders") == list(range(1, 26))
    assert setup.ids("customers") == list(range(1, 6))
    assert sorted(await setup.requests(), key=str) == sorted(
        [("orders", None), ("orders", "10"), ("orders", "20"), ("customers", None)], key=str
    )


async def test_a_later_run_requests_only_newer_items(setup: Setup) -> None:
    await setup.work_off(DEFAULT)
    await setup.api.post("/_items", json={"endpoint": "orders", "count": 3})
    before = await setup.requests()
    done = await setup.work_off(DEFAULT, headers=SUCCEEDED)
    assert done == [
        DEFAULT,
        {"endpoint": "orders", "page": 4, "cursor": "25"},
        {"endpoint": "customers", "page": 2, "cursor": "5"},
    ]
    assert (await setup.requests())[len(before) :] == [("orders", "25"), ("customers", "5")]
    assert setup.ids("orders") == list(range(1, 29))


async def test_a_run_that_finds_nothing_new_writes_nothing(setup: Setup) -> None:
    await setup.work_off(DEFAULT)
    before = sorted(setup.root.rglob("*"))
    for _ in range(2):
        await setup.work_off(DEFAULT, headers=SUCCEEDED)
    assert sorted(setup.root.rglob("*")) == before


async def test_a_page_on_disk_is_not_requested_again_and_gets_the_same_answer(setup: Setup) -> None:
    page = {"endpoint": "orders", "page": 3, "cursor": "20"}
    first = await setup.run(page)
    await setup.api.post("/_items", json={"endpoint": "orders", "count": 3})
    second = await setup.run(page, headers={"Idempotency-Key": "RUN2"})
    assert second.json() == first.json()
    assert await setup.requests() == [("orders", "20")]
    assert json.loads((setup.root / "orders" / "000003.json").read_text())["run"] == "RUN1"


async def test_a_job_that_is_created_again_reads_the_pages_on_disk_without_requests(setup: Setup) -> None:
    first = await setup.work_off(DEFAULT)
    before = await setup.requests()
    assert await setup.work_off(DEFAULT) == first
    assert await setup.requests() == before


async def test_a_repeated_request_waits_for_the_page_of_the_first(setup: Setup) -> None:
    page = {"endpoint": "orders", "page": 1, "cursor": None}
    await setup.fault(endpoint="orders", seconds=30)
    both = asyncio.gather(setup.run(page), setup.run(page))
    await eventually(setup.requests)
    other = await setup.run({"endpoint": "customers", "page": 1, "cursor": None})
    assert other.status_code == 200, "other endpoints do not wait"
    await setup.api.delete("/_faults")
    first, second = await both
    assert first.json() == second.json()
    assert (await setup.requests()).count(("orders", None)) == 1


async def test_429_is_passed_on_with_its_retry_after_and_500_unchanged(setup: Setup) -> None:
    await setup.fault(endpoint="orders", status=429, retry_after=7)
    await setup.fault(endpoint="orders", status=500)
    page = {"endpoint": "orders", "page": 1, "cursor": None}
    first, second, third = [await setup.run(page) for _ in range(3)]
    assert (first.status_code, first.headers.get("Retry-After")) == (429, "7")
    assert (second.status_code, second.headers.get("Retry-After")) == (500, None)
    assert third.status_code == 200
    assert setup.ids("orders") == list(range(1, 11))


async def test_a_permanent_error_of_the_api_is_answered_with_422(setup: Setup) -> None:
    await setup.fault(endpoint="orders", status=403)
    await setup.fault(endpoint="orders", status=409)
    page = {"endpoint": "orders", "page": 1, "cursor": None}
    assert [(await setup.run(page)).status_code for _ in range(2)] == [422, 422]
    assert not (setup.root / "orders").exists()


async def test_an_unreachable_or_too_slow_api_is_a_gateway_error(tmp_path: Path) -> None:
    def away(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/events":
            return httpx.Response(200, text="<p>We will be back soon.</p>")
        raise (httpx.ConnectError if request.url.path == "/orders" else httpx.ReadTimeout)("no")

    async with httpx.AsyncClient(transport=httpx.MockTransport(away), base_url="http://api.test") as api:
        app = getter.make_app(Getter(api, Copy(tmp_path)))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://getter.test") as runner:
            setup = Setup(tmp_path, api, runner)
            assert (await setup.run({"endpoint": "orders", "page": 1, "cursor": None})).status_code == 502
            assert (await setup.run({"endpoint": "customers", "page": 1, "cursor": None})).status_code == 504
            assert (await setup.run({"endpoint": "events", "page": 1, "cursor": None})).status_code == 502
            assert setup.ids("orders") == setup.ids("customers") == setup.ids("events") == []


async def test_a_half_written_page_is_ignored_and_written_again(setup: Setup) -> None:
    (setup.root / "orders").mkdir()
    (setup.root / "orders" / "000001.partial").write_text('{"items": [{"id": 1')
    await setup.work_off(DEFAULT, headers=SUCCEEDED)
    assert setup.ids("orders") == list(range(1, 26))
    assert not list(setup.root.rglob("*.partial"))


@pytest.mark.parametrize("name", ["../orders", "orders/..", "", "/etc", "orders\n", "Orders"])
async def test_the_name_of_an_endpoint_cannot_leave_the_directory_of_the_copy(setup: Setup, name: str) -> None:
    assert (await setup.run({"endpoint": name, "page": 1, "cursor": None})).status_code == 422
    assert (await setup.run({"endpoints": ["orders", name]})).status_code == 422
    assert await setup.requests() == []


@pytest.mark.parametrize(
    "payload",
    [{}, [], None, {"endpoints": "orders"}, {"endpoint": "orders", "page": 0}, {"endpoint": "orders", "p": 1}],
)
async def test_an_invalid_payload_is_answered_with_422(setup: Setup, payload: Any) -> None:
    assert (await setup.run(payload)).status_code == 422
