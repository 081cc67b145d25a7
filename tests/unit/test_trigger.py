"""Specs as stored, and the triggers compiled from them."""

from __future__ import annotations

import msgspec
import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.triggers.trigger import CronSpec, TriggerSpec, check_fires_again, compile_trigger

MIDNIGHT = 1_793_491_200_000  # 2026-11-01T00:00:00Z


def test_a_spec_is_stored_in_few_bytes_and_read_back() -> None:
    spec = CronSpec("*/10 * * * * * *")
    assert msgspec.json.encode(spec) == b'{"k":"cron","x":"*/10 * * * * * *"}'
    zoned = CronSpec("30 3 * * *", "Europe/London")
    assert msgspec.json.encode(zoned) == b'{"k":"cron","x":"30 3 * * *","z":"Europe/London"}'
    for each in (spec, zoned):
        assert msgspec.json.decode(msgspec.json.encode(each), type=TriggerSpec) == each


def test_a_spec_of_an_unknown_kind_is_not_decoded_as_another() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"k":"interval","x":"* * * * *"}', type=TriggerSpec)


def test_equal_specs_share_one_trigger() -> None:
    assert compile_trigger(CronSpec("1 2 3 4 *")) is compile_trigger(CronSpec("1 2 3 4 *", "UTC"))
    assert compile_trigger(CronSpec("1 2 3 4 *")) is not compile_trigger(CronSpec("1 2 3 4 *", "Europe/London"))


def test_a_bad_spec_names_the_field_at_fault_each_time() -> None:
    for _ in range(2):
        with pytest.raises(InvalidInput) as caught:
            compile_trigger(CronSpec("61 * * * *"))
        assert caught.value.field == "cron"
        with pytest.raises(InvalidInput) as caught:
            compile_trigger(CronSpec("* * * * *", "Nowhere/Land"))
        assert caught.value.field == "timezone"


def test_a_trigger_that_has_ended_answers_none_and_is_refused_for_a_new_job() -> None:
    trigger = compile_trigger(CronSpec("0 0 0 1 1 * 2020"))
    assert trigger.next_after(MIDNIGHT) is None
    assert trigger.last_in(MIDNIGHT, MIDNIGHT + 10**12) is None
    assert trigger.last_in(0, MIDNIGHT) == 1_577_836_800_000
    with pytest.raises(InvalidInput):
        check_fires_again(trigger, MIDNIGHT)


def test_the_queries_of_a_due_run_are_answered_from_a_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand jobs that share a trigger make these queries in one second: the due fire time and the next one."""
    trigger = compile_trigger(CronSpec("*/10 * * * * *", "America/New_York"))
    fire, following = MIDNIGHT + 10_000, MIDNIGHT + 20_000
    assert trigger.last_in(fire - 1, fire + 7) == fire
    computed: list[int] = []
    original = type(trigger)._next_elapsed  # type: ignore[attr-defined]

    def compute(self: object, after: int) -> int | None:
        computed.append(after)
        found: int | None = original(self, after)
        return found

    monkeypatch.setattr(type(trigger), "_next_elapsed", compute)
    for late in range(0, 9_000, 100):
        assert trigger.last_in(fire - 1, fire + late) == fire
        assert trigger.last_in(fire, fire + late) is None
        assert trigger.next_after(fire + late) == following
        assert trigger.next_after(fire - 1) == fire
    assert computed == []
