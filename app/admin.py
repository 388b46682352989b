"""What the command line does on the database itself, without the service: schema, keys, and a look at the initializers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import cast, get_args

from app.db import initializers
from app.db.migrate import upgrade
from app.db.session import Database
from app.domain import InitializerInfo, InitializerRef, Scope
from app.engine.interface import inspect
from app.errors import InvalidOptions, Issue, NotFound
from app.services.keys import KeyService
from app.services.requests import KeyInfo
from app.settings import Settings


@dataclass(frozen=True)
class Admin:
    """The database of these settings, brought to the newest schema before anything is asked of it. Every method raises Unavailable."""

    settings: Settings

    def migrate(self) -> None:
        """Brings the database to the newest schema."""
        upgrade(self.settings.resolved_database_url)

    async def make_first_key(self) -> str | None:
        """The first admin key, the one time it is shown; None when there are keys already."""
        async with self._open() as database:
            return await KeyService(database).bootstrap_admin()

    async def create_key(self, name: str, scopes: Sequence[str]) -> str:
        """The text of a new key. Raises InvalidOptions for a scope that does not exist."""
        known = get_args(Scope)
        wrong = [scope for scope in scopes if scope not in known]
        if wrong:
            raise InvalidOptions(f"expected a scope of {', '.join(known)}, found {wrong[0]}", issues=[Issue("#/scopes", wrong[0])])
        async with self._open() as database:
            return await KeyService(database).create(name, [cast(Scope, scope) for scope in scopes])

    async def list_keys(self) -> list[KeyInfo]:
        """Every key, oldest first, without secrets."""
        async with self._open() as database:
            return await KeyService(database).list()

    async def revoke_key(self, key_id: str) -> None:
        """Ends a key. Raises NotFound key_not_found."""
        async with self._open() as database:
            await KeyService(database).revoke(key_id)

    async def list_initializers(self) -> list[InitializerInfo]:
        """The current versions in the database, by name; none before the service has run once."""
        async with self._open() as database:
            async with database.read() as session:
                refs = await initializers.current_refs(session)
            return [await _read_card(database, ref) for ref in refs]

    async def get_initializer(self, name: str) -> InitializerInfo:
        """The current version. Raises NotFound initializer_not_found."""
        async with self._open() as database:
            async with database.read() as session:
                ref = await initializers.current_ref(session, name)
            if ref is None:
                raise NotFound(f"there is no initializer {name!r} in this database", code="initializer_not_found")
            return await _read_card(database, ref)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[Database]:
        """The database at the newest schema, as every start of the service leaves it; a SQLite file is made."""
        await asyncio.to_thread(self.migrate)
        database = Database(self.settings.resolved_database_url)
        try:
            yield database
        finally:
            await database.close()


async def _read_card(database: Database, ref: InitializerRef) -> InitializerInfo:
    async with database.read() as session:
        card = await initializers.find_card(session, ref)
    assert card is not None, f"{ref} is current and has no card. This is a bug."
    return inspect(card, ref)
