"""Celery workers run the tasks that Cronpost sends, over Redis and over AMQP; and Redis as a target is killed."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from scheduler_core.delivery.base import Outcome, OutcomeKind, Verdict, attempt
from scheduler_core.delivery.celery.kind import CeleryAmqpKind, CeleryRedisKind
from scheduler_core.delivery.redis_stream.kind import RedisStreamKind
from scheduler_core.embedded import EmbeddedRedis
from tests.delivery.conformance import PROOFS, SECRET, Proof
from tests.support.brokers import RedisSubject, commands_of, environment
from tests.support.factories import make_call
from tests.support.processes import Child, Processes, eventually
from tests.support.rabbitmq import RabbitMq
from tests.support.stores import until

NEVER = "0 0 29 2 *"
APP = """
import json, os, urllib.request
from celery import Celery

app = Celery("app", broker=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True


@app.task(name="app.report", bind=True)
def report(self, *args, **kwargs):
    request = self.request
    names = ("id", "run_id", "job_id", "fire_time", "attempt", "fence", "reason")
    line = {"args": args, "kwargs": kwargs} | {name: getattr(request, name, None) for name in names}
    with open("calls", "a") as file:
        file.write(json.dumps(line) + "\\n")
    if (url := getattr(request, "callback_url", None)) is not None:
        body = json.dumps({"state": "succeeded", "message": "reported"}).encode()
        headers = {"Cronpost-Callback-Token": request.callback_token, "Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(url, body, headers))
"""


class Worker:
    """A Celery worker with one task, which writes its calls to a file."""

    def __init__(self, directory: Path, broker: str, queue: str) -> None:
        directory.mkdir()
        (directory / "app.py").write_text(APP)
        command = [sys.executable, "-m", "celery", "-A", "app", "worker", "--pool=solo", "-Q", queue, "-l", "INFO"]
        command += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CELERY")}
        environment |= {"BROKER": broker, "PYTHONPATH": str(directory)}
        self.child = Child(command, directory=directory, environment=environment)
        self._calls = directory / "calls"

    @property
    def calls(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._calls.read_text().splitlines()] if self._calls.exists() else []

    async def called(self, number: int) -> list[dict[str, Any]]:
        """Wait for this many calls."""

        def there() -> bool:
            assert self.child.is_running, self.child.output()
            return len(self.calls) >= number

        await eventually(there, seconds=60, what=self.child.output())
        return self.calls


@contextmanager
def working(directory: Path, broker: str, queue: str) -> Iterator[Worker]:
    worker = Worker(directory, broker, queue)
    try:
        yield worker
    finally:
        worker.child.clean_up()


@pytest.fixture
async def redis(processes: Processes) -> int:
    """Start a Redis on a TCP port, and return the port."""
    server = processes.redis()
    port = _free_port()
    await server.start(port=port, bind="127.0.0.1", appendonly="no")
    return port


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        port: int = found.getsockname()[1]
        return port


async def test_a_worker_runs_tasks_from_redis_and_reports_the_end_of_a_run(processes: Processes, redis: int) -> None:
    with working(processes.directory / "worker", f"redis://127.0.0.1:{redis}/1", "reports") as worker:
        await _check(processes, worker, f"celery+redis://127.0.0.1:{redis}/1?task=app.report&queue=reports")


async def test_a_worker_runs_tasks_from_amqp_and_reports_the_end_of_a_run(
    processes: Processes, rabbitmq: RabbitMq
) -> None:
    url = rabbitmq.url("%2F").replace("amqp://", "celery+amqp://") + "?task=app.report&queue=reports"
    with working(processes.directory / "worker", rabbitmq.url("/"), "reports") as worker:
        # The queue exists once the worker has started; before that, the message is unroutable.
        await eventually(lambda: "ready." in worker.child.output(), seconds=60)
        await _check(processes, worker, url)


async def _check(processes: Processes, worker: Worker, url: str) -> None:
    """Run a job with the task ``app.report`` at ``url``: by its payload, by another one, and with a callback."""
    server = processes.cronpost("serve", data_dir=processes.directory / "data")
    await server.started()
    api = await server.api()
    job = {"id": "a", "endpoint": url, "cron": NEVER, "payload": {"n": 1, "text": "é"}}
    assert (await api.post("/", json=job)).status_code == 202
    first = (await api.post("/jobs/a/run")).json()["run_id"]
    (call,) = await worker.called(1)
    expected = {"id": first, "run_id": first, "job_id": "a", "attempt": 1, "reason": "manual", "args": []}
    assert call.items() >= (expected | {"kwargs": {"n": 1, "text": "é"}}).items()
    assert call["fence"] >= 1
    assert call["fire_time"].endswith("Z")

    with_callback = {**job, "id": "b", "payload": [1, [2]], "completion": "callback"}
    assert (await api.post("/", json=with_callback)).status_code == 202
    answer = await api.post("/jobs/b/run")
    assert answer.status_code == 202, answer.text
    second = answer.json()["run_id"]
    call = (await worker.called(2))[1]
    assert (call["id"], call["args"], call["kwargs"]) == (second, [1, [2]], {})

    async def ended() -> bool:
        runs = (await api.get("/jobs/b/runs")).json()["runs"]
        return [(one["id"], one["state"], one.get("message")) for one in runs] == [(second, "succeeded", "reported")]

    await eventually(ended, seconds=60)
    for payload in (1, "text", None):
        refused = await api.post("/", json={**job, "payload": payload})
        assert (refused.status_code, refused.json()["field"]) == (400, "payload")
        refused = await api.post("/jobs/a/run", json={"payload": payload})
        assert (refused.status_code, refused.json()["field"]) == (400, "payload")
    refused = await api.post("/", json={**job, "continuations": True})
    assert (refused.status_code, refused.json()["field"]) == (400, "continuations")


# ---- the protocol -----------------------------------------------------------------------------------------------


class CeleryRedis(RedisSubject):
    """The kind of Celery over Redis."""

    bad_url = f"celery+redis://runner:{SECRET}@redis.test/no-database?task=app.report"
    split = staticmethod(commands_of(b"LPUSH"))

    key = "celery"

    def __init__(self, socket: Path) -> None:
        super().__init__(CeleryRedisKind(), socket)

    def call(self, **fields: Any) -> Any:
        return super().call(**({"payload": b'["%s"]' % SECRET.encode()} | fields))

    def impossible(self) -> dict[str, Any]:
        return {"payload": b'"%s"' % SECRET.encode()}


@pytest.fixture
async def subject(redis_server: EmbeddedRedis, redis_url: str) -> AsyncIterator[CeleryRedis]:
    async with CeleryRedis(redis_server.socket_path) as made:
        made.redis.acl_setuser("runner", enabled=True, passwords=[f"+{SECRET}"], keys=["*"], categories=["+@all"])
        made.url = f"celery+redis://runner:{SECRET}@127.0.0.1:{made.port}?task=app.report"
        yield made
        made.redis.config_set("maxmemory", 0)
        made.redis.acl_deluser("runner")
        made.redis.close()


@pytest.mark.parametrize("proof", PROOFS, ids=lambda proof: proof.__name__)
async def test_celery_over_redis_keeps_the_protocol(subject: CeleryRedis, proof: Proof) -> None:
    await proof(subject)


async def test_a_payload_that_is_no_argument_list_is_never_sent(subject: CeleryRedis) -> None:
    outcome = await subject.outcome(payload=b"1")
    assert (outcome.kind, outcome.verdict) == (OutcomeKind.INTERNAL, Verdict.REFUSED)
    assert outcome.message == "not sent: the payload of a Celery task must be an object or an array"
    assert subject.received == 0


async def test_a_queue_without_a_worker_is_unroutable_over_amqp(rabbitmq: RabbitMq) -> None:
    deliverer = CeleryAmqpKind().open(environment())
    url = rabbitmq.url("%2F").replace("amqp://", "celery+amqp://") + "?task=t&queue=nobody"
    call = make_call(url=url, payload=b"{}", timeout_ms=20_000)
    outcome = await attempt(lambda done: deliverer.start(call, done, lambda: True))
    assert (outcome.status, outcome.verdict) == (404, Verdict.REFUSED)
    assert outcome.message == "the default exchange routes the key 'nobody' to no queue (NO_ROUTE)"
    await deliverer.aclose()


async def test_a_redis_that_is_killed_in_flight_fails_the_attempts_and_works_when_it_is_back(
    processes: Processes,
) -> None:
    server, port = processes.redis(), _free_port()
    await server.start(port=port, bind="127.0.0.1")
    deliverer = RedisStreamKind().open(environment())
    url = f"redis+stream://127.0.0.1:{port}/0/jobs"

    async def one() -> Outcome:
        call = make_call(url=url, timeout_ms=20_000)
        return await attempt(lambda done: deliverer.start(call, done, lambda: True))

    assert (await one()).verdict is Verdict.ACCEPTED
    server.child.freeze()
    outcomes: list[Outcome] = []
    for number in range(20):
        deliverer.start(make_call(url=url, timeout_ms=20_000, run_id=f"r{number}"), outcomes.append, lambda: True)
    await asyncio.sleep(0.05)
    await server.kill()
    await until(lambda: len(outcomes) == 20)
    assert {(one.kind, one.verdict) for one in outcomes} == {(OutcomeKind.CONNECTION, Verdict.RETRY)}
    refused = await one()
    assert (refused.kind, refused.verdict) == (OutcomeKind.CONNECTION, Verdict.RETRY)
    await server.start(port=port, bind="127.0.0.1")
    assert (await one()).verdict is Verdict.ACCEPTED
    await deliverer.aclose()
