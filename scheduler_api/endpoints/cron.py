"""``GET /cron/next``: the next fire times of an expression. Stores nothing."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.service import FireTimes
from scheduler_api.wire.fields import Instant
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant, rfc3339
from scheduler_core.triggers.trigger import CronSpec, check_fires_again, compile_trigger

MAX_TIMES = 100
_PARAMETERS = {"cron": "expr", "timezone": "tz"}
"""Query parameters whose names differ from the fields of a job."""


PARAMETERS = (
    Parameter("expr", Annotated[str, Meta(examples=["*/10 * * * *"])], "The cron expression.", required=True),
    Parameter("timezone", str, "IANA name; absent: UTC."),
    Parameter("tz", str, "The same as `timezone`.", deprecated=True),
    Parameter("start", Instant, "Fire times after this instant (exclusive); absent: now."),
    Parameter("n", Annotated[int, Meta(ge=1, le=MAX_TIMES)], "The maximum number of fire times.", default=5),
)


async def cron_next(request: Request) -> Response:
    """``GET /cron/next``: the next ``n`` fire times of ``expr`` in ``timezone`` (or ``tz``) after ``start``.

    ``start`` is exclusive; absent, it is now.
    """
    params = query(request, *query_names(PARAMETERS))
    if params.setdefault("timezone", params.get("tz", "UTC")) != params.get("tz", params["timezone"]):
        raise InvalidInput(
            "tz and timezone are the same parameter, but have different values: give one of them", field="timezone"
        )
    if "expr" not in params:
        raise InvalidInput("the query parameter expr is missing: a cron expression", field="expr")
    count = whole(params, "n", 5, 1, MAX_TIMES)
    try:
        trigger = compile_trigger(CronSpec(params["expr"], params["timezone"]))
        if "start" in params:
            after_ms = parse_instant(params["start"], field="start")
        else:
            clock = context_of(request).clock
            # This works while Redis is unreachable.
            after_ms = clock.now_ms() if clock.is_set else SystemClock().now_ms()
        check_fires_again(trigger, after_ms)
    except InvalidInput as error:
        raise InvalidInput(error.detail, field=_PARAMETERS.get(error.field or "", error.field)) from None
    times: list[str] = []
    at_ms = trigger.next_after(after_ms)
    while at_ms is not None and len(times) < count:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    return json_answer(FireTimes(times))


operation = partial(Operation, "Jobs")
ROUTES = described(
    operation(
        "GET /cron/next",
        cron_next,
        "preview_cron",
        "Show the next fire times of a cron expression; stores nothing",
        parameters=PARAMETERS,
        answers={200: Answer("Fire times.", FireTimes), **BAD},
    )
)
