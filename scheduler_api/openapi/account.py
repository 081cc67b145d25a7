"""The account of a job, described for machines."""

from __future__ import annotations

from scheduler_api.openapi.words import (
    BAD,
    INSTANT,
    JOB_ID,
    LIMIT,
    NEXT_PAGE,
    NOT_FOUND,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    either,
    fixed,
    list_of,
    one_of,
    or_null,
    parameter,
    ref,
)
from scheduler_core.model.run import MissReason, Reason
from scheduler_core.plan.account import OF_THE_TRIGGER

SETTLED: Json = {"type": "boolean", "description": "False: not recorded yet; what becomes of it may still change."}
AGAIN: Json = {
    "type": "boolean",
    "description": "A backfill: these fire times are accounted for by other entries as well.",
}

SCHEMAS: Json = {
    "AccountRun": fixed(
        {
            "kind": {"const": "run"},
            "fire_time": INSTANT,
            "settled": SETTLED,
            "again": AGAIN,
            "run": fixed(
                {
                    "id": TEXT,
                    "reason": one_of((*OF_THE_TRIGGER, Reason.BACKFILL)),
                    "state": ref("RunState"),
                    "started_at": or_null(INSTANT),
                    "ended_at": or_null(INSTANT),
                    "attempts": WHOLE,
                    "status_code": or_null(WHOLE),
                    "message": TEXT,
                    "trimmed": {
                        "type": "boolean",
                        "description": "Its record was trimmed: only id, reason and whether it succeeded are known.",
                    },
                }
            ),
        },
        description="A fire time that became a run. `GET /runs/{id}` has all of it.",
    ),
    "AccountRange": fixed(
        {
            "kind": {"const": "range"},
            "first_fire_time": INSTANT,
            "last_fire_time": INSTANT,
            "settled": SETTLED,
            "again": AGAIN,
            "reason": one_of(
                (*MissReason, "due", "recovery", "backfill"),
                description="`due`: nothing has been decided yet; `recovery` and `backfill`: run one by one.",
            ),
            "count": or_null(
                {"type": "integer", "description": "How many fire times, exactly; null where that is costly to tell."}
            ),
        },
        description="Fire times that became no run, or none yet; both bounds are fire times, and in the range.",
    ),
}

PATHS: Json = {
    "/jobs/{job_id}/account": {
        "parameters": [JOB_ID],
        "get": {
            "operationId": "get_job_account",
            "tags": ["History"],
            "summary": "Account for each fire time of a job, oldest first",
            "description": "Every fire time from `accounted_from` on is in exactly one entry (those that are `again` "
            "apart): a run, or a range with a reason. Of earlier ones nothing is claimed: their records were trimmed.",
            "parameters": [
                parameter("from", INSTANT, "Not before this instant; absent: `accounted_from`."),
                parameter("to", INSTANT, "Not after this instant; absent: now."),
                parameter("cursor", TEXT, "`next` of the page before."),
                LIMIT,
            ],
            "responses": {
                "200": answer(
                    "A page. A range that lies partly between the bounds is shown whole.",
                    list_of(
                        "entries",
                        either("kind", run="AccountRun", range="AccountRange"),
                        job_id=TEXT,
                        **{"from": INSTANT, "to": INSTANT},
                        accounted_from=INSTANT,
                        accounted_until={
                            **INSTANT,
                            "description": "The first fire time that nothing is decided about yet, or now if there is "
                            "none.",
                        },
                    ),
                )
                | NEXT_PAGE,
                "400": BAD,
                "404": NOT_FOUND,
                **STORE,
            },
        },
    },
}
