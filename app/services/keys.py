"""API keys: `il_<8 hex prefix>_<43 url-safe characters>`, shown once, stored as sha256."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime
from time import monotonic

from app.db import api_keys
from app.db.ids import new_id
from app.db.session import Database
from app.db.tables import ApiKeyRow
from app.domain import Caller, Scope
from app.errors import InvalidBody, Issue, NotFound, Unauthenticated
from app.services.requests import KeyInfo

_PATTERN = re.compile(r"il_([0-9a-f]{8})_[A-Za-z0-9_-]{43}")
_MAX_REMEMBERED = 4096
# As long as other names may be, and nothing that a database cannot store: NUL, or what stands for bytes of a terminal that are no text.
_NAME = re.compile(r"(?=.*\S)[^\x00\ud800-\udfff]{1,200}", re.DOTALL)
FIRST_KEY_ID = "key_first"
"""A fixed id: of processes that start together on an empty database, the primary key lets one make the first key."""


class KeyService:
    """Who may call, and as whom. The key's id is the tenant: its tasks are invisible to the other keys."""

    def __init__(self, database: Database, *, cache_ttl_s: float = 5.0) -> None:
        self._database, self._cache_ttl_s = database, cache_ttl_s
        self._remembered: dict[str, tuple[Caller, float]] = {}
        self._revoked = 0  # keys, here: what was looked up before one of them was is not remembered after it

    async def bootstrap_admin(self) -> str | None:
        """Makes the first key (scopes user and admin) and returns its text, or None when it was made before. Safe in a race."""
        async with self._database.read() as session:
            if await api_keys.list_keys(session):
                return None
        return await self._insert(FIRST_KEY_ID, "first admin", ("user", "admin"))

    async def create(self, name: str, scopes: Iterable[Scope] = ("user",)) -> str:
        """The text of a new key; it is shown here and never again. Raises InvalidBody (`#/name`)."""
        if not _NAME.fullmatch(name):
            detail = "expected a name of 1 to 200 characters, not all of them blank"
            raise InvalidBody(f"#/name: {detail}", issues=[Issue("#/name", detail)])
        text = await self._insert(new_id("key", datetime.now(UTC)), name, scopes)
        if text is None:
            raise RuntimeError("A fresh key id exists already. This is a bug.")
        return text

    async def authenticate(self, text: str) -> Caller:
        """Who holds this key; remembered a few seconds. Raises Unauthenticated, Unavailable."""
        digest = _sha256(text)
        caller, until = self._remembered.get(digest, (None, 0.0))
        if caller is not None and until > monotonic():
            return caller
        revoked = self._revoked
        caller = await self._look_up(text, digest)
        if revoked == self._revoked:
            self._remember(digest, caller)
        return caller

    async def list(self) -> list[KeyInfo]:
        """Every key, oldest first, without secrets."""
        async with self._database.read() as session:
            return [_info(row) for row in await api_keys.list_keys(session)]

    async def revoke(self, key_id: str) -> None:
        """Ends a key, here at once and in other processes within cache_ttl_s. Raises NotFound key_not_found."""
        async with self._database.write() as session:
            if not await api_keys.revoke_key(session, key_id, datetime.now(UTC)):
                raise NotFound(f"There is no key {key_id!r}.", code="key_not_found")
        self._revoked += 1
        self._remembered.clear()

    async def _insert(self, key_id: str, name: str, scopes: Iterable[Scope]) -> str | None:
        prefix = secrets.token_hex(4)
        text = f"il_{prefix}_{secrets.token_urlsafe(32)}"
        values = {
            "id": key_id,
            "prefix": prefix,
            "secret_sha256": _sha256(text),
            "name": name,
            "scopes": sorted(set(scopes)),
            "created_at": datetime.now(UTC),
            "revoked_at": None,
        }
        async with self._database.write() as session:
            return text if await api_keys.insert_key(session, values) else None

    async def _look_up(self, text: str, digest: str) -> Caller:
        match = _PATTERN.fullmatch(text)
        if match is None:
            raise Unauthenticated("This is not an InnerLoop API key; one looks like il_<8 hex digits>_<43 characters>.")
        # A key is forgotten while a hundred requests with it are under way: they are one read. Each by itself waited for the one before, up
        # to 5 s with 128 clients (two cores of an AMD EPYC, 2026-11-22).
        row = await self._database.fetch(api_keys.find_all, match[1])
        # The digest is compared also against nothing: an unknown prefix takes as long as a wrong secret.
        known = hmac.compare_digest(row.secret_sha256 if row is not None else "", digest)
        if row is None or not known or row.revoked_at is not None:
            raise Unauthenticated("This API key is not known or was revoked.")
        return Caller(key_id=row.id, scopes=_scopes(row))

    def _remember(self, digest: str, caller: Caller) -> None:
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[digest] = (caller, monotonic() + self._cache_ttl_s)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _scopes(row: ApiKeyRow) -> frozenset[Scope]:
    named: dict[str, Scope] = {"user": "user", "admin": "admin"}
    return frozenset(named[scope] for scope in row.scopes if scope in named)


def _info(row: ApiKeyRow) -> KeyInfo:
    return KeyInfo(row.id, row.prefix, row.name, _scopes(row), row.created_at, row.revoked_at)
