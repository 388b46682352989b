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


@pytest.mark.parametrize("url", ["localhost:6379", "http://h/0", "redis:h"])
def test_so_is_one_of_no_redis(url: str) -> None:
    with pytest.raises(ValidationError, match="redis_url"):
        Settings(redis_url=url)


PLACES = ["u:secret@h:abc", "u:secret@[::1]:5x", "h:70000", "secret:secret"]
URLS = [("database_url", f"postgresql+psycopg://{place}/db") for place in [*PLACES, "u:sec/ret@h:x", "u:p@h:", "h:0"]]


@pytest.mark.parametrize(("name", "url"), [*URLS, *(("redis_url", f"redis://{place}/0") for place in [*PLACES, "u:sec/ret@h:1"])])
def test_a_port_that_is_no_number_is_refused_without_a_word_of_the_url(name: str, url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({name: url})
    (fault,) = caught.value.errors()
    assert (fault["loc"], fault["msg"].partition(",")[0]) == ((name,), "expected a number from 1 to 65535 for the port")
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["postgresql://u:a/b:c@h:5/x", "postgresql://h,g/x", "postgresql://[::1]:5/x", "postgresql:///x?host=/run:1", "sqlite:///C:/x"]
)
def test_other_colons_are_no_ports(url: str) -> None:
    assert Settings(database_url=url).database_url == url


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
