"""A client that a generator makes from ``/openapi.json`` works against a real server."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scheduler_api.routes import document
from tests.api.command_line import KEY
from tests.support.once import once

PACKAGE = "cronpost_client"


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the generated package. The generator needs no network."""
    return once(tmp_path_factory, "generated_client", generate)


def generate(folder: Path) -> None:
    (folder / "openapi.json").write_text(json.dumps(document(keys=True)))
    # Its post hooks would run ruff on the code.
    (folder / "config.yml").write_text(f"post_hooks: []\npackage_name_override: {PACKAGE}\n")
    command = [sys.executable, "-m", "openapi_python_client", "generate", "--path", "openapi.json", "--meta", "none"]
    command += ["--config", "config.yml", "--output-path", PACKAGE, "--fail-on-warning", "--overwrite"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def api(generated: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Imports a module of the generated package by its name below the package."""
    monkeypatch.syspath_prepend(generated)

    def module(name: str) -> Any:
        return importlib.import_module(f"{PACKAGE}.{name}")

    return module


def test_every_operation_is_generated(generated: Path) -> None:
    made = {path.stem for path in (generated / PACKAGE / "api").glob("*/*.py")} - {"__init__"}
    operations = [one for item in document(keys=True)["paths"].values() for name, one in item.items()]
    described = {one["operationId"] for one in operations if isinstance(one, dict)}
    # The pages and this document are for browsers and generators.
    assert described - made <= {"get_docs", "get_redoc", "get_links"}
    assert made <= described


def test_the_client_creates_changes_and_lists_a_job(api: Any, cli_server: str) -> None:
    models = api("models")
    with api("client").AuthenticatedClient(base_url=cli_server, token=KEY, raise_on_unexpected_status=True) as client:
        body = models.JobBody(id="plain", endpoint="http://localhost:8080/", cron="@daily", payload={"a": 1})
        stored = api("api.jobs.upsert_job").sync(client=client, body=body)
        assert isinstance(stored, models.Upserted)
        assert (stored.id, stored.changed, stored.version) == ("plain", True, 1)
        changed = models.JobPutBody(endpoint="http://localhost:8080/", cron="@hourly", payload=None)
        stored = api("api.jobs.put_job").sync("plain", client=client, body=changed)
        assert (stored.changed, stored.version) == (True, 2)
        page = api("api.jobs.list_jobs").sync(client=client, status=models.JobStatus.ACTIVE)
        assert [(one.id, one.cron) for one in page.jobs] == [("plain", "@hourly")]
        got = api("api.jobs.get_job").sync("plain", client=client)
        assert got.max_concurrent is None
        assert got.status is models.JobStatus.ACTIVE
        history = api("api.history.list_job_runs").sync("plain", client=client)
        assert history.runs == []
        refused = api("api.jobs.delete_job").sync("other", client=client)
        assert isinstance(refused, models.Problem)
        assert refused.code == "job_not_found"


def test_the_client_changes_a_task_setting_and_a_field_of_a_target(api: Any, cli_server: str) -> None:
    models = api("models")
    with api("client").AuthenticatedClient(base_url=cli_server, token=KEY, raise_on_unexpected_status=True) as client:
        change = api("api.one_off_tasks.update_task_settings")
        change.sync(client=client, body=models.TaskSettingsChange(select_size=7))
        settings = change.sync(client=client, body=models.TaskSettingsChange(max_retries=2))
        assert (settings.select_size, settings.max_retries) == (7, 2)
        target = models.TargetBody(name="t", url="http://localhost:8080/", method=models.TargetMethod.POST)
        made = api("api.targets.create_target").sync(client=client, body=target)
        changed = api("api.targets.update_target").sync(made.id, client=client, body=models.TargetChange(name="u"))
        assert (changed.name, changed.method) == ("u", models.TargetMethod.POST)


async def test_the_client_reads_the_runs_of_a_job(api: Any, cli_server_with_node: tuple[str, Any]) -> None:
    url, _ = cli_server_with_node
    models = api("models")
    async with api("client").AuthenticatedClient(base_url=url, token=KEY, raise_on_unexpected_status=True) as client:
        body = models.JobBody(id="ran", endpoint="http://127.0.0.1:9/", cron="@yearly", payload=1)
        await api("api.jobs.upsert_job").asyncio(client=client, body=body)
        accepted = await api("api.runs_on_request.run_job").asyncio("ran", client=client, body=models.RunNow())
        assert isinstance(accepted, models.RunAccepted)
        async with asyncio.timeout(20):
            runs: list[Any] = []
            while not runs:
                runs = (await api("api.history.list_job_runs").asyncio("ran", client=client)).runs
                await asyncio.sleep(0.02)
        assert isinstance(runs[0], models.Run)
        assert runs[0].state is models.RunState.SUCCEEDED
        found = await api("api.history.get_run").asyncio(accepted.run_id, client=client)
        assert found.attempts[0].status is models.RunStatus.SUCCESS
