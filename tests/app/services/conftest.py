from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.db.session import Database
from tests.app.services.world import World, build_world, write_initializer


@pytest.fixture(scope="session")
def sqlite_template(sqlite_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file to copy, with the initializers of `world` registered: half of what its start takes."""
    folder = tmp_path_factory.mktemp("registered")
    path = shutil.copy(sqlite_template, folder / "template.db")

    async def register() -> None:
        database = Database(f"sqlite+aiosqlite:///{path}")
        await start_world(database, folder / "initializers")
        await database.close()

    asyncio.run(register())
    return Path(path)


async def start_world(database: Database, folder: Path) -> World:
    """A world with a classifier and a regressor registered."""
    write_initializer(folder, "protonet")
    write_initializer(folder, "sine")
    made = build_world(database, folder)
    await made.initializers.bootstrap()
    return made


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    """One process over each database in turn, with a classifier and a regressor registered."""
    made = await start_world(database, tmp_path / "initializers")
    yield made
    await made.signals.close()


@pytest.fixture
async def second(world: World) -> World:
    """Another process over the same database and state cache."""
    other = build_world(world.database, world.folder, cache=world.cache)
    await other.initializers.bootstrap()
    return other
