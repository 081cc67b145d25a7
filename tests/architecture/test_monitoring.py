"""The alert rules name series and label values that ``/metrics`` has, and each has its section in the guide."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler_core.base.errors import OutcomeUnknown, StoreRefused, StoreUnavailable
from scheduler_core.base.health_metrics import UNHEALTHY
from scheduler_core.model.outcome import OutcomeKind
from scheduler_core.model.run import MissReason, Reason, RunState
from tests.architecture.test_docs import anchors_of
from tests.support.promql import SCRAPED, series_of_code, uses_of

DOCS = Path(__file__).parents[2] / "docs"
ALERTS = DOCS / "operations/alerts.yaml"
GUIDE = DOCS / "operations.md"
SERIES = series_of_code() | {"ALERTS": {"alertname", "alertstate", "severity"}}
STATUS = re.compile(r"[1-5](?:[0-9]{2}|xx)|")
# What label values a matcher may name, by metric and label.
VALUES: dict[tuple[str, str], set[str]] = {
    ("ALERTS", "alertname"): {"Cronpost.+"},
    ("ALERTS", "alertstate"): {"firing"},
    ("cronpost_runs_total", "state"): {state.value for state in RunState},
    ("cronpost_runs_total", "reason"): {reason.value for reason in Reason},
    ("cronpost_miss_ranges_total", "reason"): {reason.value for reason in MissReason},
    ("cronpost_held_back_total", "reason"): {"limit", "rate", "breaker", "slots"},
    ("cronpost_unhealthy_jobs", "health"): set(UNHEALTHY),
    ("cronpost_job_health", "health"): {*UNHEALTHY, "ok", "unknown"},
    ("cronpost_attention", "kind"): {"settlement", "quarantined", "job", "task"},
    ("cronpost_operations", "state"): {"carried", "waiting"},
    ("cronpost_store_faults_total", "fault"): {one.code for one in (StoreUnavailable, OutcomeUnknown, StoreRefused)},
    ("cronpost_alert_attempts_total", "result"): {"sent", "retried", "failed"},
    ("cronpost_attempts_total", "outcome"): {kind.value for kind in OutcomeKind},
    ("cronpost_claims_total", "result"): {"empty", "short", "full", "spared"},
}


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(ALERTS.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def faults_in(expression: str) -> Iterator[str]:
    """Say what an expression names that ``/metrics`` does not have."""
    uses = uses_of(expression)
    known: set[str] = set(SCRAPED)
    for selector in uses.selectors:
        labels = SERIES.get(selector.metric)
        if labels is None:
            yield f"no metric {selector.metric}"
            continue
        known |= labels
        for label, (_, value) in selector.matchers.items():
            if label not in labels | SCRAPED:
                yield f"{selector.metric} has no label {label}"
            elif "$" not in value and label not in SCRAPED:
                allowed = VALUES.get((selector.metric, label))
                for one in value.split("|"):
                    if STATUS.fullmatch(one) if label == "status" else one in (allowed or ()):
                        continue
                    yield f"{selector.metric} has no {label}={one!r}"
    yield from (f"no metric of the expression has the label {label}" for label in sorted(uses.grouped - known))


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_rule_names_what_the_metrics_have(rule: dict[str, Any]) -> None:
    assert list(faults_in(rule["expr"])) == []


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_an_alert_rule_is_complete(rule: dict[str, Any]) -> None:
    assert set(rule) == {"alert", "expr", "for", "labels", "annotations"}
    assert re.fullmatch(r"Cronpost[A-Z][A-Za-z]+", rule["alert"])
    assert re.fullmatch(r"[1-9][0-9]*[mh]", rule["for"])
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description", "runbook"}
    shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    assert shown <= uses_of(rule["expr"]).grouped


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_the_runbook_of_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    path, _, anchor = rule["annotations"]["runbook"].partition("#")
    assert path == "docs/operations.md"
    assert anchor in anchors_of(GUIDE)
    assert f"`{rule['alert']}`" in sections_of_guide()[anchor]


def sections_of_guide() -> dict[str, str]:
    """Return the text below each heading of the third level, by anchor."""
    parts = re.split(r"^### (.*)$", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    return {
        re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-"): re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for title, text in zip(parts[::2], parts[1::2], strict=True)
    }


def test_the_guide_names_only_alerts_that_exist() -> None:
    named = set(re.findall(r"`(Cronpost[A-Z][A-Za-z]+)`", GUIDE.read_text(encoding="utf-8")))
    assert named == {rule["alert"] for rule in rules()}


def test_the_rules_cover_many_metrics() -> None:
    """So that a reader of expressions that finds nothing cannot pass."""
    used = {selector.metric for rule in rules() for selector in uses_of(rule["expr"]).selectors}
    assert len(used) >= 28
    assert {"cronpost_lateness_seconds_bucket", "cronpost_runs_total", "cronpost_nodes", "process_open_fds"} <= used


def test_the_metrics_of_the_code_include_series_that_an_event_creates() -> None:
    assert SERIES["cronpost_breaker_state"] == {"target"}
    assert SERIES["cronpost_lateness_seconds_bucket"] == {"le"}
    assert SERIES["cronpost_unhealthy_jobs"] == {"health", "label"}
    assert SERIES["cronpost_http_requests_total"] == {"method", "status"}
    assert "cronpost_lateness_seconds" not in SERIES
    assert "cronpost_runs" not in SERIES


@pytest.mark.parametrize(
    ("expression", "fault"),
    [
        ("cronpost_node > 0", "no metric cronpost_node"),
        ("rate(cronpost_lateness_seconds[5m])", "no metric cronpost_lateness_seconds"),
        ("sum(rate(cronpost_runs[5m]))", "no metric cronpost_runs"),
        ('cronpost_runs_total{status="failed"}', "cronpost_runs_total has no label status"),
        ('cronpost_runs_total{state=~"failed|broken"}', "cronpost_runs_total has no state='broken'"),
        ('cronpost_breaker_state{target="http://a"}', "cronpost_breaker_state has no target='http://a'"),
        ("sum by (job, state) (cronpost_nodes)", "no metric of the expression has the label state"),
        ("cronpost_jobs / on (shard) cronpost_nodes", "no metric of the expression has the label shard"),
        ("max(cronpost_jobs) and (sum(cronpost_nods))", "no metric cronpost_nods"),
    ],
)
def test_a_wrong_name_is_found(expression: str, fault: str) -> None:
    assert list(faults_in(expression)) == [fault]


@pytest.mark.parametrize("expression", ["", "1 + 2", "rat(cronpost_jobs[5m])", '{job="a"}', "cronpost_jobs § 2"])
def test_what_is_no_expression_is_an_error(expression: str) -> None:
    with pytest.raises(ValueError):
        uses_of(expression)
