"""Builds the call of an attempt from its job, run and named target."""

from __future__ import annotations

from base64 import b64encode

from msgspec.structs import replace

from scheduler_core.base.secret_names import is_secret_header
from scheduler_core.base.urls import origin_of
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
    secrets_of_auth,
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
    return replace(
        call,
        url=with_query(call.url, spec.query),
        content_type=None if _names_content_type(spec.headers) else _content_type(spec, own_payload=own_payload),
        method=spec.method or "POST",
        headers=_own_headers(spec),
        sign_keys=spec.sign,
        client=_client(spec.auth),
        secrets=tuple(secrets_of(spec)),
    )


def with_target(call: Call, target: Target, spec: RequestSpec | None = None, *, own_payload: bool = False) -> Call:
    """Return ``call`` with the URL, method, headers and body of a named target, and with what the job adds to them.

    ``spec``: None: the job is a schedule. ``own_payload``: the payload is the run's own. Raises SecretsElsewhere if the
    target has moved to another origin than the one that the job's secrets are for.
    """
    of_target = target.headers or ()
    if target.auth is not None:
        of_target = merged(of_target, _auth_headers(target.auth))
    secrets = (
        *(value for name, value in of_target if is_secret_header(name)),
        *secrets_of_auth(target.auth),
        *target.sign,
    )
    if spec is None:
        content_type, body = body_of(target)
        return replace(
            call,
            url=target.url,
            payload=body,
            content_type=content_type,
            method=target.method,
            headers=of_target,
            sign_keys=target.sign,
            client=_client(target.auth),
            secrets=secrets,
        )
    if spec.secrets_for is not None and spec.secrets_for != origin_of(target.url):
        raise SecretsElsewhere(target.name)
    method, own = spec.method or target.method, _own_headers(spec)
    if own_payload or spec.content is not Content.NONE:
        content_type, body = _content_type(spec, own_payload=own_payload), call.payload
        of_target = tuple(header for header in of_target if header[0].lower() != "content-type")
    else:
        content_type, body = body_of(replace(target, method=method))
    headers = merged(of_target, own)
    client = _client(spec.auth)
    if spec.auth is None and not any(name.lower() == "authorization" for name, _ in own):
        client = _client(target.auth)
    if client is not None:
        headers = tuple(header for header in headers if header[0].lower() != "authorization")
    return replace(
        call,
        url=with_query(target.url, spec.query),
        payload=body,
        content_type=None if _names_content_type(headers) else content_type,
        method=method,
        headers=headers,
        sign_keys=spec.sign or target.sign,
        client=client,
        secrets=(*secrets_of(spec), *secrets),
    )


def _client(auth: Auth | None) -> ClientCredentials | None:
    return auth if isinstance(auth, ClientCredentials) else None


class SecretsElsewhere(Exception):
    """The named target has another origin than the one that the job's secrets are for."""

    def __init__(self, target_name: str) -> None:
        super().__init__(
            f"not sent: the target {target_name!r} has another scheme, host or port than the one that the job's "
            "secrets were sent for; send the job with its secrets again"
        )


def with_callback(call: Call, base_url: str, token: str) -> Call:
    """Return ``call`` with the URLs below ``base_url`` at which the runner reports how the run ended."""
    base = f"{base_url.rstrip('/')}/runs/{call.run_id}"
    return replace(call, callback=Callback(f"{base}/complete", f"{base}/heartbeat", token))


def _content_type(spec: RequestSpec, *, own_payload: bool) -> str | None:
    if own_payload or spec.content is Content.PAYLOAD:
        return spec.content_type or JSON
    return spec.content_type or TEXT if spec.content is Content.TEXT else None


def _own_headers(spec: RequestSpec) -> Pairs:
    return spec.headers if spec.auth is None else merged(spec.headers, _auth_headers(spec.auth))


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
