"""How the benchmarks evaluate measurements: ratios, targets, blocks of a document, charts, the capacity calculation."""

from __future__ import annotations

import math
import socket
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from benchmarks import beside, machine
from benchmarks.__main__ import falls_behind, is_optional, place_of
from benchmarks.bench import Result, as_json
from benchmarks.budget import STAGES, samples_of, shares, stages_ms
from benchmarks.capacity import is_held
from benchmarks.chart import chart
from benchmarks.compare import OWN_WITH_REDIS, comparison, reached, targets
from benchmarks.contention import simulate
from benchmarks.firing import every_second as every_second_of
from benchmarks.firing import herd as herd_of
from benchmarks.flame import flame_graph, shown
from benchmarks.goals import GOALS, OWN_DEFAULTS, UNEXPLAINED, Goal, goal_table, missed, reasons
from benchmarks.load import Load, _requests_of
from benchmarks.machine import Usage
from benchmarks.measures import Arrival, Fires, judge, parse_arrivals
from benchmarks.peers import install
from benchmarks.plan import full_plan
from benchmarks.publish import publish
from benchmarks.records import delays_ms
from benchmarks.report import Report, load_report, merged, update
from benchmarks.scale import from_results
from benchmarks.scale_model import Measured, Wanted, calculate
from benchmarks.systems.bullmq import BullMQ
from scheduler_core.triggers.cron import parse_cron


def fires(p99_ms: float, *, expected: int = 100, delivered: int = 100, max_ms: float = 0.0, early: int = 0) -> Fires:
    return Fires(
        expected=expected,
        delivered=delivered,
        duplicates=0,
        early=early,
        p50_ms=p99_ms / 2,
        p99_ms=p99_ms,
        max_ms=max_ms or p99_ms,
    )


def every_second(system: str, p99_ms: float, *, own: float = 90.0, redis: float | None = 30.0) -> Result:
    return Result(
        scenario="every second",
        system=system,
        size="1000 jobs",
        fires=fires(p99_ms),
        own_us_per_fire=own,
        redis_us_per_fire=redis,
    )


def held(system: str, rate: float) -> Result:
    return Result(
        scenario="highest rate held", system=system, size="rate raised in steps", values={"held, fires/s": rate}
    )


def row_of(rows: list[list[str]], name: str) -> dict[str, str]:
    return next(dict(zip(rows[0], row, strict=True)) for row in rows if row[0] == name)


def test_a_ratio_above_one_always_means_that_cronpost_is_better() -> None:
    rows = comparison(
        [held("Cronpost", 9000), held("BullMQ", 3000), every_second("Cronpost", 100), every_second("BullMQ", 50)]
    )
    assert row_of(rows, "highest rate held")["BullMQ"] == "3,000 /s (3.0 x)"
    assert row_of(rows, "1000 jobs every second, p99 lateness")["BullMQ"] == "50 ms (0.5 x)"


def test_the_cpu_of_redis_counts_in_the_ratio() -> None:
    rows = comparison([every_second("Cronpost", 1, own=90, redis=10), every_second("taskiq", 1, own=150, redis=50)])
    assert row_of(rows, "CPU per fire at 1000 jobs every second, own + Redis")["taskiq"] == "150 + 50 µs (2.0 x)"


def test_a_number_from_incomplete_deliveries_is_marked_with_the_delivered_share() -> None:
    lame = msgspec.structs.replace(every_second("taskiq", 50), fires=fires(50, delivered=40))
    rows = comparison([every_second("Cronpost", 100), lame])
    assert row_of(rows, "1000 jobs every second, p99 lateness")["taskiq"] == "50 ms [40 %] (0.5 x)"


def test_a_skipped_measurement_shows_its_reason() -> None:
    rows = comparison(
        [
            every_second("Cronpost", 100),
            Result(scenario="every second", system="BullMQ", size="1000 jobs", fault="not run: node is missing"),
        ]
    )
    assert row_of(rows, "1000 jobs every second, p99 lateness")["BullMQ"] == "node is missing"


def test_without_a_peer_nothing_is_compared() -> None:
    assert comparison([every_second("Cronpost", 100)]) == []


