"""A runner that accepts only requests which Cronpost signed (Standard Webhooks); needs no package.

    WEBHOOK_KEYS=whsec_... python3 examples/signed_receiver.py [PORT]

Several keys are separated by commas, while the sender changes its key.
"""

import base64
import hashlib
import hmac
import os
import sys
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLERANCE_SECONDS = 300
"""A signature of another time is refused, so that nobody can repeat an old request."""


def is_signed(headers: Mapping[str, str], body: bytes, keys: list[str], now: float) -> bool:
    """Return whether one of ``keys`` signed the request at about this time. The names of ``headers`` are lower case."""
    try:
        message_id, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split()
        if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
            return False
    except (KeyError, ValueError, AttributeError):
        return False
    content = f"{message_id}.{timestamp}.".encode() + body
    for key in keys:
        secret = base64.b64decode(key.removeprefix("whsec_"))
        if not secret:
            continue  # anybody could sign with an empty key
        expected = "v1," + base64.b64encode(hmac.new(secret, content, hashlib.sha256).digest()).decode()
        # In constant time: how long the answer takes must not show how much of a signature is right.
        if any(hmac.compare_digest(expected.encode(), signature.encode()) for signature in signatures):
            return True
    return False


class Handler(BaseHTTPRequestHandler):
    """Answers 200 to a signed request, 401 to any other."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        signed = is_signed(headers, body, os.environ["WEBHOOK_KEYS"].split(","), time.time())
        print(f"{self.headers.get('webhook-id')}: {'signed' if signed else 'refused'}", flush=True)
        self.send_response(200 if signed else 401)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Print no line for each request."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 8082), Handler)
    print(f"signed receiver on http://127.0.0.1:{server.server_port}/", flush=True)
    server.serve_forever()
