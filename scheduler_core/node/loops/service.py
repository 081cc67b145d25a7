"""The common base of background services: started once, stopped once, never ended by an error."""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import Clock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import SERVICE_FAILED, STORE_BACK, STORE_LOST, get_logger
from scheduler_core.base.metrics import Metrics

log = get_logger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 1.0
"""Seconds between two rounds while a service fails, doubling from the first to the longest. After a failover, a service
loses at most the longest pause once the new master is known."""

CANCEL_AGAIN_SECONDS = 1.0


class Service:
    """Runs ``run_once`` in a loop. Subclasses sleep or wait inside it."""

    name = "service"

    def __init__(self, clock: Clock, metrics: Metrics) -> None:
        self.clock = clock
        self.metrics = metrics
        metrics.service_faults.labels(self.name)
        self.fault: str | None = None
        """Why the service cannot work now; None: it works."""
        self.warnings: dict[str, str] = {}
        """Conditions that an operator should see although the service works: text by key, listed by ``/ready``. A
        service adds and removes its own entries."""
        self.store_faults = 0
        """How many rounds failed because of Redis."""
        self.longest_pause = LONGEST_PAUSE
        self.shard: int | None = None
        """The number of its shard; None: the node has only one."""
        self._task: asyncio.Task[None] | None = None
        self._pause = FIRST_PAUSE

    def start(self) -> None:
        """Start the loop. Call once."""
        self._task = asyncio.create_task(self._loop(), name=f"cronpost {self.name}")

    async def stop(self) -> None:
        """Cancel the loop and wait until it has ended; cancel again if a library swallows the cancellation."""
        if self._task is not None:
            while not self._task.done():
                self._task.cancel()
                await asyncio.wait([self._task], timeout=CANCEL_AGAIN_SECONDS)
            self._task = None

    async def run_once(self) -> None:
        """Do one round. Any exception is logged, and the next round follows after a pause."""
        raise NotImplementedError

    def works(self) -> None:
        """Clear the fault, and start with the shortest pause at the next one.

        The loop calls it after each round. A round that lasts for as long as Redis is reachable (a subscription) calls
        it as soon as it is connected.
        """
        if self.fault is not None:
            log.info(STORE_BACK, service=self.name, **self._where())
        self.fault = None
        self._pause = FIRST_PAUSE

    async def _loop(self) -> None:
        while True:
            try:
                await self.run_once()
            except StoreError as error:
                self._store_failed(error)
            except Exception as error:
                # Catch everything: a service that ends because of one job would stop all jobs.
                self.fault = f"{self.name}: {type(error).__name__}: {error}"
                self.metrics.service_faults.labels(self.name).inc()
                log.exception(SERVICE_FAILED, service=self.name, **self._where())
            else:
                if self.fault is not None:
                    self.works()
                continue
            await self.clock.sleep(self._pause)
            self._pause = min(2 * self._pause, self.longest_pause)

    def _store_failed(self, error: StoreError) -> None:
        self.metrics.store_faults.labels(error.code).inc()
        self.store_faults += 1
        if self.fault is None:
            log.warning(STORE_LOST, service=self.name, fault=error.code, detail=str(error), **self._where())
        self.fault = f"{self.name}: {error}"

    def _where(self) -> dict[str, int]:
        return {} if self.shard is None else {"shard": self.shard}
