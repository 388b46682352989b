"""What the client can do, as flows: each is written once and performed by both clients."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import httpx

from app.client.answers import (
    NPZ,
    Initializer,
    Neighbourhood,
    Predictions,
    TaskInfo,
    read_initializer,
    read_neighbourhood,
    read_prediction_arrays,
    read_predictions,
    read_task,
)
from app.client.encoding import Examples, encode_examples, encode_queries
from app.client.errors import AdaptationFailed, NotReadyInTime, retry_after_s_of
from app.client.flow import Flow, Retries, Send, Sleep, send

# A request may take this much longer than the wait it asks the service for: the way there and back.
GRACE_S = 10.0
# Between two looks at a task that is not finished: short, because an adaptation takes milliseconds; bounded, because a queue may be long.
FIRST_LOOK_S, LAST_LOOK_S = 0.05, 1.0
_PAGE = 100


@dataclass(frozen=True)
class Operations:
    """The flows, under one policy of retries."""

    retries: Retries

    def create(self, body: Mapping[str, Any], wait_s: float) -> Flow[TaskInfo]:
        """The task once it is ready. Raises AdaptationFailed, NotReadyInTime after wait_s."""
        deadline = time.monotonic() + wait_s
        response = yield from self._send(_waiting(Send("POST", "/v1/tasks", json=dict(body)), wait_s))
        return (yield from self._await_ready(response, deadline))

    def revise(self, task_id: str, body: Mapping[str, Any], wait_s: float) -> Flow[TaskInfo]:
        """The task once its new revision is ready. Raises as create does, and Unreachable at once when the answer is lost on its way."""
        deadline = time.monotonic() + wait_s
        request = Send("POST", f"/v1/tasks/{task_id}/support", json=dict(body), is_repeatable=False)
        response = yield from self._send(_waiting(request, wait_s))
        return (yield from self._await_ready(response, deadline))

    def get(self, task_id: str) -> Flow[TaskInfo]:
        """The task as it stands."""
        response = yield from self._send(Send("GET", f"/v1/tasks/{task_id}"))
        return read_task(response.json())

    def delete(self, task_id: str) -> Flow[None]:
        """Removes the task with all it owns."""
        yield from self._send(Send("DELETE", f"/v1/tasks/{task_id}"))

    def predict(self, task_id: str, queries: Examples, *, record: bool, explain: bool) -> Flow[Predictions]:
        """Answers to the queries, in their order."""
        params = {name: "true" for name, wanted in (("record", record), ("explain", explain)) if wanted}
        response = yield from self._send(
            Send("POST", f"/v1/tasks/{task_id}/predictions", json={"inputs": encode_examples(queries)}, params=params)
        )
        return read_predictions(response.json())

    def predict_arrays(self, task_id: str, queries: Examples) -> Flow[Predictions]:
        """Answers to the queries, in their order, without JSON on either way where the queries are numbers."""
        content, media = encode_queries(queries)
        headers = {"Content-Type": media, "Accept": NPZ}
        response = yield from self._send(Send("POST", f"/v1/tasks/{task_id}/predictions", headers=headers, content=content))
        return read_prediction_arrays(response.content, response.headers)

    def predictions(self, task_id: str) -> Flow[list[Predictions]]:
        """The kept predictions, oldest first: those of the query set that came with the task, and the recorded ones."""
        rows = yield from self._read_pages(f"/v1/tasks/{task_id}/predictions")
        return [read_predictions(row) for row in rows]

    def similar(self, task_id: str, limit: int) -> Flow[Neighbourhood]:
        """This key's tasks of the same initializer version, nearest first."""
        response = yield from self._send(Send("GET", f"/v1/tasks/{task_id}/similar", params={"limit": str(limit)}))
        return read_neighbourhood(response.json())

    def tasks(self) -> Flow[list[TaskInfo]]:
        """Every live task of this key, newest first."""
        rows = yield from self._read_pages("/v1/tasks")
        return [read_task(row) for row in rows]

    def initializers(self) -> Flow[list[Initializer]]:
        """What the service offers, by name."""
        response = yield from self._send(Send("GET", "/v1/initializers"))
        return [read_initializer(row) for row in response.json()["data"]]

    def _send(self, request: Send) -> Flow[httpx.Response]:
        return send(request, self.retries)

    def _read_pages(self, path: str) -> Flow[list[dict[str, Any]]]:
        rows: list[dict[str, Any]] = []
        params = {"limit": str(_PAGE)}
        while True:
            response = yield from self._send(Send("GET", path, params=params))
            page = response.json()
            rows += page["data"]
            if not page["has_more"]:
                return rows
            params = {"limit": str(_PAGE), "after": page["last_id"]}

    def _await_ready(self, response: httpx.Response, deadline: float) -> Flow[TaskInfo]:
        """Looks again, a little later each time, until the task that `response` holds is finished."""
        task, look_s = read_task(response.json()), FIRST_LOOK_S
        while not task.is_finished:
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise NotReadyInTime(f"task {task.id} revision {task.revision} is {task.status}", code="not_ready_in_time")
            yield Sleep(min(left_s, look_s))
            look_s = min(2 * look_s, LAST_LOOK_S)
            task = yield from self.get(task.id)
        if task.error is not None:
            raise AdaptationFailed(task.error[1], status=response.status_code, code=task.error[0], retry_after_s=retry_after_s_of(response))
        return task


def task_body(
    initializer: str,
    images: Examples,
    labels: Sequence[str | float],
    *,
    query: Examples | None,
    options: Mapping[str, Any],
    name: str | None,
    metadata: Mapping[str, Any] | None,
    ttl_s: int | None,
) -> dict[str, Any]:
    """The JSON of a new task; what was not given is left out."""
    optional = {
        "query": None if query is None else encode_examples(query),
        "options": dict(options) or None,
        "name": name,
        "metadata": None if metadata is None else dict(metadata),
        "ttl_s": ttl_s,
    }
    support = encode_support(images, labels)
    return {"initializer": initializer, "support": support} | {key: value for key, value in optional.items() if value is not None}


def task_options(*, steps: int | None, warm_start: bool) -> dict[str, Any]:
    """The JSON of the options; what was not chosen is left out."""
    return {**({} if steps is None else {"steps": steps}), **({"warm_start": True} if warm_start else {})}


def new_options(steps: int | None, warm_start: bool | None) -> dict[str, Any]:
    """The part of a revision that replaces the options; nothing when neither was chosen, and the task then keeps what it has."""
    if steps is None and warm_start is None:
        return {}
    return {"options": task_options(steps=steps, warm_start=bool(warm_start))}


def encode_support(images: Examples, labels: Sequence[str | float]) -> dict[str, Any]:
    """The JSON of labelled examples. numpy's own scalars become Python's; integers are class names only as strings."""
    return {"inputs": encode_examples(images), "labels": [label.item() if hasattr(label, "item") else label for label in labels]}


def _waiting(request: Send, wait_s: float) -> Send:
    """The request with a preference to be answered with the finished task, and the patience to wait for that."""
    seconds = int(wait_s)
    if seconds <= 0:
        return request
    return replace(request, headers={"Prefer": f"wait={seconds}"}, timeout_s=wait_s + GRACE_S)
