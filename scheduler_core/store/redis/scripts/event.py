"""Bindings of the scripts in ``lua/event``."""

from __future__ import annotations

from typing import NamedTuple

from scheduler_core.store.redis.scripts.script import Bytes, Ms, Script, Text


class AppendEventsArgs(NamedTuple):
    packed: Bytes


APPEND_EVENTS = Script("event/append", keys="events", args=AppendEventsArgs)


class ListenArgs(NamedTuple):
    keep: Ms
    channel: Text


LISTEN = Script("event/listen", keys="events listening", args=ListenArgs)
