"""Law 6 in one engine, on every learner: versions side by side give each its own answers. tests/e2e holds it for the whole service."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from app.domain import AdaptJob, InitializerRef, StateKey
from app.engine.torch_engine import TorchEngine
from app.errors import InitializerNotInstalled
from models.learner import Learner
from models.methods import build_learner
from models.support import Params, Support
from tests.laws.conftest import World, draw_params
from tests.laws.learners import SPECS

VERSIONS = (1, 2)


@dataclass(frozen=True)
class Version:
    """An initializer without a file."""

    learner: Learner
    params: Params


def load_version(card: Mapping[str, Any], weights: bytes) -> Version:
    """The learner of `card` with meta-parameters of the seed in `weights`."""
    learner = build_learner(card)
    params = draw_params(learner, torch.Generator().manual_seed(int(weights)))
    return Version(learner, {name: tensor.float() for name, tensor in params.items()})


def expect(version: Version, support: Support, queries: torch.Tensor) -> torch.Tensor:
    """What the version answers by itself, without an engine."""
    with torch.no_grad():
        outputs = version.learner.predict(version.params, version.learner.adapt(version.params, support).state, queries.unsqueeze(0))[0]
    return outputs if version.learner.kind == "regression" else outputs.softmax(-1)


@pytest.fixture
async def engine() -> AsyncIterator[TorchEngine]:
    engine = TorchEngine("cpu", 1, load=load_version)
    yield engine
    await engine.close()


@pytest.mark.parametrize("name", sorted(SPECS))
async def test_two_versions_side_by_side_answer_each_for_itself(name: str, engine: TorchEngine) -> None:
    refs = [InitializerRef(name, number) for number in VERSIONS]
    await asyncio.gather(*(engine.install(ref, SPECS[name], str(ref.version).encode()) for ref in refs))
    versions = [load_version(SPECS[name], str(number).encode()) for number in VERSIONS]
    world = World(versions[0].learner, versions[0].params, torch.Generator().manual_seed(3))
    support, queries = world.support().to("cpu", torch.float32), world.inputs(4).float()

    arrays = support.inputs[0].numpy(), support.targets[0].numpy()
    jobs = [AdaptJob(StateKey("task", 1, ref), *arrays, support.max_way, world.learner.default_steps) for ref in refs]
    await asyncio.gather(*(engine.adapt(job) for job in jobs))
    asked = [job.key for job in jobs] * 2
    answers = [answer.values for answer in await asyncio.gather(*(engine.predict(key, queries.numpy()) for key in asked))]

    expected = [expect(version, support, queries).numpy() for version in versions]
    assert np.abs(expected[0] - expected[1]).max() > 1e-3, "the versions must differ for the test to tell them apart"
    for found, wanted in zip(answers, expected * 2, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)

    await engine.retire(refs[0])
    np.testing.assert_allclose((await engine.predict(jobs[1].key, queries.numpy())).values, expected[1], rtol=1e-4, atol=1e-4)
    with pytest.raises(InitializerNotInstalled):
        await engine.predict(jobs[0].key, queries.numpy())