def test_targets_are_judged_by_the_worst_repetition() -> None:
    found = {one.name: one for one in reached([every_second("Cronpost", 100), every_second("Cronpost", 130)])}
    assert not found["1000 jobs every second: p99 lateness"].met
    assert found["1000 jobs every second: p99 lateness"].reached == 130
    assert found["1000 jobs every second: CPU per fire"].met


def test_the_target_is_set_by_the_fastest_library_and_not_by_our_own_delivery() -> None:
    bare = [
        Result(scenario="bare clients", size=f"{name}, 50 connections", values={"requests/s": rate})
        for name, rate in (("Cronpost's delivery", 50_000.0), ("pyreqwest", 16_000.0), ("aiohttp", 10_000.0))
    ]
    rows = targets([held("Cronpost", 9000), *bare])
    assert row_of(rows, "the same, compared with half of the fastest client library alone (pyreqwest)")["goal"] == (
        "at least 8,000 /s"
    )


@pytest.mark.parametrize(
    ("window", "expected"),
    [
        (fires(999, max_ms=1900), True),
        (fires(999, delivered=99), False),
        (fires(999, early=1), False),
        (fires(1000), False),
        (fires(10, max_ms=2000), False),
    ],
)
def test_a_rate_is_sustained_if_each_second_is_done_before_the_next_is_due(window: Fires, expected: bool) -> None:
    assert is_held(window) is expected


def test_only_marked_and_measured_blocks_are_replaced_and_a_repetition_changes_nothing() -> None:
    text = "a\n<!-- bench: targets -->\nold\n<!-- end -->\nb\n<!-- bench: budget -->\nkept\n<!-- end -->\n"
    once = update(text, {"targets": "| new |"})
    assert "old" not in once
    assert "kept" in once
    assert "| new |" in once
    assert update(once, {"targets": "| new |"}) == once


def test_a_later_report_replaces_only_the_results_that_it_measured() -> None:
    def report(*results: Result) -> Report:
        return Report(began_at="", machine={}, sink={}, repetitions=1, results=list(results))

    both = merged([report(held("Cronpost", 1), held("BullMQ", 2)), report(held("Cronpost", 3))])
    assert {one.system: one.values["held, fires/s"] for one in both.results} == {"Cronpost": 3, "BullMQ": 2}


def test_a_report_without_deliveries_can_be_read_back() -> None:
    lost = msgspec.structs.replace(every_second("taskiq", 1), fires=judge([], from_ms=0, until_ms=1, expected=5))
    report = Report(began_at="", machine={}, sink={}, repetitions=1, results=[lost, held("Cronpost", 9000)])
    read = load_report(as_json(report))
    assert read.results[0].fires is not None
    assert math.isnan(read.results[0].fires.p99_ms)
    assert read.results[1] == report.results[1]


def test_the_chart_is_xml_with_a_bar_for_each_system() -> None:
    drawn = ET.fromstring(
        chart([every_second("Cronpost", 100), every_second("BullMQ", 400), every_second("taskiq", 9e4)])
    )
    words = "".join(drawn.itertext())
    assert "400 ms" in words
    assert "90,000 ms" in words
    assert words.count("p99 lateness") == 1


def test_a_flame_graph_shows_no_path_of_the_machine() -> None:
    frames = [
        "<module> (/srv/somebody/.venv/bin/cronpost:8)",
        "run_once (/srv/somebody/work/scheduler_core/node/loops/claim.py:80)",
        "execute (/srv/somebody/.venv/lib/python3.11/site-packages/redis/client.py:3)",
    ]
    assert shown(frames[1]) == "run_once scheduler_core/node/loops/claim.py"
    assert shown(frames[2]) == "execute redis/client.py"
    drawn = flame_graph([(frames, 3), (frames[:2], 1)], "title")
    assert "somebody" not in drawn
    assert "75.0 %" in drawn
    ET.fromstring(drawn)


def test_a_sample_belongs_to_the_stage_of_its_innermost_known_frame() -> None:
    raw = (
        "_run (scheduler_api/server/process.py:1);run_once (scheduler_core/node/loops/settle.py:1);"
        "info (structlog/b.py:2) 3\n"
        "_run (scheduler_api/server/process.py:1);poll (uvloop/loop.py:9) 1\n"
        "_bootstrap (threading.py:1);wait (threading.py:2) 50\n"
    )
    assert shares(samples_of(raw)) == {"log line": 0.75, "event loop and rest": 0.25}


