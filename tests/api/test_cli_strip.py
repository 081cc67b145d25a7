"""``cronpost jobs strip``: the fire times of a window as one line."""

from __future__ import annotations

import json
from typing import Any

import pytest

from scheduler_api.cli.job_strip import MARKS, _line, _row
from scheduler_core.plan.strip import CellKind
from tests.api.command_line import jobs

MINUTE = "2026-12-31T23:50:"


def cell(first: int, kind: str, *, last: int | None = None, run: Any = None, **fields: Any) -> dict[str, Any]:
    shown = {
        "first_fire_time": f"{MINUTE}{first:02}Z",
        "last_fire_time": f"{MINUTE}{first if last is None else last:02}Z",
        "kind": kind,
        "fire_times": {kind: 1},
        "requested": {},
        "reasons": {},
        "run": run,
        "settled": True,
        "exact": True,
    }
    return shown | fields


def body(*cells: dict[str, Any], not_kept: Any = None) -> dict[str, Any]:
    return {"from": f"{MINUTE}00Z", "to": f"{MINUTE}20Z", "cells": list(cells), "not_kept": not_kept}


def test_every_kind_has_a_character_of_its_own_in_the_order_of_severity() -> None:
    assert list(MARKS) == [kind.value for kind in CellKind]
    assert len({character for character, _ in MARKS.values()}) == len(MARKS)


def test_each_cell_is_drawn_at_its_time_and_the_worst_wins_a_column() -> None:
    cells = [cell(2, "delivered"), cell(3, "failed"), cell(3, "delivered"), cell(10, "missed", last=12)]
    assert _line(body(*cells), 20) == "  #F      MMM"
    assert _line(body(*cells), 10) == " F   MM"
    kept = {"from": f"{MINUTE}00Z", "to": f"{MINUTE}04.999Z"}
    assert _line(body(cell(2, "delivered"), cell(20, "planned"), not_kept=kept), 20) == "~~#~~              ."


@pytest.mark.parametrize(
    ("shown", "why"),
    [
        (cell(0, "missed", reasons={"overlap": 1}), ("1", "overlap", "-")),
        (cell(0, "missed", fire_times={"missed": 2}, exact=False), ("2+", "", "-")),
        (cell(0, "late", run=(12_345, 1, 200, "")), ("1", "12.345 s late", "R")),
        (cell(0, "retried", run=(0, 3, 200, "")), ("1", "3 attempts", "R")),
        (cell(0, "failed", run=(0, 1, 500, "")), ("1", "the answer was 500", "R")),
        (cell(0, "failed", run=(0, 1, 500, "too slow")), ("1", "too slow", "R")),
        (cell(0, "open", run=(0, 0, None, ""), requested={"open": 2}), ("3", "", "R")),
    ],
)
def test_a_row_says_why(shown: dict[str, Any], why: tuple[str, ...]) -> None:
    if shown["run"] is not None:
        late, attempts, status, message = shown["run"]
        shown["run"] = {"id": "R", "late_ms": late, "attempts": attempts, "status_code": status, "message": message}
    assert _row(shown, None)[2:] == why


def test_the_strip_is_drawn_with_its_legend_and_its_hours(cli_server: str) -> None:
    jobs(cli_server, "put", "a", "--endpoint", "http://h/", "--cron", "0 * * * *", "--payload", "1")
    shown = jobs(cli_server, "strip", "a", "--from", "-12h", "--to", "12h")
    assert shown.exit_code == 0, shown.stderr
    head, line, axis, legend = shown.stdout.splitlines()
    assert head.startswith("a, 20")
    assert line.strip(". ") == ""
    assert line.count(".") in {11, 12}  # an hour may begin between the two readings of the clock
    assert len(axis.split()) == 4
    assert legend == f". planned {line.count('.')}"
    answer = json.loads(jobs(cli_server, "strip", "a", "--week", "--json").stdout)
    assert answer["cells"] == []
    assert jobs(cli_server, "strip", "a").stdout.splitlines()[-1] == "no fire times"
    assert "--week goes without --from" in jobs(cli_server, "strip", "a", "--week", "--from", "1d").stderr
    assert "(field from)" in jobs(cli_server, "strip", "a", "--from", "soon").stderr
    assert "[404]" in jobs(cli_server, "strip", "nobody").stderr
