"""Initializers for whole-system tests: tiny and untrained, because only what happens around them is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.initializers import write_tiny_initializer
from tests.servers import RedisServer


@pytest.fixture
def tiny_dir(tmp_path: Path) -> Path:
    """A folder with one initializer, `tiny`, that reads 8 x 8 drawings."""
    folder = tmp_path / "initializers"
    write_tiny_initializer(folder, seed=0)
    return folder


@pytest.fixture
def private_redis_url(private_redis: RedisServer) -> str:
    """A Redis that no other test or program uses: queues have fixed names."""
    return private_redis.url
