"""Settings: read once at start, checked as a whole, never changed while the process lives.

What there is to set is declared here; ``config_reader`` reads it.

A setting is a field of one of the sections below: its type, bounds, default and meaning stand there and nowhere else.
The field ``data_dir`` is the environment variable ``CRONPOST_DATA_DIR``, the same name in a ``.env`` file, and the
command-line option ``--data-dir``.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import Meta

from scheduler_core.base.config_table import MASK, Setting, SettingRow, make_table, mask_url

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
SECRET = Meta(extra={"secret": True})


class Section(msgspec.Struct, frozen=True, kw_only=True):
    """A group of settings that one part of the program takes. Its repr hides secrets."""

    name: ClassVar[str]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={shown_value(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({fields})"


class ApiSettings(Section, frozen=True, kw_only=True):
    """Where the API listens and whom it serves."""

    name: ClassVar[str] = "api"

    host: Annotated[
        str,
        Meta(description="Address to listen on. Other than loopback needs API keys."),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to listen on; 0 lets the system choose."),
    ] = 8000
    api_keys: Annotated[
        tuple[str, ...],
        SECRET,
        Meta(
            description="Bearer keys that clients must send, comma-separated, at least 16 characters each. "
            "Better in the environment than on the command line, where every user of the machine can read it."
        ),
    ] = ()
    allow_no_authentication: Annotated[
        bool,
        Meta(
            description="yes: serve an address other than loopback without any authentication; whoever reaches the "
            "port can make this server send requests."
        ),
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Names under which a server without API keys may be used, besides IP addresses and localhost, "
            "comma-separated; *.example.com stands for all names below example.com. A name that others control lets "
            "the pages of their web sites use this server from a browser."
        ),
    ] = ()
    max_connections: Annotated[
        int,
        Meta(
            ge=10,
            le=1_000_000,
            description="Open client connections. Beyond it the one that has waited longest for its client is closed "
            "for a new one; the last twentieth is for /health, /ready and requests with an API key.",
        ),
    ] = 1000
    max_connections_per_address: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="Open connections of one client address. Not set: half of max_connections, and no limit for "
            "loopback addresses. Set it to max_connections if a proxy on another machine is the only client.",
        ),
    ] = None
    shutdown_delay_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="How long the API goes on after a stop signal at least, with 503 from /ready: the time that a "
            "load balancer takes to send its requests elsewhere.",
        ),
    ] = 0.0
    max_body_bytes: Annotated[
        int,
        Meta(ge=1024, le=1 << 30, description="Largest request body that is read; a larger one is refused unread."),
    ] = 1 << 20


class StoreSettings(Section, frozen=True, kw_only=True):
    """Where the state lives."""

    name: ClassVar[str] = "store"

    redis_url: Annotated[
        str | None,
        SECRET,
        Meta(
            description="Address of a Redis that nodes share: redis://, rediss:// or unix:// for one server, "
            "redis+sentinel:// for the master that Sentinels know, redis+cluster:// for a Cluster. "
            "Not set: a redis-server of our own in the data directory."
        ),
    ] = None
    data_dir: Annotated[
        Path,
        Meta(description="Directory of the embedded redis-server; not used with a redis_url."),
    ] = Path("cronpost-data")
    redis_server: Annotated[
        Path | None,
        Meta(
            description="Program of the embedded redis-server: a redis-server or valkey-server, 6.2 or newer. "
            "Not set: the Valkey that comes with Cronpost; where there is none, the newest on PATH. Older servers "
            "cannot read the data of newer ones."
        ),
    ] = None
    key_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,32}\Z",
            description="What every key in Redis starts with; stores with different prefixes can share one Redis.",
        ),
    ] = "cronpost"
    redis_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="How long one command may take before Redis counts as away; heartbeats wait for less. At most "
            "dead_after_seconds."
        ),
    ] = 5.0
    shards: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1024,
            description="Parts into which the jobs are divided, each on one server of a Cluster. Stored at the first "
            "start, and fixed from then on. Not set: the stored number; on the first start 16 with a Cluster, else 1.",
        ),
    ] = None


class EngineSettings(Section, frozen=True, kw_only=True):
    """How a node fires jobs."""

    name: ClassVar[str] = "engine"

    attempt_timeout_seconds: Annotated[
        Seconds,
        Meta(description="Total deadline of one attempt, from name lookup to the last byte; a job can set its own."),
    ] = 30.0
    max_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Attempts that one node has open at once, at most; calls of one-off tasks are counted apart, "
            "and have the same bound.",
        ),
    ] = 1000
    target_max_in_flight: Annotated[
        int | None,
        Meta(
            ge=1,
            le=100_000,
            description="Attempts that one node has open at once to one target host, at most. Not set: as many as it "
            "leaves slots free, so that a host that hangs never takes more than half of a node. As large as "
            "max_in_flight: no bound at all.",
        ),
    ] = None
    target_rate: Annotated[
        float | None,
        Meta(
            gt=0,
            le=1_000_000,
            description="Attempts a second to one target host over all nodes, each of which takes its share. "
            "Not set: no bound.",
        ),
    ] = None
    breaker_failures: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Attempts in a row without an answer (no connection, no such name, TLS, deadline) after which "
            "a target host's runs are held back, but for a probe now and then; 0: never.",
        ),
    ] = 5
    breaker_after_seconds: Annotated[
        float,
        Meta(ge=0, le=86_400, description="And the first of these attempts was at least so long ago."),
    ] = 10.0
    breaker_open_seconds: Annotated[
        Seconds,
        Meta(description="How long until the first probe; twice as long after each that fails, up to 60 s."),
    ] = 5.0
    target_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="Rules for targets that may be called although target_deny, or the refusal of link-local and "
            "metadata addresses, is against them. Only a rule with a network lifts the latter."
        ),
    ] = ()
    target_deny: Annotated[
        tuple[str, ...],
        Meta(description="Rules for targets that may not be called. With * only those in target_allow may be."),
    ] = ()
    public_url: Annotated[
        str | None,
        Meta(
            description="Base URL under which runners reach the API, for runs that they complete by callback. "
            "Not set: the address that this process listens on; a node without an API needs it."
        ),
    ] = None
    heartbeat_seconds: Annotated[
        Seconds,
        Meta(description="How often a node tells the others that it lives."),
    ] = 1.0
    dead_after_seconds: Annotated[
        Seconds,
        Meta(description="A node silent for so long is dead; its open runs go to the others. At least 3 heartbeats."),
    ] = 5.0
    drain_grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long a stopping node waits for open attempts; what is left is handed back.",
        ),
    ] = 10.0
    downtime_after_seconds: Annotated[
        Seconds,
        Meta(
            description="Nodes that live, but could not reach Redis for longer than this, treat the gap as downtime "
            "(recovery applies); a shorter gap makes fires late. At least dead_after_seconds."
        ),
    ] = 10.0
    retry_max_delay_seconds: Annotated[
        Seconds,
        Meta(description="Longest delay between two attempts of a run; delays double up to it."),
    ] = 60.0
    retry_after_max_seconds: Annotated[
        Seconds,
        Meta(description="Longest Retry-After of a target that is honoured; a longer one counts as this."),
    ] = 3600.0
    retry_for_max_seconds: Annotated[
        Seconds,
        Meta(description="A run is retried for so long at most, even if its job's next fire time is later."),
    ] = 86_400.0
    read_limit_bytes: Annotated[
        int,
        Meta(ge=1, le=1 << 30, description="Bytes of a target's answer that are read before the connection is closed."),
    ] = 1 << 20
    keep_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="Bytes of a target's answer that are kept in the history."),
    ] = 10_240
    history_per_job: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Ended runs and misses kept per job; older ones are trimmed."),
    ] = 100
    history_failures_per_job: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Failed runs kept per job beyond those, so that failures outlive the successes after them.",
        ),
    ] = 100
    history_retention_days: Annotated[
        float,
        Meta(gt=0, le=3650, description="Days that runs that succeeded are kept at most."),
    ] = 7.0
    history_failure_retention_days: Annotated[
        float,
        Meta(gt=0, le=3650, description="Days that runs that failed are kept at most."),
    ] = 30.0
    history_max_runs: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Runs that succeeded kept over all jobs, at most, and as many failed ones; oldest go first.",
        ),
    ] = 1_000_000
    history_max_megabytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Megabytes of Redis's memory that the records of ended runs may take as they are stored; "
            "beyond that the oldest successes go, then the oldest failures.",
        ),
    ] = 512


class TaskSettings(Section, frozen=True, kw_only=True):
    """One-off tasks. The first four are what a store starts with: later changes go through the API and hold for all
    nodes. The others are each node's own."""

    name: ClassVar[str] = "lane"

    base_interval_ms: Annotated[
        int,
        Meta(ge=1, le=86_400_000, description="Pause between two batches of one-off tasks, from end to start."),
    ] = 1000
    http_callback_timeout_ms: Annotated[
        int,
        Meta(ge=1, le=86_400_000, description="Deadline of one call of a one-off task."),
    ] = 5000
    select_size: Annotated[
        int,
        Meta(ge=1, le=100_000, description="One-off tasks in a batch, at most."),
    ] = 200
    max_retries: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Retries after which a one-off task that fails is stale."),
    ] = 5
    lane_keep_delivered: Annotated[
        int,
        Meta(ge=0, le=10_000_000, description="Delivered one-off tasks that are still listed; the oldest go first."),
    ] = 10_000
    lane_keep_stale: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Stale one-off tasks that are kept; the oldest go first, which is logged and counted.",
        ),
    ] = 100_000


