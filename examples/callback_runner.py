"""A runner for work that takes longer than a request: takes the run, sends heartbeats, reports the result.

    python3 examples/callback_runner.py [PORT]
    cronpost jobs put slow --endpoint http://localhost:8081/ --cron "@hourly" --payload '{"seconds": 5}' \\
        --completion callback --heartbeat-timeout-seconds 10
    cronpost jobs run slow

A real runner stores the ids of the runs that it has taken, so that a restart does not lose them.
"""

import json
import sys
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

HEARTBEAT_SECONDS = 2.0
lock = threading.Lock()
taken: set[str] = set()


def work(payload: Any, url: str, heartbeat_url: str, token: str) -> None:
    """Do the work of the job, then report the result; a failure with its reason."""
    try:
        end = time.monotonic() + float(payload["seconds"])
        while (left := end - time.monotonic()) > 0:
            send(heartbeat_url, token, {"note": f"{left:.0f} s left"})
            time.sleep(min(left, HEARTBEAT_SECONDS))
        result = {"state": "succeeded", "message": "slept well"}
    except Exception as error:  # noqa: BLE001 - every failure is reported, so that the run does not wait for its timeout
        result = {"state": "failed", "message": f"{type(error).__name__}: {error}"}
    send(url, token, result)


def send(url: str, token: str, body: dict[str, str], attempts: int = 5) -> None:
    """Send a heartbeat or the result of a run. Retry after a network error: sending it twice is harmless."""
    headers = {"Cronpost-Callback-Token": token}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)  # noqa: S310 - Cronpost's own address
    try:
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
    except OSError:
        if attempts > 1:
            time.sleep(1)
            send(url, token, body, attempts - 1)


class Handler(BaseHTTPRequestHandler):
    """Handles a request of Cronpost: 202 means that the run is taken."""

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        names = ("Cronpost-Callback-Url", "Cronpost-Heartbeat-Url", "Cronpost-Callback-Token")
        with lock:  # a run can be delivered twice, with the same Idempotency-Key
            if self.headers["Idempotency-Key"] not in taken:
                taken.add(self.headers["Idempotency-Key"])
                threading.Thread(target=work, args=(payload, *map(self.headers.get, names)), daemon=True).start()
        self.send_response(202)
        self.send_header("Content-Length", "0")
        self.end_headers()


if __name__ == "__main__":
    server = ThreadingHTTPServer(("localhost", int(sys.argv[1]) if len(sys.argv) > 1 else 8081), Handler)
    print(f"Runner on http://localhost:{server.server_port}", flush=True)
    server.serve_forever()
