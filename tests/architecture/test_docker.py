"""Checks of the container image and the compose files that need no Docker."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scheduler_api.cli.main import COMMANDS
from scheduler_core.base.config import BY_NAME

DOCKER = Path(__file__).parents[2] / "docker"
COMPOSE = sorted(path.name for path in DOCKER.glob("compose*.yaml"))
DOCKERFILE = (DOCKER / "Dockerfile").read_text()


def services(name: str) -> dict[str, dict[str, Any]]:
    read: dict[str, dict[str, Any]] = yaml.safe_load((DOCKER / name).read_text())["services"]
    return read


def of_cronpost(name: str) -> dict[str, dict[str, Any]]:
    return {key: service for key, service in services(name).items() if service.get("image") == "cronpost"}


def test_there_are_compose_files_for_each_kind_of_redis() -> None:
    assert COMPOSE == ["compose.cluster.yaml", "compose.sentinel.yaml", "compose.yaml"]


@pytest.mark.parametrize("name", COMPOSE)
def test_api_and_nodes_share_redis_and_the_address_for_callbacks(name: str) -> None:
    found = of_cronpost(name)
    assert sorted(found) == ["api", "node"]
    for shared in ("CRONPOST_REDIS_URL", "CRONPOST_PUBLIC_URL"):
        assert found["api"]["environment"][shared] == found["node"]["environment"][shared]
    assert found["api"]["environment"]["CRONPOST_API_KEYS"]
    for service in found.values():
        assert set(service["environment"]) <= {setting.env for setting in BY_NAME.values()}
        assert service["command"][0] in COMMANDS


@pytest.mark.parametrize("name", COMPOSE)
def test_every_service_that_keeps_running_has_a_health_check(name: str) -> None:
    for service in of_cronpost(name).values():
        assert "healthcheck" not in service, "the image has one"
    node = of_cronpost(name)["node"]["environment"]
    assert node["CRONPOST_METRICS_PORT"], "without it the check can only say that the container runs"
    assert node["CRONPOST_HOST"] == "127.0.0.1", "another address would need keys"
    for key, service in services(name).items():
        if service["image"] != "cronpost" and "restart" in service:
            assert service["healthcheck"]["test"], key


@pytest.mark.parametrize("name", COMPOSE)
def test_the_example_contains_every_variable_without_a_default(name: str) -> None:
    text = (DOCKER / name).read_text()
    example = (DOCKER / "env.example").read_text()
    listed = set(re.findall(r"^#?([A-Z_]+)=", example, re.MULTILINE))
    used = set(re.findall(r"(?<!\$)\$\{([A-Z_]+)", text))
    assert used
    assert used <= listed


def test_all_compose_files_have_the_same_redis() -> None:
    images = {s["image"] for name in COMPOSE for s in services(name).values() if s["image"] != "cronpost"}
    assert len(images) == 1


def test_the_health_check_of_the_image_is_a_command_of_cronpost() -> None:
    found = re.search(r"^HEALTHCHECK .*CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    program, command = json.loads(found[1])
    assert program == "cronpost"
    assert command in COMMANDS


def test_the_image_is_labelled_and_has_no_pip() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    for label in ("title", "description", "licenses", "version", "revision"):
        assert f"org.opencontainers.image.{label}=" in final
    assert "pip uninstall --yes pip" in DOCKERFILE
    assert "pip" not in re.sub(r"(?m)^#.*|^ENV(.|\\\n)*", "", final)
