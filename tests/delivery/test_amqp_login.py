"""The login at a broker of AMQP, without a broker: what the loss of the connection during it means."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pamqp import commands, frame

from scheduler_core.delivery.amqp.link import AmqpLink
from scheduler_core.delivery.base import AttemptFailed, OutcomeKind, Verdict
from scheduler_core.delivery.broker.url import Broker
from scheduler_core.delivery.http.connect import Origin


class Written(asyncio.Transport):
    """Takes what is written, and sends it nowhere."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        pass


@pytest.mark.parametrize(
    ("capabilities", "kind", "status", "verdict"),
    [
        ({}, OutcomeKind.RESPONSE, 401, Verdict.REFUSED),
        ({"authentication_failure_close": False}, OutcomeKind.RESPONSE, 401, Verdict.REFUSED),
        ({"authentication_failure_close": True}, OutcomeKind.CONNECTION, None, Verdict.RETRY),
    ],
)
async def test_only_brokers_that_cannot_say_it_refuse_a_login_by_closing(
    capabilities: dict[str, Any], kind: OutcomeKind, status: int | None, verdict: Verdict
) -> None:
    link = AmqpLink(Broker(Origin(False, "h", 5672), "u", "p", "/"))
    link.connection_made(Written())
    start = commands.Connection.Start(server_properties={"capabilities": capabilities}, mechanisms="PLAIN")
    link.data_received(frame.marshal(start, 0))
    link.connection_lost(None)
    with pytest.raises(AttemptFailed) as caught:
        await link.opened()
    outcome = caught.value.outcome
    assert (outcome.kind, outcome.status, outcome.verdict) == (kind, status, verdict)
