"""Every script of the store, by its name."""

from __future__ import annotations

from typing import Any

from scheduler_core.store.redis.scripts import (
    alert,
    attention,
    catalogue,
    event,
    find,
    history,
    job,
    node,
    operation,
    pause,
    statistics,
    task,
)
from scheduler_core.store.redis.scripts.script import Script

SCRIPTS: dict[str, Script[Any]] = {
    value.name: value
    for module in (alert, attention, catalogue, event, find, history, job, node, operation, pause, statistics, task)
    for value in vars(module).values()
    if isinstance(value, Script)
}
