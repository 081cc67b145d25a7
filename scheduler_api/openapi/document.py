"""Generates the OpenAPI 3.1 document from the routes and their types.

Own code, because Starlette can only collect YAML from docstrings, and no generator reads bodies that are checked field
by field. msgspec generates the schemas (docs/decisions/0036-one-description-of-the-api.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec
from starlette.routing import BaseRoute

from scheduler_api.openapi.common import RETRY_AFTER
from scheduler_api.openapi.operation import Answer, DescribedRoute, Header, Parameter, problem
from scheduler_api.wire.fields import Described
from scheduler_core.version import __version__

Json = dict[str, Any]

TAGS = {
    "Jobs": "A job calls its runner at every fire time of a cron expression.",
    "Runs on request": "Runs that a client starts, queues, repeats or cancels.",
    "History": "What happened at each fire time: runs and misses.",
    "Callbacks": "What a runner sends about a run that it completes later. The run's token authorizes it.",
    "Targets": "Named requests that schedules share.",
    "Schedules": "Calls of a target at a fixed interval.",
    "Many jobs and runs": "Verbs on all jobs or runs of a selection, as operations in the background if they are long.",
    "One-off tasks": "Single calls at a given time, and their settings.",
    "Pause of everything": "Hold all jobs, schedules and one-off tasks, and release them.",
    "Alerts": "Rules that report what happens to jobs, and the channels that they use.",
    "Monitoring": "For probes, dashboards and Prometheus.",
    "Sign-in": "The session of a person who uses the dashboard. Programs send an API key instead.",
    "Documentation": "This documentation, for people and for machines.",
}
"""The groups of operations, in the order in which the documentation shows them."""

LAYERS = {
    "Unauthorized": problem(
        "No API key, or an unknown one (`unauthorized`).", Header("WWW-Authenticate", "The scheme: Bearer.")
    ),
    "Forbidden": problem(
        "A page of another origin sent the request, its Host header is not allowed, or a request with the cookie of a "
        "session does not show that a page of this server sent it (`not_same_origin`, `request_header_missing`)."
    ),
    "TokenRefused": problem("No token, or not the run's (`token_refused`); or a page of another origin sent it."),
    "TooManyConnections": problem("Too many connections are open (`too_many_connections`).", RETRY_AFTER),
    "Unavailable": problem(
        "Too many connections are open (`too_many_connections`), or Redis does not answer, so the session of the "
        "request cannot be read (`store_unavailable`).",
        RETRY_AFTER,
    ),
}
"""Answers of the layers around all endpoints (``middleware``)."""
OF_THE_LAYERS = {
    "key": {"401": "Unauthorized", "403": "Forbidden", "503": "Unavailable"},
    "run_token": {"403": "TokenRefused", "503": "TooManyConnections"},
    "open": {"403": "Forbidden"},
}
SECURITY: Mapping[str, Json] = {"key": {}, "run_token": {"security": [{"runToken": []}]}, "open": {"security": []}}
SECURITY_SCHEMES: Json = {
    "apiKey": {"type": "http", "scheme": "bearer", "description": "One of the keys in CRONPOST_API_KEYS."},
    "sessionCookie": {
        "type": "apiKey",
        "in": "cookie",
        "name": "__Host-cronpost-session",
        "description": "The session of a person who signed in with `POST /ui/session`. The name ends with the port of "
        "the server's address, if that has one, and has no `__Host-` without TLS. The request also needs "
        "`Sec-Fetch-Site: same-origin`, or an `Origin` that equals the host, and, unless it is GET, the header "
        "`Cronpost-Request: 1`. Not used in a request with an `Authorization` header.",
    },
    "runToken": {
        "type": "apiKey",
        "in": "header",
        "name": "Cronpost-Callback-Token",
        "description": "The token that came with the run's request. Also accepted as a bearer token.",
    },
}
COMPONENTS = "#/components/schemas/"
RENAMED = {"Reason": "RunReason"}
"""Names of schemas whose class has another name."""


def describe(all_routes: Sequence[BaseRoute], *, keys: bool) -> Json:
    """Build the whole document. ``keys``: the API requires a key."""
    routes = [route for route in all_routes if isinstance(route, DescribedRoute)]
    schemas = Schemas(routes)
    paths: dict[str, Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.operation.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Cronpost",
            "version": __version__,
            "summary": "Cron for HTTP",
            "description": "Cron for HTTP: upsert a job by id, and its runner is called at every fire time.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        # Relative to this document, so that it holds behind a proxy that serves the API under a path.
        "servers": [{"url": ".", "description": "The server that this document comes from."}],
        "security": [{"apiKey": []}, {"sessionCookie": []}] if keys else [],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "responses": {name: _answer(one, schemas) for name, one in LAYERS.items()},
            "securitySchemes": SECURITY_SCHEMES,
        },
    }


def with_schemas_of(schemas: Mapping[str, Json], name: str) -> dict[str, Json]:
    """Return a schema and all schemas that it refers to, by name."""
    found: dict[str, Json] = {}
    left = [name]
    while left:
        one = left.pop()
        if one not in found:
            found[one] = schemas[one]
            left += _names_in(schemas[one])
    return found


def _names_in(node: Any) -> Iterator[str]:
    if isinstance(node, str) and node.startswith(COMPONENTS):
        yield node.removeprefix(COMPONENTS)
    elif isinstance(node, Mapping):
        for one in node.values():
            yield from _names_in(one)
    elif isinstance(node, list):
        for one in node:
            yield from _names_in(one)


class Schemas:
    """Collects the schemas of all types in the descriptions of ``routes``. ``components`` has those with a name."""

    def __init__(self, routes: list[DescribedRoute]) -> None:
        types = [one for route in routes for one in _types(route)]
        types += [one for answer in LAYERS.values() for one in _types_of(answer)]
        found, components = msgspec.json.schema_components(types, ref_template=COMPONENTS + "{name}")
        self._found = {id(one): _tidied(schema) for one, schema in zip(types, found, strict=True)}
        named = ((RENAMED.get(name, name), schema) for name, schema in components.items())
        self.components = {name: _tidied(schema) for name, schema in sorted(named)}
        for described in _subclasses(Described):
            if described.EXAMPLES and described.__name__ in self.components:
                self.components[described.__name__]["examples"] = list(described.EXAMPLES)

    def of(self, wanted: Any) -> Json:
        """Return the schema of a type."""
        found: Json = self._found[id(wanted)]
        return found


def _types(route: DescribedRoute) -> Iterator[Any]:
    yield from (parameter.type for parameter in route.parameters)
    if route.operation.body is not None:
        yield route.operation.body
    for answer in route.operation.answers.values():
        yield from _types_of(answer)


def _types_of(answer: Answer) -> Iterator[Any]:
    yield from (header.type for header in answer.headers)
    if answer.type is not None:
        yield answer.type
    yield from answer.also.values()
    yield from answer.views


def _subclasses(cls: type[Described]) -> Iterator[type[Described]]:
    for one in cls.__subclasses__():
        yield one
        yield from _subclasses(one)


def _tidied(node: Any) -> Any:
    """Convert a schema of msgspec to the form that documentation and client generators read best.

    It has no titles, enums have a type, an enum with one value is a ``const``, docstrings are Markdown, and a union
    that a field tells apart is ``oneOf``.
    """
    if isinstance(node, list):
        return [_tidied(one) for one in node]
    if isinstance(node, str):
        name = node.removeprefix(COMPONENTS)
        return COMPONENTS + RENAMED[name] if name != node and name in RENAMED else node
    if not isinstance(node, dict):
        return node
    tidied = {name: _tidied(value) for name, value in node.items() if not (name == "title" and isinstance(value, str))}
    values = tidied.get("enum")
    if isinstance(values, list) and all(isinstance(one, str) for one in values):
        tidied = {"type": "string"} | tidied
        if len(values) == 1:
            tidied["const"] = tidied.pop("enum")[0]
    if "discriminator" in tidied:
        tidied["oneOf"] = tidied.pop("anyOf")
    if isinstance(tidied.get("description"), str):
        tidied["description"] = " ".join(tidied["description"].replace("``", "`").split())
    return tidied


def _operation(route: DescribedRoute, schemas: Schemas) -> Json:
    operation = route.operation
    described: Json = {"operationId": operation.id, "tags": [operation.tag], "summary": operation.summary}
    if operation.description:
        described["description"] = operation.description
    described |= SECURITY[operation.security]
    if route.parameters:
        described["parameters"] = [_parameter(one, schemas) for one in route.parameters]
    if operation.body is not None:
        content = {"application/json": {"schema": schemas.of(operation.body)}}
        described["requestBody"] = {"required": operation.body_required, "content": content}
    answers = {str(status): _answer(one, schemas) for status, one in operation.answers.items()}
    layers = OF_THE_LAYERS[operation.security].items()
    answers = {status: {"$ref": f"#/components/responses/{name}"} for status, name in layers} | answers
    return described | {"responses": dict(sorted(answers.items()))}


def _parameter(one: Parameter, schemas: Schemas) -> Json:
    schema = schemas.of(one.type)
    described = {
        "name": one.name,
        "in": one.where,
        "required": one.required,
        "schema": schema if one.default is None else schema | {"default": one.default},
        "description": one.description,
    }
    return described | ({"deprecated": True} if one.deprecated else {})


def _answer(one: Answer, schemas: Schemas) -> Json:
    described: Json = {"description": one.description}
    if one.headers:
        described["headers"] = {
            header.name: {"description": header.description, "schema": schemas.of(header.type)}
            for header in one.headers
        }
    content = one.also if one.type is None else {one.media_type: one.type, **one.also}
    if content:
        described["content"] = {media_type: {"schema": schemas.of(kind)} for media_type, kind in content.items()}
    if one.views:
        any_of = [schemas.of(kind) for kind in (one.type, *one.views)]
        described["content"][one.media_type] = {"schema": {"anyOf": any_of}}
    return described
