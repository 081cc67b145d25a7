"""Describes request bodies: one struct for each JSON object that clients send.

They are never instantiated: the modules beside this one read bodies field by field, with an error text for each. They
take the names of the known fields from here, and the schemas of ``GET /openapi.json`` are generated from here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType, defstruct, field

from scheduler_api.wire.fields import Described, Instant, Maybe
from scheduler_api.wire.labels import LABEL_ROWS, MAX_DESCRIPTION_CHARACTERS
from scheduler_api.wire.policies import described_policies
from scheduler_api.wire.policy_rows import POLICY_FIELDS
from scheduler_api.wire.request_fields import REQUEST_ROWS, AnyAuth, Sign
from scheduler_api.wire.triggers import LEAST_EVERY_SECONDS, MAX_EVERY_SECONDS
from scheduler_core.base.config import BY_NAME
from scheduler_core.model.catalogue import MAX_NAME_CHARACTERS, MAX_SECONDS, ScheduleType
from scheduler_core.plan.continuation import LATEST_MS, PENDING_LIMIT
from scheduler_core.store.tasks import RULES

MAX_ID_CHARACTERS = 255
MAX_RETRY_SECONDS = 86_400
"""The longest ``retry_already_running``: a day."""
BATCH_LIMIT = 1000
"""The maximum number of jobs in one ``POST /jobs:batch``."""
MAX_BACKFILL = 10_000
"""The maximum number of runs of one backfill."""
DEFAULT_BACKFILL = 100
MAX_TASKS = 1000
"""The maximum number of one-off tasks in one request."""

Url = Annotated[str, Meta(description="http or https, or another kind of target.", extra_json_schema={"format": "uri"})]
OwnPayload = Annotated[Any, Meta(description="The body of this run; absent: the job's payload.")]
Text = Annotated[Maybe[str], Meta(description="For people; cut to 1000 characters.")]
JobId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=MAX_ID_CHARACTERS,
        description="Printable text; not `schedule_<digits>`, `task_<digits>` or `try_<digits>_<20 hex digits>`.",
    ),
]
SameId = Annotated[Maybe[JobId], Meta(description="If it is given: the id of the path.")]
RetrySeconds = Annotated[
    Maybe[Annotated[int, Meta(ge=0, le=MAX_RETRY_SECONDS)] | None],
    Meta(description="Seconds between attempts while the runner answers 409; null: no further attempt."),
]
IGNORED_FIELDS = ("last_run",)
"""Fields of a job that old clients send back. They are accepted and ignored."""

_JOB_FIELDS: list[tuple[str, Any] | tuple[str, Any, Any]] = [
    (
        "endpoint",
        Annotated[Url | UnsetType | None, Meta(description="http or https. Required unless `target` is given.")],
        UNSET,
    ),
    (
        "payload",
        Annotated[
            Any,
            Meta(
                description="Any JSON value; sent byte for byte as it was received. Required with POST, PUT and PATCH "
                "unless `body` is given."
            ),
        ],
        UNSET,
    ),
    *REQUEST_ROWS,
    (
        "cron",
        Annotated[
            str | UnsetType | None,
            Meta(
                description="5 fields, 6 (seconds first), 7 (year last), a macro, or `@every 1h30m`. Exactly one of "
                "`cron`, `every_seconds` and `at` is required; null without the other two: runs only on request."
            ),
        ],
        UNSET,
    ),
    (
        "every_seconds",
        Annotated[
            Annotated[float, Meta(ge=LEAST_EVERY_SECONDS, le=MAX_EVERY_SECONDS)] | UnsetType | None,
            Meta(
                description="Fire times at this interval, with at most three decimals. They count from `starts_at`, or "
                "from the upsert that set or changed the interval.",
            ),
        ],
        UNSET,
    ),
    (
        "at",
        Annotated[
            str | UnsetType | None,
            Meta(
                description="The only fire time: RFC 3339 with its offset, later than now; or `now`, which is stored "
                "with its instant and fires once, however often the same body is sent."
            ),
        ],
        UNSET,
    ),
    (
        "retry_already_running",
        RetrySeconds,
        UNSET,
    ),
    (
        "recovery_check",
        Annotated[bool, Meta(description="Run once after a downtime in which fire times passed.")],
        False,
    ),
    (
        "timezone",
        Annotated[str, Meta(description="IANA name; only beside `cron`, whose prefix `TZ=` names it too.")],
        "UTC",
    ),
    *LABEL_ROWS,
    *described_policies(sent=True),
    *(
        (name, Annotated[Any, Meta(description="Accepted and ignored.", extra_json_schema={"deprecated": True})], UNSET)
        for name in IGNORED_FIELDS
    ),
]
_EXAMPLE: dict[str, Any] = {
    "endpoint": "http://localhost:8080/enqueue",
    "cron": "*/10 * * * * * *",
    "payload": {"queue": "test-queue", "payload": "say my name"},
    "retry_already_running": 3,
    "recovery_check": True,
}
JobBody = defstruct(
    "JobBody",
    [("id", JobId), *_JOB_FIELDS],
    bases=(Described,),
    namespace={
        "EXAMPLES": (
            {"id": "job-scheduler-unique-id"} | _EXAMPLE,
            {"id": "once", "endpoint": "http://localhost:8080/enqueue", "at": "now", "payload": None},
            {"id": "often", "endpoint": "http://localhost:8080/enqueue", "every_seconds": 0.5, "payload": 1},
        )
    },
    forbid_unknown_fields=True,
)
JobPutBody = defstruct(
    "JobPutBody",
    [("id", SameId, UNSET), *_JOB_FIELDS],
    bases=(Described,),
    namespace={"EXAMPLES": (_EXAMPLE,)},
    forbid_unknown_fields=True,
    kw_only=True,
)
_Members = Annotated[
    dict[str, str | None] | None,
    Meta(description="Members to set; null removes a member. null instead of the object removes all."),
]
_RESET = {
    "recovery_check": bool | None,
    "timezone": str | None,
    "description": Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARACTERS)] | None,
    **dict.fromkeys(("headers", "query", "labels"), _Members),
}
"""The fields that take null, or members that are null, in a patch only."""
JobPatch = defstruct(
    "JobPatch",
    [
        ("id", SameId, UNSET),
        *((name, _RESET.get(name, kind), UNSET) for name, kind, *_ in _JOB_FIELDS if name not in POLICY_FIELDS),
        *described_policies(sent=True, partial=True),
    ],
    bases=(Described,),
    namespace={
        "__doc__": "Only the fields to change.",
        "EXAMPLES": ({"timeout_seconds": 60, "headers": {"X-Team": "billing", "X-Old": None}, "retry": None},),
    },
    forbid_unknown_fields=True,
)
JobBatch = Annotated[list[JobBody], Meta(min_length=1, max_length=BATCH_LIMIT)]  # type: ignore[valid-type]


class RunNow(Described, forbid_unknown_fields=True):
    """A request to run a job now."""

    force: Annotated[
        bool,
        Meta(
            description="Queue the run behind a run that is not settled; ignore not-before times and "
            "min_interval_seconds."
        ),
    ] = False
    payload: OwnPayload = UNSET
    not_before: Maybe[Instant] = UNSET


class RetryRun(Described, forbid_unknown_fields=True):
    """A request to run a settled run again."""

    definition: Annotated[
        Maybe[Literal["current"]],
        Meta(
            description="Accept that the job was changed since the run: the new run has the job's current definition. "
            "Absent: the request is refused then."
        ),
    ] = UNSET
    force: Annotated[bool, Meta(description="Also if the run succeeded or was replayed before.")] = False


class Backfill(Described, forbid_unknown_fields=True):
    """Past fire times to run again; both bounds are included."""

    start: Instant
    end: Instant
    limit: Annotated[int, Meta(ge=1, le=MAX_BACKFILL)] = DEFAULT_BACKFILL


class PendingEntry(Described, forbid_unknown_fields=True):
    """A run to put into the pending list. Without a time, it is due at once."""

    payload: OwnPayload = UNSET
    not_before: Maybe[Instant] = UNSET
    after_seconds: Maybe[Annotated[float, Meta(ge=0, le=LATEST_MS // 1000)]] = UNSET


PendingEntries = Annotated[list[PendingEntry], Meta(max_length=PENDING_LIMIT)]


class PendingBody(Described, forbid_unknown_fields=True):
    """The pending list of a job."""

    pending: PendingEntries


class Continuation(Described):
    """A further run that a run asks for."""

    payload: OwnPayload = UNSET
    after_seconds: Maybe[float] = UNSET
    not_before: Maybe[Instant] = UNSET


class Completion(Described, forbid_unknown_fields=True):
    """How a run ended, reported by its runner."""

    state: Literal["succeeded", "failed"]
    message: Text = UNSET
    continuation: Annotated[
        Maybe[Continuation | list[Continuation]],
        Meta(description="Further runs of a job with continuations; only with succeeded."),
    ] = field(default=UNSET, name="continue")


class Heartbeat(Described, forbid_unknown_fields=True):
    """A sign that a run is still executing, sent by its runner."""

    progress: Maybe[Annotated[float, Meta(ge=0, le=1)] | None] = UNSET
    note: Text = UNSET


MAX_NOTE_CHARACTERS = 1000


class Pause(Described, forbid_unknown_fields=True):
    """A pause. An empty body gives neither a note nor an end."""

    note: Annotated[
        Maybe[Annotated[str, Meta(max_length=MAX_NOTE_CHARACTERS)] | None],
        Meta(description="The reason, shown with the pause."),
    ] = UNSET
    until: Annotated[
        Maybe[Instant | None],
        Meta(description="When it ends by itself; a fire time at this instant fires. Without it: with a resume."),
    ] = UNSET

    EXAMPLES = ({"note": "database upgrade", "until": "2030-01-31T12:00:00Z"},)


class SignIn(Described, forbid_unknown_fields=True):
    """A sign-in to the dashboard."""

    key: Annotated[str, Meta(description="One of the keys in CRONPOST_API_KEYS.")]

    EXAMPLES = ({"key": "the-key-of-this-server"},)


class TargetMethod(StrEnum):
    """The HTTP method of a target's requests."""

    GET = "GET"
    POST = "POST"
    PUT = "PUT"
    PATCH = "PATCH"
    DELETE = "DELETE"
    HEAD = "HEAD"
    OPTIONS = "OPTIONS"


Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARACTERS, description="Unique.")]
TargetHeaders = dict[str, str] | None
BodyTemplate = Annotated[
    str | None,
    Meta(description="The body, sent for POST, PUT and PATCH: as application/json if it is JSON."),
]
TypeOfSchedule = Annotated[
    ScheduleType, Meta(description="INTERVAL: without end; WINDOW: for `duration_seconds` from its creation.")
]
Seconds = Annotated[int, Meta(ge=1, le=MAX_SECONDS)]
Duration = Annotated[
    Seconds | None, Meta(description="From the creation to the end of a WINDOW, which requires it; else null.")
]
Unchanged = Meta(description="null: unchanged.")


