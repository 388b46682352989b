"""Creating, looking at, listing and deleting tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from app.errors import Unavailable
from tests.app.api.conftest import Service, base64_text, make_task, npy, png, strokes, task_body


async def test_a_support_set_is_accepted_at_once_and_adapted_in_the_background(service: Service) -> None:
    response = await service.user.post("/v1/tasks", json=task_body(name="mine", metadata={"a": [1, None]}))
    assert response.status_code == 202
    task = response.json()
    assert response.headers["location"] == f"/v1/tasks/{task['id']}"
    assert response.headers["retry-after"] == "1"
    assert task["retry_after_ms"] > 0
    assert (task["name"], task["metadata"], task["revision"]) == ("mine", {"a": [1, None]}, 1)
    assert task["support"] == {"n_support": 4, "classes": {"a": 1, "b": 1, "c": 1, "d": 1}}


async def test_with_prefer_wait_the_answer_is_the_finished_task(service: Service) -> None:
    response = await service.user.post("/v1/tasks", json=task_body(), headers={"Prefer": "respond-async, wait=20"})
    assert response.status_code == 201
    task = response.json()
    assert response.headers["preference-applied"] == "respond-async, wait=20"
    assert response.headers["vary"] == "Prefer"
    assert "retry-after" not in response.headers
    assert task["status"] == "ready"
    assert task["serving"] == {"revision": 1, "initializer": {"name": "tiny-ink", "version": 1}}
    assert len(task["loss"]) == 1
    assert task["accuracy"] == [1.0]
    assert task["timings_ms"]
    assert "decode;dur=" in response.headers["server-timing"]


async def test_what_was_accepted_is_told_though_nobody_can_say_what_became_of_it(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def lose_database(*_: object) -> None:
        raise Unavailable("The database went away", code="database_unavailable")

    task = await make_task(service.user)
    monkeypatch.setattr(service.app.state.door.tasks, "wait", lose_database)
    body = {"add": {"inputs": (strokes(1) / 255).tolist(), "labels": ["a"]}}
    revised = await service.user.post(f"/v1/tasks/{task['id']}/support", json=body, headers={"Prefer": "wait=20"})
    assert revised.status_code == 202  # a 503 would have it sent again, and the example added twice
    assert revised.json()["support"]["n_support"] == task["support"]["n_support"] + 1


async def test_an_equal_request_returns_the_same_task(service: Service) -> None:
    first = await make_task(service.user)
    again = await service.user.post("/v1/tasks", json=task_body())
    assert again.status_code == 200
    assert again.json()["id"] == first["id"]


def _encodings() -> dict[str, Any]:
    drawings = strokes(4)
    raw = {"encoding": "raw", "dtype": "uint8", "shape": [4, 1, 8, 8], "data": base64_text(drawings.tobytes())}
    floats = {"encoding": "raw", "dtype": "float64", "shape": [4, 8, 8], "data": base64_text((drawings / 255).tobytes())}
    return {
        "numbers": (drawings / 255).tolist(),
        "numbers with their channel": (drawings / 255)[:, None].tolist(),
        "raw uint8": raw,
        "raw float64": floats,
        "npy": {"encoding": "npy", "data": base64_text(npy(drawings))},
        "npy in Fortran order": {"encoding": "npy", "data": base64_text(npy(np.asfortranarray(drawings)))},
        "npy in big endian": {"encoding": "npy", "data": base64_text(npy((drawings / 255).astype(">f4")))},
        "png": {"encoding": "images", "data": [base64_text(png(drawing)) for drawing in drawings]},
        "png of dark ink on paper": {"encoding": "images", "data": [base64_text(png(255 - drawing)) for drawing in drawings]},
        "data URLs": {"encoding": "images", "data": ["data:image/png;base64," + base64_text(png(drawing)) for drawing in drawings]},
    }


async def test_every_encoding_of_the_same_drawings_gives_the_same_answers(service: Service) -> None:
    answers = {}
    for name, inputs in _encodings().items():
        task = await make_task(service.user, name=name, support={"inputs": inputs, "labels": ["a", "b", "c", "d"]})
        response = await service.user.post(f"{task['links']['predictions']}", json={"inputs": inputs})
        assert response.status_code == 200, (name, response.text)
        answers[name] = [list(prediction["probabilities"].values()) for prediction in response.json()["predictions"]]
    for name, probabilities in answers.items():
        np.testing.assert_allclose(probabilities, answers["numbers"], atol=1e-5, err_msg=name)


async def test_images_upload_as_files_named_by_class(service: Service) -> None:
    drawings = strokes(3)
    files = [
        ("support", ("a/one.png", png(drawings[0]), "image/png")),
        ("support", ("folder\\b\\two.png", png(drawings[1]), "image/png")),
        ("support[c/d]", ("three.png", png(drawings[2]), "image/png")),
        ("query", ("q.png", png(drawings[1]), "image/png")),
    ]
    fields = {"initializer": "tiny-ink", "name": "upload", "options": "{}", "metadata": '{"a": 1}', "ttl_s": "60"}
    response = await service.user.post("/v1/tasks", data=fields, files=files, headers={"Prefer": "wait=20"})
    assert response.status_code == 201, response.text
    task = response.json()
    assert task["support"]["classes"] == {"a": 1, "b": 1, "c/d": 1}
    assert (task["name"], task["metadata"], task["has_query"]) == ("upload", {"a": 1}, True)
    kept = (await service.user.get(task["links"]["predictions"])).json()["data"]
    assert [prediction["label"] for prediction in kept[0]["predictions"]] == ["b"]


async def test_polling_with_the_etag_costs_nothing_until_something_changes(service: Service) -> None:
    task = await make_task(service.user)
    first = await service.user.get(task["links"]["self"])
    assert first.status_code == 200
    second = await service.user.get(task["links"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert (second.status_code, second.content) == (304, b"")
    await service.user.post(task["links"]["support"], json={"remove": {"classes": ["a"]}}, headers={"Prefer": "wait=20"})
    third = await service.user.get(task["links"]["self"], headers={"If-None-Match": first.headers["etag"]})
    assert third.status_code == 200


async def test_lists_are_read_page_by_page(service: Service) -> None:
    made = [(await make_task(service.user, name=f"task {index}"))["id"] for index in range(5)]
    seen, url = [], "/v1/tasks?limit=2&status=ready"
    while url:
        response = await service.user.get(url)
        page = response.json()
        assert [page["first_id"], page["last_id"]] == [page["data"][0]["id"], page["data"][-1]["id"]]
        seen += [task["id"] for task in page["data"]]
        assert page["has_more"] == ("next" in response.links)
        url = response.links.get("next", {}).get("url", "")
        assert not url or "status=ready" in url
    assert seen == made[::-1]
    assert (await service.user.get("/v1/tasks?name=task 3")).json()["data"][0]["id"] == made[3]


async def test_a_deleted_task_is_gone(service: Service) -> None:
    task = await make_task(service.user)
    assert (await service.user.delete(task["links"]["self"])).status_code == 204
    gone = await service.user.get(task["links"]["self"])
    assert (gone.status_code, gone.json()["code"]) == (404, "task_not_found")


async def test_tasks_of_another_key_do_not_exist(service: Service) -> None:
    task = await make_task(service.user)
    urls = [("GET", task["links"]["self"]), ("DELETE", task["links"]["self"]), ("GET", task["links"]["predictions"])]
    for method, url in urls:
        response = await service.other.request(method, url)
        assert (response.status_code, response.json()["code"]) == (404, "task_not_found")
    bodies = {"predictions": {"inputs": strokes(1).tolist()}, "support": {"remove": {"classes": ["a"]}}}
    for name, body in bodies.items():
        assert (await service.other.post(task["links"][name], json=body)).status_code == 404
    assert (await service.other.get("/v1/tasks")).json()["data"] == []


async def test_a_regression_task_answers_with_numbers(service: Service) -> None:
    support = {"inputs": [0.0, 0.5, 1.0], "labels": [0, 1, 2.5]}
    task = await make_task(service.user, initializer="tiny-curve", support=support, options={"steps": 3}, query=[0.25])
    assert len(task["loss"]) == 4
    assert task["options"] == {"steps": 3, "warm_start": False}
    kept = (await service.user.get(task["links"]["predictions"])).json()["data"][0]
    assert (kept["source"], len(kept["predictions"][0]["value"])) == ("query", 1)


@pytest.mark.parametrize("prefer", ["wait=0", "wait=-1", "wait=x", "gzip, wait", "wait=99999999999999999999", ""])
async def test_a_preference_that_means_nothing_is_ignored(service: Service, prefer: str) -> None:
    response = await service.user.post("/v1/tasks", content=orjson.dumps(task_body()), headers={"Prefer": prefer})
    assert response.status_code == 202
