"""Shows this example in half a minute: a first copy, faults of the API, killed programs, and new items.

    .venv/bin/python examples/api_getter/demo.py

Starts the fake API, the getter and a Cronpost with its own Redis, all on free ports and in a directory that is removed
at the end (``--root`` keeps it). A day lasts fifteen seconds. Lines that begin with a time are the getter's.
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
    """Find a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def say(*words: object) -> None:
    """Print what happens next."""
    print(f"\n# {' '.join(str(word) for word in words)}", flush=True)


class Play:
    """Starts and kills the three programs, and changes the job."""

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
        """End all programs."""
        for program in self.programs.values():
            program.terminate()
        for program in self.programs.values():
            program.wait()

    def wait(self, condition: Callable[[], bool], *, poke: bool = True) -> None:
        """Wait for a condition. Meanwhile request a run every second, twice at once."""
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
        """``POST /jobs/{id}/run``; print the answer if it differs from the last one."""
        answer = self.cronpost.post(f"{JOB_PATH}/run")
        body = answer.json()
        word = body.get("skipped") or ("started" if answer.status_code == 202 else "a run is under way")
        if word != self._poked:
            print(f"{'':10}run requested: {answer.status_code} {word}", flush=True)
        self._poked = word

    def fault(self, **fault: Any) -> None:
        """Add a fault to the API."""
        self.api.post("/_faults", json=fault)

    def is_asked(self, endpoint: str, page: int) -> Callable[[], bool]:
        """Return whether the API has a request open for this page."""

        def so() -> bool:
            asked = [one for one in self.api.get("/_asked").json()["asked"] if one["endpoint"] == endpoint]
            return asked[-1:] != [] and asked[-1]["status"] is None and asked[-1]["cursor"] == str((page - 1) * 10)

        return so

    def is_copied(self, **items: int) -> Callable[[], bool]:
        """Return whether the copy has this many items and nothing is pending."""
        return lambda: all(self.count(name) == count for name, count in items.items()) and not self.pending()

    def count(self, endpoint: str) -> int:
        """Count the items of an endpoint on disk."""
        pages = (self.copy / endpoint).glob("*.json")
        return sum(len(json.loads(page.read_bytes())["items"]) for page in pages)

    def pending(self) -> list[dict[str, Any]]:
        """Read the pending list."""
        found: list[dict[str, Any]] = self.cronpost.get(f"{JOB_PATH}/pending").json()["pending"]
        return found

    def show_pending(self) -> None:
        """Print the pending list."""
        print(f"\n{'':10}GET {JOB_PATH}/pending")
        for entry in self.pending():
            print(f"{'':10}{entry['not_before']}  {json.dumps(entry['payload'])}")
        print(flush=True)

    def show_copy(self) -> None:
        """Print the pages on disk."""
        print()
        for directory in sorted(self.copy.iterdir()):
            names = [page.stem.lstrip("0") for page in sorted(directory.glob("*.json"))]
            print(f"{'':10}{directory.name:10} pages {' '.join(names):22} {self.count(directory.name)} items")
        print(flush=True)

    def show_account(self) -> None:
        """Print what Cronpost recorded, and how many requests the API got."""
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
        print(f"{'':10}the API got {len(asked)} requests, for {len(list(self.copy.rglob('*.json')))} pages on disk")

    def play(self) -> None:
        """Run the example."""
        say("a fake API with 65 orders, 35 customers and 25 events; a getter; Cronpost")
        for name in ("api", "getter", "cronpost"):
            self.start(name)
        say("faults: customers page 2 answers 429 with Retry-After, events answer 500 twice")
        self.fault(endpoint="customers", cursor="10", status=429, retry_after=6)
        self.fault(endpoint="events", cursor="10", status=500, times=2)
        say("one job for all endpoints. A run is requested every second, twice at once")
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
        say("the getter is back, and continues with that page")
        self.api.delete("/_faults")
        self.start("getter")
        self.wait(self.is_copied(orders=65, customers=35, events=25))
        self.show_copy()
        say("the copy is complete. 12 orders and 3 events are added; the next day's run gets only these")
        self.api.post("/_items", json={"endpoint": "orders", "count": 12})
        self.api.post("/_items", json={"endpoint": "events", "count": 3})
        self.wait(self.is_copied(orders=77, customers=35, events=28))
        self.show_copy()
        say("8 customers are added, and Cronpost is killed while their page is fetched")
        self.api.post("/_items", json={"endpoint": "customers", "count": 8})
        self.fault(endpoint="customers", cursor="35", seconds=60)
        self.wait(lambda: self.api.get("/_asked").json()["asked"][-1]["status"] is None)
        self.kill("cronpost")
        say("Cronpost is back; the getter is still fetching")
        self.start("cronpost")
        self.api.delete("/_faults")
        self.wait(self.is_copied(orders=77, customers=43, events=28))
        self.show_copy()
        say("the account")
        self.show_account()


def answers(client: httpx.Client, path: str) -> bool:
    """Return whether a program answers there without an error."""
    try:
        return client.get(path).status_code < 500
    except httpx.TransportError:
        return False


def main() -> None:
    """Run the example, and clean up."""
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
