"""Examines jobs for the alert rules and sends messages, on one node of the fleet at a time.

The node with the lease sweeps all shards every ``PERIOD_SECONDS`` and sends what waits in between. The lease of a
node that dies ends after ``LEASE_MS``; the next node continues from what is stored. Heartbeats return the version of
the rules, so the keeper sends no command to Redis while no rule exists and no message waits.

A node that cannot read a rule or a channel does not prolong its lease, so that a newer node, which can, takes it.

Sweeping and sending do not delay fires: each channel has one slot of its own, beside the slots of runs, and the HTTP
client has connections for them. A channel that hangs delays only itself.
"""

from __future__ import annotations

import asyncio

from scheduler_core.base.clock import RedisClock
from scheduler_core.base.errors import StoreError
from scheduler_core.base.events import (
    ALERT_BOOK_FAULT,
    ALERT_NOT_SENT,
    ALERT_SENT,
    ALERTS_FOUND,
    SERVICE_FAILED,
    get_logger,
)
from scheduler_core.base.metrics import Metrics
from scheduler_core.delivery.notify.notifier import Notifier
from scheduler_core.model.alerts import Book, Channel, Message, MessageState
from scheduler_core.node.loops.service import Service
from scheduler_core.node.node import Node
from scheduler_core.plan.alert_messages import next_of_channels
from scheduler_core.store.shards import Shards, ShardStore
from scheduler_core.usecases.alert_outbox import AlertOutbox, OutboxChanged
from scheduler_core.usecases.alert_sweep import ShardSweep
from scheduler_core.usecases.job_targets import JobTargets
from scheduler_core.usecases.jobs import JobService
from scheduler_core.usecases.schedules import ScheduleService

log = get_logger(__name__)

PERIOD_SECONDS = 5.0
TICK_SECONDS = 1.0
"""How often the node with the lease looks for messages that are due."""
LEASE_MS = 15_000
YIELD_SECONDS = 7.0
"""How long a node that cannot read a rule or a channel leaves the lease to others after it has ended: longer than
``PERIOD_SECONDS``, after which they ask for it."""
FAULTS = "alerts"
MORE_SECONDS = 0.2
"""The pause between two turns while jobs are left to be examined."""


