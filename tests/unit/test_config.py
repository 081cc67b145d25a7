from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from scheduler_core.base.config import SETTINGS, Settings
from scheduler_core.base.config_check import beat_timeout_seconds, is_loopback
from scheduler_core.base.config_reader import load_settings
from scheduler_core.base.config_table import mask_url
from scheduler_core.base.cores import usable_cores
from scheduler_core.base.errors import ConfigError

KEY = "k3y-of-a-client-0001"


def load(environ: Mapping[str, str] | None = None, /, **options: str) -> Settings:
    return load_settings(environ=environ or {}, options=options, dotenv=None)


def refusal(environ: Mapping[str, str] | None = None, /, **options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(environ, **options)
    return str(caught.value)


def test_without_any_setting_the_documented_defaults_apply() -> None:
    settings = load()
    assert (settings.api.host, settings.api.port) == ("127.0.0.1", 8000)
    assert settings.store.redis_url is None
    assert settings.store.data_dir == Path("cronpost-data")
    assert settings.engine.attempt_timeout_seconds == 30
    assert (settings.engine.heartbeat_seconds, settings.engine.dead_after_seconds) == (1, 5)
    assert settings.engine.downtime_after_seconds == 10
    tasks = settings.tasks
    assert (tasks.base_interval_ms, tasks.http_callback_timeout_ms) == (1000, 5000)
    assert (tasks.select_size, tasks.max_retries) == (200, 5)


def test_a_value_is_read_from_the_environment_as_its_type() -> None:
    settings = load({"CRONPOST_PORT": " 9000 ", "CRONPOST_HEARTBEAT_SECONDS": "0.5", "CRONPOST_LOG_LEVEL": "debug"})
    assert settings.api.port == 9000
    assert settings.engine.heartbeat_seconds == 0.5
    assert settings.log.log_level == "debug"


def test_an_old_name_sets_the_renamed_setting_and_is_reported() -> None:
    settings = load({"CRONPOST_LANE_KEEP_STALE": "7"}, lane_keep_delivered="8")
    assert (settings.tasks.tasks_keep_stale, settings.tasks.tasks_keep_delivered) == (7, 8)
    assert settings.old_names == (
        ("CRONPOST_LANE_KEEP_STALE", "CRONPOST_TASKS_KEEP_STALE"),
        ("--lane-keep-delivered", "--tasks-keep-delivered"),
    )
    assert {row.setting.name for row in settings.rows()} >= {"tasks_keep_stale", "tasks_keep_delivered"}
    assert "CRONPOST_LANE_KEEP_STALE=none in" not in refusal({"CRONPOST_TASKS_KEEP_STALE": "none"})
    assert "CRONPOST_TASKS_KEEP_STALE=none in CRONPOST_LANE_KEEP_STALE" in refusal({"CRONPOST_LANE_KEEP_STALE": "none"})


@pytest.mark.parametrize("names", [("LANE", "TASKS"), ("TASKS", "LANE")])
def test_the_new_name_of_a_setting_overrides_the_old_name(names: tuple[str, str]) -> None:
    environ = {f"CRONPOST_{name}_KEEP_STALE": "1" if name == "LANE" else "2" for name in names}
    assert load(environ).tasks.tasks_keep_stale == 2
    assert load({"CRONPOST_TASKS_KEEP_STALE": "1"}, lane_keep_stale="2").tasks.tasks_keep_stale == 2
    assert load().old_names == ()


def test_an_option_overrides_the_environment_and_the_environment_overrides_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CRONPOST_PORT=1\nCRONPOST_SELECT_SIZE=1\nCRONPOST_MAX_RETRIES=1\n")
    environ = {"CRONPOST_PORT": "2", "CRONPOST_SELECT_SIZE": "2"}
    settings = load_settings(environ=environ, options={"port": "3"}, dotenv=file)
    assert (settings.api.port, settings.tasks.select_size, settings.tasks.max_retries) == (3, 2, 1)
    sources = {row.setting.name: row.source for row in settings.rows()}
    assert sources["port"] == "--port"
    assert sources["select_size"] == "CRONPOST_SELECT_SIZE"
    assert sources["max_retries"] == str(file)
    assert sources["keep_bytes"] == "default"


def test_a_mistyped_name_stops_the_start_and_the_nearest_one_is_named() -> None:
    message = refusal({"CRONPOST_REDIS_ULR": "redis://x"})
    assert "CRONPOST_REDIS_ULR is not a setting" in message
    assert "CRONPOST_REDIS_URL" in message
    assert "did you mean port" in refusal(prot="1")


def test_a_mistyped_name_in_the_file_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("CRONPOST_PROT=1\n")
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        load_settings(environ={}, dotenv=file)


@pytest.mark.parametrize(
    "name", ["CRONPOST_port", "CRONPOST_", "CRONPOST_QWERTZ", "CRONPOST_DATA_DIR_", "CRONPOST_SERVICE"]
)
def test_every_other_unknown_name_is_refused_too(name: str) -> None:
    assert name in refusal({name: "1"})


def test_variables_of_other_programs_are_ignored() -> None:
    load({"REDIS_URL": "x", "CRONPOSTER_PORT": "x", "PORT": "x"})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CRONPOST_SERVICE_HOST", "10.0.0.7"),
        ("CRONPOST_SERVICE_PORT", "8000"),
        ("CRONPOST_SERVICE_PORT_HTTP", "8000"),
        ("CRONPOST_PORT", "tcp://10.0.0.7:8000"),
        ("CRONPOST_PORT_8000_TCP", "tcp://10.0.0.7:8000"),
        ("CRONPOST_PORT_8000_TCP_PROTO", "tcp"),
        ("CRONPOST_PORT_8000_TCP_PORT", "8000"),
        ("CRONPOST_PORT_8000_TCP_ADDR", "10.0.0.7"),
        ("CRONPOST_REDIS_PORT", "tcp://10.0.0.8:6379"),
        ("CRONPOST_REDIS_SERVICE_HOST", "10.0.0.8"),
        ("CRONPOST_API_PORT_8000_TCP_ADDR", "10.0.0.9"),
    ],
)
def test_variables_that_kubernetes_injects_for_a_service_called_cronpost_are_ignored(name: str, value: str) -> None:
    assert load({name: value}) == load()


