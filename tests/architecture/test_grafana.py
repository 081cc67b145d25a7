"""The dashboard for Grafana names what ``/metrics`` has, and each panel says what it shows and in which unit."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import pytest

from tests.architecture.test_monitoring import DOCS, SERIES, faults_in
from tests.support.promql import SCRAPED, uses_of

DASHBOARD: dict[str, Any] = json.loads((DOCS / "operations/grafana.json").read_text(encoding="utf-8"))
ROWS = ["Overview", "Punctuality", "Outcomes", "Targets", "Nodes and Redis", "One-off tasks", "API and telemetry"]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
TARGETS = [(f"{panel['title']} {target['refId']}", panel, target) for panel in PANELS for target in panel["targets"]]
UNITS = {"none", "short", "s", "ops", "reqps", "bytes", "percentunit"}


@pytest.mark.parametrize(("panel", "target"), [row[1:] for row in TARGETS], ids=[row[0] for row in TARGETS])
def test_an_expression_names_what_the_metrics_have(panel: dict[str, Any], target: dict[str, Any]) -> None:
    assert list(faults_in(target["expr"])) == []
    uses = uses_of(target["expr"])
    for selector in uses.selectors:
        assert {"job", "instance"} <= selector.matchers.keys(), "it ignores the variables of the dashboard"
    shown = set(re.findall(r"\{\{(.+?)\}\}", target["legendFormat"]))
    assert shown <= (uses.grouped or SCRAPED), "the legend names a label that the result does not have"
    assert target["datasource"] == panel["datasource"] == SOURCE


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: f"{panel['id']} {panel['title']}")
def test_a_panel_says_what_it_shows(panel: dict[str, Any]) -> None:
    assert panel["description"].endswith(".")
    unit = panel["options"]["yAxis"]["unit"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]["unit"]
    assert unit in UNITS
    seconds = all("_seconds" in target["expr"] for target in panel["targets"])
    assert (unit == "s") <= any("_seconds" in target["expr"] for target in panel["targets"])
    assert seconds <= (unit in {"s", "percentunit"})


def test_the_panels_lie_side_by_side_below_their_rows() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, f"{panel['title']} covers {taken[cell]}"
            assert 0 <= cell[0] < 24
            taken[cell] = panel["title"]
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"] == ROWS


def test_the_variables_select_data_source_job_and_instance() -> None:
    by_name = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(by_name) == ["datasource", "job", "instance"]
    assert (by_name["datasource"]["type"], by_name["datasource"]["query"]) == ("datasource", "prometheus")
    for name in ("job", "instance"):
        variable = by_name[name]
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
        assert found is not None
        assert list(faults_in(found[1])) == []
        assert found[2] == name
        assert variable["query"]["query"] == variable["definition"]
        assert variable["datasource"] == SOURCE
    assert [list(faults_in(one["expr"])) for one in DASHBOARD["annotations"]["list"] if "expr" in one] == [[]]


def test_the_dashboard_shows_most_metrics() -> None:
    """So that a reader of expressions that finds nothing cannot pass."""
    used = {selector.metric for _, _, target in TARGETS for selector in uses_of(target["expr"]).selectors}
    assert len(TARGETS) >= 60
    assert len(used) >= 45
    assert used <= SERIES.keys()
    assert DASHBOARD["schemaVersion"] >= 39
    assert (DASHBOARD["uid"], DASHBOARD["title"]) == ("cronpost", "Cronpost")
