"""Carries stored operations: takes those without a carrier, and works on them until they end or the node stops."""

from __future__ import annotations

import asyncio
import contextlib

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import CorruptDocument, StoreError
from scheduler_core.base.events import OPERATION_TAKEN, SERVICE_FAILED, get_logger
from scheduler_core.base.metrics import Metrics
from scheduler_core.node.loops.service import FIRST_PAUSE, LONGEST_PAUSE, Service
from scheduler_core.node.node import Node
from scheduler_core.store.operations import OperationState, TakenOperation
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.carry import Carrier, LeaseLost, Turns
from scheduler_core.usecases.history import HistoryService
from scheduler_core.usecases.job_targets import JobTargets
from scheduler_core.usecases.jobs import JobService

log = get_logger(__name__)

PERIOD_SECONDS = 1.0
CARRIED_AT_ONCE = 16
"""Operations that one node carries. They share its turns, so this bounds their memory, not their load."""
TRIES = 5
"""After as many unexpected errors in a row, an operation ends as failed."""
STOP_SECONDS = 2.0
"""How long a stopping node waits for the jobs in hand."""


class OperationCarrier(Service):
    """Looks for operations every second; one command if none is open."""

    name = "operations"

    def __init__(self, node: Node, shards: Shards[ShardStore], clock: Clock, metrics: Metrics) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._shards = shards
        self._store = shards.lead.operation_store()
        targets = JobTargets(shards, clock)
        self._jobs = shards.each(lambda one: JobService(one, clock, metrics, targets=targets))
        self._history = HistoryService(shards, clock)
        self._turns = Turns(clock, rests=True)
        self._carried: dict[str, Carrier] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def run_once(self) -> None:
        await self.clock.sleep(PERIOD_SECONDS)
        await self.take()

    async def take(self) -> int:
        """Take operations that no process carries, and start to work on them; return how many."""
        if not self._node.holds_lease():
            return 0  # Redis does not accept heartbeats, so it may not accept progress either
        taken = 0
        limit = CARRIED_AT_ONCE - len(self._carried)
        found = await self._store.without_carrier(now_ms=self.clock.now_ms(), limit=limit) if limit > 0 else []
        for operation_id in found:
            if operation_id in self._carried:
                continue  # its lease is over because of a fault; its task prolongs it
            now_ms = self.clock.now_ms()
            one = await self._store.take(
                operation_id, carrier=self._node.id, now_ms=now_ms, until_ms=now_ms + self._node.dead_after_ms
            )
            if one is not None:
                taken += await self._begin(one)
        return taken

    async def _begin(self, taken: TakenOperation) -> bool:
        try:
            carrier = Carrier(
                taken,
                self._store,
                self._shards,
                self._jobs,
                self._history,
                self.clock,
                lease_ms=self._node.dead_after_ms,
                turns=self._turns,
            )
        except CorruptDocument as error:
            log.error(SERVICE_FAILED, service=self.name, operation=taken.id, detail=str(error))
            await self._store.end(
                taken.id,
                fence=taken.fence,
                progress=taken.progress,
                state=OperationState.FAILED,
                now_ms=self.clock.now_ms(),
            )
            return False
        log.info(OPERATION_TAKEN, operation=taken.id, verb=carrier.spec.verb.value, fence=taken.fence)
        self._carried[taken.id] = carrier
        task = asyncio.create_task(self._carry(carrier), name=f"cronpost operation {taken.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _carry(self, carrier: Carrier) -> None:
        """Work on an operation until it has ended, another process has it, or the node stops."""
        pause, errors = FIRST_PAUSE, 0
        fault: Exception | None = None
        try:
            while not carrier.stopping:
                handled = carrier.progress.matched
                try:
                    await (carrier.work() if fault is None or errors < TRIES else carrier.give_up(fault))
                    return
                except StoreError as error:
                    self.metrics.store_faults.labels(error.code).inc()
                except LeaseLost:
                    return
                except Exception as error:
                    # Catch everything: an operation must not stay without a carrier that its lease names.
                    fault, errors = error, errors + 1
                    self.metrics.service_faults.labels(self.name).inc()
                    log.exception(SERVICE_FAILED, service=self.name, operation=carrier.operation_id)
                if carrier.progress.matched > handled:
                    pause = FIRST_PAUSE
                await self.clock.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            with contextlib.suppress(StoreError, LeaseLost):
                await carrier.release()
        finally:
            del self._carried[carrier.operation_id]

    async def stop(self) -> None:
        """Stop after the jobs in hand, and release the operations, so that other nodes continue at once."""
        await super().stop()
        for carrier in self._carried.values():
            carrier.stopping = True
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=STOP_SECONDS)
            for task in list(self._tasks):
                task.cancel()
            if self._tasks:
                await asyncio.wait(set(self._tasks))
