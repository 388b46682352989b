"""What the client does about a service that is busy, away, slow or unhappy: sync and async in the same way.

The service here is a script of answers behind httpx's own transport, because a real one is busy only when it wants to be.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import httpx
import numpy as np
import pytest

from app.client import (
    AdaptationFailed,
    AsyncInnerLoop,
    Busy,
    InnerLoop,
    InnerLoopError,
    InvalidInput,
    NotFound,
    NotReadyInTime,
    Retries,
    Unauthenticated,
    Unreachable,
    WarmStart,
)
from app.client.answers import read_predictions

FAST = Retries(attempts=3, first_pause_s=0.001, max_pause_s=0.002)
IMAGES, LABELS = np.zeros((2, 1, 28, 28), np.uint8), ["a", "b"]
Answer = httpx.Response | httpx.TransportError
Delete = Callable[["Script"], None]


def task_answer(status: str = "ready", *, code: int = 201, error: dict[str, str] | None = None) -> httpx.Response:
    body = {
        "id": "task_1", "status": status, "name": None, "metadata": {}, "initializer": {"name": "omniglot-protonet", "version": 3},
        "revision": 1, "serving": None, "support": {"n_support": 2, "classes": {"a": 1, "b": 1}}, "loss": [0.5], "accuracy": [1.0],
        "timings_ms": {"device_ms": 1.0}, "error": error, "a field of tomorrow": 1,
    }  # fmt: skip
    return httpx.Response(code, json=body)


def problem(status: int, code: str = "some_code", **headers: str) -> httpx.Response:
    body = {
        "title": "T",
        "status": status,
        "detail": "D",
        "code": code,
        "errors": [{"pointer": "#/support/labels/3", "detail": "expected a name"}],
    }
    return httpx.Response(status, json=body, headers=headers)


class Script:
    """Answers requests in the order of the script and keeps them."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, httpx.TransportError):
            raise answer
        return answer


def adapt_sync(script: Script, *, wait_s: float = 5.0) -> Any:
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        return client.adapt(IMAGES, LABELS, wait_s=wait_s).info


def adapt_async(script: Script, *, wait_s: float = 5.0) -> Any:
    async def adapt() -> Any:
        async with AsyncInnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
            return (await client.adapt(IMAGES, LABELS, wait_s=wait_s)).info

    return asyncio.run(adapt())


def delete_sync(script: Script) -> None:
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        client.task("task_1").delete()


def delete_async(script: Script) -> None:
    async def delete() -> None:
        async with AsyncInnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
            await (await client.task("task_1")).delete()

    asyncio.run(delete())


both = pytest.mark.parametrize("adapt", [adapt_sync, adapt_async])


@both
def test_a_finished_task_is_read_whatever_fields_it_gains(adapt: Callable[..., Any]) -> None:
    script = Script(task_answer())
    info = adapt(script)
    assert (info.id, info.version, info.classes) == ("task_1", 3, {"a": 1, "b": 1})
    assert script.requests[0].headers["authorization"] == "Bearer il_key"
    assert script.requests[0].headers["prefer"] == "wait=5"


@both
@pytest.mark.parametrize("status", [429, 503])
def test_a_busy_service_is_asked_again(adapt: Callable[..., Any], status: int) -> None:
    script = Script(problem(status), problem(status), task_answer())
    assert adapt(script).id == "task_1"
    assert len(script.requests) == 3


@both
def test_a_service_that_stays_busy_is_given_up_on_with_its_own_words(adapt: Callable[..., Any]) -> None:
    script = Script(*[problem(503, "overloaded", **{"Retry-After": "7"})] * 3)
    with pytest.raises(Busy) as caught:
        adapt(script)
    assert (caught.value.status, caught.value.code, caught.value.retry_after_s) == (503, "overloaded", 7.0)


