"""Helpers of all endpoints: read bodies, queries and headers; write JSON."""

from __future__ import annotations

import gzip
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes, urlencode

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from scheduler_api.context import context_of
from scheduler_api.problem import ApiError
from scheduler_api.wire.json_body import WHITESPACE, nearest, read_object
from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.job import Job
from scheduler_core.usecases.if_match import ANY

_encoder = msgspec.json.Encoder()

MAX_PAGE = 1000
DEFAULT_PAGE = 100
MAX_SKIP = 10_000
"""The largest ``skip`` of lists that have a cursor as well."""
MAX_HISTORY_SKIP = 100_000
"""The largest ``skip`` in the history of a job, which has no cursor."""
LONGEST_KEY = 255
MAX_IGNORED = 20
"""Maximum number of names in one ``Cronpost-Ignored`` header."""
COMPRESSED_FROM = 2_000
"""Shorter answers are not worth a compression."""
COMPRESSED_TO = 100_000
"""Compressing this takes up to 5 ms, in which the event loop stands still. Longer answers are not compressed."""
_ENTITY_TAG = re.compile(r'[ \t]*(W/)?"([\x21\x23-\x7e\x80-\xff]*)"[ \t]*(?:,|\Z)')


def json_answer(body: Any, status: int = 200, *, headers: Mapping[str, str] | None = None) -> Response:
    """Encode ``body`` as JSON with a line end, for terminals. A ``msgspec.Raw`` in it is written unchanged."""
    return Response(_encoder.encode(body) + b"\n", status, media_type="application/json", headers=dict(headers or {}))


def compact_json(request: Request, body: Any, *, headers: Mapping[str, str] | None = None) -> Response:
    """Encode ``body`` as ``json_answer`` does, compressed with gzip if the client accepts it.

    The length of a compressed secret beside text that somebody else chose reveals the secret, if they can cause many
    such answers and see their lengths. So answers with payloads, headers and whole bodies are never compressed. Lists
    of runs have excerpts of answers, and other sites cannot cause requests with a session (docs/sign-in.md).
    """
    answer = json_answer(body, headers=headers)
    answer.headers["Vary"] = "Accept-Encoding"
    if COMPRESSED_FROM <= len(answer.body) <= COMPRESSED_TO and accepts_gzip(request):
        answer.body = gzip.compress(answer.body, compresslevel=1, mtime=0)
        answer.headers["Content-Encoding"] = "gzip"
        answer.headers["Content-Length"] = str(len(answer.body))
    return answer


def accepts_gzip(request: Request) -> bool:
    """Return whether ``Accept-Encoding`` names gzip with a quality above 0. ``*`` alone is not enough."""
    for one in request.headers.get("accept-encoding", "").lower().split(","):
        name, _, quality = (part.strip() for part in one.partition(";"))
        if name == "gzip":
            return re.fullmatch(r"q=0(\.0*)?", quality) is None
    return False


async def read_body(request: Request, *, limit: int | None = None) -> bytes:
    """Read the body, of at most ``limit`` bytes or else the configured maximum.

    Raises ApiError: 413 as soon as it is longer, 415 for a compressed one (a megabyte may expand to a gigabyte), 400 if
    the connection ends first."""
    limit = limit or context_of(request).settings.max_body_bytes
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", ""}:
        raise ApiError(
            415,
            "a body with a Content-Encoding is not accepted; send it uncompressed",
            code="encoding_not_supported",
            headers={"Accept-Encoding": "identity", "Connection": "close"},
        )
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length[:20]) > limit:
        raise too_large(limit)
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit:
                raise too_large(limit)
            chunks.append(chunk)
    except ClientDisconnect:
        raise ApiError(400, "the connection ended before the body did", code="body_incomplete") from None
    return b"".join(chunks)


async def no_fields(request: Request) -> None:
    """Read a body that must be absent or an object without fields. Raises InvalidInput for any field."""
    body = await read_body(request)
    if body.strip(WHITESPACE):
        read_object(body, ())


def too_large(limit: int) -> ApiError:
    """Build the error for a long body. The rest of the body is not read, so the connection must be closed."""
    return ApiError(
        413, f"the body is longer than {limit} bytes", code="body_too_large", headers={"Connection": "close"}
    )


def decoded(encoded: str, *, field: str) -> str:
    """Decode a percent-encoded path segment. Raises InvalidInput if it is not UTF-8."""
    try:
        return unquote_to_bytes(encoded).decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidInput("not UTF-8 after percent-decoding", field=field) from None


def idempotency_key(request: Request) -> str | None:
    """Read the ``Idempotency-Key`` header; None without one. Raises InvalidInput."""
    given = request.headers.getlist("Idempotency-Key")
    if not given:
        return None
    key = given[0].strip()
    if len(given) > 1 or not 1 <= len(key) <= LONGEST_KEY or not (key.isascii() and key.isprintable()):
        raise InvalidInput(
            f"Idempotency-Key must be one value of 1 to {LONGEST_KEY} printable ASCII characters",
            field="Idempotency-Key",
        )
    return key


