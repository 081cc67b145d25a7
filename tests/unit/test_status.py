"""The status of a run and of an attempt, and the error of each in one word."""

from __future__ import annotations

import pytest

from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import Attempt, RunState
from scheduler_core.model.status import (
    LETTERS,
    RunStatus,
    attempt_error_type,
    attempt_status,
    error_type_of,
    status_of,
)
from tests.support.factories import at, make_run

RESPONSE = OutcomeKind.RESPONSE


def attempt(kind: OutcomeKind, status: int | None = None, number: int = 1) -> Attempt:
    return Attempt(number, 7, at(0), 12.0, kind, status)


@pytest.mark.parametrize(
    ("kind", "code", "status", "error_type"),
    [
        (RESPONSE, 200, RunStatus.SUCCESS, None),
        (RESPONSE, 204, RunStatus.SUCCESS, None),
        (RESPONSE, 299, RunStatus.SUCCESS, None),
        (RESPONSE, 101, RunStatus.FAILED, "http_unexpected"),
        (RESPONSE, 302, RunStatus.FAILED, "http_unexpected"),
        (RESPONSE, 400, RunStatus.FAILED, "http_4xx"),
        (RESPONSE, 409, RunStatus.FAILED, "http_4xx"),
        (RESPONSE, 499, RunStatus.FAILED, "http_4xx"),
        (RESPONSE, 500, RunStatus.FAILED, "http_5xx"),
        (RESPONSE, 503, RunStatus.FAILED, "http_5xx"),
        (RESPONSE, 600, RunStatus.FAILED, "http_unexpected"),
        (OutcomeKind.TIMEOUT, None, RunStatus.TIMEOUT, "timeout"),
        (OutcomeKind.TIMEOUT, 200, RunStatus.TIMEOUT, "timeout"),
        (OutcomeKind.DNS, None, RunStatus.DNS_ERROR, "dns"),
        (OutcomeKind.CONNECTION, None, RunStatus.CONNECTION_ERROR, "connection"),
        (OutcomeKind.TLS, None, RunStatus.CONNECTION_ERROR, "connection"),
        (OutcomeKind.BLOCKED, None, RunStatus.FAILED, "unknown"),
        (OutcomeKind.PROTOCOL, None, RunStatus.FAILED, "unknown"),
        (OutcomeKind.INTERNAL, None, RunStatus.FAILED, "unknown"),
    ],
)
def test_the_last_attempt_decides(
    kind: OutcomeKind, code: int | None, status: RunStatus, error_type: str | None
) -> None:
    last = attempt(kind, code, 2)
    assert (attempt_status(last), attempt_error_type(last)) == (status, error_type)
    state = RunState.SUCCEEDED if status is RunStatus.SUCCESS else RunState.FAILED
    for first in (attempt(OutcomeKind.DNS), attempt(RESPONSE, 500)):
        run = make_run(state=state, attempts=(first, last))
        assert (status_of(run), error_type_of(run)) == (status, error_type)


def test_every_kind_of_outcome_has_a_status() -> None:
    for kind in OutcomeKind:
        code = 500 if kind is RESPONSE else None
        assert attempt_error_type(attempt(kind, code)) is not None
        assert attempt_status(attempt(kind, code)) is not RunStatus.SUCCESS


@pytest.mark.parametrize("state", [RunState.OPEN, RunState.RETRYING, RunState.TAKEN])
def test_an_unsettled_run_has_no_status_whatever_its_attempts_are(state: RunState) -> None:
    run = make_run(state=state, attempts=(attempt(RESPONSE, 503),))
    assert (status_of(run), error_type_of(run)) == (None, None)


@pytest.mark.parametrize("state", [RunState.FAILED, RunState.LOST, RunState.CANCELLED])
def test_a_run_that_did_not_succeed_although_it_was_answered_2xx_is_failed_for_an_unknown_reason(
    state: RunState,
) -> None:
    run = make_run(state=state, attempts=(attempt(RESPONSE, 202),))
    assert (status_of(run), error_type_of(run)) == (RunStatus.FAILED, "unknown")


def test_a_run_completed_as_a_success_has_that_status_although_its_request_broke_off() -> None:
    run = make_run(state=RunState.SUCCEEDED, attempts=(attempt(OutcomeKind.CONNECTION),))
    assert (status_of(run), error_type_of(run)) == (RunStatus.SUCCESS, None)


@pytest.mark.parametrize("state", [RunState.LOST, RunState.CANCELLED, RunState.SUPERSEDED])
def test_a_run_without_an_attempt_is_failed(state: RunState) -> None:
    assert (status_of(make_run(state=state)), error_type_of(make_run(state=state))) == (RunStatus.FAILED, "unknown")


def test_each_status_has_its_own_letter() -> None:
    assert LETTERS == "SFTDC"
    assert len({status.letter for status in RunStatus}) == len(RunStatus)