@both
def test_a_lost_connection_is_tried_again_and_then_told(adapt: Callable[..., Any]) -> None:
    assert adapt(Script(httpx.ConnectError("refused"), task_answer())).id == "task_1"
    with pytest.raises(Unreachable, match="refused"):
        adapt(Script(*[httpx.ConnectError("refused")] * 3))


@both
def test_a_url_that_is_none_is_told_at_once(adapt: Callable[..., Any]) -> None:
    script = Script(httpx.UnsupportedProtocol("Request URL is missing an 'http://' or 'https://' protocol."), task_answer())
    with pytest.raises(Unreachable, match="http://"):
        adapt(script)
    assert len(script.requests) == 1


def test_a_revision_whose_answer_is_lost_is_not_sent_again_for_its_examples_would_be_there_twice() -> None:
    script = Script(task_answer(), httpx.ConnectError("refused"), httpx.ReadTimeout(""), task_answer())
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        task = client.adapt(IMAGES, LABELS)
        with pytest.raises(Unreachable, match="ReadTimeout; it may have been done"):
            task.add(IMAGES, LABELS)
        assert [request.url.path for request in script.requests[1:]] == ["/v1/tasks/task_1/support"] * 2  # refused, so not seen; then seen
        assert task.refresh().info.revision == 1


@pytest.mark.parametrize(("code", "sent"), [("database_unavailable", 1), ("overloaded", 2)])
def test_a_revision_that_may_have_been_committed_is_not_sent_again_and_one_that_was_not_is(code: str, sent: int) -> None:
    script = Script(task_answer(), problem(503, code), task_answer())
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        task = client.adapt(IMAGES, LABELS)
        with pytest.raises(InnerLoopError, match=code) if sent == 1 else nullcontext():
            task.add(IMAGES, LABELS)
        assert [request.url.path for request in script.requests[1:]] == ["/v1/tasks/task_1/support"] * sent


@pytest.mark.parametrize("delete", [delete_sync, delete_async])
@pytest.mark.parametrize("lost", [lambda: httpx.ReadTimeout(""), lambda: problem(503, "database_unavailable")])
def test_a_task_that_is_gone_after_a_delete_whose_answer_was_lost_is_deleted(delete: Delete, lost: Callable[[], Answer]) -> None:
    script = Script(task_answer(), lost(), problem(503, "overloaded"), problem(404, "task_not_found"))
    delete(script)
    assert [request.method for request in script.requests] == ["GET"] + ["DELETE"] * 3


@pytest.mark.parametrize("delete", [delete_sync, delete_async])
@pytest.mark.parametrize(
    "make_answers",
    [
        lambda: [problem(404, "task_not_found")],
        lambda: [httpx.ConnectError("refused"), problem(404, "task_not_found")],
        lambda: [problem(503, "overloaded"), problem(404, "task_not_found")],
        lambda: [httpx.ReadTimeout(""), httpx.Response(404, text="no such host")],
    ],
    ids=["first", "after one that was not seen", "after one that did nothing", "of a gateway"],
)
def test_every_other_delete_that_finds_no_task_says_so(delete: Delete, make_answers: Callable[[], list[Answer]]) -> None:
    with pytest.raises(NotFound):
        delete(Script(task_answer(), *make_answers()))


@both
@pytest.mark.parametrize(
    ("status", "expected"), [(401, Unauthenticated), (404, NotFound), (413, InvalidInput), (422, InvalidInput), (500, InnerLoopError)]
)
def test_a_refusal_is_not_repeated_and_says_where_the_fault_is(
    adapt: Callable[..., Any], status: int, expected: type[InnerLoopError]
) -> None:
    script = Script(problem(status))
    with pytest.raises(expected, match="#/support/labels/3: expected a name") as caught:
        adapt(script)
    assert (caught.value.status, caught.value.code, len(script.requests)) == (status, "some_code", 1)


@both
def test_an_answer_that_is_no_problem_document_still_becomes_an_error(adapt: Callable[..., Any]) -> None:
    with pytest.raises(InnerLoopError, match="bad gateway"):
        adapt(Script(httpx.Response(502, text="bad gateway")))


