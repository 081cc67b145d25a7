"""The facts of a run that a message to a broker carries beside the payload."""

from __future__ import annotations

from scheduler_core.base.instants import rfc3339
from scheduler_core.model.call import Call, Headers


def facts_of(call: Call) -> Headers:
    """Return the facts as pairs of texts. The names are the same for all brokers; docs/target-kinds.md lists them."""
    facts = [
        ("run_id", call.run_id),
        ("job_id", call.job_id),
        ("fire_time", rfc3339(call.fire_time_ms)),
        ("attempt", str(call.attempt)),
        ("fence", str(call.fence)),
        ("reason", call.reason.value),
    ]
    if call.last_success_ms is not None:
        facts.append(("last_success", rfc3339(call.last_success_ms)))
    if call.callback is not None:
        facts.append(("callback_url", call.callback.complete_url))
        facts.append(("heartbeat_url", call.callback.heartbeat_url))
        facts.append(("callback_token", call.callback.token))
    return tuple(facts)