class ProcessSettings(Section, frozen=True, kw_only=True):
    """What one ``cronpost serve`` or ``cronpost node`` consists of."""

    name: ClassVar[str] = "process"

    nodes: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Nodes that fire jobs, each a process of its own if there is more than one; auto: one for each "
            "core that this process may use.",
        ),
    ] = 1
    metrics_port: Annotated[
        int | None,
        Meta(
            ge=0,
            le=65_535,
            description="Port of its own for /health, /ready and /metrics, for a node without an API: on the address "
            "and with the keys of the API's settings. Not set: none.",
        ),
    ] = None


class LogSettings(Section, frozen=True, kw_only=True):
    """What is logged, and how."""

    name: ClassVar[str] = "log"

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Least level that is logged."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="console for people, json for machines; auto: console on a terminal, else json."),
    ] = "auto"


class ClientSettings(Section, frozen=True, kw_only=True):
    """Which server the commands ``cronpost jobs`` and ``cronpost runs`` talk to. Servers and nodes ignore it."""

    name: ClassVar[str] = "client"

    server: Annotated[
        str | None,
        Meta(
            description="Address of the server that cronpost jobs and cronpost runs talk to. "
            "Not set: the server that CRONPOST_HOST and CRONPOST_PORT describe."
        ),
    ] = None
    api_key: Annotated[
        str | None,
        SECRET,
        Meta(description="Bearer key that these commands send. A server takes its keys from CRONPOST_API_KEYS."),
    ] = None