class TargetBody(Described):
    """A target to create. Unknown fields are ignored, and named in `Cronpost-Ignored`."""

    name: Name
    url: Url
    method: Annotated[TargetMethod, Meta(extra_json_schema={"default": "GET"})] | UnsetType = UNSET
    headers: Maybe[TargetHeaders] = UNSET
    body_template: Maybe[BodyTemplate] = UNSET
    auth: AnyAuth = UNSET
    sign: Maybe[Sign | None] = UNSET

    EXAMPLES = ({"name": "stock", "url": "http://localhost:8080/stock", "method": "POST", "body_template": "{}"},)


class TargetChange(Described):
    """Only the fields to change."""

    name: Annotated[Maybe[Name | None], Unchanged] = UNSET
    url: Annotated[Maybe[Url | None], Unchanged] = UNSET
    method: Annotated[Maybe[TargetMethod | None], Unchanged] = UNSET
    headers: Maybe[TargetHeaders] = UNSET
    body_template: Maybe[BodyTemplate] = UNSET
    auth: AnyAuth = UNSET
    sign: Maybe[Sign | None] = UNSET

    EXAMPLES = ({"url": "http://localhost:8080/stock/2"},)


class ScheduleBody(Described):
    """A schedule to create. Unknown fields are ignored, and named in `Cronpost-Ignored`."""

    name: Name
    target_id: int
    schedule_type: TypeOfSchedule
    interval_seconds: Seconds
    duration_seconds: Maybe[Duration] = UNSET

    EXAMPLES = ({"name": "stock", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60},)


