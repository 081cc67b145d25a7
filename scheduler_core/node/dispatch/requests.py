"""Builds the HTTP request of an attempt from its job, run and target."""

from __future__ import annotations

import re
from functools import lru_cache
from urllib.parse import quote

from msgspec.structs import replace

from scheduler_core.base.instants import rfc3339
from scheduler_core.model.catalogue import Target, request_of_target
from scheduler_core.model.job import Job
from scheduler_core.model.outcome import Request
from scheduler_core.model.run import Run
from scheduler_core.plan.claim import Work

_UNRESERVED = re.compile(r"[A-Za-z0-9_.~-]*")
"""What percent-encoding leaves as it is (RFC 3986, 2.3)."""


def needs_nothing_else(work: Work) -> bool:
    """Whether the request can be built from what the claim brought: no target to look up, no token to make."""
    job, state = work.job, work.state
    return job.target_id is None and not state.awaits_children and not state.child and not job.policies.callback


def build_request(work: Work, *, fence: int, timeout_ms: int) -> Request:
    """The request of a run's next attempt. The payload goes out byte for byte as the client sent it."""
    job, run = work.job, work.run
    headers = [
        ("Content-Type", "application/json"),
        ("Idempotency-Key", run.id),
        ("Cronpost-Job-Id", _quoted(job.id)),
        ("Cronpost-Fire-Time", rfc3339(run.fire_time_ms)),
        ("Cronpost-Attempt", str(run.attempt + 1)),
        ("Cronpost-Fence", str(fence)),
        ("Cronpost-Reason", run.reason.value),
    ]
    if work.state.last_success_ms is not None:
        headers.append(("Cronpost-Last-Success", rfc3339(work.state.last_success_ms)))
    body = job.payload if run.payload is None else run.payload
    return Request(
        "POST",
        job.url,
        tuple(headers),
        body,
        timeout_ms,
        whole_answer=job.policies.continuations,
        repeatable=not is_last_attempt(job, run),
    )


def is_last_attempt(job: Job, run: Run) -> bool:
    """Whether the job's retry rule allows no attempt of ``run`` after the next one."""
    rule = job.policies.retry
    return rule is not None and rule.attempts is not None and run.failures + 1 >= rule.attempts


def with_target(request: Request, target: Target) -> Request:
    """``request`` as a named target wants it. Its own headers come first; a Content-Type among them holds."""
    wanted = request_of_target(target)
    headers = (*wanted.headers, *(pair for pair in request.headers if pair[0] != "Content-Type"))
    return replace(request, method=wanted.method, url=wanted.url, headers=headers, body=wanted.body)


def with_callback(request: Request, base_url: str, run_id: str, token: str) -> Request:
    """``request`` with where, and by what right, the runner says how the run ended."""
    callback = (
        ("Cronpost-Callback-Url", f"{base_url.rstrip('/')}/runs/{run_id}/complete"),
        ("Cronpost-Heartbeat-Url", f"{base_url.rstrip('/')}/runs/{run_id}/heartbeat"),
        ("Cronpost-Callback-Token", token),
    )
    return replace(request, headers=(*request.headers, *callback))


@lru_cache(maxsize=1024)
def _quoted(job_id: str) -> str:
    return job_id if _UNRESERVED.fullmatch(job_id) else quote(job_id, safe="")
