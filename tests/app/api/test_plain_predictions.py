"""A POST without parameters goes a shorter way to the same endpoint: nothing that a client or an operator sees may tell."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from app import telemetry
from app.api import predictions
from tests.app.api.conftest import Service, make_task, npy, strokes

JSON_BODY: dict[str, Any] = {"json": {"inputs": (strokes(2) / 255).tolist()}}
CASES: dict[str, dict[str, Any]] = {
    "json": JSON_BODY,
    "npy": {"content": npy(strokes(2)), "headers": {"Content-Type": "application/x-npy"}},
    "no json": {"content": b"{"},
    "unknown key": {"json": {"queries": []}},
    "another shape": {"json": {"inputs": [[1.0, 2.0]]}},
    "unknown media": {"content": b"x", "headers": {"Content-Type": "text/plain"}},
    "compressed": {"content": b"x", "headers": {"Content-Encoding": "gzip"}},
    "too large": {"content": b" " * 500_000},
    "wrong key": {**JSON_BODY, "headers": {"Authorization": "Bearer nothing"}},
}
_CHANGING = {"x-request-id", "server-timing", "content-length"}


async def both_ways(client: httpx.AsyncClient, url: str, **request: Any) -> tuple[httpx.Response, httpx.Response]:
    """The answer of the plain route, and FastAPI's, which has a parameter that changes nothing."""
    return await client.post(url, **request), await client.post(url, params={"record": "false"}, **request)


def content_of(response: httpx.Response) -> dict[str, Any]:
    """What does not change from one request to the next."""
    return {name: value for name, value in response.json().items() if name not in {"trace_id", "timings_ms", "created_at"}}


def assert_alike(plain: httpx.Response, full: httpx.Response) -> None:
    headers = [{name: value for name, value in each.headers.items() if name not in _CHANGING} for each in (plain, full)]
    assert (plain.status_code, headers[0]) == (full.status_code, headers[1])
    assert content_of(plain) == content_of(full)
    assert set(plain.headers) == set(full.headers)


@pytest.mark.parametrize("name", CASES)
async def test_both_ways_give_one_answer(service: Service, name: str) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    assert_alike(*await both_ways(service.user, url, **CASES[name]))


@pytest.mark.parametrize("task_id", ["task_unknown", "no.id", "%00", "a%2Fb"])
async def test_both_ways_know_no_other_tasks(service: Service, task_id: str) -> None:
    plain, full = await both_ways(service.user, f"/v1/tasks/{task_id}/predictions", **JSON_BODY)
    assert plain.status_code == 404
    assert_alike(plain, full)


async def test_both_ways_ask_for_a_key_and_for_its_scope_first(service: Service) -> None:
    assert_alike(*await both_ways(service.nobody, "/v1/tasks/no.id/predictions", content=b"{"))


async def test_another_method_is_answered_as_ever(service: Service) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    assert (await service.user.get(url)).status_code == 200
    refused = await service.user.put(url)
    assert (refused.status_code, refused.json()["code"]) == (405, "method_not_allowed")


async def test_the_document_has_the_endpoint_once_with_its_parameters(service: Service) -> None:
    paths = (await service.nobody.get("/openapi.json")).json()["paths"]
    (path,) = [path for path in paths if path.endswith("/predictions")]
    assert {parameter["name"] for parameter in paths[path]["post"]["parameters"]} == {"task_id", "record", "explain"}


async def test_its_requests_are_counted_under_the_route(service: Service) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    await service.user.post(url, **JSON_BODY)
    page = (await service.nobody.get("/metrics")).text
    assert re.search(r'http_server_request_duration_seconds_count\{[^}]*http_route="/v1/tasks/\{task_id\}/predictions"', page)


async def test_a_process_that_is_traced_leaves_them_to_fastapi(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    monkeypatch.setattr(predictions, "_predict_plainly", None)  # whoever goes there is answered 500
    assert (await service.user.post(url, **JSON_BODY)).status_code == 500
    monkeypatch.setattr(trace, "get_tracer_provider", TracerProvider)
    assert telemetry.is_traced()
    assert (await service.user.post(url, **JSON_BODY)).status_code == 200
