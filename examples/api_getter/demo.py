"""Plays the story of this example in half a minute: a new copy, bad days of the API, kills, and what is new.

    .venv/bin/python examples/api_getter/demo.py

Starts the fake API, the getter and a Cronpost with a Redis of its own, all on free ports and in a directory that is
removed at the end (``--root`` keeps it). A day lasts fifteen seconds. Lines that begin with a time are the getter's.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

HERE = Path(__file__).parent
PROJECT = HERE.parents[1]
JOB: dict[str, Any] = json.loads((HERE / "job.json").read_text())
JOB_PATH = f"/jobs/{JOB['id']}"
SHORT_TIMES = {
    "cron": "*/15 * * * * *",
    "min_interval_seconds": 12,
    "retry": {**JOB["retry"], "first_delay_seconds": 2, "max_delay_seconds": 4},
}
PATIENCE_SECONDS = 120.0


def free_port() -> int:
    """A port that nobody listens on, now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def say(*words: object) -> None:
    """What happens next."""
    print(f"\n# {' '.join(str(word) for word in words)}", flush=True)


class Play:
    """The three programs, the job, and what is done to them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.copy = root / "copy"
        self.ports = {name: free_port() for name in ("api", "getter", "cronpost")}
        self.programs: dict[str, subprocess.Popen[bytes]] = {}
        self.api = self._client("api")
        self.cronpost = self._client("cronpost")
        self._poked = ""
        self._poked_at = 0.0

    def _client(self, name: str) -> httpx.Client:
        return httpx.Client(base_url=f"http://127.0.0.1:{self.ports[name]}", trust_env=False)

    def start(self, name: str) -> None:
        """Start one of the programs; returns when it listens."""
        port = str(self.ports[name])
        sizes = ["orders=65", "customers=35", "events=25"]
        api = f"http://127.0.0.1:{self.ports['api']}"
        command = {
            "api": [str(HERE / "fake_api.py"), "--port", port, "--items", *sizes],
            "getter": [str(HERE / "getter.py"), "--port", port, "--api", api, "--root", str(self.copy)],
            "cronpost": ["-m", "scheduler_api", "serve", "--port", port, "--data-dir", str(self.root / "cronpost")],
        }[name]
        with (self.root / f"{name}.log").open("ab") as log:
            self.programs[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=PROJECT,
                stdout=None if name == "getter" else log,
                stderr=log,
                env={**{k: v for k, v in os.environ.items() if not k.startswith("CRONPOST_")}, "PYTHONUNBUFFERED": "1"},
            )
        probe = {"api": "/_asked", "getter": "/", "cronpost": "/ready"}[name]
        with self._client(name) as client:
            self.wait(lambda: answers(client, probe), poke=False)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.programs[name].kill()
        self.programs[name].wait()

    def close(self) -> None:
        """End all that was started."""
        for program in self.programs.values():
            program.terminate()
        for program in self.programs.values():
            program.wait()

    def wait(self, condition: Callable[[], bool], *, poke: bool = True) -> None:
        """Wait until it is so. Meanwhile the job is poked every second, by two at once."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            if time.monotonic() > end:
                raise SystemExit(f"this took too long; look into {self.root}")
            if poke and time.monotonic() > self._poked_at + 1:
                self._poked_at = time.monotonic()
                for _ in range(2):
                    self.poke()
            time.sleep(0.1)

    def poke(self) -> None:
        """``POST /jobs/{id}/run``; shown when it is answered in another way than the last time."""
        answer = self.cronpost.post(f"{JOB_PATH}/run")
        body = answer.json()
        word = body.get("skipped") or ("started" if answer.status_code == 202 else "a run is under way")
        if word != self._poked:
            print(f"{'':10}poked: {answer.status_code} {word}", flush=True)
        self._poked = word

    def fault(self, **fault: Any) -> None:
        """Give the API a bad moment."""
        self.api.post("/_faults", json=fault)

    def is_asked(self, endpoint: str, page: int) -> Callable[[], bool]:
        """Whether the API has a request open for this page."""

        def so() -> bool:
            asked = [one for one in self.api.get("/_asked").json()["asked"] if one["endpoint"] == endpoint]
            return asked[-1:] != [] and asked[-1]["status"] is None and asked[-1]["cursor"] == str((page - 1) * 10)

        return so

    def is_copied(self, **items: int) -> Callable[[], bool]:
        """Whether the copy has so many items, and nothing waits."""
        return lambda: all(self.count(name) == count for name, count in items.items()) and not self.pending()

    def count(self, endpoint: str) -> int:
        """How many items of an endpoint are on disk."""
        pages = (self.copy / endpoint).glob("*.json")
        return sum(len(json.loads(page.read_bytes())["items"]) for page in pages)

    def pending(self) -> list[dict[str, Any]]:
        """What waits."""
        found: list[dict[str, Any]] = self.cronpost.get(f"{JOB_PATH}/pending").json()["pending"]
        return found

    def show_pending(self) -> None:
        """What waits, and until when."""
        print(f"\n{'':10}GET {JOB_PATH}/pending")
        for entry in self.pending():
            print(f"{'':10}{entry['not_before']}  {json.dumps(entry['payload'])}")
        print(flush=True)

    def show_copy(self) -> None:
        """The tree of pages."""
        print()
        for directory in sorted(self.copy.iterdir()):
            names = [page.stem.lstrip("0") for page in sorted(directory.glob("*.json"))]
            print(f"{'':10}{directory.name:10} pages {' '.join(names):22} {self.count(directory.name)} items")
        print(flush=True)

    def show_account(self) -> None:
        """What Cronpost recorded, and what the API was asked."""
        records = self.cronpost.get(f"{JOB_PATH}/runs?misses=true&limit=1000").json()["runs"]
        runs = [one for one in records if one["kind"] == "run"]
        again = [one for one in runs if one["attempt"] > 1]
        held = [one for one in records if one["kind"] == "miss" and one["reason"] == "held"]
        print(f"\n{'':10}{len(runs)} runs, {len(again)} of them in more than one attempt:")
        for run in reversed(again):
            tries = ", ".join(str(one["status_code"] or one["outcome"]) for one in run["attempts"])
            print(f"{'':10}  run …{run['id'][-4:]}  {run['reason']}: {tries}")
        print(f"{'':10}the trigger was held while pages waited; misses recorded: {len(held)}")
        asked = self.api.get("/_asked").json()["asked"]
        print(f"{'':10}the API was asked {len(asked)} times, for {len(list(self.copy.rglob('*.json')))} pages on disk")

    def play(self) -> None:
        """The story."""
        say("a fake API with 65 orders, 35 customers and 25 events; a getter; Cronpost")
        for name in ("api", "getter", "cronpost"):
            self.start(name)
        say("bad moments lie ahead: customers page 2 says 429 with Retry-After, events say 500 twice")
        self.fault(endpoint="customers", cursor="10", status=429, retry_after=6)
        self.fault(endpoint="events", cursor="10", status=500, times=2)
        say("one job, for all endpoints and for all time. It is poked every second, by two at once")
        job = {**JOB, **SHORT_TIMES, "endpoint": f"http://127.0.0.1:{self.ports['getter']}/run"}
        self.cronpost.put(JOB_PATH, json=job).raise_for_status()
        self.wait(lambda: self.count("orders") >= 20)
        self.show_pending()
        say("orders page 5 takes long, and the getter is killed while it waits")
        self.fault(endpoint="orders", cursor="40", seconds=60)
        self.wait(self.is_asked("orders", 5))
        self.kill("getter")
        self.wait(
            lambda: any(entry["attempts"] for entry in self.pending() if entry["payload"]["endpoint"] == "orders")
        )
        say("it is back, and goes on with that page")
        self.api.delete("/_faults")
        self.start("getter")
        self.wait(self.is_copied(orders=65, customers=35, events=25))
        self.show_copy()
        say("the history is complete. 12 orders and 3 events come in; the next day's run gets them, and nothing else")
        self.api.post("/_items", json={"endpoint": "orders", "count": 12})
        self.api.post("/_items", json={"endpoint": "events", "count": 3})
        self.wait(self.is_copied(orders=77, customers=35, events=28))
        self.show_copy()
        say("8 customers come in, on a day on which Cronpost is killed in the middle of their page")
        self.api.post("/_items", json={"endpoint": "customers", "count": 8})
        self.fault(endpoint="customers", cursor="35", seconds=60)
        self.wait(lambda: self.api.get("/_asked").json()["asked"][-1]["status"] is None)
        self.kill("cronpost")
        say("it is back; the getter is still at it")
        self.start("cronpost")
        self.api.delete("/_faults")
        self.wait(self.is_copied(orders=77, customers=43, events=28))
        self.show_copy()
        say("the account")
        self.show_account()


def answers(client: httpx.Client, path: str) -> bool:
    """Whether something that is not in trouble answers there."""
    try:
        return client.get(path).status_code < 500
    except httpx.TransportError:
        return False


def main() -> None:
    """Play, and clean up."""
    parser = argparse.ArgumentParser(description="Plays the story of the getter in half a minute.")
    parser.add_argument("--root", type=Path, help="keep everything in this directory, which must be empty or new")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="getter-") as temporary:
        root = Path(temporary) if options.root is None else options.root.resolve()
        root.mkdir(parents=True, exist_ok=True)
        play = Play(root)
        try:
            play.play()
        finally:
            play.close()


if __name__ == "__main__":
    main()
