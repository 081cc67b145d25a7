"""Reads, shows and describes the fields of a job's request: endpoint, method, headers, query, body, auth, sign.

Secrets are shown as ``***``. A body may hold that mask again, which keeps the stored secret: ``kept_secrets`` replaces
it when the job is stored.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType
from msgspec.structs import asdict, replace

from scheduler_api.wire.fields import Described
from scheduler_api.wire.json_body import Fields, is_given, nested, refuse_repeated, required
from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.secret_names import MASK, is_secret_header, is_secret_parameter
from scheduler_core.base.sign_keys import KEY_FORM, key_bytes
from scheduler_core.base.urls import origin_of
from scheduler_core.delivery.http.guard import AddressGuard
from scheduler_core.delivery.http.validate import check_headers
from scheduler_core.delivery.registry import installed_kinds, scheme_of
from scheduler_core.model.catalogue import Target, body_of
from scheduler_core.model.job import Job
from scheduler_core.model.kept_secrets import mask_password, masked_auth, masked_pairs
from scheduler_core.model.request import (
    PLAIN,
    ApiKeyAuth,
    Auth,
    BasicAuth,
    BearerAuth,
    ClientCredentials,
    Content,
    Pairs,
    RequestSpec,
    auth_header,
    has_secrets,
)

METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD")
BODY_REQUIRED = frozenset({"POST", "PUT", "PATCH"})
MAX_QUERY = 64
MAX_QUERY_BYTES = 4096
MAX_KEYS = 2
MAX_SECRET_CHARACTERS = 4096

_REQUEST_FIELDS = ("method", "headers", "query", "body", "content_type", "auth", "sign")
_OF_HTTP = ("method", "headers", "query", "auth", "sign")
_AUTH_TYPES: dict[str, type[Auth]] = {"basic": BasicAuth, "bearer": BearerAuth, "api_key": ApiKeyAuth}
_AUTH_TYPES["oauth2_client_credentials"] = ClientCredentials
_AUTH_FORMS = {
    "basic": "username and password",
    "bearer": "token",
    "api_key": "header and value",
    "oauth2_client_credentials": "token_url, client_id, client_secret and, if needed, scope",
}
_AUTH_NAMES = {kind: name for name, kind in _AUTH_TYPES.items()}
_MAY_BE_EMPTY = frozenset({"password", "scope"})
_VISIBLE_ONLY = frozenset({"token", "header"})
_VISIBLE = re.compile(r"[!-~]+\Z")
_CONTENT_TYPE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:[ \t]*;[ -~]*[!-~])?\Z")


def request_of(fields: Fields) -> tuple[str, bytes, RequestSpec | None]:
    """Read the endpoint, the body and the rest of a job's request; None: nothing but a POST of the payload.

    With a named target, the endpoint is empty, and ``for_target`` has to be called. Raises InvalidInput with the field.
    """
    if is_given(fields, "target"):
        return _request_to_target(fields)
    url = check_endpoint(required(fields, "endpoint", str, "an absolute http or https URL"))
    if not any(name in fields for name in _REQUEST_FIELDS):
        if "payload" not in fields:
            raise InvalidInput("the field 'payload' is missing: any JSON value, null included", field="payload")
        return url, bytes(fields["payload"]), None
    kind = installed_kinds().kind_of(url, "endpoint")
    if not kind.supports_request:
        for name in _OF_HTTP:
            if is_given(fields, name):
                raise InvalidInput(f"{name} is only allowed with an http or https endpoint", field=name)
    method = _method_of(fields) or "POST"
    content, body = _body_of(fields)
    if content is Content.NONE and method in BODY_REQUIRED:
        raise InvalidInput(
            f"the field 'payload' is missing: any JSON value, null included. A {method} needs it, or 'body' for text "
            "that is not JSON",
            field="payload",
        )
    spec = _spec_of(fields, content, None if method == "POST" else method)
    return url, body, None if spec == PLAIN else spec


def _request_to_target(fields: Fields) -> tuple[str, bytes, RequestSpec]:
    if is_given(fields, "endpoint"):
        raise InvalidInput("endpoint and target are both given: send one of them", field="target")
    name = required(fields, "target", str, "the name of a target")
    content, body = _body_of(fields)
    return "", body, replace(_spec_of(fields, content, _method_of(fields)), target_name=name)


def _spec_of(fields: Fields, content: Content, method: str | None) -> RequestSpec:
    headers = _headers_of(fields)
    return RequestSpec(
        method=method,
        headers=headers,
        query=_query_of(fields),
        content=content,
        content_type=_content_type_of(fields, content, headers),
        auth=auth_of(fields, headers),
        sign=sign_of(fields),
    )


def for_target(job: Job, target: Target, guard: AddressGuard) -> Job:
    """Return a job that names a target with the id of that target.

    Raises InvalidInput for what the kind of the target does not have.
    """
    spec = job.request
    assert spec is not None
    kinds = installed_kinds()
    if not kinds.kind_of(target.url, "target").supports_request:
        for name in _OF_HTTP:
            if getattr(spec, name):
                raise InvalidInput(f"{name} is only allowed with an http or https target", field=name)
    payload = body_of(target)[1] if spec.content is Content.NONE else job.payload
    try:
        kinds.check_job(guard, replace(job, url=target.url, payload=payload))
    except InvalidInput as error:
        raise InvalidInput(error.detail, field="target" if error.field == "endpoint" else error.field) from None
    secrets_for = origin_of(target.url) if has_secrets(spec) else None
    return replace(job, target_id=target.id, request=replace(spec, target_name=None, secrets_for=secrets_for))


# Cached: many jobs share an endpoint, and the check takes 30 microseconds.
@lru_cache(maxsize=4096)
def check_endpoint(url: str) -> str:
    """Check the endpoint of a job and return it. Raises InvalidInput."""
    return installed_kinds().check_url(url, field="endpoint")


def _method_of(fields: Fields) -> str | None:
    if not is_given(fields, "method"):
        return None
    expected = f"one of {', '.join(METHODS)}"
    method = required(fields, "method", str, expected)
    if method not in METHODS:
        raise InvalidInput(f"method must be {expected}", field="method")
    return str(method)


def _body_of(fields: Fields) -> tuple[Content, bytes]:
    if is_given(fields, "body"):
        if "payload" in fields:
            raise InvalidInput("payload and body are both given: send one of them", field="body")
        return Content.TEXT, str(required(fields, "body", str, "a string")).encode()
    if "payload" in fields:
        return Content.PAYLOAD, bytes(fields["payload"])
    return Content.NONE, b""


def _headers_of(fields: Fields) -> Pairs:
    sent = _strings(fields, "headers")
    if not sent:
        return ()
    for name in sent:
        if name.lower() == "traceparent":
            raise InvalidInput(f"the header {name!r} cannot be set: Cronpost sets it itself", field="headers")
    return check_headers(sent)


def _query_of(fields: Fields) -> Pairs:
    sent = _strings(fields, "query")
    if len(sent) > MAX_QUERY:
        raise InvalidInput(f"query has more than {MAX_QUERY} parameters", field="query")
    if any(not name for name in sent):
        raise InvalidInput("query has a parameter without a name", field="query")
    if sum(len(name.encode()) + len(value.encode()) for name, value in sent.items()) > MAX_QUERY_BYTES:
        raise InvalidInput(f"query is longer than {MAX_QUERY_BYTES} bytes", field="query")
    return tuple(sent.items())


def _strings(fields: Fields, name: str) -> dict[str, str]:
    if name not in fields:
        return {}
    sent = required(fields, name, dict[str, str] | None, "an object of strings, or null")
    if sent is None:
        return {}
    refuse_repeated(bytes(fields[name]), path=f"{name}.")
    return dict(sent)


def _content_type_of(fields: Fields, content: Content, headers: Pairs) -> str | None:
    if not is_given(fields, "content_type"):
        return None
    expected = "a media type such as text/csv, or null"
    given = required(fields, "content_type", str | None, expected)
    if content is Content.NONE:
        raise InvalidInput("content_type is only allowed with payload or body", field="content_type")
    if not _CONTENT_TYPE.match(given) or len(given) > 255:
        raise InvalidInput(f"content_type must be {expected}", field="content_type")
    if any(name.lower() == "content-type" for name, _ in headers):
        raise InvalidInput("content_type and the header Content-Type are both given: send one", field="content_type")
    return None if given == default_type(content) else str(given)


def default_type(content: Content) -> str | None:
    """Return the content type of a body that has none of its own; None: there is no body."""
    return {Content.PAYLOAD: "application/json", Content.TEXT: "text/plain; charset=utf-8"}.get(content)


def auth_of(fields: Fields, headers: Pairs) -> Auth | None:
    """Read the field ``auth`` beside ``headers``. Raises InvalidInput."""
    if not is_given(fields, "auth"):
        return None
    kind = _auth_type(fields["auth"])
    names = _AUTH_TYPES[kind].__struct_fields__
    parts = nested(fields["auth"], ("type", *names), path="auth")
    values = {name: _auth_value(parts, name, kind) for name in names if name in parts or not _optional(kind, name)}
    auth = _AUTH_TYPES[kind](**values)
    if isinstance(auth, BasicAuth) and ":" in auth.username:
        raise InvalidInput("auth.username must not contain a colon", field="auth.username")
    if isinstance(auth, ApiKeyAuth):
        _check_key_header(auth)
    if isinstance(auth, ClientCredentials) and auth.token_url != MASK:
        _check_token_url(auth.token_url)
    refuse_both(auth, headers)
    return auth


def refuse_both(auth: Auth | None, headers: Pairs) -> None:
    """Raise InvalidInput if ``auth`` and ``headers`` set the same header."""
    name = auth_header(auth)
    if name is not None and any(one.lower() == name.lower() for one, _ in headers):
        raise InvalidInput(f"auth and headers both set {name}: remove one of them", field="auth")


def _optional(kind: str, name: str) -> bool:
    fields = {field.name: field for field in msgspec.structs.fields(_AUTH_TYPES[kind])}
    return not fields[name].required


def _auth_type(raw: Raw) -> str:
    expected = "an object with a type: " + "; ".join(f"{name} with {form}" for name, form in _AUTH_FORMS.items())
    try:
        kind = msgspec.json.decode(raw, type=dict[str, Any]).get("type")
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidInput(f"auth must be {expected}", field="auth") from None
    if not isinstance(kind, str) or kind not in _AUTH_TYPES:
        raise InvalidInput(f"auth must be {expected}", field="auth.type")
    return kind


def _auth_value(parts: Fields, name: str, kind: str) -> str:
    value = required(parts, name, str, f"a string; {kind} needs {_AUTH_FORMS[kind]}", path="auth.")
    least = 0 if name in _MAY_BE_EMPTY else 1
    if not least <= len(value) <= MAX_SECRET_CHARACTERS:
        raise InvalidInput(f"auth.{name} must have {least} to {MAX_SECRET_CHARACTERS} characters", field=f"auth.{name}")
    visible = name in _VISIBLE_ONLY
    if not (_VISIBLE.match(value) if visible else value.isprintable()):
        what = "visible ASCII without spaces" if visible else "printable text"
        raise InvalidInput(f"auth.{name} must be {what}", field=f"auth.{name}")
    return str(value)


def _check_token_url(url: str) -> None:
    kinds = installed_kinds()
    kinds.check_url(url, field="auth.token_url")
    if not kinds.kind_of(url, "auth.token_url").supports_request:
        raise InvalidInput("auth.token_url must be an http or https URL", field="auth.token_url")


def _check_key_header(auth: ApiKeyAuth) -> None:
    if auth.header.lower() in {"traceparent", "content-type"}:
        raise InvalidInput(f"auth.header must not be {auth.header}", field="auth.header")
    header = "X" if auth.header == MASK else auth.header
    check_headers({header: ""}, field="auth.header")
    check_headers({header: auth.value}, field="auth.value")


def sign_of(fields: Fields) -> tuple[str, ...]:
    """Read the keys of the field ``sign``. Raises InvalidInput."""
    if not is_given(fields, "sign"):
        return ()
    parts = nested(fields["sign"], ("keys",), path="sign")
    expected = f"an array of 1 to {MAX_KEYS} keys, each {KEY_FORM}"
    keys = required(parts, "keys", list[str], expected, path="sign.")
    if not 1 <= len(keys) <= MAX_KEYS:
        raise InvalidInput(f"sign.keys must be {expected}", field="sign.keys")
    for place, key in enumerate(keys, 1):
        if key == MASK:
            continue
        try:
            key_bytes(key)
        except ValueError as error:
            raise InvalidInput(f"sign.keys must be {expected}; key {place}: {error}", field="sign.keys") from None
    if len({key for key in keys if key != MASK}) < len([key for key in keys if key != MASK]):
        raise InvalidInput("sign.keys has the same key twice", field="sign.keys")
    return tuple(keys)


# ---- shown ----------------------------------------------------------------------------------------------------------


def show_request(job: Job) -> dict[str, Any]:
    """Return the fields of a job's request, secrets masked. Of a plain job, only the endpoint and the payload."""
    spec = job.request
    if spec is None:
        return {"endpoint": mask_password(job.url), "payload": Raw(job.payload)}
    shown: dict[str, Any]
    if job.target_id is None and spec.target_name is None:
        shown = {"endpoint": mask_password(job.url)}
        if scheme_of(job.url) in {"http", "https"}:
            shown["method"] = spec.method or "POST"
    else:
        shown = {"target": spec.target_name}
        if spec.method is not None:
            shown["method"] = spec.method
    if spec.headers:
        shown["headers"] = dict(masked_pairs(spec.headers, is_secret_header))
    if spec.query:
        shown["query"] = dict(masked_pairs(spec.query, is_secret_parameter))
    if spec.content is Content.PAYLOAD:
        shown["payload"] = Raw(job.payload)
    elif spec.content is Content.TEXT:
        shown["body"] = job.payload.decode("utf-8", "replace")
    content_type = spec.content_type or default_type(spec.content)
    if content_type is not None and not any(name.lower() == "content-type" for name, _ in spec.headers):
        shown["content_type"] = content_type
    return shown | show_credentials(spec.auth, spec.sign)