def test_a_port_that_kubernetes_did_not_inject_is_still_checked() -> None:
    assert "CRONPOST_PORT=http" in refusal({"CRONPOST_PORT": "http"})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("CRONPOST_PORT", "65536", "at most 65535"),
        ("CRONPOST_PORT", "-1", "at least 0"),
        ("CRONPOST_PORT", "8000.5", "a whole number"),
        ("CRONPOST_PORT", "0x50", "a whole number"),
        ("CRONPOST_MAX_IN_FLIGHT", "0", "at least 1"),
        ("CRONPOST_ATTEMPT_TIMEOUT_SECONDS", "0", "more than 0"),
        ("CRONPOST_ATTEMPT_TIMEOUT_SECONDS", "nan", "a number"),
        ("CRONPOST_ATTEMPT_TIMEOUT_SECONDS", "inf", "a number"),
        ("CRONPOST_DRAIN_GRACE_SECONDS", "nan", "a number"),
        ("CRONPOST_ATTEMPT_TIMEOUT_SECONDS", "30s", "a number"),
        ("CRONPOST_LOG_LEVEL", "INFO!", "debug, info, warning, error"),
        ("CRONPOST_ALLOW_NO_AUTHENTICATION", "maybe", "yes or no"),
        ("CRONPOST_HOST", "localhost:8000", "CRONPOST_PORT"),
        ("CRONPOST_HOST", "http://localhost", "host name"),
        ("CRONPOST_KEY_PREFIX", "a{b}", "letters"),
        ("CRONPOST_KEY_PREFIX", "x" * 33, "1 to 32"),
    ],
)
def test_a_bad_value_is_refused_with_its_name_and_what_was_expected(name: str, value: str, expected: str) -> None:
    message = refusal({name: value})
    assert name in message
    assert expected in message
    assert value in message


def test_an_empty_value_means_that_the_setting_is_not_set() -> None:
    assert load({"CRONPOST_REDIS_URL": "", "CRONPOST_PORT": "  "}, host="") == load()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org"])
