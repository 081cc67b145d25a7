"""Builds the call of an attempt from its job, run and named target."""

from __future__ import annotations

from base64 import b64encode

from msgspec.structs import replace

from scheduler_core.model.call import Call, Callback
from scheduler_core.model.catalogue import Target, body_of
from scheduler_core.model.request import (
    ApiKeyAuth,
    Auth,
    BasicAuth,
    BearerAuth,
    ClientCredentials,
    Content,
    Pairs,
    RequestSpec,
    merged,
    secrets_of,
    with_query,
)
from scheduler_core.plan.claim import Work

JSON = "application/json"
TEXT = "text/plain; charset=utf-8"
"""The content type of a ``body`` that has none of its own."""


def needs_nothing_else(work: Work) -> bool:
    """Return whether the claim holds all that the call needs: no target to look up, no token to make."""
    job, state = work.job, work.state
    return job.target_id is None and not state.awaits_children and not state.child and not job.policies.callback


def call_of(work: Work, *, fence: int, timeout_ms: int) -> Call:
    """Return the call of a run's next attempt, as far as the claim determines it.

    ``timeout_ms``: the timeout of jobs that have none of their own.
    """
    job, run = work.job, work.run
    policies = job.policies
    retry = policies.retry
    call = Call(
        run.id,
        job.id,
        run.reason,
        run.fire_time_ms,
        run.attempt + 1,
        fence,
        job.url,
        job.payload if run.payload is None else run.payload,
        timeout_ms if policies.timeout_ms is None else policies.timeout_ms,
        last_success_ms=work.state.last_success_ms,
        is_last_attempt=retry is not None and retry.attempts is not None and run.failures + 1 >= retry.attempts,
        retry_statuses=() if retry is None else retry.statuses,
        whole_answer=policies.continuations,
    )
    spec = job.request
    if spec is None or job.target_id is not None:
        return call
    return _with_request(call, spec, own_payload=run.payload is not None)


def _with_request(call: Call, spec: RequestSpec, *, own_payload: bool) -> Call:
    """Return ``call`` with what the job adds to its request. ``own_payload``: the payload is the run's own, JSON."""
    content_type: str | None
    if own_payload or spec.content is Content.PAYLOAD:
        content_type = spec.content_type or JSON
    elif spec.content is Content.TEXT:
        content_type = spec.content_type or TEXT
    else:
        content_type = None
    return replace(
        call,
        url=with_query(call.url, spec.query),
        content_type=None if _names_content_type(spec.headers) else content_type,
        method=spec.method or "POST",
        headers=merged(spec.headers, _auth_headers(spec.auth)) if spec.auth is not None else spec.headers,
        sign_keys=spec.sign,
        client=spec.auth if isinstance(spec.auth, ClientCredentials) else None,
        secrets=tuple(secrets_of(spec)),
    )


def with_target(call: Call, target: Target) -> Call:
    """Return ``call`` with the URL, method, headers and body of a named target."""
    content_type, body = body_of(target)
    return replace(
        call,
        url=target.url,
        payload=body,
        content_type=content_type,
        method=target.method,
        headers=target.headers or (),
    )


def with_callback(call: Call, base_url: str, token: str) -> Call:
    """Return ``call`` with the URLs below ``base_url`` at which the runner reports how the run ended."""
    base = f"{base_url.rstrip('/')}/runs/{call.run_id}"
    return replace(call, callback=Callback(f"{base}/complete", f"{base}/heartbeat", token))


def _names_content_type(headers: Pairs) -> bool:
    return any(name.lower() == "content-type" for name, _ in headers)


def _auth_headers(auth: Auth | None) -> Pairs:
    match auth:
        case BasicAuth():
            return (("Authorization", f"Basic {b64encode(f'{auth.username}:{auth.password}'.encode()).decode()}"),)
        case BearerAuth():
            return (("Authorization", f"Bearer {auth.token}"),)
        case ApiKeyAuth():
            return ((auth.header, auth.value),)
    return ()
