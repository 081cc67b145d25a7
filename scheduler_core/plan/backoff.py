"""Computes how long a run waits before its next attempt.

Pure arithmetic, which a retry library (tenacity, backoff) offers only together with its own waiting in memory. Here the
wait is stored in Redis, so that it survives the node.
"""

from __future__ import annotations

from functools import lru_cache

import msgspec

from scheduler_core.model.policies import RetryRule

DAY_MS = 86_400_000
MOST_STEPS = 64
"""The delay no longer grows after this many steps: every factor has reached its cap or never will."""


class RetryPolicy(msgspec.Struct, frozen=True):
    """The rules for retries after failed attempts. All times in milliseconds."""

    first_delay_ms: int = 1_000
    factor: float = 2.0
    cap_ms: int = 60_000
    attempts: int | None = None
    """The maximum number of failed attempts; None: limited by ``max_age_ms`` only."""
    jitter: float = 0.1
    """Up to this fraction of the delay is added at random, within the cap. Nothing is subtracted, so that a runner is
    never called before the promised delay."""
    retry_after_cap_ms: int = 3_600_000
    """The longest Retry-After of a runner that is honoured."""
    max_age_ms: int = DAY_MS
    """A run is not retried if its first attempt is longer ago than this."""
    conflict_floor_ms: int = 500
    """The shortest wait after 409, for jobs with ``retry_already_running: 0``."""


def retry_delay_ms(policy: RetryPolicy, failures: int, *, retry_after_ms: int | None, jitter: float) -> int:
    """Return the milliseconds to wait after the ``failures``-th consecutive failure (1 for the first).

    The first delay is used twice, then it grows by the factor up to the cap. ``jitter`` is a random number in [0, 1). A
    longer Retry-After is honoured, up to its own cap. Jitter never exceeds the cap that applies.
    """
    steps = min(max(failures - 2, 0), MOST_STEPS)
    delay, cap = int(min(policy.first_delay_ms * policy.factor**steps, policy.cap_ms)), policy.cap_ms
    if retry_after_ms is not None and retry_after_ms > delay:
        delay, cap = max(delay, min(retry_after_ms, policy.retry_after_cap_ms)), max(cap, policy.retry_after_cap_ms)
    return min(delay + int(delay * policy.jitter * jitter), cap)


@lru_cache(maxsize=1024)
def with_rule(policy: RetryPolicy, rule: RetryRule) -> RetryPolicy:
    """Return ``policy`` with a job's own rule applied. A first delay above the cap raises the cap if the rule sets
    none."""
    first_delay_ms = policy.first_delay_ms if rule.first_delay_ms is None else rule.first_delay_ms
    return RetryPolicy(
        first_delay_ms=first_delay_ms,
        factor=policy.factor if rule.factor is None else rule.factor,
        cap_ms=max(policy.cap_ms, first_delay_ms) if rule.cap_ms is None else rule.cap_ms,
        attempts=policy.attempts if rule.attempts is None else rule.attempts,
        jitter=policy.jitter,
        retry_after_cap_ms=policy.retry_after_cap_ms,
        max_age_ms=policy.max_age_ms if rule.max_age_ms is None else rule.max_age_ms,
        conflict_floor_ms=policy.conflict_floor_ms,
    )
