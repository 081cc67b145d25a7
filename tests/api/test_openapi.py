"""``GET /openapi.json``: the description of the API. That answers fit it is checked by the client of all API tests."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate
from starlette.routing import Route

from scheduler_api.app import OPEN_PATHS
from scheduler_api.openapi.document import TAGS
from scheduler_api.routes import ROUTES, document
from scheduler_api.wire.bodies import TargetMethod
from scheduler_api.wire.jobs import JOB_FIELDS
from scheduler_api.wire.policy_row import Row
from scheduler_api.wire.policy_rows import ROWS
from scheduler_core.model.catalogue import TARGET_METHODS
from tests.api.conftest import EXAMPLE
from tests.support.described import NotDescribed, check

Json = dict[str, Any]
DOCUMENT = document(keys=True)
SCHEMAS: Json = DOCUMENT["components"]["schemas"]
OPERATIONS: list[tuple[str, str, Json]] = [
    (method, path, operation)
    for path, item in DOCUMENT["paths"].items()
    for method, operation in item.items()
    if method != "parameters"
]


def nodes(node: Any) -> Iterator[Json]:
    """List all objects in a part of the document."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from nodes(value)


@pytest.mark.parametrize("keys", [True, False])
def test_the_description_is_valid_openapi(keys: bool) -> None:
    validate(document(keys=keys))


def test_the_description_has_every_route_and_no_other() -> None:
    described = {(path, method.upper()) for method, path, _ in OPERATIONS}
    routes = [route for route in ROUTES if isinstance(route, Route) and route.include_in_schema]
    served = [(route.path, method) for route in routes for method in (route.methods or set()) - {"HEAD"}]
    assert described == set(served)
    assert len(served) == len(described)


def test_a_path_that_is_not_described_is_another_spelling_or_a_part_of_the_pages() -> None:
    described = {(path, method.upper()) for method, path, _ in OPERATIONS}
    hidden = [route for route in ROUTES if isinstance(route, Route) and not route.include_in_schema]
    served = {(route.path, method) for route in hidden for method in (route.methods or set()) - {"HEAD"}}
    parts = {("/docs/{name}", "GET"), ("/ui/static/{path:path}", "GET"), ("/ui/{path:path}", "GET")}
    assert {(path.removesuffix("/"), method) for path, method in served - parts} < described


def test_every_operation_has_a_name_of_its_own_and_a_known_tag() -> None:
    names = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)+", name) for name in names)
    assert all(len(operation["tags"]) == 1 and operation["summary"] for _, _, operation in OPERATIONS)
    assert {operation["tags"][0] for _, _, operation in OPERATIONS} == set(TAGS)


def test_every_parameter_of_a_path_is_described() -> None:
    for method, path, operation in OPERATIONS:
        parameters = [*DOCUMENT["paths"][path].get("parameters", []), *operation.get("parameters", [])]
        named = [one["name"] for one in parameters if one["in"] == "path"]
        assert named == re.findall(r"\{(\w+)\}", path), (method, path)


def test_what_needs_a_key_says_so_and_what_needs_none_too() -> None:
    open_paths = {path for _, path, operation in OPERATIONS if operation.get("security") == []}
    assert open_paths == {"/", "/ui", *(path for path in OPEN_PATHS if not path.startswith("/docs/"))}
    for method, path, operation in OPERATIONS:
        assert ("401" in operation["responses"]) == ("security" not in operation), (method, path)
    assert DOCUMENT["security"] == [{"apiKey": []}, {"sessionCookie": []}]
    assert document(keys=False)["security"] == []


async def test_the_description_has_every_field_of_a_job(client: httpx.AsyncClient) -> None:
    assert set(SCHEMAS["JobBody"]["properties"]) == {*JOB_FIELDS, "last_run"}
    await client.post("/", json=EXAMPLE)
    shown = (await client.get(f"/jobs/{EXAMPLE['id']}")).json()
    elsewhere = {
        "name",
        "target_id",
        "interval_seconds",
        "interval_from",
        "interval_until",
        "every_seconds",
        "at",
        "completed_at",
        "paused_by",
        "paused_until",
        "pause_note",
        "target",
        "method",
        "headers",
        "query",
        "body",
        "content_type",
        "auth",
        "sign",
        "open_runs",
        "in_flight",
    }
    assert set(SCHEMAS["Job"]["properties"]) == {*shown, *elsewhere}


WITHOUT_FIELDS = (
    "DELETE /",
    "DELETE /jobs/{job_id}",
    "POST /attention/{entry_id}/dismiss",
    "POST /jobs/{job_id}/pending/{run_id}/revive",
    "POST /jobs/{job_id}/resume",
    "POST /operations/{operation_id}/cancel",
    "POST /resume",
    "POST /runs/{run_id}/cancel",
)


