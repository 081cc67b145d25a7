"""The process that computes a forecast: ``python -m scheduler_core.usecases.forecast_process``.

It reads a ``ForecastRequest`` from standard input and writes the ``Forecast`` to standard output, both as msgpack. It
is a process of its own with a low priority, because ten thousand triggers take up to some seconds: in a thread they
would share the interpreter with the node, whose fires would be late.
"""

from __future__ import annotations

import os
import sys

import msgspec

from scheduler_core.plan.forecast import ForecastJob, forecast

NICE = 10
"""A tenth of the share of a node when the cores are busy. With 19, a busy machine takes minutes for a forecast."""


class ForecastRequest(msgspec.Struct, frozen=True, array_like=True):
    """A sample of jobs, and the span to forecast (``plan.forecast.forecast``)."""

    sample: list[ForecastJob]
    sampled: int
    jobs: int
    start_ms: int
    minutes: int
    unreadable: int


def answer(question: bytes) -> bytes:
    """Compute the forecast for an encoded question."""
    asked = msgspec.msgpack.decode(question, type=ForecastRequest)
    return msgspec.msgpack.encode(
        forecast(
            asked.sample,
            sampled=asked.sampled,
            jobs=asked.jobs,
            start_ms=asked.start_ms,
            minutes=asked.minutes,
            unreadable=asked.unreadable,
        )
    )


def main() -> None:
    os.nice(NICE)
    sys.stdout.buffer.write(answer(sys.stdin.buffer.read()))


if __name__ == "__main__":
    main()
