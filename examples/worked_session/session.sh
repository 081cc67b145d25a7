#!/usr/bin/env bash
# The worked session of docs/lifecycle.md: a runner that works, is busy (409), fails (503) and is killed, and a server
# that is killed. About two minutes. Needs .venv (make install), curl, and ports 8090 and 8091.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

data=$(mktemp -d)
server="http://127.0.0.1:8091"
say() { printf '\n%s  # %s\n' "$(date -u +%H:%M:%S)" "$*"; }
mood() { curl -sS -X PUT -d "$1" http://127.0.0.1:8090/mood; }
# Sleep until this many seconds after the next multiple of ten seconds.
until_ten() { sleep "$(python3 -c "import time; now = time.time(); print(10 - now % 10 + $1)")"; }
start_runner() { python3 examples/worked_session/runner.py 8090 & runner=$!; }
start_server() {
    .venv/bin/cronpost serve --port 8091 --data-dir "$data" --log-level error 2>>"$data/log" & serve=$!
    until curl -fs "$server/ready" >/dev/null; do sleep 0.05; done
}
finish() { kill "$serve" "$runner" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$data"; }
trap finish EXIT

start_runner
start_server
say "the job of the README, every 10 seconds"
curl -sS "$server/" -d '{
  "id": "job-scheduler-unique-id",
  "endpoint": "http://127.0.0.1:8090/enqueue",
  "cron": "*/10 * * * * * *",
  "payload": {"id": "1", "queue": "test-queue", "timeout": 30, "persist_data": true, "payload": "say my name"},
  "retry_already_running": 3,
  "recovery_check": true
}'
echo

until_ten 1
say "the runner is busy with the last run: 409 for 14 seconds"
mood 409
until_ten 0
sleep 14
mood 202
say "it is free again: the same run is taken, and stands for the fire times that passed"
sleep 4
until_ten 1
say "the runner is failing: 503"
mood 503
until_ten 13
say "it is well again"
mood 202
until_ten 1
say "the runner is killed"
kill -9 "$runner"; wait "$runner" 2>/dev/null || true
until_ten 5
say "it is back"
start_runner
until_ten 1
say "the server is killed with -9, for 25 seconds; its Redis goes with it"
kill -9 "$serve"; wait "$serve" 2>/dev/null || true
sleep 25
say "and started again"
start_server
until_ten 2

say "the account, newest first"
.venv/bin/cronpost jobs runs --server "$server" job-scheduler-unique-id
