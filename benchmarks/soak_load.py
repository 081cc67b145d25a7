"""The load of a soak: a runner that answers in every way, and a client that never stops."""

from __future__ import annotations

import asyncio
import functools
import itertools
import json
import random
import re
import socket
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, cast

import aiohttp
import yarl

ERROR_BODY = b"the runner is out of order " * 75
"""2 KB: the part of its answer that a failed run keeps."""
LARGE_BODY = b'{"rows": [' + b", ".join(b'{"id": %d, "value": "xxxxxxxxxxxxxxxx"}' % n for n in range(100)) + b"]}"
"""4 KB: the part of its answer that a schedule keeps, for every run."""
SLOW_SECONDS = 1.5
TAKEN_SECONDS = 0.5
"""Time from taking a run to its completion by callback."""
PAGES = 5
"""Continuations in a row."""
LIFE_SECONDS = 8.0
"""Lifetime of a job that is created and deleted."""
TASKS_LISTED = 5000
"""How many ids of one-off tasks the client remembers, to delete some of them."""

_LENGTH = re.compile(rb"\ncontent-length: *([0-9]+)", re.IGNORECASE)
_RUN = re.compile(rb"\nidempotency-key: *([^\r]*)", re.IGNORECASE)
_TOKEN = re.compile(rb"\ncronpost-callback-token: *([^\r]*)", re.IGNORECASE)
_NEXT = re.compile(r'<([^>]+)>; rel="next"')
_PAGE = re.compile(rb'"page": *([0-9]+)')


class Runner(asyncio.Protocol):
    """One connection to the runner; the path selects the answer. HTTP/1.1, one request at a time. It stores nothing
    about a request but counts."""

    served: ClassVar[Counter[bytes]] = Counter()
    taken: ClassVar[deque[tuple[float, str, str]]] = deque(maxlen=10_000)
    """Runs that wait for their completion: arrival, run id and token."""

    def __init__(self) -> None:
        self._data = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head_end = self._data.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = self._data[:head_end]
        length = _LENGTH.search(head)
        end = head_end + 4 + (int(length[1]) if length else 0)
        if len(self._data) < end:
            return
        body, self._data = self._data[head_end + 4 : end], self._data[end:]
        self._answer(head.split(b" ", 2)[1].split(b"/")[1], head, body)

    def _answer(self, how: bytes, head: bytes, body: bytes) -> None:
        self.served[how] += 1
        if how == b"never":
            return
        if how == b"slow":
            asyncio.get_running_loop().call_later(SLOW_SECONDS, self._send, 200, b"")
        elif how == b"fail":
            self._send(500, ERROR_BODY)
        elif how == b"conflict":
            self._send(409, b"")
        elif how == b"busy":
            self._send(409 if self.served[how] % 3 else 200, b"")
        elif how == b"later":
            self._send(503, ERROR_BODY)
        elif how == b"large":
            self._send(200, LARGE_BODY)
        elif how == b"page":
            found = _PAGE.search(body)
            page = int(found[1]) if found else 0
            more = b'{"continue": {"payload": {"page": %d}, "after_seconds": 1}}' % (page + 1)
            self._send(200, more if page < PAGES else b"{}")
        elif how == b"take":
            run, token = _RUN.search(head), _TOKEN.search(head)
            # One in four is never completed.
            if run and token and self.served[how] % 4:
                came = asyncio.get_running_loop().time()
                self.taken.append((came, run[1].decode(), token[1].decode()))
            self._send(202, b"")
        else:
            self._send(200, b"")

    def _send(self, status: int, body: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body))


