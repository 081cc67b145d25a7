"""``GET /cron/next``: an expression in words, and its next fire times. Stores nothing."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import json_answer, query, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.service import FireTimes
from scheduler_api.wire.fields import Instant
from scheduler_api.wire.jobs import check_id
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant, rfc3339
from scheduler_core.triggers.cron_words import describe
from scheduler_core.triggers.trigger import EverySpec, check_fires_again, compile_trigger, read_cron

MAX_TIMES = 100
PARAMETERS = (
    Parameter("expr", Annotated[str, Meta(examples=["*/10 * * * *"])], "The cron expression.", required=True),
    Parameter("timezone", str, "IANA name; absent: UTC, or the zone of a prefix `TZ=` of the expression."),
    Parameter("tz", str, "The same as `timezone`.", deprecated=True),
    Parameter("id", str, "The id of the job. `H` in the expression needs it."),
    Parameter(
        "start",
        Instant,
        "Fire times after this instant (exclusive); absent: now. The intervals of `@every` count from it.",
    ),
    Parameter("n", Annotated[int, Meta(ge=1, le=MAX_TIMES)], "The maximum number of fire times.", default=5),
)


async def cron_next(request: Request) -> Response:
    """``GET /cron/next``: the next ``n`` fire times of ``expr`` in ``timezone`` (or ``tz``) after ``start``.

    ``start`` is exclusive; absent, it is now. The intervals of ``@every`` count from it.
    """
    params = query(request, *query_names(PARAMETERS))
    timezone = params.get("timezone", params.get("tz"))
    if params.get("tz", timezone) != timezone:
        raise InvalidInput(
            "tz and timezone are the same parameter, but have different values: give one of them", field="timezone"
        )
    if "expr" not in params:
        raise InvalidInput("the query parameter expr is missing: a cron expression", field="expr")
    count = whole(params, "n", 5, 1, MAX_TIMES)
    try:
        job_id = check_id(params["id"]) if "id" in params else None
        spec = read_cron(params["expr"], timezone, job_id)
        if "start" in params:
            after_ms = parse_instant(params["start"], field="start")
        else:
            clock = context_of(request).clock
            # This works while Redis is unreachable.
            after_ms = clock.now_ms() if clock.is_set else SystemClock().now_ms()
        if isinstance(spec, EverySpec):
            spec = replace(spec, anchor_ms=after_ms)
        trigger = compile_trigger(spec, job_id)
        check_fires_again(trigger, after_ms)
    except InvalidInput as error:
        # The query parameters whose names differ from the fields of a job.
        names = {"cron": "expr", "timezone": "timezone" if "timezone" in params else "tz"}
        raise InvalidInput(error.detail, field=names.get(error.field or "", error.field)) from None
    times: list[str] = []
    at_ms = trigger.next_after(after_ms)
    while at_ms is not None and len(times) < count:
        times.append(rfc3339(at_ms))
        at_ms = trigger.next_after(at_ms)
    return json_answer(FireTimes(times, describe(params["expr"], job_id)))


operation = partial(Operation, "Jobs")
ROUTES = described(
    operation(
        "GET /cron/next",
        cron_next,
        "preview_cron",
        "Explain a cron expression and show its next fire times; stores nothing",
        parameters=PARAMETERS,
        answers={200: Answer("Fire times.", FireTimes), **BAD},
    )
)
