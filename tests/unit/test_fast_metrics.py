"""The counters on the path of every fire expose the same text as prometheus_client's own."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics, generate_latest

from scheduler_core.base.fast_metrics import FastCounter, FastHistogram

disable_created_metrics()  # type: ignore[no-untyped-call] # as Cronpost does

BOUNDS = (0.001, 0.25, 1, 30)


def lines(registry: CollectorRegistry) -> list[str]:
    return sorted(generate_latest(registry).decode().splitlines())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["", "2xx"])), max_size=20))
def test_a_tally_is_a_counter(events: list[tuple[str, str]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    tally = FastCounter("cronpost_things", "Things.", ["kind", "status"], ours)
    counter = Counter("cronpost_things", "Things.", ["kind", "status"], registry=theirs)
    for kind, status in events:
        tally.add(kind, status)
        counter.labels(kind, status).inc()
    assert lines(ours) == lines(theirs)


@given(st.lists(st.one_of(st.sampled_from(BOUNDS), st.floats(min_value=0, max_value=1000)), max_size=20))
def test_a_spread_is_a_histogram(values: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    spread = FastHistogram("cronpost_seconds", "Seconds.", BOUNDS, ours)
    histogram = Histogram("cronpost_seconds", "Seconds.", buckets=BOUNDS, registry=theirs)
    for value in values:
        spread.observe(value)
        histogram.observe(value)
    assert lines(ours) == lines(theirs)


def test_a_counter_can_show_series_before_the_first_event() -> None:
    registry = CollectorRegistry()
    tally = FastCounter("cronpost_things", "Things.", ["kind"], registry)
    tally.add("a")
    for kind in ("a", "b"):
        tally.start(kind)
    assert [line for line in lines(registry) if not line.startswith("#")] == [
        'cronpost_things_total{kind="a"} 1.0',
        'cronpost_things_total{kind="b"} 0.0',
    ]
