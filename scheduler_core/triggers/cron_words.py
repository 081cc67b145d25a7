"""Describes a trigger in English, for ``GET /jobs`` and, if it is a cron expression, for ``cronpost cron "EXPR"`` and
``GET /cron/next``. Days have names.

The words state the real fire times, not the probable intention: ``*/7`` in the minutes is not "every 7 minutes" but
"every 7th minute from 0 to 56 of the hour", because the last step is shorter. Libraries (cron-descriptor) state the
intention. Without a short form, every field is spelled out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from scheduler_core.base.errors import InvalidInput
from scheduler_core.base.instants import rfc3339
from scheduler_core.triggers.cron_fields import CronFields, Field, read_fields, split_zone
from scheduler_core.triggers.cron_hash import uses_hash
from scheduler_core.triggers.cron_relative import LastDay, LastWeekday, NearestWeekday, NthWeekday, RelativeDay
from scheduler_core.triggers.every import read_every
from scheduler_core.triggers.trigger import AtSpec, CronSpec, EverySpec, IntervalSpec, TriggerSpec

_MONTHS = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip
_WEEKDAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")

_USUAL_WEEKDAYS = {
    (1, 2, 3, 4, 5): "weekdays (Monday to Friday)",
    (0, 6): "weekends (Saturday and Sunday)",
}

_MOST_TIMES = 6
"""Up to this many times of day are listed one by one; more are described."""


def describe_trigger(spec: TriggerSpec, job_id: str) -> str:
    """Describe the trigger of a stored job, for example ``every 5 minutes`` or ``only on request``.

    An expression that this version refuses is returned as it is.
    """
    if isinstance(spec, CronSpec):
        return _describe_stored(spec.expression, job_id if uses_hash(spec.expression) else "")
    if isinstance(spec, EverySpec | IntervalSpec):
        return _every(spec.every_ms)
    return f"once at {rfc3339(spec.at_ms)}" if isinstance(spec, AtSpec) else "only on request"


# Cached: many jobs share an expression, and a description takes 20 to 60 microseconds.
@lru_cache(maxsize=4096)
def _describe_stored(expression: str, job_id: str) -> str:
    try:
        return describe(expression, job_id)
    except InvalidInput:
        return expression


def describe(expression: str, job_id: str | None = None) -> str:
    """Describe an expression, for example ``at 03:30:00 on weekdays (Monday to Friday)``.

    Raises ``InvalidInput`` if the expression is invalid, or uses ``H`` and there is no ``job_id``. Times are in the
    job's zone, which is not named.
    """
    _, text = split_zone(expression)
    every_ms = read_every(text)
    if every_ms is not None:
        return _every(every_ms)
    fields = read_fields(text, job_id)
    words = [_time_words(fields), _day_words(fields)]
    if not fields.month.full:
        words.append("in " + _spans(fields.month.values, lambda month: _MONTHS[month - 1]))
    if not fields.year.full:
        words.append("in the " + _counted("year", fields.year.values))
    if uses_hash(text):
        words.append("(H: chosen by the job's id)")
    return " ".join(word for word in words if word)


def _every(length_ms: int) -> str:
    words = _duration(length_ms)
    return f"every {words.removeprefix('1 ') if words.count(' ') == 1 else words}"


def _duration(length_ms: int) -> str:
    words: list[str] = []
    for unit, size in (("hour", 3_600_000), ("minute", 60_000), ("second", 1000), ("millisecond", 1)):
        number, length_ms = divmod(length_ms, size)
        if number:
            words.append(f"{number} {unit}{'' if number == 1 else 's'}")
    return _joined(words)


def _time_words(fields: CronFields) -> str:
    second, minute, hour = fields.second, fields.minute, fields.hour
    times = [
        f"{h:02}:{m:02}:{s:02}"
        for h in hour.values[: _MOST_TIMES + 1]
        for m in minute.values[: _MOST_TIMES + 1]
        for s in second.values[: _MOST_TIMES + 1]
    ]
    if len(times) <= _MOST_TIMES:
        every_day = " every day" if _is_every_day(fields) else ""
        return "at " + _joined(times) + every_day
    return _within_hour(second, minute, hour)


def _within_hour(second: Field, minute: Field, hour: Field) -> str:
    hours_words = "" if hour.full else " during " + _hours(hour)
    if minute.full:
        return _within_minute(second) + hours_words
    if len(second.values) == 1:
        at_second = f" at second {second.values[0]}" if second.values[0] else ""
        if (step := _even_step(minute, 60)) is not None:
            return f"every {step} minutes{at_second}{hours_words}"
        if len(minute.values) == 1:
            return _hourly(minute.values[0], second.values[0], hour)
        listed = "at " + _of(minute.values, "minute", "the hour")
        return listed + (f", second {second.values[0]}" if second.values[0] else "") + hours_words
    inner = "every second" if second.full else _within_minute(second)
    return f"{inner} during {_counted('minute', minute.values)} of the hour{hours_words}"


def _within_minute(second: Field) -> str:
    if second.full:
        return "every second"
    if (step := _even_step(second, 60)) is not None:
        return f"every {step} seconds"
    if second.values == (0,):
        return "every minute"
    return "at " + _of(second.values, "second", "every minute")


def _hourly(minute: int, second: int, hour: Field) -> str:
    at = f"minute {minute}" + (f", second {second}" if second else "")
    if hour.full:
        return "every hour" if minute == second == 0 else f"every hour at {at}"
    if (step := _even_step(hour, 24)) is not None:
        return f"every {step} hours" + ("" if minute == second == 0 else f" at {at}")
    return f"at {at} of {_hours(hour)}"


def _hours(hour: Field) -> str:
    return _counted("hour", hour.values)


def _day_words(fields: CronFields) -> str:
    if _is_every_day(fields):
        return ""
    date, weekday = fields.day_of_month, fields.day_of_week
    if date.full and not fields.either_day:
        return "on " + _weekdays(weekday)
    dates = "on " + _dates(date)
    if weekday.full:
        return dates
    if fields.either_day:
        return f"{dates} and also on {_weekdays(weekday)}"
    return f"{dates} if it is {_weekday_choice(weekday)}"


def _dates(field: Field) -> str:
    days = [f"{_counted('day', field.values)} of the month"] if field.values else []
    return _joined([*days, *map(_relative_words, field.relative)])


def _weekdays(field: Field) -> str:
    if not field.relative and field.values in _USUAL_WEEKDAYS:
        return _USUAL_WEEKDAYS[field.values]
    return _joined([*(f"{name}s" for name in _weekday_names(field)), *map(_relative_words, field.relative)])


def _weekday_choice(field: Field) -> str:
    names = _weekday_names(field)
    days = [f"a {names[0]}", *names[1:]] if names else []
    return _joined([*days, *map(_relative_words, field.relative)], "or")


def _weekday_names(field: Field) -> list[str]:
    # The list begins with Monday.
    return [_WEEKDAYS[value % 7] for value in sorted(value or 7 for value in field.values)]


def _relative_words(day: RelativeDay) -> str:
    match day:
        case LastDay(before=0):
            return "the last day of the month"
        case LastDay(before=before):
            return f"the {_ordinal(before)} day before the last day of the month"
        case NearestWeekday(day=None):
            return "the last weekday (Monday to Friday) of the month"
        case NearestWeekday(day=date):
            return f"the weekday (Monday to Friday) nearest to day {date} of the month"
        case LastWeekday(weekday=weekday):
            return f"the last {_WEEKDAYS[weekday]} of the month"
        case NthWeekday(weekday=weekday, number=number):
            return f"the {_ordinal(number)} {_WEEKDAYS[weekday]} of the month"


def _is_every_day(fields: CronFields) -> bool:
    every_date, every_weekday = fields.day_of_month.full, fields.day_of_week.full
    return (every_date or every_weekday) if fields.either_day else (every_date and every_weekday)


def _even_step(field: Field, size: int) -> int | None:
    """Return n if the field is every n-th value from 0 and n divides ``size``, so that "every n" is always true."""
    if len(field.values) < 2 or field.values[0] != 0:
        return None
    step = field.values[1]
    return step if size % step == 0 and field.values == tuple(range(0, size, step)) and step > 1 else None


def _of(values: Sequence[int], unit: str, whole: str) -> str:
    return f"{_counted(unit, values)} of {whole}"


def _counted(unit: str, values: Sequence[int]) -> str:
    if len(values) == 1:
        return f"{unit} {values[0]}"
    step = values[1] - values[0]
    if step > 1 and len(values) > _MOST_TIMES and tuple(values) == tuple(range(values[0], values[-1] + 1, step)):
        return f"every {_ordinal(step)} {unit} from {values[0]} to {values[-1]}"
    return f"{unit}s {_spans(values, str)}"


def _spans(values: Sequence[int], name: Callable[[int], str]) -> str:
    """Return ``1, 2, 3, 7`` as "1 to 3 and 7". Two neighbouring values are listed, not joined to a span."""
    runs: list[tuple[int, int]] = []
    for value in values:
        if runs and runs[-1][1] == value - 1:
            runs[-1] = (runs[-1][0], value)
        else:
            runs.append((value, value))
    words: list[str] = []
    for first, last in runs:
        if last - first < 2:
            words.extend(name(value) for value in range(first, last + 1))
        else:
            words.append(f"{name(first)} to {name(last)}")
    return _joined(words)


def _joined(words: Iterable[str], last: str = "and") -> str:
    *others, final = words
    return f"{', '.join(others)} {last} {final}" if others else final


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"