def show_credentials(auth: Auth | None, sign: Sequence[str]) -> dict[str, Any]:
    """Return the fields ``auth`` and ``sign`` with every value masked, where they are set."""
    shown: dict[str, Any] = {}
    if auth is not None:
        shown["auth"] = {"type": _AUTH_NAMES[type(auth)], **asdict(masked_auth(auth))}
    if sign:
        shown["sign"] = {"keys": [MASK] * len(sign)}
    return shown


# ---- described ------------------------------------------------------------------------------------------------------


def _auth_schema(name: str, fields: Iterable[str], optional: frozenset[str]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {
            "type": {"const": name},
            **{field: {"type": "string", "minLength": 0 if field in _MAY_BE_EMPTY else 1} for field in fields},
        },
        "required": ["type", *(field for field in fields if field not in optional)],
        "additionalProperties": False,
    }


_AUTH_SCHEMA = {
    "anyOf": [
        *(
            _auth_schema(
                name,
                kind.__struct_fields__,
                frozenset(field for field in kind.__struct_fields__ if _optional(name, field)),
            )
            for name, kind in _AUTH_TYPES.items()
        ),
        {"type": "null"},
    ]
}
_KEEPS = f"`{MASK}` keeps a stored secret."


class Sign(Described, forbid_unknown_fields=True):
    """The keys that sign each request, as Standard Webhooks does; two while the receiver changes its key."""

    keys: Annotated[list[str], Meta(min_length=1, max_length=MAX_KEYS, description=f"Each {KEY_FORM}. {_KEEPS}")]


