"""Real processes: start, readiness, stop, and the errors of a start that fails."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis import Redis

from scheduler_core.embedded import EmbeddedRedis
from tests.api.conftest import job
from tests.support.servers import server_settings

ROOT = Path(__file__).parents[2]
SECONDS = 40
ON_TERMINAL = """
import sys
sys.stdout.isatty = lambda: True
from scheduler_api.cli.main import main
main(prog_name="cronpost")
"""


class Cronpost:
    """One ``cronpost`` process; its output goes to files. ``on_terminal``: it takes its output for a terminal."""

    def __init__(self, directory: Path, *args: str, on_terminal: bool = False) -> None:
        self.out, self.err = directory / f"{args[0]}.out", directory / f"{args[0]}.err"
        env = {name: value for name, value in os.environ.items() if not name.startswith("CRONPOST_")}
        env["PYTHONPATH"] = str(ROOT)
        env["PYTHONUNBUFFERED"] = "1"
        env |= {f"CRONPOST_{name.upper()}": str(value) for name, value in server_settings().items()}
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, *(("-c", ON_TERMINAL) if on_terminal else ("-m", "scheduler_api")), *args],
                cwd=directory,
                env=env,
                stdout=out,
                stderr=err,
            )

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.err.read_text().splitlines() if line.startswith("{")]

    def until(self, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            if found := condition():
                return found
            assert self.process.poll() is None, self.err.read_text() + self.out.read_text()
            time.sleep(0.02)
        raise AssertionError(f"waited too long; {self.err.read_text()}")

    def event(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.until(lambda: next((e for e in self.events() if e["event"] == name), None))
        return found

    def url(self) -> str:
        return str(self.event("api started")["address"])

    def ready(self, url: str) -> Any:
        return self.until(lambda: httpx.get(f"{url}/ready").status_code == 200)

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Cronpost]]:
    started: list[Cronpost] = []

    def start(*args: str, on_terminal: bool = False) -> Cronpost:
        started.append(Cronpost(tmp_path, *args, on_terminal=on_terminal))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_keeps_its_jobs_over_a_restart_and_stops_in_order(start: Callable[..., Cronpost], number: int) -> None:
    first = start("serve", "--port", "0")
    url = first.url()
    first.ready(url)
    assert httpx.post(url, json=job(cron="@yearly")).status_code == 202
    assert first.end(number) == 0
    assert [event["event"] for event in first.events()][-4:] == [
        "node draining",
        "node stopped",
        "api stopped",
        "embedded redis stopped",
    ]
    second = start("serve", "--port", "0")
    url = second.url()
    second.ready(url)
    assert httpx.get(f"{url}/jobs").json()["jobs"][0]["cron"] == "@yearly"
    assert second.end() == 0


def test_a_second_server_on_a_data_directory_stops_with_an_error(start: Callable[..., Cronpost]) -> None:
    first = start("serve", "--port", "0")
    first.ready(first.url())
    second = start("serve", "--port", "0", "--log-level", "error")
    assert second.process.wait(SECONDS) == 1
    (line,) = second.err.read_text().splitlines()
    assert line.startswith("cronpost: another Cronpost server")
    assert str(first.process.pid) in line
    assert first.end() == 0


def test_a_port_in_use_is_a_one_line_error_and_starts_no_redis(start: Callable[..., Cronpost], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("serve", "--port", str(port))
        assert process.process.wait(SECONDS) == 2
    (line,) = process.err.read_text().splitlines()
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert not (tmp_path / "cronpost-data").exists()


def test_a_separate_api_and_node_fire_a_job_together(start: Callable[..., Cronpost], redis_url: str) -> None:
    api = start("api", "--port", "0", "--redis-url", redis_url)
    node = start("node", "--redis-url", redis_url)
    url = api.url()
    api.ready(url)
    node.event("node started")
    httpx.post(url, json=job(id="a", cron="* * * * * *", endpoint="http://127.0.0.1:9/")).raise_for_status()
    api.until(lambda: httpx.get(f"{url}/jobs/a/runs").json()["runs"])
    assert node.end() == 0
    assert api.end() == 0


def test_without_redis_the_process_runs_reports_why_and_starts_when_redis_runs(
    start: Callable[..., Cronpost], tmp_path: Path
) -> None:
    server = EmbeddedRedis(tmp_path / "shared")
    process = start("serve", "--port", "0", "--redis-url", f"unix://{tmp_path}/shared/redis/redis.sock")
    url = process.url()
    assert httpx.get(f"{url}/health").status_code == 200
    ready = httpx.get(f"{url}/ready")
    assert ready.status_code == 503
    assert ready.json()["reasons"]
    assert httpx.post(url, json=job()).status_code == 429
    with server:
        process.ready(url)
        assert httpx.post(url, json=job()).status_code == 202
        process.event("node started")
        assert process.end() == 0


def test_the_shards_of_a_store_that_is_down_at_the_start_are_found_later(
    start: Callable[..., Cronpost], tmp_path: Path
) -> None:
    where = ("--port", "0", "--redis-url", f"unix://{tmp_path}/shared/redis/redis.sock")
    with EmbeddedRedis(tmp_path / "shared"):
        first = start("api", *where, "--shards", "3")
        first.ready(first.url())
        assert httpx.post(first.url(), json=job()).status_code == 202
        assert first.end() == 0
    late = start("serve", *where, on_terminal=True)
    url = late.url()
    assert httpx.get(f"{url}/ready").status_code == 503
    assert late.out.read_text() == ""
    with EmbeddedRedis(tmp_path / "shared"):
        late.event("node started")
        assert httpx.get(f"{url}/jobs/{job()['id']}").status_code == 200
        late.ready(url)
        late.until(lambda: "Ctrl-C stops the server" in late.out.read_text())
        assert late.end() == 0
    assert "was started for" not in late.err.read_text()
    assert late.out.read_text().count("Cronpost ") == 1  # the banner, although the process started over


def test_a_redis_that_may_evict_jobs_stops_the_start_with_the_remedy(
    start: Callable[..., Cronpost], redis_url: str
) -> None:
    with Redis.from_url(redis_url) as redis:
        redis.config_set("maxmemory-policy", "allkeys-lru")
        try:
            process = start("serve", "--port", "0", "--redis-url", redis_url)
            assert process.process.wait(SECONDS) == 2
        finally:
            redis.config_set("maxmemory-policy", "noeviction")
    line = process.err.read_text().splitlines()[-1]
    assert line.startswith("cronpost: ")
    assert "CONFIG SET maxmemory-policy noeviction" in line
    assert "Traceback" not in process.err.read_text()


def test_the_number_of_shards_is_kept_and_another_stops_the_start(
    start: Callable[..., Cronpost], redis_url: str
) -> None:
    first = start("api", "--redis-url", redis_url, "--port", "0", "--shards", "3")
    url = first.url()
    first.ready(url)
    assert httpx.post(url, json=job()).status_code == 202
    assert first.end() == 0
    refused = start("node", "--redis-url", redis_url, "--shards", "2")
    assert refused.process.wait(SECONDS) == 2
    assert "the store has 3 shards, and this process was started for 2" in refused.err.read_text()
    unsaid = start("serve", "--redis-url", redis_url, "--port", "0")
    unsaid.ready(unsaid.url())
    assert httpx.get(f"{unsaid.url()}/jobs/{job()['id']}").status_code == 200
    assert unsaid.end() == 0


def test_the_embedded_redis_is_started_again_when_it_dies(start: Callable[..., Cronpost]) -> None:
    process = start("serve", "--port", "0")
    url = process.url()
    process.ready(url)
    httpx.post(url, json=job(id="a", cron="@yearly")).raise_for_status()
    os.kill(process.event("embedded redis started")["pid"], signal.SIGKILL)
    process.until(lambda: len([e for e in process.events() if e["event"] == "embedded redis started"]) == 2)
    process.ready(url)
    assert httpx.get(f"{url}/jobs/a").json()["cron"] == "@yearly"
    assert process.end() == 0


def test_a_second_signal_ends_a_process_that_drains(start: Callable[..., Cronpost]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        process = start("serve", "--port", "0", "--drain-grace-seconds", "3600")
        url = process.url()
        process.ready(url)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        httpx.post(url, json=job(id="a", cron="* * * * * *", endpoint=endpoint)).raise_for_status()
        process.until(lambda: httpx.get(f"{url}/jobs/a").json()["status"] == "running")
        process.process.send_signal(signal.SIGTERM)
        process.event("node draining")
        assert process.end() == 130


def test_the_demo_shows_fires_and_stops_in_order(start: Callable[..., Cronpost]) -> None:
    demo = start("demo", "--port", "0")
    demo.until(lambda: " 202 " in demo.out.read_text())
    assert demo.end(signal.SIGINT) == 0
    shown = demo.out.read_text()
    assert "http://127.0.0.1:" in shown
    assert "FIRE TIME" in shown
    assert "job-scheduler-unique-id" in shown
    assert shown.splitlines()[-1].startswith("Stopped.")
    assert demo.err.read_text() == ""


def test_the_demo_takes_other_ports_when_its_own_are_in_use(start: Callable[..., Cronpost]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        demo = start("demo", "--port", str(port))
        demo.until(lambda: "Ctrl-C" in demo.out.read_text())
        assert f"Port {port} is in use" in demo.out.read_text()
        assert f"http://127.0.0.1:{port}/" not in demo.out.read_text()
        assert demo.end(signal.SIGINT) == 0


@pytest.mark.parametrize("nodes", [1, 2])
def test_a_job_cannot_call_the_api_that_stored_it(start: Callable[..., Cronpost], nodes: int) -> None:
    server = start("serve", "--port", "0", "--nodes", str(nodes), "--target-deny", "*.internal.test,10.0.0.0/8")
    url = server.url()
    server.ready(url)
    refused = httpx.post(url, json=job(endpoint=f"{url}/jobs/x/run"))
    assert (refused.status_code, refused.json()["field"]) == (400, "endpoint")
    assert "the API of Cronpost" in refused.json()["detail"]
    by_name = url.replace("127.0.0.1", "localhost") + "/"  # its addresses are only known when it is called
    assert httpx.post(url, json=job(id="a", endpoint=by_name, cron="@yearly")).status_code == 202
    assert httpx.post(f"{url}/jobs/a/run").status_code == 202

    def first_run() -> Any:
        runs = httpx.get(f"{url}/runs", params={"job_id": "a"}).json()
        return runs[0] if runs and runs[0]["status"] else None

    run = server.until(first_run)
    assert "refused by a rule of this server: it is the API of Cronpost" in run["error_message"]
    assert server.end() == 0


def test_a_setting_under_its_old_name_works_and_the_start_names_the_new_one(
    start: Callable[..., Cronpost], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("CRONPOST_LANE_KEEP_DELIVERED=7\n")
    server = start("serve", "--port", "0", "--lane-keep-stale", "9")
    server.url()
    renamed = {event["setting"]: event["use"] for event in server.events() if event["event"] == "setting renamed"}
    assert renamed == {
        "CRONPOST_LANE_KEEP_DELIVERED": "CRONPOST_TASKS_KEEP_DELIVERED",
        "--lane-keep-stale": "--tasks-keep-stale",
    }
