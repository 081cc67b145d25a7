"""The account of a job, described for machines."""

from __future__ import annotations

from scheduler_api.openapi_words import (
    BAD,
    INSTANT,
    JOB_ID,
    LIMIT,
    NOT_FOUND,
    STORE,
    TEXT,
    WHOLE,
    Json,
    answer,
    list_of,
    or_null,
    parameter,
    ref,
)
from scheduler_core.plan.account import OF_THE_TRIGGER
from scheduler_core.run import MissReason, Reason, RunState

SETTLED: Json = {"type": "boolean", "description": "False: not recorded yet; what becomes of it may still change."}
AGAIN: Json = {
    "type": "boolean",
    "description": "A backfill: these fire times are accounted for by other entries as well.",
}

SCHEMAS: Json = {
    "AccountRun": {
        "type": "object",
        "description": "A fire time that became a run. `GET /runs/{id}` has all of it.",
        "properties": {
            "kind": {"const": "run"},
            "fire_time": INSTANT,
            "settled": SETTLED,
            "again": AGAIN,
            "run": {
                "type": "object",
                "properties": {
                    "id": TEXT,
                    "reason": {"enum": [reason.value for reason in (*OF_THE_TRIGGER, Reason.BACKFILL)]},
                    "state": {"enum": [state.value for state in RunState]},
                    "started_at": or_null(INSTANT),
                    "ended_at": or_null(INSTANT),
                    "attempts": WHOLE,
                    "status_code": or_null(WHOLE),
                    "message": TEXT,
                    "trimmed": {
                        "type": "boolean",
                        "description": "Its record was trimmed: only id, reason and whether it succeeded are known.",
                    },
                },
            },
        },
    },
    "AccountRange": {
        "type": "object",
        "description": "Fire times that became no run, or none yet; both bounds are fire times, and in the range.",
        "properties": {
            "kind": {"const": "range"},
            "first_fire_time": INSTANT,
            "last_fire_time": INSTANT,
            "settled": SETTLED,
            "again": AGAIN,
            "reason": {
                "enum": [*(reason.value for reason in MissReason), "due", "recovery", "backfill"],
                "description": "`due`: nothing has been decided yet; `recovery` and `backfill`: run one by one.",
            },
            "count": or_null(
                {"type": "integer", "description": "How many fire times, exactly; null where that is costly to tell."}
            ),
        },
    },
}

PATHS: Json = {
    "/jobs/{job_id}/account": {
        "parameters": [JOB_ID],
        "get": {
            "summary": "What became of each fire time of the job, oldest first",
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
                        {"anyOf": [ref("AccountRun"), ref("AccountRange")]},
                        job_id=TEXT,
                        **{"from": INSTANT, "to": INSTANT},
                        accounted_from=INSTANT,
                        accounted_until={
                            **INSTANT,
                            "description": "The first fire time that nothing is decided about yet, or now if there is "
                            "none.",
                        },
                    ),
                ),
                "400": BAD,
                "404": NOT_FOUND,
                **STORE,
            },
        },
    },
}
