"""Valid and invalid requests that schemathesis makes from the description, against a real server with a node.

Each operation is called with examples, with values at the bounds, and with random ones. The requests are the same in
each run of make test, but for the choice of bounds; a failure prints the request as a curl line.

``schema.parametrize`` would make all requests when the tests are collected, 10 s of CPU in each of the processes. Here
each test makes its own, by the function that ``parametrize`` calls.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from functools import cache
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import load_all_checks
from schemathesis.config import GenerationConfig, ProjectConfig, ProjectsConfig, SchemathesisConfig
from schemathesis.core.parameters import ParameterLocation
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.generation.meta import TestPhase
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.python._constants.orchestrator import make_constants_value_source
from schemathesis.specs.openapi import checks

from scheduler_api.routes import document
from tests.api.command_line import KEY
from tests.api.conftest import job
from tests.api.runner import Runner
from tests.support.examples import TIMES, examples

AUTHORIZED = {"Authorization": f"Bearer {KEY}"}
KNOWN: dict[str, str | int] = {"job_id": "known", "target_id": 1, "schedule_id": 1, "task_id": "task_1"}
"""Ids that exist on the server. Half of all requests use them, because random ones only lead to 404."""
EXAMPLES = examples(4)
PARTS = max(1, 6 // TIMES)
"""``make test`` sends one of this many requests with values at bounds; the seed of the run chooses it."""

load_all_checks()
_generation = GenerationConfig(
    deterministic=TIMES == 1, max_examples=EXAMPLES, database="none", with_security_parameters=False
)
_config = SchemathesisConfig(projects=ProjectsConfig(default=ProjectConfig(generation=_generation)))
LABELS = [
    f"{method.upper()} {path}"
    for path, item in document(keys=True)["paths"].items()
    for method, described in item.items()
    if "operationId" in described and path != "/events"
]
"""All operations but the stream of events, which does not end."""


@cache
def schema() -> Any:
    """Return the description as schemathesis reads it."""
    return schemathesis.openapi.from_dict(document(keys=True), config=_config)


@pytest.fixture
def turn() -> Iterator[int]:
    """Counts requests with values at bounds, from a random start."""
    return itertools.count(random.randrange(PARTS))


@pytest.fixture
def served(cli_server_with_node: tuple[str, Runner]) -> str:
    """The address of a server with one object of each kind."""
    url, _ = cli_server_with_node
    with httpx.Client(base_url=url, headers=AUTHORIZED) as client:
        made = [
            client.post("/", json=job(id="known", endpoint="http://localhost:8080/")),
            client.post("/targets", json={"name": "known", "url": "http://localhost:8080/"}),
            client.post(
                "/schedules",
                json={"name": "known", "target_id": 1, "schedule_type": "INTERVAL", "interval_seconds": 60},
            ),
            client.post(
                "/api/v1/tasks", json={"webhookUrl": "http://localhost:8080/", "executeAt": "2030-01-01T00:00:00Z"}
            ),
        ]
        assert all(answer.is_success for answer in made)
        operation = client.post("/jobs:resume", json={"select": {"prefix": "none"}}).json()
        KNOWN["operation_id"] = operation["operation"]
    return url


# The thread of the server uses the module random meanwhile; hypothesis would report this as a use in a strategy.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning")
@pytest.mark.hypothesis
@pytest.mark.parametrize("label", LABELS)
def test_the_server_conforms_to_its_description(label: str, served: str, turn: Iterator[int]) -> None:
    operation = schema().find_operation_by_label(label)
    assert operation is not None
    sources = FeedbackSources(constants_value_source=make_constants_value_source(schema()))
    test = build_operation_test(
        config=schema().config, operation=operation, test_func=conforms, given_kwargs={}, feedback=sources
    )
    test(served=served, turn=turn)


@settings(suppress_health_check=list(HealthCheck), deadline=None)
def conforms(case: Any, served: str, turn: Iterator[int]) -> None:
    """Send one request, and compare the answer with the description."""
    at_bounds = case.meta.phase.name is TestPhase.COVERAGE
    if at_bounds and next(turn) % PARTS:
        return
    path = case.meta.components.get(ParameterLocation.PATH)
    if path is not None and path.mode.is_positive and sum(map(ord, repr(case.path_parameters))) % 2:
        case.path_parameters.update({name: KNOWN[name] for name in case.path_parameters if name in KNOWN})
    response = case.call(base_url=served, headers=AUTHORIZED)
    excluded: list[Any] = [
        checks.positive_data_acceptance
    ]  # a schema cannot express which times, zones and fields are valid together
    if at_bounds:
        # It sends the request again without a key and with a wrong one. The other phases check each operation for that.
        excluded.append(checks.ignored_auth)
    each_by_itself = case.operation.path == "/jobs:batch" and '"code":' in response.text
    if "cronpost-ignored" in response.headers or each_by_itself or response.status_code == 413:
        # Unknown fields are ignored and named for existing clients, refused in the results of a batch, or not read.
        excluded.append(checks.negative_data_rejection)
    case.validate_response(response, excluded_checks=excluded)
