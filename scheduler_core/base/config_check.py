"""Checks the rules that bind several settings together."""

from __future__ import annotations

import ipaddress

from scheduler_core.base.config import Settings
from scheduler_core.base.errors import ConfigError

HEARTBEATS_PER_LEASE = 3
"""A node may miss two heartbeats in a row (a slow Redis, a busy machine) before other nodes count it as dead."""


def check_settings(settings: Settings) -> None:
    """Check the rules that bind several settings together; raises ``ConfigError``."""
    api, engine = settings.api, settings.engine
    if not is_loopback(api.host) and not api.api_keys and not api.allow_no_authentication:
        raise ConfigError(
            f"CRONPOST_HOST={api.host} can be reached from other machines, and no API key is set. Set "
            "CRONPOST_API_KEYS (python3 -c 'import secrets; print(secrets.token_urlsafe(32))' makes one), or, if "
            "something in front of Cronpost checks who may call it, set CRONPOST_ALLOW_NO_AUTHENTICATION=yes"
        )
    if engine.heartbeat_seconds * HEARTBEATS_PER_LEASE > engine.dead_after_seconds:
        raise ConfigError(
            f"CRONPOST_DEAD_AFTER_SECONDS={engine.dead_after_seconds:g} is less than {HEARTBEATS_PER_LEASE} times "
            f"CRONPOST_HEARTBEAT_SECONDS={engine.heartbeat_seconds:g}: one late heartbeat would make a living "
            "node look dead"
        )
    if settings.store.redis_timeout_seconds > engine.dead_after_seconds:
        raise ConfigError(
            f"CRONPOST_REDIS_TIMEOUT_SECONDS={settings.store.redis_timeout_seconds:g} is more than "
            f"CRONPOST_DEAD_AFTER_SECONDS={engine.dead_after_seconds:g}: a connection lost without notice would "
            "keep a node from claiming for longer than a lease. Lower the first, or raise the second (and with it "
            f"CRONPOST_HEARTBEAT_SECONDS={engine.heartbeat_seconds:g}, if heartbeats are to be rare)"
        )
    if engine.downtime_after_seconds < engine.dead_after_seconds:
        raise ConfigError(
            f"CRONPOST_DOWNTIME_AFTER_SECONDS={engine.downtime_after_seconds:g} is less than "
            f"CRONPOST_DEAD_AFTER_SECONDS={engine.dead_after_seconds:g}: "
            "a pause that is too short for a node to be dead would count as downtime"
        )
    if bool(engine.sign_keys) != bool(engine.sign_origins):
        raise ConfigError(
            "CRONPOST_SIGN_KEYS and CRONPOST_SIGN_ORIGINS go together: the keys sign only requests to these origins. "
            "Set both or none"
        )
    if engine.keep_bytes > engine.read_limit_bytes:
        raise ConfigError(
            f"CRONPOST_KEEP_BYTES={engine.keep_bytes} is more than "
            f"CRONPOST_READ_LIMIT_BYTES={engine.read_limit_bytes}: what is not read cannot be kept"
        )


def beat_timeout_seconds(settings: Settings) -> float:
    """Return how long one heartbeat may take before it is sent again on another connection.

    Two heartbeats in a row may be lost to connections that were lost without notice, and a third still arrives before
    the lease ends. (The lease began when the last successful heartbeat was sent, one period before the first lost one.)
    The fourth quarter is for the pauses between the tries.
    """
    engine = settings.engine
    quarter = (engine.dead_after_seconds - engine.heartbeat_seconds) / 4
    return min(settings.store.redis_timeout_seconds, quarter)


def is_loopback(host: str) -> bool:
    """Return whether only this machine can connect to ``host``. A name other than localhost counts as reachable."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