_SECTIONS: tuple[type[Section], ...] = (
    ApiSettings,
    StoreSettings,
    EngineSettings,
    TaskSettings,
    ProcessSettings,
    LogSettings,
    ClientSettings,
)


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """All settings, and where each came from (``default``, ``.env``, an environment variable or an option)."""

    api: ApiSettings = ApiSettings()
    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    lane: TaskSettings = TaskSettings()
    process: ProcessSettings = ProcessSettings()
    log: LogSettings = LogSettings()
    client: ClientSettings = ClientSettings()
    sources: Mapping[str, str] = types.MappingProxyType({})

    def rows(self) -> list[SettingRow]:
        """Every setting with its value, default and source, in the order of the table."""
        return [
            SettingRow(
                setting=setting,
                value=shown_value(setting.name, getattr(getattr(self, setting.section), setting.name)),
                default=shown_value(setting.name, setting.default),
                source=self.sources.get(setting.name, "default"),
            )
            for setting in SETTINGS
        ]


def shown_value(name: str, value: Any) -> str:
    """The value of the setting ``name`` as it may be shown: secrets are masked."""
    if value is None or value == ():
        return "(not set)"
    if name == "redis_url":
        return mask_url(value)
    if BY_NAME[name].secret:
        return ",".join(MASK for _ in value) if isinstance(value, tuple) else MASK
    if isinstance(value, tuple):
        return ",".join(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


SETTINGS: tuple[Setting, ...] = make_table({section.name: section for section in _SECTIONS})
"""The table of all settings, in the order in which they are shown."""
BY_NAME: dict[str, Setting] = {setting.name: setting for setting in SETTINGS}