def test_an_address_that_others_can_reach_needs_keys_or_a_plain_word(host: str) -> None:
    message = refusal({"CRONPOST_HOST": host})
    assert "CRONPOST_API_KEYS" in message
    assert "CRONPOST_ALLOW_NO_AUTHENTICATION=yes" in message
    assert refusal({"CRONPOST_HOST": host, "CRONPOST_API_KEYS": ""}) == message
    assert load({"CRONPOST_HOST": host, "CRONPOST_API_KEYS": KEY}).api.api_keys == (KEY,)
    assert load({"CRONPOST_HOST": host, "CRONPOST_ALLOW_NO_AUTHENTICATION": "yes"}).api.allow_no_authentication


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_a_loopback_address_needs_no_key(host: str) -> None:
    assert is_loopback(load({"CRONPOST_HOST": host}).api.host)


@pytest.mark.parametrize("keys", [",", KEY + ",", "short", f"{KEY},short", "with a space in it", "schlüssel-schlüssel"])
def test_keys_that_are_empty_short_or_cannot_be_sent_are_refused_without_being_shown(keys: str) -> None:
    message = refusal({"CRONPOST_API_KEYS": keys})
    assert "CRONPOST_API_KEYS" in message
    assert "at least 16" in message
    for key in keys.split(","):
        assert not key or key not in message


@pytest.mark.parametrize(
    "url",
    [
        "redis://cache",
        "redis://:pass@cache:6379/0",
        "rediss://user:pass@cache:6380/1?ssl_cert_reqs=required",
        "unix:///run/redis.sock?db=1",
        "redis://[::1]:6379",
        "redis+sentinel://a:26379,b,[::1]:26380/cronpost",
        "rediss+sentinel://user:pass@a,b/cronpost/1?sentinel_password=pass&ssl_cert_reqs=required",
        "redis+cluster://a:7000,b:7001",
        "rediss+cluster://:pass@a",
    ],
)
def test_the_documented_redis_urls_are_accepted_unchanged(url: str) -> None:
    assert load({"CRONPOST_REDIS_URL": url}).store.redis_url == url


@pytest.mark.parametrize(
    "url",
    [
        "cache:6379",
        "http://secret@cache",
        "redis://",
        "redis://:sec/ret@cache",
        "redis://:sec#ret@cache",
        "redis://:secret@cache:port",
        "redis://:secret@cache/keys",
        "redis://:secret@cache,cache2",
        "redis+cluster://:secret@cache,cache2/1",
        "redis+cluster://:sec@ret@,cache",
        "redis+sentinel://:secret@cache,cache2",
        "redis+sentinel://:secret@cache:port,cache2/name",
        "redis+sentinel://:secret@cache/name/db",
        "redis+other://:secret@cache",
        "redis+://:secret@cache",
        "redis://cache?sentinel_password=secret",
        "unix://",
    ],
)
def test_a_bad_redis_url_is_refused_and_no_part_of_it_is_shown(url: str) -> None:
    message = refusal({"CRONPOST_REDIS_URL": url})
    assert "CRONPOST_REDIS_URL" in message
    assert "sec" not in message
    assert "cache" not in message


def test_no_secret_is_in_a_repr_or_a_listing() -> None:
    url = "rediss://admin:hunter2@cache:6380/1?password=hunter2&ssl_cert_reqs=required"
    settings = load({"CRONPOST_REDIS_URL": url, "CRONPOST_API_KEYS": f"{KEY},{KEY}-other"})
    shown = repr(settings) + repr(settings.store) + "".join(row.value + row.default for row in settings.rows())
    assert "hunter2" not in shown
    assert KEY not in shown
    assert "rediss://admin:***@cache:6380/1?password=***&ssl_cert_reqs=required" in shown
    values = {row.setting.name: row.value for row in settings.rows()}
    assert values["api_keys"] == "***,***"


def test_a_url_that_cannot_be_read_is_masked_whole() -> None:
    assert mask_url("redis://:secret@[::1") == "***"