def test_every_module_that_a_stage_names_exists() -> None:
    root = Path(__file__).parents[2]
    modules = [path.relative_to(root).as_posix() for path in root.glob("scheduler_*/**/*.py")]
    marks = [mark for _, found in STAGES for mark in found if "/" in mark and not mark.startswith("(")]
    assert [mark for mark in marks if not any(mark in module for module in modules)] == []


def test_the_stages_of_a_fire_add_up_to_its_total() -> None:
    log = (
        b'{"event": "api started", "time": "2026-01-01T00:00:00.000Z"}\n'
        b'{"event": "run settled", "time": "2026-01-01T00:00:01.020Z", "job_id": "j",'
        b' "fire_time": "2026-01-01T00:00:01.000Z", "lateness_ms": 3, "latency_ms": 5.5}\n'
    )
    found = stages_ms(log, [Arrival(1_767_225_601_004_000_000, 1_767_225_601_000, "j")])
    assert [values[0] for values in found.values()] == pytest.approx([3, 1, 4.5, 11.5, 20], abs=0.01)


def test_a_batch_is_one_request_with_all_its_jobs() -> None:
    load = Load(kind="batch", port=1, endpoint="http://h/", count=5, batch=2)
    bodies = [request.partition(b"\r\n\r\n")[2] for request in _requests_of(load)]
    assert [len(msgspec.json.decode(body)) for body in bodies] == [2, 2, 1]
    assert msgspec.json.decode(bodies[2])[0]["id"] == "j000004"


def test_twice_the_fires_need_twice_the_nodes_and_the_same_memory() -> None:
    small, large = (calculate(Measured(), Wanted(fires=fires)) for fires in (4e6, 8e6))
    assert large["nodes"] == pytest.approx(2 * small["nodes"], abs=1)
    assert large["jobs_gb"] == small["jobs_gb"]


def test_the_calculation_uses_the_measurement_at_the_highest_rate() -> None:
    busy = msgspec.structs.replace(held("Cronpost", 9000), own_us_per_fire=70.2, redis_us_per_fire=20.0)
    report = Report(began_at="", machine={}, sink={}, repetitions=1, results=[busy])
    measured = from_results(Measured(), report)
    assert (measured.own_us, measured.redis_us) == (70, 20)


def test_each_unneeded_node_makes_one_empty_claim() -> None:
    found = simulate(nodes=10, fires_a_shard=50, redis_us=20.0)
    assert found.claims == 10
    assert found.empty == 9


def used(own_seconds: float, redis_seconds: float) -> tuple[Usage, Usage]:
    return Usage(own_seconds, 0), Usage(redis_seconds, 0)


def test_beside_lets_a_and_b_fire_at_alternating_seconds_and_swaps_them_each_round() -> None:
    assert beside.crons_of(0) == beside.crons_of(2) == (beside.EVEN, beside.ODD)
    assert beside.crons_of(1) == (beside.ODD, beside.EVEN)
    for cron, first in ((beside.EVEN, 0), (beside.ODD, 1)):
        trigger = parse_cron(cron)
        fire_times = [at for at in range(0, 120_000, 1000) if trigger.next_after(at - 1) == at]
        assert fire_times == list(range(1000 * first, 120_000, 2000))


def test_beside_divides_cpu_by_the_fires_that_were_delivered() -> None:
    cost = beside.cost_of(used(1.0, 2.0), used(1.01, 2.004), fires(1, expected=100))
    assert cost.own_us == pytest.approx(100)
    assert cost.redis_us == pytest.approx(40)


def test_beside_refuses_a_round_in_which_a_server_did_not_keep_up() -> None:
    with pytest.raises(RuntimeError, match="only 99 of 100 fires were delivered: use fewer --jobs"):
        beside.cost_of(used(1, 1), used(2, 2), fires(1, delivered=99))


