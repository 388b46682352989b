"""The engine over initializers from files, with the loader it has by default: digest, schema and golden episode are checked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from app.domain import AdaptJob, InitializerRef, StateKey
from app.engine.interface import inspect
from app.engine.torch_engine import TorchEngine
from app.errors import InitializerRejected
from models.artifact import list_bundled, save_initializer
from models.card import Card, InputSpec, Limits
from models.methods import build_learner

CONV4 = {"kind": "conv4", "filters": 16, "groups": 4}
LEARNERS: dict[str, dict[str, Any]] = {
    "protonet": {"method": "protonet", "kind": "classification", "input_shape": [1, 28, 28], "backbone": CONV4},
    "maml": {"method": "maml", "kind": "classification", "input_shape": [1, 28, 28], "inner_steps": 2, "backbone": CONV4},
    "sinusoid": {
        "method": "maml",
        "kind": "regression",
        "input_shape": [1],
        "inner_lr": 0.001,
        "backbone": {"kind": "mlp", "hidden": [40, 40]},
    },
}


def _write(folder: Path, name: str) -> None:
    """An untrained initializer of learner `name`."""
    learner = build_learner(LEARNERS[name])
    shape = tuple(learner.input_shape)
    image = len(shape) == 3
    card = Card(
        name=name,
        learner=LEARNERS[name],
        input=InputSpec("image" if image else "vector", shape, "bright" if image else None, (0.0, 1.0) if image else None),
        limits=Limits(max_way=10 if image else 0, max_support=100, min_way=2 if image else 0, max_steps=10),
        default_steps=learner.default_steps,
        recipe={},
        data="none",
        seed=1,
        meta_steps=0,
        git_revision=None,
        trained_with="nothing",
        train_seconds=0.0,
        hardware="none",
        torch_version=torch.__version__,
        created_at="2026-11-21T00:00:00Z",
    )
    save_initializer(folder / name, card, learner.init(torch.Generator().manual_seed(1)))


def read(folder: Path) -> tuple[dict[str, Any], bytes]:
    return json.loads((folder / "card.json").read_text()), (folder / "initializer.safetensors").read_bytes()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """One untrained initializer of every learner, and all that come with the package."""
    made = tmp_path_factory.mktemp("initializers")
    for name in LEARNERS:
        _write(made, name)
    return [*(made / name for name in LEARNERS), *list_bundled()]


@pytest.fixture
async def engine() -> AsyncIterator[TorchEngine]:
    engine = TorchEngine("cpu", 1)
    yield engine
    await engine.close()


def make_job(card: dict[str, Any], ref: InitializerRef, seed: int) -> AdaptJob:
    """A job of random inputs that fits the card."""
    info, rng = inspect(card, ref), np.random.default_rng(seed)
    n_way = min(2 + seed % 4, info.limits.max_way)
    if info.kind == "regression":
        inputs = rng.uniform(-1, 1, (5 + seed, *info.input.shape)).astype(np.float32)
        return AdaptJob(StateKey(f"t{seed}", 1, ref), inputs, np.sin(inputs[:, :1]), 0, info.default_steps)
    targets = np.tile(np.arange(n_way), 1 + seed % 3)
    inputs = rng.random((len(targets), *info.input.shape), dtype=np.float32)
    return AdaptJob(StateKey(f"t{seed}", 1, ref), inputs, targets, n_way, info.default_steps)


async def test_every_initializer_adapts_and_answers_alone_as_together(engine: TorchEngine, folders: list[Path]) -> None:
    for version, folder in enumerate(folders, start=1):
        (card, weights), ref = read(folder), InitializerRef(folder.name, version)
        await engine.install(ref, card, weights)
        jobs = [make_job(card, ref, seed) for seed in range(4)]
        queries = [job.inputs[: 1 + seed] for seed, job in enumerate(jobs)]
        await asyncio.gather(*(engine.adapt(job) for job in jobs))
        together = await asyncio.gather(*(engine.predict(job.key, mine) for job, mine in zip(jobs, queries, strict=True)))
        for job, mine, answers in zip(jobs, queries, together, strict=True):
            one_by_one = [(await engine.predict(job.key, mine[i : i + 1])).values[0] for i in range(len(mine))]
            np.testing.assert_allclose(answers.values, one_by_one, rtol=1e-5, atol=1e-5, err_msg=str(ref))
            engine.forget(job.key.task_id)
            await engine.adapt(job)
            again = await engine.predict(job.key, mine)
            # A float32 sum in another order may fall to the other side of a rounding: one step of 20 bits, on logits of up to a hundred.
            np.testing.assert_allclose(answers.values, again.values, rtol=1e-4, atol=1e-4, err_msg=str(ref))


async def test_weights_that_are_not_those_of_the_card_are_rejected(engine: TorchEngine, folders: list[Path]) -> None:
    card, weights = read(folders[0])
    spoilt = bytearray(weights)
    spoilt[-1] ^= 1
    with pytest.raises(InitializerRejected, match="sha256"):
        await engine.install(InitializerRef("spoilt", 1), card, bytes(spoilt))
    with pytest.raises(InitializerRejected):
        await engine.install(InitializerRef("spoilt", 1), {"name": "not a card"}, weights)
    assert engine.installed() == frozenset()