@pytest.mark.parametrize("operation", WITHOUT_FIELDS)
async def test_the_answer_to_a_compressed_body_is_described_where_no_field_is_known(
    client: httpx.AsyncClient, operation: str
) -> None:
    method, path = operation.split()
    coded = {"Content-Encoding": "gzip"}
    answer = await client.request(method, re.sub(r"{\w+}", "a", path), content=b"{}", headers=coded)
    assert answer.status_code == 415
    assert {"413", "415"} <= DOCUMENT["paths"][path][method.lower()]["responses"].keys()


def test_the_methods_of_a_target_are_those_that_are_accepted() -> None:
    assert tuple(TargetMethod) == TARGET_METHODS


def test_a_field_that_needs_another_one_has_no_default() -> None:
    """Generated clients send defaults, and such a field is refused where the other one is not given."""
    for name in ("JobBody", "JobPutBody"):
        for row in ROWS:
            has_default = "default" in SCHEMAS[name]["properties"][row.name]
            assert has_default == (row.needs is None and row.default is not None), row.name


def test_neither_an_answer_nor_a_partial_change_has_a_default() -> None:
    """A client that sends the defaults of a partial change would reset what it does not mean to change."""
    bodies = {
        node["$ref"].rpartition("/")[2]
        for _, _, operation in OPERATIONS
        for node in nodes(operation.get("requestBody", {}))
        if "$ref" in node
    }
    for name in list(bodies):  # and what is inside them
        bodies |= {node["$ref"].rpartition("/")[2] for node in nodes(SCHEMAS[name]) if "$ref" in node}
    changes = {"JobPatch", "TargetChange", "ScheduleChange", "TaskSettingsChange"}
    assert changes < bodies
    for name in {*SCHEMAS} - bodies | changes:
        assert not [node for node in nodes(SCHEMAS[name]) if "default" in node], name


def test_references_lead_to_components_only() -> None:
    references = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node.get("$ref"), str)}
    assert references
    for reference in references:
        kind, name = re.fullmatch(r"#/components/(\w+)/(\w+)", reference).groups()  # type: ignore[union-attr]
        assert name in DOCUMENT["components"][kind]


def test_the_example_of_every_body_fits_its_schema() -> None:
    import jsonschema_rs

    examples = [(name, one) for name, schema in SCHEMAS.items() for one in schema.get("examples", [])]
    assert len(examples) >= 10
    for name, example in examples:
        whole = {**SCHEMAS[name], "components": {"schemas": SCHEMAS}}
        jsonschema_rs.Draft202012Validator(whole, validate_formats=True).validate(example)


EMPTY_PAGE: dict[str, Any] = {"jobs": [], "next": None, "examined": 0}


def answered(status: int, content: Any, *, method: str = "GET", url: str = "/jobs", **options: Any) -> None:
    request = httpx.Request(method, f"http://localhost{url}", json=options.pop("body", None))
    check(request, httpx.Response(status, json=content, **options))


class TestTheCheckItself:
    """What the client of all API tests would notice."""

    def test_passes_what_is_described(self) -> None:
        answered(200, EMPTY_PAGE)
        answered(200, {"id": "a", "deleted": True}, method="DELETE", url="/jobs/a")

    @pytest.mark.parametrize(
        ("status", "content", "options"),
        [
            (200, {"jobs": [], "examined": 0}, {}),
            (200, EMPTY_PAGE | {"more": 1}, {}),
            (200, EMPTY_PAGE | {"next": 3}, {}),
            (200, EMPTY_PAGE, {"headers": {"Cronpost-New": "1", "Content-Type": "application/json"}}),
            (200, EMPTY_PAGE, {"url": "/jobs?colour=red"}),
            (200, EMPTY_PAGE, {"url": "/jobs?limit=0"}),
            (201, EMPTY_PAGE, {}),
            (409, {}, {}),
            (202, {"id": "a", "changed": True, "version": 1, "next_fire_time": None}, {"method": "POST", "url": "/"}),
        ],
    )
    def test_finds_what_is_not(self, status: int, content: Any, options: dict[str, Any]) -> None:
        with pytest.raises(NotDescribed):
            answered(status, content, **options)


# ---- single schemas ---------------------------------------------------------------------------------------------


async def test_one_schema_is_answered_with_those_that_it_refers_to(client: httpx.AsyncClient) -> None:
    answer = await client.get("/openapi.json?schema=JobBody")
    assert answer.json() == {name: SCHEMAS[name] for name in ("JobBody", "Sign")}
    assert len(answer.content) < 15_000
    refused = await client.get("/openapi.json?schema=Nothing")
    assert (refused.status_code, refused.json()["field"]) == (400, "schema")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.name))
def test_the_schema_of_a_policy_names_its_default_and_the_field_that_it_requires(row: Row) -> None:
    schema = SCHEMAS["JobBody"]["properties"][row.name]
    assert schema["x-default"] == (row.default_text or str(row.default))
    assert schema.get("x-only-with") == (None if row.needs is None else dict([row.needs]))
