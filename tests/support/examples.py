"""The size of random tests: a part in ``make test``, ``TEST_LONG`` times as much in ``make test-long``.

``make test`` has a fixed seed and tries the same examples each time; each run of ``make test-long`` has another seed.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterable
from typing import TypeVar

T = TypeVar("T")

VARIABLE = "TEST_LONG"
TIMES = int(os.environ.get(VARIABLE, "1"))
"""How many times the examples of ``make test`` are tried."""


def examples(number: int) -> int:
    """``number`` is that of ``make test``: chosen so that a test costs at most about eight CPU seconds."""
    return number * TIMES


def sample(values: Iterable[T], *, one_in: int) -> list[T]:
    """A random part of ``values``, in their order: one in ``one_in`` of them, all if ``TEST_LONG`` is at least that.

    The seed is that of the test run, so ``--randomly-seed=N`` repeats the choice.
    """
    everything = list(values)
    count = min(len(everything), -(-len(everything) * TIMES // one_in))
    chosen = sorted(random.sample(range(len(everything)), count))
    return [everything[place] for place in chosen]
