"""Which answers are compressed: lists of runs, statistics and the forecast, for clients that accept gzip."""

from __future__ import annotations

import httpx
import pytest

PATHS = ["/statistics", "/forecast?wait_seconds=30"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_long_answer_is_compressed_for_a_client_that_accepts_it(client: httpx.AsyncClient, path: str) -> None:
    plain = await client.get(path, headers={"Accept-Encoding": "identity"})
    short = await client.get(path, headers={"Accept-Encoding": "br, gzip"})
    assert "content-encoding" not in plain.headers
    assert short.headers["content-encoding"] == "gzip"
    assert plain.headers["vary"] == short.headers["vary"] == "Accept-Encoding"
    assert int(short.headers["content-length"]) < len(plain.content) / 3
    assert short.json().keys() == plain.json().keys()


@pytest.mark.parametrize("accepted", ["gzip;q=0", "gzip; q=0.0, br", "*", "xgzip", ""])
async def test_it_is_not_compressed_for_others(client: httpx.AsyncClient, accepted: str) -> None:
    answer = await client.get("/statistics", headers={"Accept-Encoding": accepted})
    assert "content-encoding" not in answer.headers
    assert answer.json()["buckets"]


async def test_lists_of_runs_are_compressed_and_payloads_are_not(client: httpx.AsyncClient) -> None:
    body = {"endpoint": "http://127.0.0.1:9/", "cron": None, "payload": {"text": "x" * 5000}}
    await client.put("/jobs/long", json=body)
    for path in ("/runs?job_id=long", "/jobs/long/runs"):
        assert (await client.get(path)).headers["vary"] == "Accept-Encoding"
    for path in ("/jobs/long", "/jobs?view=full"):
        answer = await client.get(path)
        assert len(answer.content) > 5000
        assert "content-encoding" not in answer.headers
        assert "vary" not in answer.headers
