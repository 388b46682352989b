"""What the settings refuse before anything is started with it."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.mark.parametrize(
    "url",
    ["innerloop.db", "mysql://host/innerloop", "postgres", "postgres+psycopg://h/x", "sqlite+pysqlite:///x", "postgresql+asyncpg://h/x"],
)
def test_a_url_of_no_database_that_is_served_is_refused_before_a_driver_sees_it(url: str) -> None:
    with pytest.raises(ValidationError, match="database_url"):
        Settings(database_url=url)


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("", "sqlite+aiosqlite"),
        ("sqlite:////tmp/x.db", "sqlite+aiosqlite"),
        ("postgres://u:p@h/x", "postgresql+psycopg"),
        ("postgresql+psycopg://h/x?sslmode=require", "postgresql+psycopg"),
    ],
)
def test_a_url_gets_its_driver(url: str, driver: str) -> None:
    assert Settings(database_url=url).resolved_database_url.startswith(f"{driver}://")
