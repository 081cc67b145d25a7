"""``cronpost alerts``: rules, channels, tests and messages, on a running server."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result

from scheduler_core.embedded import EmbeddedRedis
from scheduler_core.embedded import ask as ask_redis
from tests.api.command_line import KEY, run
from tests.support.stores import KEYS

CHANNEL = {"name": "ops", "kind": "webhook", "url": "http://127.0.0.1:1/"}


def test_rules_and_channels_are_created_listed_and_deleted(
    cli_server: str, tmp_path: Path, redis_server: EmbeddedRedis
) -> None:
    def ask(*args: str) -> Result:
        return run(*args, "--server", cli_server, "--api-key", KEY)

    channel, rule = tmp_path / "channel.json", tmp_path / "rule.json"
    channel.write_text(json.dumps(CHANNEL))
    assert ask("alerts", "channels", "--add", str(channel)).stdout == "alert channel 1 created\n"
    rule.write_text(json.dumps({"name": "failures", "on": ["failure"], "channels": [1], "labels": {"team": None}}))
    shown = ask("alerts", "rules", "--add", str(rule), "--preview").stdout
    assert shown == "0 jobs match: -\n0 conditions hold now\n"
    for wrong in (
        ("--preview",),
        ("--preview", "--add", str(rule), "--delete", "1"),
        ("--add", str(rule), "--delete", "1"),
    ):
        assert ask("alerts", "rules", *wrong).exit_code == 2
    assert ask("alerts", "rules", "--add", str(rule)).stdout == "alert rule 2 created\n"
    assert "failures  failure  team  1         on" in ask("alerts", "rules").stdout
    assert "http://127.0.0.1:1/" in ask("alerts", "channels").stdout
    tested = ask("alerts", "test", "1")
    assert tested.exit_code == 1
    assert tested.stdout.startswith("not sent: cannot connect to 127.0.0.1 port 1")
    assert ask_redis(redis_server.socket_path, "HSET", KEYS.alert_book, "rule:2", "newer") == ":0"
    for what in ("rules", "channels"):
        assert "alert rule 2 cannot be read" in ask("alerts", what).stderr
    assert ask("alerts", "rules", "--delete", "2").stdout == "alert rule 2 deleted\n"
    assert ask("alerts", "channels", "--delete", "1").stdout == "alert channel 1 deleted\n"
    assert ask("alerts", "sent").exit_code == 0
