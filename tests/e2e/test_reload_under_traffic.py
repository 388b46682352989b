"""Many reloads while tasks are made and asked: no request fails, and every answer has the numbers of the version it names."""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import numpy.typing as npt
import pytest

from app.client import AsyncAdaptedTask, AsyncInnerLoop, Predictions, Retries
from tests.e2e.initializers import NAME, drawings, write_tiny_initializer
from tests.e2e.processes import make_key, running, serving

N_CREATORS, N_ASKERS = 2, 4
SUPPORT, LABELS, QUERIES = drawings(6, 1), ["a", "b", "c"] * 2, drawings(5, 2)


@dataclass
class Traffic:
    """What the clients saw: the numbers of every answer by the version it named."""

    probabilities: dict[int, list[npt.NDArray[np.float64]]] = field(default_factory=dict)
    is_over: asyncio.Event = field(default_factory=asyncio.Event)
    n_created: int = 0

    def note(self, answers: Predictions) -> None:
        self.probabilities.setdefault(answers.version, []).append(answers.probabilities)


@pytest.mark.timeout(300)
async def test_no_request_fails_and_no_answer_mixes_versions(tmp_path: Path, tiny_dir: Path, sqlite_url: str) -> None:
    settings = {"INNERLOOP_DATABASE_URL": sqlite_url, "INNERLOOP_INITIALIZERS_DIR": str(tiny_dir)}
    key = await make_key(tmp_path, "user", "admin", settings=settings)
    with serving(tmp_path, settings=settings) as service:
        await _reload_under_traffic(service.url, key, tiny_dir, n_reloads=100)
        assert service.stop() == 0, service.tail()


@pytest.mark.timeout(300)
async def test_nor_when_other_processes_adapt_than_answer(
    tmp_path: Path, tiny_dir: Path, empty_postgres_url: str, private_redis_url: str
) -> None:
    settings = {
        "INNERLOOP_DATABASE_URL": empty_postgres_url,
        "INNERLOOP_REDIS_URL": private_redis_url,
        "INNERLOOP_INITIALIZERS_DIR": str(tiny_dir),
    }
    key = await make_key(tmp_path, "user", "admin", settings=settings)
    with running(tmp_path, "worker", "worker", settings=settings) as worker, serving(tmp_path, "--role", "api", settings=settings) as api:
        await _reload_under_traffic(api.url, key, tiny_dir, n_reloads=30)
        assert worker.stop() == 0, worker.tail()
        assert api.stop() == 0, api.tail()


async def _reload_under_traffic(url: str, key: str, folder: Path, *, n_reloads: int) -> None:
    for seed in (0, 1):
        write_tiny_initializer(folder.parent / f"seed {seed}", seed=seed)
    admin = httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, timeout=30)
    async with admin, AsyncInnerLoop(url, key, retries=Retries(attempts=1)) as client:  # nothing hides a failure
        traffic, expected = Traffic(), {}
        expected[1] = await _numbers_of_current(client, 1)
        assert await _reload(admin, folder, seed=1) == 2
        expected[0] = await _numbers_of_current(client, 2)
        assert np.abs(expected[0] - expected[1]).max() > 0.01, "the two versions must be told apart by their numbers"
        clients = _start_clients(client, await client.adapt(SUPPORT, LABELS, NAME), traffic)
        for version in range(3, n_reloads + 3):
            assert await _reload(admin, folder, seed=(version + 1) % 2) == version
        traffic.is_over.set()
        await clients
    _check(traffic, expected, n_reloads)


def _check(traffic: Traffic, expected: dict[int, npt.NDArray[np.float64]], n_reloads: int) -> None:
    """Odd versions are one set of weights and even ones another; each answer must have the numbers of the one it names."""
    assert traffic.n_created >= n_reloads // 2, "too few tasks were made to prove anything"
    assert len(traffic.probabilities) >= n_reloads // 4, f"answers came from versions {sorted(traffic.probabilities)} only"
    for version, answers in traffic.probabilities.items():
        for probabilities in answers:
            np.testing.assert_allclose(probabilities, expected[version % 2], atol=1e-5, err_msg=f"version {version}")


async def _numbers_of_current(client: AsyncInnerLoop, version: int) -> npt.NDArray[np.float64]:
    """What the current version answers, which must be `version`."""
    answers = await (await client.adapt(SUPPORT, LABELS, NAME, name=f"reference {version}")).predict(QUERIES)
    assert answers.version == version
    return answers.probabilities


async def _reload(admin: httpx.AsyncClient, folder: Path, *, seed: int) -> int:
    """Puts other weights into the folder and reloads; the new version."""
    shutil.copytree(folder.parent / f"seed {seed}" / NAME, folder / NAME, dirs_exist_ok=True)
    answer = await admin.post(f"/v1/admin/initializers/{NAME}/reload")
    assert answer.status_code == 200, answer.text
    assert answer.json()["changed"]
    version: int = answer.json()["new_version"]
    return version


def _start_clients(client: AsyncInnerLoop, steady: AsyncAdaptedTask, traffic: Traffic) -> asyncio.Future[list[None]]:
    """Some make tasks and ask each once; others ask one old task again and again, which moves to new versions by itself."""
    creators = [_create_and_ask(client, traffic, index) for index in range(N_CREATORS)]
    return asyncio.gather(*creators, *(_ask(steady, traffic) for _ in range(N_ASKERS)))


async def _create_and_ask(client: AsyncInnerLoop, traffic: Traffic, index: int) -> None:
    while not traffic.is_over.is_set():
        task = await client.adapt(SUPPORT, LABELS, NAME, name=f"{index} {traffic.n_created}")
        traffic.note(await task.predict(QUERIES))
        traffic.n_created += 1


async def _ask(task: AsyncAdaptedTask, traffic: Traffic) -> None:
    while not traffic.is_over.is_set():
        traffic.note(await task.predict(QUERIES))
