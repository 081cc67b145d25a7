"""Steps that targets and schedules share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

from scheduler_core.base.errors import (
    StoreUnavailable,
    TargetNotFound,
)
from scheduler_core.store.catalogue import CatalogueStore, StoredTarget

T = TypeVar("T")

TRIES = 32
"""Maximum tries of one change. A try fails when another change comes in between."""


async def read_target(catalogue: CatalogueStore, target_id: int) -> StoredTarget:
    """Return the stored target, readable or not. Raises TargetNotFound."""
    stored = (await catalogue.read_targets([target_id]))[0]
    if stored is None:
        raise TargetNotFound(target_id)
    return stored


async def repeat_if_unknown(operation: Callable[[], Awaitable[T]]) -> T:
    """Run a step that can be repeated, and repeat it once if its answer is lost."""
    try:
        return await operation()
    except StoreUnavailable as error:
        if not error.effect_unknown:
            raise
        try:
            return await operation()
        except StoreUnavailable as again:
            # The first try may have been carried out, so the raised error must have ``effect_unknown``.
            raise (again if again.effect_unknown else error) from again
