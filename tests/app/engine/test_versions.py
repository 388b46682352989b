from __future__ import annotations

import asyncio

import pytest

from app.domain import InitializerRef
from app.engine.versions import Versions
from app.errors import InitializerNotInstalled

ONE, TWO = InitializerRef("digits", 1), InitializerRef("digits", 2)


async def test_versions_stand_side_by_side() -> None:
    versions: Versions[str] = Versions()
    versions.add(ONE, "one")
    versions.add(TWO, "two")
    with versions.use(ONE) as one, versions.use(TWO) as two:
        assert (one, two) == ("one", "two")
    assert versions.refs() == {ONE, TWO}


async def test_removing_waits_for_the_last_user_and_refuses_new_ones_at_once() -> None:
    versions: Versions[str] = Versions()
    versions.add(ONE, "one")
    with versions.use(ONE), versions.use(ONE):
        removing = asyncio.create_task(versions.remove(ONE))
        await asyncio.sleep(0.01)
        assert not removing.done()
        with pytest.raises(InitializerNotInstalled, match="digits@1"), versions.use(ONE):
            pass
    await asyncio.wait_for(removing, 1)


async def test_removing_an_unused_or_unknown_version_returns_at_once() -> None:
    versions: Versions[str] = Versions()
    versions.add(ONE, "one")
    await versions.remove(ONE)
    await versions.remove(TWO)
    assert versions.refs() == frozenset()
