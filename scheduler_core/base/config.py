"""Declares the settings. They are read once at the start (``config_reader``) and never change.

A setting is a field of one of the sections below, with its type, bounds, default and meaning.
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
    """A group of settings for one part of the program. Its repr hides secrets."""

    name: ClassVar[str]

    def __repr__(self) -> str:
        fields = ", ".join(f"{name}={shown_value(name, getattr(self, name))}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({fields})"


class ApiSettings(Section, frozen=True, kw_only=True):
    """The address of the API, and the rules for access to it."""

    name: ClassVar[str] = "api"

    host: Annotated[
        str,
        Meta(description="Address to listen on. Any address other than loopback needs API keys."),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Meta(ge=0, le=65_535, description="Port to listen on; 0 lets the system choose."),
    ] = 8000
    api_keys: Annotated[
        tuple[str, ...],
        SECRET,
        Meta(
            description="Bearer keys that clients must send, comma-separated, at least 16 characters each. Set "
            "them in the environment: every user of the machine can read the command line."
        ),
    ] = ()
    allow_no_authentication: Annotated[
        bool,
        Meta(
            description="yes: serve an address other than loopback without authentication. Everyone who can reach "
            "the port can make this server send requests."
        ),
    ] = False
    allowed_hosts: Annotated[
        tuple[str, ...],
        Meta(
            description="Host names under which clients may use a server without API keys, besides IP addresses "
            "and localhost, comma-separated; *.example.com matches all names below example.com. "
            "List only names that you control: web pages of a listed name can use this server from a "
            "browser."
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Addresses or networks of the proxies in front of this server, comma-separated. If a request "
            "comes from one, the client's address is the last one in X-Forwarded-For that is not in this list. "
            "Sign-ins are throttled by it, and the log shows it. Not set: the header is ignored."
        ),
    ] = ()
    max_connections: Annotated[
        int,
        Meta(
            ge=10,
            le=1_000_000,
            description="Most open client connections. If a new one exceeds this, the connection that has been "
            "idle longest is closed. The last twentieth is reserved for /health, /ready and requests "
            "with an API key.",
        ),
    ] = 1000
    max_connections_per_address: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most open connections of one client address. Not set: half of max_connections, and no "
            "limit for loopback addresses. Set it to max_connections if a proxy on another machine is "
            "the only client.",
        ),
    ] = None
    events_max_listeners: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Most clients that listen to GET /events of one server at the same time. Each holds one of "
            "max_connections.",
        ),
    ] = 100
    shutdown_delay_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=3600,
            description="For at least how long the API continues after a stop signal, with 503 from /ready: the "
            "time that a load balancer needs to send its requests elsewhere.",
        ),
    ] = 0.0
    max_body_bytes: Annotated[
        int,
        Meta(
            ge=1024,
            le=1 << 30,
            description="Largest accepted request body; a larger one is refused without reading it.",
        ),
    ] = 1 << 20
    metrics_jobs: Annotated[
        int,
        Meta(
            ge=0,
            le=5_000,
            description="Jobs that get series of their own at /metrics (health, failures in a row, last success), in "
            "the order of their ids; each scrape reads them. 0: none.",
        ),
    ] = 0


class StoreSettings(Section, frozen=True, kw_only=True):
    """The Redis that stores the state."""

    name: ClassVar[str] = "store"

    redis_url: Annotated[
        str | None,
        SECRET,
        Meta(
            description="Address of the Redis that nodes share: redis://, rediss:// or unix:// for one server, "
            "redis+sentinel:// for a master behind Sentinels, redis+cluster:// for a Cluster. Not "
            "set: an embedded server in data_dir."
        ),
    ] = None
    data_dir: Annotated[
        Path,
        Meta(description="Directory of the embedded redis-server; not used if redis_url is set."),
    ] = Path("cronpost-data")
    redis_server: Annotated[
        Path | None,
        Meta(
            description="Program of the embedded server: a redis-server or valkey-server, 6.2 or newer. Not set: "
            "the Valkey that is installed with Cronpost, otherwise the newest server on PATH. Older "
            "servers cannot read the data of newer ones."
        ),
    ] = None
    key_prefix: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_.-]{1,32}\Z",
            description="Prefix of every key in Redis. Stores with different prefixes can share one Redis.",
        ),
    ] = "cronpost"
    redis_timeout_seconds: Annotated[
        Seconds,
        Meta(
            description="How long one command may take before Redis counts as unavailable; heartbeats wait for "
            "less. At most dead_after_seconds."
        ),
    ] = 5.0
    shards: Annotated[
        int | None,
        Meta(
            ge=1,
            le=1024,
            description="Number of parts into which the jobs are divided, each on one server of a Cluster. Stored "
            "at the first start and fixed from then on. Not set: the stored number; at the first "
            "start 16 with a Cluster, otherwise 1.",
        ),
    ] = None


class EngineSettings(Section, frozen=True, kw_only=True):
    """Limits, deadlines and history of a node that fires jobs."""

    name: ClassVar[str] = "engine"

    attempt_timeout_seconds: Annotated[
        Seconds,
        Meta(description="Deadline of one attempt, from name lookup to the last byte. A job can set its own."),
    ] = 30.0
    max_in_flight: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Most attempts of jobs that one node has open at the same time. Calls of one-off tasks "
            "are counted separately, with the same limit.",
        ),
    ] = 2000
    target_max_in_flight: Annotated[
        int | None,
        Meta(
            ge=1,
            le=100_000,
            description="Most attempts that one node has open to one target host. Not set: never more than the "
            "slots that are still free, so that a host that hangs gets at most half of a node. If it "
            "is as large as max_in_flight, there is no limit per host.",
        ),
    ] = None
    target_rate: Annotated[
        float | None,
        Meta(
            gt=0,
            le=1_000_000,
            description="Most attempts per second to one target host over all nodes; the rate is divided evenly "
            "among the nodes. Not set: no limit.",
        ),
    ] = None
    breaker_failures: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="After this many attempts in a row without an answer (no connection, unknown host name, "
            "TLS, deadline), a target host's runs are held back, except for a probe from time to "
            "time. 0: never.",
        ),
    ] = 5
    breaker_after_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="A breaker opens only if the first of these failed attempts was at least this long ago.",
        ),
    ] = 10.0
    breaker_open_seconds: Annotated[
        Seconds,
        Meta(
            description="Time from the opening of a breaker to its first probe. It doubles after each failed "
            "probe, up to 60 s."
        ),
    ] = 5.0
    target_allow: Annotated[
        tuple[str, ...],
        Meta(
            description="Targets that may be called although target_deny, or the refusal of link-local and "
            "metadata addresses, forbids it. Only a rule with a network lifts that refusal."
        ),
    ] = ()
    target_deny: Annotated[
        tuple[str, ...],
        Meta(description="Targets that may not be called. With *, only the targets in target_allow may be called."),
    ] = ()
    sign_keys: Annotated[
        tuple[str, ...],
        SECRET,
        Meta(
            description="Keys that sign each request to sign_origins as Standard Webhooks does, comma-separated, in "
            "the order of the signatures. A job or target with keys of its own is signed with those."
        ),
    ] = ()
    sign_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="The targets whose requests sign_keys sign, comma-separated. Name only your own: a signature "
            "shows a receiver that Cronpost sent the request."
        ),
    ] = ()
    public_url: Annotated[
        str | None,
        Meta(
            description="Base URL at which runners reach the API, for runs that they complete by callback, and "
            "people the dashboard, for links in alerts. Not set: the address that this process listens on. A node "
            "without an API needs it."
        ),
    ] = None
    heartbeat_seconds: Annotated[
        Seconds,
        Meta(description="How often a node sends a heartbeat."),
    ] = 1.0
    dead_after_seconds: Annotated[
        Seconds,
        Meta(
            description="A node without a heartbeat for this long is dead, and other nodes reclaim its open runs. "
            "At least 3 times heartbeat_seconds."
        ),
    ] = 5.0
    drain_grace_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="How long a stopping node waits for its open attempts; it releases the remaining runs.",
        ),
    ] = 10.0
    downtime_after_seconds: Annotated[
        Seconds,
        Meta(
            description="If nodes are alive but cannot reach Redis for longer than this, the gap is a downtime "
            "(recovery applies). After a shorter gap, fires are late. At least dead_after_seconds."
        ),
    ] = 10.0
    retry_max_delay_seconds: Annotated[
        Seconds,
        Meta(description="Longest delay between two attempts of a run; the delays double up to it."),
    ] = 60.0
    retry_after_max_seconds: Annotated[
        Seconds,
        Meta(description="Longest Retry-After of a target that is honoured; a longer one counts as this."),
    ] = 3600.0
    retry_for_max_seconds: Annotated[
        Seconds,
        Meta(
            description="For how long after its first attempt a run is retried at most, even if the job's next "
            "fire time is later."
        ),
    ] = 86_400.0
    read_limit_bytes: Annotated[
        int,
        Meta(
            ge=1, le=1 << 30, description="Bytes of a target's response that are read before the connection is closed."
        ),
    ] = 1 << 20
    keep_bytes: Annotated[
        int,
        Meta(ge=0, le=1 << 20, description="Bytes of a target's response that are kept in the history."),
    ] = 10_240
    history_per_job: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Settled runs and misses kept per job; older ones are trimmed."),
    ] = 100
    history_failures_per_job: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="Failed runs kept per job in addition to history_per_job, so that failures outlive later "
            "successes.",
        ),
    ] = 100
    history_retention_days: Annotated[
        float,
        Meta(gt=0, le=3650, description="Longest time in days for which successful runs are kept."),
    ] = 7.0
    history_failure_retention_days: Annotated[
        float,
        Meta(gt=0, le=3650, description="Longest time in days for which failed runs are kept."),
    ] = 30.0
    history_max_runs: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000_000,
            description="Most successful runs kept over all jobs, and most failed ones; the oldest are removed first.",
        ),
    ] = 1_000_000
    history_max_megabytes: Annotated[
        int,
        Meta(
            ge=1,
            le=1_000_000,
            description="Most megabytes of Redis's memory for the records of settled runs, as they are stored. "
            "Beyond that the oldest successes are removed, then the oldest failures.",
        ),
    ] = 512
    completed_max: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000_000,
            description="Most completed jobs kept; beyond that the oldest are removed. They are kept no longer than "
            "the records of runs.",
        ),
    ] = 100_000
    late_after_seconds: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="A job that is due and not started for longer than this is late (its health). Less than 10 "
            "counts as 10.",
        ),
    ] = 10.0
    metrics_label: Annotated[
        str | None,
        Meta(
            pattern=r"^.{1,63}\Z",
            description="Key of a label of jobs: the metric cronpost_unhealthy_jobs then has a series for each of its "
            "values, at most 50. Not set: the metric is not divided.",
        ),
    ] = None


class TaskSettings(Section, frozen=True, kw_only=True):
    """One-off tasks. The first four are the initial values of a new store; later changes go through the API and apply
    to all nodes. The others apply to each node separately."""

    name: ClassVar[str] = "tasks"

    base_interval_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=86_400_000,
            description="Pause between two batches of one-off tasks, from the end of one to the start of the next.",
        ),
    ] = 1000
    http_callback_timeout_ms: Annotated[
        int,
        Meta(ge=1, le=86_400_000, description="Deadline of one call of a one-off task."),
    ] = 5000
    select_size: Annotated[
        int,
        Meta(ge=1, le=100_000, description="Most one-off tasks in a batch."),
    ] = 200
    max_retries: Annotated[
        int,
        Meta(ge=0, le=1_000_000, description="Retries after which a failing one-off task is stale."),
    ] = 5
    tasks_keep_delivered: Annotated[
        int,
        Meta(
            ge=0,
            le=10_000_000,
            description="Delivered one-off tasks that are kept and listed; the oldest are removed first.",
        ),
    ] = 10_000
    tasks_keep_stale: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000_000,
            description="Stale one-off tasks that are kept; the oldest are removed first, which is logged and counted.",
        ),
    ] = 100_000


class ProcessSettings(Section, frozen=True, kw_only=True):
    """The processes of one ``cronpost serve`` or ``cronpost node``."""

    name: ClassVar[str] = "process"

    nodes: Annotated[
        int,
        Meta(
            ge=1,
            le=256,
            description="Nodes that fire jobs, each in its own process if there is more than one; auto: one for "
            "each core that this process may use, by its affinity and CPU quota. With an embedded Redis, auto leaves "
            "one of four cores to Redis and the API if there are at least 3, and starts at most 8 nodes.",
        ),
    ] = 1
    metrics_port: Annotated[
        int | None,
        Meta(
            ge=0,
            le=65_535,
            description="Separate port for /health, /ready and /metrics of a node without an API, on the address "
            "and with the keys of the API's settings. Not set: none.",
        ),
    ] = None
    traces: Annotated[
        bool,
        Meta(
            description="yes: export OpenTelemetry traces of runs by OTLP over HTTP, as the standard OTEL_ variables "
            "say. Needs pip install cronpost[otel]."
        ),
    ] = False


class LogSettings(Section, frozen=True, kw_only=True):
    """Level and format of the log."""

    name: ClassVar[str] = "log"

    log_level: Annotated[
        Literal["debug", "info", "warning", "error"],
        Meta(description="Lowest level that is logged."),
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"],
        Meta(description="console for people, json for machines; auto: console on a terminal, otherwise json."),
    ] = "auto"


class ClientSettings(Section, frozen=True, kw_only=True):
    """The server of the commands ``cronpost jobs`` and ``cronpost runs``. Servers and nodes ignore these settings."""

    name: ClassVar[str] = "client"

    server: Annotated[
        str | None,
        Meta(
            description="Address of the server for cronpost jobs and cronpost runs. Not set: the server that "
            "CRONPOST_HOST and CRONPOST_PORT describe."
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
    """All settings, each with its source (``default``, ``.env``, an environment variable or an option)."""

    api: ApiSettings = ApiSettings()
    store: StoreSettings = StoreSettings()
    engine: EngineSettings = EngineSettings()
    tasks: TaskSettings = TaskSettings()
    process: ProcessSettings = ProcessSettings()
    log: LogSettings = LogSettings()
    client: ClientSettings = ClientSettings()
    sources: Mapping[str, str] = types.MappingProxyType({})
    notes: Mapping[str, str] = types.MappingProxyType({})
    """How values that were not given as such came about, by the name of the setting, for people."""
    old_names: tuple[tuple[str, str], ...] = ()
    """Settings that were given by an old name: the name as written, and the new one."""

    def rows(self) -> list[SettingRow]:
        """Return every setting with its value, default and source, in the order of the table."""
        return [
            SettingRow(
                setting=setting,
                value=shown_value(setting.name, getattr(getattr(self, setting.section), setting.name)),
                default=shown_value(setting.name, setting.default),
                source=self.sources.get(setting.name, "default"),
                note=self.notes.get(setting.name, ""),
            )
            for setting in SETTINGS
        ]


def shown_value(name: str, value: Any) -> str:
    """Return the value of the setting ``name`` for display: secrets are masked."""
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
