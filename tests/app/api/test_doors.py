"""Keys, scopes, health, metrics, reloads, the documentation: what surrounds the resources."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api import examples
from app.api.schemas import PredictionSetJson, TaskJson
from app.errors import Unavailable
from app.settings import Settings
from models.card import Limits
from tests.app.api.conftest import INK, Service, make_card, make_task, run_service, strokes, task_body, write_initializer


async def test_the_docs_page_asks_nothing_of_other_hosts(service: Service) -> None:
    page = (await service.nobody.get("/docs")).text
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(sources) >= 2
    for source in sources:
        assert source.startswith("/"), source
        assert (await service.nobody.get(source)).status_code == 200, source


@pytest.mark.parametrize("url", ["/livez", "/readyz", "/metrics", "/docs", "/openapi.json"])
async def test_health_metrics_and_documentation_are_open(service: Service, url: str) -> None:
    response = await service.nobody.get(url)
    assert response.status_code == 200
    assert response.headers["x-request-id"]


@pytest.mark.parametrize("url", ["/v1/tasks", "/v1/initializers", "/v1/admin/keys"])
async def test_everything_else_needs_a_key(service: Service, url: str) -> None:
    wrong = [{}, {"Authorization": "Bearer il_00000000_" + "x" * 43}, {"X-API-Key": "what"}, {"Authorization": "Basic abc"}]
    for headers in wrong:
        response = await service.nobody.get(url, headers=headers)
        assert (response.status_code, response.json()["code"]) == (401, "unauthenticated")
        assert response.headers["www-authenticate"].startswith("Bearer")


async def test_a_key_is_also_taken_from_x_api_key(service: Service) -> None:
    key = service.user.headers["authorization"].removeprefix("Bearer ")
    assert (await service.nobody.get("/v1/tasks", headers={"X-API-Key": key})).status_code == 200


async def test_the_first_url_logs_a_browser_in_and_hides_the_key(service: Service) -> None:
    key = service.admin.headers["authorization"].removeprefix("Bearer ")
    response = await service.nobody.get("/", params={"key": key})
    assert (response.status_code, response.headers["location"]) == (303, "/docs")
    assert "HttpOnly" in response.headers["set-cookie"]
    assert "samesite=strict" in response.headers["set-cookie"].lower()
    assert (await service.nobody.get("/v1/admin/keys")).status_code == 200  # the client kept the cookie
    assert (await service.user.get("/", params={"key": "il_wrong"})).status_code == 401
    assert (await service.user.get("/")).headers["location"] == "/docs"


async def test_admin_work_needs_the_admin_scope(service: Service) -> None:
    calls = [("GET", "/v1/admin/keys"), ("POST", "/v1/admin/keys"), ("POST", "/v1/admin/initializers/tiny-ink/reload")]
    for method, url in calls:
        response = await service.user.request(method, url)
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")


async def test_keys_are_made_shown_once_listed_and_revoked(service: Service) -> None:
    made = await service.admin.post("/v1/admin/keys", json={"name": "laptop"})
    assert (made.status_code, made.headers["cache-control"]) == (201, "no-store")
    headers = {"X-API-Key": made.json()["key"]}
    assert (await service.nobody.get("/v1/tasks", headers=headers)).status_code == 200
    listed = (await service.admin.get("/v1/admin/keys")).json()["data"]
    laptop = next(key for key in listed if key["name"] == "laptop")
    assert made.json()["key"] not in str(listed)
    assert (await service.admin.delete(f"/v1/admin/keys/{laptop['id']}")).status_code == 204
    assert (await service.nobody.get("/v1/tasks", headers=headers)).status_code == 401
    missing = await service.admin.delete("/v1/admin/keys/key_nobody")
    assert (missing.status_code, missing.json()["code"]) == (404, "key_not_found")


async def test_initializers_tell_what_they_read_and_accept(service: Service) -> None:
    listed = (await service.user.get("/v1/initializers")).json()["data"]
    assert [initializer["name"] for initializer in listed] == ["tiny-curve", "tiny-ink"]
    one = (await service.user.get("/v1/initializers/tiny-ink")).json()
    assert (one["version"], one["versions"], one["input"]) == (1, [1], {"kind": "image", "shape": [1, 8, 8]})
    assert one["limits"] == {"min_way": 2, "max_way": 5, "max_support": 20, "max_steps": 0}
    assert (await service.user.get("/v1/initializers/nothing")).json()["code"] == "initializer_not_found"


async def test_a_reload_takes_the_new_files_and_old_tasks_go_on(settings: Settings, initializers_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / "initializers"
    shutil.copytree(initializers_dir, folder)
    async with run_service(settings.model_copy(update={"initializers_dir": folder})) as service:
        url = (await make_task(service.user))["links"]["predictions"]
        same = (await service.admin.post("/v1/admin/initializers/tiny-ink/reload")).json()
        assert same == {"name": "tiny-ink", "old_version": 1, "new_version": 1, "changed": False, "readapting": 0}
        write_initializer(folder, make_card("tiny-ink", INK, Limits(5, 20, 2, 0), default_steps=0), seed=1)
        new = (await service.admin.post("/v1/admin/initializers/tiny-ink/reload", json={"readapt": "lazy"})).json()
        assert (new["old_version"], new["new_version"], new["changed"]) == (1, 2, True)
        answer = (await service.user.post(url, json={"inputs": (strokes(1) / 255).tolist()})).json()
        assert answer["initializer"]["version"] in (1, 2)
        (folder / "tiny-ink" / "initializer.safetensors").write_bytes(b"broken")
        broken = await service.admin.post("/v1/admin/initializers/tiny-ink/reload")
        assert (broken.status_code, broken.json()["code"]) == (409, "initializer_rejected")
        assert (await make_task(service.user, name="after"))["initializer"]["version"] == 2


async def test_readyz_names_the_part_that_is_down(service: Service) -> None:
    assert (await service.nobody.get("/readyz")).json()["checks"] == dict.fromkeys(["database", "queue", "engine", "worker"], "ok")

    async def down() -> None:
        raise Unavailable("The database cannot be reached", reason="no route to db.internal", code="database_unavailable")

    service.app.state.door.pings["database"] = down
    response = await service.nobody.get("/readyz")
    problem = response.json()
    assert (response.status_code, problem["code"]) == (503, "not_ready")
    assert problem["errors"] == [{"pointer": "#/database", "detail": "The database cannot be reached"}]
    assert "db.internal" not in response.text  # anybody may ask this, and the log has it
    assert int(response.headers["retry-after"]) > 0


async def test_a_stopping_process_takes_no_new_work_and_still_tells(service: Service) -> None:
    task = await make_task(service.user)
    service.app.state.door.gate.close()
    refused = await service.user.post("/v1/tasks", json=task_body(name="late"))
    assert (refused.status_code, refused.json()["code"]) == (503, "draining")
    assert int(refused.headers["retry-after"]) > 0
    assert (await service.nobody.get("/readyz")).json()["code"] == "draining"
    assert (await service.nobody.get("/livez")).status_code == 200
    assert (await service.user.get(task["links"]["self"])).status_code == 200


async def test_what_nobody_foresaw_is_a_problem_with_a_trace_id(capsys: pytest.CaptureFixture[str], service: Service) -> None:
    async def explode() -> None:
        raise ZeroDivisionError("secret")

    service.app.add_api_route("/explode", explode)
    response = await service.nobody.get("/explode", headers={"X-Request-Id": "trace-me"})
    assert (response.status_code, response.json()["code"], response.json()["trace_id"]) == (500, "internal_error", "trace-me")
    assert "secret" not in response.text
    logged = capsys.readouterr().err
    assert "ZeroDivisionError" in logged
    assert "trace-me" in logged


@pytest.mark.parametrize(("method", "url", "status"), [("GET", "/nothing", 404), ("PUT", "/v1/tasks", 405), ("GET", "/v1/tasks/", 404)])
async def test_routes_that_do_not_exist_are_problems_too(service: Service, method: str, url: str, status: int) -> None:
    response = await service.user.request(method, url)
    assert response.status_code == status
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["instance"] == url


async def test_metrics_count_tasks_and_requests(service: Service) -> None:
    await make_task(service.user)
    page = (await service.nobody.get("/metrics")).text
    assert 'innerloop_tasks_created_total{initializer="tiny-ink"}' in page
    assert "http_server_request_duration" in page


async def test_every_phase_of_a_prediction_is_in_the_metrics(service: Service) -> None:
    task = await make_task(service.user)
    before = await _phases_so_far(service)
    answer = await service.user.post(task["links"]["predictions"], json={"inputs": (strokes(1) / 255).tolist()})
    after = await _phases_so_far(service)
    grown_ms = {phase: 1000 * (seconds - before.get(phase, 0.0)) for phase, seconds in after.items()}
    assert {phase: ms for phase, ms in grown_ms.items() if ms > 0} == pytest.approx(answer.json()["timings_ms"])


async def _phases_so_far(service: Service) -> dict[str, float]:
    page = (await service.nobody.get("/metrics")).text
    found = re.findall(r'^innerloop_prediction_phase_seconds_sum\{phase="(\w+)"\} (\S+)$', page, re.M)
    return {phase: float(seconds) for phase, seconds in found}


async def test_the_documented_example_bodies_work(service: Service) -> None:
    document = (await service.nobody.get("/openapi.json")).json()
    example = document["components"]["schemas"]["TaskRequest"]["example"]
    made = await service.user.post("/v1/tasks", json={**example, "initializer": "tiny-ink"}, headers={"Prefer": "wait=20"})
    assert made.status_code == 201, made.text
    queries = document["components"]["schemas"]["PredictionsRequest"]["example"]
    answer = await service.user.post(made.json()["links"]["predictions"], json=queries)
    assert answer.json()["predictions"][0]["label"] == example["support"]["labels"][0]


async def test_the_documented_example_answers_have_the_keys_of_real_ones(service: Service) -> None:
    schemas = (await service.nobody.get("/openapi.json")).json()["components"]["schemas"]
    task = await make_task(service.user)
    answer = (await service.user.post(task["links"]["predictions"], json={"inputs": strokes(1).tolist()})).json()
    refusal = (await service.user.post("/v1/tasks", json={})).json()
    for name, real in (("TaskJson", task), ("PredictionSetJson", answer), ("Problem", refusal)):
        example = schemas[name]["example"]
        assert {key for key, value in real.items() if value is not None} <= example.keys() <= real.keys(), name


async def test_the_named_examples_work_and_their_answers_have_the_shape_of_real_ones(service: Service) -> None:
    paths = (await service.nobody.get("/openapi.json")).json()["paths"]
    create, predict = paths["/v1/tasks"]["post"], paths["/v1/tasks/{task_id}/predictions"]["post"]
    requests = create["requestBody"]["content"]["application/json"]["examples"]
    answers = create["responses"]["201"]["content"]["application/json"]["examples"]
    assert requests.keys() == answers.keys() == {"An initializer by name", "auto", "A warm start"}
    here = {"omniglot-protonet": "tiny-ink", "sinusoid-maml": "tiny-curve", "auto": "auto"}
    for name, example in requests.items():
        body = {**example["value"], "initializer": here[example["value"]["initializer"]]}
        made = await service.user.post("/v1/tasks", json=body, headers={"Prefer": "wait=20"})
        assert made.status_code == 201, made.text
        shown, real = answers[name]["value"], made.json()
        assert _told(real) <= shown.keys() <= real.keys(), "FastAPI leaves nulls out of a document"
        assert (shown["support"], shown["timings_ms"].keys()) == (real["support"], real["timings_ms"].keys())
        for part in ("selection", "warm_start"):
            assert _told(real[part] or {}) <= shown.get(part, {}).keys(), name
        TaskJson.model_validate(examples.TASKS[name])
    assert predict["responses"]["200"]["content"]["application/json"]["examples"].keys() == examples.ANSWERS.keys()
    for answer in examples.ANSWERS.values():
        PredictionSetJson.model_validate(answer)


def _told(document: dict[str, Any]) -> set[str]:
    return {key for key, value in document.items() if value is not None}


def _references(document: object) -> list[str]:
    if isinstance(document, dict):
        own = [document["$ref"]] if isinstance(document.get("$ref"), str) else []
        return own + [reference for value in document.values() for reference in _references(value)]
    return [reference for value in document for reference in _references(value)] if isinstance(document, list) else []


async def test_every_reference_in_the_document_leads_somewhere(service: Service) -> None:
    document = (await service.nobody.get("/openapi.json")).json()
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert set(_references(document)) <= known


async def test_the_client_sees_one_clock_per_phase(service: Service) -> None:
    response: httpx.Response = await service.user.post("/v1/tasks", json=task_body())
    phases = {part.partition(";")[0].strip() for part in response.headers["server-timing"].split(",")}
    assert phases == {"decode", "total"}


async def test_requests_are_counted_by_method_status_and_pattern_and_those_in_flight_come_to_nothing(service: Service) -> None:
    await service.user.get("/v1/tasks/task_unknown")
    await service.nobody.get("/nowhere/at/all")
    await service.nobody.request("BREW", "/v1/tasks")
    page = (await service.nobody.get("/metrics")).text
    counted = set(
        re.findall(r'^http_server_request_duration_seconds_count\{http_request_method="(\w+)",\w+="(\d+)",http_route="([^"]*)"', page, re.M)
    )
    assert {("GET", "404", "/v1/tasks/{task_id}"), ("GET", "404", ""), ("_OTHER", "405", "/v1/tasks")} <= counted
    assert re.search(r'^http_server_active_requests\{http_request_method="_OTHER",url_scheme="http"\} 0.0$', page, re.M)
