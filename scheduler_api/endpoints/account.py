"""``GET /jobs/{id}/account``: the run or the miss of each fire time of a job."""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer, next_link, path_id, query, whole
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, CURSOR, LIMIT, NEXT_PAGE, NO_JOB, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, Parameter, described, query_names
from scheduler_api.wire.answers.account import Account, show_entry
from scheduler_api.wire.fields import Instant
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant, rfc3339
from scheduler_core.usecases.account import read_account

PARAMETERS = (
    Parameter("from", Instant, "The earliest fire time (inclusive); absent: `accounted_from`."),
    Parameter("to", Instant, "The latest fire time (inclusive); absent: now."),
    CURSOR,
    LIMIT,
)


async def account(request: Request) -> Response:
    """List all fire times in [``from``, ``to``], oldest first: runs, and ranges without a run.

    Bounds are inclusive; the defaults are the start of the account, and now. A range that lies partly within is shown
    whole. The account of a deleted job can be read until its history is trimmed.
    """
    params = query(request, *query_names(PARAMETERS))
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    from_ms = parse_instant(params["from"], field="from") if "from" in params else None
    to_ms = parse_instant(params["to"], field="to") if "to" in params else None
    if from_ms is not None and to_ms is not None and from_ms > to_ms:
        raise InvalidInput("from must not be later than to", field="from")
    after = _read_cursor(params["cursor"]) if "cursor" in params else None
    job_id = path_id(request)
    context = context_of(request)
    async with context.store_slot():
        page = await read_account(
            context.shards.of(job_id), context.clock, job_id, from_ms=from_ms, to_ms=to_ms, after=after, limit=limit
        )
    bounds = {"from": rfc3339(page.from_ms), "to": rfc3339(page.to_ms)}
    following = None if page.following is None else f"{page.following[0]}.{page.following[1]}"
    body = Account(
        job_id,
        bounds["from"],
        bounds["to"],
        rfc3339(page.account.from_ms),
        rfc3339(page.account.until_ms),
        [show_entry(entry, trimmed=page.trimmed) for entry in page.entries],
        following,
    )
    headers = None
    if following is not None:
        # The link contains the bounds, so that a later request for the page reads the same account.
        headers = next_link(request, params, **bounds, cursor=following)
    return json_answer(body, headers=headers)


def _read_cursor(text: str) -> tuple[int, str]:
    fire_time, dot, rest = text.partition(".")
    digits = fire_time.removeprefix("-")
    if not (dot and digits.isascii() and digits.isdecimal() and len(digits) <= 18 and rest.isascii()):
        raise InvalidInput("cursor must be what an earlier page answered as next", field="cursor")
    return int(fire_time), rest


operation = partial(Operation, "History")
ROUTES = described(
    operation(
        "GET /jobs/{job_id}/account",
        account,
        "get_job_account",
        "Account for each fire time of a job, oldest first",
        description="Every fire time from `accounted_from` on is in exactly one entry, a run or a range with a "
        "reason; entries with `again` do not count. The records of earlier fire times were trimmed.",
        parameters=PARAMETERS,
        answers={
            200: Answer("A page. A range that lies partly between the bounds is shown whole.", Account, [NEXT_PAGE]),
            **BAD,
            **NO_JOB,
            **STORE_FAULTS,
        },
    )
)
