"""The client that blocks: `InnerLoop(url, key).adapt(images, labels).predict(images)`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.client.answers import Initializer, Neighbourhood, Predictions, TaskInfo
from app.client.encoding import Examples
from app.client.flow import Effect, Flow, Retries, Send
from app.client.operations import Operations, encode_support, new_options, task_body, task_options

T = TypeVar("T")
DEFAULT_INITIALIZER = "omniglot-protonet"
DEFAULT_TIMEOUT_S = 30.0


class InnerLoop:
    """A connection to the service. Use it as a context manager, or call close().

    InnerLoop("http://127.0.0.1:8000", "il_...").adapt(images, labels).predict(more_images).labels
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._http = httpx.Client(base_url=url, headers=key_header(key), timeout=timeout_s, transport=transport)
        self._operations = Operations(retries or Retries())

    def adapt(
        self,
        images: Examples,
        labels: Sequence[str | float],
        initializer: str = DEFAULT_INITIALIZER,
        *,
        steps: int | None = None,
        warm_start: bool = False,
        name: str | None = None,
        query: Examples | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl_s: int | None = None,
        wait_s: float = 30.0,
    ) -> AdaptedTask:
        """A task adapted to these examples. Raises InvalidInput, AdaptationFailed, NotReadyInTime after wait_s.

        images: see `Examples`; labels: a name per example, or a number for a regression initializer. initializer: a name, or
        "auto": the service tries which does best on examples held out; `info.selection` tells. query: answered as soon as the
        task is ready, see `AdaptedTask.predictions`. Asking again for the same thing gives the same task. warm_start:
        begin with the weights of your most similar task if they prove better on held-out examples; `info.warm_start` tells.
        """
        options = task_options(steps=steps, warm_start=warm_start)
        body = task_body(initializer, images, labels, query=query, options=options, name=name, metadata=metadata, ttl_s=ttl_s)
        return AdaptedTask(self, self._perform(self._operations.create(body, wait_s)))

    def task(self, task_id: str) -> AdaptedTask:
        """A handle on a task that exists."""
        return AdaptedTask(self, self._perform(self._operations.get(task_id)))

    def tasks(self) -> list[TaskInfo]:
        """Every live task of this key, newest first."""
        return self._perform(self._operations.tasks())

    def initializers(self) -> list[Initializer]:
        """What the service offers, by name."""
        return self._perform(self._operations.initializers())

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _perform(self, flow: Flow[T]) -> T:
        """The flow's result; its effects are done here, one after another."""
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = self._do(effect)
                except httpx.TransportError as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, effect: Effect) -> httpx.Response | None:
        if isinstance(effect, Send):
            return self._http.send(build_request(self._http, effect))
        time.sleep(effect.seconds)
        return None


class AdaptedTask:
    """A task on the service: what it was when last read (`info`), and what can be done with it."""

    def __init__(self, client: InnerLoop, info: TaskInfo) -> None:
        self._client = client
        self.info = info

    @property
    def id(self) -> str:
        """The task's id."""
        return self.info.id

    def predict(self, images: Examples, *, record: bool = False, explain: bool = False) -> Predictions:
        """Answers for each image by itself; with `record` the service keeps them, with `explain` they name the examples that drove them."""
        return self._client._perform(self._client._operations.predict(self.id, images, record=record, explain=explain))

    def predict_arrays(self, images: Examples) -> Predictions:
        """The same answers, which travel as arrays, not as JSON: quicker from some dozens of queries on."""
        return self._client._perform(self._client._operations.predict_arrays(self.id, images))

    def predictions(self) -> list[Predictions]:
        """The kept predictions, oldest first."""
        return self._client._perform(self._client._operations.predictions(self.id))

    def similar(self, limit: int = 10) -> Neighbourhood:
        """Your ready tasks of the same initializer version, nearest first. Raises Conflict when there is nothing to compare by."""
        return self._client._perform(self._client._operations.similar(self.id, limit))

    def refresh(self) -> Self:
        """Reads the task again."""
        self.info = self._client._perform(self._client._operations.get(self.id))
        return self

    def add(
        self,
        images: Examples,
        labels: Sequence[str | float],
        *,
        steps: int | None = None,
        warm_start: bool | None = None,
        wait_s: float = 30.0,
    ) -> Self:
        """Adds labelled examples, of known or new classes, and adapts again; the old revision answers until then.

        With `steps` or `warm_start` these are the task's options from now on; without both it keeps those it has.
        """
        return self._revise({"add": encode_support(images, labels), **new_options(steps, warm_start)}, wait_s)

    def remove(
        self,
        classes: Iterable[str] = (),
        *,
        indices: Iterable[int] = (),
        steps: int | None = None,
        warm_start: bool | None = None,
        wait_s: float = 30.0,
    ) -> Self:
        """Removes whole classes, and examples by their index in the latest revision, and adapts again; options as for `add`."""
        removal = {"classes": list(classes), "indices": list(indices)}
        return self._revise({"remove": removal, **new_options(steps, warm_start)}, wait_s)

    def readapt(self, *, steps: int | None = None, warm_start: bool = False, wait_s: float = 30.0) -> Self:
        """Adapts the same examples again, with these options and the initializer's current version; "auto" chooses again."""
        return self._revise({"options": task_options(steps=steps, warm_start=warm_start)}, wait_s)

    def delete(self) -> None:
        """Removes the task with all it owns."""
        self._client._perform(self._client._operations.delete(self.id))

    def _revise(self, body: Mapping[str, Any], wait_s: float) -> Self:
        self.info = self._client._perform(self._client._operations.revise(self.id, body, wait_s))
        return self


def key_header(key: str) -> dict[str, str]:
    """How a request says who asks."""
    return {"Authorization": f"Bearer {key}"} if key else {}


def build_request(http: httpx.Client | httpx.AsyncClient, effect: Send) -> httpx.Request:
    """httpx's own request for an effect."""
    timeout = httpx.USE_CLIENT_DEFAULT if effect.timeout_s is None else effect.timeout_s
    return http.build_request(
        effect.method,
        effect.path,
        content=effect.content,
        json=effect.json,
        params=dict(effect.params),
        headers=dict(effect.headers),
        timeout=timeout,
    )