def test_beside_gives_the_median_ratio_of_b_to_a_with_its_range() -> None:
    rounds = [
        beside.Round(beside.Cost(100, 40), beside.Cost(100 * ratio, 20), a_is_even=even)
        for ratio, even in ((0.9, True), (1.2, False), (1.0, True))
    ]
    assert beside.summary(rounds) == [
        "CPU per fire, server, B : A: median 1.000 (0.900 to 1.200)",
        "CPU per fire, Redis, B : A: median 0.500 (0.500 to 0.500)",
    ]
    assert row_of(beside.table(rounds), "2") == {
        "round": "2",
        "A fires at": "odd seconds",
        "A us/fire": "100.0",
        "A Redis": "40.0",
        "B us/fire": "120.0",
        "B Redis": "20.0",
        "B : A": "1.200",
        "Redis, B : A": "0.500",
    }


def test_a_window_of_beside_starts_at_an_even_second(monkeypatch: pytest.MonkeyPatch) -> None:
    for now, expected in ((10.0, 14_000), (10.1, 14_000), (11.0, 14_000), (11.1, 16_000)):
        monkeypatch.setattr("time.time", lambda now=now: now)
        assert beside.next_even_second_ms(3) == expected


@pytest.fixture
def nothing_is_cached() -> Iterator[None]:
    install.node.cache_clear()
    yield
    install.node.cache_clear()


@pytest.mark.usefixtures("nothing_is_cached")
def test_a_peer_that_cannot_be_installed_gives_the_reason_and_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    peer = BullMQ()
    with pytest.raises(install.NotRunError, match="node and npm are not installed"):
        peer.start(tmp_path, 1)
    peer.stop()
    assert list(tmp_path.iterdir()) == []


def test_every_package_of_a_peer_is_pinned() -> None:
    assert all(version[0].isdigit() for version in install.versions().values())
    assert {"bullmq", "taskiq", "celery-redbeat", "pyreqwest"} <= set(install.versions())


def in_flight(result: Result, connections: int) -> Result:
    return msgspec.structs.replace(result, bounds={"a": "2000", "b": "1000"}, connections=connections)


def test_a_goal_is_judged_by_the_median_and_its_row_states_the_bounds() -> None:
    rows = goal_table([in_flight(every_second("Cronpost", p99), 900) for p99 in (15, 18, 90)])
    row = row_of(rows, "1,000 jobs every second, p99 lateness")
    assert row["measured"] == "18.0 ms (15.0 to 90.0)"
    assert (row["goal"], row["result"]) == ("at most 20 ms", "reached")
    assert row["in flight, to one target, connections"] == "2000, 1000, 900"


def test_a_goal_that_was_not_reached_shows_its_reason_and_one_that_was_shows_none() -> None:
    results = [every_second("Cronpost", 50, own=50, redis=10)]
    found = dict(missed(results, {"second-99": "the sink", "cpu": "old"}))
    assert found["1,000 jobs every second, p99 lateness"] == "the sink"
    assert found["1,000 jobs every second, p50 lateness"] == UNEXPLAINED
    assert not any("CPU" in name for name in found)


def test_a_row_says_that_it_was_measured_once_and_how_much_was_delivered() -> None:
    lame = msgspec.structs.replace(every_second("Cronpost", 50), fires=fires(50, delivered=99))
    row = row_of(goal_table([lame]), "1,000 jobs every second, p99 lateness")
    assert row["measured"] == "50.0 ms, once [99.0 %]"


def test_a_herd_that_was_not_delivered_in_full_has_no_last_one() -> None:
    herd = Result(scenario="herd at one instant", system="Cronpost", size="10000 jobs", fires=fires(300, delivered=99))
    assert goal_table([herd]) == []


def test_every_reason_belongs_to_a_goal(tmp_path: Path) -> None:
    assert reasons().keys() <= {goal.key for goal in GOALS}
    wrong = tmp_path / "reasons.toml"
    wrong.write_text('nothing = "x"')
    with pytest.raises(ValueError, match="unknown goals: nothing"):
        reasons(wrong)


def test_the_delay_of_a_record_counts_from_the_answer_of_the_sink() -> None:
    log = (
        b'{"event": "run settled", "time": "2026-01-01T00:00:01.020Z", "job_id": "j",'
        b' "fire_time": "2026-01-01T00:00:01.000Z"}\n'
    )
    second_ns = 1_767_225_601_000_000_000
    arrivals = parse_arrivals(b"%d %d 1767225601000 j" % (second_ns + 1_000_000, second_ns + 4_000_000))
    assert delays_ms(log, arrivals) == pytest.approx([16], abs=0.01)
    assert delays_ms(b"", arrivals) == []


