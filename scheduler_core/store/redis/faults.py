"""Translates exceptions of redis-py into StoreUnavailable (temporary) and StoreRefused (permanent).

A server's error begins with a code (``OOM``, ``READONLY``). redis-py turns some codes into exception classes and
removes them from the text, others not; and inside a script Redis 6.2 puts the code into the middle of another error:
``ERR Error running script (call to f_...): @user_script:3: -OOM command not allowed ...``. ``code_of`` finds the code
in each form, for Redis 6.2 to 8 and Valkey; all decisions use the code alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from redis import exceptions as redis_errors
from redis.asyncio.sentinel import MasterNotFoundError

from scheduler_core.base.errors import StoreRefused, StoreUnavailable

PASSING = {
    "OOM": "Redis is out of memory",
    "LOADING": "Redis is loading its data",
    "READONLY": "Redis is a replica, which accepts no writes",
    "MASTERDOWN": "Redis is a replica that has lost its master",
    "NOREPLICAS": "Redis has too few replicas to accept writes",
    "MISCONF": "Redis cannot save its data to disk",
    "CLUSTERDOWN": "the Redis Cluster does not serve these keys",
    "TRYAGAIN": "the Redis Cluster is moving these keys",
    "BUSY": "Redis runs a script that does not end",
    "UNBLOCKED": "Redis changed its role",
    "EXECABORT": "Redis discarded the transaction",
    "LATE": "the change reached Redis after its deadline",  # from our own scripts
}
"""Codes of temporary faults, with their texts. Redis did not carry out the command."""
NOT_CONNECTED = "no connection could be made, so no command was sent"
"""A note (PEP 678) that the connections of ``client`` add to exceptions of redis-py."""
LASTING = frozenset({"NOAUTH", "WRONGPASS", "NOPERM"})
_CODES: tuple[tuple[type[Exception], str], ...] = (
    (redis_errors.OutOfMemoryError, "OOM"),
    (redis_errors.BusyLoadingError, "LOADING"),
    (redis_errors.ReadOnlyError, "READONLY"),
    (redis_errors.MasterDownError, "MASTERDOWN"),  # a subclass of the next
    (redis_errors.ClusterDownError, "CLUSTERDOWN"),
    (redis_errors.TryAgainError, "TRYAGAIN"),
    (redis_errors.ExecAbortError, "EXECABORT"),
    (redis_errors.NoPermissionError, "NOPERM"),
    (redis_errors.AuthenticationError, "NOAUTH"),
    (redis_errors.AuthorizationError, "NOPERM"),
)
_IN_FRONT = re.compile(r"-?([A-Z][A-Z]+)\b")
_IN_A_SCRIPT = re.compile(r"(?:script|user_script|call to)\b.*? -([A-Z][A-Z]+) ")


def code_of(error: BaseException) -> str:
    """Return the code of a server's error; empty if no server answered, or one answered without a code."""
    for kind, code in _CODES:
        if isinstance(error, kind):
            return code
    text = str(error)
    inside = _IN_A_SCRIPT.search(text)
    if inside is not None:
        return inside[1]
    front = _IN_FRONT.match(text) if isinstance(error, redis_errors.ResponseError) else None
    return "" if front is None else front[1]


def translate(error: Exception) -> StoreUnavailable | StoreRefused:
    """Translate an exception. ``effect_unknown`` of the result: the command may have been carried out."""
    text = str(error)
    code = code_of(error)
    # redis-py wraps errors during connect in a ConnectionError, a refused password too.
    cause = error.__cause__ or error.__context__
    if code in LASTING or (cause is not None and code_of(cause) in LASTING):
        return StoreRefused(f"Redis refuses this client: {text}")
    if isinstance(error, MasterNotFoundError):
        return StoreUnavailable(f"the Sentinels name no master: {text[:300]}")
    if code in PASSING:
        return StoreUnavailable(f"{PASSING[code]} ({code}): {text}")
    if isinstance(error, redis_errors.MaxConnectionsError) or "max number of clients" in text:
        return StoreUnavailable(f"Redis or its connection pool has no connection left: {text}")
    if isinstance(error, redis_errors.ConnectionError | redis_errors.TimeoutError | OSError):
        reason = f"Redis did not answer: {text or type(error).__name__}"
        if NOT_CONNECTED in getattr(error, "__notes__", ()):
            return StoreUnavailable(reason, unreachable=True)
        return StoreUnavailable(reason, effect_unknown=True)
    return StoreRefused(f"Redis refuses the command: {text}")


@contextmanager
def translated_faults() -> Iterator[None]:
    """Raise StoreUnavailable or StoreRefused for exceptions of redis-py raised inside."""
    try:
        yield
    except (redis_errors.RedisError, OSError) as error:
        raise translate(error) from error
