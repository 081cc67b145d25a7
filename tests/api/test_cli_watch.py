"""``cronpost watch``: events as lines for people and programs, over lost connections."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest
from click.testing import Result

from tests.api.command_line import KEY, run
from tests.api.conftest import job
from tests.api.runner import Runner

pytestmark = pytest.mark.usefixtures("empty_directory")
AUTHORIZED = {"Authorization": f"Bearer {KEY}"}


def watch(server: str, *args: str) -> Result:
    return run("watch", *args, "--server", server, "--api-key", KEY)


def position(server: str) -> str:
    """Return a position to begin from, so that a test need not be faster than the command."""
    with httpx.stream("GET", f"{server}/events", headers=AUTHORIZED) as answer:
        return next(line for line in answer.iter_lines() if line.startswith("id: ")).removeprefix("id: ")


def test_people_see_aligned_lines(cli_server: str) -> None:
    begin = position(cli_server)
    with httpx.Client(base_url=cli_server, headers=AUTHORIZED) as client:
        body = job(id="daily", cron="0 0 1 1 *", labels={"team": "billing"})
        assert client.post("/", json=body).status_code == 202
        assert client.post("/jobs/daily/pause").status_code == 200
    shown = watch(cli_server, "--count", "2", "--last-event-id", begin)
    assert shown.exit_code == 0, shown.output
    head, created, paused = shown.stdout.splitlines()
    assert head.split() == ["TIME", "EVENT", "JOB", "STATE", "REASON", "STATUS", "DETAIL"]
    assert created.split()[1:] == ["job.changed", "daily", "active", "created", "-", "version", "1"]
    assert paused.split()[1:] == ["job.changed", "daily", "paused", "paused", "-"]
    for column in ("EVENT", "JOB", "STATE", "REASON"):
        at = head.index(column)
        assert created[at - 1] == paused[at - 1] == " "
        assert " " not in {created[at], paused[at]}


def test_programs_get_a_json_object_per_line(cli_server_with_node: tuple[str, Runner]) -> None:
    server, runner = cli_server_with_node
    runner.answers = [(500, b"no")]
    begin = position(server)
    with httpx.Client(base_url=server, headers=AUTHORIZED) as client:
        assert client.post("/", json=job(id="a", cron="0 0 1 1 *")).status_code == 202
        assert client.post("/jobs/a/run").status_code == 202
    options = ("--json", "--type", "run.settled", "--job", "a", "--count", "1", "--last-event-id", begin)
    shown = watch(server, *options)
    assert shown.exit_code == 0, shown.output
    (event,) = [json.loads(line) for line in shown.stdout.splitlines()]
    assert (event["type"], event["state"], event["status_code"]) == ("run.settled", "failed", 500)


def test_filters_are_passed_on_and_refused_by_the_server(cli_server: str) -> None:
    begin = position(cli_server)
    with httpx.Client(base_url=cli_server, headers=AUTHORIZED) as client:
        for name, team in (("a", "x"), ("b", "y")):
            body = job(id=name, cron="0 0 1 1 *", labels={"team": team})
            assert client.post("/", json=body).status_code == 202
    shown = watch(cli_server, "--json", "--label", "team:y", "--count", "1", "--last-event-id", begin)
    assert json.loads(shown.stdout)["job_id"] == "b"
    refused = watch(cli_server, "--label", ":y")
    assert refused.exit_code == 4
    assert "must have 1 to 63 printable characters and no colon" in refused.stderr
    assert watch(cli_server, "--type", "run.begun").exit_code == 2
    assert run("watch", "--server", cli_server, "--api-key", "another-key-of-tests").exit_code == 4


def test_without_a_server_it_fails(unused_address: str) -> None:
    assert watch(unused_address).exit_code == 5


@pytest.fixture
def unused_address() -> str:
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        return f"http://127.0.0.1:{server.server_port}"


class _Dropping(BaseHTTPRequestHandler):
    """Sends one event and closes the connection; then refuses once, as a server that starts does."""

    seen: list[str | None]

    def do_GET(self) -> None:
        self.seen.append(self.headers["Last-Event-ID"])
        number = len(self.seen)
        if number == 2:
            self.send_response(503)
            self.send_header("Content-Type", "application/problem+json")
            self.end_headers()
            self.wfile.write(b'{"title": "t", "status": 503, "detail": "d", "code": "too_many_listeners"}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.end_headers()
        self.wfile.write(b"retry: 10\n\n")
        self.wfile.write(b'id: 7-%d\nevent: node.joined\ndata: {"type":"node.joined","node":"n"}\n\n' % number)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def dropping() -> Iterator[tuple[str, list[str | None]]]:
    seen: list[str | None] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Dropping,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_connects_again_where_it_was(dropping: tuple[str, list[str | None]]) -> None:
    url, seen = dropping
    shown = watch(url, "--json", "--count", "3")
    assert shown.exit_code == 0, shown.output
    assert len(shown.stdout.splitlines()) == 3
    assert seen == [None, "7-1", "7-1", "7-3"]
    assert shown.stderr.count("connecting again") == 2
