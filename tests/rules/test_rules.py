"""promtool accepts the alert rules and the expressions of the dashboard, and each alert fires when it should and only
then. Needs Debian's package ``prometheus``."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.test_grafana import TARGETS
from tests.architecture.test_monitoring import ALERTS, rules
from tests.rules.cases import CASES, JOB, Case, Series

PROMTOOL = shutil.which("promtool") or "promtool"
WITH_LABEL = re.compile(r"\{\{ with \$labels\.label \}\}(.*?)\{\{ end \}\}")
RULES = {rule["alert"]: rule for rule in rules()}


def promtool(*arguments: str) -> None:
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def series_of(series: Series, job: str) -> list[dict[str, str]]:
    """Give each series the labels of a scraped process."""
    rows = []
    for name, values in series.items():
        metric, _, labels = name.rstrip("}").partition("{")
        scraped = ",".join(part for part in (f'job="{job}"', 'instance="a"', labels) if part)
        rows.append({"series": f"{metric}{{{scraped}}}", "values": values})
    return rows


def alert_of(case: Case, job: str) -> dict[str, Any]:
    """Return the alert as it must be sent, with all texts."""
    rule, shown = RULES[case.alert], [job if one == JOB else one for one in case.shown]
    texts = {}
    for name in ("summary", "description"):
        text = WITH_LABEL.sub(r"\1" if "label" in case.labels else "", rule["annotations"][name])
        texts[name] = re.sub(r"\{\{.*?\}\}", lambda _: shown.pop(0), text)
    assert shown == []
    return {
        "exp_labels": {**({"job": job} if case.fires else {}), **case.labels, "severity": rule["labels"]["severity"]},
        "exp_annotations": {**texts, "runbook": rule["annotations"]["runbook"]},
    }


def unit_test(cases: list[Case]) -> dict[str, Any]:
    """Return one test of promtool. Each case has jobs of its own: one that fires, and one for each quiet variant."""
    rows: list[dict[str, str]] = []
    expected: dict[tuple[str, int], list[dict[str, Any]]] = {}
    silent = []
    for number, case in enumerate(cases):
        rows += series_of(case.fires, f"fires-{number}")
        expected.setdefault((case.alert, case.at), []).append(alert_of(case, f"fires-{number}"))
        for variant, series in enumerate(case.quiet if case.fires else ()):
            job = f"quiet-{number}-{variant}"
            rows += series_of(series, job)
            silent.append((case, job))
    return {
        "interval": "1m",
        "input_series": rows,
        "alert_rule_test": [
            {"eval_time": f"{at}m", "alertname": alert, "exp_alerts": alerts}
            for (alert, at), alerts in expected.items()
        ],
        "promql_expr_test": [
            {
                "eval_time": f"{case.at}m",
                "expr": f'ALERTS{{alertname="{case.alert}",job="{job}",alertstate="firing"}}',
                "exp_samples": [],
            }
            for case, job in silent
        ],
    }


def run_unit_tests(directory: Path, tests: list[dict[str, Any]]) -> None:
    path = directory / "tests.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", str(path))


def test_promtool_accepts_the_rules() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(ALERTS))


def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path: Path) -> None:
    rows = []
    for number, (_, _, target) in enumerate(TARGETS):
        expression = target["expr"].replace("$__rate_interval", "5m").replace("$job", ".*").replace("$instance", ".*")
        assert "$" not in expression
        rows.append({"record": f"dashboard:expression:{number}", "expr": expression})
    path = tmp_path / "dashboard.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rows}]}))
    promtool("check", "rules", "--lint=none", str(path))


def test_every_alert_has_a_case() -> None:
    assert {case.alert for case in CASES} == set(RULES)
    assert all(case.quiet for case in CASES)


def test_each_alert_fires_when_it_should_and_only_then(tmp_path: Path) -> None:
    """In few tests of promtool, because each of them creates a database."""
    together = [case for case in CASES if case.fires and not case.apart]
    apart = [case for case in CASES if case.apart]
    absent = [case for case in CASES if not case.fires]
    run_unit_tests(tmp_path, [unit_test(cases) for cases in (together, apart, absent)])


def test_a_wrong_expectation_is_found(tmp_path: Path) -> None:
    case = next(case for case in CASES if case.alert == "CronpostNoNode")
    with pytest.raises(AssertionError, match="CronpostNoNode"):
        run_unit_tests(tmp_path, [unit_test([replace(case, fires=case.quiet[0])])])
    with pytest.raises(AssertionError, match="quiet-0-0"):
        run_unit_tests(tmp_path, [unit_test([replace(case, quiet=(case.fires,))])])
