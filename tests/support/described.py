"""Compares requests and answers with the description of the API, so that the two cannot drift apart.

``DescribedTransport`` stands between a test's client and the application. Every answer must be one that
``openapi.json`` describes: its status, its content type, its headers and its body, in which no property may be missing
from the schema. A request that was accepted must fit the description too: its parameters and its body.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from scheduler_api.routes import document

Json = dict[str, Any]

SLASH_MAKES_NO_DIFFERENCE = re.compile(r"/(?:api/v1|targets|schedules|metrics/schedules)/|/runs/(?:[^/]+/)?\Z")
"""Paths that are served, but not described, with a slash at their end."""
DESCRIBED_HEADERS = re.compile(r"link|location|etag|retry-after|www-authenticate|cronpost-.*")
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE"})


class NotDescribed(AssertionError):
    """A request or an answer that the description does not have."""


class DescribedTransport(httpx.AsyncBaseTransport):
    """Passes requests on to ``inner`` and checks what comes back; raises NotDescribed."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._inner.handle_async_request(request)
        await response.aread()
        check(request, response)
        return response

    async def aclose(self) -> None:
        await self._inner.aclose()


def check(request: httpx.Request, response: httpx.Response) -> None:
    """Raise NotDescribed if ``response`` is not described, or ``request`` was accepted and is not described."""
    path = request.url.raw_path.split(b"?")[0].decode("ascii")
    found = _find(path)
    if found is None or request.method not in METHODS:
        return
    template, item = found
    operation = item.get(request.method.lower())
    where = f"{request.method} {template}"
    if operation is None:
        _demand(response.status_code in {401, 403, 405, 503}, where, f"{response.status_code} without an operation")
        return
    _check_answer(where, operation, response)
    if response.is_success:
        _check_request(where, item, operation, request, response)


def _ignores_unknown(operation: Json, response: httpx.Response) -> bool:
    """Return whether the operation answers requests with fields and parameters that it does not know."""
    return "Cronpost-Ignored" in operation["responses"][str(response.status_code)].get("headers", {})


def _check_answer(where: str, operation: Json, response: httpx.Response) -> None:
    where = f"{where} -> {response.status_code}"
    answer = operation["responses"].get(str(response.status_code))
    _demand(answer is not None, where, "this status is not described")
    answer = _resolved(answer)
    names = {name.lower() for name in answer.get("headers", {})}
    for name in response.headers:
        if DESCRIBED_HEADERS.fullmatch(name):
            _demand(name in names, where, f"the header {name} is not described")
    for name, header in answer.get("headers", {}).items():
        _demand(not header.get("required") or name in response.headers, where, f"the header {name} is missing")
    media_type = response.headers.get("content-type", "").partition(";")[0]
    content = answer.get("content", {})
    if not content:
        _demand(not response.content, where, "no body is described")
        return
    _demand(media_type in content, where, f"the content type {media_type!r} is not described")
    if media_type.endswith("json"):
        _validate(where, content[media_type]["schema"], response.content, strict=True)


def _check_request(where: str, item: Json, operation: Json, request: httpx.Request, response: httpx.Response) -> None:
    where = f"{where} (accepted)"
    described = {
        parameter["name"]: parameter
        for parameter in (*item.get("parameters", []), *operation.get("parameters", []))
        if parameter["in"] == "query"
    }
    for name, parameter in described.items():
        _demand(not parameter["required"] or name in request.url.params, where, f"the parameter {name} is not required")
    for name, value in request.url.params.multi_items():
        if name in described:
            schema = _resolved(described[name]["schema"])
            if schema.get("type") == "array":
                schema = schema["items"]  # each value of a parameter that is repeated
            as_text = _resolved(schema).get("type") == "string"
            _validate(f"{where} ?{name}", schema, (json.dumps(value) if as_text else value).encode(), strict=False)
        else:
            _demand(_ignores_unknown(operation, response), where, f"the parameter {name} is not described")
    body = operation.get("requestBody")
    if body is None or (operation["operationId"] == "upsert_jobs" and b'"code":' in response.content):
        return  # each element of a batch is accepted or refused by itself
    if request.content.strip():
        _validate(where, body["content"]["application/json"]["schema"], request.content, strict=False)
    else:
        _demand(not body["required"], where, "the body is not required")


@cache
def _document() -> Json:
    return document(keys=True)


@cache
def _templates() -> list[tuple[re.Pattern[str], str]]:
    return [
        (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path)) + r"\Z"), path) for path in _document()["paths"]
    ]


def _find(path: str) -> tuple[str, Json] | None:
    if path.endswith("/") and SLASH_MAKES_NO_DIFFERENCE.match(path):
        path = path[:-1]
    for pattern, template in sorted(_templates(), key=lambda one: "{" in one[1]):
        if pattern.match(path):
            return template, _document()["paths"][template]
    return None


def _resolved(node: Json) -> Json:
    while "$ref" in node:
        found: Any = _document()
        for part in node["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        node = found
    return node


_validators: dict[tuple[str, bool], Any] = {}


def _validate(where: str, schema: Json, body: bytes, *, strict: bool) -> None:
    """``strict``: objects have no properties but those of their schema."""
    key = (json.dumps(schema, sort_keys=True), strict)
    if key not in _validators:
        whole = {**schema, "components": {"schemas": _document()["components"]["schemas"]}}
        _validators[key] = jsonschema_rs.Draft202012Validator(
            _closed(whole) if strict else whole, validate_formats=strict
        )
    errors = [f"{list(error.instance_path)}: {error.message}" for error in _validators[key].iter_errors(_parsed(body))]
    _demand(not errors, where, "; ".join(errors)[:2000])


def _parsed(body: bytes) -> Any:
    """Numbers that Python refuses to convert become 0: what a payload holds is not described."""
    return json.loads(body, parse_int=lambda digits: int(digits) if len(digits) < 4000 else 0)


def _closed(node: Any) -> Any:
    if isinstance(node, dict):
        closed = {name: _closed(value) for name, value in node.items()}
        if isinstance(node.get("properties"), dict) and node.get("type") == "object":
            closed.setdefault("additionalProperties", False)
        return closed
    return [_closed(one) for one in node] if isinstance(node, list) else node


def _demand(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise NotDescribed(f"{where}: {what}")


if __name__ == "__main__":
    print(json.dumps(_document(), indent=1))  # for make test-openapi
