"""Events as ``GET /events`` sends them: fields of server-sent events, with JSON as data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import UNSET, Meta

from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_core.base.instants import rfc3339
from scheduler_core.model.event import EventType

if TYPE_CHECKING:  # the command line reads events without loading the use cases
    from scheduler_core.usecases.events import Notice

RETRY_MS = 2_000
"""How long clients wait before they connect again."""
LOST = "events.lost"
_encoder = msgspec.json.Encoder()
EventName = Annotated[str, Meta(extra_json_schema={"enum": [*(one.value for one in EventType), LOST]})]


class SentEvent(Described, kw_only=True):
    """The data of one event. A field that says nothing about an event is absent."""

    id: Annotated[Maybe[str], Meta(description="Identifies the event: the same event can be sent more than once.")] = (
        UNSET
    )
    type: EventName
    at: Maybe[Instant] = UNSET
    job_id: Maybe[str] = UNSET
    run_id: Maybe[str] = UNSET
    labels: Annotated[Maybe[dict[str, str]], Meta(description="The labels of the job.")] = UNSET
    state: Annotated[Maybe[str], Meta(description="The state of the run, or the status or the health of the job.")] = (
        UNSET
    )
    reason: Annotated[
        Maybe[str],
        Meta(
            description="Of a run: why it exists. Of `run.missed`: why it was missed. Of `job.changed`, `job.deleted` "
            "and `node.left`: the change. Of `job.health_changed`: the health before."
        ),
    ] = UNSET
    status_code: Annotated[Maybe[int], Meta(description="The HTTP status of the last attempt.")] = UNSET
    fire_time: Annotated[Maybe[Instant], Meta(description="Of `run.missed`: the first one.")] = UNSET
    last_fire_time: Annotated[Maybe[Instant], Meta(description="Of `run.missed`: the last fire time.")] = UNSET
    attempt: Annotated[Maybe[int], Meta(description="Attempts of the run that have ended.")] = UNSET
    version: Annotated[Maybe[int], Meta(description="The version of a changed definition.")] = UNSET
    node: Maybe[str] = UNSET
    count: Annotated[
        Maybe[int | None],
        Meta(
            description="Of `run.missed`: how many fire times. Of `events.lost`: how many events, at most; null: "
            "unknown."
        ),
    ] = UNSET


def show_notice(notice: Notice) -> bytes:
    """Encode a notice. One without an event only sets the position from which the client continues."""
    head = f"id: {notice.positions}\n".encode()
    if notice.is_lost:
        return _field(head, LOST, SentEvent(type=LOST, count=notice.count))
    event = notice.event
    if event is None:
        return b": keep-alive\n" + head + b"\n"
    shown = SentEvent(
        id=notice.id,
        type=event.type,
        at=rfc3339(notice.at_ms),
        job_id=event.job_id or UNSET,
        run_id=event.run_id or UNSET,
        labels=dict(event.labels) or UNSET,
        state=event.state or UNSET,
        reason=event.reason or UNSET,
        status_code=_given(event.status),
        fire_time=UNSET if event.fire_time_ms is None else rfc3339(event.fire_time_ms),
        last_fire_time=UNSET if event.last_ms is None else rfc3339(event.last_ms),
        attempt=_given(event.attempt),
        version=_given(event.version),
        node=event.node or UNSET,
        count=_given(event.count),
    )
    return _field(head, event.type, shown)


def _given(number: int | None) -> Maybe[int]:
    return UNSET if number is None else number


def _field(head: bytes, name: str, data: SentEvent) -> bytes:
    return head + b"event: " + name.encode() + b"\ndata: " + _encoder.encode(data) + b"\n\n"
