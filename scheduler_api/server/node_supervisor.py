"""Starts, monitors, restarts and drains the node processes of ``cronpost serve --nodes N``.

One process fires on one core. With more than one node, this process serves the API and supervises, and N children only
fire (docs/decisions/0016-nodes-of-one-server.md). Each child is ``cronpost node`` on the same Redis, and is as
independent of the others as a node on another machine.

One task for each slot starts the child, waits for its end and starts it again, so there are never more than N.

Own code, because the supervisors of uvicorn and gunicorn start processes that share a port. Nodes have none, and only
the first of them may void the leases of earlier nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Sequence

import msgspec
from prometheus_client.registry import Collector

from scheduler_api.server.node_command import command, environment
from scheduler_api.server.node_link import METRICS, STATE, ChildLink, Report
from scheduler_api.server.node_metrics import Family, MergedMetrics, families_of, merge_families
from scheduler_core.base.clock import Clock
from scheduler_core.base.config import Settings
from scheduler_core.base.events import NODE_PROCESS_ENDED, NODE_PROCESS_STARTED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.http.guard import OwnEndpoint
from scheduler_core.node.dispatch.targets import OpenBreaker

log = get_logger(__name__)

ANSWER_SECONDS = 1.0
"""How long a node may take to answer. It answers between two steps of its loop; a step takes milliseconds."""
LOOK_SECONDS = 1.0
LOOK_WHILE_STARTING_SECONDS = 0.02
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
"""Pauses before a node is started again: doubled from the first to the longest while the node keeps ending."""
STEADY_SECONDS = 30.0
"""After a life of this length, a node is started again after the first pause."""
SETTLE_SECONDS = 10.0
"""How long a draining node may take beyond its grace time, to settle and to remove itself from Redis."""
STARTING = "it is starting"


class NodeSlot:
    """One of the N nodes. Its process changes when the node is restarted."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.link: ChildLink | None = None
        self.report: Report | None = None
        """The latest report, with the metrics that the node sent last."""
        self.fault: str | None = STARTING
        """Why the node does not work, as seen from this process; None: see its report."""

    def faults(self) -> list[str]:
        """List what keeps this node from working."""
        if self.fault is not None:
            return [f"node {self.number}: {self.fault}"]
        return [f"node {self.number}: {fault}" for fault in (self.report.faults if self.report else [STARTING])]