@both
def test_a_task_that_is_not_finished_is_looked_at_again(adapt: Callable[..., Any]) -> None:
    script = Script(task_answer("queued", code=202), task_answer("adapting"), task_answer())
    assert adapt(script).status == "ready"
    assert [request.method for request in script.requests] == ["POST", "GET", "GET"]


@both
def test_a_task_that_takes_too_long_is_named_in_the_error(adapt: Callable[..., Any]) -> None:
    with pytest.raises(NotReadyInTime, match="task_1"):
        adapt(Script(task_answer("queued", code=202)), wait_s=0)


@both
def test_a_failed_adaptation_raises_its_code(adapt: Callable[..., Any]) -> None:
    with pytest.raises(AdaptationFailed, match="not finite") as caught:
        adapt(Script(task_answer("failed", error={"code": "adaptation_failed", "detail": "not finite"})))
    assert caught.value.code == "adaptation_failed"


def test_similar_tasks_are_asked_for_by_number_and_read_in_their_order() -> None:
    rows = [
        {
            "task_id": f"task_{i}", "name": None, "metadata": {}, "revision": 2, "distance": i / 2,
            "parts": {"centre": i / 2, "spread": 0.0}, "support": {"n_support": 3, "classes": {"a": 3}}, "a field of tomorrow": 1,
        }
        for i in (1, 2)
    ]  # fmt: skip
    measure = {"name": "wasserstein-2-diagonal", "description": "how far apart"}
    found = {
        "task_id": "task_1",
        "revision": 3,
        "initializer": {"name": "n", "version": 2},
        "measure": measure,
        "compared": 5,
        "has_more": True,
    }
    script = Script(task_answer(), httpx.Response(200, json={**found, "data": rows}))
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        near = client.adapt(IMAGES, LABELS).similar(limit=2)
    assert [(each.id, each.distance, each.parts["centre"], each.classes) for each in near] == [
        ("task_1", 0.5, 0.5, {"a": 3}),
        ("task_2", 1.0, 1.0, {"a": 3}),
    ]
    assert str(script.requests[1].url) == "http://service/v1/tasks/task_1/similar?limit=2"
    assert (len(near), near[0].id, [each.id for each in near[1:]], near[-1] in near) == (2, "task_1", ["task_2"], True)
    assert (near.compared, near.has_more, near.measure, near.description) == (5, True, "wasserstein-2-diagonal", "how far apart")
    assert (near.initializer, near.version, near.revision) == ("n", 2, 3)


def test_a_warm_start_is_asked_for_and_reported() -> None:
    report = {"kept": True, "code": "kept", "reason": "better", "from_task": "task_0", "held_out": {"cold": 1.5, "warm": None}}
    made = task_answer()
    script = Script(httpx.Response(201, json={**made.json(), "warm_start": report}), made)
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        info = client.adapt(IMAGES, LABELS, steps=3, warm_start=True).info
        plain = client.adapt(IMAGES, LABELS).info
    assert [json.loads(request.content).get("options") for request in script.requests] == [{"steps": 3, "warm_start": True}, None]
    assert info.warm_start == WarmStart(True, "better", "task_0", 1.5, None, "kept")
    assert plain.warm_start is None


def test_a_task_is_adapted_again_with_other_options() -> None:
    script = Script(task_answer(), task_answer(code=200), task_answer(code=200))
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        task = client.adapt(IMAGES, LABELS)
        assert task.readapt() is task
        task.readapt(steps=3, warm_start=True)
    assert [str(request.url) for request in script.requests[1:]] == ["http://service/v1/tasks/task_1/support"] * 2
    assert [json.loads(request.content) for request in script.requests[1:]] == [
        {"options": {}},
        {"options": {"steps": 3, "warm_start": True}},
    ]


