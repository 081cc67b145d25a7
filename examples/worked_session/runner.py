"""A job runner whose answer can be set, for the worked session in docs/lifecycle.md. Standard library only.

    python3 examples/worked_session/runner.py 8090

POST /enqueue answers with the current status, 202 at first. PUT /mood with a status as its body changes it.
For each request it prints the time, fire time, attempt, end of the Idempotency-Key and answer.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

mood = 202


class Runner(BaseHTTPRequestHandler):
    """Answers with the current status."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        """Change the status."""
        global mood
        mood = int(self._body())
        self._answer(204)

    def do_POST(self) -> None:
        """Print the request and answer it."""
        self._body()
        now = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        print(
            f"{now}  fire time {self.headers['Cronpost-Fire-Time'][11:19]}  {self.headers['Cronpost-Reason']:<9}"
            f"  attempt {self.headers['Cronpost-Attempt']}  run …{self.headers['Idempotency-Key'][-4:]}"
            f"  fence {self.headers['Cronpost-Fence']}  -> {mood}",
            flush=True,
        )
        self._answer(mood)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name that http.server gives it
        """Log nothing: do_POST prints a line."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8090), Runner).serve_forever()
