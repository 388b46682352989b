"""Predictions: new ones, kept ones, and those of a revised support set."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from app.domain import InitializerRef
from models import installed
from tests.app.api.conftest import Service, base64_text, make_task, npy, png, strokes, task_body


async def test_an_answer_names_label_probabilities_version_and_timings(service: Service) -> None:
    task = await make_task(service.user)
    response = await service.user.post(task["links"]["predictions"], json={"inputs": (strokes(2) / 255).tolist()})
    answers = response.json()
    assert [prediction["label"] for prediction in answers["predictions"]] == ["a", "b"]
    assert set(answers["predictions"][0]["probabilities"]) == {"a", "b", "c", "d"}
    assert abs(sum(answers["predictions"][0]["probabilities"].values()) - 1) < 1e-5
    assert answers["predictions"][0]["unknown"] is None, "the card has no figures for it"
    assert (answers["initializer"], answers["revision"]) == ({"name": "tiny-ink", "version": 1}, 1)
    assert (answers["id"], answers["source"]) == (None, "live")
    timings_ms = answers["timings_ms"]
    assert list(timings_ms) == ["decode", "queue", "batch", "device", "encode", "total"]
    assert all(ms > 0 for ms in timings_ms.values())
    assert sum(timings_ms[phase] for phase in ("queue", "batch", "device", "encode")) <= timings_ms["total"]
    assert all(ms == round(ms, 3) for ms in timings_ms.values())
    assert f"encode;dur={timings_ms['encode']:.2f}, total;dur=" in response.headers["server-timing"]


async def test_one_query_is_answered_as_in_a_batch(service: Service) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    inputs = (strokes(8) / 255).tolist()
    together = (await service.user.post(url, json={"inputs": inputs})).json()["predictions"]
    for index, drawing in enumerate(inputs):
        alone = (await service.user.post(url, json={"inputs": [drawing]})).json()["predictions"][0]
        np.testing.assert_allclose(list(alone["probabilities"].values()), list(together[index]["probabilities"].values()), atol=1e-5)


async def test_queries_come_as_npy_and_as_files_too(service: Service) -> None:
    url = (await make_task(service.user))["links"]["predictions"]
    raw = await service.user.post(url, content=npy(strokes(2)), headers={"Content-Type": "application/x-npy"})
    files = await service.user.post(url, files=[("query", (f"{i}.png", png(drawing), "image/png")) for i, drawing in enumerate(strokes(2))])
    assert raw.status_code == files.status_code == 200, (raw.text, files.text)
    assert raw.json()["predictions"] == files.json()["predictions"]


async def test_recorded_predictions_are_listed_after_those_of_the_query_set(service: Service) -> None:
    task = await make_task(service.user, query={"encoding": "images", "data": [base64_text(png(strokes(1)[0]))]})
    url = task["links"]["predictions"]
    made = await service.user.post(url, params={"record": "true"}, json={"inputs": (strokes(2) / 255).tolist()})
    await service.user.post(url, json={"inputs": (strokes(2) / 255).tolist()})
    first = await service.user.get(url, params={"limit": 1})
    page = first.json()
    assert ([row["source"] for row in page["data"]], page["has_more"]) == (["query"], True)
    rest = (await service.user.get(first.links["next"]["url"])).json()
    assert [row["id"] for row in rest["data"]] == [made.json()["id"]]
    assert rest["has_more"] is False
    assert rest["data"][0]["predictions"] == made.json()["predictions"]


async def test_a_task_that_is_not_ready_says_when_to_come_back(service: Service) -> None:
    # The job cannot end before the lock on the initializer's first use is free: nothing is loaded any more.
    engine_installs = service.app.state.door.initializers
    release = asyncio.Event()
    original = engine_installs.using

    async def slow(ref: InitializerRef, call: object) -> object:
        await release.wait()
        return await original(ref, call)

    engine_installs.using = slow
    task = (await service.user.post("/v1/tasks", json=task_body())).json()
    response = await service.user.post(task["links"]["predictions"], json={"inputs": (strokes(1) / 255).tolist()})
    assert (response.status_code, response.json()["code"]) == (409, "task_not_ready")
    assert int(response.headers["retry-after"]) >= 1
    waited = await service.user.get(task["links"]["self"])
    assert waited.headers["retry-after"] == "1"
    release.set()


async def test_the_old_revision_answers_until_the_new_one_is_ready(service: Service) -> None:
    task = await make_task(service.user)
    support = {"inputs": {"encoding": "npy", "data": base64_text(npy(strokes(6)[5:]))}, "labels": ["e"]}
    response = await service.user.post(task["links"]["support"], json={"add": support, "remove": {"indices": [0], "classes": ["b"]}})
    assert (response.status_code, response.json()["revision"]) == (202, 2)
    answer = (await service.user.post(task["links"]["predictions"], json={"inputs": (strokes(1) / 255).tolist()})).json()
    assert set(answer["predictions"][0]["probabilities"]) == ({"a", "b", "c", "d"} if answer["revision"] == 1 else {"c", "d", "e"})
    upload = [("add", ("f/1.png", png(strokes(7)[6]), "image/png"))]
    done = await service.user.post(
        task["links"]["support"], files=upload, data={"remove": '{"classes": ["c"]}'}, headers={"Prefer": "wait=20"}
    )
    assert (done.status_code, done.json()["status"]) == (200, "ready"), done.text
    assert set(done.json()["support"]["classes"]) == {"d", "e", "f"}


async def test_an_explanation_shows_which_examples_drove_each_answer(service: Service) -> None:
    task = await make_task(service.user, support={"inputs": (strokes(8) / 255).tolist(), "labels": list("abcdabcd")})
    inputs = (strokes(8)[[3, 6]] / 255).tolist()
    response = await service.user.post(task["links"]["predictions"], params={"explain": "true"}, json={"inputs": inputs})
    first, second = response.json()["predictions"]
    assert [(each["explanation"][0]["index"], each["explanation"][0]["label"]) for each in (first, second)] == [(3, "d"), (6, "c")]
    for each in (first, second):
        sizes = [abs(evidence["weight"]) for evidence in each["explanation"]]
        assert 1 <= len(sizes) <= 5
        assert sizes == sorted(sizes, reverse=True)
        assert sum(sizes) <= 1 + 1e-5
    plain = (await service.user.post(task["links"]["predictions"], json={"inputs": inputs})).json()["predictions"]
    assert [each["label"] for each in plain] == [first["label"], second["label"]]
    assert all("explanation" not in each for each in plain)


async def test_values_are_explained_too(service: Service) -> None:
    curve = {"inputs": [[0.5], [1.0], [2.0]], "labels": [0.5, 1.0, 2.0]}
    task = await make_task(service.user, initializer="tiny-curve", support=curve)
    response = await service.user.post(task["links"]["predictions"], params={"explain": "true"}, json={"inputs": [[1.1]]})
    [evidence] = [each["explanation"] for each in response.json()["predictions"]]
    assert {each["index"]: each["label"] for each in evidence}.items() <= {0: 0.5, 1: 1.0, 2: 2.0}.items()
    assert sum(abs(each["weight"]) for each in evidence) == pytest.approx(1, abs=1e-5)


async def test_a_learner_that_cannot_explain_says_so(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(installed.ABILITIES, "explain")
    task = await make_task(service.user)
    body = {"inputs": (strokes(1) / 255).tolist()}
    response = await service.user.post(task["links"]["predictions"], params={"explain": "true"}, json=body)
    assert (response.status_code, response.json()["code"]) == (409, "not_supported")
    assert response.json()["errors"][0]["pointer"] == "#/query/explain"
    assert (await service.user.post(task["links"]["predictions"], json=body)).status_code == 200