class AlertSweeper(Service):
    """The alerts of all shards."""

    name = "alerts"

    def __init__(
        self, node: Node, shards: Shards[ShardStore], clock: RedisClock, metrics: Metrics, notifier: Notifier
    ) -> None:
        super().__init__(clock, metrics)
        self._node = node
        self._shards = shards
        self._redis_clock = clock
        self._notifier = notifier
        self._book_store = shards.lead.alert_book()
        self._lease = shards.lead.outbox()
        self.outbox = AlertOutbox(shards, clock)
        targets = JobTargets(shards, clock)
        schedules = ScheduleService(shards, clock, metrics)
        self._sweeps = [
            ShardSweep(one, JobService(one, clock, metrics, targets=targets), schedules, clock) for one in shards.all
        ]
        self._book = Book()
        self._read_for = b""
        """What heartbeats said of the book when it was read."""
        self._armed: dict[int, int] = {}
        """The version of the book for which each shard was armed or disarmed."""
        self._swept_at: float | None = None
        self._lease_until = 0.0
        self._is_prolonged = False
        self._sending: dict[int, asyncio.Task[None]] = {}
        """By channel."""
        self._more = False

    async def run_once(self) -> None:
        if self.has_lease or self._more:
            await self.clock.sleep(MORE_SECONDS if self._more else TICK_SECONDS)
        else:
            await self.clock.sleep(PERIOD_SECONDS)
        await self.step()

    @property
    def has_lease(self) -> bool:
        """Whether no other node can have the lease yet."""
        return self.clock.monotonic() < self._lease_until

    async def step(self) -> None:
        """Sweep if it is time, and start to send what is due."""
        now = self.clock.monotonic()
        if self._more or not self.has_lease or self._swept_at is None or now - self._swept_at >= PERIOD_SECONDS:
            self._more = False
            if not self._node.holds_lease() or self._redis_clock.in_doubt:
                return  # Redis does not accept heartbeats; or every job may look late after a jump of the clock
            self._swept_at = now
            try:
                if not await self._take():
                    return
                await self.sweep()
            except OutboxChanged:
                await self.outbox.load()
        if self.has_lease:
            self.send_due()

    async def _take(self) -> bool:
        """Take or prolong the lease if there is work; return whether this node has it."""
        stored = self._node.alert_book
        if stored != self._read_for:
            await self._read_book()
            self._read_for = stored
        if not stored:
            return False  # no rule was ever stored
        version = self._book.version
        disarmed = not self._book.watches and all(self._armed.get(one) == version for one in range(len(self._shards)))
        if disarmed and not (self.has_lease and (self.outbox.waiting or self._sending)):
            self._lease_until = 0.0
            return False
        had, asked = self.has_lease, self.clock.monotonic()
        if self._book.faults:
            if had and not self._sending:
                return True
            if not had and self._lease_until and asked < self._lease_until + YIELD_SECONDS:
                return False
        self._is_prolonged = had
        now_ms = self.clock.now_ms()
        if not await self._lease.take(node=self._node.id, now_ms=now_ms, until_ms=now_ms + LEASE_MS):
            self._lease_until = 0.0
            return False
        self._lease_until = asked + LEASE_MS / 1000
        if not had:
            await self.outbox.load()
        return True

    async def _read_book(self) -> None:
        self._book = await self._book_store.read()
        self.warnings.pop(FAULTS, None)
        if self._book.faults:
            self.warnings[FAULTS] = "; ".join(self._book.faults)
        for fault in self._book.faults:
            log.error(ALERT_BOOK_FAULT, detail=fault)

    async def sweep(self) -> None:
        """Examine a bounded number of jobs of each shard, and turn findings into messages. Raises OutboxChanged."""
        book = self._book
        fault: StoreError | None = None
        results = await asyncio.gather(
            *(self._sweep_shard(number, book) for number in range(len(self._sweeps))), return_exceptions=True
        )
        for number, result in enumerate(results):
            if isinstance(result, StoreError):
                fault = result if number == 0 else fault
                self.metrics.store_faults.labels(result.code).inc()
            elif isinstance(result, BaseException):
                raise result
        if fault is not None:
            raise fault
        await self.outbox.drop_without_receiver(book)
        found = await self.outbox.collect(book)
        if found:
            log.info(ALERTS_FOUND, count=found, waiting=len(self.outbox.waiting))
        self.metrics.alerts_waiting.set(len(self.outbox.waiting))

    async def _sweep_shard(self, number: int, book: Book) -> None:
        if self._armed.get(number) != book.version:
            # Also on another node, and again after a crash: arming twice changes nothing.
            sweep = self._shards.all[number].sweep_store()
            if not await sweep.arm(on=book.watches, version=book.version):
                if await self._book_store.version() != book.version:
                    return  # this book is out of date
                await sweep.arm(on=book.watches, version=book.version, force=True)
            self._armed[number] = book.version
        if book.rules:
            turn = await self._sweeps[number].turn(book)
            self._more = self._more or turn.more

    def send_due(self) -> None:
        """Start to send the next message of each channel that is due."""
        left = self._lease_until - self.clock.monotonic()
        if self._book.faults and (self._is_prolonged or left < PERIOD_SECONDS + TICK_SECONDS):
            return  # the lease would end before the attempt is recorded
        now_ms = self.clock.now_ms()
        waiting = [one for one in self.outbox.waiting.values() if self._book.can_send(one)]
        for channel, message in next_of_channels(waiting).items():
            if channel in self._sending or message.next_ms > now_ms:
                continue
            self.outbox.busy.add(message.id)
            sending = self._send(message, self._book.channels[channel])
            task = asyncio.create_task(sending, name=f"cronpost alert {message.id}")
            self._sending[channel] = task

    async def sent(self) -> None:
        """Wait until every attempt that was started has ended and is stored."""
        while self._sending:
            await asyncio.wait(set(self._sending.values()))

    async def _send(self, message: Message, channel: Channel) -> None:
        try:
            message = await self.outbox.begin(message)
            result = await self._notifier.send(channel, message, lambda: self.has_lease)
            if not self.has_lease:
                return  # another node sends it, with the same id
            after = await self.outbox.record(
                message,
                sent=result.sent,
                refused=result.refused,
                text=result.text,
                retry_after_ms=result.retry_after_ms,
            )
            outcome = "sent" if result.sent else "retried" if after.state is MessageState.WAITING else "failed"
            self.metrics.alerts.labels(channel.kind.value, outcome).inc()
            self.metrics.alerts_waiting.set(len(self.outbox.waiting))
            event = log.info if result.sent else log.warning
            event(
                ALERT_SENT if result.sent else ALERT_NOT_SENT,
                message=message.id,
                rule=message.rule,
                channel=channel.id,
                count=message.count,
                attempt=after.attempts,
                detail=result.text,
            )
        except (StoreError, OutboxChanged):
            self._lease_until = (
                0.0  # the result is not recorded: read the messages again, and send this one again if it still waits
            )
        except Exception:
            self.metrics.service_faults.labels(self.name).inc()
            log.exception(SERVICE_FAILED, service=self.name)
            self._lease_until = 0.0
        finally:
            self.outbox.busy.discard(message.id)
            self._sending.pop(message.channel, None)
            if self.has_lease:
                self.send_due()

    async def stop(self) -> None:
        """Stop, cut requests that are open, and release the lease, so that another node continues at once."""
        await super().stop()
        had = self.has_lease
        self._lease_until = 0.0
        for task in list(self._sending.values()):
            task.cancel()
        if self._sending:
            await asyncio.wait(set(self._sending.values()))
        self._sending.clear()
        await self._notifier.aclose()
        if had:
            try:
                await self._lease.take(node=self._node.id, now_ms=self.clock.now_ms(), until_ms=0)
            except StoreError:
                return  # it ends by itself
