"""A job runner in one file: does the work of each run once, and answers 409 while it is busy.

    python3 examples/runner.py              # on port 8080, or: examples/runner.py 9000, or PORT=9000
    cronpost jobs put --file examples/job.json

It shows the three answers that matter to Cronpost. 202: accepted. 409: the previous run of this job is still going on;
try again later. 202 again for a run that it has already seen: a run can be delivered twice, always with the same
``Idempotency-Key``. A real runner stores the keys, so that a restart does not lose them.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PORT = 8080
WORK_SECONDS = 4.0
KEYS_KEPT = 1000

lock = threading.Lock()
seen: dict[str, None] = {}
busy: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    """Handles a request of Cronpost."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        payload = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
        job, key = self.headers["Cronpost-Job-Id"] or "-", self.headers["Idempotency-Key"] or "-"
        with lock:
            if key in seen:
                status, word = 202, "seen before"
            elif job in busy:
                status, word = 409, "busy"
            else:
                status, word = 202, "started"
                seen[key] = None
                while len(seen) > KEYS_KEPT:
                    del seen[next(iter(seen))]
                busy.add(job)
                threading.Thread(target=work, args=(job, payload), daemon=True).start()
        fire_time, attempt = self.headers["Cronpost-Fire-Time"], self.headers["Cronpost-Attempt"]
        print(f"{fire_time}  {job}  attempt {attempt}  {status} {word}", flush=True)
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing: do_POST prints a line."""


def work(job: str, payload: object) -> None:
    """Do the work of the job."""
    time.sleep(WORK_SECONDS)
    print(f"{' ' * 22}{job}  done: {payload!r}", flush=True)
    with lock:
        busy.discard(job)


if __name__ == "__main__":
    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT", PORT))
    server = ThreadingHTTPServer(("localhost", port), Handler)
    print(f"Runner on http://localhost:{server.server_port}/enqueue", flush=True)
    server.serve_forever()
