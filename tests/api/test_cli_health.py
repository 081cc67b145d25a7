"""``cronpost health``, the check of the container image."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from scheduler_api.cli import health as cli_health
from scheduler_api.cli.health import first_command
from scheduler_api.cli.main import main


class Answering(HTTPServer):
    status = 200


class Handler(BaseHTTPRequestHandler):
    server: Answering

    def do_GET(self) -> None:
        self.send_response(self.server.status if self.path == "/health" else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Answering]:
    with Answering(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def first_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in place of /proc/1/cmdline; contains another program until a test writes to it."""
    path = tmp_path / "cmdline"
    path.write_bytes(b"/sbin/init\0")
    monkeypatch.setattr(cli_health, "FIRST_PROCESS", path)
    monkeypatch.chdir(tmp_path)
    return path


def check(**settings: object) -> Result:
    return CliRunner().invoke(main, ["health"], env={f"CRONPOST_{n.upper()}": str(v) for n, v in settings.items()})


def closed_port() -> int:
    with HTTPServer(("127.0.0.1", 0), Handler) as gone:
        return int(gone.server_port)


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_server_that_answers_is_healthy(server: Answering, host: str) -> None:
    found = check(port=server.server_port, host=host, api_keys="k" * 16)
    assert (found.exit_code, found.output) == (0, "healthy\n")


def test_a_server_that_does_not_answer_is_unhealthy(server: Answering) -> None:
    assert check(port=closed_port()).exit_code == 5
    server.status = 503
    found = check(port=server.server_port)
    assert found.exit_code == 5
    assert "503" in found.output


def test_a_port_for_metrics_is_used_for_the_check(server: Answering) -> None:
    assert check(port=closed_port(), metrics_port=server.server_port).exit_code == 0
    assert check(port=server.server_port, metrics_port=closed_port()).exit_code == 5


def test_a_node_in_a_container_is_checked_on_its_metrics_port_only(server: Answering, first_process: Path) -> None:
    first_process.write_bytes(b"/opt/cronpost/bin/python\0/opt/cronpost/bin/cronpost\0node\0")
    assert check(port=closed_port()).exit_code == 0
    assert check(host="0.0.0.0", api_keys="k" * 16).exit_code == 0
    assert check(metrics_port=closed_port()).exit_code == 5
    assert check(metrics_port=server.server_port).exit_code == 0
    first_process.write_bytes(f"python\0cronpost\0node\0--metrics-port\0{closed_port()}\0".encode())
    assert check().exit_code == 5


def test_the_address_follows_from_the_options_of_the_first_process(server: Answering, first_process: Path) -> None:
    first_process.write_bytes(f"python\0/bin/cronpost\0serve\0--port={server.server_port}\0".encode())
    assert check().exit_code == 0


@pytest.mark.parametrize("line", [b"", b"cronpost\0", b"/bin/sh\0-c\0true\0", b"\xff\0"])
def test_another_first_process_is_ignored(line: bytes, first_process: Path) -> None:
    first_process.write_bytes(line)
    assert first_command(first_process) == ("", {})
    assert first_command(first_process / "nothing") == ("", {})
