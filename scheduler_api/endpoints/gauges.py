"""Sets the gauges whose values a scrape of ``/metrics`` reads from the store."""

from __future__ import annotations

from scheduler_api.context import Context
from scheduler_core.node.loops.heartbeat import set_clock
from scheduler_core.usecases.job_health import job_samples, read_counts


async def update_gauges(context: Context) -> None:
    """Update the gauges of sizes. While Redis is unreachable they keep their values; other metrics show the fault."""
    if not context.clock.is_set:
        await set_clock(context.shards, context.clock)
    counts = await context.shards.counts(now_ms=context.clock.now_ms())
    context.metrics.jobs.set(counts.jobs)
    context.metrics.due.set(counts.due)
    context.metrics.claimed.set(counts.claimed)
    context.metrics.nodes.set(counts.nodes)
    context.metrics.suspects.set(counts.suspects)
    await _count_health(context, jobs=counts.jobs)
    await _count_open_work(context)
    totals = await context.history.totals()
    context.metrics.stored_runs.set(totals.stored)
    context.metrics.stored_bytes.set(totals.stored_bytes)


async def _count_open_work(context: Context) -> None:
    """Update the gauges of tasks, operations, of what needs a person, and of the pause of everything."""
    metrics, now_ms = context.metrics, context.clock.now_ms()
    tasks = await context.tasks.backlog()
    metrics.due_tasks.set(tasks.due)
    metrics.oldest_task.set(0 if tasks.oldest_due_ms is None else max(0, now_ms - tasks.oldest_due_ms) / 1000)
    operations = await context.operations.count_open()
    metrics.operations.labels("carried").set(operations.carried)
    metrics.operations.labels("waiting").set(operations.waiting)
    attention = await context.attention.counts()
    metrics.attention.labels("settlement").set(attention.settlements)
    metrics.attention.labels("quarantined").set(attention.quarantined)
    metrics.attention.labels("job").set(attention.jobs)
    metrics.attention.labels("task").set(attention.tasks)
    metrics.paused.set(0 if await context.pauses.running() is None else 1)


async def _count_health(context: Context, *, jobs: int) -> None:
    """Update the metrics of unhealthy jobs, and those of single jobs if the setting asks for them."""
    counts = await read_counts(context.shards)
    if counts is not None:
        context.metrics.health.set_counts(counts, labelled=context.metrics_label is not None)
    limit = context.settings.metrics_jobs
    if limit:
        samples = await job_samples(context.shards, context.clock, context.health_rules, limit=limit)
        context.metrics.health.set_jobs(samples, left_out=max(0, jobs - len(samples)))
