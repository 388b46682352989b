"""How each server is spoken to: the same support sets and queries, in the words of its own routes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from app.client.encoding import encode_examples
from benchmarks.http_connection import Reply, encode_request
from benchmarks.load_generator import NUMBER_WIDTH, Message

Images = npt.NDArray[np.uint8]
_NUMBER = "@" * NUMBER_WIDTH
_JSON = {"Content-Type": "application/json"}


class Dialect(Protocol):
    """The requests of one server, and where its answers have what the benchmark needs."""

    @property
    def name(self) -> str: ...

    @property
    def ready_path(self) -> str: ...

    def adapt(self, images: Images, labels: Sequence[str]) -> Message:
        """Adapts to a support set; answered when the adapted weights are ready."""
        ...

    def predict(self, model_id: str, images: Images) -> Message:
        """Predicts with what an adaptation made."""
        ...

    def read_id(self, reply: Reply) -> str:
        """The id in the answer to an adaptation."""
        ...

    def read_answers(self, reply: Reply) -> list[Mapping[str, float]]:
        """The probability of every class, for each query."""
        ...


@dataclass(frozen=True)
class InnerLoopDialect:
    """The service. A task's name is unique in every request: equal requests would be adapted once only."""

    initializer: str
    key: str
    name: str = "ours"
    ready_path: str = "/readyz"

    def adapt(self, images: Images, labels: Sequence[str]) -> Message:
        support = {"inputs": encode_examples(images), "labels": list(labels)}
        body = {"initializer": self.initializer, "name": _NUMBER, "support": support}
        before, _, after = _post("/v1/tasks", body, **self._headers, Prefer="wait=30").partition(_NUMBER.encode())
        return Message("adapt", before, after)

    def predict(self, model_id: str, images: Images) -> Message:
        return Message("predict", _post(f"/v1/tasks/{model_id}/predictions", {"inputs": encode_examples(images)}, **self._headers))

    def read_id(self, reply: Reply) -> str:
        return str(json.loads(reply.body)["id"])

    def read_answers(self, reply: Reply) -> list[Mapping[str, float]]:
        return [answer["probabilities"] for answer in json.loads(reply.body)["predictions"]]

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


@dataclass(frozen=True)
class PlainDialect:
    """The plain FastAPI endpoint."""

    name: str = "plain endpoint"
    ready_path: str = "/health"

    def adapt(self, images: Images, labels: Sequence[str]) -> Message:
        return Message("adapt", _post("/adapt", {"inputs": encode_examples(images)["data"], "labels": list(labels)}))

    def predict(self, model_id: str, images: Images) -> Message:
        return Message("predict", _post(f"/predict/{model_id}", {"inputs": encode_examples(images)["data"]}))

    def read_id(self, reply: Reply) -> str:
        return str(json.loads(reply.body)["id"])

    def read_answers(self, reply: Reply) -> list[Mapping[str, float]]:
        return list(json.loads(reply.body)["predictions"])


@dataclass(frozen=True)
class LitServeDialect(PlainDialect):
    """LitServe: one route, and the body says which call it is."""

    name: str = "litserve"

    def adapt(self, images: Images, labels: Sequence[str]) -> Message:
        return Message("adapt", _post("/predict", {"inputs": encode_examples(images)["data"], "labels": list(labels)}))

    def predict(self, model_id: str, images: Images) -> Message:
        return Message("predict", _post("/predict", {"id": model_id, "inputs": encode_examples(images)["data"]}))


def _post(path: str, body: Mapping[str, Any], **headers: str) -> bytes:
    return encode_request("POST", path, {**_JSON, **headers}, json.dumps(body).encode())
