"""Quantiles of histograms, and the buckets of a chart."""

from __future__ import annotations

import pytest

from scheduler_core.base.errors import InvalidInput
from scheduler_core.model.statistics import MINUTE_MS, added, grown
from scheduler_core.usecases.statistics import DAY_MS, HOUR_MS, MOST_BUCKETS, Bucket, Histogram, Span, span_of

NOW_MS = 1_798_761_030_000


def histogram(**counts: int) -> Histogram:
    bucket = Bucket()
    bucket.add({"lateness:" + name.removeprefix("b").replace("_", "."): count for name, count in counts.items()})
    return bucket.lateness


@pytest.mark.parametrize(
    ("counts", "part", "wanted"),
    [
        ({"b1": 100}, 0.5, 0.5),
        ({"b10": 100}, 0.5, 7.5),  # the bucket begins at 5 ms, although no bucket below has values
        ({"b2_5": 50, "b5": 50}, 0.5, 2.5),
        ({"b2_5": 98, "b300000": 2}, 0.99, 180_000.0),
        ({"b2_5": 1, "binf": 9}, 0.5, 300_000.0),
        ({"b3": 4}, 1.0, 3.0),  # a bound of another version
    ],
)
def test_a_quantile_lies_within_its_bucket(counts: dict[str, int], part: float, wanted: float) -> None:
    assert histogram(**counts).quantile(part) == pytest.approx(wanted)


def test_no_values_have_no_quantile() -> None:
    assert Histogram().quantile(0.5) is None


def test_names_that_are_not_known_are_left_out() -> None:
    bucket = Bucket()
    bucket.add({"nodes": 3, "runs:failed": 2, "misses:overlap": 1, "lateness:x": 5, "others:a": 1, "runs": 9, "": 1})
    bucket.add({"nodes": 1, "runs:failed": 1})
    assert (bucket.runs, bucket.misses, bucket.nodes, bucket.minutes) == ({"failed": 3}, {"overlap": 1}, 3, 2)
    assert bucket.lateness.count == 0


def test_differences_and_sums_go_by_name() -> None:
    assert grown({"a": 1, "b": 2}, {"a": 1, "b": 5, "c": 2}) == {"b": 3, "c": 2}
    assert added({"a": 1, "b": 2}, {"b": 5, "c": 2}) == {"a": 1, "b": 7, "c": 2}


def test_the_default_is_the_last_hour_in_minutes() -> None:
    span = span_of(from_ms=None, to_ms=None, step_ms=None, now_ms=NOW_MS)
    assert span.step_ms == MINUTE_MS
    assert len(span.starts) == 61
    assert span.starts[-1] <= NOW_MS < span.to_ms


@pytest.mark.parametrize(
    ("length_ms", "step_ms"), [(HOUR_MS, MINUTE_MS), (DAY_MS, 5 * MINUTE_MS), (3 * DAY_MS, 15 * MINUTE_MS),
                               (8 * DAY_MS, HOUR_MS), (60 * DAY_MS, 6 * HOUR_MS)]
)  # fmt: skip
def test_the_step_is_chosen_for_a_bounded_number_of_buckets(length_ms: int, step_ms: int) -> None:
    span = span_of(from_ms=NOW_MS - length_ms, to_ms=NOW_MS, step_ms=None, now_ms=NOW_MS)
    assert span.step_ms == step_ms
    assert len(span.starts) <= MOST_BUCKETS
    assert span.from_ms % step_ms == 0


def test_a_span_in_the_future_ends_now() -> None:
    assert span_of(from_ms=None, to_ms=NOW_MS + DAY_MS, step_ms=None, now_ms=NOW_MS) == span_of(
        from_ms=None, to_ms=None, step_ms=None, now_ms=NOW_MS
    )


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"from_ms": NOW_MS + 1}, "from"),
        ({"from_ms": NOW_MS - 1, "to_ms": NOW_MS - 1}, "from"),
        ({"from_ms": NOW_MS - DAY_MS, "step_ms": MINUTE_MS}, "step_seconds"),
        ({"from_ms": 0}, "step_seconds"),
    ],
)
def test_a_span_that_makes_no_chart_is_refused(fields: dict[str, int], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        span_of(**{"from_ms": None, "to_ms": None, "step_ms": None} | fields, now_ms=NOW_MS)
    assert refused.value.field == field


def test_the_step_that_a_refusal_names_is_accepted() -> None:
    for length_ms in (DAY_MS, 5 * DAY_MS + 1, 77 * HOUR_MS + 12_345):
        with pytest.raises(InvalidInput) as refused:
            span_of(from_ms=NOW_MS - length_ms, to_ms=None, step_ms=MINUTE_MS, now_ms=NOW_MS)
        least = int(str(refused.value.detail).partition("step_seconds=")[2].split()[0])
        assert isinstance(span_of(from_ms=NOW_MS - length_ms, to_ms=None, step_ms=1000 * least, now_ms=NOW_MS), Span)
