"""``GET /jobs/{id}/account``: what became of each fire time of a job."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from scheduler_api.answers import DEFAULT_PAGE, MAX_PAGE, json_answer, next_link, path_id, query, whole
from scheduler_api.context import context_of
from scheduler_api.wire.fields import instant
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import parse_instant, rfc3339
from scheduler_core.model.run import Run
from scheduler_core.plan.account import Entry
from scheduler_core.usecases.account import read_account


async def account(request: Request) -> Response:
    """The entries of all fire times in [``from``, ``to``], oldest first: runs, and ranges that became no run.

    Bounds are inclusive; absent, they are where the account begins, and now. A range that lies partly within is shown
    whole. The account of a deleted job can be read until its history is trimmed.
    """
    params = query(request, "from", "to", "cursor", "limit")
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
    body = {
        "job_id": job_id,
        **bounds,
        "accounted_from": rfc3339(page.account.from_ms),
        "accounted_until": rfc3339(page.account.until_ms),
        "entries": [show_entry(entry, trimmed=page.trimmed) for entry in page.entries],
        "next": following,
    }
    headers = None
    if following is not None:
        # The bounds stand in the link, so that a page asked for later is one of the same account.
        headers = next_link(request, params, **bounds, cursor=following)
    return json_answer(body, headers=headers)


def show_entry(entry: Entry, *, trimmed: frozenset[str] = frozenset()) -> dict[str, Any]:
    """A run with its fire time, or a range of fire times. ``settled`` is false for what may still change."""
    if entry.run is not None:
        return {
            "kind": "run",
            "fire_time": rfc3339(entry.first_ms),
            "settled": entry.settled,
            "again": entry.again,
            "run": _show_run(entry.run, trimmed=entry.run.id in trimmed),
        }
    reason = "due" if entry.reason is None else entry.reason.value
    if entry.again:
        reason = "backfill"
    elif entry.gets_run:
        reason = "recovery"
    return {
        "kind": "range",
        "first_fire_time": rfc3339(entry.first_ms),
        "last_fire_time": rfc3339(entry.last_ms),
        "settled": entry.settled,
        "again": entry.again,
        "reason": reason,
        "count": entry.count,
    }


def _show_run(run: Run, *, trimmed: bool) -> dict[str, Any]:
    """In short: ``GET /runs/{id}`` has the rest. Of a trimmed run only id, reason and success are known."""
    return {
        "id": run.id,
        "reason": run.reason.value,
        "state": run.state.value,
        "started_at": instant(run.started_at_ms),
        "ended_at": instant(run.ended_at_ms),
        "attempts": run.attempt,
        "status_code": run.last_status,
        "message": run.message,
        "trimmed": trimmed,
    }


def _read_cursor(text: str) -> tuple[int, str]:
    fire_time, dot, rest = text.partition(".")
    digits = fire_time.removeprefix("-")
    if not (dot and digits.isascii() and digits.isdecimal() and len(digits) <= 18 and rest.isascii()):
        raise InvalidInput("cursor must be what an earlier page answered as next", field="cursor")
    return int(fire_time), rest


ROUTES = [Route("/jobs/{job_id}/account", account, methods=["GET"])]
