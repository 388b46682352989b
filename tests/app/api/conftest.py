"""The real service behind ASGI: real services on SQLite, the queue in memory, torch, and tiny untrained initializers."""

from __future__ import annotations

import asyncio
import base64
import io
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from fastapi import FastAPI
from PIL import Image

from app.composition import build_services
from app.main import Application, create_app
from app.services.keys import KeyService
from app.settings import Settings
from models.artifact import save_initializer
from models.card import Card, InputSpec, Limits
from models.methods import build_learner

INK = {"method": "protonet", "kind": "classification", "input_shape": [1, 8, 8], "backbone": {"kind": "mlp", "hidden": [16]}}
CURVE = {
    "method": "maml",
    "kind": "regression",
    "input_shape": [1],
    "backbone": {"kind": "mlp", "hidden": [8]},
    "inner_steps": 2,
    "inner_lr": 0.01,
}


def make_card(name: str, learner: dict[str, Any], limits: Limits, *, default_steps: int) -> Card:
    """A card of an untrained learner."""
    shape = tuple(learner["input_shape"])
    spec = InputSpec("image", shape, "bright", (0, 1)) if len(shape) == 3 else InputSpec("vector", shape, None, None)
    return Card(
        name=name,
        learner=learner,
        input=spec,
        limits=limits,
        default_steps=default_steps,
        recipe={},
        data="none",
        seed=0,
        meta_steps=0,
        git_revision=None,
        trained_with="nothing",
        train_seconds=0.0,
        hardware="any",
        torch_version=torch.__version__,
        created_at="2026-01-01T00:00:00+00:00",
    )


def write_initializer(folder: Path, card: Card, seed: int = 0) -> None:
    """An initializer folder whose weights are a function of the seed."""
    params = build_learner(card.learner).init(torch.Generator().manual_seed(seed))
    save_initializer(folder / card.name, card, params)


@pytest.fixture(scope="session")
def initializers_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny-ink` reads 8 x 8 ink drawings, `tiny-curve` one number."""
    folder = tmp_path_factory.mktemp("initializers")
    write_initializer(folder, make_card("tiny-ink", INK, Limits(5, 20, 2, 0), default_steps=0))
    write_initializer(folder, make_card("tiny-curve", CURVE, Limits(0, 20, 0, 5), default_steps=2))
    return folder


@pytest.fixture(scope="session")
def sqlite_template(sqlite_template: Path, initializers_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file to copy, with the initializers registered: half of what a service's start takes."""
    folder = tmp_path_factory.mktemp("registered")
    path = shutil.copy(sqlite_template, folder / "template.db")

    async def register() -> None:
        async with build_services(make_settings(folder, f"sqlite+aiosqlite:///{path}", initializers_dir)):
            pass

    asyncio.run(register())
    return Path(path)


@pytest.fixture
def settings(tmp_path: Path, sqlite_url: str, initializers_dir: Path) -> Settings:
    """For a service of one test."""
    return make_settings(tmp_path, sqlite_url, initializers_dir)


def make_settings(home_dir: Path, database_url: str, initializers_dir: Path) -> Settings:
    """SQLite, everything else in process, and limits small enough to reach."""
    return Settings(
        home_dir=home_dir,
        database_url=database_url,
        redis_url="",
        device="cpu",
        torch_threads=1,
        initializers_dir=initializers_dir,
        max_body_bytes=400_000,
        max_image_pixels=40_000,
        max_queries=50,
        max_wait_s=20.0,
    )


@dataclass(frozen=True)
class Service:
    """A running service with a client of each kind of key."""

    app: FastAPI
    user: httpx.AsyncClient
    other: httpx.AsyncClient
    admin: httpx.AsyncClient
    nobody: httpx.AsyncClient


@asynccontextmanager
async def run_service(settings: Settings) -> AsyncIterator[Service]:
    """The app with its lifespan, as uvicorn would run it."""
    app = create_app(settings)
    async with app.api.router.lifespan_context(app.api):
        keys: KeyService = app.api.state.door.keys
        admin = await keys.bootstrap_admin()
        texts = [await keys.create("user"), await keys.create("other"), admin, None]
        user, other, boss, nobody = (make_client(app, text) for text in texts)
        async with user, other, boss, nobody:
            yield Service(app.api, user, other, boss, nobody)


def make_client(app: Application, key: str | None) -> httpx.AsyncClient:
    """A client that shows what the app does, also when it crashes."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.AsyncClient(transport=transport, base_url="http://test", headers=headers, timeout=30)


@pytest.fixture
async def service(settings: Settings) -> AsyncIterator[Service]:
    """The service for one test."""
    async with run_service(settings) as running:
        yield running


def strokes(n: int = 2) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """n drawings (n, 8, 8): bright vertical bars, each one pixel further right."""
    drawings = np.zeros((n, 8, 8), np.uint8)
    drawings[np.arange(n), 1:7, np.arange(n) % 8] = 255
    return drawings


def png(pixels: np.ndarray[Any, Any]) -> bytes:
    """The PNG file of an image array."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def base64_text(data: bytes) -> str:
    """Base64 as JSON carries it."""
    return base64.b64encode(data).decode()


def npy(array: np.ndarray[Any, Any]) -> bytes:
    """The .npy file of an array."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def task_body(**changes: Any) -> dict[str, Any]:
    """A body that POST /v1/tasks accepts, with changes; a change to None takes the key away."""
    inputs = (strokes(4) / 255).tolist()
    body = {"initializer": "tiny-ink", "support": {"inputs": inputs, "labels": ["a", "b", "c", "d"]}, **changes}
    return {name: value for name, value in body.items() if value is not None}


async def make_task(client: httpx.AsyncClient, **changes: Any) -> dict[str, Any]:
    """A finished task."""
    response = await client.post("/v1/tasks", json=task_body(**changes), headers={"Prefer": "wait=20"})
    assert response.status_code in (200, 201), response.text
    document: dict[str, Any] = response.json()
    assert document["status"] == "ready", document
    return document
