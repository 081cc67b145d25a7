"""Builds the parts of a process from its settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from scheduler_api.server.addresses import callback_base
from scheduler_api.server.node_supervisor import NodeSupervisor
from scheduler_core.base.clock import RedisClock
from scheduler_core.base.config import EngineSettings, Settings
from scheduler_core.base.config_check import beat_timeout_seconds
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.base import Deliverer, Environment
from scheduler_core.delivery.http.guard import AddressGuard, OwnEndpoint
from scheduler_core.delivery.registry import installed_kinds
from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.model.trace import Traces
from scheduler_core.node.engine import Engine
from scheduler_core.store.jobs import Retention
from scheduler_core.store.redis.open import default_number, open_shards
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards

WrapDeliverer = Callable[[Deliverer, RedisClock], Deliverer]
DAY_MS = 86_400_000


def open_store(settings: Settings, url: str, connections: int, *, beats: bool = False) -> Shards[RedisStore]:
    """Open the store at ``url``. ``beats``: for a node, whose heartbeat gets a connection of its own."""
    engine = settings.engine
    longest_days = max(engine.history_retention_days, engine.history_failure_retention_days)
    return open_shards(
        url,
        number=settings.store.shards or default_number(url),
        timeout_seconds=settings.store.redis_timeout_seconds,
        connections=connections,
        beat_timeout_seconds=beat_timeout_seconds(settings) if beats else None,
        prefix=settings.store.key_prefix,
        retention=Retention(
            entries=engine.history_per_job,
            failures=engine.history_failures_per_job,
            after_ms=int(DAY_MS * longest_days),
        ),
    )


def with_shards(settings: Settings, number: int) -> Settings:
    """Return the settings with the number of shards that the store has."""
    return replace(settings, store=replace(settings.store, shards=number))


def build_engine(
    settings: Settings,
    store: Shards[RedisStore],
    clock: RedisClock,
    metrics: Metrics,
    guard: AddressGuard,
    *,
    url: str | None,
    sole: bool,
    wrap: WrapDeliverer | None,
    traces: Traces | None,
) -> Engine:
    """Build the node of this process. ``url``: where its API listens. ``sole``: no other node can be alive."""
    engine = _engine_settings(settings, url)
    is_sampled = None if traces is None else traces.is_sampled
    deliverer = installed_kinds().open(Environment(clock, engine, guard, is_sampled))
    if wrap is not None:
        deliverer = wrap(deliverer, clock)
    return Engine(
        engine,
        store,
        deliverer,
        clock,
        metrics,
        task_settings=settings.tasks,
        sole=sole,
        guard=guard,
        traces=traces,
    )


def build_nodes(
    settings: Settings,
    clock: RedisClock,
    metrics: Metrics,
    own: Sequence[OwnEndpoint],
    *,
    url: str | None,
    embedded: EmbeddedRedis | None,
) -> NodeSupervisor:
    """Build the supervisor of the node processes. They work on ``embedded`` if there is one."""
    settings = replace(settings, engine=_engine_settings(settings, url))
    if embedded is None:
        return NodeSupervisor(settings, clock, metrics, own=own)
    settings = replace(settings, store=replace(settings.store, redis_url=embedded.url))
    inherit = () if embedded.lock is None else (embedded.lock,)
    return NodeSupervisor(settings, clock, metrics, sole=True, inherit=inherit, own=own)


def _engine_settings(settings: Settings, url: str | None) -> EngineSettings:
    """Return the settings of a node. Without a public URL, runners call back the API of this process."""
    engine = settings.engine
    if engine.public_url is None and url is not None:
        return replace(engine, public_url=callback_base(url))
    return engine
