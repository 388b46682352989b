"""Predictions as arrays: the numbers of the JSON, and what is said beside them."""

from __future__ import annotations

import io
from typing import Any

import httpx
import numpy as np
import pytest

from app.api.binary_answers import NPY, NPZ, write_npz
from app.client import AsyncInnerLoop, InvalidInput
from app.services.answer_table import AnswerTable
from tests.app.api.conftest import Service, make_task, npy, strokes

CURVE = {"initializer": "tiny-curve", "support": {"inputs": [[0.5], [1.0], [2.0]], "labels": [0.5, 1.0, 2.0]}}
CURVE_QUERIES = np.array([[0.1], [1.1]], np.float32)


async def ask(client: httpx.AsyncClient, url: str, queries: Any, accept: str) -> httpx.Response:
    return await client.post(url, content=npy(queries), headers={"Content-Type": NPY, "Accept": accept})


@pytest.mark.parametrize("changes", [{}, CURVE])
async def test_an_array_has_the_numbers_of_the_json(service: Service, changes: dict[str, Any]) -> None:
    task = await make_task(service.user, **changes)
    queries = CURVE_QUERIES if changes else strokes(5)
    body = (await ask(service.user, task["links"]["predictions"], queries, "application/json")).json()
    response = await ask(service.user, task["links"]["predictions"], queries, NPY)
    array = np.load(io.BytesIO(response.content), allow_pickle=False)
    rows = [row["value"] if changes else [row["probabilities"][name] for name in "abcd"] for row in body["predictions"]]
    assert array.dtype == np.dtype("<f4")
    np.testing.assert_array_equal(array, np.array(rows, np.float32))
    assert response.headers["content-type"] == NPY
    assert response.headers["vary"] == "Accept"
    said = {name: response.headers[f"innerloop-{name}"] for name in ("revision", "initializer", "initializer-version")}
    assert said == {"revision": "1", "initializer": body["initializer"]["name"], "initializer-version": "1"}
    assert "device;dur=" in response.headers["server-timing"]


async def test_a_zip_of_arrays_names_its_columns(service: Service) -> None:
    task = await make_task(service.user)
    response = await ask(service.user, task["links"]["predictions"], strokes(2), f"{NPZ}, {NPY};q=0.5")
    stored = np.load(io.BytesIO(response.content), allow_pickle=False)
    assert sorted(stored.files) == ["classes", "values"], "the card has no figures for unknown"
    assert stored["classes"].tolist() == list("abcd")
    assert stored["values"].shape == (2, 4)


def test_a_zip_of_arrays_says_how_unknown_each_query_is() -> None:
    stored = np.load(io.BytesIO(write_npz(AnswerTable(np.eye(2, dtype=np.float32), ("a", "ü"), np.array([0.25, 1], np.float32)))))
    assert (stored["unknown"].tolist(), stored["classes"].tolist()) == ([0.25, 1.0], ["a", "ü"])


@pytest.mark.parametrize("params", [{}, {"record": "false"}])
async def test_what_nobody_can_answer_with_is_refused(service: Service, params: dict[str, str]) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    response = await service.user.post(url, params=params, content=npy(strokes(1)), headers={"Content-Type": NPY, "Accept": "text/html"})
    assert (response.status_code, response.json()["code"], response.headers["vary"]) == (406, "not_acceptable", "Accept")
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["errors"][0]["pointer"] == "#/header/accept"
    assert f"application/json or {NPY} or {NPZ}" in response.json()["detail"]


@pytest.mark.parametrize("wish", ["record", "explain"])
async def test_what_is_recorded_or_explained_is_json(service: Service, wish: str) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    request: dict[str, Any] = {"params": {wish: "true"}, "content": npy(strokes(1))}
    refused = await service.user.post(url, **request, headers={"Content-Type": NPY, "Accept": NPY})
    assert (refused.status_code, refused.json()["code"]) == (406, "not_acceptable")
    assert "recorded or explained" in refused.json()["detail"]
    answered = await service.user.post(url, **request, headers={"Content-Type": NPY, "Accept": f"{NPY}, */*;q=0.1"})
    assert answered.headers["content-type"] == "application/json"
    kept = [row["id"] for row in (await service.user.get(url)).json()["data"]]
    assert kept == ([answered.json()["id"]] if wish == "record" else [])


@pytest.mark.parametrize("changes", [{}, CURVE])
async def test_the_client_reads_the_same_from_arrays_as_from_json(service: Service, changes: dict[str, Any]) -> None:
    task_id = (await make_task(service.user, **changes))["id"]
    key = service.user.headers["authorization"].removeprefix("Bearer ")
    queries = CURVE_QUERIES if changes else strokes(5)
    async with AsyncInnerLoop("http://service", key, transport=httpx.ASGITransport(service.app)) as client:
        task = await client.task(task_id)
        said, sent = await task.predict(queries), await task.predict_arrays(queries)
        for name in ("labels", "classes", "initializer", "version", "revision", "id", "source"):
            assert getattr(sent, name) == getattr(said, name)
        for name in ("probabilities", "values", "unknown"):
            np.testing.assert_array_equal(getattr(sent, name), getattr(said, name))
        assert list(sent.timings_ms) == list(said.timings_ms)
        with pytest.raises(InvalidInput, match="invalid_query"):
            await task.predict_arrays(np.zeros((1, 3), np.float32))


async def test_the_document_has_every_media_type(service: Service) -> None:
    paths = (await service.nobody.get("/openapi.json")).json()["paths"]
    answers = paths["/v1/tasks/{task_id}/predictions"]["post"]["responses"]
    assert {"application/json", NPY, NPZ} == set(answers["200"]["content"])
    assert "InnerLoop-Revision" in answers["200"]["headers"]
    assert "406" in answers
