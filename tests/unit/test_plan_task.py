"""The planner's decisions about a call of a one-off task."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from scheduler_core.model.outcome import Outcome
from scheduler_core.model.run import Reason, RunState
from scheduler_core.model.task import Task, TaskRules, task_id, task_number
from scheduler_core.plan.settle import Ended
from scheduler_core.plan.task import TaskOperation, plan_called, plan_deleted, plan_revive, run_of_deleted
from tests.support.factories import answered, at, ended, failed, make_call

RULES = TaskRules(1000, 5000, 200, 2)


def task(**fields: object) -> Task:
    return Task("http://hook.test/", at(0), at(-1), "RUN", **fields)  # type: ignore[arg-type]


def call(outcome: Outcome, started: float = 1, until: float = 2) -> Ended:
    return ended(outcome, started, until)


def test_a_2xx_settles_the_task_and_records_its_run() -> None:
    step = plan_called(task(), call(answered(201)), RULES)
    assert step.operation is TaskOperation.DELIVERED
    assert step.record is not None
    assert (step.record.id, step.record.state, step.record.url) == ("RUN", RunState.SUCCEEDED, "http://hook.test/")
    assert (step.record.started_at_ms, step.record.ended_at_ms, step.record.fire_time_ms) == (at(1), at(2), at(0))
    assert step.record.excerpt == ""
    assert step.detail is None


@given(st.integers(0, 6), st.lists(st.sampled_from([answered(500), answered(404), failed()]), min_size=8, max_size=8))
def test_a_failing_task_is_called_max_retries_plus_one_times(most: int, outcomes: list[Outcome]) -> None:
    rules = TaskRules(1000, 5000, 200, most)
    current = task()
    for number, outcome in enumerate(outcomes, 1):
        step = plan_called(current, call(outcome), rules)
        assert step.task is not None
        current = step.task
        assert current.run is not None
        assert current.run.attempt == number
        if number <= most:
            assert (step.operation, step.record, current.retries) == (TaskOperation.FAILED, None, number)
        else:
            assert (step.operation, current.retries) == (TaskOperation.STALE, most)
            assert step.record is not None
            assert (step.record.state, step.record.attempt) == (RunState.FAILED, most + 1)
            return


def test_after_max_retries_is_lowered_the_next_failure_is_the_last() -> None:
    step = plan_called(task(retries=5), call(failed()), RULES)
    assert step.operation is TaskOperation.STALE


def test_the_record_of_a_stale_task_masks_its_secret() -> None:
    secret = (("Authorization", "s3cret"),)
    sent_call = make_call(url="http://hook.test/", headers=secret, payload=b'{"token":"s3cret"}')
    one = call(answered(500))
    sent = Ended(
        replace(one.outcome, sent_headers=secret), one.fence, one.started_at_ms, one.ended_at_ms, call=sent_call
    )
    step = plan_called(task(retries=2, auth="s3cret"), sent, RULES)
    assert step.detail is not None
    assert step.detail.request_body == b'{"token":"***"}'
    assert ("Authorization", "***") in step.detail.request_headers


def test_a_deleted_task_that_was_called_is_recorded_as_cancelled() -> None:
    assert run_of_deleted(task(), now_ms=at(9)) is None
    step = plan_called(task(), call(failed()), RULES)
    assert step.task is not None
    dropped = plan_deleted(step.task, now_ms=at(9))
    assert dropped.operation is TaskOperation.DROP
    assert dropped.record is not None
    assert (dropped.record.state, dropped.record.ended_at_ms) == (RunState.CANCELLED, at(9))
    delivered = plan_called(task(), call(answered(200)), RULES)
    assert delivered.task is not None
    assert run_of_deleted(delivered.task, now_ms=at(9)) is None, "it is recorded already"


def test_a_revived_task_has_a_new_run_and_all_retries() -> None:
    step = plan_called(task(retries=2, auth="s"), call(failed()), RULES)
    assert step.task is not None
    revived = plan_revive(step.task, "NEW")
    assert (revived.run_id, revived.run, revived.retries, revived.reason) == ("NEW", None, 0, Reason.MANUAL)
    assert (revived.url, revived.auth, revived.execute_at_ms) == (task().url, "s", at(0))
    again = plan_called(revived, call(answered(200)), RULES)
    assert again.record is not None
    assert (again.record.id, again.record.reason, again.record.attempt) == ("NEW", Reason.MANUAL, 1)


@pytest.mark.parametrize(
    "text", ["task_0", "task_01", "task_", "task_-1", "task_1 ", "Task_1", "1", "task_١", "task_1\n"]
)
def test_an_invalid_task_id_has_no_number(text: str) -> None:
    assert task_number(text) is None


def test_task_ids_and_numbers_convert_both_ways() -> None:
    assert [task_number(task_id(number)) for number in (1, 42, 10**15 - 1)] == [1, 42, 10**15 - 1]
