"""Readiness of a server and its stop, with real processes and a real Redis."""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from redis import Redis

from tests.api.conftest import job
from tests.api.test_processes import SECONDS, Cronpost, start

__all__ = ["start"]


class SlowRunner:
    """A runner whose answers wait until ``release`` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()
        self.reached = threading.Event()
        self.callback: dict[str, str] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                outer.callback = dict(self.headers.items())
                outer.reached.set()
                outer.release.wait(SECONDS)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/"
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()

    def close(self) -> None:
        self.release.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def runner() -> Iterator[SlowRunner]:
    runner = SlowRunner()
    yield runner
    runner.close()


@pytest.mark.parametrize("nodes", ["1", "2"])
def test_the_api_answers_while_the_nodes_drain_and_closes_its_port_last(
    start: Callable[..., Cronpost], runner: SlowRunner, nodes: str
) -> None:
    server = start("serve", "--port", "0", "--nodes", nodes, "--drain-grace-seconds", "30")
    url = server.url()
    server.ready(url)
    httpx.post(url, json=job(id="slow", cron="* * * * * *", endpoint=runner.url, overlap="skip")).raise_for_status()
    assert runner.reached.wait(SECONDS)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: httpx.get(f"{url}/ready").status_code == 503)
    assert httpx.get(f"{url}/ready").json()["reasons"] == ["shutting down"]
    assert httpx.get(f"{url}/jobs/slow").json()["status"] == "running"
    assert httpx.post(url, json=job(id="late", cron="@yearly")).status_code == 202
    assert httpx.post(f"{url}/runs/no-such-run/complete", json={}).status_code in {400, 403, 404}
    runner.release.set()
    assert server.process.wait(SECONDS) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/ready")


def test_a_draining_server_accepts_the_completion_of_a_run(start: Callable[..., Cronpost], runner: SlowRunner) -> None:
    server = start("serve", "--port", "0", "--drain-grace-seconds", "30")
    url = server.url()
    server.ready(url)
    body = job(id="slow", cron="* * * * * *", endpoint=runner.url, completion="callback")
    httpx.post(url, json=body).raise_for_status()
    assert runner.reached.wait(SECONDS)
    server.process.send_signal(signal.SIGTERM)
    server.until(lambda: httpx.get(f"{url}/ready").status_code == 503)
    headers = {"Authorization": f"Bearer {runner.callback['Cronpost-Callback-Token']}"}
    answer = httpx.post(runner.callback["Cronpost-Callback-Url"], json={"state": "succeeded"}, headers=headers)
    assert answer.status_code == 200, answer.text
    runner.release.set()
    assert server.process.wait(SECONDS) == 0


def test_the_port_stays_open_for_the_shutdown_delay(start: Callable[..., Cronpost]) -> None:
    server = start("serve", "--port", "0", "--shutdown-delay-seconds", "3")
    url = server.url()
    server.ready(url)
    server.process.send_signal(signal.SIGTERM)
    server.event("node stopped")
    assert httpx.get(f"{url}/ready").status_code == 503
    assert httpx.get(f"{url}/health").status_code == 200
    assert server.process.wait(SECONDS) == 0


def test_a_server_of_several_nodes_is_ready_once_one_of_them_fires(start: Callable[..., Cronpost]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        server = start("serve", "--port", "0", "--nodes", "2")
        url = server.url()
        first = httpx.get(f"{url}/ready")
        assert httpx.get(f"{url}/health").status_code == 200
        if not any(event["event"] == "node started" for event in server.events()):
            assert first.status_code == 503
            assert any("starting" in reason for reason in first.json()["reasons"])
        server.ready(url)
        assert any(event["event"] == "node started" for event in server.events())
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        httpx.post(url, json=job(id="a", cron="@yearly", endpoint=endpoint)).raise_for_status()
        assert httpx.post(f"{url}/jobs/a/run").status_code == 202
        silent.settimeout(SECONDS)
        silent.accept()[0].close()
        server.process.kill()
        server.process.wait()


@pytest.fixture
def api(start: Callable[..., Cronpost], redis_url: str) -> str:
    process = start("api", "--port", "0", "--redis-url", redis_url)
    url = process.url()
    process.ready(url)
    return url


def until_ready(url: str, status: int) -> list[str]:
    deadline = time.monotonic() + SECONDS
    while True:
        answer = httpx.get(f"{url}/ready")
        if answer.status_code == status:
            reasons: list[str] = answer.json()["reasons"]
            return reasons
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)


def test_an_api_is_not_ready_while_redis_is_out_of_memory(api: str, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory", "1")
        try:
            reasons = until_ready(api, 503)
            assert httpx.post(api, json=job()).status_code == 429
            assert len(reasons) == 1
            assert reasons[0].startswith("store: ")
        finally:
            redis.config_set("maxmemory", "0")
        assert until_ready(api, 200) == []
        assert httpx.post(api, json=job()).status_code == 202


def test_an_api_is_not_ready_while_redis_is_a_replica(api: str, redis_url: str) -> None:
    with Redis.from_url(redis_url) as redis, socket.create_server(("127.0.0.1", 0)) as master:
        redis.execute_command("REPLICAOF", "127.0.0.1", master.getsockname()[1])
        try:
            until_ready(api, 503)
            assert httpx.post(api, json=job()).status_code == 429
        finally:
            redis.execute_command("REPLICAOF", "NO", "ONE")
        until_ready(api, 200)


def test_an_api_is_not_ready_while_redis_has_too_few_replicas_to_write(
    start: Callable[..., Cronpost], redis_url: str
) -> None:
    process = start("api", "--port", "0", "--redis-url", redis_url)
    url = process.url()
    process.ready(url)
    with Redis.from_url(redis_url) as redis:
        before = redis.config_get("min-replicas-to-write")["min-replicas-to-write"]
        redis.config_set("min-replicas-to-write", "1")
        try:
            until_ready(url, 503)
            assert httpx.post(url, json=job()).status_code == 429
        finally:
            redis.config_set("min-replicas-to-write", before)
        until_ready(url, 200)