class NodeSupervisor:
    """Supervises the node processes.

    ``sole``: this process has just started the Redis, so only its own nodes can be alive. The first node then starts
    alone, and voids the leases of earlier nodes before the others start.

    ``own`` are endpoints of this process, which no job may call. ``inherit`` are file descriptors that every node keeps
    open: the lock on the data directory, so that a new server does not start while a node of this one is alive.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        *,
        sole: bool = False,
        inherit: tuple[int, ...] = (),
        own: Sequence[OwnEndpoint] = (),
    ) -> None:
        self._wanted = settings.process.nodes
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._sole = sole
        self._inherit = inherit
        self._own = own
        self._slots = [NodeSlot(number) for number in range(1, self._wanted + 1)]
        self._tasks: list[asyncio.Task[None]] = []
        self._others_may_start = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended: list[Family] = []
        """The counters of processes that have ended."""

    @property
    def wanted(self) -> int:
        """How many nodes there should be."""
        return self._wanted

    @property
    def working(self) -> int:
        """How many nodes work now."""
        return sum(not slot.faults() for slot in self._slots)

    def faults(self) -> list[str]:
        """List what keeps nodes from working."""
        return [fault for slot in self._slots for fault in slot.faults()]

    def warnings(self) -> list[str]:
        """List the warnings of all nodes, each text once, from their last reports."""
        reports = [slot.report for slot in self._slots if slot.report is not None]
        return list(dict.fromkeys(text for report in reports for text in report.warnings))

    def breakers(self) -> list[tuple[str, list[OpenBreaker]]]:
        """List the breakers that are not closed, by node, from their last reports."""
        reports = [slot.report for slot in self._slots if slot.report is not None]
        return [(report.node, report.breakers) for report in reports]

    def start(self) -> None:
        """Start all nodes, in the running loop."""
        if not self._sole:
            self._others_may_start.set()
        self._tasks = [
            asyncio.create_task(self._supervise(slot), name=f"cronpost node {slot.number}") for slot in self._slots
        ]

    async def stop(self) -> None:
        """Drain all nodes at the same time and wait for them; kill those that do not end."""
        self._stopping.set()
        self._others_may_start.set()
        self._signal(signal.SIGTERM)
        if self._tasks:
            grace = self._settings.engine.drain_grace_seconds + SETTLE_SECONDS
            _, left = await asyncio.wait(self._tasks, timeout=grace)
            if left:
                self._signal(signal.SIGKILL)
                await asyncio.wait(left)

    async def metrics(self) -> Collector:
        """Return ``families`` for an encoder of ``prometheus_client``."""
        return MergedMetrics(await self.families())

    async def families(self) -> list[Family]:
        """Add up the metrics of this process, its nodes, and the processes that have ended.

        Takes at most as long as a node may take to answer. A node that does not answer is counted in
        ``cronpost_nodes_silent``; its last counters stay in the sums, which must not decrease.
        """
        linked = [slot for slot in self._slots if slot.link is not None]
        answers = await asyncio.gather(*(self._ask(slot, METRICS) for slot in linked))
        silent = {slot.number for slot, answer in zip(linked, answers, strict=True) if answer is None}
        self._metrics.nodes_silent.set(len(silent))
        known = [
            merge_families([slot.report.families], counters_only=slot.number in silent)
            for slot in linked
            if slot.report is not None
        ]
        return merge_families([families_of(self._metrics.registry), self._ended, *known])

    # ---- one node -----------------------------------------------------------------------------------------------

    async def _supervise(self, slot: NodeSlot) -> None:
        """Start the node, and start it again when it ends, until the server stops."""
        if slot.number > 1:
            await self._others_may_start.wait()
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = self._clock.monotonic()
            pid = None
            try:
                await self._start_process(slot)
            except OSError as error:
                slot.fault = f"it cannot be started: {error}"
            else:
                await self._watch(slot)
                pid = slot.process.pid if slot.process is not None else None
                slot.fault = await self._clean_up(slot)
            if self._stopping.is_set():
                return
            if self._clock.monotonic() - began > STEADY_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            log.error(NODE_PROCESS_ENDED, number=slot.number, pid=pid, detail=slot.fault, again_in_seconds=pause)
            self._metrics.node_restarts.inc()
            await self._clock.wait_for(self._stopping, pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _start_process(self, slot: NodeSlot) -> None:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        sole = self._sole and not self._others_may_start.is_set()
        try:
            slot.process = await asyncio.create_subprocess_exec(
                *command(theirs.fileno(), sole=sole, own=self._own),
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(self._settings),
                pass_fds=(theirs.fileno(), *self._inherit),
                # Ctrl-C in the terminal must reach only this process, which stops the nodes in order.
                start_new_session=True,
            )
            slot.link = await ChildLink.open(ours)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        slot.fault = STARTING
        if self._stopping.is_set():
            slot.process.terminate()

    async def _watch(self, slot: NodeSlot) -> None:
        """Request reports from the node until its process ends."""
        assert slot.process is not None
        end = asyncio.create_task(slot.process.wait(), name=f"cronpost end of node {slot.number}")
        started = False
        while not end.done():
            asking = asyncio.create_task(self._ask(slot, STATE))
            await asyncio.wait([end, asking], return_when=asyncio.FIRST_COMPLETED)
            if not started and slot.report is not None and slot.report.started:
                started = True
                self._others_may_start.set()
                log.info(NODE_PROCESS_STARTED, number=slot.number, pid=slot.process.pid, node=slot.report.node)
            await asyncio.wait([end], timeout=LOOK_SECONDS if started else LOOK_WHILE_STARTING_SECONDS)
            await asking

    async def _ask(self, slot: NodeSlot, request: bytes) -> Report | None:
        assert slot.link is not None
        link = slot.link
        report = await link.ask(request, seconds=ANSWER_SECONDS)
        if slot.link is not link:
            return None  # the process has ended
        if report is None:
            if slot.fault is None:
                slot.fault = "it does not answer"
            return None
        if request != METRICS and slot.report is not None:
            report = msgspec.structs.replace(report, families=slot.report.families)
        slot.report = report
        slot.fault = None
        return report

    async def _clean_up(self, slot: NodeSlot) -> str:
        """Release what belonged to a process that ended, and keep its counters. Returns how it ended."""
        assert slot.process is not None
        assert slot.link is not None
        status = slot.process.returncode
        await slot.link.aclose()
        if slot.report is not None:
            self._ended = merge_families([self._ended, slot.report.families], counters_only=True)
        slot.process, slot.link, slot.report = None, None, None
        return f"it was ended by signal {-status}" if status is not None and status < 0 else f"it ended with {status}"

    def _signal(self, number: int) -> None:
        for slot in self._slots:
            if slot.process is not None:
                with contextlib.suppress(ProcessLookupError):
                    slot.process.send_signal(number)
