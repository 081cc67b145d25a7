"""Checks the version and the settings of Redis when a process starts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from scheduler_api.server.parts import with_shards
from scheduler_core.base.clock import SystemClock
from scheduler_core.base.config import Settings
from scheduler_core.base.errors import ConfigError, StoreError, StoreRefused
from scheduler_core.base.events import STORE_LOST, STORE_WARNING, get_logger
from scheduler_core.store.redis.check import wrong_scheme
from scheduler_core.store.redis.store import RedisStore
from scheduler_core.store.shards import Shards, wrong_number

log = get_logger(__name__)

OpenStore = Callable[[Settings], Shards[RedisStore]]

CHECK_AGAIN_SECONDS = 2.0
_CLOCK = SystemClock()


class RedisCheck:
    """Compares the version and the settings of Redis with what Cronpost's promises need.

    The process fires nothing and is not ready while ``fault`` is set.
    """

    def __init__(self) -> None:
        self.fault: str | None = "Redis has not been reached yet"
        self._skips = False
        self.findings: set[str] = set()
        """What was logged as a warning. The check that runs while the process works does not log it again."""

    def passed(self) -> bool:
        """Return whether the process may fire."""
        return self.fault is None

    def skip(self) -> None:
        """Count Redis as checked: this process started it, or the parent process has checked it."""
        self._skips = True
        self.fault = None

    async def open(self, settings: Settings, open_store: OpenStore) -> tuple[Shards[RedisStore], Settings]:
        """Open the store with the number of shards that it has. Returns it, and the settings with that number.

        Raises ConfigError if Redis breaks a promise, or if another number of shards is configured. If Redis cannot be
        reached, ``fault`` is set, and ``until_passed`` must be called.
        """
        store = open_store(settings)
        if not self._skips:
            fatal = await self.look(store)
            if fatal is not None:
                await store.aclose()
                raise ConfigError(fatal)
        try:
            stored = await store.stored_number()
        except StoreError as error:
            self.set_fault(str(error))
            return store, settings
        if stored != len(store):
            await store.aclose()
            if settings.store.shards is not None:
                raise ConfigError(wrong_number(stored, len(store)))
            store = open_store(with_shards(settings, stored))
        store.is_confirmed = True
        return store, with_shards(settings, stored)

    async def until_passed(self, store: Shards[RedisStore], stopping: asyncio.Event, *, fixed: bool) -> int | None:
        """Check until Redis can be used, or the process stops.

        Returns the number of shards that the store has if it was opened with another one and the number is not
        ``fixed`` by a setting; else None.
        """
        while not self.passed():
            if await _CLOCK.wait_for(stopping, CHECK_AGAIN_SECONDS):
                return None
            await self.look(store)
            if self.passed():
                try:
                    stored = await store.stored_number()
                    if stored != len(store) and not fixed:
                        return stored
                    await store.confirm()
                except StoreError as error:
                    self.set_fault(str(error))
        return None

    async def look(self, store: Shards[RedisStore]) -> str | None:
        """Check once and set ``fault``. Returns a finding that waiting cannot fix, or None."""
        try:
            infos = await store.server_infos()
        except StoreRefused as error:
            fatal = wrong_scheme(error, store.topology)
            if fatal is not None:
                self.set_fault(fatal)
                return fatal
            if "NOPERM" not in str(error) and "no permissions" not in str(error):
                self.set_fault(str(error))
                return None
            log.warning(STORE_WARNING, detail="this user may not run INFO, so Redis's settings were not checked")
            self.fault = None
            return None
        except StoreError as error:
            self.set_fault(str(error))
            return None
        findings = store.lead.findings(infos, store.topology)
        fatal = next((finding.text for finding in findings if finding.fatal), None)
        for finding in findings:
            if not finding.fatal:
                log.warning(STORE_WARNING, detail=finding.text)
                self.findings.add(finding.text)
        if fatal is not None:
            self.set_fault(fatal)
        else:
            self.fault = None
        return fatal

    def set_fault(self, fault: str) -> None:
        """Set the fault; log it if it is a new one."""
        if fault != self.fault:
            log.warning(STORE_LOST, service="check", detail=fault)
        self.fault = fault
