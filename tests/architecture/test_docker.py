"""The container files, checked without an engine: linted, and built of commands that make runs too."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.documents import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
SECRETS = {"POSTGRES_PASSWORD": "p", "REDIS_PASSWORD": "r"}


def dry_run(target: str) -> str:
    """What make would run for a target on a fresh clone."""
    command = ["make", "--dry-run", "--always-make", target, "PYTHON=python3", "PIP_FLAGS=$$PIP_FLAGS"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_every_run_line_is_a_command_of_the_makefile() -> None:
    lines = re.findall(r"^RUN (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    commands = dry_run("install").splitlines()
    assert lines
    assert [line for line in lines if line not in commands] == [], commands


def test_hadolint_has_nothing_to_say() -> None:
    hadolint = Path(sys.prefix) / "bin" / "hadolint"
    if not hadolint.exists():
        pytest.skip("hadolint has no build for this platform")
    outcome = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stdout


def test_the_image_runs_without_root_and_tells_its_health() -> None:
    text = (ROOT / "Dockerfile").read_text()
    final = text.rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001", final, re.MULTILINE)
    assert re.search(r"^HEALTHCHECK ", final, re.MULTILINE)
    assert text.count("\nFROM ") == 2, "two stages: pip and its caches stay behind"


def test_everything_the_image_copies_is_there_and_not_ignored() -> None:
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for source in [name for line in copied for name in line.split()[:-1]]:
        assert (ROOT / source).exists(), source
        assert source.partition("/")[0] in allowed, source


def find_compose() -> list[str]:
    """`docker compose`, or the program that came before the plugin; skips where neither is."""
    for command in (["docker", "compose"], ["docker-compose"]):
        if shutil.which(command[0]) and subprocess.run([*command, "version"], capture_output=True).returncode == 0:
            return command
    pytest.skip("docker compose is not on this machine; the tests below read the file themselves")


def test_docker_compose_accepts_the_file() -> None:
    command = [*find_compose(), "-f", "docker-compose.yml", "config", "--quiet"]
    outcome = subprocess.run(command, cwd=ROOT, env={"PATH": "/usr/bin:/usr/local/bin", **SECRETS}, capture_output=True, text=True)
    assert outcome.returncode == 0, outcome.stderr


def test_compose_has_api_worker_redis_and_postgres() -> None:
    assert {"api", "worker", "redis", "postgres"} <= set(SERVICES)
    assert set(COMPOSE["volumes"]) == {"redis", "postgres"}


def test_the_worker_can_be_scaled() -> None:
    assert not {"container_name", "ports", "hostname"} & set(SERVICES["worker"])


def test_every_dependency_is_gated_by_health_or_completion() -> None:
    for name, service in SERVICES.items():
        for needed, gate in service.get("depends_on", {}).items():
            expected = "service_completed_successfully" if needed == "migrate" else "service_healthy"
            assert gate["condition"] == expected, f"{name} -> {needed}"
            assert needed == "migrate" or "test" in SERVICES[needed]["healthcheck"], needed


def test_only_the_api_has_a_port_and_it_is_on_loopback() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert set(published) == {"api"}
    assert all(port.startswith("127.0.0.1:") for port in published["api"])


def test_a_worker_is_asked_whether_it_lives_on_the_port_that_it_is_given() -> None:
    _, option, port = SERVICES["worker"]["command"]
    assert option == "--metrics-port"
    assert f"127.0.0.1:{port}/livez" in SERVICES["worker"]["healthcheck"]["test"][-1]


@pytest.mark.parametrize("name", ["migrate", "api", "worker"])
def test_the_services_run_commands_that_exist(name: str) -> None:
    outcome = subprocess.run([sys.executable, "-m", "app.cli", *SERVICES[name]["command"], "--help"], cwd=ROOT, capture_output=True)
    assert outcome.returncode == 0


def test_every_variable_of_compose_is_a_setting() -> None:
    from app.settings import Settings

    names = {f"INNERLOOP_{field.upper()}" for field in Settings.model_fields}
    assert set(SERVICES["api"]["environment"]) <= names
    in_image = set(re.findall(r"\b(INNERLOOP_\w+)=", (ROOT / "Dockerfile").read_text()))
    assert in_image
    assert in_image <= names
