"""A RabbitMQ of the tests: on loopback, with ports, directories and an epmd of its own, ended by process id."""

from __future__ import annotations

import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import amqp

from tests.support.processes import Child

PROGRAM = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Debian's /usr/sbin/rabbitmq-server changes to the user rabbitmq and to the directories of the service."""
USER, PASSWORD = "runner", "s3cret"
BOOT_SECONDS = 120.0


def missing() -> str:
    """Return what the tests with RabbitMQ lack on this machine; empty: nothing."""
    if PROGRAM.exists() and shutil.which("epmd") is not None:
        return ""
    return "rabbitmq-server is missing; on Debian and Ubuntu: apt install rabbitmq-server"


class RabbitMq:
    """A broker with one user. It starts in the background; ``ready`` waits for it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port, self._distribution, self._epmd_port = _free_ports(3)
        (directory / "plugins").write_text("[].\n")
        (directory / "rabbitmq.conf").write_text(
            f"default_user = {USER}\ndefault_pass = {PASSWORD}\nloopback_users = none\n"
            "log.console = true\nlog.console.level = warning\nlog.file = false\n"
            "disk_free_limit.absolute = 1MB\n"
        )
        epmd = ["epmd", "-port", str(self._epmd_port), "-address", "127.0.0.1"]
        self._epmd = Child(epmd, directory=directory, environment=self._environment())
        self.server = Child([str(PROGRAM)], directory=directory, environment=self._environment())

    def _environment(self) -> dict[str, str]:
        directory = self.directory
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RABBITMQ_")}
        return kept | {
            "HOME": str(directory),  # of the cookie
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"cronpost-tests-{self.port}@localhost",
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self._distribution),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +S 2:2",
            "RABBITMQ_CONFIG_FILE": str(directory / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(directory / "no-environment"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(directory / "no-advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(directory / "data"),
            "RABBITMQ_LOG_BASE": str(directory / "log"),
            "RABBITMQ_PID_FILE": str(directory / "pid"),
        }

    def url(self, path: str) -> str:
        return f"amqp://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{path}"

    def ready(self) -> None:
        """Wait until the broker accepts logins."""
        end = time.monotonic() + BOOT_SECONDS
        while True:
            assert self.server.is_running, f"RabbitMQ has ended:\n{self.server.output()}"
            assert time.monotonic() < end, f"RabbitMQ does not start:\n{self.server.output()}"
            try:
                self.connect().close()
                return
            except OSError:
                time.sleep(0.1)

    def connect(self) -> Any:
        """Return a connection of py-amqp, a client that Cronpost does not use."""
        connection = amqp.Connection(
            host=f"127.0.0.1:{self.port}", userid=USER, password=PASSWORD, connect_timeout=10, read_timeout=30
        )
        connection.connect()
        return connection

    @property
    def broker_pid(self) -> int:
        """The process of the broker itself; ``server`` is the shell script around it."""
        return int((self.directory / "pid").read_text())

    def close(self) -> None:
        """Kill the broker and its epmd."""
        self.server.clean_up()
        self._epmd.clean_up()


def _free_ports(number: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
