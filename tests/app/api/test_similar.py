"""Similar tasks over HTTP, with real learners."""

from __future__ import annotations

import math

import pytest

from tests.app.api.conftest import Service, make_task, strokes


async def test_the_nearest_of_my_tasks_come_first_with_a_measure_in_words(service: Service) -> None:
    mine = await make_task(service.user, name="mine")
    drawings = (strokes(8) / 255).tolist()
    await make_task(service.user, name="three of four", support={"inputs": drawings[:3], "labels": ["a", "b", "x"]})
    await make_task(service.user, name="others", support={"inputs": drawings[4:8], "labels": ["p", "q", "r", "s"]})
    await make_task(service.other, name="not mine")
    answer = (await service.user.get(mine["links"]["similar"])).json()
    assert [near["name"] for near in answer["data"]] == ["three of four", "others"]
    assert (answer["task_id"], answer["compared"], answer["has_more"]) == (mine["id"], 2, False)
    assert answer["initializer"] == {"name": "tiny-ink", "version": 1}
    assert "2-Wasserstein" in answer["measure"]["description"]
    for near in answer["data"]:
        assert near["distance"] == pytest.approx(math.hypot(near["parts"]["centre"], near["parts"]["spread"]))
    limited = (await service.user.get(mine["links"]["similar"], params={"limit": 1})).json()
    assert limited["data"] == answer["data"][:1]


async def test_equal_support_sets_are_at_distance_zero_whatever_the_labels_are(service: Service) -> None:
    mine = await make_task(service.user)
    drawings = (strokes(4) / 255).tolist()
    await make_task(service.user, support={"inputs": drawings, "labels": ["z", "y", "x", "w"]})
    [near] = (await service.user.get(mine["links"]["similar"])).json()["data"]
    assert near["distance"] == pytest.approx(0, abs=1e-6)


async def test_curves_are_compared_by_their_values_too(service: Service) -> None:
    def curve(slope: float) -> dict[str, object]:
        return {"inputs": [[0.5], [1.0], [2.0]], "labels": [0.5 * slope, slope, 2 * slope]}

    mine = await make_task(service.user, initializer="tiny-curve", support=curve(1.0))
    await make_task(service.user, initializer="tiny-curve", name="steep", support=curve(5.0))
    await make_task(service.user, initializer="tiny-curve", name="alike", support=curve(1.2))
    near = (await service.user.get(mine["links"]["similar"])).json()["data"]
    assert [each["name"] for each in near] == ["alike", "steep"]
    assert set(near[0]["parts"]) == {"centre", "spread", "relation"}


@pytest.mark.parametrize(("limit", "status"), [(0, 422), (101, 422), ("many", 422), (100, 200)])
async def test_the_limit_is_between_1_and_100(service: Service, limit: object, status: int) -> None:
    mine = await make_task(service.user)
    assert (await service.user.get(mine["links"]["similar"], params={"limit": str(limit)})).status_code == status


async def test_another_keys_task_is_not_there(service: Service) -> None:
    mine = await make_task(service.user)
    response = await service.other.get(mine["links"]["similar"])
    assert (response.status_code, response.json()["code"]) == (404, "task_not_found")