def test_a_published_run_replaces_the_blocks_and_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    performance, readme = tmp_path / "performance.md", tmp_path / "README.md"
    performance.write_text("by hand\n<!-- bench: goals -->\nold\n<!-- end -->\n")
    readme.write_text("by hand\n<!-- bench: readme -->\nold\n<!-- end -->\n")
    facts = dict.fromkeys(("processor", "cores", "kernel", "python", "redis"), 0)
    report = Report(
        began_at="2026-01-01",
        machine={**facts, "packages": {}, "load_average": [0.0]},
        sink={},
        repetitions=1,
        results=[every_second("Cronpost", 50), every_second("BullMQ", 400)],
    )
    for _ in range(2):
        publish(report, tmp_path, readme, {"second-99": "because of the sink"})
        assert "* **1,000 jobs every second, p99 lateness**: because of the sink" in performance.read_text()
        assert "| **50 ms** | 400 ms |" in readme.read_text()
        for path in (performance, readme):
            assert path.read_text().startswith("by hand\n")
            assert "old" not in path.read_text()
    ET.fromstring((tmp_path / "performance.svg").read_text())


def test_the_sink_records_when_a_request_arrived_at_its_socket_and_when_it_was_read() -> None:
    process = machine.start_module(machine.OTHER_CORE, "benchmarks.sink")
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        request = b"POST /job HTTP/1.1\r\nCONTENT-LENGTH: 3\r\nBench-Fire-Ms: 7\r\nCronpost-Job-Id: j%20a\r\n\r\nabc"
        began_ns = time.time_ns()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            connection.sendall(request + request[:50])
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            assert connection.recv(1000) == answer
            connection.sendall(request[50:])
            assert connection.recv(1000) == answer
            connection.sendall(b"GET /connections HTTP/1.1\r\n\r\n")
            assert connection.recv(1000).endswith(b"\r\n\r\n0")
            connection.sendall(b"GET /requests HTTP/1.1\r\n\r\n")
            first, second = parse_arrivals(connection.recv(10_000).partition(b"\r\n\r\n")[2])
        for one in (first, second):
            assert (one.fire_ms, one.job) == (7, "j a")
            assert began_ns <= one.arrived_ns <= one.read_ns
        assert first.read_ns <= second.arrived_ns
    finally:
        machine.end(process)


@pytest.mark.parametrize("goal", GOALS, ids=[goal.key for goal in GOALS])
def test_the_plan_measures_every_goal(goal: Goal) -> None:
    (found,) = {
        one.size: one for one in full_plan(8) if one.title == goal.scenario and one.size.startswith(goal.size)
    }.values()
    assert not found.spare
    assert found.defaults or goal.system != OWN_DEFAULTS
    assert found.one_core or goal.system != OWN_WITH_REDIS


def test_what_is_left_out_when_time_is_short_comes_last_and_no_goal_is() -> None:
    thousand, herd = every_second_of(1000, 8), herd_of(10_000)
    spare = next(one for one in full_plan(8) if one.spare)
    order = [(herd, "celery"), (spare, "cronpost"), (thousand, "taskiq"), (herd, "bullmq"), (thousand, "cronpost")]
    order.sort(key=lambda one: place_of(*one))
    assert [name for _, name in order] == ["bullmq", "cronpost", "taskiq", "cronpost", "celery"]
    assert is_optional(spare, "cronpost")
    assert is_optional(herd, "bullmq")
    assert not is_optional(herd, "cronpost-defaults")


def test_a_peer_that_is_too_late_at_a_thousand_is_not_asked_for_more() -> None:
    late = [every_second("taskiq", 1200), every_second("BullMQ", 300)]
    assert falls_behind(late, every_second_of(5000, 8), "taskiq")
    assert not falls_behind(late, every_second_of(5000, 8), "BullMQ")
    assert not falls_behind(late, every_second_of(1000, 8), "taskiq")
    assert not falls_behind(late, herd_of(10_000), "taskiq")
