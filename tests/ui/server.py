"""A server with a node in a thread of its own, and the runner that its node calls."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

import httpx

from scheduler_api.app import create_app
from scheduler_api.context import STORE_CONNECTIONS, Context
from scheduler_api.server.api_server import ApiServer
from scheduler_api.server.listen import listen, url_of
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import ApiSettings, EngineSettings
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.request import request_of
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.api.runner import Runner, running
from tests.support.factories import over_http

PATIENCE_SECONDS = 20


class RunnerByUrl(Runner):
    """Answers each URL as ``set`` says, all others with 200."""

    def __init__(self) -> None:
        super().__init__()
        self._by_url: dict[str, tuple[int, bytes]] = {}

    def set(self, url: str, status: int, body: bytes = b"{}") -> None:
        """Answer requests to ``url`` with this status and body from now on."""
        self._by_url[url] = (status, body)

    async def send(self, call: Call, target: None, /) -> Outcome:
        request = request_of(call)
        if request.url not in self._by_url:
            return await super().send(call, target)
        self.requests.append(request)
        status, body = self._by_url[request.url]
        outcome = Outcome(OutcomeKind.RESPONSE, 1.25, status=status, body=body, sent_headers=request.headers)
        return over_http(outcome, *call.retry_statuses)


class Server:
    """A running server. ``api`` is a client of it that raises for statuses that are not a success."""

    def __init__(self, url: str, runner: RunnerByUrl, api: httpx.Client) -> None:
        self.url = url
        self.runner = runner
        self.api = api

    def put(self, job_id: str, **fields: Any) -> Any:
        """Store a job. Without a trigger, it runs only on request; without an endpoint, its runs succeed."""
        body = {"endpoint": f"http://runner.test/{quote(job_id)}", "cron": None, "payload": {"job": job_id}} | fields
        return self.api.put(f"/jobs/{quote(job_id, safe='')}", json=body).json()

    def get(self, path: str) -> Any:
        return self.api.get(path).json()

    def post(self, path: str, body: Any = None) -> Any:
        return self.api.post(path, json=body).json() if body is not None else self.api.post(path).json()

    def until(self, path: str, condition: Callable[[Any], Any]) -> Any:
        """Repeat a GET until ``condition`` is true for its answer; returns that answer."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            answer = self.get(path)
            if condition(answer):
                return answer
            assert time.monotonic() < deadline, answer
            time.sleep(0.02)


@contextlib.contextmanager
def serving(
    redis_url: str,
    *,
    keys: tuple[str, ...] = (),
    node: bool = True,
    runner: Runner | None = None,
    port: int = 0,
    history: int = 100,
) -> Iterator[Server]:
    """Start a server; stop it at the end. ``runner``: what its node calls; default a ``RunnerByUrl``. ``history``: how
    many entries of each job are kept."""
    sockets = listen("127.0.0.1", port)
    loop = asyncio.new_event_loop()
    answers = RunnerByUrl()
    servers: list[ApiServer] = []
    started = threading.Event()

    async def serve() -> None:
        client = connect(redis_url, connections=STORE_CONNECTIONS)
        store = RedisStore(client, retention=Retention(entries=history))
        context = Context(
            settings=ApiSettings(api_keys=keys),
            store=store,
            clock=RedisClock(),
            metrics=Metrics(),
            engine_settings=EngineSettings(history_per_job=history),
        )
        servers.append(ApiServer(create_app(context)))
        async with running(context, runner or answers, history=history) if node else contextlib.nullcontext():
            started.set()
            await servers[0].serve(sockets)
        await context.forecasts.shut_down()
        await context.aclose()
        await store.aclose()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    assert started.wait(PATIENCE_SECONDS)
    url = url_of(sockets, "127.0.0.1")
    headers = {"Authorization": f"Bearer {keys[0]}"} if keys else {}
    with httpx.Client(base_url=url, headers=headers, trust_env=False, event_hooks={"response": [_check]}) as api:
        try:
            yield Server(url, answers, api)
        finally:
            loop.call_soon_threadsafe(servers[0].stop)
            thread.join()
            loop.close()


def _check(answer: httpx.Response) -> None:
    if answer.is_error:
        answer.read()
        raise AssertionError(f"{answer.request.method} {answer.request.url}: {answer.status_code} {answer.text}")
