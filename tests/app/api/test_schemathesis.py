"""The OpenAPI document is taken at its word: requests generated from it, sent to a real server, never find a crash."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from app.db.session import Database
from app.main import create_app
from app.services.keys import KeyService
from app.settings import Settings
from tests.app.api.conftest import make_settings

CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance, status_code_conformance]


@pytest.fixture(scope="module")
def server_settings(tmp_path_factory: pytest.TempPathFactory, initializers_dir: Path) -> Settings:
    """The settings of the server under test."""
    return make_settings(tmp_path_factory.mktemp("server"), "", initializers_dir)


@pytest.fixture(scope="module")
def server_url(server_settings: Settings) -> Iterator[str]:
    """A server in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(create_app(server_settings), port=0, log_config=None, access_log=False))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


async def _make_admin_key(server_settings: Settings) -> str:
    database = Database(server_settings.resolved_database_url)
    try:
        return await KeyService(database).create("schemathesis", ("user", "admin"))
    finally:
        await database.close()


# The server's thread draws its own random numbers (jitter) while a case is drawn here, and Hypothesis takes them for the strategy's.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning")
async def test_requests_made_from_the_document_find_no_crash(server_settings: Settings, server_url: str) -> None:
    headers = {"Authorization": f"Bearer {await _make_admin_key(server_settings)}"}
    schema = schemathesis.openapi.from_url(f"{server_url}/openapi.json")
    n_calls = 0

    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()

        @settings(max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def call(case: schemathesis.Case[Any]) -> None:
            nonlocal n_calls
            n_calls += 1
            case.call_and_validate(base_url=server_url, headers=headers, checks=CHECKS)

        call()
    assert n_calls > 50
