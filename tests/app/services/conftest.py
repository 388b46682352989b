from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.db.session import Database
from tests.app.services.world import World, build_world, write_initializer


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    """One process over each database in turn, with a classifier and a regressor registered."""
    folder = tmp_path / "initializers"
    write_initializer(folder, "protonet")
    write_initializer(folder, "sine")
    made = build_world(database, folder)
    await made.initializers.bootstrap()
    yield made
    await made.signals.close()


@pytest.fixture
async def second(world: World) -> World:
    """Another process over the same database and state cache."""
    other = build_world(world.database, world.folder, cache=world.cache)
    await other.initializers.bootstrap()
    return other
