"""``Notifier``: sends messages of alerts to channels of every kind."""

from __future__ import annotations

from typing import Final

from scheduler_core.delivery.base import Deliverer, MaySend, attempt, fault_text
from scheduler_core.delivery.http.connect import Connector
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.notify.documents import slack_document, webhook_document
from scheduler_core.delivery.notify.email import send_email
from scheduler_core.delivery.notify.result import Result
from scheduler_core.model.alerts import Channel, ChannelKind, Message
from scheduler_core.model.call import Call
from scheduler_core.model.outcome import Outcome, OutcomeKind, Verdict
from scheduler_core.model.run import Reason

TIMEOUT_MS: Final = 10_000
"""The deadline of one request."""
NOT_REFUSED: Final = frozenset({408, 409, 425, 429})


class Notifier:
    """Sends messages. ``base_url``: where the dashboard is, for links; empty: unknown."""

    def __init__(self, deliverer: Deliverer, guard: AddressGuard, *, base_url: str = "") -> None:
        self._deliverer = deliverer
        self._guard = guard
        self._connector: Connector | None = None
        self.base_url = base_url.rstrip("/")

    async def send(self, channel: Channel, message: Message, may_send: MaySend) -> Result:
        """Make one attempt. ``may_send`` is asked before the first byte of a request. Never raises but when it is
        cancelled."""
        try:
            if channel.kind is ChannelKind.EMAIL:
                if self._connector is None:
                    self._connector = Connector(guard=self._guard)
                return await send_email(self._connector, channel, message, self.base_url)
            return await self._request(channel, message, may_send)
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the others
            # As refused: a message that cannot be written would otherwise keep others from its channel for a day.
            return Result(refused=True, text=fault_text(error))

    async def _request(self, channel: Channel, message: Message, may_send: MaySend) -> Result:
        slack = channel.kind is ChannelKind.SLACK
        call = Call(
            run_id=message.id,
            job_id=f"alert-rule-{message.rule}",
            reason=Reason.MANUAL,
            fire_time_ms=message.created_at_ms,
            attempt=message.attempts + 1,
            fence=1,
            url=channel.url,
            payload=(slack_document if slack else webhook_document)(message, self.base_url),
            timeout_ms=TIMEOUT_MS,
            sign_keys=channel.sign,
        )
        outcome = await attempt(lambda done: self._deliverer.start(call, done, may_send))
        return result_of(outcome, slack=slack)

    async def aclose(self) -> None:
        """Close the resolver of e-mails. The deliverer is closed by its owner."""
        if self._connector is not None:
            await self._connector.aclose()


def result_of(outcome: Outcome, *, slack: bool = False) -> Result:
    """Return what an attempt at a webhook means. An answer's body is quoted for Slack only, whose errors are words."""
    if outcome.kind is not OutcomeKind.RESPONSE:
        refused = outcome.kind is OutcomeKind.BLOCKED
        return Result(refused=refused, text=outcome.message or outcome.kind.value)
    status = outcome.status or 0
    text = f"the answer was {status}"
    body = outcome.body[:100].decode("ascii", "replace").strip()
    if slack and body.replace("_", "").isalnum():
        text = f"{text} ({body})"
    sent = outcome.verdict is Verdict.ACCEPTED and 200 <= status < 300
    refused = not sent and 400 <= status < 500 and status not in NOT_REFUSED
    return Result(sent, refused, outcome.status, text, outcome.retry_after_ms)
