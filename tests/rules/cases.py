"""For each alert: series that make it fire, and series that are close to it and do not.

Values are in promtool's notation, one for each minute: ``0+5x30`` is 0, 5, 10 ..., thirty times. All rules are
evaluated at minute ``at``. Each case has its own job, and its series are those of the process ``a``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

Series = dict[str, str]


@dataclass(frozen=True)
class Case:
    """When one alert fires, and when it does not."""

    alert: str
    fires: Series
    quiet: tuple[Series, ...]
    labels: dict[str, str] = field(default_factory=dict)
    """The labels of the alert beside ``job`` and ``severity``."""
    shown: tuple[str, ...] = ()
    """What stands for each ``{{ ... }}`` of its summary and then of its description."""
    at: int = 30
    apart: bool = False
    """Its series make another alert fire too, or the series of another case this one."""


LATENESS = "cronpost_lateness_seconds_bucket"
JOB = "<job>"
"""Stands for the job of the case."""

CASES = (
    Case("CronpostAbsent", {}, ({"cronpost_nodes": "0x40"},)),
    Case("CronpostNoNode", {"cronpost_nodes": "1x20 0x20"}, ({"cronpost_nodes": "1x40"},), shown=(JOB,)),
    Case(
        "CronpostNodeMissing",
        {"cronpost_nodes": "3x10 2x40"},
        ({"cronpost_nodes": "2x40"}, {"cronpost_nodes": "2x10 3x40"}, {"cronpost_nodes": "3x26 2x10"}),
        shown=(JOB, "2"),
    ),
    Case(
        "CronpostNodeLost",
        {"cronpost_runs_reaped_total": "0x24 9x10"},
        ({"cronpost_runs_reaped_total": "9x40"}, {"cronpost_runs_reaped_total": "0x15 9x25"}),
        shown=(JOB, "9"),
    ),
    Case(
        "CronpostNodeRestarts",
        {"cronpost_node_restarts_total": "0x16 1+1x20"},
        ({"cronpost_node_restarts_total": "0x25 1x20"}, {"cronpost_node_restarts_total": "7x40"}),
        shown=(JOB, "14"),
    ),
    Case(
        "CronpostNodeSilent",
        {"cronpost_nodes_silent": "0x20 1x20"},
        ({"cronpost_nodes_silent": "0x27 1x20"}, {"cronpost_nodes_silent": "0x40"}),
        {"instance": "a"},
        ("a", "1"),
    ),
    Case(
        "CronpostUnexpectedErrors",
        {'cronpost_service_faults_total{service="claim"}': "0x24 9x20"},
        ({'cronpost_service_faults_total{service="claim"}': "9x40"},),
        {"service": "claim"},
        ("claim", JOB, "9"),
    ),
    Case(
        "CronpostFiresLate",
        {LATENESS + '{le="1.0"}': "0+90x40", LATENESS + '{le="2.5"}': "0+100x40", LATENESS + '{le="+Inf"}': "0+100x40"},
        (
            {
                LATENESS + '{le="1.0"}': "0+100x40",
                LATENESS + '{le="2.5"}': "0+100x40",
                LATENESS + '{le="+Inf"}': "0+100x40",
            },
            # No fire at all.
            {LATENESS + '{le="1.0"}': "7x40", LATENESS + '{le="2.5"}': "9x40", LATENESS + '{le="+Inf"}': "9x40"},
        ),
        shown=(JOB, "2.35s"),
    ),
    Case(
        "CronpostFiresVeryLate",
        {
            LATENESS + '{le="10.0"}': "0+50x40",
            LATENESS + '{le="30.0"}': "0+100x40",
            LATENESS + '{le="+Inf"}': "0+100x40",
        },
        (
            {
                LATENESS + '{le="5.0"}': "0+50x40",
                LATENESS + '{le="10.0"}': "0+100x40",
                LATENESS + '{le="+Inf"}': "0+100x40",
            },
        ),
        shown=(JOB, "29.6s"),
        apart=True,
    ),
    Case(
        "CronpostBacklog", {"cronpost_due_jobs": "0x20 500x20"}, ({"cronpost_due_jobs": "50x40"},), shown=(JOB, "500")
    ),
    Case(
        "CronpostSlotsUsedUp",
        {'cronpost_held_back_total{reason="slots"}': "0+120x40"},
        (
            {'cronpost_held_back_total{reason="limit"}': "0+120x40"},
            {'cronpost_held_back_total{reason="slots"}': "9x40"},
        ),
        shown=(JOB, "2"),
    ),
    Case(
        "CronpostFireTimesMissed",
        {'cronpost_miss_ranges_total{reason="downtime"}': "0x27 14x20"},
        (
            {'cronpost_miss_ranges_total{reason="paused"}': "0+60x40"},
            {'cronpost_miss_ranges_total{reason="overlap"}': "0+60x40"},
            {'cronpost_miss_ranges_total{reason="downtime"}': "9x40"},
        ),
        {"reason": "downtime"},
        (JOB, "downtime", "14"),
    ),
    Case(
        "CronpostOverlaps",
        {
            'cronpost_miss_ranges_total{reason="overlap"}': "0+60x90",
            'cronpost_runs_total{state="succeeded",reason="scheduled"}': "0+120x90",
        },
        (
            {
                'cronpost_miss_ranges_total{reason="overlap"}': "0+6x90",
                'cronpost_runs_total{state="succeeded",reason="scheduled"}': "0+120x90",
            },
        ),
        shown=(JOB, "1"),
        at=80,
    ),
    Case(
        "CronpostRunsFailing",
        {
            'cronpost_runs_total{state="failed",reason="scheduled"}': "0+25x40",
            'cronpost_runs_total{state="succeeded",reason="scheduled"}': "0+75x40",
        },
        (
            {
                'cronpost_runs_total{state="failed",reason="scheduled"}': "0+5x40",
                'cronpost_runs_total{state="succeeded",reason="scheduled"}': "0+75x40",
            },
            # Two failures in a quarter of an hour are too few for a share.
            {
                'cronpost_runs_total{state="failed",reason="scheduled"}': "0x20 2x20",
                'cronpost_runs_total{state="succeeded",reason="scheduled"}': "0x40",
            },
        ),
        shown=(JOB, "25%"),
    ),
    Case(
        "CronpostRunsLost",
        {'cronpost_runs_total{state="lost",reason="scheduled"}': "0x40 59x40"},
        (
            {'cronpost_runs_total{state="lost",reason="scheduled"}': "3x90"},
            {'cronpost_runs_total{state="failed",reason="scheduled"}': "0x40 59x40"},
        ),
        shown=(JOB, "59"),
        at=70,
    ),
    Case(
        "CronpostJobsFailing",
        {'cronpost_unhealthy_jobs{health="failing",label="billing"}': "4x60"},
        (
            {'cronpost_unhealthy_jobs{health="failing"}': "0x60"},
            {'cronpost_unhealthy_jobs{health="failing"}': "0x20 4x20 0x20"},
            {'cronpost_unhealthy_jobs{health="late"}': "4x60"},
        ),
        {"health": "failing", "label": "billing"},
        (JOB, "failing", "billing", "4"),
        at=50,
    ),
    Case(
        "CronpostJobsStuckOrLate",
        {'cronpost_unhealthy_jobs{health="stuck"}': "0x20 2x20"},
        (
            {'cronpost_unhealthy_jobs{health="stuck"}': "0x27 2x20"},
            {'cronpost_unhealthy_jobs{health="failing"}': "2x40"},
        ),
        {"health": "stuck"},
        (JOB, "stuck", "2", "stuck"),
        apart=True,
    ),
    Case(
        "CronpostJobsQuarantined",
        {'cronpost_attention{kind="quarantined"}': "0x20 1x20"},
        ({'cronpost_attention{kind="quarantined"}': "0x40"}, {'cronpost_attention{kind="job"}': "1x40"}),
        shown=(JOB, "1"),
    ),
    Case("CronpostSuspects", {"cronpost_suspects": "0x20 7x20"}, ({"cronpost_suspects": "0x40"},), shown=(JOB, "7")),
    Case(
        "CronpostBreakerOpen",
        {'cronpost_breaker_state{target="http://a:1"}': "_x20 1x4 0.5x20"},
        ({'cronpost_breaker_state{target="http://a:1"}': "_x27 1x20"},),
        {"target": "http://a:1"},
        ("http://a:1", JOB),
    ),
    Case(
        "CronpostStoreAway",
        {'cronpost_store_faults_total{fault="store_unavailable"}': "0x20 60+60x20"},
        (
            {'cronpost_store_faults_total{fault="store_unavailable"}': "60x40"},
            {'cronpost_store_faults_total{fault="store_unavailable"}': "0x26 60x20"},
        ),
        {"fault": "store_unavailable"},
        (JOB, "store_unavailable", "1"),
    ),
    Case(
        "CronpostStoreSlow",
        {"cronpost_store_round_trip_seconds": "0.25x40"},
        (
            {"cronpost_store_round_trip_seconds": "0.002x40"},
            {"cronpost_store_round_trip_seconds": "0.002x28 0.3 0.002x20"},
        ),
        shown=(JOB, "250ms"),
    ),
    Case(
        "CronpostStoreMemory",
        {"cronpost_store_memory_bytes": "900x40", "cronpost_store_memory_limit_bytes": "1000x40"},
        (
            {"cronpost_store_memory_bytes": "800x40", "cronpost_store_memory_limit_bytes": "1000x40"},
            {"cronpost_store_memory_bytes": "900x40", "cronpost_store_memory_limit_bytes": "0x40"},
        ),
        shown=(JOB, "90%"),
    ),
    Case(
        "CronpostHistoryFull",
        {"cronpost_history_bytes": "99x40", "cronpost_history_limit_bytes": "100x40"},
        (
            {"cronpost_history_bytes": "90x40", "cronpost_history_limit_bytes": "100x40"},
            {"cronpost_history_runs": "90x40", "cronpost_history_limit_runs": "100x40"},
        ),
        shown=(JOB,),
    ),
    Case(
        "CronpostHistoryFull",
        {"cronpost_history_runs": "1200x40", "cronpost_history_limit_runs": "1000x40"},
        ({"cronpost_history_runs": "0x40", "cronpost_history_limit_runs": "1000x40"},),
        shown=(JOB,),
    ),
    Case(
        "CronpostSettlementsWaiting",
        {"cronpost_unsettled": "900x40"},
        ({"cronpost_unsettled": "900x28 3 900x10"}, {"cronpost_unsettled": "200x40"}),
        shown=(JOB, "900"),
    ),
    Case(
        "CronpostSettlementsRejected",
        {'cronpost_attention{kind="settlement"}': "0x20 1x20"},
        ({'cronpost_attention{kind="settlement"}': "0x40"},),
        shown=(JOB, "1"),
    ),
    Case(
        "CronpostLateResultsRefused",
        {"cronpost_settles_refused_total": "0x25 14x20"},
        ({"cronpost_settles_refused_total": "14x40"},),
        shown=(JOB, "14"),
    ),
    Case(
        "CronpostClockJumped",
        {"cronpost_clock_jumps_total": "0x25 1x20"},
        ({"cronpost_clock_jumps_total": "1x40"},),
        shown=(JOB,),
    ),
    Case(
        "CronpostClockOff",
        {"cronpost_clock_offset_seconds": "-75x40"},
        ({"cronpost_clock_offset_seconds": "3x40"}, {"cronpost_clock_offset_seconds": "0x25 75x20"}),
        {"instance": "a"},
        ("a", "1m 15s"),
    ),
    Case(
        "CronpostTasksBehind",
        {"cronpost_oldest_due_task_seconds": "600x40", "cronpost_paused": "0x40"},
        (
            {"cronpost_oldest_due_task_seconds": "100x40", "cronpost_paused": "0x40"},
            {"cronpost_oldest_due_task_seconds": "600x40", "cronpost_paused": "1x40"},
        ),
        shown=(JOB, "10m 0s"),
    ),
    Case(
        "CronpostTasksStale",
        {'cronpost_attention{kind="task"}': "3x40"},
        ({'cronpost_attention{kind="task"}': "0x40"},),
        shown=(JOB, "3"),
    ),
    Case(
        "CronpostStaleTasksRemoved",
        {"cronpost_stale_tasks_removed_total": "0x65 59x20"},
        ({"cronpost_stale_tasks_removed_total": "59x90"},),
        shown=(JOB, "59"),
        at=70,
    ),
    Case(
        "CronpostApiErrors",
        {'cronpost_http_requests_total{method="GET",status="500"}': "0x25 9x20"},
        (
            {'cronpost_http_requests_total{method="GET",status="503"}': "0x25 9x20"},
            {'cronpost_http_requests_total{method="GET",status="500"}': "9x40"},
        ),
        shown=(JOB, "9"),
    ),
    Case(
        "CronpostApiRefusals",
        {
            'cronpost_http_requests_total{method="GET",status="200"}': "0+60x40",
            'cronpost_http_requests_total{method="POST",status="429"}': "0+60x40",
        },
        (
            {
                'cronpost_http_requests_total{method="GET",status="200"}': "0+60x40",
                'cronpost_http_requests_total{method="POST",status="429"}': "0+1x40",
            },
        ),
        shown=(JOB, "50%"),
    ),
    Case(
        "CronpostOperationStuck",
        {'cronpost_operations{state="waiting"}': "2x40"},
        ({'cronpost_operations{state="carried"}': "2x40"}, {'cronpost_operations{state="waiting"}': "0x27 2x20"}),
        shown=(JOB, "2"),
    ),
    Case(
        "CronpostLogLinesDropped",
        {"cronpost_log_lines_dropped_total": "0x25 9x20"},
        ({"cronpost_log_lines_dropped_total": "9x40"},),
        {"instance": "a"},
        ("a", "9"),
    ),
    Case(
        "CronpostEventsDropped",
        {"cronpost_events_dropped_total": "0x25 14x20"},
        ({"cronpost_events_dropped_total": "14x40"},),
        shown=(JOB, "14"),
    ),
    Case(
        "CronpostAlertsFailing",
        {'cronpost_alert_attempts_total{channel="slack",result="failed"}': "0x20 14x20"},
        (
            {'cronpost_alert_attempts_total{channel="slack",result="sent"}': "0x20 14x20"},
            {'cronpost_alert_attempts_total{channel="slack",result="failed"}': "14x40"},
        ),
        {"channel": "slack"},
        (JOB, "slack", "14"),
    ),
    Case(
        "CronpostSpansDropped",
        {"cronpost_spans_dropped_total": "0x20 14x20"},
        ({"cronpost_spans_dropped_total": "14x40"},),
        shown=(JOB, "14"),
    ),
    Case(
        "CronpostFilesUsedUp",
        {"process_open_fds": "95x40", "process_max_fds": "100x40", "cronpost_jobs": "0x40"},
        (
            {"process_open_fds": "50x40", "process_max_fds": "100x40", "cronpost_jobs": "0x40"},
            # A process that is not Cronpost.
            {"process_open_fds": "95x40", "process_max_fds": "100x40"},
        ),
        {"instance": "a"},
        ("a", "95%"),
    ),
    Case(
        "CronpostPaused",
        {"cronpost_paused": "1x90"},
        ({"cronpost_paused": "0x90"}, {"cronpost_paused": "0x30 1x60"}),
        shown=(JOB,),
        at=80,
    ),
)
