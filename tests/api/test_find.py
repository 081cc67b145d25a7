"""``GET /jobs`` with conditions and orders, and the fields ``labels`` and ``description``."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from scheduler_api.context import Context
from scheduler_core.usecases.index_check import check_index
from tests.api.command_line import jobs
from tests.api.conftest import job


async def put_jobs(client: httpx.AsyncClient) -> None:
    for job_id, fields in {
        "a/billing": {"labels": {"team": "billing", "tier": "1"}, "description": "Sends invoices"},
        "a/sales": {"labels": {"team": "sales"}, "endpoint": "http://crm.test/hook"},
        "b/billing": {"labels": {"team": "billing"}, "cron": "0 0 1 1 *"},
        "b/plain": {},
    }.items():
        answer = await client.post("/", json=job(id=job_id, **fields))
        assert answer.status_code == 202, answer.text


async def ids(client: httpx.AsyncClient, query: str) -> list[str]:
    """List the ids of all pages along their links, each page with one job."""
    found: list[str] = []
    url: str | None = f"/jobs?limit=1&{query}"
    while url is not None:
        answer = await client.get(url)
        assert answer.status_code == 200, answer.text
        found += [one["id"] for one in answer.json()["jobs"]]
        url = answer.links["next"]["url"] if "next" in answer.links else None
    return found


@pytest.mark.parametrize("indexed", [True, False])
async def test_jobs_are_found_by_each_condition(client: httpx.AsyncClient, context: Context, indexed: bool) -> None:
    await put_jobs(client)
    await client.post("/jobs/a%2Fsales/pause")
    if indexed:
        await check_index(context.store, after="", limit=100)
        await context.store.find_store().mark_indexed()
    assert await ids(client, "label=team:billing") == ["a/billing", "b/billing"]
    assert await ids(client, "label=team") == ["a/billing", "a/sales", "b/billing"]
    assert await ids(client, "label=team:billing&label=tier:1") == ["a/billing"]
    assert await ids(client, "label=team:billing&label=team:sales") == []
    assert await ids(client, "label=team:billing&prefix=b") == ["b/billing"]
    assert await ids(client, "label=team&status=paused") == ["a/sales"]
    assert await ids(client, "health=unknown&status=active") == ["a/billing", "b/billing", "b/plain"]
    assert await ids(client, "health=failing") == []
    assert await ids(client, "q=INVOICES") == ["a/billing"]
    assert await ids(client, "q=crm.test") == ["a/sales"]
    assert await ids(client, "q=b/plain") == ["b/plain"]
    year_end = (await client.get("/jobs/b%2Fbilling")).json()["next_fire_times"][0]
    assert await ids(client, f"next_fire_before={year_end}") == ["a/billing", "b/plain"]
    assert await ids(client, f"next_fire_after={year_end}") == []


async def test_jobs_are_listed_in_order_of_their_next_fire(client: httpx.AsyncClient) -> None:
    await put_jobs(client)
    await client.post("/jobs/a%2Fbilling/pause")
    assert await ids(client, "sort=next_fire") == ["a/sales", "b/plain", "b/billing", "a/billing"]
    assert await ids(client, "sort=next_fire&label=team:billing") == ["b/billing", "a/billing"]
    assert await ids(client, "sort=-last_run") == []
    assert await ids(client, "sort=-consecutive_failures") == []


async def test_a_page_says_how_many_jobs_it_examined(client: httpx.AsyncClient) -> None:
    await put_jobs(client)
    page = (await client.get("/jobs?q=nothing")).json()
    assert page == {"jobs": [], "next": None, "examined": 4}


async def test_jobs_are_found_by_the_name_of_their_target(client: httpx.AsyncClient) -> None:
    made = await client.post("/targets", json={"name": "crm", "url": "http://crm.test/"})
    assert made.status_code == 201, made.text
    await client.post("/", json=job(id="to-crm", endpoint=..., target="crm"))
    await client.post("/", json=job(id="other"))
    assert await ids(client, "target=crm") == ["to-crm"]
    await client.put(f"/targets/{made.json()['id']}", json={"name": "sales"})
    assert await ids(client, "target=sales") == ["to-crm"]
    answer = await client.get("/jobs?target=crm")
    assert (answer.status_code, answer.json()["field"]) == (400, "target")


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("label=:x", "label"),
        ("label=" + "k" * 64, "label"),
        ("&".join(["label=a"] * 33), "label"),
        ("health=good", "health"),
        ("sort=name", "sort"),
        ("sort=next_fire&label=a&label=b", "sort"),
        ("sort=-last_run&prefix=a&status=active", "sort"),
        ("next_fire_before=tomorrow", "next_fire_before"),
        ("next_fire_after=2030-01-01T00:00:00", "next_fire_after"),
        ("q=" + "x" * 256, "q"),
        ("q=a&q=b", "q"),
    ],
)
async def test_a_condition_that_is_not_possible_is_refused_with_its_name(
    client: httpx.AsyncClient, query: str, field: str
) -> None:
    answer = await client.get(f"/jobs?{query}")
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text


async def test_a_sort_with_two_indexed_conditions_is_answered_with_what_is_possible(client: httpx.AsyncClient) -> None:
    answer = await client.get("/jobs?sort=next_fire&label=a&status=active")
    assert answer.json()["detail"] == (
        "sort=next_fire goes with at most one of prefix, label, status and target, and this request has 2 (label, "
        "status): leave out all but one, or sort by id"
    )


# ---- labels and description -------------------------------------------------------------------------------------


async def test_labels_and_description_are_shown_and_changed(client: httpx.AsyncClient) -> None:
    labels = {"team": "billing", "\u4e16 x": "", "url": "a:b"}
    sent = job(id="a", labels=labels, description="Line\nline")
    assert (await client.post("/", json=sent)).json()["changed"] is True
    shown = (await client.get("/jobs/a")).json()
    assert (shown["labels"], shown["description"]) == (labels, "Line\nline")
    reordered = sent | {"labels": dict(reversed(labels.items()))}
    assert (await client.post("/", json=reordered)).json()["changed"] is False
    assert (await client.post("/", json=sent | {"labels": None})).json()["version"] == 2
    shown = (await client.get("/jobs/a")).json()
    assert (shown["labels"], shown["description"]) == ({}, "Line\nline")
    assert await ids(client, "label=team") == []


async def test_a_label_can_have_any_value_and_32_keys(client: httpx.AsyncClient) -> None:
    labels = {f"{number:063}": "v" * 255 for number in range(32)}
    assert (await client.post("/", json=job(id="a", labels=labels))).status_code == 202
    assert await ids(client, f"label={0:063}:{'v' * 255}") == ["a"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"labels": {str(number): "" for number in range(33)}}, "labels"),
        ({"labels": {"": "x"}}, "labels"),
        ({"labels": {"k" * 64: "x"}}, "labels"),
        ({"labels": {"a:b": "x"}}, "labels"),
        ({"labels": {"a\n": "x"}}, "labels"),
        ({"labels": {"a": "v" * 256}}, "labels.a"),
        ({"labels": {"a": "\u202e"}}, "labels.a"),
        ({"labels": {"a": 1}}, "labels"),
        ({"labels": ["a"]}, "labels"),
        ({"description": "x" * 1001}, "description"),
        ({"description": 1}, "description"),
    ],
)
async def test_bad_labels_and_descriptions_are_refused(
    client: httpx.AsyncClient, fields: dict[str, Any], field: str
) -> None:
    answer = await client.post("/", json=job(id="a", **fields))
    assert (answer.status_code, answer.json()["field"]) == (400, field), answer.text
    assert await ids(client, "") == []


async def test_a_label_that_is_given_twice_is_refused(client: httpx.AsyncClient) -> None:
    body = b'{"id":"a","endpoint":"http://h/","cron":"@daily","payload":1,"labels":{"a":"1","a":"2"}}'
    answer = await client.post("/", content=body)
    assert (answer.status_code, answer.json()["field"]) == (400, "labels.a")


# ---- command line -----------------------------------------------------------------------------------------------


def test_the_command_line_lists_what_is_selected(cli_server: str) -> None:
    put = ("put", "--endpoint", "http://h/", "--payload", "1", "--labels")
    for job_id, labels, cron in (
        ("a", '{"team": "billing"}', "0 0 2 1 *"),
        ("b", '{"team": "sales"}', "0 0 1 1 *"),
        ("c", '{"team": "billing", "tier": "1"}', "0 0 1 1 *"),
    ):
        made = jobs(cli_server, *put, labels, "--cron", cron, "--description", f"Job {job_id}", job_id)
        assert made.exit_code == 0, made.stderr

    def listed(*options: str) -> list[str]:
        result = jobs(cli_server, "list", *options)
        assert result.exit_code == 0, result.stderr
        return [line.split(" ")[0] for line in result.stdout.splitlines()[1:]]

    assert listed("--label", "team:billing") == ["a", "c"]
    assert listed("--label", "team:billing", "--label", "tier") == ["c"]
    assert listed("--label", "team:billing", "--sort", "next_fire") == ["c", "a"]
    assert listed("--search", "JOB B") == listed("--text", "JOB B") == ["b"]
    assert listed("--health", "unknown", "--status", "active", "--prefix", "b") == ["b"]
    refused = jobs(cli_server, "list", "--label", "team", "--status", "active", "--sort", "next_fire")
    assert refused.exit_code == 4
    assert "goes with at most one of" in refused.stderr
    updated = jobs(cli_server, "update", "c", "--labels", '{"tier": null}')
    assert updated.exit_code == 0, updated.stderr
    assert listed("--label", "tier") == []
    assert jobs(cli_server, "update", "c", "--unset", "labels").exit_code == 0
    assert listed("--label", "team") == ["a", "b"]


# ---- rows, ids and known labels ---------------------------------------------------------------------------------


async def test_a_summary_has_what_a_row_needs_and_no_payload(client: httpx.AsyncClient) -> None:
    await client.post(
        "/",
        json=job(
            id="nightly",
            endpoint="http://crm.test/hook",
            cron="30 3 * * mon-fri",
            timezone="Europe/Berlin",
            labels={"team": "billing"},
            description="Exports",
        ),
    )
    await client.post("/", json=job(id="often", cron=..., every_seconds=90))
    await client.post("/", json=job(id="once", cron=..., at="2098-01-31T12:00:00Z"))
    await client.post("/", json=job(id="poked", cron=None))
    await client.post("/jobs/often/pause", json={"note": "upgrade"})
    page = (await client.get("/jobs?view=summary")).json()
    rows = {row["id"]: row for row in page["jobs"]}
    assert {name: row["fires"] for name, row in rows.items()} == {
        "nightly": "at 03:30:00 on weekdays (Monday to Friday)",
        "often": "every 1 minute and 30 seconds",
        "once": "once at 2098-01-31T12:00:00Z",
        "poked": "only on request",
    }
    whole = (await client.get("/jobs/nightly")).json()
    assert rows["nightly"].pop("next_fire_time") == whole["next_fire_times"][0]
    assert rows["nightly"].pop("fires")
    assert rows["nightly"].pop("open_run") is None
    assert rows["nightly"] == {name: whole[name] for name in rows["nightly"]}
    assert {"payload", "retry", "pending", "totals"}.isdisjoint(rows["nightly"])
    assert rows["often"]["next_fire_time"] is None
    assert (rows["often"]["held_for"], rows["often"]["pause_note"]) == ("paused", "upgrade")
    assert page["examined"] == 4
    answer = await client.get("/jobs?view=rows")
    assert (answer.status_code, answer.json()["field"]) == (400, "view")


async def test_the_jobs_of_ids_are_listed_in_their_order_without_those_that_are_gone(
    client: httpx.AsyncClient,
) -> None:
    await put_jobs(client)
    page = (await client.get("/jobs?view=summary&id=b/plain&id=a/sales&id=gone&id=a/sales")).json()
    assert [row["id"] for row in page["jobs"]] == ["a/sales", "b/plain"]
    assert (page["next"], page["examined"]) == (None, 3)
    for query in ("id=a&label=team", "id=a&sort=next_fire", "id=a&prefix=b", "&".join(["id=a"] * 1001)):
        answer = await client.get(f"/jobs?{query}")
        assert (answer.status_code, answer.json()["field"]) == (400, "id"), query


async def test_the_labels_that_jobs_have_are_listed_most_frequent_first(
    client: httpx.AsyncClient, context: Context
) -> None:
    await put_jobs(client)
    assert (await client.get("/labels")).json() == {
        "labels": [
            {"key": "team", "jobs": 3, "values": [{"value": "billing", "jobs": 2}, {"value": "sales", "jobs": 1}]},
            {"key": "tier", "jobs": 1, "values": [{"value": "1", "jobs": 1}]},
        ],
        "sampled": 4,
        "jobs": 4,
    }


async def test_the_labels_of_many_jobs_come_from_a_sample_but_are_counted_among_all(
    client: httpx.AsyncClient, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scheduler_core.usecases.labels.SAMPLE", 2)
    for number in range(5):
        await client.post("/", json=job(id=f"j{number}", labels={"team": "billing"}))
    assert (await client.get("/labels")).json() == {
        "labels": [{"key": "team", "jobs": 5, "values": [{"value": "billing", "jobs": 5}]}],
        "sampled": 2,
        "jobs": 5,
    }
    await client.delete("/jobs/j0")  # the answer is kept for a minute
    assert (await client.get("/labels")).json()["jobs"] == 5
