"""Turns findings into messages, and decides when a message is tried again.

Findings of one rule about one condition share a message on each channel. A message without an attempt takes further
findings; otherwise the next message of that kind goes out ``group_ms`` after the last one. While a channel fails, only
its oldest message is tried, so few messages wait: they take the findings that follow.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Final

from msgspec.structs import replace

from scheduler_core.model.alerts import JOBS_NAMED, AlertCondition, Book, Finding, Mention, Message, MessageState

FIRST_DELAY_MS: Final = 5_000
LONGEST_DELAY_MS: Final = 600_000
LONGEST_RETRY_AFTER_MS: Final = 3_600_000
"""The longest ``Retry-After`` that is honoured."""
GIVE_UP_MS: Final = 86_400_000
"""A message is not tried again when it is older than this."""
TRIES_WHEN_REFUSED: Final = 6
"""From this attempt on, a refusal ends the message as failed. The first six take about two and a half minutes."""

Key = tuple[int, int, AlertCondition]
"""Rule, channel and condition: the messages among which findings are grouped."""


def key_of(message: Message) -> Key:
    """Return the group of a message."""
    return message.rule, message.channel, message.on


def add_findings(
    book: Book,
    waiting: Mapping[str, Message],
    findings: Iterable[Finding],
    *,
    latest: Mapping[Key, int],
    busy: Collection[str],
    now_ms: int,
    new_id: Callable[[int], str],
) -> list[Message]:
    """Return the new and changed messages for these findings.

    ``waiting``: the messages that are to be sent, by id; ``busy``: ids of those that are being sent. ``latest``: when
    the latest message of each group was due. Findings of rules and channels that are gone are dropped. Messages of
    rules and channels that cannot be read are made, and wait.
    """
    open_ones = {key_of(one): one for one in waiting.values() if not one.begun_at_ms and one.id not in busy}
    changed: dict[Key, Message] = {}
    for finding in findings:
        rule = book.rules.get(finding.rule) or book.unread_rules.get(finding.rule)
        if rule is None:
            continue
        mention = Mention(finding.job_id, finding.at_ms, finding.text, finding.run_id, finding.failures, finding.ended)
        for channel in rule.channels:
            if channel not in book.channels and channel not in book.unread_channels:
                continue
            key = (rule.id, channel, finding.on)
            message = changed.get(key) or open_ones.get(key)
            if message is None:
                since_ms = latest.get(key)
                next_ms = now_ms if since_ms is None else max(now_ms, since_ms + rule.group_ms)
                message = Message(new_id(now_ms), rule.id, rule.name, channel, finding.on, now_ms, next_ms)
            jobs = (*message.jobs, mention) if len(message.jobs) < JOBS_NAMED else message.jobs
            changed[key] = replace(message, count=message.count + 1, jobs=jobs)
    return list(changed.values())


def after_attempt(
    message: Message, *, sent: bool, refused: bool, text: str, retry_after_ms: int | None, now_ms: int
) -> Message:
    """Return a message after an attempt: sent, to be tried again, or failed."""
    attempts = message.attempts + 1
    tried = replace(message, attempts=attempts, last_at_ms=now_ms, result=text)
    if sent:
        return replace(tried, state=MessageState.SENT, ended_at_ms=now_ms)
    if (refused and attempts >= TRIES_WHEN_REFUSED) or now_ms - message.created_at_ms >= GIVE_UP_MS:
        return replace(tried, state=MessageState.FAILED, ended_at_ms=now_ms)
    delay_ms = min(FIRST_DELAY_MS * 2 ** min(attempts - 1, 20), LONGEST_DELAY_MS)
    if retry_after_ms is not None:
        delay_ms = max(delay_ms, min(retry_after_ms, LONGEST_RETRY_AFTER_MS))
    return replace(tried, next_ms=now_ms + delay_ms)


def without_receiver(message: Message, text: str, *, now_ms: int) -> Message:
    """Return a message whose channel or rule is gone."""
    return replace(message, state=MessageState.FAILED, result=text, last_at_ms=now_ms, ended_at_ms=now_ms)


def next_of_channels(waiting: Iterable[Message]) -> dict[int, Message]:
    """Return for each channel the message to send next: the oldest that was tried before, else the one due first."""
    chosen: dict[int, Message] = {}
    for one in waiting:
        other = chosen.get(one.channel)
        if other is None or _rank(one) < _rank(other):
            chosen[one.channel] = one
    return chosen


def _rank(message: Message) -> tuple[bool, int, str]:
    begun = message.begun_at_ms > 0
    return (not begun, message.created_at_ms if begun else message.next_ms, message.id)