_Method = Annotated[str, Meta(extra_json_schema={"enum": list(METHODS)}, description="Default: POST.")]
_Strings = dict[str, str]
_Headers = Annotated[_Strings | None, Meta(description=f"Added to each request. {_KEEPS}")]
_Query = Annotated[_Strings | None, Meta(description=f"Appended to the query of the URL. {_KEEPS}")]
_Body = Annotated[str | None, Meta(description="Text to send instead of `payload`.")]
_ContentType = Annotated[
    str | None, Meta(description="Default: application/json for `payload`, text/plain; charset=utf-8 for `body`.")
]
AnyAuth = Annotated[Any, Meta(description=f"Credentials. {_KEEPS}", extra_json_schema=_AUTH_SCHEMA)]
_Target = Annotated[str | None, Meta(description="The name of a target, instead of `endpoint`.")]
REQUEST_ROWS: tuple[tuple[str, Any, Any], ...] = (
    ("target", _Target | UnsetType, UNSET),
    ("method", _Method | UnsetType | None, UNSET),
    ("headers", _Headers | UnsetType, UNSET),
    ("query", _Query | UnsetType, UNSET),
    ("body", _Body | UnsetType, UNSET),
    ("content_type", _ContentType | UnsetType, UNSET),
    ("auth", AnyAuth, UNSET),
    ("sign", Sign | UnsetType | None, UNSET),
)
"""The optional fields of a request for ``defstruct``, in bodies and in answers."""
