"""Parameters, headers and answers that many operations share."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from scheduler_api.answers import DEFAULT_PAGE, LONGEST_KEY, MAX_PAGE, MAX_SKIP
from scheduler_api.openapi.operation import Answers, Header, Parameter, problem

LIMIT = Parameter(
    "limit",
    Annotated[int, Meta(ge=1, le=MAX_PAGE)],
    "The maximum number of entries.",
    default=DEFAULT_PAGE,
)
SKIP = Parameter(
    "skip", Annotated[int, Meta(ge=0, le=MAX_SKIP)], "How many entries to leave out at the start.", default=0
)
CURSOR = Parameter("cursor", str, "`next` of the previous page.")
IDEMPOTENCY_KEY = Parameter(
    "Idempotency-Key",
    Annotated[str, Meta(min_length=1, max_length=LONGEST_KEY)],
    "A repetition of the request with the same key within a day gets the first answer.",
    where="header",
)

RETRY_AFTER = Header("Retry-After", "Seconds to wait.", int)
LOCATION = Header("Location", "The path of what was created.")
NEXT_PAGE = Header("Link", 'The next page, with rel="next" (RFC 8288); absent on the last page.')
ETAG = Header("ETag", "Names the version of the job's definition; absent if the definition cannot be read.")
IGNORED = Header("Cronpost-Ignored", "Unknown parameters and fields of the request, which were ignored.")

BAD: Answers = {400: problem("The request is invalid and changes nothing. `field` names the invalid part.")}
IF_MATCH = Parameter(
    "If-Match",
    Annotated[str, Meta(min_length=1)],
    "The `ETag` of an earlier answer. The request is carried out only if the job still has it.",
    where="header",
)
IF_NONE_MATCH = Parameter(
    "If-None-Match",
    Annotated[str, Meta(pattern=r"^\*$")],
    "`*`: the request is carried out only if the job does not exist (else 412 `job_exists`).",
    where="header",
)
NOT_MATCHED: Answers = {
    412: problem("The job does not have the ETag in `If-Match` (`version_mismatch`); nothing was changed.", ETAG)
}
NO_JOB: Answers = {404: problem("No such job.")}
IS_A_SCHEDULE: Answers = {409: problem("The job is a schedule: change it under `/schedules` (`is_a_schedule`).")}
BODY_FAULTS: Answers = {
    413: problem("The body is too long."),
    415: problem("The body has a Content-Encoding."),
}
STORE_FAULTS: Answers = {
    429: problem(
        "Redis is temporarily unavailable (down, loading, failing over, out of memory): try again later. Nothing was "
        "stored, unless the code is `outcome_unknown`: then the change may have been stored.",
        RETRY_AFTER,
    ),
    422: problem("Redis refuses permanently (wrong password, no permission, wrong type)."),
    500: problem("An unexpected error, or a stored entry that cannot be read (`corrupt_document`)."),
}
LENIENT_FAULTS: Answers = {
    **STORE_FAULTS,
    422: problem("The request is invalid (`field` names the field), or Redis refuses permanently."),
}
"""Of the lenient endpoints, whose clients expect a 422 for an invalid request."""