def test_a_heartbeat_must_fit_three_times_into_the_time_after_which_a_node_is_dead() -> None:
    message = refusal({"CRONPOST_HEARTBEAT_SECONDS": "2"})
    assert "CRONPOST_HEARTBEAT_SECONDS=2" in message
    assert "CRONPOST_DEAD_AFTER_SECONDS=5" in message
    load({"CRONPOST_HEARTBEAT_SECONDS": "2", "CRONPOST_DEAD_AFTER_SECONDS": "6"})


def test_downtime_after_seconds_cannot_be_less_than_dead_after_seconds() -> None:
    assert "CRONPOST_DOWNTIME_AFTER_SECONDS" in refusal({"CRONPOST_DOWNTIME_AFTER_SECONDS": "4"})


def test_keep_bytes_cannot_exceed_the_read_limit() -> None:
    assert "CRONPOST_KEEP_BYTES" in refusal({"CRONPOST_READ_LIMIT_BYTES": "1000"})


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("http://cronpost:8000", "http://cronpost:8000"),
        ("https://example.com/cronpost/", "https://example.com/cronpost"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_the_public_url_is_stored_without_a_trailing_slash(text: str, kept: str) -> None:
    assert load({"CRONPOST_PUBLIC_URL": text}).engine.public_url == kept


@pytest.mark.parametrize(
    "text",
    [
        "cronpost:8000",
        "/runs",
        "ftp://cronpost/",
        "http://",
        "http://:8000",
        "http://host:0",
        "http://host:99999",
        "http://user:secret@host/",
        "http://host/?a=1",
        "http://host/#a",
        "http://host/a b",
        "http://b\u00fccher.example/",
    ],
)
def test_a_public_url_that_no_runner_could_call_is_refused(text: str) -> None:
    assert "CRONPOST_PUBLIC_URL" in refusal({"CRONPOST_PUBLIC_URL": text})


def test_nodes_is_a_number_or_auto_for_one_per_usable_core() -> None:
    assert load().process.nodes == 1
    assert load({"CRONPOST_NODES": "3"}).process.nodes == 3
    auto = load({"CRONPOST_NODES": "Auto", "CRONPOST_REDIS_URL": "redis://host"})
    assert auto.process.nodes == usable_cores()


@pytest.mark.parametrize("text", ["0", "-1", "257", "many", "1.5"])
def test_an_invalid_number_of_nodes_is_refused(text: str) -> None:
    assert "at most 256, or auto" in refusal({"CRONPOST_NODES": text})


def test_the_bounds_of_an_optional_setting_apply_when_it_is_given() -> None:
    assert load().process.metrics_port is None
    assert load({"CRONPOST_METRICS_PORT": "9100"}).process.metrics_port == 9100
    assert "at most 65535" in refusal({"CRONPOST_METRICS_PORT": "99999"})


def test_each_setting_has_one_name_a_meaning_and_two_spellings_as_an_option() -> None:
    names = [setting.name for setting in SETTINGS]
    assert len(set(names)) == len(names)
    for setting in SETTINGS:
        assert setting.env == "CRONPOST_" + setting.name.upper()
        assert setting.options[-1] == "--" + setting.name
        assert len(setting.meaning) > 20
        assert setting.kind
    assert [row.setting for row in load().rows()] == list(SETTINGS)


def test_the_default_of_each_setting_passes_its_own_check() -> None:
    for row in load().rows():
        if row.default != "(not set)":
            assert load(**{row.setting.name: row.default}) == Settings(
                sources={row.setting.name: row.setting.options[0]}
            )


@pytest.mark.parametrize(("heartbeat", "dead_after"), [(1.0, 5.0), (0.3, 1.5), (1.0, 3.0), (10.0, 60.0)])
def test_two_lost_beats_and_a_third_fit_into_a_lease(heartbeat: float, dead_after: float) -> None:
    times = {"heartbeat_seconds": heartbeat, "dead_after_seconds": dead_after, "downtime_after_seconds": 100}
    settings = load(**{name: str(value) for name, value in times.items()}, redis_timeout_seconds=str(dead_after))
    assert heartbeat + 3 * beat_timeout_seconds(settings) < dead_after


def test_a_command_timeout_must_be_shorter_than_a_lease() -> None:
    text = refusal(redis_timeout_seconds="5.5")
    for name in ("CRONPOST_REDIS_TIMEOUT_SECONDS=5.5", "CRONPOST_DEAD_AFTER_SECONDS=5", "CRONPOST_HEARTBEAT_SECONDS=1"):
        assert name in text


def test_the_example_file_lists_every_setting_with_its_default() -> None:
    text = (Path(__file__).parents[2] / ".env.example").read_text()
    listed = dict(re.findall(r"^#\s?(CRONPOST_[A-Z_]+)=(.*)$", text, re.MULTILINE))
    wanted = {row.setting.env: "" if row.default == "(not set)" else row.default for row in load().rows()}
    assert listed == wanted


def test_a_dotenv_file_is_read_as_documented(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "\ufeff# a comment\n"
        "\n"
        "  CRONPOST_PORT = 9000   # the port\n"
        "export CRONPOST_DATA_DIR='a b # c'\n"
        f'CRONPOST_API_KEYS="{KEY}\\"\\\\$HOME" # quoted\n'
        "CRONPOST_REDIS_URL=redis://:pa$$#1%2F@cache\n"
        "CRONPOST_KEY_PREFIX= # not set\n"
        "OTHER_PROGRAM=1\n",
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="percent-encoded"):
        load_settings(environ={}, dotenv=file)
    file.write_text(file.read_text().replace("pa$$#1", "pa$$"))
    settings = load_settings(environ={}, dotenv=file)
    assert settings.api.port == 9000
    assert settings.store.data_dir == Path("a b # c")
    assert settings.api.api_keys == (f'{KEY}"\\$HOME',)
    assert settings.store.redis_url == "redis://:pa$$%2F@cache"
    assert settings.store.key_prefix == "cronpost"


@pytest.mark.parametrize("line", ["CRONPOST_PORT", "= 5", "A='x", 'A="x" y', "1A=2"])
def test_an_invalid_line_of_a_dotenv_file_is_reported_with_its_number(line: str, tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(f"# first\n{line}\n")
    with pytest.raises(ConfigError, match="line 2"):
        load_settings(environ={}, dotenv=file)


def test_a_missing_dotenv_file_is_no_error(tmp_path: Path) -> None:
    assert load_settings(environ={}, dotenv=tmp_path / ".env") == load()


def test_a_dotenv_file_that_cannot_be_read_stops_the_start(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_bytes(b"CRONPOST_PORT=\xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(environ={}, dotenv=file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_settings(environ={}, dotenv=tmp_path)


SIGN_KEY = "whsec_" + "a" * 32


def test_sign_keys_and_origins_are_read_and_go_together() -> None:
    settings = load({"CRONPOST_SIGN_KEYS": SIGN_KEY}, sign_origins="https://A.test:443, http://b.test:81/")
    assert settings.engine.sign_keys == (SIGN_KEY,)
    assert settings.engine.sign_origins == ("https://a.test", "http://b.test:81")
    assert "CRONPOST_SIGN_ORIGINS" in refusal({"CRONPOST_SIGN_KEYS": SIGN_KEY})
    assert "CRONPOST_SIGN_KEYS" in refusal({"CRONPOST_SIGN_ORIGINS": "https://a.test"})
    assert "has a path" in refusal({"CRONPOST_SIGN_ORIGINS": "https://a.test/hook"})
    for bad in ("secret", "whsec_!!", "whsec_aaaa"):
        text = refusal({"CRONPOST_SIGN_KEYS": bad, "CRONPOST_SIGN_ORIGINS": "https://a.test"})
        assert "key 1" in text
        assert bad not in text
    assert SIGN_KEY not in repr(settings.engine)


def test_proxies_are_addresses_or_networks() -> None:
    settings = load(trusted_proxies=" 10.0.0.0/8, ::1 ,192.0.2.1,::1")
    assert settings.api.trusted_proxies == ("10.0.0.0/8", "::1/128", "192.0.2.1/32")
    for wrong in ("10.0.0.1/8", "proxy.example", "10.0.0.1:80", ",", "10.0.0.1,"):
        assert "IP addresses or networks" in refusal(trusted_proxies=wrong), wrong