def etag_of(job: Job | None) -> dict[str, str] | None:
    """Build the ``ETag`` header of a job; None if its definition cannot be read."""
    return None if job is None else {"ETag": f'"{job.etag}"'}


def if_match(request: Request) -> frozenset[str] | None:
    """Read the ETags in the ``If-Match`` header; None without one. Raises InvalidInput.

    A weak ETag (``W/``) matches no job, because this header is compared strongly (RFC 9110, 13.1.1).
    """
    given = [value for name, value in request.scope["headers"] if name == b"if-match"]
    if not given:
        return None
    text = b",".join(given).decode("latin-1").strip()
    if text == ANY:
        return frozenset({ANY})
    found: set[str] = set()
    place = 0
    while place < len(text) or not text:
        tag = _ENTITY_TAG.match(text, place)
        if tag is None:
            raise InvalidInput(
                'If-Match must be the ETag of an earlier answer with its quotation marks, such as "19ab-3", several of '
                "them, or *",
                field="If-Match",
            )
        if tag[1] is None and tag[2] != ANY:
            found.add(tag[2])
        place = tag.end()
    return frozenset(found)


def if_none_match(request: Request) -> bool:
    """Return whether the header ``If-None-Match: *`` requires that the job does not exist. Raises InvalidInput."""
    given = request.headers.get("if-none-match")
    if given is None:
        return False
    if given.strip() != ANY:
        raise InvalidInput("If-None-Match must be *, which requires that the job does not exist", field="If-None-Match")
    return True


def path_id(request: Request) -> str:
    """Read the job id in the path. Routes match the path as it was sent, so an id can contain an encoded slash."""
    return decoded(request.path_params["job_id"], field="id")


def ignore(request: Request, names: Iterable[str]) -> None:
    """Record ignored fields or parameters of a request, for ``with_ignored``."""
    request.scope.setdefault("cronpost.ignored", {}).update(dict.fromkeys(names))


def with_ignored(request: Request, response: Response, parameters: Collection[str]) -> Response:
    """Add a ``Cronpost-Ignored`` header with the ignored fields and query parameters, percent-encoded.

    ``parameters`` are those that the endpoint knows."""
    ignore(request, (name for name in request.query_params if name not in parameters))
    names = list(request.scope["cronpost.ignored"])
    if names:
        response.headers["Cronpost-Ignored"] = ", ".join(quote(name[:100], safe="") for name in names[:MAX_IGNORED])
    return response


def query(request: Request, *known: str, repeatable: Collection[str] = ()) -> dict[str, str]:
    """Read the query parameters: each at most once, and all of them ``known``. Raises InvalidInput.

    Those that are ``repeatable`` are left out: see ``repeated``.
    """
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in known:
            close = nearest(name, known)
            hint = f"did you mean {close!r}?" if close else f"known: {', '.join(known) or 'none'}"
            raise InvalidInput(f"unknown query parameter {name[:100]!r}; {hint}", field=name[:100])
        if name in found and name not in repeatable:
            raise InvalidInput(f"the query parameter {name!r} is given twice", field=name)
        # Percent-encoded bytes that are not UTF-8 arrive here as replacement characters, which no name or id contains.
        if "\ufffd" in value:
            raise InvalidInput("not UTF-8 after percent-decoding", field=name)
        found[name] = value
    return {name: value for name, value in found.items() if name not in repeatable}


def repeated(request: Request, name: str) -> list[str]:
    """Return the values of a query parameter that ``query`` accepts more than once."""
    return [value for given, value in request.query_params.multi_items() if given == name]


def whole(params: Mapping[str, str], name: str, default: int, low: int, high: int) -> int:
    """Read a whole number from the query. Raises InvalidInput if it is not within ``low`` and ``high``."""
    text = params.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) <= 18 and low <= int(text) <= high):
        raise InvalidInput(f"{name} must be a whole number from {low} to {high}", field=name)
    return int(text)


def yes_or_no(params: Mapping[str, str], name: str) -> bool:
    """Read ``true`` or ``false`` from the query; false if absent. Raises InvalidInput."""
    text = params.get(name, "false")
    if text not in {"true", "false"}:
        raise InvalidInput(f"{name} must be true or false", field=name)
    return text == "true"


def next_link(request: Request, params: Mapping[str, str | Sequence[str]], **changed: str) -> dict[str, str]:
    """Build the ``Link`` header (RFC 8288) to the next page: the same request with the ``changed`` parameters."""
    path = request.scope["path"]
    return {"Link": f'<{path}?{urlencode({**params, **changed}, doseq=True)}>; rel="next"'}
