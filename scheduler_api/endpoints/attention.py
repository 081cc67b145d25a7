"""``GET /attention``: what needs a person. ``POST /attention/{id}/dismiss``."""

from __future__ import annotations

import base64
import binascii
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from scheduler_api.answers import (
    DEFAULT_PAGE,
    MAX_PAGE,
    decoded,
    json_answer,
    next_link,
    no_fields,
    query,
    whole,
)
from scheduler_api.context import context_of
from scheduler_api.openapi.common import BAD, BODY_FAULTS, CURSOR, LIMIT, NEXT_PAGE, STORE_FAULTS
from scheduler_api.openapi.operation import Answer, Operation, described, problem, query_names
from scheduler_api.wire.answers.attention import Attention, Dismissed, show_attention
from scheduler_core.base.errors import InvalidInput
from scheduler_core.usecases.attention import SECTIONS, AttentionCursor

PARAMETERS = (CURSOR, LIMIT)
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AttentionCursor)


async def list_attention(request: Request) -> Response:
    """List refused settlements first, then quarantined jobs, then all others, newest first.

    A page examines a bounded number of entries: it may be short or empty and still have a next page.
    """
    params = query(request, *query_names(PARAMETERS))
    limit = whole(params, "limit", DEFAULT_PAGE, 1, MAX_PAGE)
    cursor = read_cursor(params["cursor"]) if "cursor" in params else None
    context = context_of(request)
    async with context.store_slot():
        page = await context.attention.page(cursor, limit)
    following = None if page.cursor is None else write_cursor(page.cursor)
    headers = None if following is None else next_link(request, params, cursor=following)
    return json_answer(show_attention(page, following), headers=headers)


async def dismiss(request: Request) -> Response:
    """Remove an entry from the list. It comes back only with a newer failure."""
    query(request)
    await no_fields(request)
    entry_id = decoded(request.path_params["entry_id"], field="id")
    context = context_of(request)
    async with context.store_slot():
        dismissed = await context.attention.dismiss(entry_id)
    return json_answer(Dismissed(entry_id, dismissed))


def write_cursor(cursor: AttentionCursor) -> str:
    """Encode where the next page begins."""
    return base64.urlsafe_b64encode(_encoder.encode(cursor)).decode().rstrip("=")


def read_cursor(text: str) -> AttentionCursor:
    """Decode the text of ``write_cursor``. Raises InvalidInput."""
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = _decoder.decode(raw)
    except (binascii.Error, ValueError, msgspec.MsgspecError):
        cursor = None
    if cursor is None or not _is_place(cursor):
        raise InvalidInput("not a cursor of this list; use next of an earlier page, or none", field="cursor")
    return cursor


def _is_place(cursor: AttentionCursor) -> bool:
    if min(cursor.listed, cursor.section, cursor.shown) < 0 or cursor.section >= len(SECTIONS):
        return False
    return cursor.source is None or cursor.source in SECTIONS[cursor.section]


operation = partial(Operation, "Monitoring")
ROUTES = described(
    operation(
        "GET /attention",
        list_attention,
        "list_attention",
        "List what needs a person: failed jobs, entries set aside, quarantined jobs, stale tasks",
        parameters=PARAMETERS,
        answers={200: Answer("A page.", Attention, [NEXT_PAGE]), **BAD, **STORE_FAULTS},
    ),
    operation(
        "POST /attention/{entry_id}/dismiss",
        dismiss,
        "dismiss_attention",
        "Remove an entry from the list of what needs a person",
        answers={
            200: Answer("The entry is not in the list; a repetition changes nothing.", Dismissed),
            **BAD,
            404: problem("No such job, task or entry."),
            409: problem("The stored job cannot be read: put it again or delete it."),
            **BODY_FAULTS,
            **STORE_FAULTS,
        },
    ),
)
