"""The client for asyncio: `sync.py` with awaits, and nothing else of its own; the work is in `operations.py`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from app.client.answers import Initializer, Neighbourhood, Predictions, TaskInfo
from app.client.encoding import Examples
from app.client.flow import Effect, Flow, Retries, Send
from app.client.operations import Operations, encode_support, new_options, task_body, task_options
from app.client.sync import DEFAULT_INITIALIZER, DEFAULT_TIMEOUT_S, build_request, key_header

T = TypeVar("T")


class AsyncInnerLoop:
    """A connection to the service. Use it as a context manager, or call close().

    task = await AsyncInnerLoop("http://127.0.0.1:8000", "il_...").adapt(images, labels)
    (await task.predict(more_images)).labels
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        key: str = "",
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        retries: Retries | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._http = httpx.AsyncClient(base_url=url, headers=key_header(key), timeout=timeout_s, transport=transport)
        self._operations = Operations(retries or Retries())

    async def adapt(
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
    ) -> AsyncAdaptedTask:
        """A task adapted to these examples. Raises InvalidInput, AdaptationFailed, NotReadyInTime after wait_s.

        images: see `Examples`; labels: a name per example, or a number for a regression initializer. initializer: a name, or
        "auto": the service tries which does best on examples held out; `info.selection` tells. query: answered as soon as the
        task is ready, see `AsyncAdaptedTask.predictions`. Asking again for the same thing gives the same task. warm_start:
        begin with the weights of your most similar task if they prove better on held-out examples; `info.warm_start` tells.
        """
        options = task_options(steps=steps, warm_start=warm_start)
        body = task_body(initializer, images, labels, query=query, options=options, name=name, metadata=metadata, ttl_s=ttl_s)
        return AsyncAdaptedTask(self, await self._perform(self._operations.create(body, wait_s)))

    async def task(self, task_id: str) -> AsyncAdaptedTask:
        """A handle on a task that exists."""
        return AsyncAdaptedTask(self, await self._perform(self._operations.get(task_id)))

    async def tasks(self) -> list[TaskInfo]:
        """Every live task of this key, newest first."""
        return await self._perform(self._operations.tasks())

    async def initializers(self) -> list[Initializer]:
        """What the service offers, by name."""
        return await self._perform(self._operations.initializers())

    async def close(self) -> None:
        """Closes the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def _perform(self, flow: Flow[T]) -> T:
        """The flow's result; its effects are done here, one after another."""
        try:
            effect = next(flow)
            while True:
                try:
                    outcome = await self._do(effect)
                except httpx.TransportError as error:
                    effect = flow.throw(error)
                else:
                    effect = flow.send(outcome)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, effect: Effect) -> httpx.Response | None:
        if isinstance(effect, Send):
            return await self._http.send(build_request(self._http, effect))
        await asyncio.sleep(effect.seconds)
        return None


class AsyncAdaptedTask:
    """A task on the service: what it was when last read (`info`), and what can be done with it."""

    def __init__(self, client: AsyncInnerLoop, info: TaskInfo) -> None:
        self._client = client
        self.info = info

    @property
    def id(self) -> str:
        """The task's id."""
        return self.info.id

    async def predict(self, images: Examples, *, record: bool = False, explain: bool = False) -> Predictions:
        """Answers for each image by itself; with `record` the service keeps them, with `explain` they name the examples that drove them."""
        return await self._client._perform(self._client._operations.predict(self.id, images, record=record, explain=explain))

    async def predict_arrays(self, images: Examples) -> Predictions:
        """The same answers, which travel as arrays, not as JSON: quicker from some dozens of queries on."""
        return await self._client._perform(self._client._operations.predict_arrays(self.id, images))

    async def predictions(self) -> list[Predictions]:
        """The kept predictions, oldest first."""
        return await self._client._perform(self._client._operations.predictions(self.id))

    async def similar(self, limit: int = 10) -> Neighbourhood:
        """Your ready tasks of the same initializer version, nearest first. Raises Conflict when there is nothing to compare by."""
        return await self._client._perform(self._client._operations.similar(self.id, limit))

    async def refresh(self) -> Self:
        """Reads the task again."""
        self.info = await self._client._perform(self._client._operations.get(self.id))
        return self

    async def add(
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
        return await self._revise({"add": encode_support(images, labels), **new_options(steps, warm_start)}, wait_s)

    async def remove(
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
        return await self._revise({"remove": removal, **new_options(steps, warm_start)}, wait_s)

    async def readapt(self, *, steps: int | None = None, warm_start: bool = False, wait_s: float = 30.0) -> Self:
        """Adapts the same examples again, with these options and the initializer's current version; "auto" chooses again."""
        return await self._revise({"options": task_options(steps=steps, warm_start=warm_start)}, wait_s)

    async def delete(self) -> None:
        """Removes the task with all it owns."""
        await self._client._perform(self._client._operations.delete(self.id))

    async def _revise(self, body: Mapping[str, Any], wait_s: float) -> Self:
        self.info = await self._client._perform(self._client._operations.revise(self.id, body, wait_s))
        return self
