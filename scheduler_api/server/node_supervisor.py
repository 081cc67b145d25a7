"""The node processes of ``cronpost serve --nodes N``: started, watched, started again, drained.

One process fires on one core. With more than one node, this process serves the API and watches, and N children do
nothing but fire (docs/decisions/0016-nodes-of-one-server.md). Each is ``cronpost node``: an interpreter of its own, on
the same Redis, that knows of the others no more than nodes on other machines do.

Each slot has one task that starts its child, waits for its end and starts it again; so there are never more than N.
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
from scheduler_core.delivery.http.guard import Own
from scheduler_core.node.dispatch.targets import OpenBreaker

log = get_logger(__name__)

ANSWER_SECONDS = 1.0
"""How long a node may take to answer. It answers between two steps of its loop, which are milliseconds."""
LOOK_SECONDS = 1.0
LOOK_WHILE_STARTING_SECONDS = 0.02
FIRST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 10.0
"""Before a node that ended is started again; doubling from the first to the longest while it does not stay up."""
STEADY_SECONDS = 30.0
"""A node that has lived for so long is started again after the first pause."""
SETTLE_SECONDS = 10.0
"""What a draining node may take beyond its grace time: to settle, and to tell Redis that it leaves."""
STARTING = "it is starting"


class NodeSlot:
    """The place of one node, whichever process fills it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: asyncio.subprocess.Process | None = None
        self.link: ChildLink | None = None
        self.report: Report | None = None
        """Its latest, with the metrics that it sent last."""
        self.fault: str | None = STARTING
        """Why it does not work, from this side; None: ask its report."""

    def faults(self) -> list[str]:
        """What keeps this node from working; empty if nothing does."""
        if self.fault is not None:
            return [f"node {self.number}: {self.fault}"]
        return [f"node {self.number}: {fault}" for fault in (self.report.faults if self.report else [STARTING])]


class NodeSupervisor:
    """``sole``: the Redis was just started by this process, so none but its own nodes can live. Then the first node
    alone begins, and voids what earlier ones held, before the others do.

    ``own`` are endpoints of this process, which no job may call.
    ``inherit`` are descriptors that every node holds as long as it lives: the lock on the data directory, so that a new
    server does not begin while a node of this one lives.
    """

    def __init__(
        self,
        settings: Settings,
        clock: Clock,
        metrics: Metrics,
        *,
        sole: bool = False,
        inherit: tuple[int, ...] = (),
        own: Sequence[Own] = (),
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
        self._others_may_begin = asyncio.Event()
        self._stopping = asyncio.Event()
        self._ended: list[Family] = []
        """What processes that ended have counted."""

    @property
    def wanted(self) -> int:
        """How many nodes there should be."""
        return self._wanted

    @property
    def working(self) -> int:
        """How many nodes work now."""
        return sum(not slot.faults() for slot in self._slots)

    def faults(self) -> list[str]:
        """What keeps nodes from working, of all of them."""
        return [fault for slot in self._slots for fault in slot.faults()]

    def warnings(self) -> list[str]:
        """The warnings of all nodes, each text once, as each node last reported."""
        reports = [slot.report for slot in self._slots if slot.report is not None]
        return list(dict.fromkeys(text for report in reports for text in report.warnings))

    def breakers(self) -> list[tuple[str, list[OpenBreaker]]]:
        """The breakers that are not closed, by node, as each has last told."""
        reports = [slot.report for slot in self._slots if slot.report is not None]
        return [(report.node, report.breakers) for report in reports]

    def start(self) -> None:
        """Start all nodes, in the running loop."""
        if not self._sole:
            self._others_may_begin.set()
        self._tasks = [
            asyncio.create_task(self._supervise(slot), name=f"cronpost node {slot.number}") for slot in self._slots
        ]

    async def stop(self) -> None:
        """Have all nodes drain at the same time, and wait for them; what does not end is killed."""
        self._stopping.set()
        self._others_may_begin.set()
        self._signal(signal.SIGTERM)
        if self._tasks:
            grace = self._settings.engine.drain_grace_seconds + SETTLE_SECONDS
            _, left = await asyncio.wait(self._tasks, timeout=grace)
            if left:
                self._signal(signal.SIGKILL)
                await asyncio.wait(left)

    async def metrics(self) -> Collector:
        """What ``families`` gives, for an encoder of ``prometheus_client``."""
        return MergedMetrics(await self.families())

    async def families(self) -> list[Family]:
        """The metrics of this process, its nodes, and those that ended, as those of one.

        Takes as long as a node may take to answer, at most. One that does not is counted in ``cronpost_nodes_silent``;
        what it had counted when it last answered stays in the sums, which must not run backwards.
        """
        asked = [slot for slot in self._slots if slot.link is not None]
        answers = await asyncio.gather(*(self._ask(slot, METRICS) for slot in asked))
        silent = {slot.number for slot, answer in zip(asked, answers, strict=True) if answer is None}
        self._metrics.nodes_silent.set(len(silent))
        known = [
            merge_families([slot.report.families], counters_only=slot.number in silent)
            for slot in asked
            if slot.report is not None
        ]
        return merge_families([families_of(self._metrics.registry), self._ended, *known])

    # ---- one node -----------------------------------------------------------------------------------------------

    async def _supervise(self, slot: NodeSlot) -> None:
        """Keep the slot filled until the server stops."""
        if slot.number > 1:
            await self._others_may_begin.wait()
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
        sole = self._sole and not self._others_may_begin.is_set()
        try:
            slot.process = await asyncio.create_subprocess_exec(
                *command(theirs.fileno(), sole=sole, own=self._own),
                stdin=asyncio.subprocess.DEVNULL,
                env=environment(self._settings),
                pass_fds=(theirs.fileno(), *self._inherit),
                # Ctrl-C in the terminal must reach this process, which has the nodes drain after the API.
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
        """Ask how the node is, until its process ends."""
        assert slot.process is not None
        end = asyncio.create_task(slot.process.wait(), name=f"cronpost end of node {slot.number}")
        started = False
        while not end.done():
            asking = asyncio.create_task(self._ask(slot, STATE))
            await asyncio.wait([end, asking], return_when=asyncio.FIRST_COMPLETED)
            if not started and slot.report is not None and slot.report.started:
                started = True
                self._others_may_begin.set()
                log.info(NODE_PROCESS_STARTED, number=slot.number, pid=slot.process.pid, node=slot.report.node)
            await asyncio.wait([end], timeout=LOOK_SECONDS if started else LOOK_WHILE_STARTING_SECONDS)
            await asking

    async def _ask(self, slot: NodeSlot, question: bytes) -> Report | None:
        assert slot.link is not None
        link = slot.link
        report = await link.ask(question, seconds=ANSWER_SECONDS)
        if slot.link is not link:
            return None  # the process has ended meanwhile
        if report is None:
            if slot.fault is None:
                slot.fault = "it does not answer"
            return None
        if question != METRICS and slot.report is not None:
            report = msgspec.structs.replace(report, families=slot.report.families)
        slot.report = report
        slot.fault = None
        return report

    async def _clean_up(self, slot: NodeSlot) -> str:
        """Put away what belonged to a process that ended; how it ended, in words."""
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
