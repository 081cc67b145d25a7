"""``cronpost jobs why`` and ``health``: what a job waits for and why, and which jobs are not well."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import click

from scheduler_api.cli.client import Server, job_path, with_server
from scheduler_api.cli.complete_values import complete_job
from scheduler_api.cli.errors import EXIT_NOT_FOUND, Failed
from scheduler_api.cli.job_views import PAGE
from scheduler_api.cli.output import in_zone, paint, printable, run_why, table

NAMES_WIDE = 14
RECORDS_SHOWN = 100
UNHEALTHY = ("stuck", "late", "never_succeeded", "failing")
_HEALTH_WORDS = {
    "late": "it is due, and no node has started it",
    "stuck": "a run waits, or is open, for far longer than usual",
    "never_succeeded": "its runs have failed, and none has succeeded",
    "ok": "its last run succeeded",
    "unknown": "no run has succeeded or failed yet",
}
_HELD_WORDS = {
    "limit": "its target has as many open requests as it may have",
    "rate": "its target has reached its rate limit",
    "breaker": "its target does not answer, so its circuit breaker is open",
    "slots": "all slots of the node were in use",
    "suspect": "several nodes died while they executed its run; it waits for its trial",
}
_MISS_WORDS = {
    "overlap": "the previous run was not over",
    "coalesced": "one late run covered them",
    "downtime": "no node was alive",
    "paused": "it was paused",
    "replaced": "its trigger was changed",
    "quarantined": "it was quarantined",
    "held": "a continuation waited",
    "expired": "beyond the limits of its recovery",
    "breaker": "its target did not answer",
}

Line = tuple[str, str]
"""A subject, and what is said about it."""


@click.command()
@click.argument("job_id", shell_complete=complete_job)
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def why(server: Server, job_id: str, utc: bool) -> None:
    """Explain what a job waits for, and why.

    It may wait for its next fire time, a retry, the end of a pause or a limit. Also shows its last failure and misses.
    """
    job = server.request("GET", job_path(job_id)).json()
    health = server.request("GET", job_path(job_id, "/health")).json()
    params = {"limit": RECORDS_SHOWN}
    records = server.request("GET", job_path(job_id, "/runs"), params=params).json()["runs"]
    zone = None if utc or server.as_json else job.get("timezone")
    lines = list(explain(job, health, records, _pause_of_all(server, job), zone))
    if server.as_json:
        shown = {"id": job_id, "health": job["health"], "why": [{"subject": one, "text": text} for one, text in lines]}
        click.echo(json.dumps(shown, ensure_ascii=False))
        return
    click.echo(f"{printable(job_id)}: {paint(job['health'])}, {paint(job['status'])}")
    for subject, text in lines:
        click.echo(f"  {subject:<{NAMES_WIDE}} {printable(text)}")


def _pause_of_all(server: Server, job: dict[str, Any]) -> dict[str, Any]:
    """Return the pause of everything, if it holds this job."""
    if job.get("paused_by") != "all":
        return {}
    try:
        found: dict[str, Any] = server.request("GET", "/pause").json()
    except Failed as error:
        if error.exit_code == EXIT_NOT_FOUND:
            return {}
        raise
    return found


def explain(
    job: dict[str, Any],
    health: dict[str, Any],
    records: list[dict[str, Any]],
    pause_of_all: dict[str, Any],
    zone: str | None,
) -> Iterator[Line]:
    """Yield what a job waits for and why, then its last failure, its last success and its latest misses."""
    yield "health", _health(health, zone)
    yield from _waits(job, pause_of_all, zone)
    yield from _last(job, health, zone)
    yield from _misses(records, zone)


def _health(health: dict[str, Any], zone: str | None) -> str:
    word, count = health["health"], health["consecutive_failures"]
    text = _HEALTH_WORDS.get(word, "its last run failed")
    since = {"late": health["late_since"], "stuck": health["stuck_since"]}.get(word)
    text += f", since {in_zone(since, zone)}" if since else ""
    if count:
        runs = "1 run" if count == 1 else f"{count} runs in a row"
        text += f"; {runs} failed, since {in_zone(health['failing_since'], zone)}"
    return text


def _waits(job: dict[str, Any], pause_of_all: dict[str, Any], zone: str | None) -> Iterator[Line]:
    run = job["open_run"]
    if run is not None:
        yield "run", _open_run(run, zone)
    for one in job.get("open_runs", ()):
        yield "run", _open_run(one, zone)
    if job["quarantine_reason"] is not None:
        yield "quarantined", f"{job['quarantine_reason']}; cronpost jobs resume starts it again"
    elif job["held_for"] == "paused":
        yield "paused", _paused(job, pause_of_all, zone)
    elif job["held_for"] == "held":
        yield "held", "a continuation waits, and no run starts at fire times before it is over"
    if job["held_back"] is not None:
        yield "held back", _held_back(job["held_back"], zone)
    yield from _requested(job, zone)
    next_fire = next(iter(job.get("next_fire_times", ())), None)
    if next_fire is not None:
        yield "next fire", in_zone(next_fire, zone)
    elif job["status"] == "completed":
        yield "next fire", f"none: its fire times are over, and it completed at {in_zone(job['completed_at'], zone)}"
    elif job["held_for"] is None and "next_fire_times" in job:
        on_request = "cron" in job and job["cron"] is None
        yield "next fire", "none: it runs only on request" if on_request else "none: its fire times are over"


def _open_run(run: dict[str, Any], zone: str | None) -> str:
    name = f"{run['id']} " if run.get("id") else ""
    if run["state"] == "taken":
        taken, deadline = in_zone(run.get("taken_at"), zone), in_zone(run.get("deadline"), zone)
        return f"{name}was taken by its runner at {taken}; without a callback it is lost at {deadline}"
    if run["state"] == "retrying":
        attempts = "1 attempt" if run["attempt"] == 1 else f"{run['attempt']} attempts"
        because = run_why(run)
        return f"{name}is tried again at {in_zone(run['retry_at'], zone)}, after {attempts}" + (
            f": {because}" if because else ""
        )
    where = f" on node {run['node']}" if run.get("node") else ""
    since = f" since {in_zone(run['claimed_at'], zone)}" if run.get("claimed_at") else ""
    return f"{name}is open{where}{since}"


def _paused(job: dict[str, Any], pause_of_all: dict[str, Any], zone: str | None) -> str:
    if job.get("paused_by") == "all":
        pause = pause_of_all.get("pause")
        if pause is None:
            return "everything is paused"
        text = f"everything is paused since {in_zone(pause['at'], zone)}"
        text += f", until {in_zone(pause['until'], zone)}" if pause["until"] else ""
        text += f", by {pause['by']}" if pause["by"] else ""
        return text + (f": {pause['note']}" if pause["note"] else "")
    text = f"since {in_zone(job['paused_at'], zone)}"
    until, note = job.get("paused_until"), job.get("pause_note")
    text += f", until {in_zone(until, zone)}" if until else ""
    text += f": {note}" if note else ""
    return f"{text}; its fire times are misses"


def _held_back(held: dict[str, Any], zone: str | None) -> str:
    text = str(_HELD_WORDS.get(held["reason"], held["reason"]))
    if held["target"]:
        text += f" ({held['target']})"
    if held["since"]:
        text += f", since {in_zone(held['since'], zone)}"
    return text + (f"; next try at {in_zone(held['until'], zone)}" if held["until"] else "")


def _requested(job: dict[str, Any], zone: str | None) -> Iterator[Line]:
    waiting = [one for one in job["pending"] if one["failed"] is None]
    aside = [one for one in job["pending"] if one["failed"] is not None]
    if waiting:
        first = min(waiting, key=lambda one: str(one["not_before"]))
        count = "1 requested run waits" if len(waiting) == 1 else f"{len(waiting)} requested runs wait"
        yield "pending", f"{count}; the first is a {first['reason']} run, due at {in_zone(first['not_before'], zone)}"
    if aside:
        count = "1 continuation is" if len(aside) == 1 else f"{len(aside)} continuations are"
        yield "set aside", f"{count} set aside: {aside[-1]['failed']}; cronpost jobs pending shows and revives them"
    for replay in job["replays"]:
        yield "replay", f"{replay['left']} fire times up to {in_zone(replay['last'], zone)} ({replay['reason']})"


def _last(job: dict[str, Any], health: dict[str, Any], zone: str | None) -> Iterator[Line]:
    failure = health["last_failure"]
    if failure is not None:
        yield "last failure", f"at {in_zone(failure['at'], zone)}, run {failure['run_id']}: {failure['reason']}"
    if health["last_success_at"] is not None:
        yield "last success", f"at {in_zone(health['last_success_at'], zone)}"
    elif job["last_run"] is not None:
        yield "last success", "none"


def _misses(records: list[dict[str, Any]], zone: str | None) -> Iterator[Line]:
    misses = [one for one in records if one["kind"] == "miss"]
    counts: dict[str, int] = {}
    unknown: set[str] = set()
    for miss in misses:
        reason = miss["reason"]
        if miss["count"] is None:
            unknown.add(reason)
        counts[reason] = counts.get(reason, 0) + (miss["count"] or 1)
    for reason, count in counts.items():
        latest = next(miss for miss in misses if miss["reason"] == reason)
        least = "at least " if reason in unknown else ""
        noun = "fire time" if count == 1 else "fire times"
        because = _MISS_WORDS.get(reason, reason)
        at = in_zone(latest["last_fire_time"], zone)
        yield "missed", f"{least}{count} {noun} lately ({reason}: {because}), the latest at {at}"


@click.command("health")
@click.argument("job_id", required=False, shell_complete=complete_job)
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000), help="Maximum number of jobs.")
@click.option("--utc", is_flag=True, help="All times in UTC instead of the job's zone.")
@with_server
def health(server: Server, job_id: str | None, limit: int, utc: bool) -> None:
    """Show the health of a job; without an id, list the jobs that are not well."""
    if job_id is None:
        _list_unhealthy(server, limit, utc=utc)
        return
    found = server.ask("GET", job_path(job_id, "/health"))
    if server.as_json:
        return
    zone = None if utc else server.request("GET", job_path(job_id)).json().get("timezone")
    for subject, text in describe(found, zone):
        shown = paint(printable(text)) if subject == "health" else printable(text)
        click.echo(f"{subject:<{NAMES_WIDE}} {shown}")


def describe(found: dict[str, Any], zone: str | None) -> Iterator[Line]:
    """Yield the health of a job and the statistics of its kept runs as lines for people."""
    yield "health", found["health"]
    yield "why", _health(found, zone)
    yield from _last({"last_run": None}, found, zone)
    kept = found["kept_runs"]
    if not kept["runs"]:
        yield "kept runs", "none"
        return
    others = kept["runs"] - kept["succeeded"] - kept["failed"]
    parts = [f"{kept['succeeded']} succeeded", f"{kept['failed']} failed"]
    parts += [f"{others} cancelled or superseded"] if others else []
    yield "kept runs", f"{kept['runs']} since {in_zone(kept['begins_at'], zone)}: {', '.join(parts)}"
    if kept["success_rate"] is not None:
        yield "success rate", f"{100 * kept['success_rate']:.4g} %"
    times = kept["duration_ms"]
    if times is not None:
        yield (
            "duration",
            (
                f"{times['p50']} ms in the median, {times['p95']} ms at 95 %, {times['p99']} ms at 99 %, "
                f"{times['longest']} ms at most"
            ),
        )


def _list_unhealthy(server: Server, limit: int, *, utc: bool) -> None:
    found: list[dict[str, Any]] = []
    for word in UNHEALTHY:
        cursor: str | None = None
        while len(found) < limit:
            params = {"health": word, "limit": min(PAGE, limit - len(found)), "cursor": cursor}
            page = server.request("GET", "/jobs", params=params).json()
            found += page["jobs"]
            cursor = page["next"]
            if cursor is None:
                break
    if server.as_json:
        click.echo(json.dumps({"jobs": found}, ensure_ascii=False))
        return
    table(
        ("ID", "HEALTH", "FAILED IN A ROW", "SINCE", "LAST SUCCESS", "LAST FAILURE"),
        [_row(job, None if utc else job.get("timezone")) for job in found],
    )


def _row(job: dict[str, Any], zone: str | None) -> tuple[str, ...]:
    failure = job["last_failure"]
    return (
        job["id"],
        job["health"],
        str(job["consecutive_failures"]),
        in_zone(job["failing_since"], zone),
        in_zone(job["last_success_at"], zone),
        "-" if failure is None else failure["reason"],
    )
