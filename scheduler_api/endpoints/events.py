"""``GET /events``: what happens to jobs, runs and nodes, as server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, RETRY_AFTER
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, problem
from scheduler_api.scope import SESSION_IN_SCOPE
from scheduler_api.wire.answers.events import RETRY_MS, SentEvent
from scheduler_api.wire.json_body import nearest
from scheduler_api.wire.labels import check_key
from scheduler_core.base.errors import InvalidInput, StoreError
from scheduler_core.model.event import EventType
from scheduler_core.usecases.events import EventFeed, EventFilter, Listener
from scheduler_core.usecases.sessions import Session

SESSION_LOOK_SECONDS = 10.0
"""How often the session of a listener is read: a stream ends within this time after its session was revoked."""
MOST_CONDITIONS = 100
"""The most values of one filter."""
PARAMETERS = (
    Parameter(
        "label",
        list[str],
        "Only events of jobs with this label: `key:value`, or `key` with any value. Repeated: all must match.",
    ),
    Parameter("job", list[str], "Only events of this job. Repeated: of any of them."),
    Parameter("type", list[EventType], "Only events of this type. Repeated: of any of them."),
    Parameter(
        "Last-Event-ID",
        str,
        "The `id` of the last event that was received: begin with the next one. Browsers send it when they connect "
        "again.",
        where="header",
    ),
)
HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    # nginx passes an answer on in pieces of its buffer unless it has this header.
    "X-Accel-Buffering": "no",
}


async def events(request: Request) -> Response:
    """Send events until the client closes the connection or the server stops."""
    wanted = _wanted(request)
    if request.method == "HEAD":
        return Response(headers=HEADERS)
    feed = context_of(request).events
    listener = feed.open(wanted, request.headers.get("last-event-id"))
    try:
        await feed.ready()
    except BaseException:
        feed.close(listener)
        raise
    session: Session | None = request.scope.get(SESSION_IN_SCOPE)
    return _EventStream(feed, listener, None if session is None else partial(_session_ended, request, session))


async def _session_ended(request: Request, session: Session) -> None:
    """Return when the session has expired, or within ``SESSION_LOOK_SECONDS`` after it was revoked."""
    context = context_of(request)
    found: Session | None = session
    while found is not None:
        left = context.clock.seconds_until(session.expires_at_ms)
        if left <= 0:
            return
        await context.clock.sleep(min(left, SESSION_LOOK_SECONDS))
        # While Redis is away nobody is signed out.
        with contextlib.suppress(StoreError):
            async with context.lead_slot():
                found = await context.sessions.find(session.id)


class _EventStream(Response):
    """Sends what a listener receives. Ends when the client is gone, the listener is closed, or ``session_ended``
    returns."""

    def __init__(
        self, feed: EventFeed, listener: Listener, session_ended: Callable[[], Awaitable[None]] | None
    ) -> None:
        self.status_code = 200
        self.background = None
        self.body = b""
        self.init_headers(HEADERS)
        del self.headers["content-length"]
        self._feed = feed
        self._listener = listener
        self._session_ended = session_ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        watching = [asyncio.create_task(self._watch(receive), name="cronpost listener")]
        if self._session_ended is not None:
            watching.append(asyncio.create_task(self._close_after(self._session_ended()), name="cronpost session"))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send(_part(f"retry: {RETRY_MS}\n\n".encode()))
            async with contextlib.aclosing(self._listener.chunks()) as chunks:
                async for chunk in chunks:
                    await send(_part(chunk))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._feed.close(self._listener)
            for task in watching:
                task.cancel()

    async def _watch(self, receive: Receive) -> None:
        """Close the listener when the client closes the connection: sending to it would not show that."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._feed.close(self._listener)

    async def _close_after(self, end: Awaitable[None]) -> None:
        """Close the listener after ``end``, also if that fails."""
        try:
            await end
        finally:
            self._feed.close(self._listener)


def _part(body: bytes) -> dict[str, object]:
    return {"type": "http.response.body", "body": body, "more_body": True}


def _wanted(request: Request) -> EventFilter:
    """Read the filters. Raises InvalidInput."""
    known = tuple(one.name for one in PARAMETERS if one.where == "query")
    found: dict[str, list[str]] = {name: [] for name in known}
    for name, value in request.query_params.multi_items():
        if name not in found:
            close = nearest(name, known)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(known)}"
            raise InvalidInput(f"unknown query parameter {name[:100]!r}; {hint}", field=name[:100])
        if "\ufffd" in value:
            raise InvalidInput("not UTF-8 after percent-decoding", field=name)
        if not value:
            raise InvalidInput(f"{name} is empty; leave it out to receive the events of all", field=name)
        found[name].append(value)
        if len(found[name]) > MOST_CONDITIONS:
            raise InvalidInput(f"{name} is given more than {MOST_CONDITIONS} times", field=name)
    _check_types(found["type"])
    return EventFilter(frozenset(found["job"]), frozenset(found["type"]), tuple(map(_label, found["label"])))


def _check_types(types: Sequence[str]) -> None:
    for one in types:
        if one not in frozenset(EventType):
            raise InvalidInput(f"type must be one of {', '.join(EventType)}", field="type")


def _label(text: str) -> tuple[str, str | None]:
    key, colon, value = text.partition(":")
    check_key(key, "label")
    return key, value if colon else None


ROUTES = described(
    Operation(
        "Monitoring",
        "GET /events",
        events,
        "stream_events",
        "Receive events of jobs, runs and nodes as they happen",
        description=(
            "Server-sent events. Each has an `id`, a type (`event`) and JSON (`data`). Events of one job arrive in the "
            "order in which they happened. `run.settled`, `run.missed` and `job.*` are sent at least once; the others "
            "are best effort. A client that connects again with `Last-Event-ID` within a minute continues there. "
            "Events that it cannot get any more are announced by `events.lost`."
        ),
        parameters=PARAMETERS,
        answers={
            200: Answer(
                "Events, until the client or the server closes the connection.", SentEvent, [], "text/event-stream"
            ),
            **BAD,
            422: problem("Redis refuses permanently (wrong password, no permission, wrong type)."),
            503: problem("Too many listeners, or the server stops (`too_many_listeners`).", RETRY_AFTER),
        },
    )
)
