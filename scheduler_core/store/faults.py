"""Turns what redis-py raises into the two faults that the rest of Cronpost knows: passing and lasting."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from scheduler_core.errors import StoreRefused, StoreUnavailable

PASSING = (
    redis_errors.BusyLoadingError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
    redis_errors.MasterDownError,
    redis_errors.MaxConnectionsError,
    redis_errors.ExecAbortError,
)
PASSING_PREFIXES = (
    "LOADING",
    "READONLY",
    "OOM",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MASTERDOWN",
    "NOREPLICAS",
    "MISCONF",
    "BUSY",
    "UNBLOCKED",
    "max number of clients",
    "LATE",
)
NOT_CONNECTED = "no connection could be made, so no command was sent"
"""A note on exceptions of redis-py (PEP 678), put there by the connections of :mod:`scheduler_core.store.client`."""
LASTING = (
    redis_errors.AuthenticationError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)


def translate(error: Exception) -> StoreUnavailable | StoreRefused:
    """The fault that ``error`` is. ``effect_unknown`` says whether the command may have been carried out."""
    text = str(error)
    # redis-py wraps what happens while it connects in a ConnectionError, a refused password too.
    refused = isinstance(error, LASTING) or isinstance(error.__cause__ or error.__context__, LASTING)
    if refused or text.startswith(("NOAUTH", "WRONGPASS", "NOPERM")):
        return StoreRefused(f"Redis refuses this client: {text}")
    if isinstance(error, MasterNotFoundError):
        return StoreUnavailable(f"the Sentinels name no master: {text[:300]}")
    if "OOM" in text:
        return StoreUnavailable(f"Redis is out of memory: {text}")
    # Inside a script an error comes as "<code> <text> script: <sha>, on @user_script:<line>."
    if isinstance(error, PASSING) or any(
        text.startswith(prefix) or f"-{prefix}" in text for prefix in PASSING_PREFIXES
    ):
        return StoreUnavailable(f"Redis cannot serve this now: {text}")
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError):
        reason = f"Redis did not answer: {text or type(error).__name__}"
        if NOT_CONNECTED in getattr(error, "__notes__", ()):
            return StoreUnavailable(reason, unreachable=True)
        return StoreUnavailable(reason, effect_unknown=True)
    return StoreRefused(f"Redis refuses the command: {text}")


@contextmanager
def translated_faults() -> Iterator[None]:
    """Raise StoreUnavailable or StoreRefused for whatever redis-py raises inside."""
    try:
        yield
    except (redis_errors.RedisError, OSError) as error:
        raise translate(error) from error


def of_replica(error: Exception) -> bool:
    """Whether the cause of a fault is that the server is a replica, which takes no writes. Before Redis 7, a script
    says so in the middle of its own error."""
    return isinstance(error.__cause__, redis_errors.ReadOnlyError) or "-READONLY" in str(error.__cause__)