class ScheduleChange(Described):
    """Only the fields to change. A changed interval counts from the change."""

    name: Annotated[Maybe[Name | None], Unchanged] = UNSET
    target_id: Annotated[Maybe[int | None], Unchanged] = UNSET
    schedule_type: Annotated[Maybe[ScheduleType | None], Unchanged] = UNSET
    interval_seconds: Annotated[Maybe[Seconds | None], Unchanged] = UNSET
    duration_seconds: Annotated[Maybe[Seconds | None], Unchanged] = UNSET

    EXAMPLES = ({"interval_seconds": 90},)


class TaskBody(Described):
    """A one-off task. Unknown fields are ignored, and named in `Cronpost-Ignored`."""

    webhookUrl: Annotated[Url, Meta(description="http or https; called by POST.")]  # noqa: N815
    executeAt: Annotated[  # noqa: N815
        Instant, Meta(description="RFC 3339 with an offset. The earliest time of the call; past or now: at once.")
    ]
    webhookAuth: Annotated[  # noqa: N815
        Maybe[str | None],
        Meta(
            description='The Authorization header, verbatim; the body is {"token": webhookAuth}. Without it the body '
            "is {}."
        ),
    ] = UNSET

    EXAMPLES = (
        {
            "webhookUrl": "http://localhost:8080/hook",
            "webhookAuth": "Bearer s3cret",
            "executeAt": "2030-01-31T12:00:00Z",
        },
    )


TaskBodies = TaskBody | Annotated[list[TaskBody], Meta(min_length=1, max_length=MAX_TASKS)]


def _setting(name: str) -> Any:
    setting = BY_NAME[name]
    return Annotated[setting.convert_to, Meta(description=f"{setting.meaning} Initially {setting.default}.")]


TaskSettings = defstruct("TaskSettings", [(name, _setting(name)) for name in RULES], bases=(Described,))
TaskSettingsChange = defstruct(
    "TaskSettingsChange",
    [(name, _setting(name), UNSET) for name in RULES],
    bases=(Described,),
    namespace={"__doc__": "Only the settings to change.", "EXAMPLES": ({"base_interval_ms": 2000},)},
)


def names_of(body: Any) -> tuple[str, ...]:
    """The names of the fields that a body can have, in JSON; without those that are ignored."""
    return tuple(name for name in body.__struct_encode_fields__ if name not in IGNORED_FIELDS)