def test_adding_and_removing_keep_the_options_unless_new_ones_are_given() -> None:
    script = Script(task_answer(), *[task_answer(code=200)] * 4)
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        task = client.adapt(IMAGES, LABELS)
        task.add(IMAGES, LABELS).add(IMAGES, LABELS, steps=3)
        task.remove(["a"]).remove(indices=[0], warm_start=True)
    options = [json.loads(request.content).get("options") for request in script.requests[1:]]
    assert options == [None, {"steps": 3}, None, {"warm_start": True}]


def test_no_pause_is_longer_than_the_bound_whatever_the_service_asks_for() -> None:
    retries = Retries(first_pause_s=0.2, max_pause_s=10)
    assert [retries.pause_s(attempt, None) for attempt in range(8)] == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]
    assert (retries.pause_s(0, 3.0), retries.pause_s(0, 3600.0)) == (3.0, 10)


def test_probabilities_keep_the_columns_the_service_names() -> None:
    row = {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}
    body = {"id": None, "source": "live", "revision": 1, "initializer": {"name": "n", "version": 1}, "timings_ms": {}, "predictions": [row]}
    answers = read_predictions(body)
    assert (answers.labels, answers.classes, answers.probabilities.tolist()) == (("b",), ("a", "b"), [[0.25, 0.75]])


def test_explanations_are_read_where_they_were_asked_for() -> None:
    row = {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}, "explanation": [{"index": 4, "label": "b", "weight": 0.5}]}
    body = {"id": None, "source": "live", "revision": 1, "initializer": {"name": "n", "version": 1}, "timings_ms": {}, "predictions": [row]}
    script = Script(task_answer(), httpx.Response(200, json=body))
    with InnerLoop("http://service", "il_key", retries=FAST, transport=httpx.MockTransport(script)) as client:
        answers = client.adapt(IMAGES, LABELS).predict(IMAGES[:1], explain=True)
    assert str(script.requests[1].url).endswith("/v1/tasks/task_1/predictions?explain=true")
    assert [(each.index, each.label, each.weight) for each in answers.explanations[0]] == [(4, "b", 0.5)]
    plain = {**body, "predictions": [{"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}]}
    assert read_predictions(plain).explanations == ()


def test_how_unknown_a_query_is_is_a_number_or_not_known() -> None:
    row = {"label": "b", "probabilities": {"a": 0.25, "b": 0.75}}
    body = {"id": None, "source": "live", "revision": 1, "initializer": {"name": "n", "version": 1}, "timings_ms": {}}
    answers = read_predictions({**body, "predictions": [{**row, "unknown": 0.125}, {**row, "unknown": None}, row]})
    np.testing.assert_array_equal(answers.unknown, [0.125, np.nan, np.nan])


def test_values_of_a_regression_have_no_probabilities() -> None:
    body = {"id": None, "source": "live", "revision": 1, "initializer": {"name": "n", "version": 1}, "timings_ms": {}}
    answers = read_predictions({**body, "predictions": [{"label": 0.5, "value": [0.5]}, {"label": 1.5, "value": [1.5]}]})
    assert (answers.values.tolist(), answers.probabilities.shape) == ([[0.5], [1.5]], (2, 0))


@pytest.mark.parametrize("name", ["InnerLoop", "AdaptedTask"])
def test_the_async_client_offers_what_the_sync_one_offers_in_the_same_words(name: str) -> None:
    import app.client

    def public(of: type) -> dict[str, tuple[str, str]]:
        methods = {key: value for key, value in inspect.getmembers(of, inspect.isfunction) if not key.startswith("_")}
        return {key: (str(inspect.signature(value)).split("->")[0], _describe(value)) for key, value in methods.items()}

    assert public(getattr(app.client, name)) == public(getattr(app.client, f"Async{name}"))


def _describe(method: Callable[..., Any]) -> str:
    return (method.__doc__ or "").replace("AsyncAdaptedTask", "AdaptedTask")
