from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from sqlalchemy import event

from app.db.session import Database
from app.errors import InvalidBody, NotFound, Unauthenticated
from app.services.keys import KeyService
from tests.app.db.test_group_commit import Busy


@pytest.fixture
def keys(database: Database) -> KeyService:
    return KeyService(database)


async def test_a_key_authenticates_its_holder_with_its_scopes(keys: KeyService) -> None:
    text = await keys.create("ann", ["user"])
    assert re.fullmatch(r"il_[0-9a-f]{8}_[A-Za-z0-9_-]{43}", text)
    caller = await keys.authenticate(text)
    assert caller.scopes == {"user"}
    assert [(key.id, key.name) for key in await keys.list()] == [(caller.key_id, "ann")]


async def test_the_secret_is_stored_nowhere(keys: KeyService) -> None:
    text = await keys.create("ann")
    assert text[-43:] not in repr(await keys.list())


@pytest.mark.parametrize("name", ["", " \n\t", "x" * 201, "a\0b", "\udcff"])
async def test_a_name_that_says_nothing_or_cannot_be_stored_is_refused(keys: KeyService, name: str) -> None:
    with pytest.raises(InvalidBody, match="#/name: expected a name of 1 to 200 characters, not all of them blank"):
        await keys.create(name)
    assert await keys.list() == []
    await keys.create("n" * 200)


@pytest.mark.parametrize("wrong", ["", "hello", "il_00000000_" + "a" * 43, "il_00000000_\N{SNOWMAN}"])
async def test_what_is_no_key_of_ours_is_refused(keys: KeyService, wrong: str) -> None:
    with pytest.raises(Unauthenticated):
        await keys.authenticate(wrong)


async def test_the_right_prefix_with_a_wrong_secret_is_refused(keys: KeyService) -> None:
    text = await keys.create("ann")
    with pytest.raises(Unauthenticated):
        await keys.authenticate(text[:-1] + ("a" if text[-1] != "a" else "b"))


async def test_a_revoked_key_is_refused_here_at_once_and_elsewhere_after_the_memory(keys: KeyService, database: Database) -> None:
    elsewhere = KeyService(database, cache_ttl_s=0.05)
    text = await keys.create("ann")
    caller = await keys.authenticate(text)
    await elsewhere.authenticate(text)
    await keys.revoke(caller.key_id)
    await asyncio.sleep(0.06)
    for service in (keys, elsewhere):
        with pytest.raises(Unauthenticated):
            await service.authenticate(text)
    assert (await keys.list())[0].revoked_at is not None


async def test_a_look_up_that_was_under_way_while_a_key_was_revoked_is_not_remembered(
    keys: KeyService, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = await keys.create("ann")
    [key], fetch, read, revoked = await keys.list(), database.fetch, asyncio.Event(), asyncio.Event()

    async def fetch_late(work: Any, item: Any) -> Any:
        row = await fetch(work, item)
        read.set()
        await revoked.wait()
        return row

    monkeypatch.setattr(database, "fetch", fetch_late)
    under_way = asyncio.create_task(keys.authenticate(text))
    await read.wait()
    await keys.revoke(key.id)
    revoked.set()
    assert (await under_way).key_id == key.id  # as one that came a moment before
    with pytest.raises(Unauthenticated):
        await keys.authenticate(text)


async def test_revoking_an_unknown_key_is_not_found(keys: KeyService) -> None:
    with pytest.raises(NotFound):
        await keys.revoke("key_nope")


async def test_the_first_admin_key_is_made_once_by_whichever_process_is_first(database: Database) -> None:
    made = await asyncio.gather(*(KeyService(database).bootstrap_admin() for _ in range(5)))
    texts = [text for text in made if text is not None]
    assert len(texts) == 1
    assert (await KeyService(database).authenticate(texts[0])).scopes == {"user", "admin"}
    assert await KeyService(database).bootstrap_admin() is None


async def test_requests_that_come_while_their_key_is_not_remembered_share_one_read(keys: KeyService, database: Database) -> None:
    texts, statements = [await keys.create("ann"), await keys.create("bob")], list[str]()
    event.listen(database._reading._engine, "before_cursor_execute", lambda *told: statements.append(told[2]))
    async with Busy(database, reads=True):
        asked = [asyncio.create_task(keys.authenticate(text)) for text in texts * 50]
    callers = await asyncio.gather(*asked)
    assert [caller.key_id for caller in callers] == [key.id for key in await keys.list()] * 50
    assert len(statements) == 1
