"""The command line and the environment of a node process."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import scheduler_api
from scheduler_core.base.config import SETTINGS, Settings
from scheduler_core.base.config_table import ENV_PREFIX
from scheduler_core.delivery.http.guard import OwnEndpoint

NOT_OF_NODES = ("api", "process", "client")
"""Sections of the settings that a node process does not receive."""


def command(descriptor: int, *, sole: bool, own: Sequence[OwnEndpoint] = ()) -> list[str]:
    """Build the command line of a node process. Its settings are in the environment, which other users cannot read."""
    # -P: import the package of this process, not one in the working directory.
    program = [sys.executable, "-P", "-m", "scheduler_api", "node", "--parent", str(descriptor)]
    if own:
        program += ["--own", msgspec.json.encode(own).decode()]
    return [*program, "--sole"] if sole else program


def environment(settings: Settings) -> dict[str, str]:
    """Build the environment of a node process: that of this process, with the settings as they were read here."""
    variables = {name: text for name, text in os.environ.items() if not name.startswith(ENV_PREFIX)}
    package = str(Path(scheduler_api.__file__).parents[1])
    variables["PYTHONPATH"] = os.pathsep.join([package, *filter(None, [variables.get("PYTHONPATH")])])
    for setting in SETTINGS:
        value = getattr(getattr(settings, setting.section), setting.name)
        if setting.section not in NOT_OF_NODES and value is not None:
            variables[setting.env] = _text_of(value)
    return variables


def _text_of(value: object) -> str:
    """Write a setting's value as the environment variable holds it."""
    if isinstance(value, tuple):
        return ",".join(value)
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)
