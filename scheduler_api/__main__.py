"""``python -m scheduler_api`` is ``cronpost``."""

from __future__ import annotations

from scheduler_api.cli.main import main

main(prog_name="cronpost")