class Client:
    """All requests to the API, each kind at its own pace. ``scale`` 1 is about 300 settled runs per second."""

    def __init__(self, api: str, runner: str, closed_port: int, *, scale: float) -> None:
        self._api = api
        self._runner = runner
        self._closed = f"http://127.0.0.1:{closed_port}/"
        self._scale = scale
        self._session: aiohttp.ClientSession | None = None
        self._doing: list[asyncio.Task[None]] = []
        self._tasks: deque[str] = deque(maxlen=TASKS_LISTED)
        self._targets: dict[str, int] = {}
        self._numbers = itertools.count()
        self.answers: Counter[str] = Counter()
        """Answers by method and status."""
        self.unexpected: Counter[str] = Counter()
        """Answers that a client would not expect; the key contains an example."""

    async def begin(self) -> None:
        """Create what stays, then keep changing the rest until ``end``."""
        self._session = aiohttp.ClientSession(base_url=self._api, connector=aiohttp.TCPConnector(limit=32))
        self._targets = {
            "large": await self._target("large", "GET", f"{self._runner}/large/rows"),
            "fail": await self._target("fail", "POST", f"{self._runner}/fail/rows"),
        }
        await _together(self._call("POST", "/", job) for job in self._standing_jobs())
        schedules = [("large", n) for n in range(self._many(36))] + [("fail", n) for n in range(self._many(4))]
        await _together(self._schedule(f"standing {kind} {n}", kind) for kind, n in schedules)
        for number in (0, 1):
            self._go_on(0.4 / self._scale, functools.partial(self._come_and_go, number))
        self._go_on(1.0, self._add_tasks)
        self._go_on(5.0, self._delete_tasks)
        self._go_on(2.0 / self._scale, self._schedules_come_and_go)
        self._go_on(0.1, self._complete)
        self._go_on(1.0, self._trouble_jobs)
        self._go_on(2.0, self._read)

    def _standing_jobs(self) -> Iterable[dict[str, Any]]:
        second, two, five, ten = "* * * * * *", "*/2 * * * * *", "*/5 * * * * *", "*/10 * * * * *"
        never: dict[str, Any] = {"timeout_seconds": 0.3, "retry": {"attempts": 2}}
        once: dict[str, Any] = {"retry": {"attempts": 1}}
        callback: dict[str, Any] = {"completion": "callback", "run_timeout_seconds": 3}
        for prefix, count, cron, path, fields in (
            ("ok", 150, second, "ok", {}),
            ("fail", 40, two, "fail", {}),
            ("conflict", 20, two, "conflict", {}),
            ("busy", 10, five, "busy", {"retry_already_running": 1}),
            ("later", 10, five, "later", {}),
            ("never", 10, two, "never", never),
            ("refused", 10, two, None, once),
            ("overlap", 10, second, "slow", {"overlap": "allow", "max_concurrent": 5}),
            ("take", 10, two, "take", callback),
            ("page", 20, ten, "page", {"continuations": True}),
        ):
            for number in range(self._many(count)):
                job = f"{prefix}-{number}"
                url = self._closed if path is None else f"{self._runner}/{path}/{number}"
                yield {"id": job, "endpoint": url, "cron": cron, "payload": {"page": 0, "job": job}, **fields}
        for number in range(self._many(2)):
            url = f"http://runner-{number}.invalid/"
            yield {"id": f"name-{number}", "endpoint": url, "cron": five, "payload": None, **once}

    def _many(self, count: int) -> int:
        return max(1, round(count * self._scale))

    # ---- the load ------------------------------------------------------------------------------------------------

    async def _come_and_go(self, kind: int) -> None:
        """Create a job under a new id, and delete it while it may be running. One kind answers at once, the other
        fails or is slow."""
        job = f"gone-{next(self._numbers)}"
        path = ("ok", "fail" if random.random() < 0.3 else "slow")[kind]
        body: dict[str, Any] = {"endpoint": f"{self._runner}/{path}/0", "cron": "* * * * * *", "payload": {"job": job}}
        if random.random() < 0.1:
            body["max_runs"] = 3  # it ends by itself
        await self._call("PUT", f"/jobs/{job}", body)
        await asyncio.sleep(LIFE_SECONDS * (0.5 + random.random()))
        await self._call("DELETE", f"/jobs/{job}", expected=(200, 204, 404))

    async def _add_tasks(self) -> None:
        soon = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
        hows = ["ok"] * self._many(10) + ["fail"] * self._many(2)
        tasks = [{"webhookUrl": f"{self._runner}/{how}/task", "webhookAuth": "x", "executeAt": soon} for how in hows]
        answer = await self._call("POST", "/api/v1/tasks", tasks)
        if answer is not None:
            self._tasks.extend(json.loads(answer)["ids"])

    async def _delete_tasks(self) -> None:
        for _ in range(min(5, len(self._tasks))):
            await self._call("DELETE", f"/api/v1/tasks/{self._tasks.pop()}", expected=(200, 202, 204, 404))

    async def _schedules_come_and_go(self) -> None:
        number = next(self._numbers)
        target = await self._target(f"passing {number}", "POST", f"{self._runner}/large/passing")
        schedule = await self._schedule(f"passing {number}", "large")
        other = await self._schedule(f"passing {number}, own target", target)
        await asyncio.sleep(LIFE_SECONDS)
        await self._call("POST", f"/schedules/{other}/pause", expected=(200, 404))
        await self._call("DELETE", f"/schedules/{schedule}")
        await self._call("DELETE", f"/targets/{target}")

    async def _complete(self) -> None:
        until = asyncio.get_running_loop().time() - TAKEN_SECONDS
        while Runner.taken and Runner.taken[0][0] <= until:
            _, run, token = Runner.taken.popleft()
            report = {"state": "succeeded" if random.random() < 0.8 else "failed", "message": "done"}
            headers = {"Cronpost-Callback-Token": token}
            await self._call("POST", f"/runs/{run}/complete", report, headers=headers, expected=(200, 404, 409, 410))

    async def _trouble_jobs(self) -> None:
        """Pause, resume, change and run jobs that stay."""
        job = f"ok-{random.randrange(self._many(150))}"
        await self._call("POST", f"/jobs/{job}/pause")
        await self._call("POST", f"/jobs/{job}/run", expected=(200, 202, 409))
        await asyncio.sleep(1.5)
        await self._call("POST", f"/jobs/{job}/resume")
        url = f"{self._runner}/ok/{random.randrange(self._many(150))}"
        body = {"endpoint": url, "cron": "* * * * * *", "payload": {"now": random.random()}}
        await self._call("PUT", f"/jobs/{job}", body)

    async def _read(self) -> None:
        now = datetime.now(UTC)
        since = (now - timedelta(seconds=30)).isoformat().replace("+", "%2B")
        for path in (
            "/runs?limit=100",
            "/runs?limit=100&skip=500",
            "/runs?limit=50&status_filter=FAILED",
            "/jobs?limit=100",
            "/jobs/fail-0/runs",
            f"/jobs/ok-0/account?from={since}&to={now.isoformat().replace('+', '%2B')}",
            "/metrics",
            "/metrics/schedules",
            "/api/v1/tasks?status=stale",
            "/health",
        ):
            await self._call("GET", path)

    # ---- the end ------------------------------------------------------------------------------------------------

    async def end(self) -> None:
        """Stop the load and delete everything: jobs, schedules, targets and tasks."""
        for one in self._doing:
            one.cancel()
        await asyncio.gather(*self._doing, return_exceptions=True)
        for target in await self._all("/targets?limit=100"):
            await self._call("DELETE", f"/targets/{target}", expected=(200, 404))
        for job in await self._all("/jobs?limit=100", "jobs"):
            await self._call("DELETE", f"/jobs/{job}", expected=(200, 204, 404))
        for task in await self._all("/api/v1/tasks?limit=100", "tasks"):
            await self._call("DELETE", f"/api/v1/tasks/{task}", expected=(200, 202, 204, 404))
        assert self._session is not None
        await self._session.close()

    async def _all(self, path: str, name: str = "") -> list[Any]:
        """List the ids in a list: an array, or an array under ``name`` in an object."""
        found: list[Any] = []
        following: str | None = path
        while following is not None:
            answer, following = await self._ask("GET", following)
            page = json.loads(answer or b"[]")
            found += [row["id"] for row in (page.get(name, []) if isinstance(page, dict) else page)]
        return found

    # ---- requests ------------------------------------------------------------------------------------------------

    def _go_on(self, every_seconds: float, step: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start ``step`` again and again, whether or not the previous one has ended."""

        async def go_on() -> None:
            under_way: set[asyncio.Task[None]] = set()
            try:
                while True:
                    one = asyncio.create_task(step())
                    under_way.add(one)
                    one.add_done_callback(under_way.discard)
                    await asyncio.sleep(every_seconds)
            finally:
                for one in under_way:
                    one.cancel()

        self._doing.append(asyncio.create_task(go_on()))

    async def _target(self, name: str, method: str, url: str) -> int:
        answer = await self._call("POST", "/targets", {"name": name, "url": url, "method": method})
        return _id(answer)

    async def _schedule(self, name: str, target: str | int) -> int:
        target_id = self._targets[target] if isinstance(target, str) else target
        body = {"name": name, "target_id": target_id, "schedule_type": "INTERVAL", "interval_seconds": 1}
        return _id(await self._call("POST", "/schedules", body))

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        expected: tuple[int, ...] = (200, 201, 202, 204),
    ) -> bytes | None:
        """Send a request and return the body of its answer, or None if the answer is not an expected one."""
        return (await self._ask(method, path, body, headers=headers, expected=expected))[0]

    async def _ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: dict[str, str] | None = None,
        expected: tuple[int, ...] = (200, 201, 202, 204),
    ) -> tuple[bytes | None, str | None]:
        """Send a request as ``_call`` does; also returns the address of the next page of a list."""
        assert self._session is not None
        data = None if body is None else json.dumps(body).encode()
        try:
            async with self._session.request(
                method, yarl.URL(path, encoded=True), data=data, headers=headers
            ) as response:
                answer, status = await response.read(), response.status
                following = _NEXT.search(response.headers.get("Link", ""))
        except (aiohttp.ClientError, TimeoutError) as error:
            self.answers[f"{method} {type(error).__name__}"] += 1
            self.unexpected[f"{method}: {error}"] += 1
            return None, None
        self.answers[f"{method} {status}"] += 1
        if status not in expected:
            self.unexpected[f"{method} {re.sub('[0-9]+', 'N', path)} {status}: {answer[:150].decode()}"] += 1
            return None, None
        return answer, following[1] if following else None


async def _together(calls: Iterable[Coroutine[Any, Any, Any]]) -> None:
    await asyncio.gather(*calls)


def _id(answer: bytes | None) -> int:
    if answer is None:
        raise RuntimeError("the API refused what the soak needs")
    number: int = json.loads(answer)["id"]
    return number


def closed_port() -> int:
    """Return a port of this machine on which no program listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
