"""The plain peer computes what the service computes: otherwise its times would be no comparison."""

from __future__ import annotations

import base64
import io

import httpx
import numpy as np
import torch

from benchmarks.dialects import PlainDialect
from benchmarks.http_connection import Reply
from benchmarks.http_contenders import LABELS, N_WAY, draw_images
from benchmarks.plain_endpoint import create_app, decode_images
from benchmarks.plain_learner import load_plain_learner
from models.artifact import BUNDLED, load_initializer
from models.support import make_support

MAML = BUNDLED / "omniglot-maml"


def test_the_plain_net_answers_as_the_service_does() -> None:
    support = torch.from_numpy(draw_images(N_WAY, 1).astype(np.float32) / 255)
    queries, targets = torch.from_numpy(draw_images(20, 2).astype(np.float32) / 255), torch.arange(N_WAY)
    learner = load_plain_learner(MAML, N_WAY)
    plain = learner.predict(learner.adapt(support, targets), queries)
    initializer = load_initializer(MAML)
    state = initializer.learner.adapt(initializer.params, make_support(support, targets, N_WAY)).state
    ours = initializer.learner.predict(initializer.params, state, queries[None])[0].softmax(-1)
    assert torch.allclose(plain, ours, atol=1e-4)


def test_adapting_plainly_leaves_the_net_as_it_was() -> None:
    learner = load_plain_learner(MAML, N_WAY)
    before = [parameter.clone() for parameter in learner.net.parameters()]
    learner.adapt(torch.rand(N_WAY, 1, 28, 28), torch.arange(N_WAY))
    assert all(torch.equal(old, new) for old, new in zip(before, learner.net.parameters(), strict=True))


def test_bytes_are_scaled_and_floats_are_not() -> None:
    assert decode_images(encode(np.full((1, 1, 2, 2), 255, np.uint8))).max() == 1.0
    assert decode_images(encode(np.full((1, 1, 2, 2), 0.5, np.float32))).max() == 0.5


def encode(array: np.ndarray[tuple[int, ...], np.dtype[np.uint8 | np.float32]]) -> str:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return base64.b64encode(buffer.getvalue()).decode()


async def test_the_plain_endpoint_adapts_and_predicts() -> None:
    dialect, transport = PlainDialect(), httpx.ASGITransport(create_app(MAML, N_WAY))
    async with httpx.AsyncClient(transport=transport, base_url="http://plain") as client:
        adapted = await client.post("/adapt", content=body_of(dialect.adapt(draw_images(N_WAY, 1), LABELS).encode(0)), headers=JSON)
        model_id = dialect.read_id(as_reply(adapted))
        predicting = dialect.predict(model_id, draw_images(3, 2)).encode(0)
        answered = await client.post(f"/predict/{model_id}", content=body_of(predicting), headers=JSON)
    answers = dialect.read_answers(as_reply(answered))
    assert [sorted(row) for row in answers] == [sorted(LABELS)] * 3
    assert all(abs(sum(row.values()) - 1) < 1e-5 for row in answers)


JSON = {"Content-Type": "application/json"}


def body_of(request: bytes) -> bytes:
    return request.partition(b"\r\n\r\n")[2]


def as_reply(response: httpx.Response) -> Reply:
    return Reply(response.status_code, b"", response.content)
